"""4-bit codes in blocks of 64 as works, beside bitsandbytes and onnxruntime where they are installed."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import ml_dtypes
import numpy as np

import quantcore
from bench import bitsandbytes_peer, onnx_peer
from bench.ggml_peer import ROW
from bench.work import Call, Work

BLOCK_SIZE = quantcore.BLOCK_SIZE
PEER_SCALE_CODE = "dynamic"


def blockwise_works(n_elements: int) -> Iterator[Work]:
    """All works on Gaussian weights; `n_elements` is a multiple of 4096. Quantizing makes new arrays every time."""
    values = np.random.default_rng(0).standard_normal(n_elements, dtype=np.float32).reshape(-1, ROW)
    for quant_type in ("nf4", "fp4", "int4"):
        yield from _works_of(quant_type, values)


def _works_of(quant_type: str, values: np.ndarray) -> Iterator[Work]:
    restored = np.zeros_like(values)
    has_peer = quant_type in onnx_peer.BNB4_TYPES and find_spec("bitsandbytes") is not None
    q = quantcore.quantize_4bit(values, quant_type=quant_type)
    for dtype in (np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)):
        x = values.astype(dtype)
        peers: dict[str, Callable[[int], Call]] = {}
        if has_peer:
            peers["bitsandbytes"] = lambda n, x=x: bitsandbytes_peer.quantize(x, quant_type, n)
        if onnx_peer.is_installed() and dtype == np.float32:
            peers["onnxruntime, all CPUs"] = lambda _: onnx_peer.quantize_4bit(values, BLOCK_SIZE, quant_type)
        yield Work(
            f"{quant_type} quantize",
            values.size,
            x.nbytes + q.memory_bytes,
            lambda n, x=x: lambda: quantcore.quantize_4bit(x, quant_type=quant_type, n_threads=n),
            peers,
            dtype.name,
        )
    for scale_code in ("linear", PEER_SCALE_CODE):
        double = quantcore.quantize_4bit_double(values, quant_type=quant_type, scale_code=scale_code)
        yield Work(
            f"{quant_type} quantize, {scale_code} double quantization",
            values.size,
            values.nbytes + double.memory_bytes,
            lambda n, scale_code=scale_code: (
                lambda: quantcore.quantize_4bit_double(
                    values, quant_type=quant_type, scale_code=scale_code, n_threads=n
                )
            ),
            {"bitsandbytes": lambda n: bitsandbytes_peer.quantize(values, quant_type, n, nested=True)}
            if has_peer and scale_code == PEER_SCALE_CODE
            else {},
        )
    yield Work(
        f"{quant_type} dequantize",
        values.size,
        q.memory_bytes + restored.nbytes,
        lambda n: lambda: quantcore.dequantize_4bit(q, n_threads=n, out=restored),
        {"bitsandbytes": lambda n: bitsandbytes_peer.dequantize(values, quant_type, n)} if has_peer else {},
    )
