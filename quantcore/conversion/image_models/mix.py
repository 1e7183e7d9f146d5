"""Which type the tensors of a diffusion model get: the rules of `img_tensor_get_type` in City96's patch of llama.cpp.

They know attention values, fused queries, keys and values, and the second matrix of a feed-forward part, by parts of
names; types of few bits have no mix. Rows that are no whole blocks become F16.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from quantcore.conversion.file_types import FileType
from quantcore.conversion.image_models.architectures import ImageModel
from quantcore.ggml.types import GGMLType, GGUFQuantType

_T = GGUFQuantType
_ANY = 1 << 30
_FAST = frozenset(
    (_T.Q4_0, _T.Q4_1, _T.Q5_0, _T.Q5_1, _T.Q8_0, _T.Q2_K, _T.Q3_K, _T.Q4_K, _T.Q5_K, _T.Q6_K, _T.IQ4_NL, _T.IQ4_XS)
)
"""The types that ComfyUI-GGUF decodes on the graphics card."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of tensors.

    Attributes
    ----------
    parts : tuple of tuple of str
        A name belongs to it that has all words of one of these.
    types : mapping of str to tuple of (int, type)
        By the kind of file: the type of the first so many tensors of the kind, the type of the next ones.
    """

    parts: tuple[tuple[str, ...], ...]
    types: dict[str, tuple[tuple[int, GGUFQuantType], ...]]

    def has(self, name: str) -> bool:
        return any(all(word in name for word in words) for words in self.parts)


def _each(**types: GGUFQuantType) -> dict[str, tuple[tuple[int, GGUFQuantType], ...]]:
    return {name: ((_ANY, type_),) for name, type_ in types.items()}


_KINDS = (
    _Kind(
        (
            ("attn_v.weight",), (".to_v.weight",), (".v.weight",), (".attn.w1v.weight",), (".attn.w2v.weight",),
            (".add_v_proj.weight",), ("_attn.v_proj.weight",),
        ),
        {
            **_each(Q2_K=_T.Q3_K, Q3_K_L=_T.Q5_K, Q4_K_M=_T.Q6_K, Q5_K_M=_T.Q6_K),
            "Q3_K_M": ((2, _T.Q5_K), (_ANY, _T.Q4_K)),
            "Q4_K_S": ((4, _T.Q5_K),),
        },
    ),
    _Kind(
        (("attn_qkv.weight",), ("attn.qkv.weight",), ("attention.qkv.weight",)),
        _each(Q3_K_M=_T.Q4_K, Q3_K_L=_T.Q4_K, Q4_K_M=_T.Q5_K, Q5_K_M=_T.Q6_K),
    ),
    _Kind(
        (
            ("ffn_down",), ("experts.", ".w2.weight"), (".ffn.2.weight",), (".ff.net.2.weight",),
            (".mlp.layer2.weight",), (".adaln_modulation_mlp.2.weight",), (".feed_forward.w2.weight",),
            (".img_mlp.net.2.weight",), (".txt_mlp.net.2.weight",),
        ),
        _each(
            Q3_K_M=_T.Q4_K, Q3_K_L=_T.Q5_K, Q4_K_S=_T.Q5_K, Q4_K_M=_T.Q6_K, Q5_K_M=_T.Q6_K, Q4_0=_T.Q4_1,
            Q5_0=_T.Q5_1,
        ),
    ),
)  # fmt: skip
_Ends = tuple[tuple[str, ...], dict[str, GGUFQuantType]]
_NO_ENDS: _Ends = ((), {})
_LEAST_OF_ENDS: dict[str, _Ends] = {
    "qwen_image": (
        ("transformer_blocks.0.", "transformer_blocks.59."),
        {
            **dict.fromkeys(("Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_0", "Q4_1", "Q4_K_S", "Q4_K_M"), _T.Q5_K),
            "Q5_K_M": _T.Q6_K,
        },
    )
}
"""The first and the last block of some architectures, and what all of their matrices become."""


def tell_slow_types(types: Iterable[GGMLType]) -> list[str]:
    """Notices of types that ComfyUI-GGUF decodes slowly or not at all."""
    slow = dict.fromkeys(type_.name for type_ in types if type_.id not in _FAST and type_.block_size > 1)
    return [f"{name}: ComfyUI-GGUF decodes this type slowly, on the CPU, or not at all" for name in slow]


class ImageMix:
    """The types of a diffusion model's tensors in one file, asked for in the order of the tensors: it counts them.

    Parameters
    ----------
    file_type : FileType
    model : ImageModel
    """

    def __init__(self, file_type: FileType, model: ImageModel) -> None:
        self._file_type = file_type
        ends, types = _LEAST_OF_ENDS.get(model.name, _NO_ENDS)
        self._ends, self._end_type = ends, types.get(file_type.name)
        self._seen = dict.fromkeys(range(len(_KINDS)), 0)

    def is_output(self, _: str) -> bool:
        """There is no matrix of outputs."""
        return False

    def type_of(self, name: str, _: tuple[int, ...]) -> GGMLType:
        """The type of the next tensor."""
        chosen = self._file_type.default
        number = next((i for i, kind in enumerate(_KINDS) if kind.has(name)), None)
        if number is not None:
            rows = _KINDS[number].types.get(self._file_type.name, ())
            chosen = next((type_.layout for limit, type_ in rows if self._seen[number] < limit), chosen)
            self._seen[number] += 1
        if self._end_type is not None and any(part in name for part in self._ends):
            chosen = self._end_type.layout
        return chosen
