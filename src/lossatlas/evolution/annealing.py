"""Descent on a smoothed loss whose smoothing is annealed: start above the roughness, end well below it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lossatlas import evolution
from lossatlas.errors import LossAtlasError


@dataclass(frozen=True)
class Annealing:
    """sigma goes geometrically from `sigma_start` to `sigma_end`, the rate by a half cosine from `rate` to 0.

    population: losses evaluated in each step, in mirrored pairs. Equal sigmas make a fixed smoothing.
    """

    sigma_start: float
    sigma_end: float
    rate: float
    steps: int
    population: int

    def __post_init__(self):
        if min(self.sigma_start, self.sigma_end) <= 0:
            raise LossAtlasError("an annealing needs a positive sigma at both ends")
        evolution.directions(self.population, "antithetic")

    @property
    def evaluations(self) -> int:
        """Losses that the steps use, for a comparison at equal budgets."""
        return self.steps * self.population

    def sigma(self, step: int) -> float:
        share = step / max(1, self.steps - 1)
        return self.sigma_start * (self.sigma_end / self.sigma_start) ** share

    def rate_at(self, step: int) -> float:
        return 0.5 * self.rate * (1 + math.cos(math.pi * step / self.steps))


def anneal(problem, theta: Tensor, annealing: Annealing, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Descend from all starts theta (k, P) at once: losses (steps + 1, k) of the iterates, and the last ones (k, P).

    The iterates' own losses are not part of the budget. A start whose losses are no longer finite stays where it is.
    """
    losses = [problem(theta)]
    for step in range(annealing.steps):
        sigma = annealing.sigma(step)
        shape = (len(theta), annealing.population // 2, theta.shape[-1])
        z = torch.randn(shape, generator=generator, dtype=theta.dtype, device=theta.device)
        values = problem(evolution.points(theta, z, sigma, mirrored=True))
        gradient = evolution.estimate(z, values, sigma, mirrored=True)
        moved = theta - annealing.rate_at(step) * gradient
        theta = torch.where(moved.isfinite().all(-1, keepdim=True), moved, theta)
        losses.append(problem(theta))
    return torch.stack(losses), theta
