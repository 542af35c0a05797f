"""Who arrives: shares of runs by outcome at the fixed and the tuned rate, differences between arms, failure modes."""

from collections.abc import Callable
from math import nan

import numpy as np
import pandas as pd

from lossatlas import statistics
from lossatlas.statistics import Interval
from lossatlas.studies.perlin.measurements.evidence import (
    LEVEL,
    README_ARM,
    Measures,
    Tables,
    largest_team,
    scaled,
    slope_a_doubling,
)

FIXED_RATE = 0.1


def tuned(cell: pd.DataFrame, column: str = "success") -> pd.Series:
    """Share of runs by landscape, each half of the landscapes at the rate that is best on the other half."""
    return _share(cell, "tuned", column)


def _share(cell: pd.DataFrame, rate: str, column: str = "success") -> pd.Series:
    at = _at(cell, rate)
    return at[column] / at["runs"]


def _at(cell: pd.DataFrame, rate: str) -> pd.DataFrame:
    """The rows of an arm at the fixed or at the tuned rate, one a landscape, which is their index."""
    if rate == "fixed":
        return cell[cell["rate"] == FIXED_RATE].set_index("landscape")
    share = cell.assign(share=cell["success"] / cell["runs"]).pivot(index="landscape", columns="rate", values="share")
    even = share.index % 2 == 0
    best = pd.Series(np.where(even, share.loc[~even].mean().idxmax(), share.loc[even].mean().idxmax()), share.index)
    return cell[cell["rate"] == cell["landscape"].map(best)].set_index("landscape").sort_index()


def success(tables: Tables) -> pd.DataFrame:
    """Shares of runs by outcome for every kind, family, arm and n, at the fixed and at the tuned rate; 90 % intervals.

    ert: gradients of single layers, failed runs included, per success.
    """
    rows = []
    for kind, table in tables.descents.items():
        if kind == "high":
            continue
        for (family, arm, n), cell in table.groupby(["family", "arm", "n"]):
            for rate in ("fixed", "tuned"):
                at = _at(cell, rate)
                found = statistics.t_interval(at["success"] / at["runs"], LEVEL)
                cost = float(cell["evaluations"].iloc[0])
                failures = {
                    name: float((at[name] / at["runs"]).mean())
                    for name in ("stuck", "cycling", "wandering", "obnoxious")
                }
                rows.append(
                    {"kind": kind, "family": family, "arm": arm, "n": n, "rate": rate, "success": found.value}
                    | {"low": found.low, "high": found.high, "landscapes": found.n, **failures}
                    | {"ert": cost / found.value if found.value > 0 else nan}
                )
    if "high" in tables.descents:
        for (dim, arm, n), cell in tables.descents["high"].groupby(["dim", "arm", "n"]):
            found = statistics.t_interval(cell["success"] / cell["runs"], LEVEL)
            rows.append(
                {"kind": f"{dim}-D well", "family": "pointwise", "arm": arm, "n": n, "rate": "fixed"}
                | {"success": found.value, "low": found.low, "high": found.high, "landscapes": found.n}
                | dict.fromkeys(("stuck", "cycling", "wandering", "obnoxious"), nan)
                | {"ert": float(cell["evaluations"].iloc[0]) / found.value if found.value > 0 else nan}
            )
    return pd.DataFrame(rows)


def _cell(table: pd.DataFrame, family: str, arm: str, n: int) -> pd.DataFrame:
    return table[(table["family"] == family) & (table["arm"] == arm) & (table["n"] == n)]


def _more_is_better(kind: str) -> Callable[[Tables], Interval | None]:
    """Slope of the success share per doubling of n, README's weighting at its tuned rate."""

    def trend(tables: Tables) -> Interval | None:
        if kind not in tables.descents:
            return None
        table = tables.descents[kind]
        table = table[(table["family"] == "pointwise") & (table["arm"] == README_ARM)]
        return slope_a_doubling(pd.DataFrame({n: tuned(cell) for n, cell in table.groupby("n")}))

    return trend


def _difference(
    kind: str, first: tuple[str, str], second: tuple[str, str], rate: str = "tuned"
) -> Callable[[Tables], Interval | None]:
    """Success of one arm minus that of another, paired by landscape, mean over the n that both have (n > 2)."""

    def difference(tables: Tables) -> Interval | None:
        table = tables.descents.get(kind)
        if table is None:
            return None
        sizes = [
            n
            for n in sorted(table["n"].unique())
            if n > 2 and all(len(_cell(table, *arm, n)) for arm in (first, second))
        ]
        if not sizes:
            return None
        # landscapes that only one of the arms met drop out
        parts = [
            (_share(_cell(table, *first, n), rate) - _share(_cell(table, *second, n), rate)).dropna() for n in sizes
        ]
        return statistics.t_interval(pd.concat(parts, axis=1, join="inner").mean(axis=1), LEVEL)

    return difference


def grad_weights(tables: Tables) -> Interval | None:
    """README's weighting minus the best other arm of the funnel at the n they share, tuned: Bonferroni over arms."""
    table = tables.descents.get("funnel")
    if table is None:
        return None
    arms = [tuple(arm) for arm in table[table["family"] != "baseline"][["family", "arm"]].drop_duplicates().to_numpy()]
    others = [arm for arm in arms if arm != ("pointwise", README_ARM)]
    found = []
    for other in others:
        interval = _difference("funnel", ("pointwise", README_ARM), other)(tables)
        if interval is not None:
            half = (interval.high - interval.low) / 2
            wide = _widening(interval.n, len(others)) * half
            found.append(Interval(interval.value, interval.value - wide, interval.value + wide, interval.n))
    return min(found, key=lambda interval: interval.value) if found else None


def _widening(n: int, comparisons: int) -> float:
    """Factor from a 90 % Student interval to one that holds for so many comparisons together."""
    if n < 2:
        return nan
    return statistics.student_quantile(1 - 0.05 / comparisons, n - 1) / statistics.student_quantile(0.95, n - 1)


def _modes_drop(column: str) -> Callable[[Tables], Interval | None]:
    """Slope per doubling of n of the share of runs that fail in one way, README's weighting, mean over kinds."""

    fewest = 3 if column == "obnoxious" else 2  # of two members at rest each always holds half

    def trend(tables: Tables) -> Interval | None:
        parts = []
        for table in (tables.descents.get(kind) for kind in ("desert", "funnel", "bowl")):
            if table is not None:
                cell = table[(table["family"] == "pointwise") & (table["arm"] == README_ARM) & (table["n"] >= fewest)]
                parts.append(pd.DataFrame({n: _share(part, "fixed", column) for n, part in cell.groupby("n")}))
        if not parts:
            return None
        shares = sum(parts) / len(parts)
        if not shares.to_numpy().any():  # it never happened, so nothing can become rarer
            return Interval(0.0, nan, nan, len(shares))
        return slope_a_doubling(shares)

    return trend


def oscillation(tables: Tables) -> Interval | None:
    """Share of runs that cycle, the power family and the largest gradient at n > 1 and the fixed rate, all kinds."""
    cells = [
        table[(table["family"] == "pointwise") & (table["rate"] == FIXED_RATE) & (table["n"] > 1)]
        for kind, table in tables.descents.items()
        if kind != "high"
    ]
    if not cells:
        return None
    everything = pd.concat(cells)
    by_landscape = everything.groupby("landscape")[["cycling", "runs"]].sum()
    return statistics.t_interval(by_landscape["cycling"] / by_landscape["runs"], LEVEL)


def desert(tables: Tables) -> Interval | None:
    """Success of README's weighting in the desert at the largest n and the fixed rate, over chance (its area)."""
    table = tables.descents.get("desert")
    if table is None:
        return None
    found = statistics.t_interval(_share(_cell(table, "pointwise", README_ARM, largest_team(table)), "fixed"), LEVEL)
    return scaled(found, 64 / (np.pi * 0.25))


def _high(dim: int) -> Callable[[Tables], Interval | None]:
    """README's weighting minus the sum in a well of `dim` dimensions, mean over n > 2, paired by landscape."""

    def difference(tables: Tables) -> Interval | None:
        table = tables.descents.get("high")
        if table is None or dim not in table["dim"].unique():
            return None
        cell = table[(table["dim"] == dim) & (table["n"] > 2)]
        shares = cell.assign(share=cell["success"] / cell["runs"])
        wide = shares.pivot_table(index="landscape", columns="arm", values="share")
        return statistics.t_interval(wide[README_ARM] - wide["sum"], LEVEL) if len(wide) else None

    return difference


POINT = "pointwise"
MEASURES: Measures = {
    **{
        f"perlin.more_is_better_{kind}": _more_is_better(kind)
        for kind in ("desert", "funnel", "bowl", "desert3d", "funnel3d")
    },
    "perlin.dynamic_needed": _difference("funnel", (POINT, README_ARM), (POINT, "sum")),
    "perlin.dynamic_needed_fixed": _difference("funnel", (POINT, README_ARM), (POINT, "sum"), "fixed"),
    "perlin.dynamic_against_noise": _difference("funnel", (POINT, README_ARM), ("control", "noise")),
    "perlin.dynamic_needed_space": _difference("funnel3d", (POINT, README_ARM), (POINT, "sum")),
    "perlin.dynamic_against_noise_space": _difference("funnel3d", (POINT, README_ARM), ("control", "noise")),
    "perlin.switching_against_noise": _difference("funnel", ("control", "switch"), ("control", "noise")),
    "perlin.noise_against_sum": _difference("funnel", ("control", "noise"), (POINT, "sum")),
    "perlin.largest_against_sum": _difference("funnel", (POINT, "max"), (POINT, "sum")),
    "perlin.largest_against_sum_desert": _difference("desert", (POINT, "max"), (POINT, "sum")),
    "perlin.largest_against_sum_fixed": _difference("desert", (POINT, "max"), (POINT, "sum"), "fixed"),
    "perlin.largest_against_noise_desert": _difference("desert", (POINT, "max"), ("control", "noise")),
    "perlin.dynamic_needed_desert": _difference("desert", (POINT, README_ARM), (POINT, "sum")),
    "perlin.averaged_against_sum": _difference("funnel", ("control", "ema q=1"), (POINT, "sum")),
    "perlin.grad_weights": grad_weights,
    **{
        f"perlin.baseline_{arm}": _difference("funnel", ("baseline", README_ARM), ("baseline", arm))
        for arm in ("upgrad", "mgda", "pcgrad", "cagrad", "aligned_mtl")
    },
    "perlin.high_4d": _high(4),
    "perlin.high_8d": _high(8),
    "perlin.desert": desert,
    "perlin.oscillation": oscillation,
    **{f"perlin.modes_drop_{column}": _modes_drop(column) for column in ("stuck", "cycling", "wandering", "obnoxious")},
}
