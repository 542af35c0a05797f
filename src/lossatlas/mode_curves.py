"""Curves between two minima that are trained as a whole: quadratic Bézier curves and chains of segments.

Garipov et al. 2018 (arXiv 1802.10026): phi(t) = sum_j c_j(t) theta_j with fixed ends minimises the expected loss over
t ~ U(0, 1). The gradient with respect to a control point is E[c_j(t) grad L(phi(t))], so the points of all pairs and
all t of a step are one ensemble on one shared minibatch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lossatlas import ensemble
from lossatlas.errors import LossAtlasError
from lossatlas.minibatches import endless_rows


def bezier(t: Tensor) -> Tensor:
    """Coefficients (T, 3) of the quadratic Bézier curve at t (T,): the Bernstein polynomials of degree 2."""
    return torch.stack([(1 - t).square(), 2 * t * (1 - t), t.square()], -1)


def polychain(t: Tensor, control_points: int = 3) -> Tensor:
    """Coefficients (T, n) of the chain of segments at t (T,): hats max(0, 1 - |t (n - 1) - j|)."""
    j = torch.arange(control_points, dtype=t.dtype, device=t.device)
    return (1 - (t[:, None] * (control_points - 1) - j).abs()).clamp_min(0)


CURVES: Mapping[str, Callable[[Tensor], Tensor]] = {"bezier": bezier, "polychain": polychain}


def points(kind: str, control: Tensor, t: Tensor) -> Tensor:
    """Points (..., T, P) of the curve with the control points (..., 3, P) at t (T,); exactly the ends at 0 and 1."""
    return CURVES[kind](t).to(control) @ control


def straight(ends: Tensor) -> Tensor:
    """Control points (..., 3, P) whose curve is the straight segment between ends (..., 2, P)."""
    return torch.stack([ends[..., 0, :], ends.mean(-2), ends[..., 1, :]], -2)


def penalty(theta: Tensor, weight_decay: float) -> Tensor:
    """½ weight_decay ‖theta‖² of points (..., P): the one L2 term of training, evaluation and figures alike."""
    return 0.5 * weight_decay * theta.square().sum(-1)


def released_rate(done: float) -> float:
    """The released code's share of the first rate when that share of a training is done, of networks and of curves.

    Constant for half of the training, then linear down to 1 % at 90 % of it.
    """
    return 1.0 if done <= 0.5 else max(0.01, 1.0 - (done - 0.5) / 0.4 * 0.99)


@dataclass(frozen=True)
class Recipe:
    """How a curve is trained; the released code has points_per_step 1, batch 128 and momentum 0.9.

    points_per_step: values of t in each step, one in each of as many equal parts of [0, 1], so that their mean stays
    an unbiased estimate. batch_size None: all rows in each step. The penalty is that of the curve's points.
    """

    kind: str = "bezier"
    steps: int = 1000
    batch_size: int | None = 128
    points_per_step: int = 1
    momentum: float = 0.9
    weight_decay: float = 0.0

    def __post_init__(self):
        if self.kind not in CURVES:
            raise LossAtlasError(f"curve {self.kind!r} is unknown; use one of {', '.join(CURVES)}")

    def rate_factor(self, step: int) -> float:
        """`released_rate` of the step."""
        return released_rate(step / self.steps)

    def sample_gradients(self, rows: int) -> int:
        """Gradients of single examples that the training of one curve costs, on a problem of that many rows."""
        return self.steps * self.points_per_step * (self.batch_size or rows)


@dataclass(frozen=True, eq=False)
class Curves:
    """Trained curves: control points (m, 3, P), and the step at which each diverged (m,), -1 where none did."""

    control: Tensor
    diverged_at: Tensor


def objective(problem, kind: str, control: Tensor, t: Tensor, weight_decay: float = 0.0) -> Tensor:
    """Mean over t (T,) of loss and penalty along each of the curves (m, 3, P) -> (m,)."""
    theta = points(kind, control, t)
    return (problem(theta.flatten(0, 1)).view(theta.shape[:2]) + penalty(theta, weight_decay)).mean(-1)


def train(
    problem,
    ends: Tensor,
    recipe: Recipe,
    learning_rate: float | Tensor,
    generator: torch.Generator,
    progress: Callable[[int, int], None] | None = None,
) -> Curves:
    """Train the curves between m pairs of ends (m, 2, P), each with its own rate, from straight segments.

    All curves see the same minibatch and the same t of a step, so that they are compared on equal terms. A curve that
    is no longer finite stays where it last was.
    """
    if ends.dim() != 3 or ends.shape[1] != 2:
        raise LossAtlasError(f"curves need pairs of ends (m, 2, P), not {tuple(ends.shape)}")
    batches = None if recipe.batch_size is None else endless_rows(problem.rows, recipe.batch_size, [generator])
    rate = torch.as_tensor(learning_rate, dtype=ends.dtype, device=ends.device).expand(len(ends))
    control = straight(ends).clone()
    velocity = torch.zeros_like(control[:, 1])
    diverged_at = torch.full((len(ends),), -1, device=ends.device)
    for step in range(recipe.steps):
        part = problem.on(next(batches)[0]) if batches else problem
        t = (torch.arange(recipe.points_per_step) + torch.rand(recipe.points_per_step, generator=generator)).to(ends)
        t = t / recipe.points_per_step
        slope = bend_gradient(part, recipe.kind, control, t, recipe.weight_decay)
        velocity.mul_(recipe.momentum).add_(slope)
        moved = torch.addcmul(control[:, 1], velocity, rate[:, None], value=-recipe.rate_factor(step))
        diverged_at.masked_fill_((diverged_at < 0) & ~moved.sum(-1).isfinite(), step)
        control[:, 1] = torch.where((diverged_at >= 0)[:, None], control[:, 1], moved)
        if progress:
            progress(step + 1, recipe.steps)
    return Curves(control, diverged_at)


def bend_gradient(problem, kind: str, control: Tensor, t: Tensor, weight_decay: float = 0.0) -> Tensor:
    """Gradient (m, P) of `objective` with respect to the bends control[:, 1]."""
    theta = points(kind, control, t)
    _, slopes = ensemble.gradient(problem, theta.flatten(0, 1))
    slopes = slopes.view(theta.shape) + weight_decay * theta
    weights = CURVES[kind](t)[:, 1].to(theta) / len(t)
    return torch.einsum("t,mtp->mp", weights, slopes)
