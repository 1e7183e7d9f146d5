"""The reader of safetensors files finds what the `safetensors` library wrote, and what the library finds in it."""

import json
import math
import pickle
import random
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
from hypothesis import assume, example, given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from quantcore.errors import FileFormatError
from quantcore.models.opening import is_gguf
from quantcore.safetensors.reader import ITEM_BITS, Checkpoint, SafetensorsReader, open_checkpoint
from tests.support.hostile_safetensors import build_safetensors, entry

DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "F32": "float32", "F64": "float64", "C64": "complex64",
    "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu, "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}  # fmt: skip
SHAPES = ((), (1,), (0,), (3, 0, 2), (4, 6), (2, 1, 3, 1, 2))


def data_of(reader: SafetensorsReader | Checkpoint) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Dtype, shape and bytes of each tensor."""
    found = {}
    for tensor in reader.tensors:
        buffer = bytearray(tensor.nbytes)
        reader.read_into(tensor, 0, buffer)
        found[tensor.name] = (tensor.dtype, tensor.shape, bytes(buffer))
    return found


def by_library(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        name: (view["dtype"], tuple(view["shape"]), bytes(view["data"]))
        for name, view in safetensors.deserialize(path.read_bytes())
    }


def random_array(dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    dtype = np.dtype(dtype)
    n_bytes = math.prod(shape) * dtype.itemsize
    data = np.random.default_rng(n_bytes).integers(0, 2 if dtype.kind == "b" else 256, n_bytes, np.uint8)
    return data.view(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_every_numpy_dtype(dtype, tmp_path):
    path = tmp_path / "model.safetensors"
    arrays = {f"tensor {shape}": random_array(DTYPES[dtype], shape) for shape in SHAPES}
    save_file(arrays, path)
    with SafetensorsReader(path) as reader:
        assert data_of(reader) == by_library(path)
        assert data_of(reader) == {name: (dtype, a.shape, a.tobytes()) for name, a in arrays.items()}


def test_arrays_can_be_read_into_directly(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": random_array("float32", (5, 7)), "b": random_array(ml_dtypes.bfloat16, (3,))}, path)
    arrays = load_file(path)
    with SafetensorsReader(path) as reader:
        for tensor in reader.tensors:
            array = np.empty(tensor.shape, arrays[tensor.name].dtype)
            reader.read_into(tensor, 0, array.view(np.uint8))
            assert array.tobytes() == arrays[tensor.name].tobytes()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    tensors=st.dictionaries(
        TEXT.filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 5), max_size=4).map(tuple)),
        max_size=8,
    ),
    metadata=st.none() | st.dictionaries(TEXT, TEXT, max_size=4),
)
@example({}, None)
@example({}, {"format": "pt"})
def test_random_files(tmp_path_factory, tensors, metadata):
    assume(tensors or metadata != {})  # of which the library makes a header that is not JSON
    path = tmp_path_factory.getbasetemp() / "random.safetensors"
    arrays = {name: random_array(DTYPES[dtype], shape) for name, (dtype, shape) in tensors.items()}
    save_file(arrays, path, metadata)
    with SafetensorsReader(path) as reader:
        assert data_of(reader) == by_library(path)
        assert data_of(reader) == {name: (*tensors[name], array.tobytes()) for name, array in arrays.items()}
        assert reader.metadata == (metadata or {})
        assert reader.file_path == path
        offsets = [tensor.offset for tensor in reader.tensors]
        assert offsets == sorted(offsets)


def test_table_of_dtypes_is_the_one_tested():
    assert ITEM_BITS.keys() == DTYPES.keys() | {"F4", "F6_E2M3", "F6_E3M2"}


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F6_E3M2"])
def test_dtypes_of_less_than_a_byte(dtype, tmp_path):
    path = tmp_path / "model.safetensors"
    ends = [24 * ITEM_BITS[dtype] // 8, 28 * ITEM_BITS[dtype] // 8]
    header = {"a": entry(dtype, [3, 8], [0, ends[0]]), "b": entry(dtype, [4], ends)}
    path.write_bytes(build_safetensors(header, bytes(range(ends[1]))))
    with SafetensorsReader(path) as reader:
        assert data_of(reader) == by_library(path)
        assert data_of(reader)["b"] == (dtype, (4,), bytes(range(*ends)))


def test_any_part_of_a_tensor_can_be_read(tmp_path):
    path = tmp_path / "model.safetensors"
    arrays = {name: random_array("float64", (40, 5)) for name in ("first", "second", "third")}
    save_file(arrays, path)
    rng = random.Random(0)
    with SafetensorsReader(path) as reader, open_checkpoint(path) as checkpoint:
        for _ in range(200):
            tensor = rng.choice(reader.tensors)
            start, stop = sorted(rng.choices(range(tensor.nbytes + 1), k=2))
            for source in (reader, checkpoint):
                buffer = bytearray(stop - start)
                source.read_into(tensor, start, buffer)
                assert buffer == arrays[tensor.name].tobytes()[start:stop]


@pytest.mark.parametrize("length", [640, 0x0380, 0x0480, 0x0580, 0x010280])
def test_header_whose_length_looks_like_a_pickle(length, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(build_safetensors(json.dumps({"a": entry()}).encode().ljust(length), bytes(8)))
    assert path.read_bytes()[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    assert not is_gguf(path)
    with SafetensorsReader(path) as reader:
        assert data_of(reader) == by_library(path)
    for protocol in (2, 3, 4, 5):
        path.write_bytes(pickle.dumps([1.0, "a" * 24], protocol=protocol))
        with pytest.raises(FileFormatError, match="pickle"):
            is_gguf(path)


# Folders of shards


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    names = ["z", "a", "layers.10.w", "layers.9.w", "\u00e9", "empty", "scalar"]
    shapes = [(2, 3), (4,), (1, 1), (5, 2), (3,), (0, 4), ()]
    return {name: random_array("float16", shape) for name, shape in zip(names, shapes, strict=True)}


def write_shards(folder: Path, arrays: dict[str, np.ndarray], files: list[str]) -> None:
    """Spread tensors over files, and write the index as the transformers library does."""
    weight_map = {name: files[i % len(files)] for i, name in enumerate(arrays)}
    for file in files:
        save_file({n: a for n, a in arrays.items() if weight_map[n] == file}, folder / file, {"format": "pt"})
    index = {"metadata": {"total_size": sum(a.nbytes for a in arrays.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


@pytest.mark.parametrize("n_shards", [1, 2, 3, 7])
def test_shards_are_read_as_one_checkpoint(n_shards, arrays, tmp_path):
    files = [f"model-{i + 1:05}-of-{n_shards:05}.safetensors" for i in range(n_shards)]
    write_shards(tmp_path, arrays, files)
    expected = {name: ("F16", a.shape, a.tobytes()) for name, a in arrays.items()}
    for path in (tmp_path, tmp_path / "model.safetensors.index.json", str(tmp_path)):
        with open_checkpoint(path) as checkpoint:
            assert data_of(checkpoint) == expected
            assert [shard.file_path.name for shard in checkpoint.shards] == files
            assert checkpoint.folder == tmp_path
    assert {k: v for file in files for k, v in by_library(tmp_path / file).items()} == expected


def test_index_counts_before_a_single_file(arrays, tmp_path):
    write_shards(tmp_path, arrays, ["a.safetensors", "b.safetensors"])
    save_file({"other": random_array("float32", (2,))}, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        assert data_of(checkpoint).keys() == arrays.keys()
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        assert data_of(checkpoint).keys() == {"other"}


def test_folder_with_a_single_file(arrays, tmp_path):
    save_file(arrays, tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with open_checkpoint(path) as checkpoint:
            assert data_of(checkpoint) == by_library(tmp_path / "model.safetensors")
            assert len(checkpoint.shards) == 1
