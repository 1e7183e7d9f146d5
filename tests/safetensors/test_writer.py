"""What the writer writes, our reader and the safetensors library accept; what they would refuse, the writer refuses."""

import os
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import deserialize

from quantcore.errors import InvalidTypeError, InvalidValueError, QuantcoreError
from quantcore.files.disk import OutputFile
from quantcore.safetensors import SafetensorsWriter
from quantcore.safetensors.reader import ITEM_BITS, SafetensorsReader
from quantcore.safetensors.writer import TensorSpec

LONE_SURROGATE = "a\ud800"
TEXT = st.text(max_size=12) | st.sampled_from(["", "a", "b", "a\0b", "__metadata__", LONE_SURROGATE])
EXTENTS = st.sampled_from([0, 1, 2, 3, 8, -1, 2**31, 2**62, 2**63, True, 1.0])
DTYPES = st.sampled_from([*ITEM_BITS, "F128", None])
SPECS = st.builds(TensorSpec, TEXT, DTYPES, st.lists(EXTENTS, max_size=4).map(tuple))
GOOD_SPECS = st.builds(
    TensorSpec,
    st.text(max_size=12),
    st.sampled_from(list(ITEM_BITS)),
    st.lists(st.integers(0, 4), max_size=4).map(tuple),
)


def write(path, specs, metadata, seed=0):
    """Write a file of random bytes in parts, the tensors in any order; returns the bytes of each."""
    rng, data = np.random.default_rng(seed), {}
    with OutputFile(path, force=True) as file:
        writer = SafetensorsWriter(file, specs, metadata)
        for spec in rng.permutation(np.array(specs, object)) if specs else ():
            if spec.nbytes > 1 << 20:
                raise MemoryError
            whole = data[spec.name] = rng.integers(0, 256, spec.nbytes, np.uint8).tobytes()
            middle = len(whole) // 3
            writer.write(spec.name, 0, whole[:middle])
            writer.write(spec.name, middle, whole[middle:])
    return data


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of the longest keys
@given(
    specs=st.lists(SPECS, max_size=4) | st.lists(GOOD_SPECS, max_size=4),
    metadata=st.dictionaries(TEXT | st.none(), TEXT | st.integers(), max_size=3) | st.just({}),
)
def test_what_the_writer_writes_the_readers_accept(tmp_path_factory, specs, metadata):
    path = tmp_path_factory.getbasetemp() / "property.safetensors"
    path.unlink(missing_ok=True)
    try:
        data = write(path, specs, metadata)
    except MemoryError:
        return
    except QuantcoreError as error:
        assert str(error).isprintable() and len(str(error)) < 1000
        assert not path.exists()
        return
    expected = {s.name: (s.dtype, s.shape, data[s.name]) for s in specs}
    found = {}
    with SafetensorsReader(path) as reader:
        for tensor in reader.tensors:
            buffer = bytearray(tensor.nbytes)
            reader.read_into(tensor, 0, buffer)
            found[tensor.name] = (tensor.dtype, tensor.shape, bytes(buffer))
        assert reader.metadata == metadata
    assert found == expected
    theirs = {name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in deserialize(path.read_bytes())}
    assert theirs == expected


F32 = TensorSpec("w", "F32", (2,))
WRONG = {
    "two of a name": ([F32, F32], {}, InvalidValueError, "tensor 'w': there are two of this name"),
    "the metadata's name": ([TensorSpec("__metadata__", "F32", (2,))], {}, InvalidValueError, "keeps this name"),
    "name of a number": ([TensorSpec(7, "F32", (2,))], {}, InvalidTypeError, "expected a string, got 7"),
    "half a surrogate": ([TensorSpec(LONE_SURROGATE, "F32", (2,))], {}, InvalidValueError, "surrogate"),
    "unknown dtype": ([TensorSpec("w", "F128", (2,))], {}, InvalidValueError, "tensor 'w': unknown dtype 'F128'"),
    "shape of a number": ([TensorSpec("w", "F32", 2)], {}, InvalidTypeError, "expected a tuple of integers"),
    "extent of -1": ([TensorSpec("w", "F32", (-1,))], {}, InvalidValueError, "shape of tensor 'w': expected"),
    "extent of True": ([TensorSpec("w", "F32", (True,))], {}, InvalidTypeError, "shape of tensor 'w'"),
    "half a byte": ([TensorSpec("w", "F4", (3,))], {}, InvalidValueError, "has no whole number of bytes"),
    "2^64 elements": ([TensorSpec("w", "U8", (2**32, 2**32))], {}, InvalidValueError, r"more than 2\*\*63 bits"),
    "2^64 elements and 0": ([TensorSpec("w", "U8", (2**32, 2**32, 0))], {}, InvalidValueError, r"2\*\*63 bits"),
    "no spec": ([("w", "F32", (2,))], {}, InvalidTypeError, "expected TensorSpec"),
    "metadata of a list": ([F32], [("a", "b")], InvalidTypeError, "metadata: expected a mapping"),
    "metadata of a number": ([F32], {"a": 1}, InvalidTypeError, "metadata: value of 'a': expected a string, got 1"),
    "metadata of half a surrogate": ([F32], {"a": LONE_SURROGATE}, InvalidValueError, "surrogate"),
    "a long header": ([F32], {"a": "x" * 100_000_000}, InvalidValueError, "the limit is 100000000"),
}  # fmt: skip


@pytest.mark.parametrize(("specs", "metadata", "error", "problem"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_refused(specs, metadata, error, problem, tmp_path):
    with pytest.raises(error, match=problem), OutputFile(tmp_path / "x.safetensors") as file:
        SafetensorsWriter(file, specs, metadata)
    assert os.listdir(tmp_path) == []


WRONG_PARTS = {
    "nothing at all": ([], "tensor 'v' lacks 8 of its 8 bytes"),
    "too few": ([("w", 0, 8), ("v", 0, 7)], "tensor 'v' lacks 1 of its 8 bytes"),
    "too many": ([("w", 0, 9)], "9 bytes from 0 on; 0 of the 8 bytes of tensor 'w'"),
    "beyond the end": ([("w", 0, 8), ("w", 8, 1)], "1 bytes from 8 on; 8 of the 8 bytes"),
    "a gap": ([("w", 4, 4)], "4 bytes from 4 on; 0 of the 8 bytes"),
    "twice": ([("w", 0, 4), ("w", 0, 4)], "4 bytes from 0 on; 4 of the 8 bytes"),
    "before the start": ([("w", -4, 4)], "start: expected an integer from 0 to [0-9]+, got -4"),
    "another name": ([("u", 0, 4)], "name: 'u' is none of the tensors"),
}


@pytest.mark.parametrize(("parts", "problem"), WRONG_PARTS.values(), ids=WRONG_PARTS)
def test_wrong_parts_are_refused(parts, problem, tmp_path):
    with pytest.raises(InvalidValueError, match=problem), OutputFile(tmp_path / "x.safetensors") as file:
        writer = SafetensorsWriter(file, [F32, TensorSpec("v", "F32", (2,))], {})
        for name, start, count in parts:
            writer.write(name, start, bytes(count))
    assert os.listdir(tmp_path) == []


def test_size_of_a_shape():
    assert TensorSpec("w", "F4", (3, 2)).nbytes == prod((3, 2)) // 2
