"""From the study's tables to the numbers that the claims are judged by.

The unit is a disjoint pair of minima where one network is spoken of, a network where several are, a group of minima for
trees, a trained network for controls: never an edge of a tree. Intervals are Student's, 95 % unless a test of
equivalence asks for 90 %.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import nan
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lossatlas import statistics
from lossatlas.seeds import seed
from lossatlas.statistics import Interval
from lossatlas.studies.autoneb.tree_tables import anytime_table, lowest, mean_tree, ultrametric_violations

SMALLEST_BARRIER = 1e-4  # smaller ones, and those below the ends, count as this when logarithms are taken
INSIDE = 1e-3  # barriers.TOLERANCE: what a refinement may still add, as a share of the loss
CHEAP = 1.05  # how near the published schedule's saddle counts as the same
LOCAL = 1.1  # how much higher than a detour a band must lie, since of three different numbers one is the highest
PATIENCE = 2  # bands of the stop rule
RANDOM_ORDERS = 50

Found = Interval | None


@dataclass(frozen=True, eq=False)
class Tables:
    """What the jobs wrote. levels has a column `ensemble`, arms and cycles have `family`; settings: the config."""

    levels: pd.DataFrame
    tree: pd.DataFrame
    arms: pd.DataFrame
    cycles: pd.DataFrame
    controls: pd.DataFrame
    stability: pd.DataFrame
    surfaces: pd.DataFrame
    settings: Mapping[str, Any]

    @property
    def bands(self) -> pd.DataFrame:
        """Bands between fully trained minima."""
        return self.levels[self.levels["arm"] == "autoneb"]

    def arm(self, arm: str) -> pd.DataFrame:
        return self.levels[self.levels["arm"] == arm]


def measure(tables: Tables) -> dict[str, Interval]:
    """{claim id: measured interval}; claims whose runs are absent from this tier are left out."""
    found = {f"autoneb.{name}": function(tables) for name, function in MEASURES.items()}
    return {name: interval for name, interval in found.items() if interval is not None and interval.n}


# --- tables for figures and readers -----------------------------------------------------------------------------------


def networks_table(tables: Tables) -> pd.DataFrame:
    """By network and arm: barriers and levels, means over pairs with Student's limits."""
    rows = []
    about = ["data", "architecture", "family", "width", "depth", "dim"]
    for (name, arm), cell in tables.levels.groupby(["ensemble", "arm"], sort=True):
        values = {
            "train_minima": (cell["train_loss_start"] + cell["train_loss_end"]) / 2,
            "test_minima": (cell["test_loss_start"] + cell["test_loss_end"]) / 2,
            "train_saddle": cell["train_loss_saddle"],
            "test_saddle": cell["test_loss_saddle"],
            "train_barrier": cell["train_loss_over_mean"],
            "test_barrier": cell["test_loss_over_mean"],
            "test_error_minima": (cell["test_error_start"] + cell["test_error_end"]) / 2,
            "test_error_saddle": cell["test_error_saddle"],
            "length_ratio": cell["length_ratio"],
        }
        row = {"ensemble": name, "arm": arm, **cell[about].iloc[0].to_dict(), "pairs": len(cell)}
        row["norm"] = name.endswith("bn")
        for key, value in values.items():
            found = _mean(value)
            row |= {key: found.value, f"{key}_low": found.low, f"{key}_high": found.high}
        rows.append(row)
    return pd.DataFrame(rows)


def methods_table(tables: Tables) -> pd.DataFrame:
    """By family and arm: highest losses and cost, and the paired difference from AutoNEB (`autoneb` of the budget)."""
    rows = []
    reference = _paired_column(tables, "budget", "autoneb", "train_loss_saddle")
    for (family, arm), cell in tables.arms.groupby(["family", "arm"], sort=False):
        saddle = cell.set_index("pair")["train_loss_saddle"]
        mean, logs = _mean(saddle), _mean(np.log(saddle))
        row = {"family": family, "arm": arm, "pairs": len(cell), "learning_rate": cell["learning_rate"].iloc[0]}
        row |= {"saddle": mean.value, "saddle_low": mean.low, "saddle_high": mean.high}
        row |= {"geometric": np.exp(logs.value), "geometric_low": np.exp(logs.low), "geometric_high": np.exp(logs.high)}
        row |= {name: float(cell[name].mean()) for name in ("sample_gradients", "length_ratio", "pivots", "spike")}
        row |= {
            "test_error_saddle": float(cell["test_error_saddle"].mean()),
            "ok": int((cell["outcome"] == "ok").sum()),
        }
        row |= {"difference": nan, "difference_low": nan, "difference_high": nan}
        if family != "norm" and set(saddle.index) <= set(reference.index):
            change = _mean(saddle - reference[saddle.index])
            row |= {"difference": change.value, "difference_low": change.low, "difference_high": change.high}
        rows.append(row)
    return pd.DataFrame(rows)


def anytime(tables: Tables) -> pd.DataFrame:
    """By group and number of bands: mean and highest saddle of the tree, for suggested pairs and for random ones."""
    rows = []
    for number, (n, saddles, orders) in enumerate(_orders(tables)):
        rows += [{"group": number, "order": "suggested", **row} for row in anytime_table(n, saddles)]
        drawn = [anytime_table(n, {pair: saddles[pair] for pair in order}) for order in orders]
        for step in zip(*drawn, strict=True):
            means = {key: float(np.mean([row[key] for row in step])) for key in ("mean", "highest")}
            rows.append({"group": number, "order": "random", "bands": step[0]["bands"], **means})
    return pd.DataFrame([row for row in rows if np.isfinite(row["mean"])])


def _orders(tables: Tables) -> list[tuple[int, dict, list]]:
    """By group: its minima, its saddles as they ran, and orders that draw the pairs after the star at random."""
    found = []
    for number, (n, rows) in enumerate(_groups(tables)):
        saddles = lowest(rows)
        star, rest = list(saddles)[: n - 1], list(saddles)[n - 1 :]
        rng = _rng(f"random-order-{number}")
        drawn = [[*star, *(rest[i] for i in rng.permutation(len(rest)))] for _ in range(RANDOM_ORDERS)]
        found.append((n, saddles, drawn))
    return found


# --- small helpers ----------------------------------------------------------------------------------------------------


def _mean(values: Iterable[float], level: float = 0.95) -> Interval:
    """Student's interval of what is finite; `n` counts it, and the tables have the rest and its `outcome`."""
    values = np.asarray(list(values), float)
    return statistics.t_interval(values[np.isfinite(values)], level)


def _t(values: Iterable[float], level: float = 0.95) -> Found:
    """The same, None where nothing is finite."""
    found = _mean(values, level)
    return found if found.n else None


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(seed("autoneb", "bootstrap", name))


def _by_network(frame: pd.DataFrame, values: pd.Series, level: float = 0.95) -> Found:
    """Student's interval over networks, each the mean of its pairs."""
    return _t(values.groupby(frame["ensemble"]).mean(), level)


def _paired_column(tables: Tables, family: str, arm: str, column: str) -> pd.Series:
    rows = tables.arms[(tables.arms["family"] == family) & (tables.arms["arm"] == arm)]
    return rows.set_index("pair")[column]


def _difference(
    first: tuple[str, str], second: tuple[str, str], column: str = "train_loss_saddle", level: float = 0.95
) -> Callable[[Tables], Found]:
    """Paired difference of a column between two arms, each (family, arm)."""

    def difference(tables: Tables) -> Found:
        change = _paired_column(tables, *first, column) - _paired_column(tables, *second, column)
        return _t(change.dropna(), level)

    return difference


def _relative(first: tuple[str, str], second: tuple[str, str]) -> Callable[[Tables], Found]:
    """The difference as a share of the segment's barrier, with the interval of two one-sided tests."""

    def difference(tables: Tables) -> Found:
        change = _paired_column(tables, *first, "train_loss_saddle") - _paired_column(
            tables, *second, "train_loss_saddle"
        )
        barrier = _paired_column(tables, "budget", "segment", "train_loss_over_mean")
        return _t((change / barrier).dropna(), 0.90)

    return difference


def _surface(quantity: str, reduce: Callable[[pd.Series], float] = max) -> Callable[[Tables], Found]:
    """A number from the analytic surfaces."""

    def value(tables: Tables) -> Found:
        rows = tables.surfaces[tables.surfaces["quantity"] == quantity]
        return statistics.exact(reduce(rows["value"]), len(rows)) if len(rows) else None

    return value


# --- trends with width and depth --------------------------------------------------------------------------------------


def family_of(levels: pd.DataFrame, way: str) -> pd.DataFrame:
    """The perceptrons that differ in `way` (width or depth) alone: the largest such set, in the order of `way`.

    Networks that are too narrow to fit the data are no part of a trend: mean error of the minima at least 1 %.
    """
    mlps = levels[(levels["family"] == "mlp") & (levels["width"] > 0) & ~levels["ensemble"].str.endswith("bn")]
    fits = mlps[mlps["arm"] == "segment"].groupby("ensemble")["train_error_start"].mean() < 0.01
    mlps = mlps[mlps["ensemble"].isin(fits[fits].index)]
    other = "depth" if way == "width" else "width"
    sets = [cell for _, cell in mlps.groupby(["data", other]) if cell[way].nunique() > 1]
    return max(sets, key=lambda cell: cell[way].nunique()).sort_values(way) if sets else mlps.iloc[:0]


def _blocks(levels: pd.DataFrame, way: str, arm: str, column: str) -> pd.DataFrame:
    """Values by block (row, the running number of a pair) and level of `way` (column); only complete blocks."""
    rows = family_of(levels, way)
    rows = rows[rows["arm"] == arm]
    return rows.pivot_table(index="pair", columns=way, values=column).dropna() if len(rows) else pd.DataFrame()


def _rank_trend(way: str, arm: str, column: str) -> Callable[[Tables], Found]:
    def trend(tables: Tables) -> Found:
        table = _blocks(tables.levels, way, arm, column)
        if table.shape[0] < 1 or table.shape[1] < 3:
            return None
        found = [stats.spearmanr(table.columns, row).statistic for row in table.to_numpy()]
        return statistics.clustered_mean(found, list(table.index), (-1.0, 1.0))

    return trend


def _slopes(levels: pd.DataFrame, way: str, arm: str, since: float = 0.0) -> np.ndarray:
    """Slope of log barrier on log `way` in each block."""
    table = _blocks(levels, way, arm, "train_loss_over_mean")
    table = table[[level for level in table.columns if level >= since]]
    if table.shape[0] < 1 or table.shape[1] < 2:
        return np.array([])
    x = np.log(np.asarray(table.columns, float))
    return np.array([np.polyfit(x, np.log(np.maximum(row, SMALLEST_BARRIER)), 1)[0] for row in table.to_numpy()])


def _slope(way: str, arm: str = "autoneb") -> Callable[[Tables], Found]:
    return lambda tables: _t(_slopes(tables.levels, way, arm))


def slope_difference(tables: Tables) -> Found:
    width, depth = (_slopes(tables.levels, way, "autoneb") for way in ("width", "depth"))
    return _t(depth - width) if len(width) == len(depth) else None


_Q_COLUMNS = ("train_loss_start", "train_loss_end", "test_loss_start", "test_loss_end", "train_loss_saddle")


def _q(columns: Mapping[str, np.ndarray], chosen: np.ndarray | slice = slice(None)) -> float:
    """(saddle - minima's training loss) / (minima's test loss - their training loss), of means over the chosen rows."""
    a, b, c, d, saddle = (columns[name][chosen].mean() for name in _Q_COLUMNS)
    train, test = (a + b) / 2, (c + d) / 2
    return float((saddle - train) / (test - train))


def _depths(tables: Tables) -> dict[str, np.ndarray]:
    """Columns of the bands of the perceptrons that differ in depth alone."""
    rows = family_of(tables.levels, "depth")
    rows = rows[rows["arm"] == "autoneb"]
    return {name: rows[name].to_numpy() for name in (*_Q_COLUMNS, "depth")}


def _level(which: Callable) -> Callable[[Tables], Found]:
    """q of the shallowest (min) or the deepest (max) perceptron, bootstrapped over pairs."""

    def level(tables: Tables) -> Found:
        columns = _depths(tables)
        if not len(columns["depth"]):
            return None
        chosen = columns["depth"] == which(columns["depth"])
        return statistics.bootstrap(_q, {name: value[chosen] for name, value in columns.items()}, _rng("level"))

    return level


def level_trend(tables: Tables) -> Found:
    columns = _depths(tables)
    if len(set(columns["depth"])) < 2:
        return None
    low, high = columns["depth"].min(), columns["depth"].max()

    def difference(draw: Mapping[str, np.ndarray]) -> float:
        return _q(draw, draw["depth"] == low) - _q(draw, draw["depth"] == high)

    return statistics.bootstrap(difference, columns, _rng("level-trend"), strata=columns["depth"].tolist())


# --- levels -----------------------------------------------------------------------------------------------------------


def saddle_networks(tables: Tables) -> Found:
    bands = tables.bands
    inside = bands["train_loss_over_ends"] > INSIDE * bands["train_loss_saddle"]
    return statistics.wilson(int(inside.sum()), len(inside))


def _test_rise(arm: str, column: str, level: float) -> Callable[[Tables], Found]:
    def rise(tables: Tables) -> Found:
        rows = tables.arm(arm)
        return _by_network(rows, 100 * rows[column], level)

    return rise


def _cifar(column: str, scale: float = 100.0) -> Callable[[Tables], Found]:
    def value(tables: Tables) -> Found:
        rows = tables.bands[tables.bands["data"] == "cifar10"]
        return _t(scale * rows[column]) if len(rows) else None

    return value


def _tree_of_cifar(column: str) -> Callable[[Tables], Found]:
    def value(tables: Tables) -> Found:
        if _network(tables, "tree")["data"] != "cifar10":
            return None
        return _t(_tree_means(tables)[column])

    return value


def _network(tables: Tables, part: str) -> Mapping[str, Any]:
    name = tables.settings[part]["network"]
    return next(network for network in tables.settings["networks"] if network["name"] == name)


def _tree_means(tables: Tables) -> pd.DataFrame:
    """By group: mean training loss of the minima and mean saddle over the edges of the tree."""
    rows = []
    for _, group in tables.tree.groupby("group"):
        minima = pd.concat(
            [
                group[["i", "train_loss_start"]].set_axis(["m", "loss"], axis=1),
                group[["j", "train_loss_end"]].set_axis(["m", "loss"], axis=1),
            ]
        )
        losses = minima.groupby("m")["loss"].first()
        rows.append({"minima": losses.mean(), "saddles": mean_tree(len(losses), lowest(group))})
    return pd.DataFrame(rows)


def d_ratio(tables: Tables) -> Found:
    found = _tree_means(tables)
    return _t(found["saddles"] / found["minima"])


def d_orders(tables: Tables) -> Found:
    rows = tables.bands[tables.bands["family"] == "resnet"]
    rows = rows[rows["dim"] == rows["dim"].max()]
    return _t(np.log10(rows["initial_loss"] / rows["train_loss_saddle"])) if len(rows) else None


def crossing(tables: Tables) -> Found:
    return _by_network(tables.bands, tables.bands["crossing"])


def _mean_column(column: str) -> Callable[[Tables], Found]:
    return lambda tables: _by_network(tables.bands, tables.bands[column])


def family_ensemble(tables: Tables) -> Found:
    bands = tables.bands
    return _by_network(bands, 100 * (bands["ends_ensemble_error"] - bands["ensemble_error"]))


def shared_batch_signs(tables: Tables) -> Found:
    bands = tables.bands
    return _by_network(bands, bands["signs_shared"] - bands["signs_own"])


def control_narrow(tables: Tables) -> Found:
    bands = tables.bands[(tables.bands["family"] == "mlp") & (tables.bands["width"] > 0)]
    return _t(bands[bands["width"] == bands["width"].min()]["train_loss_over_mean"]) if len(bands) else None


# --- segments and matching --------------------------------------------------------------------------------------------


def half_barrier(tables: Tables) -> Found:
    rows = tables.arm("segment")
    rows = rows[rows["train_loss_over_line"] > SMALLEST_BARRIER]
    return _by_network(rows, (rows["train_loss_over_line"] - rows["half"]) / rows["train_loss_over_line"])


def _width_grid(tables: Tables) -> pd.DataFrame:
    """Mean barrier and error of the segments of perceptrons that differ in width alone, too narrow ones included."""
    rows = tables.arm("segment")
    rows = rows[(rows["family"] == "mlp") & (rows["width"] > 0) & ~rows["ensemble"].str.endswith("bn")]
    sets = [cell for _, cell in rows.groupby(["data", "depth"]) if cell["width"].nunique() > 2]
    if not sets:
        return pd.DataFrame()
    cell = max(sets, key=lambda cell: cell["width"].nunique())
    columns = {"barrier": ("train_loss_over_line", "mean"), "error": ("train_error_start", "mean")}
    return cell.groupby("width").agg(**columns)


def width_peak(tables: Tables) -> Found:
    grid = _width_grid(tables)
    if grid.empty or not (grid["error"] == 0).any():
        return None
    fits = int(np.argmax((grid["error"] == 0).to_numpy()))
    return statistics.exact(abs(int(grid["barrier"].to_numpy().argmax()) - fits), len(grid))


def width_falls(tables: Tables) -> Found:
    grid = _width_grid(tables)
    return None if grid.empty else _t(_slopes(tables.levels, "width", "segment", float(grid["barrier"].idxmax())))


def _matching_ratio(select: Callable[[pd.DataFrame], pd.Series]) -> Callable[[Tables], Found]:
    def ratio(tables: Tables) -> Found:
        rows = tables.levels[select(tables.levels)]
        if rows.empty:
            return None
        before, after = (
            rows[rows["arm"] == arm].set_index(["ensemble", "pair"])["train_loss_over_line"]
            for arm in ("segment", "matched")
        )
        return _t((after / before).dropna())

    return ratio


def _widest(levels: pd.DataFrame) -> pd.Series:
    rows = family_of(levels, "width")
    return (
        levels["ensemble"].isin(rows[rows["width"] == rows["width"].max()]["ensemble"])
        if len(rows)
        else levels["arm"].isna()
    )


def _mnist_3x512(levels: pd.DataFrame) -> pd.Series:
    return (levels["data"] == "mnist") & (levels["architecture"] == "mlp-512-512-512")


def _copies(control: str, path: str, column: str, reduce: Callable) -> Callable[[Tables], Found]:
    def value(tables: Tables) -> Found:
        rows = tables.controls[(tables.controls["control"] == control) & (tables.controls["path"] == path)]
        return statistics.exact(reduce(rows[column]), len(rows)) if len(rows) else None

    return value


def _control(control: str, path: str, column: str = "train_loss_over_ends") -> Callable[[Tables], Found]:
    def value(tables: Tables) -> Found:
        rows = tables.controls[(tables.controls["control"] == control) & (tables.controls["path"] == path)]
        return _t(rows[column])

    return value


def control_rescaled(tables: Tables) -> Found:
    rows = tables.controls[(tables.controls["control"] == "rescaled") & (tables.controls["path"] == "explicit")]
    return statistics.exact((rows["train_loss_over_ends"] / (rows["train_loss_start"] + 1e-3)).max(), len(rows))


def _recovered(column: str, reduce: Callable, deep: bool | None = None) -> Callable[[Tables], Found]:
    def value(tables: Tables) -> Found:
        rows = tables.controls[tables.controls["control"].str.startswith("copy-")]
        if deep is not None:
            rows = rows[(rows["control"] != "copy-1") == deep]
        return statistics.exact(reduce(rows[column]), len(rows)) if len(rows) else None

    return value


# --- trees ------------------------------------------------------------------------------------------------------------


def _groups(tables: Tables, starts: Sequence[str] = ("straight", "concatenated")) -> list[tuple[int, pd.DataFrame]]:
    rows = tables.tree[tables.tree["start"].isin(starts)]
    return [(int(cell["minima"].iloc[0]), cell) for _, cell in rows.groupby("group")]


def local_meps(tables: Tables) -> Found:
    shares = []
    for n, rows in _groups(tables, ["straight"]):
        saddles = lowest(rows)
        triples = [t for t in combinations(range(n), 3) if all(p in saddles for p in combinations(t, 2))]
        heights = [sorted(saddles[pair] for pair in combinations(triple, 2)) for triple in triples]
        worse = [highest > LOCAL * second for _, second, highest in heights]  # only the highest can exceed both others
        if triples:
            shares.append(np.mean(worse))
    return statistics.clustered_mean(shares, range(len(shares)), (0.0, 1.0)) if shares else None


def ultrametric(tables: Tables) -> Found:
    groups = _groups(tables)
    analytic = tables.surfaces[tables.surfaces["quantity"] == "ultrametric_violations"]["value"]
    return statistics.exact(
        sum(ultrametric_violations(n, lowest(rows)) for n, rows in groups) + analytic.sum(), len(groups)
    )


def tree_improves(tables: Tables) -> Found:
    falls = []
    for n, rows in _groups(tables):
        falls.append(mean_tree(n, lowest(rows[rows["round"] == 0])) - mean_tree(n, lowest(rows)))
    return _t(falls)


def tree_never_rises(tables: Tables) -> Found:
    rises = 0
    for n, rows in _groups(tables):
        means = [row["mean"] for row in anytime_table(n, lowest(rows)) if np.isfinite(row["mean"])]
        rises += int((np.diff(means) > 0).sum())
    return statistics.exact(rises, len(_groups(tables)))


def concatenated_start(tables: Tables) -> Found:
    later = tables.tree[tables.tree["round"] > 0]
    both = later.pivot_table(index=["group", "order"], columns="start", values="train_loss_saddle").dropna()
    if both.empty:
        return None
    return _t((both["straight"] - both["concatenated"]).groupby("group").mean())


def stop_rule(tables: Tables) -> Found:
    gains = []
    for n, rows in _groups(tables):
        means = [row["mean"] for row in anytime_table(n, lowest(rows)) if np.isfinite(row["mean"])]
        if len(means) < 2:
            continue
        stop, idle = len(means) - 1, 0
        for i in range(1, len(means)):
            idle = idle + 1 if means[i] == means[i - 1] else 0
            if idle >= PATIENCE:
                stop = i
                break
        saved = (len(means) - 1 - stop) / (len(means) - 1)
        fall = means[0] - means[-1]
        gains.append(saved - ((means[stop] - means[-1]) / fall if fall > 0 else 0.0))
    return _t(gains)


def suggestions_beat_random(tables: Tables) -> Found:
    table = anytime(tables)
    means = table.groupby(["group", "order"])["mean"].mean().unstack("order")
    complete = table.groupby("group")["bands"].nunique() > 2
    return _t((means["random"] - means["suggested"])[complete])


# --- budgets ----------------------------------------------------------------------------------------------------------


def cheap_saddle(tables: Tables) -> Found:
    ours, published = (_paired_column(tables, "published", arm, "train_loss_saddle") for arm in ("ours", "published"))
    found = _t(np.log(ours / published).dropna())
    return found and Interval(*(float(np.exp(v)) for v in (found.value, found.low, found.high)), found.n)


def cheap_gradients(tables: Tables) -> Found:
    ours, published = (_paired_column(tables, "published", arm, "sample_gradients") for arm in ("ours", "published"))
    return _t((ours / published).dropna())


def cheap_gradients_to_saddle(tables: Tables) -> Found:
    cycles = tables.cycles[tables.cycles["family"] == "published"]
    shares = []
    for _, rows in cycles.groupby("pair"):
        published, ours = (rows[rows["arm"] == arm].sort_values("cycle") for arm in ("published", "ours"))
        near = ours[ours["saddle"] <= CHEAP * published["saddle"].min()]
        whole = published["sample_gradients"].max()
        shares.append(float(near["sample_gradients"].iloc[0] / whole) if len(near) else 1.0)
    return _t(shares)


def cost_of_an_edge(tables: Tables) -> Found:
    network = _network(tables, "comparison")
    rows = {"digits": 1437, "mnist1d": 4000, "cifar10": 50000, "mnist": 60000, "fashion_mnist": 60000}[network["data"]]
    minimum = network["epochs"] * (rows // network["batch_size"]) * network["batch_size"]
    return _t(_paired_column(tables, "published", "published", "sample_gradients") / minimum)


def cost_of_a_published_edge(_: Tables) -> Found:
    return statistics.exact(248_000 * 512 / (64_000 * 128), 1)


def threshold_pivots(tables: Tables) -> Found:
    return _difference(("released", "autoneb-13c8ba8"), ("released", "corrected-threshold"), "pivots")(tables)


def _spike(arm: str) -> Callable[[Tables], Found]:
    return lambda tables: _t(_paired_column(tables, "released", arm, "spike"))


def last_end_moves(tables: Tables) -> Found:
    return _t(_paired_column(tables, "released", "autoneb-2018", "end_shift"))


def _curve(arm: str, column: str, divided: str | None = None, scale: float = 1.0) -> Callable[[Tables], Found]:
    def value(tables: Tables) -> Found:
        values = scale * _paired_column(tables, "budget", arm, column)
        return _t(values / _paired_column(tables, "budget", arm, divided) if divided else values)

    return value


def g_interior_nll(tables: Tables) -> Found:
    lowest_loss = _paired_column(tables, "budget", "bezier", "train_loss_lowest")
    ends = (
        _paired_column(tables, "budget", "bezier", "train_loss_start")
        + _paired_column(tables, "budget", "bezier", "train_loss_end")
    ) / 2
    return _t(lowest_loss / ends)


# --- stability --------------------------------------------------------------------------------------------------------


def instability_init(tables: Tables) -> Found:
    rows = tables.stability[tables.stability["branch"] == 0]
    return _t(100 * rows.groupby("initialisation")["test_error_over_mean"].mean())


def instability_falls(tables: Tables) -> Found:
    means = tables.stability.pivot_table(
        index="initialisation", columns="branch", values="train_loss_over_line", aggfunc="mean"
    )
    if means.shape[1] < 3:
        return None
    found = [stats.spearmanr(means.columns, row).statistic for row in means.to_numpy()]
    found = [value for value in found if value == value]
    return statistics.clustered_mean(found, range(len(found)), (-1.0, 1.0)) if found else None


BUDGET, RELEASED = ("budget", "autoneb"), ("released", "autoneb-13c8ba8")
SWITCHES = ("tangent", "minibatch", "decay", "spacing", "threshold", "normaliser")
NORM = ("norm", "autoneb-13c8ba8")

MEASURES: dict[str, Callable[[Tables], Found]] = {
    "minimax": _surface("saddle_error"),
    "saddle_gradient": _surface("gradient_norm"),
    "saddle_index": _surface("negative_curvatures", lambda v: max(abs(v - 1))),
    "small_springs": _surface("small_springs_violations", sum),
    "large_springs_length": _surface("large_springs_length"),
    "large_springs_saddle": _surface("large_springs_saddle"),
    "neb_no_tightening": _surface("neb_saddle_change"),
    "mechanical_tightens": _surface("mechanical_saddle_change"),
    "springs_or_redistribution": _surface("springs_or_redistribution"),
    "bump_recall": _surface("bump_recall", min),
    "local_mep_eggcarton": _surface("eggcarton_excess", min),
    "saddle_networks": saddle_networks,
    "springs_or_redistribution_networks": _relative(("placebos", "neb-springs"), ("budget", "neb-fixed")),
    "inserts_where_needed_fixed": _difference(("budget", "neb-fixed"), BUDGET),
    "inserts_where_needed_random": _difference(("placebos", "insert-random"), BUDGET),
    "local_meps": local_meps,
    "ultrametric": ultrametric,
    "tree_improves": tree_improves,
    "tree_never_rises": tree_never_rises,
    "concatenated_start": concatenated_start,
    "stop_rule": stop_rule,
    "suggestions_beat_random": suggestions_beat_random,
    **{
        f"trend_{way}_{name}": _rank_trend(way, arm, column)
        for way in ("width", "depth")
        for name, arm, column in (
            ("train", "autoneb", "train_loss_over_mean"),
            ("test", "autoneb", "test_loss_over_mean"),
            ("stopped", "stopped-autoneb", "train_loss_over_mean"),
        )
    },
    "test_error_flat": _test_rise("autoneb", "test_error_over_ends", 0.90),
    "test_error_segment": _test_rise("segment", "test_error_over_ends", 0.95),
    "family_ensemble": family_ensemble,
    "family_disagreement": _mean_column("disagreement"),
    "d_minima": _tree_of_cifar("minima"),
    "d_saddles": _tree_of_cifar("saddles"),
    "d_ratio": d_ratio,
    "d_test_rise_cifar10": _cifar("test_error_over_mean"),
    "d_test_rise_resnets": _cifar("test_error_over_mean"),
    "d_orders": d_orders,
    "level_shallow": _level(min),
    "level_deep": _level(max),
    "level_trend": level_trend,
    "slope_width": _slope("width"),
    "slope_depth": _slope("depth"),
    "slope_difference": slope_difference,
    "crossing": crossing,
    "length_ratio": _mean_column("length_ratio"),
    "error_overlap": _mean_column("overlap"),
    "error_overlap_jaccard": _mean_column("jaccard"),
    "xor_two": _control("xor-2", "autoneb"),
    "xor_three": _copies("xor-spare", "explicit", "train_loss_over_ends", max),
    "xor_three_band": _copies("xor-3", "autoneb", "train_loss_over_ends", np.median),
    "threshold_saddle": _relative(RELEASED, ("released", "corrected-threshold")),
    "threshold_pivots": threshold_pivots,
    "cost_of_an_edge": cost_of_an_edge,
    "cost_of_a_published_edge": cost_of_a_published_edge,
    "spike_2018": _spike("autoneb-2018"),
    "spike_13c8ba8": _spike("autoneb-13c8ba8"),
    "spike_corrected": _spike("corrected"),
    "last_end_moves": last_end_moves,
    **{f"switch_{name}": _difference(RELEASED, ("released", f"corrected-{name}")) for name in SWITCHES},
    **{f"switch_{name}": _difference(NORM, ("norm", f"corrected-{name}")) for name in ("mode", "buffers")},
    "switch_all": _difference(RELEASED, ("released", "corrected")),
    "switch_2018": _difference(("released", "autoneb-2018"), RELEASED),
    "switch_all_norm": _difference(NORM, ("norm", "corrected")),
    "buffers_spacing": _difference(NORM, ("norm", "corrected-buffers"), "spacing_error"),
    "shared_batch_signs": shared_batch_signs,
    "cheap_saddle": cheap_saddle,
    "cheap_gradients": cheap_gradients,
    "cheap_gradients_to_saddle": cheap_gradients_to_saddle,
    "budget_bezier": _difference(("budget", "bezier"), BUDGET),
    "budget_polychain": _difference(("budget", "polychain"), BUDGET),
    "budget_matched": _difference(("budget", "autoneb-matched"), BUDGET),
    "budget_segment_matched": _difference(("budget", "segment-matched"), BUDGET),
    "placebo_tangent_bisector": _difference(("placebos", "tangent-bisector"), BUDGET),
    "placebo_pivots_alone": _difference(("placebos", "pivots-alone"), BUDGET),
    "placebo_mechanical": _difference(("placebos", "mechanical"), BUDGET),
    "control_permuted_matched": _copies("permuted", "matched", "train_loss_over_line", max),
    "control_permuted_band": _control("permuted", "autoneb"),
    "control_rescaled": control_rescaled,
    "control_dead_unit": _copies("dead-unit", "explicit", "train_loss_over_ends", max),
    "control_dead_unit_band": _control("dead-unit", "autoneb"),
    "control_untrained": _control("untrained", "segment", "train_loss_over_line"),
    "control_narrow": control_narrow,
    "g_bezier_max": _curve("bezier", "train_loss_over_ends"),
    "g_polychain_max": _curve("polychain", "train_loss_over_ends"),
    "g_interior_nll": g_interior_nll,
    "g_segment_chance": _curve("segment", "test_error_saddle", scale=100.0),
    "g_curve_ends": _curve("bezier", "test_error_over_ends", scale=100.0),
    "g_length_bezier": _curve("bezier", "length_ratio"),
    "g_length_polychain": _curve("polychain", "length_ratio"),
    "yao_curve_wins": _difference(BUDGET, ("budget", "bezier")),
    "instability_init": instability_init,
    "instability_falls": instability_falls,
    "half_barrier": half_barrier,
    "width_peak": width_peak,
    "width_falls": width_falls,
    "depth_raises": _slope("depth", "segment"),
    "matched_width": _rank_trend("width", "matched", "train_loss_over_mean"),
    "matching_mnist": _matching_ratio(_mnist_3x512),
    "matching_helps": _matching_ratio(_widest),
    "matching_recovers": _recovered("recovered", min),
    "matching_one_pass": _recovered("passes", max, deep=False),
    "matching_passes": _recovered("passes", max, deep=True),
}
