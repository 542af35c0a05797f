"""The figure of the study: loss on the line, where it rises, how far away, and how much the logits turn."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossatlas.artifacts import Artifact
from lossatlas.figures import style
from lossatlas.figures.style import save
from lossatlas.thresholds import MONOTONE, RIGHT_ANGLE

__all__ = ["draw", "save"]

ARMS = {  # (optimizer, batch_norm): label, colour, marker
    ("momentum", False): ("SGD", style.BLUE, "o"),
    ("momentum", True): ("SGD, BN", style.SKY, "s"),
    ("adam", False): ("Adam", style.RED, "^"),
    ("adam", True): ("Adam, BN", style.ORANGE, "D"),
}
FLOOR = 1e-5  # where a minimum delta of (nearly) zero is drawn on a logarithmic axis


def draw(runs: pd.DataFrame, table: pd.DataFrame, curves: Mapping[str, Artifact]) -> Figure:
    """Four panels, each as wide as a column. runs: every run; table: the monotone table; curves: by path."""
    with style.paper():
        figure, axes = plt.subplots(2, 2, figsize=(style.PAGE, 5.6), layout="constrained")
        drawn = runs[runs["ensemble"] == _ensemble(next(iter(curves)))]  # the first grid, of which the curves are
        data, architecture = drawn[["data", "architecture"]].iloc[0]
        _curves(axes[0, 0], runs, curves, data)
        _shares(axes[0, 1], table[(table["data"] == data) & (table["architecture"] == architecture)], data)
        _scatter(
            axes[1, 0],
            runs,
            "distance",
            r"distance from initialisation  $\Vert\theta_T-\theta_0\Vert$",
            "c  rise against distance",
        )
        _scatter(axes[1, 1], runs, "turning", "mean turning of the logit path  (rad)", "d  rise against turning")
        axes[1, 1].set_xscale("linear")
        axes[1, 1].axvline(RIGHT_ANGLE, **style.THRESHOLD)
        style.tag(axes[1, 1], " π/2", (RIGHT_ANGLE, 0.95), "0.35", xycoords=("data", "axes fraction"))
        return figure


def _ensemble(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".npz")


def _curves(axes: Axes, runs: pd.DataFrame, curves: Mapping[str, Artifact], data: str) -> None:
    """Every trained run's loss over the line, relative to its start."""
    for path, found in curves.items():
        mine = runs[runs["ensemble"] == _ensemble(path)].reset_index(drop=True)
        label, colour, _ = ARMS.get(
            (mine["optimizer"].iloc[0], bool(mine["batch_norm"].iloc[0])), ("other", "0.5", ".")
        )
        kept = mine.index[mine["trained"]]
        for i in kept:
            loss = found["loss"][i]
            axes.plot(found["alphas"], loss / loss[0], color=colour, alpha=0.35, linewidth=0.7)
        axes.plot([], [], color=colour, label=f"{label} ({len(kept)} runs)")
    axes.set(xlabel="α   (0: initialisation, 1: trained)", ylabel="training loss / loss at α = 0", xlim=(0, 1))
    axes.set_ylim(0, None)
    axes.legend(frameon=False, loc="best")
    axes.set_title(f"a  loss on the line, {data}")


def _shares(axes: Axes, table: pd.DataFrame, data: str) -> None:
    """Share of non-monotone runs among the trained ones against the learning rate, with Wilson limits."""
    arms = list(table.groupby(["optimizer", "batch_norm"]))
    for i, ((optimizer, batch_norm), arm) in enumerate(arms):
        label, colour, marker = ARMS.get((optimizer, bool(batch_norm)), (optimizer, "0.5", "."))
        arm = arm[arm["trained"] > 0].sort_values("learning_rate")
        x = arm["learning_rate"] * 1.06 ** (i - (len(arms) - 1) / 2)  # side by side, not on top of each other
        errors = np.abs(arm[["low", "high"]].to_numpy().T - arm["violating_share"].to_numpy())
        axes.errorbar(
            x, arm["violating_share"], errors, color=colour, marker=marker, markersize=4, capsize=2, label=label
        )
    axes.set(xscale="log", xlabel="learning rate", ylabel=f"share with min Δ > {MONOTONE:g}", ylim=(-0.03, 1.03))
    axes.legend(frameon=False, loc="best")
    axes.set_title(f"b  non-monotone runs, {data}")


def _scatter(axes: Axes, runs: pd.DataFrame, x: str, label: str, title: str) -> None:
    """Minimum delta of every trained classifier, pushed and rescaled ones included."""
    runs = runs[runs["trained"] & ~runs["autoencoder"]]
    for (optimizer, batch_norm), arm in runs.groupby(["optimizer", "batch_norm"]):
        name, colour, marker = ARMS.get((optimizer, bool(batch_norm)), (optimizer, "0.5", "."))
        plain = arm[arm["push"] == 0]
        axes.scatter(
            plain[x],
            plain["delta"].clip(lower=FLOOR),
            s=9,
            color=colour,
            marker=marker,
            alpha=0.7,
            linewidth=0,
            label=name,
        )
        pushed = arm[arm["push"] > 0]
        axes.scatter(
            pushed[x], pushed["delta"].clip(lower=FLOOR), s=14, facecolor="none", edgecolor=colour, linewidth=0.8
        )
    axes.axhline(MONOTONE, **style.THRESHOLD)
    style.tag(axes, "non-monotone above", (0.01, MONOTONE * 1.15), "0.35", xycoords=("axes fraction", "data"))
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel="min Δ  (loss)", title=title, ylim=(FLOOR / 2, None))
    axes.set_yticks([FLOOR, 1e-4, 1e-3, 1e-2, 1e-1], ["0", "$10^{-4}$", "$10^{-3}$", "$10^{-2}$", "$10^{-1}$"])
