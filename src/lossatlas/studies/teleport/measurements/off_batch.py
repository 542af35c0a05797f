"""Measures of what GL does to the loss off its batch."""

from collections.abc import Callable

import numpy as np

from lossatlas import statistics
from lossatlas.statistics import Interval
from lossatlas.studies.teleport.measurements.results import Results


def projection_off_batch(results: Results) -> Interval:
    """log of (1 + relative change of the train loss), identity by the projection, exact batches."""
    runs = results.tables["off_batch"]
    runs = runs[(runs["action"] == "projection") & (runs["radius"] == 0) & runs["exact"]]
    return statistics.t_interval(np.log1p(runs["train_change"]).groupby(runs["seed"]).mean())


def off_batch_gap(results: Results) -> Interval:
    """|change of the train loss| at the random element, projection minus least norm, by seed, exact batches."""
    runs = results.tables["off_batch"]
    runs = runs[(runs["radius"] > 0) & runs["exact"]]
    by = runs["train_change"].abs().groupby([runs["seed"], runs["action"]]).mean().unstack()
    return statistics.t_interval(by["projection"] - by["minimum norm"])


MEASURES: dict[str, Callable[[Results], Interval]] = {
    "teleport.off_batch": projection_off_batch,
    "teleport.off_batch_gap": off_batch_gap,
}
