"""One style for all figures: sizes in inches of a two-column paper, colours that the colour-blind can tell apart."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossatlas.atomic import atomic

COLUMN = 3.35  # width of one column of text
PAGE = 6.9  # width of two
BLUE, ORANGE, GREEN, RED, PURPLE, BROWN, PINK, GREY, YELLOW, SKY = sns.color_palette("colorblind").as_hex()
THRESHOLD = {"color": "0.45", "linewidth": 0.8, "linestyle": (0, (4, 2))}

RC = {
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
    with sns.axes_style("ticks"), plt.rc_context(RC):
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
