"""The result of the comparison of one tensor."""

from dataclasses import dataclass

from quantcore._base.records import shown
from quantcore.analysis.stats import QuantErrorStats

__all__ = ["TensorComparison"]


@shown()
@dataclass(frozen=True, slots=True, repr=False)
class TensorComparison:
    """The error of a tensor of the quantized model.

    Attributes
    ----------
    name : str
    shape : tuple of int
    reference_type, type : str
        The types in the reference and in the quantized model.
    nbytes : int
        Bytes in the quantized model, scales included.
    is_weight : bool
        Whether it holds floats and so counts in the total; False for integers, such as ids.
    stats : QuantErrorStats
    """

    name: str
    shape: tuple[int, ...]
    reference_type: str
    type: str
    nbytes: int
    is_weight: bool
    stats: QuantErrorStats

    @property
    def bits_per_weight(self) -> float:
        """Bits per element in the quantized model, scales included."""
        return 8 * self.nbytes / self.stats.num_samples
