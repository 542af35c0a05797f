"""From the tables of the experiments to the numbers that the claims are judged by.

The unit is the seed (initialisation, order of the data, draws), shared by all arms, so that arms are compared in pairs.
Intervals are 95 %, Student's over seeds, except where equivalence is judged (90 %, two one-sided tests). A tuned arm
runs at the rate of least mean log loss over its seeds; a run that diverged counts as a factor e^10 worse.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd
from scipy import stats

from lossatlas import statistics
from lossatlas.statistics import Interval
from lossatlas.studies.teleport.regression import AT, EPOCHS

WORST = 10.0  # |log ratio| of a pair one of which diverged
PUBLISHED_END = 7e-9  # Zhao et al. 2022, Figure 2c, read off
SPACINGS = (("1,2,3,4,5", "4,5,6,7,8"), ("1,3,5,7,9", "4,6,8,10,12"), ("1,5,9,13,17", "4,8,12,16,20"))
ARRAYS = ("functions", "regression", "control")  # experiments whose arrays are read here


@dataclass(frozen=True, eq=False)
class Results:
    """Tables by experiment, and arrays by experiment and name."""

    tables: Mapping[str, pd.DataFrame]
    arrays: Mapping[str, Mapping[str, np.ndarray]]

    def regression(self, optimizer: str) -> pd.DataFrame:
        runs = self.tables["regression"]
        return runs[(runs["experiment"] == "run") & (runs["optimizer"] == optimizer)]


def measure(results: Results) -> dict[str, Interval]:
    """{claim id: measured interval}."""
    found = {identity: function(results) for identity, function in MEASURES.items()}
    return {identity: interval for identity, interval in found.items() if interval is not None and interval.n}


# --- pairs and rates --------------------------------------------------------------------------------------------------


def logs(values: pd.Series) -> pd.Series:
    """log of losses; what is not finite or diverged is +inf."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(values.astype(float)).fillna(np.inf)


def best_rate(runs: pd.DataFrame, rate: str, score: Callable[[pd.DataFrame], pd.Series]) -> float:
    """The rate of the least mean score over seeds (inf diverged, counted as WORST above the least of all)."""
    table = runs.assign(score=score(runs)).pivot_table(index="seed", columns=rate, values="score", dropna=False)
    finite = table.where(np.isfinite(table))
    if finite.isna().all(axis=None):
        return table.columns[0]
    return finite.fillna(np.nanmin(finite.to_numpy()) + WORST).mean().idxmin()


def at_best_rate(runs: pd.DataFrame, rate: str, score: Callable[[pd.DataFrame], pd.Series]) -> pd.Series:
    """Scores by seed at the best rate; less is better, inf diverged."""
    chosen = runs[runs[rate] == best_rate(runs, rate, score)]
    return score(chosen).set_axis(chosen["seed"])


def difference(a: pd.Series, b: pd.Series) -> np.ndarray:
    """a - b by seed, clipped to ±WORST where one of them diverged; 0 where both did."""
    a, b = a.align(b, join="inner")
    with np.errstate(invalid="ignore"):
        return np.nan_to_num((a - b).to_numpy(float), nan=0.0).clip(-WORST, WORST)


def final_log(runs: pd.DataFrame) -> pd.Series:
    return logs(runs["final_loss"])


def at_rate(runs: pd.DataFrame, multiple: float) -> pd.Series:
    here = runs[runs["rate_multiple"] == multiple]
    return final_log(here).set_axis(here["seed"])


def of(runs: pd.DataFrame, arm: str) -> pd.DataFrame:
    return runs[runs["arm"] == arm]


def radius_arm(results: Results, group: str) -> str:
    """The arm of the middle radius: the name that other arms of the group share it with."""
    runs = results.regression("sgd")
    names = [a for a in dict.fromkeys(runs["arm"]) if a.startswith(f"{group}-ascent@")]
    other = of(runs, f"{group}-random")
    cost = [abs(np.log(of(runs, a)["distance"]).mean() - np.log(other["distance"]).mean()) for a in names]
    return names[int(np.argmin(cost))]


# --- test functions ---------------------------------------------------------------------------------------------------


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


def boost(results: Results) -> Interval:
    ratios = results.arrays["functions"]["moment_ratio"]
    return statistics.t_interval(ratios[:, 0] - 1)


def line_search(name: str) -> Callable[[Results], Interval]:
    """log10 of the gap after 10 iterations with the teleport of 1000 trial points over that without."""

    def ratio(results: Results) -> Interval:
        gaps = results.arrays["functions"][f"line_search/{name}"]
        return statistics.exact(np.log10(gaps[2, 10] / gaps[0, 10]), 1)

    return ratio


# --- regression -------------------------------------------------------------------------------------------------------


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


# --- schedules --------------------------------------------------------------------------------------------------------


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


# --- optimisers, full batch, off the batch, the leap ------------------------------------------------------------------


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


def leap(arm: str) -> Callable[[Results], Interval]:
    """Leap of the test accuracy minus that of the untouched arm, at the rate where that stands nearest to 0.40."""

    def gap(results: Results) -> Interval:
        table = leaps(results.tables["baubels"])
        return statistics.t_interval(table[arm] - table["none"])

    return gap


def leaps(runs: pd.DataFrame) -> pd.DataFrame:
    """Leaps by seed (rows) and arm, at the rate at which the untouched arm is nearest to the published 0.4025."""
    before = of(runs, "none").groupby("rate")["before"].mean()
    rate = (before - 0.4025).abs().idxmin()
    chosen = runs[(runs["rate"] == rate) & (runs["diverged_at"] < 0)]
    return chosen.pivot_table(index="seed", columns="arm", values="leap")


SINGLE = ("1", "2", "4", "16")

MEASURES: dict[str, Callable[[Results], Interval | None]] = {
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
    "teleport.tuned_digits": control_tuned("scaling-ascent"),
    "teleport.tuned_digits_random": control_tuned("scaling-random"),
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
    "teleport.time_gl": regression_time("gl-ascent"),
    "teleport.time_scaling": regression_time("scaling-corner"),
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
    "teleport.convex_bound": scalar("convex_bound"),
    "teleport.line_search_booth": line_search("booth"),
    "teleport.line_search_goldstein_price": line_search("goldstein_price"),
    "teleport.line_search_rosenbrock": line_search("rosenbrock"),
    "teleport.micro": scalar("micro_cosine"),
    "teleport.boost": boost,
    "teleport.leap": leap("published"),
    "teleport.leap_teleport": leap("gl-best"),
    "teleport.leap_steps": leap("long epoch"),
    "teleport.leap_layer": leap("new layer"),
    "teleport.leap_rate": leap("layer rate, long epoch"),
    "teleport.off_batch": projection_off_batch,
    "teleport.off_batch_gap": off_batch_gap,
    "teleport.orbit_gl": sharpness_slope("gl-ascent"),
    "teleport.orbit_scaling": sharpness_slope("scaling-ascent"),
    "teleport.barrier": barrier,
}


# --- the table that goes into the reference ---------------------------------------------------------------------------


def arms_table(results: Results) -> pd.DataFrame:
    """Every arm of the regression: what its teleport did, and its final loss at the published and at its best rate."""
    rows = []
    for optimizer in ("sgd", "adagrad"):
        runs = results.regression(optimizer)
        none = at_best_rate(of(runs, "none"), "rate_multiple", final_log)
        for arm in dict.fromkeys(runs["arm"]):
            mine = of(runs, arm)
            once = mine[mine["rate_multiple"] == 1]
            best = at_best_rate(mine, "rate_multiple", final_log)
            against = statistics.t_interval(difference(best, none))
            rows.append(
                {"optimizer": optimizer, "arm": arm, "seeds": len(once)}
                | {c: float(once[c].median()) for c in ("loss_change", "off_batch_change", "gain", "distance", "cost")}
                | {"sharpness_ratio": float((once["sharpness_after"] / once["sharpness_before"]).median())}
                | {"refused": int((once["outcome"] > 0).sum())}
                | {"loss_at_published_rate": float(once["final_loss"].median())}
                | {"loss_at_best_rate": float(np.exp(best).median()), "log_ratio": against.value}
                | {"low": against.low, "high": against.high}
                | {"diverged_share": float((~np.isfinite(mine["final_loss"])).mean())}
            )
    return pd.DataFrame(rows)
