"""From two models to the report's file."""

import os
from collections.abc import Callable
from pathlib import Path

from quantcore import _arrays, _parallel
from quantcore._files import OutputFile, check_output
from quantcore._kernels import LEVEL
from quantcore._version import __version__
from quantcore.comparison import compare_opened
from quantcore.comparison_records import ModelComparison
from quantcore.model_values import ModelValues
from quantcore.report import figures
from quantcore.report.distributions import block_levels, log_scales, relative_errors
from quantcore.report.frontier import format_points, model_point
from quantcore.report.page import Picture, page
from quantcore.report.samples import Sample, sample_pairs

__all__ = ["write_report"]

_MOST_SEED = (1 << 63) - 1


def write_report(
    reference: str | os.PathLike[str],
    quantized: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    seed: int = 0,
    force: bool = False,
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ModelComparison:
    """Write one page of HTML that shows how good a quantized model is; it needs no network and no other file.

    The figures of the table are those of `compare_models`, over all elements; what is drawn as a distribution, and the
    comparison of formats, come from up to a million elements.

    Parameters
    ----------
    reference, quantized : path
        As for `compare_models`.
    target : path
        The HTML file. It appears whole or not at all, and is the same for the same models, seed and versions.
    seed : int, default 0
        Which elements are drawn, if the models have more of them.
    force : bool, default False
        Replace an existing file.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The page does not depend on it.
    progress : callable, optional
        Called with (bytes done, bytes in all) of both files together.

    Returns
    -------
    ModelComparison
        What the page shows.

    Raises
    ------
    ImportError
        matplotlib is not installed (MissingExtraError).
    ValueError
        As `compare_models`; `seed` is negative.
    OSError
        A file cannot be read or written; the output exists or is an input (OutputFileError).
    """
    figures.import_matplotlib()
    seed = _arrays.integer(seed, "seed", 0, _MOST_SEED)
    _parallel.check_threads(n_threads)
    with ModelValues(reference) as original, ModelValues(quantized) as other:
        inputs = (*original.paths, *other.paths)
        check_output(target, force=force, inputs=inputs)  # before the work rather than after it
        comparison = compare_opened(original, other, n_threads=n_threads, progress=progress)
        samples = sample_pairs(original, other, comparison, seed=seed, n_threads=n_threads)
    names = _name(reference), _name(quantized)
    text = page(names, comparison, _pictures(comparison, samples, n_threads), _footer(seed, samples))
    with OutputFile(target, force=force, inputs=inputs) as file:
        file.write(text.encode("utf-8"))
    return comparison


def _pictures(comparison: ModelComparison, samples: list[Sample], n_threads: int | None) -> list[Picture]:
    points = format_points(samples, n_threads=n_threads)
    colours = figures.colours_of_types(comparison)
    return [
        Picture(
            "Worst tensors",
            "Signal to quantization noise of each tensor, the worst ones first.",
            figures.worst_tensors(comparison, colours),
            is_wide=True,
        ),
        Picture(
            "Formats",
            "What each format would make of the matrices; on the line are those that no other beats.",
            figures.format_frontier(points, model_point(samples)),
            is_wide=True,
        ),
        Picture(
            "Errors",
            "How often errors of each size occur, relative to the weights of their tensor.",
            figures.error_histogram(relative_errors(samples), colours),
        ),
        Picture(
            "Weights and levels",
            "Where the weights of a block lie, and the levels that they are rounded to.",
            figures.weight_distribution(block_levels(samples)),
        ),
        Picture(
            "Block scales",
            "The range that the blocks of the reference ask of their scales.",
            figures.scale_distribution(log_scales(samples), colours),
        ),
    ]


def _footer(seed: int, samples: list[Sample]) -> str:
    n = sum(s.original.size for s in samples)
    return f"quantcore {__version__}, kernels {LEVEL}; distributions from {n} elements drawn with seed {seed}"


def _name(path: str | os.PathLike[str]) -> str:
    return Path(os.path.abspath(os.fsdecode(path))).name
