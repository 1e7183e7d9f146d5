"""Columns of Parquet files are calibrated as the arrays that they are."""

import numpy as np
import pytest

from quantcore import Calibrator, calibrate_files
from quantcore.errors import FileFormatError, InvalidValueError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

F32 = np.float32


@pytest.fixture
def vectors(rng: np.random.Generator) -> np.ndarray:
    return (rng.standard_normal((9000, 6)) + 30).astype(F32)


def write(path, **columns):
    pq.write_table(pa.table(columns), path, row_group_size=700)
    return path


@pytest.mark.parametrize("kind", ["fixed", "list", "large"])
@pytest.mark.parametrize("axis", [None, 1, 0])
def test_vectors(kind, axis, vectors, tmp_path):
    values = vectors[:500] if axis == 0 else vectors
    kinds = {"fixed": pa.list_(pa.float32(), 6), "list": pa.list_(pa.float32()), "large": pa.large_list(pa.float64())}
    column = pa.array(values.tolist(), kinds[kind])
    path = write(tmp_path / "a.parquet", embedding=column, id=pa.array(range(len(values))))
    notes: list[str] = []
    for make in (Calibrator.min_max, Calibrator.percentile):
        found = calibrate_files([path], make(axis=axis, mode="offset"), notify=notes.append)
        assert list(found) == ["embedding"]
        assert found["embedding"].compute() == make(axis=axis, mode="offset").partial_fit(values).compute()
    assert notes[0].endswith("id: int64 is not a float type: left out")


def test_numbers_of_every_width(vectors, tmp_path):
    for kind in (np.float16, np.float32, np.float64):
        values = vectors[:, 0].astype(kind)
        path = write(tmp_path / "a.parquet", temperature=pa.array(values))
        found = calibrate_files([path, path], Calibrator.mse())["temperature"]
        assert found.compute() == Calibrator.mse().partial_fit(np.concatenate([values, values])).compute()


def test_nulls_count_as_nan(vectors, tmp_path):
    rows = vectors[:50].tolist()
    rows[7], rows[9][2] = None, None
    path = write(tmp_path / "a.parquet", embedding=pa.array(rows, pa.list_(pa.float32())))
    with pytest.raises(InvalidValueError, match=r"embedding'?: must be finite, got nan at \(7, 0\)$"):
        calibrate_files([path], Calibrator.min_max(axis=1))
    clean = vectors[:50].copy()
    clean[7], clean[9, 2] = np.nan, np.nan
    found = calibrate_files([path], Calibrator.min_max(axis=1), nan_policy="omit")["embedding"]
    assert found.compute() == Calibrator.min_max(axis=1).partial_fit(clean, nan_policy="omit").compute()


def test_what_is_malformed_is_refused(vectors, tmp_path):
    rows = vectors[:50].tolist()
    rows[11] = rows[11][:5]
    path = write(tmp_path / "a.parquet", embedding=pa.array(rows, pa.list_(pa.float32())))
    with pytest.raises(FileFormatError, match=r"embedding: row 11: expected 6 values, got 5$"):
        calibrate_files([path], Calibrator.min_max(axis=1))
    whole = path.read_bytes()
    for data in (whole[:100], whole[:-20], b"PAR1" + bytes(50)):
        path.write_bytes(data)
        with pytest.raises(FileFormatError, match=r"a\.parquet'?: Parquet: "):
            calibrate_files([path], Calibrator.min_max())


def test_damaged_pages_are_refused(vectors, tmp_path):
    path = write(tmp_path / "a.parquet", embedding=pa.array(vectors.tolist(), pa.list_(pa.float32(), 6)))
    data = bytearray(path.read_bytes())
    data[4:4000] = bytes(3996)
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match="embedding: "):
        calibrate_files([path], Calibrator.min_max())


def test_command_line(vectors, tmp_path, call):
    path = write(tmp_path / "a.parquet", embedding=pa.array(vectors.tolist(), pa.list_(pa.float32(), 6)))
    result = call("calibrate", path, "--axis", 1, "--offset", "-o", tmp_path / "stats.json")
    assert result.status == 0 and "embedding" in result.out
