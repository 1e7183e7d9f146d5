"""The command line: parses, calls the library, prints. Exit 0 done, 1 bad input or I/O, 2 usage, 3 quality gate.

`program` lists the commands in the order of a workflow. Each command has a function `add_COMMAND` that adds its parser
and names what runs it, in a module for one command or for a group of them (`quantize`, `show`). `arguments` holds what
several parsers share, `terminal` what several commands print.
"""

from quantcore.cli.entry import main

__all__ = ["main"]
