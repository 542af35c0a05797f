"""Straight segments, before and after weight matching."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from lossatlas import statistics
from lossatlas.studies.autoneb.measurements.tables import Found, Measure, Tables, by_network, student
from lossatlas.studies.autoneb.measurements.trends import SMALLEST_BARRIER, family_of, rank_trend, slope, slopes


def half_barrier(tables: Tables) -> Found:
    rows = tables.arm("segment")
    rows = rows[rows["train_loss_over_line"] > SMALLEST_BARRIER]
    return by_network(rows, (rows["train_loss_over_line"] - rows["half"]) / rows["train_loss_over_line"])


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
    return None if grid.empty else student(slopes(tables.levels, "width", "segment", float(grid["barrier"].idxmax())))


def _matching_ratio(select: Callable[[pd.DataFrame], pd.Series]) -> Measure:
    def ratio(tables: Tables) -> Found:
        rows = tables.levels[select(tables.levels)]
        if rows.empty:
            return None
        before, after = (
            rows[rows["arm"] == arm].set_index(["ensemble", "pair"])["train_loss_over_line"]
            for arm in ("segment", "matched")
        )
        return student((after / before).dropna())

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


MEASURES: Mapping[str, Measure] = {
    "half_barrier": half_barrier,
    "width_peak": width_peak,
    "width_falls": width_falls,
    "depth_raises": slope("depth", "segment"),
    "matched_width": rank_trend("width", "matched", "train_loss_over_mean"),
    "matching_mnist": _matching_ratio(_mnist_3x512),
    "matching_helps": _matching_ratio(_widest),
}
