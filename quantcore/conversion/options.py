"""How a conversion is carried out, whatever is converted to what."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from quantcore._base import arguments, parallel
from quantcore.files.paths import local_path

SLAB_ELEMENTS = 1 << 19
"""Elements of a tensor that are converted at a time: a multiple of every block."""
_SUFFIX = re.compile(r"(\.gguf|\.safetensors(\.index\.json)?)$")
_PART = re.compile(r"-\d{5}-of-\d{5}$", re.ASCII)


@dataclass(frozen=True, slots=True)
class ConversionOptions:
    """Where a conversion writes, and how.

    Attributes
    ----------
    target : path
        The output.
    force : bool
        Replace existing files.
    dry_run : bool
        Plan and report only.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`.
    progress : callable, optional
        Called with (bytes done, bytes in all) of the input.
    long_names : bool
        Allow names in a GGUF file that llama.cpp does not read, of up to 127 bytes.
    keeps_ones : bool
        Write outermost extents of 1 in a GGUF file, which ggml leaves out.
    is_refined : bool
        Quantize with effort="best".
    """

    target: str | os.PathLike[str]
    force: bool
    dry_run: bool
    n_threads: int | None
    progress: Callable[[int, int], None] | None
    long_names: bool = False
    keeps_ones: bool = False
    is_refined: bool = False

    def for_images(self) -> Self:
        """The options with what ComfyUI-GGUF reads, unlike llama.cpp."""
        return replace(self, long_names=True, keeps_ones=True)

    def __post_init__(self) -> None:
        local_path(self.target)
        arguments.callback(self.progress, "progress")
        arguments.flag(self.force, "force")
        arguments.flag(self.dry_run, "dry_run")
        parallel.check_threads(self.n_threads)
        arguments.flag(self.long_names, "long_names")


def default_target(source: str | os.PathLike[str], type_name: str) -> str:
    """The output for a source if none is named: `MODEL-TYPE.gguf`, beside it."""
    path = local_path(source)
    if path.is_dir():
        path = path.resolve()
        stem = path.name
    else:
        stem = _PART.sub("", _SUFFIX.sub("", path.name))
    return str(path.with_name(f"{stem}-{type_name}.gguf"))
