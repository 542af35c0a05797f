"""Measures of teleports with other optimisers."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from lossatlas import statistics
from lossatlas.statistics import Interval
from lossatlas.studies.teleport.measurements.pairs import at_best_rate, difference, of
from lossatlas.studies.teleport.measurements.results import Results


def area(optimizer: str, arm: str, than: str = "none") -> Callable[[Results], Interval]:
    """Paired difference of the mean log training loss over epochs, both at their best rates."""

    def gap(results: Results) -> Interval:
        runs = results.tables["optimizers"]
        runs = runs[runs["optimizer"] == optimizer]

        def score(chosen: pd.DataFrame) -> pd.Series:
            return chosen["area"].astype(float).where(chosen["diverged_at"] < 0, np.inf).fillna(np.inf)

        best = [at_best_rate(of(runs, which), "multiple", score) for which in (arm, than)]
        return statistics.t_interval(difference(*best))

    return gap


MEASURES: dict[str, Callable[[Results], Interval]] = {
    "teleport.optimizer_adagrad": area("adagrad", "projected"),
    "teleport.optimizer_momentum": area("momentum", "projected"),
    "teleport.optimizer_rmsprop": area("rmsprop", "projected"),
    "teleport.optimizer_adam": area("adam", "projected"),
    "teleport.exact_sgd": area("sgd", "scaling-corner"),
    "teleport.exact_momentum": area("momentum", "scaling-corner"),
    "teleport.exact_adagrad": area("adagrad", "scaling-corner"),
    "teleport.exact_rmsprop": area("rmsprop", "scaling-corner"),
    "teleport.exact_adam": area("adam", "scaling-corner"),
    "teleport.transport_adam": area("adam", "scaling-transport", "scaling-corner"),
    "teleport.reset_adam": area("adam", "reset"),
}
