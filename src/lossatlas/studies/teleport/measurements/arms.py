"""The table of the regression's arms, which goes into the reference."""

import numpy as np
import pandas as pd

from lossatlas import statistics
from lossatlas.studies.teleport.measurements.pairs import at_best_rate, difference, final_log, of
from lossatlas.studies.teleport.measurements.results import Results


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
