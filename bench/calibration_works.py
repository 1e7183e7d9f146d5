"""Calibration and affine codes on Gaussian activations of 4096 channels, beside torch, onnxruntime and NumPy."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

import quantcore
from bench import numpy_peer, onnx_peer
from bench.ggml_peer import ROW
from bench.work import Call, Work
from quantcore import Calibrator, QuantMode, QuantParams

BINS = 2048


def calibration_works(n_elements: int) -> Iterator[Work]:
    """Observers per tensor and per channel, exact percentiles, int8 codes both ways."""
    values = np.random.default_rng(0).standard_normal(n_elements, dtype=np.float32).reshape(-1, ROW)
    images = values.reshape(-1, 64, 8, 8)  # channels in the middle
    observed = (
        ("min-max", values, None, Calibrator.min_max(), "MinMaxObserver"),
        ("min-max per channel, axis 0", values, 0, Calibrator.min_max(axis=0), "PerChannelMinMaxObserver"),
        ("min-max per channel, last axis", values, 1, Calibrator.min_max(axis=1), "PerChannelMinMaxObserver"),
        ("min-max per channel, axis 1 of 4", images, 1, Calibrator.min_max(axis=1), "PerChannelMinMaxObserver"),
        ("histogram", values, None, Calibrator.percentile(), "HistogramObserver"),
    )
    for name, batch, axis, calibrator, observer in observed:
        yield Work(
            f"{name} observe",
            n_elements,
            batch.nbytes,
            lambda n, calibrator=calibrator, batch=batch: lambda: calibrator.observe(batch, n_threads=n),
            _observer_peers(batch, axis, observer),
        )
    per_channel = Calibrator.percentile(axis=0)
    yield Work(
        "histogram per channel, axis 0 observe",
        n_elements,
        2 * values.nbytes,
        lambda n: lambda: per_channel.observe(values, n_threads=n),
    )
    yield Work(
        "two exact percentiles",
        n_elements,
        2 * values.nbytes,
        lambda n: lambda: quantcore.calibrate_percentile(values, n_threads=n),
        {"numpy": lambda _: lambda: np.percentile(values, [0.01, 99.99])},
    )
    for name, clipping in (("entropy", Calibrator.entropy(axis=0)), ("mse", Calibrator.mse(axis=0))):
        clipping.observe(values)
        n_counts = len(values) * BINS
        yield Work(
            f"{name} of histograms, compute",
            n_counts,
            n_counts * np.dtype(np.uint32).itemsize,
            lambda n, c=clipping: lambda: c.compute(n_threads=n),
        )
    yield from _affine_works(values)


def _affine_works(values: np.ndarray) -> Iterator[Work]:
    codes = np.zeros(values.shape, np.int8)
    restored = np.zeros_like(values)
    for name, params in (
        ("per tensor", quantcore.calibrate_per_tensor(values)),
        ("per channel, axis 0", quantcore.calibrate_per_channel(values, axis=0)),
        ("per channel, last axis", quantcore.calibrate_per_channel(values, axis=1)),
        ("per group of 128", quantcore.calibrate_per_group(values, 128)),
    ):
        peers = _affine_peers(values, codes, restored, params)
        yield Work(
            f"int8 {name} quantize",
            values.size,
            values.nbytes + codes.nbytes,
            lambda n, params=params: lambda: quantcore.quantize_with_params(values, params, n_threads=n, out=codes),
            {peer: calls[0] for peer, calls in peers.items()},
        )
        yield Work(
            f"int8 {name} dequantize",
            values.size,
            values.nbytes + codes.nbytes,
            lambda n, params=params: lambda: quantcore.dequantize_with_params(codes, params, n_threads=n, out=restored),
            {peer: calls[1] for peer, calls in peers.items()},
        )


def _observer_peers(batch: np.ndarray, axis: int | None, observer: str) -> dict[str, Callable[[int], Call]]:
    peers: dict[str, Callable[[int], Call]] = {}
    if find_spec("torch") is not None:
        peers[f"torch {observer}"] = lambda n: _observe(observer, batch, axis, n)
    is_histogram = observer == "HistogramObserver"
    peers["numpy"] = lambda _: numpy_peer.histogram(batch, BINS) if is_histogram else numpy_peer.min_max(batch, axis)
    return peers


def _affine_peers(
    values: np.ndarray, codes: np.ndarray, restored: np.ndarray, params: QuantParams
) -> dict[str, tuple[Callable[[int], Call], Callable[[int], Call]]]:
    """Of each peer, quantizing and dequantizing. torch and NumPy have no groups."""
    peers: dict[str, tuple[Callable[[int], Call], Callable[[int], Call]]] = {}
    is_grouped = params.granularity.group_size is not None
    if find_spec("torch") is not None and not is_grouped:
        peers["torch"] = lambda n: _torch_quantize(values, params, n), lambda n: _torch_dequantize(values, params, n)
    if onnx_peer.is_installed():
        peers["onnxruntime"] = (
            lambda n: onnx_peer.quantize(values, params, codes, n),
            lambda n: onnx_peer.dequantize(codes, params, restored, n),
        )
    if not is_grouped:
        peers["numpy"] = lambda _: numpy_peer.quantize(values, params), lambda _: numpy_peer.dequantize(codes, params)
    return peers


def _observe(observer: str, batch: np.ndarray, axis: int | None, n_threads: int) -> Call:
    import torch
    from torch.ao import quantization

    torch.set_num_threads(n_threads)
    made = getattr(quantization, observer)(**({} if axis is None else {"ch_axis": axis}))
    tensor = torch.from_numpy(batch)
    return lambda: made(tensor)


def _torch_quantize(values: np.ndarray, params: QuantParams, n_threads: int) -> Call:
    import torch

    assert params.mode is QuantMode.SYMMETRIC
    torch.set_num_threads(n_threads)
    tensor, axis = torch.from_numpy(values), params.granularity.axis
    if axis is None:
        scale = float(params.scales[0])
        return lambda: torch.quantize_per_tensor(tensor, scale, 0, torch.qint8)
    scales = torch.from_numpy(params.scales.copy())
    zero_points = torch.zeros(scales.shape)
    return lambda: torch.quantize_per_channel(tensor, scales, zero_points, axis, torch.qint8)


def _torch_dequantize(values: np.ndarray, params: QuantParams, n_threads: int) -> Call:
    quantized: Any = _torch_quantize(values, params, n_threads)()
    return lambda: quantized.dequantize()
