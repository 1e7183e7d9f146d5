"""AutoRound's GGUF export as a peer: K-quants and the legacy types by torch's operators, here on the CPU."""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray


@cache
def can_quantize(type_name: str, *, with_weights: bool) -> bool:
    """Whether it is installed and does it: importance has an effect on K-quants only, and some functions fail."""
    if find_spec("auto_round") is None or (with_weights and not type_name.endswith("_K")):
        return False
    from auto_round.export.export_to_gguf.packing import GGML_QUANT_TYPE

    if type_name.lower() not in GGML_QUANT_TYPE:
        return False
    try:
        quantize(np.ones((2, 512), np.float32), type_name, np.ones(512, np.float32) if with_weights else None, 1)()
    except (RuntimeError, TypeError, ValueError):
        return False
    return True


def quantize(
    values: NDArray[np.float32], type_name: str, weights: NDArray[np.float32] | None, n_threads: int
) -> Callable[[], object]:
    """`ggml_quant` without scales of its own, so that it searches as ggml does; the search runs in torch's threads."""
    import torch
    from auto_round.export.export_to_gguf.packing import ggml_quant

    torch.set_num_threads(n_threads)
    options: dict[str, Any] = {"device": "cpu", "original": True}
    if weights is not None:
        options["imatrix"] = torch.from_numpy(weights)
    return lambda: ggml_quant(torch.from_numpy(values), type_name.lower(), **options)
