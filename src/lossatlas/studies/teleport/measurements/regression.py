"""Measures of the MLP regression."""

from collections.abc import Callable
from math import nan

import numpy as np
import pandas as pd

from lossatlas import statistics
from lossatlas.statistics import Interval
from lossatlas.studies.teleport.measurements.pairs import (
    WORST,
    at_best_rate,
    at_rate,
    best_rate,
    difference,
    final_log,
    of,
)
from lossatlas.studies.teleport.measurements.results import Results
from lossatlas.studies.teleport.plan import AT, EPOCHS


def radius_arm(results: Results, group: str) -> str:
    """The arm of the middle radius: the name that other arms of the group share it with."""
    runs = results.regression("sgd")
    names = [a for a in dict.fromkeys(runs["arm"]) if a.startswith(f"{group}-ascent@")]
    other = of(runs, f"{group}-random")
    cost = [abs(np.log(of(runs, a)["distance"]).mean() - np.log(other["distance"]).mean()) for a in names]
    return names[int(np.argmin(cost))]


def regression_at_rate(optimizer: str, arm: str, than: str = "none") -> Callable[[Results], Interval]:
    """Paired log ratio of final losses at the published rate."""

    def ratio(results: Results) -> Interval:
        runs = results.regression(optimizer)
        name = radius_arm(results, arm.removesuffix("-ascent")) if arm.endswith("-ascent") else arm
        pair = difference(at_rate(of(runs, name), 1.0), at_rate(of(runs, than), 1.0))
        return statistics.t_interval(pair)

    return ratio


def regression_tuned(optimizer: str, arm: str) -> Callable[[Results], Interval]:
    """Paired log ratio of final losses, both at their best rates; the interval of two one-sided tests."""

    def ratio(results: Results) -> Interval:
        runs = results.regression(optimizer)
        name = radius_arm(results, arm.removesuffix("-ascent")) if arm.endswith("-ascent") else arm
        best = [at_best_rate(of(runs, which), "rate_multiple", final_log) for which in (name, "none")]
        return statistics.equivalence(difference(*best))

    return ratio


def regression_column(optimizer: str, arm: str, column: str, transform=np.asarray) -> Callable[[Results], Interval]:
    """Mean over seeds of what a teleport did."""

    def mean(results: Results) -> Interval:
        runs = of(results.regression(optimizer), arm)
        runs = runs[runs["rate_multiple"] == 1]
        return statistics.t_interval(np.clip(transform(runs[column].to_numpy(float)), -WORST, WORST))

    return mean


def official_invariant(results: Results) -> Interval:
    runs = of(results.regression("sgd"), "official")
    changes = runs[runs["rate_multiple"] == 1]["loss_change"].abs()
    return statistics.exact(changes.median(), len(changes))


def exact_teleports(results: Results) -> pd.DataFrame:
    """One row for each exact teleport of the regression: optimiser, arm, seed."""
    runs = results.tables["regression"]
    runs = runs[runs["arm"].str.contains("gl-|scaling-|balance") & (runs["experiment"] == "run")]
    return runs.drop_duplicates(["optimizer", "arm", "seed"])


def worst_exact(results: Results) -> Interval:
    found = exact_teleports(results)
    moved = found[found["outcome"] == 0]
    return statistics.exact(moved["loss_change"].abs().max(), len(moved))


def refused(results: Results) -> Interval:
    found = exact_teleports(results)
    return statistics.wilson(int((found["outcome"] > 0).sum()), len(found))


def speed_up(in_gradients: bool) -> Callable[[Results], Interval]:
    """Share of converged (steps, teleport rate) pairs, each the median over its seeds, that reach the target sooner."""

    def share(results: Results) -> Interval:
        runs = results.tables["regression"]
        runs = runs[(runs["experiment"] == "sweep") & (runs["outcome"] == 1)]
        if runs.empty:
            return Interval(nan, nan, nan, 0)
        # epochs_to_target is relative to those that plain descent needs, at most all that it has
        extra = runs["cost"] / EPOCHS if in_gradients else 0.0
        relative = runs["epochs_to_target"].fillna(np.inf) + extra
        pairs = relative.groupby([runs["steps"], runs["teleport_multiple"]]).median()
        return statistics.wilson(int((pairs < 1).sum()), len(pairs))

    return share


def regression_time(arm: str) -> Callable[[Results], Interval]:
    """Paired log ratio of the gradients needed to reach the loss of the untouched run at three quarters of its epochs.

    Both at their best rates; an arm that does not get there counts as one epoch more than there are.
    """

    def ratio(results: Results) -> Interval:
        runs = results.regression("sgd")
        name = radius_arm(results, arm.removesuffix("-ascent")) if arm.endswith("-ascent") else arm
        multiples = list(dict.fromkeys(runs["rate_multiple"]))
        curves = {}
        for which in (name, "none"):
            mine = of(runs, which)
            best = multiples.index(best_rate(mine, "rate_multiple", final_log))
            curves[which] = results.arrays["regression"][f"sgd/{which}"][:, best]
        target = curves["none"][:, EPOCHS * 3 // 4]
        needed = {}
        for which, curve in curves.items():
            below = curve <= target[:, None]
            epochs = np.where(below.any(1), below.argmax(1), EPOCHS)
            extra = of(runs, which)["cost"].iloc[0] - EPOCHS
            needed[which] = epochs + np.where(epochs > AT, extra, 0)
        return statistics.t_interval(np.log(needed[name] / needed["none"]))

    return ratio


MEASURES: dict[str, Callable[[Results], Interval]] = {
    "teleport.regression_official": regression_at_rate("sgd", "official"),
    "teleport.regression_official_2024": regression_at_rate("sgd", "official-2024"),
    "teleport.regression_projected": regression_at_rate("sgd", "gl-projected"),
    "teleport.regression_gl": regression_at_rate("sgd", "gl-ascent"),
    "teleport.regression_scaling": regression_at_rate("sgd", "scaling-corner"),
    "teleport.regression_drop": regression_column("sgd", "official", "loss_change", lambda x: np.log1p(x)),
    "teleport.regression_placebo": regression_at_rate("sgd", "official", "loss-drop"),
    "teleport.adagrad_official": regression_at_rate("adagrad", "official"),
    "teleport.adagrad_official_2024": regression_at_rate("adagrad", "official-2024"),
    "teleport.adagrad_gl": regression_at_rate("adagrad", "gl-ascent"),
    "teleport.adagrad_scaling": regression_at_rate("adagrad", "scaling-corner"),
    "teleport.adagrad_gain": regression_column("adagrad", "official", "gain", np.log),
    "teleport.speed_up": speed_up(False),
    "teleport.speed_up_gradients": speed_up(True),
    "teleport.official_invariant": official_invariant,
    "teleport.exact_invariant": worst_exact,
    "teleport.exact_refused": refused,
    "teleport.tuned_gl": regression_tuned("sgd", "gl-ascent"),
    "teleport.tuned_gl_best": regression_tuned("sgd", "gl-best"),
    "teleport.tuned_scaling": regression_tuned("sgd", "scaling-corner"),
    "teleport.tuned_level_set": regression_tuned("sgd", "level-set"),
    "teleport.tuned_balance": regression_tuned("sgd", "balance"),
    "teleport.tuned_random": regression_tuned("sgd", "scaling-random"),
    "teleport.tuned_shift": regression_tuned("sgd", "shift-small"),
    "teleport.tuned_adagrad_gl": regression_tuned("adagrad", "gl-ascent"),
    "teleport.tuned_adagrad_scaling": regression_tuned("adagrad", "scaling-corner"),
    "teleport.time_gl": regression_time("gl-ascent"),
    "teleport.time_scaling": regression_time("scaling-corner"),
}
