"""Diffusion models become GGUF files that ComfyUI-GGUF reads: names, shapes, types and bytes."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import quantcore as qc
from quantcore.cli import main
from quantcore.conversion import dequantize_model, merge_model, quantize_model, split_model
from quantcore.conversion.image_models import IMAGE_MODELS
from quantcore.errors import FileFormatError
from tests.support import ggml
from tests.support.image_models import MODELS, NUMPY, TYPES, expected_types, make_image_model, make_values, rows

gguf = pytest.importorskip("gguf")


def load(path):
    """A naive twin of ComfyUI-GGUF's loader: the architecture; by name the type, the shape and the values."""
    reader = gguf.GGUFReader(path)
    field = reader.get_field("general.architecture")
    architecture = str(field.parts[field.data[-1]], encoding="utf-8")
    found = {}
    for tensor in reader.tensors:
        shape = tuple(int(extent) for extent in reversed(tensor.shape))
        field = reader.get_field(f"comfy.gguf.orig_shape.{tensor.name}")
        if field is not None:
            assert field.types == [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.INT32]
            shape = tuple(int(field.parts[i][0]) for i in field.data)
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        found[tensor.name] = (tensor.tensor_type.name, shape, values.reshape(shape), tensor.data)
    return architecture, found


def types_of(path):
    return {name: found[0] for name, found in load(path)[1].items()}


def test_every_architecture_has_a_tiny_model():
    assert set(IMAGE_MODELS) == set(MODELS)


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("file_type", TYPES)
@pytest.mark.parametrize("name", MODELS)
def test_types_and_shapes(name, file_type, dtype, tmp_path):
    path = make_image_model(name, tmp_path / "model.safetensors", dtype)
    quantize_model(path, tmp_path / "out.gguf", file_type)
    architecture, found = load(tmp_path / "out.gguf")
    assert architecture == name
    assert {key: value[0] for key, value in found.items()} == expected_types(name, dtype, file_type)
    assert list(found) == sorted(found)
    for key, values in make_values(name, dtype).items():
        if key in found:
            type_, shape, decoded, _ = found[key]
            assert shape == values.shape, key
            original = values.astype(np.float32)
            error = np.abs(decoded - original).max()
            assert error <= {"F32": 0, "BF16": 0, "F16": 2e-3 if dtype == "F32" else 0}.get(type_, 1.5), key


@pytest.mark.parametrize("file_type", ["Q4_K_M", "Q4_0"])
@pytest.mark.parametrize("name", MODELS)
def test_bytes_are_those_of_ggml(name, file_type, tmp_path):
    path = make_image_model(name, tmp_path / "model.safetensors")
    quantize_model(path, tmp_path / "out.gguf", file_type)
    _, found = load(tmp_path / "out.gguf")
    originals = {key: values.astype(np.float32) for key, values in make_values(name, "BF16").items()}
    n_compared = 0
    for key, (type_, _, _, data) in found.items():
        if type_ not in NUMPY:
            values = originals[key].reshape(-1, 256)
            assert data.tobytes() == bytes(qc.quantize(values, type_)), key
            assert data.tobytes() == ggml.quantize(values, int(qc.GGUFQuantType[type_])), key
            n_compared += 1
    assert n_compared


@pytest.mark.parametrize(("dtype", "kind"), [("BF16", "BF16"), ("F16", "F16"), ("F32", "F16"), ("BF16", "F32")])
@pytest.mark.parametrize("name", MODELS)
def test_files_of_floats_are_those_of_the_converter(name, kind, dtype, tmp_path):
    path = make_image_model(name, tmp_path / "model.safetensors", dtype)
    quantize_model(path, tmp_path / "out.gguf", kind)
    small = {key for key, shape, _ in rows(name) if np.prod(shape) <= 1024 or len(shape) in (1, 5)}
    exact = {key for key, _, what in rows(name) if what == "exact"} | small
    five = {key for key, shape, _ in rows(name) if len(shape) == 5}
    found = types_of(tmp_path / "out.gguf")
    expected = {key: "F32" if key in (five if dtype == "F16" else exact) else kind for key in found}
    assert found == expected


@pytest.mark.slow
def test_gguf_files_of_floats_are_quantized_by_the_same_rules(tmp_path):
    for name in MODELS:
        path = make_image_model(name, tmp_path / f"{name}.safetensors")
        quantize_model(path, tmp_path / f"{name}-BF16.gguf", "BF16")
        for kind in ("Q4_K_S", "Q3_K_M"):
            quantize_model(path, tmp_path / "once.gguf", kind, force=True)
            quantize_model(tmp_path / f"{name}-BF16.gguf", tmp_path / "twice.gguf", kind, force=True)
            once, twice = (load(tmp_path / f"{stem}.gguf")[1] for stem in ("once", "twice"))
            assert once.keys() == twice.keys()
            for key in once:
                assert once[key][:2] == twice[key][:2] and np.array_equal(once[key][2], twice[key][2]), key


def test_rows_that_are_no_whole_blocks_become_f16(tmp_path):
    tensors = make_values("flux", "BF16") | {"double_blocks.0.img_mlp.0.weight": np.ones((64, 40), np.float32)}
    save_file(tensors, tmp_path / "model.safetensors")
    report = quantize_model(tmp_path / "model.safetensors", tmp_path / "out.gguf", "Q4_K_M")
    assert types_of(tmp_path / "out.gguf")["double_blocks.0.img_mlp.0.weight"] == "F16"
    assert any("stored as F16" in notice for notice in report.notices)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "model.", "net."])
def test_prefixes_are_taken_off(prefix, tmp_path):
    path = make_image_model("flux", tmp_path / "model.safetensors", prefix=prefix)
    if prefix != "net.":
        save_file(load_file(path) | {"first_stage_model.conv.weight": np.ones((4, 4), np.float32)}, path)
    report = quantize_model(path, tmp_path / "out.gguf", "Q8_0")
    assert types_of(tmp_path / "out.gguf") == expected_types("flux", "BF16", "Q8_0")
    assert [n for n in report.notices if "first_stage_model" in n] == (
        [] if prefix == "net." else ["first_stage_model.conv.weight: left out (no part of flux)"]
    )


def test_architecture_can_be_told(tmp_path):
    tensors = {
        "blocks.0.attn.qkv.weight": np.ones((64, 256), np.float32),
        "img_in.weight": np.ones((64, 256), np.float32),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    command = ["quantize", str(tmp_path / "model.safetensors"), str(tmp_path / "out.gguf"), "Q4_K_M", "--arch", "flux"]
    assert main(command) == 0
    assert types_of(tmp_path / "out.gguf") == {"blocks.0.attn.qkv.weight": "Q5_K", "img_in.weight": "F16"}
    assert load(tmp_path / "out.gguf")[0] == "flux"


def test_layouts_of_diffusers_are_refused(tmp_path):
    marks = {
        "flux": "single_transformer_blocks.0.attn.norm_k.weight",
        "sd3": "transformer_blocks.0.ff_context.net.0.proj.weight",
        "aura": "joint_transformer_blocks.3.ff_context.out_projection.weight",
    }
    for name, mark in marks.items():
        save_file({mark: np.ones((4, 256), np.float32)}, tmp_path / "model.safetensors")
        with pytest.raises(FileFormatError, match=f"tells {name} in the layout of diffusers"):
            quantize_model(tmp_path / "model.safetensors", tmp_path / "out.gguf", "Q8_0")
        assert not (tmp_path / "out.gguf").exists()


def test_names_of_127_bytes_need_no_flag(tmp_path):
    long = "double_blocks.0." + "n" * 104 + ".weight"
    tensors = make_values("flux", "BF16") | {long: np.ones((64, 256), np.float32)}
    save_file(tensors, tmp_path / "model.safetensors")
    quantize_model(tmp_path / "model.safetensors", tmp_path / "out.gguf", "Q8_0")
    quantize_model(tmp_path / "out.gguf", tmp_path / "again.gguf", "Q4_0", allow_requantize=True)
    dequantize_model(tmp_path / "out.gguf", tmp_path / "floats.gguf")
    assert len(long) == 127 and all(long in types_of(tmp_path / f"{n}.gguf") for n in ("out", "again", "floats"))
    assert main(["inspect", str(tmp_path / "out.gguf")]) == 0


def five_dimensions(path):
    """A file as `fix_5d_tensors.py` writes it: convolutions with all their dimensions."""
    writer = gguf.GGUFWriter(path, "wan")
    for name, values in make_values("wan", "F32").items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_files_with_five_dimensions_are_read_and_written_folded(tmp_path):
    path = five_dimensions(tmp_path / "wan.gguf")
    values = make_values("wan", "F32")
    quantize_model(path, tmp_path / "out.gguf", "Q8_0")
    dequantize_model(path, tmp_path / "floats.gguf")
    for stem in ("out", "floats"):
        _, found = load(tmp_path / f"{stem}.gguf")
        assert {name: value[1] for name, value in found.items()} == {n: v.shape for n, v in values.items()}
        assert np.array_equal(found["patch_embedding.weight"][2], values["patch_embedding.weight"])
    assert main(["inspect", str(path)]) == 0


@pytest.mark.parametrize("name", ["wan", "sdxl", "sd3"])
def test_way_back_has_the_original_shapes(name, tmp_path):
    path = make_image_model(name, tmp_path / "model.safetensors")
    quantize_model(path, tmp_path / "out.gguf", "F32")
    dequantize_model(tmp_path / "out.gguf", tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == load_file(path).keys()
    for key, values in load_file(path).items():
        assert np.array_equal(back[key], values.astype(np.float32)), key


def test_parts_keep_shapes(tmp_path):
    quantize_model(make_image_model("wan", tmp_path / "model.safetensors"), tmp_path / "out.gguf", "Q8_0")
    split_model(tmp_path / "out.gguf", tmp_path / "part", max_tensors=4)
    (first, *_) = sorted(tmp_path.glob("part-*.gguf"))
    merge_model(first, tmp_path / "merged.gguf")
    shapes = [
        {name: value[1] for name, value in load(tmp_path / f"{stem}.gguf")[1].items()} for stem in ("out", "merged")
    ]
    assert shapes[0] == shapes[1] and shapes[0]["head.modulation"] == (1, 2, 1024)


def test_slow_types_are_told(tmp_path):
    path = make_image_model("flux", tmp_path / "model.safetensors")
    report = quantize_model(path, tmp_path / "out.gguf", "IQ3_S")
    assert [notice for notice in report.notices if notice.startswith("IQ3_S: ComfyUI-GGUF decodes this type slowly")]
    assert not quantize_model(path, tmp_path / "out2.gguf", "IQ4_XS").notices


def test_copy_changes_no_type(tmp_path):
    path = make_image_model("flux", tmp_path / "model.safetensors")
    quantize_model(path, tmp_path / "out.gguf", "COPY")
    assert set(types_of(tmp_path / "out.gguf").values()) == {"BF16"}


def test_other_checkpoints_keep_their_names(tmp_path):
    save_file({"model.layers.0.weight": np.ones((4, 256), np.float32)}, tmp_path / "model.safetensors")
    quantize_model(tmp_path / "model.safetensors", tmp_path / "out.gguf", "Q8_0")
    assert types_of(tmp_path / "out.gguf") == {"model.layers.0.weight": "Q8_0"}
    path = make_image_model("flux", tmp_path / "flux.safetensors", prefix="net.")
    quantize_model(path, tmp_path / "kept.gguf", "Q8_0", keep_names=True)
    assert "net.img_in.weight" in types_of(tmp_path / "kept.gguf")
