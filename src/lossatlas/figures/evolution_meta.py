"""The figures of the unrolled problems and of the MNIST-1D table."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from lossatlas import statistics
from lossatlas.figures import style
from lossatlas.figures.style import save
from lossatlas.studies.evolution import meta_published

__all__ = ["draw_comparison", "draw_mnist1d", "draw_surface", "save"]

SMOOTHING = 0.3  # of the drawn surfaces, in log lr and logit momentum
COLUMNS = 4
LOSS_RANGE = (1.0, 30.0)  # of a cross-entropy whose chance level is log 10
LINE_RANGE, SLOPE_RANGE = (1.5, 80.0), (1e-3, 1e4)


# --- raw surface, smoothed surface, gradient --------------------------------------------------------------------------


def draw_surface(curves: Mapping[str, np.ndarray], explosion: pd.DataFrame) -> Figure:
    """curves: as `meta_surface.curves` gives them; a column for each of a few unroll lengths."""
    unrolls = [int(u) for u in curves["unrolls"]]
    shown = [
        unrolls[i] for i in np.unique(np.linspace(0, len(unrolls) - 1, min(COLUMNS, len(unrolls))).round().astype(int))
    ]
    with style.paper():
        figure, axes = plt.subplots(
            5,
            len(shown),
            figsize=(style.PAGE, 8.0),
            layout="constrained",
            squeeze=False,
            height_ratios=(1, 1, 0.9, 0.9, 1.2),
        )
        rate = np.exp(curves["log_lr"])
        spacing = float(curves["log_lr"][1] - curves["log_lr"][0])
        side = len(curves["momenta"])
        grid_rate = np.exp(np.linspace(curves["log_lr"][0], curves["log_lr"][-1], side))
        steps = np.array([curves["momenta"][1] - curves["momenta"][0], np.log(grid_rate[1] / grid_rate[0])])
        for column, unroll in enumerate(shown):
            raw = np.asarray(curves["surface"][..., unrolls.index(unroll)], float)
            raw = np.where(np.isfinite(raw), raw, np.nanmax(raw[np.isfinite(raw)]))
            smooth = gaussian_filter(raw, SMOOTHING / steps, mode="nearest")
            for row, surface in enumerate((raw, smooth)):
                mesh = _surface(axes[row, column], grid_rate, curves["momenta"], surface)
            axes[0, column].set_title(f"{unroll} inner steps", loc="center")
            line = np.asarray(curves["loss"][0, :, unrolls.index(unroll)], float)
            _line(axes[2, column], axes[3, column], rate, line, spacing)
            for row in range(4):
                axes[row, column].set_xscale("log")
                axes[row, column].set_xlim(rate[0], rate[-1])
                axes[row, column].set_xticks([0.1, 1, 10], ["0.1", "1", "10"] if row == 3 else ["", "", ""])
            axes[3, column].set_xlabel("learning rate")
            axes[2, column].set(yscale="log", ylim=LINE_RANGE)
            axes[2, column].set_yticks([2, 5, 10, 20, 50], ["2", "5", "10", "20", "50"])
            axes[3, column].set(yscale="log", ylim=SLOPE_RANGE)
            for row in range(4):
                axes[row, column].minorticks_off()
                axes[row, column].tick_params(labelleft=column == 0)
        figure.colorbar(mesh, ax=axes[:2, :], label="outer loss", pad=0.01, aspect=30)
        for row, label in enumerate(("raw\nmomentum", "smoothed\nmomentum", "outer loss", r"$|dL/d\log\,$lr$|$")):
            axes[row, 0].set_ylabel(label)
        style.tag(axes[2, 0], "raw", (0.05, 0.7), "0.5", xycoords="axes fraction")
        style.tag(axes[2, 0], f"σ = {SMOOTHING:g}", (0.05, 0.83), style.BLUE, xycoords="axes fraction")
        for axis in axes[4]:
            axis.remove()
        half = len(shown) // 2
        left = figure.add_subplot(axes[4, 0].get_gridspec()[4, :half] if half else axes[4, 0].get_gridspec()[4, :])
        right = figure.add_subplot(axes[4, 0].get_gridspec()[4, half:])
        _explosion(left, explosion, "exact_sd", "exact derivative", "a  spread of the exact derivative")
        _explosion(right, explosion, "smooth_sd", "estimate, 8 pairs", "b  spread of smoothed estimates")
        handles, labels = right.get_legend_handles_labels()
        right.legend(handles[::-1], labels[::-1], frameon=False, loc="upper left")  # as high as the lines of a
        spread = explosion[["exact_sd", "smooth_sd"]].to_numpy()
        for axis in (left, right):  # one scale, since the comparison is the point
            axis.set_ylim(spread[spread > 0].min() / 3, spread.max() * 30)
        return figure


def _surface(axes: Axes, rate: np.ndarray, momenta: np.ndarray, surface: np.ndarray):
    mesh = axes.pcolormesh(
        rate, momenta, np.clip(surface, *LOSS_RANGE), cmap="cividis", norm=LogNorm(*LOSS_RANGE), rasterized=True
    )
    ticks = [0.2, 0.5, 0.9, 0.97]
    axes.set_yticks([np.log(t / (1 - t)) for t in ticks], [f"{t:g}" for t in ticks])
    return mesh


def _line(top: Axes, bottom: Axes, rate: np.ndarray, loss: np.ndarray, spacing: float) -> None:
    """The loss on the line of learning rates and the size of its slope, raw and smoothed."""
    finite = np.where(np.isfinite(loss), loss, np.nanmax(loss[np.isfinite(loss)]))
    smooth = gaussian_filter1d(finite, SMOOTHING / spacing, mode="nearest")
    for values, colour, width in ((finite, "0.6", 0.4), (smooth, style.BLUE, 1.3)):
        top.plot(rate, values, color=colour, linewidth=width)
        bottom.plot(rate[1:], np.abs(np.diff(values)) / spacing + 1e-6, color=colour, linewidth=width)


def _explosion(axes: Axes, explosion: pd.DataFrame, column: str, label: str, title: str) -> None:
    """A standard deviation against the unroll: a line a learning rate, through medians over initialisations."""
    colours = (style.BLUE, style.SKY, style.ORANGE, style.RED)
    for (rate, cell), colour in zip(explosion.groupby("lr"), colours, strict=False):
        line = cell.groupby("unroll")[column].median()
        axes.plot(line.index, line, color=colour, marker="o", markersize=3, label=f"learning rate {rate:g}")
        axes.scatter(cell["unroll"], cell[column], s=5, color=colour, alpha=0.5, linewidth=0)
    axes.set(xscale="log", yscale="log", xlabel="inner steps", ylabel=f"standard deviation,\n{label}", title=title)
    ticks = sorted(explosion["unroll"].unique())
    axes.set_xticks(ticks, [str(t) for t in ticks], minor=False)
    axes.minorticks_off()


# --- estimators against inner steps -----------------------------------------------------------------------------------

ARMS = {  # colour, line style
    "backprop": (style.RED, "-"),
    "backprop, clipped": (style.RED, "-"),
    "backprop, clipped, noise": (style.RED, "--"),
    "backprop at perturbed points": (style.ORANGE, "--"),
    "truncated backprop 1": (style.PINK, ":"),
    "truncated backprop 10": (style.PINK, "-"),
    "truncated backprop 100": (style.PINK, "--"),
    "merge": (style.BROWN, "-"),
    "ES": (style.BLUE, "-"),
    "ES, large sigma": (style.BLUE, "-"),
    "ES, small sigma": (style.BLUE, ":"),
    "ES, annealed": (style.SKY, "--"),
    "truncated ES": (style.YELLOW, "-"),
    "PES": (style.GREEN, "-"),
    "ES-Single": (style.PURPLE, "-"),
    "random search": ("0.5", "-"),
}
PANELS = {
    "learning_rate": ("a  learning rate (B1)", "linear"),
    "toy": ("b  2-D toy (B2)", "linear"),
    "rough": ("c  rough surface (B3)", "log"),
    "influence": ("d  influence balancing (B4)", "log"),
    "activation": ("e  activation (B5, small)", "linear"),
    "lorenz": ("f  Lorenz system (B6)", "log"),
}


def draw_comparison(rows: pd.DataFrame) -> Figure:
    """Six panels: outer loss against inner steps, a line an arm at its tuned rate, median over seeds."""
    rows = rows[~rows["tuning"]]
    with style.paper():
        figure, axes = plt.subplots(2, 3, figsize=(style.PAGE, 5.6), layout="constrained")
        names = set()
        for axis, (benchmark, (title, scale)) in zip(axes.flat, PANELS.items(), strict=True):
            mine = rows[(rows["benchmark"] == benchmark) & ~rows["arm"].str.startswith("published")]
            for name, (colour, dashes) in ARMS.items():
                arm = mine[(mine["arm"] == name) & (mine["inner_steps"] > 0)]
                if arm.empty:
                    continue
                names.add(name)
                grouped = arm.groupby("inner_steps")["loss"]
                axis.plot(grouped.median(), color=colour, linestyle=dashes)
                axis.fill_between(
                    grouped.min().index, grouped.min(), grouped.max(), color=colour, alpha=0.12, linewidth=0
                )
            axis.set(xscale="log", yscale=scale, title=title, xlabel="inner steps")
            axis.xaxis.set_minor_formatter(NullFormatter())
            if benchmark == "rough":
                axis.set_yticks([2, 5, 10, 20], ["2", "5", "10", "20"])
                axis.yaxis.set_minor_formatter(NullFormatter())
            if benchmark == "toy":
                _published_toy(axis, rows)
            if benchmark == "influence":
                axis.set_ylim(1e-9, None)
            if benchmark == "rough":
                axis.set_ylim(None, 30)
        for axis in axes[:, 0]:
            axis.set_ylabel("outer loss")
        handles = [plt.Line2D([], [], color=c, linestyle=d, label=n) for n, (c, d) in ARMS.items() if n in names]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
        return figure


def _published_toy(axes: Axes, rows: pd.DataFrame) -> None:
    """The published series (circles) over our repetition of their settings (thin lines)."""
    for name, colour in (("PES", style.GREEN), ("ES-Single", style.PURPLE)):
        mine = rows[(rows["benchmark"] == "toy") & (rows["arm"] == f"published {name}")]
        axes.plot(mine.groupby("inner_steps")["loss"].median(), color=colour, linewidth=0.7)
        steps = (np.array(meta_published.TOY_GENERATIONS) + 1) * 1280
        axes.plot(steps, meta_published.TOY[name], "o", color=colour, markersize=3, markerfacecolor="none")


# --- the MNIST-1D table -----------------------------------------------------------------------------------------------

NETWORKS = {"linear": "logistic\nregression", "residual-mlp": "MLP", "conv": "CNN", "gru": "GRU"}


def draw_mnist1d(table: pd.DataFrame) -> Figure:
    """Test accuracy of each network with its seeds and 95 % interval, and the published numbers beside it."""
    with style.paper():
        figure, axes = plt.subplots(1, 2, figsize=(style.PAGE, 3.0), layout="constrained", sharey=True)
        for axis, shuffled in zip(axes, (False, True), strict=True):
            _networks(axis, table[(table["shuffled"] == shuffled) & (table["learning_rate"] == 0.01)], shuffled)
        data = table["data"].iloc[0]
        axes[0].set(ylabel="test accuracy  (%)", title=f"a  positions in order, {data}")
        axes[1].set_title(f"b  positions shuffled, {data}")
        axes[0].legend(frameon=False, loc="upper left")
        return figure


def _networks(axes: Axes, table: pd.DataFrame, shuffled: bool) -> None:
    for i, network in enumerate(NETWORKS):
        cell = table[table["network"] == network]
        if not cell.empty:
            mean = statistics.t_interval(cell["test_accuracy"])
            errors = [[mean.value - mean.low], [mean.high - mean.value]]
            axes.errorbar(
                [i],
                [mean.value],
                None if np.isnan(errors).any() else errors,
                color=style.BLUE,
                marker="o",
                markersize=4,
                capsize=3,
                linestyle="none",
                label="measured, 95 %" if i == 0 else None,
            )
            axes.scatter(np.full(len(cell), i - 0.12), cell["test_accuracy"], s=6, color=style.SKY, linewidth=0)
            style.tag(axes, f"{cell['steps'].iloc[0]} steps", (i, 22), "0.35", ha="center")
        for source, marker, colour, name in (
            (meta_published.README, "D", style.RED, "README"),
            (meta_published.NOTEBOOK, "x", style.ORANGE, "notebook, 6000 steps"),
        ):
            face = "none" if marker == "D" else colour
            axes.scatter(
                i + 0.2,
                source[network, shuffled],
                s=20,
                marker=marker,
                edgecolor=None if marker == "x" else colour,
                facecolor=face,
                color=colour if marker == "x" else None,
                linewidth=1,
                label=name if i == 0 else None,
            )
    axes.set_xticks(range(len(NETWORKS)), list(NETWORKS.values()))
    axes.set(xlim=(-0.5, len(NETWORKS) - 0.5), ylim=(20, 100))
