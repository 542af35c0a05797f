"""The nudged elastic band: all pivots of a path take their steps together, on one minibatch.

At each inner pivot the gradient of the loss acts across the path and a spring force along it (Henkelman and Jónsson
2000). With infinitely stiff springs, the published case (Draxler et al. 2018, Alg. 1), the spring force is dropped
and the pivots are redistributed along the path after each step. The mechanical model keeps both forces in full.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lossatlas import ensemble
from lossatlas.elastic_band import geometry
from lossatlas.elastic_band.arms import CORRECTED, Arm
from lossatlas.errors import LossAtlasError
from lossatlas.perceptron import Perceptron

CHECK_EVERY = 50  # steps between two looks at whether the band is finite
TORN = 1.0  # spacing error above which a band is torn: a gap that is twice as long as it should be

Outcome = Literal["ok", "torn", "diverged"]


@dataclass(frozen=True)
class Cost:
    """Work in samples (points times rows): gradients, and evaluations that go forward only."""

    gradients: int = 0
    evaluations: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.gradients + other.gradients, self.evaluations + other.evaluations)

    @property
    def sample_gradients(self) -> float:
        """In units of a sample's gradient; going forward only is a third of one."""
        return (3 * self.gradients + self.evaluations) / 3


@dataclass(frozen=True)
class Stop:
    """Ends a band when its highest pivot no longer falls.

    The mean loss of the highest pivot over `every` steps (of the minibatch losses, which cost nothing) must fall
    below (1 - gain) times the lowest such mean, or the band ends after `patience` such blocks of steps.
    """

    every: int = 50
    gain: float = 0.02
    patience: int = 1


@dataclass(frozen=True, eq=False)
class Band:
    """A path (N, P) after some steps, what they cost, and what became of it.

    `diverged`: a loss or pivot was not finite; the path is then the one it started from. `torn`: the pivots could
    not be spaced (`TORN`). saddles (steps,): the highest loss among the pivots of each step, on its minibatch.
    """

    path: Tensor
    steps: int
    cost: Cost
    outcome: Outcome
    saddles: Tensor


def neb(
    problem,
    path: Tensor,
    *,
    steps: int,
    learning_rate: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    batch_size: int | None = None,
    weights: Tensor | None = None,
    spring: float = math.inf,
    climbing: bool = False,
    stop: Stop | None = None,
    arm: Arm = CORRECTED,
    generator: torch.Generator | None = None,
) -> Band:
    """Move the inner pivots of a path (N, P) by SGD with momentum; the ends stay bit by bit.

    problem: anything that follows `lossatlas.problems.Problem`; with a batch_size it is asked for a `minibatch` in
    each step. weights (N - 1,): the gaps' shares of the length. spring: the constant k of the springs, where infinity
    means redistribution. climbing: the highest inner pivot climbs along the path, to the saddle. Raises
    `LossAtlasError` for a batch larger than the data set or a path of fewer than three pivots.
    """
    _check(problem, path, batch_size)
    start, path = path, path.detach().clone()
    weights = geometry.equal_weights(path) if weights is None else weights
    generator = generator or torch.Generator().manual_seed(0)
    redistributes = spring == math.inf and arm.force == "neb"
    moving = _moving(arm)
    perceptron = Perceptron.of(problem) if arm.minibatch == "shared" else None
    chunk = _chunk(problem, path, step_rows(problem, batch_size))
    velocity = torch.zeros_like(path[moving])
    watch = _Watch(stop)
    while watch.steps < steps and not watch.ended:
        inner, ends = draw(problem, batch_size, len(path), arm, generator)
        losses, gradient = evaluate(inner, ends, path, weight_decay, arm, perceptron, chunk)
        watch.note(losses.max())
        highest = int(losses[1:-1].argmax()) + 1 if climbing else None
        if arm.force == "neb":
            project(path, losses, gradient, weights, spring, highest, arm.tangent)
        else:
            gradient[: len(path) - 2].sub_(path.diff(n=2, dim=0), alpha=spring)
        if hasattr(inner, "advanced"):
            path[moving] = inner.advanced(path[moving])
        velocity.mul_(momentum).add_(gradient)
        path[moving].sub_(velocity, alpha=learning_rate)
        if redistributes and (arm.spacing == "always" or watch.steps < steps):
            path = geometry.redistribute(path, weights, passes=1, anchor=highest)
    if redistributes and arm.spacing == "always" and not climbing:
        path = geometry.redistribute(path, weights)
    saddles = torch.stack(watch.saddles)
    samples = watch.steps * step_rows(problem, batch_size)
    became = outcome(path, weights, saddles)
    return Band(
        path=start if became == "diverged" else path,
        steps=watch.steps,
        cost=Cost(samples * len(velocity), samples * (len(path) - len(velocity))),
        outcome=became,
        saddles=saddles,
    )


def _check(problem, path: Tensor, batch_size: int | None) -> None:
    if path.dim() != 2 or len(path) < 3 or path.shape[1] != problem.dim:
        raise LossAtlasError(f"a band needs a path (3 or more pivots, {problem.dim}), not {tuple(path.shape)}")
    if batch_size is not None and batch_size > getattr(problem, "rows", batch_size):
        raise LossAtlasError(f"batch_size {batch_size} is larger than the data set ({problem.rows} rows)")


def step_rows(problem, batch_size: int | None) -> int:
    """Rows of a problem that a step sees; an analytic problem has one."""
    sampled = batch_size is not None and hasattr(problem, "minibatch")
    return batch_size if sampled else getattr(problem, "rows", 1)


def _chunk(problem, path: Tensor, rows: int) -> int | None:
    """Pivots whose activations fit the cache at once, found for all steps; None where the problem does not say."""
    if not hasattr(problem, "row_numel"):
        return None
    budget = ensemble.CACHE_BYTES if path.device.type == "cpu" else ensemble.DEVICE_BYTES
    return max(1, budget // (problem.row_numel * rows * path.element_size()))


def draw(problem, batch_size: int | None, pivots: int, arm: Arm, generator: torch.Generator):
    """The problem of a step as the moving pivots see it, and as the ends do.

    Both see one minibatch (so that neighbours can be compared), unless the arm gives each pivot its own. A problem
    with an `ends` shows that to the ends where the arm asks for it: the same rows, in evaluation mode.
    """
    if batch_size is None or not hasattr(problem, "minibatch"):
        inner = ends = problem
    elif arm.minibatch == "shared":
        inner = ends = problem.minibatch(batch_size, generator)
    else:
        rows = torch.stack([torch.randperm(problem.rows, generator=generator)[:batch_size] for _ in range(pivots)])
        inner, ends = (problem.on(own.to(problem.x.device)) for own in _split(rows, arm))
    return inner, getattr(ends, "ends", ends) if arm.mode == "ends-eval" else ends


def _split(path: Tensor, arm: Arm) -> tuple[Tensor, Tensor]:
    """The rows of the pivots that move, and of those that do not."""
    return path[_moving(arm)], path[:1] if arm.last_end == "moves" else path[[0, -1]]


def _moving(arm: Arm) -> slice:
    return slice(1, None if arm.last_end == "moves" else -1)


def evaluate(
    inner, ends, path: Tensor, weight_decay: float, arm: Arm, perceptron: Perceptron | None, chunk: int | None
) -> tuple[Tensor, Tensor]:
    """Losses (N,) of all pivots and gradients (moving, P) of those that move, both with the penalty ½ λ |p|²."""
    if perceptron and inner is ends:
        losses, gradient = perceptron.gradient(path, inner.x, inner.y, _moving(arm))
    else:
        moving, fixed = _split(path, arm)
        losses, gradient = ensemble.gradient(inner, moving, chunk)
        at_ends = ensemble.loss(ends, fixed, chunk)
        losses = torch.cat([at_ends[:1], losses, at_ends[1:]])
    if weight_decay:
        gradient.add_(path[_moving(arm)], alpha=weight_decay)
        if arm.decay == "both":
            losses = losses + 0.5 * weight_decay * torch.linalg.vector_norm(path, dim=-1).square()
    return losses, gradient


@np.errstate(invalid="ignore", over="ignore")  # a band that diverges is noticed by its losses
def project(
    path: Tensor, losses: Tensor, gradient: Tensor, weights: Tensor, spring: float, highest: int | None, rule: str
) -> None:
    """Turn the gradients of the inner pivots, the first N - 2 rows of `gradient`, into minus the band's force.

    What lies along the tangent is taken out (at the pivot `highest` twice, so that it climbs), and the force
    k (d_{i+1} - d_i) of finite springs is put in; lengths are measured by their shares of the length.
    """
    differences = path.diff(dim=0)
    inner = gradient[: len(path) - 2]
    gram = geometry.gram_matrix(differences)
    products = geometry.numbers(inner @ differences.mT)
    a, b = geometry.tangent_coefficients(gram, geometry.numbers(losses), rule)
    along = a * products.diagonal() + b * products.diagonal(1)
    if highest is not None:
        along[highest - 1] *= 2
    if spring < math.inf:
        stretch = np.sqrt(gram.diagonal()) / (weights.numpy() * len(weights))
        along += spring * np.diff(stretch) * (np.arange(1, len(path) - 1) != highest)
    i = np.arange(len(inner))
    mixing = np.zeros(products.shape)
    mixing[i, i], mixing[i, i + 1] = along * a, along * b
    inner.addmm_(torch.from_numpy(mixing).to(path), differences, alpha=-1)


class _Watch:
    """The highest losses of a band's steps, and whether it should go on."""

    def __init__(self, stop: Stop | None):
        self.stop, self.saddles = stop, []
        self.lowest, self.idle, self.ended = math.inf, 0, False

    def note(self, saddle: Tensor) -> None:
        self.saddles.append(saddle)
        every = self.stop.every if self.stop else CHECK_EVERY
        if len(self.saddles) % every:
            return
        level = float(torch.stack(self.saddles[-every:]).mean())
        self.ended = not math.isfinite(level)
        if self.stop:
            falls = level < self.lowest - self.stop.gain * abs(self.lowest) or self.lowest == math.inf
            self.idle = 0 if falls else self.idle + 1
            self.lowest = min(self.lowest, level)
            self.ended |= self.idle >= self.stop.patience

    @property
    def steps(self) -> int:
        return len(self.saddles)


def outcome(path: Tensor, weights: Tensor, saddles: Tensor) -> Outcome:
    """What became of a band with these saddles (steps,)."""
    if not (path.isfinite().all() and saddles.isfinite().all()):
        return "diverged"
    return "torn" if geometry.spacing_error(path, weights) > TORN else "ok"
