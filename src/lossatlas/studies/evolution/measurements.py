"""From the study's tables to the numbers that its claims are judged by.

The unit is the seed of a training, the network of a cosine, the independent estimate of a law. Intervals are Student's,
95 %. What is compared with numbers read off a figure has their digitising error in its limits.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from lossatlas import smoothing, statistics
from lossatlas.statistics import Interval
from lossatlas.studies.evolution import landscape_measurements, meta_measurements, published

Tables = Mapping[str, pd.DataFrame]
Measure = Callable[[Tables], Interval | None]
ABLATION = 100  # population of the published ablations


def measure(tables: Tables) -> dict[str, Interval]:
    """{claim id: measured interval}; claims whose table or runs are absent from this tier are left out."""
    measures = OWN | landscape_measurements.MEASURES | meta_measurements.MEASURES
    found = {identity: function(tables) for identity, function in measures.items()}
    return {identity: interval for identity, interval in found.items() if interval is not None and interval.n}


def _of(rows: pd.DataFrame, **cells) -> pd.DataFrame:
    """The rows that have these values in these columns."""
    return rows[np.logical_and.reduce([rows[name] == value for name, value in cells.items()])]


# --- single estimates -------------------------------------------------------------------------------------------------


def _expectation(arm: str) -> Measure:
    """Mean of est.g / |g|²: 1 where the estimate is unbiased on the quadratic."""

    def along(tables: Tables) -> Interval | None:
        row = tables["expectation"].set_index("arm").loc[arm]
        # four standard errors, as the claim says
        return Interval(
            row["along"], row["along"] - 4 * row["error"], row["along"] + 4 * row["error"], int(row["repeats"])
        )

    return along


def law_error(tables: Tables) -> Interval:
    """Greatest |mean cosine / law - 1| of iid and antithetic sampling, raw, over sigma up to twice the crossover.

    Beyond it the cosine of iid sampling is so small that its interval is wider than what is to be judged.
    """
    rows = tables["sampling"]
    return _greatest(rows[rows["arm"].isin(["iid", "antithetic"]) & (rows["sigma_ratio"] <= 2)])


def law_error_ranks(tables: Tables) -> Interval:
    """The same with ranks, where sigma is below the crossover."""
    rows = tables["sampling"]
    return _greatest(rows[rows["arm"].isin(["iid ranks", "antithetic ranks"]) & (rows["sigma_ratio"] < 1)])


def _greatest(rows: pd.DataFrame) -> Interval | None:
    if rows.empty:
        return None
    error = (rows["cosine"] / rows["law"] - 1).abs()
    half = ((rows["high"] - rows["low"]) / 2 / rows["law"])[error.idxmax()]
    return Interval(error.max(), max(0.0, error.max() - half), error.max() + half, len(rows))


def _crossing(rows: pd.DataFrame, ratio: float) -> Interval | None:
    cells = rows[np.isclose(rows["sigma_ratio"], ratio)].set_index("arm")
    if cells.empty:
        return None
    a, b = cells.loc["iid"], cells.loc["antithetic"]
    # the arms share their directions, so this is wider than the interval of paired differences
    half = math.hypot(a["high"] - a["low"], b["high"] - b["low"]) / 2
    gap = a["cosine"] - b["cosine"]
    return Interval(gap, gap - half, gap + half, int(a["repeats"]))


def crossing_below(tables: Tables) -> Interval | None:
    rows = tables["sampling"]
    below = rows.loc[rows["sigma_ratio"] < 1, "sigma_ratio"]
    return None if below.empty else _crossing(rows, below.max())


def crossing_above(tables: Tables) -> Interval | None:
    rows = tables["sampling"]
    above = rows.loc[rows["sigma_ratio"] > 1, "sigma_ratio"]
    return None if above.empty else _crossing(rows, above.min())


def auto_gain(tables: Tables) -> Interval | None:
    """Least over sigma of the cosine of `auto` over the better fixed sampling's."""
    rows = tables["sampling"]
    cells = rows.pivot(index="sigma_ratio", columns="arm", values="cosine")
    share = cells["auto"] / cells[["iid", "antithetic"]].max(axis=1)
    worst = rows[(rows["arm"] == "auto") & (rows["sigma_ratio"] == share.idxmin())].iloc[0]
    half = (worst["high"] - worst["low"]) / 2 / worst["cosine"] * share.min()
    return Interval(share.min(), share.min() - half, share.min() + half, len(share))


def placebo_cosine(tables: Tables) -> Interval:
    row = _of(tables["sampling"], arm="random").iloc[0]
    return Interval(row["cosine"], row["low"], row["high"], int(row["repeats"]))


def orthogonal_gain(tables: Tables) -> Interval | None:
    """Mean over sigma of the cosine of orthogonal pairs minus that of independent pairs."""
    rows = tables["sampling"]
    a, b = (rows[rows["arm"] == arm].set_index("sigma_ratio") for arm in ("orthogonal", "antithetic"))
    first = a.index[0]  # pairs do not depend on sigma on a quadratic, so one value stands for all
    half = math.hypot(a.loc[first, "high"] - a.loc[first, "low"], b.loc[first, "high"] - b.loc[first, "low"]) / 2
    gap = a.loc[first, "cosine"] - b.loc[first, "cosine"]
    return Interval(gap, gap - half, gap + half, int(a.loc[first, "repeats"]))


def memory(tables: Tables) -> Interval:
    """c² of the last step of past descent minus the recursion's."""
    row = _of(tables["memory"], arm="past descent").sort_values("step").iloc[-1]
    return Interval(*(row[name] - row["law"] for name in ("cosine2", "low", "high")), int(row["repeats"]))


def _guide(arm: str, sampling: str) -> Measure:
    """Cosine of that arm minus the one without a guide."""

    def gain(tables: Tables) -> Interval | None:
        rows = _of(tables["guide"], sampling=sampling).set_index("arm")
        a, b = rows.loc[arm], rows.loc["no guide"]
        half = math.hypot(a["high"] - a["low"], b["high"] - b["low"]) / 2
        gap = a["cosine"] - b["cosine"]
        return Interval(gap, gap - half, gap + half, int(a["repeats"]))

    return gain


# --- analytic benchmarks ----------------------------------------------------------------------------------------------


def _guided_toy(arm: str) -> Measure:
    """Median over noise seeds of the excess loss at iteration 10 000, with the extremes of the seeds as limits."""

    def median(tables: Tables) -> Interval | None:
        rows = tables["guided"]
        last = rows[(rows["arm"] == arm) & (rows["iteration"] == 10_000)]["excess"]
        return None if last.empty else Interval(last.median(), last.min(), last.max(), len(last))

    return median


def _guided_gain(better: str, worse: str) -> Measure:
    def gap(tables: Tables) -> Interval:
        rows = tables["guided"]
        last = rows[rows["iteration"] == rows["iteration"].max()].pivot(index="seed", columns="arm", values="excess")
        return statistics.t_interval(last[worse] - last[better])

    return gap


def _annealed_against(arm: str) -> Measure:
    """Final loss of that arm minus the annealed one's, paired by start."""

    def gap(tables: Tables) -> Interval:
        rows = tables["rastrigin"]
        last = rows[rows["step"] == rows["step"].max()].pivot(index="start", columns="arm", values="loss")
        return statistics.t_interval(last[arm] - last["annealed"])

    return gap


# --- classification ---------------------------------------------------------------------------------------------------


def _curves(tables: Tables) -> pd.DataFrame:
    """All runs of all data sets; trainings of the tuning are left out."""
    rows = pd.concat([table for name, table in tables.items() if name.startswith("curves_")], ignore_index=True)
    return rows[rows["purpose"] == "run"]


def _final(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean test accuracy over the last twenty-fourth of the steps (published: after 11 500 of 12 000), for each run."""
    late = rows[rows["step"] > rows["step"].max() * 23 / 24]
    keys = ["data", "arm", "population", "seed"]
    return late.groupby(keys, as_index=False)["test_accuracy"].mean()


def accuracy(data: str, arm: str, population: int) -> Measure:
    """Final test accuracy in per cent, mean over seeds."""

    def mean(tables: Tables) -> Interval | None:
        runs = _of(_final(_curves(tables)), data=data, arm=arm, population=population)
        return None if runs.empty else statistics.t_interval(100 * runs["test_accuracy"])

    return mean


def order(tables: Tables) -> Interval | None:
    """Mean over data sets and seeds of Spearman's rho of final accuracy and population, iid arms."""
    runs = _final(_curves(tables)).pipe(_of, arm="iid")
    found = []
    for _, cell in runs.groupby(["data", "seed"]):
        if len(cell) > 1:
            found.append(statistics.spearman(cell["population"], cell["test_accuracy"]))
    found = [0.0 if math.isnan(rho) else rho for rho in found]
    return statistics.clustered_mean(found, list(range(len(found))), (-1.0, 1.0)) if found else None


def backprop_above(tables: Tables) -> Interval | None:
    """Accuracy of backprop minus that of the best iid population, points, paired by data set and seed."""
    runs = _final(_curves(tables))
    best = runs.pipe(_of, arm="iid").groupby(["data", "seed"])["test_accuracy"].max()
    own = runs.pipe(_of, arm="backprop").set_index(["data", "seed"])["test_accuracy"]
    return statistics.t_interval(100 * (own - best).dropna())


def _paired(arm: str, other: str) -> Measure:
    """Final accuracy of `arm` minus `other` at the ablation's population, points, paired by data set and seed."""

    def gap(tables: Tables) -> Interval | None:
        runs = _of(_final(_curves(tables)), population=ABLATION)
        a, b = (runs[runs["arm"] == name].set_index(["data", "seed"])["test_accuracy"] for name in (arm, other))
        change = (100 * (a - b)).dropna()
        return statistics.t_interval(change) if len(change) else None

    return gap


def curve_law(tables: Tables) -> Interval | None:
    """Mean over runs of the median over log points of cosine / law, all arms of evolution strategies."""
    rows = _curves(tables).query("arm != 'backprop'")
    rows = rows.assign(ratio=rows["cosine"] / rows["law"])
    runs = rows.groupby(["data", "arm", "population", "seed"])["ratio"].median()
    by_seed = runs.groupby(["data", "seed"]).mean()
    return statistics.t_interval(by_seed)


def _mnist_cosine(population: int, column: str) -> Measure:
    """Median over log points, then mean over seeds, on MNIST with the published network."""

    def mean(tables: Tables) -> Interval | None:
        rows = _of(_curves(tables), data="mnist", arm="iid", population=population)
        return None if rows.empty else statistics.t_interval(rows.groupby("seed")[column].median())

    return mean


def _first_97(population: int) -> Measure:
    def steps(tables: Tables) -> Interval | None:
        rows = _of(_curves(tables), data="mnist", arm="iid", population=population)
        rows = rows[rows["test_accuracy"] >= 0.97]
        return None if rows.empty else statistics.t_interval(rows.groupby("seed")["step"].min())

    return steps


# --- how the published figure was made --------------------------------------------------------------------------------


def effective_counts() -> np.ndarray:
    """m_eff / n of the five published cosines, by the inverse of the cosine law."""
    counts = [smoothing.es_evaluations(c, published.DIM) for c in published.COSINES]
    return np.array(counts) / np.array(published.POPULATIONS)


def published_share(_: Tables) -> Interval:
    """Mean of m_eff / n over the five published cosines, with Student's interval over them."""
    return statistics.t_interval(effective_counts())


def published_kappa(_: Tables) -> Interval:
    """kappa of iid ranks fitted to the published cosines: (3 / pi) / (m_eff / n) - 1, mean over the five."""
    return statistics.t_interval(3 / math.pi / effective_counts() - 1)


def _published_against_law(mirrored: bool, ranks: bool) -> Measure:
    """Least published cosine over the law's at kappa = 0, for one option; digitising error as limits."""

    def ratio(_: Tables) -> Interval:
        laws = [
            smoothing.es_cosine(smoothing.es_effective_count(n, 0.0, mirrored, ranks), published.DIM)
            for n in published.POPULATIONS
        ]
        least = min(c / law for c, law in zip(published.COSINES, laws, strict=True))
        error = published.COSINE_ERROR * least
        return Interval(least, least - error, least + error, len(laws))

    return ratio


def published_raw_length(_: Tables) -> Interval:
    """Least published length ratio over that of raw iid estimates as coded, sqrt(E|est|²) / |g| at kappa = 0."""
    scale = published.BETA / published.DIM
    laws = [scale * math.sqrt(1 + (published.DIM + 1) / n) for n in published.POPULATIONS]
    least = min(ratio / law for ratio, law in zip(published.NORM_RATIOS, laws, strict=True))
    error = published.COSINE_ERROR * least
    return Interval(least, least - error, least + error, len(laws))


def _published_against_measured(option: str) -> Measure:
    """Mean over populations of published cosine over the measured one of that option, on the same network, by seed."""

    def ratio(tables: Tables) -> Interval | None:
        rows = _of(tables["cosines"], option=option)
        points = dict(zip(published.POPULATIONS, published.COSINES, strict=True))
        rows = rows[rows["population"].isin(points)]
        if rows.empty:
            return None
        shares = rows["population"].map(points) / rows["cosine"]
        found = statistics.t_interval(shares.groupby(rows["seed"]).mean())
        error = published.COSINE_ERROR * found.value
        return Interval(found.value, found.low - error, found.high + error, found.n)

    return ratio


def measured_kappa(tables: Tables) -> Interval:
    """kappa at sigma 0.01 of the published network on enlarged digits."""
    rows = tables["cosines"].drop_duplicates(["seed", "step"])
    return statistics.t_interval(rows.groupby("seed")["curvature_noise"].mean())


OWN: dict[str, Measure] = {
    "evolution.unbiased_antithetic": _expectation("antithetic none corrected"),
    "evolution.unbiased_iid": _expectation("iid none corrected"),
    "evolution.unbiased_as_coded": _expectation("antithetic none as published"),
    "evolution.unbiased_as_coded_iid": _expectation("iid none as published"),
    "evolution.unbiased_ranks": _expectation("antithetic ranks as published"),
    "evolution.law_raw": law_error,
    "evolution.law_ranks": law_error_ranks,
    "evolution.crossing_below": crossing_below,
    "evolution.crossing_above": crossing_above,
    "evolution.auto": auto_gain,
    "evolution.placebo": placebo_cosine,
    "evolution.orthogonal": orthogonal_gain,
    "evolution.memory": memory,
    "evolution.guide_antithetic": _guide("guided", "antithetic"),
    "evolution.guide_iid": _guide("guided", "iid"),
    "evolution.guide_as_coded_iid": _guide("guided as published", "iid"),
    "evolution.guide_random": _guide("random guide", "antithetic"),
    "evolution.ges_descent": _guided_toy("biased gradient descent"),
    "evolution.ges_vanilla": _guided_toy("vanilla"),
    "evolution.ges_guided": _guided_toy("guided"),
    "evolution.ges_placebo": _guided_gain("guided", "random guide"),
    "evolution.anneal_rastrigin_small": _annealed_against("small sigma"),
    "evolution.anneal_rastrigin_large": _annealed_against("large sigma"),
    "evolution.acc_backprop": accuracy("mnist", "backprop", 0),
    **{f"evolution.acc_{n}": accuracy("mnist", "iid", n) for n in published.POPULATIONS},
    **{f"evolution.speed97_{n}": _first_97(n) for n in published.STEPS_TO_97},
    **{f"evolution.cos_{n}": _mnist_cosine(n, "cosine") for n in published.POPULATIONS},
    **{f"evolution.norm_{n}": _mnist_cosine(n, "norm_ratio") for n in published.POPULATIONS},
    "evolution.order": order,
    "evolution.backprop_above": backprop_above,
    "evolution.noanti": _paired("iid", "antithetic"),
    "evolution.noschedule": _paired("antithetic without schedule", "antithetic"),
    "evolution.auto_training": _paired("auto", "antithetic"),
    "evolution.pepg_training": _paired("antithetic, pepg", "antithetic"),
    "evolution.safe_training": _paired("antithetic, safe", "antithetic"),
    "evolution.safe_placebo": _paired("antithetic, safe", "antithetic, shuffled"),
    "evolution.cos_law": curve_law,
    "evolution.published_share": published_share,
    "evolution.published_kappa": published_kappa,
    "evolution.published_antithetic_law": _published_against_law(True, False),
    "evolution.published_raw_length": published_raw_length,
    "evolution.published_antithetic_ranks": _published_against_measured("antithetic ranks"),
    "evolution.published_iid_ranks": _published_against_measured("iid ranks"),
    "evolution.published_iid_raw": _published_against_measured("iid"),
    "evolution.kappa_network": measured_kappa,
}
