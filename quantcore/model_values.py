"""The values of a model, whatever file holds them: each tensor slab by slab as floats, without the rest in memory.

GGUF files of every type that has kernels; safetensors files and folders; in these, weights that bitsandbytes packed to
4 bits count as the matrices they stand for, and the entries of their state are not tensors of their own.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from pathlib import Path
from threading import Lock
from typing import Self

import numpy as np
from numpy.typing import NDArray

from quantcore import _arrays
from quantcore._arrays import Floats
from quantcore._files import label
from quantcore.bitsandbytes_checkpoint import decoding_job, packed_weights
from quantcore.bitsandbytes_jobs import ELEMENT_TYPES, DecodedWeight
from quantcore.errors import InvalidValueError
from quantcore.formats import SUPPORTED_TYPES, dequantize_blocks
from quantcore.ggml_types import GGML_TYPES
from quantcore.gguf.reader import GGUFReader
from quantcore.gguf.sources import is_gguf
from quantcore.safetensors import Checkpoint, open_checkpoint

__all__ = ["MOST_ITEM_BYTES", "SLAB_ELEMENTS", "ModelValues", "TensorValues"]

SLAB_ELEMENTS = 1 << 18
"""Elements to read at a time: a multiple of every block, and of the chunks in which errors are summed."""
MOST_ITEM_BYTES = 8
"""Bytes that an element takes in a file, at most."""

Bytes = NDArray[np.uint8]
_BLOCK_TYPES = {GGML_TYPES[t].name: GGML_TYPES[t] for t in SUPPORTED_TYPES if GGML_TYPES[t].block_size > 1}
_INTEGERS = {
    "BOOL": np.uint8, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32,
    "I32": np.int32, "U64": np.uint64, "I64": np.int64,
}  # fmt: skip


@dataclass
class TensorValues(ABC):
    """A tensor to be read as floats.

    Attributes
    ----------
    name : str
    shape : tuple of int
    type : str
        As the file calls it; "NF4" or "FP4" for a weight that bitsandbytes packed.
    nbytes : int
        Bytes in the file, scales included.
    read_into : (start, buffer) -> None
        Fills a buffer with the tensor's bytes from byte `start` on.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    nbytes: int
    read_into: Callable[[int, Bytes], None]

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def is_integer(self) -> bool:
        """Whether it holds whole numbers, such as ids, rather than weights."""
        return False

    @property
    def block_size(self) -> int:
        """Elements that share a scale; 1 if none do."""
        return 1

    @abstractmethod
    def check(self) -> None:
        """Refuse a type that cannot be decoded."""

    def read(self, start: int, stop: int, buffer: Bytes) -> Bytes:
        """What the file holds of elements start to stop (whole blocks, or the end), in the head of a buffer."""
        data = buffer[: self.packed_bytes(start, stop)]
        self.read_into(self.packed_bytes(0, start), data)
        return data

    @abstractmethod
    def packed_bytes(self, start: int, stop: int) -> int:
        """How many bytes `read` reads."""

    @abstractmethod
    def decoded(self, data: Bytes, start: int, buffer: Bytes, n_threads: int | None) -> Floats:
        """The values of what was read from element `start` on; `buffer` takes 4 bytes for each, if need be."""


@dataclass
class _StoredTensor(TensorValues):
    """Floats, integers, or blocks of ggml."""

    file: str

    @property
    def is_integer(self) -> bool:
        return self.type in _INTEGERS

    @property
    def block_size(self) -> int:
        return _BLOCK_TYPES[self.type].block_size if self.type in _BLOCK_TYPES else 1

    def check(self) -> None:
        if self.type not in ELEMENT_TYPES and not self.is_integer and self.type not in _BLOCK_TYPES:
            raise InvalidValueError(f"{self.file}: tensor {self.name[:80]!r}: no kernels to decode {self.type}")

    def packed_bytes(self, start: int, stop: int) -> int:
        return (stop - start) * self.nbytes // self.size

    def decoded(self, data: Bytes, start: int, buffer: Bytes, n_threads: int | None) -> Floats:
        if self.type in ELEMENT_TYPES:
            return _flat(data, ELEMENT_TYPES[self.type], start)
        if self.is_integer:
            return _flat(data.view(_INTEGERS[self.type]).astype(np.float64).view(np.uint8), _arrays.FLOAT64, start)
        fmt = _BLOCK_TYPES[self.type]
        values = buffer[: data.size // fmt.bytes_per_block * fmt.block_size * 4]
        bad = dequantize_blocks(data, fmt, values, _arrays.FLOAT32, n_threads)
        if bad >= 0:
            raise InvalidValueError(
                f"{self.file}: tensor {self.name!r}: block {start // fmt.block_size + bad} of {fmt.name} has a scale "
                "that is inf or NaN"
            )
        return _flat(values, _arrays.FLOAT32, start)


@dataclass
class _PackedWeight(TensorValues):
    """A weight that bitsandbytes packed to 4 bits. `job` loads its scales, which are kept only while they are used."""

    job: Callable[[], DecodedWeight]
    scale_block: int

    @property
    def block_size(self) -> int:
        return self.scale_block

    def check(self) -> None:
        """Nothing: the job has checked the state when it was made."""

    def packed_bytes(self, start: int, stop: int) -> int:
        return (stop + 1) // 2 - start // 2

    def decoded(self, data: Bytes, start: int, buffer: Bytes, n_threads: int | None) -> Floats:
        return _flat(self.job().compute(start // 2, data, buffer, n_threads), _arrays.FLOAT32, start)


class ModelValues:
    """A model file or checkpoint, open. Use it as a context manager.

    Parameters
    ----------
    path : path
        A GGUF file; or safetensors: a file, a folder of shards with its index, or the index.

    Attributes
    ----------
    label : str
        The path, for messages.
    paths : tuple of Path
        The files that are read.
    tensors : dict of str to TensorValues
        In the order of the file.

    Raises
    ------
    FileFormatError
        The file is malformed, or the state of a packed weight is missing or contradicts itself.
    OSError
        It cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.label = label(path)
        self._file: GGUFReader | Checkpoint
        if is_gguf(path):
            self._file = reader = GGUFReader(path)
            self.paths: tuple[Path, ...] = (Path(os.fsdecode(path)),)
            self.tensors: dict[str, TensorValues] = {
                t.name: _StoredTensor(t.name, t.shape, t.type.name, t.nbytes, partial(reader.read_into, t), self.label)
                for t in reader.tensors
            }
        else:
            self._file = checkpoint = open_checkpoint(path)
            self.paths = checkpoint.files
            try:
                self.tensors = _tensors_of_checkpoint(checkpoint)
            except BaseException:
                checkpoint.close()
                raise

    def close(self) -> None:
        """Close all files."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _tensors_of_checkpoint(checkpoint: Checkpoint) -> dict[str, TensorValues]:
    stored = {tensor.name: tensor for tensor in checkpoint.tensors}
    states = packed_weights(checkpoint)
    parts = set().union(*states.values())

    # The scales of two weights: slabs come in order, so that few are of another one than the first and the next.
    @lru_cache(maxsize=2)
    def loaded(weight: str) -> DecodedWeight:
        return decoding_job(checkpoint, stored, weight, states[weight], "F32")

    loading = Lock()

    def job(weight: str) -> DecodedWeight:
        with loading:  # or else every thread that comes to a weight would load all of its scales
            return loaded(weight)

    tensors: dict[str, TensorValues] = {}
    for name, info in stored.items():
        read_into = partial(checkpoint.read_into, info)
        if name in states:
            state = job(name).state
            nbytes = info.nbytes + sum(stored[part].nbytes for part in states[name])
            tensors[name] = _PackedWeight(
                name, state.shape, state.quant_type.upper(), nbytes, read_into, partial(job, name), state.block_size
            )
        elif name not in parts:
            tensors[name] = _StoredTensor(name, info.shape, info.dtype, info.nbytes, read_into, checkpoint.path)
    if missing := states.keys() - stored.keys():
        job(min(missing))  # refuses it
    return tensors


def _flat(data: Bytes, element_type: int, start: int) -> Floats:
    size = data.size // _arrays.ITEMSIZES[element_type]
    return Floats(data, element_type, (size,), data, start)
