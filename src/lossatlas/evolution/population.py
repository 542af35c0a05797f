"""Losses of a population around one point: as many members at a time as fit the cache, the same numbers for any chunk.

A multilayer perceptron has a way of its own. Its first layer is linear in the parameters and sees the same rows in
every member, so (W + sigma Z) x = W x + sigma Z x: W x is shared by the population and Z x by the two signs of a pair.
All else is written into buffers that are made once a population.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lossatlas import ensemble
from lossatlas.perceptron import Perceptron
from lossatlas.perceptron_pass import FORWARD

Noise = Callable[[int, int], Tensor]  # (first, last) -> the directions (last - first, P) of these members
CHUNK_BYTES = 2**21  # of a perceptron's largest activation, over the members of a chunk


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
    losses = theta.new_empty(1 + mirrored, last - first)
    for start in range(first, last, evaluate.size):
        z = noise(start, min(start + evaluate.size, last))
        losses[:, start - first : start - first + len(z)] = evaluate(z)
    return losses.flatten()


def _evaluator(problem, theta: Tensor, sigma: float | Tensor, mirrored: bool, directions: int, chunk: int | None):
    perceptron = Perceptron.of(problem) if theta.device.type == "cpu" else None
    if perceptron is None or problem.own_rows or any(eps is not None for eps in perceptron.eps):
        members = ensemble.chunk_size(problem, theta[None], chunk)
        return _AnyProblem(problem, theta, sigma, mirrored, _directions(members, mirrored, directions))
    members = chunk or CHUNK_BYTES // (max(perceptron.widths[1:]) * problem.rows * theta.element_size())
    return _Perceptrons(perceptron, problem, theta, sigma, mirrored, _directions(members, mirrored, directions))


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


class _Perceptrons:
    """The same for a multilayer perceptron on rows that all members share, without a graph."""

    def __init__(self, perceptron: Perceptron, problem, theta: Tensor, sigma, mirrored: bool, size: int):
        theta, widths = theta.detach(), perceptron.widths
        self.widths, self.size, self.signs = widths, size, 1 + mirrored
        self.activations = [FORWARD[activation] for activation in perceptron.activations]
        self.x = problem.x.flatten(1).mT
        self.labels = problem.y.view(1, 1, -1)
        self.weights = widths[0] * widths[1]  # of the first layer
        self.cut = self.weights + widths[1]  # parameters of the first layer
        self.rest, self.sigma = theta[self.cut :], sigma
        weight, bias = theta[: self.weights].view(widths[1], -1), theta[self.weights : self.cut]
        self.shared = torch.addmm(bias[:, None], weight, self.x)
        members, n = self.signs * size, self.x.shape[1]
        self.change = theta.new_empty(size, widths[1], n)
        self.layers = [theta.new_empty(members, width, n) for width in widths[1:]]
        self.members = theta.new_empty(members, len(self.rest))

    def __call__(self, z: Tensor) -> Tensor:
        k, per_coordinate = self.signs * len(z), isinstance(self.sigma, Tensor)
        head = z[:, : self.cut] * self.sigma[: self.cut] if per_coordinate else z[:, : self.cut]
        weight, bias = head[:, : self.weights].unflatten(1, (self.widths[1], -1)), head[:, self.weights :, None]
        change = torch.baddbmm(bias, weight, self.x.expand(len(z), -1, -1), out=self.change[: len(z)])
        y = self.layers[0][:k]
        _perturb(self.shared, change, 1.0 if per_coordinate else self.sigma, y)
        members, at = self.members[:k], 0
        _perturb(self.rest, z[:, self.cut :], self.sigma[self.cut :] if per_coordinate else self.sigma, members)
        for i, activation in enumerate(self.activations):
            fan_in, fan_out = self.widths[i + 1 : i + 3]
            weight = members[:, at : at + fan_in * fan_out].unflatten(1, (fan_out, fan_in))
            at += fan_in * fan_out
            bias = members[:, at : at + fan_out, None]
            at += fan_out
            y = torch.baddbmm(bias, weight, activation(y), out=self.layers[i + 1][:k])
        y.sub_(y.amax(1, keepdim=True))
        picked = y.gather(1, self.labels.expand(k, 1, -1))[:, 0]
        return y.exp_().sum(1).log_().sub_(picked).mean(-1).view(self.signs, -1)


def _perturb(centre: Tensor, z: Tensor, sigma: float | Tensor, out: Tensor) -> None:
    """centre + sigma z into the first rows of `out`; centre - sigma z into the others, if there are any."""
    if isinstance(sigma, Tensor):
        z, sigma = z * sigma, 1.0
    torch.add(centre, z, alpha=sigma, out=out[: len(z)])
    if len(out) > len(z):
        torch.sub(centre, z, alpha=sigma, out=out[len(z) :])
