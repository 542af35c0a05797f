"""Bands on surfaces whose saddles are known."""

from collections.abc import Callable, Mapping

import pandas as pd

from lossatlas import statistics
from lossatlas.studies.autoneb.measurements.tables import Found, Measure, Tables


def _surface(quantity: str, reduce: Callable[[pd.Series], float] = max) -> Measure:
    """A number from the analytic surfaces."""

    def value(tables: Tables) -> Found:
        rows = tables.surfaces[tables.surfaces["quantity"] == quantity]
        return statistics.exact(reduce(rows["value"]), len(rows)) if len(rows) else None

    return value


MEASURES: Mapping[str, Measure] = {
    "minimax": _surface("saddle_error"),
    "saddle_gradient": _surface("gradient_norm"),
    "saddle_index": _surface("negative_curvatures", lambda v: max(abs(v - 1))),
    "small_springs": _surface("small_springs_violations", sum),
    "large_springs_length": _surface("large_springs_length"),
    "large_springs_saddle": _surface("large_springs_saddle"),
    "neb_no_tightening": _surface("neb_saddle_change"),
    "mechanical_tightens": _surface("mechanical_saddle_change"),
    "springs_or_redistribution": _surface("springs_or_redistribution"),
    "bump_recall": _surface("bump_recall", min),
    "local_mep_eggcarton": _surface("eggcarton_excess", min),
}
