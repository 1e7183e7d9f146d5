"""Calibration and affine codes on Gaussian activations of 4096 channels, beside torch's observers and NumPy."""

from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np

import quantcore
from bench.ggml_peer import ROW
from bench.works import Call, Work
from quantcore import Calibrator, QuantMode


def calibration_works(n_elements: int) -> Iterator[Work]:
    """Observers per tensor and per channel, exact percentiles, int8 codes both ways."""
    values = np.random.default_rng(0).standard_normal(n_elements, dtype=np.float32).reshape(-1, ROW)
    images = values.reshape(-1, 64, 8, 8)  # channels in the middle
    has_torch = find_spec("torch") is not None
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
            {observer: lambda n, batch=batch, axis=axis, observer=observer: _observe(observer, batch, axis, n)}
            if has_torch
            else {},
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
    yield from _affine_works(values, has_torch)


def _affine_works(values: np.ndarray, has_torch: bool) -> Iterator[Work]:
    codes = np.zeros(values.shape, np.int8)
    restored = np.zeros_like(values)
    for name, params in (
        ("per tensor", quantcore.calibrate_per_tensor(values)),
        ("per channel, axis 0", quantcore.calibrate_per_channel(values, axis=0)),
        ("per channel, last axis", quantcore.calibrate_per_channel(values, axis=1)),
        ("per group of 128", quantcore.calibrate_per_group(values, 128)),
    ):
        has_peer = has_torch and params.granularity.group_size is None
        yield Work(
            f"int8 {name} quantize",
            values.size,
            values.nbytes + codes.nbytes,
            lambda n, params=params: lambda: quantcore.quantize_with_params(values, params, n_threads=n, out=codes),
            {"torch": lambda n, params=params: _torch_quantize(values, params, n)} if has_peer else {},
        )
        yield Work(
            f"int8 {name} dequantize",
            values.size,
            values.nbytes + codes.nbytes,
            lambda n, params=params: lambda: quantcore.dequantize_with_params(codes, params, n_threads=n, out=restored),
            {"torch": lambda n, params=params: _torch_dequantize(values, params, n)} if has_peer else {},
        )


def _observe(observer: str, batch: np.ndarray, axis: int | None, n_threads: int) -> Call:
    import torch
    from torch.ao import quantization

    made = getattr(quantization, observer)(**({} if axis is None else {"ch_axis": axis}))
    tensor = torch.from_numpy(batch)

    def call() -> object:
        torch.set_num_threads(n_threads)
        return made(tensor)

    return call


def _torch_quantized(values: np.ndarray, params: quantcore.QuantParams) -> Call:
    import torch

    assert params.mode is QuantMode.SYMMETRIC
    tensor, axis = torch.from_numpy(values), params.granularity.axis
    if axis is None:
        return lambda: torch.quantize_per_tensor(tensor, float(params.scales[0]), 0, torch.qint8)
    scales = torch.from_numpy(params.scales.copy())
    return lambda: torch.quantize_per_channel(tensor, scales, torch.zeros(scales.shape), axis, torch.qint8)


def _torch_quantize(values: np.ndarray, params: quantcore.QuantParams, n_threads: int) -> Call:
    import torch

    quantized = _torch_quantized(values, params)

    def call() -> object:
        torch.set_num_threads(n_threads)
        return quantized()

    return call


def _torch_dequantize(values: np.ndarray, params: quantcore.QuantParams, n_threads: int) -> Call:
    import torch

    quantized = _torch_quantized(values, params)()

    def call() -> object:
        torch.set_num_threads(n_threads)
        return quantized.dequantize()

    return call
