"""The program: all commands under one parser, and what becomes of the errors they raise."""

from collections.abc import Sequence

from quantcore import __version__, isa
from quantcore.cli import bench, calibrate, compare, convert, report, show, suggest
from quantcore.cli.arguments import PROGRAM, Parser
from quantcore.cli.terminal import flush_stdout, message, say
from quantcore.errors import QuantcoreError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        try:
            options = _parser().parse_args(arguments)
            return int(options.command(options))
        finally:
            flush_stdout()
    except BrokenPipeError:
        return 1
    except (QuantcoreError, OSError, MemoryError) as error:
        say(f"error: {message(error)}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description="Quantize models on the CPU: the same bytes as llama-quantize, faster.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__} ({isa()})")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for group in (convert, calibrate, compare, report, suggest, bench, show):
        group.add_commands(commands)
    return parser
