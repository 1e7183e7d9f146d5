"""Codes of checkpoints with scales (FP8, FP4) as works, beside torch's operators."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import numpy as np

from bench.ggml_peer import ROW
from bench.work import Call, Work
from quantcore import _kernels
from quantcore._base import parallel
from quantcore._base.arrays import ELEMENT_TYPES
from quantcore.models.code_tables import CODES, SCALE_VALUES, CodeType

BLOCK = 128
OUTPUTS = {"F32": ("float32", np.float32), "BF16": ("bfloat16", np.uint16)}
"""Of each dtype of the decoded values: its name elsewhere, and what NumPy has of that size."""


def coded_works(n_elements: int) -> Iterator[Work]:
    """Decoding of matrices of 4096 columns, in squares of 128 that share a scale, and in runs of 16."""
    rng = np.random.default_rng(0)
    rows = n_elements // ROW
    for name, row_block, column_block in (("F8_E4M3", BLOCK, BLOCK), ("E2M1", 1, 16)):
        code = CODES[name]
        codes = rng.integers(0, 120, n_elements * code.bits // 8, np.uint8)  # of FP8, positive numbers
        spread = rows, row_block, column_block, -(-rows // row_block), ROW // column_block
        scales = _scales(rng, spread[-2] * spread[-1], column_block)
        for dtype, (title, item) in OUTPUTS.items():
            out = np.zeros(n_elements, item)
            yield Work(
                f"{name} in blocks of {column_block} decode",
                n_elements,
                codes.nbytes + scales.nbytes + out.nbytes,
                lambda n, code=code, codes=codes, scales=scales, spread=spread, out=out, dtype=dtype: (
                    lambda: _decode(codes, code, scales, spread, out, dtype, n)
                ),
                _torch_peers(codes, scales.reshape(spread[-2:]), title) if name == "F8_E4M3" else {},
                title,
            )


def _scales(rng: np.random.Generator, n: int, column_block: int) -> np.ndarray:
    """As checkpoints have them: float32 of squares; of runs, FP8 times one float32."""
    if column_block == BLOCK:
        return rng.uniform(0.5, 2, n).astype(np.float32).astype(np.float64)
    return SCALE_VALUES["F8_E4M3"][rng.integers(40, 72, n)] * float(np.float32(0.7))


def _decode(
    codes: np.ndarray,
    code: CodeType,
    scales: np.ndarray,
    spread: tuple[int, ...],
    out: np.ndarray,
    dtype: str,
    n_threads: int,
) -> int:
    layout = ROW, *spread
    kernel = _kernels.DequantizeCodes(
        codes, code.bits, code.widening, code.table, scales, layout, 0, 0, out.view(np.uint8), ELEMENT_TYPES[dtype]
    )
    return parallel.run(kernel, out.size, out.itemsize, n_threads)


def _torch_peers(codes: np.ndarray, scales: np.ndarray, dtype: str) -> dict[str, Callable[[int], Call]]:
    """The usual two lines: the cast, and the product with the scales spread by `repeat_interleave` beforehand."""
    if find_spec("torch") is None:
        return {}
    import torch

    target = getattr(torch, dtype)
    values = torch.from_numpy(codes).view(torch.float8_e4m3fn).reshape(-1, ROW)
    spread = torch.from_numpy(scales).to(target).repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[: len(values)]

    def call(n_threads: int) -> Call:
        torch.set_num_threads(n_threads)
        return lambda: values.to(target) * spread

    return {"torch": call}
