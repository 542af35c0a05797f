"""Pairs of ends whose barrier is known."""

from collections.abc import Callable, Mapping

import numpy as np

from lossatlas import statistics
from lossatlas.studies.autoneb.measurements.tables import Found, Measure, Tables, student


def _copies(control: str, path: str, column: str, reduce: Callable) -> Measure:
    def value(tables: Tables) -> Found:
        rows = tables.controls[(tables.controls["control"] == control) & (tables.controls["path"] == path)]
        return statistics.exact(reduce(rows[column]), len(rows)) if len(rows) else None

    return value


def _control(control: str, path: str, column: str = "train_loss_over_ends") -> Measure:
    def value(tables: Tables) -> Found:
        rows = tables.controls[(tables.controls["control"] == control) & (tables.controls["path"] == path)]
        return student(rows[column])

    return value


def control_rescaled(tables: Tables) -> Found:
    rows = tables.controls[(tables.controls["control"] == "rescaled") & (tables.controls["path"] == "explicit")]
    return statistics.exact((rows["train_loss_over_ends"] / (rows["train_loss_start"] + 1e-3)).max(), len(rows))


def _recovered(column: str, reduce: Callable, deep: bool | None = None) -> Measure:
    def value(tables: Tables) -> Found:
        rows = tables.controls[tables.controls["control"].str.startswith("copy-")]
        if deep is not None:
            rows = rows[(rows["control"] != "copy-1") == deep]
        return statistics.exact(reduce(rows[column]), len(rows)) if len(rows) else None

    return value


MEASURES: Mapping[str, Measure] = {
    "xor_two": _control("xor-2", "autoneb"),
    "xor_three": _copies("xor-spare", "explicit", "train_loss_over_ends", max),
    "xor_three_band": _copies("xor-3", "autoneb", "train_loss_over_ends", np.median),
    "control_permuted_matched": _copies("permuted", "matched", "train_loss_over_line", max),
    "control_permuted_band": _control("permuted", "autoneb"),
    "control_rescaled": control_rescaled,
    "control_dead_unit": _copies("dead-unit", "explicit", "train_loss_over_ends", max),
    "control_dead_unit_band": _control("dead-unit", "autoneb"),
    "control_untrained": _control("untrained", "segment", "train_loss_over_line"),
    "matching_recovers": _recovered("recovered", min),
    "matching_one_pass": _recovered("passes", max, deep=False),
    "matching_passes": _recovered("passes", max, deep=True),
}
