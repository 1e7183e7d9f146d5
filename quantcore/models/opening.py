"""`open_model`: one way into a model file, whatever its container.

What is beside the tensors (metadata, shards) is the container's own and stays with its reader.
"""

import os
from functools import cached_property, partial
from math import prod
from pathlib import Path

from quantcore._base.notebook import rows_table
from quantcore._base.text import bytes_text, shorten
from quantcore.errors import FileFormatError
from quantcore.files.disk import InputFile, label, local_path
from quantcore.files.kinds import GGUF, HEAD_BYTES, SAFETENSORS, kind_of, say_wrong
from quantcore.files.tensor_reader import TensorFiles
from quantcore.ggml.types import TYPES_BY_NAME
from quantcore.gguf.parts import GGUFModel, open_gguf
from quantcore.models.block_scales import apply_scales
from quantcore.models.checkpoint_config import readable_config
from quantcore.models.decoded_checkpoint import DecodedCheckpoint, DecodedInfo, read_codes
from quantcore.models.decoders import Decoder
from quantcore.models.quantized_sources import find_quantization, is_decoded
from quantcore.models.tensors import CodedTensor, ModelTensor, Origin, StoredTensor
from quantcore.safetensors.reader import Checkpoint, SafetensorsInfo, open_checkpoint

__all__ = ["Model", "is_gguf", "open_model"]


class Model(TensorFiles):
    """A model that is open. Made by `open_model`; use it as a context manager.

    Attributes
    ----------
    label : str
        The path, for messages.
    paths : tuple of Path
        The files that are read.
    container : GGUFModel or Checkpoint
        The file itself, with its metadata.
    stored : tuple of StoredTensor
        All tensors as they lie in the file, in its order.
    tensors : dict of str to ModelTensor
        The tensors of the model by name, in the same order: a weight that is stored as codes counts as the matrix that
        it stands for, and its scales and the entries of its state are no tensors of their own.
    """

    def __init__(self, path: str, paths: tuple[Path, ...], container: GGUFModel | Checkpoint) -> None:
        self.label = path
        self.paths = paths
        self.container = container
        self.stored: tuple[StoredTensor, ...] = tuple(_stored_tensors(container))

    @property
    def is_gguf(self) -> bool:
        """Whether it is a GGUF model; the alternative is safetensors."""
        return isinstance(self.container, GGUFModel)

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know of the file."""
        return self.container.notices if isinstance(self.container, GGUFModel) else ()

    @cached_property
    def tensors(self) -> dict[str, ModelTensor]:
        """The tensors of the model by name, in the order of the file.

        Raises
        ------
        FileFormatError
            The state of a packed weight, or a scale, is missing or contradicts the codes.
        """
        if isinstance(self.container, GGUFModel):
            return {tensor.name: tensor for tensor in apply_scales(self.stored)[0]}
        config = readable_config(self.container.folder)
        sources = [source for source in find_quantization(self.container, config) if is_decoded(source)]
        checkpoint = read_codes(self.container, config, sources, "F32")
        return {
            info.name: _decoded(tensor, info)
            for tensor, info in zip(checkpoint_tensors(checkpoint), checkpoint.tensors, strict=True)
        }

    def __repr__(self) -> str:
        kind = "GGUF" if self.is_gguf else "safetensors"
        size = bytes_text(sum(tensor.nbytes for tensor in self.stored))
        return f"<Model {shorten(self.label)}: {kind}, {len(self.stored)} tensors, {size}>"

    def _repr_html_(self) -> str:
        rows = ((t.name, "x".join(map(str, t.shape)), t.type, bytes_text(t.nbytes)) for t in self.stored)
        return rows_table(repr(self)[1:-1], ("tensor", "shape", "type", "size"), rows, len(self.stored), right=(3,))

    def close(self) -> None:
        """Close all files."""
        self.container.close()


def open_model(path: str | os.PathLike[str]) -> Model:
    """Open a model to read its tensors, without loading it.

    Parameters
    ----------
    path : path
        A GGUF file, or any part of a split GGUF model; or safetensors: a file, a folder of shards with its index, or
        the index. What a file is, is told by its first bytes.

    Returns
    -------
    Model
        A context manager with the `tensors` by name. Each has a name, shape, type and size, and gives its elements as
        floats: those of a range by `values`, all of them part by part by `slabs`.

    Raises
    ------
    FileFormatError
        The file is malformed, or is a pickle; a part of a split model is missing or another one than its name says.
    OSError
        It cannot be read.

    Examples
    --------
    >>> from importlib.resources import files
    >>> with open_model(files("quantcore.demo") / "digits.safetensors") as model:
    ...     tensor = model.tensors["fc1.weight"]
    ...     print(tensor.type, tensor.shape, tensor.values(0, 64).shape)
    F16 (256, 64) (64,)
    """
    if is_gguf(path):
        gguf = open_gguf(path)
        return Model(label(path), gguf.files, gguf)
    checkpoint = open_checkpoint(path)
    return Model(label(path), checkpoint.files, checkpoint)


def is_gguf(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a GGUF file, by its first bytes, or calls itself one; the alternative is safetensors.

    Raises
    ------
    FileFormatError
        It is neither; the message says what it is and which command takes it.
    """
    if local_path(path).is_dir():
        return False
    with InputFile(path) as file:
        kind = kind_of(file.read(0, min(HEAD_BYTES, file.size)))
    if kind is not None and kind not in (GGUF, SAFETENSORS):
        raise FileFormatError(say_wrong(label(path), kind, "a model in GGUF or safetensors"))
    return kind == GGUF if kind is not None else os.fsdecode(path).endswith(".gguf")


def _stored_tensors(container: GGUFModel | Checkpoint) -> list[StoredTensor]:
    if isinstance(container, GGUFModel):
        return [
            StoredTensor(
                t.name, t.shape, t.type.name, t.nbytes, partial(container.read_into, t), container.path, t.type
            )
            for t in container.tensors
        ]
    return checkpoint_tensors(container)


def checkpoint_tensors(checkpoint: Checkpoint | DecodedCheckpoint) -> list[StoredTensor]:
    """The tensors of a checkpoint as they lie in its files, or decoded while they are read."""
    return [
        StoredTensor(
            t.name,
            t.shape,
            t.dtype,
            t.nbytes,
            partial(checkpoint.read_into, t),
            checkpoint.path,
            TYPES_BY_NAME.get(t.dtype),
            Origin(t.kind, 8 * t.file_bytes / prod(t.shape)) if isinstance(t, DecodedInfo) and t.nbytes else None,
        )
        for t in checkpoint.tensors
    ]


def _decoded(tensor: StoredTensor, info: SafetensorsInfo) -> ModelTensor:
    """A tensor as `Model.tensors` has it."""
    if isinstance(info, DecodedInfo) and isinstance(info.source, Decoder):
        return CodedTensor(info.name, info.shape, info.kind, info.file_bytes, tensor.read_into, info.source)
    return tensor
