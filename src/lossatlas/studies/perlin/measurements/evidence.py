"""The tables that claims are measured on, and intervals whose unit is the landscape (or the field of white noise).

Arms are paired by landscape; intervals are bootstraps over it or Student's over its own values, at level 90 % (two
one-sided tests at 5 %).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd

from lossatlas import statistics
from lossatlas.seeds import seed
from lossatlas.statistics import Interval

LEVEL = 0.90
RESAMPLES = 400
README_ARM = "q=1"


@dataclass(frozen=True, eq=False)
class Tables:
    """The study's tables: counts by name, densities and descents by kind, the relief of composites, and the densities
    and descents of teams that share more or less."""

    counts: Mapping[str, pd.DataFrame]
    densities: Mapping[str, pd.DataFrame]
    smoothness: pd.DataFrame
    descents: Mapping[str, pd.DataFrame]
    harmony: Mapping[str, pd.DataFrame]


Measures = Mapping[str, Callable[[Tables], Interval | None]]


def rng(*name: str | int | float) -> np.random.Generator:
    return np.random.default_rng(seed("perlin", "bootstrap", *name))


def ratio_of_sums(numerator: np.ndarray, denominator: np.ndarray, name: str, level: float = LEVEL) -> Interval:
    """Ratio of sums over landscapes, bootstrapped over them; paired."""
    columns = {"a": np.asarray(numerator, float), "b": np.asarray(denominator, float)}

    def ratio(c: Mapping[str, np.ndarray]) -> float:
        return c["a"].sum() / c["b"].sum() if c["b"].sum() else nan

    return statistics.bootstrap(ratio, columns, rng(name), level=level, resamples=RESAMPLES)


def scaled(found: Interval, factor: float) -> Interval:
    return Interval(found.value * factor, found.low * factor, found.high * factor, found.n)


def farthest(found: list[Interval], expected: float) -> Interval | None:
    """The interval farthest from what is expected, each of them at the level that all of them together need."""
    return max(found, key=lambda interval: abs(interval.value - expected)) if found else None


def largest_team(table: pd.DataFrame) -> int:
    return int(table["n"].max())


def slope_a_doubling(values: pd.DataFrame) -> Interval | None:
    """Mean over landscapes of the slope per doubling of n; values (landscape, n). None for a single n."""
    if values.shape[1] < 2:
        return None
    x = np.log2(values.columns.to_numpy(float))
    x = x - x.mean()
    return statistics.t_interval(values.to_numpy(float) @ x / (x @ x), LEVEL)
