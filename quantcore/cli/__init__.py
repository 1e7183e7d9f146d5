"""The command line: parses, calls the library, prints. Exit 0 done, 1 bad input or I/O, 2 usage, 3 quality gate.

A module for each group of commands (`convert`, `calibrate`, `show`), which adds its parsers and runs them; `arguments`
holds what several parsers share, `terminal` what several commands print.
"""

from quantcore.cli.program import main

__all__ = ["main"]
