"""The conversion of a safetensors checkpoint, whatever becomes of its tensors: plan, shards, all files together.

One process takes the steps one after the other (`carry_out`); several write the shards apart (`checkpoint_shards`).
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore.conversion.checkpoint_files import METADATA, check_folder, create_folder, index_text, json_text
from quantcore.conversion.checkpoint_rules import Layout
from quantcore.conversion.companions import find_companions
from quantcore.conversion.options import SLAB_ELEMENTS, ConversionOptions
from quantcore.conversion.outcome import ModelReport, TensorReport
from quantcore.conversion.tensor_jobs import Job
from quantcore.errors import OutputFileError
from quantcore.files.disk import OutputFile, OutputFiles, check_output, local_path
from quantcore.files.streaming import Progress, Slab, cut, stream
from quantcore.models.checkpoint_config import CONFIG
from quantcore.models.decoded_checkpoint import DecodedCheckpoint
from quantcore.safetensors.writer import SafetensorsWriter

Bytes = NDArray[np.uint8]
_SINGLE_FILE = ".safetensors"


@dataclass(frozen=True, slots=True)
class CheckpointPlan:
    """What becomes of a checkpoint.

    Attributes
    ----------
    checkpoint : DecodedCheckpoint
        The open input.
    jobs : dict of str to Job
        By the tensors' names, in their order.
    config : dict, optional
        config.json of the output.
    notices : tuple of str
        For the user.
    rules : mapping of str to str
        What decided for a tensor.
    layouts : mapping of str to Layout
        Of the tensors that are quantized.
    """

    checkpoint: DecodedCheckpoint
    jobs: dict[str, Job]
    config: dict[str, Any] | None
    notices: tuple[str, ...]
    rules: Mapping[str, str] = field(default_factory=dict)
    layouts: Mapping[str, Layout] = field(default_factory=dict)

    def report(self) -> ModelReport:
        """The report of the conversion."""
        tensors = tuple(
            TensorReport(
                job.source.name,
                job.shape,
                job.source.stored_type,
                job.target_type,
                job.source.stored_bytes,
                sum(spec.nbytes for spec in job.specs()),
                self.rules.get(job.source.name, ""),
            )
            for job in self.jobs.values()
        )
        return ModelReport(tensors, self.notices)


@dataclass(frozen=True, slots=True)
class CheckpointOutputs:
    """The files of a converted checkpoint, none of which is in the way of anything.

    Attributes
    ----------
    shards : dict of Path to list of Job
        Files of tensors.
    texts : dict of Path to bytes
        The index and config.json of a folder.
    copies : dict of Path to Path
        Files that go with the tensors, and their originals.
    inputs : tuple of Path
    force : bool
    """

    shards: dict[Path, list[Job]]
    texts: dict[Path, bytes]
    copies: dict[Path, Path]
    inputs: tuple[Path, ...]
    force: bool

    def write(self, add_shard: Callable[[OutputFiles, Path], None]) -> None:
        """Put all files in place together, or none; `add_shard` writes or adopts one of `shards`."""
        with contextlib.ExitStack() as stack:
            for folder in dict.fromkeys(path.parent for path in (*self.shards, *self.copies)):
                stack.enter_context(create_folder(folder))
            files = stack.enter_context(OutputFiles(force=self.force, inputs=self.inputs))
            for path, original in self.copies.items():
                files.open(path).copy(original)
            for path in self.shards:
                add_shard(files, path)
            # The last to be put in place: config.json and index never describe shards of another kind.
            for path, text in self.texts.items():
                files.open(path).write(text)


def carry_out(plan: CheckpointPlan, options: ConversionOptions) -> ModelReport:
    """Check the outputs, write them in this process, unless it is a dry run, and report."""
    outputs = plan_outputs(plan, options)
    if not options.dry_run:
        progress = Progress(sum(job.source.nbytes for job in plan.jobs.values()), options.progress)

        def add_shard(files: OutputFiles, path: Path) -> None:
            write_shard(plan.checkpoint, files.open(path), outputs.shards[path], options.n_threads, progress)

        outputs.write(add_shard)
    return plan.report()


def plan_outputs(plan: CheckpointPlan, options: ConversionOptions) -> CheckpointOutputs:
    """The files to write.

    Raises
    ------
    OutputFileError
        One of them exists and is not to be replaced, is an input, or cannot be written.
    """
    if not os.fsdecode(options.target):
        raise OutputFileError("output: expected the path of a file or a folder, got ''")
    target, checkpoint = local_path(options.target), plan.checkpoint
    shards, texts, copies = _shards(plan, target), {}, {}
    if target.suffix != _SINGLE_FILE:
        copies = {target / name: path for name, path in find_companions(checkpoint.folder).items()}
        if checkpoint.index_name is not None:
            specs = {path.name: [spec for job in jobs for spec in job.specs()] for path, jobs in shards.items()}
            texts[target / checkpoint.index_name] = index_text(specs)
        if plan.config is not None:
            texts[target / CONFIG] = json_text(plan.config)
    for path in (*shards, *texts, *copies):
        check_output(path, force=options.force, inputs=checkpoint.files, makes_folder=True)
    return CheckpointOutputs(shards, texts, copies, checkpoint.files, options.force)


def write_shard(
    checkpoint: DecodedCheckpoint, file: OutputFile, jobs: list[Job], n_threads: int | None, progress: Progress
) -> None:
    """Write the tensors of a shard to an open output."""
    writer = SafetensorsWriter(file, [spec for job in jobs for spec in job.specs()], METADATA)

    def read(slab: Slab[Job], buffer: Bytes) -> Bytes:
        data = buffer[: slab.size]
        slab.item.read(checkpoint, slab.start, data)
        return data

    def take(slab: Slab[Job], data: Bytes) -> None:
        slab.item.write(writer, slab.start, data)
        if slab.stop == slab.item.source.nbytes:
            for name, array in slab.item.rest().items():
                writer.write(name, 0, np.ascontiguousarray(array))

    stream(
        (slab for job in jobs for slab in cut(job, job.source.nbytes, job.slab_bytes)),
        read=read,
        compute=lambda slab, data, buffer: slab.item.compute(slab.start, data, buffer, 1),
        take=take,
        buffer_bytes=(8 * SLAB_ELEMENTS, 4 * SLAB_ELEMENTS),
        n_threads=n_threads,
        progress=progress,
    )


def _shards(plan: CheckpointPlan, target: Path) -> dict[Path, list[Job]]:
    """The files of tensors, and the jobs for each."""
    if target.suffix == _SINGLE_FILE:
        return {target: list(plan.jobs.values())}
    check_folder(target, f"*{_SINGLE_FILE}")
    return {
        target / shard.file_path.name: [plan.jobs[t.name] for t in shard.tensors if t.name in plan.jobs]
        for shard in plan.checkpoint.shards
    }
