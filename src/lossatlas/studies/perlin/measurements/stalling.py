"""Densities of the places where composites rest: ratios to one layer or to the sum, limits, closed forms."""

from collections.abc import Callable, Mapping, Sequence
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

POWERS = {"sum": 0.0, "q=0.5": 0.5, "q=1": 1.0, "q=2": 2.0, "q=4": 4.0}  # with a closed form, which needs q > -1/2
INVERSE_ARM, INVERSE_SIZE = "q=-2", 3  # holes about single minima narrow like 1/n: few layers, which the grid resolves


def density_ratio(table: pd.DataFrame, arm: str, n: int, column: str = "flow", base: str = "sum") -> Interval | None:
    """Density of an arm at n over that of `base` (the sum at n, or `one` layer), extrapolated to a vanishing grid step.

    The error is of second order for smooth v, of first order for `max`, which jumps. Minima of pasted values depend on
    the grid at any step, so they are counted on the coarser grid alone. Bootstrap over landscapes.
    """
    return _ratio(_cells(table), arm, n, column, base)


Cells = Mapping[tuple[int, str, int], pd.DataFrame]  # counts by landscape of (samples, arm, n)


def _cells(table: pd.DataFrame) -> Cells:
    return {key: cell.set_index("landscape") for key, cell in table.groupby(["samples", "arm", "n"])}


def _ratio(cells: Cells, arm: str, n: int, column: str, base: str) -> Interval | None:
    coarse, fine = sorted({samples for samples, _, _ in cells})
    below = ("sum", 1) if base == "one" else (base, n)
    if column == "pasted":
        fine = coarse
    keys = [(samples, *which) for samples in (coarse, fine) for which in ((arm, n), below)]
    if any(key not in cells for key in keys):
        return None
    columns = [cells[key][column] for key in keys]
    return _extrapolated(columns, 1.0 if arm == "max" else 2.0, f"density {arm} {n} {column} {base}")


def _extrapolated(columns: Sequence[pd.Series], order: float, name: str) -> Interval | None:
    """Ratio of sums over landscapes at a vanishing grid step, from numerators and denominators on two grids.

    columns: numerator and denominator on the coarser grid, then on one of half its step, which fewer landscapes may
    have; indexed by landscape. The ratio of all at the coarser step is corrected by what the finer one changes on those
    that have both, times 2^order / (2^order - 1). Bootstrap within those that have both and within the others.
    """
    joined = pd.concat(columns, axis=1, keys=list("abcd"))
    if joined["a"].isna().any() or joined.empty:
        return None
    both = joined["c"].notna()
    generator = rng(name)
    a, b, c, d = _resampled_sums(joined[both].to_numpy(float), generator).T
    more_a, more_b = _resampled_sums(joined.loc[~both, ["a", "b"]].to_numpy(float), generator).T
    with np.errstate(divide="ignore", invalid="ignore"):
        values = (a + more_a) / (b + more_b) + 2**order / (2**order - 1) * (c / d - a / b)
    if len(joined) < 2:
        return Interval(float(values[0]), nan, nan, len(joined))
    low, high = np.nanquantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values[0]), float(low), float(high), len(joined))


def _resampled_sums(rows: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Sums (1 + RESAMPLES, k) of rows (m, k): of the rows themselves, then of as many drawn with replacement."""
    if not len(rows):
        return np.zeros((1 + RESAMPLES, rows.shape[1]))
    drawn = generator.integers(len(rows), size=(RESAMPLES, len(rows)))
    return np.concatenate([rows.sum(0, keepdims=True), rows[drawn].sum(1)])


def ratios(tables: Tables) -> pd.DataFrame:
    """Density ratios to one layer by kind, arm, n and meaning of minimum, with the closed form where there is one.

    samples: grid points a unit of length that minima of pasted values were counted on, 0 for what is extrapolated.
    """
    rows = []
    for kind, table in tables.densities.items():
        cells = _cells(table)
        for arm in table["arm"].unique():
            if arm == "layers":  # counts of another volume
                continue
            for n in sorted(table["n"].unique()):
                for column in ("flow", "pasted", "potential"):
                    found = _ratio(cells, arm, n, column, "one")
                    if found is None:
                        continue
                    law = _closed_form(kind, arm, n) if column == "flow" else nan
                    samples = int(table["samples"].min()) if column == "pasted" else 0
                    rows.append(
                        {"kind": kind, "arm": arm, "n": n, "meaning": column, "samples": samples, "ratio": found.value}
                        | {"low": found.low, "high": found.high, "landscapes": found.n, "law": law}
                    )
    return pd.DataFrame(rows)


@lru_cache
def _closed_form(kind: str, arm: str, n: int) -> float:
    """Ratio to one layer: Gaussian fields in 1-D at every n; linear combinations and two layers in every dimension."""
    if not kind.startswith("se") or arm not in ("weighted_sum", *POWERS, "max"):
        return nan
    if arm in ("sum", "weighted_sum") or (kind != "se1d" and n <= 2):
        return 1.0
    if kind != "se1d":
        return nan
    if arm == "max":
        return theory.stall_ratio_max(n)
    return theory.stall_ratio_finite(POWERS[arm], n, torch.Generator().manual_seed(0), 50_000).value


def limits(tables: Tables) -> pd.DataFrame:
    """The n -> infinity limits of the power family for the Gaussian layers there are; by Monte Carlo beyond 1-D."""
    rows = []
    dims = [int(kind[2]) for kind in tables.densities if kind.startswith("se")]
    for arm, q in POWERS.items():
        for dim in dims:
            if q and dim > 1:
                found = theory.stall_ratio_sampled(q, dim, torch.Generator().manual_seed(0))
            else:  # a sum of Gaussian fields is one
                found = theory.Estimate(theory.stall_ratio_power(q), 0.0)
            rows.append({"dim": dim, "arm": arm, "ratio": found.value, "error": found.error})
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


def longuet_higgins_space(tables: Tables) -> Interval | None:
    """Minima of every single layer in space over the formula, extrapolated in the grid step."""
    table = tables.densities.get("se3d")
    if table is None:
        return None
    layers = table[table["arm"] == "layers"].set_index("landscape")
    grids = [layers[layers["samples"] == samples] for samples in sorted(layers["samples"].unique())]
    columns = [grid[column] for grid in grids for column in ("flow", "volume")]
    found = _extrapolated(columns, 2.0, "density 3")
    return found and scaled(found, 1 / theory.minima_density(3, 1.0, 3.0))


def inverse_weights(tables: Tables) -> Interval | None:
    """Attractors of weights |g|^-2 over n times those of one layer, for few layers in the plane."""
    table = tables.densities.get("se2d")
    if table is None or INVERSE_SIZE not in set(table["n"]):
        return None
    found = density_ratio(table, INVERSE_ARM, INVERSE_SIZE, base="one")
    return found and scaled(found, 1 / INVERSE_SIZE)


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
    """Violations |attractors + repellers - saddles|, in space |sum of degrees|, over every composite counted there."""
    counted = [
        table.loc[table["arm"] != "layers", "unbalanced"] for kind, table in tables.densities.items() if kind != "se1d"
    ]
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
    "perlin.largest_gradient_least_squares": _density("se2d", "max", "sum", "potential"),
    "perlin.gradient_weighting_space": _density("se3d", README_ARM, "sum"),
    "perlin.inverse_weights": inverse_weights,
    "perlin.gradient_weighting_closed": _over_closed_form(README_ARM),
    "perlin.two_layers": two_layers,
    "perlin.poincare_hopf": poincare_hopf,
    "perlin.longuet_higgins_1d": _longuet_higgins(1),
    "perlin.longuet_higgins_2d": _longuet_higgins(2),
    "perlin.longuet_higgins_3d": longuet_higgins_space,
    "perlin.kac_rice": kac_rice_perlin,
}
