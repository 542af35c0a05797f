"""What became of a trajectory: success, or one of the ways to fail that the planeswalker README lists.

A descent is watched over its last steps (the window), in which a run that goes somewhere has time to do so. Positions
are unwrapped: on a torus a trajectory that goes round has moved.
"""

from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from lossatlas.errors import LossAtlasError

STILL = 0.1  # cells: a run that stays in a box of this side over the window is stuck
RETURN = 0.25  # a run whose net displacement is below this share of its box's diagonal has come back
BALANCE = 0.45  # share of all pull that one member holds; at rest it cannot exceed ½


class Outcome(IntEnum):
    SUCCESS = 0
    STUCK = 1
    CYCLING = 2
    WANDERING = 3


class Window(NamedTuple):
    """What is kept of the last steps of trajectories (...): first and last position (..., d), box, path length."""

    first: Tensor
    last: Tensor
    low: Tensor
    high: Tensor
    path: Tensor

    @classmethod
    def opened(cls, position: Tensor) -> "Window":
        return cls(position, position, position, position, torch.zeros_like(position[..., 0]))

    def extended(self, position: Tensor) -> "Window":
        """The window with one more position (..., d)."""
        length = (position - self.last).norm(dim=-1)
        low, high = torch.minimum(self.low, position), torch.maximum(self.high, position)
        return Window(self.first, position, low, high, self.path + length)


def classify(window: Window, success: Tensor, still: float = STILL) -> Tensor:
    """Outcome (...) of each trajectory, as int8; `success` (...) is whether it ended at the goal.

    STUCK: it stayed in a box of side `still` (chatter about a sliding equilibrium included). CYCLING: it left that box
    and came back, net displacement below a quarter of the box's diagonal, after a path at least twice that diagonal:
    oscillation between places. WANDERING: it went elsewhere, neither at rest nor back.
    """
    box = window.high - window.low
    diagonal = box.norm(dim=-1)
    back = ((window.last - window.first).norm(dim=-1) < RETURN * diagonal) & (window.path > 2 * diagonal)
    moving = torch.where(back, Outcome.CYCLING, Outcome.WANDERING)
    outcome = torch.where(box.amax(-1) <= still, Outcome.STUCK, moving)
    return torch.where(success, Outcome.SUCCESS, outcome).to(torch.int8)


def dominant_share(weights: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """The largest w_i |g_i| / sum_j w_j |g_j| and which member i it is: weights (..., n), gradients (..., n, d)."""
    pull = weights * gradients.norm(dim=-1)
    share, member = (pull / pull.sum(-1, keepdim=True).clamp_min(1e-30)).max(-1)
    return share, member


def obnoxious(weights: Tensor, gradients: Tensor, to_goal: Tensor) -> Tensor:
    """Whether one member holds the team back (...): nearly half of all pull, which is the most at rest, and it pulls
    away.

    weights (..., n), gradients (..., n, d), to_goal (..., d) the vector from here to the goal. The member's descent
    direction -g_i points away from the goal. For n <= 2 it says nothing, since of two members at rest each has half:
    False.
    """
    share, member = dominant_share(weights, gradients)
    own = gradients.gather(-2, member[..., None, None].expand(*member.shape, 1, gradients.shape[-1]))[..., 0, :]
    return (share >= BALANCE) & ((own * to_goal).sum(-1) > 0) & (weights.shape[-1] > 2)


def displacement_exponent(positions: Tensor) -> Tensor:
    """Exponent of the mean squared displacement of s runs against time, positions (T, ..., s, d) equally spaced: (...).

    The least-squares slope of log mean |x(t) - x(0)|² on log t: 1 for a random walk, 2 for a straight march, near 0 for
    runs at rest. Raises `LossAtlasError` for fewer than three positions.
    """
    if len(positions) < 3:
        raise LossAtlasError(f"{len(positions)} positions have no exponent: give at least 3")
    square = (positions[1:] - positions[0]).double().square().sum(-1).mean(-1).clamp_min(1e-300).log()
    time = torch.arange(1, len(positions), dtype=torch.float64, device=positions.device).log()
    centred = time - time.mean()
    return torch.tensordot(centred, square, 1) / centred.square().sum()


def goal_correlation(losses: Tensor, distances: Tensor) -> Tensor:
    """Correlation of the loss with the distance to the goal over places (..., B): near 0 in a desert. (...)"""
    a, b = losses - losses.mean(-1, keepdim=True), distances - distances.mean(-1, keepdim=True)
    scale = (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    return (a * b).sum(-1) / scale.clamp_min(1e-300)
