"""The commands and flags that the parsers know, as records: for completion in shells, and for the reference."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from quantcore.blockwise.codebooks import BITSANDBYTES_CODES
from quantcore.cli.arguments import FLOAT_TYPES, float_type, supported_type
from quantcore.cli.quantize_arguments import file_type_or_code
from quantcore.conversion.file_types import COPY, FILE_TYPES
from quantcore.ggml import SUPPORTED_TYPES

_WORDS_OF: dict[Callable[[str], Any], tuple[str, ...]] = {
    file_type_or_code: (*FILE_TYPES, COPY, *BITSANDBYTES_CODES),
    float_type: FLOAT_TYPES,
    supported_type: tuple(t.name for t in SUPPORTED_TYPES),
}
"""The words that an argument of a type may be, where it does not list them itself."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag: its spellings, what it does, the name of its value and the words that this may be (none: any)."""

    names: tuple[str, ...]
    help: str
    takes_value: bool
    metavar: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Command:
    """A command: the words that call it ("" for the program, "imatrix show" for one within another), and what it takes.

    `children` are the commands within it, `words` those that its other arguments may be; `takes_files` says whether
    some of these are names of files.
    """

    name: str
    help: str
    flags: tuple[Flag, ...]
    children: tuple[str, ...]
    words: tuple[str, ...]
    takes_files: bool


def walk(commands: Any) -> Iterator[Command]:
    """The program, then its commands, each before those within it; `commands` is the program's action of subparsers."""
    version = Flag(("--version",), "show the version and exit", False, "", ())
    yield Command("", "", (_HELP, version), tuple(commands.choices), (), False)
    yield from _walk_within("", commands)


def _walk_within(parent: str, commands: Any) -> Iterator[Command]:
    about = {action.dest: action.help or "" for action in commands._choices_actions}
    for name, parser in commands.choices.items():
        path = f"{parent} {name}".strip()
        inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        plain = [a for a in parser._actions if not a.option_strings and a not in inner]
        yield Command(
            path,
            about[name],
            tuple(_flag(action) for action in parser._actions if action.option_strings),
            tuple(child for action in inner for child in action.choices),
            tuple(word for action in plain for word in _words(action)),
            not all(map(_words, plain)),
        )
        for action in inner:
            yield from _walk_within(path, action)


def _flag(action: argparse.Action) -> Flag:
    if isinstance(action, argparse._HelpAction):
        return _HELP
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    text = (action.help or "") % {"default": action.default, "prog": ""} if action.help else ""
    return Flag(tuple(action.option_strings), text, action.nargs != 0, metavar, tuple(_words(action)))


def _words(action: argparse.Action) -> tuple[str, ...]:
    if action.choices is not None:
        return tuple(map(str, action.choices))
    return _WORDS_OF.get(action.type, ()) if callable(action.type) else ()


_HELP = Flag(("-h", "--help"), "show the help and exit", False, "", ())
