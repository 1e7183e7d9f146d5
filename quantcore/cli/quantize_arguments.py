"""The types of `quantize`'s arguments, with the words of llama-quantize."""

import argparse
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from quantcore._base.text import brief, quote
from quantcore.blockwise.codebooks import BITSANDBYTES_CODES
from quantcore.cli.arguments import natural, regex, supported_type
from quantcore.conversion.file_types import COPY, as_file_type
from quantcore.errors import FileFormatError, QuantcoreError
from quantcore.files.disk import InputFile

_MOST_FILE_BYTES = 1 << 24


@dataclass(frozen=True)
class OverrideFile:
    """A file of REGEX=TYPE, which is read when the command runs."""

    path: str

    def read(self) -> list[tuple[str, str]]:
        """Its pairs, in order."""
        with InputFile(self.path) as file:
            words = file.read_text(_MOST_FILE_BYTES).split()
            try:
                return [override(word) for word in words]
            except argparse.ArgumentTypeError as error:
                raise FileFormatError(f"{file.label}: {error}") from None


def override(text: str) -> tuple[str, str]:
    """Parse REGEX=TYPE. Like llama-quantize, it does not tell capitals in the pattern from small letters."""
    pattern, separator, chosen = text.rpartition("=")
    if not separator or not pattern:
        raise argparse.ArgumentTypeError(f"expected REGEX=TYPE, got {brief(text)}")
    pattern = regex(pattern)
    return pattern if pattern == pattern.lower() else f"(?i:{pattern})", supported_type(chosen)


def expand_overrides(given: Iterable[tuple[str, str] | OverrideFile]) -> list[tuple[str, str]]:
    """All pairs in order, those of files in their place."""
    pairs: list[tuple[str, str]] = []
    for item in given:
        pairs += item.read() if isinstance(item, OverrideFile) else [item]
    return pairs


def file_type_or_code(text: str) -> str:
    """A name of llama-quantize, COPY, or a 4-bit code of bitsandbytes."""
    if text.lower() in BITSANDBYTES_CODES:
        return text.lower()
    if text.upper() == COPY:
        return COPY
    try:
        return as_file_type(text, "TYPE", BITSANDBYTES_CODES).name
    except QuantcoreError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("TYPE: ")) from None


def layers(text: str) -> list[int]:
    """Parse N,N,..."""
    return [natural(part) for part in text.split(",")]


def key_value(text: str) -> tuple[str, int | float | bool | str]:
    """Parse KEY=TYPE:VALUE, where TYPE is int, float, bool or str."""
    key, separator, rest = text.partition("=")
    kind, colon, value = rest.partition(":")
    if not separator or not key or not colon or kind not in _KINDS:
        raise argparse.ArgumentTypeError(f"expected KEY=TYPE:VALUE with int, float, bool or str, got {brief(text)}")
    try:
        return key, _KINDS[kind](value)
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"{quote(key)}: {brief(value)} is no {kind}") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


_KINDS: dict[str, Callable[[str], int | float | bool | str]] = {
    "int": int,
    "float": _finite,
    "bool": lambda text: {"true": True, "false": False}[text],
    "str": str,
}
