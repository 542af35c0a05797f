"""A descent that can be moved on the way: all members together, by torch's optimisers, each at its own rate."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lossatlas.groups import Group
from lossatlas.teleport import Teleported, transported
from lossatlas.training import OPTIMIZERS

FIRST, SECOND = ("momentum_buffer", "exp_avg"), ("exp_avg_sq", "square_avg", "sum")


class Descent:
    """theta (k, P) and the optimiser's state; a member whose loss or step is not finite stays and is recorded.

    As in `lossatlas.training`, the optimiser moves a displacement from zero with rate 1, and each member goes its own
    rate (k,), or one a coordinate (k, P), times that.
    """

    def __init__(self, theta: Tensor, optimizer: str, rates: Tensor, momentum: float = 0.9):
        self.theta = theta.detach().clone()
        self.rates = rates.to(theta) if rates.dim() == 2 else rates.to(theta)[:, None]
        self.diverged_at = torch.full((len(theta),), -1)
        self.steps = 0
        self._make = lambda p: OPTIMIZERS[optimizer]([p], momentum)
        self.reset()

    def reset(self) -> None:
        """Forget the optimiser's state."""
        self.displacement = torch.zeros_like(self.theta, requires_grad=True)
        self.optimizer = self._make(self.displacement)

    def step(self, problem) -> Tensor:
        """One step on `problem`; the losses (k,) before it."""
        theta = self.theta.requires_grad_()
        loss = problem(theta)
        (gradient,) = torch.autograd.grad(loss.sum(), theta)
        with torch.no_grad():
            self.theta = theta = theta.detach()
            self.displacement.grad = gradient
            self.displacement.zero_()
            self.optimizer.step()
            moved = torch.addcmul(theta, self.displacement, self.rates)
            finite = (loss + moved.sum(-1)).isfinite()
            self.diverged_at.masked_fill_((self.diverged_at < 0) & ~finite.cpu(), self.steps)
            self.theta = torch.where((self.diverged_at < 0).to(theta.device)[:, None], moved, theta)
            self.steps += 1
        return loss.detach()

    def move(self, theta: Tensor) -> None:
        """Go to theta; the state stays as it is."""
        self.theta = theta.detach().clone()

    def teleport(self, group: Group | None, found: Teleported, transport: bool = False) -> None:
        """Go where a teleport leads, with the optimiser's moments taken along or left as they are."""
        state = self.optimizer.state[self.displacement]
        if transport:
            nothing = torch.zeros_like(self.theta)
            first = next((name for name in FIRST if state.get(name) is not None), None)
            second = next((name for name in SECOND if state.get(name) is not None), None)
            moments = (nothing if name is None else state[name] for name in (first, second))
            for name, value in zip((first, second), transported(group, self.theta, found, *moments), strict=True):
                if name is not None:
                    state[name] = value.clone()
        self.move(found.theta)


def members(seeds: Sequence[int], rates: Sequence[float]) -> tuple[list[int], Tensor]:
    """Index of the seed and rate (k,) of each member of an ensemble seeds x rates."""
    return [i for i in range(len(seeds)) for _ in rates], torch.tensor(list(rates) * len(seeds), dtype=torch.float64)
