"""Golden vectors of NF4 and FP4: weights, and what genuine bitsandbytes makes of them.

`tests.support.make_golden` writes them to a file; see there.
"""

import base64
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.support.contract import DISTRIBUTIONS, F32

QUANT_TYPES = ("nf4", "fp4")
SEED = 20260102
FIELDS = ["name", "dtype", "values", "entries of a checkpoint but the maps", "decoded"]  # bytes, compressed
MAPS = ("quant_map", "nested_quant_map")  # the same in all
DTYPES = ("float32", "float16", "bfloat16")
Case = tuple[str, np.ndarray, int, str, bool]
"""Name, values of any shape, block size, dtype, whether the statistics are nested."""


def encode(raw: bytes) -> str:
    return base64.b64encode(zlib.compress(raw, 9)).decode()


def decode(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def hand_picked(table: np.ndarray) -> dict[str, np.ndarray]:
    """Blocks of 32 at the edges: values at the cuts between codes, zeros, one value, the ends of float32."""
    ascending = np.sort(table)
    cuts = (ascending[:-1] + ascending[1:]) / F32(2)
    largest, smallest = np.finfo(F32).max, F32(2.0**-149)
    at_cuts = np.concatenate([cuts, np.nextafter(cuts, F32(2)), [F32(-1), F32(1)]])
    return {
        "at the cuts": np.concatenate([at_cuts, at_cuts * F32(0.7), at_cuts * F32(2.0**-100)]),
        "the table": np.resize(table, 64) * F32(3),
        "zeros": np.array([0.0, -0.0] * 32, F32),
        "one value": np.concatenate([np.eye(1, 32, k, dtype=F32)[0] * F32(sign) for k in (0, 31) for sign in (1, -1)]),
        "largest": np.resize(np.array([largest, -largest, largest / 3, 1], F32), 64),
        "smallest": np.resize(np.array([smallest, -3 * smallest, 0], F32), 32),
        "extreme of both signs": np.resize(np.array([1, -1, 0.5], F32), 32),
        "tiny beside one": np.resize(np.array([1, 1e-4, -1e-4, 0], F32), 32),
    }


def draw_cases(quant_type: str, table: np.ndarray) -> Iterator[Case]:
    rng = np.random.default_rng([SEED, len(quant_type), ord(quant_type[0])])
    for name, values in hand_picked(table).items():
        yield name, values, 32, "float32", False
    for i, (kind, draw) in enumerate(DISTRIBUTIONS.items()):
        for dtype in (DTYPES[i % 3], DTYPES[(i + 1) % 3]):
            yield kind, draw(rng, 128).reshape(2, 64), 64, dtype, False
    for i, size in enumerate((128, 256, 512, 1024, 2048, 4096)):
        yield f"block size {size}", DISTRIBUTIONS["small integers"](rng, size), size, DTYPES[i % 3], False
    yield "odd shape", DISTRIBUTIONS["gaussian"](rng, 7 * 33).reshape(7, 33), 32, "float32", False
    yield "three dimensions", DISTRIBUTIONS["gaussian"](rng, 192).reshape(2, 3, 32), 32, "bfloat16", False
    yield "nested", DISTRIBUTIONS["gaussian"](rng, 320).reshape(10, 32), 32, "float32", True
    coarse = rng.integers(-1, 2, (260, 32)) * np.exp2(rng.integers(-4, 1, (260, 1)))
    yield "nested, two super-blocks", coarse.astype(F32), 32, "bfloat16", True


def make_vector(functional: Any, torch: Any, case: Case, quant_type: str) -> list[Any]:
    """What bitsandbytes makes of a case."""

    def text(tensor: Any) -> str:
        return encode(tensor.contiguous().view(torch.uint8).numpy().tobytes())

    name, values, block_size, dtype, is_nested = case
    tensor = torch.tensor(values).to(getattr(torch, dtype))
    tensor = torch.where(tensor.isfinite(), tensor, torch.zeros_like(tensor))
    options = {"blocksize": block_size, "quant_type": quant_type, "compress_statistics": is_nested}
    data, state = functional.quantize_4bit(tensor, **options)
    entries = {"weight": text(data)}
    entries |= {key: text(value) for key, value in state.as_dict(packed=True).items() if key not in MAPS}
    state.shape = (values.size,)  # its AVX-512 path decodes matrices wrongly whose rows cut blocks
    restored = functional.dequantize_4bit(data, state)
    return [f"{quant_type} {name}, {dtype}", dtype, text(tensor), entries, text(restored)]


def describe_maker() -> str:
    import bitsandbytes
    import torch

    return f"bitsandbytes {bitsandbytes.__version__} with torch {torch.__version__} on a CPU, seed {SEED}"


def make_vectors(quant_type: str) -> Iterator[list[Any]]:
    """The vectors of one type, each with the fields `FIELDS`."""
    import torch
    from bitsandbytes import functional

    torch.compiler.set_stance("force_eager")
    table = functional.get_4bit_type(quant_type, device="cpu").numpy()
    for case in draw_cases(quant_type, table):
        yield make_vector(functional, torch, case, quant_type)
