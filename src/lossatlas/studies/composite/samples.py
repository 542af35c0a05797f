"""The final and tuning runs of arms, and what is compared of them: paired differences, shares, the best baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lossatlas import statistics
from lossatlas.artifacts import Artifact
from lossatlas.composite.hypervolume import hypervolume
from lossatlas.statistics import Interval
from lossatlas.studies.composite import plan
from lossatlas.studies.composite.plan import SUM

WORST = 10.0  # times its limit, beyond which a requirement counts as not met at all in the hypervolume


@dataclass(frozen=True, eq=False)
class Tables:
    """Jobs, runs and logs by comparison, and the table of the toys."""

    jobs: Mapping[str, Mapping[str, Any]]
    runs: Mapping[str, pd.DataFrame]
    logs: Mapping[str, Artifact]
    toys: pd.DataFrame

    def first(self, kind: str) -> str:
        """The name of the first comparison of a kind, which the claims are about."""
        return next(name for name, job in self.jobs.items() if job["kind"] == kind)


def final_runs(runs: pd.DataFrame, arm: str) -> pd.DataFrame:
    return runs[(runs["stage"] == "final") & (runs["arm"] == arm)].sort_values("seed")


def paired_means(runs: pd.DataFrame, a: str, b: str, column: str) -> Interval:
    """Mean of `column` under arm a minus b over the seeds on which neither diverged."""
    difference = final_runs(runs, a)[column].to_numpy(float) - final_runs(runs, b)[column].to_numpy(float)
    return statistics.t_interval(difference[np.isfinite(difference)])


def paired_success(runs: pd.DataFrame, a: str, b: str) -> Interval:
    return statistics.paired_share_difference(
        final_runs(runs, a)["success"].to_numpy(float), final_runs(runs, b)["success"].to_numpy(float)
    )


def tuned_score(runs: pd.DataFrame, arm: str) -> float:
    """The tuning runs' mean score of an arm's best configuration; infinite where each one diverged."""
    tuning = runs[(runs["stage"] == "tuning") & (runs["arm"] == arm)]
    means = tuning.groupby("configuration")["score"].apply(lambda score: score.fillna(np.inf).mean())
    return float(means.min())


def best_baseline(runs: pd.DataFrame, arms: tuple[str, ...] = plan.BASELINES) -> str:
    """The baseline with the best tuning score."""
    present = [arm for arm in arms if (runs["arm"] == arm).any()]
    return min(present, key=lambda arm: tuned_score(runs, arm))


def against_sum(runs: pd.DataFrame) -> pd.DataFrame:
    """(arm, difference, low, high, p) of the score against the sum's, p adjusted by Holm over the arms."""
    rows = []
    for arm in dict.fromkeys(runs["arm"]):
        if arm == SUM:
            continue
        both = final_runs(runs, arm)["score"].to_numpy(float) - final_runs(runs, SUM)["score"].to_numpy(float)
        both = both[np.isfinite(both)]
        found = statistics.t_interval(both)
        p = stats.ttest_1samp(both, 0).pvalue if len(both) > 1 and np.ptp(both) > 0 else 1.0
        rows.append({"arm": arm, "difference": found.value, "low": found.low, "high": found.high, "p": float(p)})
    table = pd.DataFrame(rows)
    table["p"] = statistics.holm(table["p"])
    return table


def cosines(logs: Artifact) -> np.ndarray:
    """Mean cosine (n, n) between the losses' gradients at the parameters, over looks and seeds of the plain sum."""
    index = list(logs["arms"]).index(SUM)
    return np.nanmean(logs["cosine"][index], axis=(0, 1))


def mean_cosine(logs: Artifact, arm: str = SUM) -> np.ndarray:
    """Mean off-diagonal cosine of each seed (k,), over the looks."""
    index = list(logs["arms"]).index(arm)
    cosine = logs["cosine"][index]
    off = ~np.eye(cosine.shape[-1], dtype=bool)
    return np.nanmean(cosine[..., off], axis=(0, 2))


def success_share(runs: pd.DataFrame, arm: str) -> Interval:
    success = final_runs(runs, arm)["success"]
    return statistics.wilson(int(success.sum()), len(success))


def volumes(runs: pd.DataFrame, arms: Sequence[str]) -> np.ndarray:
    """Share (k,) of the square from the limits to WORST times the limits, of squared error and of the worst latent
    statistic on a log scale, that the final runs of some arms dominate together, for each seed; above 1 beyond both.

    The ends of the square were set before any run was looked at. A run that diverged dominates nothing.
    """
    columns = ["image_excess", "latent_excess"]
    final = [final_runs(runs, arm) for arm in arms]
    points = np.stack([rows[columns].where(rows["score"].notna()).to_numpy(float) for rows in final], 1)
    worst = np.log(WORST)
    return np.array([hypervolume(of_seed, (worst, worst)) / worst**2 for of_seed in points])


def at_edge(runs: pd.DataFrame, arm: str) -> bool:
    """Whether tuning chose the least or the greatest of the rates, so that the best one may lie outside."""
    tuning = runs[(runs["stage"] == "tuning") & (runs["arm"] == arm)]["learning_rate"]
    return bool(final_runs(runs, arm)["learning_rate"].iloc[0] in (tuning.min(), tuning.max()))


def edge_share(runs: pd.DataFrame) -> Interval:
    """Share of the arms that tuned to an edge of the grid."""
    edges = [at_edge(runs, arm) for arm in dict.fromkeys(runs["arm"])]
    return statistics.exact(float(np.mean(edges)), len(edges))
