"""Arrays in .npy, .npz and .safetensors files: all values and channels come in slabs; hostile files are refused."""

import ast
import io
import pickle
import random
import struct
import zipfile
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from quantcore.array_files.slabs import slabs
from quantcore.array_files.stored import VALUES, StoredArray, open_arrays
from quantcore.array_files.streamed import stream_slabs
from quantcore.errors import FileFormatError, InvalidTypeError, InvalidValueError, QuantcoreError
from quantcore.files.streaming import Progress
from tests.support.hostile_safetensors import MALFORMED, PICKLES

DTYPES = ("<f2", "<f4", "<f8", ">f2", ">f4", ">f8")


def npy_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


def header_of(literal: object, version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    text = literal if isinstance(literal, bytes) else repr(literal).encode()
    packed = struct.pack("<H" if version == (1, 0) else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes(version) + packed + text


def describe(**fields: object) -> dict[str, object]:
    return {"descr": "<f4", "fortran_order": False, "shape": (2,)} | fields


def streamed(array: StoredArray, axis: int | None, slab_bytes: int) -> list[np.ndarray]:
    """Copies of the slabs."""
    parts: list[np.ndarray] = []
    done = [0]
    progress = Progress(array.nbytes + 1, lambda n_bytes, _: done.append(n_bytes))
    n = stream_slabs(
        array, axis, lambda _slab, part: parts.append(part.copy()), progress=progress, slab_bytes=slab_bytes
    )
    assert n == len(parts) == len(done) - 1
    assert done[-1] == array.nbytes
    return parts


def channels(array: np.ndarray, axis: int | None) -> np.ndarray:
    """The sorted values of every channel."""
    rows = array.reshape(1, -1) if axis is None else np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    return np.sort(rows.astype(np.float64), axis=1)


def check(array: StoredArray, expected: np.ndarray, axis: int | None, slab_bytes: int) -> None:
    assert array.shape == expected.shape
    parts = streamed(array, axis, slab_bytes)
    if axis is None:
        order = "F" if array.is_fortran else "C"
        assert np.array_equal(np.concatenate(parts), expected.ravel(order).astype(parts[0].dtype))
        assert max(part.size * array.dtype.itemsize for part in parts) <= max(slab_bytes, 8)
        return
    assert {(part.ndim, part.shape[axis]) for part in parts} == {(expected.ndim, expected.shape[axis])}
    found = np.concatenate([channels(part, axis) for part in parts], axis=1)
    assert np.array_equal(np.sort(found, axis=1), channels(expected, axis))


# Geometry


@given(
    shape=st.lists(st.integers(0, 9), min_size=1, max_size=5).map(tuple),
    axis=st.none() | st.integers(0, 4),
    slab_elements=st.integers(1, 400),
)
@example(shape=(0, 9, 9, 9), axis=0, slab_elements=100)
def test_every_element_is_in_one_slab(shape, axis, slab_elements):
    axis = None if axis is None else axis % len(shape)
    index = np.arange(np.prod(shape)).reshape(shape)
    seen = []
    for slab in slabs(shape, axis, slab_elements):
        runs = [index.ravel()[slab.first + i * slab.stride :][: slab.run] for i in range(slab.n_runs)]
        assert all(len(run) == slab.run for run in runs)
        part = np.concatenate(runs).reshape(slab.shape)
        seen.append(part.ravel())
        if axis is None:
            assert part.size <= slab_elements
        else:
            assert part.size <= max(slab_elements, 64 * shape[axis])
            assert part.ndim == len(shape)
            channel = np.broadcast_to(np.arange(shape[axis]).reshape((-1,) + (1,) * (len(shape) - axis - 1)), shape)
            found = np.moveaxis(channel.ravel()[part], axis, 0).reshape(shape[axis], -1)
            assert np.array_equal(found, np.broadcast_to(np.arange(shape[axis])[:, None], found.shape))
    found = np.concatenate(seen) if seen else np.empty(0, int)
    assert np.array_equal(np.sort(found), index.ravel())


def test_columns_are_read_in_long_runs():
    parts = list(slabs((4096, 100_000), 0, 1 << 21))
    assert {slab.n_runs for slab in parts} == {4096}
    assert {slab.run for slab in parts[:-1]} == {512}
    assert [slab.n_runs for slab in slabs((4096, 1000), 1, 1 << 21)] == [1, 1]
    assert [slab.n_runs for slab in slabs((4, 1000), 0, 1 << 21)] == [1]


# The containers


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_npy(dtype, order, version, tmp_path, rng):
    values = np.asarray(rng.standard_normal((6, 70, 5)), dtype=dtype, order=order)
    path = tmp_path / "a.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array(file, values, version)
    for axis in (None, 0, 1, 2, -1, -3):
        with open_arrays(path) as (array,):
            assert (array.name, array.is_fortran, array.dtype) == (VALUES, order == "F", dtype)
            check(array, values, axis, 1000)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(save, tmp_path, rng):
    arrays = {
        "a": rng.standard_normal((5, 300)).astype(np.float32),
        "block/b.weight": np.asfortranarray(rng.standard_normal((70, 40))),
        "c": rng.standard_normal(1000).astype(np.float16),
    }
    save(tmp_path / "x.npz", **arrays)
    for axis in (None, 0, -1):
        with open_arrays(tmp_path / "x.npz") as stored:
            assert {array.name for array in stored} == arrays.keys()
            for array in stored:
                check(array, arrays[array.name], axis, 512)


def test_members_of_an_npz_may_be_read_in_turns(tmp_path, rng):
    arrays = {name: rng.standard_normal(5000) for name in "ab"}
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    with open_arrays(tmp_path / "x.npz") as stored:
        for start in (16_000, 0, 8_000, 32_000):
            for array in stored:
                buffer = np.empty(1000)
                array.read_into(start, buffer)
                assert np.array_equal(buffer, arrays[array.name][start // 8 :][:1000])


def test_safetensors(tmp_path, rng):
    values = rng.standard_normal((7, 300))
    arrays = {name: values.astype(name) for name in ("float16", "float32", "float64")}
    arrays["bfloat16"] = values.astype(ml_dtypes.bfloat16)
    save_file(arrays, tmp_path / "x.safetensors")
    with open_arrays(tmp_path / "x.safetensors") as stored:
        for array in stored:
            for axis in (None, 0, 1):
                check(array, arrays[array.name], axis, 700)


def test_empty_npz_has_no_arrays(tmp_path):
    np.savez(tmp_path / "x.npz")
    with open_arrays(tmp_path / "x.npz") as stored:
        assert stored == ()


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.safetensors", "a"])
def test_the_content_tells_what_a_file_is(name, tmp_path):
    (tmp_path / name).write_bytes(npy_bytes(np.ones(3)))
    with open_arrays(tmp_path / name) as (array,):
        assert array.shape == (3,)


# What an array must be


def test_arrays_that_cannot_be_calibrated_on_are_named(tmp_path):
    arrays = {
        "ids": np.arange(3),
        "flag": np.array([True]),
        "scalar": np.array(1, np.float32),
        "none": np.empty((0, 3)),
    }
    save_file(arrays, tmp_path / "x.safetensors")
    with open_arrays(tmp_path / "x.safetensors") as stored:
        for array in stored:
            error = InvalidTypeError if array.name in ("ids", "flag") else InvalidValueError
            with pytest.raises(error, match=rf"x\.safetensors: {array.name}: .*--exclude"):
                streamed(array, None, 100)


@pytest.mark.parametrize("axis", [2, -3])
def test_axis_out_of_range(axis, tmp_path):
    (tmp_path / "x.npy").write_bytes(npy_bytes(np.ones((2, 3))))
    with open_arrays(tmp_path / "x.npy") as (array,), pytest.raises(InvalidValueError, match=f"axis {axis} is out of"):
        streamed(array, axis, 100)


# Hostile files

_GOOD = header_of(describe()) + bytes(8)
HOSTILE_NPY = {
    "version 0": (b"\x93NUMPY\0\0" + _GOOD[8:], "version"),
    "version 3": (b"\x93NUMPY\3\0" + _GOOD[8:], "version"),
    "magic only": (b"\x93NUMPY", "version"),
    "no length": (b"\x93NUMPY\1\0\x10", "header length"),
    "length of 4 GB": (header_of(describe(), (2, 0), 0xFFFFFFFF), "header length"),
    "length beyond the file": (header_of(describe(), length=9000), "header length"),
    "long header": (header_of(b" " * 10_001), "header length"),
    "not a literal": (header_of(b"__import__('os')"), "header"),
    "syntax": (header_of(b"{"), "header"),
    "deep": (header_of(b"[" * 9000), "header"),
    "deep unary": (header_of(b"-" * 9000 + b"1"), "header"),
    "unhashable": (header_of(b"{[]: 1}"), "header"),
    "NUL": (header_of(b"\0"), "header"),
    "a list": (header_of([1]), "header"),
    "a key too many": (header_of(describe(x=1)), "header"),
    "a key too few": (header_of({"descr": "<f4", "shape": (2,)}), "header"),
    "keys of many types": (header_of({1: 2, "a": 3, None: 4}), "header"),
    "object dtype": (header_of(describe(descr="|O")) + bytes(16), "object array is a pickle"),
    "object dtype with size": (header_of(describe(descr="<O8")) + bytes(16), "object array is a pickle"),
    "structured dtype": (header_of(describe(descr=[("a", "<f4")])) + bytes(8), "descr"),
    "structured with an object": (header_of(describe(descr=[("a", "|O")])) + bytes(8), "descr"),
    "subarray dtype": (header_of(describe(descr=("<f4", (2,)))) + bytes(16), "descr"),
    "int of no size": (header_of(describe(descr="<i3")) + bytes(6), "descr"),
    "bool of two bytes": (header_of(describe(descr="<b2")) + bytes(4), "descr"),
    "long double": (header_of(describe(descr="<f16")) + bytes(32), "descr"),
    "no byte order": (header_of(describe(descr="f4")) + bytes(8), "descr"),
    "two dtypes": (header_of(describe(descr="<f4,<f4")) + bytes(16), "descr"),
    "bfloat16 as void": (npy_bytes(np.ones(2, ml_dtypes.bfloat16).view("V2")), "descr"),
    "dtype a number": (header_of(describe(descr=4)) + bytes(8), "descr"),
    "fortran_order 1": (header_of(describe(fortran_order=1)) + bytes(8), "fortran_order"),
    "shape a list": (header_of(describe(shape=[2])) + bytes(8), "shape"),
    "shape of bool": (header_of(describe(shape=(True, 2))) + bytes(8), "shape"),
    "shape of float": (header_of(describe(shape=(2.0,))) + bytes(8), "shape"),
    "negative": (header_of(describe(shape=(-2,))) + bytes(8), "shape"),
    "two negatives": (header_of(describe(shape=(-1, -2))) + bytes(8), "shape"),
    "product that wraps": (header_of(describe(shape=(1 << 62, 8))) + bytes(8), "shape"),
    "huge integer": (header_of(b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 5000 + b",)}"), "lit"),
    "65 dimensions": (header_of(describe(shape=(1,) * 65)) + bytes(4), "shape"),
    "truncated": (_GOOD[:-1], "shape"),
    "trailing": (_GOOD + b"\0", "shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE_NPY)
@pytest.mark.parametrize("container", ["npy", "stored", "deflated"])
def test_hostile_npy_is_refused_by_name(case, container, tmp_path):
    data, field = HOSTILE_NPY[case]
    path = tmp_path / f"x.{container}"
    if container == "npy":
        path.write_bytes(data)
    else:
        with zipfile.ZipFile(
            path, "w", zipfile.ZIP_STORED if container == "stored" else zipfile.ZIP_DEFLATED
        ) as archive:
            archive.writestr("a.npy", data)
    with pytest.raises(FileFormatError, match=field) as refusal, open_arrays(path):
        pass
    assert str(path) in str(refusal.value)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 400 + len(str(path))


def test_the_valid_neighbour_is_read(tmp_path):
    (tmp_path / "x.npy").write_bytes(_GOOD)
    with open_arrays(tmp_path / "x.npy") as (array,):
        assert np.array_equal(streamed(array, None, 100)[0], np.zeros(2, np.float32))


class _Explosive:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (pytest.fail, ("a pickle was opened",))


def zip_of(members: dict[str, bytes], **options: object) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def patched(data: bytes, old: bytes, new: bytes, index: int = 0) -> bytes:
    """The archive with bytes changed in its header number `index` of a member in the directory."""
    position = data.index(b"PK\1\2")
    for _ in range(index):
        position = data.index(b"PK\1\2", position + 1)
    at = data.index(old, position)
    return data[:at] + new + data[at + len(old) :]


_ZIP = zip_of({"a.npy": _GOOD})
_SIZES = struct.pack("<II", len(_GOOD), len(_GOOD))
HOSTILE_NPZ = {
    "no directory": b"PK\3\4" + bytes(100),
    "only an end": b"PK\5\6",
    "a pickle of PyTorch": zip_of({"archive/data.pkl": pickle.dumps(_Explosive())}),
    "an object array": zip_of({"a.npy": header_of(describe(descr="|O")) + pickle.dumps(_Explosive())}),
    "a folder": zip_of({"a/": b""}),
    "lzma": zip_of({"a.npy": _GOOD}, compression=zipfile.ZIP_LZMA),
    "bzip2": zip_of({"a.npy": _GOOD}, compression=zipfile.ZIP_BZIP2),
    "encrypted": patched(_ZIP, b"PK\1\2\x14\x03\x14\0\0\0", b"PK\1\2\x14\x03\x14\0\1\0"),
    "sizes that differ": patched(_ZIP, _SIZES, struct.pack("<II", 10, len(_GOOD))),
    "larger than the file": patched(_ZIP, _SIZES, struct.pack("<II", 1 << 30, 1 << 30)),
    "an offset beyond the file": patched(_ZIP, bytes(4) + b"a.npy", struct.pack("<I", 1 << 30) + b"a.npy"),
    "an offset elsewhere": patched(_ZIP, bytes(4) + b"a.npy", struct.pack("<I", 5) + b"a.npy"),
    "the same name twice": patched(zip_of({"a.npy": _GOOD, "b.npy": _GOOD}), b"b.npy", b"a.npy", 1),
    "a zip in front": b"MZ" + _ZIP,
    "cut off": _ZIP[:-1],
}


@pytest.mark.parametrize("case", HOSTILE_NPZ)
def test_hostile_npz_is_refused(case, tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(HOSTILE_NPZ[case])
    with pytest.raises(FileFormatError) as refusal, open_arrays(path):
        pass
    assert str(path) in str(refusal.value)
    assert str(refusal.value).isprintable()


def test_damaged_data_of_a_member_are_found(tmp_path, rng):
    data = bytearray(zip_of({"a.npy": npy_bytes(rng.standard_normal(10_000))}, compression=zipfile.ZIP_DEFLATED))
    data[len(data) // 2] ^= 0x55
    (tmp_path / "x.npz").write_bytes(data)
    with open_arrays(tmp_path / "x.npz") as (array,), pytest.raises(FileFormatError, match=r"x\.npz: a\.npy: "):
        streamed(array, None, 1000)


@pytest.mark.parametrize("case", PICKLES)
def test_pickles_are_never_opened(case, tmp_path):
    path = PICKLES[case](tmp_path)
    with pytest.raises(FileFormatError), open_arrays(path):
        pass


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_safetensors_is_refused(case, tmp_path):
    (tmp_path / "x").write_bytes(MALFORMED[case])
    with pytest.raises(FileFormatError), open_arrays(tmp_path / "x"):
        pass


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError), open_arrays(tmp_path / "none"):
        pass
    with pytest.raises(FileFormatError, match="has neither"), open_arrays(tmp_path):
        pass
    (tmp_path / "empty").touch()
    with pytest.raises(FileFormatError), open_arrays(tmp_path / "empty"):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npy", "stored", "deflated"])
def test_mutated_files_are_read_or_refused(kind, tmp_path):
    values = np.arange(24, dtype=np.float32).reshape(2, 12)
    data = npy_bytes(values)
    if kind != "npy":
        options = {"compression": zipfile.ZIP_STORED if kind == "stored" else zipfile.ZIP_DEFLATED}
        data = zip_of({"a.npy": data, "b.npy": data}, **options)
    rng = random.Random(0)
    path = tmp_path / "x"
    n_refused = 0
    for i in range(600):
        mutated = bytearray(data)
        if i % 3 == 0:
            del mutated[rng.randrange(len(data)) :]
        for _ in range(rng.randint(1, 3) if mutated else 0):
            mutated[rng.randrange(len(mutated))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        path.write_bytes(mutated)
        try:
            with open_arrays(path) as stored:
                for array in stored:
                    streamed(array, rng.choice((None, 0, 1)), 64)
        except QuantcoreError as error:
            assert str(error).isprintable()
            n_refused += 1
    assert n_refused > 200


def test_headers_of_numpy_are_literals(tmp_path):
    """Our reader parses what NumPy's own writer documents."""
    data = npy_bytes(np.ones((2, 3), np.float32))
    (length,) = struct.unpack("<H", data[8:10])
    assert ast.literal_eval(data[10 : 10 + length].decode()) == describe(shape=(2, 3))
