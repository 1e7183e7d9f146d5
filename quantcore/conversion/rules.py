"""Which tensor of a model gets which type: the rules of llama-quantize, so that files are identical to its files.

What is kept, what the user requested, and when a row that is no whole blocks falls back are here; the default mixes
are in `mixes`, what a type falls back to is in its row. Source: `tensor_allows_quantization`, `llama_tensor_get_type`,
`tensor_type_fallback` and `tensor_requires_imatrix` in llama.cpp's `src/llama-quant.cpp`, build b11739, checked by
experiment.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from quantcore._base.text import cut_middle, quote
from quantcore.conversion.file_types import FileType
from quantcore.conversion.image_models import ImageMix, image_model
from quantcore.conversion.mixes import OUTPUT, TOKEN_EMBEDDINGS, Mix
from quantcore.conversion.model_facts import ModelFacts
from quantcore.errors import InvalidValueError
from quantcore.ggml.formats import SUPPORTED_TYPES, supported_format
from quantcore.ggml.types import TYPES_BY_NAME, GGMLType, GGUFQuantType
from quantcore.gguf.layout import n_dimensions

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

UNWEIGHTED_MODEL_TYPES = tuple(t for t in SUPPORTED_TYPES if not t.layout.needs_imatrix_in_models)
"""The types of whole models that need no importance matrix."""


def unweighted_model_type(qtype: GGUFQuantType | str | int, name: str = "qtype") -> GGMLType:
    """The type for the matrices of a model without an importance matrix.

    Raises
    ------
    InvalidValueError
        There are no kernels for it, or llama-quantize asks for importance.
    """
    found = supported_format(qtype, name)
    if found.needs_imatrix_in_models:
        raise InvalidValueError(f"{name}: {found.name} needs an importance matrix, one weight per column")
    return found


def requires_imatrix(name: str, target: GGMLType, file_type: FileType) -> bool:
    """Whether llama-quantize refuses to quantize a tensor without importance."""
    if name == OUTPUT or name in TOKEN_EMBEDDINGS:
        return False
    return target.needs_imatrix_in_models or (target.id == GGUFQuantType.Q2_K and file_type.name == "Q2_K_S")


@dataclass(frozen=True)
class TypeRules:
    """The types that the user requested.

    Attributes
    ----------
    file_type : FileType
        The kind of file: the default type, and the mix.
    is_pure : bool
        Use the default type for every quantized tensor, including the output matrix, instead of the mix.
    overrides : tuple of (regex, GGMLType)
        The first pattern that is found in a tensor's name decides its type.
    output_type, token_embedding_type : GGMLType, optional
        The types of `output.weight` and of the token embeddings.
    leave_output : bool
        Keep `output.weight` unchanged.
    may_fall_back : bool
        Store rows that are no whole blocks in another type; otherwise they are refused.
    """

    file_type: FileType
    is_pure: bool = False
    overrides: tuple[tuple[re.Pattern[str], GGMLType], ...] = ()
    output_type: GGMLType | None = None
    token_embedding_type: GGMLType | None = None
    leave_output: bool = False
    may_fall_back: bool = True

    def targets(
        self, tensors: Sequence[tuple[str, tuple[int, ...]]], model: ModelFacts, *, has_imatrix: bool
    ) -> list[tuple[GGMLType | None, str]]:
        """The type that each tensor will have, None for its own; and what the user should know of the choice.

        Parameters
        ----------
        tensors : sequence of (name, shape)
            All tensors of the model in the order of the output, by which the mixes count.
        model : ModelFacts
        has_imatrix : bool
        """
        names = [name for name, _ in tensors]
        mix: Mix | ImageMix = Mix(self.file_type, model, names, has_imatrix=has_imatrix)
        may_quantize, is_image = is_quantizable, False
        if image := image_model(model.architecture):
            mix, may_quantize, is_image = ImageMix(self.file_type, image), image.is_quantizable, True
        found: list[tuple[GGMLType | None, str]] = []
        for name, shape in tensors:
            if not may_quantize(name, shape) or (self.leave_output and name == OUTPUT):
                found.append((None, ""))
            else:
                found.append(self._fall_back(name, shape, self._choose(name, shape, mix), is_image=is_image))
        return found

    def check(self, names: list[str]) -> list[str]:
        """Notices of requested types that have no effect on a model with these tensors.

        Raises
        ------
        InvalidValueError
            A pattern is in no name.
        """
        if self.overrides and not self.file_type.is_quantized:
            return [f"tensor types have no effect when the type is {self.file_type.name}", *self._idle(names)]
        for pattern, _ in self.overrides:
            if not any(pattern.search(name) for name in names):
                raise InvalidValueError(f"tensor_types: {quote(pattern.pattern)} fits no tensor of the model")
        return self._idle(names)

    def _idle(self, names: list[str]) -> list[str]:
        idle = []
        if OUTPUT not in names and (self.leave_output or (self.output_type is not None and not self._fits_tied(names))):
            idle.append(f"the model has no {OUTPUT}")
        if TOKEN_EMBEDDINGS.isdisjoint(names) and self.token_embedding_type is not None:
            idle.append("the model has no token_embd.weight")
        return idle

    def _fits_tied(self, names: list[str]) -> bool:
        """Whether the type of the output matrix is that of the token embeddings which serve as one."""
        return self.file_type.is_quantized and not self.is_pure and not TOKEN_EMBEDDINGS.isdisjoint(names)

    def _choose(self, name: str, shape: tuple[int, ...], mix: Mix | ImageMix) -> GGMLType:
        if self.token_embedding_type is not None and name in TOKEN_EMBEDDINGS:
            return self.token_embedding_type
        if self.output_type is not None and name == OUTPUT:
            return self.output_type
        if not self.file_type.is_quantized:
            return self.file_type.default
        for pattern, chosen in self.overrides:
            if pattern.search(name):
                return chosen
        if self.is_pure:
            return self.file_type.default
        chosen = mix.type_of(name, shape)
        if self.output_type is not None and mix.is_output(name):
            return self.output_type
        return chosen

    def _fall_back(
        self, name: str, shape: tuple[int, ...], chosen: GGMLType, *, is_image: bool
    ) -> tuple[GGMLType, str]:
        columns = shape[-1]
        if columns % chosen.block_size == 0:
            return chosen, ""
        need = f"{chosen.name} needs rows of whole {chosen.block_size}s, got {columns}"
        if not self.may_fall_back:
            raise InvalidValueError(
                f"tensor {quote(name)}: {need}; without --no-fallback (no_fallback=False) it gets another type"
            )
        float16 = GGUFQuantType.F16.layout
        other = float16 if is_image else TYPES_BY_NAME[chosen.fallback]
        if columns % other.block_size:
            other = float16
        return other, f"{cut_middle(name)}: {need}: stored as {other.name}"


def is_quantizable(name: str, shape: tuple[int, ...]) -> bool:
    """Whether llama-quantize would quantize a tensor: a weight matrix that is not sensitive to quantization."""
    if n_dimensions(shape) < 2:
        return False
    # llama.cpp compares an unsigned position with the length minus 6, so names of five bytes count as ending in
    # "weight".
    if not name.endswith("weight") and len(name.encode("utf-8")) != 5:
        return False
    return name not in KEPT_NAMES and not any(part in name for part in KEPT_SUBSTRINGS)
