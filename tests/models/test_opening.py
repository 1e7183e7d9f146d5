"""`open_model`: every container gives the same tensors, whose values are those of the decoders, in any parts."""

import json
import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import quantcore
from quantcore.calibration import Calibrator, calibrate_files
from quantcore.conversion import dequantize_checkpoint, quantize_checkpoint, quantize_model
from quantcore.conversion.rules import UNWEIGHTED_MODEL_TYPES
from quantcore.errors import FileFormatError, InvalidTypeError, InvalidValueError
from quantcore.ggml.formats import dequantize, quantize
from quantcore.models import open_model
from quantcore.models.tensors import READ_ELEMENTS
from tests.support.contract import assert_same_floats
from tests.support.models import Tensor, write_gguf


def normal(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return np.random.default_rng([7, *shape]).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("type_name", [t.name for t in UNWEIGHTED_MODEL_TYPES])
def test_gguf_of_every_type(type_name, tmp_path):
    values = normal(5, 512)
    save_file({"a.weight": values}, tmp_path / "x.safetensors")
    quantize_model(tmp_path / "x.safetensors", tmp_path / "x.gguf", type_name, pure=True)
    expected = dequantize(quantize(values, type_name), type_name)
    with open_model(tmp_path / "x.gguf") as model:
        assert model.paths == (tmp_path / "x.gguf",)
        (tensor,) = model.tensors.values()
        assert (tensor.name, tensor.type, tensor.shape, tensor.size) == ("a.weight", type_name, (5, 512), 2560)
        assert tensor.nbytes == quantize(values, type_name).nbytes
        assert_same_floats(tensor.values(), expected.ravel())
        assert_same_floats(tensor.values(512, 1024), expected[1])
        buffer = np.empty(tensor.nbytes // 5, np.uint8)
        tensor.read_into(2 * buffer.size, buffer)
        assert bytes(buffer) == quantize(values[2:3], type_name).tobytes()


FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64}


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_come_as_float32_or_float64(dtype, tmp_path):
    values = normal(3, 7).astype(FLOATS[dtype])
    save_file({"w": values}, tmp_path / "x.safetensors")
    with open_model(tmp_path / "x.safetensors") as model:
        found = model.tensors["w"].values()
        assert model.tensors["w"].type == dtype
    assert found.dtype == (np.float64 if dtype == "F64" else np.float32)
    assert np.array_equal(found, values.ravel().astype(found.dtype))


def test_integers_scalars_and_empty_tensors(tmp_path):
    arrays = {"ids": np.array([[2**53, -3]], np.int64), "flag": np.array([True]), "none": np.zeros((0, 4), np.float32)}
    save_file(arrays | {"one": np.array(2.5, np.float32)}, tmp_path / "x.safetensors")
    with open_model(tmp_path / "x.safetensors") as model:
        values = {name: t.values() for name, t in model.tensors.items()}
        assert {name for name, t in model.tensors.items() if t.is_integer} == {"ids", "flag"}
        assert model.tensors["one"].shape == ()
        assert list(model.tensors["none"].slabs()) == []
    assert values["ids"].tolist() == [2.0**53, -3.0] and values["flag"].tolist() == [1.0]
    assert values["one"].tolist() == [2.5] and values["none"].size == 0


def write_folder(folder: Path) -> dict[str, np.ndarray]:
    """A checkpoint of two shards; their names are in the order of the files, not of the alphabet."""
    tensors = {"z.weight": normal(2, 64), "b.weight": normal(4, 32), "a.bias": normal(9)}
    folder.mkdir()
    save_file({"z.weight": tensors["z.weight"]}, folder / "model-1.safetensors")
    save_file({name: tensors[name] for name in ("b.weight", "a.bias")}, folder / "model-2.safetensors")
    weight_map = {name: f"model-{1 if name[0] == 'z' else 2}.safetensors" for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return tensors


@pytest.mark.parametrize("name", ["", "model.safetensors.index.json"])
def test_a_folder_or_its_index(name, tmp_path):
    tensors = write_folder(tmp_path / "x")
    with open_model(tmp_path / "x" / name) as model:
        assert next(iter(model.tensors)) == "z.weight" and [t.name for t in model.stored] == list(model.tensors)
        for key, values in tensors.items():
            assert np.array_equal(model.tensors[key].values(), values.ravel())
        assert {path.name for path in model.paths} == {
            "model-1.safetensors",
            "model-2.safetensors",
            "model.safetensors.index.json",
        }


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("shape", [(33, 65), (64, 64)])
def test_packed_weights_are_the_matrices_they_stand_for(shape, double_quant, tmp_path):
    save_file({"a.weight": normal(*shape), "b.bias": normal(5)}, tmp_path / "x.safetensors")
    quantize_checkpoint(tmp_path / "x.safetensors", tmp_path / "q.safetensors", "nf4", double_quant=double_quant)
    dequantize_checkpoint(tmp_path / "q.safetensors", tmp_path / "back.safetensors", "F32")
    with open_model(tmp_path / "q.safetensors") as model, open_model(tmp_path / "back.safetensors") as back:
        assert set(model.tensors) == {"a.weight", "b.bias"} < {t.name for t in model.stored}
        tensor = model.tensors["a.weight"]
        assert (tensor.type, tensor.shape, tensor.block_size) == ("NF4", shape, 64)
        assert tensor.nbytes == sum(t.nbytes for t in model.stored if t.name.startswith("a.weight"))
        expected = back.tensors["a.weight"].values()
        assert_same_floats(tensor.values(), expected)
        assert_same_floats(tensor.values(64, 256), expected[64:256])
        assert_same_floats(tensor.values(tensor.size // 64 * 64), expected[tensor.size // 64 * 64 :])


def test_slabs_are_the_values_one_after_the_other(tmp_path):
    values = normal(3, READ_ELEMENTS // 2)
    write_gguf(tmp_path / "x.gguf", [Tensor("a.weight", values, "Q8_0")])
    with open_model(tmp_path / "x.gguf") as model:
        slabs = list(model.tensors["a.weight"].slabs())
        assert [slab.size for slab in slabs] == [READ_ELEMENTS, READ_ELEMENTS // 2]
        assert_same_floats(np.concatenate(slabs), dequantize(quantize(values, "Q8_0"), "Q8_0").ravel())


@pytest.mark.parametrize(
    ("limits", "error", "message"),
    [
        ((0, 65), InvalidValueError, r"^stop: expected an integer from 0 to 64, got 65$"),
        ((33, 32), InvalidValueError, r"^start: expected an integer from 0 to 32, got 33$"),
        ((-1, 32), InvalidValueError, r"^start: expected an integer from 0 to 32, got -1$"),
        ((1, 32), InvalidValueError, r"^start: expected a multiple of 32 elements, got 1$"),
        ((0, 33), InvalidValueError, r"^stop: expected a multiple of 32 elements, got 33$"),
        ((0, 32.0), InvalidTypeError, r"^stop: expected an integer from 0 to 64, got 32\.0$"),
        ((True, 32), InvalidTypeError, r"^start: "),
    ],
)
def test_a_range_that_is_not_whole_blocks_of_the_tensor_is_refused(limits, error, message, tmp_path):
    write_gguf(tmp_path / "x.gguf", [Tensor("a.weight", normal(2, 32), "Q4_0")])
    with open_model(tmp_path / "x.gguf") as model, pytest.raises(error, match=message):
        model.tensors["a.weight"].values(*limits)


def test_what_cannot_be_decoded_is_refused(tmp_path):
    save_file({"w": np.ones((2, 2), ml_dtypes.float8_e8m0fnu)}, tmp_path / "x.safetensors")
    with open_model(tmp_path / "x.safetensors") as model:
        assert model.tensors["w"].type == "F8_E8M0"
        with pytest.raises(InvalidValueError, match=r"tensor 'w': no kernels to decode F8_E8M0$"):
            model.tensors["w"].values()


def test_a_scale_that_is_no_number_is_refused(tmp_path):
    data = quantize(normal(2, 64), "Q8_0")
    write_gguf(tmp_path / "x.gguf", [Tensor("a.weight", normal(2, 64), "Q8_0")])
    content = (tmp_path / "x.gguf").read_bytes()
    assert content.count(data.tobytes()) == 1
    data.reshape(4, 34)[2, :2] = np.array([np.nan], np.float16).view(np.uint8)
    before = quantize(normal(2, 64), "Q8_0").tobytes()
    (tmp_path / "x.gguf").write_bytes(content.replace(before, data.tobytes()))
    with open_model(tmp_path / "x.gguf") as model:
        for start in (0, 64):  # the number of the block is that in the tensor
            with pytest.raises(InvalidValueError, match=r"tensor 'a\.weight': block 2 of Q8_0 has a scale that is inf"):
                model.tensors["a.weight"].values(start)
        assert model.tensors["a.weight"].values(0, 64).size == 64


def test_a_state_that_contradicts_itself_is_refused_with_the_tensors_and_not_with_what_is_stored(tmp_path):
    save_file({"a.weight": normal(64, 64)}, tmp_path / "x.safetensors")
    quantize_checkpoint(tmp_path / "x.safetensors", tmp_path / "q.safetensors", "fp4")
    with open_model(tmp_path / "q.safetensors") as model:
        arrays = {}
        for tensor in model.stored:
            data = np.empty(tensor.nbytes, np.uint8)
            tensor.read_into(0, data)
            arrays[tensor.name] = data.view({"U8": np.uint8, "F32": np.float32}[tensor.type]).reshape(tensor.shape)
    arrays["a.weight.absmax"] = arrays["a.weight.absmax"][1:]
    save_file(arrays, tmp_path / "bad.safetensors")
    with open_model(tmp_path / "bad.safetensors") as model:
        assert len(model.stored) == len(arrays)
        with pytest.raises(FileFormatError, match=r"a\.weight\.absmax: expected 64 elements"):
            _ = model.tensors


def test_what_is_no_model(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(pickle.dumps([1.0, "a" * 24]))
    with pytest.raises(FileFormatError, match="pickle files are never opened"):
        open_model(path)
    path.write_bytes(b"PK\x03\x04" + bytes(30))
    with pytest.raises(FileFormatError, match="pickle files are never opened"):
        open_model(path)
    with pytest.raises(FileNotFoundError):
        open_model(tmp_path / "nothing.gguf")
    (tmp_path / "y.gguf").write_bytes(bytes(64))
    with pytest.raises(FileFormatError, match="magic"):
        open_model(tmp_path / "y.gguf")


def test_it_is_a_public_name():
    assert quantcore.open_model is open_model


def test_calibration_takes_the_floats_of_any_model(tmp_path):
    values = normal(4, 64)
    write_gguf(tmp_path / "x.gguf", [Tensor("a", values), Tensor("b.weight", values, "Q4_0")])
    with pytest.warns(UserWarning, match=r"x\.gguf: b\.weight: Q4_0 is not a float type: left out"):
        calibrate_files([tmp_path / "x.gguf"], Calibrator.min_max())
    found = calibrate_files([tmp_path / "x.gguf"], Calibrator.min_max(), exclude=["weight"])
    assert found.keys() == {"a"}
    assert found["a"].compute().observed_max == values.max()
