"""One style for all figures: sizes in inches of a two-column paper, colours that the colour-blind can tell apart."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossatlas.atomic import atomic

COLUMN = 3.35  # width of one column of text
PAGE = 6.9  # width of two
# seaborn's palette "colorblind", written out: to import seaborn takes a second a figure
BLUE, ORANGE, GREEN, RED, PURPLE = "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc"
BROWN, PINK, GREY, YELLOW, SKY = "#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9"
THRESHOLD = {"color": "0.45", "linewidth": 0.8, "linestyle": (0, (4, 2))}

TICKS = "seaborn-v0_8-ticks"  # matplotlib's copy of seaborn's style, drawn with finer lines
RC = {
    "axes.linewidth": 0.8,
    "xtick.major.size": 3.5,
    "ytick.major.size": 3.5,
    "xtick.minor.size": 2,
    "ytick.minor.size": 2,
    "patch.edgecolor": "w",
    "patch.force_edgecolor": True,
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "lines.linewidth": 1.2,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "svg.hashsalt": "lossatlas",
    "svg.fonttype": "none",
}


@contextmanager
def paper() -> Iterator[None]:
    """The style, for as long as a figure is drawn."""
    with plt.style.context([TICKS, RC]):
        yield


def tag(axes: Axes, text: str, xy: tuple[float, float], colour: str, **kwargs) -> None:
    """A direct label in data coordinates, in its line's colour."""
    axes.annotate(text, xy, color=colour, fontsize=7, **kwargs)


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure, whole or not at all; the same figure gives the same bytes."""
    buffer = BytesIO()
    kind = Path(path).suffix.removeprefix(".")
    with paper():  # the salt of SVG's names and the resolution are read when a figure is written
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    with atomic(path) as handle:
        handle.write(buffer.getvalue())
