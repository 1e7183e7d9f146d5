"""What a call allocates."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

MEGABYTE = 1 << 20


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """Fail if the block allocates more than `limit` bytes at any time (NumPy reports its arrays to tracemalloc)."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak / MEGABYTE:.2f} MB"
