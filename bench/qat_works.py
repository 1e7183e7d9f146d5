"""Fake quantization, its gradients and LSQ as works (see `works.py`), beside NumPy, and torch where it is installed."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import ml_dtypes
import numpy as np

import quantcore
from bench import numpy_peer
from bench.ggml_peer import ROW
from bench.work import Call, Work
from quantcore import QuantGranularity, QuantMode, QuantParams

TENSOR = QuantGranularity.per_tensor()


def qat_works(n_elements: int) -> Iterator[Work]:
    """All works on Gaussian values, 8 bits; `n_elements` is a multiple of 4096. Outputs are touched beforehand."""
    rng = np.random.default_rng(0)
    values, grad = (rng.standard_normal(n_elements, dtype=np.float32).reshape(-1, ROW) for _ in range(2))
    result, dx = np.zeros_like(values), np.zeros_like(values)
    every_params = {
        "per tensor": quantcore.calibrate_per_tensor(values, 8, QuantMode.ASYMMETRIC),
        "per channel, axis 0": quantcore.calibrate_per_channel(values, 8, axis=0),
        "per channel, axis 1": quantcore.calibrate_per_channel(values, 8, QuantMode.ASYMMETRIC, axis=1),
        "per group of 128": quantcore.calibrate_per_group(values, 128, 8),
    }
    for name, params in every_params.items():
        yield Work(
            f"fake quantize {name}",
            n_elements,
            2 * values.nbytes,
            lambda n, p=params: lambda: quantcore.fake_quantize_with_params(values, p, n_threads=n, out=result),
            _peers(values, params, None),
        )
        yield Work(
            f"fake quantize {name}, forward and backward",
            n_elements,
            5 * values.nbytes,
            lambda n, p=params: (
                lambda: (
                    quantcore.fake_quantize_with_params(values, p, n_threads=n, out=result),
                    quantcore.fake_quantize_backward(grad, values, p, n_threads=n, out=dx),
                )
            ),
            _peers(values, params, grad),
        )
        yield Work(
            f"LSQ {name}, forward and backward",
            n_elements,
            5 * values.nbytes,
            lambda n, p=params: (
                lambda: (
                    quantcore.fake_quantize_with_params(values, p, n_threads=n, out=result),
                    quantcore.lsq_backward(grad, values, p, n_threads=n, out=dx),
                )
            ),
            _peers(values, params, grad, is_learned=True),
        )
    params = every_params["per tensor"]
    yield Work(
        "fake quantize per tensor, fresh output",
        n_elements,
        2 * values.nbytes,
        lambda n: lambda: quantcore.fake_quantize_with_params(values, params, n_threads=n),
        _peers(values, params, None),
    )
    for dtype in (np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)):
        converted = values.astype(dtype)
        out = np.zeros_like(converted)
        yield Work(
            "fake quantize per tensor",
            n_elements,
            2 * converted.nbytes,
            lambda n, x=converted, out=out: (
                lambda: quantcore.fake_quantize_with_params(x, params, n_threads=n, out=out)
            ),
            _peers(converted, params, None),
            dtype.name,
        )


def _peers(
    values: np.ndarray, params: QuantParams, grad: np.ndarray | None, *, is_learned: bool = False
) -> dict[str, Callable[[int], Call]]:
    """torch and NumPy, which make new outputs every time; they have no groups."""
    peers: dict[str, Callable[[int], Call]] = {}
    if params.granularity.group_size is not None:
        return peers
    if find_spec("torch") is not None:
        peers["torch"] = lambda n: _torch_call(values, params, grad, n, is_learned)
    if grad is None and values.dtype == np.float32:
        peers["numpy"] = lambda _: numpy_peer.fake_quantize(values, params)
    return peers


def _torch_call(
    values: np.ndarray, params: QuantParams, grad: np.ndarray | None, n_threads: int, is_learned: bool
) -> Call:
    import torch

    torch.set_num_threads(n_threads)
    is_bfloat16 = values.dtype == ml_dtypes.bfloat16
    x = torch.from_numpy(values.view(np.uint16)).view(torch.bfloat16) if is_bfloat16 else torch.from_numpy(values)
    x = x.requires_grad_(grad is not None)
    limits = (params.quant_min, params.quant_max)
    scales, zero_points = torch.tensor(params.scales), torch.tensor(params.zero_points)
    learned = [x]
    if is_learned:
        scales, zero_points = scales.requires_grad_(), zero_points.float().requires_grad_()
        learned = [x, scales, zero_points]
    if params.granularity == TENSOR:
        axis = []
        plain, learnable = torch.fake_quantize_per_tensor_affine, torch._fake_quantize_learnable_per_tensor_affine
    else:
        axis = [params.granularity.axis]
        plain, learnable = torch.fake_quantize_per_channel_affine, torch._fake_quantize_learnable_per_channel_affine
    function = learnable if is_learned else plain
    factor = [1.0] if is_learned else []

    def forward() -> torch.Tensor:
        return function(x, scales, zero_points, *axis, *limits, *factor)

    if grad is None:
        return forward
    gradient = torch.from_numpy(grad)
    return lambda: torch.autograd.grad(forward(), learned, gradient)
