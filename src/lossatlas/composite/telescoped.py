"""The value of a composite whose weights change: with the effect of the re-weighting, without it, and how much it is.

The direction is Σ w_i ∇L_i in all readings but the undetached one; they differ in the value that line searches,
schedules and evolutionary optimisers read. ω = Σ w_i dL_i is not closed, so that value depends on the path.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Values(NamedTuple):
    """By step (T, ...): the weighted sum C_t, the telescoped value S_t in three quadratures, and R_t.

    S_0 = C_0; S_t = S_{t−1} + Σ w (L_{i,t} − L_{i,t−1}) with w of the end of the step (`right`: the reading of the
    README), of its start (`left`) or their mean (`middle`); R_t = Σ_i L_{i,t−1} (w_{i,t} − w_{i,t−1}), so that
    C_t − ΣR = S_t (right) exactly: what a plain log of the weighted loss owes to the weights.
    """

    weighted: Tensor
    right: Tensor
    left: Tensor
    middle: Tensor
    reweighting: Tensor


def values(losses: Tensor, weights: Tensor) -> Values:
    """The values along a history: losses and weights (T, ..., n)."""
    steps = losses.diff(dim=0)
    weighted = (weights * losses).sum(-1)

    def accumulate(increments: Tensor) -> Tensor:
        return weighted[:1] + torch.cat([torch.zeros_like(weighted[:1]), increments.sum(-1).cumsum(0)])

    right, left = accumulate(weights[1:] * steps), accumulate(weights[:-1] * steps)
    reweighting = torch.cat([torch.zeros_like(weighted[:1]), (losses[:-1] * weights.diff(dim=0)).sum(-1)])
    return Values(weighted, right, left, (right + left) / 2, reweighting)


class Telescope:
    """S_t step by step, as a loss to call `backward` on: its gradient is Σ w_i ∇L_i, bit for bit that of Σ w_i L_i."""

    def __init__(self):
        self.reset()

    def __call__(self, losses: Tensor, weights: Tensor) -> Tensor:
        """losses (n,) with a graph, weights (n,) -> S_t; w of the end of the step."""
        weights = weights.detach()
        if self.before is None:
            value = (weights * losses).sum()
        else:
            value = self.value + (weights * (losses - self.before)).sum()
        self.before, self.value = losses.detach(), value.detach()
        return value

    def reset(self) -> None:
        """Forget the value and the last losses."""
        self.before: Tensor | None = None
        self.value: Tensor | None = None


def undetached(losses: Callable[[Tensor], Sequence[Tensor]], theta: Tensor, q: float) -> tuple[Tensor, Tensor]:
    """Reading C: value C = Σ w_i L_i with w_i = ‖g_i‖^q / Σ‖g_j‖^q and its whole gradient Σ w_i g_i + Σ L_i ∇w_i.

    losses(theta (P,)) -> n scalars, twice differentiable. The second term needs n Hessian-vector products; it changes
    when a constant is added to a loss.
    """
    theta = theta.detach().requires_grad_()
    parts = list(losses(theta))
    slopes = [torch.autograd.grad(part, theta, create_graph=True)[0] for part in parts]
    powers = torch.stack([slope.norm() for slope in slopes]).pow(q)
    value = (powers / powers.sum() * torch.stack(parts)).sum()
    return value.detach(), torch.autograd.grad(value, theta)[0]
