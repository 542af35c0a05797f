"""Densities of the places where composites of n layers come to rest, streamed over layers: memory does not grow with n.

Three meanings: F flow attractors, V minima of the pasted values, P minima of the least-squares potential. Only what
has been added so far is kept, so layers are drawn, moved to the device and forgotten one after another.
"""

from collections.abc import Mapping
from math import nan
from typing import Any

import torch
from torch import Tensor

from lossatlas.critical_points import (
    potential,
    sliding_points,
    space_stall_points,
    stall_points,
    strict_minima,
    upward_crossings,
)
from lossatlas.progress import progress
from lossatlas.studies.perlin.landscapes import generator, layer

POWERS = (-2.0, -1.0, 0.5, 1.0, 2.0, 4.0)
FLOOR = 1e-12  # of a norm, so that negative powers stay finite
ARMS = ("sum", "weighted_sum", *(f"q={q:g}" for q in POWERS), "max")
LINEAR = ("sum", "weighted_sum")
DIMS = {"se1d": 1, "se3d": 3}  # of the other kinds: 2


class Composites:
    """Running composites of the layers added so far: directions, and the values of arms that paste some."""

    def __init__(self, powers: tuple[float, ...] = POWERS, weights: Tensor | None = None):
        self.powers, self.weights, self.n = powers, weights, 0
        self.value: dict[str, Tensor] = {}
        self._total: dict[str, Tensor] = {}
        self._norm: dict[str, Tensor] = {}  # sums of |g|^q, by which directions are divided

    def add(self, value: Tensor, slope: Tensor, dim: int) -> None:
        """One more layer: values (g, *grid), gradients (g, d, *grid)."""
        length = slope.square().sum(-dim - 1, keepdim=True).sqrt_()
        one = torch.ones((), dtype=slope.dtype, device=slope.device)
        self._accumulate("sum", slope, one, self._total)
        self._accumulate("sum", value, one, self.value)
        for q in self.powers:
            weight = length.clamp_min(FLOOR) ** q
            self._accumulate(f"q={q:g}", slope, weight, self._total)
            self._accumulate(f"q={q:g}", one, weight, self._norm)
        if self.weights is not None:  # an arbitrary linear combination
            weight = self.weights[self.n].view(-1, *(1,) * dim)
            self._accumulate("weighted_sum", slope, weight[:, None], self._total)
            self._accumulate("weighted_sum", value, weight, self.value)
        if self.n == 0:
            self.longest, self._total["max"], self.value["max"] = length, slope, value
        else:
            wins = length > self.longest
            self.longest = torch.maximum(length, self.longest)
            self._total["max"] = torch.where(wins, slope, self._total["max"])
            self.value["max"] = torch.where(wins.squeeze(-dim - 1), value, self.value["max"])
        self.n += 1

    def direction(self, arm: str) -> Tensor:
        """The direction (g, d, *grid) of an arm: sum_i w_i g_i with w_i = |g_i|^q / sum_j |g_j|^q; sums as sums."""
        total = self._total[arm]
        return total / self._norm[arm] if arm in self._norm else total

    def _accumulate(self, arm: str, part: Tensor, weight: Tensor, into: dict[str, Tensor]) -> None:
        if self.n == 0:
            into[arm] = part * weight
        else:
            into[arm].addcmul_(part, weight)


def measure(kind: str, settings: Mapping[str, Any], device: str = "cpu") -> list[dict[str, Any]]:
    """Rows (samples, landscape, n, arm, volume, flow, pasted, potential, rest, unbalanced) of one kind of field.

    flow, pasted, potential: counts F, V, P (pasted is missing where an arm pastes no values; flow for the largest
    gradient in space, where it jumps, and for q = -1 on the line, where signs cancel on whole intervals);
    rest: energy share of v that no potential has; unbalanced: |attractors + repellers - saddles|, in space the sum of
    degrees, 0 by Poincaré–Hopf. The arm `layers` (n the largest) counts the minima of every layer by itself, its volume
    that of all. The finer grid is counted on the first quarter of the landscapes, for extrapolation in the step.
    """
    dim = DIMS.get(kind, 2)
    side, sizes, rows = settings["side"], settings["team_sizes"], []
    for samples, count in zip(
        settings["samples"], (settings["landscapes"], -(-settings["landscapes"] // 4)), strict=True
    ):
        for landscape in progress(count, f"densities of {kind}, {samples} samples a unit"):
            weights = torch.empty(max(sizes), 1).exponential_(generator=generator("weights", kind, landscape))
            composites, alone = Composites(weights=weights.to(device)), 0
            for number in range(max(sizes)):
                value, slope = layer(kind, [landscape], number, side, device).dense(samples)
                composites.add(value, slope, dim)
                alone = alone + strict_minima(value, dim).sum()
                about = {"samples": samples, "landscape": landscape, "n": composites.n}
                if composites.n in sizes:
                    rows += [about | row for row in _counts(composites, dim, side)]
            one = {"arm": "layers", "volume": float(max(sizes) * side**dim), "flow": float(alone)}
            rows.append(about | one | {"pasted": float(alone), "potential": nan, "rest": 0.0, "unbalanced": 0})
    return rows


def _counts(composites: Composites, dim: int, side: int) -> list[dict[str, Any]]:
    rows = []
    for arm in ARMS:
        direction, value = composites.direction(arm), composites.value.get(arm)
        if dim == 1:
            flow, unbalanced = (nan if arm == "q=-1" else upward_crossings(direction[:, 0])), 0
        elif dim == 2:
            found = sliding_points(direction) if arm == "max" else stall_points(direction)
            flow, unbalanced = found.attractors, found.attractors + found.repellers - found.saddles
        else:
            found = space_stall_points(direction)
            flow, unbalanced = (nan if arm == "max" else found.attractors), found.degree
        # a sum is a gradient, and its potential the sum of the values
        smooth, rest = (value, 0.0) if arm in LINEAR else potential(direction, float(side))
        rows.append(
            {"arm": arm, "volume": float(side**dim), "flow": float(flow)}
            | {"pasted": nan if value is None else float(strict_minima(value, dim).sum())}
            | {"potential": float(strict_minima(smooth, dim).sum()), "rest": float(rest)}
            | {"unbalanced": abs(int(unbalanced))}
        )
    return rows
