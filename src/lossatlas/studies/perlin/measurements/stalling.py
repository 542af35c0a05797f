"""Densities of the places where composites rest: ratios to one layer or to the sum, limits, closed forms."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from math import nan

import numpy as np
import pandas as pd
import torch

from lossatlas import statistics, theory
from lossatlas.statistics import Interval
from lossatlas.studies.perlin.measurements.evidence import (
    LEVEL,
    README_ARM,
    RESAMPLES,
    Measures,
    Tables,
    largest_team,
    ratio_of_sums,
    rng,
    scaled,
)

POWERS = {"sum": 0.0, "q=0.5": 0.5, "q=1": 1.0, "q=2": 2.0, "q=4": 4.0}


def density_ratio(table: pd.DataFrame, arm: str, n: int, column: str = "flow", base: str = "sum") -> Interval | None:
    """Density of an arm at n over that of `base` (the sum at n, or `one` layer), extrapolated to a vanishing grid step.

    All landscapes at the coarser step, corrected by what the finer one changes on those that have both: (h/2)² of the
    difference is left for smooth v (a third of it), h/2 for `max` (all of it). Bootstrap over landscapes.
    """
    coarse, fine = sorted(table["samples"].unique())
    order = 1.0 if arm == "max" or column == "pasted" else 1 / 3

    def counts(samples: int, arm: str, n: int) -> pd.Series:
        cell = table[(table["samples"] == samples) & (table["arm"] == arm) & (table["n"] == n)]
        return cell.set_index("landscape")[column]

    below = ("sum", 1) if base == "one" else (base, n)
    columns = {
        "a": counts(coarse, arm, n),
        "b": counts(coarse, *below),
        "c": counts(fine, arm, n),
        "d": counts(fine, *below),
    }
    joined = pd.DataFrame(columns)
    if joined["a"].isna().any() or joined.empty:
        return None

    def statistic(c: Mapping[str, np.ndarray]) -> float:
        both = ~np.isnan(c["c"])
        if not both.any():
            return nan
        total = c["a"].sum() / c["b"].sum()
        fine_ratio, coarse_ratio = c["c"][both].sum() / c["d"][both].sum(), c["a"][both].sum() / c["b"][both].sum()
        return total + (1 + order) * (fine_ratio - coarse_ratio)

    strata = joined["c"].isna().tolist()
    samples = {name: joined[name].to_numpy(float) for name in joined}
    name = f"density {arm} {n} {column} {base}"
    return statistics.bootstrap(statistic, samples, rng(name), level=LEVEL, resamples=RESAMPLES, strata=strata)


def ratios(tables: Tables) -> pd.DataFrame:
    """Density ratios to one layer by kind, arm, n and meaning of minimum, with the closed form where there is one."""
    rows = []
    for kind, table in tables.densities.items():
        for arm in table["arm"].unique():
            for n in sorted(table["n"].unique()):
                for column in ("flow", "pasted", "potential"):
                    found = density_ratio(table, arm, n, column, "one")
                    if found is None:
                        continue
                    law = _closed_form(kind, arm, n) if column == "flow" else nan
                    rows.append(
                        {"kind": kind, "arm": arm, "n": n, "meaning": column, "ratio": found.value}
                        | {"low": found.low, "high": found.high, "landscapes": found.n, "law": law}
                    )
    return pd.DataFrame(rows)


@lru_cache
def _closed_form(kind: str, arm: str, n: int) -> float:
    """Ratio to one layer: for Gaussian fields in 1-D at every n; linear combinations in every dimension."""
    if arm in ("sum", "weighted_sum"):
        return 1.0 if kind.startswith("se") else nan
    if kind != "se1d":
        return 1.0 if kind == "se2d" and n <= 2 else nan
    if arm == "max":
        return theory.stall_ratio_max(n)
    return theory.stall_ratio_finite(POWERS[arm], n, torch.Generator().manual_seed(0), 50_000).value


def limits(tables: Tables) -> pd.DataFrame:
    """The n -> infinity limits of the power family in 1 and 2 dimensions (Gaussian layers), by Monte Carlo in 2-D."""
    rows = []
    for arm, q in POWERS.items():
        two = theory.Estimate(1.0, 0.0)  # a sum of Gaussian fields is one
        if q:
            two = theory.stall_ratio_sampled(q, 2, torch.Generator().manual_seed(0))
        rows.append({"dim": 1, "arm": arm, "ratio": theory.stall_ratio_power(q), "error": 0.0})
        rows.append({"dim": 2, "arm": arm, "ratio": two.value, "error": two.error})
    return pd.DataFrame(rows)


def _density(kind: str, arm: str, base: str, column: str = "flow") -> Callable[[Tables], Interval | None]:
    """The ratio at the largest n."""

    def ratio(tables: Tables) -> Interval | None:
        if kind not in tables.densities:
            return None
        table = tables.densities[kind]
        return density_ratio(table, arm, largest_team(table), column, base)

    return ratio


def linear_multiplies(tables: Tables) -> Interval | None:
    """Density of the sum over that of one layer, divided by n, at the largest n: 1 if adding multiplies."""
    kind = "perlin_phase" if "perlin_phase" in tables.densities else "se2d"
    found = _density(kind, "sum", "one")(tables)
    return found and scaled(found, 1 / largest_team(tables.densities[kind]))


def _over_closed_form(arm: str) -> Callable[[Tables], Interval | None]:
    """Measured over predicted ratio of densities in 1-D at the largest n."""

    def ratio(tables: Tables) -> Interval | None:
        if "se1d" not in tables.densities:
            return None
        table = tables.densities["se1d"]
        found = density_ratio(table, arm, largest_team(table), base="one")
        return found and scaled(found, 1 / _closed_form("se1d", arm, largest_team(table)))

    return ratio


def _longuet_higgins(dim: int) -> Callable[[Tables], Interval | None]:
    """Counted density of single layers and of all plain sums over the formula, on the finer grid."""

    def ratio(tables: Tables) -> Interval | None:
        table = tables.densities.get(f"se{dim}d")
        if table is None:
            return None
        cell = table[(table["arm"] == "sum") & (table["samples"] == table["samples"].max())]
        by_landscape = cell.groupby("landscape")[["flow", "volume"]].sum()
        found = ratio_of_sums(by_landscape["flow"].to_numpy(), by_landscape["volume"].to_numpy(), f"density {dim}")
        return scaled(found, 1 / theory.minima_density(dim, 1.0, 3.0))

    return ratio


def kac_rice_perlin(tables: Tables) -> Interval | None:
    """Counted minima a cell of Perlin layers with Gaussian gradients over the quadrature, on the finer grid."""
    table = tables.densities.get("perlin_gaussian")
    if table is None:
        return None
    cell = table[(table["arm"] == "sum") & (table["samples"] == table["samples"].max())]
    by_landscape = cell.groupby("landscape")[["flow", "volume"]].sum()
    found = ratio_of_sums(by_landscape["flow"].to_numpy(), by_landscape["volume"].to_numpy(), "kac rice")
    return scaled(found, 1 / theory.perlin_minima_per_cell(2))


def two_layers(tables: Tables) -> Interval | None:
    """Largest relative difference of attractors between the sum and a q-weighted composite of 2 layers in 1-D."""
    table = tables.densities.get("se1d")
    if table is None:
        return None
    cell = table[table["n"] == 2].pivot_table(index=["samples", "landscape"], columns="arm", values="flow")
    total = cell["sum"].sum()
    return statistics.exact(max(abs(cell[arm] - cell["sum"]).sum() / total for arm in POWERS), len(cell))


def poincare_hopf(tables: Tables) -> Interval | None:
    """Violations |attractors + repellers - saddles| over every composite counted in two dimensions."""
    counted = [table["unbalanced"] for kind, table in tables.densities.items() if kind != "se1d"]
    return statistics.exact(sum(column.sum() for column in counted), sum(map(len, counted))) if counted else None


MEASURES: Measures = {
    "perlin.linear_multiplies": linear_multiplies,
    "perlin.linear_unchanged": _density("se2d", "sum", "one"),
    "perlin.linear_unchanged_perlin": _density("perlin_phase", "sum", "one"),
    "perlin.linear_weights": _density("se2d", "weighted_sum", "one"),
    "perlin.largest_gradient": _density("se2d", "max", "sum"),
    "perlin.largest_gradient_closed": _over_closed_form("max"),
    "perlin.gradient_weighting": _density("se2d", README_ARM, "sum"),
    "perlin.gradient_weighting_perlin": _density("perlin_phase", README_ARM, "sum"),
    "perlin.gradient_weighting_closed": _over_closed_form(README_ARM),
    "perlin.two_layers": two_layers,
    "perlin.poincare_hopf": poincare_hopf,
    "perlin.longuet_higgins_1d": _longuet_higgins(1),
    "perlin.longuet_higgins_2d": _longuet_higgins(2),
    "perlin.kac_rice": kac_rice_perlin,
}
