"""Sequences of public calls with hostile arguments; meant for a build with AddressSanitizer, but runs anywhere.

The arguments are those of ci/hostile_arguments.py. What calls return goes into a pool, from which later calls draw:
records, calibrators, states and mappings, also changed ones, pickles of all of them.

An error is raw, and a finding, if it is neither one of ours nor a MemoryError nor the operating system's; so is one of
ours with several lines. Memory that is touched out of bounds is for the sanitizer to see.

Usage: python -m ci.fuzz_calls [--calls 10000] [--seed 0] [--show 5] [--plant raw|overflow]
--plant has one call in a hundred misbehave, which must be found. Exit 0: no finding.
"""

import argparse
import contextlib
import copy
import ctypes
import inspect
import pickle
import resource
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

import quantcore
from ci.hostile_arguments import Arguments
from tests.support.valid_calls import INTERNAL, Files

# What computes for seconds.
LEFT_OUT = {
    "evaluate_formats", "run_full_benchmark_suite", "run_speed_benchmark", "suggest_model_types", "write_report",
}  # fmt: skip
# What works on files takes a hundred times as long as other calls, and gets a share of them that is small.
WITH_FILES = {
    "calibrate_files", "compare_models", "dequantize_checkpoint", "dequantize_model", "merge_model", "open_model",
    "quantize_checkpoint", "quantize_model", "split_model",
}  # fmt: skip
SHARE_WITH_FILES = 0.01
MOST_IN_POOL = 60
ADDRESS_SPACE = 8 << 30  # beyond what the process has at the start


def is_ours(kind: type, name: str) -> bool:
    """Whether a public attribute comes from quantcore, not from Python's own classes."""
    owner = next(base for base in kind.__mro__ if name in vars(base) or base is object)
    is_internal = f"{kind.__name__}.{name}" in INTERNAL
    return owner.__module__.startswith("quantcore") and not name.startswith("_") and not is_internal


def is_pythons(entry: Any) -> bool:
    """Whether it is Python that checks the call: errors, enumerations, named tuples."""
    return isinstance(entry, type) and issubclass(entry, (BaseException, Enum, tuple))


def is_handy(result: Any) -> bool:
    """Whether a result is a dictionary that takes no long time to copy, as one with a million scales does."""
    if not isinstance(result, dict) or not result:
        return False
    return not any(isinstance(value, list) and len(value) > 4096 for value in result.values())


class Fuzzer:
    """Calls from one seed, and what was wrong with them."""

    def __init__(self, seed: int, plant: str | None, files: Files) -> None:
        self.draw = Arguments(seed, files)
        self.plant = plant
        self.outcomes: Counter[str] = Counter()
        self.findings: dict[str, str] = {}
        called = {name: getattr(quantcore, name) for name in quantcore.__all__ if name not in LEFT_OUT | WITH_FILES}
        self.public = {name: entry for name, entry in called.items() if callable(entry) and not is_pythons(entry)}
        self.with_files = {name: getattr(quantcore, name) for name in sorted(WITH_FILES)}

    def target(self) -> tuple[str, Callable[..., Any]]:
        """A function, a constructor, a class method, or a method of something that was returned."""
        if self.draw.random.random() < SHARE_WITH_FILES:
            return self.draw.random.choice(list(self.with_files.items()))
        if self.draw.pool and self.draw.random.random() < 0.35:
            entry = self.draw.random.choice(self.draw.pool)
            kind = type(entry)
            names = [name for name in dir(kind) if is_ours(kind, name)]
            if names:
                name = self.draw.random.choice(names)
                member = getattr(kind, name)
                if (inspect.isfunction(member) or inspect.ismethod(member)) and callable(getattr(entry, name)):
                    return f"{kind.__name__}.{name}", getattr(entry, name)
                return f"{kind.__name__}.{name}", lambda: getattr(entry, name)
            return "pickle", lambda: pickle.loads(pickle.dumps(entry))
        name, entry = self.draw.random.choice(list(self.public.items()))
        if isinstance(entry, type) and self.draw.random.random() < 0.6:
            makers = [m for m in dir(entry) if is_ours(entry, m) and inspect.ismethod(getattr(entry, m))]
            if makers:
                maker = self.draw.random.choice(makers)
                return f"{name}.{maker}", getattr(entry, maker)
        return name, entry

    def look_at(self, result: Any) -> None:
        """What people do with whatever they get."""
        if type(result).__module__.startswith("quantcore") and not isinstance(result, tuple):
            way = self.draw.random.randint(0, 5)
            if way == 0:
                repr(result)
            elif way == 1:
                pickle.loads(pickle.dumps(result))
            elif way == 2:
                assert result == result
            elif way == 3:
                sys.getsizeof(result)
            elif way == 4:
                copy.deepcopy(result)
        keeps = type(result).__module__.startswith("quantcore") or is_handy(result)
        if keeps:
            self.draw.pool.append(result)
            if len(self.draw.pool) > MOST_IN_POOL:
                self.draw.pool.pop(self.draw.random.randrange(len(self.draw.pool)))

    def misbehave(self) -> None:
        """What has to be found: an error of somebody else, or a byte behind the end of an array."""
        if self.plant == "raw":
            raise KeyError("planted")
        array = np.zeros(64, np.uint8)
        ctypes.memset(array.ctypes.data, 1, 65 + 64)

    def call(self) -> None:
        name, function = self.target()
        if name == "set_num_threads":
            return
        try:
            positional, named = self.draw.for_call(function)
        except ValueError:  # no signature
            return
        if self.plant and self.draw.random.random() < 0.01:
            function, positional, named = self.misbehave, [], {}
        try:
            result = function(*positional, **named)
            self.look_at(result)
            outcome = "returned"
        except (quantcore.QuantcoreError, OSError) as error:
            outcome = "refused"
            if "\n" in str(error):
                self.find(name, error, "several lines")
        except (MemoryError, KeyboardInterrupt):
            outcome = "no memory"
        except Exception as error:
            outcome = "raw"
            self.find(name, error, "raw")
        self.outcomes[outcome] += 1

    def find(self, name: str, error: Exception, what: str) -> None:
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "quantcore" in frame.filename]
        where = f"{ours[-1].filename}:{ours[-1].lineno}" if ours else "the call"
        text = f"{what}: {name}: {type(error).__name__} from {where}"
        self.findings.setdefault(text, "".join(traceback.format_exception(error, limit=-6))[-3000:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=5, help="tracebacks")
    parser.add_argument("--plant", choices=("raw", "overflow"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    limit = resource.getrlimit(resource.RLIMIT_AS)[1]
    # A sanitizer reserves terabytes, and has a limit of its own.
    if "libasan" not in Path("/proc/self/maps").read_text():
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, limit))
    with tempfile.TemporaryDirectory(prefix="quantcore-") as folder, contextlib.chdir(folder):
        fuzzer = Fuzzer(options.seed, options.plant, Files(Path(folder)))
        while fuzzer.outcomes.total() < options.calls:
            fuzzer.call()
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(fuzzer.outcomes.items()))
    print(f"{options.calls} calls at {quantcore.isa()}: {outcomes}; {len(fuzzer.findings)} findings")
    for i, (finding, text) in enumerate(sorted(fuzzer.findings.items())):
        print(finding if i >= options.show else f"{finding}\n{text}")
    return 1 if fuzzer.findings else 0


if __name__ == "__main__":
    sys.exit(main())
