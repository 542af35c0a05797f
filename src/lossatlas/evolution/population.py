"""Losses of a population around one point: as many members at a time as fit the cache, the same numbers for any chunk.

A perceptron with hidden layers has a way of its own. Its first layer is linear in the parameters and sees the same rows
in every member, so (W + sigma Z) x = W x + sigma Z x: W x is shared by the population, and the outputs of a pair add up
to 2 W x, so that one product is enough for both. All else is written into buffers that are made once a population.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lossatlas import ensemble
from lossatlas.perceptron import Perceptron
from lossatlas.perceptron_pass import FORWARD, Layer, layers

Noise = Callable[[int, int], Tensor]  # (first, last) -> the directions (last - first, P) of these members
CHUNK_BYTES = 5 * 2**18  # of a perceptron's largest activation, over the members of a chunk
CHUNKS = 8  # of a perceptron whose losses are found together
KEPT_BYTES = 64 * 2**20  # directions of a generation up to this size stay in memory, larger ones are drawn twice


def population_losses(
    problem,
    theta: Tensor,
    noise: Noise,
    members: tuple[int, int],
    sigma: float | Tensor,
    mirrored: bool,
    chunk: int | None = None,
) -> Tensor:
    """Losses of the points along the directions first ... last - 1, all of one sign before the other if mirrored."""
    first, last = members
    evaluate = _evaluator(problem, theta, sigma, mirrored, last - first, chunk)
    starts = range(first, last, evaluate.size)
    return torch.cat([evaluate(noise(start, min(start + evaluate.size, last))) for start in starts], 1).flatten()


def _evaluator(problem, theta: Tensor, sigma: float | Tensor, mirrored: bool, directions: int, chunk: int | None):
    perceptron = Perceptron.of(problem) if theta.device.type == "cpu" else None
    special = perceptron and perceptron.activations and not problem.own_rows
    if not special or any(eps is not None for eps in perceptron.eps):
        members = ensemble.chunk_size(problem, theta[None], chunk)
        return _AnyProblem(problem, theta, sigma, mirrored, _directions(members, mirrored, directions))
    members = chunk or CHUNK_BYTES // (max(perceptron.widths[1:]) * problem.rows * theta.element_size())
    piece = _directions(members, mirrored, directions)
    room = KEPT_BYTES // (theta.numel() * theta.element_size())
    size = min(directions, max(piece, min(CHUNKS * piece, room)))
    return _Perceptrons(perceptron, problem, theta, sigma, mirrored, size, math.ceil(size / math.ceil(size / piece)))


def _directions(members: int, mirrored: bool, most: int) -> int:
    return max(1, min(most, members // (1 + mirrored)))


class _AnyProblem:
    """Losses (1 or 2, m) along directions z (m, P), m up to `size`."""

    def __init__(self, problem, theta: Tensor, sigma: float | Tensor, mirrored: bool, size: int):
        self.problem, self.theta, self.sigma, self.size = problem, theta, sigma, size
        self.signs = 1 + mirrored
        self.members = theta.new_empty(self.signs * size, theta.numel())

    def __call__(self, z: Tensor) -> Tensor:
        members = self.members[: self.signs * len(z)]
        _perturb(self.theta, z, self.sigma, members)
        return ensemble.loss(self.problem, members, chunk=len(self.members)).view(self.signs, -1)


class _Views(NamedTuple):
    """What some directions use of the buffers, and the rows for them."""

    x: Tensor  # (directions, features, n)
    first: Tensor  # outputs (k, C, n) of the first layer
    signs: tuple[Tensor, ...]  # the same, of each sign
    members: Tensor  # parameters (k, ...) of all other layers
    layers: list[Layer]  # the same, layer by layer
    hidden: list[Tensor]  # their outputs but the last


class _Perceptrons:
    """The same for a multilayer perceptron on rows that all members share, without a graph.

    `piece` directions at a time go through the layers, so that each layer finds in the cache what the last one wrote.
    A small operation takes as long to start as to run, so views are made once and losses found for `size` at a time.
    """

    def __init__(self, perceptron: Perceptron, problem, theta: Tensor, sigma, mirrored: bool, size: int, piece: int):
        theta, widths = theta.detach(), perceptron.widths
        self.widths, self.eps, self.size, self.piece, self.signs = widths, perceptron.eps, size, piece, 1 + mirrored
        self.activations = [FORWARD[activation] for activation in perceptron.activations]
        self.scale, self.sigma = (sigma, 1.0) if isinstance(sigma, Tensor) else (None, sigma)
        self.x = problem.x.flatten(1).mT
        # weight and bias of the first layer, then all other parameters
        self.parts = widths[0] * widths[1], widths[1], len(theta) - (widths[0] + 1) * widths[1]
        weight, bias, self.rest = theta.split(self.parts)
        self.shared = torch.addmm(bias[:, None], weight.view(widths[1], -1), self.x)
        self.twice = 2 * self.shared
        n = self.x.shape[1]
        self.hidden = [theta.new_empty(self.signs * piece, width, n) for width in widths[1:-1]]
        self.members = theta.new_empty(self.signs * piece, len(self.rest))
        self.logits = theta.new_empty(self.signs * size, widths[-1], n)
        self.labels = problem.y.expand(len(self.logits), 1, -1)
        self.views: dict[int, _Views] = {}

    def __call__(self, z: Tensor) -> Tensor:
        if self.scale is not None:
            z = z * self.scale
        k = self.signs * len(z)
        weight, bias, rest = z.split(self.parts, 1)
        directions = weight.view(len(z), -1, self.widths[0]), bias.unsqueeze(2), rest
        pieces = [part.split(self.piece) for part in directions]
        for *piece, logits in zip(*pieces, self.logits[:k].split(self.signs * self.piece), strict=True):
            self._evaluate(*piece, logits)
        picked = torch.log_softmax(self.logits[:k], 1).gather(1, self.labels[:k])
        by_piece = picked.mean((1, 2)).neg().split(self.signs * self.piece)
        return torch.cat([losses.view(self.signs, -1) for losses in by_piece], 1)

    def _evaluate(self, weight: Tensor, bias: Tensor, rest: Tensor, logits: Tensor) -> None:
        """Write the logits along directions that are given as those of the first layer and of the rest."""
        k = len(rest)
        if k not in self.views:
            self.views[k] = self._views(k)
        views = self.views[k]
        plus, *minus = views.signs
        torch.add(self.shared, bias, alpha=self.sigma, out=plus)
        plus.baddbmm_(weight, views.x, alpha=self.sigma)
        if minus:
            torch.sub(self.twice, plus, out=minus[0])
        _perturb(self.rest, rest, self.sigma, views.members)
        y = views.first
        for activation, layer, out in zip(self.activations, views.layers, (*views.hidden, logits), strict=True):
            y = torch.baddbmm(layer.bias, layer.weight, activation(y), out=out)

    def _views(self, directions: int) -> _Views:
        k = self.signs * directions
        members, (first, *hidden) = self.members[:k], [y[:k] for y in self.hidden]
        x = self.x.expand(directions, -1, -1)
        return _Views(
            x, first, first.split(directions), members, layers(members, self.widths[1:], self.eps[1:]), hidden
        )


def _perturb(centre: Tensor, z: Tensor, sigma: float | Tensor, out: Tensor) -> None:
    """centre + sigma z into the first rows of `out`; centre - sigma z into the others, if there are any."""
    if isinstance(sigma, Tensor):
        z, sigma = z * sigma, 1.0
    torch.add(centre, z, alpha=sigma, out=out[: len(z)])
    if len(out) > len(z):
        torch.sub(centre, z, alpha=sigma, out=out[len(z) :])
