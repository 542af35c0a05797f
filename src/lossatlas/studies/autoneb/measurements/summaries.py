"""Tables for figures and readers: a row for each network and arm, and for each method."""

from math import nan

import numpy as np
import pandas as pd

from lossatlas.studies.autoneb.measurements.tables import Tables, paired_column, student_interval


def networks_table(tables: Tables) -> pd.DataFrame:
    """By network and arm: barriers and levels, means over pairs with Student's limits."""
    rows = []
    about = ["data", "architecture", "family", "width", "depth", "dim"]
    for (name, arm), cell in tables.levels.groupby(["ensemble", "arm"], sort=True):
        values = {
            "train_minima": (cell["train_loss_start"] + cell["train_loss_end"]) / 2,
            "test_minima": (cell["test_loss_start"] + cell["test_loss_end"]) / 2,
            "train_saddle": cell["train_loss_saddle"],
            "test_saddle": cell["test_loss_saddle"],
            "train_barrier": cell["train_loss_over_mean"],
            "test_barrier": cell["test_loss_over_mean"],
            "test_error_minima": (cell["test_error_start"] + cell["test_error_end"]) / 2,
            "test_error_saddle": cell["test_error_saddle"],
            "length_ratio": cell["length_ratio"],
        }
        row = {"ensemble": name, "arm": arm, **cell[about].iloc[0].to_dict(), "pairs": len(cell)}
        row["norm"] = name.endswith("bn")
        for key, value in values.items():
            found = student_interval(value)
            row |= {key: found.value, f"{key}_low": found.low, f"{key}_high": found.high}
        rows.append(row)
    return pd.DataFrame(rows)


def methods_table(tables: Tables) -> pd.DataFrame:
    """By family and arm: highest losses and cost, and the paired difference from AutoNEB (`autoneb` of the budget)."""
    rows = []
    reference = paired_column(tables, "budget", "autoneb", "train_loss_saddle")
    for (family, arm), cell in tables.arms.groupby(["family", "arm"], sort=False):
        saddle = cell.set_index("pair")["train_loss_saddle"]
        mean, logs = student_interval(saddle), student_interval(np.log(saddle))
        row = {"family": family, "arm": arm, "pairs": len(cell), "learning_rate": cell["learning_rate"].iloc[0]}
        row |= {"saddle": mean.value, "saddle_low": mean.low, "saddle_high": mean.high}
        row |= {"geometric": np.exp(logs.value), "geometric_low": np.exp(logs.low), "geometric_high": np.exp(logs.high)}
        row |= {name: float(cell[name].mean()) for name in ("sample_gradients", "length_ratio", "pivots", "spike")}
        row |= {
            "test_error_saddle": float(cell["test_error_saddle"].mean()),
            "ok": int((cell["outcome"] == "ok").sum()),
        }
        row |= {"difference": nan, "difference_low": nan, "difference_high": nan}
        if family != "norm" and set(saddle.index) <= set(reference.index):
            change = student_interval(saddle - reference[saddle.index])
            row |= {"difference": change.value, "difference_low": change.low, "difference_high": change.high}
        rows.append(row)
    return pd.DataFrame(rows)
