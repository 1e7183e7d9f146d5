"""Calibration needs memory for its bins, not for the data: streams far larger than the limit, in a child process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import quantcore

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(quantcore.__file__).parents[1])}
MIB = 2**20

# Prints by how many KiB the peak memory grows beyond that of importing and one small batch.
MEASURED = """
import sys
import numpy as np
from quantcore import Calibrator
from quantcore.calibration.files import calibrate_files

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM:")).split()[1])

Calibrator.percentile(axis=0).observe(np.ones((2, 50), np.float32))
before = peak()
exec(sys.argv[1])
print(peak() - before)
"""


def growth(program: str) -> int:
    """Bytes."""
    command = [sys.executable, "-P", "-c", MEASURED, program]
    child = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert (child.returncode, child.stderr) == (0, "")
    return 1024 * int(child.stdout)


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' figure of the peak memory")


@pytest.mark.slow
@pytest.mark.may_skip
@needs_proc
@pytest.mark.parametrize("method", ["min_max", "percentile"])
def test_two_hundred_million_values(method):
    program = f"""
batch = np.random.default_rng(0).standard_normal(10_000_000, np.float32)
calibrator = Calibrator.{method}()
for i in range(20):
    calibrator.observe(batch)
result = calibrator.compute()
assert (calibrator.num_batches, result.observed_max) == (20, batch.max())
"""
    assert growth(program) < 100_000_000


@pytest.mark.may_skip
@needs_proc
def test_histograms_of_many_channels():
    """Little more than 16 KiB per channel."""
    program = """
batch = np.random.default_rng(0).standard_normal((4096, 256), np.float32)
calibrator = Calibrator.percentile(axis=0)
for i in range(6):
    calibrator.observe(batch)
assert calibrator.compute().scale.shape == (4096,)
"""
    assert growth(program) < 100_000_000


@pytest.mark.slow
@pytest.mark.may_skip
@needs_proc
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_file_larger_than_what_is_allowed(axis, tmp_path):
    path = tmp_path / "x.npy"
    shape = (512, 400_000)
    values = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    del values
    if 512 * path.stat().st_blocks > 100_000_000:
        pytest.skip("the file system has no sparse files")
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size - 4)
        file.write(np.float32(3).tobytes())
    program = f"""
found = calibrate_files([{str(path)!r}], Calibrator.min_max(axis={axis}))["values"].compute()
assert np.max(found.observed_max) == 3 and np.min(found.observed_min) == 0
assert np.size(found.scale) == {1 if axis is None else shape[axis]}
"""
    assert growth(program) < 100_000_000 < 4 * shape[0] * shape[1]


@pytest.mark.slow
@pytest.mark.may_skip
@needs_proc
def test_the_measure_can_fail():
    assert growth("data = np.ones(60_000_000, np.float32)") > 200 * MIB
