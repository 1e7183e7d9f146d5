"""Zarr arrays and groups are calibrated as the arrays that they are, chunk by chunk."""

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from quantcore import Calibrator, calibrate_files
from quantcore.array_files.slabs import boxes
from quantcore.array_files.stored import open_arrays
from quantcore.array_files.streamed import stream_slabs
from quantcore.errors import FileFormatError, InvalidValueError, QuantcoreError
from quantcore.files.streaming import Progress
from tests.support.command_line import is_one_line
from tests.support.memory import MEGABYTE, memory_below

zarr = pytest.importorskip("zarr")
numcodecs = pytest.importorskip("numcodecs")

F32 = np.float32


@pytest.fixture
def values(rng: np.random.Generator) -> np.ndarray:
    return (rng.standard_normal((90, 70, 3)) + 30).astype(F32)


def write(path: Path, values: np.ndarray, chunks: tuple[int, ...], **options) -> Path:
    zarr.create_array(path, data=values, chunks=chunks, **options)
    return path


def zipped(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder), "zip", folder))


# Geometry


@given(data=st.data(), n_dims=st.integers(1, 4))
def test_boxes_have_every_element_once(data, n_dims):
    shape = tuple(data.draw(st.integers(1, 9)) for _ in range(n_dims))
    chunks = tuple(data.draw(st.integers(1, 12)) for _ in range(n_dims))
    axis = data.draw(st.none() | st.integers(0, n_dims - 1))
    few, most = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 200))
    counts = np.zeros(shape, int)
    parts = list(boxes(shape, chunks, axis, few, most))
    for part in parts:
        region = tuple(slice(i, i + n) for i, n in zip(part.start, part.shape, strict=True))
        assert counts[region].shape == part.shape
        counts[region] += 1
        assert part.size <= parts[0].size
        assert axis is None or part.shape[axis] == shape[axis]
        flat = part.size - 1
        assert part.index_of(flat, shape) == tuple(i + n - 1 for i, n in zip(part.start, part.shape, strict=True))
    assert (counts == 1).all()
    assert parts[0].size <= max(few, most, 1 if axis is None else shape[axis])


@pytest.mark.parametrize(
    ("chunks", "axis", "first"),
    [
        ((10, 10), None, (10, 40)),  # chunks beside each other, as many as fit
        ((10, 40), None, (10, 40)),
        ((2, 40), None, (10, 40)),
        ((10, 10), 0, (100, 10)),  # all chunks along the axis
        ((50, 40), None, (25, 40)),  # a chunk that is too large is cut
    ],
)
def test_how_much_is_read_at_once(chunks, axis, first):
    assert next(boxes((100, 40), chunks, axis, 400, 1000)).shape == first


def test_boxes_of_a_shape_that_never_ends_come_one_by_one():
    assert next(boxes((1 << 50, 3), (1, 3), None, 30, 30)).shape == (10, 3)


# Calibration equals that of the same array in NumPy's format


LAYOUTS: dict[str, dict[str, object]] = {
    "v3": {},
    "v2": {"zarr_format": 2},
    "v2, Fortran order": {"zarr_format": 2, "order": "F"},
    "v2, filters": {"zarr_format": 2, "filters": [numcodecs.Delta(dtype="<f4")], "compressors": [numcodecs.Zlib()]},
    "v3, shards": {"shards": (40, 60, 3)},
    "v3, big endian": {"serializer": zarr.codecs.BytesCodec(endian="big")},
    "v3, transposed": {"filters": [zarr.codecs.TransposeCodec(order=(2, 0, 1))]},
}
MAKERS: dict[str, Callable[..., Calibrator]] = {
    "min_max": Calibrator.min_max,
    "moving_average": Calibrator.moving_average,
    "percentile": Calibrator.percentile,
    "mse": Calibrator.mse,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("method", ["min_max", "percentile"])
def test_arrays(method, axis, layout, values, tmp_path):
    path = write(tmp_path / "a.zarr", values, (20, 30, 3), **LAYOUTS[layout])
    np.save(tmp_path / "a.npy", values)
    found, expected = (
        calibrate_files([tmp_path / name], MAKERS[method](axis=axis), n_threads=1) for name in ("a.zarr", "a.npy")
    )
    assert list(found) == ["values"] and path.is_dir()
    assert found["values"].compute() == expected["values"].compute()


@pytest.mark.parametrize("method", MAKERS)
@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_dtypes_and_methods(dtype, method, values, tmp_path):
    write(tmp_path / "a.zarr", values.astype(dtype), (7, 70, 2), zarr_format=2)
    np.save(tmp_path / "a.npy", values.astype(dtype))
    found, expected = (
        calibrate_files([tmp_path / name] * 2, MAKERS[method]())["values"].compute() for name in ("a.zarr", "a.npy")
    )
    assert found == expected


def test_codes_are_decoded(values, tmp_path):
    qz = pytest.importorskip("quantcore.zarr")
    path = write(tmp_path / "a.zarr", values, (20, 70, 3), serializer=qz.AffineCodec())
    np.save(tmp_path / "a.npy", zarr.open_array(path)[:])
    found, expected = (calibrate_files([tmp_path / n], Calibrator.min_max())["values"] for n in ("a.zarr", "a.npy"))
    assert found.compute() == expected.compute()


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("is_zipped", [False, True])
def test_groups(is_zipped, zarr_format, values, tmp_path):
    group = zarr.create_group(tmp_path / "g.zarr", zarr_format=zarr_format)
    arrays = {"top": values[0], "a/b/deep": values[1], "a/x": values[2]}
    for name, array in arrays.items():
        group.create_array(name, data=array, chunks=(20, 3))
    group.create_array("a/number", data=np.arange(5))
    (tmp_path / "g.zarr" / "notes").mkdir()
    (tmp_path / "g.zarr" / "notes" / "read me").write_text("no array")
    path = zipped(tmp_path / "g.zarr") if is_zipped else tmp_path / "g.zarr"
    notes: list[str] = []
    found = calibrate_files([path], Calibrator.min_max(axis=1), notify=notes.append)
    assert sorted(found) == sorted(arrays)
    for name, array in arrays.items():
        assert found[name].compute() == Calibrator.min_max(axis=1).partial_fit(array).compute()
    assert notes == [f"{path}: a/number: int64 is not a float type: left out"]
    assert list(calibrate_files([path], Calibrator.min_max(), exclude=["a/"])) == ["top"]


def test_links_are_followed_and_may_lead_back(values, tmp_path):
    write(tmp_path / "elsewhere.zarr", values, (20, 30, 3))
    zarr.create_group(tmp_path / "g.zarr").create_group("inner")
    os.symlink(tmp_path / "elsewhere.zarr", tmp_path / "g.zarr" / "linked")
    os.symlink(tmp_path / "g.zarr", tmp_path / "g.zarr" / "inner" / "back")
    os.symlink(tmp_path / "g.zarr", tmp_path / "other")
    found = calibrate_files([tmp_path / "other"], Calibrator.min_max())
    assert list(found) == ["linked"]


def test_what_was_not_written_is_the_fill_value(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=(10, 10), chunks=(4, 4), dtype="f4", fill_value=-7.0)
    array[:3, :3] = 1
    found = calibrate_files([tmp_path / "a.zarr"], Calibrator.min_max())["values"].compute()
    assert (found.observed_min, found.observed_max) == (-7, 1)


@pytest.mark.parametrize("axis", [None, 1])
def test_values_that_are_not_finite_are_named(axis, values, tmp_path):
    values[77, 41, 2] = np.nan
    path = write(tmp_path / "a.zarr", values, (20, 30, 1))
    with pytest.raises(InvalidValueError, match=r"a\.zarr: must be finite, got nan at \(77, 41, 2\)$"):
        calibrate_files([path], Calibrator.min_max(axis=axis))
    found = calibrate_files([path], Calibrator.min_max(axis=axis), nan_policy="omit")["values"]
    assert found.compute() == Calibrator.min_max(axis=axis).partial_fit(values, nan_policy="omit").compute()


@pytest.mark.slow
def test_memory_is_bounded_by_slabs_not_by_the_array(tmp_path):
    shape = (60, 1 << 20)  # 240 MB, of which no chunk is stored
    zarr.create_array(tmp_path / "a.zarr", shape=shape, chunks=(2, 1 << 15), dtype="f4", fill_value=0.5)
    for axis in (None, 0):
        calibrator = Calibrator.min_max(axis=axis)
        with memory_below(100 * MEGABYTE):
            found = calibrate_files([tmp_path / "a.zarr"], calibrator)["values"]
        assert np.all(found.compute().observed_max == 0.5)


def test_progress_counts_all_bytes(values, tmp_path):
    done: list[tuple[int, int]] = []
    path = write(tmp_path / "a.zarr", values, (20, 30, 3))
    calibrate_files([path], Calibrator.min_max(axis=0), progress=lambda *counts: done.append(counts))
    assert done[-1] == (values.nbytes, values.nbytes)
    with open_arrays(path) as (array,):
        parts: list[int] = []
        n = stream_slabs(
            array, 0, lambda _slab, part: parts.append(part.nbytes), progress=Progress(1, None), slab_bytes=4000
        )
        assert n == len(parts) == 3 and sum(parts) == values.nbytes == array.nbytes and not array.is_fortran


# What is refused


def set_metadata(path: Path, name: str, **fields: object) -> None:
    metadata = json.loads((path / name).read_text())
    (path / name).write_text(json.dumps(metadata | fields))


def refusal(path: Path, match: str) -> str:
    with pytest.raises(FileFormatError, match=match) as found:
        calibrate_files([path], Calibrator.min_max())
    assert "\n" not in str(found.value) and len(str(found.value)) < 400
    return str(found.value)


@pytest.fixture
def v3(values: np.ndarray, tmp_path: Path) -> Path:
    return write(tmp_path / "a.zarr", values, (90, 70, 3))


@pytest.fixture
def v2(values: np.ndarray, tmp_path: Path) -> Path:
    return write(tmp_path / "a.zarr", values, (90, 70, 3), zarr_format=2)


class Trap:
    """What must not be unpickled."""

    def __reduce__(self):
        return os.mkdir, (os.environ["QUANTCORE_TRAP"],)


@pytest.mark.parametrize("place", ["filters", "compressor"])
def test_pickles_are_never_read(place, v2, tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTCORE_TRAP", str(tmp_path / "sprung"))
    monkeypatch.setattr("numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    codec = {"id": "pickle", "protocol": 5}
    set_metadata(v2, ".zarray", filters=[codec] if place == "filters" else None, compressor=None)
    if place == "compressor":
        set_metadata(v2, ".zarray", compressor=codec)
    data = numcodecs.Pickle().encode(np.array([Trap()], object))
    (v2 / "0.0.0").write_bytes(data)
    refusal(v2, r"a\.zarr: .*pickle")
    assert not (tmp_path / "sprung").exists()
    pickle.loads(data)
    assert (tmp_path / "sprung").exists()  # the trap works


@pytest.mark.parametrize("shards", [None, (90, 70, 3)])
def test_codecs_that_unpickle_are_never_used(shards, values, tmp_path, monkeypatch):
    class Unpickler(zarr.codecs.GzipCodec):
        """Called like one; its codes are those of gzip."""

        @classmethod
        def from_dict(cls, data):
            return cls(level=1)

        def to_dict(self):
            return {"name": "somebodys.Pickle", "configuration": {}}

    zarr.registry.register_codec("somebodys.Pickle", Unpickler)
    path = write(tmp_path / "a.zarr", values, (90, 70, 3), shards=shards, compressors=[Unpickler()])
    assert zarr.open_array(path)[:].shape == values.shape
    refusal(path, r"a\.zarr: codec 'somebodys\.Pickle': pickled data are never read$")


def test_metadata_that_are_hostile(v3):
    good = (v3 / "zarr.json").read_text()
    cases: dict[str, dict[str, object]] = {
        r"codec": {"codecs": [{"name": "no.such.codec", "configuration": {}}]},
        r"shape|dimension": {"shape": [90, 70]},
        r"elements|shape": {"shape": [1 << 40, 1 << 40, 3]},
        r"chunks: .* the limit is 2147483648": {
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1 << 20, 1 << 20, 3]}}
        },
        r"node_type: expected 'array' or 'group', got 'file'": {"node_type": "file"},
        r"a\.zarr: ": {"chunk_grid": {"name": "hexagons", "configuration": {}}},
        r"a\.zarr: \w+Error: ": {"data_type": "float31"},
    }
    for match, fields in cases.items():
        set_metadata(v3, "zarr.json", **fields)
        refusal(v3, match)
        (v3 / "zarr.json").write_text(good)
    for text in (
        "",
        "[]",
        "{",
        '{"zarr_format": 3, "node_type": "array"}',
        '{"node_type": "group", "node_type": "array"}',
    ):
        (v3 / "zarr.json").write_text(text)
        refusal(v3, r"a\.zarr: ")
    (v3 / "zarr.json").write_text(good)
    assert calibrate_files([v3], Calibrator.min_max())


def test_metadata_of_v2_that_are_hostile(v2):
    good = (v2 / ".zarray").read_text()
    for fields in ({"dtype": "<f3"}, {"chunks": [0, 0, 0]}, {"compressor": {"id": "none such"}}, {"order": "Q"}):
        set_metadata(v2, ".zarray", **fields)
        refusal(v2, r"a\.zarr: ")
        (v2 / ".zarray").write_text(good)
    (v2 / ".zarray").write_text("{}")
    refusal(v2, r"a\.zarr: ")


def test_chunks_that_are_damaged(v3):
    chunk = v3 / "c" / "0" / "0" / "0"
    whole = chunk.read_bytes()
    for data in (b"", whole[:40], bytes(len(whole)), b"\xff" + whole[1:]):
        chunk.write_bytes(data)
        refusal(v3, r"a\.zarr: ")


@given(data=st.data(), name=st.sampled_from(["zarr.json", "c/0/0", ".zarray", "0.0"]))
def test_a_byte_that_is_damaged_is_refused_or_harmless(data, name, tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged") / "a.zarr"
    write(path, np.ones((20, 30), F32), (20, 30), zarr_format=2 if name in (".zarray", "0.0") else 3)
    content = bytearray((path / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (path / name).write_bytes(content)
    try:
        found = calibrate_files([path], Calibrator.min_max(), nan_policy="omit", notify=str)
        assert list(found) == ["values"]
    except QuantcoreError as error:
        assert "\n" not in str(error)


def test_archives_that_are_damaged(v3, tmp_path):
    path = zipped(v3)
    whole = path.read_bytes()
    assert calibrate_files([path], Calibrator.min_max())
    path.write_bytes(whole[:-30])
    refusal(path, r"a\.zarr\.zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("zarr.json", b"{")
    refusal(path, r"a\.zarr\.zip: zarr.json: not valid JSON")


def test_folders_without_floats(tmp_path):
    zarr.create_group(tmp_path / "g.zarr")
    for path in (tmp_path / "g.zarr", zipped(tmp_path / "g.zarr")):
        with pytest.raises(InvalidValueError, match="no arrays to calibrate on in 1 files"):
            calibrate_files([path], Calibrator.min_max())
    write(tmp_path / "scalar.zarr", np.float32(1), ())
    with pytest.raises(InvalidValueError, match=r"scalar\.zarr: shape \(\) has no values"):
        calibrate_files([tmp_path / "scalar.zarr"], Calibrator.min_max())


def test_command_line(values, tmp_path, call):
    group = zarr.create_group(tmp_path / "g.zarr")
    group.create_array("air/temperature", data=values, chunks=(9, 70, 3))
    with pytest.warns(zarr.errors.UnstableSpecificationWarning):  # which must not show up later
        group.create_array("name", shape=(3,), dtype="U5")
    result = call("calibrate", tmp_path / "g.zarr", "--axis", 2, "--offset", "-o", tmp_path / "stats.json")
    assert result.status == 0 and "air/temperature" in result.out
    assert result.err.count("\n") == 1 and "name: <U5 is not a float type: left out" in result.err
    for command in (["inspect", tmp_path / "g.zarr"], ["quantize", tmp_path / "g.zarr", tmp_path / "o.gguf", "Q8_0"]):
        result = call(*command)
        assert result.status == 1 and is_one_line(result.err)
        assert "g.zarr: is a zarr array or group, not " in result.err and "quantcore calibrate takes it" in result.err
    path = zipped(tmp_path / "g.zarr")
    result = call("inspect", path)
    assert result.status == 1 and is_one_line(result.err)
    result = call("calibrate", tmp_path / "nothing.zarr")
    assert result.status == 1 and is_one_line(result.err) and "No such file" in result.err
    (tmp_path / "empty.zarr").mkdir()
    result = call("calibrate", tmp_path / "empty.zarr")
    assert result.status == 1 and is_one_line(result.err)
    result = call("calibrate", "--merge", tmp_path / "g.zarr")
    assert result.status == 1 and is_one_line(result.err)


def test_without_zarr_the_extra_is_named(v3, monkeypatch, call):
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    result = call("calibrate", v3)
    assert result.status == 1 and is_one_line(result.err)
    assert "a.zarr: a zarr array or group needs zarr: pip install 'quantcore-quantization[zarr]'" in result.err
