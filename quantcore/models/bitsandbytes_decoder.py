"""Weights that bitsandbytes packed to 4 bits, decoded."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arrays
from quantcore._base.arrays import ELEMENT_TYPES, STORAGE_DTYPES, widen_bfloat16
from quantcore._base.text import shorten
from quantcore.blockwise.bitsandbytes import STATE_PREFIX, PackedState, unpack
from quantcore.blockwise.decoding import decode_into
from quantcore.blockwise.quantize import record_of
from quantcore.blockwise.records import DoubleQuantized4Bit, Quantized4Bit
from quantcore.errors import FileFormatError, InvalidTypeError, InvalidValueError
from quantcore.models.decoders import Bytes, Decoder
from quantcore.safetensors.reader import Checkpoint, SafetensorsInfo

__all__ = ["BitsandbytesDecoder", "load_record", "load_state", "packed_weights", "state_names"]

_STATE_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_NUMPY = {"U8": np.uint8} | {name: STORAGE_DTYPES[ELEMENT_TYPES[name]] for name in ("F32", "F16", "BF16")}
LoadedState = tuple[PackedState, NDArray[np.float32]]


def packed_weights(checkpoint: Checkpoint) -> dict[str, set[str]]:
    """The weights that are packed in bitsandbytes' layout, each with the tensors that are its state."""
    names = {tensor.name for tensor in checkpoint.tensors}
    packed: dict[str, set[str]] = {}
    for name in (tensor.name for tensor in checkpoint.tensors):
        if STATE_PREFIX in name:
            weight = name.split("." + STATE_PREFIX)[0]
            packed.setdefault(weight, names.intersection(state_names(weight))).add(name)
    return packed


def state_names(weight: str) -> tuple[str, ...]:
    """The names that entries of a packed weight's state may have, without the one that starts with `STATE_PREFIX`."""
    return tuple(f"{weight}.{part}" for part in _STATE_PARTS)


def load_state(
    checkpoint: Checkpoint, tensors: Mapping[str, SafetensorsInfo], weight: str, parts: set[str]
) -> LoadedState:
    """The state of a packed weight and its scales in float32, checked; of the codes, only the size is checked.

    Raises
    ------
    FileFormatError
        An entry is missing or contradicts another one.
    """
    state, record = _load(checkpoint, tensors, weight, parts, reads_codes=False)
    return state, record.decoded_scales() if isinstance(record, DoubleQuantized4Bit) else record.scales


def load_record(
    checkpoint: Checkpoint, tensors: Mapping[str, SafetensorsInfo], weight: str, parts: set[str]
) -> Quantized4Bit | DoubleQuantized4Bit:
    """A packed weight with its state, checked.

    Raises
    ------
    FileFormatError
        An entry is missing or contradicts another one.
    """
    return _load(checkpoint, tensors, weight, parts, reads_codes=True)[1]


def _load(
    checkpoint: Checkpoint, tensors: Mapping[str, SafetensorsInfo], weight: str, parts: set[str], *, reads_codes: bool
) -> tuple[PackedState, Quantized4Bit | DoubleQuantized4Bit]:
    if weight not in tensors:
        raise FileFormatError(f"{checkpoint.path}: {shorten(weight)}: missing (the packed codes)")
    mapping: dict[str, NDArray[Any]] = {weight: np.empty(tensors[weight].nbytes, np.uint8)}
    if reads_codes:
        checkpoint.read_into(tensors[weight], 0, mapping[weight])
    for name in parts:
        info = tensors[name]
        if info.dtype not in _NUMPY:
            raise FileFormatError(
                f"{checkpoint.path}: {shorten(name)}: expected {' or '.join(_NUMPY)}, got {info.dtype}"
            )
        array = np.empty(info.shape, _NUMPY[info.dtype])
        checkpoint.read_into(info, 0, array)
        # Once it has packed a weight for the CPU, bitsandbytes saves scales in half precision.
        mapping[name] = widen_bfloat16(array).astype(np.float32) if info.dtype in ("F16", "BF16") else array
    try:
        state = unpack(mapping)
        return state, record_of(state, borrows=True)  # nothing else has these arrays
    except (InvalidValueError, InvalidTypeError) as error:
        raise FileFormatError(f"{checkpoint.path}: {error}") from None


class BitsandbytesDecoder(Decoder):
    """A packed weight.

    Parameters
    ----------
    checkpoint : Checkpoint
    tensors : mapping of str to SafetensorsInfo
    weight : str
        The name of the weight.
    parts : set of str
        The tensors that are its state.
    load : () -> (PackedState, scales)
        Loads the state, which is not kept here.
    dtype : str, optional
        The type of the values; None: what the weight had before it was quantized.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        tensors: Mapping[str, SafetensorsInfo],
        weight: str,
        parts: set[str],
        load: Callable[[], LoadedState],
        dtype: str | None,
    ) -> None:
        state, _ = load()
        names = {arrays.DTYPE_NAMES[element_type]: name for name, element_type in ELEMENT_TYPES.items()}
        self.shape, self.dtype = state.shape, dtype or names[state.dtype]
        self.kind, self.block_size = state.quant_type.upper(), state.block_size
        self.nbytes = tensors[weight].nbytes + sum(tensors[part].nbytes for part in parts)
        self._checkpoint, self._codes, self._load = checkpoint, tensors[weight], load

    def decode(self, first: int, out: Bytes) -> None:
        """Fill `out` with the values from element `first` on."""
        state, scales = self._load()
        skipped = first % self.block_size
        start, n = first - skipped, out.size // self.itemsize + skipped
        codes = np.empty((n + 1) // 2, np.uint8)
        self._checkpoint.read_into(self._codes, start // 2, codes)
        target = np.empty(n * self.itemsize, np.uint8) if skipped else out
        scales = scales[start // self.block_size :]
        decode_into(codes, scales, self.block_size, state.quant_type, target, ELEMENT_TYPES[self.dtype], 1)
        if skipped:
            out[:] = target[skipped * self.itemsize :]
