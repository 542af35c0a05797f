"""What sharing does to teams: attractors and arrivals with a common minimum or not, and with a common rest or not."""

from collections.abc import Callable
from math import nan

import numpy as np
import pandas as pd

from lossatlas import statistics
from lossatlas.statistics import Interval
from lossatlas.studies.perlin.measurements.arrivals import tuned
from lossatlas.studies.perlin.measurements.evidence import (
    LEVEL,
    README_ARM,
    RESAMPLES,
    Measures,
    Tables,
    largest_team,
    ratio_of_sums,
    rng,
)

ARMS = ("sum", README_ARM, "max")
Condition = tuple[str, float, float]  # alignment, correlation, offset
NONE: Condition = ("none", 0.0, nan)
HARMONY: Condition = ("shift", 0.0, 0.0)  # same global minimum, different local minima
SAME: Condition = ("shift", 1.0, 0.0)  # one layer n times
BOWL: Condition = ("bowl", 0.0, 0.0)
BOWL_ALONE: Condition = ("unaligned_bowl", 0.0, nan)


def _cell(table: pd.DataFrame, condition: Condition, n: int, arm: str) -> pd.DataFrame:
    alignment, correlation, offset = condition
    at = table["offset"].isna() if np.isnan(offset) else table["offset"] == offset
    chosen = (table["alignment"] == alignment) & (table["correlation"] == correlation) & at
    return table[chosen & (table["n"] == n) & (table["arm"] == arm)].sort_values("landscape")


def _attractors(tables: Tables, condition: Condition, n: int, arm: str) -> np.ndarray:
    """By landscape."""
    return _cell(tables.harmony["densities"], condition, n, arm)["attractors"].to_numpy(float)


def _success(tables: Tables, condition: Condition, n: int, arm: str) -> pd.Series:
    """By landscape, at the tuned rate."""
    return tuned(_cell(tables.harmony["descents"], condition, n, arm))


def summary(tables: Tables) -> pd.DataFrame:
    """Density of attractors over that of single layers of the same kind, and tuned success, for every condition.

    ert: gradients of single layers, failed runs included, per success; likeness: mean correlation of two layers over
    the torus; lowest: share of the layers that are lowest at the origin. Intervals 90 %, over landscapes.
    """
    rows = []
    dense, runs = tables.harmony["densities"], tables.harmony["descents"]
    for (alignment, correlation, offset), _ in dense.groupby(["alignment", "correlation", "offset"], dropna=False):
        condition = (alignment, correlation, offset)
        one = _attractors(tables, condition, 1, "sum")
        for n in sorted(set(dense["n"]) - {1}):
            for arm in ARMS:
                cell = _cell(dense, condition, n, arm)
                name = f"harmony {alignment} {correlation} {offset} {n} {arm}"
                density = ratio_of_sums(cell["attractors"].to_numpy(), one, name)
                row = dict(zip(("alignment", "correlation", "offset", "n", "arm"), (*condition, n, arm), strict=True))
                row |= {"landscapes": density.n, "density": density.value}
                row |= {"density_low": density.low, "density_high": density.high}
                row |= {name: float(cell[name].mean()) for name in ("likeness", "lowest")}
                found, ert = Interval(nan, nan, nan, 0), nan
                if alignment in set(runs["alignment"]):
                    found = statistics.t_interval(_success(tables, condition, n, arm), LEVEL)
                    spent = float(_cell(runs, condition, n, arm)["evaluations"].iloc[0])
                    ert = spent / found.value if found.value > 0 else nan
                row |= {"success": found.value, "success_low": found.low, "success_high": found.high}
                rows.append(row | {"ert": ert})
    return pd.DataFrame(rows)


def _fewer(other: Condition, arm: str) -> Callable[[Tables], Interval | None]:
    """Attractors of a harmonious team over those of another, at the largest n, paired by landscape."""

    def ratio(tables: Tables) -> Interval | None:
        n = largest_team(tables.harmony["densities"])
        both = (_attractors(tables, condition, n, arm) for condition in (HARMONY, other))
        return ratio_of_sums(*both, f"harmony fewer {other} {arm}")

    return ratio


def _gain(first: Condition, other: Condition, arm: str) -> Callable[[Tables], Interval | None]:
    """Tuned success under one condition minus that under another, at the largest n, paired by landscape."""

    def difference(tables: Tables) -> Interval | None:
        n = largest_team(tables.harmony["descents"])
        return statistics.t_interval(_success(tables, first, n, arm) - _success(tables, other, n, arm), LEVEL)

    return difference


def _misplaced(arm: str) -> Callable[[Tables], Interval | None]:
    """Harmony against the largest misplacement of the minima."""

    def difference(tables: Tables) -> Interval | None:
        offsets = tables.harmony["descents"]["offset"]
        return _gain(HARMONY, ("partial", 0.0, float(offsets.max())), arm)(tables)

    return difference


def _between(arm: str) -> Callable[[Tables], Interval | None]:
    """Tuned success of an arm minus that of the sum, mean over 0 < c < 1 of aligned layers, at the largest n."""

    def difference(tables: Tables) -> Interval | None:
        runs = tables.harmony["descents"]
        n, shared = largest_team(runs), [c for c in sorted(set(runs["correlation"])) if 0 < c < 1]
        if not shared:
            return None
        parts = [
            _success(tables, ("shift", c, 0.0), n, arm) - _success(tables, ("shift", c, 0.0), n, "sum") for c in shared
        ]
        return statistics.t_interval(sum(parts) / len(parts), LEVEL)

    return difference


def cost(tables: Tables) -> Interval | None:
    """Gradients per success of the smallest harmonious team over those of one of its layers alone (c = 1, 1 a step)."""
    n = int(tables.harmony["descents"]["n"].min())
    columns = {
        "team": _success(tables, HARMONY, n, README_ARM).to_numpy(),
        "alone": _success(tables, SAME, n, README_ARM).to_numpy(),
    }

    def ratio(c: dict[str, np.ndarray]) -> float:
        return n * c["alone"].sum() / c["team"].sum() if c["team"].sum() else nan

    return statistics.bootstrap(ratio, columns, rng("harmony cost"), level=LEVEL, resamples=RESAMPLES)


def uncorrelated(tables: Tables) -> Interval | None:
    """Greatest difference in arrivals from the table of descents, c = 0 with exact alignment: must be 0."""
    if "funnel" not in tables.descents:
        return None
    runs, known = tables.harmony["descents"], tables.descents["funnel"]
    runs = runs[(runs["alignment"] == "shift") & (runs["correlation"] == 0)]
    keys = ["landscape", "n", "arm", "rate"]
    both = runs.merge(known[known["family"] == "pointwise"], on=keys, suffixes=("", "_known"))
    off = (both["success"] - both["success_known"]).abs()
    return statistics.exact(float(off.max()), len(both)) if len(both) else None


def one_layer(tables: Tables) -> Interval | None:
    """Attractors of the sum of one layer n times minus those of the layer, the largest landscape and n: must be 0."""
    sizes = sorted(set(tables.harmony["densities"]["n"]) - {1})
    one = _attractors(tables, SAME, 1, "sum")
    off = [np.abs(_attractors(tables, SAME, n, "sum") - one).max() for n in sizes]
    return statistics.exact(float(max(off)), len(one) * len(sizes))


NAMES = {"sum": "sum", README_ARM: "weighted", "max": "largest"}
MEASURES: Measures = {
    "perlin.harmony_uncorrelated": uncorrelated,
    "perlin.harmony_one_layer": one_layer,
    **{f"perlin.harmony_density_alignment_{name}": _fewer(NONE, arm) for arm, name in NAMES.items()},
    **{f"perlin.harmony_density_differing_{name}": _fewer(SAME, arm) for arm, name in NAMES.items()},
    **{f"perlin.harmony_success_alignment_{name}": _misplaced(arm) for arm, name in NAMES.items()},
    **{f"perlin.harmony_success_differing_{name}": _gain(HARMONY, SAME, arm) for arm, name in NAMES.items()},
    "perlin.harmony_advantage_weighted": _between(README_ARM),
    "perlin.harmony_advantage_largest": _between("max"),
    "perlin.harmony_bowl": _gain(BOWL, BOWL_ALONE, README_ARM),
    "perlin.harmony_cost": cost,
}
