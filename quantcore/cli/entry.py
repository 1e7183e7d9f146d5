"""Where the command line begins: the program is imported only here, so that Ctrl-C meanwhile is answered as later."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Without arguments it prints the help and returns 0.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after the program's name; None: those of the process.
    """
    try:
        from quantcore.cli.program import run
    except KeyboardInterrupt:
        if sys.stderr is not None:
            print("quantcore: interrupted", file=sys.stderr)
        return 130
    return run(sys.argv[1:] if arguments is None else list(arguments))
