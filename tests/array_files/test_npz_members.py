"""Members of .npz archives: every byte is checked, and columns cost two decompressions however many there are."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantcore import Calibrator
from quantcore.array_files import members
from quantcore.array_files.stored import StoredArray, open_arrays
from quantcore.array_files.streamed import stream_slabs
from quantcore.calibration.files import calibrate_files
from quantcore.errors import FileFormatError, InvalidValueError
from quantcore.files.streaming import Progress


def zip_of(array: np.ndarray, compression: int) -> bytes:
    data, file = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array(data, array)
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("a.npy", data.getvalue())
    return file.getvalue()


def streamed(array: StoredArray, axis: int | None, slab_bytes: int) -> np.ndarray:
    """The channels with their values in order."""
    parts: list[np.ndarray] = []
    stream_slabs(
        array, axis, lambda _slab, part: parts.append(part.copy()), progress=Progress(0, None), slab_bytes=slab_bytes
    )
    if axis is None:
        return np.concatenate([part.ravel() for part in parts])
    return np.sort(np.concatenate([np.moveaxis(p, axis, 0).reshape(p.shape[axis], -1) for p in parts], axis=1))


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_one_bit_changed_in_a_stored_member_is_found(axis, tmp_path, rng):
    values = rng.standard_normal((6, 500)).astype(np.float32)
    good = zip_of(values, zipfile.ZIP_STORED)
    first = good.index(b"\x93NUMPY")
    data_start, stop = good.index(values[0, :4].tobytes()), first + 128 + values.nbytes
    for place in (data_start, stop - 1, *rng.integers(data_start, stop, 30)):
        data = bytearray(good)
        data[place] ^= 1 << rng.integers(8)
        (tmp_path / "x.npz").write_bytes(data)
        with open_arrays(tmp_path / "x.npz") as (array,), pytest.raises(FileFormatError, match=r"a\.npy: CRC-32: "):
            streamed(array, axis, 1000)
    with pytest.raises(FileFormatError, match=r"x\.npz: a\.npy: CRC-32: the data have [0-9a-f]{8}, the archive says"):
        calibrate_files([tmp_path / "x.npz"], Calibrator.min_max(axis=axis))


def test_a_bit_changed_in_the_header_of_a_stored_member_is_found(tmp_path):
    data = bytearray(zip_of(np.ones((2, 100), np.float32), zipfile.ZIP_STORED))
    data[data.index(b"\n", data.index(b"\x93NUMPY")) - 1] = ord("\t")  # white space that nobody reads
    (tmp_path / "x.npz").write_bytes(data)
    with open_arrays(tmp_path / "x.npz") as (array,), pytest.raises(FileFormatError, match="CRC-32"):
        streamed(array, None, 64)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_another_crc_than_that_of_the_archive_is_found(compression, axis, tmp_path, rng):
    data = bytearray(zip_of(rng.standard_normal((6, 500)), compression))
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 16, 0x12345678)
    (tmp_path / "x.npz").write_bytes(data)
    with open_arrays(tmp_path / "x.npz") as (array,), pytest.raises(FileFormatError, match="the archive says 12345678"):
        streamed(array, axis, 1000)


def test_a_deflated_member_that_ends_early_is_refused(tmp_path):
    data = bytearray(zip_of(np.zeros((6, 500)), zipfile.ZIP_DEFLATED))
    directory = data.index(b"PK\1\2")
    (size,) = struct.unpack_from("<I", data, directory + 24)
    struct.pack_into("<I", data, directory + 20, 40)  # compressed bytes
    (tmp_path / "x.npz").write_bytes(data)
    problem = rf"a\.npy: ends at \d+ of {size} bytes"
    with pytest.raises(FileFormatError, match=problem), open_arrays(tmp_path / "x.npz") as (array,):
        streamed(array, 0, 1000)


@pytest.fixture
def decompressed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all pieces that are decompressed."""
    pieces: list[int] = []
    real_next = members._Cursor._next

    def counting(cursor: members._Cursor, most: int) -> bytes:
        data = real_next(cursor, most)
        pieces.append(len(data))
        return data

    monkeypatch.setattr(members._Cursor, "_next", counting)
    return pieces


CASES = {
    "rows": ((40, 3000), 0, "C"),
    "columns": ((3000, 40), 1, "C"),
    "last axis of columns": ((40, 3000), 1, "F"),
    "within": ((7, 30, 1000), 1, "C"),
    "first of three": ((30, 7, 500), 0, "C"),
    "last of three": ((500, 7, 30), 2, "F"),
    "flat": ((40, 3000), None, "C"),
}


@pytest.mark.parametrize(("shape", "axis", "order"), CASES.values(), ids=CASES)
def test_a_deflated_array_is_decompressed_twice_at_most(shape, axis, order, decompressed, tmp_path, rng):
    values = np.asarray(rng.standard_normal(shape).round(1).astype(np.float32), order=order)
    (tmp_path / "x.npz").write_bytes(zip_of(values, zipfile.ZIP_DEFLATED))
    with open_arrays(tmp_path / "x.npz") as (array,):
        found = streamed(array, axis, 4 * 64 * 40)  # 64 columns at a time
    assert sum(decompressed) <= 2 * values.nbytes + 1000
    if axis is not None:
        expected = np.sort(np.moveaxis(values, axis, 0).reshape(shape[axis], -1))
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("most", [1, 2, 39, 40, 41])
def test_fewer_cursors_than_rows(most, decompressed, monkeypatch, tmp_path, rng):
    monkeypatch.setattr(members, "MOST_CURSORS", most)
    monkeypatch.setattr("quantcore.array_files.stored.WIDE_SLAB_BYTES", 4 * 40 * 1000)
    values = rng.standard_normal((40, 3000)).astype(np.float32)
    (tmp_path / "x.npz").write_bytes(zip_of(values, zipfile.ZIP_DEFLATED))
    with open_arrays(tmp_path / "x.npz") as (array,):
        assert np.array_equal(streamed(array, 0, 4 * 64 * 40), np.sort(values))
    # Wide slabs: three of them, for each of which the rows without a cursor are decompressed again.
    assert sum(decompressed) <= (2 if most >= 40 else 4) * values.nbytes + 1000


def test_runs_in_any_order(tmp_path, rng):
    values = rng.standard_normal((50, 200))
    (tmp_path / "x.npz").write_bytes(zip_of(values, zipfile.ZIP_DEFLATED))
    with open_arrays(tmp_path / "x.npz") as (array,):
        for _ in range(40):
            first, n_runs = rng.integers(0, 150), rng.integers(1, 50)
            row = rng.integers(0, 50 - n_runs + 1)
            found = np.empty((n_runs, rng.integers(1, 50)))
            array.read_runs(8 * (200 * row + first), n_runs, 1600, found)
            assert np.array_equal(found, values[row : row + n_runs, first : first + found.shape[1]])


def test_an_axis_of_more_dimensions_than_numpy_has(tmp_path):
    path = Path(tmp_path, "x.safetensors")
    save_file({"a": np.ones((2, 3), np.float32)}, path)
    head = path.read_bytes()
    text = head[8 : 8 + head[0]].replace(b"[2,3]", b"[2,3" + b",1" * 99 + b"]")
    path.write_bytes(struct.pack("<Q", len(text)) + text + head[8 + head[0] :])
    for axis in (0, 100, -1):
        with pytest.raises(InvalidValueError, match=r"x\.safetensors: a: has 101 dimensions, the limit with an axis"):
            calibrate_files([path], Calibrator.min_max(axis=axis))
    assert calibrate_files([path], Calibrator.min_max())["a"].compute().observed_max == 1
