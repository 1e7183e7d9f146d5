"""The parser, the arguments that several commands have, and the types of arguments."""

import argparse
import math
import re
from typing import NoReturn

from quantcore.codebooks import check_block_size
from quantcore.errors import QuantcoreError
from quantcore.formats import supported_format
from quantcore.tables import printable

PROGRAM = "quantcore"
CODES = ("nf4", "fp4")
_MOST_DIGITS = 30


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; exit 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{PROGRAM}: error: {printable(message)} ({self.prog} --help shows the usage)\n")


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add what every command has that reads much and writes a file."""
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    add_reading(parser)


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add what every command has that reads much."""
    parser.add_argument(
        "-j", "--threads", metavar="N", type=positive, help="threads (default: the CPUs of this process)"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")


def override(text: str) -> tuple[str, str]:
    """REGEX=TYPE."""
    pattern, separator, chosen = text.rpartition("=")
    if not separator or not pattern:
        raise argparse.ArgumentTypeError(f"expected REGEX=TYPE, got {text!r}")
    return regex(pattern), supported_type(chosen)


def regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression ({error})") from None
    return text


def type_or_code(text: str) -> str:
    return text.lower() if text.lower() in CODES else supported_type(text)


def block_size(text: str) -> int:
    size = positive(text)
    try:
        return check_block_size(size, "N")
    except QuantcoreError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text!r}")
    return int(text)


def natural(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _MOST_DIGITS:
        raise argparse.ArgumentTypeError(f"expected an integer >= 0, got {text[:80]!r}")
    return int(text)


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}")
    return value


def supported_type(text: str) -> str:
    try:
        return supported_format(text, "TYPE").name
    except QuantcoreError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
