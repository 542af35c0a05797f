"""From the study's tables to the numbers that the claims are judged by.

The unit is a disjoint pair of minima where one network is spoken of, a network where several are, a group of minima for
trees, a trained network for controls: never an edge of a tree.
"""

from collections.abc import Mapping

from lossatlas.statistics import Interval
from lossatlas.studies.autoneb.measurements import (
    budgets,
    controls,
    levels,
    neighbours,
    segments,
    stability,
    surfaces,
    trees,
    trends,
)
from lossatlas.studies.autoneb.measurements.summaries import methods_table, networks_table
from lossatlas.studies.autoneb.measurements.tables import Measure, Tables
from lossatlas.studies.autoneb.measurements.trees import anytime

__all__ = ["MEASURES", "Tables", "anytime", "measure", "methods_table", "networks_table"]

MEASURES: Mapping[str, Measure] = {
    **surfaces.MEASURES,
    **levels.MEASURES,
    **trends.MEASURES,
    **segments.MEASURES,
    **controls.MEASURES,
    **trees.MEASURES,
    **budgets.MEASURES,
    **stability.MEASURES,
    **neighbours.MEASURES,
}


def measure(tables: Tables) -> dict[str, Interval]:
    """{claim id: measured interval}; claims whose runs are absent from this tier are left out."""
    found = {f"autoneb.{name}": function(tables) for name, function in MEASURES.items()}
    return {name: interval for name, interval in found.items() if interval is not None and interval.n}
