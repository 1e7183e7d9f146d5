"""Threads: Ctrl-C is answered, a forked child works, concurrent callers do not mix, 2**31 elements are no limit."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import quantcore
from quantcore import InvalidValueError, _kernels, dequantize, quantize
from tests.support.marks import slow_but_first
from tests.support.parallel_programs import FORKED, HUGE, INTERRUPTED, INTERRUPTED_CALLS

VARIABLES = os.environ | {"PYTHONPATH": str(Path(quantcore.__file__).parents[1])}
ROWS = np.random.default_rng(5).standard_normal((1 << 15, 64), dtype=np.float32)  # 8 MiB: several chunks


@contextmanager
def python(code: str) -> Iterator[subprocess.Popen[str]]:
    """Code running in a new interpreter."""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=VARIABLES) as child:
        try:
            yield child
        finally:
            child.kill()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs signals of timers")
@pytest.mark.parametrize("n_threads", slow_but_first([2, 1, 64]))
@pytest.mark.parametrize("call", slow_but_first(INTERRUPTED_CALLS), ids=["quantize", "dequantize"])
def test_ctrl_c(call, n_threads):
    """The call ends at once, leaves the rest undone, and nothing is written after it; the next call works."""
    with python(INTERRUPTED.format(call=call, out=INTERRUPTED_CALLS[call], n_threads=n_threads)) as child:
        out, errors = child.communicate(timeout=60)
    assert errors == ""
    seconds, is_undone, is_quiet, last = out.split()
    print(f"KeyboardInterrupt after {float(seconds):.3f} s")  # promised: 0.2 s after the signal
    assert (is_undone, is_quiet, last) == ("True", "True", "127")
    assert float(seconds) < 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_works():
    with python(FORKED.format(n_children=2)) as child:
        out, errors = child.communicate(timeout=60)
    assert (out.splitlines(), errors, child.returncode) == (["[0, 0]", "True", "True"], "", 0)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_concurrent_callers(n_threads):
    expected = {name: quantize(ROWS, name).tobytes() for name in ("Q4_0", "Q8_0", "BF16")}
    decoded = dequantize(quantize(ROWS, "Q8_0"), "Q8_0").tobytes()

    def work(i: int) -> bool:
        name = ("Q4_0", "Q8_0", "BF16")[i % 3]
        data = quantize(ROWS, name, n_threads=n_threads)
        is_right = data.tobytes() == expected[name]
        return is_right and (name != "Q8_0" or dequantize(data, name, n_threads=n_threads).tobytes() == decoded)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(48)))


def test_concurrent_errors_stay_apart():
    def work(i: int) -> str:
        values = ROWS.copy()
        values[i, 3] = np.nan
        with pytest.raises(InvalidValueError) as error:
            quantize(values, "Q4_0", n_threads=2)
        return str(error.value)

    with ThreadPoolExecutor(4) as pool:
        rows = range(0, len(ROWS), len(ROWS) // 16)
        assert list(pool.map(work, rows)) == [
            f"values: must be finite, got nan at flat index {64 * i + 3} (row {i}, column 3)" for i in rows
        ]


def runs_meanwhile(call: Callable[[], object]) -> bool:
    """Whether another Python thread runs during a call."""
    begin, ran = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: begin.wait() and ran.set())
    interval = sys.getswitchinterval()
    thread.start()
    sys.setswitchinterval(60)
    try:
        begin.set()
        call()
        return ran.is_set()
    finally:
        sys.setswitchinterval(interval)
        thread.join()


@pytest.mark.skipif(not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="there is no GIL")
def test_kernels_release_the_gil():
    values = np.ones(1 << 23, np.float32).view(np.uint8)
    data = np.zeros((1 << 18) * 34, np.uint8)
    decoded = np.zeros_like(values)
    kernels = _kernels.QuantizeBlocks(8, values, 0, data), _kernels.DequantizeBlocks(8, data, decoded, 0)
    for kernel in kernels:

        def call(kernel=kernel):
            kernel.hand_out(1 << 18, 1 << 18)
            kernel.run(1)

        assert any(runs_meanwhile(call) for _ in range(2000))  # a busy machine may not wake the thread in time
    assert decoded[-4:].view(np.float32) == pytest.approx(1, rel=1e-3)


def test_arrays_are_let_go_at_once():
    """A thread that is about to end holds no array of the caller, which may be resized, unmapped or freed."""
    for _ in range(50):  # without letting go, it is held after most calls
        memory = bytearray(ROWS.nbytes)
        data = quantize(np.frombuffer(memory, np.float32), "Q8_0", n_threads=2)
        memory.append(0)
        data.resize(0)


def test_a_kernel_holds_as_many_arrays_as_it_has_room_for():
    data = np.zeros(34, np.uint8)
    kernel = _kernels.QuantizeBlocks(8, np.zeros(32, np.float32), 0, data)
    with pytest.raises(RuntimeError, match="second time"):
        for _ in range(9):
            kernel.__init__(8, np.zeros(32, np.float32), 0, data)
    kernel.let_go()
    kernel.hand_out(1, 1)
    kernel.run(1)  # nothing: there are no arrays any more
    data.resize(0)


def available_memory() -> int:
    """The bytes that Linux says a process could allocate; 0 on other systems."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))


@pytest.mark.slow
@pytest.mark.may_skip
@pytest.mark.skipif(available_memory() < 6 << 30, reason="needs 6 GB of memory")
def test_more_than_2_to_the_31_elements():
    with python(HUGE) as child:
        out, errors = child.communicate(timeout=120)
    assert not errors
    message, peak = out.splitlines()
    assert message == f"values: must be finite, got nan at flat index {2**31 + 40}"
    assert int(peak) << 10 < 1.6 * 2**30


def test_the_number_of_threads_may_be_any_integer():
    class Two:
        def __index__(self) -> int:
            return 2

    values = np.ones((1 << 10, 1 << 12), np.float32)
    assert np.array_equal(quantize(values, "Q8_0", n_threads=Two()), quantize(values, "Q8_0", n_threads=1))
