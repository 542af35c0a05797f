"""Whether composites get smoother as layers are added: slopes of measures of relief per doubling of n."""

from collections.abc import Callable

import numpy as np

from lossatlas.statistics import Interval
from lossatlas.studies.perlin.measurements.evidence import Measures, Tables, slope_a_doubling


def _smoother(
    column: str, arm: str, alignment: str = "shift", logarithm: bool = True
) -> Callable[[Tables], Interval | None]:
    """Slope per doubling of n of (the logarithm of) a measure of relief."""

    def trend(tables: Tables) -> Interval | None:
        cell = tables.smoothness
        cell = cell[(cell["alignment"] == alignment) & (cell["arm"] == arm)]
        values = cell.pivot(index="landscape", columns="n", values=column)
        return slope_a_doubling(np.log2(values.clip(lower=1e-6)) if logarithm else values)

    return trend


MEASURES: Measures = {
    "perlin.composite_smoother": _smoother("persistent", "sum"),
    "perlin.composite_smoother_raw": _smoother("minima", "sum"),
    "perlin.composite_smoother_variation": _smoother("variation", "sum"),
    "perlin.composite_smoother_energy": _smoother("energy", "sum"),
    "perlin.composite_smoother_unaligned": _smoother("persistent", "sum", "none"),
    "perlin.largest_gradient_smoother": _smoother("persistent", "max_pasted"),
    "perlin.largest_gradient_potential": _smoother("persistent", "max_potential"),
}
