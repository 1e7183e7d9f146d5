"""GGUF models cut into parts and joined again, with the files of llama.cpp's gguf-split: `split_model`, `merge_model`.

Tensors are copied as they are.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from quantcore._base.notebook import rows_table
from quantcore._base.records import shown
from quantcore._base.text import bytes_text
from quantcore.conversion.gguf_pipeline import OutputPart, PlannedTensor, copy_slab, write_model
from quantcore.conversion.image_models import image_model
from quantcore.conversion.metadata import set_keys
from quantcore.conversion.options import ConversionOptions
from quantcore.conversion.splitting import SplitLimits, make_parts
from quantcore.errors import FileFormatError
from quantcore.files.disk import check_output
from quantcore.gguf.layout import ARCHITECTURE_KEY, SPLIT_COUNT_KEY, ValueType
from quantcore.gguf.parts import GGUFModel
from quantcore.gguf.values import KeyValue
from quantcore.models.opening import Model, open_model
from quantcore.models.tensors import ggml_type

__all__ = ["PartReport", "SplitReport", "merge_model", "split_model"]

DEFAULT_MAX_TENSORS = 128


@shown()
@dataclass(frozen=True, slots=True, repr=False)
class PartReport:
    """A file that was written: its path, and the number and bytes of its tensors."""

    path: str
    n_tensors: int
    n_bytes: int


@dataclass(frozen=True, slots=True, repr=False)
class SplitReport:
    """The files that were written, in order, and notices for the user."""

    parts: tuple[PartReport, ...]
    notices: tuple[str, ...]

    def __repr__(self) -> str:
        return f"SplitReport({len(self.parts)} parts, {bytes_text(sum(part.n_bytes for part in self.parts))})"

    def _repr_html_(self) -> str:
        rows = ((part.path, part.n_tensors, bytes_text(part.n_bytes)) for part in self.parts)
        return rows_table(repr(self), ("file", "tensors", "size"), rows, len(self.parts), right=(1, 2))

    def to_dict(self) -> dict[str, Any]:
        """The report as a dictionary for JSON."""
        return {"parts": [asdict(part) for part in self.parts], "notices": list(self.notices)}


def split_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    max_tensors: int | None = None,
    max_size: int | None = None,
    no_tensor_first: bool = False,
    force: bool = False,
    dry_run: bool = False,
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SplitReport:
    """Cut a GGUF model into parts, the files of llama.cpp's gguf-split.

    Parameters
    ----------
    source : path
        A GGUF file, or any part of a split model, which is cut anew.
    target : path
        The parts are `target-00001-of-0000N.gguf` and so on; `.gguf` at its end is left out. All of them are written,
        or none.
    max_tensors : int, optional
        Tensors in a part; 128 if neither limit is given.
    max_size : int, optional
        Bytes of tensors in a part; a tensor that is larger gets a part of its own.
    no_tensor_first : bool, default False
        Keep the first part for the metadata.
    force, dry_run, n_threads, progress
        As for `quantize_model`.

    Returns
    -------
    SplitReport

    Raises
    ------
    ValueError
        The input is malformed or no GGUF file (FileFormatError), a limit is below 1, or both are given.
    OSError
        A file cannot be read or written; an output exists or is the input (OutputFileError).
    """
    if max_tensors is None and max_size is None:
        max_tensors = DEFAULT_MAX_TENSORS
    limits = SplitLimits(max_tensors, max_size, no_tensor_first)
    options = ConversionOptions(target, force, dry_run, n_threads, progress, long_names=True)
    with open_model(source) as model:
        container = _gguf(model)
        return _copy(make_parts(target, container.kvs, limits.cut(_take_all(model))), model, options)


def merge_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    force: bool = False,
    dry_run: bool = False,
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SplitReport:
    """Join the parts of a split GGUF model, the file of llama.cpp's ``gguf-split --merge``.

    Parameters
    ----------
    source : path
        Any of the parts.
    target : path
        The GGUF file to write; it is written atomically.
    force, dry_run, n_threads, progress
        As for `quantize_model`.

    Returns
    -------
    SplitReport

    Raises
    ------
    ValueError
        A part is malformed, missing or another one than its name says; the model is not split (FileFormatError).
    OSError
        As for `split_model`.
    """
    options = ConversionOptions(target, force, dry_run, n_threads, progress, long_names=True)
    with open_model(source) as model:
        container = _gguf(model)
        if not container.value(SPLIT_COUNT_KEY):
            raise FileFormatError(f"{model.label}: {SPLIT_COUNT_KEY}: missing or 0: this is no part of a split model")
        # What gguf-split writes says that it is not split, in the place of the last key.
        kvs = set_keys(container.kvs, (KeyValue.of(SPLIT_COUNT_KEY, 0, ValueType.UINT16),))
        return _copy([OutputPart(target, kvs, _take_all(model))], model, options)


def _gguf(model: Model) -> GGUFModel:
    if not isinstance(model.container, GGUFModel):
        raise FileFormatError(f"{model.label}: is safetensors; only GGUF models are split and merged")
    return model.container


def _take_all(model: Model) -> list[PlannedTensor]:
    return [PlannedTensor(tensor, ggml_type(tensor)) for tensor in model.stored]


def _copy(parts: Sequence[OutputPart], model: Model, options: ConversionOptions) -> SplitReport:
    if image_model(_gguf(model).value(ARCHITECTURE_KEY)):
        options = options.for_images()
    for part in parts:
        check_output(part.path, force=options.force, inputs=model.paths)
    if not options.dry_run:
        write_model(parts, options, model.paths, compute=copy_slab)
    reports = (PartReport(os.fsdecode(p.path), len(p.plan), sum(t.nbytes for t in p.plan)) for p in parts)
    return SplitReport(tuple(reports), model.notices)
