"""From the tables of counts, densities, relief and descents to the numbers that the claims are judged by.

The unit is the landscape (or the field of white noise): arms are paired by it, intervals are bootstraps over it or
Student's over its own values, and at level 90 % (two one-sided tests at 5 %). The summary tables are what figures draw.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import log, nan

import numpy as np
import pandas as pd
import torch
from scipy import stats

from lossatlas import statistics, theory
from lossatlas.critical_points import neighbour_count
from lossatlas.problems.perlin import PerlinField
from lossatlas.seeds import seed
from lossatlas.statistics import Interval
from lossatlas.studies.perlin.common import BOWL_MU, BOWL_WINDOW, CORRELATIONS, HITS, SMOOTH

LEVEL = 0.90
RESAMPLES = 400
FIXED_RATE = 0.1
POWERS = {"sum": 0.0, "q=0.5": 0.5, "q=1": 1.0, "q=2": 2.0, "q=4": 4.0}
README_ARM = "q=1"


@dataclass(frozen=True, eq=False)
class Tables:
    """The study's tables: counts by name, densities and descents by kind, and the relief of composites."""

    counts: Mapping[str, pd.DataFrame]
    densities: Mapping[str, pd.DataFrame]
    smoothness: pd.DataFrame
    descents: Mapping[str, pd.DataFrame]


def measure(tables: Tables) -> dict[str, Interval]:
    """{claim id: measured interval}; claims whose tables are absent from this tier are left out."""
    found = {identity: function(tables) for identity, function in MEASURES.items()}
    return {identity: interval for identity, interval in found.items() if interval is not None and interval.n}


def _rng(*name: str | int | float) -> np.random.Generator:
    return np.random.default_rng(seed("perlin", "bootstrap", *name))


def _ratio(numerator: np.ndarray, denominator: np.ndarray, name: str, level: float = LEVEL) -> Interval:
    """Ratio of sums over landscapes, bootstrapped over them; paired."""
    columns = {"a": np.asarray(numerator, float), "b": np.asarray(denominator, float)}

    def ratio(c: Mapping[str, np.ndarray]) -> float:
        return c["a"].sum() / c["b"].sum() if c["b"].sum() else nan

    return statistics.bootstrap(ratio, columns, _rng(name), level=level, resamples=RESAMPLES)


def _scaled(found: Interval, factor: float) -> Interval:
    return Interval(found.value * factor, found.low * factor, found.high * factor, found.n)


# --- common minima ----------------------------------------------------------------------------------------------------


def rates(tables: Tables) -> pd.DataFrame:
    """Rates of common minima by n with exact Poisson intervals, the law p^n, and the dispersion over fields."""
    rows = []
    white = tables.counts["white"]
    for (dim, neighbours, values, n), cell in white.groupby(["dim", "neighbours", "values", "n"]):
        p = 1 / (neighbour_count(dim, neighbours) + 1)
        for what in ("common", "total", "union"):
            law = {"common": p**n, "total": p, "union": 1 - (1 - p) ** n}[what]
            about = {"field": "white", "arm": f"{dim}-D {neighbours} {values}", "parameter": 0.0, "what": what, "n": n}
            rows.append(about | _rate(cell[what], cell["sites"]) | {"law": law})
    for (c, n), cell in tables.counts["correlated"].groupby(["correlation", "n"]):
        about = {"field": "white", "arm": "correlated", "parameter": c, "what": "common", "n": n}
        rows.append(about | _rate(cell["common"], cell["sites"]) | {"law": 9.0**-n if c == 0 else nan})
    smooth = tables.counts["smooth"]
    for (kind, measure, parameter, n), cell in smooth.groupby(["kind", "measure", "parameter", "n"]):
        if measure not in ("grid", "near"):
            continue
        law = _smooth_law(smooth[smooth["kind"] == kind], measure, parameter, n)
        about = {"field": kind, "arm": measure, "parameter": parameter, "what": "common", "n": n}
        rows.append(about | _rate(cell["count"], cell["exposure"]) | {"law": law})
    return pd.DataFrame(rows)


def _rate(counts: pd.Series, exposures: pd.Series) -> dict[str, float]:
    found = statistics.garwood(int(counts.sum()), float(exposures.sum()), LEVEL)
    spread = float(counts.var(ddof=1) / counts.mean()) if len(counts) > 1 and counts.mean() > 0 else nan
    return {"rate": found.value, "low": found.low, "high": found.high, "count": found.n, "dispersion": spread}


def _smooth_law(kind: pd.DataFrame, measure: str, parameter: float, n: int) -> float:
    """p^n with p from single layers, or rho q^(n-1) with their density and empty-space function."""
    if measure == "near":
        one = kind[kind["measure"] == "one"]
        space = kind[(kind["measure"] == "space") & (kind["parameter"] == parameter)]
        q = space["count"].sum() / space["exposure"].sum()
        return float(one["count"].sum() / one["exposure"].sum() * q ** (n - 1))
    first = kind[(kind["measure"] == "grid") & (kind["parameter"] == parameter) & (kind["n"] == 1)]
    return float((first["count"].sum() / first["exposure"].sum()) ** n)


def _slope(table: pd.DataFrame, count: str, exposure: str, p: float | None, name: str, level: float) -> Interval:
    """Slope of the log rate on n over log p, bootstrapped over fields; p from the counts at n = 1 if not known."""
    counts = table.pivot(index="field", columns="n", values=count)
    exposures = table.pivot(index="field", columns="n", values=exposure)
    n = counts.columns.to_numpy(float)

    def statistic(columns: Mapping[str, np.ndarray]) -> float:
        c, e = columns["c"].sum(0), columns["e"].sum(0)
        return statistics.poisson_slope(n, c, e) / log(p or c[0] / e[0])

    columns = {"c": counts.to_numpy(float), "e": exposures.to_numpy(float)}
    return statistics.bootstrap(statistic, columns, _rng(name), level=level, resamples=RESAMPLES)


def two_vs_one(tables: Tables) -> Interval:
    """Landscapes in which two layers share more minima than one of them has: must be none."""
    white, smooth = tables.counts["white"], tables.counts["smooth"]
    grid = smooth[smooth["measure"] == "grid"]
    pairs = [
        table[table["n"] == 2].merge(table[table["n"] == 1], on=keys, suffixes=("", "_one"))
        for table, keys in (
            (white.rename(columns={"common": "count"}), ["dim", "neighbours", "values", "field"]),
            (grid, ["kind", "field", "parameter"]),
        )
    ]
    return statistics.exact(
        sum((pair["count"] > pair["count_one"]).sum() for pair in pairs), sum(len(pair) for pair in pairs)
    )


def equal_p(tables: Tables) -> Interval | None:
    """Coefficient of variation of the number of minima over single layers of smooth fields, the largest over kinds."""
    one = tables.counts["smooth"]
    one = one[one["measure"] == "one"]
    found = [float(cell["count"].std() / cell["count"].mean()) for _, cell in one.groupby("kind")]
    return statistics.exact(max(found), len(one))


def _white_arm(table: pd.DataFrame, dim: int, neighbours: str, values: str) -> pd.DataFrame:
    return table[(table["dim"] == dim) & (table["neighbours"] == neighbours) & (table["values"] == values)]


def p_power_grid(tables: Tables) -> Interval:
    moore = _white_arm(tables.counts["white"], 2, "moore", "normal")
    return _slope(moore, "common", "sites", 1 / 9, "grid", LEVEL)


def _farthest(found: list[Interval], expected: float) -> Interval | None:
    """The interval farthest from what is expected, each of them at the level that all of them together need."""
    return max(found, key=lambda interval: abs(interval.value - expected)) if found else None


def p_power_arms(tables: Tables) -> Interval | None:
    arms = list(tables.counts["white"].groupby(["dim", "neighbours", "values"]))
    level = 1 - (1 - LEVEL) / len(arms)
    found = [
        _slope(arm, "common", "sites", 1 / (neighbour_count(dim, neighbours) + 1), f"arm {dim} {neighbours}", level)
        for (dim, neighbours, _), arm in arms
    ]
    return _farthest(found, 1.0)


def p_power_smooth(tables: Tables) -> Interval | None:
    """At the coarsest step, over the n with enough expected hits, and at least two."""
    grid = tables.counts["smooth"]
    grid = grid[grid["measure"] == "grid"]
    grid = grid[grid["parameter"] == grid["parameter"].min()]
    found = []
    for kind, cell in grid.groupby("kind"):
        totals = cell.groupby("n")[["count", "exposure"]].sum()
        p, sites = totals["count"].iloc[0] / totals["exposure"].iloc[0], totals["exposure"].iloc[0]
        kept = cell[(cell["n"] <= 2) | (sites * p ** cell["n"] >= HITS)]
        found.append(_slope(kept, "count", "exposure", None, f"smooth {kind}", 1 - (1 - LEVEL) / len(SMOOTH)))
    return _farthest(found, 1.0)


def p_power_step(tables: Tables) -> Interval | None:
    """Exponent of the rate of two common minima in the grid step, from the two finest: 2 d = 4 has no limit but 0."""
    grid = tables.counts["smooth"]
    grid = grid[(grid["measure"] == "grid") & (grid["n"] == 2)]
    steps = sorted(grid["parameter"].unique())[-2:]
    counts = grid.pivot_table(index=["kind", "field"], columns="parameter", values="count").reset_index()

    def exponent(columns: Mapping[str, np.ndarray]) -> float:
        coarse, fine = columns["coarse"].sum(), columns["fine"].sum()
        # a rate is a count over the sites, which grow like the square of the samples
        return log(max(coarse, 0.5) * (steps[1] / steps[0]) ** 2 / max(fine, 0.5)) / log(steps[1] / steps[0])

    columns = {"coarse": counts[steps[0]].to_numpy(float), "fine": counts[steps[1]].to_numpy(float)}
    return statistics.bootstrap(exponent, columns, _rng("step"), level=LEVEL, resamples=RESAMPLES)


def p_power_near(tables: Tables) -> Interval | None:
    """Coincidences of 3 layers over rho q², at the radius of one correlation length, the kind farthest from 1."""
    smooth = tables.counts["smooth"]
    found = []
    for kind, cell in smooth.groupby("kind"):
        near = cell[(cell["measure"] == "near") & (cell["parameter"] == 1.0) & (cell["n"] == 3)]
        law = _smooth_law(cell, "near", 1.0, 3)
        level = 1 - (1 - LEVEL) / len(SMOOTH)
        found.append(_ratio(near["count"].to_numpy(), law * near["exposure"].to_numpy(), f"near {kind}", level))
    return _farthest(found, 1.0)


def poisson_form(tables: Tables) -> Interval | None:
    """Empty-space probability at one correlation length over 1 - exp(-rho pi r²), squared-exponential field."""
    cell = tables.counts["smooth"]
    cell = cell[cell["kind"] == "se2d"]
    one, space = cell[cell["measure"] == "one"], cell[(cell["measure"] == "space") & (cell["parameter"] == 1.0)]
    form = 1 - np.exp(-np.pi * one["count"].sum() / one["exposure"].sum())
    by_field = space.groupby("field")[["count", "exposure"]].sum()
    return _scaled(_ratio(by_field["count"].to_numpy(), by_field["exposure"].to_numpy(), "poisson form"), 1 / form)


def _correlated(c: float) -> Callable[[Tables], Interval]:
    """Local slope of the log rate per added goal over log p: of the last step whose counts are large, or the fourth."""

    def slope(tables: Tables) -> Interval:
        table = tables.counts["correlated"]
        table = table[table["correlation"] == c]
        totals = table.groupby("n")["common"].sum()
        last = int(max(n for n in totals.index if n <= 2 or (totals[n] >= 4 * HITS and n <= 4)))
        kept = table[table["n"].isin([last - 1, last])]
        return _slope(kept, "common", "sites", 1 / 9, f"correlated {c}", LEVEL)

    return slope


def harmony(tables: Tables) -> Interval:
    """h_4 = log P_4 / (4 log p) of layers with half of their variance in common."""
    table = tables.counts["correlated"]
    cell = table[(table["correlation"] == 0.5) & (table["n"] == 4)]
    found = _ratio(cell["common"].to_numpy(), cell["sites"].to_numpy(), "harmony")
    value, low, high = (log(max(v, 1e-12)) / (4 * log(1 / 9)) for v in (found.value, found.low, found.high))
    return Interval(value, high, low, found.n)


def curved(tables: Tables) -> Interval:
    """Correlations c > 0 whose log rate bends in n: the steps to n = 2 and to n = 4 differ, Bonferroni over c."""
    table = tables.counts["correlated"]
    positive = [c for c in CORRELATIONS if c > 0]
    bent = 0
    for c in positive:
        wide = table[table["correlation"] == c].pivot(index="field", columns="n", values="common")

        def bend(x: np.ndarray) -> float:
            total = np.maximum(x.sum(0), 0.5)
            return log(total[3] * total[0] / (total[2] * total[1]))

        found = statistics.bootstrap(
            bend, wide.to_numpy(float), _rng("curved", c), level=1 - 0.05 / len(positive), resamples=RESAMPLES
        )
        bent += found.low > 0 or found.high < 0
    return statistics.exact(bent, len(positive))


# --- densities --------------------------------------------------------------------------------------------------------


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
    return statistics.bootstrap(statistic, samples, _rng(name), level=LEVEL, resamples=RESAMPLES, strata=strata)


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


def _largest(table: pd.DataFrame) -> int:
    return int(table["n"].max())


def _density(kind: str, arm: str, base: str, column: str = "flow") -> Callable[[Tables], Interval | None]:
    """The ratio at the largest n."""

    def ratio(tables: Tables) -> Interval | None:
        if kind not in tables.densities:
            return None
        table = tables.densities[kind]
        return density_ratio(table, arm, _largest(table), column, base)

    return ratio


def linear_multiplies(tables: Tables) -> Interval | None:
    """Density of the sum over that of one layer, divided by n, at the largest n: 1 if adding multiplies."""
    kind = "perlin_phase" if "perlin_phase" in tables.densities else "se2d"
    found = _density(kind, "sum", "one")(tables)
    return found and _scaled(found, 1 / _largest(tables.densities[kind]))


def _over_closed_form(arm: str) -> Callable[[Tables], Interval | None]:
    """Measured over predicted ratio of densities in 1-D at the largest n."""

    def ratio(tables: Tables) -> Interval | None:
        if "se1d" not in tables.densities:
            return None
        table = tables.densities["se1d"]
        found = density_ratio(table, arm, _largest(table), base="one")
        return found and _scaled(found, 1 / _closed_form("se1d", arm, _largest(table)))

    return ratio


def _longuet_higgins(dim: int) -> Callable[[Tables], Interval | None]:
    """Counted density of single layers and of all plain sums over the formula, on the finer grid."""

    def ratio(tables: Tables) -> Interval | None:
        table = tables.densities.get(f"se{dim}d")
        if table is None:
            return None
        cell = table[(table["arm"] == "sum") & (table["samples"] == table["samples"].max())]
        by_landscape = cell.groupby("landscape")[["flow", "volume"]].sum()
        found = _ratio(by_landscape["flow"].to_numpy(), by_landscape["volume"].to_numpy(), f"density {dim}")
        return _scaled(found, 1 / theory.minima_density(dim, 1.0, 3.0))

    return ratio


def kac_rice_perlin(tables: Tables) -> Interval | None:
    """Counted minima a cell of Perlin layers with Gaussian gradients over the quadrature, on the finer grid."""
    table = tables.densities.get("perlin_gaussian")
    if table is None:
        return None
    cell = table[(table["arm"] == "sum") & (table["samples"] == table["samples"].max())]
    by_landscape = cell.groupby("landscape")[["flow", "volume"]].sum()
    found = _ratio(by_landscape["flow"].to_numpy(), by_landscape["volume"].to_numpy(), "kac rice")
    return _scaled(found, 1 / theory.perlin_minima_per_cell(2))


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


def union(tables: Tables) -> Interval:
    """Sites that are minima of any of 5 layers over those of one, white noise in 2-D, Moore."""
    moore = _white_arm(tables.counts["white"], 2, "moore", "normal")
    five, one = moore[moore["n"] == min(5, moore["n"].max())], moore[moore["n"] == 1]
    found = _ratio(five["union"].to_numpy(), one["union"].to_numpy(), "union")
    return _scaled(found, 1 / float(five["n"].iloc[0]))


def bowl(tables: Tables) -> Interval:
    """Counted minima in the window over the integral of the closed form, the n farthest from 1."""
    table = tables.counts["bowls"]
    x = torch.linspace(-BOWL_WINDOW, BOWL_WINDOW, 20_001, dtype=torch.float64)
    found = []
    for n, cell in table.groupby("n"):
        expected = float(torch.trapezoid(theory.bowl_minima_density(x, int(n), BOWL_MU, 1.0, 3.0), x))
        level = 1 - (1 - LEVEL) / table["n"].nunique()
        found.append(_ratio(cell["minima"].to_numpy(), np.full(len(cell), expected), f"bowl {n}", level))
    return _farthest(found, 1.0)


# --- smoothness -------------------------------------------------------------------------------------------------------


def _trend(values: pd.DataFrame) -> Interval | None:
    """Mean over landscapes of the slope per doubling of n; values (landscape, n). None for a single n."""
    if values.shape[1] < 2:
        return None
    x = np.log2(values.columns.to_numpy(float))
    x = x - x.mean()
    return statistics.t_interval(values.to_numpy(float) @ x / (x @ x), LEVEL)


def _smoother(
    column: str, arm: str, alignment: str = "shift", logarithm: bool = True
) -> Callable[[Tables], Interval | None]:
    """Slope per doubling of n of (the logarithm of) a measure of relief."""

    def trend(tables: Tables) -> Interval | None:
        cell = tables.smoothness
        cell = cell[(cell["alignment"] == alignment) & (cell["arm"] == arm)]
        values = cell.pivot(index="landscape", columns="n", values=column)
        return _trend(np.log2(values.clip(lower=1e-6)) if logarithm else values)

    return trend


# --- descents ---------------------------------------------------------------------------------------------------------


def tuned(cell: pd.DataFrame, column: str = "success") -> pd.Series:
    """Share of runs by landscape, each half of the landscapes at the rate that is best on the other half."""
    share = cell.assign(share=cell["success"] / cell["runs"]).pivot(index="landscape", columns="rate", values="share")
    wanted = cell.assign(share=cell[column] / cell["runs"]).pivot(index="landscape", columns="rate", values="share")
    even = share.index % 2 == 0
    parts = [wanted.loc[half, share.loc[~half].mean().idxmax()] for half in (even, ~even)]
    return pd.concat(parts).sort_index()


def _share(cell: pd.DataFrame, rate: str, column: str = "success") -> pd.Series:
    if rate == "tuned":
        return tuned(cell, column)
    at = cell[cell["rate"] == FIXED_RATE].set_index("landscape")
    return at[column] / at["runs"]


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
                found = statistics.t_interval(_share(cell, rate), LEVEL)
                cost = float(cell["evaluations"].iloc[0])
                failures = {
                    name: float(_share(cell, rate, name).mean())
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
        return _trend(pd.DataFrame({n: tuned(cell) for n, cell in table.groupby("n")}))

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
    return float(stats.t.ppf(1 - 0.05 / comparisons, n - 1) / stats.t.ppf(0.95, n - 1))


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
        return _trend(shares)

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
    found = statistics.t_interval(_share(_cell(table, "pointwise", README_ARM, _largest(table)), "fixed"), LEVEL)
    return _scaled(found, 64 / (np.pi * 0.25))


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


# --- cross-check ------------------------------------------------------------------------------------------------------


def perlin_numpy_formula(_: Tables) -> Interval:
    """Greatest difference between ours times the root of 2 and the formula of pvigier/perlin-numpy written in NumPy."""
    cells, samples = 6, 8
    field = PerlinField.named("perlin", "formula", cells=cells, dtype=torch.float64)
    g = np.moveaxis(field.lattices[0].numpy(), 0, -1)
    g = np.concatenate([g, g[:1]], 0)
    g = np.concatenate([g, g[:, :1]], 1)
    axis = np.arange(cells * samples) / samples
    x, y = np.meshgrid(axis, axis, indexing="ij")
    i, j = x.astype(int), y.astype(int)
    u, v = x - i, y - j
    ramps = {(a, b): (np.stack([u - a, v - b], -1) * g[i + a, j + b]).sum(-1) for a in (0, 1) for b in (0, 1)}
    s, t = (6 * w**5 - 15 * w**4 + 10 * w**3 for w in (u, v))
    theirs = np.sqrt(2) * (
        (1 - t) * (ramps[0, 0] * (1 - s) + s * ramps[1, 0]) + t * (ramps[0, 1] * (1 - s) + s * ramps[1, 1])
    )
    return statistics.exact(np.abs(theirs - np.sqrt(2) * field.dense(samples)[0].numpy()).max(), theirs.size)


POINT = "pointwise"
MEASURES: dict[str, Callable[[Tables], Interval | None]] = {
    "perlin.two_vs_one": two_vs_one,
    "perlin.equal_p": equal_p,
    "perlin.p_power_n_grid": p_power_grid,
    "perlin.p_power_n_arms": p_power_arms,
    "perlin.p_power_n_smooth": p_power_smooth,
    "perlin.p_power_n_step": p_power_step,
    "perlin.p_power_n_near": p_power_near,
    "perlin.poisson_form": poisson_form,
    **{f"perlin.p_power_n_correlated_{round(100 * c)}": _correlated(c) for c in CORRELATIONS},
    "perlin.correlated_curved": curved,
    "perlin.harmony": harmony,
    "perlin.linear_multiplies": linear_multiplies,
    "perlin.linear_unchanged": _density("se2d", "sum", "one"),
    "perlin.linear_unchanged_perlin": _density("perlin_phase", "sum", "one"),
    "perlin.linear_weights": _density("se2d", "weighted_sum", "one"),
    "perlin.union_multiplies": union,
    "perlin.composite_smoother": _smoother("persistent", "sum"),
    "perlin.composite_smoother_raw": _smoother("minima", "sum"),
    "perlin.composite_smoother_variation": _smoother("variation", "sum"),
    "perlin.composite_smoother_unaligned": _smoother("persistent", "sum", "none"),
    "perlin.largest_gradient_smoother": _smoother("persistent", "max_pasted"),
    "perlin.largest_gradient_potential": _smoother("persistent", "max_potential"),
    "perlin.largest_gradient": _density("se2d", "max", "sum"),
    "perlin.largest_gradient_closed": _over_closed_form("max"),
    "perlin.gradient_weighting": _density("se2d", README_ARM, "sum"),
    "perlin.gradient_weighting_perlin": _density("perlin_phase", README_ARM, "sum"),
    "perlin.gradient_weighting_closed": _over_closed_form(README_ARM),
    "perlin.two_layers": two_layers,
    "perlin.poincare_hopf": poincare_hopf,
    "perlin.bowl": bowl,
    "perlin.longuet_higgins_1d": _longuet_higgins(1),
    "perlin.longuet_higgins_2d": _longuet_higgins(2),
    "perlin.kac_rice": kac_rice_perlin,
    "perlin.numpy_formula": perlin_numpy_formula,
    **{f"perlin.more_is_better_{kind}": _more_is_better(kind) for kind in ("desert", "funnel", "bowl")},
    "perlin.dynamic_needed": _difference("funnel", (POINT, README_ARM), (POINT, "sum")),
    "perlin.dynamic_needed_fixed": _difference("funnel", (POINT, README_ARM), (POINT, "sum"), "fixed"),
    "perlin.dynamic_against_noise": _difference("funnel", (POINT, README_ARM), ("control", "noise")),
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
