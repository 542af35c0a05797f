"""The figures of the study: profiles after each cycle, levels, the tree, lengths, budgets, and neighbours' claims."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from lossatlas import statistics
from lossatlas.figures import style
from lossatlas.figures.style import save
from lossatlas.spanning_tree import merges
from lossatlas.studies.autoneb.tree_tables import lowest

__all__ = ["budget", "cycles", "length", "levels", "neighbours", "save", "tree"]

Arrays = Mapping[str, np.ndarray]

LABELS = {
    "segment": "segment",
    "segment-matched": "segment, matched",
    "bezier": "Bézier curve",
    "polychain": "chain of two segments",
    "neb-fixed": "NEB, all pivots from the start",
    "autoneb": "AutoNEB",
    "autoneb-matched": "AutoNEB, matched",
    "insert-random": "placebo: pivots anywhere",
    "tangent-bisector": "placebo: tangent without losses",
    "pivots-alone": "placebo: pivots alone",
    "mechanical": "placebo: mechanical model",
    "neb-springs": "NEB with springs",
}
COLOURS = {
    "segment": style.GREY,
    "segment-matched": style.BROWN,
    "bezier": style.ORANGE,
    "polychain": style.RED,
    "neb-fixed": style.SKY,
    "autoneb": style.BLUE,
    "autoneb-matched": style.GREEN,
}
FLOOR = 1e-4  # where barriers of (nearly) zero are drawn on a logarithmic axis


# --- loss along one path ----------------------------------------------------------------------------------------------


def cycles(arrays: Arrays) -> Figure:
    """Loss along the first pair's path: after each cycle of AutoNEB, and on the other methods' paths."""
    with style.paper():
        figure, (left, right) = plt.subplots(1, 2, figsize=(style.PAGE, 2.7), layout="constrained", sharey=True)
        count = sum(name.startswith("autoneb_cycle") and name.endswith("_loss") for name in arrays)
        shades = ["0.6", *plt.get_cmap("viridis_r")(np.linspace(0.25, 0.95, max(1, count - 1)))]
        for i in range(count):
            arc, loss = arrays[f"autoneb_cycle{i}_arc"], arrays[f"autoneb_cycle{i}_loss"]
            left.plot(arc, loss, color=shades[i], linewidth=1.0, label=f"cycle {i}" if i else "straight line")
        left.legend(frameon=False, loc="center", bbox_to_anchor=(0.5, 0.65))
        left.set(xlabel="position on the path  s", ylabel="training loss", yscale="log", xlim=(0, 1))
        left.set_title("a  after each cycle of AutoNEB")
        drawn = [arm for arm in COLOURS if f"{arm}_loss" in arrays]
        for arm in drawn:
            right.plot(arrays[f"{arm}_arc"], arrays[f"{arm}_loss"], color=COLOURS[arm], label=LABELS[arm], linewidth=1)
        right.set(xlabel="position on the path  s", xlim=(0, 1))
        right.set_title("b  other paths for the same gradients")
        right.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return figure


# --- levels against width and depth -----------------------------------------------------------------------------------

LEVELS = (
    ("segment", "train_saddle", "segment, training", style.GREY, "v"),
    ("matched", "train_saddle", "segment, matched, training", style.BROWN, "^"),
    ("autoneb", "test_saddle", "saddle, test", style.ORANGE, "D"),
    ("autoneb", "test_minima", "minima, test", style.SKY, "s"),
    ("autoneb", "train_saddle", "saddle, training", style.RED, "o"),
    ("autoneb", "train_minima", "minima, training", style.BLUE, "."),
)
BARRIERS = (
    ("segment", "train_barrier", "segment", style.GREY, "v", "-"),
    ("matched", "train_barrier", "segment, matched", style.BROWN, "^", "-"),
    ("autoneb", "train_barrier", "band", style.RED, "o", "-"),
    ("stopped-autoneb", "train_barrier", "band, minima stopped at one loss", style.PURPLE, "P", "--"),
)


def levels(networks: pd.DataFrame) -> Figure:
    """Losses of minima and saddles, and barriers, against width and depth of perceptrons."""
    with style.paper():
        figure, axes = plt.subplots(2, 2, figsize=(style.PAGE, 5.0), layout="constrained", sharey="row", sharex="col")
        for column, way in enumerate(("width", "depth")):
            rows = _family(networks, way)
            data, other = (rows["data"].iloc[0], "depth" if way == "width" else "width") if len(rows) else ("", "")
            for arm, value, label, colour, marker in LEVELS:
                _line(axes[0, column], rows[rows["arm"] == arm], way, value, label, colour, marker)
            for arm, value, label, colour, marker, dash in BARRIERS:
                _line(axes[1, column], rows[rows["arm"] == arm], way, value, label, colour, marker, dash)
            fixed = f"{other} {rows[other].iloc[0]}" if len(rows) else ""
            axes[0, column].set_title(f"{'ab'[column]}  levels ({data}, {fixed})")
            axes[1, column].set_title(f"{'cd'[column]}  barriers against {way}")
            for axis in axes[:, column]:
                axis.set(yscale="log", xscale="log")
                ticks = sorted(rows[way].unique()) if len(rows) else [1]
                axis.set_xticks(ticks, [str(tick) for tick in ticks])
                axis.xaxis.set_minor_formatter(NullFormatter())
            axes[1, column].set_xlabel("width of the hidden layers" if way == "width" else "hidden layers")
        axes[0, 0].set_ylabel("loss")
        axes[1, 0].set_ylabel("highest training loss − mean of the ends")
        axes[0, 1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        axes[1, 1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return figure


def _family(networks: pd.DataFrame, way: str) -> pd.DataFrame:
    """The perceptrons without BatchNorm that differ in width or in depth alone: the largest such set."""
    other = "depth" if way == "width" else "width"
    mlps = networks[(networks["family"] == "mlp") & (networks["width"] > 0) & ~networks["norm"]]
    sets = [cell for _, cell in mlps.groupby(["data", other])]
    return max(sets, key=lambda cell: cell[way].nunique()).sort_values(way) if sets else mlps


def _line(axes: Axes, rows: pd.DataFrame, way: str, value: str, label: str, colour: str, marker: str, dash="-") -> None:
    if rows.empty:
        return
    y, low, high = (rows[f"{value}{end}"].clip(lower=FLOOR) for end in ("", "_low", "_high"))
    errors = np.nan_to_num([y - low, high - y]).clip(min=0)
    style_of = {"color": colour, "marker": marker, "markersize": 4, "capsize": 2, "linestyle": dash, "label": label}
    axes.errorbar(rows[way], y, errors, elinewidth=0.8, **style_of)


# --- the tree ---------------------------------------------------------------------------------------------------------


def tree(bands: pd.DataFrame, anytime: pd.DataFrame) -> Figure:
    """The first group's disconnectivity graph, the tree's mean saddle against bands, straight against joined starts."""
    with style.paper():
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(style.PAGE, 2.6), layout="constrained")
        _disconnectivity(left, bands[bands["group"] == bands["group"].min()])
        _anytime(middle, anytime)
        _starts(right, bands)
        return figure


def _disconnectivity(axes: Axes, rows: pd.DataFrame) -> None:
    """Each minimum a line up from its loss, joined where the tree joins it."""
    n = int(rows["minima"].iloc[0])
    losses = (
        pd.concat([rows.groupby("i")["train_loss_start"].first(), rows.groupby("j")["train_loss_end"].first()])
        .groupby(level=0)
        .first()
    )
    joins = list(merges(n, lowest(rows.to_dict("records"))))
    order = _leaf_order(joins, n)
    place = {frozenset([m]): (order.index(m), losses[m]) for m in range(n)}
    for first, second, height in joins:
        feet = [place[frozenset(part)] for part in (first, second)]
        for x, y in feet:
            axes.plot([x, x], [y, height], color=style.BLUE, linewidth=1)
        axes.plot([feet[0][0], feet[1][0]], [height, height], color=style.BLUE, linewidth=1)
        place[frozenset(first | second)] = ((feet[0][0] + feet[1][0]) / 2, height)
    axes.scatter([order.index(m) for m in range(n)], [losses[m] for m in range(n)], s=12, color=style.BLUE, zorder=3)
    axes.set_xticks(range(n), [str(m + 1) for m in order])
    axes.set(xlabel="minimum", ylabel="training loss", title="a  disconnectivity graph")


def _leaf_order(joins: Sequence[tuple[set[int], set[int], float]], n: int) -> list[int]:
    """The minima in an order in which the graph's lines do not cross."""
    order = {frozenset([m]): [m] for m in range(n)}
    for first, second, _ in joins:
        order[frozenset(first | second)] = order[frozenset(first)] + order[frozenset(second)]
    return max(order.values(), key=len)


def _anytime(axes: Axes, anytime: pd.DataFrame) -> None:
    """Mean saddle of the tree relative to the star's, mean over groups with Student's limits."""
    for order, colour, marker in (("random", style.GREY, "s"), ("suggested", style.BLUE, "o")):
        rows = anytime[anytime["order"] == order]
        table = rows.pivot_table(index="group", columns="bands", values="mean")
        table = table.div(table.iloc[:, 0], axis=0)
        mean, n = table.mean(), len(table)
        half = statistics.student_quantile(0.975, n - 1) * table.std(ddof=1) / np.sqrt(n) if n > 1 else 0 * mean
        x = np.asarray(table.columns) + (0.08 if order == "random" else 0)
        axes.errorbar(
            x, mean, half, color=colour, marker=marker, markersize=3.5, capsize=2, elinewidth=0.8, label=order
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="bands run", ylabel="mean saddle / that of the star", title="b  anytime curve of the tree")
    axes.set_ylim(None, axes.get_ylim()[1] + 0.35 * np.ptp(axes.get_ylim()))
    axes.legend(frameon=False, title="pairs after the star", title_fontsize=7, loc="upper right")


def _starts(axes: Axes, bands: pd.DataFrame) -> None:
    """Each pair after the star: highest loss from the straight line against that from the joined local paths."""
    later = bands[bands["round"] > 0]
    both = later.pivot_table(index=["group", "order"], columns="start", values="train_loss_saddle").dropna()
    for _, cell in both.groupby("group"):
        axes.scatter(cell["straight"], cell["concatenated"], s=14, color=style.BLUE, alpha=0.7, linewidth=0)
    if len(both):
        low, high = both.min().min() / 1.2, both.max().max() * 1.2
        axes.plot([low, high], [low, high], **style.THRESHOLD)
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
        _decades_only(axes, low, high)
        style.tag(axes, "concatenation worse", (0.04, 0.92), "0.35", xycoords="axes fraction")
        style.tag(axes, "better", (0.96, 0.04), "0.35", xycoords="axes fraction", ha="right")
    axes.set(xlabel="saddle, straight start", ylabel="saddle, concatenated start", title="c  replacement bands")


def _decades_only(axes: Axes, low: float, high: float) -> None:
    """Labels 1, 2 and 5 of each decade, which do not run into each other."""
    ticks = [digit * 10.0**power for power in range(-7, 8) for digit in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_minor_formatter(NullFormatter())


# --- lengths ----------------------------------------------------------------------------------------------------------


def length(level_rows: pd.DataFrame, arms: pd.DataFrame, networks: Mapping[str, str]) -> Figure:
    """Length of the path over the straight distance of its ends. networks: {ensemble: label}, top to bottom."""
    with style.paper():
        bands = level_rows[level_rows["arm"] == "autoneb"]
        lines = [
            (label, bands[bands["ensemble"] == name]["length_ratio"], style.BLUE) for name, label in networks.items()
        ]
        for arm in ("autoneb-matched", "bezier", "polychain"):
            values = arms[(arms["family"] == "budget") & (arms["arm"] == arm)]["length_ratio"]
            lines.append((LABELS[arm], values, COLOURS[arm]))
        figure, axes = plt.subplots(figsize=(style.COLUMN, 0.2 * len(lines) + 0.9), layout="constrained")
        published = {"Bézier curve": (1.30, 2.13), "chain of two segments": (1.64, 3.48)}
        below = len(networks)
        axes.fill_betweenx([-0.5, below - 0.5], 1.5, 2.5, color=style.BLUE, alpha=0.12, linewidth=0)
        for y, (label, values, colour) in enumerate(lines):
            axes.scatter(values, np.full(len(values), y), s=7, color=colour, alpha=0.5, linewidth=0)
            _mean_with_limits(axes, values, y, colour)
            if label in published:
                axes.barh(
                    y, published[label][1] - published[label][0], 0.8, published[label][0], color=colour, alpha=0.15
                )
        axes.axhline(below - 0.5, color="0.7", linewidth=0.6)
        axes.set_yticks(range(len(lines)), [label for label, *_ in lines])
        axes.set(ylim=(len(lines) - 0.5, -0.5), xlim=(0.95, None), xlabel="length / straight distance")
        axes.set_title("published ranges shaded", fontweight="normal")
        return figure


def _mean_with_limits(axes: Axes, values: pd.Series, y: float, colour: str) -> None:

    n, mean = len(values), values.mean()
    half = statistics.student_quantile(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else 0.0
    axes.errorbar([mean], [y], xerr=[half], color=colour, marker="|", markersize=8, capsize=2, elinewidth=1.2)


# --- what a budget buys -----------------------------------------------------------------------------------------------


def budget(arms: pd.DataFrame, methods: pd.DataFrame, cycle_rows: pd.DataFrame) -> Figure:
    """Highest training loss of every method for equal sample gradients; saddle against gradients for two schedules."""
    with style.paper():
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(style.PAGE, 3.1), layout="constrained", gridspec_kw={"width_ratios": (1.25, 1)}
        )
        _methods(left, arms, methods)
        _schedules(right, cycle_rows)
        return figure


def _methods(axes: Axes, arms: pd.DataFrame, methods: pd.DataFrame) -> None:
    shown = methods[methods["family"].isin(["budget", "placebos"])].sort_values("geometric", ascending=False)
    for y, (_, method) in enumerate(shown.iterrows()):
        rows = arms[(arms["family"] == method["family"]) & (arms["arm"] == method["arm"])]
        colour = COLOURS.get(method["arm"], "0.55")
        axes.scatter(rows["train_loss_saddle"], np.full(len(rows), y), s=8, color=colour, alpha=0.5, linewidth=0)
        limits = np.nan_to_num(
            [[method["geometric"] - method["geometric_low"]], [method["geometric_high"] - method["geometric"]]]
        )
        axes.errorbar(
            [method["geometric"]], [y], xerr=limits, color=colour, marker="|", markersize=8, capsize=2, elinewidth=1.2
        )
    ends = arms[arms["arm"] == "segment"][["train_loss_start", "train_loss_end"]].max(axis=1).mean()
    axes.axvline(ends, **style.THRESHOLD)
    style.tag(axes, "higher end ", (ends, 0.03), "0.35", xycoords=("data", "axes fraction"), rotation=90, ha="right")
    axes.set_yticks(range(len(shown)), [LABELS.get(arm, arm) for arm in shown["arm"]])
    axes.set(xscale="log", xlabel="highest training loss on the path", ylim=(-0.6, len(shown) - 0.4))
    axes.set_title("a  equal sample gradients")


def _schedules(axes: Axes, cycle_rows: pd.DataFrame) -> None:
    """Lowest saddle so far against sample gradients: each pair thin, the geometric mean of each cycle thick."""
    rows = cycle_rows[(cycle_rows["family"] == "published") & (cycle_rows["cycle"] > 0)]
    for arm, label, colour, marker in (
        ("published", "published schedule", style.RED, "s"),
        ("ours", "ours", style.BLUE, "o"),
    ):
        mine = rows[rows["arm"] == arm].sort_values(["pair", "cycle"]).copy()
        mine["best"] = mine.groupby("pair")["saddle"].cummin()
        for _, pair in mine.groupby("pair"):
            axes.plot(pair["sample_gradients"], pair["best"], color=colour, alpha=0.3, linewidth=0.7)
        mean = np.exp(np.log(mine[["sample_gradients", "best"]]).groupby(mine["cycle"]).mean())
        axes.plot(mean["sample_gradients"], mean["best"], color=colour, marker=marker, markersize=3.5, label=label)
        if arm == "published" and len(mean):
            final, whole = mean["best"].iloc[-1], mean["sample_gradients"].iloc[-1]
            axes.axhline(1.05 * final, **style.THRESHOLD)
            axes.axvline(0.1 * whole, **style.THRESHOLD)
            style.tag(axes, " a tenth", (0.1 * whole, 0.03), "0.35", xycoords=("data", "axes fraction"))
            style.tag(axes, "+ 5 %", (0.98, 1.07 * final), "0.35", xycoords=("axes fraction", "data"), ha="right")
    axes.set(xscale="log", yscale="log", xlabel="sample gradients, looks included", ylabel="lowest saddle so far")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title("b  published schedule and ours")
    axes.legend(frameon=False, loc="upper right")


# --- what the neighbours of the source claim --------------------------------------------------------------------------

KEEP_COLOURS = {1.0: style.GREY, 0.8: style.BLUE, 0.5: style.GREEN}
TERMS = {"regularised": "loss + penalty", "loss": "loss", "penalty": "penalty"}
ENSEMBLES = (
    ("geometric", "cycles of the rate", style.BLUE, "o"),
    ("constant", "constant rate", style.ORANGE, "s"),
    ("snapshots", "end of the training", style.GREY, "v"),
)
# Leads of the README's table (Garipov et al.), by budgets: VGG-16, PreResNet-164, WRN-28-10.
PUBLISHED_LEADS = {1: (2.1, 1.9, 1.5), 2: (1.3, 0.8, 0.5), 3: (1.0, 0.1, 0.2)}


def neighbours(profiles: Arrays, penalised: pd.DataFrame, ensembles: pd.DataFrame) -> Figure:
    """Paths through dropped networks, curves with a penalty, and ensembles collected from one training."""
    with style.paper():
        figure, axes = plt.subplots(1, 3, figsize=(style.PAGE, 2.7), layout="constrained")
        _dropped(axes[0], profiles)
        _penalised(axes[1], penalised)
        _leads(axes[2], ensembles)
        return figure


def _dropped(axes: Axes, profiles: Arrays) -> None:
    for share in [name.removesuffix("_dropped_arc") for name in profiles if name.endswith("_dropped_arc")]:
        keep = float(share)
        label = "no dropout" if keep == 1 else f"dropout, {keep:g} stay"
        for path, dash in (("dropped", "-"), ("segment", "--")):
            x, y = profiles[f"{share}_{path}_arc"], profiles[f"{share}_{path}_loss"]
            colour, text = KEEP_COLOURS.get(keep, style.PURPLE), label if path == "dropped" else None
            axes.plot(x, y, dash, color=colour, linewidth=1, label=text)
    axes.set(yscale="log", xlim=(0, 1), xlabel="position on the path  s", ylabel="training loss")
    axes.set_ylim(None, axes.get_ylim()[1] * 30)
    axes.plot([], [], "--", color="0.35", linewidth=1, label="their straight segments")
    axes.set_title("a  through dropped networks")
    axes.legend(frameon=False, loc="upper center")


def _penalised(axes: Axes, penalised: pd.DataFrame) -> None:
    rows = penalised[penalised["curve"] == "bezier"]
    decays = sorted(rows["weight_decay"].unique())
    axes.axvspan(0.5, 0.7, color=style.GREY, alpha=0.15, linewidth=0)
    for i, decay in enumerate(decays):
        own, colour = rows[rows["weight_decay"] == decay], (style.BLUE, style.ORANGE)[i % 2]
        for place, term in enumerate(TERMS):
            values, y = own[f"{term}_middle"] / own[f"{term}_ends"], place + 0.25 * (i - (len(decays) - 1) / 2)
            axes.scatter(values, np.full(len(values), y), s=8, color=colour, alpha=0.5, linewidth=0)
            _mean_with_limits(axes, values, y, colour)
        axes.plot([], [], color=colour, label=f"decay {decay:g}")
    axes.axvline(1, **style.THRESHOLD)
    axes.set_yticks(range(len(TERMS)), TERMS.values())
    axes.set(ylim=(len(TERMS) - 0.5, -1.4), xlabel="half-way / ends")
    style.tag(axes, "published", (0.6, 0.03), "0.35", xycoords=("data", "axes fraction"), ha="center")
    axes.set_title("b  curves with a penalty")
    axes.legend(frameon=False, loc="upper left", handlelength=1)


def _leads(axes: Axes, ensembles: pd.DataFrame) -> None:
    table = 100 * ensembles.pivot_table(index=["budgets", "group"], columns="arm", values="test_accuracy")
    for i, (arm, label, colour, marker) in enumerate(ENSEMBLES):
        lead = (table[arm] - table["independent"]).groupby("budgets")
        mean, n = lead.mean(), lead.size().iloc[0]
        half = statistics.student_quantile(0.975, n - 1) * lead.std() / np.sqrt(n) if n > 1 else 0 * mean
        x = mean.index + 0.09 * (i - 1)
        axes.errorbar(x, mean, half, color=colour, marker=marker, markersize=4, capsize=2, elinewidth=0.8, label=label)
    for budgets, leads in PUBLISHED_LEADS.items():
        known = {"marker": "o", "s": 12, "facecolor": "none", "edgecolor": "0.35", "linewidth": 0.7}
        axes.scatter([budgets + 0.25] * len(leads), leads, label="published" if budgets == 1 else None, **known)
    axes.axhline(0, **style.THRESHOLD)
    axes.set_xticks([1, 2, 3])
    axes.set(xlabel="budgets (trainings)", ylabel="lead in test accuracy (points)", xlim=(0.7, 3.5))
    axes.set_ylim(None, axes.get_ylim()[1] + 0.45 * np.ptp(axes.get_ylim()))
    axes.set_title("c  geometric ensembles")
    axes.legend(frameon=False, loc="upper right")
