"""Every convention of "the barrier" on a path, for training and test rows, for loss and error, from one evaluation.

A path is a function of positions (M,) in [0, stop] to points (M, P): a polyline over its pivots, or a trained curve.
`measure` evaluates it on a grid and refines that around the highest training and test loss; `summary` reads off the
numbers. A maximum over points is a lower bound of the path's own maximum; the path's maximum is an upper bound of the
minimax over all paths. `COLUMNS` defines every name that a table of barriers uses.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lossatlas import ensemble
from lossatlas.ensemble import Moments
from lossatlas.problems.network import ExactMoments, NetworkProblem

Path = Callable[[Tensor], Tensor]
QUANTITIES = ("train_loss", "train_error", "test_loss", "test_error")
TOLERANCE = 1e-3  # of the highest loss: what another refinement may still add to it
FLOOR = 1e-6  # absolute, for paths whose loss is nearly zero: rounding of a float32 loss
_ROUNDS = 12  # each divides the intervals around a maximum by four

CONVENTIONS = {
    "start": "at the first end",
    "end": "at the second end",
    "lowest": "least value on the path",
    "saddle": "greatest value on the path, ends included (Draxler et al.'s saddle; each quantity at its own maximum)",
    "at_saddle": "value at the point of the greatest training loss",
    "over_ends": "saddle minus the higher end",
    "over_line": "greatest of v(s) - (1 - s) v(start) - s v(end), s the normalised arc length (Entezari et al.)",
    "over_mean": "saddle minus the mean of the ends (Frankle et al.'s instability, for errors)",
    "average": "mean over the points of the unrefined grid, equidistant in each segment (Garipov et al.)",
    "integral": "mean over arc length, sum of (v_i + v_{i+1}) d_i / 2 over the sum of d_i (Garipov et al.)",
}
GEOMETRY = {
    "saddle_position": "normalised arc length of the greatest training loss",
    "saddle_change": "what the last refinement added to the greatest training loss: its discretisation error",
    "length": "length of the path, sum of d_i",
    "distance": "straight distance between the ends",
    "length_ratio": "length / distance; 1 where both are 0",
    "points": "points that were evaluated",
    "finite": "whether all losses are finite",
}
COLUMNS: Mapping[str, str] = {
    f"{quantity}_{name}": f"{quantity.replace('_', ' ')}: {text}"
    for quantity in QUANTITIES
    for name, text in CONVENTIONS.items()
} | GEOMETRY


@dataclass(frozen=True, eq=False)
class Profile:
    """Values {quantity: (M,)} at sorted positions (M,), and where these lie; all float64.

    steps (M - 1,): distances of neighbouring points; regular (M,): the points of the unrefined grid; change: what the
    last refinement added to the greatest training loss.
    """

    positions: Tensor
    steps: Tensor
    regular: Tensor
    values: dict[str, Tensor]
    distance: float
    change: float

    @property
    def arc(self) -> Tensor:
        """Normalised arc length s (M,); proportional to the position on a path of length 0."""
        total = self.steps.sum()
        lengths = self.steps if total > 0 else self.positions.diff()
        s = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        return s / s[-1]


def means(
    problem: NetworkProblem, theta: Tensor, given: list[Moments] | None = None, record: list[Moments] | None = None
) -> tuple[Tensor, Tensor]:
    """Mean loss and share of errors (k,) of the members theta (k, P), in float64, in chunks that fit the cache.

    With batch statistics, those of the problem's own rows at each point, or what `problem.moments` says, unless they
    are `given`: what a problem that is normalised by its own rows put into `record` at the same points.
    """
    loss, error = [], []
    members = 8  # of a chunk; with the rows of a block they fill the cache
    blocks = problem.blocks(members)
    with torch.no_grad():
        for i, part in enumerate(theta.split(members)):
            moments = given[i] if given else problem.moments(part) if problem.moments else None
            met: Moments = {}
            losses = errors = 0.0
            for block in blocks:
                logits = ensemble.forward(block.module, block.layout.split(part), block.x[None], moments, met)
                losses = losses + block.example_losses(logits).sum(-1, dtype=torch.float64)
                errors = errors + block.example_errors(logits).sum(-1, dtype=torch.float64)
            loss.append(losses / problem.rows)
            error.append(errors / problem.rows)
            if record is not None:
                record.append(met)
    return torch.cat(loss).cpu(), torch.cat(error).cpu()


def measure(path: Path, grid: Tensor, train: NetworkProblem, test: NetworkProblem) -> Profile:
    """Evaluate a path at the positions `grid` (M,), which include both ends and every kink, and refine the maxima.

    The intervals next to the greatest training loss and to the greatest test loss are divided by four until neither
    maximum can change by more than `TOLERANCE`; what the last division added to the training loss is kept.
    """
    grid = grid.to(torch.float64).cpu()
    positions, theta, values = grid, path(grid), {}
    distance = float((theta[-1].double() - theta[0].double()).norm())
    values = _values(theta, train, test)
    change = torch.inf
    for _ in range(_ROUNDS):
        new = _around_the_tops(positions, [values["train_loss"], values["test_loss"]])
        if not len(new):
            change = 0.0
            break
        fresh = path(new)
        before = {name: float(values[name].max()) for name in ("train_loss", "test_loss")}
        found = _values(fresh, train, test)
        positions, order = torch.cat([positions, new]).sort()
        theta = torch.cat([theta, fresh])[order.to(theta.device)]
        values = {name: torch.cat([values[name], found[name]])[order] for name in QUANTITIES}
        change = float(values["train_loss"].max()) - before["train_loss"]
        if all(_settled(values[name], old) for name, old in before.items()):
            break
        if not all(values[n].isfinite().all() for n in before):
            break
    steps = theta.double().diff(dim=0).norm(dim=-1).cpu()
    return Profile(positions, steps, torch.isin(positions, grid), values, distance, change)


def _values(theta: Tensor, train: NetworkProblem, test: NetworkProblem) -> dict[str, Tensor]:
    met: list[Moments] = []
    at_train = means(train, theta, record=met)
    shared = isinstance(test.moments, ExactMoments) and test.moments.problem is train
    return dict(zip(QUANTITIES, (*at_train, *means(test, theta, met if shared else None)), strict=True))


def _settled(curve: Tensor, before: float) -> bool:
    """Whether a maximum inside the path has stopped rising and its neighbours are within four tolerances of it.

    Two points on either side of a top may be equally high and hide it. On a parabola the true maximum exceeds the
    highest of equidistant points by at most a quarter of what that exceeds its lower neighbour.
    """
    slack = max(TOLERANCE * abs(before), FLOOR)
    top = int(curve.argmax())
    inside = 0 < top < len(curve) - 1
    drop = float(curve[top] - curve[top - 1 : top + 2].min()) if inside else 0.0
    return float(curve[top]) - before <= slack and drop <= 4 * slack


def _around_the_tops(positions: Tensor, curves: list[Tensor]) -> Tensor:
    """Three points inside each of the intervals on either side of the curves' maxima."""
    tops = {int(curve.nan_to_num(nan=torch.inf).argmax()) for curve in curves}
    gaps = sorted({gap for top in tops for gap in (top - 1, top) if 0 <= gap < len(positions) - 1})
    low, high = positions[gaps], positions[[gap + 1 for gap in gaps]]
    shares = torch.tensor([0.25, 0.5, 0.75], dtype=positions.dtype)
    new = torch.lerp(low[:, None], high[:, None], shares).flatten()
    return new[~torch.isin(new, positions)]


def summary(profile: Profile) -> dict[str, float | int | bool]:
    """The columns of `COLUMNS`; where a value on the path is not finite, so are the numbers that depend on it."""
    s, steps = profile.arc, profile.steps
    top = int(profile.values["train_loss"].nan_to_num(nan=torch.inf).argmax())
    length = float(steps.sum())
    columns: dict[str, float | int | bool] = {}
    for name in QUANTITIES:
        v = profile.values[name]
        first, last = v[0], v[-1]
        widths = s.diff()
        found = {
            "start": first,
            "end": last,
            "lowest": v.min(),
            "saddle": v.max(),
            "at_saddle": v[top],
            "over_ends": v.max() - torch.maximum(first, last),
            # written as a sum of differences, so that a constant gives exactly zero
            "over_line": ((v - first) - s * (last - first)).max(),
            "over_mean": v.max() - (first + last) / 2,
            "average": v[profile.regular].mean(),
            "integral": ((v[:-1] + v[1:]) / 2 * widths).sum(),
        }
        columns |= {f"{name}_{key}": float(value) for key, value in found.items()}
    return columns | {
        "saddle_position": float(s[top]),
        "saddle_change": profile.change,
        "length": length,
        "distance": profile.distance,
        "length_ratio": length / profile.distance if profile.distance > 0 else 1.0,
        "points": len(profile.positions),
        "finite": all(bool(profile.values[name].isfinite().all()) for name in ("train_loss", "test_loss")),
    }
