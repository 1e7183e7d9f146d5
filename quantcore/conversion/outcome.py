"""The report of a conversion."""

from dataclasses import asdict, dataclass
from typing import Any

from quantcore._base.notebook import rows_table
from quantcore._base.records import shown
from quantcore._base.text import bytes_text

__all__ = ["ModelReport", "TensorReport"]


@shown()
@dataclass(frozen=True, slots=True, repr=False)
class TensorReport:
    """The conversion of one tensor; `rule` says what decided its type, where that is more than the type requested."""

    name: str
    shape: tuple[int, ...]
    source_type: str
    target_type: str
    source_bytes: int
    target_bytes: int
    rule: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class ModelReport:
    """The conversion of a model: its tensors in the order of the output, notices for the user, and the paths of the
    parts, if the output is split.
    """

    tensors: tuple[TensorReport, ...]
    notices: tuple[str, ...]
    parts: tuple[str, ...] = ()

    @property
    def source_bytes(self) -> int:
        """Bytes of all tensors in the input."""
        return sum(t.source_bytes for t in self.tensors)

    @property
    def target_bytes(self) -> int:
        """Bytes of all tensors in the output."""
        return sum(t.target_bytes for t in self.tensors)

    def __repr__(self) -> str:
        sizes = f"{bytes_text(self.source_bytes)} to {bytes_text(self.target_bytes)}"
        notices = f", {len(self.notices)} notices" if self.notices else ""
        return f"ModelReport({len(self.tensors)} tensors, {sizes}{notices})"

    def _repr_html_(self) -> str:
        head = ("tensor", "shape", "from", "to", "size", "rule")
        rows = (
            (t.name, "x".join(map(str, t.shape)), t.source_type, t.target_type, bytes_text(t.target_bytes), t.rule)
            for t in self.tensors
        )
        return rows_table(repr(self), head, rows, len(self.tensors), right=(4,))

    def to_dict(self) -> dict[str, Any]:
        """The report as a dictionary for JSON."""
        return {
            "source_bytes": self.source_bytes,
            "target_bytes": self.target_bytes,
            "notices": list(self.notices),
            "parts": list(self.parts),
            "tensors": [asdict(t) | {"shape": list(t.shape)} for t in self.tensors],
        }
