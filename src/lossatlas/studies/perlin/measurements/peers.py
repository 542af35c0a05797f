"""Our noise against the formula of a published package."""

import numpy as np
import torch

from lossatlas import statistics
from lossatlas.problems.perlin import PerlinField
from lossatlas.statistics import Interval
from lossatlas.studies.perlin.measurements.evidence import Measures, Tables


def perlin_numpy_formula(_: Tables) -> Interval:
    """Greatest difference between ours times the root of 2 and the formula of pvigier/perlin-numpy written in NumPy."""
    cells, samples = 6, 8
    field = PerlinField.named("perlin", "formula", cells=cells, dtype=torch.float64)
    g = np.moveaxis(field.lattices[0].numpy(), 0, -1)
    g = np.concatenate([g, g[:1]], 0)
    g = np.concatenate([g, g[:, :1]], 1)
    axis = np.arange(cells * samples) / samples
    x, y = np.meshgrid(axis, axis, indexing="ij")
    i, j = x.astype(int), y.astype(int)
    u, v = x - i, y - j
    ramps = {(a, b): (np.stack([u - a, v - b], -1) * g[i + a, j + b]).sum(-1) for a in (0, 1) for b in (0, 1)}
    s, t = (6 * w**5 - 15 * w**4 + 10 * w**3 for w in (u, v))
    theirs = np.sqrt(2) * (
        (1 - t) * (ramps[0, 0] * (1 - s) + s * ramps[1, 0]) + t * (ramps[0, 1] * (1 - s) + s * ramps[1, 1])
    )
    return statistics.exact(np.abs(theirs - np.sqrt(2) * field.dense(samples)[0].numpy()).max(), theirs.size)


MEASURES: Measures = {
    "perlin.numpy_formula": perlin_numpy_formula,
}
