"""The GGUF block formats as works, beside genuine ggml, gguf-py, libgguf and AutoRound."""

from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray

import quantcore
from bench import auto_round_peer, ggml_peer, libgguf_peer, onnx_peer
from bench.ggml_peer import ROW
from bench.work import Call, Work
from quantcore import GGUFQuantType
from quantcore.ggml import SUPPORTED_TYPES, ImatrixUse

TYPES = tuple(t for t in SUPPORTED_TYPES if t.block_size > 1)
_KNOWN_TO_GGUF_PY = frozenset(map(int, quants._type_traits))

Peers = dict[str, Callable[[int], Call]]
Values = NDArray[np.float32]
Weights = NDArray[np.float32] | None


def works(n_elements: int) -> Iterator[Work]:
    """All works on Gaussian weights; `n_elements` is a multiple of 4096. Outputs are touched before they are timed.

    Types that search take fewer rows, since ggml needs up to a microsecond for an element of them.
    """
    values = np.random.default_rng(0).standard_normal(n_elements, dtype=np.float32).reshape(-1, ROW)
    restored = np.zeros_like(values)
    for qtype in TYPES:
        some = values[: max(1, len(values) // qtype.layout.work)]
        yield from quantize_works(some, qtype)
        yield dequantize_work(some, restored, qtype)


def quantize_works(values: Values, qtype: GGUFQuantType) -> Iterator[Work]:
    """Quantizing float32 without and with importance; where memory is the limit, other dtypes and new memory too."""
    out = np.zeros((len(values), ROW // qtype.block_size * qtype.bytes_per_block), np.uint8)
    for name, weights in _importances(qtype):
        yield Work(
            f"{qtype.name} quantize{name}",
            values.size,
            values.nbytes + out.nbytes,
            lambda n, weights=weights: lambda: quantcore.quantize(values, qtype, imatrix=weights, n_threads=n, out=out),
            _quantize_peers(values, qtype, out, weights),
        )
    if qtype.layout.work > 1:
        return
    for dtype in (np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)):
        converted = values.astype(dtype)
        yield Work(
            f"{qtype.name} quantize",
            values.size,
            converted.nbytes + out.nbytes,
            lambda n, converted=converted: lambda: quantcore.quantize(converted, qtype, n_threads=n, out=out),
            dtype=dtype.name,
        )
    yield Work(
        f"{qtype.name} quantize, fresh output",
        values.size,
        values.nbytes + out.nbytes,
        lambda n: lambda: quantcore.quantize(values, qtype, n_threads=n),
    )


def dequantize_work(values: Values, restored: Values, qtype: GGUFQuantType) -> Work:
    """Decoding to the shape of `restored`; a few rows are quantized for it and repeated."""
    weights = np.ones(ROW, np.float32) if qtype.layout.imatrix is ImatrixUse.REQUIRED else None
    some = quantcore.quantize(values[:8], qtype, imatrix=weights)
    packed = np.resize(some, (len(restored), some.shape[1]))
    peers: Peers = {"ggml": lambda n: ggml_peer.dequantize(packed, int(qtype), restored, n)}
    if int(qtype) in _KNOWN_TO_GGUF_PY:
        peers["gguf-py"] = lambda _: lambda: quants.dequantize(packed, GGMLQuantizationType(int(qtype)))
    if libgguf_peer.is_installed() and qtype.name not in libgguf_peer.UNKNOWN_THERE:
        peers["libgguf"] = lambda _: libgguf_peer.dequantize(packed, int(qtype), restored)
    return Work(
        f"{qtype.name} dequantize",
        restored.size,
        packed.nbytes + restored.nbytes,
        lambda n: lambda: quantcore.dequantize(packed, qtype, n_threads=n, out=restored),
        peers,
    )


def _importances(qtype: GGUFQuantType) -> Iterator[tuple[str, Weights]]:
    """Without and with weights of columns, as far as the type takes either."""
    if qtype.layout.imatrix is not ImatrixUse.REQUIRED:
        yield "", None
    if qtype.layout.imatrix is not ImatrixUse.IGNORED:
        yield ", imatrix", np.random.default_rng(1).random(ROW, np.float32) + np.float32(0.01)


def _quantize_peers(values: Values, qtype: GGUFQuantType, out: NDArray[np.uint8], weights: Weights) -> Peers:
    peers: Peers = {"ggml": lambda n: ggml_peer.quantize(values, int(qtype), out, n, weights)}
    if weights is None and _is_quantized_by_gguf_py(qtype):
        peers["gguf-py"] = lambda _: lambda: quants.quantize(values, GGMLQuantizationType(int(qtype)))
    if libgguf_peer.is_installed() and qtype.name not in libgguf_peer.UNKNOWN_THERE:
        peers["libgguf"] = lambda _: libgguf_peer.quantize(values, int(qtype), out, weights)
    if auto_round_peer.can_quantize(qtype.name, with_weights=weights is not None):
        peers["AutoRound"] = lambda n: auto_round_peer.quantize(values, qtype.name, weights, n)
    if qtype is GGUFQuantType.Q4_0 and weights is None and onnx_peer.is_installed():
        peers["onnxruntime, all CPUs"] = lambda _: onnx_peer.quantize_4bit(values, qtype.block_size)
    return peers


def _is_quantized_by_gguf_py(qtype: GGUFQuantType) -> bool:
    if int(qtype) not in _KNOWN_TO_GGUF_PY:
        return False
    try:
        quants.quantize(np.zeros(qtype.block_size, np.float32), GGMLQuantizationType(int(qtype)))
    except NotImplementedError:
        return False
    return True
