"""The GL teleports of the released codes, with what they do to the loss: kept as named arms, not for use.

Zhao et al. 2022 (arXiv 2205.10637): g = I + T with "inverse" I - T, weights replaced by their projection z' h⁺, and
the inputs h of a layer taken from a copy of the old weights. The later code of the same group (arXiv 2305.13404)
refreshes h after each pair.
"""

import torch
from torch import Tensor

from lossatlas import symmetry
from lossatlas.teleport import HESSIAN_VECTOR, Move, bent_gradient
from lossatlas.teleport.general_linear import GeneralLinear, invert, leaky, pinv
from lossatlas.teleport.groups import leaks

# One step differentiates the gradient's norm through pseudo-inverses; measured at about ten gradients on the MLP
# regression (the cost of the pseudo-inverse itself included).
STEP_COST = 10.0


def act(group: GeneralLinear, theta: Tensor, tangents: list[Tensor], refresh: bool) -> Tensor:
    """The released action for tangents T (k, n, n) of each pair; differentiable in T, also through h⁺."""
    params = dict(group.problem.layout.split(theta))
    slopes = leaks(group.problem, invertible=True)
    x = group.problem.x.flatten(2) if group.problem.own_rows else group.problem.x.flatten(1)[None]
    h = x.mT.to(theta).expand(len(theta), -1, -1)
    for (name, consumer), tangent, slope in zip(group.layers, tangents, slopes, strict=True):
        eye = torch.eye(tangent.shape[-1]).to(theta)
        weight = params[f"{name}.weight"]
        new = invert((eye + tangent) @ leaky(weight @ h, slope), slope)
        old = group.problem.layout.split(theta)[f"{name}.weight"] @ h
        params[f"{name}.weight"] = new @ pinv(h)
        params[f"{consumer}.weight"] = params[f"{consumer}.weight"] @ (eye - tangent)
        h = leaky(new if refresh else old, slope)
    return symmetry.joined(group.problem.layout, params)


def ascend(problem, theta: Tensor, group: GeneralLinear, rate: float, steps: int, refresh: bool) -> Move:
    """The released teleport: `steps` times T = rate d||grad L||²/dT at T = 0 and the action, h⁺ differentiated, too."""
    for _ in range(steps):
        tangents = [torch.zeros(len(theta), n, n, dtype=theta.dtype, requires_grad=True) for n in group.widths]
        moved = act(group, theta, tangents, refresh)
        (slope,) = torch.autograd.grad(problem(moved).sum(), moved, create_graph=True)
        slopes = torch.autograd.grad(slope.square().sum(), tangents)
        with torch.no_grad():
            theta = act(group, theta, [rate * s for s in slopes], refresh)
    return Move(theta, (), STEP_COST * steps)


def ascend_projected(problem, theta: Tensor, group: GeneralLinear, rate: float, steps: int, clip: float) -> Move:
    """The same teleport where the pseudo-inverse would cost too much: the direction by `GeneralLinear.direction`.

    At T = 0 its derivative is that of the projected action at projected weights, so only the first step differs. The
    norm of the derivative is clipped, as in the independent reproduction of the MNIST experiment.
    """
    nothing = [theta.new_zeros(len(theta), n, n) for n in group.widths]
    theta = act(group, theta, nothing, True)
    for _ in range(steps):
        _, q = bent_gradient(problem, theta)
        slopes = [2 * t for t in group.direction(theta, q)]
        norm = torch.stack([s.square().sum((-2, -1)) for s in slopes]).sum(0).sqrt()
        scale = rate * (clip / norm).clamp(max=1)
        theta = act(group, theta, [scale[:, None, None] * s for s in slopes], True)
    return Move(theta, (), (1 + HESSIAN_VECTOR) * steps + 1)
