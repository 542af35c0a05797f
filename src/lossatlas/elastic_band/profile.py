"""Losses between the pivots of a path: a profile, and its maximum, which is the path's saddle.

The maximum over any finite set of points is a lower bound of the maximum on the polyline, and that is an upper bound
of the minimax over all paths. `refine` closes the first gap to a stated tolerance.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lossatlas import ensemble
from lossatlas.elastic_band.geometry import points

TOLERANCE = 1e-4  # of the maximum, in units of the loss
SAMPLES = 9  # inner points of a gap (Draxler et al. 2018)
ROUNDS = 20  # of refinement; a fourth of the spacing each
AT_ONCE = 8  # points evaluated together: more rows of fewer points, and activations stay in the cache

Function = Callable[[Tensor], Tensor]  # points (M, P) -> values (M,)


@dataclass(frozen=True, eq=False)
class Profile:
    """A function along a path: values `losses` (M,) at `positions` (M,), sorted, both float64 on the CPU.

    evaluations counts points. saddle_error is by how much the last refinement moved the maximum, NaN without one.
    """

    positions: Tensor
    losses: Tensor
    evaluations: int
    saddle_error: float = math.nan

    @property
    def saddle(self) -> float:
        return float(self.losses.max())

    @property
    def saddle_position(self) -> float:
        return float(self.positions[self.losses.argmax()])

    @property
    def finite(self) -> bool:
        return bool(self.losses.isfinite().all())

    def pivots(self) -> Tensor:
        """The losses (N,) of the pivots themselves."""
        return self.losses[self.positions == self.positions.floor()]

    def extended(self, positions: Tensor, losses: Tensor, saddle_error: float = math.nan) -> "Profile":
        """This profile and further points."""
        merged, order = torch.cat([self.positions, positions]).sort(stable=True)
        values = torch.cat([self.losses, losses])[order]
        return Profile(merged, values, self.evaluations + len(positions), saddle_error)


def mean_losses(problem) -> Function:
    """Losses (M,) of a problem at points (M, P), in float64, in blocks of rows and points that fit the cache."""

    def at(theta: Tensor) -> Tensor:
        if not hasattr(problem, "blocks"):
            return ensemble.loss(problem, theta).double()
        return torch.cat([_mean_over_blocks(problem, part) for part in theta.split(AT_ONCE)])

    return at


def _mean_over_blocks(problem, theta: Tensor) -> Tensor:
    if getattr(problem, "moments", None):
        with torch.no_grad():
            given = problem.moments(theta)  # once for all blocks
        problem = replace(problem, moments=lambda _: given)
    blocks = problem.blocks(len(theta))
    chunk = None if len(blocks) == 1 and problem.moments is None else len(theta)
    total = sum(ensemble.loss(block, theta, chunk).double() * block.rows for block in blocks)
    return total / problem.rows


def evaluate(function: Function, path: Tensor, positions: Tensor) -> Tensor:
    """Values (M,) of any function at positions (M,) of a path, float64 on the CPU."""
    with torch.no_grad():
        return function(points(path, positions.to(path.device))).double().cpu()


def profile(function: Function, path: Tensor, samples: int = SAMPLES, top: int | None = None) -> Profile:
    """A function on all pivots and at `samples` equally spaced inner points of the gaps (`samples` is odd).

    top: after the middle of each gap, the other points of only those `top` gaps where the maximum can be, and of
    those `top` where the function bulges most above the straight line between the pivots.
    """
    gaps = len(path) - 1
    first = torch.arange(2 * gaps + 1, dtype=torch.float64) / 2
    start = Profile(first, evaluate(function, path, first), len(first))
    inner = torch.arange(1, samples + 1, dtype=torch.float64) / (samples + 1)
    inner = inner[inner != 0.5]
    chosen = torch.arange(gaps) if top is None else _promising(start, top)
    rest = (chosen[:, None] + inner).flatten()
    return start.extended(rest, evaluate(function, path, rest)) if len(rest) else start


def _promising(start: Profile, top: int) -> Tensor:
    """The gaps (c,) that hold the highest losses or the highest bulges, of a profile with one point in each gap."""
    left, middle, right = start.losses[:-1:2], start.losses[1::2], start.losses[2::2]
    highest = torch.stack([left, middle, right]).amax(0)
    bulge = middle - (left + right) / 2
    count = min(top, len(middle))
    return torch.cat([highest.topk(count).indices, bulge.topk(count).indices]).unique()


def refine(function: Function, path: Tensor, profile: Profile, tolerance: float = TOLERANCE) -> Profile:
    """The profile with more points round every top that can be the maximum, until that changes by < tolerance.

    A top can be, if it is within a quarter of its drop to the lower neighbour of the maximum so far: a parabola
    through three equally spaced points rises at most an eighth of it above the highest of them.
    """
    for _ in range(ROUNDS if profile.finite else 0):
        new = _around(profile, _tops(profile.losses))
        before = profile.saddle
        profile = profile.extended(new, evaluate(function, path, new))
        profile = replace(profile, saddle_error=profile.saddle - before)
        if not profile.saddle_error >= tolerance:  # also where it is not a number
            break
    return profile


def _tops(losses: Tensor) -> Tensor:
    """Indices of the local maxima that can be the highest."""
    low = losses.new_full((1,), -torch.inf)
    left, right = torch.cat([low, losses[:-1]]), torch.cat([losses[1:], low])
    drop = losses - torch.minimum(
        torch.where(left == -torch.inf, right, left), torch.where(right == -torch.inf, left, right)
    )
    candidates = (losses >= left) & (losses >= right) & (losses + drop / 4 >= losses.max())
    return candidates.nonzero().flatten()


def _around(profile: Profile, tops: Tensor) -> Tensor:
    """Three equally spaced new positions in each interval that ends at a top."""
    intervals = torch.cat([tops - 1, tops]).unique()
    intervals = intervals[(intervals >= 0) & (intervals < len(profile.positions) - 1)]
    start, end = profile.positions[intervals], profile.positions[intervals + 1]
    shares = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    return torch.lerp(start[:, None], end[:, None], shares).flatten()
