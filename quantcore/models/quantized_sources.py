"""Checkpoints whose tensors are quantized already: how they are recognised, and which of them are decoded.

A quantized tensor that is taken for floats, or for bytes without a meaning, gives a model that loads and computes
nonsense. So what is not decoded is refused by its name, whether config.json names it or only the tensors show it.
`METHODS` says which methods are decoded; every other name is refused.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from quantcore._base.text import brief, quote
from quantcore.blockwise.bitsandbytes import STATE_PREFIX
from quantcore.errors import FileFormatError
from quantcore.models.checkpoint_config import CONFIG, DEEPEST, nested_configs, read_json
from quantcore.safetensors.reader import Checkpoint

__all__ = [
    "BITSANDBYTES",
    "METHODS",
    "QuantizedSource",
    "check_source",
    "find_quantization",
    "is_decoded",
    "without_quantization",
]


@dataclass(frozen=True, slots=True)
class QuantizedSource:
    """How a checkpoint is quantized already.

    Attributes
    ----------
    method : str
        As config.json names it (`quant_method`), or by the tensors.
    evidence : str
        Where that was found, for messages.
    settings : dict
        The entry of config.json, empty if the tensors alone show it.
    """

    method: str
    evidence: str
    settings: dict[str, Any]


def _is_four_bit(source: QuantizedSource) -> bool:
    """Of bitsandbytes' two layouts, the one of 4 bits is decoded; LLM.int8() is not."""
    return not source.settings.get("load_in_8bit") and source.settings.get("load_in_4bit", True) is not False


_COMPRESSED_FORMATS = {
    "dense", "float-quantized", "naive-quantized", "int-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized",
    "mxfp8-quantized", "mixed-precision",
}  # fmt: skip


def _is_plain_compression(source: QuantizedSource) -> bool:
    """compressed-tensors without sparsity, transforms, or integers of other widths than 8 bits."""
    parts = list(nested_configs(source.settings))
    formats = {part["format"] for part in parts if isinstance(part.get("format"), str)}
    return formats <= _COMPRESSED_FORMATS and not source.settings.get("transform_config")


_MODELOPT_ALGORITHMS = {
    "FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "FP8_PB_REAL", "NVFP4", "W4A16_NVFP4", "MXFP8", "MIXED_PRECISION",
}  # fmt: skip


def _is_plain_modelopt(source: QuantizedSource) -> bool:
    """ModelOpt without AWQ, whose scales of inputs belong to the weights."""
    found = {part["quant_algo"] for part in nested_configs(source.settings) if isinstance(part.get("quant_algo"), str)}
    return found <= _MODELOPT_ALGORITHMS


def _always(_: QuantizedSource) -> bool:
    return True


BITSANDBYTES = "bitsandbytes"
METHODS: Mapping[str, Callable[[QuantizedSource], bool]] = {
    BITSANDBYTES: _is_four_bit,
    "fp8": _always,
    "fbgemm_fp8": _always,
    "mxfp4": _always,
    "compressed-tensors": _is_plain_compression,
    "modelopt": _is_plain_modelopt,
}
"""The methods that are decoded, each with what tells whether a checkpoint is of a kind that is."""


@dataclass(frozen=True, slots=True)
class _Sign:
    """Tensors that only a quantized checkpoint has: their names, and dtypes if others may have such a name."""

    method: str
    names: str
    dtypes: str = ""
    beside: str = ""  # the ending of another tensor of the same module that must be there too

    def is_on(self, name: str, dtype: str, names: set[str]) -> bool:
        found = re.search(self.names, name)
        if found is None or (self.dtypes and not re.fullmatch(self.dtypes, dtype)):
            return False
        return not self.beside or name[: found.start()] + self.beside in names


_CONFIG_KEYS = ("quantization_config", "compression_config", "quantization")  # the last one is MLX's, with `bits`
_OTHER_FILES = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "hf_quant_config.json": "modelopt",
    "quanto_qmap.json": "quanto",
}
"""Files that older tools write beside config.json, and the method if they name none."""
# None of them is among `METHODS`.
_SIGNS = (
    _Sign("compressed-tensors (packed integers)", r"(^|\.)weight_packed$", "(?!U8).*"),
    _Sign("compressed-tensors (packed integers)", r"(^|\.)(weight_shape|weight_g_idx)$"),
    _Sign("compressed-tensors (zero points)", r"(^|\.)weight_zero_point$"),
    _Sign("modelopt (AWQ)", r"(^|\.)pre_quant_scale$"),
    _Sign("FP4 with two scales", r"weight_outer_scale_denominator$"),
    _Sign("gptq", r"(^|\.)g_idx$"),
    _Sign("gptq or awq", r"(^|\.)(qweight|qzeros)$"),
    _Sign("hqq", r"(^|\.)W_q$"),
    _Sign("aqlm", r"(^|\.)codebooks$", beside=".codes"),
    _Sign("bitsandbytes (8 bits)", r"(^|\.)SCB$"),
    _Sign("bitsandbytes (8 bits)", r"\.weight_format$"),
    _Sign("mlx", r"(^|\.)weight$", "U32", beside=".scales"),
    _Sign("quanto", r"\.?weight\._(data|scale|shift)(\._data)?$"),
    _Sign("eetq", r"(^|\.)weight$", "I8", beside=".weight_scales"),
    _Sign("smoothquant", r"(^|\.)weight$", "I8", beside=".dequant_scale"),
    _Sign("exl2", r"(^|\.)(q_invperm|q_scale_max)$"),
    _Sign("exl3", r"(^|\.)trellis$", "I16"),
    _Sign("vptq", r"(^|\.)centroids(\.weight)?$", beside=".indices"),
    _Sign("higgs", r"(^|\.)tables2$", beside=".scales"),
    _Sign("spqr", r"(^|\.)dense_weights$", "I64"),
    _Sign("torchao", r"(^|\.)_?weight_qdata$"),
)


def find_quantization(checkpoint: Checkpoint, config: dict[str, Any] | None) -> tuple[QuantizedSource, ...]:
    """How a checkpoint is quantized, by its configuration, by files of older tools, and by its tensors.

    Parameters
    ----------
    checkpoint : Checkpoint
    config : dict, optional
        config.json, if there is one.

    Returns
    -------
    tuple of QuantizedSource
        Empty for a checkpoint of plain tensors; several if the sources differ, the configuration first.
    """
    found = [] if config is None else _in_config(config)
    if not found:
        found = [source for name, method in _OTHER_FILES.items() if (source := _in_file(checkpoint, name, method))]
    names = {tensor.name for tensor in checkpoint.tensors}
    shown = {}
    for tensor in checkpoint.tensors:
        sign = next((s for s in _SIGNS if s.is_on(tensor.name, tensor.dtype, names)), None)
        if sign is not None and sign.method not in shown:
            shown[sign.method] = QuantizedSource(sign.method, f"tensor {quote(tensor.name)}", {})
    if any(STATE_PREFIX in name for name in names) and not found:
        found = [QuantizedSource(BITSANDBYTES, f"tensors named {STATE_PREFIX}*", {})]
    return (*found, *shown.values())


def check_source(checkpoint: Checkpoint, config: dict[str, Any] | None) -> tuple[QuantizedSource, ...]:
    """How a checkpoint is quantized, if that is decoded; the tensors themselves say more (`scaled_claims`).

    Raises
    ------
    FileFormatError
        The message has the name of the method and where it was found.
    """
    sources = find_quantization(checkpoint, config)
    for source in sources:
        if not is_decoded(source):
            raise FileFormatError(
                f"{checkpoint.path}: is quantized by {brief(source.method)} ({source.evidence}{_bits(source)}), "
                "which is not decoded here; convert the original checkpoint"
            )
    return sources


def is_decoded(source: QuantizedSource) -> bool:
    """Whether a method is decoded, in the kind of it that the settings describe."""
    is_known = METHODS.get(source.method)
    return is_known is not None and is_known(source)


def _bits(source: QuantizedSource) -> str:
    """What tells the kind of a method."""
    if source.settings.get("load_in_8bit"):
        return ", load_in_8bit"
    for key in ("format", "quant_algo"):
        for part in nested_configs(source.settings):
            if isinstance(part.get(key), str):
                return f", {key} {brief(part[key])}"
    return ""


def _in_config(config: dict[str, Any]) -> list[QuantizedSource]:
    found = []
    for part in nested_configs(config):
        for key in _CONFIG_KEYS:
            settings = part.get(key)
            if isinstance(settings, dict) and _is_quantization(key, settings):
                found.append(QuantizedSource(_method_of(settings), f"{key} of {CONFIG}", settings))
    return found


def _is_quantization(key: str, value: Any) -> bool:
    return (
        key in _CONFIG_KEYS and isinstance(value, dict) and bool(value) and (key != "quantization" or "bits" in value)
    )


def without_quantization(config: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    """A configuration and its parts without what they say of quantization."""
    return {
        key: without_quantization(value, depth + 1) if isinstance(value, dict) and depth < DEEPEST else value
        for key, value in config.items()
        if key != "quantization_config" and not _is_quantization(key, value)
    }


def _in_file(checkpoint: Checkpoint, name: str, method: str) -> QuantizedSource | None:
    settings = read_json(checkpoint.folder / name, "quantization")
    return None if settings is None else QuantizedSource(_method_of(settings, method), name, settings)


def _method_of(settings: dict[str, Any], unnamed: str = "") -> str:
    """The name of the method, under whichever key a tool has written it."""
    for key in ("quant_method", "quant_algo", "quantization_method"):
        if settings.get(key) is not None:
            return settings[key] if isinstance(settings[key], str) else brief(settings[key])
    if "load_in_4bit" in settings or "load_in_8bit" in settings:
        return BITSANDBYTES  # its first configurations did not name the method
    return unnamed or "a method without a name"
