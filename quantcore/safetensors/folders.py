"""Which files of a folder are the checkpoint: the index, the single file or the shards, under the names that tools use.

An index decides which shards belong to the model, whatever lies beside them. The names in it are plain file names;
symbolic links are the user's own and are followed, since the cache of the Hugging Face hub consists of nothing else.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quantcore.errors import FileFormatError
from quantcore.files.disk import InputFile, label, local_path
from quantcore.files.kinds import HEAD_BYTES, PICKLE_SUFFIXES, STATISTICS, ZARR, ZARR_NAMES, kind_of, say_wrong
from quantcore.files.strict_json import read_object

MAX_HEADER_BYTES = 100_000_000
"""The longest header of a file, and the longest index."""

STEMS = ("model", "diffusion_pytorch_model", "adapter_model", "pytorch_model", "consolidated")
"""What transformers, diffusers, PEFT, older tools and Mistral call a checkpoint; the first one found is read."""
INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.safetensors")
_INDEX = re.compile(r".+\.safetensors\.index(\..+)?\.json")
_MOST_NAMED = 4


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """The files of a checkpoint.

    Attributes
    ----------
    path : str
        What was opened, for messages.
    folder : Path
        The folder of the files.
    shards : tuple of Path
    index : Path, optional
        The index, if there is one.
    weight_map : dict of str to str, optional
        What the index says: the file name of each tensor.
    index_name : str, optional
        The name of the index, or the one that it should have; None for a checkpoint of one file without an index.
    """

    path: str
    folder: Path
    shards: tuple[Path, ...]
    index: Path | None = None
    weight_map: dict[str, str] | None = None
    index_name: str | None = None


def find_files(path: str | os.PathLike[str]) -> CheckpointFiles:
    """Find the files of a checkpoint: of a folder, of an index, or a single file.

    Raises
    ------
    FileFormatError
        The folder has no checkpoint, or several of which none has a usual name; shards are missing; the index is
        malformed, or names a shard by more than a plain file name.
    OSError
        The folder or the index cannot be read.
    """
    path = local_path(path)
    if not path.is_dir():
        return _read_index(path) if path.suffix == ".json" else CheckpointFiles(label(path), path.parent, (path,))
    names = sorted(os.listdir(path))
    for stem in STEMS:
        if f"{stem}.safetensors.index.json" in names:
            return _read_index(path / f"{stem}.safetensors.index.json")
        if f"{stem}.safetensors" in names:
            return CheckpointFiles(label(path), path, (path / f"{stem}.safetensors",))
        if shards := _find_shards(path, names, stem):
            return shards
    return _find_unusual(path, names)


def _find_unusual(folder: Path, names: list[str]) -> CheckpointFiles:
    """A checkpoint by a name of its own, such as `model.fp16.safetensors`, if it is the only one."""
    indexes = [name for name in names if _INDEX.fullmatch(name)]
    if len(indexes) == 1:
        return _read_index(folder / indexes[0])
    stems = sorted({match["stem"] for name in names if (match := _SHARD.fullmatch(name))})
    singles = [name for name in names if name.endswith(".safetensors") and not _SHARD.fullmatch(name)]
    found = [*indexes, *stems, *singles]
    if len(found) > 1:
        raise FileFormatError(f"{label(folder)}: has several checkpoints ({_list(found)}): name the one to read")
    if stems and (shards := _find_shards(folder, names, stems[0])):
        return shards
    if singles:
        return CheckpointFiles(label(folder), folder, (folder / singles[0],))
    if any(name in names for name in ZARR_NAMES):
        raise FileFormatError(say_wrong(label(folder), ZARR, "a checkpoint in safetensors"))
    raise FileFormatError(f"{label(folder)}: has neither {INDEX_NAME} nor {SINGLE_NAME}{_hint(folder, names)}")


def _find_shards(folder: Path, names: list[str], stem: str) -> CheckpointFiles | None:
    """The shards `STEM-0000i-of-0000N.safetensors`, all N of them, or None if there is none."""
    found = [match for name in names if (match := _SHARD.fullmatch(name)) and match["stem"] == stem]
    totals = sorted({match["total"] for match in found})
    if not found:
        return None
    if len(totals) > 1:
        raise FileFormatError(
            f"{label(folder)}: has shards of {_list(totals)} of {stem!r} and no index: remove one kind"
        )
    total = int(totals[0])
    if len(found) != total or [int(match["number"]) for match in found] != list(range(1, total + 1)):
        raise FileFormatError(f"{label(folder)}: has {len(found)} of the {total} shards of {stem!r}, and no index")
    shards = tuple(folder / match.string for match in found)
    return CheckpointFiles(label(folder), folder, shards, index_name=f"{stem}.safetensors.index.json")


def _read_index(index: Path) -> CheckpointFiles:
    with InputFile(index) as file:
        if (kind := kind_of(file.read(0, min(HEAD_BYTES, file.size)))) == STATISTICS:
            raise FileFormatError(say_wrong(file.label, kind, "the index of a checkpoint"))
        parsed = read_object(file, MAX_HEADER_BYTES, "index")
    weight_map = parsed.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise FileFormatError(f"{label(index)}: weight_map: must map tensor names to file names")
    shards = tuple(_shard_path(index, name) for name in dict.fromkeys(weight_map.values()))
    return CheckpointFiles(label(index), index.parent, shards, index, weight_map, index.name)


def _shard_path(index: Path, name: str) -> Path:
    file = index.parent / name
    if not 0 < len(name) <= 255 or name in (".", "..") or any(c in name for c in "/\\\0"):
        raise FileFormatError(f"{label(index)}: shard {name[:80]!r}: must be a plain file name")
    if not file.exists():
        raise FileFormatError(f"{label(index)}: shard {name[:80]!r}: missing")
    if not file.is_file():
        raise FileFormatError(f"{label(index)}: shard {name[:80]!r}: not a regular file")
    return file


def _hint(folder: Path, names: list[str]) -> str:
    """What else the folder has that may have been meant."""
    inside = [name for name in names if (folder / name).is_dir() and any((folder / name).glob("*.safetensors"))]
    if inside:
        return f"; its folders {_list(inside)} have checkpoints: name one of them"
    if models := [name for name in names if name.endswith(".gguf")]:
        return (
            f"; of its GGUF files ({_list(models)}), name one"
            if len(models) > 1
            else f"; name its file {_list(models)}"
        )
    pickles = [name for name in names if name.endswith(PICKLE_SUFFIXES)]
    return f"; pickle files ({_list(pickles)}) are never opened" if pickles else ""


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(label(name) for name in names[:_MOST_NAMED])
    return shown if len(names) <= _MOST_NAMED else f"{shown}, ..."
