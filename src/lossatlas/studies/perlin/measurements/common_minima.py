"""Common minima of layers: rates against n with their laws, slopes over log p, and sums in a common bowl."""

from collections.abc import Callable, Mapping
from math import log, nan, pi

import numpy as np
import pandas as pd
import torch

from lossatlas import statistics, theory
from lossatlas.critical_points import neighbour_count
from lossatlas.statistics import Interval
from lossatlas.studies.perlin.common import BOWL_MU, BOWL_WINDOW, CORRELATIONS, HITS, SMOOTH, SPACE
from lossatlas.studies.perlin.measurements.evidence import (
    LEVEL,
    RESAMPLES,
    Measures,
    Tables,
    farthest,
    ratio_of_sums,
    rng,
    scaled,
)


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
    return statistics.bootstrap(statistic, columns, rng(name), level=level, resamples=RESAMPLES)


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


PLANE = tuple(kind for kind in SMOOTH if kind != SPACE)


def _plane(smooth: pd.DataFrame) -> pd.DataFrame:
    """What was counted in the plane; the measures of space are their own."""
    return smooth[smooth["kind"] != SPACE]


def equal_p(tables: Tables) -> Interval | None:
    """Coefficient of variation of the number of minima over single layers of smooth fields, the largest over kinds."""
    one = _plane(tables.counts["smooth"])
    one = one[one["measure"] == "one"]
    found = [float(cell["count"].std() / cell["count"].mean()) for _, cell in one.groupby("kind")]
    return statistics.exact(max(found), len(one))


def equal_p_dispersion(tables: Tables) -> Interval | None:
    """Variance of the number of minima over single layers over its mean, 1 for a Poisson process; the largest kind."""
    one = _plane(tables.counts["smooth"])
    one = one[one["measure"] == "one"]
    found = [float(cell["count"].var() / cell["count"].mean()) for _, cell in one.groupby("kind")]
    return statistics.exact(max(found), len(one))


def ties(tables: Tables) -> Interval:
    """Share of sites of single white-noise layers that equal their next neighbour along an axis, the largest arm."""
    white = tables.counts["white"]
    found = white.groupby(["dim", "neighbours", "values"])[["ties", "sites"]].sum()
    return statistics.exact(float((found["ties"] / found["sites"]).max()), int(found["sites"].sum()))


def _white_arm(table: pd.DataFrame, dim: int, neighbours: str, values: str) -> pd.DataFrame:
    return table[(table["dim"] == dim) & (table["neighbours"] == neighbours) & (table["values"] == values)]


def p_power_grid(tables: Tables) -> Interval:
    moore = _white_arm(tables.counts["white"], 2, "moore", "normal")
    return _slope(moore, "common", "sites", 1 / 9, "grid", LEVEL)


def p_power_arms(tables: Tables) -> Interval | None:
    arms = list(tables.counts["white"].groupby(["dim", "neighbours", "values"]))
    level = 1 - (1 - LEVEL) / len(arms)
    found = [
        _slope(arm, "common", "sites", 1 / (neighbour_count(dim, neighbours) + 1), f"arm {dim} {neighbours}", level)
        for (dim, neighbours, _), arm in arms
    ]
    return farthest(found, 1.0)


def p_power_smooth(tables: Tables) -> Interval | None:
    """At the coarsest step, over the n with enough expected hits, and at least two."""
    grid = _plane(tables.counts["smooth"])
    grid = grid[grid["measure"] == "grid"]
    grid = grid[grid["parameter"] == grid["parameter"].min()]
    found = []
    for kind, cell in grid.groupby("kind"):
        totals = cell.groupby("n")[["count", "exposure"]].sum()
        p, sites = totals["count"].iloc[0] / totals["exposure"].iloc[0], totals["exposure"].iloc[0]
        kept = cell[(cell["n"] <= 2) | (sites * p ** cell["n"] >= HITS)]
        found.append(_slope(kept, "count", "exposure", None, f"smooth {kind}", 1 - (1 - LEVEL) / len(PLANE)))
    return farthest(found, 1.0)


def p_power_step(tables: Tables) -> Interval | None:
    """Exponent of the rate of two common minima in the grid step, from the two finest: 2 d = 4 has no limit but 0."""
    grid = _plane(tables.counts["smooth"])
    grid = grid[(grid["measure"] == "grid") & (grid["n"] == 2)]
    steps = sorted(grid["parameter"].unique())[-2:]
    counts = grid.pivot_table(index=["kind", "field"], columns="parameter", values="count").reset_index()

    def exponent(columns: Mapping[str, np.ndarray]) -> float:
        coarse, fine = columns["coarse"].sum(), columns["fine"].sum()
        # a rate is a count over the sites, which grow like the square of the samples
        return log(max(coarse, 0.5) * (steps[1] / steps[0]) ** 2 / max(fine, 0.5)) / log(steps[1] / steps[0])

    columns = {"coarse": counts[steps[0]].to_numpy(float), "fine": counts[steps[1]].to_numpy(float)}
    return statistics.bootstrap(exponent, columns, rng("step"), level=LEVEL, resamples=RESAMPLES)


def p_power_near(tables: Tables) -> Interval | None:
    """Coincidences of 3 layers over rho q², at the radius of one correlation length, the kind farthest from 1."""
    level = 1 - (1 - LEVEL) / len(PLANE)
    kinds = _plane(tables.counts["smooth"]).groupby("kind")
    return farthest([_near(cell, 1.0, f"near {kind}", level) for kind, cell in kinds], 1.0)


def p_power_near_space(tables: Tables) -> Interval | None:
    """The same in three dimensions, within two lengths."""
    cell = tables.counts["smooth"]
    cell = cell[cell["kind"] == SPACE]
    return _near(cell, 2.0, "near space", LEVEL) if len(cell) else None


def _near(kind: pd.DataFrame, radius: float, name: str, level: float) -> Interval:
    near = kind[(kind["measure"] == "near") & (kind["parameter"] == radius) & (kind["n"] == 3)]
    law = _smooth_law(kind, "near", radius, 3)
    return ratio_of_sums(near["count"].to_numpy(), law * near["exposure"].to_numpy(), name, level)


def _poisson_form(kind: str, ball: float) -> Callable[[Tables], Interval | None]:
    """Empty-space probability at one correlation length over 1 - exp(-rho V), V the volume of the unit ball."""

    def ratio(tables: Tables) -> Interval | None:
        cell = tables.counts["smooth"]
        cell = cell[cell["kind"] == kind]
        if cell.empty:
            return None
        one, space = cell[cell["measure"] == "one"], cell[(cell["measure"] == "space") & (cell["parameter"] == 1.0)]
        form = 1 - np.exp(-ball * one["count"].sum() / one["exposure"].sum())
        by_field = space.groupby("field")[["count", "exposure"]].sum()
        name = "poisson form" if kind == "se2d" else f"poisson form {kind}"
        return scaled(ratio_of_sums(by_field["count"].to_numpy(), by_field["exposure"].to_numpy(), name), 1 / form)

    return ratio


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
    found = ratio_of_sums(cell["common"].to_numpy(), cell["sites"].to_numpy(), "harmony")
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
            bend, wide.to_numpy(float), rng("curved", c), level=1 - 0.05 / len(positive), resamples=RESAMPLES
        )
        bent += found.low > 0 or found.high < 0
    return statistics.exact(bent, len(positive))


def union(tables: Tables) -> Interval:
    """Sites that are minima of any of 5 layers over those of one, white noise in 2-D, Moore."""
    moore = _white_arm(tables.counts["white"], 2, "moore", "normal")
    five, one = moore[moore["n"] == min(5, moore["n"].max())], moore[moore["n"] == 1]
    found = ratio_of_sums(five["union"].to_numpy(), one["union"].to_numpy(), "union")
    return scaled(found, 1 / float(five["n"].iloc[0]))


def bowl(tables: Tables) -> Interval:
    """Counted minima in the window over the integral of the closed form, the n farthest from 1."""
    table = tables.counts["bowls"]
    x = torch.linspace(-BOWL_WINDOW, BOWL_WINDOW, 20_001, dtype=torch.float64)
    found = []
    for n, cell in table.groupby("n"):
        expected = float(torch.trapezoid(theory.bowl_minima_density(x, int(n), BOWL_MU, 1.0, 3.0), x))
        level = 1 - (1 - LEVEL) / table["n"].nunique()
        found.append(ratio_of_sums(cell["minima"].to_numpy(), np.full(len(cell), expected), f"bowl {n}", level))
    return farthest(found, 1.0)


MEASURES: Measures = {
    "perlin.two_vs_one": two_vs_one,
    "perlin.equal_p": equal_p,
    "perlin.equal_p_dispersion": equal_p_dispersion,
    "perlin.ties": ties,
    "perlin.p_power_n_grid": p_power_grid,
    "perlin.p_power_n_arms": p_power_arms,
    "perlin.p_power_n_smooth": p_power_smooth,
    "perlin.p_power_n_step": p_power_step,
    "perlin.p_power_n_near": p_power_near,
    "perlin.p_power_n_near_space": p_power_near_space,
    "perlin.poisson_form": _poisson_form("se2d", pi),
    "perlin.poisson_form_space": _poisson_form(SPACE, 4 * pi / 3),
    **{f"perlin.p_power_n_correlated_{round(100 * c)}": _correlated(c) for c in CORRELATIONS},
    "perlin.correlated_curved": curved,
    "perlin.harmony": harmony,
    "perlin.union_multiplies": union,
    "perlin.bowl": bowl,
}
