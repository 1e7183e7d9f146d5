"""The record of what was done to a model."""

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["ModelReport", "TensorReport"]


@dataclass(frozen=True, slots=True)
class TensorReport:
    """What became of one tensor."""

    name: str
    shape: tuple[int, ...]
    source_type: str
    target_type: str
    source_bytes: int
    target_bytes: int


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What became of a model: its tensors in the order of the output, and what the user should know."""

    tensors: tuple[TensorReport, ...]
    notices: tuple[str, ...]

    @property
    def source_bytes(self) -> int:
        """Bytes of all tensors in the input."""
        return sum(t.source_bytes for t in self.tensors)

    @property
    def target_bytes(self) -> int:
        """Bytes of all tensors in the output."""
        return sum(t.target_bytes for t in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "source_bytes": self.source_bytes,
            "target_bytes": self.target_bytes,
            "notices": list(self.notices),
            "tensors": [asdict(t) | {"shape": list(t.shape)} for t in self.tensors],
        }
