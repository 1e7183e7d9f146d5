"""The reference of the command line in docs/reference/cli.md, made from the parsers.

Usage: python -m ci.cli_reference [--check]   (--check: exit 1 if the document says something else)
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from ci.document_part import DocumentPart
from quantcore.cli.program import EXIT_CODES, _make_parser

DOCUMENT = Path(__file__).parents[1] / "docs" / "reference" / "cli.md"


def commands_of(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of the commands, each before those within it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield command
                yield from commands_of(command)


def value(action: argparse.Action) -> str:
    """What stands for the value of an argument, "" for a flag without one."""
    if action.nargs == 0:
        return ""
    if action.choices is not None and action.metavar is None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return str(action.metavar or (action.dest.upper() if action.option_strings else action.dest))


def row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """An argument or flag with its help."""
    names = [f"{name} {value(action)}".strip() for name in action.option_strings] or [value(action)]
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    cells = ", ".join(f"`{name}`" for name in names), text
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"


def section(parser: argparse.ArgumentParser) -> list[str]:
    """A command: what it does, its arguments and flags, its example."""
    actions = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    inner = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
    plain = [action for action in actions if action not in inner and not isinstance(action, argparse._HelpAction)]
    lines = [f"{'#' * len(parser.prog.split())} {parser.prog}", "", parser.description or "", ""]
    if plain:
        arguments = sorted(plain, key=lambda action: bool(action.option_strings))
        lines += ["| argument | |", "|---|---|", *(row(parser, action) for action in arguments), ""]
    if parser.epilog and not inner:
        example = parser.epilog.partition("example:\n")[2]
        lines += ["```text", *(line.strip() for line in example.splitlines()), "```", ""]
    return lines


def part() -> str:
    lines = [f"{EXIT_CODES[0].upper()}{EXIT_CODES[1:]}. `-h` and `--help` show the help of a command.", ""]
    for parser in commands_of(_make_parser()[0]):
        lines += section(parser)
    return "\n".join(["", *lines]).rstrip("\n") + "\n"


PART = DocumentPart(DOCUMENT, "ci.cli_reference", part)

if __name__ == "__main__":
    sys.exit(PART.main(__doc__.split("\n")[0]))
