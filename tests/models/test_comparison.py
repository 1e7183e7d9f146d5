"""Comparing models: every figure equals NumPy's in float64 for any container; nothing is left out silently."""

import dataclasses
import json
import time
from math import inf, isclose, log10
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantcore._base.text import json_value
from quantcore.conversion import compare_models, quantize_model
from quantcore.conversion.rules import UNWEIGHTED_MODEL_TYPES
from quantcore.errors import FileFormatError, InvalidTypeError, InvalidValueError
from quantcore.ggml.formats import dequantize, quantize
from quantcore.gguf import GGUFReader
from quantcore.models import decoded_checkpoint
from quantcore.models.comparison_results import ModelComparison
from quantcore.models.opening import open_model
from quantcore.models.tensors import READ_ELEMENTS
from tests.support.models import Tensor, write_gguf

BITSANDBYTES = {"nf4": {}, "fp4": {"block_size": 128}, "nf4 double": {"double_quant": True}}


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def figures(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """The definitions, in float64."""
    x, y = x.astype(np.float64).ravel(), y.astype(np.float64).ravel()
    noise = np.sum((x - y) ** 2)
    return {
        "mse": noise / x.size,
        "mae": np.mean(np.abs(x - y)),
        "max_error": np.max(np.abs(x - y)),
        "sqnr_db": inf if noise == 0 else 10 * log10(np.sum(x**2) / noise),
        "cosine_similarity": np.sum(x * y) / np.sqrt(np.sum(x**2) * np.sum(y**2)),
        "num_samples": x.size,
    }


def assert_figures(stats: object, x: np.ndarray, y: np.ndarray) -> None:
    for name, expected in figures(x, y).items():
        assert isclose(getattr(stats, name), expected, rel_tol=1e-6), name


def by_name(result: ModelComparison) -> dict[str, object]:
    return {t.name: t for t in result.tensors}


@pytest.mark.parametrize("qtype", [t.name for t in UNWEIGHTED_MODEL_TYPES])
@pytest.mark.parametrize("source", ["F32", "F16", "BF16", "safetensors"])
def test_gguf_of_every_type(qtype, source, rng, tmp_path):
    matrices = {f"blk.{i}.ffn_up.weight": normal(rng, 3 + i, 256) for i in range(3)}
    norm = normal(rng, 256)
    if source == "safetensors":
        save_file(matrices | {"norm.weight": norm}, tmp_path / "ref.safetensors")
        reference = tmp_path / "ref.safetensors"
    else:
        reference = tmp_path / "ref.gguf"
        tensors = [Tensor(name, values, source) for name, values in matrices.items()]
        write_gguf(reference, [*tensors, Tensor("norm.weight", norm)])
        matrices = {name: dequantize(quantize(values, source), source) for name, values in matrices.items()}
    quantize_model(reference, tmp_path / "q.gguf", qtype, pure=True)
    result = compare_models(reference, tmp_path / "q.gguf")
    back = {name: dequantize(quantize(values, qtype), qtype) for name, values in matrices.items()}
    assert by_name(result).keys() == {*matrices, "norm.weight"}
    for name, values in matrices.items():
        t = by_name(result)[name]
        assert_figures(t.stats, values, back[name])
        assert (t.type, t.shape, t.bits_per_weight) == (
            qtype,
            values.shape,
            8 * quantize(values, qtype).size / values.size,
        )
    everything = [np.concatenate([*(d[n].ravel() for n in matrices), norm]) for d in (matrices, back)]
    assert_figures(result.total, *everything)
    assert by_name(result)["norm.weight"].stats.sqnr_db == inf
    assert result.nbytes == sum(t.nbytes for t in result.tensors)
    assert result.bits_per_weight == 8 * result.nbytes / everything[0].size


@pytest.mark.parametrize("case", BITSANDBYTES)
@pytest.mark.parametrize("is_folder", [False, True])
def test_bitsandbytes_checkpoints(case, is_folder, rng, tmp_path):
    from quantcore.conversion.to_bitsandbytes import dequantize_checkpoint, quantize_checkpoint

    values = {"a.weight": normal(rng, 33, 65), "b.weight": normal(rng, 64, 64), "norm.bias": normal(rng, 7)}
    (tmp_path / "ref").mkdir()
    save_file(values, tmp_path / "ref" / "model.safetensors")
    target = tmp_path / ("q" if is_folder else "q.safetensors")
    quantize_checkpoint(tmp_path / "ref", target, case.split()[0], **BITSANDBYTES[case])
    dequantize_checkpoint(target, tmp_path / "back.safetensors", "F32")
    result = compare_models(tmp_path / "ref", target)
    assert (result.missing, result.extra) == ((), ())
    with open_model(tmp_path / "back.safetensors") as back:
        for t in result.tensors:
            y = np.empty(values[t.name].shape, np.float32)
            back.tensors[t.name].read_into(0, y)
            assert_figures(t.stats, values[t.name], y)
    assert by_name(result)["a.weight"].type == case.split()[0].upper()
    assert 4 < by_name(result)["b.weight"].bits_per_weight < 8
    assert compare_models(target, tmp_path / "back.safetensors").total.sqnr_db == inf


def test_scales_of_a_weight_are_loaded_by_one_thread(rng, tmp_path, monkeypatch):
    from quantcore.conversion.to_bitsandbytes import quantize_checkpoint

    # At most 7 slabs of two weights are under way at the same time, and the scales of two weights are kept.
    save_file({f"{name}.weight": normal(rng, 7, READ_ELEMENTS) for name in "abc"}, tmp_path / "x.safetensors")
    quantize_checkpoint(tmp_path / "x.safetensors", tmp_path / "q.safetensors", "nf4")
    real_load, loaded = decoded_checkpoint.load_state, []

    def slow_load(checkpoint: object, tensors: object, weight: str, *rest: object) -> object:
        loaded.append(weight)
        time.sleep(0.05)  # the other threads come to the same weight
        return real_load(checkpoint, tensors, weight, *rest)

    monkeypatch.setattr(decoded_checkpoint, "load_state", slow_load)
    monkeypatch.setattr(decoded_checkpoint, "MOST_STATES", 2)
    compare_models(tmp_path / "x.safetensors", tmp_path / "q.safetensors", n_threads=4)
    assert sorted(loaded) == sorted(2 * ["a.weight", "b.weight", "c.weight"])  # once when the model is opened


def test_tensors_of_many_slabs(rng, tmp_path):
    n = 2 * READ_ELEMENTS + 4096
    x = normal(rng, n // 4096, 4096)
    write_gguf(tmp_path / "a.gguf", [Tensor("w.weight", x)])
    save_file({"w.weight": x.astype(np.float64) * 1.25}, tmp_path / "b.safetensors")
    calls: list[tuple[int, int]] = []
    results = [
        compare_models(
            tmp_path / "a.gguf", tmp_path / "b.safetensors", n_threads=k, progress=lambda *c: calls.append(c)
        )
        for k in (1, 3)
    ]
    assert results[0] == results[1]
    assert_figures(results[0].total, x, x * 1.25)
    assert calls[-1] == (12 * n, 12 * n) and calls == sorted(calls[: len(calls) // 2]) * 2


def test_worst_tensor_comes_first_and_equal_ones_by_name(rng, tmp_path):
    x = {name: normal(rng, 64) for name in "dbca"}
    y = {
        name: (x[name] * (1 + noise)).astype(np.float32)
        for name, noise in {"d": 0, "b": 0.1, "c": 0.01, "a": 0}.items()
    }
    save_file(x, tmp_path / "x.safetensors")
    save_file(y, tmp_path / "y.safetensors")
    result = compare_models(tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    assert [t.name for t in result.tensors] == ["b", "c", "a", "d"]
    assert result.worst.name == "b" and result.worst.stats.sqnr_db <= result.total.sqnr_db
    assert result.passes(result.worst.stats.sqnr_db) and not result.passes(
        np.nextafter(result.worst.stats.sqnr_db, inf)
    )


def test_what_is_not_compared_is_named(rng, tmp_path):
    w = normal(rng, 4)
    save_file({"w": w, "only.a": w, "none": np.empty((0, 3), np.float32)}, tmp_path / "x.safetensors")
    save_file({"w": w, "only.b": w, "none": np.empty((0, 3), np.float32)}, tmp_path / "y.safetensors")
    result = compare_models(tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    assert (result.missing, result.extra, result.empty) == (("only.a",), ("only.b",), ("none",))
    assert not result.passes(-inf)
    assert [t.name for t in result.tensors] == ["w"]


def test_integers_are_compared_and_do_not_count(rng, tmp_path):
    x = {"w": normal(rng, 8), "ids": np.arange(1000), "mask": np.array([True, False])}
    y = x | {"ids": x["ids"] + 1}
    save_file(x, tmp_path / "x.safetensors")
    save_file(y, tmp_path / "y.safetensors")
    result = compare_models(tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    assert (result.total.num_samples, result.nbytes, result.reference_bytes) == (8, 32, 32)
    assert result.total.sqnr_db == inf
    assert_figures(by_name(result)["ids"].stats, x["ids"], y["ids"])
    assert result.worst.name == "ids"


def test_outermost_extents_of_one_do_not_count(rng, tmp_path):
    w = normal(rng, 32)
    save_file({"w": w, "scalar": np.full((), 3, np.float32)}, tmp_path / "x.safetensors")
    save_file({"w": w.reshape(1, 1, 32), "scalar": np.ones((1,), np.float32)}, tmp_path / "y.safetensors")
    result = compare_models(tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    assert by_name(result)["w"].stats.sqnr_db == inf and by_name(result)["scalar"].stats.max_error == 2


def test_zeros(tmp_path):
    zeros, ones = np.zeros(64, np.float32), np.ones(64, np.float32)
    save_file({"kept": zeros, "lost": ones, "made": zeros}, tmp_path / "x.safetensors")
    save_file({"kept": zeros, "lost": zeros, "made": ones}, tmp_path / "y.safetensors")
    result = compare_models(tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    assert [(t.name, t.stats.sqnr_db) for t in result.tensors] == [("made", -inf), ("lost", 0.0), ("kept", inf)]
    text = json.dumps(json_value(result.to_dict()), allow_nan=False)
    assert json.loads(text)["tensors"][0]["sqnr_db"] == "-inf"


def test_dictionary_has_every_figure(rng, tmp_path):
    save_file({"w": normal(rng, 2, 32)}, tmp_path / "x.safetensors")
    save_file({"w": normal(rng, 2, 32)}, tmp_path / "y.safetensors")
    result = compare_models(tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    (row,) = result.to_dict()["tensors"]
    stats = dataclasses.asdict(result.worst.stats)
    assert {name: row[name] for name in stats if name != "outlier_rate"} == {
        k: stats[k] for k in stats if k != "outlier_rate"
    }
    assert (row["name"], row["shape"], row["type"], row["bytes"], row["bits_per_weight"]) == (
        "w",
        [2, 32],
        "F32",
        256,
        32,
    )


# What is refused


def refused(tmp_path: Path, x: dict[str, np.ndarray], y: dict[str, np.ndarray], error: type[Exception]) -> str:
    save_file(x, tmp_path / "x.safetensors")
    save_file(y, tmp_path / "y.safetensors")
    with pytest.raises(error) as caught:
        compare_models(tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    return str(caught.value)


def test_shapes_that_differ(rng, tmp_path):
    w = normal(rng, 2, 32)
    for other in (w.reshape(32, 2), w.ravel(), w[:1], w.reshape(2, 32, 1)):
        text = refused(
            tmp_path, {"good": w, "bad": w}, {"good": w, "bad": np.ascontiguousarray(other)}, InvalidValueError
        )
        assert "'bad'" in text and "(2, 32)" in text and str(other.shape) in text


def test_no_tensor_in_common(rng, tmp_path):
    text = refused(tmp_path, {"mine": normal(rng, 4)}, {"yours": normal(rng, 4)}, InvalidValueError)
    assert "'mine'" in text and "'yours'" in text
    ids = np.arange(4)
    assert "no tensor of weights" in refused(tmp_path, {"ids": ids}, {"ids": ids}, InvalidValueError)


@pytest.mark.parametrize("side", [0, 1])
def test_values_that_are_not_finite(side, rng, tmp_path):
    w = normal(rng, READ_ELEMENTS + 64)
    bad = w.copy()
    bad[READ_ELEMENTS + 5] = np.nan
    pair = [{"w": w}, {"w": w}]
    pair[side] = {"w": bad}
    text = refused(tmp_path, *pair, InvalidValueError)
    assert f"'w' of the {('reference', 'quantized model')[side]}: must be finite, got nan" in text
    assert f"flat index {READ_ELEMENTS + 5}" in text


def test_block_scale_that_is_not_finite(rng, tmp_path):
    w = normal(rng, 2, 64)
    save_file({"w.weight": w}, tmp_path / "x.safetensors")
    quantize_model(tmp_path / "x.safetensors", tmp_path / "q.gguf", "Q8_0")
    with GGUFReader(tmp_path / "q.gguf") as reader:
        last_scale = reader.tensors[0].offset + 3 * 34
    data = bytearray((tmp_path / "q.gguf").read_bytes())
    data[last_scale : last_scale + 2] = np.float16(np.inf).tobytes()
    (tmp_path / "q.gguf").write_bytes(data)
    with pytest.raises(InvalidValueError, match=r"'w\.weight': block 3 of Q8_0"):
        compare_models(tmp_path / "x.safetensors", tmp_path / "q.gguf")


def test_types_without_kernels(rng, tmp_path):
    x, y = {"w": np.zeros(4, np.complex64)}, {"w": np.zeros(4, np.float32)}
    for pair in ((x, x), (x, y), (y, x)):
        assert "tensor 'w': no kernels to decode C64" in refused(tmp_path, *pair, InvalidValueError)


def test_state_of_a_weight_that_is_missing(rng, tmp_path):
    name = "w.quant_state.bitsandbytes__nf4"
    x = {"v": normal(rng, 4), name: np.zeros(4, np.uint8)}
    save_file(x, tmp_path / "x.safetensors")
    with pytest.raises(FileFormatError, match="w: missing"):
        compare_models(tmp_path / "x.safetensors", tmp_path / "x.safetensors")


@pytest.mark.parametrize(("n_threads", "error"), [(0, InvalidValueError), ("2", InvalidTypeError)])
def test_threads(n_threads, error, tmp_path):
    with pytest.raises(error, match="n_threads"):
        compare_models(tmp_path, tmp_path, n_threads=n_threads)
