"""The figures of the noise study: pictures, p^n, densities against n, success against n, and what failed."""

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossatlas.artifacts import Artifact
from lossatlas.figures import style
from lossatlas.figures.style import save

__all__ = ["densities", "failures", "gallery", "harmony", "rates", "save", "success"]

ARMS = {  # label, colour, marker
    "sum": ("sum", style.BLUE, "o"),
    "weighted_sum": ("random weights", style.SKY, "s"),
    "q=-2": ("q = −2", style.YELLOW, "<"),
    "q=-1": ("q = −1", style.PINK, "v"),
    "q=0.5": ("q = ½", style.GREEN, "v"),
    "q=1": ("q = 1 (README)", style.ORANGE, "^"),
    "q=2": ("q = 2", style.PURPLE, "D"),
    "q=4": ("q = 4", style.BROWN, "P"),
    "max": ("largest gradient", style.RED, "X"),
    "noise": ("sum + noise", "0.25", "s"),
    "switch": ("switching", style.GREY, "*"),
}
KINDS = {"desert": "desert (one octave)", "funnel": "funnel (four octaves)", "bowl": "desert + bowl"}
SPACES = {"desert3d": "desert, 3-D", "funnel3d": "funnel, 3-D"}
OUTCOMES = {
    "obnoxious": ("stuck, one member holds the team", style.BROWN),
    "stuck": ("stuck otherwise", style.BLUE),
    "wandering": ("wandering", style.ORANGE),
    "cycling": ("cycling", style.RED),
}


def gallery(gallery: Artifact) -> Figure:
    """One layer and its composites as pictures, the common minimum in the middle."""
    panels = {
        "one": "a  one layer",
        "sum": "b  sum",
        "q1_potential": "c  weights |g|",
        "max_pasted": "d  largest gradient",
    }
    with style.paper():
        figure, axes = plt.subplots(1, 4, figsize=(style.PAGE, 2.0), layout="constrained")
        for ax, (name, title) in zip(axes, panels.items(), strict=True):
            picture = np.roll(gallery[name], (gallery[name].shape[0] // 2, gallery[name].shape[1] // 2), (0, 1))
            depth = np.median(picture) - picture[picture.shape[0] // 2, picture.shape[1] // 2]
            picture = (picture - np.median(picture)) / depth
            image = ax.imshow(picture, cmap="cividis", vmin=-1, vmax=1, extent=(-4, 4, -4, 4), interpolation="nearest")
            ax.plot(0, 0, marker="+", color="white", markersize=6, markeredgewidth=0.9)
            ax.set(title=title, xticks=(-4, 0, 4), yticks=(-4, 0, 4) if name == "one" else ())
        axes[0].set_ylabel("cells")
        figure.colorbar(image, ax=axes, label="loss / depth of the well", shrink=0.85, ticks=(-1, 0, 1))
        return figure


def rates(rates: pd.DataFrame) -> Figure:
    """Rates of common minima against n: white noise, layers that share a part, and smooth fields."""
    with style.paper():
        figure, axes = plt.subplots(1, 3, figsize=(style.PAGE, 2.6), layout="constrained")
        white = rates[(rates["field"] == "white") & (rates["what"] == "common")]
        arms = {
            "1-D moore normal": ("1-D, p = 1/3", style.GREEN, "v"),
            "2-D von_neumann normal": ("2-D (4), 1/5", style.ORANGE, "^"),
            "2-D moore normal": ("2-D (8), 1/9", style.BLUE, "o"),
            "3-D moore normal": ("3-D (26), 1/27", style.RED, "s"),
        }
        for arm, (label, colour, marker) in arms.items():
            cell = white[white["arm"] == arm]
            axes[0].plot(cell["n"], cell["law"], color=colour, linewidth=0.9)
            _points(axes[0], cell, label, colour, marker)
        axes[0].set_title("a  white noise, lines pⁿ")
        axes[0].legend(frameon=False, loc="upper right", handletextpad=0.2, borderaxespad=0.1)
        correlated = white[white["arm"] == "correlated"]
        colours = (style.BLUE, style.GREEN, style.ORANGE, style.RED, style.PURPLE)
        for (c, cell), colour in zip(correlated.groupby("parameter"), colours, strict=False):
            label = f"c = {c:g}"
            if c == 0:
                axes[1].plot(cell["n"], cell["law"], color=colour, linewidth=0.9)
            _points(axes[1], cell, label, colour, "o", line=c > 0)
            last = cell[cell["rate"] > 1.5e-6].iloc[-1]  # within the axis
            style.tag(axes[1], label, (last["n"] + 0.25, last["rate"] * 0.85), colour)
        axes[1].set(title="b  layers sharing a part c", xlim=(0.6, 10.8), ylim=(1e-6, 0.3))
        smooth = rates[(rates["field"] == "se2d") & (rates["arm"] == "near")]
        for (radius, cell), colour in zip(smooth.groupby("parameter"), colours, strict=False):
            axes[2].plot(cell["n"], cell["law"], color=colour, linewidth=0.9)
            _points(axes[2], cell, f"ε = {radius:g} ℓ", colour, "o")
            style.tag(axes[2], f"ε = {radius:g} ℓ", (4.12, cell["law"].iloc[-1] * 0.8), colour)
        axes[2].set(title="c  smooth, minima within ε", xlim=(0.7, 6), ylabel="a unit area ℓ²")
        for ax in axes:
            ax.set(yscale="log", xlabel="landscapes n")
        axes[0].set(ylabel="common minima a site", ylim=(None, 3))
        axes[0].set_xticks(range(2, int(white["n"].max()) + 1, 2))
        axes[1].set_xticks(range(1, 9))
        axes[2].set_xticks(range(1, 5))
        return figure


def _points(axes: Axes, cell: pd.DataFrame, label: str, colour: str, marker: str, line: bool = False) -> None:
    """Measured rates with exact Poisson intervals; a rate of zero has no place on a logarithmic axis."""
    cell = cell[cell["count"] > 0]
    errors = np.abs(cell[["low", "high"]].to_numpy().T - cell["rate"].to_numpy())
    axes.errorbar(
        cell["n"], cell["rate"], errors, color=colour, marker=marker, markersize=3.5, capsize=2, label=label,
        linestyle="-" if line else "none", linewidth=0.8,
    )  # fmt: skip


def densities(ratios: pd.DataFrame, limits: pd.DataFrame) -> Figure:
    """Densities of flow attractors over that of one layer against n, by arm, with the closed forms."""
    titles = {
        "se1d": "Gaussian, 1-D",
        "se2d": "Gaussian, 2-D",
        "se3d": "Gaussian, 3-D",
        "perlin_phase": "Perlin, 2-D, random phases",
    }
    kinds = [kind for kind in titles if kind in set(ratios["kind"])]
    with style.paper():
        rows = -(-len(kinds) // 2)
        size = (style.PAGE, 2.6 * rows + 0.4)
        figure, axes = plt.subplots(rows, 2, figsize=size, layout="constrained", squeeze=False)
        for ax, kind, letter in zip(axes.flat, kinds, "abcd", strict=False):
            table = ratios[(ratios["kind"] == kind) & (ratios["meaning"] == "flow")]
            _ratios(ax, table, limits[limits["dim"] == int(kind[2])] if kind.startswith("se") else None)
            ax.set_title(f"{letter}  {titles[kind]}")
        for ax in axes.flat[len(kinds) :]:
            ax.set_axis_off()
        for ax in axes[:, 0]:
            ax.set_ylabel("attractors / those of one layer")
        found = {
            label: handle for ax in axes.flat for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        labels = [label for label, _, _ in ARMS.values() if label in found]
        handles = [found[label] for label in labels]
        figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=-(-len(labels) // 2))
        return figure


def _ratios(axes: Axes, table: pd.DataFrame, limits: pd.DataFrame | None) -> None:
    """One kind of field: every arm against n, closed forms as lines, limits for many layers as dashes at the right."""
    most = table["n"].max()
    for arm, (label, colour, marker) in ARMS.items():
        cell = table[table["arm"] == arm].sort_values("n")
        if cell.empty:
            continue
        errors = np.abs(cell[["low", "high"]].to_numpy().T - cell["ratio"].to_numpy())
        law = cell["law"].notna().all()
        axes.errorbar(
            cell["n"], cell["ratio"], errors, color=colour, marker=marker, markersize=3.5, capsize=2,
            linestyle="none" if law else "-", linewidth=0.7, label=label,
        )  # fmt: skip
        if law:
            axes.plot(cell["n"], cell["law"], color=colour, linewidth=0.9)
        if limits is not None and arm in set(limits["arm"]):
            limit = limits.loc[limits["arm"] == arm, "ratio"].iloc[0]
            axes.plot([most * 1.25, most * 2.1], [limit] * 2, color=colour, linewidth=1.6)
    if limits is not None:
        style.tag(axes, "n → ∞", (most * 1.15, 0.02), "0.35", xycoords=("data", "axes fraction"))
    n = np.array([1, most])
    axes.plot(n, n, **style.THRESHOLD)
    style.tag(axes, "n times", (3.5, 2.9), "0.35")
    ticks = sorted(set(table["n"]))
    axes.set(xscale="log", yscale="log", xlabel="layers n")
    axes.set_xticks(ticks, ticks)
    axes.minorticks_off()
    top = max(3.0, table["high"].max() * 1.1)
    levels = [value for value in (0.8, 1, 2, 4, 8, 16, 32) if value <= top]
    axes.set_ylim(0.8, top)
    axes.set_yticks(levels, [f"{value:g}" for value in levels])


def success(success: pd.DataFrame) -> Figure:
    """Success at the tuned step against n by landscape, with the cost of a success in the funnels."""
    named = KINDS | SPACES
    kinds = [kind for kind in named if kind in set(success["kind"])]
    wells = sorted(kind for kind in set(success["kind"]) if kind.endswith("well"))
    panels = [(kind, "success", named[kind]) for kind in kinds]
    panels += [(kind, "success", f"Gaussian, {kind}") for kind in wells[:2]]
    funnels = [kind for kind in kinds if kind.startswith("funnel")] or kinds[:1]
    panels += [(kind, "ert", f"cost, {named[kind].partition(' (')[0]}") for kind in funnels]
    with style.paper():
        rows = -(-len(panels) // 3)
        size = (style.PAGE, 2.2 * rows + 0.4)
        figure, axes = plt.subplots(rows, 3, figsize=size, layout="constrained", squeeze=False)
        for ax, (kind, column, title), letter in zip(axes.flat, panels, "abcdefghijkl", strict=False):
            _success(ax, success[success["kind"] == kind], column)
            ax.set_title(f"{letter}  {title}")
            if column == "ert":
                ax.set_ylabel("gradients a success")
        for ax in axes.flat[len(panels) :]:
            ax.set_axis_off()
        for ax in axes[:, 0]:
            if not ax.get_ylabel():
                ax.set_ylabel("share that arrives")
        shown = {
            label: handle for ax in axes.flat for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        figure.legend(shown.values(), shown.keys(), frameon=False, loc="outside lower center", ncols=min(5, len(shown)))
        return figure


def _success(axes: Axes, table: pd.DataFrame, column: str) -> None:
    rate = "tuned" if "tuned" in set(table["rate"]) else "fixed"
    chosen = ("sum", "q=-2", "q=-1", "q=1", "q=4", "max", "noise", "switch")
    table = table[(table["rate"] == rate) & table["family"].isin(["pointwise", "control"]) & table["arm"].isin(chosen)]
    arms = [arm for arm in ARMS if arm in set(table["arm"])]
    for i, arm in enumerate(arms):
        label, colour, marker = ARMS[arm]
        cell = table[table["arm"] == arm].sort_values("n")
        x = cell["n"] * 1.03 ** (i - (len(arms) - 1) / 2)  # side by side
        if column == "ert":
            axes.plot(x, cell["ert"], color=colour, marker=marker, markersize=3.5, linewidth=0.9, label=label)
            continue
        errors = np.abs(cell[["low", "high"]].to_numpy().T - cell["success"].to_numpy())
        axes.errorbar(
            x,
            cell["success"],
            errors,
            color=colour,
            marker=marker,
            markersize=3.5,
            capsize=1.5,
            linewidth=0.9,
            label=label,
        )
    ticks = sorted(set(table["n"]))
    axes.set_xscale("log")
    axes.set_xticks(ticks, ticks)
    axes.minorticks_off()
    axes.set_xlabel("layers n")
    if column == "ert":
        axes.set_yscale("log")
    else:
        axes.set_ylim(-0.03, 1.05)


def failures(success: pd.DataFrame) -> Figure:
    """Shares of the runs that did not arrive, by how they failed, against n, for four ways to combine."""
    kinds = [kind for kind in KINDS if kind in set(success["kind"])]
    arms = [("pointwise", "sum"), ("pointwise", "q=1"), ("pointwise", "max"), ("control", "noise")]
    with style.paper():
        size = (style.PAGE, 1.7 * len(kinds) + 0.6)
        figure, axes = plt.subplots(
            len(kinds), len(arms), figsize=size, layout="constrained", squeeze=False, sharey=True
        )
        for row, kind in zip(axes, kinds, strict=True):
            for ax, (family, arm) in zip(row, arms, strict=True):
                cell = success[(success["kind"] == kind) & (success["family"] == family) & (success["arm"] == arm)]
                _stack(ax, cell[cell["rate"] == "fixed"].sort_values("n"))
                if kind == kinds[0]:
                    ax.set_title(ARMS[arm][0])
            row[0].set_ylabel(f"{KINDS[kind].partition(' (')[0]}\nshare of runs")
        for ax in axes[-1]:
            ax.set_xlabel("layers n")
        handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for _, colour in OUTCOMES.values()]
        labels = [label for label, _ in OUTCOMES.values()]
        figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=4)
        return figure


def _stack(axes: Axes, cell: pd.DataFrame) -> None:
    if cell.empty:
        axes.text(0.5, 0.5, "not run", ha="center", va="center", color="0.5", transform=axes.transAxes)
        axes.set_xticks([])
        return
    held = cell["obnoxious"].fillna(0.0).to_numpy()
    parts = {
        **{name: cell[name].to_numpy() for name in OUTCOMES},
        "obnoxious": held,
        "stuck": cell["stuck"].to_numpy() - held,
    }
    place, bottom = np.arange(len(cell)), np.zeros(len(cell))
    for name, (_, colour) in OUTCOMES.items():
        axes.bar(place, parts[name], 0.8, bottom, color=colour, linewidth=0)
        bottom = bottom + parts[name]
    axes.set_xticks(place, cell["n"].astype(int))
    axes.set_ylim(0, 1)


def harmony(harmony: pd.DataFrame) -> Figure:
    """Attractors and arrivals of the largest team against what its layers share besides the minimum, and how exactly
    they share that."""
    table = harmony[harmony["n"] == harmony["n"].max()]
    measures = {"density": "attractors / those of one layer", "success": "share that arrives"}
    offsets = sorted(set(table.loc[table["alignment"] == "partial", "offset"]))
    places = [("shift", "0"), *((offset, f"{offset:g}") for offset in offsets), ("none", "not\naligned")]
    places += [("bowl", "0, with\nbowl"), ("unaligned_bowl", "bowl\nalone")]
    with style.paper():
        figure, axes = plt.subplots(
            2, 2, figsize=(style.PAGE, 4.4), layout="constrained", sharey="row", width_ratios=(1, 1.15)
        )
        for row, (column, label) in zip(axes, measures.items(), strict=True):
            for i, arm in enumerate(("sum", "q=1", "max")):
                cell = table[table["arm"] == arm]
                _against_correlation(row[0], cell, column, arm, 0.006 * (i - 1))
                _against_alignment(row[1], cell, column, arm, [place for place, _ in places], 0.08 * (i - 1))
            row[0].set_ylabel(label)
            row[1].axvline(len(offsets) + 1.5, color="0.8", linewidth=0.8)
        n = int(table["n"].max())
        axes[0, 0].set_title(f"a  sharing more than the minimum, n = {n}")
        axes[0, 1].set_title("b  sharing the minimum less exactly, c = 0")
        style.tag(axes[0, 0], "hollow: not aligned", (0.96, 0.92), "0.35", xycoords="axes fraction", ha="right")
        style.tag(axes[1, 1], "no common goal", (len(offsets) + 1, 0.5), "0.35", rotation=90, ha="center", va="center")
        axes[1, 0].set(xlabel="correlation c of the layers", ylim=(-0.04, 1.06))
        axes[1, 1].set_xlabel("misplacement of the minima (cells)", loc="left")
        for ax in axes[0]:
            ax.set_yscale("log", base=2)
            ax.yaxis.set_major_formatter("{x:g}")
        for ax in axes[:, 0]:
            ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1\none layer"])
        for ax in axes[:, 1]:
            ax.set_xticks(range(len(places)), [name for _, name in places])
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=len(labels))
        return figure


def _against_correlation(axes: Axes, cell: pd.DataFrame, column: str, arm: str, beside: float) -> None:
    """Aligned layers filled and solid, layers that are not aligned hollow and dashed."""
    label, colour, marker = ARMS[arm]
    for alignment, line, face in (("shift", "-", colour), ("none", "--", "white")):
        part = cell[(cell["alignment"] == alignment) & cell[column].notna()].sort_values("correlation")
        if part.empty:
            continue
        errors = np.abs(part[[f"{column}_low", f"{column}_high"]].to_numpy().T - part[column].to_numpy())
        axes.errorbar(
            part["correlation"] + beside, part[column], errors, color=colour, marker=marker, markersize=3.5,
            capsize=1.5, linewidth=0.9, linestyle=line, markerfacecolor=face,
            label=label if alignment == "shift" else None,
        )  # fmt: skip


def _against_alignment(axes: Axes, cell: pd.DataFrame, column: str, arm: str, places: list, beside: float) -> None:
    """Exactly aligned, ever less, not at all; then with a bowl in every layer, aligned and not."""
    _, colour, marker = ARMS[arm]
    cell = cell[cell["correlation"] == 0]
    keys = cell["alignment"].where(cell["alignment"] != "partial", cell["offset"])
    bowls = len(places) - 2
    for group, line in ((range(bowls), "-"), (range(bowls, len(places)), "none")):
        at = [i for i in group if cell.loc[keys == places[i], column].notna().any()]
        if not at:
            continue
        part = pd.concat([cell[keys == places[i]] for i in at])
        errors = np.abs(part[[f"{column}_low", f"{column}_high"]].to_numpy().T - part[column].to_numpy())
        axes.errorbar(
            np.array(at) + beside, part[column], errors, color=colour, marker=marker, markersize=3.5, capsize=1.5,
            linewidth=0.9, linestyle=line,
        )  # fmt: skip
