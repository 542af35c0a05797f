"""Curves with a penalty, paths through dropped networks, geometric ensembles."""

from collections.abc import Mapping

import pandas as pd

from lossatlas import statistics
from lossatlas.studies.autoneb.measurements.tables import Found, Measure, Tables, student

DROPOUT = 0.8  # the share of units that stays in the training of the released code


def _curve(kind: str, column: str, over: str = "", less: str = "", strong: bool = False) -> Measure:
    """A column of the curves with a penalty, divided by another, or less another.

    Of the smallest weight decay, or of the largest where there are several.
    """

    def value(tables: Tables) -> Found:
        decays = sorted(set(tables.penalised["weight_decay"]))
        if strong and len(decays) < 2:
            return None
        rows = tables.penalised[tables.penalised["weight_decay"] == decays[-1 if strong else 0]]
        rows = rows[(rows["curve"] == kind) & (rows["outcome"] == "ok")].set_index("pair")
        return student(rows[column] / rows[over] if over else rows[column] - rows[less])

    return value


def interior_inside(tables: Tables) -> Found:
    """Of all curves, whatever their kind and decay."""
    return statistics.exact(float(tables.penalised["lowest_inside"].mean()), len(tables.penalised))


def _dropped(tables: Tables, keep: float, path: str = "dropped") -> pd.DataFrame:
    """By pair; empty where networks were not trained with that share."""
    rows = tables.dropped[(tables.dropped["keep"] == keep) & (tables.dropped["path"] == path)]
    return rows.set_index("pair")


def _path(keep: float) -> Measure:
    return lambda tables: student(_dropped(tables, keep)["train_loss_over_ends"])


def dropout_bound(tables: Tables) -> Found:
    """Worst case over all pairs of what the path exceeds its bound by, as a share of it."""
    rows = tables.dropped[tables.dropped["path"] == "dropped"]
    return statistics.exact((rows["train_loss_saddle"] / rows["bound"]).max(skipna=False) - 1, len(rows))


def dropout_helps(tables: Tables) -> Found:
    plain, trained = (_dropped(tables, keep)["train_loss_over_ends"] for keep in (1.0, DROPOUT))
    return student((plain - trained).dropna())


def _below_segment(keep: float) -> Measure:
    def value(tables: Tables) -> Found:
        segment, path = (_dropped(tables, keep, path)["train_loss_saddle"] for path in ("segment", "dropped"))
        return student((segment - path).dropna())

    return value


def _lead(tables: Tables, budgets: int, over: str = "independent") -> pd.Series:
    """Percentage points by group that the cycles' ensembles are ahead of another arm for the same budgets."""
    rows = tables.ensembles[tables.ensembles["budgets"] == budgets]
    accuracy = 100 * rows.pivot(index="group", columns="arm", values="test_accuracy")
    return accuracy["geometric"] - accuracy[over]


def _leads(budgets: int, over: str = "independent") -> Measure:
    return lambda tables: student(_lead(tables, budgets, over))


def fge_shrinks(tables: Tables) -> Found:
    return student(_lead(tables, 1) - _lead(tables, 3))


def fge_disagreement(tables: Tables) -> Found:
    rows = tables.ensembles[(tables.ensembles["arm"] == "geometric") & (tables.ensembles["budgets"] == 1)]
    return student(rows["disagreement"])


MEASURES: Mapping[str, Measure] = {
    "g_bezier_max_l2": _curve("bezier", "regularised_saddle", less="regularised_higher_end"),
    "g_bezier_max_l2_strong": _curve("bezier", "regularised_saddle", less="regularised_higher_end", strong=True),
    "g_polychain_max_l2": _curve("polychain", "regularised_saddle", less="regularised_higher_end"),
    "g_interior_l2": _curve("bezier", "regularised_lowest", over="regularised_ends"),
    "g_interior_l2_strong": _curve("bezier", "regularised_lowest", over="regularised_ends", strong=True),
    "g_interior_l2_inside": interior_inside,
    "g_interior_l2_loss": _curve("bezier", "loss_middle", over="loss_ends"),
    "g_interior_l2_penalty": _curve("bezier", "penalty_middle", over="penalty_ends"),
    "dropout_path": _path(DROPOUT),
    "dropout_path_half": _path(0.5),
    "dropout_path_plain": _path(1.0),
    "dropout_bound": dropout_bound,
    "dropout_helps": dropout_helps,
    "dropout_below_segment": _below_segment(DROPOUT),
    "dropout_below_segment_plain": _below_segment(1.0),
    "g_fge_one": _leads(1),
    "g_fge_two": _leads(2),
    "g_fge_three": _leads(3),
    "g_fge_shrinks": fge_shrinks,
    "g_fge_snapshots": _leads(1, over="snapshots"),
    "g_fge_cycles": _leads(1, over="constant"),
    "g_fge_disagreement": fge_disagreement,
}
