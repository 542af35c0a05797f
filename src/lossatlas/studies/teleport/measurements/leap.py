"""The leap of baubels/gradient_teleportation, taken apart."""

from collections.abc import Callable

import pandas as pd

from lossatlas import statistics
from lossatlas.statistics import Interval
from lossatlas.studies.teleport.measurements.pairs import of
from lossatlas.studies.teleport.measurements.results import Results


def leap(arm: str) -> Callable[[Results], Interval]:
    """Leap of the test accuracy minus that of the untouched arm, at the rate where that stands nearest to 0.40."""

    def gap(results: Results) -> Interval:
        table = leaps(results.tables["baubels"])
        return statistics.t_interval(table[arm] - table["none"])

    return gap


def leaps(runs: pd.DataFrame) -> pd.DataFrame:
    """Leaps by seed (rows) and arm, at the rate at which the untouched arm is nearest to the published 0.4025."""
    before = of(runs, "none").groupby("rate")["before"].mean()
    rate = (before - 0.4025).abs().idxmin()
    chosen = runs[(runs["rate"] == rate) & (runs["diverged_at"] < 0)]
    return chosen.pivot_table(index="seed", columns="arm", values="leap")


MEASURES: dict[str, Callable[[Results], Interval]] = {
    "teleport.leap": leap("published"),
    "teleport.leap_teleport": leap("gl-best"),
    "teleport.leap_steps": leap("long epoch"),
    "teleport.leap_layer": leap("new layer"),
    "teleport.leap_rate": leap("layer rate, long epoch"),
}
