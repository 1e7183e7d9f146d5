"""The results of a comparison of two models."""

from dataclasses import asdict, dataclass
from typing import Any

from quantcore._base import arguments
from quantcore._base.notebook import rows_table
from quantcore._base.text import decibels
from quantcore.analysis.stats import QuantErrorStats
from quantcore.models.tensor_comparison import TensorComparison

__all__ = ["ModelComparison", "TensorComparison"]


@dataclass(frozen=True, slots=True, repr=False)
class ModelComparison:
    """The error of a quantized model against its reference.

    Attributes
    ----------
    tensors : tuple of TensorComparison
        The tensors that both models have, by ascending SQNR, equal ones by name.
    total : QuantErrorStats
        The statistics over all tensors that hold weights.
    reference_bytes, nbytes : int
        The bytes of these tensors in the reference and in the quantized model.
    missing, extra : tuple of str
        Tensors that only the reference has, and that only the quantized model has.
    empty : tuple of str
        Tensors without elements that both models have.
    notices : tuple of str
        What the user should know of the files, such as bytes after the last tensor.
    """

    tensors: tuple[TensorComparison, ...]
    total: QuantErrorStats
    reference_bytes: int
    nbytes: int
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    empty: tuple[str, ...]
    notices: tuple[str, ...] = ()

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight in the quantized model, scales included."""
        return 8 * self.nbytes / self.total.num_samples

    @property
    def worst(self) -> TensorComparison:
        """The tensor with the lowest SQNR. The total, a ratio of sums, is never below it."""
        return self.tensors[0]

    def passes(self, sqnr_db: float) -> bool:
        """Whether no tensor is missing and none has an SQNR below `sqnr_db`."""
        return not self.missing and self.worst.stats.sqnr_db >= arguments.figure(sqnr_db, "sqnr_db")

    def plot(self, axes: Any = None) -> Any:
        """Draw the SQNR of each kind of tensor in each layer with matplotlib (extra `report`); of a model without
        layers, that of its worst tensors.

        Parameters
        ----------
        axes : matplotlib.axes.Axes, optional
            What to draw on; None: a new figure.

        Returns
        -------
        matplotlib.axes.Axes
        """
        from quantcore.models.plots import draw_comparison

        return draw_comparison(axes, self.tensors)

    def __repr__(self) -> str:
        missing = f", {len(self.missing)} missing" if self.missing else ""
        extra = f", {len(self.extra)} extra" if self.extra else ""
        return (
            f"ModelComparison({len(self.tensors)} tensors, {self.bits_per_weight:.2f} bits per weight, SQNR "
            f"{decibels(self.total.sqnr_db)} dB{missing}{extra})"
        )

    def _repr_html_(self) -> str:
        head = ("tensor", "shape", "from", "to", "bits per weight", "SQNR dB", "max error", "cosine")
        rows = (
            (
                t.name, "x".join(map(str, t.shape)), t.reference_type, t.type, f"{t.bits_per_weight:.2f}",
                decibels(t.stats.sqnr_db), t.stats.max_error, t.stats.cosine_similarity,
            )
            for t in self.tensors
        )  # fmt: skip
        return rows_table(f"{self!r}, the worst first", head, rows, len(self.tensors), right=range(4, len(head)))

    def to_dict(self) -> dict[str, Any]:
        """The comparison as a dictionary for JSON."""
        return {
            "total": _figures(self.total, self.bits_per_weight),
            "reference_bytes": self.reference_bytes,
            "bytes": self.nbytes,
            "missing": list(self.missing),
            "extra": list(self.extra),
            "empty": list(self.empty),
            "notices": list(self.notices),
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
