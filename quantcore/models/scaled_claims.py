"""Which tensors of a checkpoint are codes, which scales belong to them, and what is left out with them.

Whatever looks like codes or scales and does not fit together is refused: a weight without its scale is thousands of
times too large, and nobody notices until the model talks nonsense.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

import numpy as np

from quantcore._base.text import brief, quote
from quantcore.errors import FileFormatError
from quantcore.files.strict_json import parse_text
from quantcore.models.checkpoint_config import nested_configs
from quantcore.models.code_tables import CODES
from quantcore.models.scaled_layouts import ACTIVATION_SCALES, LAYOUTS, MARKERS, PARTS, ScaledLayout
from quantcore.models.scaled_tensors import Spread, find_spread
from quantcore.safetensors.reader import Checkpoint, SafetensorsInfo

__all__ = ["Claim", "Claims", "find_claims"]

_COMFY = ".comfy_quant"
_COMFY_FORMATS = ("float8_e4m3fn", "float8_e5m2")
_MOST_COMFY_BYTES = 1 << 12


@dataclass(frozen=True, slots=True)
class Claim:
    """A weight that is stored as codes.

    Attributes
    ----------
    name : str
        Of the weight.
    shape : tuple of int
        As it is packed: the last axis is that of the codes.
    codes : SafetensorsInfo
    scale, global_scale, activation_scale : SafetensorsInfo or None
    spread : Spread
    layout : ScaledLayout or None
        None for codes that are the values themselves.
    """

    name: str
    shape: tuple[int, ...]
    codes: SafetensorsInfo
    scale: SafetensorsInfo | None
    global_scale: SafetensorsInfo | None
    spread: Spread
    layout: ScaledLayout | None
    activation_scale: SafetensorsInfo | None = None

    @property
    def parts(self) -> tuple[SafetensorsInfo, ...]:
        """The tensors that the weight is made of."""
        return tuple(info for info in (self.codes, self.scale, self.global_scale) if info is not None)


@dataclass(frozen=True, slots=True)
class Claims:
    """What is found in a checkpoint.

    Attributes
    ----------
    weights : dict of str to Claim
        By the names of the codes.
    left_out : tuple of str
        Scales of activations, and marks.
    """

    weights: dict[str, Claim]
    left_out: tuple[str, ...]


def find_claims(checkpoint: Checkpoint, settings: tuple[dict[str, Any], ...]) -> Claims:
    """The weights that are stored as codes.

    Parameters
    ----------
    checkpoint : Checkpoint
    settings : tuple of dict
        How the configuration says that it is quantized; empty if it does not.

    Raises
    ------
    FileFormatError
        Codes lack a scale, or it does not fit them; a scale has no codes.
    """
    finder = _Finder(checkpoint, settings)
    weights = {t.name: claim for t in checkpoint.tensors if (claim := finder.find(t)) is not None}
    used = {part.name for claim in weights.values() for part in claim.parts}
    left_out = {t.name for t in checkpoint.tensors if t.name not in used and finder.is_left_out(t, bool(weights))}
    rest = [t for t in checkpoint.tensors if t.name not in used and t.name not in left_out]
    is_scaled = bool(settings) or bool(left_out) or any(claim.scale is not None for claim in weights.values())
    for tensor in rest:
        if re.search(PARTS, tensor.name):
            finder.refuse(tensor, "lacks the codes or the scales that go with it, or they are not of a known layout")
        if settings and tensor.dtype in _PACKED and tensor.name.endswith("weight"):
            finder.refuse(tensor, f"is {tensor.dtype} without a scale")
    for tensor in rest:
        if tensor.dtype in _PLAIN:
            if is_scaled:
                finder.refuse(tensor, f"is {tensor.dtype} without a scale, which others in the checkpoint have")
            weights[tensor.name] = finder.plain(tensor)
    taken = {tensor.name for tensor in rest} - weights.keys()
    for claim in weights.values():
        if claim.name in taken:
            raise FileFormatError(f"{checkpoint.path}: tensor {quote(claim.name)}: is there twice, once as codes")
        taken.add(claim.name)
    return Claims(weights, tuple(sorted(left_out)))


_PLAIN = tuple(name for name in CODES if name.startswith("F8_"))
_PACKED = ("I8", "U8")


class _Finder:
    def __init__(self, checkpoint: Checkpoint, settings: tuple[dict[str, Any], ...]) -> None:
        self._checkpoint = checkpoint
        self._tensors: Mapping[str, SafetensorsInfo] = {tensor.name: tensor for tensor in checkpoint.tensors}
        self._rectangles = tuple(dict.fromkeys(_rectangles(settings, "block_structure")))
        self._strict = tuple(dict.fromkeys(_rectangles(settings, "weight_block_size")))

    def find(self, codes: SafetensorsInfo) -> Claim | None:
        """The claim on a tensor of codes with a scale, if it is that."""
        wrong: SafetensorsInfo | None = None
        for layout in LAYOUTS:
            if codes.dtype not in layout.codes or not codes.name.endswith(layout.suffix):
                continue
            base = codes.name.removesuffix(layout.suffix)
            scale = self._tensors.get(layout.scale_of(base, layout.scale))
            if scale is None or scale is codes:
                continue
            if scale.dtype not in layout.scale_dtypes:
                wrong = scale
                continue
            if layout.global_scale and layout.scale_of(base, layout.global_scale) not in self._tensors:
                self.refuse(codes, f"{layout.name}: {quote(layout.scale_of(base, layout.global_scale))} is missing")
            return self._claim(layout, base, codes, scale)
        if wrong is not None:
            self.refuse(wrong, f"has the dtype {wrong.dtype}, which the scales of {quote(codes.name)} cannot have")
        return None

    def plain(self, codes: SafetensorsInfo) -> Claim:
        """The claim on codes that are the values themselves."""
        size = prod(codes.shape)
        return Claim(codes.name, codes.shape, codes, None, None, Spread(1, max(size, 1), 1, max(size, 1), 1, 1), None)

    def is_left_out(self, tensor: SafetensorsInfo, is_quantized: bool) -> bool:
        """Whether a tensor tells only how the others are quantized, or is for quantized activations."""
        if tensor.name.endswith(_COMFY) and tensor.dtype == "U8":
            return self._check_comfy(tensor)
        if re.search(MARKERS, tensor.name):
            return True
        return is_quantized and re.search(ACTIVATION_SCALES, tensor.name) is not None

    def refuse(self, tensor: SafetensorsInfo, problem: str) -> NoReturn:
        raise FileFormatError(f"{self._checkpoint.path}: tensor {quote(tensor.name)}: {problem}")

    def _claim(self, layout: ScaledLayout, base: str, codes: SafetensorsInfo, scale: SafetensorsInfo) -> Claim:
        shape = codes.shape
        if layout.is_transposed:
            if len(shape) < 3 or shape[-1] != layout.block // 2:
                self.refuse(
                    codes, f"{layout.name}: has the shape {shape}, expected blocks of {layout.block // 2} bytes"
                )
            shape = (*shape[:-2], shape[-2] * layout.block)
        elif layout.packed and shape:
            shape = (*shape[:-1], 2 * shape[-1])
        is_strict = bool(self._strict) and layout.rectangles is not None
        rectangles = self._strict if is_strict else (*self._rectangles, *filter(None, (layout.rectangles,)))
        spread = find_spread(shape, scale.shape, layout, rectangles, is_strict=is_strict)
        if spread is None:
            self.refuse(scale, f"has the shape {scale.shape}, which does not fit {quote(codes.name)} of {codes.shape}")
        global_scale, activation_scale = (
            self._tensors.get(layout.scale_of(base, template)) if template else None
            for template in (layout.global_scale, layout.activation_scale)
        )
        if global_scale is not None:
            stacked = prod(shape[:-2])
            if global_scale.dtype != "F32" or prod(global_scale.shape) not in (1, stacked):
                self.refuse(global_scale, f"is {global_scale.dtype} of shape {global_scale.shape}, expected one F32")
        return Claim(base, shape, codes, scale, global_scale, spread, layout, activation_scale)

    def _check_comfy(self, tensor: SafetensorsInfo) -> bool:
        if tensor.nbytes > _MOST_COMFY_BYTES:
            self.refuse(tensor, f"takes {tensor.nbytes} bytes, the limit is {_MOST_COMFY_BYTES}")
        text = np.empty(tensor.nbytes, np.uint8)
        self._checkpoint.read_into(tensor, 0, text)
        try:
            name = parse_text(text.tobytes()).get("format")
        except ValueError as error:
            self.refuse(tensor, str(error))
        if name not in _COMFY_FORMATS:
            self.refuse(tensor, f"is quantized as {brief(name)}, which is not decoded here")
        return True


def _rectangles(settings: tuple[dict[str, Any], ...], key: str) -> list[tuple[int, int]]:
    """All values of a key anywhere in the settings that are the sizes of rectangles."""
    found = []
    for setting in settings:
        for part in nested_configs(setting):
            value = part.get(key)
            if isinstance(value, list) and len(value) == 2 and all(type(n) is int and 0 < n < 1 << 31 for n in value):
                found.append((value[0], value[1]))
    return found
