"""Write the report on two models to a file."""

import os
from collections.abc import Callable
from pathlib import Path

from quantcore._base import arguments, parallel
from quantcore._base.plotting import import_matplotlib
from quantcore._kernels import LEVEL
from quantcore._version import __version__
from quantcore.conversion.comparison import with_names_in_common
from quantcore.errors import OutputFileError
from quantcore.files.disk import OutputFile, check_output, label, local_path
from quantcore.models.comparison import compare_opened
from quantcore.models.comparison_results import ModelComparison
from quantcore.models.opening import open_model
from quantcore.report import figures
from quantcore.report.distributions import block_levels, log_scales, relative_errors
from quantcore.report.frontier import format_points, model_point
from quantcore.report.page import Picture, page
from quantcore.report.samples import Sample, sample_pairs

__all__ = ["write_report"]

_SUFFIXES = (".html", ".htm", ".xhtml", "")
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
    """Write one self-contained page of HTML that shows how good a quantized model is.

    The figures of the table are those of `compare_models`, over all elements; the distributions and the comparison of
    formats are computed from a random sample of up to a million elements.

    Parameters
    ----------
    reference, quantized : path
        As for `compare_models`.
    target : path
        The HTML file. It is written atomically, and is the same for the same models, seed and versions.
    seed : int, default 0
        The seed of the random sample, if the models have more elements than it.
    force : bool, default False
        Replace an existing file.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The page does not depend on it.
    progress : callable, optional
        Called with (bytes done, bytes in all) of both files together.

    Returns
    -------
    ModelComparison
        The comparison that the page shows.

    Raises
    ------
    ImportError
        matplotlib is not installed (MissingExtraError).
    ValueError
        As `compare_models`; `seed` is negative.
    OSError
        A file cannot be read or written; the output exists, is an input or is named like a file of another kind
        (OutputFileError).
    """
    import_matplotlib("the report")
    seed = arguments.integer(seed, "seed", 0, _MOST_SEED)
    parallel.check_threads(n_threads)
    with open_model(reference) as original, open_model(quantized) as other:
        inputs = (*original.paths, *other.paths)
        check_output(target, force=force, inputs=inputs)  # before the work rather than after it
        if local_path(target).suffix.lower() not in _SUFFIXES:
            raise OutputFileError(f"{label(target)}: what is written is a page of HTML; name it *.html")
        pair = with_names_in_common(original, other)
        comparison = compare_opened(*pair, n_threads=n_threads, progress=progress)
        samples = sample_pairs(*pair, comparison, seed=seed, n_threads=n_threads)
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
            "Signal-to-quantization-noise ratio of each tensor, the worst first.",
            figures.worst_tensors(comparison, colours),
            is_wide=True,
        ),
        Picture(
            "Formats",
            "Each format applied to the matrices; the line joins the formats that no other one beats.",
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
            "The weights of blocks, and the levels that they are rounded to.",
            figures.weight_distribution(block_levels(samples)),
        ),
        Picture(
            "Block scales",
            "The largest magnitudes in the blocks of the reference, which their scales have to cover.",
            figures.scale_distribution(log_scales(samples), colours),
        ),
    ]


def _footer(seed: int, samples: list[Sample]) -> str:
    n = sum(s.original.size for s in samples)
    return f"quantcore {__version__}, kernels {LEVEL}; distributions from {n} elements drawn with seed {seed}"


def _name(path: str | os.PathLike[str]) -> str:
    return Path(os.path.abspath(os.fsdecode(path))).name
