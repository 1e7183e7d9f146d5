"""Which tensors go into which part of a split GGUF model, and the metadata of the parts.

The limits count as in llama.cpp's gguf-split: bytes of tensors without metadata, each padded to 32 bytes; a tensor that
is larger than the limit gets a part of its own.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from quantcore._base import arguments
from quantcore.conversion.gguf_pipeline import OutputPart, PlannedTensor
from quantcore.conversion.metadata import set_keys
from quantcore.errors import InvalidValueError
from quantcore.gguf.layout import (
    DEFAULT_ALIGNMENT,
    MAX_ELEMENTS,
    MAX_PARTS,
    SPLIT_COUNT_KEY,
    SPLIT_NO_KEY,
    SPLIT_TENSORS_KEY,
    ValueType,
    round_up,
)
from quantcore.gguf.part_names import output_prefix, part_path
from quantcore.gguf.values import KeyValue


@dataclass(frozen=True, slots=True)
class SplitLimits:
    """How a model is cut into parts.

    Attributes
    ----------
    max_tensors, max_size : int, optional
        Tensors, or bytes of tensors, in a part; one of the two.
    no_tensor_first : bool
        Keep the first part for the metadata.
    """

    max_tensors: int | None = None
    max_size: int | None = None
    no_tensor_first: bool = False

    def __post_init__(self) -> None:
        if self.max_tensors is not None and self.max_size is not None:
            raise InvalidValueError("max_tensors, max_size: only one of the two limits the parts")
        if self.max_tensors is not None:
            arguments.integer(self.max_tensors, "max_tensors", 1, MAX_ELEMENTS)
        if self.max_size is not None:
            arguments.integer(self.max_size, "max_size", 1, MAX_ELEMENTS)
        arguments.flag(self.no_tensor_first, "no_tensor_first")

    def cut(self, plan: Sequence[PlannedTensor]) -> list[list[PlannedTensor]]:
        """The tensors of each part."""
        parts: list[list[PlannedTensor]] = [[], []] if self.no_tensor_first else [[]]
        size = 0
        for i, planned in enumerate(plan):
            nbytes = round_up(planned.nbytes, DEFAULT_ALIGNMENT)
            if self.max_size is None:
                is_full = self.max_tensors is not None and i > 0 and i % self.max_tensors == 0
            else:
                is_full = size + nbytes > self.max_size and bool(parts[-1])
            size = nbytes if is_full else size + nbytes
            if is_full:
                parts.append([])
            parts[-1].append(planned)
        if len(parts) > MAX_PARTS:
            name = "max_tensors" if self.max_size is None else "max_size"
            raise InvalidValueError(f"{name}: makes {len(parts)} parts, a split model has {MAX_PARTS} at most")
        return parts


def make_parts(
    target: str | os.PathLike[str], kvs: tuple[KeyValue, ...], parts: Sequence[list[PlannedTensor]]
) -> list[OutputPart]:
    """The parts of gguf-split: the first has the metadata as well."""
    count, n_tensors = len(parts), sum(map(len, parts))
    prefix = output_prefix(target)
    made = []
    for i, plan in enumerate(parts):
        number, of, together = split_keys(i, count, n_tensors)
        # gguf-split sets the count last, when it knows it.
        made.append(
            OutputPart(part_path(prefix, i, count), set_keys(kvs if i == 0 else (), (number, together, of)), plan)
        )
    return made


def keep_parts(
    target: str | os.PathLike[str],
    kvs: tuple[KeyValue, ...],
    plan: Sequence[PlannedTensor],
    part_of: Sequence[int],
) -> list[OutputPart]:
    """The parts of llama-quantize's `keep_split`: those of the input, where `part_of` tells the part of each tensor.

    Parts at the end of which no tensor remains are left out.
    """
    count = max(part_of, default=0) + 1
    parts: list[list[PlannedTensor]] = [[] for _ in range(count)]
    for planned, number in zip(plan, part_of, strict=True):
        parts[number].append(planned)
    empty = next((i for i, tensors in enumerate(parts) if i and not tensors), None)
    if empty is not None:
        raise InvalidValueError(f"keep_split: part {empty + 1} of {count} would have no tensors")
    prefix = output_prefix(target)
    return [
        OutputPart(
            part_path(prefix, i, count),
            set_keys(kvs if i == 0 else (), split_keys(i, count, len(plan)) if count > 1 else ()),
            tensors,
        )
        for i, tensors in enumerate(parts)
    ]


def split_keys(number: int, count: int, n_tensors: int) -> tuple[KeyValue, KeyValue, KeyValue]:
    """What a part says of itself: its number, how many there are, and how many tensors they have together."""
    return (
        KeyValue.of(SPLIT_NO_KEY, number, ValueType.UINT16),
        KeyValue.of(SPLIT_COUNT_KEY, count, ValueType.UINT16),
        KeyValue.int32(SPLIT_TENSORS_KEY, n_tensors),
    )
