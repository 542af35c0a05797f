"""Barriers between teleported and untouched solutions, on segments and on elastic bands, in nats of training loss."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from lossatlas import statistics
from lossatlas.statistics import Interval
from lossatlas.studies.teleport.measurements.results import Results


def barriers(results: Results, pair: str, way: str) -> pd.Series:
    """Barriers by seed, `segment` or `band`."""
    rows = results.tables["bands"]
    return rows[rows["pair"] == pair].set_index("seed")[way].astype(float)


def mean(pair: str, way: str) -> Callable[[Results], Interval]:
    """Mean barrier over seeds."""

    def value(results: Results) -> Interval:
        return statistics.t_interval(barriers(results, pair, way))

    return value


def gap(pair: str, than: str) -> Callable[[Results], Interval]:
    """Barrier on the segment of one pair minus that of another, paired by the seed of the untouched end."""

    def value(results: Results) -> Interval:
        return statistics.t_interval(barriers(results, pair, "segment") - barriers(results, than, "segment"))

    return value


def orbit(results: Results) -> Interval:
    strays = np.asarray(results.arrays["bands"]["orbit"])
    return statistics.exact(strays.max(), len(strays))


MEASURES: dict[str, Callable[[Results], Interval]] = {
    "teleport.barrier_band": mean("teleported", "band"),
    "teleport.barrier_band_seeds": mean("seed", "band"),
    "teleport.barrier_undone": gap("undone", "teleported"),
    "teleport.barrier_seeds": gap("teleported", "seed"),
    "teleport.barrier_shift": gap("teleported", "shift"),
    "teleport.barrier_image": mean("image", "segment"),
    "teleport.barrier_orbit": orbit,
}
