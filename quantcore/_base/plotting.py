"""What all figures stand on: matplotlib, which is an extra, axes to draw on, colours."""

import os
import sys
from typing import Any

from quantcore._base.extras import missing_extra
from quantcore._base.text import brief, printable, shorten
from quantcore.errors import InvalidTypeError, InvalidValueError

__all__ = ["COLOURS", "import_matplotlib", "plain", "take_axes"]

COLOURS = ("#3f8fd2", "#e07b2a", "#3ba272", "#b660b0", "#d2525f", "#8f8f9c")


def import_matplotlib(what: str) -> Any:
    """matplotlib, or a one-line error that says how to install it, or what is wrong with its settings."""
    before = set(sys.modules)
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as error:
        raise missing_extra(what, "matplotlib", error) from None
    except ValueError as error:  # of its settings, which it checks when it is imported
        for name in set(sys.modules) - before:  # half of it cannot be imported again
            if name.partition(".")[0] == "matplotlib":
                del sys.modules[name]
        backend = os.environ.get("MPLBACKEND")
        setting = f"MPLBACKEND: {brief(backend)}" if backend else "matplotlibrc"
        problem = printable(" ".join(str(error).split())[:200])
        raise InvalidValueError(f"{setting}: matplotlib does not accept it: {problem}") from None
    return matplotlib


def take_axes(axes: Any, size: tuple[float, float] = (6.4, 3.6)) -> Any:
    """The axes to draw on: those of the user, or those of a new figure of so many inches, which notebooks show."""
    import_matplotlib("plot")
    if axes is None:
        from matplotlib import pyplot

        return pyplot.subplots(figsize=size, layout="constrained")[1]
    from matplotlib.axes import Axes

    if not isinstance(axes, Axes):
        raise InvalidTypeError(f"axes: expected matplotlib's Axes, got {brief(axes)}")
    return axes


def plain(text: str, longest: int = 40) -> str:
    """A name as a label: cut short, and not read as a formula, which matplotlib takes text between dollars for."""
    return shorten(text, longest).replace("$", r"\$")
