"""Curves with a penalty, paths through dropped networks, geometric ensembles."""

from collections.abc import Mapping

import pandas as pd

from lossatlas import statistics
from lossatlas.studies.autoneb.measurements.tables import Found, Measure, Tables, student

PUBLISHED_DECAY = 0.0005  # of VGG-16 and WRN-28-10
LASTING_DECAY = 0.02  # at the default tier's rate and steps it acts as much as the former in the published training
DROPOUT = 0.8  # the share of units that stays in the training of the released code


def _curve(kind: str, column: str, over: str = "", less: str = "", decay: float = PUBLISHED_DECAY) -> Measure:
    """A column of the curves with a penalty, divided by another, or less another."""

    def value(tables: Tables) -> Found:
        rows = tables.penalised[(tables.penalised["curve"] == kind) & (tables.penalised["weight_decay"] == decay)]
        rows = rows.set_index("pair")
        return student(rows[column] / rows[over] if over else rows[column] - rows[less])

    return value


def _dropped(tables: Tables, keep: float, path: str = "dropped") -> pd.DataFrame:
    """By pair; empty where networks were not trained with that share."""
    rows = tables.dropped[(tables.dropped["keep"] == keep) & (tables.dropped["path"] == path)]
    return rows.set_index("pair")


def _path(keep: float, path: str = "dropped") -> Measure:
    return lambda tables: student(_dropped(tables, keep, path)["train_loss_over_ends"])


def dropout_bound(tables: Tables) -> Found:
    """Worst case over all pairs of what the path exceeds its bound by."""
    rows = tables.dropped[tables.dropped["path"] == "dropped"]
    return statistics.exact((rows["train_loss_saddle"] - rows["bound"]).max(), len(rows))


def dropout_helps(tables: Tables) -> Found:
    plain, trained = (_dropped(tables, keep)["train_loss_over_ends"] for keep in (1.0, DROPOUT))
    return student((plain - trained).dropna())


def dropout_below_segment(tables: Tables) -> Found:
    segment, path = (_dropped(tables, DROPOUT, path)["train_loss_saddle"] for path in ("segment", "dropped"))
    return student((segment - path).dropna())


def _accuracies(tables: Tables, arm: str, budgets: int) -> pd.Series:
    rows = tables.ensembles[(tables.ensembles["arm"] == arm) & (tables.ensembles["budgets"] == budgets)]
    return 100 * rows.set_index("group")["test_accuracy"]


def _gain(budgets: int, arm: str = "geometric", other: str = "independent") -> Measure:
    """Percentage points that an arm is ahead of another for the same number of budgets."""
    return lambda tables: student(_accuracies(tables, arm, budgets) - _accuracies(tables, other, budgets))


def fge_shrinks(tables: Tables) -> Found:
    first, last = (
        _accuracies(tables, "geometric", budgets) - _accuracies(tables, "independent", budgets) for budgets in (1, 3)
    )
    return student(first - last)


MEASURES: Mapping[str, Measure] = {
    "g_bezier_max_l2": _curve("bezier", "regularised_saddle", less="regularised_higher_end"),
    "g_polychain_max_l2": _curve("polychain", "regularised_saddle", less="regularised_higher_end"),
    "g_interior_l2": _curve("bezier", "regularised_lowest", over="regularised_ends"),
    "g_interior_l2_loss": _curve("bezier", "loss_there", over="loss_ends"),
    "g_interior_l2_penalty": _curve("bezier", "penalty_there", over="penalty_ends"),
    "g_bezier_max_l2_lasting": _curve(
        "bezier", "regularised_saddle", less="regularised_higher_end", decay=LASTING_DECAY
    ),
    "g_interior_l2_lasting": _curve("bezier", "regularised_lowest", over="regularised_ends", decay=LASTING_DECAY),
    "dropout_path": _path(DROPOUT),
    "dropout_path_half": _path(0.5),
    "dropout_path_plain": _path(1.0),
    "dropout_bound": dropout_bound,
    "dropout_helps": dropout_helps,
    "dropout_below_segment": dropout_below_segment,
    "g_fge_one": _gain(1),
    "g_fge_two": _gain(2),
    "g_fge_three": _gain(3),
    "g_fge_shrinks": fge_shrinks,
    "g_fge_snapshots": _gain(1, other="snapshots"),
    "g_fge_cycles": _gain(1, other="constant"),
}
