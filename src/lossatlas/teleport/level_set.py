"""Teleporting within a sub-level set: the points of greatest gradient that lie no higher (Mishkin et al. 2024).

`ascend` is the successive linear programming of arXiv 2403.03362, one Hessian-vector product an accepted step;
`quadratic_argmax` is the answer in closed form where the loss is a convex quadratic.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lossatlas import ensemble
from lossatlas.problems.analytic import Quadratic


@dataclass(frozen=True, eq=False)
class LevelSetPoint:
    """The best feasible accepted point theta (k, P) and its Karush-Kuhn-Tucker residual (k,); accepted steps (k,)."""

    theta: Tensor
    residual: Tensor
    steps: Tensor
    gradients: int
    products: int


def ascend(
    problem,
    theta: Tensor,
    *,
    step: float = 0.1,
    iterations: int = 50,
    shrink: float = 0.5,
    penalty: float = 0.1,
    tolerance: float = 1e-6,
    acceptance: float = 0.5,
    restorations: int = 5,
) -> LevelSetPoint:
    """Maximise log ||grad f|| subject to f <= f(theta), for members theta (k, P); `iterations` trial points each.

    With g = ||grad f||², q = (Hessian)(grad f) and v = (step <q, grad f> / g + f - f0)₊ / g the trial point is
    x + step q/g - v grad f; it is accepted if the merit ½ log g - penalty (f - f0)₊ rises as the model says, which lets
    the next step grow; else it shrinks. A member stops when ||(I - ĝĝᵀ) q/g||² and the violation are <= `tolerance`.
    The last accepted point may lie too high by what the merit tolerates: Newton steps along the gradient bring it down.
    Returned is the feasible point of greatest gradient that was met, the start itself if there is no other.
    """
    f0, slope = ensemble.gradient(problem, theta)
    x, f, size = theta, f0, torch.full_like(f0, step)
    best, best_square = theta, slope.square().sum(-1)
    accepted = torch.zeros_like(f0, dtype=torch.int64)
    q = ensemble.hessian_vector(problem, x, slope)
    gradients = products = 1
    for _ in range(iterations):
        square = slope.square().sum(-1)
        lift = q / square[:, None]
        along = (lift * slope).sum(-1)
        residual = (lift - (along / square)[:, None] * slope).square().sum(-1)
        violation = (f - f0).clamp_min(0)
        active = ~((residual <= tolerance) & (violation <= tolerance))
        if not active.any():
            break
        v = (size * along + f - f0).clamp_min(0) / square
        trial = x + size[:, None] * lift - v[:, None] * slope
        f_trial, slope_trial = ensemble.gradient(problem, trial)
        gradients += 1
        square_trial = slope_trial.square().sum(-1)
        weight = torch.where(violation > 0, (along * v / (square * violation)).clamp_min(1), 1) * penalty
        merit = 0.5 * square_trial.log() - weight * (f_trial - f0).clamp_min(0)
        model = acceptance / 2 * (lift * (trial - x)).sum(-1)
        needed = 0.5 * square.log() - (1 - acceptance) * weight * violation + model
        good = active & (merit >= needed) & f_trial.isfinite() & slope_trial.isfinite().all(-1)
        size = torch.where(active, torch.where(good, size / shrink, shrink * size), size)
        x, f = torch.where(good[:, None], trial, x), torch.where(good, f_trial, f)
        slope = torch.where(good[:, None], slope_trial, slope)
        accepted = accepted + good
        if good.any():
            q = torch.where(good[:, None], ensemble.hessian_vector(problem, x, slope), q)
            products += 1
        better = good & (f - f0 <= tolerance * f0.abs()) & (square_trial > best_square)
        best = torch.where(better[:, None], x, best)
        best_square = torch.where(better, square_trial, best_square)
    for _ in range(restorations):
        x = x - ((f - f0).clamp_min(0) / slope.square().sum(-1))[:, None] * slope
        f, slope = ensemble.gradient(problem, x)
        gradients += 1
    square = slope.square().sum(-1)
    better = (f - f0 <= tolerance * f0.abs()) & (square > best_square)
    best = torch.where(better[:, None], x, best)
    return LevelSetPoint(best, kkt_residual(problem, best), accepted, gradients, products)


def kkt_residual(problem, theta: Tensor) -> Tensor:
    """||(I - ĝĝᵀ) H g||² / ||g||⁴ (k,): zero where the gradient is an eigenvector of the Hessian."""
    _, g = ensemble.gradient(problem, theta)
    lift = ensemble.hessian_vector(problem, theta, g) / g.square().sum(-1, keepdim=True)
    unit = g / g.norm(dim=-1, keepdim=True)
    return (lift - (lift * unit).sum(-1, keepdim=True) * unit).square().sum(-1)


def quadratic_argmax(problem: Quadratic, theta: Tensor) -> Tensor:
    """The point of the level set of theta (k, P) with the greatest gradient: w* ± sqrt(2 (L - L*) / lambda) e.

    lambda, e: the top eigenpair of the Hessian; the sign is that of theta's side. It is the closest point of the level
    set to the minimum w*, and gradient descent stays on the line through both.
    """
    hessian = problem.hessian.to(theta)
    spectrum, vectors = torch.linalg.eigh(torch.diag(hessian) if hessian.dim() == 1 else hessian)
    centre = theta.new_zeros(problem.dim) if problem.minimum is None else problem.minimum.to(theta)
    top = vectors[:, -1]
    side = torch.where((theta - centre) @ top < 0, -1, 1).to(theta)
    return centre + (side * (2 * problem(theta) / spectrum[-1]).sqrt())[:, None] * top
