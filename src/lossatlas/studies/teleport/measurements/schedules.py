"""Measures of the schedules of teleports."""

from collections.abc import Callable, Sequence
from math import nan

import numpy as np
import pandas as pd
from scipy import stats

from lossatlas import statistics
from lossatlas.statistics import Interval
from lossatlas.studies.teleport.measurements.pairs import best_rate, difference, logs
from lossatlas.studies.teleport.measurements.results import Results

SINGLE = ("1", "2", "4", "16")
SPACINGS = (("1,2,3,4,5", "4,5,6,7,8"), ("1,3,5,7,9", "4,6,8,10,12"), ("1,5,9,13,17", "4,8,12,16,20"))


def schedule_scores(results: Results, arm: str, schedule: str, column: str = "train_loss") -> pd.Series:
    """Log of a final loss by seed, at the rate of the best train loss."""
    runs = results.tables["schedules"]
    runs = runs[(runs["arm"] == arm) & (runs["schedule"] == schedule)]
    chosen = runs[runs["rate"] == best_rate(runs, "rate", diverged_logs("train_loss"))]
    return diverged_logs(column)(chosen).set_axis(chosen["seed"])


def diverged_logs(column: str) -> Callable[[pd.DataFrame], pd.Series]:
    def score(runs: pd.DataFrame) -> pd.Series:
        return logs(runs[column]).where(runs["diverged_at"] < 0, np.inf)

    return score


def schedule(arm: str, names: Sequence[str], column: str = "train_loss") -> Callable[[Results], Interval]:
    """Paired log ratio against no teleport, both at their best rates, mean over schedules."""

    def ratio(results: Results) -> Interval:
        none = schedule_scores(results, "none", "none", column)
        pairs = [difference(schedule_scores(results, arm, name, column), none) for name in names]
        return statistics.t_interval(np.mean(pairs, axis=0))

    return ratio


def schedule_at_rate(arm: str) -> Callable[[Results], Interval]:
    """The ratio of schedule [1] at the smallest rate of the grid."""

    def ratio(results: Results) -> Interval:
        runs = results.tables["schedules"]
        runs = runs[runs["rate"] == runs["rate"].min()]
        pair = []
        for which, name in ((arm, "1"), ("none", "none")):
            chosen = runs[(runs["arm"] == which) & (runs["schedule"] == name)]
            pair.append(diverged_logs("train_loss")(chosen).set_axis(chosen["seed"]))
        return statistics.t_interval(difference(*pair))

    return ratio


def page(arm: str, conditions: Sequence[Sequence[str]]) -> Callable[[Results], Interval]:
    """p of Page's trend test: over seeds, final train losses rise in the order of the conditions."""

    def p_value(results: Results) -> Interval:
        columns = []
        for names in conditions:
            scores = [schedule_scores(results, arm, name).replace(np.inf, 1e3) for name in names]
            columns.append(np.mean(scores, axis=0))
        table = np.stack(columns, -1)
        p = stats.page_trend_test(table, method="asymptotic").pvalue
        return statistics.exact(p, len(table))

    return p_value


def schedule_gain(results: Results) -> Interval:
    runs = results.tables["schedules"]
    gains = runs[(runs["arm"] == "projected") & np.isfinite(runs["gain"])]
    by_seed = np.log2(gains["gain"]).groupby(gains["seed"]).median()
    return statistics.t_interval(by_seed - 1) if len(by_seed) else Interval(nan, nan, nan, 0)


def jump(results: Results) -> Interval | None:
    """Rise of the epoch's loss at the teleport of [16], projection minus least norm, over rates where both live."""
    runs = results.tables["schedules"]
    runs = runs[(runs["schedule"] == "16") & (runs["diverged_at"] < 0) & np.isfinite(runs["jump"])]
    table = runs.pivot_table(index=["seed", "rate"], columns="arm", values="jump").dropna()
    if table.empty or table.shape[1] < 2:
        return None
    return statistics.t_interval((table["projected"] - table["gl-ascent"]).groupby(level="seed").mean())


MEASURES: dict[str, Callable[[Results], Interval | None]] = {
    "teleport.mnist_one": schedule("projected", ("1",)),
    "teleport.mnist_one_worse": schedule("projected", SINGLE),
    "teleport.mnist_one_exact": schedule("gl-ascent", ("1",)),
    "teleport.mnist_one_scaling": schedule("scaling-corner", ("1",)),
    "teleport.mnist_one_slow": schedule_at_rate("scaling-corner"),
    "teleport.mnist_order": page("projected", (("1",), ("2",), ("4",), ("16",), ("0",))),
    "teleport.mnist_spacing": page("projected", SPACINGS),
    "teleport.mnist_validation": schedule("projected", ("1",), "validation_loss"),
    "teleport.mnist_gain": schedule_gain,
    "teleport.mnist_spike": jump,
}
