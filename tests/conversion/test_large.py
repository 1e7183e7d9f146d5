"""A model larger than the memory allowed, and a process killed at any moment of writing one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import quantcore
from quantcore import quantize
from quantcore.conversion import quantize_model
from tests.support.models import Tensor, gguf, write_gguf, write_sparse_gguf

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(quantcore.__file__).parents[1])}
N_KILLS = int(os.environ.get("QUANTCORE_TEST_KILLS", "40"))


# The peak is that of the program itself: the figure of getrusage begins with the process that started it.
MEASURED = """
import sys
from quantcore.cli import main
status = main(sys.argv[1:])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(peak.split()[1])
sys.exit(status)
"""


@pytest.mark.slow
@pytest.mark.may_skip
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' figure of the peak memory")
def test_more_than_four_gigabytes_in_little_memory(tmp_path):
    source, target = tmp_path / "in.gguf", tmp_path / "out.gguf"
    if shutil.disk_usage(tmp_path).free < 1_500_000_000:
        pytest.skip("needs 1.5 GB of disk")
    shape = (1 << 13, 66_560)  # 2**32 is an offset within the second tensor
    offsets = write_sparse_gguf(source, dict.fromkeys(("a.weight", "b.weight"), shape))
    rng = np.random.default_rng(0)
    rows = {
        (name, row): rng.standard_normal(shape[1]).astype(np.float32) for name in offsets for row in (0, 4000, 8191)
    }
    with open(source, "r+b") as file:
        for (name, row), values in rows.items():
            file.seek(offsets[name] + 4 * shape[1] * row)
            file.write(values.tobytes())
    if 512 * source.stat().st_blocks > 100_000_000:
        pytest.skip("the file system has no sparse files")
    assert source.stat().st_size > 2**32
    try:
        command = [sys.executable, "-P", "-c", MEASURED, "quantize", str(source), str(target), "Q8_0", "--pure"]
        child = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=600)
        assert (child.returncode, child.stderr) == (0, "")
        assert 1024 * int(child.stdout.split()[-1]) < 512 * 2**20
        tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(target).tensors}
        for (name, row), values in rows.items():
            assert np.array_equal(tensors[name][row], quantize(values, "Q8_0"))
        for name, data in tensors.items():
            assert data.shape == (shape[0], shape[1] // 32 * 34)
            # A block of zeros is 34 bytes of zero.
            expected = sum(np.count_nonzero(quantize(v, "Q8_0")) for (n, _), v in rows.items() if n == name)
            assert sum(np.count_nonzero(part) for part in np.array_split(data, 64)) == expected
    finally:
        target.unlink(missing_ok=True)


READERS = {
    "compare": ["compare", "a.gguf", "b.gguf"],
    "report": ["report", "a.gguf", "b.gguf", "-o", "report.html"],
    "suggest": ["suggest", "a.gguf", "--bits-per-weight", "9"],
}


@pytest.mark.slow
@pytest.mark.may_skip
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' figure of the peak memory")
@pytest.mark.parametrize("arguments", READERS.values(), ids=READERS)
def test_models_are_read_in_little_memory(arguments, tmp_path):
    if arguments[0] == "report":
        pytest.importorskip("matplotlib")
    for name in ("a.gguf", "b.gguf"):
        write_sparse_gguf(tmp_path / name, dict.fromkeys(("a.weight", "b.weight"), (1 << 13, 9216)))
    if 512 * (tmp_path / "a.gguf").stat().st_blocks > 100_000_000:
        pytest.skip("the file system has no sparse files")
    command = [sys.executable, "-P", "-c", MEASURED, *arguments]
    child = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=600, cwd=tmp_path)
    assert (child.returncode, child.stderr) == (0, "")
    assert 1024 * int(child.stdout.split()[-1]) < 192 * 2**20 < (tmp_path / "a.gguf").stat().st_size


# Each round forks a process that quantizes over the output, or to a new one, and is killed after a random time or
# a random number of bytes. The report counts what was found afterwards.
KILLER = """
import collections, json, os, random, signal, sys, time
from pathlib import Path
from quantcore.conversion import quantize_model
from quantcore.conversion import gguf_pipeline

source, old, new, out = map(Path, sys.argv[1:5])
n_kills, rng = int(sys.argv[5]), random.Random(int(sys.argv[6]))
gguf_pipeline.SLAB_ELEMENTS = 1 << 16
contents = {old.read_bytes(): "old", new.read_bytes(): "new"}
n_bytes = new.stat().st_size


def started(force):
    pid = os.fork()
    if pid == 0:
        try:
            quantize_model(source, out, "Q8_0", force=force, n_threads=2)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return pid


def partial():
    return [path for path in out.parent.iterdir() if path != out]


def is_written(wanted):
    try:
        return sum(path.stat().st_size for path in partial()) >= wanted
    except FileNotFoundError:
        return True


start = time.perf_counter()
assert os.waitpid(started(True), 0)[1] == 0
duration = time.perf_counter() - start

found = collections.Counter()
for i in range(n_kills):
    force = i % 2 == 0
    if force:
        out.write_bytes(old.read_bytes())
    else:
        out.unlink(missing_ok=True)
    pid = started(force)
    if i % 4 < 2:
        wanted = rng.uniform(1, n_bytes)
        while not is_written(wanted) and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(1e-4)
    else:
        time.sleep(rng.uniform(0, 1.2 * duration))
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    state = contents.get(out.read_bytes(), "corrupt") if out.exists() else "none"
    left = len(partial())
    found[f"{'over old' if force else 'new file'}: {state}"] += 1
    found["killed" if os.WIFSIGNALED(status) else "done" if status == 0 else "failed"] += 1
    found["killed while writing"] += left == 1
    found["more than one partial file"] += left > 1
    found["done, but a partial file is left"] += status == 0 and left > 0
    found["done, but not new"] += status == 0 and state != "new"
assert os.waitpid(started(True), 0)[1] == 0
print(json.dumps([found, contents.get(out.read_bytes()), [path.name for path in partial()]]))
"""


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("old", "new"):
        values = rng.standard_normal((1024, 2048)).astype(np.float32)
        write_gguf(tmp_path / f"{name}-in.gguf", [Tensor("a.weight", values)])
        quantize_model(tmp_path / f"{name}-in.gguf", tmp_path / f"{name}.gguf", "Q8_0")
    (tmp_path / "out").mkdir()
    paths = [tmp_path / "new-in.gguf", tmp_path / "old.gguf", tmp_path / "new.gguf", tmp_path / "out" / "out.gguf"]
    command = [sys.executable, "-P", "-c", KILLER, *map(str, paths), str(N_KILLS), "0"]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=600)
    assert (result.returncode, result.stderr) == (0, "")
    found, final, left = json.loads(result.stdout)
    assert {name for name, count in found.items() if count} <= {
        "over old: old", "over old: new", "new file: none", "new file: new", "killed", "done", "killed while writing",
    }, found  # fmt: skip
    assert found.get("killed", 0) + found.get("done", 0) == N_KILLS
    assert found.get("killed while writing", 0) >= N_KILLS // 4, found
    assert (final, left) == ("new", [])
