"""The parser, arguments that several commands share, and the types of arguments."""

import argparse
import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

from quantcore._base.arguments import choice
from quantcore._base.extras import EXTRAS, install_hint
from quantcore._base.patterns import compile_pattern
from quantcore._base.text import brief, did_you_mean, nearest, printable
from quantcore.blockwise.codebooks import check_block_size
from quantcore.errors import QuantcoreError
from quantcore.ggml.formats import supported_format

PROGRAM = "quantcore"
MAKE_DIGITS = f"{PROGRAM} demo -o digits"
"""The first line of the examples that need models."""
FLOAT_TYPES = ("F32", "F16", "BF16")
STDOUT = "-"
"""What stands for standard output where a command can write to it."""
_MOST_DIGITS = 30
_FLAG = re.compile(r"--?[A-Za-z][\w-]*")
# argparse's messages
_MISSING = re.compile(r"^(the following arguments are|one of the arguments .* is) required")
_GLUED = "ignored explicit argument"
_CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)")
_UNITS = {"K": 10**3, "M": 10**6, "G": 10**9}


class Parser(argparse.ArgumentParser):
    """Reports a usage error in one line, with a suggestion for a mistyped flag, and exits with 2.

    Flags are written out: `--output` would otherwise be one of `quantize` that begins so. The help keeps the lines of
    the example at its end.
    """

    too_many = ""
    """What to say of more arguments than the command takes."""

    def __init__(self, **options: Any) -> None:
        keep_lines = partial(argparse.RawDescriptionHelpFormatter, max_help_position=28)
        super().__init__(formatter_class=keep_lines, allow_abbrev=False, **options)
        self._is_inner = False  # within a call of `parse_known_args`
        self._words: Sequence[str] = ()

    def parse_known_args(  # type: ignore[override] # only this form is called
        self, args: Sequence[str], namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse, but a parser refuses what it does not know itself, so that the refusal knows its flags.

        Flags may stand between the other arguments, also where one of those may be left out.
        """
        self._words = args
        if self._is_inner or self._subparsers is not None:
            options, unknown = super().parse_known_args(args, namespace)
            if not self._is_inner:
                self._refuse(unknown)
        else:
            self._is_inner = True
            options, unknown = self.parse_known_intermixed_args(args, namespace)
            self._is_inner = False
            self._refuse(unknown)
        return options, unknown

    def error(self, message: str) -> NoReturn:
        if _MISSING.search(message) or _GLUED in message:
            self._refuse(self._unknown_flags())  # the likely cause
        refused = _CHOICE.search(message)
        hint = did_you_mean(refused[1], re.findall(r"'([^']*)'", refused[2])) if refused else ""
        self._stop(f"{message}{hint}")

    def _refuse(self, unknown: Sequence[str]) -> None:
        if unknown:
            self._stop(f"unrecognized arguments: {' '.join(unknown)}{self._hint(unknown)}")

    def _stop(self, message: str) -> NoReturn:
        self.exit(2, f"{PROGRAM}: error: {printable(message)} ({self.prog} --help shows the usage)\n")

    def _unknown_flags(self) -> list[str]:
        words = list(self._words)
        words = words[: words.index("--")] if "--" in words else words
        return [
            word
            for word in words
            if _FLAG.fullmatch(word.partition("=")[0]) and not self._knows(word.partition("=")[0])
        ]

    def _knows(self, flag: str) -> bool:
        """Whether it is a flag, or a letter with its value: `-j4`."""
        action = self._option_string_actions.get(flag if flag.startswith("--") else flag[:2])
        return action is not None and (flag in action.option_strings or action.nargs != 0)

    def _hint(self, unknown: Sequence[str]) -> str:
        """What may have been meant by arguments that are not known."""
        names = [word.partition("=")[0].lstrip("-") for word in unknown if word.startswith("-")]
        flags = {flag.removeprefix("--"): flag for flag in self._option_string_actions if flag.startswith("--")}
        for name in names:
            for action in self._positionals._group_actions if self._subparsers is None else ():
                if name in (action.dest, str(action.metavar).lower(), action.dest[0]):
                    return f"; {action.metavar} is given without a flag"
            if found := nearest(name, flags):
                return f"; did you mean {flags[found]}?"
        if names:
            return "; the flags of a command stand after its name" if self._subparsers is not None else ""
        return self.too_many


def add_parser(commands: Any, name: str, what: str, *example: str) -> Parser:
    """Add the parser of a command. Its help ends with the example: commands that run as they stand in any folder."""
    lines = "".join(f"\n  {line}" for line in example)
    parser: Parser = commands.add_parser(
        name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=f"example:{lines}"
    )
    return parser


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of every command that reads large files and writes one."""
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    add_reading(parser)


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of every command that reads large files."""
    parser.add_argument(
        "-j", "--threads", metavar="N", type=positive, help="threads (default: the CPUs of this process)"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--no-progress",
        action="store_true",
        help=f"no progress bar (the bar needs tqdm: {install_hint(EXTRAS['tqdm'])})",
    )


def regex(text: str) -> str:
    try:
        compile_pattern(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{brief(text)} is not a regular expression ({error})") from None
    return text


def output_file(text: str) -> str:
    """An output that is written at positions, so that it cannot be stdout."""
    if text == STDOUT:
        raise argparse.ArgumentTypeError("only a file can be written, not stdout; ./- is a file of this name")
    return text


def block_size(text: str) -> int:
    size = positive(text)
    try:
        return check_block_size(size, "N")
    except QuantcoreError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _MOST_DIGITS or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {brief(text)}")
    return int(text)


def natural(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _MOST_DIGITS:
        raise argparse.ArgumentTypeError(f"expected an integer >= 0, got {brief(text)}")
    return int(text)


def file_size(text: str) -> int:
    """Parse N, NK, NM or NG: bytes, thousands, millions or billions of them, as llama.cpp counts."""
    digits, unit = (text[:-1], text[-1:].upper()) if text[-1:].upper() in _UNITS else (text, "")
    if not digits.isascii() or not digits.isdigit() or len(digits) > _MOST_DIGITS or int(digits) < 1:
        raise argparse.ArgumentTypeError(f"expected bytes such as 500M or 2G, got {brief(text)}")
    return int(digits) * _UNITS.get(unit, 1)


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, got {brief(text)}")
    return value


def float_type(text: str) -> str:
    try:
        return choice(text, "TYPE", FLOAT_TYPES)
    except QuantcoreError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("TYPE: ")) from None


def supported_type(text: str) -> str:
    try:
        return supported_format(text, "TYPE").name
    except QuantcoreError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
