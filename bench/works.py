"""What is measured: each piece of work with our call for a number of threads, and the same job done by its peers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec

import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType, quants

import quantcore
from bench import ggml_peer
from bench.ggml_peer import ROW
from quantcore import GGUFQuantType

TYPES = (GGUFQuantType.Q4_0, GGUFQuantType.Q8_0)
Call = Callable[[], object]


@dataclass(frozen=True)
class Work:
    """One job on arrays that are there already. `n_bytes` counts what is read and written; peers that write to memory
    of their own or know no threads are marked in their names."""

    name: str
    n_elements: int
    n_bytes: int
    ours: Callable[[int], Call]
    peers: dict[str, Callable[[int], Call]] = field(default_factory=dict)


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
        is_float32 = dtype == np.float32
        yield Work(
            f"{qtype.name} quantize {dtype.name}",
            n_elements,
            converted.nbytes + out.nbytes,
            lambda n, converted=converted: lambda: quantcore.quantize(converted, qtype, n_threads=n, out=out),
            {
                "ggml": lambda n: ggml_peer.quantize(values, int(qtype), out, n),
                "gguf-py": lambda _: lambda: quants.quantize(values, GGMLQuantizationType(int(qtype))),
            }
            if is_float32
            else {},
        )
    yield Work(
        f"{qtype.name} quantize float32, fresh output",
        n_elements,
        values.nbytes + out.nbytes,
        lambda n: lambda: quantcore.quantize(values, qtype, n_threads=n),
    )


def blockwise_works(n_elements: int) -> Iterator[Work]:
    """The 4-bit block-wise works in blocks of 64, beside bitsandbytes where it is installed."""
    values = np.random.default_rng(0).standard_normal(n_elements, dtype=np.float32).reshape(-1, ROW)
    restored = np.zeros_like(values)
    for quant_type in ("nf4", "int4"):
        has_peer = quant_type == "nf4" and find_spec("bitsandbytes") is not None
        q = quantcore.quantize_4bit(values, quant_type=quant_type)
        for dtype in (np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)):
            converted = values.astype(dtype)
            yield Work(
                f"{quant_type} quantize {dtype.name}",
                n_elements,
                converted.nbytes + q.memory_bytes,
                lambda n, x=converted, quant_type=quant_type: (
                    lambda: quantcore.quantize_4bit(x, quant_type=quant_type, n_threads=n)
                ),
                {"bitsandbytes": lambda n, x=converted: _bitsandbytes_quantize(x, n)} if has_peer else {},
            )
        for scale_code in ("linear", "dynamic"):
            double = quantcore.quantize_4bit_double(values, quant_type=quant_type, scale_code=scale_code)
            yield Work(
                f"{quant_type} quantize float32, {scale_code} double quantization",
                n_elements,
                values.nbytes + double.memory_bytes,
                lambda n, quant_type=quant_type, scale_code=scale_code: (
                    lambda: quantcore.quantize_4bit_double(
                        values, quant_type=quant_type, scale_code=scale_code, n_threads=n
                    )
                ),
                {"bitsandbytes": lambda n: _bitsandbytes_quantize(values, n, nested=True)}
                if has_peer and scale_code == "dynamic"
                else {},
            )
        yield Work(
            f"{quant_type} dequantize",
            n_elements,
            q.memory_bytes + restored.nbytes,
            lambda n, q=q: lambda: quantcore.dequantize_4bit(q, n_threads=n, out=restored),
            {"bitsandbytes": lambda n: _bitsandbytes_dequantize(values, n)} if has_peer else {},
        )


def _bitsandbytes_quantize(values: np.ndarray, n_threads: int, *, nested: bool = False) -> Call:
    """bitsandbytes has no threads of its own: torch's."""
    import torch
    from bitsandbytes import functional

    if values.dtype == np.float32:
        tensor = torch.from_numpy(values)
    else:
        tensor = torch.from_numpy(values.view(np.uint16)).view(torch.bfloat16)

    def call() -> object:
        torch.set_num_threads(n_threads)
        return functional.quantize_4bit(tensor, quant_type="nf4", compress_statistics=nested)

    return call


def _bitsandbytes_dequantize(values: np.ndarray, n_threads: int) -> Call:
    import torch
    from bitsandbytes import functional

    data, state = functional.quantize_4bit(torch.from_numpy(values), quant_type="nf4")

    def call() -> object:
        torch.set_num_threads(n_threads)
        return functional.dequantize_4bit(data, state)

    return call
