"""The kinds of files that llama-quantize writes: their names, llama.cpp's ids of them, the type of most tensors.

A name such as Q4_K_M stands for a mix: which tensors get another type is in `mixes`. Source: the names in llama.cpp's
`tools/quantize/quantize.cpp`, the ids and default types in `llama.h` and `src/llama-quant.cpp`, build b11739.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from quantcore._base.text import brief
from quantcore.blockwise.codebooks import BITSANDBYTES_CODES
from quantcore.errors import InvalidValueError
from quantcore.ggml.types import GGML_TYPES, GGMLType, GGUFQuantType, as_ggml_type, refuse_type

__all__ = ["COPY", "FILE_TYPES", "FileType", "as_file_type"]


@dataclass(frozen=True, slots=True)
class FileType:
    """A kind of file.

    Attributes
    ----------
    name : str
    id : int
        `general.file_type`.
    default : GGMLType
        The type of every tensor that no rule of the mix touches.
    """

    name: str
    id: int
    default: GGMLType

    @property
    def is_quantized(self) -> bool:
        """Whether the default type has blocks; with a float type there is no mix."""
        return self.default.block_size > 1


_T = GGUFQuantType


def _plain(*types: GGUFQuantType) -> tuple[tuple[str, int | None, GGUFQuantType], ...]:
    """Files that have the name of a type, and its id."""
    return tuple((t.name, t.layout.file_type, t) for t in types)


_ROWS = (
    *_plain(_T.F32, _T.F16, _T.BF16, _T.Q4_0, _T.Q4_1, _T.Q5_0, _T.Q5_1, _T.Q8_0, _T.Q2_K),
    ("Q2_K_S", 21, _T.Q2_K),
    ("Q3_K_S", 11, _T.Q3_K), ("Q3_K_M", _T.Q3_K.layout.file_type, _T.Q3_K), ("Q3_K_L", 13, _T.Q3_K),
    ("Q4_K_S", 14, _T.Q4_K), ("Q4_K_M", _T.Q4_K.layout.file_type, _T.Q4_K),
    ("Q5_K_S", 16, _T.Q5_K), ("Q5_K_M", _T.Q5_K.layout.file_type, _T.Q5_K),
    *_plain(_T.Q6_K, _T.IQ1_S, _T.IQ1_M, _T.IQ2_XXS, _T.IQ2_XS),
    ("IQ2_S", _T.IQ2_S.layout.file_type, _T.IQ2_XS), ("IQ2_M", 29, _T.IQ2_S),
    *_plain(_T.IQ3_XXS), ("IQ3_XS", 22, _T.IQ3_S), *_plain(_T.IQ3_S), ("IQ3_M", 27, _T.IQ3_S),
    *_plain(_T.IQ4_NL, _T.IQ4_XS, _T.TQ1_0, _T.TQ2_0),
    ("MXFP4_MOE", _T.MXFP4.layout.file_type, _T.MXFP4),
    *_plain(_T.Q1_0, _T.Q2_0),
    # Not names of llama-quantize: types that llama.cpp has, for files that are mostly of them.
    *_plain(_T.MXFP4, _T.NVFP4),
)  # fmt: skip
_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

FILE_TYPES = {name: FileType(name, id_, default.layout) for name, id_, default in _ROWS if id_ is not None}
"""The kinds of files by name."""

COPY = "COPY"
"""What stands for copying every tensor as it is."""


def as_file_type(qtype: GGUFQuantType | str | int, name: str = "qtype", more: Sequence[str] = ()) -> FileType:
    """The kind of file that a name in any case stands for; or a tensor type, or ggml's id of one, by its name.

    `more` are words that the caller takes besides.

    Raises
    ------
    InvalidValueError
        There is no such name; the message lists those there are.
    InvalidTypeError
        It is neither a name nor a type nor an id.
    """
    if not isinstance(qtype, str):
        qtype = as_ggml_type(qtype, name).name
    wanted = qtype.upper()
    found = FILE_TYPES.get(_ALIASES.get(wanted, wanted))
    if found is None:
        if wanted.lower() in BITSANDBYTES_CODES:
            raise InvalidValueError(
                f"{name}: {brief(qtype)} is no type of GGUF; see quantize_checkpoint, which writes safetensors, and "
                "quantize_4bit for an array"
            )
        refuse_type(qtype, name, (*FILE_TYPES, COPY, *more))
    return found


def name_of_pure(type_: GGMLType) -> str:
    """The name whose default type this is, so that a pure file of that name is one of the type."""
    names = [name for name, file_type in FILE_TYPES.items() if file_type.default == type_]
    preferred = _ALIASES.get(type_.name, type_.name)
    return preferred if preferred in names else names[0]


def guess_file_type(types: list[GGMLType]) -> int:
    """llama.cpp's guess of `general.file_type` for a file without one: the most frequent type, marked as a guess.

    Source: the constructor of `llama_model_loader`; the first type to reach the highest count wins.
    """
    counts: dict[int, int] = {}
    most, winner = 0, GGML_TYPES[GGUFQuantType.F32]
    for type_ in types:
        counts[type_.id] = counts.get(type_.id, 0) + 1
        if counts[type_.id] > most:
            most, winner = counts[type_.id], type_
    return (winner.file_type or 0) | _GUESSED


_GUESSED = 1024
