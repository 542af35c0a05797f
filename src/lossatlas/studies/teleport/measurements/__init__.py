"""From the tables of the experiments to the numbers that the claims are judged by.

The unit is the seed (initialisation, order of the data, draws), shared by all arms, so that arms are compared in pairs.
Intervals are 95 %, Student's over seeds, except where equivalence is judged (90 %, two one-sided tests). A tuned arm
runs at the rate of least mean log loss over its seeds; a run that diverged counts as a factor e^10 worse.
"""

from collections.abc import Callable

from lossatlas.statistics import Interval
from lossatlas.studies.teleport.measurements import (
    bands,
    control,
    functions,
    leap,
    off_batch,
    optimizers,
    regression,
    schedules,
)
from lossatlas.studies.teleport.measurements.arms import arms_table
from lossatlas.studies.teleport.measurements.results import ARRAYS, Results

__all__ = ["ARRAYS", "MEASURES", "Results", "arms_table", "measure"]

MEASURES: dict[str, Callable[[Results], Interval | None]] = {
    **functions.MEASURES,
    **regression.MEASURES,
    **schedules.MEASURES,
    **optimizers.MEASURES,
    **control.MEASURES,
    **bands.MEASURES,
    **off_batch.MEASURES,
    **leap.MEASURES,
}


def measure(results: Results) -> dict[str, Interval]:
    """{claim id: measured interval}."""
    found = {identity: function(results) for identity, function in MEASURES.items()}
    return {identity: interval for identity, interval in found.items() if interval is not None and interval.n}
