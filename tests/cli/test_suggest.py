"""`quantcore suggest`: the budget is kept, and the printed command gives exactly the promised types and bytes."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantcore._base.patterns import match_exactly
from quantcore._base.text import json_value
from quantcore.conversion import quantize_model
from quantcore.errors import InvalidValueError
from quantcore.ggml import dequantize, quantize
from quantcore.gguf import GGUFReader, Imatrix
from quantcore.gguf.imatrix import ImatrixEntry
from quantcore.mixed_precision.costs import type_costs
from quantcore.mixed_precision.model_types import suggest_model_types
from quantcore.mixed_precision.name_patterns import group_names
from tests.support.command_line import normal
from tests.support.models import Tensor, write_gguf, write_tiny_llama_gguf


def hostile_model(path: Path) -> None:
    """Names that are patterns, names of which one is a part of the other, rows that no block type fits, every float."""
    rng = np.random.default_rng(3)

    def matrix(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * rng.uniform(0.1, 1, (*shape[:-1], 1))).astype(np.float32)

    names = (
        "a.weight",
        "xa.weight",
        "a.weight\n.weight",
        ".*.weight",
        "(a|b).weight",
        "a b$='\"\\.weight",
        "日本.weight",
    )
    tensors = [Tensor(name, matrix(4 + i, 64)) for i, name in enumerate(names)]
    tensors += [
        Tensor("output.weight", matrix(9, 64)),
        Tensor("token_embd.weight", matrix(9, 64), "BF16"),
        Tensor("odd.weight", matrix(5, 33)),
        Tensor("half.weight", matrix(5, 96), "F16"),
        Tensor("double.weight", matrix(5, 32).astype(np.float64)),
        Tensor("huge.weight", matrix(2, 32) * np.float32(1e30)),
        Tensor("zero.weight", np.zeros((2, 32), np.float32)),
        Tensor("blk.0.attn_norm.weight", matrix(2, 64)),
        Tensor("ids.weight", np.arange(64, dtype=np.int32).reshape(2, 32)),
        Tensor("bias", matrix(64)),
    ]
    write_gguf(path, tensors)


MODELS = {"tiny llama": lambda path: write_tiny_llama_gguf(path, seed=1, n_layers=1), "hostile": hostile_model}
TYPES = {"default": [], "BF16 or Q8_0": ["--types", "bf16,Q8_0"], "floats": ["--types", "BF16,F32,F16"]}


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("bits", [5.2, 9.0, 17.0, 20.5, 31.0])
@pytest.mark.parametrize("model", MODELS)
def test_command_gives_what_was_promised(model, bits, types, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    MODELS[model](tmp_path / "in.gguf")
    status, text, err = call("suggest", "in.gguf", "--bits-per-weight", bits, "--json", *TYPES[types])
    if status == 1 and "smallest types take" in err:
        assert types != "default" or (model, bits) == ("hostile", 5.2)
        return
    assert (status, err) == (0, "")
    promised = json.loads(text)
    shown = call("suggest", "in.gguf", "--bits-per-weight", bits, *TYPES[types])[1]
    program, *arguments = shlex.split(shown[shown.index("quantcore quantize ") :])
    assert (program, arguments[:4]) == ("quantcore", ["quantize", "in.gguf", "OUT.gguf", promised["type"]])
    assert arguments[4:] == promised["flags"]
    status, _, err = call(*arguments)
    notes = "quantcore: note: ids.weight: I32 is not a float type: kept\n"
    assert (status, err) == (0, notes if model == "hostile" else "")
    with GGUFReader(tmp_path / "OUT.gguf") as reader:
        assert {t.name: t.type.name for t in reader.tensors} == promised["types"]
        assert sum(t.nbytes for t in reader.tensors) == promised["bytes"]
        size = sum(t.size for t in reader.tensors)
    assert promised["bits_per_weight"] == 8 * promised["bytes"] / size <= bits


@pytest.mark.parametrize("source", ["F32", "BF16"])
def test_costs_are_those_of_whole_tensors(source, tmp_path, rng):
    values = {
        f"{name}.weight": rng.standard_normal((n, 512)).astype(np.float32) for name, n in {"a": 3, "b": 1100}.items()
    }
    write_gguf(tmp_path / "in.gguf", [Tensor(name, x, source) for name, x in values.items()])
    result = suggest_model_types(tmp_path / "in.gguf", 6, ("Q4_0", "Q8_0"))
    if source == "F32":
        for s in result.sensitivities:
            costs = type_costs(values[s.name], ("Q4_0", "Q8_0"))
            assert s.smallest_type == "Q4_0" and s.error == pytest.approx(costs["Q4_0"].error, rel=1e-12)
    assert {s.name for s in result.sensitivities} == set(values)
    results = [suggest_model_types(tmp_path / "in.gguf", 6, ("Q4_0", "Q8_0"), n_threads=n) for n in (1, 3)]
    assert results == [result, result]


def test_pattern_finds_one_name_only():
    names = ("a.weight", "a.weight\n", "aXweight", "xa.weight", ".*", "a\\Z", "\x1b[2J", "[2J", "\U0001f600", "a b", "")
    for name in names:
        pattern = match_exactly(name, is_strict=True)
        assert pattern.isprintable()
        assert [other for other in names if re.search(pattern, other)] == [name]
        found = [other for other in names if re.search(match_exactly(name), other)]
        assert found == ([name, f"{name}\n"] if f"{name}\n" in names else [name])


def test_patterns_are_grouped_by_layers():
    kinds = {"attn_k.weight": "Q4_0", "ffn_up.weight": "Q8_0", "attn_k.weight2": "Q8_0"}
    types = {f"blk.{i}.{kind}": t for i in (0, 5, 9) for kind, t in kinds.items()} | {"output.weight": "Q6_K"}
    others = ["blk.1.attn_k.weight", "blk.00.ffn_up.weight", "xblk.0.attn_k.weight", "blk.5.attn_k.weight.scale"]
    pairs = group_names(types, others)
    assert pairs == (
        (r"^blk\.(0|5|9)\.attn_k\.weight$", "Q4_0"),
        (r"^blk\.(0|5|9)\.ffn_up\.weight$", "Q8_0"),
        (r"^blk\.\d+\.attn_k\.weight2$", "Q8_0"),
        (r"^output\.weight$", "Q6_K"),
    )
    assert dict(group_names({"blk.1.a\n": "Q8_0", "blk.2.a": "Q8_0", "blk.1.a": "Q4_0"}, []))[r"^blk\.1\.a\Z"] == "Q4_0"
    for names, rest in ((types, others), (others, types)):
        for name in names:
            found = [chosen for pattern, chosen in pairs if re.search(pattern, name)]
            assert found == ([types[name]] if name in types else []), (name, rest)


def test_more_bits_never_lose_more(tmp_path):
    write_tiny_llama_gguf(tmp_path / "in.gguf", seed=2, n_layers=1)
    errors = [suggest_model_types(tmp_path / "in.gguf", bits).suggestion.error for bits in (5, 6, 8, 10, 17, 33)]
    assert errors == sorted(errors, reverse=True) and errors[-1] == 0 < errors[0]


def test_table(call, tmp_path):
    write_tiny_llama_gguf(tmp_path / "in.gguf", seed=2, n_layers=1)
    status, text, err = call("suggest", tmp_path / "in.gguf", "--bits-per-weight", 6)
    assert (status, err) == (0, "")
    summary, shown, command = text.rstrip("\n").split("\n\n")
    head, *rows = shown.splitlines()
    result = suggest_model_types(tmp_path / "in.gguf", 6)
    assert head.startswith("tensor") and len(rows) == len(result.sensitivities)
    for row, s in zip(rows, result.sensitivities, strict=True):
        assert row.split()[:3] == [s.name, result.suggestion.types[s.name], s.smallest_type]
    assert summary.startswith(f"{result.suggestion.bits_per_weight:.4g} bits per weight, ")
    assert len(summary.splitlines()) <= 10 and command.startswith("quantcore quantize ")
    assert sum(int(n) for n in re.findall(r"(\d+) tensors, ", summary)) == len(rows)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_output_has_what_was_promised(is_weighted, call, tmp_path, rng, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {f"blk.{i}.ffn_{part}.weight": normal(8, 256, seed=i) for i in range(4) for part in ("up", "down")}
    write_gguf(tmp_path / "in.gguf", [Tensor(name, x) for name, x in values.items()])
    weights = {name: ImatrixEntry(rng.random((1, 256)), np.ones(1, np.int64)) for name in list(values)[:-1]}
    Imatrix(weights).save(tmp_path / "m.gguf")
    flags = ["--types", "all", *(["--imatrix", "m.gguf"] if is_weighted else [])]
    status, text, err = call("suggest", "in.gguf", "--bytes", "5K", "-o", "out.gguf", "--json", *flags)
    assert status == 0 and ("no weights for 1 of the tensors" in err) == is_weighted
    promised = json.loads(text)
    assert promised["bytes"] <= 5000
    with GGUFReader(tmp_path / "out.gguf") as reader:
        assert {t.name: t.type.name for t in reader.tensors} == promised["types"]
    status, text, _ = call("quantize", "in.gguf", "again.gguf", promised["type"], *promised["flags"])
    assert status == 0 and (tmp_path / "again.gguf").read_bytes() == (tmp_path / "out.gguf").read_bytes()
    assert call("suggest", "in.gguf", "--bytes", "5K", "-o", "out.gguf", *flags)[0] == 1  # exists


def test_errors_are_weighted(tmp_path, rng):
    x = rng.standard_normal((40, 512)).astype(np.float32)
    weights = rng.random((2, 512)).astype(np.float32)
    write_gguf(tmp_path / "in.gguf", [Tensor("a.weight", x[:20]), Tensor("e.weight", x.reshape(2, 20, 512))])
    entries = {"a.weight": weights[:1], "e.weight": weights}
    matrix = Imatrix({k: ImatrixEntry(w.astype(np.float64), np.ones(len(w), np.int64)) for k, w in entries.items()})
    result = suggest_model_types(tmp_path / "in.gguf", 9, ("IQ2_XS", "Q8_0"), imatrix=matrix)
    for s in result.sensitivities:
        values, w = (x[:20], weights[0]) if s.name == "a.weight" else (x.reshape(2, 20, 512), weights)
        back = dequantize(quantize(values, "IQ2_XS", imatrix=w), "IQ2_XS").astype(np.float64).reshape(values.shape)
        w = w if w.ndim == 1 else w[:, None]
        expected = (w * (values - back) ** 2).sum() / (w * values.astype(np.float64) ** 2).sum()
        assert s.smallest_type == "IQ2_XS" and s.error == pytest.approx(expected, rel=1e-6)
    again = [
        suggest_model_types(tmp_path / "in.gguf", 9, ("IQ2_XS", "Q8_0"), imatrix=matrix, n_threads=n) for n in (1, 3)
    ]
    assert again == [result, result]


def test_importance_of_another_size_is_refused(tmp_path):
    write_gguf(tmp_path / "in.gguf", [Tensor("a.weight", normal(4, 64))])
    matrix = Imatrix({"a.weight": ImatrixEntry(np.ones((1, 32)), np.ones(1, np.int64))})
    with pytest.raises(InvalidValueError, match=r"tensor 'a\.weight': the importance matrix has 32 weights"):
        suggest_model_types(tmp_path / "in.gguf", 9, imatrix=matrix)
    for budget in ({}, {"bits_per_weight": 5, "max_bytes": 99}):
        with pytest.raises(InvalidValueError, match="bits_per_weight, max_bytes: one of the two"):
            suggest_model_types(tmp_path / "in.gguf", **budget)
    with pytest.raises(InvalidValueError, match=r"max_bytes: 9 bytes are given, but the smallest types take"):
        suggest_model_types(tmp_path / "in.gguf", max_bytes=9)


def test_safetensors_folder(call, tmp_path, rng):
    (tmp_path / "in").mkdir()
    save_file({"a.weight": rng.standard_normal((8, 64)).astype(np.float32)}, tmp_path / "in" / "model.safetensors")
    status, text, _ = call("suggest", tmp_path / "in", "--bits-per-weight=9", "--json")
    assert status == 0 and json.loads(text)["types"] == {"a.weight": "Q8_0"}
    report = quantize_model(tmp_path / "in", tmp_path / "out.gguf", json.loads(text)["type"], pure=True)
    assert report.target_bytes == json.loads(text)["bytes"]
    assert json_value(json.loads(text)) == json.loads(text)


def test_refusals(call, tmp_path, rng):
    w = rng.standard_normal((2, 64)).astype(np.float32)
    save_file({"a.weight": w}, tmp_path / "a.safetensors")
    quantize_model(tmp_path / "a.safetensors", tmp_path / "q.gguf", "Q8_0")
    save_file({"a.bias": w[0]}, tmp_path / "bias.safetensors")
    bad = w.copy()
    bad[1, 3] = np.inf
    save_file({"a.weight": bad}, tmp_path / "bad.safetensors")
    save_file({"a.weight": w[:, :33].copy()}, tmp_path / "odd.safetensors")
    for name, flags, problem in [
        ("q.gguf", [], "'a.weight' is Q8_0 already"),
        ("bias.safetensors", [], "has no tensor that quantize would touch"),
        ("bad.safetensors", [], "'a.weight': must be finite, got inf at flat index 67"),
        ("odd.safetensors", ["--types=Q4_0"], "'a.weight': none of the types can hold it"),
        ("a.safetensors", ["--bits-per-weight=4.4"], "smallest types take 72 (4.5 bits per weight)"),
    ]:
        status, text, err = call("suggest", tmp_path / name, "--bits-per-weight=5", *flags)
        assert (status, text) == (1, "") and problem in err and err.count("\n") == 1
    for flags in ([], ["--bits-per-weight=x"], ["--bits-per-weight=5", "--types=Q9_9"]):
        assert call("suggest", tmp_path / "a.safetensors", *flags)[0] == 2
    with pytest.raises(InvalidValueError, match="n_threads"):
        suggest_model_types(tmp_path / "a.safetensors", 5, n_threads=0)
