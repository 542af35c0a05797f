"""The figures of evolution strategies: which sampling, analytic benchmarks, accuracy by population, and cosines."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossatlas import smoothing
from lossatlas.figures import style
from lossatlas.figures.style import save
from lossatlas.studies.evolution import published

__all__ = ["DRAW", "save"]

Tables = Mapping[str, pd.DataFrame]

SAMPLING = {
    "iid": ("iid", style.BLUE, "o"),
    "antithetic": ("antithetic", style.RED, "s"),
    "orthogonal": ("orthogonal pairs", style.GREEN, "D"),
    "auto": ("auto", "black", "*"),
    "random": ("random direction", "0.6", "x"),
}
POPULATION_COLOURS = plt.get_cmap("viridis")


# --- which sampling ---------------------------------------------------------------------------------------------------


def sampling(tables: Tables) -> Figure:
    """Cosine against sigma with its laws, the gain of choosing, and the memory of past descent."""
    with style.paper():
        figure, axes = plt.subplots(1, 3, figsize=(style.PAGE, 2.6), layout="constrained")
        _cosine_against_sigma(axes[0], tables["sampling"])
        _gain(axes[1], tables["sampling"])
        _memory(axes[2], tables["memory"])
        return figure


def _cosine_against_sigma(axes: Axes, rows: pd.DataFrame) -> None:
    sigma = np.geomspace(rows["sigma_ratio"].min(), rows["sigma_ratio"].max(), 60)
    n, dim = int(rows["population"].iloc[0]), _dim(rows)
    for arm, (label, colour, marker) in SAMPLING.items():
        cells = rows[rows["arm"] == arm].sort_values("sigma_ratio")
        axes.errorbar(
            cells["sigma_ratio"],
            cells["cosine"],
            np.abs(cells[["low", "high"]].to_numpy().T - cells["cosine"].to_numpy()),
            color=colour,
            marker=marker,
            markersize=5 if marker == "*" else 3.5,
            linestyle="none",
            capsize=1.5,
            label=label,
        )
        if arm in ("iid", "antithetic"):
            counts = [smoothing.es_effective_count(n, s**2, arm == "antithetic") for s in sigma]
            axes.plot(sigma, [smoothing.es_cosine(count, dim) for count in counts], color=colour, linewidth=0.9)
    axes.axvline(1, **style.THRESHOLD)
    axes.set(xscale="log", xlabel="σ / σ*", ylabel="cosine with the gradient", ylim=(-0.05, None))
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.03, 0.1), handletextpad=0.0, fontsize=6.5)
    axes.set_title("a  cosine and law")


def _dim(rows: pd.DataFrame) -> int:
    """P, from the law of iid sampling in the table itself."""
    row = rows[rows["arm"] == "iid"].iloc[0]
    count = smoothing.es_effective_count(int(row["population"]), row["curvature_noise"])
    return round(count / row["law"] ** 2 - count - 1)


def _gain(axes: Axes, rows: pd.DataFrame) -> None:
    cells = rows.pivot(index="sigma_ratio", columns="arm", values="cosine")
    for other in ("iid", "antithetic"):
        label, colour, marker = SAMPLING[other]
        gain = 100 * (cells["auto"] / cells[other] - 1)
        axes.plot(gain.index, gain, color=colour, marker=marker, markersize=3.5, label=f"over always {label}")
    axes.axhline(0, **style.THRESHOLD)
    axes.set(xscale="log", yscale="symlog", xlabel="σ / σ*", ylabel="gain in cosine of auto  (%)")
    axes.set_yscale("symlog", linthresh=10)
    axes.set_yticks([-10, 0, 10, 100], ["−10", "0", "10", "100"])
    axes.minorticks_off()
    axes.set_ylim(-30, 1000)
    axes.legend(frameon=False, loc="upper left")
    axes.set_title("b  what choosing gains")


def _memory(axes: Axes, rows: pd.DataFrame) -> None:
    for arm, colour in (("past descent", style.PURPLE), ("no memory", "0.5")):
        cells = rows[rows["arm"] == arm].sort_values("step")
        axes.plot(cells["step"], cells["law"], color=colour, linewidth=0.9)
        axes.errorbar(
            cells["step"],
            cells["cosine2"],
            np.abs(cells[["low", "high"]].to_numpy().T - cells["cosine2"].to_numpy()),
            color=colour,
            marker="o",
            markersize=2.5,
            linestyle="none",
        )
        last = cells.iloc[-1]
        style.tag(
            axes, arm, (last["step"], last["cosine2"] * (0.6 if arm == "past descent" else 2)), colour, ha="right"
        )
    axes.set(xlabel="step", ylabel="cos²", ylim=(0, None))
    axes.set_title("c  memory of past descent")


# --- analytic benchmarks ----------------------------------------------------------------------------------------------

GUIDED = {
    "biased gradient descent": ("descent on surrogate", "0.5", 0.053),
    "vanilla": ("ES", style.RED, 0.038),
    "guided": ("guided ES", style.BLUE, 0.024),
    "random guide": ("random guide", style.ORANGE, None),
    "constant coefficient": ("guide as coded", style.GREEN, None),
}
QUADRATIC = {
    "backprop": ("backprop", "black", "-"),
    "backprop, biased": ("backprop, biased", "0.6", "-"),
    "antithetic as published": ("antithetic ranks", style.RED, "-"),
    "iid as published": ("iid ranks", style.BLUE, "-"),
    "antithetic": ("antithetic raw", style.RED, ":"),
    "iid": ("iid raw", style.BLUE, ":"),
}
FLOOR = 1e-3  # where a loss of (nearly) zero is drawn on a logarithmic axis
RASTRIGIN = {
    "random search": ("random search", "0.6"),
    "small sigma": ("small σ", style.RED),
    "gradient descent": ("gradient descent", "black"),
    "large sigma": ("large σ", style.BLUE),
    "annealed": ("annealed σ", style.GREEN),
}


def toys(tables: Tables) -> Figure:
    """Guided ES and least squares (over seeds), Rastrigin (over starts), and what smoothing does to it."""
    with style.paper():
        figure, axes = plt.subplots(2, 2, figsize=(style.PAGE, 5.0), layout="constrained")
        _guided(axes[0, 0], tables["guided"])
        _quadratic(axes[0, 1], tables["quadratic"])
        _rastrigin(axes[1, 0], tables["rastrigin"])
        _smoothed(axes[1, 1])
        return figure


def _guided(axes: Axes, rows: pd.DataFrame) -> None:
    for arm, (label, colour, read_off) in GUIDED.items():
        cells = rows[rows["arm"] == arm].groupby("iteration")["excess"].agg(["median", "min", "max"])
        axes.plot(cells.index, cells["median"], color=colour, label=label)
        axes.fill_between(cells.index, cells["min"], cells["max"], color=colour, alpha=0.25, linewidth=0)
        if read_off is not None:
            axes.plot(10_000, read_off, marker="o", markerfacecolor="none", color=colour, markersize=6, clip_on=False)
    axes.set(xlabel="iteration (two losses each)", ylabel="loss − optimum", yscale="log")
    axes.legend(frameon=False, loc="upper right")
    axes.set_title("a  Guided-ES toy (circles: published)")


def _quadratic(axes: Axes, rows: pd.DataFrame) -> None:
    for arm, (label, colour, line) in QUADRATIC.items():
        cells = rows[rows["arm"] == arm].groupby("step")["excess"].median()
        axes.plot(cells.index, cells, color=colour, linestyle=line, label=label)
    axes.set(xlabel="step (100 losses each)", ylabel="loss − optimum", yscale="log")
    axes.legend(frameon=False, loc="lower left")
    axes.set_title("b  least squares, 1000 parameters")


def _rastrigin(axes: Axes, rows: pd.DataFrame) -> None:
    for arm, (label, colour) in RASTRIGIN.items():
        cells = rows[rows["arm"] == arm].groupby("evaluations")["loss"].agg(["mean", "sem"])
        axes.plot(cells.index / 1000, cells["mean"].clip(lower=FLOOR), color=colour, label=label)
        low, high = cells["mean"] - 2 * cells["sem"], cells["mean"] + 2 * cells["sem"]
        axes.fill_between(
            cells.index / 1000, low.clip(lower=FLOOR), high.clip(lower=FLOOR), color=colour, alpha=0.2, linewidth=0
        )
    axes.set(xlabel="losses evaluated  (thousands)", ylabel="loss, mean over starts", yscale="log")
    axes.set_ylim(FLOOR / 2, 1000 * axes.get_ylim()[1])  # room for the legend above the lines
    axes.set_yticks([10.0**power for power in range(-3, 4)])
    axes.minorticks_off()
    axes.legend(frameon=False, loc="upper right", ncols=2, handlelength=1.2)
    axes.set_title("c  Rastrigin, tuned rates")


def _smoothed(axes: Axes) -> None:
    x = np.linspace(-3, 3, 601)
    critical = smoothing.RASTRIGIN_CONVEX_SIGMA
    shares = (0.0, 0.5, 0.75, 1.0)
    for share, shade in zip(shares, (0.75, 0.55, 0.3, 0.0), strict=True):
        axes.plot(x, smoothing.rastrigin_smoothed(x, share * critical), color=str(shade), label=f"σ = {share:g} σ$_c$")
    axes.set(xlabel="x", ylabel="smoothed loss")
    axes.legend(frameon=False, loc="upper center", ncols=2)
    axes.set_ylim(0, 40)
    axes.set_title(f"d  convex beyond σ$_c$ = {critical:.3f}")


# --- accuracy by population -------------------------------------------------------------------------------------------


def curves(tables: Tables) -> Figure:
    """Test accuracy against steps and against forward passes, a row of panels for each data set."""
    with style.paper():
        figure, axes = plt.subplots(
            len(tables), 2, figsize=(style.PAGE, 2.6 * len(tables)), layout="constrained", squeeze=False, sharey="row"
        )
        for row, table in zip(axes, tables.values(), strict=True):
            runs = table[table["purpose"] == "run"]
            _accuracy(row[0], runs, "step", "step")
            _accuracy(row[1], runs, "forward_passes", "forward passes of the minibatch")
            row[1].set(xscale="log", ylabel="")
            row[0].set_title(f"{runs['data'].iloc[0]}, equal steps")
            row[1].set_title("equal forward passes")
        parts = [axis.get_legend_handles_labels() for axis in axes[:, 0]]
        named = {label: handle for part in parts for handle, label in zip(*part, strict=True)}
        figure.legend(named.values(), named.keys(), frameon=False, loc="outside lower center", ncols=5)
        return figure


def _arms(runs: pd.DataFrame) -> list[tuple[str, int, str, str, str]]:
    """(arm, population, label, colour, line) in the order of the legend."""
    populations = sorted(runs.loc[runs["arm"] == "iid", "population"].unique())
    shades = np.linspace(0.92, 0.1, len(populations))
    found = [("backprop", 0, "backprop", "black", "-")]
    for n, shade in zip(reversed(populations), reversed(shades), strict=True):
        found.append(("iid", n, f"iid {n}", POPULATION_COLOURS(shade), "-"))
    middle = runs.loc[runs["arm"] == "antithetic", "population"].max()
    found.append(("antithetic", middle, f"antithetic {middle}", style.RED, "--"))
    return found


ADAPTED = {  # arms of some data sets only: label, colour, line; the placebo is far below and stands in the table
    "antithetic, pepg": ("adapted σ", style.ORANGE, "-."),
    "antithetic, safe": ("safe mutation", style.PINK, "-."),
}


def _accuracy(axes: Axes, runs: pd.DataFrame, x: str, label: str) -> None:
    middle = runs.loc[runs["arm"] == "antithetic", "population"].max()
    adapted = [(arm, middle, *look) for arm, look in ADAPTED.items() if arm in set(runs["arm"])]
    for arm, population, name, colour, line in _arms(runs) + adapted:
        mine = runs[(runs["arm"] == arm) & (runs["population"] == population)]
        cells = mine.groupby(x)["test_accuracy"].agg(["mean", "sem"]) * 100
        axes.plot(cells.index, cells["mean"], color=colour, linestyle=line, label=name)
        half = 2 * cells["sem"]
        axes.fill_between(
            cells.index, cells["mean"] - half, cells["mean"] + half, color=colour, alpha=0.15, linewidth=0
        )
        if x == "step" and set(runs["data"]) == {"mnist"}:
            _overlay(axes, arm, population, colour)
    axes.set(xlabel=label, ylabel="test accuracy  (%)")


def _overlay(axes: Axes, arm: str, population: int, colour) -> None:
    """The published final accuracy as an open circle."""
    finals = dict(zip(published.POPULATIONS, published.FINAL_ACCURACY, strict=True)) if arm == "iid" else {}
    finals |= {0: published.BACKPROP_ACCURACY} if arm == "backprop" else {}
    if population in finals:
        axes.plot(12_000, finals[population], marker="o", markerfacecolor="none", color=colour, clip_on=False)


# --- cosines ----------------------------------------------------------------------------------------------------------

OPTIONS = {
    "iid ranks": ("iid ranks", style.BLUE, "o"),
    "antithetic ranks": ("antithetic ranks", style.RED, "s"),
}


def cosines(tables: Tables) -> Figure:
    """Cosines of the published network by population with the published ones, and over training with their laws."""
    with style.paper():
        figure, axes = plt.subplots(1, 2, figsize=(style.PAGE, 2.9), layout="constrained")
        _by_population(axes[0], tables["cosines"])
        name = next(name for name in tables if name.startswith("curves_"))
        _over_training(axes[1], tables[name])
        return figure


def _by_population(axes: Axes, rows: pd.DataFrame) -> None:
    n = np.geomspace(20, 500, 50)
    kappa = rows["curvature_noise"].median()
    for option, (label, colour, marker) in OPTIONS.items():
        mirrored = option.startswith("antithetic")
        counts = [smoothing.es_effective_count(m, kappa, mirrored, ranks=True) for m in n]
        axes.plot(n, [smoothing.es_cosine(c, published.DIM) for c in counts], color=colour, linewidth=0.9)
        mine = rows[rows["option"] == option]
        cells = mine.groupby("population")["cosine"].agg(["mean", "std"])
        axes.errorbar(
            cells.index, cells["mean"], cells["std"], color=colour, marker=marker, markersize=3.5, linestyle="none",
            capsize=1.5, label=label,
        )  # fmt: skip
    axes.errorbar(
        published.POPULATIONS,
        published.COSINES,
        [published.COSINE_ERROR * c for c in published.COSINES],
        color="black",
        marker="o",
        markerfacecolor="none",
        markersize=6,
        linestyle="none",
        label="published (read off)",
    )
    axes.set(xscale="log", yscale="log", xlabel="population", ylabel="cosine with the gradient")
    axes.set_xticks(published.POPULATIONS, [str(p) for p in published.POPULATIONS])
    axes.set_yticks([0.05, 0.1, 0.2, 0.3], ["0.05", "0.1", "0.2", "0.3"])
    axes.minorticks_off()
    axes.legend(frameon=False, loc="upper left")
    axes.set_title(f"a  published network, d = {published.DIM}")


def _over_training(axes: Axes, table: pd.DataFrame) -> None:
    runs = table[(table["purpose"] == "run") & (table["arm"] != "backprop")]
    for arm, population, name, colour, line in _arms(runs)[1:]:
        mine = runs[(runs["arm"] == arm) & (runs["population"] == population)]
        cells = mine.groupby("step")[["cosine", "law"]].mean()
        axes.plot(cells.index, cells["law"], color=colour, linestyle=line, linewidth=0.9, label=name)
        axes.plot(cells.index, cells["cosine"], color=colour, marker="o", markersize=2.5, linestyle="none")
    axes.set(xlabel="step", ylabel="cosine with the gradient", ylim=(0, None))
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.set_title(f"b  over training, {runs['data'].iloc[0]}, d = {int(runs['parameters'].iloc[0])}")


DRAW: dict[str, Callable[[Tables], Figure]] = {
    "evolution_sampling": sampling,
    "evolution_toys": toys,
    "evolution_curves": curves,
    "evolution_cosines": cosines,
}
