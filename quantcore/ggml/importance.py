"""Importance weights of columns: what `imatrix=` takes becomes float32 rows for the kernels, once, checked."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arrays
from quantcore._base.arrays import Floats
from quantcore.errors import InvalidValueError
from quantcore.ggml.types import GGMLType, ImatrixUse


class Importance(NamedTuple):
    """Weights of columns: `weights`, float32 of shape (groups, cols), of which each serves `rows_per_group` rows."""

    weights: NDArray[np.float32]
    rows_per_group: int

    @property
    def cols(self) -> int:
        """Columns."""
        return int(self.weights.shape[1])


def take_importance(
    imatrix: Any, fmt: GGMLType, shape: tuple[int, ...], *, is_refined: bool = False
) -> Importance | None:
    """The weights for values of a shape; None if there are none, or the type has no use for them.

    Raises
    ------
    InvalidValueError
        The type needs weights and there are none; they are as many as neither (cols,) nor, for values of three
        dimensions, (experts, cols); one of them is negative, NaN, inf or beyond float32.
    InvalidTypeError
        They are not an array of floats.
    """
    if imatrix is None:
        refuse_without_importance(fmt, "imatrix")
        return None
    source = arrays.take_floats(imatrix, "imatrix")
    cols = shape[-1]
    allowed = [(cols,), (shape[0], cols)] if len(shape) == 3 else [(cols,)]
    if source.shape not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise InvalidValueError(f"imatrix: expected shape {wanted} for values of shape {shape}, got {source.shape}")
    weights = _check_weights(source)
    if not uses_importance(fmt, is_refined=is_refined) or not weights.size:
        return None
    groups = weights.reshape(-1, cols)
    n_rows = int(np.prod(shape[:-1], dtype=np.int64))
    return Importance(groups, max(1, n_rows // len(groups)))


def uses_importance(fmt: GGMLType, *, is_refined: bool) -> bool:
    """Whether weights have an effect on a type; `is_refined`: with effort="best", which weighs those of every block."""
    return fmt.imatrix is not ImatrixUse.IGNORED or (is_refined and fmt.block_size > 1)


def refuse_without_importance(fmt: GGMLType, name: str) -> None:
    """Refuse a type that cannot be quantized to without importance: its kernel would read weights that are not there.

    Raises
    ------
    InvalidValueError
    """
    if fmt.imatrix is ImatrixUse.REQUIRED:
        raise InvalidValueError(f"{name}: {fmt.name} needs an importance matrix, one weight per column")


def _check_weights(source: Floats) -> NDArray[np.float32]:
    values = source.values(0, source.size)
    with np.errstate(invalid="ignore"):
        bad = np.flatnonzero(~(arrays.are_finite(values) & (values >= 0)))
    if bad.size:
        raise InvalidValueError(
            f"imatrix: weights must be finite and not negative, got {values[bad[0]]} at flat index {int(bad[0])}"
        )
    return np.ascontiguousarray(values, np.float32)
