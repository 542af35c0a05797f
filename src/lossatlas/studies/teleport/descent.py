"""A descent that can be moved on the way: all members together, by torch's optimisers, each at its own rate."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lossatlas.stepper import Stepper
from lossatlas.teleport import Teleported, transported
from lossatlas.teleport.groups import Group


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
        self._start = lambda: Stepper(self.theta, optimizer, momentum)
        self.reset()

    def reset(self) -> None:
        """Forget the optimiser's state."""
        self.optimizer = self._start()

    def step(self, problem) -> Tensor:
        """One step on `problem`; the losses (k,) before it."""
        theta = self.theta.requires_grad_()
        loss = problem(theta)
        (gradient,) = torch.autograd.grad(loss.sum(), theta)
        with torch.no_grad():
            self.theta = theta = theta.detach()
            moved = torch.addcmul(theta, self.optimizer.step(gradient), self.rates)
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
        if transport:
            nothing = torch.zeros_like(self.theta)
            moments = (nothing if moment is None else moment for moment in self.optimizer.moments)
            self.optimizer.set_moments(*transported(group, self.theta, found, *moments))
        self.move(found.theta)


def members(seeds: Sequence[int], rates: Sequence[float]) -> tuple[list[int], Tensor]:
    """Index of the seed and rate (k,) of each member of an ensemble seeds x rates."""
    return [i for i in range(len(seeds)) for _ in rates], torch.tensor(list(rates) * len(seeds), dtype=torch.float64)
