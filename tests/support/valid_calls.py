"""A valid call of every public function and method that takes arguments, for tests which spoil one argument of it.

`CALLS` has them by name; `Files` are the small files that they read, and where they write. `INTERNAL` are the methods
that need none.
"""

import itertools
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

import quantcore as qc
from quantcore import calibration, embeddings, gguf, models, safetensors
from quantcore.array_files import open_arrays
from quantcore.files.disk import OutputFile
from quantcore.ggml import as_ggml_type
from quantcore.gguf import quants
from quantcore.safetensors.writer import TensorSpec

# Behind the boundary, for other modules of the package or for zarr's own machinery.
INTERNAL = {
    "AffineCodec.compute_encoded_size", "AffineCodec.validate", "BlockCodec.compute_encoded_size",
    "BlockCodec.validate", "Calibrator.compute_named", "Calibrator.observe_named", "Calibrator.observe_shared",
    "ErrorSums.add_rows", "ModelTensor.decode", "ModelTensor.packed_bytes", "ModelTensor.read",
    "QuantGranularity.from_front", "QuantGranularity.sharing", "QuantParams.rows_for", "QuantParams.sharing",
    "QuantParams.without_scales", "StoredArray.read", "StoredArray.slabs",
}  # fmt: skip

Call = tuple[Callable[..., Any], dict[str, Any]]

X = np.linspace(-1, 1, 256, dtype=np.float32).reshape(2, 128)
CODES = np.arange(32, dtype=np.uint8) % 16
PARAMS = qc.calibrate_per_tensor(X)
OFFSET_PARAMS = qc.calibrate_per_tensor(X, mode="offset")
Q8 = qc.quantize(X, "Q8_0")
STATS = qc.error_stats(X, X)
RESULT = qc.run_benchmark("a", X)
KVS = (gguf.KeyValue.string("general.architecture", "llama"),)


def calibrated() -> qc.Calibrator:
    return qc.Calibrator.min_max().partial_fit(X)


def matrix() -> gguf.Imatrix:
    return gguf.Imatrix.from_activations({"output.weight": X[:, :64]}, datasets=("a",))


class Files:
    """Small files in a folder, which nothing changes, and names for outputs, each of them new."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = itertools.count()
        self.model = folder / "model.gguf"
        shapes = {"token_embd.weight": (4, 64), "output.weight": (4, 64), "blk.0.attn_q.weight": (64, 64)}
        arrays = {name: np.resize(X, shape) for name, shape in shapes.items()}
        with OutputFile(self.model) as file:
            tensors = [(name, shape, "F32") for name, shape in shapes.items()]
            writer = gguf.GGUFWriter(file, KVS, tensors)
            for array in arrays.values():
                writer.write(array)
                writer.end_tensor()
        self.checkpoint = folder / "checkpoint"
        self.checkpoint.mkdir()
        with OutputFile(self.checkpoint / "model.safetensors") as file:
            specs = [TensorSpec(name, "F32", shape) for name, shape in shapes.items()]
            shards = safetensors.SafetensorsWriter(file, specs, {})
            for name, array in arrays.items():
                shards.write(name, 0, array)
        self.codes = folder / "codes"
        qc.quantize_checkpoint(self.checkpoint, self.codes, "nf4")
        self.array = folder / "values.npy"
        np.save(self.array, X)
        self.statistics = folder / "statistics.json"
        calibration.save_statistics(self.statistics, {"a": calibrated()})
        self.parts = folder / "parts-00001-of-00003.gguf"
        qc.split_model(self.model, folder / "parts", max_tensors=1)
        self.matrix = folder / "matrix.gguf"
        matrix().save(self.matrix)
        self.quantizer = folder / "quantizer.json"
        embeddings.EmbeddingQuantizer().fit(X).save(self.quantizer)

    def new(self, suffix: str = "") -> Path:
        """A path where nothing is yet, in the folder where the tests run."""
        return Path.cwd() / f"new{next(self._numbers)}{suffix}"

    def output(self) -> OutputFile:
        """An open output, which gets no name."""
        file = OutputFile(self.new())
        file.open()
        return file


def told(done: int, total: int) -> None:
    """A progress that is told and forgotten."""


def call(function: Callable[..., Any], /, **arguments: Any) -> Call:
    return function, arguments


def _fields(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _costs() -> dict[str, Any]:
    return {"a": qc.type_costs(X.reshape(1, 256), ("Q4_0", "Q8_0"))}


def _tensor(files: Files) -> models.ModelTensor:
    return models.open_model(files.model).tensors["output.weight"]


def _reader(files: Files) -> gguf.GGUFReader:
    return gguf.GGUFReader(files.model)


def _checkpoint(files: Files) -> safetensors.Checkpoint:
    return safetensors.open_checkpoint(files.checkpoint)


def _writer(files: Files) -> gguf.GGUFWriter:
    return gguf.GGUFWriter(files.output(), KVS, [("a", (2, 128), "F32")])


def _shard_writer(files: Files) -> safetensors.SafetensorsWriter:
    return safetensors.SafetensorsWriter(files.output(), [TensorSpec("a", "F32", (2, 128))], {})


def _listed(path: Any) -> Any:
    with open_arrays(path) as arrays:
        return arrays


def _fitted() -> qc.FakeQuantize:
    made = qc.FakeQuantize.q8()
    made.calibrate(X)
    return made


def _embedder() -> embeddings.EmbeddingQuantizer:
    return embeddings.EmbeddingQuantizer().fit(X)


_SHARED: Any = {"bits": 8, "symmetric": True, "axis": None, "narrow_range": True, "mode": "symmetric"}
_WRITES: Any = {"force": False, "n_threads": 1, "progress": told}
_FLOATS: Any = {"dtype": "float32", "n_threads": 1, "out": None}
_EMBEDDED: Any = {"on_bad": "error", "n_threads": 1}

_ARRAYS: dict[str, Callable[[Files], Call]] = {
    "quantize": lambda f: call(
        qc.quantize, values=X, qtype="Q4_0", imatrix=np.ones(128), effort="reference", n_threads=1, out=None
    ),
    "dequantize": lambda f: call(qc.dequantize, data=Q8, qtype="Q8_0", strict=True, **_FLOATS),
    "Blocks": lambda f: call(qc.Q8_0, data=Q8, shape=(2, 128)),
    "Blocks.quantize": lambda f: call(qc.Q8_0.quantize, values=X, imatrix=None, effort="reference", n_threads=1),
    "Blocks.from_bytes": lambda f: call(qc.Q8_0.from_bytes, buffer=Q8.tobytes(), shape=(2, 128)),
    "Blocks.dequantize": lambda f: call(qc.Q8_0.quantize(X).dequantize, **_FLOATS),
    "ggml.as_ggml_type": lambda f: call(as_ggml_type, qtype="Q8_0", name="qtype"),
    "gguf.quants.quantize": lambda f: call(quants.quantize, data=X, qtype=8),
    "gguf.quants.dequantize": lambda f: call(quants.dequantize, data=Q8, qtype=8),
    "gguf.quants.BlockType.can_quantize": lambda f: call(quants.Q8_0.can_quantize, tensor=X),
    "gguf.quants.BlockType.quantize": lambda f: call(quants.Q8_0.quantize, tensor=X),
    "gguf.quants.BlockType.dequantize": lambda f: call(quants.Q8_0.dequantize, tensor=Q8),
    "gguf.quants.BlockType.quantize_rows": lambda f: call(quants.Q8_0.quantize_rows, rows=X),
    "gguf.quants.BlockType.dequantize_rows": lambda f: call(quants.Q8_0.dequantize_rows, rows=Q8),
    "gguf.quants.BlockType.quantize_blocks": lambda f: call(quants.Q8_0.quantize_blocks, blocks=X.reshape(-1, 32)),
    "gguf.quants.BlockType.dequantize_blocks": lambda f: call(
        quants.Q8_0.dequantize_blocks, blocks=Q8.reshape(-1, 34)
    ),
    "gguf.quants.quant_shape_to_byte_shape": lambda f: call(
        quants.quant_shape_to_byte_shape, shape=(2, 128), quant_type=8
    ),
    "gguf.quants.quant_shape_from_byte_shape": lambda f: call(
        quants.quant_shape_from_byte_shape, shape=(2, 136), quant_type=8
    ),
    "quantize_4bit": lambda f: call(qc.quantize_4bit, values=X, block_size=64, quant_type="nf4", n_threads=1),
    "quantize_4bit_double": lambda f: call(
        qc.quantize_4bit_double,
        values=X, block_size=64, quant_type="nf4", super_block_size=256, scale_code="linear", n_threads=1,
    ),
    "dequantize_4bit": lambda f: call(qc.dequantize_4bit, q=qc.quantize_4bit(X), **_FLOATS),
    "dequantize_4bit_double": lambda f: call(qc.dequantize_4bit_double, q=qc.quantize_4bit_double(X), **_FLOATS),
    "from_bitsandbytes": lambda f: call(
        qc.from_bitsandbytes, mapping=qc.quantize_4bit(X, quant_type="nf4").to_bitsandbytes(), name="weight"
    ),
    "Quantized4Bit": lambda f: call(qc.Quantized4Bit, **_fields(qc.quantize_4bit(X))),
    "Quantized4Bit.decoded_scales": lambda f: call(qc.quantize_4bit(X).decoded_scales, n_threads=1),
    "Quantized4Bit.dequantize": lambda f: call(qc.quantize_4bit(X).dequantize, **_FLOATS),
    "Quantized4Bit.to_bitsandbytes": lambda f: call(
        qc.quantize_4bit(X, quant_type="nf4").to_bitsandbytes, name="weight", dtype="float32"
    ),
    "DoubleQuantized4Bit": lambda f: call(qc.DoubleQuantized4Bit, **_fields(qc.quantize_4bit_double(X))),
    "DoubleQuantized4Bit.decoded_scales": lambda f: call(qc.quantize_4bit_double(X).decoded_scales, n_threads=1),
    "DoubleQuantized4Bit.dequantize": lambda f: call(qc.quantize_4bit_double(X).dequantize, **_FLOATS),
    "DoubleQuantized4Bit.to_bitsandbytes": lambda f: call(
        qc.quantize_4bit_double(X, quant_type="nf4", scale_code="dynamic").to_bitsandbytes,
        name="weight", dtype="float32",
    ),
    "QuantGranularity": lambda f: call(qc.QuantGranularity, axis=0, group_size=None),
    "QuantGranularity.per_channel": lambda f: call(qc.QuantGranularity.per_channel, axis=0),
    "QuantGranularity.per_group": lambda f: call(qc.QuantGranularity.per_group, size=64),
    "QuantParams": lambda f: call(qc.QuantParams, **_fields(PARAMS)),
    "QuantParams.from_dict": lambda f: call(qc.QuantParams.from_dict, mapping=PARAMS.to_dict()),
    "QuantizedTensor": lambda f: call(qc.QuantizedTensor, **_fields(qc.quantize_tensor(X))),
    "QuantizedTensor.dequantize": lambda f: call(qc.quantize_tensor(X).dequantize, **_FLOATS),
    "calibrate_per_tensor": lambda f: call(
        qc.calibrate_per_tensor, values=X, bits=8, mode="symmetric", narrow_range=True, n_threads=1
    ),
    "calibrate_per_channel": lambda f: call(
        qc.calibrate_per_channel, values=X, bits=8, mode="symmetric", axis=0, narrow_range=True, n_threads=1
    ),
    "calibrate_per_group": lambda f: call(
        qc.calibrate_per_group, values=X, group_size=64, bits=8, mode="symmetric", narrow_range=True, n_threads=1
    ),
    "quantize_tensor": lambda f: call(
        qc.quantize_tensor, values=X, granularity="per_tensor", mode="symmetric", bits=8, n_threads=1
    ),
    "dequantize_tensor": lambda f: call(qc.dequantize_tensor, q=qc.quantize_tensor(X), **_FLOATS),
    "quantize_with_params": lambda f: call(qc.quantize_with_params, values=X, params=PARAMS, n_threads=1, out=None),
    "dequantize_with_params": lambda f: call(
        qc.dequantize_with_params, codes=qc.quantize_with_params(X, PARAMS), params=PARAMS, **_FLOATS
    ),
    "pack_nibbles": lambda f: call(qc.pack_nibbles, codes=CODES, order="low_first"),
    "unpack_nibbles": lambda f: call(qc.unpack_nibbles, data=CODES, size=64, order="low_first", signed=False),
    "set_num_threads": lambda f: call(qc.set_num_threads, n_threads=None),
    "fake_quantize": lambda f: call(
        qc.fake_quantize, values=X, bits=8, symmetric=True, granularity="per_tensor", n_threads=1, out=None
    ),
    "fake_quantize_with_params": lambda f: call(
        qc.fake_quantize_with_params, values=X, params=PARAMS, n_threads=1, out=None
    ),
    "fake_quantize_backward": lambda f: call(
        qc.fake_quantize_backward, grad=X, values=X, params=PARAMS, n_threads=1, out=None
    ),
    "ste_backward": lambda f: call(qc.ste_backward, grad=X, out=None),
    "lsq_backward": lambda f: call(
        qc.lsq_backward, grad=X, x=X, params=PARAMS, grad_factor=0.5, n_threads=1, out=None
    ),
    "FakeQuantConfig": lambda f: call(qc.FakeQuantConfig, bits=8, symmetric=True, qmin=-127, qmax=127),
    "FakeQuantConfig.symmetric": lambda f: call(qc.FakeQuantConfig.symmetric, bits=8),
    "FakeQuantConfig.asymmetric": lambda f: call(qc.FakeQuantConfig.asymmetric, bits=8),
    "FakeQuantize": lambda f: call(
        qc.FakeQuantize, config=qc.FakeQuantConfig.q8_symmetric(), granularity="per_tensor", params=None
    ),
    "FakeQuantize.q4": lambda f: call(qc.FakeQuantize.q4, granularity="per_tensor"),
    "FakeQuantize.q8": lambda f: call(qc.FakeQuantize.q8, granularity="per_tensor"),
    "FakeQuantize.calibrate": lambda f: call(qc.FakeQuantize.q8().calibrate, data=X, n_threads=1),
    "FakeQuantize.forward": lambda f: call(_fitted().forward, x=X, n_threads=1, out=None),
    "FakeQuantize.forward_with_calibration": lambda f: call(
        qc.FakeQuantize.q8().forward_with_calibration, x=X, n_threads=1, out=None
    ),
    "FakeQuantize.backward": lambda f: call(_fitted().backward, grad=X, out=None),
    "FakeQuantize.backward_clamped": lambda f: call(_fitted().backward_clamped, grad=X, x=X, n_threads=1, out=None),
}  # fmt: skip

_FIGURES: dict[str, Callable[[Files], Call]] = {
    "QuantErrorStats": lambda f: call(qc.QuantErrorStats, **_fields(STATS)),
    "QuantBenchmarkResult": lambda f: call(qc.QuantBenchmarkResult, **_fields(RESULT)),
    "SpeedResult": lambda f: call(
        qc.SpeedResult, format="Q8_0", num_elements=1, n_threads=1, quantize_rate=1.0, dequantize_rate=1.0
    ),
    "CalibrationResult": lambda f: call(qc.CalibrationResult, **_fields(calibrated().compute())),
    "error_stats": lambda f: call(
        qc.error_stats, original=X, reconstructed=X, outlier_threshold=1.0, n_threads=1
    ),
    "analyze_error": lambda f: call(qc.analyze_error, original=X, params=PARAMS, outlier_threshold=1.0, n_threads=1),
    "error_within_bounds": lambda f: call(qc.error_within_bounds, stats=STATS, params=PARAMS, tolerance=0.0),
    "theoretical_max_error": lambda f: call(qc.theoretical_max_error, params=PARAMS),
    "theoretical_sqnr": lambda f: call(qc.theoretical_sqnr, bits=8, signal="sine"),
    "sqnr_db": lambda f: call(qc.sqnr_db, original=X, reconstructed=X),
    "quantization_mse": lambda f: call(qc.quantization_mse, original=X, dequantized=X, n_threads=1),
    "accuracy_retention": lambda f: call(qc.accuracy_retention, original=0.9, quantized=0.8),
    "analyze_outlier_impact": lambda f: call(
        qc.analyze_outlier_impact, values=X, percentile=99.0, bits=8, n_threads=1
    ),
    "compare_bit_widths": lambda f: call(qc.compare_bit_widths, values=X, n_threads=1),
    "compare_bit_width_degradation": lambda f: call(
        qc.compare_bit_width_degradation, values=X, granularity="per_tensor", mode="symmetric", n_threads=1
    ),
    "compare_granularities": lambda f: call(qc.compare_granularities, values=X, bits=8, axis=0, n_threads=1),
    "scale_sensitivity": lambda f: call(
        qc.scale_sensitivity, values=X, params=PARAMS, perturbation=0.1, n_threads=1
    ),
    "ErrorSums": lambda f: call(qc.ErrorSums, outlier_threshold=1.0),
    "ErrorSums.add": lambda f: call(
        qc.ErrorSums().add, original=X, reconstructed=X, n_threads=1, name="reconstructed"
    ),
    "ErrorSums.add_affine": lambda f: call(
        qc.ErrorSums().add_affine, original=X, params=PARAMS, n_threads=1, name="original"
    ),
    "ErrorSums.merge": lambda f: call(qc.ErrorSums().merge, other=qc.ErrorSums()),
    "BenchmarkSuite": lambda f: call(qc.BenchmarkSuite, results=[RESULT]),
    "BenchmarkSuite.add": lambda f: call(qc.BenchmarkSuite().add, result=RESULT),
    "BenchmarkSuite.to_json": lambda f: call(qc.BenchmarkSuite([RESULT]).to_json, indent=2),
    "BenchmarkSuite.plot": lambda f: call(qc.BenchmarkSuite([RESULT]).plot, axes=None),
    "run_benchmark": lambda f: call(
        qc.run_benchmark, name="a", values=X, bits=8, granularity="per_tensor", mode="symmetric", n_threads=1
    ),
    "run_format_benchmark": lambda f: call(qc.run_format_benchmark, name="a", values=X, format="Q8_0", n_threads=1),
    "run_full_benchmark_suite": lambda f: call(
        qc.run_full_benchmark_suite, size=256, rng=0, channels=1, group_size=64, bits=(4,), n_threads=1
    ),
    "run_speed_benchmark": lambda f: call(
        qc.run_speed_benchmark, size=1 << 16, rng=0, formats=("Q8_0",), n_threads=1
    ),
    "generate_gaussian_weights": lambda f: call(qc.generate_gaussian_weights, n=9, mean=0.0, std=1.0, rng=0),
    "generate_uniform_weights": lambda f: call(qc.generate_uniform_weights, n=9, low=-1.0, high=1.0, rng=0),
    "generate_weights_with_outliers": lambda f: call(
        qc.generate_weights_with_outliers, n=9, outlier_ratio=0.1, outlier_scale=10.0, std=1.0, rng=0
    ),
    "generate_multi_channel_weights": lambda f: call(
        qc.generate_multi_channel_weights, channels=2, per_channel=3, rng=0
    ),
    "type_costs": lambda f: call(qc.type_costs, values=X.reshape(1, 256), types=("Q8_0",), n_threads=1),
    "rank_sensitivity": lambda f: call(qc.rank_sensitivity, costs=_costs()),
    "suggest_types": lambda f: call(
        qc.suggest_types, costs=_costs(), num_weights=256, bits_per_weight=8.5, max_bytes=None
    ),
    "CalibrationMethod": lambda f: call(
        qc.CalibrationMethod, name="percentile", averaging_constant=None, lower=1.0, upper=99.0
    ),
    "CalibrationResult.plot": lambda f: call(calibrated().compute().plot, axes=None),
    "calibrate_min_max": lambda f: call(
        qc.calibrate_min_max, data=X, bits=8, symmetric=True, mode="symmetric", n_threads=1
    ),
    "calibrate_percentile": lambda f: call(
        qc.calibrate_percentile,
        data=X, bits=8, symmetric=True, lower=1.0, upper=99.0, mode="symmetric", n_threads=1,
    ),
    "Calibrator": lambda f: call(qc.Calibrator, method=qc.Calibrator.min_max().method, **_SHARED),
    "Calibrator.min_max": lambda f: call(qc.Calibrator.min_max, **_SHARED),
    "Calibrator.mse": lambda f: call(qc.Calibrator.mse, **_SHARED),
    "Calibrator.entropy": lambda f: call(qc.Calibrator.entropy, **_SHARED),
    "Calibrator.moving_average": lambda f: call(qc.Calibrator.moving_average, averaging_constant=0.1, **_SHARED),
    "Calibrator.percentile": lambda f: call(qc.Calibrator.percentile, lower=1.0, upper=99.0, **_SHARED),
    "Calibrator.from_dict": lambda f: call(qc.Calibrator.from_dict, mapping=calibrated().to_dict()),
    "Calibrator.merge": lambda f: call(calibrated().merge, other=calibrated()),
    "Calibrator.observe": lambda f: call(
        qc.Calibrator.min_max().observe, batch=X, mask=None, nan_policy="raise", n_threads=1
    ),
    "Calibrator.partial_fit": lambda f: call(
        qc.Calibrator.min_max().partial_fit, batch=X, mask=X > 0, nan_policy="raise", n_threads=1
    ),
    "Calibrator.compute": lambda f: call(calibrated().compute, n_threads=1),
    "Calibrator.plot": lambda f: call(calibrated().plot, axes=None, channel=None),
    "embeddings.EmbeddingQuantizer": lambda f: call(
        embeddings.EmbeddingQuantizer, scheme="uint8", per="dimension", layout="affine", method="min_max"
    ),
    "embeddings.EmbeddingQuantizer.fit": lambda f: call(embeddings.EmbeddingQuantizer().fit, values=X, **_EMBEDDED),
    "embeddings.EmbeddingQuantizer.partial_fit": lambda f: call(_embedder().partial_fit, values=X, **_EMBEDDED),
    "embeddings.EmbeddingQuantizer.transform": lambda f: call(_embedder().transform, values=X, out=None, **_EMBEDDED),
    "embeddings.EmbeddingQuantizer.inverse_transform": lambda f: call(
        _embedder().inverse_transform, codes=_embedder().transform(X), n_threads=1, out=None
    ),
    "embeddings.EmbeddingQuantizer.good_rows": lambda f: call(_embedder().good_rows, values=X),
    "embeddings.EmbeddingQuantizer.merge": lambda f: call(_embedder().merge, other=_embedder()),
    "embeddings.EmbeddingQuantizer.from_dict": lambda f: call(
        embeddings.EmbeddingQuantizer.from_dict, mapping=_embedder().to_dict()
    ),
    "embeddings.EmbeddingQuantizer.recall_at_k": lambda f: call(
        _embedder().recall_at_k, base=X, queries=X, k=1, metric="l2"
    ),
    "embeddings.EmbeddingQuantizer.save": lambda f: call(_embedder().save, path=f.new(".json"), force=False),
    "embeddings.EmbeddingQuantizer.load": lambda f: call(embeddings.EmbeddingQuantizer.load, path=f.quantizer),
    "embeddings.recall_at_k": lambda f: call(
        embeddings.recall_at_k, exact=np.array([[0], [1]]), found=np.array([[0], [1]])
    ),
}  # fmt: skip

_FILES: dict[str, Callable[[Files], Call]] = {
    "calibrate_files": lambda f: call(
        qc.calibrate_files,
        paths=[f.array], calibrator=qc.Calibrator.min_max(), exclude=("b",), nan_policy="raise", notify=print,
        n_threads=1, progress=told,
    ),
    "calibration.save_statistics": lambda f: call(
        calibration.save_statistics,
        path=f.new(".json"), calibrators={"a": calibrated()}, force=False, inputs=(f.array,),
    ),
    "calibration.load_statistics": lambda f: call(calibration.load_statistics, path=f.statistics),
    "calibration.merge_statistics": lambda f: call(calibration.merge_statistics, paths=[f.statistics]),
    "array_files.open_arrays": lambda f: call(_listed, path=f.array),
    "open_model": lambda f: call(qc.open_model, path=f.model),
    "models.describe": lambda f: call(models.describe, path=f.model),
    "models.ModelTensor.slabs": lambda f: call(_tensor(f).slabs, n_threads=1),
    "models.ModelTensor.values": lambda f: call(_tensor(f).values, start=0, stop=64, n_threads=1),
    "models.ModelComparison.passes": lambda f: call(qc.compare_models(f.model, f.model).passes, sqnr_db=1.0),
    "models.ModelComparison.plot": lambda f: call(qc.compare_models(f.model, f.model).plot, axes=None),
    "compare_models": lambda f: call(
        qc.compare_models, reference=f.model, quantized=f.model, n_threads=1, progress=told
    ),
    "quantize_model": lambda f: call(
        qc.quantize_model,
        source=f.model, target=f.new(".gguf"), qtype="Q8_0", pure=False, imatrix=f.matrix, include_weights=(),
        exclude_weights=(), effort="reference", tensor_types=[("attn", "Q4_0")], output_tensor_type="F16",
        token_embedding_type="F16", leave_output_tensor=False, prune_layers=(), kv_overrides={"a.b": 1},
        allow_requantize=False, no_fallback=False, keep_split=False, split_max_size=None, split_max_tensors=None,
        arch=None, keep_names=False, long_names=False, dry_run=False, **_WRITES,
    ),
    "dequantize_model": lambda f: call(
        qc.dequantize_model,
        source=f.model, target=f.new(".gguf"), qtype="F32", keep_names=False, split_max_size=None, long_names=False,
        **_WRITES,
    ),
    "quantize_checkpoint": lambda f: call(
        qc.quantize_checkpoint,
        source=f.checkpoint, target=f.new(), quant_type="nf4", block_size=64, double_quant=False, exclude=("b",),
        compute_dtype="float32", quant_storage="uint8", dry_run=False, **_WRITES,
    ),
    "dequantize_checkpoint": lambda f: call(
        qc.dequantize_checkpoint, source=f.codes, target=f.new(), dtype="F32", **_WRITES
    ),
    "split_model": lambda f: call(
        qc.split_model,
        source=f.model, target=f.new(), max_tensors=1, max_size=None, no_tensor_first=False, dry_run=False, **_WRITES,
    ),
    "merge_model": lambda f: call(qc.merge_model, source=f.parts, target=f.new(".gguf"), dry_run=False, **_WRITES),
    "suggest_model_types": lambda f: call(
        qc.suggest_model_types,
        source=f.model, bits_per_weight=8.5, types=("Q4_0", "Q8_0"), max_bytes=None, imatrix=f.matrix, n_threads=1,
        progress=told,
    ),
    "gguf.open_gguf": lambda f: call(gguf.open_gguf, path=f.parts),
    "gguf.GGUFReader": lambda f: call(gguf.GGUFReader, path=f.model),
    "gguf.GGUFReader.value": lambda f: call(_reader(f).value, key="general.architecture"),
    "gguf.GGUFReader.read_into": lambda f: call(
        _reader(f).read_into, tensor=_reader(f).tensors[0], start=0, buffer=bytearray(16)
    ),
    "gguf.GGUFModel.value": lambda f: call(gguf.open_gguf(f.parts).value, key="general.architecture"),
    "gguf.GGUFModel.part_of": lambda f: call(gguf.open_gguf(f.parts).part_of, name="output.weight"),
    "gguf.GGUFModel.read_into": lambda f: call(
        gguf.open_gguf(f.model).read_into, tensor=_reader(f).tensors[0], start=0, buffer=bytearray(16)
    ),
    "gguf.GGUFWriter": lambda f: call(
        gguf.GGUFWriter,
        file=f.output(), kvs=KVS, tensors=[("a", (2, 128), "F32")], long_names=False, keeps_ones=False,
    ),
    "gguf.GGUFWriter.write": lambda f: call(_writer(f).write, data=X),
    "gguf.KeyValue": lambda f: call(gguf.KeyValue, key="a", type_id=4, data=bytes(4)),
    "gguf.KeyValue.of": lambda f: call(gguf.KeyValue.of, key="a", value=1, value_type="uint32"),
    "gguf.KeyValue.array": lambda f: call(gguf.KeyValue.array, key="a", values=[1], item_type="uint32"),
    "gguf.KeyValue.bool": lambda f: call(gguf.KeyValue.bool, key="a", value=True),
    "gguf.KeyValue.string": lambda f: call(gguf.KeyValue.string, key="a", value="b"),
    **{
        f"gguf.KeyValue.{name}": lambda f, name=name: call(getattr(gguf.KeyValue, name), key="a", value=1)
        for name in ("float32", "float64", "int32", "int64", "uint32", "uint64")
    },
    "gguf.KeyValue.read": lambda f: call(KVS[0].read, start=0, count=4),
    "gguf.Imatrix": lambda f: call(
        gguf.Imatrix, entries=matrix().entries, datasets=("a",), chunk_count=1, chunk_size=512, path="a"
    ),
    "gguf.Imatrix.from_activations": lambda f: call(
        gguf.Imatrix.from_activations, activations={"a": X}, datasets=("a",), chunk_size=512
    ),
    "gguf.Imatrix.load": lambda f: call(gguf.Imatrix.load, path=f.matrix),
    "gguf.Imatrix.select": lambda f: call(matrix().select, include=("output",), exclude=()),
    "gguf.Imatrix.weights": lambda f: call(matrix().weights, name="output.weight"),
    "gguf.Imatrix.save": lambda f: call(matrix().save, path=f.new(), legacy=True, force=False),
    "safetensors.open_checkpoint": lambda f: call(safetensors.open_checkpoint, path=f.checkpoint),
    "safetensors.Checkpoint.read_into": lambda f: call(
        _checkpoint(f).read_into, tensor=_checkpoint(f).tensors[0], start=0, buffer=bytearray(16)
    ),
    "safetensors.SafetensorsWriter": lambda f: call(
        safetensors.SafetensorsWriter, file=f.output(), tensors=[TensorSpec("a", "F32", (2, 128))], metadata={}
    ),
    "safetensors.SafetensorsWriter.write": lambda f: call(_shard_writer(f).write, name="a", start=0, data=X),
}  # fmt: skip

CALLS = _ARRAYS | _FIGURES | _FILES
