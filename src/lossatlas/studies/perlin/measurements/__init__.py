"""From the tables of counts, densities, relief and descents to the numbers that the claims are judged by."""

from lossatlas.statistics import Interval
from lossatlas.studies.perlin.measurements import arrivals, common_minima, harmony, peers, relief, stalling
from lossatlas.studies.perlin.measurements.evidence import Measures, Tables

MEASURES: Measures = {
    **common_minima.MEASURES,
    **stalling.MEASURES,
    **relief.MEASURES,
    **arrivals.MEASURES,
    **harmony.MEASURES,
    **peers.MEASURES,
}


def measure(tables: Tables) -> dict[str, Interval]:
    """{claim id: measured interval}; claims whose tables are absent from this tier are left out."""
    found = {identity: function(tables) for identity, function in MEASURES.items()}
    return {identity: interval for identity, interval in found.items() if interval is not None and interval.n}
