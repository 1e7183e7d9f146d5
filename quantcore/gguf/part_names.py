"""The names of the parts of a split GGUF model, as llama.cpp makes them: `PREFIX-00001-of-00003.gguf`."""

import os
from pathlib import Path

from quantcore.gguf.layout import MAX_PARTS

_SUFFIX = ".gguf"


def part_path(prefix: str | os.PathLike[str], number: int, count: int) -> Path:
    """The path of a part; `number` counts from 0."""
    return Path(f"{os.fsdecode(prefix)}{_ending(number, count)}")


def part_prefix(path: str | os.PathLike[str], number: int, count: int) -> str | None:
    """What stands before the ending of a part's path; None if the path has not the ending of this part."""
    text, ending = os.fsdecode(path), _ending(number, count)
    return text.removesuffix(ending) if text.endswith(ending) else None


def output_prefix(path: str | os.PathLike[str]) -> str:
    """The prefix of parts that are asked for by the name of one file: without `.gguf`, as llama-quantize has it."""
    return os.fsdecode(path).removesuffix(_SUFFIX)


def _ending(number: int, count: int) -> str:
    if not 0 <= number < count <= MAX_PARTS:
        raise ValueError(f"no part {number + 1} of {count}")
    return f"-{number + 1:05d}-of-{count:05d}{_SUFFIX}"
