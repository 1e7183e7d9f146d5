"""What a command writes to the terminal: JSON, one line for an error, a progress bar."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from quantcore.cli.arguments import PROGRAM
from quantcore.errors import QuantcoreError
from quantcore.tables import json_value, printable


@contextlib.contextmanager
def progress_bar(options: argparse.Namespace, what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal's stderr, if tqdm is installed."""
    if options.no_progress or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield None
        return
    with tqdm(desc=what, unit="B", unit_scale=True, unit_divisor=1024, file=sys.stderr, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def print_json(value: Any) -> None:
    print(json.dumps(json_value(value), indent=1, allow_nan=False))


def message(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"out of memory ({error})" if str(error) else "out of memory"
    if isinstance(error, OSError) and not isinstance(error, QuantcoreError) and error.strerror:
        return f"{os.fspath(error.filename)}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def say(text: str) -> None:
    if sys.stderr is not None:
        print(f"{PROGRAM}: {printable(' '.join(text.splitlines()))}", file=sys.stderr)


def flush_stdout() -> None:
    """Flush now, where a full disk or a closed pipe can be reported, and keep Python from trying again when it ends."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        raise
