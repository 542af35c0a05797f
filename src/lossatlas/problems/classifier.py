"""A classifier under several losses that have the same minimisers where the labels can be fitted."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from lossatlas.errors import LossAtlasError
from lossatlas.problems.network import NetworkProblem, cross_entropy

SMOOTHING = 0.1


def _one_hot(y: Tensor, logits: Tensor) -> Tensor:
    return F.one_hot(y, logits.shape[-1]).to(logits.dtype)


def squared(logits: Tensor, y: Tensor) -> Tensor:
    """Squared error of the logits against the one-hot label, summed over classes: (k, b)."""
    return (logits - _one_hot(y, logits)).square().sum(-1)


def brier(logits: Tensor, y: Tensor) -> Tensor:
    """Squared error of the probabilities against the one-hot label (Brier 1950): (k, b)."""
    return (logits.softmax(-1) - _one_hot(y, logits)).square().sum(-1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Multi-class hinge of Crammer & Singer 2001: max(0, 1 + largest other logit − own logit), (k, b)."""
    own = _one_hot(y, logits)
    others = logits.masked_fill(own > 0, -float("inf")).amax(-1)
    return (1 + others - (own * logits).sum(-1)).clamp_min(0)


def smoothed(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy against labels mixed with a tenth of the uniform distribution: (k, b)."""
    return (1 - SMOOTHING) * cross_entropy(logits, y) - SMOOTHING * logits.log_softmax(-1).mean(-1)


LOSSES = {
    "cross_entropy": cross_entropy,
    "squared": squared,
    "brier": brier,
    "margin": margin,
    "smoothed": smoothed,
}


@dataclass(frozen=True, eq=False)
class ClassifierProblem:
    """Losses of a network on a data set: several, by name, of the same logits."""

    network: NetworkProblem
    losses: tuple[str, ...] = tuple(LOSSES)

    def __post_init__(self):
        for name in self.losses:
            if name not in LOSSES:
                raise LossAtlasError(f"loss {name!r} is unknown; use one of {', '.join(LOSSES)}")

    @property
    def dim(self) -> int:
        return self.network.dim

    @property
    def rows(self) -> int:
        return self.network.rows

    @property
    def x(self) -> Tensor:
        return self.network.x

    def outputs(self, theta: Tensor) -> tuple[Tensor]:
        """The logits (k, n, C), alone in a tuple."""
        return (self.network.logits(theta),)

    def goal_functions(self) -> list[Callable[[tuple[Tensor]], Tensor]]:
        """One function a loss: (logits,) -> mean loss (k,)."""
        return [self._goal(LOSSES[name]) for name in self.losses]

    def _goal(self, loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[tuple[Tensor]], Tensor]:
        y = self.network.y

        def mean(outputs: tuple[Tensor]) -> Tensor:
            labels = y if self.network.own_rows else y.expand(len(outputs[0]), *y.shape)
            return loss(outputs[0], labels).mean(-1)

        return mean

    def on(self, rows: Tensor) -> "ClassifierProblem":
        """The same network on some rows: (m,) for all members, or (k, m), a set for each member."""
        return replace(self, network=self.network.on(rows))
