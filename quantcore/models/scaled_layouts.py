"""The table of layouts in which checkpoints store codes with scales: a row each, and the names that go with them.

A tensor of codes and its scales are found by their names and dtypes, since the configuration of a checkpoint does not
say which of its tensors are quantized. What is not in this table is refused (`quantized_sources`).
"""

from dataclasses import dataclass

from quantcore.models.code_tables import E8M0_BYTES

__all__ = ["ACTIVATION_SCALES", "LAYOUTS", "MARKERS", "PARTS", "ScaledLayout"]

_FP8 = ("F8_E4M3", "F8_E5M2")
_BYTES = ("I8", "U8")
_FLOATS = ("F32", "BF16", "F16")


@dataclass(frozen=True, slots=True)
class ScaledLayout:
    """Codes whose values are multiplied by scales.

    Attributes
    ----------
    name : str
        For messages.
    codes : tuple of str
        Dtypes that the codes are stored as.
    scale : str
        The name of the scales; `{base}` is the name of the weight, `{module}` that without its last part.
    scale_dtypes : tuple of str
    suffix : str
        What follows the name of the weight in that of the codes.
    packed : str
        The kind of code (`code_tables`) if it is not the dtype.
    block : int
        Elements of a row that share a scale; 0 if the shapes say it.
    rectangles : tuple of int, optional
        Rows and columns that share a scale if neither shapes nor configuration say so.
    global_scale : str
        The name of a second scale for the whole weight, if there is one, in float32.
    activation_scale : str
        The name of the scale of the activations that meet the weight, if files of blocks have a place for it.
    is_divided : bool
        Whether scales are divided by the second one instead of being multiplied; that of activations is a divisor, too.
    is_transposed : bool
        Whether the model has rows and columns the other way round; blocks are an axis of their own then.
    """

    name: str
    codes: tuple[str, ...]
    scale: str
    scale_dtypes: tuple[str, ...]
    suffix: str = ""
    packed: str = ""
    block: int = 0
    rectangles: tuple[int, int] | None = None
    global_scale: str = ""
    activation_scale: str = ""
    is_divided: bool = False
    is_transposed: bool = False

    def scale_of(self, base: str, template: str) -> str:
        """The name of a scale of a weight."""
        module = base.rpartition(".")[0]
        return template.format(base=base, module=f"{module}." if module else "")


LAYOUTS: tuple[ScaledLayout, ...] = (
    # DeepSeek, and transformers' fine-grained FP8; of Mistral's FP8 one for the tensor
    ScaledLayout("FP8 in blocks", _FP8, "{base}_scale_inv", (*_FLOATS, *E8M0_BYTES), rectangles=(128, 128)),
    ScaledLayout("FP8 in blocks", _FP8, "{module}scale", (*_FLOATS, *E8M0_BYTES), rectangles=(128, 128)),
    ScaledLayout("MXFP4 of DeepSeek", _BYTES, "{base}_scale_inv", E8M0_BYTES, packed="E2M1", block=32),
    ScaledLayout("MXFP4 of DeepSeek", _BYTES, "{module}scale", E8M0_BYTES, packed="E2M1", block=32),
    ScaledLayout(
        "NVFP4 of ModelOpt", ("U8",), "{base}_scale", ("F8_E4M3",), packed="E2M1", block=16,
        global_scale="{base}_scale_2", activation_scale="{module}input_scale",
    ),
    ScaledLayout("MXFP8", _FP8, "{base}_scale", E8M0_BYTES, block=32),
    # compressed-tensors, fbgemm, ModelOpt
    ScaledLayout("FP8", _FP8, "{base}_scale", _FLOATS, rectangles=(128, 128)),
    ScaledLayout("INT8", ("I8",), "{base}_scale", _FLOATS),
    ScaledLayout(
        "NVFP4 of compressed-tensors", ("U8",), "{base}_scale", ("F8_E4M3",), suffix="_packed", packed="E2M1", block=16,
        global_scale="{base}_global_scale", activation_scale="{module}input_global_scale", is_divided=True,
    ),
    ScaledLayout(
        "MXFP4 of compressed-tensors", ("U8",), "{base}_scale", E8M0_BYTES, suffix="_packed", packed="E2M1", block=32
    ),
    ScaledLayout(
        "MXFP4 of gpt-oss", ("U8",), "{base}_scales", ("U8",), suffix="_blocks", packed="E2M1", block=32,
        is_transposed=True,
    ),
    ScaledLayout("FP8 of ComfyUI", _FP8, "{module}scale_weight", _FLOATS),
    ScaledLayout("FP8 of Mistral", _FP8, "{module}qscale_weight", _FLOATS),
)  # fmt: skip
"""The layouts in the order in which they are tried."""

PARTS = (
    r"(^|\.)(weight_scale(_inv|_2)?|weight_global_scale|weight_packed|q?scale_weight)$|_proj_(scale_inv|blocks|scales)$"
)
"""Names that only codes and scales of weights have: one of them without the others is an orphan."""
ACTIVATION_SCALES = (
    r"(^|\.)(input_scale|input_scale_ub|input_global_scale|output_scale|[qkv]_scale|[kv]_proj\.output_scale"
    r"|(weight_)?activation_scale|scale_input|qscale_act)$|_proj_(activation|input)_scale$"
)
"""Scales of activations and of caches: of no use without quantized arithmetic, and left out."""
MARKERS = r"(^|\.)scaled_fp8$"
"""Tensors without a value, which tell how the others are stored."""
