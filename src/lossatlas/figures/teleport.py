"""The figures of the study: trajectories, loss against cost, orbits, the leap taken apart, schedules."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossatlas import statistics
from lossatlas.artifacts import Artifact
from lossatlas.figures import style

Tables, Arrays = Mapping[str, pd.DataFrame], Mapping[str, Artifact]

# --- trajectories -----------------------------------------------------------------------------------------------------

FUNCTIONS = {  # title, loss, x and y range, epochs of the teleports
    "booth": ("Booth", lambda x, y: (x + 2 * y - 7) ** 2 + (2 * x + y - 5) ** 2, (-6, 8), (-6, 8), (4,)),
    "rosenbrock": (
        "Rosenbrock",
        lambda x, y: 100 * (x * x - y) ** 2 + (x - 1) ** 2,
        (-1.6, 1.6),
        (-1.4, 2.2),
        tuple(range(99, 1000, 100)),
    ),
}
MINIMA = {"booth": (1, 3), "rosenbrock": (1, 1)}
TRACKS = {  # arm: label, colour
    "none": ("gradient descent", "0.35"),
    "published": ("teleport, published search", style.ORANGE),
    "random": ("teleport, random angle", style.SKY),
    "exact": ("teleport, exact argmax", style.BLUE),
}
READ_OFF = ((999, 1e-1), (999, 7e-9))  # Zhao et al. 2022, Figure 2c
FLOOR = 1e-16


def trajectories(tables: Tables, arrays: Arrays) -> Figure:
    """Above: descents on the contours. Below: their losses; bands hold 95 % of the seeds."""
    found = arrays["functions"]
    with style.paper():
        figure, axes = plt.subplots(2, 2, figsize=(style.PAGE, 5.4), layout="constrained", height_ratios=[1.25, 1])
        for column, (name, (title, loss, xs, ys, when)) in enumerate(FUNCTIONS.items()):
            _contours(axes[0, column], loss, xs, ys)
            for arm, (_, colour) in TRACKS.items():
                if arm != "random":
                    _track(axes[0, column], found[f"{name}/{arm}/points"][0], when if arm != "none" else (), colour)
            axes[0, column].plot(*MINIMA[name], "*", color="k", markersize=7)
            axes[0, column].set(xlim=xs, ylim=ys, xlabel="x", ylabel="y", title=f"{'ab'[column]}  {title}")
            for arm, (label, colour) in TRACKS.items():
                # on Booth the search finds the exact argmax, and its line would be hidden
                line = (0, (2, 2)) if arm == "exact" else "-"
                _band(axes[1, column], found[f"{name}/{arm}/losses"], colour, label, line)
            axes[1, column].set(yscale="log", xlabel="epoch", ylabel="loss", title=f"{'cd'[column]}  loss, {title}")
        axes[1, 1].set_ylim(FLOOR, None)
        axes[1, 1].plot(*zip(*READ_OFF, strict=True), "kx", markersize=5, clip_on=False, label="published (read off)")
        figure.legend(*axes[1, 1].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        return figure


def _contours(axes: Axes, loss: Callable, xs: tuple, ys: tuple) -> None:
    x, y = np.meshgrid(np.linspace(*xs, 200), np.linspace(*ys, 200))
    z = np.log10(loss(x, y) + 1e-3)
    axes.contour(x, y, z, levels=12, colors="0.8", linewidths=0.6)


def _track(axes: Axes, points: np.ndarray, when: tuple[int, ...], colour: str) -> None:
    """A descent, with a dashed line where it teleports: the point logged at that epoch is the one after it."""
    starts = [0, *when]
    ends = [*when, len(points)]
    for start, end in zip(starts, ends, strict=True):
        axes.plot(*points[start:end].T, "-o", color=colour, markersize=1.6, linewidth=1)
    for epoch in when:
        axes.plot(*points[epoch - 1 : epoch + 1].T, color=colour, linewidth=0.8, linestyle=(0, (2, 2)))


def _band(axes: Axes, losses: np.ndarray, colour: str, label: str, line: object) -> None:
    losses = np.clip(losses, FLOOR / 10, None)
    epochs = np.arange(losses.shape[1])
    axes.plot(epochs, np.median(losses, 0), color=colour, label=label, linestyle=line)
    if len(losses) > 1:
        low, high = np.quantile(losses, [0.025, 0.975], axis=0)
        axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)


# --- loss against cost ------------------------------------------------------------------------------------------------

ARMS = {  # arm: label, colour, line
    "none": ("none", "0.25", "-"),
    "official": ("released action (changes the loss)", style.RED, "-"),
    "loss-drop": ("no teleport, the released action's loss", style.RED, ":"),
    "gl-ascent@0.5": ("GL, exact ascent", style.BLUE, "-"),
    "scaling-corner": ("scaling, closed form", style.GREEN, "-"),
    "scaling-random": ("scaling, random", style.SKY, "--"),
    "balance": ("scaling, balanced", style.ORANGE, "--"),
}


def loss(tables: Tables, arrays: Arrays) -> Figure:
    """Geometric mean of the regression's loss over seeds with 95 % intervals, by steps and by gradients."""
    runs = tables["regression"]
    runs = runs[(runs["experiment"] == "run") & (runs["optimizer"] == "sgd")]
    multiples = list(dict.fromkeys(runs["rate_multiple"]))
    with style.paper():
        figure, axes = plt.subplots(2, 2, figsize=(style.PAGE, 5.2), layout="constrained", sharey="row")
        for arm, (label, colour, line) in ARMS.items():
            curves = arrays["regression"][f"sgd/{arm}"].astype(float)
            cost = runs[runs["arm"] == arm]["cost"].iloc[0] - curves.shape[-1]
            ends = np.log(curves[:, :, -1])
            best = int(np.argmin(np.where(np.isfinite(ends).all(0), ends.mean(0), np.inf)))
            steps = np.arange(curves.shape[-1])
            for row, j in enumerate((multiples.index(1.0), best)):
                middle, low, high = _geometric(curves[:, j])
                tail = "" if row == 0 else f" (×{multiples[j]:g})"
                for column, x in enumerate((steps, steps + np.where(steps >= 5, cost, 0))):
                    axes[row, column].plot(x, middle, color=colour, linestyle=line, label=label + tail, linewidth=1)
                    axes[row, column].fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        for i, (row, column) in enumerate(np.ndindex(2, 2)):
            where = "published rate" if row == 0 else "best rate of each arm"
            axes[row, column].set(yscale="log", title=f"{'abcd'[i]}  {where}")
            axes[row, column].set_xlabel("gradients (teleport included)" if column else "steps")
        for row in range(2):
            axes[row, 0].set_ylabel("loss  ½‖Y − f(X)‖²")
            axes[row, 0].legend(frameon=False, fontsize=6, loc="upper right")
        axes[0, 0].set_ylim(1, 5000)
        axes[1, 0].set_ylim(0.5, 5000)
        return figure


def _geometric(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Geometric mean over seeds with Student's 95 % interval; NaN where a seed diverged."""
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.where(np.isfinite(curves), np.log(curves), np.nan)
    mean, n = logs.mean(0), len(logs)
    half = statistics.student_quantile(0.975, n - 1) * logs.std(0, ddof=1) / np.sqrt(n)
    return np.exp(mean), np.exp(mean - half), np.exp(mean + half)


# --- orbits -----------------------------------------------------------------------------------------------------------

ORBITS = {
    "gl-ascent": ("GL, ascent", style.BLUE, "o"),
    "scaling-ascent": ("scaling, ascent", style.GREEN, "s"),
    "scaling-random": ("scaling, random", style.SKY, "^"),
}


def orbit(tables: Tables, arrays: Arrays) -> Figure:
    """Left: sharpness against gradient norm along orbits, a line a seed. Right: what a radius brings at two rates."""
    found, runs = arrays["control"], tables["control"]
    with style.paper():
        figure, (left, right) = plt.subplots(1, 2, figsize=(style.PAGE, 2.9), layout="constrained")
        for name, (label, colour, marker) in ORBITS.items():
            for i, (x, y) in enumerate(zip(found[f"orbit/{name}/gain"], found[f"orbit/{name}/sharpness"], strict=True)):
                left.plot(x, y, color=colour, marker=marker, markersize=3, linewidth=0.7, alpha=0.8,
                          label=label if i == 0 else None)  # fmt: skip
        ends = np.array(left.get_xlim())
        line = np.geomspace(1, max(ends[1], 2), 2)
        for power, text in ((1, "λ ∝ ‖g‖"), (2, "λ ∝ ‖g‖²")):
            left.plot(line, line**power, **style.THRESHOLD)
            style.tag(left, text, (line[1], line[1] ** power), "0.35", ha="right", va="bottom")
        left.axvline(1, color="0.85", linewidth=0.6, zorder=0)
        left.set(xscale="log", yscale="log", xlabel="‖∇L‖ after / before", ylabel="λ_max after / before")
        left.set_title("a  gradient and sharpness on the orbit")
        left.legend(frameon=False, loc="upper left")
        _radii(right, runs)
        return figure


def _radii(axes: Axes, runs: pd.DataFrame) -> None:
    scores = runs.assign(score=np.log(runs["final_loss"].astype(float)).replace([np.inf, np.nan], np.inf))
    table = scores.pivot_table(index=["arm", "seed"], columns="rate", values="score")
    names = sorted({a for a in runs["arm"] if a.startswith("scaling-ascent@")}, key=lambda a: float(a.split("@")[1]))
    slow = table.columns[0]
    for label, colour, marker, pick in (
        (f"rate {slow:g} for all", style.ORANGE, "o", lambda t: t[slow]),
        ("best rate of each", style.BLUE, "s", lambda t: t[t.mean().idxmin()]),
    ):
        none = pick(table.loc["none"])
        points = []
        for name in names:
            if not np.isfinite(table.loc[name].to_numpy()).all(0).any():
                continue
            here = (pick(table.loc[name]) - none).to_numpy()
            if np.isfinite(here).all():
                half = statistics.student_quantile(0.975, len(here) - 1) * here.std(ddof=1) / np.sqrt(len(here))
                points.append((float(name.split("@")[1]), here.mean(), half))
        if points:
            x, y, error = np.array(points).T
            axes.errorbar(x, y, error, color=colour, marker=marker, markersize=4, capsize=2, label=label)
    axes.axhline(0, **style.THRESHOLD)
    axes.set(xscale="log", xlabel="radius of the scaling teleport  ‖s‖", ylabel="log final loss, teleport − none")
    axes.set_xticks([float(n.split("@")[1]) for n in names], [n.split("@")[1] for n in names])
    axes.minorticks_off()
    axes.legend(frameon=False)
    axes.set_title("b  full batch: slow rate and tuned rates")


# --- barriers ---------------------------------------------------------------------------------------------------------

PAIRS = {
    "teleported": "teleported\nrun",
    "undone": "the same,\ngroup undone",
    "image": "image under\nthe group",
    "shift": "shifted as far\nat random",
    "seed": "run from\nanother start",
}


def barriers(tables: Tables, arrays: Arrays) -> Figure:
    """Barriers to the untouched solution, on the segment and on the band: a point a seed, means with 95 % intervals."""
    runs = tables["bands"]
    with style.paper():
        figure, axes = plt.subplots(figsize=(style.PAGE * 0.8, 2.9), layout="constrained")
        ways = (
            ("segment", "straight segment", style.ORANGE, "o", -0.15),
            ("band", "elastic band", style.BLUE, "D", 0.15),
        )
        for way, label, colour, marker, shift in ways:
            for i, pair in enumerate(PAIRS):
                values = runs[runs["pair"] == pair][way].to_numpy(float)
                half = statistics.student_quantile(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
                axes.plot(np.full(len(values), i + shift), values, marker, color=colour, markersize=3.5, alpha=0.8,
                          markerfacecolor="none" if way == "segment" else colour, label=label if i == 0 else None,
                          linestyle="none")  # fmt: skip
                axes.errorbar(i + shift + 0.1, values.mean(), half, color=colour, marker="_", capsize=2, linewidth=0.9)
        axes.axhline(0, **style.THRESHOLD)
        axes.set_xticks(range(len(PAIRS)), PAIRS.values())
        axes.set(ylabel="barrier of the training loss (nats)", title="barriers to the untouched solution")
        axes.legend(frameon=False, loc="upper left")
        return figure


# --- the leap ---------------------------------------------------------------------------------------------------------

LEAP_ARMS = {  # arm: label, colour
    "published": ("as released: all of the next three", style.RED),
    "long epoch": ("six times the steps", style.ORANGE),
    "new layer": ("first layer initialised anew", style.ORANGE),
    "larger layer": ("second layer times g⁺", style.ORANGE),
    "layer rate": ("first layer's rate × 67, no teleport", style.BROWN),
    "layer rate, long epoch": ("the same and six times the steps", style.BROWN),
    "gl-best": ("GL, best of 50, exact", style.BLUE),
    "gl-ascent": ("GL, ascent, exact", style.BLUE),
    "gl-random": ("GL, random, exact", style.BLUE),
    "scaling-corner": ("scaling, closed form", style.GREEN),
    "scaling-best": ("scaling, best of many", style.GREEN),
    "shift": ("random shift, placebo", "0.5"),
}
README_LEAP = 0.10  # "~10 % leaps", README of baubels/gradient_teleportation


def leap(tables: Tables, arrays: Arrays) -> Figure:
    """Test accuracy gained in the teleport's epoch, above the untouched arm; bars with 95 % intervals over seeds."""
    runs = tables["baubels"]
    before = runs[runs["arm"] == "none"].groupby("rate")["before"].mean()
    rate = (before - 0.4025).abs().idxmin()
    chosen = runs[(runs["rate"] == rate) & (runs["diverged_at"] < 0)]
    table = chosen.pivot_table(index="seed", columns="arm", values="leap")
    with style.paper():
        figure, axes = plt.subplots(figsize=(style.PAGE * 0.75, 3.2), layout="constrained")
        for i, (arm, (_, colour)) in enumerate(LEAP_ARMS.items()):
            gain = (table[arm] - table["none"]).dropna()
            half = statistics.student_quantile(0.975, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain))
            axes.barh(-i, gain.mean(), xerr=half, color=colour, height=0.7, error_kw={"capsize": 2, "linewidth": 0.8})
        axes.axvline(0, color="0.3", linewidth=0.8)
        axes.axvline(README_LEAP, **style.THRESHOLD)
        style.tag(axes, " README: about 0.10", (README_LEAP, 0.75), "0.35")
        axes.set_yticks(range(0, -len(LEAP_ARMS), -1), [label for label, _ in LEAP_ARMS.values()])
        axes.set_ylim(-len(LEAP_ARMS) + 0.4, 1.4)
        axes.set(xlabel="test accuracy gained in that epoch, above the untouched arm")
        axes.set_title(f"the leap taken apart ({len(table)} seeds, rate {rate:g})")
        return figure


# --- schedules --------------------------------------------------------------------------------------------------------

PUBLISHED = {  # final train loss read off Zhao et al. 2022 (against 0.029) and its reproduction (against 0.058)
    "0": (0.044, None), "1": (0.0032, 0.078), "2": (0.015, 0.073), "4": (0.033, 0.070), "16": (0.033, 0.073),
    "4,8,12,16,20": (0.021, None), "1,5,9,13,17": (0.0195, 0.065), "1,3,5,7,9": (0.0167, 0.048),
    "4,6,8,10,12": (0.0127, None), "4,5,6,7,8": (0.0104, None), "1,2,3,4,5": (0.0075, 0.047),
}  # fmt: skip
BOUND = 5.0  # log ratio at which schedules are drawn that diverged at every rate


def schedules(tables: Tables, arrays: Arrays) -> Figure:
    """Final train loss over that without teleports, both at their best rates: ours with 95 % intervals, and theirs."""
    runs = tables["schedules"].copy()
    runs["score"] = np.log(runs["train_loss"].astype(float)).where(runs["diverged_at"] < 0)
    with style.paper():
        figure, axes = plt.subplots(figsize=(style.PAGE * 0.8, 3.8), layout="constrained")
        none = _best(runs[runs["arm"] == "none"])
        arms = (("gl-ascent", "exact, least norm", style.BLUE, "o", 0.18), ("projected", "projection, as published",
                style.RED, "s", -0.18))  # fmt: skip
        for arm, label, colour, marker, shift in arms:
            for i, name in enumerate(PUBLISHED):
                chosen = runs[(runs["arm"] == arm) & (runs["schedule"] == name)]
                best = _best(chosen)
                if best is None:
                    axes.plot(BOUND, -i + shift, marker=">", color=colour, markersize=4, clip_on=False)
                    continue
                gap = (best - none).to_numpy()
                half = statistics.student_quantile(0.975, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap))
                axes.errorbar(
                    gap.mean(), -i + shift, xerr=half, color=colour, marker=marker, markersize=4, capsize=2,
                    linestyle="none", label=label if i == 0 else None,
                )  # fmt: skip
        for j, (base, label, marker) in enumerate(((0.029, "Zhao et al., MNIST", "D"), (0.058, "HSE, MNIST", "X"))):
            points = [(np.log(p[j] / base), -i) for i, p in enumerate(PUBLISHED.values()) if p[j] is not None]
            axes.plot(*zip(*points, strict=True), marker, color="k", markersize=5, markerfacecolor="none", label=label)
        axes.axvline(0, **style.THRESHOLD)
        axes.set_yticks(range(0, -len(PUBLISHED), -1), [f"[{name}]" for name in PUBLISHED])
        axes.set(
            xlabel="log final train loss over that without teleports (best rates)", ylabel="epochs of the teleports"
        )
        axes.set_title("schedules; ▸ at the edge: every rate diverged")
        axes.set_xlim(-3, BOUND)
        axes.legend(frameon=False, loc="lower right")
        return figure


def _best(runs: pd.DataFrame) -> pd.Series | None:
    """Scores by seed at the best rate at which no seed diverged; None if there is none."""
    table = runs.pivot_table(index="seed", columns="rate", values="score", dropna=False)
    table = table.dropna(axis=1)
    return None if table.empty or table.shape[1] == 0 else table[table.mean().idxmin()]


DRAW: dict[str, Callable[[Tables, Arrays], Figure]] = {
    "trajectories": trajectories,
    "loss": loss,
    "orbit": orbit,
    "barriers": barriers,
    "leap": leap,
    "schedules": schedules,
}
