"""`compare_models`: the error of a quantized model against its reference, where the two may have different names."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from quantcore._base import parallel
from quantcore.conversion.file_types import FILE_TYPES
from quantcore.conversion.gguf_source import is_converted, take_source
from quantcore.gguf.parts import GGUFModel
from quantcore.models.comparison import Comparable, compare_opened
from quantcore.models.comparison_results import ModelComparison
from quantcore.models.opening import Model, open_model
from quantcore.models.tensors import ModelTensor

__all__ = ["compare_models", "with_names_in_common"]


def compare_models(
    reference: str | os.PathLike[str],
    quantized: str | os.PathLike[str],
    *,
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ModelComparison:
    """Measure the error of a quantized model against its reference, tensor by tensor.

    Parameters
    ----------
    reference, quantized : path
        Two models, not necessarily of the same kind: GGUF files of any type that has kernels; safetensors files,
        folders of shards or indices, plain or with weights that bitsandbytes packed. Tensors are matched by their
        names; those of a Hugging Face folder beside a GGUF file are named and arranged as `quantize_model` does.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The figures do not depend on it.
    progress : callable, optional
        Called with (bytes done, bytes in all) of both files together.

    Returns
    -------
    ModelComparison

    Raises
    ------
    ValueError
        A file is malformed (FileFormatError); a tensor has another shape in the other model (outermost extents of 1
        do not count), a type that cannot be decoded, or holds NaN or inf; no tensor of weights is in both.
    OSError
        A file cannot be read.
    ImportError
        The package `gguf`, which a Hugging Face folder beside a GGUF file needs, is missing (MissingExtraError).
    """
    parallel.check_threads(n_threads)
    with open_model(reference) as original, open_model(quantized) as other:
        return compare_opened(*with_names_in_common(original, other), n_threads=n_threads, progress=progress)


@dataclass(frozen=True)
class _InGguf:
    """A Hugging Face folder with the tensors of the GGUF file that it becomes: a `Comparable`."""

    label: str
    tensors: dict[str, ModelTensor]
    notices: tuple[str, ...]
    is_gguf: bool = True


def with_names_in_common(original: Model, other: Model) -> tuple[Comparable, Comparable]:
    """Two models, of which a Hugging Face folder beside a GGUF file has the tensors of the GGUF file that it becomes.

    They are as they were if they share names already, or if the folder is none that is converted.
    """
    names, others = ({tensor.name for tensor in model.stored} for model in (original, other))
    if original.is_gguf == other.is_gguf or names & others:
        return original, other
    return _in_gguf(original), _in_gguf(other)


def _in_gguf(model: Model) -> Comparable:
    if isinstance(model.container, GGUFModel) or not is_converted(model.container):
        return model
    # A quantized file's source has no blocks, which a file of floats keeps as they are.
    source = take_source(model, None, keep_names=False, file_type=FILE_TYPES["Q8_0"])
    return _InGguf(model.label, {tensor.name: tensor for tensor in source.tensors}, source.notices)
