"""A conversion in parts, run by calls of this process, and stopped after some of its shards."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from quantcore._base.patterns import compile_patterns
from quantcore.conversion import quantize_checkpoint
from quantcore.conversion.checkpoint_shards import Recipe, quantize_apart, write_part
from quantcore.conversion.four_bit_plan import FourBitCode
from quantcore.conversion.options import ConversionOptions
from tests.support.sharded import contents_of

DOUBLE = {"double_quant": True, "quant_type": "nf4"}


class Stopped(Exception):
    """What stops a run."""


def write_all(recipe: Recipe, numbers: Sequence[int]) -> None:
    for number in reversed(numbers):
        write_part(recipe, number, 1)


def stop_after(n_shards: int) -> Callable[[Recipe, Sequence[int]], None]:
    def run(recipe: Recipe, numbers: Sequence[int]) -> None:
        write_all(recipe, numbers[:n_shards])
        raise Stopped

    return run


def convert(source: Path, target: Path, run: Any = write_all, *, force: bool = False, **code: Any) -> Any:
    options = ConversionOptions(target, force, False, 1, None)
    settings = {"quant_type": "nf4", "block_size": 64, "double_quant": False, "quant_storage": "uint8"} | code
    return quantize_apart(source, options, FourBitCode(**settings), compile_patterns((), "exclude"), None, run)


def expected(source: Path, tmp_path: Path, **code: Any) -> dict[str, bytes]:
    """The files of one process."""
    folder = tmp_path / "expected"
    quantize_checkpoint(source, folder, **({"quant_type": "nf4"} | code))
    return contents_of(folder)


def parts_in(target: Path) -> list[Path]:
    return sorted(path for folder in target.glob(".quantcore-*.parts") for path in folder.iterdir())


def stop(source: Path, target: Path, n_shards: int = 2, **options: Any) -> dict[str, tuple[int, int]]:
    """A conversion that stops after some shards; which files these are."""
    with pytest.raises(Stopped):
        convert(source, target, stop_after(n_shards), **options)
    names = [path.name for path in parts_in(target)]
    assert names == [*(f"{i:05d}" for i in range(n_shards)), "lock"] if n_shards else not target.exists()
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in parts_in(target)[:-1]}
