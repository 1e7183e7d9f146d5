"""What `quantcore.torch` does in a training step, beside torch's own operators and bitsandbytes, on the CPU."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

import quantcore
from bench.work import Call, Work
from quantcore.torch import fake_quantize, fake_quantize_learned, matmul_4bit

CHANNELS = 1024
TOKENS = (1, 64)


def torch_works(n_elements: int) -> Iterator[Work]:
    """Steps forward and backward on a matrix of `n_elements`, a multiple of 2**20; peers use torch's threads."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((CHANNELS, n_elements // CHANNELS), dtype=np.float32))
    grad = torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))
    per_tensor, per_channel = quantcore.calibrate_per_tensor(x), quantcore.calibrate_per_channel(x)
    ends = per_tensor.quant_min, per_tensor.quant_max
    scale, scales = per_tensor.scales[0].item(), torch.tensor(per_channel.scales)
    zero_points = torch.zeros(CHANNELS, dtype=torch.int32)
    n_bytes = 5 * x.nbytes  # x twice, the output, two gradients
    for name, ours, theirs in (
        (
            "per tensor",
            lambda x: fake_quantize(x, per_tensor),
            lambda x: torch.fake_quantize_per_tensor_affine(x, scale, 0, *ends),
        ),
        (
            "per channel",
            lambda x: fake_quantize(x, per_channel),
            lambda x: torch.fake_quantize_per_channel_affine(x, scales, zero_points, 0, *ends),
        ),
    ):
        yield Work(
            f"torch fake-quantize {name}, step",
            n_elements,
            n_bytes,
            lambda n, ours=ours: _step(ours, x, grad, n, ours=True),
            {"torch": lambda n, theirs=theirs: _step(theirs, x, grad, n)},
        )
    learned = torch.tensor([scale], requires_grad=True)
    zero_point = torch.zeros(1)
    yield Work(
        "torch LSQ per tensor, step",
        n_elements,
        n_bytes,
        lambda n: _step(lambda x: fake_quantize_learned(x, learned, grad_factor=1.0), x, grad, n, ours=True),
        {
            "torch": lambda n: _step(
                lambda x: torch._fake_quantize_learnable_per_tensor_affine(x, learned, zero_point, *ends, 1.0),
                x,
                grad,
                n,
            )
        },
    )
    q = quantcore.quantize_4bit(x, quant_type="nf4")
    for tokens in TOKENS:
        rows = torch.from_numpy(rng.standard_normal((tokens, x.shape[1]), dtype=np.float32))
        grads = torch.from_numpy(rng.standard_normal((tokens, CHANNELS), dtype=np.float32))
        peers = {"torch, float32": lambda n, rows=rows, grads=grads: _step(lambda r: r @ x.t(), rows, grads, n)}
        if find_spec("bitsandbytes") is not None:
            peers["bitsandbytes"] = lambda n, rows=rows, grads=grads: _bitsandbytes_step(x, rows, grads, n)
        yield Work(
            f"torch NF4 linear of {tokens} rows, step",
            n_elements,
            2 * q.memory_bytes,
            lambda n, rows=rows, grads=grads: _step(lambda r: matmul_4bit(r, q), rows, grads, n, ours=True),
            peers,
        )


def _step(
    function: Callable[[Any], torch.Tensor], x: torch.Tensor, grad: torch.Tensor, n_threads: int, *, ours: bool = False
) -> Call:
    """Forward and backward; the gradients of parameters that are learned too are thrown away."""
    leaf = x.clone().requires_grad_()

    def step() -> None:
        torch.set_num_threads(n_threads)
        if ours:
            quantcore.set_num_threads(n_threads)
        leaf.grad = None
        function(leaf).backward(grad)

    return step


def _bitsandbytes_step(weight: torch.Tensor, x: torch.Tensor, grad: torch.Tensor, n_threads: int) -> Call:
    import bitsandbytes
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    return _step(lambda rows: bitsandbytes.matmul_4bit(rows, packed.t(), state), x, grad, n_threads)
