"""A step of a band, written in the few vectors that it is made of.

Penalty, projection and springs make linear combinations of the pivots and their gradients, and to find them takes no
more than the inner products of these. So a step reads the parameters a few times, wherever they are, and all that is
delicate happens to plain numbers: for the few pivots of a band, arrays cost more than what they compute.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from lossatlas.elastic_band import geometry
from lossatlas.elastic_band.arms import Arm


def moving(arm: Arm) -> slice:
    """Those pivots of a path that move; the first never does."""
    return slice(1, None if arm.last_end == "moves" else -1)


def highest(losses: Sequence[float]) -> int:
    """The inner pivot with the highest loss."""
    return max(range(1, len(losses) - 1), key=losses.__getitem__)


@dataclass(frozen=True)
class Forces:
    """What acts on the moving pivots of a band.

    weight_decay: λ of the penalty ½ λ |p|². spring: the constant k of the springs; with infinity, which only a nudged
    band allows, there are none, and the pivots are put in their places after each step. climbing: the highest inner
    pivot climbs along the path.
    """

    arm: Arm
    weight_decay: float = 0.0
    spring: float = math.inf
    climbing: bool = False

    def constant(self, pivots: int) -> list[list[float]]:
        """The combinations (m, N + m) to which `act` adds: the gradients, the penalty's, and mechanical springs."""
        m, gaps = len(range(pivots)[moving(self.arm)]), pivots - 1
        rows = [[0.0] * (gaps + m + 1) for _ in range(m)]
        for i, row in enumerate(rows):
            row[gaps + i] = 1.0
            row[: i + 1] = [self.weight_decay] * (i + 1)  # p_{i+1} = p_0 + D_0 + ... + D_i
            row[-1] = self.weight_decay
            if self.arm.force == "mechanical" and i + 1 < gaps:
                row[i] += self.spring
                row[i + 1] -= self.spring
        return rows

    def act(
        self, into: np.ndarray, gram: list[list[float]], losses: list[float], shares: list[float], start: float
    ) -> list[float]:
        """Bring `into` (m, N + m), which began as `constant`, to minus the forces: combinations of a `Frame`'s rows.

        What lies along the tangent is taken out of the gradient (at a climbing pivot twice), and the force
        k (d_{i+1} - d_i) of finite springs is put in; lengths are measured by their shares of the length. So each
        inner pivot's weights of the two differences beside it are written. gram (N - 1, N + m): the inner products of
        the differences with the rows; start: |p_0|². Gives the losses (N,) of which the tangents are made, from those
        without the penalty.
        """
        decay, gaps = self.weight_decay, len(shares)
        squares = [gram[i][i] for i in range(gaps)]
        outward = [row[-1] + sum(row[:i]) for i, row in enumerate(gram)]  # p_i . D_i
        if decay and self.arm.decay == "both":
            changes = [2 * along + square for along, square in zip(outward, squares, strict=True)]
            norms = accumulate(changes, initial=start)  # |p_{i+1}|² = |p_i|² + 2 p_i . D_i + |D_i|²
            losses = [loss + 0.5 * decay * norm for loss, norm in zip(losses, norms, strict=True)]
        if self.arm.force == "mechanical":
            return losses
        lengths = [math.sqrt(square) for square in squares]
        neighbours = [gram[i][i + 1] for i in range(gaps - 1)]
        climber = highest(losses) if self.climbing else None
        for i, (a, b) in enumerate(geometry.tangent_coefficients(losses, lengths, neighbours, self.arm.tangent)):
            back = gram[i][gaps + i] + decay * (outward[i] + squares[i])
            forth = gram[i + 1][gaps + i] + decay * outward[i + 1]
            along = a * back + b * forth
            if i + 1 == climber:
                along *= 2
            elif self.spring < math.inf:
                along += self.spring * (lengths[i + 1] / shares[i + 1] - lengths[i] / shares[i]) / gaps
            into[i, i] = decay - along * a
            into[i, i + 1] = -along * b
        return losses


class Frame:
    """Some paths (b, N, P) of N pivots, m of which move, and all the tensors that their steps need.

    rows (b, N + m, P): the differences D_i = p_{i+1} - p_i, the gradients of the moving pivots, and the first pivot.
    Pivots and forces are sums of these, in which close pivots lose no digits.
    """

    def __init__(self, path: Tensor, forces: Forces):
        bands, pivots, dim = path.shape
        self.forces = forces
        self.path = path.detach().clone(memory_format=torch.contiguous_format)
        self.moving, self.inner = self.path[:, moving(forces.arm)], self.path[:, 1:-1]
        m = self.moving.shape[1]
        self.velocity = path.new_zeros(bands, m, dim)
        self.rows = path.new_empty(bands, pivots + m, dim)
        self.differences, self.gradient, first = self.rows.split([pivots - 1, m, 1], 1)
        first.copy_(self.path[:, :1])
        self.starts = first.double().square().sum((1, 2)).tolist()
        self.neighbours, self.columns = (self.path[:, 1:], self.path[:, :-1]), self.rows.mT
        self.gram, self.lengths = path.new_empty(bands, pivots - 1, pivots + m), path.new_empty(bands, pivots - 1)
        self.spaced = path.new_empty(bands, pivots - 2, dim)
        # written number by number as numpy's arrays, which know no shorter numbers
        on_cpu = {"dtype": torch.promote_types(path.dtype, torch.float32), "device": "cpu"}
        self.pull = torch.tensor(forces.constant(pivots), **on_cpu).repeat(bands, 1, 1)
        self.hats = torch.zeros(bands, pivots - 2, pivots, **on_cpu)

    def nudge(self, losses: Tensor, shares: Sequence[list[float]]) -> list[list[float]]:
        """Find the forces, from the losses (b, N) and gradients of the pivots; gives the losses of `Forces.act`."""
        torch.sub(*self.neighbours, out=self.differences)
        grams = torch.bmm(self.differences, self.columns, out=self.gram).tolist()
        bands = zip(self.pull.numpy(), grams, losses.tolist(), shares, self.starts, strict=True)
        return [self.forces.act(*band) for band in bands]

    def move(self, momentum: float, rates: Tensor) -> None:
        """A step of SGD with momentum along the forces, at the rates (b, 1, 1)."""
        torch.baddbmm(self.velocity, self.pull.to(self.rows), self.rows, beta=momentum, out=self.velocity)
        self.moving.addcmul_(self.velocity, rates, value=-1)

    def respace(self, shares: Sequence[list[float]], anchor: int | None = None) -> None:
        """One pass of `geometry.redistribute_`."""
        torch.sub(*self.neighbours, out=self.differences)
        lengths = torch.linalg.vector_norm(self.differences, dim=-1, out=self.lengths).tolist()
        self.hats.zero_()
        for into, *band in zip(self.hats.numpy(), lengths, shares, strict=True):
            for i, (gap, share) in enumerate(geometry.places(*band, anchor)[1:-1]):
                into[i, gap], into[i, gap + 1] = 1 - share, share
        torch.bmm(self.hats.to(self.path), self.path, out=self.spaced)
        self.inner.copy_(self.spaced)
