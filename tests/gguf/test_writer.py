"""What the writer writes, the reader accepts; what the reader would refuse, the writer refuses without an output."""

import os
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore.errors import InvalidTypeError, InvalidValueError, QuantcoreError
from quantcore.files.disk import OutputFile
from quantcore.ggml import GGML_TYPES, GGMLType
from quantcore.gguf import GGUFReader, GGUFWriter, KeyValue, ValueType
from tests.support.hostile_cases import refusal

F32, Q4_0 = GGML_TYPES[0], GGML_TYPES[2]
LONE_SURROGATE = "a\ud800"

TEXT = st.text(max_size=12) | st.sampled_from(["", "a\0b", LONE_SURROGATE, "é" * 40, "k" * 70_000])
KEYS = st.sampled_from(["a", "b", "general.alignment", "general.architecture"]) | TEXT
INTEGERS = st.integers(-(2**70), 2**70) | st.sampled_from([0, 1, 3, 8, 32, 64, 2**16, 2**17, 2**32 - 1])
SCALARS = INTEGERS | st.floats() | TEXT | st.booleans() | st.binary(max_size=9) | st.none()
TYPES = st.sampled_from([t.name for t in ValueType])
NAMES = st.sampled_from(["w", "v"]) | TEXT | st.text("n", min_size=60, max_size=130)
EXTENTS = st.sampled_from([0, 1, 2, 3, 32, 64, 256, -1, 2**31, 2**62, 2**63, True, 1.0])
NEW = st.builds(
    GGMLType, st.just("new"), st.sampled_from([4, 43, 57, 2**16 - 1, 2**16]), st.sampled_from([1, 32, 2048]),
    st.sampled_from([0, 1, 2, 18, 257, 1000]),
)  # fmt: skip
TENSORS = st.tuples(NAMES, st.lists(EXTENTS, max_size=6).map(tuple), st.sampled_from(list(GGML_TYPES.values())) | NEW)


def write(path, kvs, tensors, seed=0, **options):
    """Write a file of random bytes; returns those of each tensor, or None if it would be too large for a test."""
    rng, data = np.random.default_rng(seed), {}
    with OutputFile(path, force=True) as file:
        writer = GGUFWriter(file, kvs, tensors, **options)
        for name, shape, type_ in tensors:
            size = prod(shape) // type_.block_size * type_.bytes_per_block
            if size > 1 << 20:
                raise MemoryError
            data[name] = rng.integers(0, 256, size, np.uint8).tobytes()
            for part in (data[name][: size // 3], data[name][size // 3 :]):
                writer.write(part)
            writer.end_tensor()
    return data


@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of the longest keys
@pytest.mark.slow
@given(
    entries=st.lists(st.tuples(KEYS, SCALARS | st.lists(SCALARS, max_size=3), TYPES), max_size=5),
    tensors=st.lists(TENSORS, max_size=4),
    long_names=st.booleans(),
)
def test_what_the_writer_writes_the_reader_accepts(tmp_path_factory, entries, tensors, long_names):
    path = tmp_path_factory.getbasetemp() / "property.gguf"
    path.unlink(missing_ok=True)
    kvs = []
    for key, value, kind in entries:  # whatever `KeyValue` takes goes to the writer
        make = KeyValue.array if isinstance(value, list) else KeyValue.of
        try:
            kvs.append(make(key, value, kind))
        except QuantcoreError as error:
            assert str(error).isprintable() and len(str(error)) < 1000
    try:
        data = write(path, kvs, tensors, long_names=long_names)
    except MemoryError:
        return
    except QuantcoreError as error:
        assert str(error).isprintable() and len(str(error)) < 1000
        assert not path.exists()
        return
    with GGUFReader(path) as reader:
        assert [(kv.key, kv.type_id, kv.raw) for kv in reader.kvs] == [(kv.key, kv.type_id, kv.raw) for kv in kvs]
        assert [(t.name, t.type_id) for t in reader.tensors] == [(name, type_.id) for name, _, type_ in tensors]
        for tensor, (name, shape, _) in zip(reader.tensors, tensors, strict=True):
            assert tensor.size == prod(shape)
            buffer = bytearray(tensor.nbytes)
            reader.read_into(tensor, 0, buffer)
            if tensor.type_id in GGML_TYPES:
                assert buffer == data[name]
            else:  # nothing tells the padding from the data
                assert buffer == data[name] + bytes(len(buffer) - len(data[name]))
        assert reader.notices == ()


# Good ones are rare among arguments drawn so freely: these are good by construction.
GOOD_KVS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12),
    st.tuples(st.integers(-128, 127), st.sampled_from(["int8", "int32", "int64", "float32", "float64"])),
    max_size=5,
)
GOOD_NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=15)
GOOD_TENSORS = st.dictionaries(
    GOOD_NAMES,
    st.tuples(st.lists(st.integers(0, 3), max_size=3), st.integers(0, 3), st.sampled_from(list(GGML_TYPES.values()))),
    max_size=4,
)


@given(kvs=GOOD_KVS, tensors=GOOD_TENSORS, alignment=st.sampled_from([None, 8, 32, 4096, 65536]))
def test_good_arguments_are_written(tmp_path_factory, kvs, tensors, alignment):
    path = tmp_path_factory.getbasetemp() / "good.gguf"
    kvs.pop("general.alignment", None)
    entries = [KeyValue.of(key, value, kind) for key, (value, kind) in kvs.items()]
    if alignment is not None:
        entries.append(KeyValue.uint32("general.alignment", alignment))
    specs = [(name, (*rows, n * type_.block_size), type_) for name, (rows, n, type_) in tensors.items()]
    data = write(path, entries, specs)
    with GGUFReader(path) as reader:
        assert reader.alignment == (alignment or 32)
        assert [(kv.key, kv.value) for kv in reader.kvs if kv.key != "general.alignment"] == [
            (key, value) for key, (value, _) in kvs.items()
        ]
        for tensor in reader.tensors:
            buffer = bytearray(tensor.nbytes)
            reader.read_into(tensor, 0, buffer)
            assert buffer == data[tensor.name]
        assert [t.name for t in reader.tensors] == list(data)


def kv(key="a", value=1):
    return KeyValue.uint32(key, value)


WRONG_ARGUMENTS = {
    "alignment 0": ([kv("general.alignment", 0)], [], InvalidValueError, "general.alignment: expected a power of two"),
    "alignment 3": ([kv("general.alignment", 3)], [], InvalidValueError, "got 3 as UINT32"),
    "alignment 4": ([kv("general.alignment", 4)], [], InvalidValueError, "got 4 as UINT32"),
    "alignment 2^17": ([kv("general.alignment", 2**17)], [], InvalidValueError, "got 131072 as UINT32"),
    "alignment as text": ([KeyValue.string("general.alignment", "32")], [], InvalidValueError, "'32' as STRING"),
    "alignment of 64 bits": ([KeyValue.uint64("general.alignment", 32)], [], InvalidValueError, "32 as UINT64"),
    "key twice": ([kv(), kv("b"), kv()], [], InvalidValueError, "'a' is there twice"),
    "no KeyValue": ([("a", 1)], [], InvalidTypeError, r"kvs: expected KeyValue, got \('a', 1\)"),
    "tensor twice": ([], [("w", (1,), F32), ("w", (1,), F32)], InvalidValueError, "'w': there are two of this name"),
    "no triple": ([], [("w", (1,))], InvalidTypeError, r"expected \(name, shape, type\)"),
    "no type": ([], [("w", (1,), None)], InvalidTypeError, "type of tensor 'w': expected a GGUFQuantType"),
    "unknown type": ([], [("w", (1,), "Q9_9")], InvalidValueError, "type of tensor 'w': unknown type 'Q9_9'"),
    "made-up type": ([], [("w", (32,), GGMLType("Q4_0", 2, 32, 17))], InvalidValueError, "is not a type of ggml"),
    "type of a large id": ([], [("w", (32,), GGMLType("x", 2**16, 32, 17))], InvalidValueError, "is not a type"),
    "part blocks": ([], [("w", (2, 33), Q4_0)], InvalidValueError, "rows of 33 are not whole blocks of Q4_0, 32"),
    "part blocks of a row": ([], [("w", (2, 16), Q4_0)], InvalidValueError, "rows of 16 are not whole blocks"),
    "name of bytes": ([], [(b"w", (1,), F32)], InvalidTypeError, "name of a tensor: expected a string, got b'w'"),
    "empty name": ([], [("", (1,), F32)], InvalidValueError, "1 to 63 bytes without NUL, this has 0"),
    "NUL in a name": ([], [("a\0b", (1,), F32)], InvalidValueError, "without NUL"),
    "half a surrogate": ([], [(LONE_SURROGATE, (1,), F32)], InvalidValueError, "surrogate"),
    "name of 64 bytes": ([], [("é" * 32, (1,), F32)], InvalidValueError, "1 to 63 bytes without NUL, this has 64"),
    "no dimensions": ([], [("w", (), F32)], InvalidValueError, "1 to 4 dimensions"),
    "five dimensions": ([], [("w", (1,) * 5, F32)], InvalidValueError, "1 to 4 dimensions"),
    "shape of a number": ([], [("w", 32, F32)], InvalidTypeError, "expected a tuple of integers as its shape, got 32"),
    "extent of -1": ([], [("w", (-1, 32), F32)], InvalidValueError, "shape of tensor 'w': expected an integer from 0"),
    "extent of 1.5": ([], [("w", (1.5,), F32)], InvalidTypeError, "shape of tensor 'w': expected an integer from 0"),
    "extent of True": ([], [("w", (True,), F32)], InvalidTypeError, "shape of tensor 'w': expected an integer"),
    "2^64 elements": ([], [("w", (2**32, 2**32), F32)], InvalidValueError, r"more than 2\*\*63 elements or bytes"),
    "2^64 elements and 0": ([], [("w", (2**32, 0, 2**32), F32)], InvalidValueError, r"more than 2\*\*63"),
    "2^63 bytes": ([], [("w", (2**61,), F32)], InvalidValueError, r"more than 2\*\*63 elements or bytes"),
    "2^63 bytes in two": ([], [(n, (2**60,), F32) for n in "ab"], InvalidValueError, "bytes together"),
    "too many keys": ([kv(f"{i}") for i in range(200_000)], [], InvalidValueError, "more than a reader keeps"),
}  # fmt: skip


@pytest.mark.parametrize(("kvs", "tensors", "error", "problem"), WRONG_ARGUMENTS.values(), ids=WRONG_ARGUMENTS)
def test_wrong_arguments_are_refused(kvs, tensors, error, problem, tmp_path):
    with pytest.raises(error, match=problem), OutputFile(tmp_path / "out.gguf") as file:
        GGUFWriter(file, kvs, tensors)
    assert os.listdir(tmp_path) == []


def test_metadata_beyond_the_limit_of_the_reader(tmp_path, monkeypatch):
    for module in ("writer", "cursor"):
        monkeypatch.setattr(f"quantcore.gguf.{module}.MAX_METADATA_BYTES", 10_000)
    path = tmp_path / "out.gguf"
    for size in range(9_800, 10_100, 7):
        try:
            write(path, [KeyValue.string("a", "x" * size)], [("w", (1,), F32)])
        except InvalidValueError as error:
            assert "the limit for metadata is 10000" in str(error)
            assert size > 9_850
        else:
            assert size < 9_930
            GGUFReader(path).close()


def test_long_names_are_an_option(tmp_path):
    write(tmp_path / "out.gguf", [], [("n" * 127, (3,), F32)], long_names=True)
    with GGUFReader(tmp_path / "out.gguf") as reader:
        assert reader.tensors[0].name == "n" * 127
    with pytest.raises(InvalidValueError, match="1 to 127 bytes without NUL, this has 128"):
        write(tmp_path / "out.gguf", [], [("n" * 128, (3,), F32)], long_names=True)
    with pytest.raises(InvalidTypeError, match="long_names: expected a bool, got 127"):
        write(tmp_path / "out.gguf", [], [], long_names=127)


# bytes of tensors

TWO = [("a", (8,), F32), ("b", (4,), F32)]


@pytest.mark.parametrize("n_bytes", [0, 1, 31])
def test_tensor_that_lacks_bytes_cannot_be_ended(n_bytes, tmp_path):
    with (
        pytest.raises(InvalidValueError, match=f"tensor 'a' lacks {32 - n_bytes} of its 32 bytes"),
        OutputFile(tmp_path / "out.gguf") as file,
    ):
        writer = GGUFWriter(file, [], TWO)
        writer.write(bytes(n_bytes))
        writer.end_tensor()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("parts", [[33], [32, 1], [31, 2], [100]])
def test_tensor_takes_no_more_bytes_than_it_has(parts, tmp_path):
    with pytest.raises(InvalidValueError, match=r"tensor 'a' takes \d+ more"), OutputFile(tmp_path / "out") as file:
        writer = GGUFWriter(file, [], TWO)
        for part in parts:
            writer.write(bytes(part))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("whole", "rest", "missing"), [(0, 0, "'a' lacks 32"), (1, 0, "'b' lacks 16"), (1, 15, "'b' lacks 1 of")]
)
def test_file_that_lacks_bytes_gets_no_name(whole, rest, missing, tmp_path):
    """Whoever forgets tensors finds no file, even without a call that ends the writer."""
    with pytest.raises(InvalidValueError, match=f"tensor {missing}"), OutputFile(tmp_path / "out.gguf") as file:
        writer = GGUFWriter(file, [], TWO)
        for _ in range(whole):
            writer.write(bytes(32))
            writer.end_tensor()
        writer.write(bytes(rest))
    assert os.listdir(tmp_path) == []


def test_close_says_what_is_missing(tmp_path):
    with OutputFile(tmp_path / "out.gguf") as file:
        writer = GGUFWriter(file, [], TWO)
        with pytest.raises(InvalidValueError, match="tensor 'a' lacks 32"):
            writer.close()
        writer.write(np.zeros(8, np.float32))
        writer.end_tensor()
        writer.write(np.zeros(4, np.float32))
        writer.close()
        with pytest.raises(InvalidValueError, match="tensor 'b' was ended already"):
            writer.end_tensor()
        with pytest.raises(InvalidValueError, match="tensor 'b' takes 0 more"):
            writer.write(b"\0")
    with GGUFReader(tmp_path / "out.gguf") as reader:
        assert [t.name for t in reader.tensors] == ["a", "b"]


@pytest.mark.parametrize("ends_empty_ones", [False, True])
def test_tensors_without_elements_may_be_ended_or_passed_over(ends_empty_ones, tmp_path):
    tensors = [("z", (0,), F32), ("a", (8,), F32), ("y", (2, 0), F32), ("x", (0, 32), Q4_0)]
    with OutputFile(tmp_path / "out.gguf") as file:
        writer = GGUFWriter(file, [], tensors)
        for name, _, _ in tensors:
            writer.write(bytes(32) if name == "a" else b"")
            if name == "a" or ends_empty_ones:
                writer.end_tensor()
    with GGUFReader(tmp_path / "out.gguf") as reader:
        assert [(t.name, t.nbytes) for t in reader.tensors] == [("z", 0), ("a", 32), ("y", 0), ("x", 0)]


def test_empty_file_takes_no_bytes(tmp_path):
    with OutputFile(tmp_path / "out.gguf") as file:
        writer = GGUFWriter(file, [kv()], [])
        with pytest.raises(InvalidValueError, match="a file without tensors takes 0 more"):
            writer.write(b"x")
    with GGUFReader(tmp_path / "out.gguf") as reader:
        assert reader.value("a") == 1


def test_the_reader_does_refuse_what_the_writer_refuses(tmp_path):
    """The check of the checks: the same head with the wrong alignment, written around them."""
    path = tmp_path / "out.gguf"
    write(path, [kv("general.alignment", 64)], [("w", (3,), F32)])
    data = path.read_bytes()
    at = data.index(b"general.alignment") + len(b"general.alignment") + 4
    path.write_bytes(data[:at] + b"\3\0\0\0" + data[at + 4 :])
    assert "general.alignment" in refusal(GGUFReader, path)
