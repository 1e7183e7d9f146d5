"""The GGUF block formats as works, beside genuine ggml and gguf-py."""

from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType, quants

import quantcore
from bench import ggml_peer, onnx_peer
from bench.ggml_peer import ROW
from bench.work import Call, Work
from quantcore import GGUFQuantType

TYPES = (GGUFQuantType.Q4_0, GGUFQuantType.Q8_0)


def works(n_elements: int) -> Iterator[Work]:
    """All works on Gaussian weights; `n_elements` is a multiple of 4096. Outputs are touched before they are timed."""
    values = np.random.default_rng(0).standard_normal(n_elements, dtype=np.float32).reshape(-1, ROW)
    restored = np.zeros_like(values)
    for qtype in TYPES:
        yield from _quantize_works(values, qtype)
        packed = quantcore.quantize(values, qtype)
        yield Work(
            f"{qtype.name} dequantize",
            n_elements,
            packed.nbytes + restored.nbytes,
            lambda n, packed=packed, qtype=qtype: (
                lambda: quantcore.dequantize(packed, qtype, n_threads=n, out=restored)
            ),
            {
                "ggml": lambda n, packed=packed, qtype=qtype: ggml_peer.dequantize(packed, int(qtype), restored, n),
                "gguf-py": lambda _, packed=packed, qtype=qtype: (
                    lambda: quants.dequantize(packed, GGMLQuantizationType(int(qtype)))
                ),
            },
        )


def _quantize_works(values: np.ndarray, qtype: GGUFQuantType) -> Iterator[Work]:
    n_elements = values.size
    out = np.zeros((len(values), ROW // qtype.block_size * qtype.bytes_per_block), np.uint8)
    for dtype in (np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)):
        converted = values.astype(dtype)
        yield Work(
            f"{qtype.name} quantize",
            n_elements,
            converted.nbytes + out.nbytes,
            lambda n, converted=converted: lambda: quantcore.quantize(converted, qtype, n_threads=n, out=out),
            _quantize_peers(values, qtype, out) if dtype == np.float32 else {},
            dtype.name,
        )
    yield Work(
        f"{qtype.name} quantize, fresh output",
        n_elements,
        values.nbytes + out.nbytes,
        lambda n: lambda: quantcore.quantize(values, qtype, n_threads=n),
    )


def _quantize_peers(values: np.ndarray, qtype: GGUFQuantType, out: np.ndarray) -> dict[str, Callable[[int], Call]]:
    peers: dict[str, Callable[[int], Call]] = {
        "ggml": lambda n: ggml_peer.quantize(values, int(qtype), out, n),
        "gguf-py": lambda _: lambda: quants.quantize(values, GGMLQuantizationType(int(qtype))),
    }
    if qtype is GGUFQuantType.Q4_0 and onnx_peer.is_installed():
        peers["onnxruntime, all CPUs"] = lambda _: onnx_peer.quantize_4bit(values, qtype.block_size)
    return peers
