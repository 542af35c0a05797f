"""Trends with width and depth: ranks, slopes, and where the saddle lies between training and test loss."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from lossatlas import statistics
from lossatlas.studies.autoneb.measurements.tables import Found, Measure, Tables, generator, student

SMALLEST_BARRIER = 1e-4  # smaller ones, and those below the ends, count as this when logarithms are taken


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


def rank_trend(way: str, arm: str, column: str) -> Measure:
    def trend(tables: Tables) -> Found:
        table = _blocks(tables.levels, way, arm, column)
        if table.shape[0] < 1 or table.shape[1] < 3:
            return None
        found = [stats.spearmanr(table.columns, row).statistic for row in table.to_numpy()]
        return statistics.clustered_mean(found, list(table.index), (-1.0, 1.0))

    return trend


def slopes(levels: pd.DataFrame, way: str, arm: str, since: float = 0.0) -> np.ndarray:
    """Slope of log barrier on log `way` in each block."""
    table = _blocks(levels, way, arm, "train_loss_over_mean")
    table = table[[level for level in table.columns if level >= since]]
    if table.shape[0] < 1 or table.shape[1] < 2:
        return np.array([])
    x = np.log(np.asarray(table.columns, float))
    return np.array([np.polyfit(x, np.log(np.maximum(row, SMALLEST_BARRIER)), 1)[0] for row in table.to_numpy()])


def slope(way: str, arm: str = "autoneb") -> Measure:
    return lambda tables: student(slopes(tables.levels, way, arm))


def slope_difference(tables: Tables) -> Found:
    width, depth = (slopes(tables.levels, way, "autoneb") for way in ("width", "depth"))
    return student(depth - width) if len(width) == len(depth) else None


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


def _level(which: Callable) -> Measure:
    """q of the shallowest (min) or the deepest (max) perceptron, bootstrapped over pairs."""

    def level(tables: Tables) -> Found:
        columns = _depths(tables)
        if not len(columns["depth"]):
            return None
        chosen = columns["depth"] == which(columns["depth"])
        return statistics.bootstrap(_q, {name: value[chosen] for name, value in columns.items()}, generator("level"))

    return level


def level_trend(tables: Tables) -> Found:
    columns = _depths(tables)
    if len(set(columns["depth"])) < 2:
        return None
    low, high = columns["depth"].min(), columns["depth"].max()

    def difference(draw: Mapping[str, np.ndarray]) -> float:
        return _q(draw, draw["depth"] == low) - _q(draw, draw["depth"] == high)

    return statistics.bootstrap(difference, columns, generator("level-trend"), strata=columns["depth"].tolist())


MEASURES: Mapping[str, Measure] = {
    **{
        f"trend_{way}_{name}": rank_trend(way, arm, column)
        for way in ("width", "depth")
        for name, arm, column in (
            ("train", "autoneb", "train_loss_over_mean"),
            ("test", "autoneb", "test_loss_over_mean"),
            ("stopped", "stopped-autoneb", "train_loss_over_mean"),
        )
    },
    "level_shallow": _level(min),
    "level_deep": _level(max),
    "level_trend": level_trend,
    "slope_width": slope("width"),
    "slope_depth": slope("depth"),
    "slope_difference": slope_difference,
}
