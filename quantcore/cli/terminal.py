"""Output of commands: JSON, one-line errors, a progress bar."""

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from quantcore._base.text import json_value, shorten
from quantcore.cli.arguments import PROGRAM
from quantcore.errors import QuantcoreError
from quantcore.files.paths import naming

_STDOUT = "standard output"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_FILE_SUFFIXES = (".gguf", ".safetensors", ".json", ".npy", ".npz", ".parquet", ".zip", ".dat")

_LONGEST_LINE = 4000  # names are cut where a message is made; this is for those that come from elsewhere, such as paths


@contextlib.contextmanager
def progress_bar(options: argparse.Namespace, what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on stderr, if that is a terminal and tqdm is installed."""
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


def show(text: str, *, end: str = "\n") -> None:
    """Print on stdout; what its encoding lacks is escaped, since the work is done by then."""
    if sys.stdout is None:
        return
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with naming(_STDOUT):
        print(text.encode(encoding, "backslashreplace").decode(encoding), end=end)


def print_json(value: Any) -> None:
    show(json.dumps(json_value(value), indent=1, allow_nan=False))


def message(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"out of memory ({error})" if str(error) else "out of memory"
    if isinstance(error, OSError) and not isinstance(error, QuantcoreError) and error.strerror:
        hint = _hub_hint(error.filename) if isinstance(error, FileNotFoundError) else ""
        return f"{os.fspath(error.filename)}: {error.strerror}{hint}" if error.filename else error.strerror
    return str(error)


def _hub_hint(path: object) -> str:
    """What to do with a name of the Hugging Face hub, OWNER/MODEL, where a path is wanted."""
    if not isinstance(path, str) or not _HUB_NAME.fullmatch(path) or path.endswith(_FILE_SUFFIXES):
        return ""
    if os.path.isdir(os.path.dirname(path)):
        return ""
    return f"; if it is a model on the Hugging Face hub: hf download {path} --local-dir FOLDER"


def say(text: str) -> None:
    if sys.stderr is not None:
        line = shorten(" ".join(text.splitlines()), _LONGEST_LINE)
        print(f"{PROGRAM}: {line}", file=sys.stderr)


def flush_stdout() -> None:
    """Flush now, where a full disk or a closed pipe can be reported, and keep Python from trying again when it ends."""
    if sys.stdout is None:
        return
    try:
        with naming(_STDOUT):
            sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        raise
