"""A checkpoint quantized by a cluster has the files of one process, also when a worker is killed."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from quantcore.conversion import quantize_checkpoint as quantize_alone
from quantcore.errors import InvalidTypeError, InvalidValueError, OutputFileError
from tests.support.sharded import contents_of, write_shards

dask = pytest.importorskip("dask")

from quantcore.dask import quantize_checkpoint  # noqa: E402  (only where dask is)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "source")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def expected(source: Path, tmp_path: Path, **options: Any) -> dict[str, bytes]:
    quantize_alone(source, tmp_path / "expected", "nf4", **options)
    return contents_of(tmp_path / "expected")


def kill_once(client: Any, mark: Path, at_write: int) -> None:
    """Have the first worker that comes so far be killed by `kill -9` in the middle of a shard."""

    def patch(mark: str = str(mark), at_write: int = at_write) -> None:  # runs in every worker
        from quantcore.files.disk import OutputFile

        real, count = OutputFile.write_at, [0]

        def write_at(file: OutputFile, offset: int, data: Any) -> None:
            count[0] += 1
            if count[0] == at_write:
                try:
                    os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    pass
                else:
                    os.kill(os.getpid(), signal.SIGKILL)
            real(file, offset, data)

        OutputFile.write_at = write_at  # type: ignore[method-assign]

    client.run(patch)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_schedulers(scheduler, source, target, tmp_path):
    options = {"double_quant": True, "compute_dtype": "bfloat16", "exclude": ["layers.1"]}
    with dask.config.set(scheduler=scheduler):
        report = quantize_checkpoint(source, target, "nf4", **options)
    assert contents_of(target) == expected(source, tmp_path, **options)
    assert report == quantize_alone(source, tmp_path / "again", "nf4", **options)
    assert [t.target_type for t in report.tensors].count("NF4") == 3


def test_words_in_any_case(source, target, tmp_path):
    """What config.json says is what transformers looks up in torch, whose names are in lower case."""
    quantize_checkpoint(source, target, "NF4", quant_storage="BFloat16", compute_dtype="Float16")
    expected_files = expected(source, tmp_path, quant_storage="bfloat16", compute_dtype="float16")
    assert b'"float16"' in expected_files["config.json"]
    assert contents_of(target) == expected_files


@pytest.mark.slow
def test_a_pool_of_processes(source, target, tmp_path):
    with dask.config.set(scheduler="processes", num_workers=2):
        quantize_checkpoint(source, target, "nf4")
    assert contents_of(target) == expected(source, tmp_path)


@pytest.mark.slow
def test_a_cluster_goes_on_when_a_worker_is_killed(cluster, source, target, tmp_path):
    mark = tmp_path / "killed"
    kill_once(cluster, mark, at_write=3)
    quantize_checkpoint(source, target, "nf4", client=cluster)
    assert mark.exists()
    assert contents_of(target) == expected(source, tmp_path)


@pytest.mark.slow
def test_a_second_call_goes_on_after_the_only_worker_was_killed(one_worker, source, target, tmp_path):
    distributed = pytest.importorskip("distributed")
    mark = tmp_path / "killed"
    kill_once(one_worker, mark, at_write=10)  # header, codes, absmax, map, state and bias are six writes of a shard
    with pytest.raises(distributed.KilledWorker):
        quantize_checkpoint(source, target, "nf4", client=one_worker)
    (folder,) = target.iterdir()
    (part,) = (path for path in folder.iterdir() if path.name.isdigit())
    (half,) = folder.glob(".*.partial")
    status = part.stat()
    one_worker.wait_for_workers(1)
    quantize_checkpoint(source, target, "nf4", client=one_worker)
    assert contents_of(target) == expected(source, tmp_path)
    again = sorted(target.glob("*.safetensors"))[int(part.name)].stat()
    assert (again.st_ino, again.st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    assert not half.exists()


@pytest.mark.slow
def test_errors_come_from_the_workers(cluster, source, target):
    (source / "config.json").write_text("{}")
    shard = sorted(source.glob("*.safetensors"))[2]
    data = bytearray(shard.read_bytes())
    data[-4:] = b"\x00\x00\xc0\x7f"  # NaN
    shard.write_bytes(data)
    with pytest.raises(InvalidValueError, match=r"layers\.2\.weight.* must be finite"):
        quantize_checkpoint(source, target, "nf4", client=cluster)
    assert [path.name for path in target.rglob("*") if not path.name.startswith(".") and path.suffix] == []


def test_what_is_refused(source, target):
    for client in ("tcp://127.0.0.1:8786", {}, dask.get):
        with pytest.raises(InvalidTypeError, match=r"client: expected a distributed\.Client, got "):
            quantize_checkpoint(source, target, "nf4", client=client)
    with pytest.raises(InvalidValueError, match="quant_type: expected one of nf4, fp4, got 'Q4_0'"):
        quantize_checkpoint(source, target, "Q4_0")
    with pytest.raises(InvalidValueError, match="compute_dtype"):
        quantize_checkpoint(source, target, "nf4", compute_dtype="float64")
    with pytest.raises(InvalidValueError, match="n_threads"):
        quantize_checkpoint(source, target, "nf4", n_threads=0)
    with pytest.raises(OutputFileError, match="expected a folder"):
        quantize_checkpoint(source, target.with_suffix(".safetensors"), "nf4")
    assert not target.exists()
