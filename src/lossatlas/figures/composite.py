"""The figures of the composite study: arms, pictures, weights over time, toys, and the q axis."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossatlas.artifacts import Artifact
from lossatlas.figures import style
from lossatlas.figures.style import save
from lossatlas.studies.composite import plan
from lossatlas.studies.composite.cagrad import METHODS, READ_OFF, STARTS
from lossatlas.studies.composite.plan import STEEPNESS

__all__ = ["DRAWINGS", "save"]

FAMILIES = {  # how arms are coloured: label, colour, whether the arm belongs
    "sum and its controls": (
        style.GREY,
        ("sum", "sum + noise", "switching", "static", "inverse initial", "sum, other order"),
    ),
    "norms to the power q": (style.BLUE, tuple(a for a in plan.SEVERAL if a.startswith("q=") or a == "max")),
    "loss balancers": (
        style.ORANGE,
        ("GradNorm", "DWA", "UW", "FAMO", "geometric mean", "encodec", "SoftAdapt", "ReLoBRaLo"),
    ),
    "conflict-free": (style.GREEN, ("PCGrad", "CAGrad", "MGDA", "UPGrad", "Aligned-MTL")),
    "for constraints, VAE": (style.PURPLE, (*plan.CONSTRAINED, plan.VARIATIONAL)),
}
SHOWN = ("sum", "q=1", "q=-1", "augmented Lagrangian", "max")
GOAL_NAMES = {"mse": "MSE", "l1": "L1", "ssim": "SSIM", "gradient": "image gradient", "fourier": "Fourier"}
GOAL_COLOURS = (
    *(style.BLUE, style.SKY, style.GREEN, style.BROWN, style.ORANGE),
    *(style.RED, style.PURPLE, style.PINK, style.GREY, "0.2"),
)
MANY = 20  # numbers of a code that are drawn one by one
LEADER = {"arrowstyle": "-", "linewidth": 0.4, "shrinkA": 0, "shrinkB": 0}
LINES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (6, 2, 1, 2)))


def colour(arm: str) -> str:
    """The colour of an arm's family; single losses are brown."""
    return next((shade for shade, arms in FAMILIES.values() if arm in arms), style.BROWN)


def readable(arm: str) -> str:
    """An arm as it is written in a figure."""
    return (
        arm.replace("q=-", "q = −").replace("q=", "q = ").replace(" ema", ", averaged").replace(" parameters", ", at θ")
    )


def success(found: Mapping[str, Any]) -> Figure:
    """Success share and score of every arm on the first autoencoder, score on the second, errors of the classifier."""
    arms = found["arms table"]
    names = list(dict.fromkeys(arms["comparison"]))
    with style.paper():
        rows = -(-(len(names) + 1) // 2)
        figure, axes = plt.subplots(rows, 2, figsize=(style.PAGE, 4.4 * rows + 0.5), layout="constrained")
        axes = axes.ravel()
        for unused in axes[len(names) + 1 :]:
            unused.set_visible(False)
        first = arms[arms["comparison"] == names[0]].sort_values("score", ascending=False).reset_index(drop=True)
        _arm_axis(axes[0], first, f"a  success, {names[0]}")
        for y, row in first.iterrows():
            axes[0].plot([row["success_low"], row["success_high"]], [y, y], color=colour(row["arm"]), linewidth=1)
            axes[0].plot(row["success"], y, "o", color=colour(row["arm"]), markersize=3.5)
        axes[0].set(xlim=(-0.04, 1.04), xlabel="share of seeds that succeed")
        for letter, name, axis in zip("bcdefg", names, axes[1:], strict=False):
            mine = arms[arms["comparison"] == name].sort_values("score", ascending=False).reset_index(drop=True)
            label = "error, held out" if mine["kind"].iloc[0] == "classifier" else "shortfall (log of worst ratio)"
            _arm_axis(axis, mine, f"{letter}  {name}")
            for y, row in mine.iterrows():
                axis.plot([row["score_low"], row["score_high"]], [y, y], color=colour(row["arm"]), linewidth=1)
                filled = row["p"] <= 0.05 or row["arm"] == "sum"
                face = colour(row["arm"]) if filled else "white"
                axis.plot(row["score"], y, "o", color=colour(row["arm"]), markerfacecolor=face, markersize=3.5)
            reference = float(mine.loc[mine["arm"] == "sum", "score"].iloc[0])
            axis.axvline(reference, **style.THRESHOLD)
            if mine["kind"].iloc[0] == "autoencoder":
                axis.axvline(0, color="0.2", linewidth=0.8)
                if name != names[0]:  # the first comparison's are panel a
                    _success_counts(axis, mine)
            axis.set(xlabel=label)
        handles = [
            plt.Line2D([], [], color=shade, marker="o", markersize=3.5, label=f) for f, (shade, _) in FAMILIES.items()
        ]
        handles.append(plt.Line2D([], [], color=style.BROWN, marker="o", markersize=3.5, label="one loss alone"))
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
        return figure


def _arm_axis(axes: Axes, arms: pd.DataFrame, title: str) -> None:
    axes.set_yticks(range(len(arms)), [readable(arm) for arm in arms["arm"]], fontsize=5.5)
    axes.set_ylim(-0.7, len(arms) - 0.3)
    for tick, arm in zip(axes.get_yticklabels(), arms["arm"], strict=True):
        tick.set_color(colour(arm))
        tick.set_fontweight("bold" if arm == plan.PLANESWALKER else "normal")
    axes.grid(axis="y", color="0.93", linewidth=0.5)
    axes.set_title(title)


def _success_counts(axes: Axes, arms: pd.DataFrame) -> None:
    """How many seeds of each arm succeed, at the right end of its row."""
    for y, row in arms.iterrows():
        if row["success"] > 0:
            label = f"{row['success'] * row['seeds']:.0f} / {row['seeds']:.0f}"
            place = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "center"}
            axes.annotate(label, (0.99, y), fontsize=5, color=colour(row["arm"]), **place)


def pictures(found: Mapping[str, Any]) -> Figure:
    """For each autoencoder: held-out images, some arms' reconstructions, and the codes' marginals and covariance."""
    arms = found["arms table"]
    comparisons = [(name, logs) for name, logs in found.items() if isinstance(logs, Artifact)]
    rows = 1 + len(SHOWN)
    with style.paper():
        figure = plt.figure(figsize=(style.PAGE, 3.1 * len(comparisons)), layout="constrained")
        parts = figure.subfigures(len(comparisons), 1, squeeze=False)[:, 0]
        for part, (name, logs) in zip(parts, comparisons, strict=True):
            count = len(logs["images"])
            grid = part.add_gridspec(rows, count + 4)
            order = list(logs["arms"])
            for r in range(rows):
                arm = None if r == 0 else SHOWN[r - 1]
                images = logs["images"] if arm is None else logs["reconstructions"][order.index(arm)]
                axes = part.add_subplot(grid[r, :count])
                axes.imshow(_side_by_side(images), cmap="gray_r", vmin=0, vmax=1)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
                name_of_row = "held out" if arm is None else readable(arm).replace(" Lagr", "\nLagr")
                axes.set_ylabel(name_of_row, rotation=0, ha="right", va="center", fontsize=6.5)
                if arm is None:
                    continue
                _marginals(part.add_subplot(grid[r, count : count + 2]), logs["codes"][order.index(arm)], r == rows - 1)
                axes = part.add_subplot(grid[r, count + 2])
                covariance = np.cov(logs["codes"][order.index(arm)].T[:MANY])
                shown = axes.imshow(covariance, cmap="RdBu_r", vmin=-1, vmax=1)
                axes.set(xticks=[], yticks=[])
                axes = part.add_subplot(grid[r, count + 3])
                axes.axis("off")
                mine = arms[(arms["comparison"] == name) & (arms["arm"] == arm)].iloc[0]
                axes.text(-0.2, 0.5, f"{mine['psnr']:.1f} dB\n{mine['success']:.0%}", fontsize=6.5, va="center")
            corner = part.add_subplot(grid[0, count:])
            corner.axis("off")
            pca = -10 * np.log10(float(logs["pca_error"]))
            corner.text(0, 0.35, f"codes, covariance,\nPSNR (PCA: {pca:.1f} dB), success", fontsize=6.5, va="center")
            part.colorbar(shown, ax=part.axes, shrink=0.4, aspect=30, pad=0.01, label="covariance")
            part.suptitle(
                f"{'ab'[list(dict(comparisons)).index(name)]}  {name}", x=0.01, ha="left", fontweight="bold", fontsize=8
            )
        return figure


def _side_by_side(images: np.ndarray) -> np.ndarray:
    """Images (n, C, H, W) as one (H, W', C) or (H, W'), with white columns between them."""
    n, colours, height, width = images.shape
    gap = max(1, width // 4)
    sheet = np.full((height, n * (width + gap) - gap, colours), 0.0 if colours == 1 else 1.0)  # white in gray_r, in RGB
    for i, image in enumerate(images):
        sheet[:, i * (width + gap) : i * (width + gap) + width] = np.moveaxis(image, 0, -1).clip(0, 1)
    return sheet.squeeze(-1) if colours == 1 else sheet


def _marginals(axes: Axes, codes: np.ndarray, last: bool) -> None:
    """Histograms of each number of the code (of many: their median, and the range of nine tenths), and N(0, 1)."""
    edges = np.linspace(-4, 4, 25)
    densities = np.stack([np.histogram(column.clip(-4, 4), edges, density=True)[0] for column in codes.T])
    if len(densities) > MANY:
        low, middle, high = np.quantile(densities, (0.05, 0.5, 0.95), axis=0)
        axes.stairs(high, edges, baseline=low, color=style.BLUE, alpha=0.35, fill=True)
        densities = middle[None]
    for density in densities:
        axes.stairs(density, edges, color=style.BLUE, alpha=min(1.0, 3 / len(densities)), linewidth=0.6)
    grid = np.linspace(-4, 4, 100)
    axes.plot(grid, np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi), color="0.1", linewidth=0.8)
    axes.set(yticks=[], xlim=(-4, 4), ylim=(0, 0.75))
    axes.set_xticks([-3, 0, 3], ["−3", "0", "3"] if last else [], fontsize=5.5)


def weights(found: Mapping[str, Any]) -> Figure:
    """Weights and authority over training for two arms, team sizes, and what re-weighting does to the value."""
    logs = next(iter(found.values()))
    order, goals = list(logs["arms"]), list(logs["goals"])
    steps = logs["looked"][0]
    shades = dict(zip(goals, GOAL_COLOURS, strict=False))
    with style.paper():
        figure, axes = plt.subplots(2, 3, figsize=(style.PAGE, 4.4), layout="constrained")
        for column, (letter, arm) in enumerate(zip("ab", ("q=1", "q=-1"), strict=True)):
            for row, (kind, label) in enumerate((("weights", "weight $w_i$"), ("authority", "authority"))):
                mean = np.nanmean(logs[kind][order.index(arm)], axis=1)
                for i, goal in enumerate(goals):
                    axes[row, column].plot(
                        steps, mean[:, i].clip(1e-4), color=shades[goal], linestyle=LINES[i % len(LINES)],
                        label=GOAL_NAMES.get(goal, goal),
                    )  # fmt: skip
                axes[row, column].set(xlabel="step", ylabel=label)
                axes[row, column].set_title(f"{letter if row == 0 else 'de'[column]}  {label}, {readable(arm)}")
            axes[0, column].set(yscale="log", ylim=(1e-4, 1.3))
            axes[1, column].set_ylim(0, 1)
        ends = {}
        for arm in ("sum", "q=0.5", "q=1", "q=2", "q=-1", "GradNorm", "UPGrad", "augmented Lagrangian"):
            mean = np.nanmean(logs["effective"][order.index(arm)], axis=1)
            line = LINES[("q=0.5", "q=1", "q=2", "q=-1").index(arm)] if arm.startswith("q=") else "-"
            axes[0, 2].plot(steps, mean, color=colour(arm), linestyle=line)
            ends[readable(arm).replace(" Lagr", "\nLagr")] = (mean[-1], colour(arm))
        axes[0, 2].set(xlabel="step", ylabel=r"effective team  $1/\sum w_i^2$", ylim=(0.5, len(goals) + 0.8))
        _end_labels(axes[0, 2], steps[-1], ends)
        axes[0, 2].set_title("c  effective team")
        value = np.nanmean(logs["value"][order.index("q=1")], axis=1)
        labels = ("weighted\nsum C", "S, right end", "S, left end", "S, middle")
        ends = {}
        for i, (label, shade) in enumerate(zip(labels, (style.RED, style.BLUE, style.SKY, "0.2"), strict=True)):
            axes[1, 2].plot(steps, value[:, i], color=shade, linestyle=LINES[2 if i == 3 else 0])
            ends[label] = (value[-1, i], shade)
        axes[1, 2].set(xlabel="step", ylabel="value, q = 1")
        _end_labels(axes[1, 2], steps[-1], ends)
        axes[1, 2].set_title("f  the value that is read")
        handles, names = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=5, frameon=False)
        return figure


def _end_labels(axes: Axes, x: float, ends: Mapping[str, tuple[float, str]], gap: float = 0.095) -> None:
    """Labels of lines at their right ends (y, colour), moved apart to `gap` of the axis for each line of text."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    left, _ = axes.get_xlim()
    axes.set_xlim(left, x + 0.55 * (x - left))
    ticks = axes.get_xticks()
    axes.set_xticks(ticks[(ticks >= 0) & (ticks <= x)])
    top = -np.inf
    for label, (y, shade) in sorted(ends.items(), key=lambda item: item[1][0]):
        half = gap * (high - low) * (1 + label.count("\n")) / 2
        middle = max(y, top + half)
        top = middle + half
        axes.annotate(
            label, (x, y), (x + 0.06 * (x - left), middle), color=shade, fontsize=6, va="center", linespacing=0.9,
            arrowprops={"color": shade, "relpos": (0, 0.5), **LEADER},
        )  # fmt: skip


def toys(found: Mapping[str, Any]) -> Figure:
    """Critical team size, the obnoxious member, the desert, sliding, and CAGrad's toy with the ends read off."""
    table, paths = found["toys table"], found["toys"]
    with style.paper():
        figure, axes = plt.subplots(2, 3, figsize=(style.PAGE, 4.5), layout="constrained")
        _team(axes[0, 0], table)
        for i, name in enumerate(n for n in paths if n.startswith("team")):
            q, n = name.removeprefix("team q=").split(" n=")
            axes[0, 1].plot(
                paths[name].clip(0), color=style.BLUE if q == "1" else style.GREY, linestyle=LINES[i % 2],
                label=f"q = {q}, n = {n}",
            )  # fmt: skip
        axes[0, 1].set(xlabel="step", ylabel="x   (hole at 2, goal at 0)", ylim=(-0.1, 2.5))
        axes[0, 1].legend(frameon=False, fontsize=6, ncols=2, loc="upper right")
        axes[0, 1].set_title("b  held back, or away")
        _desert(axes[0, 2], table)
        sliding = paths["sliding"]
        axes[1, 0].plot(sliding[:80], color=style.RED, linewidth=0.8)
        axes[1, 0].axhspan(-0.1, 0.1, color="0.9")
        style.tag(axes[1, 0], "±2 steps", (40, 0.14), "0.35")
        axes[1, 0].set(xlabel="step", ylabel="x", title="d  max chatters at no minimum")
        _cagrad(axes[1, 1], paths["cagrad"], ("mean", "q=1", "CAGrad"), "e  CAGrad's toy")
        _cagrad(axes[1, 2], paths["cagrad"], ("MGDA", "PCGrad", "q=-1"), "f  the same")
        return figure


def _team(axes: Axes, table: pd.DataFrame) -> None:
    q = np.linspace(0, 4.2, 100)
    axes.plot(q, 1 + STEEPNESS ** (q + 1), color="0.2", linewidth=0.9)
    style.tag(axes, r"$1+(G/s)^{q+1}$", (1.5, 7.6), "0.2")
    found = table[table["toy"] == "team"]
    axes.plot(found["x"], found["measured"], "o", color=style.BLUE, markersize=4)
    style.tag(axes, "least team that\nescapes", (2.05, 2.9), style.BLUE)
    axes.set(xlabel="q", ylabel="members n", ylim=(0, 13.5), title="a  critical team, G/s = 1.6")


def _desert(axes: Axes, table: pd.DataFrame) -> None:
    found = table[table["toy"] == "desert"]
    shades = {"q=0": (style.GREY, "sum", "s"), "q=1": (style.BLUE, "q = 1", "o"), "max": (style.RED, "max", "^")}
    for i, (arm, (shade, label, marker)) in enumerate(shades.items()):
        mine = found[found["arm"] == arm].sort_values("x")
        half = 1.96 * np.sqrt(mine["predicted"] * (1 - mine["predicted"]) / mine["n"])
        x = mine["x"] * 1.07 ** (i - 1)
        axes.errorbar(
            x, mine["measured"], half, color=shade, marker=marker, markersize=3, linestyle="none", label=label
        )
    mine = found[found["arm"] == "q=1"].sort_values("x")
    axes.plot(mine["x"], mine["predicted"], color="0.2", linewidth=0.9)
    style.tag(axes, "basin of 0", (2.2, float(mine["predicted"].iloc[0]) * 0.85), "0.2")
    axes.set(xscale="log", xlabel="landscapes n", ylabel="success from U[−200, 200]", ylim=(0, None))
    axes.set_xticks(mine["x"], [f"{x:g}" for x in mine["x"]])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=6)
    axes.set_title("c  desert")


def _cagrad(axes: Axes, paths: np.ndarray, methods: tuple[str, ...], title: str) -> None:
    for method, shade in zip(methods, (style.GREY, style.BLUE, style.GREEN), strict=True):
        for i, path in enumerate(paths[METHODS.index(method)]):
            axes.plot(*path.T, color=shade, linewidth=0.9, label=readable(method) if i == 0 else None)
            axes.plot(*path[-1], "o", color=shade, markersize=3)
            read = READ_OFF.get(method, (None,) * 3)[i]
            if read is not None:
                axes.plot(read, -9.6, "^", color=shade, markersize=4, markerfacecolor="none")
    axes.plot(*STARTS.T, "k*", markersize=4)
    axes.plot([-7, 7], [-8.3552] * 2, color="0.2", linewidth=2, alpha=0.35)
    axes.set(xlabel="$x_1$", ylabel="$x_2$", xlim=(-10.5, 10.5), ylim=(-10.6, 10.5), title=title)
    axes.legend(frameon=False, fontsize=6, loc="upper center")


def powers(found: Mapping[str, Any]) -> Figure:
    """Score against q at the outputs, pointwise, for every comparison; averaged norms and norms at θ beside it."""
    arms = found["arms table"]
    names = list(dict.fromkeys(arms["comparison"]))
    with style.paper():
        figure, axes = plt.subplots(1, len(names), figsize=(style.PAGE, 2.7), layout="constrained", squeeze=False)
        for letter, name, axis in zip("abcdefg", names, axes[0], strict=False):
            mine = arms[arms["comparison"] == name].set_index("arm")
            pointwise = {**plan.POWERS, "max": 5.5}
            kinds = (
                (pointwise, "pointwise", style.BLUE, "o", "-"),
                ({"q=-2 ema": -2, "q=-1 ema": -1, "q=1 ema": 1}, "averaged norms", style.ORANGE, "s", "none"),
                ({"q=-1 parameters": -1, "q=1 parameters": 1}, "norms at θ", style.GREEN, "D", "none"),
            )
            for shift, (kind, label, shade, marker, line) in zip((0, 0.12, -0.12), kinds, strict=True):
                rows = mine.loc[sorted(kind, key=kind.get)]
                q = np.array(sorted(kind.values())) + shift
                errors = np.stack([rows["score"] - rows["score_low"], rows["score_high"] - rows["score"]])
                axis.errorbar(
                    q, rows["score"], np.nan_to_num(errors), color=shade, marker=marker, markersize=3.5, linestyle=line,
                    linewidth=0.9, capsize=2, label=label,
                )  # fmt: skip
            axis.axhline(float(mine.loc["sum", "score"]), **style.THRESHOLD)
            axis.set_xticks([-2, -1, 0, 1, 2, 4, 5.5], ["−2", "−1", "0\nsum", "1", "2", "4", "∞\nmax"])
            kind = mine["kind"].iloc[0]
            axis.set(xlabel="q", ylabel="held-out error" if kind == "classifier" else "shortfall")
            axis.set_title(f"{letter}  {name}")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        return figure


DRAWINGS = {"success": success, "pictures": pictures, "weights": weights, "toys": toys, "powers": powers}
