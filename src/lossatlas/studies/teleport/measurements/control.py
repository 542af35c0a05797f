"""Measures of full-batch descent: tuned rates, barriers, and sharpness along orbits."""

from collections.abc import Callable

import numpy as np

from lossatlas import statistics
from lossatlas.statistics import Interval
from lossatlas.studies.teleport.measurements.pairs import WORST, at_best_rate, difference, final_log, of
from lossatlas.studies.teleport.measurements.results import Results


def control_tuned(arm: str) -> Callable[[Results], Interval]:
    """Paired log ratio of final full-batch losses on the digits, both at their best rates (and radius)."""

    def ratio(results: Results) -> Interval:
        runs = results.tables["control"]
        names = [a for a in dict.fromkeys(runs["arm"]) if a.partition("@")[0] == arm]
        scores = [at_best_rate(of(runs, name), "rate", final_log) for name in names]
        best = min(scores, key=lambda s: s.replace(np.inf, WORST).mean())
        return statistics.equivalence(difference(best, at_best_rate(of(runs, "none"), "rate", final_log)))

    return ratio


def barrier(results: Results) -> Interval:
    names = [n for n in results.arrays["control"] if n.startswith("barrier/scaling-ascent@")]
    values = results.arrays["control"][names[0]]
    return statistics.t_interval(values[np.isfinite(values)])


def sharpness_slope(group: str) -> Callable[[Results], Interval]:
    """Slope of log sharpness ratio over log gradient ratio along ascents on the orbit, mean over seeds."""

    def slope(results: Results) -> Interval:
        gain, sharp = (np.log(results.arrays["control"][f"orbit/{group}/{c}"]) for c in ("gain", "sharpness"))
        return statistics.t_interval((gain * sharp).sum(1) / (gain * gain).sum(1))

    return slope


MEASURES: dict[str, Callable[[Results], Interval]] = {
    "teleport.tuned_digits": control_tuned("scaling-ascent"),
    "teleport.tuned_digits_random": control_tuned("scaling-random"),
    "teleport.orbit_gl": sharpness_slope("gl-ascent"),
    "teleport.orbit_scaling": sharpness_slope("scaling-ascent"),
    "teleport.barrier": barrier,
}
