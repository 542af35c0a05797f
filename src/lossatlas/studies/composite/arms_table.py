"""The table of arms: how each was tuned, how it fared, and what its weights did."""

from math import nan

import numpy as np
import pandas as pd

from lossatlas import statistics
from lossatlas.studies.composite.samples import Tables, against_sum, at_edge, final_runs, tuned_score

MEANS = (  # columns of the runs that are averaged over seeds, where a comparison has them
    *("psnr", "psnr_8bit", "latent_excess", "gap_bits", "rate_bits"),
    *("error", "early_error", "barrier", "distance"),
)


def arms_table(tables: Tables) -> pd.DataFrame:
    """One row for each comparison and arm: how it was tuned, how it fared, and what its weights did.

    difference: its mean score minus the sum's, paired by seed, with limits, and p adjusted by Holm over the arms.
    """
    rows = []
    for name, runs in tables.runs.items():
        logs, against = tables.logs[name], against_sum(runs).set_index("arm")
        logged = list(logs["arms"])
        for arm in dict.fromkeys(runs["arm"]):
            final = final_runs(runs, arm)
            score = final["score"].to_numpy(float)
            mean = statistics.t_interval(score[np.isfinite(score)])
            row = {
                "comparison": name,
                "kind": tables.jobs[name]["kind"],
                "arm": arm,
                "learning_rate": float(final["learning_rate"].iloc[0]),
                "at_edge": at_edge(runs, arm),
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
                if success
                else {"success": nan, "success_low": nan, "success_high": nan}
            )
            for column in MEANS:
                row[column] = float(final[column].mean()) if column in final else nan
            for column in ("difference", "low", "high", "p"):
                row[column] = float(against.loc[arm, column]) if arm in against.index else nan
            row |= {"effective": nan, "authority": nan}
            if arm in logged:  # a VAE has losses of its own
                i = logged.index(arm)
                row["effective"] = float(np.nanmean(logs["effective"][i]))
                row["authority"] = float(np.nanmean(np.nanmean(logs["authority"][i], axis=0), axis=0).max())
            rows.append(row)
    return pd.DataFrame(rows).replace([np.inf, -np.inf], nan)
