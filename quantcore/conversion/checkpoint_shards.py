"""Quantizing a checkpoint shard by shard, each in any process, with the files of one process, byte for byte.

The process that was called decides what becomes of every tensor, hands out a recipe and the numbers of shards, and puts
all files in place together. Finished shards lie in a folder of parts (`files.part_folder`), from which a later call
goes on. The recipe's identity covers the sources, the settings and the version, and whoever writes a shard compares it
with what it finds, before and after.
"""

import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from quantcore._version import __version__
from quantcore.conversion.checkpoint_files import METADATA, create_folder
from quantcore.conversion.checkpoint_plan import plan_outputs, write_shard
from quantcore.conversion.checkpoint_rules import Layout
from quantcore.conversion.four_bit_plan import FourBitCode, plan_four_bits
from quantcore.conversion.options import ConversionOptions
from quantcore.conversion.outcome import ModelReport
from quantcore.conversion.tensor_jobs import Job
from quantcore.errors import FileFormatError, OutputFileError
from quantcore.files.disk import InputFile, OutputFile, OutputFiles, label, local_path
from quantcore.files.part_folder import PartFolder
from quantcore.files.streaming import Progress
from quantcore.models.checkpoint_config import read_config
from quantcore.models.decoded_checkpoint import decode_checkpoint
from quantcore.safetensors.folders import MAX_HEADER_BYTES
from quantcore.safetensors.reader import Checkpoint, SafetensorsReader, open_checkpoint

_REVISION = 1
"""Of how parts are written; another one makes them parts of another plan."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a process needs to write a shard; it pickles.

    Attributes
    ----------
    source : str
        The absolute path of the checkpoint.
    target : str
        The absolute path of the output's folder.
    code : FourBitCode
    layouts : dict of str to Layout
        Of the tensors that are quantized. They are decided once, since another process may lack transformers.
    identity : str
        Of all that the bytes depend on.
    """

    source: str
    target: str
    code: FourBitCode
    layouts: dict[str, Layout]
    identity: str

    @property
    def parts(self) -> PartFolder:
        """Where the shards go."""
        return PartFolder(Path(self.target), self.identity)


Run = Callable[[Recipe, Sequence[int]], object]
"""Has `write_part` called for every number of a shard, in any process and order."""


def quantize_apart(
    source: str | os.PathLike[str],
    options: ConversionOptions,
    code: FourBitCode,
    patterns: tuple[re.Pattern[str], ...],
    compute_dtype: str | None,
    run: Run,
) -> ModelReport:
    """Plan the conversion of a checkpoint to a folder, have the missing shards written, and put all files in place."""
    with open_checkpoint(source) as opened:
        plan = plan_four_bits(opened, code, patterns, compute_dtype)
        outputs = plan_outputs(plan, options)
        if local_path(options.target) in outputs.shards:
            raise OutputFileError(f"{label(options.target)}: expected a folder; one file is written by one process")
        target, layouts = Path(os.path.realpath(local_path(options.target))), dict(plan.layouts)
        recipe = Recipe(
            os.path.abspath(local_path(source)), str(target), code, layouts, _identity(opened, code, layouts)
        )
        with create_folder(target), recipe.parts as parts:
            number_of = {path: number for number, path in enumerate(outputs.shards)}
            missing = [
                number_of[path] for path, jobs in outputs.shards.items() if not _has(parts, number_of[path], jobs)
            ]
            if missing:
                run(recipe, missing)
            _check_source(opened, recipe)

            def add_shard(files: OutputFiles, path: Path) -> None:
                files.adopt(path, parts.part(number_of[path]))

            outputs.write(add_shard)
        return plan.report()


def write_part(recipe: Recipe, number: int, n_threads: int | None) -> None:
    """Write a shard, unless it is there already.

    Raises
    ------
    FileFormatError
        The source, or the version of this package, is not that of the plan; or as for the conversion.
    """
    with open_checkpoint(recipe.source) as opened:
        _check_source(opened, recipe)
        checkpoint = decode_checkpoint(opened, read_config(opened.folder))
        tensors = checkpoint.shards[number].tensors
        jobs = [recipe.code.job(tensor, recipe.layouts.get(tensor.name, Layout.KEPT)) for tensor in tensors]

        def write(file: OutputFile) -> None:
            file.require(lambda: _check_source(opened, recipe))
            write_shard(checkpoint, file, jobs, n_threads, Progress(0, None))

        recipe.parts.write(number, write, checkpoint.files)


def _has(parts: PartFolder, number: int, jobs: list[Job]) -> bool:
    """Whether a shard is finished, with the tensors that it should have."""
    wanted = {(spec.name, spec.dtype, tuple(spec.shape)) for job in jobs for spec in job.specs()}

    def is_whole(path: Path) -> bool:
        try:
            with SafetensorsReader(path) as shard:
                return shard.metadata == METADATA and {(t.name, t.dtype, t.shape) for t in shard.tensors} == wanted
        except FileFormatError:
            return False

    return parts.keep_if(number, is_whole)


def _check_source(opened: Checkpoint, recipe: Recipe) -> None:
    if _identity(opened, recipe.code, recipe.layouts) != recipe.identity:
        raise FileFormatError(
            f"{opened.path}: changed since the conversion was planned, or was planned by another version of quantcore "
            f"than {__version__}"
        )


def _identity(opened: Checkpoint, code: FourBitCode, layouts: dict[str, Layout]) -> str:
    """A digest of what the bytes of the shards depend on, as 32 hexadecimal digits."""
    facts = {
        "revision": _REVISION,
        "version": __version__,
        "code": astuple(code),
        "layouts": sorted((name, layout.value) for name, layout in layouts.items()),
        "config": read_config(opened.folder),
        "files": [_describe(path, is_shard=i < len(opened.shards)) for i, path in enumerate(opened.files)],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _describe(path: Path, *, is_shard: bool) -> list[Any]:
    """What tells whether a file is still the same: name, size, time, and its bytes, of a shard only the header."""
    with InputFile(path) as file:
        size = file.size
        if is_shard and size >= 8:
            (length,) = struct.unpack("<Q", file.read(0, 8))
            size = min(size, 8 + min(length, MAX_HEADER_BYTES))
        return [path.name, file.size, file.modified_ns, hashlib.sha256(file.read(0, size)).hexdigest()]
