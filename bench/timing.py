"""Contenders timed in turns, so that a noisy machine is noisy for all of them."""

from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter
from typing import TypeVar

from bench.work import Call

Name = TypeVar("Name")


def interleaved(
    calls: Mapping[Name, Call], rounds: int, repeats: int = 1, clock: Callable[[], float] = perf_counter
) -> dict[Name, float]:
    """Median seconds of one call of each contender: in every round each has its turn of `repeats` calls.

    One turn before the rounds warms up. `process_time` as the clock counts what this process computes, whoever else
    uses the machine: for one thread.
    """
    times: dict[Name, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = clock()
            for _ in range(repeats):
                call()
            times[name].append((clock() - start) / repeats)
    return {name: median(values[1:]) for name, values in times.items()}
