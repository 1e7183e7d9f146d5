"""A checkpoint as if it had never been quantized: weights that are stored as codes come as floats.

Conversions read this instead of the files, so that none of them knows how a weight was stored.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from quantcore._base.arrays import DTYPE_NAMES, ELEMENT_TYPES
from quantcore._base.text import quote
from quantcore.errors import FileFormatError
from quantcore.models.bitsandbytes_decoder import BitsandbytesDecoder, load_state, packed_weights
from quantcore.models.block_scales import INPUT_SCALE, SCALE, scale_name
from quantcore.models.checkpoint_config import nested_configs
from quantcore.models.decoders import Decoder, Matrices, TransposedDecoder, keep_matrices, remember
from quantcore.models.ggml_repacker import BLOCKS, BlockRepacker, WeightScale
from quantcore.models.quantized_sources import BITSANDBYTES, QuantizedSource, check_source
from quantcore.models.scaled_claims import Claim, find_claims
from quantcore.models.scaled_tensors import ScaledDecoder
from quantcore.safetensors.reader import Checkpoint, SafetensorsInfo

__all__ = ["DecodedCheckpoint", "DecodedInfo", "decode_checkpoint", "read_codes"]

MOST_STATES = 4
"""Weights of bitsandbytes whose scales are kept: slabs come in order, so that few are of others than the next ones."""
Blocks = Mapping[str, tuple[str, ...]]
_FLOATS = ("BF16", "F16", "F32")
_NOT_DECODED = ("F8_E8M0", "F4", "F6_E2M3", "F6_E3M2")


@dataclass(frozen=True, slots=True)
class DecodedInfo(SafetensorsInfo):
    """A tensor that is decoded while it is read; it has no place in a file.

    Attributes
    ----------
    source : Decoder, BlockRepacker or WeightScale
        Gives the bytes.
    kind : str
        What the codes are.
    file_bytes : int
        Bytes in the file, scales included.
    """

    source: Decoder | BlockRepacker | WeightScale
    kind: str
    file_bytes: int

    @property
    def stored_type(self) -> str:
        """What the codes are."""
        return self.kind

    @property
    def stored_bytes(self) -> int:
        """Bytes in the file, scales included."""
        return self.file_bytes


@dataclass(frozen=True, slots=True)
class DecodedShard:
    """The tensors of a file."""

    path: str
    file_path: Path
    metadata: dict[str, str]
    tensors: tuple[SafetensorsInfo, ...]


class DecodedCheckpoint:
    """A checkpoint whose weights are floats; used like the `Checkpoint` that it is made of.

    Attributes
    ----------
    path, folder, files, index_name
        Those of the checkpoint.
    shards : tuple of DecodedShard
        Each weight is in the shard of its codes.
    tensors : tuple of SafetensorsInfo
    notices : tuple of str
        What is left out.
    """

    def __init__(self, checkpoint: Checkpoint, shards: Iterable[DecodedShard], notices: tuple[str, ...]) -> None:
        self.path, self.folder, self.files = checkpoint.path, checkpoint.folder, checkpoint.files
        self.index_name = checkpoint.index_name
        self.shards = tuple(shards)
        self.tensors = tuple(tensor for shard in self.shards for tensor in shard.tensors)
        self.notices = notices
        self._checkpoint = checkpoint

    def read_into(self, tensor: SafetensorsInfo, start: int, buffer: Any) -> None:
        """Fill `buffer` with the tensor's bytes from byte `start`."""
        if isinstance(tensor, DecodedInfo):
            tensor.source.read_into(start, buffer)
        else:
            self._checkpoint.read_into(tensor, start, buffer)


def decode_checkpoint(
    checkpoint: Checkpoint,
    config: dict[str, Any] | None,
    dtype: str | None = None,
    *,
    transposed: frozenset[str] = frozenset(),
    blocks: Blocks | None = None,
) -> DecodedCheckpoint:
    """Look at a checkpoint as one of floats.

    Parameters
    ----------
    checkpoint : Checkpoint
    config : dict, optional
        config.json, if there is one.
    dtype : {"F32", "F16", "BF16"}, optional
        The type of what is decoded. None: that of the weight before it was quantized, as far as it is known.
    transposed : frozenset of str
        Weights that bitsandbytes packed the other way round than the model has them.
    blocks : mapping of str to tuple of str, optional
        Kinds of codes (of `ggml_repacker.BLOCKS`), and the endings of the names of the weights to give as blocks of
        ggml, if their rows are whole blocks; and no matrix transposed. The second scale of a weight of NVFP4 is then a
        tensor named `*.scale`, and that of its activations one named `*.input_scale`. None: all are decoded.

    Raises
    ------
    FileFormatError
        It is quantized by a method that is not decoded; codes, scales and states do not fit together.
    """
    sources = check_source(checkpoint, config)
    decoded = read_codes(checkpoint, config, sources, dtype, transposed=transposed, blocks=blocks)
    methods = [source for source in sources if source.method != BITSANDBYTES]
    if methods and not any(isinstance(tensor, DecodedInfo) for tensor in decoded.tensors):
        raise FileFormatError(
            f"{checkpoint.path}: is quantized by {methods[0].method} ({methods[0].evidence}), but no tensor is in a "
            "layout of it that is known"
        )
    for tensor in decoded.tensors:
        if tensor.dtype in _NOT_DECODED:
            raise FileFormatError(
                f"{checkpoint.path}: tensor {quote(tensor.name)}: is {tensor.dtype}, which is not decoded here"
            )
    return decoded


def read_codes(
    checkpoint: Checkpoint,
    config: dict[str, Any] | None,
    sources: Iterable[QuantizedSource],
    dtype: str | None,
    *,
    transposed: frozenset[str] = frozenset(),
    blocks: Blocks | None = None,
) -> DecodedCheckpoint:
    """As `decode_checkpoint`, but what is not decoded stays as it is; `sources` are methods that are decoded."""
    claims = find_claims(checkpoint, tuple(source.settings for source in sources if source.method != BITSANDBYTES))
    packed = packed_weights(checkpoint)
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
    parts = {part.name for claim in claims.weights.values() for part in claim.parts}.union(*packed.values())
    own_dtype = dtype or _find_dtype([t for t in checkpoint.tensors if t.name not in parts], config)
    made: dict[str, DecodedInfo] = {}
    matrices = keep_matrices()
    for claim in claims.weights.values():
        made |= _decode(checkpoint, claim, own_dtype, matrices, blocks)
    load = remember(lambda name: load_state(checkpoint, tensors, name, packed[name]), MOST_STATES)
    for name in packed:
        decoder: Decoder = BitsandbytesDecoder(checkpoint, tensors, name, packed[name], partial(load, name), dtype)
        made[name] = _info(name, TransposedDecoder(decoder, matrices) if name in transposed else decoder)
    gone = (parts | set(claims.left_out)) - made.keys()
    shards = (
        DecodedShard(
            shard.path,
            shard.file_path,
            shard.metadata,
            tuple(made.get(t.name, t) for t in shard.tensors if t.name not in gone),
        )
        for shard in checkpoint.shards
    )
    return DecodedCheckpoint(checkpoint, shards, _notices([name for name in claims.left_out if name not in made]))


def _decode(
    checkpoint: Checkpoint, claim: Claim, dtype: str, matrices: Matrices, blocks: Blocks | None
) -> dict[str, DecodedInfo]:
    """What is made of a weight, by the names of the tensors in whose place it is."""
    decoder = ScaledDecoder(
        checkpoint, claim.codes, claim.scale, claim.global_scale, claim.shape, claim.spread, claim.layout, dtype
    )
    layout, kind = claim.layout, decoder.kind
    is_wanted = blocks is not None and claim.name.endswith(blocks.get(kind, ()))
    if layout is None or not is_wanted or not _has_whole_blocks(claim, kind):
        is_transposed = layout is not None and layout.is_transposed and blocks is None
        return {claim.codes.name: _info(claim.name, TransposedDecoder(decoder, matrices) if is_transposed else decoder)}
    packed = BlockRepacker(decoder)
    made = {
        claim.codes.name: DecodedInfo(claim.name, claim.shape, kind, 0, packed.nbytes, packed, kind, decoder.nbytes)
    }
    for info, ending in ((claim.global_scale, SCALE), (claim.activation_scale, INPUT_SCALE)):
        if info is not None:
            value = WeightScale(checkpoint, info, layout.is_divided)
            made[info.name] = DecodedInfo(
                scale_name(claim.name, ending), (1,), "F32", 0, 4, value, info.dtype, info.nbytes
            )
    return made


def _has_whole_blocks(claim: Claim, kind: str) -> bool:
    """Whether rows are whole blocks, and the scales beside them, if there are any, are those of a matrix `*.weight`."""
    beside = [info for info in (claim.global_scale, claim.activation_scale) if info is not None]
    is_one = len(claim.shape) == 2 and claim.name.endswith(".weight")
    has_place = is_one and all(prod(info.shape) == 1 and info.dtype in ELEMENT_TYPES for info in beside)
    return claim.shape[-1] % BLOCKS[kind].elements == 0 and (has_place or not beside)


def _info(name: str, decoder: Decoder) -> DecodedInfo:
    n_bytes = prod(decoder.shape) * decoder.itemsize
    return DecodedInfo(name, decoder.shape, decoder.dtype, 0, n_bytes, decoder, decoder.kind, decoder.nbytes)


def _find_dtype(others: list[SafetensorsInfo], config: dict[str, Any] | None) -> str:
    """The type of the weights before they were quantized: what the configuration says, or most other floats have."""
    names = {DTYPE_NAMES[ELEMENT_TYPES[name]]: name for name in _FLOATS}
    for part in nested_configs(config or {}):
        for key in ("dtype", "torch_dtype"):
            value = part.get(key)
            if isinstance(value, str) and value.removeprefix("torch.") in names:
                return names[value.removeprefix("torch.")]
    sizes = dict.fromkeys(_FLOATS, 0)
    for tensor in others:
        if tensor.dtype in sizes and len(tensor.shape) > 0:
            sizes[tensor.dtype] += tensor.nbytes
    return max(sizes, key=lambda name: sizes[name])


def _notices(left_out: list[str]) -> tuple[str, ...]:
    if not left_out:
        return ()
    more = f" and {len(left_out) - 1} more like it" if len(left_out) > 1 else ""
    return (f"{left_out[0]}{more}: left out (for quantized activations, or a mark of how weights are stored)",)
