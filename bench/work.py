"""A piece of work to be timed: our call for a number of threads, and the same job done by each peer."""

from collections.abc import Callable
from dataclasses import dataclass, field

Call = Callable[[], object]


@dataclass(frozen=True)
class Work:
    """One job on arrays that are there already; `dtype` is that of the floats which go in or come out.

    `n_bytes` counts what is read and written. Every contender is made for a number of threads and called after that, so
    all that are timed together must have been made for the same number. Peers may write to memory of their own or know
    no threads; docs/benchmarks.md says which do.
    """

    name: str
    n_elements: int
    n_bytes: int
    ours: Callable[[int], Call]
    peers: dict[str, Callable[[int], Call]] = field(default_factory=dict)
    dtype: str = "float32"

    @property
    def title(self) -> str:
        """A name that no other work of its suite has."""
        return f"{self.name}, {self.dtype}"
