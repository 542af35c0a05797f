"""The tables that the jobs of the study wrote, and how a number with its interval is read off them.

Intervals are Student's, 95 % unless a test of equivalence asks for 90 %.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lossatlas import statistics
from lossatlas.seeds import seed
from lossatlas.statistics import Interval

Found = Interval | None  # None for a claim whose runs are absent from this tier


@dataclass(frozen=True, eq=False)
class Tables:
    """What the jobs wrote. levels has a column `ensemble`, arms and cycles have `family`; settings: the config."""

    levels: pd.DataFrame
    tree: pd.DataFrame
    arms: pd.DataFrame
    cycles: pd.DataFrame
    controls: pd.DataFrame
    stability: pd.DataFrame
    penalised: pd.DataFrame
    dropped: pd.DataFrame
    ensembles: pd.DataFrame
    surfaces: pd.DataFrame
    settings: Mapping[str, Any]

    @property
    def bands(self) -> pd.DataFrame:
        """Bands between fully trained minima."""
        return self.levels[self.levels["arm"] == "autoneb"]

    def arm(self, arm: str) -> pd.DataFrame:
        return self.levels[self.levels["arm"] == arm]


Measure = Callable[[Tables], Found]


def student_interval(values: Iterable[float], level: float = 0.95) -> Interval:
    """Student's interval of what is finite; `n` counts it, and the tables have the rest and its `outcome`."""
    values = np.asarray(list(values), float)
    return statistics.t_interval(values[np.isfinite(values)], level)


def student(values: Iterable[float], level: float = 0.95) -> Found:
    """The same, None where nothing is finite."""
    found = student_interval(values, level)
    return found if found.n else None


def generator(name: str) -> np.random.Generator:
    return np.random.default_rng(seed("autoneb", "bootstrap", name))


def by_network(frame: pd.DataFrame, values: pd.Series, level: float = 0.95) -> Found:
    """Student's interval over networks, each the mean of its pairs."""
    return student(values.groupby(frame["ensemble"]).mean(), level)


def paired_column(tables: Tables, family: str, arm: str, column: str) -> pd.Series:
    rows = tables.arms[(tables.arms["family"] == family) & (tables.arms["arm"] == arm)]
    return rows.set_index("pair")[column]


def network_of(tables: Tables, part: str) -> Mapping[str, Any]:
    name = tables.settings[part]["network"]
    return next(network for network in tables.settings["networks"] if network["name"] == name)
