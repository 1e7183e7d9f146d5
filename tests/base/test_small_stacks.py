"""Kernels run in threads with the smallest stack there is, and in those that they start themselves."""

import pytest

from tests.support.levels import python

CODE = """
import sys, threading
import numpy as np
import quantcore as qc
from quantcore import Calibrator, QuantGranularity as G, QuantMode

values = np.random.default_rng(0).standard_normal((1 << 10, 1 << 10)).astype(sys.argv[2])  # enough for threads
narrow = values.reshape(-1, 64)
kinds = G(), G(axis=0), G(axis=1), G(group_size=64)
params = {g: qc.quantize_tensor(values, g, QuantMode.ASYMMETRIC).params for g in kinds}
blocks = {t: qc.quantize(values, t) for t in ("Q4_0", "Q8_0", "F16", "BF16")}
FAMILIES = {
    "blocks": [
        *(lambda t=t: qc.quantize(values, t, n_threads=2) for t in blocks),
        *(lambda t=t: qc.dequantize(blocks[t], t, dtype=np.float16, n_threads=2) for t in blocks),
    ],
    "nibbles": [
        *(lambda t=t: qc.dequantize_4bit(qc.quantize_4bit(values, quant_type=t, n_threads=2), n_threads=2)
          for t in ("int4", "nf4", "fp4")),
        *(lambda t=t, c=c: qc.dequantize_4bit_double(
            qc.quantize_4bit_double(values, quant_type=t, scale_code=c, n_threads=2), n_threads=2)
          for t in ("int4", "nf4") for c in ("linear", "dynamic")),
    ],
    "affine": [lambda g=g: qc.quantize_tensor(values, g, n_threads=2).dequantize(n_threads=2) for g in params],
    "fake quantization": [
        *(lambda p=p: qc.fake_quantize_with_params(values, p, n_threads=2) for p in params.values()),
        *(lambda p=p: qc.fake_quantize_backward(values, values, p, n_threads=2) for p in params.values()),
        *(lambda p=p: qc.lsq_backward(values, values, p, n_threads=2).dscale for p in params.values()),
    ],
    "errors": [
        *(lambda p=p: np.array(qc.analyze_error(values, p, n_threads=2).mse) for p in params.values()),
        lambda: np.array(qc.error_stats(values, values * 2, n_threads=2).mse),
    ],
    "histograms": [
        *(lambda m=m: np.array(getattr(Calibrator, m)().partial_fit(values, n_threads=2).compute().scale)
          for m in ("min_max", "percentile", "entropy", "mse")),
        lambda: Calibrator.percentile(axis=0).partial_fit(values[:64], n_threads=2).compute().scale,
        lambda: Calibrator.percentile(axis=1).partial_fit(narrow, n_threads=2).compute().scale,
        lambda: Calibrator.percentile(axis=1).partial_fit(narrow).merge(
            Calibrator.from_dict(Calibrator.percentile(axis=1).partial_fit(narrow * 3).to_dict())).compute().scale,
    ],
    "selection": [lambda: np.array(qc.calibrate_percentile(values, n_threads=2).clip_max)],
}
works = FAMILIES[sys.argv[1]]
expected = [work() for work in works]
found = []
threading.stack_size(32768)
thread = threading.Thread(target=lambda: found.extend(work() for work in works))
thread.start()
thread.join()
print(all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True)), len(found))
"""
FAMILIES = ("blocks", "nibbles", "affine", "fake quantization", "errors", "histograms", "selection")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_smallest_stack(family, dtype):
    child = python(CODE.replace("sys.argv[1]", repr(family)).replace("sys.argv[2]", repr(dtype)))
    assert (child.returncode, child.stderr) == (0, "")
    assert child.stdout.startswith("True ")


NO_THREAD = """
import resource, threading
import numpy as np
from quantcore import quantize  # Python's import itself may not fit into such a stack
values = np.ones(1 << 10, np.float32)
answers = []
def work():
    try:
        quantize(values, "Q4_0")
    except MemoryError as error:
        answers.append(str(error))
threading.stack_size(32768)
thread = threading.Thread(target=lambda: (start.wait(), work()))
start = threading.Event()
thread.start()
in_use = int(next(l for l in open("/proc/self/status") if l.startswith("VmSize:")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (in_use, in_use))  # no room for a stack of a megabyte
start.set()
thread.join()
print(answers)
"""


def test_no_thread_with_a_larger_stack_is_an_error_and_no_crash():
    child = python(NO_THREAD)
    assert (child.returncode, child.stderr) == (0, "")
    assert "the stack of this thread is too small" in child.stdout
