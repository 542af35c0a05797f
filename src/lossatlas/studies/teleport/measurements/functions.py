"""Measures on the test functions and on problems with a closed form."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from lossatlas import statistics
from lossatlas.statistics import Interval
from lossatlas.studies.teleport.measurements.pairs import of
from lossatlas.studies.teleport.measurements.results import Results

PUBLISHED_END = 7e-9  # Zhao et al. 2022, Figure 2c, read off


def function_runs(results: Results, name: str, arm: str) -> pd.DataFrame:
    runs = results.tables["functions"]
    return runs[(runs["function"] == name) & (runs["arm"] == arm) & (runs["rate_multiple"] == 1)]


def booth_start(results: Results) -> Interval:
    run = function_runs(results, "booth", "none").iloc[0]
    return statistics.exact(max(abs(run["first_loss"] / 144 - 1), abs(run["second_loss"] / 64.7424 - 1)), 1)


def share_better(name: str, arm: str, than: str) -> Callable[[Results], Interval]:
    """Share of seeds that end lower; the arm compared with has one run, or one for each seed."""

    def share(results: Results) -> Interval:
        a, b = (function_runs(results, name, which).set_index("seed")["final_loss"] for which in (arm, than))
        better = a < (b.iloc[0] if len(b) == 1 else b)
        return statistics.wilson(int(better.sum()), len(a))

    return share


def rosenbrock_gd(results: Results) -> Interval:
    return statistics.exact(function_runs(results, "rosenbrock", "none")["final_loss"].iloc[0], 1)


def rosenbrock_rank(results: Results) -> Interval:
    ends = function_runs(results, "rosenbrock", "published")["final_loss"]
    return statistics.exact((ends < PUBLISHED_END).mean(), len(ends))


def rosenbrock_exact(results: Results) -> Interval:
    return statistics.exact(function_runs(results, "rosenbrock", "exact")["final_loss"].iloc[0], 1)


def tuned_function(name: str) -> Callable[[Results], Interval]:
    """log10 of the final loss with the exact teleport over that without, both at their best rates of the grid."""

    def ratio(results: Results) -> Interval:
        runs = results.tables["functions"]
        runs = runs[runs["function"] == name]
        ends = [of(runs, arm)["final_loss"].min() for arm in ("exact", "none")]
        return statistics.exact(np.log10(max(ends[0], 1e-32) / max(ends[1], 1e-32)), 1)

    return ratio


def scalar(name: str) -> Callable[[Results], Interval]:
    """The greatest of the values in an array of the functions."""

    def value(results: Results) -> Interval:
        values = np.abs(results.arrays["functions"][name])
        return statistics.exact(values.max(), values.size)

    return value


def hurts(results: Results) -> Interval:
    return statistics.t_interval(results.arrays["functions"]["hurts"])


def boost(column: int) -> Callable[[Results], Interval]:
    """Mean square of the gradient (0) or of the weights (1) over its closed form, minus 1."""

    def error(results: Results) -> Interval:
        return statistics.t_interval(results.arrays["functions"]["moment_ratio"][:, column] - 1)

    return error


def line_search(name: str) -> Callable[[Results], Interval]:
    """log10 of the gap after 10 iterations with the teleport of 1000 trial points over that without."""

    def ratio(results: Results) -> Interval:
        gaps = results.arrays["functions"][f"line_search/{name}"]
        return statistics.exact(np.log10(gaps[2, 10] / gaps[0, 10]), 1)

    return ratio


MEASURES: dict[str, Callable[[Results], Interval]] = {
    "teleport.booth_start": booth_start,
    "teleport.booth_exact": scalar("booth_error"),
    "teleport.booth_published": scalar("booth_published_error"),
    "teleport.booth_faster": share_better("booth", "published", "none"),
    "teleport.rosenbrock_gd": rosenbrock_gd,
    "teleport.rosenbrock_rank": rosenbrock_rank,
    "teleport.rosenbrock_better": share_better("rosenbrock", "published", "none"),
    "teleport.rosenbrock_search": share_better("rosenbrock", "published", "random"),
    "teleport.rosenbrock_random": share_better("rosenbrock", "random", "none"),
    "teleport.rosenbrock_exact": rosenbrock_exact,
    "teleport.booth_tuned": tuned_function("booth"),
    "teleport.rosenbrock_tuned": tuned_function("rosenbrock"),
    "teleport.one_suffices": scalar("theorem_error"),
    "teleport.one_hurts": hurts,
    "teleport.convex_bound": scalar("convex_bound"),
    "teleport.convex_bound_logistic": scalar("logistic_bound"),
    "teleport.stable_step": scalar("stable_step"),
    "teleport.line_search_booth": line_search("booth"),
    "teleport.line_search_goldstein_price": line_search("goldstein_price"),
    "teleport.line_search_rosenbrock": line_search("rosenbrock"),
    "teleport.micro": scalar("micro_cosine"),
    "teleport.boost": boost(0),
    "teleport.boost_weights": boost(1),
}
