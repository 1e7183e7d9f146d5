"""No thread to be had, an interpreter that shuts down, settings that are no numbers, a torch that is half imported."""

import _thread
import threading
import types

import numpy as np
import pytest

import quantcore as qc
from quantcore._base import parallel
from tests.support.levels import python
from tests.support.models import Tensor, write_gguf

ROWS = np.random.default_rng(5).standard_normal((1 << 15, 64), dtype=np.float32)  # 8 MiB: several chunks
EXPECTED = qc.quantize(ROWS, "Q8_0", n_threads=1)


@pytest.mark.parametrize("n_threads", [2, 64])  # 64: more than there are CPUs, where threads are started another way
@pytest.mark.parametrize("n_started", [0, 1])
def test_no_more_threads(monkeypatch, n_threads, n_started):
    left = [n_started]

    def start(start, *arguments):
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        return start(*arguments)

    own, other = _thread.start_new_thread, threading.Thread.start
    monkeypatch.setattr(_thread, "start_new_thread", lambda *arguments: start(own, *arguments))
    monkeypatch.setattr(threading.Thread, "start", lambda thread: start(other, thread))
    np.testing.assert_array_equal(qc.quantize(ROWS, "Q8_0", n_threads=n_threads), EXPECTED)
    assert left == [0]
    assert qc.calibrate_percentile(ROWS, n_threads=n_threads) == qc.calibrate_percentile(ROWS, n_threads=1)


LIMITED = """
import resource, threading
import numpy as np, quantcore as qc
values = np.ones((1 << 15, 64), np.float32)
expected = qc.quantize(values, "Q4_0", n_threads=1)
threading.stack_size(1 << 30)  # no thread fits
in_use = int(next(l for l in open("/proc/self/status") if l.startswith("VmSize:")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (in_use + (1 << 28), in_use + (1 << 28)))
try:
    threading.Thread(target=print).start()
except RuntimeError as error:
    print(error)
print(np.array_equal(qc.quantize(values, "Q4_0", n_threads=4), expected))
"""


def test_a_system_without_another_thread():
    child = python(LIMITED)
    assert (child.stdout.splitlines(), child.stderr) == (["can't start new thread", "True"], "")


AT_THE_END = """
import atexit, sys, threading
import numpy as np, quantcore as qc
values = np.ones((1 << 15, 64), np.float32)
expected = qc.quantize(values, "Q4_0", n_threads=1)

def work(name, n_threads):
    print(name, n_threads, np.array_equal(qc.quantize(values, "Q4_0", n_threads=n_threads), expected), flush=True)

class Late:
    def __del__(self, work=work):
        work("finalizing" if sys.is_finalizing() else "too early", 2)
        work("finalizing" if sys.is_finalizing() else "too early", 64)

def wait_for_the_end():
    threading.main_thread().join()
    work("thread", 2)
    work("thread", 64)

atexit.register(work, "atexit", 2)
atexit.register(work, "atexit", 64)
threading.Thread(target=wait_for_the_end).start()
_kept = Late()  # an underscore: taken down before what it needs
"""


def test_calls_while_the_interpreter_shuts_down():
    child = python(AT_THE_END)
    assert (child.stderr, child.returncode) == ("", 0)
    lines = child.stdout.splitlines()
    assert sorted(lines) == sorted(f"{where} {n} True" for where in ("thread", "atexit", "finalizing") for n in (2, 64))


MODEL_AT_THE_END = """
import atexit, os, threading
from pathlib import Path
from quantcore.conversion import quantize_model
folder = Path(os.environ["FOLDER"])
source = folder / "in.gguf"
quantize_model(source, folder / "expected.gguf", "Q8_0")

def work(name):
    target = folder / f"{name}.gguf"
    quantize_model(source, target, "Q8_0", n_threads=4)
    print(name, target.read_bytes() == (folder / "expected.gguf").read_bytes(), flush=True)

def wait_for_the_end():
    threading.main_thread().join()
    work("thread")

atexit.register(work, "atexit")
threading.Thread(target=wait_for_the_end).start()
"""


@pytest.mark.slow
def test_models_while_the_interpreter_shuts_down(tmp_path):
    write_gguf(tmp_path / "in.gguf", [Tensor("a.weight", ROWS)])
    child = python(MODEL_AT_THE_END, FOLDER=str(tmp_path))
    assert (child.stderr, child.returncode) == ("", 0)
    assert sorted(child.stdout.splitlines()) == ["atexit True", "thread True"]


@pytest.mark.parametrize("setting", ["9" * 5000, "1" + "0" * 19, "0", "-1", "two", "²", "1.5"])
def test_settings_of_threads_that_are_refused(monkeypatch, setting):
    monkeypatch.setenv("QUANTCORE_NUM_THREADS", setting)
    monkeypatch.setattr(parallel, "_num_threads", None)
    with pytest.raises(qc.InvalidValueError, match=r"^QUANTCORE_NUM_THREADS: expected an integer >= 1, got ") as error:
        qc.get_num_threads()
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("program", ["-m quantcore --version", "-W ignore -m quantcore inspect x"])
@pytest.mark.parametrize("level", ["foo", "x" * 5000])
def test_a_wrong_level_is_one_line_on_the_command_line(program, level):
    code = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, *{program.split()!r}]))"
    child = python(code, QUANTCORE_ISA=level)
    assert (child.returncode, child.stdout) == (1, "")
    assert child.stderr.startswith(f"quantcore: error: QUANTCORE_ISA='{level[:80]}") and child.stderr.count("\n") == 1
    assert len(child.stderr) < 300


def half_imported() -> types.ModuleType:
    module = types.ModuleType("torch")
    module.__getattr__ = lambda name: 1 / 0  # type: ignore[method-assign]
    return module


STUBS = {
    "without Tensor": types.ModuleType("torch"),
    "raising": half_imported(),
    "Tensor is no class": types.SimpleNamespace(Tensor="a tensor"),
    "Tensor is everything": types.SimpleNamespace(Tensor=object),
}


@pytest.mark.parametrize("stub", STUBS.values(), ids=STUBS)
def test_another_thread_imports_torch_or_a_stub_stands_in_for_it(monkeypatch, stub):
    monkeypatch.setitem(__import__("sys").modules, "torch", stub)
    q = qc.quantize_4bit(ROWS[:4], quant_type="nf4")
    np.testing.assert_array_equal(qc.quantize(ROWS[:4], "Q8_0"), EXPECTED[:4])
    np.testing.assert_array_equal(
        qc.quantize(ROWS[:4].astype(np.float16), "F16").view(np.float16), ROWS[:4].astype("e")
    )
    if stub is STUBS["Tensor is everything"]:
        with pytest.raises(qc.InvalidTypeError, match=r"^values: "):
            qc.quantize([[1.0] * 32], "Q8_0")
    else:
        assert qc.quantize(memoryview(ROWS[:4]), "Q8_0").shape == (4, 68)
        assert qc.from_bitsandbytes(q.to_bitsandbytes()) == q
