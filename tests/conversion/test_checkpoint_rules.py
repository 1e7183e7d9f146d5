"""Which tensors become 4-bit weights where transformers is not installed, and how transposed weights are packed."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quantcore import from_bitsandbytes, quantize_4bit
from quantcore.conversion import dequantize_checkpoint, quantize_checkpoint, tensor_jobs
from quantcore.conversion.checkpoint_rules import decisions, module_tree_client
from quantcore.conversion.checkpoint_rules.skip_modules import make_entries, make_skip_test
from tests.support.model_files import normal


@pytest.fixture(autouse=True)
def without_transformers(monkeypatch):
    monkeypatch.setattr(decisions, "ask_module_tree", lambda folder, shapes: "")


def convert(folder, config, shapes, **options):
    """The report, the names that were quantized, and the modules to skip."""
    (folder / "in").mkdir()
    save_file({name: normal(*shape) for name, shape in shapes.items()}, folder / "in" / "model.safetensors")
    (folder / "in" / "config.json").write_text(json.dumps(config))
    report = quantize_checkpoint(folder / "in", folder / "out", "nf4", **options)
    settings = json.loads((folder / "out" / "config.json").read_text())["quantization_config"]
    quantized = {t.name for t in report.tensors if t.target_type == "NF4"}
    return report, quantized, settings["llm_int8_skip_modules"]


SQUARE = (64, 64)
TABLE = {
    "t5": (
        {"encoder.block.0.layer.0.SelfAttention.q.weight", "encoder.block.0.layer.1.DenseReluDense.wi.weight"},
        {"shared.weight", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
         "encoder.block.0.layer.1.DenseReluDense.wo.weight"},
    ),
    "bart": (
        {"model.encoder.layers.0.self_attn.k_proj.weight", "model.decoder.layers.0.fc1.weight"},
        {"model.shared.weight", "classification_head.out_proj.weight", "model.encoder.embed_positions.weight"},
    ),
    "mixtral": (
        {"model.layers.0.self_attn.q_proj.weight"},
        {"model.layers.0.block_sparse_moe.gate.weight", "model.layers.0.block_sparse_moe.experts.0.w1.weight"},
    ),
    "bert": ({"bert.encoder.layer.0.attention.self.query.weight"}, {"classifier.weight"}),
    "falcon": (set(), {"transformer.h.0.mlp.dense_4h_to_h.weight"}),
    "xlnet": ({"transformer.layer.0.ff.layer_1.weight"}, {"transformer.word_embedding.weight", "lm_loss.weight"}),
    "nobody-has-this": (
        {"layers.0.attn.w.weight", "layers.0.other.out_proj.weight"},
        {"head.attention.out_proj.weight", "head.attention.in_proj_weight", "layers.0.mlp.experts.0.up.weight",
         "mask_tokens.weight", "qformer.layer.0.query.weight", "cls.predictions.decoder.weight",
         "score.weight", "layers.0.router.weight", "layers.0.mlp.gate.weight", "layers.0.q.lora_A.weight",
         "attn.in_proj_weight", "adapter.lora_A", "shared.weight"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("model_type", TABLE)
def test_what_is_quantized_and_what_is_kept_and_said(model_type, tmp_path):
    expected, kept = TABLE[model_type]
    report, quantized, skipped = convert(tmp_path, {"model_type": model_type}, dict.fromkeys(expected | kept, SQUARE))
    assert quantized == expected
    assert {notice.split(":")[0] for notice in report.notices} == kept
    is_skipped = make_skip_test(skipped)
    for name in kept:
        assert is_skipped(name.removesuffix(".weight")) or not name.endswith(".weight")
    assert not any(is_skipped(name.removesuffix(".weight")) for name in expected)
    assert all(t.rule for t in report.tensors)


@pytest.mark.parametrize(
    ("model_type", "head"),
    [("llama", "lm_head"), ("whisper", "proj_out"), ("gpt_neox", "embed_out"), ("t5", "lm_head")],
)
def test_tied_heads_are_skipped_though_no_tensor_shows_them(model_type, head, tmp_path):
    _, _, skipped = convert(tmp_path, {"model_type": model_type}, {"x.q_proj.weight": SQUARE})
    assert head in skipped


def test_matrices_of_many_layers_are_one_notice(tmp_path):
    shapes = {f"model.layers.{i}.mlp.gate.weight": SQUARE for i in range(12)}
    report, _, _ = convert(
        tmp_path, {"model_type": "qwen3_moe"}, shapes | {"model.layers.0.self_attn.q_proj.weight": SQUARE}
    )
    assert report.notices == ("model.layers.0.mlp.gate.weight and 11 more like it: kept (a router of experts)",)


def test_what_the_name_of_a_kept_module_would_hit_is_kept(tmp_path):
    shapes = {"fc.weight": SQUARE, "model.fc.weight": SQUARE, "model.up.weight": SQUARE}
    report, quantized, _ = convert(tmp_path, {}, shapes, exclude=["^fc"])
    assert quantized == {"model.up.weight"}
    (notice,) = report.notices
    assert notice.startswith("model.fc.weight: kept (transformers would leave it out")


def test_a_pattern_that_excludes_nothing_is_told(tmp_path):
    report, quantized, _ = convert(
        tmp_path, {}, {"a.weight": SQUARE, "b.weight": SQUARE}, exclude=["^a", "^c", "weight$"]
    )
    assert (quantized, report.notices) == (set(), ("exclude: '^c' fits no name",))


def test_the_rule_is_what_the_user_said_first(tmp_path):
    report, _, _ = convert(tmp_path, {}, {"a.weight": SQUARE, "b.weight": SQUARE}, exclude=["^a"])
    assert {t.name: t.rule for t in report.tensors} == {
        "a.weight": "--exclude ^a",
        "b.weight": "name: a matrix named .weight",
    }


def test_fused_experts_that_cannot_be_loaded_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"feed_forward\.experts\.gate_up_proj.*fused experts of llama4_text"):
        convert(
            tmp_path, {"model_type": "llama4_text"}, {"model.layers.0.feed_forward.experts.gate_up_proj": (2, 64, 64)}
        )
    assert not (tmp_path / "out").exists()


def test_transposed_weights_of_a_part_of_a_model(tmp_path):
    """GPT-2 as the decoder of a model that the table does not have."""
    config = {"model_type": "encoder-decoder", "encoder": {"model_type": "bert"}, "decoder": {"model_type": "gpt2"}}
    name, other = "decoder.transformer.h.0.attn.c_attn.weight", "encoder.encoder.layer.0.output.dense.weight"
    shapes = {name: (64, 192), other: (64, 128), "decoder.transformer.wte.weight": (128, 64)}
    report, quantized, skipped = convert(tmp_path, config, shapes)
    assert quantized == {name, other}
    assert {"cls.predictions.decoder", "lm_head"} <= set(skipped)
    assert next(t.rule for t in report.tensors if t.name == name) == "name: transposed in a part of the model"
    made = load_file(tmp_path / "out" / "model.safetensors")
    packed = {key.removeprefix(name).lstrip("."): value for key, value in made.items() if key.startswith(name)}
    state = next(value for key, value in packed.items() if "quant_state" in key)
    assert json.loads(state.tobytes())["shape"] == [192, 64]


def test_experts_without_a_config_become_4_bits(tmp_path):
    save_file({"mlp.experts.0.up.weight": normal(64, 64)}, tmp_path / "m.safetensors")
    report = quantize_checkpoint(tmp_path / "m.safetensors", tmp_path / "out.safetensors", "nf4")
    assert [t.target_type for t in report.tensors] == ["NF4"]


def test_experts_that_are_all_kept_are_one_entry():
    kept = {f"m.layers.{i}.mlp.experts.{j}.up" for i in range(2) for j in range(9)}
    assert make_entries(kept, {"m.layers.0.q"}) == ["m.layers.0.mlp.experts", "m.layers.1.mlp.experts"]
    assert make_entries({"m.experts.0.up", "m.experts.1.up"}, {"m.experts.2.up"}) == [
        "m.experts.0.up",
        "m.experts.1.up",
    ]


@pytest.mark.parametrize("dtype", ["f4", "f2", "f8"])
@pytest.mark.parametrize(("n_inputs", "n_outputs"), [(64, 192), (65, 3), (3, 500), (1, 64), (7, 1)])
def test_conv1d_is_packed_transposed_and_comes_back(n_inputs, n_outputs, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_jobs, "SLAB_ELEMENTS", 128)
    monkeypatch.setattr(tensor_jobs.KeptTensor, "slab_bytes", 500)
    name = "transformer.h.0.attn.c_attn.weight"
    values = normal(n_inputs, n_outputs).astype(dtype)
    (tmp_path / "in").mkdir()
    save_file({name: values}, tmp_path / "in" / "model.safetensors")
    (tmp_path / "in" / "config.json").write_text('{"model_type": "gpt2"}')
    report = quantize_checkpoint(tmp_path / "in", tmp_path / "out", "nf4")
    assert report.tensors[0].shape == (n_outputs, n_inputs)
    packed = from_bitsandbytes(load_file(tmp_path / "out" / "model.safetensors"))
    assert packed == quantize_4bit(np.ascontiguousarray(values.T), quant_type="nf4")
    report = dequantize_checkpoint(tmp_path / "out", tmp_path / "back", "F32")
    assert report.tensors[0].shape == (n_inputs, n_outputs)
    back = load_file(tmp_path / "back" / "model.safetensors")[name]
    expected = np.abs(values.astype("f4")).max()
    assert back.shape == values.shape and np.abs(back - values).max() <= 0.16 * expected


def test_options_are_written(tmp_path):
    (tmp_path / "in").mkdir()
    save_file({"a.weight": normal(*SQUARE).astype("f2")}, tmp_path / "in" / "model.safetensors")
    (tmp_path / "in" / "config.json").write_text("{}")
    for options, compute, storage in (
        ({}, "float16", "uint8"),
        ({"compute_dtype": "bfloat16", "quant_storage": "float32"}, "bfloat16", "float32"),
    ):
        quantize_checkpoint(tmp_path / "in", tmp_path / "out", "nf4", force=True, **options)
        settings = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
        assert (settings["bnb_4bit_compute_dtype"], settings["bnb_4bit_quant_storage"]) == (compute, storage)
        stored = load_file(tmp_path / "out" / "model.safetensors")["a.weight"]
        assert (stored.dtype, stored.shape) == (np.dtype(storage), (2048 // np.dtype(storage).itemsize, 1))
        assert dequantize_checkpoint(tmp_path / "out", tmp_path / "back", force=True).tensors[0].target_type == "F16"
    for name in ("compute_dtype", "quant_storage"):
        with pytest.raises(ValueError, match=f"^{name}: expected one of .*, got 'float8'"):
            quantize_checkpoint(tmp_path / "in", tmp_path / "no", "nf4", **{name: "float8"})


def test_storage_that_the_codes_do_not_fill_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"quant_storage: the 11 bytes of tensor 'a\.weight' are not whole F32s"):
        convert(tmp_path, {}, {"a.weight": (2, 11)}, quant_storage="float32")
    assert not (tmp_path / "out").exists()


def test_a_program_that_fails_is_a_reason(tmp_path, monkeypatch):
    assert module_tree_client.ask_module_tree(tmp_path, {}) == ""  # no config.json
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(module_tree_client, "find_spec", lambda name: name)
    monkeypatch.setattr(module_tree_client.sys, "path", [])
    assert "ModuleNotFoundError" in module_tree_client.ask_module_tree(tmp_path, {})
    monkeypatch.setattr(module_tree_client.sys, "executable", str(tmp_path / "nothing"))
    assert module_tree_client.ask_module_tree(tmp_path, {}) == "its process failed (FileNotFoundError)"
