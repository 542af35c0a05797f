"""What the shared landscapes say: paired differences in excess. The unit is the landscape. See `shared_landscapes`."""

from collections.abc import Callable, Mapping

import pandas as pd

from lossatlas import statistics
from lossatlas.statistics import Interval

Tables = Mapping[str, pd.DataFrame]

PAIRS = {  # name of the claim: (arm, the arm that should end lower)
    "anneal": ("descent", "annealed"),
    "anneal_restarts": ("restarts", "annealed"),
    "anneal_small": ("small sigma", "annealed"),
    "anneal_large": ("large sigma", "annealed"),
    "anneal_search": ("random search", "annealed"),
    "anneal_teleport": ("teleport", "annealed"),
    "anneal_composite": ("q = 1", "annealed"),
    "restarts": ("descent", "restarts"),
    "teleport": ("random shift", "teleport"),
    "composite": ("descent", "q = 1"),
}


def _gap(dim: int, arm: str, better: str) -> Callable[[Tables], Interval | None]:
    """Excess of `arm` minus that of `better` at the end of the budget, mean over n > 1, Student's over landscapes."""

    def gap(tables: Tables) -> Interval | None:
        if "landscapes" not in tables:
            return None
        rows = tables["landscapes"].query(f"purpose == 'run' and dim == {dim} and n > 1")
        rows = rows[rows["evaluations"] == rows["evaluations"].max()]
        if rows.empty:
            return None
        cells = rows.pivot_table(index="landscape", columns="arm", values="excess", aggfunc="mean")
        return statistics.t_interval(cells[arm] - cells[better])

    return gap


MEASURES = {f"evolution.landscapes_{name}_{dim}d": _gap(dim, *pair) for name, pair in PAIRS.items() for dim in (2, 3)}
