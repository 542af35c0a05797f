"""Runs of two arms compared in pairs, each at its best rate."""

from collections.abc import Callable

import numpy as np
import pandas as pd

WORST = 10.0  # |log ratio| of a pair one of which diverged


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
