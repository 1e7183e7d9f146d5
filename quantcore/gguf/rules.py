"""Which tensor of a model gets which type: the rules of llama-quantize, so that our files are its files.

Source: `tensor_allows_quantization` and the type selection in llama.cpp's `src/llama-quant.cpp`, checked by experiment.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from quantcore.ggml_types import GGML_TYPES, GGMLType, GGUFQuantType

KEPT_NAMES = frozenset({"position_embd.weight", "token_types.weight"})
KEPT_SUBSTRINGS = (
    # norms, expert routing, and tables of ids
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "indexer.k_proj.weight", "indexer.q_proj.weight",
    # small matrices of Gemma 3n, Mamba, Kimi, T5
    "altup", "laurel", "per_layer_model_proj", "ssm_conv1d", "shortconv.conv.weight", "attn_rel_b.weight",
    # RWKV's small two-dimensional weights
    "time_mix_first.weight", "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight", "time_mix_v0.weight",
    "time_mix_v1.weight", "time_mix_v2.weight", "time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight",
    "time_mix_g1.weight", "time_mix_g2.weight", "time_mix_decay_w1.weight", "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    # vision and audio parts
    ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger",
    "a.rvq.codebook", "mm.a.code_embd",
    # position and token-type embeddings by transformers' names, for checkpoints that keep their own
    "position_embeddings.weight", "token_type_embeddings.weight",
)  # fmt: skip
TOKEN_EMBEDDINGS = frozenset({"token_embd.weight", "per_layer_token_embd.weight"})
OUTPUT = "output.weight"

FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "BF16": 32}
"""llama.cpp's `general.file_type` of a file that is mostly of a type."""

_LAYER = re.compile(r"blk\.\s*([+-]?\d+)", re.ASCII)
_F16 = GGML_TYPES[GGUFQuantType.F16]
_Q4_0 = GGML_TYPES[GGUFQuantType.Q4_0]
_Q8_0 = GGML_TYPES[GGUFQuantType.Q8_0]


@dataclass(frozen=True)
class TypeRules:
    """What the user asked for.

    Attributes
    ----------
    default : GGMLType
        The type of every tensor that no other rule touches.
    is_pure : bool
        Leave out the mixture: `default` also for the output matrix.
    overrides : tuple of (regex, GGMLType)
        The first pattern found in a tensor's name decides.
    output_type, token_embedding_type : GGMLType, optional
        For `output.weight`, for the token embeddings.
    leave_output : bool
        Keep `output.weight` as it is.
    """

    default: GGMLType
    is_pure: bool = False
    overrides: tuple[tuple[re.Pattern[str], GGMLType], ...] = ()
    output_type: GGMLType | None = None
    token_embedding_type: GGMLType | None = None
    leave_output: bool = False

    def target(
        self, name: str, shape: tuple[int, ...], *, has_output: bool, notice: Callable[[str], None]
    ) -> GGMLType | None:
        """The type that a tensor is to have, None to keep its own. `has_output`: the model has `output.weight`."""
        if not is_quantizable(name, shape) or (self.leave_output and name == OUTPUT):
            return None
        if self.token_embedding_type is not None and name in TOKEN_EMBEDDINGS:
            chosen = self.token_embedding_type
        elif self.output_type is not None and name == OUTPUT:
            chosen = self.output_type
        else:
            chosen = self._mixed(name, has_output, notice)
        if shape[-1] % chosen.block_size:
            notice(f"{name}: {chosen.name} needs rows of whole {chosen.block_size}s, got {shape[-1]}: stored as F16")
            return _F16
        return chosen

    def without_effect(self, names: list[str]) -> list[str]:
        """What was asked for and does nothing on a model with these tensors."""
        idle = []
        if self.overrides and self.default.block_size == 1:
            idle.append(f"tensor types have no effect when the type is {self.default.name}")
        else:
            idle += [
                f"tensor type {pattern.pattern!r} fits no tensor"
                for pattern, _ in self.overrides
                if not any(pattern.search(name) for name in names)
            ]
        if OUTPUT not in names and (self.output_type is not None or self.leave_output):
            idle.append(f"the model has no {OUTPUT}")
        if TOKEN_EMBEDDINGS.isdisjoint(names) and self.token_embedding_type is not None:
            idle.append("the model has no token_embd.weight")
        return idle

    def _mixed(self, name: str, has_output: bool, notice: Callable[[str], None]) -> GGMLType:
        if self.default.block_size == 1:
            return self.default
        for pattern, chosen in self.overrides:
            if pattern.search(name):
                return chosen
        is_output = name == OUTPUT or (not has_output and name in TOKEN_EMBEDDINGS)
        if is_output and not self.is_pure and self.default == _Q4_0:
            notice(f"{name}: stored as Q8_0 (llama-quantize mixes in Q6_K here; --pure: Q4_0 throughout)")
            return _Q8_0
        return self.default


def is_quantizable(name: str, shape: tuple[int, ...]) -> bool:
    """Whether llama-quantize would touch a tensor: a matrix that is a weight, and none of the delicate ones."""
    if n_dimensions(shape) < 2:
        return False
    # llama.cpp compares an unsigned position with the length less 6, so that five bytes pass for "ends in weight".
    if not name.endswith("weight") and len(name.encode("utf-8")) != 5:
        return False
    return name not in KEPT_NAMES and not any(part in name for part in KEPT_SUBSTRINGS)


def n_dimensions(shape: tuple[int, ...]) -> int:
    """Dimensions as ggml counts them: outermost ones of extent 1 do not count, a scalar has one."""
    for i, extent in enumerate(shape):
        if extent != 1:
            return len(shape) - i
    return 1


def layer_then_name(name: str) -> tuple[int, bytes]:
    """The sort key of tensors in a model file: the number after `blk.` (-1 if there is none), then the bytes."""
    match = _LAYER.match(name)
    layer = int(match[1]) if match else -1
    return (layer + 2**31) % 2**32 - 2**31, name.encode("utf-8")
