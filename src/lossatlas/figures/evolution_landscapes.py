"""Smoothing, teleports and composites on the same Perlin landscapes, at equal numbers of evaluations."""

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossatlas import statistics
from lossatlas.figures import style

ARMS = {  # label, colour, line; bold ones have their interval as a band
    "descent": ("gradient descent", "black", "-", True),
    "restarts": ("with restarts", "black", ":", False),
    "q = 1": ("weights |g|", style.GREEN, "-", True),
    "q = 4": ("weights |g|⁴", style.GREEN, "--", False),
    "q = -1": ("weights 1/|g|", style.GREEN, ":", False),
    "teleport": ("level-set teleports", style.RED, "-", True),
    "random shift": ("random shifts", style.RED, ":", False),
    "annealed": ("ES, annealed σ", style.BLUE, "-", True),
    "large sigma": ("ES, large σ", style.BLUE, "--", False),
    "small sigma": ("ES, small σ", style.BLUE, ":", False),
    "random search": ("random search", "0.6", "-", True),
}
FLOOR = 1e-3  # where an excess of (nearly) zero is drawn on the logarithmic axis


def draw(rows: pd.DataFrame) -> Figure:
    """A row of panels a dimension: excess against evaluations at the most layers, and excess and success against n."""
    rows = rows[rows["purpose"] == "run"]
    dims = sorted(rows["dim"].unique())
    last = rows[rows["evaluations"] == rows["evaluations"].max()]
    with style.paper():
        size = (style.PAGE, 2.3 * len(dims) + 0.7)
        figure, axes = plt.subplots(len(dims), 3, figsize=size, layout="constrained", squeeze=False)
        for row, dim, letters in zip(axes, dims, ("abc", "def"), strict=False):
            most = rows["n"].max()
            cells = rows[(rows["dim"] == dim) & (rows["n"] == most)]
            _lines(row[0], cells, "evaluations", "excess")
            row[0].set(xlabel="evaluations", ylabel="excess over the common minimum")
            row[0].set_title(f"{letters[0]}  {dim} dimensions, n = {most}")
            for axis, column, title in ((row[1], "excess", "at the end"), (row[2], "success", "found it")):
                _lines(axis, last[last["dim"] == dim], "n", column)
                axis.set(xlabel="layers n", xscale="log", title=f"{letters[1 + (column == 'success')]}  {title}")
                axis.set_xticks(sorted(last["n"].unique()), [str(n) for n in sorted(last["n"].unique())])
                axis.minorticks_off()
            row[1].set_ylabel("excess")
            row[2].set(ylabel="share of starts", ylim=(0, 1.03))
        handles = [plt.Line2D([], [], color=c, linestyle=line, label=name) for name, c, line, _ in ARMS.values()]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
        return figure


def _lines(axes: Axes, rows: pd.DataFrame, x: str, column: str) -> None:
    """Mean over landscapes of each arm's `column` against x; 95 % of the mean as a band."""
    floor = FLOOR if column == "excess" else -np.inf
    for arm, (_, colour, line, banded) in ARMS.items():
        cells = rows[rows["arm"] == arm].groupby(x)[column]
        found = pd.DataFrame({at: vars(statistics.t_interval(values)) for at, values in cells}).T
        axes.plot(found.index, found["value"].clip(lower=floor), color=colour, linestyle=line)
        if banded:
            low, high = (found[limit].clip(lower=floor) for limit in ("low", "high"))
            axes.fill_between(found.index, low, high, color=colour, alpha=0.15, linewidth=0)
    if column == "excess":
        axes.set(yscale="log", ylim=(FLOOR * 0.8, 1))
