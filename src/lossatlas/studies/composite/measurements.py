"""From the tables of runs and toys to the numbers that the claims are judged by.

The unit is the seed; every arm has the same seeds (initialisation and order of the data), so differences are paired.
Intervals are 95 %: Agresti and Min's for shares, Student's for means. The best tuned baseline is the one whose tuning
runs scored best, so that choosing it uses none of the runs that are compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lossatlas import statistics
from lossatlas.artifacts import Artifact
from lossatlas.statistics import Interval
from lossatlas.studies.composite import plan
from lossatlas.theory import harmony_from_correlation

SUM, README = "sum", plan.PLANESWALKER


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


def measure(tables: Tables) -> dict[str, Interval]:
    """{claim id: measured interval}; what this tier cannot say is left out."""
    found = _toys(tables.toys) | _autoencoder(tables) | _classifier(tables)
    return {f"composite.{name}": interval for name, interval in found.items() if interval.n}


# --- samples ----------------------------------------------------------------------------------------------------------


def _final(runs: pd.DataFrame, arm: str) -> pd.DataFrame:
    return runs[(runs["stage"] == "final") & (runs["arm"] == arm)].sort_values("seed")


def _paired_means(runs: pd.DataFrame, a: str, b: str, column: str) -> Interval:
    """Mean of `column` under arm a minus b over the seeds on which neither diverged."""
    difference = _final(runs, a)[column].to_numpy(float) - _final(runs, b)[column].to_numpy(float)
    return statistics.t_interval(difference[np.isfinite(difference)])


def _paired_success(runs: pd.DataFrame, a: str, b: str) -> Interval:
    return statistics.paired_share_difference(
        _final(runs, a)["success"].to_numpy(float), _final(runs, b)["success"].to_numpy(float)
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


def _against_sum(runs: pd.DataFrame) -> pd.DataFrame:
    """(arm, difference, low, high, p) of the score against the sum's, p adjusted by Holm over the arms."""
    rows = []
    for arm in dict.fromkeys(runs["arm"]):
        if arm == SUM:
            continue
        both = _final(runs, arm)["score"].to_numpy(float) - _final(runs, SUM)["score"].to_numpy(float)
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


# --- toys -------------------------------------------------------------------------------------------------------------


def _toys(toys: pd.DataFrame) -> dict[str, Interval]:
    def of(name: str) -> pd.DataFrame:
        return toys[toys["toy"] == name]

    def gap(name: str) -> float:
        return float((of(name)["measured"] - of(name)["predicted"]).abs().max())

    desert = of("desert")
    desert = desert[desert["arm"] == README]
    hits, starts = int((desert["measured"] * desert["n"]).round().sum()), int(desert["n"].sum())
    share, bound = statistics.wilson(hits, starts), float((desert["predicted"] * desert["n"]).sum() / starts)
    ends = of("cagrad x1").dropna(subset="predicted")
    stuck = of("cagrad x2")[(of("cagrad x2")["arm"] == "mean") & (of("cagrad x2")["measured"] > 1)]
    return {
        "hide_modulation": statistics.exact(of("hidden")["measured"].sum(), len(of("hidden"))),
        "hidden_value": statistics.exact(of("hidden value")["measured"].max(), len(of("hidden value"))),
        "attention": statistics.exact(of("attention")["measured"].iloc[0]),
        "obnoxious": statistics.exact(gap("team"), len(of("team"))),
        "obnoxious_share": statistics.exact(gap("share"), len(of("share"))),
        "obnoxious_repeats": statistics.exact(gap("flip"), len(of("flip"))),
        "desert": Interval(share.value - bound, share.low - bound, share.high - bound, share.n),
        "oscillation": statistics.exact(of("sliding")["measured"].iloc[0]),
        "torchjd_values": statistics.exact(of("torchjd")["measured"].iloc[0]),
        "encodec_selftest": statistics.exact(gap("encodec"), 2),
        "cagrad_toy": statistics.exact((ends["measured"] - ends["predicted"]).abs().max(), len(ends)),
        "cagrad_toy_near": statistics.exact(((ends["measured"] - ends["predicted"]).abs() <= 0.5).mean(), len(ends)),
        "cagrad_toy_stuck": statistics.exact(len(stuck), 3),
    }


# --- autoencoder ------------------------------------------------------------------------------------------------------


def _autoencoder(tables: Tables) -> dict[str, Interval]:
    name = tables.first("autoencoder")
    runs, logs = tables.runs[name], tables.logs[name]
    best, against = best_baseline(runs), _against_sum(runs)
    order = sorted(dict.fromkeys(runs["arm"]), key=lambda arm: _final(runs, arm)["score"].fillna(np.inf).mean())
    readme = list(logs["arms"]).index(README)
    cosine = mean_cosine(logs)
    matrix, image = cosines(logs), np.isin(logs["goals"], plan.RECONSTRUCTION)
    n = matrix.shape[0]
    pairs = ~np.eye(n, dtype=bool)
    seeds = len(cosine)
    value = logs["value"][readme]  # (looks, seeds, 5)
    powers = {q: _final(runs, arm)["score"].fillna(np.inf).mean() for arm, q in plan.POWERS.items()}
    found = {
        "cifar_vae": _paired_success(runs, README, best),
        "success_sum": _share(runs, SUM),
        "success_readme": _share(runs, README),
        "success_best": _share(runs, best),
        "readme_against_sum": _paired_success(runs, README, SUM),
        "readme_against_noise": _paired_means(runs, README, "sum + noise", "score"),
        "readme_score": _paired_means(runs, README, SUM, "score"),
        "readme_image": _paired_means(runs, README, SUM, "psnr"),
        "grad_weights": _paired_means(runs, README, best, "score"),
        "dynamic_needed": _paired_success(runs, best_baseline(runs, plan.DYNAMIC), "static"),
        "unit_against_sum": _paired_means(runs, "q=-1", SUM, "score"),
        "unit_against_readme": _paired_means(runs, "q=-1", README, "score"),
        "lagrangian_against_sum": _paired_means(runs, "augmented Lagrangian", SUM, "score"),
        "switching_against_noise": _paired_means(runs, "switching", "sum + noise", "score"),
        "place_of_norms": _paired_means(runs, "q=1 parameters", README, "score"),
        "rank_readme": statistics.exact(order.index(README) + 1, len(order)),
        "best_power": statistics.exact(min(powers, key=powers.get), len(powers)),
        "better_than_sum": statistics.exact(((against["p"] <= 0.05) & (against["difference"] < 0)).sum(), len(against)),
        "worse_than_sum": statistics.exact(((against["p"] <= 0.05) & (against["difference"] > 0)).sum(), len(against)),
        "team_size": statistics.t_interval(np.nanmean(logs["effective"][readme], axis=0)),
        "authority": statistics.t_interval(np.nanmean(logs["authority"][readme], axis=0).max(-1)),
        "reweighting": statistics.t_interval(np.abs(value[-1, :, 4]) / np.abs(value[0, :, 0])),
        "cosine": statistics.t_interval(cosine),
        "cosine_image": statistics.exact(matrix[np.ix_(image, image)][pairs[np.ix_(image, image)]].mean(), seeds),
        "cosine_between": statistics.exact(matrix[np.ix_(image, ~image)].mean(), seeds),
        "harmony": _harmony(cosine, n),
    }
    if len(tables.jobs) > 1 and tables.runs:
        others = [key for key, job in tables.jobs.items() if job["kind"] == "autoencoder" and key != name]
        if others:
            runs = tables.runs[others[0]]
            found["textures_readme"] = _paired_means(runs, README, SUM, "score")
            found["textures_unit"] = _paired_means(runs, "q=-1", SUM, "score")
    return found


def _share(runs: pd.DataFrame, arm: str) -> Interval:
    success = _final(runs, arm)["success"]
    return statistics.wilson(int(success.sum()), len(success))


def _harmony(cosine: np.ndarray, n: int) -> Interval:
    """The harmony index at the seeds' mean correlation, and at the ends of its interval (it falls as c grows)."""
    mean = statistics.t_interval(cosine)
    at = [harmony_from_correlation(float(np.clip(c, 0, 0.99)), n) for c in (mean.value, mean.low, mean.high)]
    return Interval(at[0], min(at[1:]), max(at[1:]), mean.n)


# --- classifier -------------------------------------------------------------------------------------------------------


def _classifier(tables: Tables) -> dict[str, Interval]:
    name = tables.first("classifier")
    runs = tables.runs[name]
    alone = best_baseline(runs, tuple(arm for arm in dict.fromkeys(runs["arm"]) if arm.startswith("only ")))
    barrier = _final(runs, README)["barrier"].to_numpy() - _final(runs, "sum, other order")["barrier"].to_numpy()
    return {
        "classify_sum": _paired_means(runs, SUM, alone, "error"),
        "classify_sum_early": _paired_means(runs, SUM, alone, "early_error"),
        "classify_readme": _paired_means(runs, README, SUM, "error"),
        "classify_readme_early": _paired_means(runs, README, SUM, "early_error"),
        "classify_unit": _paired_means(runs, "q=-1", SUM, "error"),
        "classify_noise": _paired_means(runs, README, "sum + noise", "error"),
        "classify_barrier": statistics.t_interval(barrier[np.isfinite(barrier)]),
        "classify_cosine": statistics.t_interval(mean_cosine(tables.logs[name])),
    }


# --- the table of arms ------------------------------------------------------------------------------------------------


def arms_table(tables: Tables) -> pd.DataFrame:
    """One row for each comparison and arm: how it was tuned, how it fared, and what its weights did.

    difference: its mean score minus the sum's, paired by seed, with limits, and p adjusted by Holm over the arms.
    """
    rows = []
    for name, runs in tables.runs.items():
        logs, against = tables.logs[name], _against_sum(runs).set_index("arm")
        for i, arm in enumerate(logs["arms"]):
            final = _final(runs, arm)
            score = final["score"].to_numpy(float)
            mean = statistics.t_interval(score[np.isfinite(score)])
            row = {
                "comparison": name,
                "kind": tables.jobs[name]["kind"],
                "arm": arm,
                "learning_rate": float(final["learning_rate"].iloc[0]),
                "seeds": len(final),
                "diverged": int((final["diverged_at"] >= 0).sum()),
                "passes": float(final["passes"].iloc[0]),
                "tuned_score": tuned_score(runs, arm),
                "score": mean.value,
                "score_low": mean.low,
                "score_high": mean.high,
            }
            success = statistics.wilson(int(final["success"].sum()), len(final)) if "success" in final else None
            row |= (
                {"success": success.value, "success_low": success.low, "success_high": success.high}
                if (success)
                else {"success": nan, "success_low": nan, "success_high": nan}
            )
            for column in ("psnr", "psnr_8bit", "latent_excess", "error", "early_error", "barrier", "distance"):
                row[column] = float(final[column].mean()) if column in final else nan
            for column in ("difference", "low", "high", "p"):
                row[column] = float(against.loc[arm, column]) if arm in against.index else nan
            row["effective"] = float(np.nanmean(logs["effective"][i])) if len(final) else nan
            row["authority"] = float(np.nanmean(np.nanmean(logs["authority"][i], axis=0), axis=0).max())
            rows.append(row)
    return pd.DataFrame(rows).replace([np.inf, -np.inf], nan)
