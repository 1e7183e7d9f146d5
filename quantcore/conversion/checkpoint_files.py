"""Files of a safetensors checkpoint: shards of planned tensors, the index, config.json, and the folder for them."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantcore.conversion.gguf_pipeline import Bytes, PlannedTensor, Take
from quantcore.conversion.options import ConversionOptions
from quantcore.errors import OutputFileError
from quantcore.files.disk import OutputFile, label, settle
from quantcore.files.kinds import PICKLE_SUFFIXES
from quantcore.files.streaming import Slab
from quantcore.safetensors.writer import SafetensorsWriter, TensorSpec

METADATA = {"format": "pt"}
"""What transformers wants to find in a file."""
_FILE_SUFFIXES = (".gguf", *PICKLE_SUFFIXES)


@dataclass(frozen=True, slots=True)
class Shard:
    """A file of safetensors to write: its path and tensors."""

    path: Path
    plan: list[PlannedTensor]

    @property
    def specs(self) -> list[TensorSpec]:
        """The tensors of the file."""
        return [TensorSpec(p.source.name, p.target.name, p.source.shape) for p in self.plan]

    def begin(self, file: OutputFile, _: ConversionOptions) -> Take:
        """Write the header."""
        writer = SafetensorsWriter(file, self.specs, METADATA)

        def take(slab: Slab[PlannedTensor], data: Bytes) -> None:
            # The types of safetensors have blocks of one element.
            writer.write(slab.item.source.name, slab.start * slab.item.target.bytes_per_block, data)

        return take


def index_text(files: Mapping[str, Iterable[TensorSpec]]) -> bytes:
    """The index of a checkpoint's files by name."""
    places = {spec.name: (name, spec.nbytes) for name, specs in files.items() for spec in specs}
    weight_map = {name: file for name, (file, _) in sorted(places.items())}
    total = sum(nbytes for _, nbytes in places.values())
    return json_text({"metadata": {"total_size": total}, "weight_map": weight_map})


def json_text(values: dict[str, Any]) -> bytes:
    """The bytes of a JSON file."""
    return json.dumps(values, indent=2).encode()


def check_folder(target: Path, single: str) -> None:
    """Refuse what cannot be a folder, or is named like a single file of another kind than `single`.

    Raises
    ------
    OutputFileError
    """
    if not target.is_dir() and (target.exists() or target.suffix in _FILE_SUFFIXES):
        raise OutputFileError(f"{label(target)}: is not a folder; a single file is named {single}")


@contextlib.contextmanager
def create_folder(folder: Path) -> Iterator[None]:
    """Create a folder for the outputs, and remove it again if they are not put in place."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    is_filled = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
        is_filled = True
    finally:
        if not is_filled:
            settle(path.rmdir for path in made)
