"""The hypervolume of a set of outcomes of several objectives: how much of what one hopes for is dominated by it."""

import numpy as np
from numpy.typing import ArrayLike


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Volume of all that lies above a point (m, n) in every objective and below the reference (n,), objectives to be
    minimised (Zitzler and Thiele 1998).

    Exact, by slices along the last objective (While et al. 2006): its time is exponential in n. A point that is not
    finite, or not below the reference in every objective, dominates nothing.
    """
    reference = np.asarray(reference, float)
    points = np.asarray(points, float).reshape(-1, len(reference))
    points = points[np.isfinite(points).all(1) & (points < reference).all(1)]
    if not len(points):
        return 0.0
    if len(reference) == 1:
        return float(reference[0] - points.min())
    points = points[np.argsort(points[:, -1], kind="stable")]
    heights = np.diff([*points[:, -1], reference[-1]])
    below = (hypervolume(points[: i + 1, :-1], reference[:-1]) * h for i, h in enumerate(heights) if h > 0)
    return float(sum(below))
