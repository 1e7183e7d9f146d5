"""Error statistics as works: two arrays, and an array and its affine codes, beside NumPy and torch."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import ml_dtypes
import numpy as np

import quantcore
from bench.ggml_peer import ROW
from bench.work import Call, Work
from quantcore import ErrorSums, QuantMode, QuantParams


def analysis_works(n_elements: int) -> Iterator[Work]:
    """All works on Gaussian weights; `n_elements` is a multiple of 4096. NumPy sums in float64, torch in float32."""
    values = np.random.default_rng(0).standard_normal(n_elements, dtype=np.float32).reshape(-1, ROW)
    restored = quantcore.dequantize(quantcore.quantize(values, "Q8_0"), "Q8_0")
    for dtype in (np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)):
        original = values.astype(dtype)
        yield Work(
            "error statistics",
            n_elements,
            original.nbytes + restored.nbytes,
            lambda n, x=original: lambda: ErrorSums().add(x, restored, n_threads=n),
            _pair_peers(values, restored) if dtype == np.float32 else {},
            dtype.name,
        )
    yield Work(
        "error statistics with a threshold",
        n_elements,
        values.nbytes + restored.nbytes,
        lambda n: lambda: ErrorSums(0.01).add(values, restored, n_threads=n),
    )
    for name, params in {
        "per tensor": quantcore.calibrate_per_tensor(values, mode=QuantMode.ASYMMETRIC),
        "per channel": quantcore.calibrate_per_channel(values),
        "per channel, last axis": quantcore.calibrate_per_channel(values, axis=1),
        "per group of 128": quantcore.calibrate_per_group(values, 128),
    }.items():
        yield Work(
            f"error of affine codes {name}",
            n_elements,
            values.nbytes,
            lambda n, params=params: lambda: ErrorSums().add_affine(values, params, n_threads=n),
            _affine_peers(values, params) if name == "per tensor" else {},
        )


def _pair_peers(x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[int], Call]]:
    peers: dict[str, Callable[[int], Call]] = {"numpy": lambda _: lambda: _numpy_figures(x, y)}
    if find_spec("torch") is not None:
        peers["torch"] = lambda n: _torch_figures(x, y, n)
    return peers


def _affine_peers(x: np.ndarray, params: QuantParams) -> dict[str, Callable[[int], Call]]:
    def numpy_call() -> object:
        codes = quantcore.quantize_with_params(x, params, n_threads=1)
        return _numpy_figures(x, quantcore.dequantize_with_params(codes, params, n_threads=1))

    peers: dict[str, Callable[[int], Call]] = {"ours, then numpy": lambda _: numpy_call}
    if find_spec("torch") is not None:
        peers["torch"] = lambda n: _torch_figures(x, params, n)
    return peers


def _numpy_figures(x: np.ndarray, y: np.ndarray) -> tuple[object, ...]:
    x, y = x.reshape(-1).astype(np.float64), y.reshape(-1).astype(np.float64)
    error = np.abs(x - y)
    return x @ x, y @ y, x @ y, error @ error, error.sum(), error.max()


def _torch_figures(values: np.ndarray, restored: np.ndarray | QuantParams, n_threads: int) -> Call:
    import torch

    torch.set_num_threads(n_threads)
    x = torch.from_numpy(values).view(-1)

    def figures_beside(y: torch.Tensor) -> tuple[object, ...]:
        error = (x - y).abs()
        return x.dot(x), y.dot(y), x.dot(y), error.dot(error), error.sum(), error.max()

    if not isinstance(restored, QuantParams):
        y = torch.from_numpy(restored).view(-1)
        return lambda: figures_beside(y)
    affine = float(restored.scales[0]), int(restored.zero_points[0]), restored.quant_min, restored.quant_max
    return lambda: figures_beside(torch.fake_quantize_per_tensor_affine(x, *affine))
