"""From the study's tables to the numbers that its claims are judged by."""

from collections.abc import Callable, Mapping

import pandas as pd

from lossatlas.statistics import Interval
from lossatlas.studies.evolution import meta_measurements

Tables = Mapping[str, pd.DataFrame]
Measure = Callable[[Tables], Interval | None]

OWN: dict[str, Measure] = {}


def measure(tables: Tables) -> dict[str, Interval]:
    """{claim id: measured interval}; claims whose table or runs are absent from this tier are left out."""
    found = {identity: function(tables) for identity, function in (OWN | meta_measurements.MEASURES).items()}
    return {identity: interval for identity, interval in found.items() if interval is not None and interval.n}
