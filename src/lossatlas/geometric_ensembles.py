"""Fast geometric ensembles: networks collected from one training while its learning rate goes up and down.

Garipov et al. 2018 (arXiv 1802.10026) and the released code: after 80 % of an ordinary training the rate falls and
rises linearly in short cycles; a network is kept at the middle of each, where the rate is lowest; the predictions of
all are averaged. Such an ensemble costs as much as one network.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lossatlas.errors import LossAtlasError
from lossatlas.mode_curves import released_rate
from lossatlas.problems.network import NetworkProblem
from lossatlas.training import Recipe


@dataclass(frozen=True)
class Released(Recipe):
    """The ordinary training of the released code."""

    def rate_factor(self, step: int) -> float:
        """`released_rate` of the step."""
        return released_rate(step / self.steps)


@dataclass(frozen=True)
class Geometric(Released):
    """The same until the step `start`, then cycles of `cycle` steps between `high` and `low` times the first rate."""

    start: int = 0
    cycle: int = 2
    high: float = 0.5
    low: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        if self.cycle < 2 or not 0 <= self.start <= self.steps - self.cycle // 2:
            raise LossAtlasError(
                f"cycles of {self.cycle} steps from step {self.start} on collect nothing in {self.steps} steps: "
                "take a shorter cycle or a longer training"
            )

    def rate_factor(self, step: int) -> float:
        """From `high` to `low` in the first half of a cycle and back in the second; the middle step is at `low`."""
        if step < self.start:
            return super().rate_factor(step)
        place = ((step - self.start) % self.cycle + 1) / self.cycle
        return self.low + (self.high - self.low) * abs(1 - 2 * place)

    @property
    def collected(self) -> list[int]:
        """The numbers of steps after which a network is kept: at the middle of each cycle."""
        return list(range(self.start + self.cycle // 2, self.steps + 1, self.cycle))


def predictions(problem: NetworkProblem, members: Tensor) -> Tensor:
    """Probabilities (m, n, C) of the classes, from each of the networks (m, P)."""
    with torch.no_grad():
        return torch.cat([problem.logits(part).softmax(-1) for part in members.split(8)])


def scores(predicted: Tensor, y: Tensor) -> tuple[float, float]:
    """Share of right answers, and mean loss -log p of the label, of the mean of predictions (m, n, C) on y (n,)."""
    mean = predicted.double().mean(0)
    own = mean.gather(1, y[:, None])[:, 0]
    return float((mean.argmax(1) == y).double().mean()), float(-own.clamp_min(1e-12).log().mean())
