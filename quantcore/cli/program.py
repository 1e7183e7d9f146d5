"""The program: all commands under one parser, and their errors as messages and exit codes."""

from collections.abc import Sequence

from quantcore import __version__, isa
from quantcore._base.text import did_you_mean
from quantcore.cli.arguments import PROGRAM, Parser
from quantcore.cli.bench import add_bench
from quantcore.cli.calibrate import add_calibrate
from quantcore.cli.compare import add_compare
from quantcore.cli.completion import add_completion
from quantcore.cli.dequantize import add_dequantize
from quantcore.cli.doctor import add_doctor
from quantcore.cli.imatrix import add_imatrix
from quantcore.cli.quantize import add_quantize
from quantcore.cli.report import add_report
from quantcore.cli.show import add_demo, add_inspect
from quantcore.cli.split import add_merge, add_split
from quantcore.cli.suggest import add_suggest
from quantcore.cli.terminal import flush_stdout, message, say
from quantcore.errors import QuantcoreError

# In the order of a workflow: look, choose types, quantize, judge, go back; then activations, and what needs no model.
COMMANDS = (
    add_inspect,
    add_suggest,
    add_quantize,
    add_compare,
    add_report,
    add_dequantize,
    add_split,
    add_merge,
    add_imatrix,
    add_calibrate,
    add_bench,
    add_demo,
    add_doctor,
    add_completion,
)
EXIT_CODES = "exit codes: 0 done, 1 bad input or I/O, 2 usage, 3 quality gate failed"


def run(words: Sequence[str]) -> int:
    """Run the command line on the words after the program's name; returns the exit code."""
    try:
        try:
            parser, commands = _make_parser()
            if not words:
                parser.print_help()
                return 0
            if not words[0].startswith("-") and words[0] not in commands:
                hint = did_you_mean(words[0], commands) or f"; the commands are {', '.join(commands)}"
                parser.error(f"unknown command {words[0]!r}{hint}")
            options = parser.parse_args(words)
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


def _make_parser() -> tuple[Parser, list[str]]:
    """The parser and the names of its commands."""
    parser = Parser(
        prog=PROGRAM,
        description="Quantize models on the CPU: the same bytes as llama-quantize, faster.",
        epilog=f"{EXIT_CODES}\n\nexample:\n  {PROGRAM} demo",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__} ({isa()})")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    return parser, list(commands.choices)
