"""The plots of the documents, drawn by the library: `python -m ci.doc_plots [FOLDER]` writes docs/plots/*.png anew."""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from quantcore import Calibrator
from quantcore.demo import digits_test_set, digits_weights

FOLDER = Path(__file__).parent.parent / "docs" / "plots"
N_VALUES = 200_000
METHODS: dict[str, Callable[..., Calibrator]] = {
    "percentile": Calibrator.percentile, "entropy": Calibrator.entropy, "mse": Calibrator.mse,
}  # fmt: skip


def distributions() -> Iterator[tuple[str, Any, bool]]:
    """Name, values, and whether codes are symmetric."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(N_VALUES)
    yield "Gaussian", normal, True
    yield "Laplace", rng.laplace(size=N_VALUES), True
    yield "ReLU of a Gaussian", np.maximum(normal, 0), False
    yield "GELU of a Gaussian", normal / (1 + np.exp(-1.702 * normal)), False
    yield "two peaks", normal / 2 + rng.choice([-3, 3], N_VALUES), True
    yield "sparse, 5 % not 0", normal * (rng.random(N_VALUES) < 0.05), True


def draw_methods(bits: int) -> Figure:
    """What each method keeps of each distribution."""
    figure = Figure((9.6, 11), layout="constrained")
    grid = figure.subplots(6, len(METHODS), sharex="row", sharey="row")
    for row, (name, values, symmetric) in zip(grid, distributions(), strict=True):
        for axes, (method, make) in zip(row, METHODS.items(), strict=True):
            calibrator = make(bits, symmetric)
            calibrator.observe(values.astype(np.float32))
            calibrator.plot(axes)
            result = calibrator.compute()
            axes.set_title(f"{name}: {method} keeps {result.clip_min:.2f} to {result.clip_max:.2f}", fontsize="small")
            axes.set_xlabel("")
            axes.set_ylabel("share of values" if axes is row[0] else "", fontsize="small")
    return figure


def draw_digits() -> Figure:
    """The weights of a layer by channel, and the activations behind it, in 3 and 4 bits."""
    weights, (images, _) = digits_weights(), digits_test_set()
    hidden = np.maximum(images.astype(np.float32) / 16 @ weights["fc1.weight"].T + weights["fc1.bias"], 0)
    figure = Figure((9.6, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    Calibrator.mse(bits=3, axis=0).partial_fit(weights["fc1.weight"][:64]).plot(left)
    Calibrator.mse(bits=4, symmetric=False).partial_fit(hidden).plot(right)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    matplotlib.rcdefaults()
    for name, figure in {"methods": draw_methods(4), "digits": draw_digits()}.items():
        figure.savefig(options.folder / f"{name}.png", dpi=80)


if __name__ == "__main__":
    main()
