"""What a comparison of two models found."""

from dataclasses import asdict, dataclass
from typing import Any

from quantcore.error_records import QuantErrorStats

__all__ = ["ModelComparison", "TensorComparison"]


@dataclass(frozen=True, slots=True)
class TensorComparison:
    """A tensor of the quantized model against that of the reference.

    Attributes
    ----------
    name : str
    shape : tuple of int
    reference_type, type : str
        In the reference and in the quantized model.
    nbytes : int
        In the quantized model, scales included.
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
        """Bits that are kept of an element, its share of the scales included."""
        return 8 * self.nbytes / self.stats.num_samples


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """A quantized model against its reference.

    Attributes
    ----------
    tensors : tuple of TensorComparison
        Those that both have, the one of least SQNR first, equal ones by name.
    total : QuantErrorStats
        Over all tensors that hold weights.
    reference_bytes, nbytes : int
        Of these tensors, in the reference and in the quantized model.
    missing, extra : tuple of str
        Tensors that only the reference has, and that only the quantized model has.
    empty : tuple of str
        Tensors that both have, without elements.
    """

    tensors: tuple[TensorComparison, ...]
    total: QuantErrorStats
    reference_bytes: int
    nbytes: int
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    empty: tuple[str, ...]

    @property
    def bits_per_weight(self) -> float:
        """Bits that the quantized model keeps of a weight, scales included."""
        return 8 * self.nbytes / self.total.num_samples

    @property
    def worst(self) -> TensorComparison:
        """The tensor of least SQNR. The total, as the ratio of sums, is never below it."""
        return self.tensors[0]

    def passes(self, sqnr_db: float) -> bool:
        """Whether no tensor is missing and none has an SQNR below `sqnr_db`."""
        return not self.missing and self.worst.stats.sqnr_db >= sqnr_db

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "total": _figures(self.total, self.bits_per_weight),
            "reference_bytes": self.reference_bytes,
            "bytes": self.nbytes,
            "missing": list(self.missing),
            "extra": list(self.extra),
            "empty": list(self.empty),
            "tensors": [
                {
                    "name": t.name,
                    "shape": list(t.shape),
                    "reference_type": t.reference_type,
                    "type": t.type,
                    "bytes": t.nbytes,
                }
                | _figures(t.stats, t.bits_per_weight)
                for t in self.tensors
            ],
        }


def _figures(stats: QuantErrorStats, bits_per_weight: float) -> dict[str, Any]:
    figures = asdict(stats) | {"rmse": stats.rmse, "bits_per_weight": bits_per_weight}
    del figures["outlier_rate"]
    return figures
