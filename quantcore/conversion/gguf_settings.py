"""What a user wants of a conversion to GGUF, checked: the record, and the checks that only this conversion needs."""

import re
from dataclasses import dataclass
from typing import Any

from quantcore._base import arguments
from quantcore._base.patterns import compile_patterns
from quantcore._base.text import brief, quote
from quantcore.conversion.file_types import FileType
from quantcore.conversion.gguf_source import is_architecture
from quantcore.conversion.rules import TypeRules
from quantcore.conversion.splitting import SplitLimits
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.ggml.formats import supported_format
from quantcore.ggml.types import GGMLType
from quantcore.gguf.imatrix import Imatrix
from quantcore.gguf.layout import MAX_ELEMENTS
from quantcore.gguf.values import KeyValue


@dataclass(frozen=True, slots=True)
class GGUFSettings:
    """What becomes of a model; how it is written is in `ConversionOptions`.

    Attributes
    ----------
    file_type : FileType, optional
        The kind of file; None: every tensor is copied.
    rules : TypeRules
    arch : str, optional
        `general.architecture` of the output; None: the input's.
    keep_names : bool
        Keep the names of a checkpoint's tensors.
    allow_requantize : bool
        Accept tensors that are already quantized.
    overrides : tuple of KeyValue
        Metadata to set.
    pruned : frozenset of int
        The layers to leave out.
    matrix : Imatrix, optional
        The importance that is used.
    keep_split : bool
        Write the parts that the input has.
    limits : SplitLimits, optional
        Write parts within these limits.
    """

    file_type: FileType | None
    rules: TypeRules
    arch: str | None
    keep_names: bool
    allow_requantize: bool
    overrides: tuple[KeyValue, ...]
    pruned: frozenset[int]
    matrix: Imatrix | None
    keep_split: bool
    limits: SplitLimits | None

    @property
    def is_float(self) -> bool:
        """Whether tensors become floats."""
        return self.file_type is not None and not self.file_type.is_quantized


def check_split(keep_split: Any, max_size: int | None, max_tensors: int | None) -> SplitLimits | None:
    """The limits of the parts, if they are limited."""
    given = {"split_max_size": max_size, "split_max_tensors": max_tensors}
    names = [name for name, value in given.items() if value is not None]
    for name in names:
        arguments.integer(given[name], name, 1, MAX_ELEMENTS)
    names = [*(["keep_split"] if arguments.flag(keep_split, "keep_split") else []), *names]
    if len(names) > 1:
        raise InvalidValueError(f"{', '.join(names)}: only one of them decides the parts")
    return SplitLimits(max_tensors, max_size) if max_size is not None or max_tensors is not None else None


def check_tensor_types(tensor_types: Any) -> tuple[tuple[re.Pattern[str], GGMLType], ...]:
    """Pairs of a pattern of names and the type that it asks for."""
    try:
        pairs = [(pattern, chosen) for pattern, chosen in tensor_types]
    except Exception:  # whatever the object's own code raises
        raise InvalidTypeError(
            f"tensor_types: expected pairs of a regex and a type, got {brief(tensor_types)}"
        ) from None
    patterns = compile_patterns((pattern for pattern, _ in pairs), "tensor_types")
    types = [supported_format(chosen, "tensor_types") for _, chosen in pairs]
    return tuple(zip(patterns, types, strict=True))


def check_arch(arch: str | None) -> str | None:
    """None, or a name that may be one of an architecture."""
    if arch is not None and not is_architecture(arguments.text(arch, "arch")):
        raise InvalidValueError(f"arch: expected a name such as 'llama', got {quote(arch)}")
    return arch
