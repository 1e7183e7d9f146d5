"""Hugging Face folders in NVFP4: the file of llama.cpp's converter, in which the codes are the same, and back."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quantcore.conversion import compare_models, dequantize_checkpoint, dequantize_model, quantize_model
from quantcore.conversion.hf.streams import decode
from quantcore.errors import FileFormatError, InvalidValueError
from quantcore.files.disk import OutputFile
from quantcore.gguf import GGUFWriter, KeyValue
from quantcore.models import open_model
from tests.support.make_hf_golden import GOLDEN, digest
from tests.support.nvfp4_models import COMPRESSED, CONVERTED, DECODED, LAYOUTS, MODELOPT, make_nvfp4_model

gguf = pytest.importorskip("gguf")
DIGESTS = json.loads((GOLDEN / "nvfp4.json").read_text())
WEIGHT = "model.layers.0.self_attn.q_proj.weight"
BACK = ("llama", "mixtral", "qwen3", "qwen3moe")


def decoded(folder):
    """The values of a checkpoint by name."""
    dequantize_checkpoint(folder, folder.parent / "decoded", "F32")
    return load_file(folder.parent / "decoded" / "model.safetensors")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CONVERTED)
def test_file_of_floats_is_that_of_the_converter(name, layout, tmp_path):
    folder = make_nvfp4_model(name, tmp_path / "tiny", layout)
    report = quantize_model(folder, tmp_path / "out.gguf", "F16")
    assert digest(tmp_path / "out.gguf") == DIGESTS[name][layout]
    assert any((t.source_type, t.target_type) == ("NVFP4", "NVFP4") for t in report.tensors)
    assert not any("left out" in notice for notice in report.notices)


@pytest.mark.parametrize("qtype", ["F32", "BF16", "NVFP4", "COPY"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", BACK)
def test_nothing_is_lost_on_the_way_there_and_back(name, layout, qtype, tmp_path):
    folder = make_nvfp4_model(name, tmp_path / "tiny", layout)
    quantize_model(folder, tmp_path / "out.gguf", qtype, tensor_types=[("embd|head|gate_inp", "F32")])
    report = dequantize_model(tmp_path / "out.gguf", tmp_path / "back", "F32")
    assert any("input_scale" in notice for notice in report.notices)
    expected, found = decoded(folder), load_file(tmp_path / "back" / "model.safetensors")
    assert found.keys() == expected.keys()
    coded = {t.name.replace("_packed", "") for t in open_model(folder).stored if t.type == "U8"}
    assert coded
    for key in coded:
        # Of the inverse of a scale, the last bit is not that of a division by it.
        tolerance = 0 if layout == MODELOPT else 2.0**-22
        np.testing.assert_allclose(found[key], expected[key].reshape(found[key].shape), rtol=tolerance, err_msg=key)


@pytest.mark.parametrize("qtype", ["Q8_0", "Q4_K_M", "MXFP4"])
def test_other_types_are_those_of_the_decoded_folder(qtype, tmp_path):
    folder = make_nvfp4_model("qwen3moe", tmp_path / "tiny", MODELOPT)
    quantize_model(folder, tmp_path / "out.gguf", qtype)
    dequantize_checkpoint(folder, tmp_path / "decoded" / "tiny", "F32")
    quantize_model(tmp_path / "decoded" / "tiny", tmp_path / "expected.gguf", qtype)
    assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "expected.gguf").read_bytes()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", DECODED)
def test_where_llama_cpp_applies_no_scales_there_are_floats(name, layout, tmp_path):
    folder = make_nvfp4_model(name, tmp_path / "tiny", layout)
    report = quantize_model(folder, tmp_path / "out.gguf", "F32")
    dequantize_checkpoint(folder, tmp_path / "decoded" / "tiny", "F32")
    quantize_model(tmp_path / "decoded" / "tiny", tmp_path / "expected.gguf", "F32")
    assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "expected.gguf").read_bytes()
    assert any(notice.startswith("weights in NVFP4 are decoded where") for notice in report.notices)


@pytest.mark.parametrize("qtype", ["F32", "NVFP4", "COPY"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("name", "ending", "place"),
    [
        ("llama", "embed_tokens.weight", "token_embd"),
        ("gemma3", "embed_tokens.weight", "token_embd"),
        ("mixtral", "gate.weight", "blk.0.ffn_gate_inp"),
        ("qwen3moe", "mlp.gate.weight", "blk.0.ffn_gate_inp"),
    ],
)
def test_matrices_without_a_place_for_a_scale_are_floats(name, ending, place, layout, qtype, tmp_path):
    """llama.cpp does not load a file with a scale beside them."""
    folder = make_nvfp4_model(name, tmp_path / "tiny", layout, others=(ending,))
    report = quantize_model(folder, tmp_path / "out.gguf", qtype, tensor_types=[(place, "F32")])
    assert any(notice.startswith("weights in NVFP4 are decoded where") for notice in report.notices)
    with open_model(tmp_path / "out.gguf") as model:
        found = {tensor.name: tensor for tensor in model.stored}
    assert found.keys().isdisjoint({f"{place}.scale", f"{place}.input_scale"})
    assert "blk.0.attn_v.scale" in found and found["blk.0.attn_v.weight"].type == "NVFP4"
    with open_model(tmp_path / "out.gguf") as model:
        values = model.tensors[f"{place}.weight"].values()
    (expected,) = (v for key, v in decoded(folder).items() if key.endswith(ending) and "layers.1." not in key)
    np.testing.assert_array_equal(values, expected.reshape(-1)[: values.size])


@pytest.mark.parametrize("options", [{"keep_names": True}, {"arch": "llama"}])
def test_a_container_without_a_place_for_scales_has_values(options, tmp_path):
    folder = make_nvfp4_model("llama", tmp_path / "tiny", MODELOPT)
    quantize_model(folder, tmp_path / "out.gguf", "F32", **options)
    with open_model(tmp_path / "out.gguf") as model:
        assert "NVFP4" not in {t.type for t in model.stored}
        assert np.array_equal(model.tensors[WEIGHT].values(), decoded(folder)[WEIGHT].reshape(-1))


def test_comparison_applies_scales(tmp_path):
    """A file of blocks and scales has the values of one of floats."""
    folder = make_nvfp4_model("qwen3moe", tmp_path / "tiny", MODELOPT)
    dequantize_checkpoint(folder, tmp_path / "decoded" / "tiny", "F32")
    quantize_model(folder, tmp_path / "blocks.gguf", "F32")
    quantize_model(tmp_path / "decoded" / "tiny", tmp_path / "floats.gguf", "F32")
    found = compare_models(tmp_path / "floats.gguf", tmp_path / "blocks.gguf")
    assert found.total.mse == 0 and any(t.type == "NVFP4" for t in found.tensors)
    assert not found.missing and not found.extra


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("ending", "value", "message"),
    [
        ("weight_scale", -1.0, "scale 0 is -1.0, expected at least 0"),
        ("weight_scale", np.nan, "scale 0 is nan, expected at least 0"),
        ("second", 0.0, "is 0.0, expected a positive number"),
        ("second", np.inf, "is inf, expected a positive number"),
        ("input", -1.0, "is -1.0, expected a positive number"),
        ("input", np.nan, "is nan, expected a positive number"),
    ],
)
def test_bad_scales(ending, value, message, layout, tmp_path):
    names = {"second": "weight_scale_2", "input": "input_scale"}
    if layout == COMPRESSED:
        names = {"second": "weight_global_scale", "input": "input_global_scale"}
    name = WEIGHT.removesuffix("weight") + names.get(ending, ending)

    def change(tensors):
        tensors[name].reshape(-1)[0] = value

    folder = make_nvfp4_model("llama", tmp_path / "tiny", layout, change)
    with pytest.raises(FileFormatError, match=f"{name}.*: {message}"):
        quantize_model(folder, tmp_path / "out.gguf", "F16")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("name", ["weight_global_scale", "input_global_scale"])
def test_divisors_whose_inverse_is_no_float32(name, tmp_path):
    name = WEIGHT.removesuffix("weight") + name

    def change(tensors):
        tensors[name][0] = 2.0**-130

    folder = make_nvfp4_model("llama", tmp_path / "tiny", COMPRESSED, change)
    with pytest.raises(FileFormatError, match=f"{name}.*: is {2.0**-130}, expected a positive number with an inverse"):
        quantize_model(folder, tmp_path / "out.gguf", "F16")
    assert not (tmp_path / "out.gguf").exists()


def test_a_tensor_without_a_name_is_no_scale(tmp_path):
    """Layouts of MXFP4 have no scales of activations, by whatever name."""
    codes, scales, other = np.zeros((4, 32), np.uint8), np.full((4, 2), 127, np.uint8), np.ones(1, np.float32)
    save_file({"a.weight_packed": codes, "a.weight_scale": scales, "": other}, tmp_path / "odd.safetensors")
    with pytest.raises(InvalidValueError, match=r"^tensor '': GGUF names have 1 to 63 bytes"):
        quantize_model(tmp_path / "odd.safetensors", tmp_path / "out.gguf", "COPY", keep_names=True)


def test_experts_without_a_scale_of_activations_have_one(tmp_path):
    """An expert that calibration never reached has none, which stands for 1."""

    def change(tensors):
        del tensors["model.layers.0.mlp.experts.1.up_proj.input_scale"]
        tensors["model.layers.0.mlp.experts.0.up_proj.input_scale"] = np.array(np.float32(0.25))

    folder = make_nvfp4_model("qwen3moe", tmp_path / "tiny", MODELOPT, change)
    quantize_model(folder, tmp_path / "out.gguf", "F16")
    with open_model(tmp_path / "out.gguf") as model:
        (scales,) = (t.values() for t in model.stored if t.name == "blk.0.ffn_up_exps.input_scale")
    assert scales.tolist() == [0.25, 1]


@pytest.mark.parametrize(
    ("dtype", "values", "scale", "expected"),
    [
        ("F32", [1, -2], 3, [3, -6]),
        ("F32", [1, -2e38], 3, "value 1 times its scale is too large for float32$"),
        ("F32", [1, -np.inf], 3, [3, -np.inf]),
        ("F64", [1e300, 1 / 3], 3, [3e300, 1 / 3 * 3]),
        ("F64", [1, 1e300], 1e30, "value 1 times its scale is too large for float64$"),
    ],
)
def test_products_with_a_scale(dtype, values, scale, expected, tmp_path, recwarn):
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "llama")
    writer.add_tensor("x.weight", np.array([values], np.float32 if dtype == "F32" else np.float64))
    writer.add_tensor("x.scale", np.array([scale], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_model(tmp_path / "odd.gguf") as model:
        if isinstance(expected, str):
            with pytest.raises(InvalidValueError, match=rf"odd\.gguf: tensor 'x\.weight': {expected}"):
                model.tensors["x.weight"].values()
        else:
            tensor = model.tensors["x.weight"]
            assert tensor.values().tolist() == expected
            with np.errstate(over="ignore"):
                assert decode(tensor).values().tolist() == np.array(expected).astype(np.float32).tolist()
    assert not recwarn


@pytest.mark.parametrize("keep_names", [False, True])
def test_tensors_that_keep_their_names_keep_their_scales(keep_names, tmp_path):
    """In a folder of names that are not those of llama.cpp, all tensors are as they are in the file."""
    kvs = [KeyValue.string("general.architecture", "llama")]
    names = ("x.weight", "x.scale", "x.input_scale")
    with OutputFile(tmp_path / "odd.gguf") as file:
        writer = GGUFWriter(file, kvs, [(name, (2, 1) if i == 0 else (1,), "F32") for i, name in enumerate(names)])
        for values in ([1, 2], [3], [5]):
            writer.write(np.array(values, np.float32))
            writer.end_tensor()
    dequantize_model(tmp_path / "odd.gguf", tmp_path / "back", "F32", keep_names=keep_names)
    found = load_file(tmp_path / "back" / "model.safetensors")
    assert {name: values.ravel().tolist() for name, values in found.items()} == dict(
        zip(names, ([1, 2], [3], [5]), strict=True)
    )


@pytest.mark.parametrize(
    ("shape", "scales", "message"),
    [
        ((64, 64), [np.nan], "holds a scale that is not finite"),
        ((2, 32, 64), [1, np.inf], "holds a scale that is not finite"),
        ((64, 64), [1, 2], None),
        ((64,), [2], None),
    ],
)
def test_tensors_called_scale_in_a_gguf_file(shape, scales, message, tmp_path):
    """What cannot be the scale of a weight is a tensor of its own."""
    values = np.array(scales, np.float32)
    kvs = [KeyValue.string("general.architecture", "llama")]
    with OutputFile(tmp_path / "odd.gguf") as file:
        writer = GGUFWriter(file, kvs, [("x.weight", shape, "NVFP4"), ("x.scale", values.shape, "F32")])
        for data in (np.zeros(np.prod(shape) // 64 * 36, np.uint8), values):
            writer.write(data)
            writer.end_tensor()
    with open_model(tmp_path / "odd.gguf") as model:
        if message is None:
            assert model.tensors.keys() == {"x.weight", "x.scale"}
        else:
            with pytest.raises(FileFormatError, match=message):
                _ = model.tensors
