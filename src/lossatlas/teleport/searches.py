"""Teleporting: moving parameters to where the loss is the same and the gradient another, before going on training.

    found = teleport(problem, theta, PositiveScaling(problem), Corner(bound=1.0))

A search chooses an element of a group of symmetries (`lossatlas.teleport.groups`) or a point of a level set;
`teleport` checks the move, refuses it where the loss changed, and records per member what it did and cost. Symmetry
teleportation: Zhao et al. 2022, arXiv 2205.10637; level sets: Mishkin et al. 2024, arXiv 2403.03362. Costs are in
gradients: one forward and backward pass over the teleport batch is 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from lossatlas import ensemble
from lossatlas.errors import LossAtlasError
from lossatlas.teleport import level_set
from lossatlas.teleport.general_linear import GeneralLinear, exponential
from lossatlas.teleport.groups import Group, PositiveScaling
from lossatlas.teleport.plane_rotation import PlaneRotation
from lossatlas.teleport.sharpness import largest_eigenvalue

FORWARD, HESSIAN_VECTOR = 1 / 3, 2.0  # in gradients
# An exact action leaves the loss to rounding: 1e-10 allows for sums in another order and condition numbers up to 1e5.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
ILL_CONDITIONED = 1e7


class Outcome(IntEnum):
    """What became of a teleport."""

    MOVED = 0
    REFUSED = 1  # the loss changed by more than the tolerance
    OVERFLOW = 2  # the point, its loss or gradient is not finite
    ILL_CONDITIONED = 3  # refused or not finite, and the batch hardly determines the action


@dataclass(frozen=True, eq=False)
class Move:
    """Where a search wants to go: theta (k, P), by these elements one after another; `scores` (k, m) of candidates."""

    theta: Tensor
    elements: tuple[Any, ...]
    cost: float
    scores: Tensor | None = None


Search = Callable[[Any, Tensor, Any], Move]


@dataclass(frozen=True, eq=False)
class Teleported:
    """theta (k, P) after the teleport, where the start is left as it was unless `outcome` is MOVED; per member (k,):

    loss_change, off_batch_change: relative change of the loss on the teleport batch and on other rows (NaN if not
    asked for) that the move makes or would have made; gain: ||grad L(g w)|| / ||grad L(w)||; sharpness_before, _after:
    lambda_max (NaN if not asked for); distance: ||g w - w||; condition: of the batch's inputs (1 without a batch);
    spread: (max - min) / max of the squared gradients of the candidates. cost: gradients, the check included.
    """

    theta: Tensor
    elements: tuple[Any, ...]
    outcome: Tensor
    loss_change: Tensor
    off_batch_change: Tensor
    gain: Tensor
    sharpness_before: Tensor
    sharpness_after: Tensor
    distance: Tensor
    condition: Tensor
    spread: Tensor
    cost: float

    @property
    def moved(self) -> Tensor:
        return self.outcome == Outcome.MOVED


def teleport(
    problem,
    theta: Tensor,
    group: Group | None,
    search: Search,
    *,
    off_batch=None,
    sharpness_seeds: Sequence[int] = (),
    exact: bool = True,
) -> Teleported:
    """Teleport the ensemble theta (k, P) of `problem`, whose rows are the teleport batch.

    off_batch: a problem on other rows, to see what the move does there. sharpness_seeds: one a member, for lambda_max
    before and after. exact: refuse a move that changes the loss by more than `TOLERANCE` (for the level set: that
    raises it by more than 1e-6); without it such moves are made and recorded.
    """
    before, slope = ensemble.gradient(problem, theta)
    move = search(problem, theta, group)
    after, slope_after = ensemble.gradient(problem, move.theta)
    change = (after - before) / before.abs()
    finite = after.isfinite() & slope_after.isfinite().all(-1) & move.theta.isfinite().all(-1)
    if isinstance(search, LevelSet):
        kept = change <= 2 * search.tolerance
    else:
        kept = change.abs() <= TOLERANCE[theta.dtype]
    outcome = torch.full_like(before, Outcome.MOVED, dtype=torch.int64)
    if exact:
        outcome = torch.where(kept, outcome, Outcome.REFUSED)
    outcome = torch.where(finite, outcome, Outcome.OVERFLOW)
    condition = torch.ones_like(before)
    if isinstance(group, GeneralLinear):
        condition = group.condition(theta)
        outcome = torch.where((outcome > 0) & ~(condition < ILL_CONDITIONED), Outcome.ILL_CONDITIONED, outcome)
    result = torch.where((outcome == Outcome.MOVED)[:, None], move.theta, theta)
    nothing = torch.full_like(before, torch.nan)
    off = nothing
    if off_batch is not None:
        elsewhere = ensemble.loss(off_batch, theta)
        off = (ensemble.loss(off_batch, move.theta) - elsewhere) / elsewhere.abs()
    sharp = [nothing, nothing]
    if sharpness_seeds:
        sharp = [largest_eigenvalue(problem, at, sharpness_seeds) for at in (theta, result)]
    spread = nothing
    if move.scores is not None:
        spread = 1 - move.scores.amin(-1) / move.scores.amax(-1)
    return Teleported(
        result,
        move.elements,
        outcome,
        change,
        off,
        slope_after.norm(dim=-1) / slope.norm(dim=-1),
        *sharp,
        (move.theta - theta).norm(dim=-1),
        condition,
        spread,
        move.cost + FORWARD,
    )


def transported(group: Group, theta: Tensor, found: Teleported, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """First and second moments (k, P) of an optimiser at theta, taken along by the teleport `found`.

    First moments are sums of gradients, so they go as gradients do. Second moments have an exact image only where each
    coordinate is multiplied by a number or moved (`group.diagonal`); elsewhere they are set to zero. Members that did
    not move keep theirs.
    """
    new_first, new_second = first, second
    for element in found.elements:
        new_first = group.cotangent(theta, element, new_first)
        new_second = group.squared_cotangent(element, new_second) if group.diagonal else torch.zeros_like(second)
        theta = group.act(theta, element)
    still = ~found.moved[:, None]
    return torch.where(still, first, new_first), torch.where(still, second, new_second)


# --- searches -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Identity:
    """No move: the null test of everything around it."""

    def __call__(self, problem, theta: Tensor, group: Group) -> Move:
        element = group.identity(len(theta))
        return Move(group.act(theta, element), (element,), 0.0)


@dataclass(frozen=True)
class Argmax:
    """The greatest gradient on the whole orbit, where the group knows it. Costs no gradient of the problem."""

    def __call__(self, problem, theta: Tensor, group: PlaneRotation) -> Move:
        _need(group, PlaneRotation, "the exact argmax")
        angle = group.argmax(theta)
        return Move(group.act(theta, angle), (angle,), 0.0)


@dataclass(frozen=True)
class Corner:
    """The vertex of |s| <= bound with the greatest gradient (`PositiveScaling.corner`), from one gradient."""

    bound: float

    def __call__(self, problem, theta: Tensor, group: PositiveScaling) -> Move:
        _need(group, PositiveScaling, "the closed form")
        s = group.corner(ensemble.gradient(problem, theta)[1], self.bound)
        return Move(group.act(theta, s), (s,), 1.0)


@dataclass(frozen=True)
class Balance:
    """The least gradient on the scaling orbit, a contrast to all others. From one gradient."""

    def __call__(self, problem, theta: Tensor, group: PositiveScaling) -> Move:
        _need(group, PositiveScaling, "balancing")
        s = group.balance(ensemble.gradient(problem, theta)[1])
        return Move(group.act(theta, s), (s,), 1.0)


@dataclass(frozen=True)
class BestOf:
    """The best of `count` random elements of length `radius`, by ||grad L||²; one seed a member. A random one: count 1.

    On scaling orbits one gradient scores all; elsewhere each candidate costs one.
    """

    count: int
    radius: float
    seeds: tuple[int, ...]

    def __call__(self, problem, theta: Tensor, group: Group) -> Move:
        generators = [torch.Generator().manual_seed(s) for s in self.seeds]
        k = len(theta)
        if isinstance(group, PositiveScaling):
            draws = torch.stack([group.random(k, self.radius, generators) for _ in range(self.count)], 1).to(theta)
            scores = group.gradient_squares(ensemble.gradient(problem, theta)[1], draws)
            s = draws[torch.arange(k), scores.argmax(-1)]
            return Move(group.act(theta, s), (s,), 1.0, scores)
        best, chosen, scores = theta, None, []
        for _ in range(self.count):
            element = group.random(k, self.radius, generators)
            moved = group.act(theta, element)
            score = ensemble.gradient(problem, moved)[1].square().sum(-1).nan_to_num(nan=-torch.inf)
            better = score > torch.stack(scores).amax(0) if scores else torch.ones_like(score, dtype=torch.bool)
            best = torch.where(better[:, None], moved, best)
            chosen = element if chosen is None else _chosen(better, element, chosen)
            scores.append(score)
        return Move(best, (chosen,), float(self.count), torch.stack(scores, -1))


@dataclass(frozen=True)
class Ascent:
    """Normalised gradient ascent of ||grad L|| over a path of length at most `radius` in the group's tangent space.

    `steps` trials of length radius / steps; one that does not raise the gradient is taken back and the next is half
    as long. On scaling orbits one gradient is enough for all; on GL each trial costs a gradient and a product with the
    Hessian.
    """

    radius: float
    steps: int = 8

    def __call__(self, problem, theta: Tensor, group: Group) -> Move:
        if isinstance(group, PositiveScaling):
            return self._on_scaling(problem, theta, group)
        _need(group, GeneralLinear, "ascent")
        length = theta.new_full((len(theta),), self.radius / max(1, self.steps))
        slope, q = bent_gradient(problem, theta)
        elements = []
        for _ in range(self.steps):
            tangents = group.direction(theta, q)
            norm = torch.stack([t.square().sum((-2, -1)) for t in tangents]).sum(0).sqrt()
            scale = torch.where(norm > 0, length / norm, 0)
            element = exponential([scale[:, None, None] * t for t in tangents])
            trial = group.act(theta, element)
            slope_trial, q_trial = bent_gradient(problem, trial)
            good = slope_trial.square().sum(-1) > slope.square().sum(-1)
            theta = torch.where(good[:, None], trial, theta)
            slope, q = torch.where(good[:, None], slope_trial, slope), torch.where(good[:, None], q_trial, q)
            elements.append(_chosen(good, element, group.identity(len(theta))))
            length = torch.where(good, length, length / 2)
        return Move(theta, tuple(elements), (1 + self.steps) * (1 + HESSIAN_VECTOR))

    def _on_scaling(self, problem, theta: Tensor, group: PositiveScaling) -> Move:
        _, gradient = ensemble.gradient(problem, theta)
        s = gradient.new_zeros(len(theta), group.units)
        here = gradient
        length = theta.new_full((len(theta), 1), self.radius / max(1, self.steps))
        for _ in range(self.steps):
            into, out = group.flows(here)
            slope = out - into
            trial = s + length * slope / slope.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(s.dtype).tiny)
            there = group.cotangent(theta, trial, gradient)
            good = (there.square().sum(-1) > here.square().sum(-1))[:, None]
            s, here = torch.where(good, trial, s), torch.where(good, there, here)
            length = torch.where(good, length, length / 2)
        return Move(group.act(theta, s), (s,), 1.0)


@dataclass(frozen=True)
class LevelSet:
    """The level-set method (`level_set.ascend`); needs no group."""

    step: float = 0.1
    iterations: int = 50
    shrink: float = 0.5
    tolerance: float = 1e-6

    def __call__(self, problem, theta: Tensor, group: None = None) -> Move:
        found = level_set.ascend(
            problem, theta, step=self.step, iterations=self.iterations, shrink=self.shrink, tolerance=self.tolerance
        )
        return Move(found.theta, (), found.gradients + HESSIAN_VECTOR * found.products)


def bent_gradient(problem, theta: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient and q = (Hessian) (gradient), both (k, P), from one graph."""
    theta = theta.detach().requires_grad_()
    (slope,) = torch.autograd.grad(problem(theta).sum(), theta, create_graph=True)
    (q,) = torch.autograd.grad((slope * slope.detach()).sum(), theta)
    return slope.detach(), q


def shifted(theta: Tensor, distance: Tensor, seeds: Sequence[int]) -> Tensor:
    """theta (k, P) moved by distance (k,) in a uniform random direction: the placebo, which does change the loss."""
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    draws = torch.stack([torch.randn(theta.shape[-1], generator=g, dtype=torch.float64) for g in generators]).to(theta)
    return theta + distance[:, None] * draws / draws.norm(dim=-1, keepdim=True)


def _need(group: Any, kind: type, what: str) -> None:
    if not isinstance(group, kind):
        raise LossAtlasError(f"{what} is known for {kind.__name__} only, not for {type(group).__name__}")


def _chosen(mask: Tensor, a: Any, b: Any) -> Any:
    """Element a for the members of mask (k,), else b."""
    if isinstance(a, Tensor):
        return torch.where(mask.view(-1, *[1] * (a.dim() - 1)), a, b.to(a))
    parts = [_chosen(mask, x, y) for x, y in zip(a, b, strict=True)]
    return type(a)(*parts) if hasattr(a, "_fields") else tuple(parts)
