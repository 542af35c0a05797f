"""From the tables of runs and toys to the numbers that the claims are judged by.

The unit is the seed; every arm has the same seeds (initialisation and order of the data), so differences are paired.
Intervals are 95 %: Agresti and Min's for shares, Student's for means. The best tuned baseline is the one whose tuning
runs scored best, so that choosing it uses none of the runs that are compared.
"""

import numpy as np
import pandas as pd

from lossatlas import statistics
from lossatlas.artifacts import Artifact
from lossatlas.statistics import Interval
from lossatlas.studies.composite import plan
from lossatlas.studies.composite.samples import (
    Tables,
    against_sum,
    best_baseline,
    cosines,
    edge_share,
    final_runs,
    mean_cosine,
    paired_means,
    paired_success,
    success_share,
    volumes,
)
from lossatlas.theory import harmony_from_correlation

SUM, README = plan.SUM, plan.PLANESWALKER


def measure(tables: Tables) -> dict[str, Interval]:
    """{claim id: measured interval}; what this tier cannot say is left out."""
    found = _toys(tables.toys) | _autoencoder(tables) | _classifier(tables)
    return {f"composite.{name}": interval for name, interval in found.items() if interval.n}


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
        "torchjd_values": statistics.exact(of("torchjd")["measured"].iloc[0], int(of("torchjd")["n"].iloc[0])),
        "encodec_selftest": statistics.exact(gap("encodec"), 2),
        "cagrad_toy": statistics.exact((ends["measured"] - ends["predicted"]).abs().max(), len(ends)),
        "cagrad_toy_near": statistics.exact(((ends["measured"] - ends["predicted"]).abs() <= 0.5).mean(), len(ends)),
        "cagrad_toy_stuck": statistics.exact(len(stuck), 3),
    }


# --- autoencoder ------------------------------------------------------------------------------------------------------


def _autoencoder(tables: Tables) -> dict[str, Interval]:
    name = tables.first("autoencoder")
    runs, logs = tables.runs[name], tables.logs[name]
    best, against = best_baseline(runs), against_sum(runs)
    order = sorted(dict.fromkeys(runs["arm"]), key=lambda arm: final_runs(runs, arm)["score"].fillna(np.inf).mean())
    readme = list(logs["arms"]).index(README)
    cosine = mean_cosine(logs)
    matrix, image = cosines(logs), np.isin(logs["goals"], plan.RECONSTRUCTION)
    n = matrix.shape[0]
    pairs = ~np.eye(n, dtype=bool)
    seeds = len(cosine)
    value = logs["value"][readme]  # (looks, seeds, 5)
    powers = {q: final_runs(runs, arm)["score"].fillna(np.inf).mean() for arm, q in plan.POWERS.items()}
    found = {
        "cifar_vae": paired_success(runs, README, best),
        "success_sum": success_share(runs, SUM),
        "success_readme": success_share(runs, README),
        "success_best": success_share(runs, best),
        "readme_against_sum": paired_success(runs, README, SUM),
        "readme_against_noise": paired_means(runs, README, "sum + noise", "score"),
        "readme_score": paired_means(runs, README, SUM, "score"),
        "readme_image": paired_means(runs, README, SUM, "psnr"),
        "grad_weights": paired_means(runs, README, best, "score"),
        "dynamic_needed": paired_success(runs, best_baseline(runs, plan.DYNAMIC), "static"),
        "unit_against_sum": paired_means(runs, "q=-1", SUM, "score"),
        "unit_against_readme": paired_means(runs, "q=-1", README, "score"),
        "lagrangian_against_sum": paired_means(runs, "augmented Lagrangian", SUM, "score"),
        "switching_against_noise": paired_means(runs, "switching", "sum + noise", "score"),
        "place_of_norms": paired_means(runs, "q=1 parameters", README, "score"),
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
        "at_edge": edge_share(runs),
        "gap_bits_readme": _mean(runs, README, "gap_bits"),
        "gap_bits_sum": _mean(runs, SUM, "gap_bits"),
    } | _volumes(runs)
    if (runs["arm"] == plan.VARIATIONAL).any():
        found |= {
            "success_vae": success_share(runs, plan.VARIATIONAL),
            "vae_against_sum": paired_means(runs, plan.VARIATIONAL, SUM, "score"),
            "readme_against_vae": paired_means(runs, README, plan.VARIATIONAL, "score"),
            "gap_bits_vae": _mean(runs, plan.VARIATIONAL, "gap_bits"),
            "rate_bits_vae": _mean(runs, plan.VARIATIONAL, "rate_bits"),
        }
    if len(tables.jobs) > 1 and tables.runs:
        others = [key for key, job in tables.jobs.items() if job["kind"] == "autoencoder" and key != name]
        if others:
            runs = tables.runs[others[0]]
            best = best_baseline(runs)
            found |= {
                "textures_readme": paired_means(runs, README, SUM, "score"),
                "textures_unit": paired_means(runs, "q=-1", SUM, "score"),
                "textures_against_best": paired_means(runs, README, best, "score"),
                "textures_success_sum": success_share(runs, SUM),
                "textures_success_readme": success_share(runs, README),
                "textures_success_best": success_share(runs, best),
                "textures_at_edge": edge_share(runs),
            } | {f"textures_{name}": interval for name, interval in _volumes(runs).items()}
    return found


def _volumes(runs: pd.DataFrame) -> dict[str, Interval]:
    """Hypervolumes of single arms, of all together, and what q = 1 adds to all others, by seeds."""
    arms = list(dict.fromkeys(runs["arm"]))
    of_sum, of_readme, of_all = (volumes(runs, some) for some in ([SUM], [README], arms))
    return {
        "volume_sum": statistics.t_interval(of_sum),
        "volume_readme": statistics.t_interval(of_readme),
        "volume_readme_against_sum": statistics.t_interval(of_readme - of_sum),
        "volume_all": statistics.t_interval(of_all),
        "volume_readme_adds": statistics.t_interval(of_all - volumes(runs, [arm for arm in arms if arm != README])),
    }


def _mean(runs: pd.DataFrame, arm: str, column: str) -> Interval:
    values = final_runs(runs, arm)[column].to_numpy(float)
    return statistics.t_interval(values[np.isfinite(values)])


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
    barrier = (
        final_runs(runs, README)["barrier"].to_numpy() - final_runs(runs, "sum, other order")["barrier"].to_numpy()
    )
    return {
        "classify_sum": paired_means(runs, SUM, alone, "error"),
        "classify_sum_early": paired_means(runs, SUM, alone, "early_error"),
        "classify_readme": paired_means(runs, README, SUM, "error"),
        "classify_readme_early": paired_means(runs, README, SUM, "early_error"),
        "classify_unit": paired_means(runs, "q=-1", SUM, "error"),
        "classify_noise": paired_means(runs, README, "sum + noise", "error"),
        "classify_barrier": statistics.t_interval(barrier[np.isfinite(barrier)]),
        "classify_cosine": statistics.t_interval(mean_cosine(tables.logs[name])),
        "classify_at_edge": edge_share(runs),
    } | _bands(tables.logs[name])


BAND_ROWS = {  # pair of arms: its name in the rows
    "q=1, same start": "readme_same_start",
    "sum, same start": "sum_same_start",
    "q=1, other start": "readme_other_start",
    "sum, other start": "sum_other_start",
}


def _bands(logs: Artifact) -> dict[str, Interval]:
    """Barriers of each kind of pair, straight and by the band, and how much more q = 1 has than its control."""
    found = {}
    for kind in ("straight", "band"):
        by_pair = dict(zip(logs["pairs"].tolist(), logs[kind], strict=True))
        for pair, row in BAND_ROWS.items():
            found[f"{kind}_{row}"] = statistics.t_interval(by_pair[pair][np.isfinite(by_pair[pair])])
        for start in ("same", "other"):
            excess = by_pair[f"q=1, {start} start"] - by_pair[f"sum, {start} start"]
            found[f"{kind}_excess_{start}_start"] = statistics.t_interval(excess[np.isfinite(excess)])
    return found
