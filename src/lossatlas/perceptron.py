"""Losses and gradients of an ensemble of plain multilayer perceptrons, by a backward pass written out.

The same numbers as `lossatlas.ensemble.gradient`, without a graph: activations are kept features first (k, C, n), a
chunk of members fits the cache, and members whose gradient is not wanted share the forward pass of the others.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from lossatlas import ensemble

# activations of one chunk: eight times a core's L2 cache are still faster than two chunks, whose products are smaller
CACHE_BYTES = 4 * 2**20
FORWARD = {nn.ReLU: torch.relu_, nn.Tanh: torch.tanh_, nn.Sigmoid: torch.sigmoid_}
# d loss / d input from (d loss / d output, output), in place of the former
BACKWARD = {
    nn.ReLU: lambda slope, y: torch.ops.aten.threshold_backward.grad_input(slope, y, 0, grad_input=slope),
    nn.Tanh: lambda slope, y: torch.ops.aten.tanh_backward.grad_input(slope, y, grad_input=slope),
    nn.Sigmoid: lambda slope, y: torch.ops.aten.sigmoid_backward.grad_input(slope, y, grad_input=slope),
}


@dataclass(frozen=True)
class Perceptron:
    """Linear layers widths[0] -> ... -> widths[-1], each with a bias, an activation between any two, cross-entropy."""

    widths: tuple[int, ...]
    activations: tuple[type[nn.Module], ...]

    @classmethod
    def of(cls, problem) -> "Perceptron | None":
        """The perceptron that a problem trains on shared rows with labels; None for any other problem."""
        module = getattr(problem, "module", None)
        if type(module) is not nn.Sequential or problem.own_rows or problem.loss != "cross_entropy":
            return None
        layers = [layer for layer in module if type(layer) is not nn.Flatten]
        linear, between = layers[::2], layers[1::2]
        if len(linear) != len(between) + 1 or ensemble.shares_parameters(module):
            return None
        fits = all(type(layer) is nn.Linear and layer.bias is not None for layer in linear)
        fits = fits and all(type(layer) in BACKWARD for layer in between)
        trained = sum(p.numel() for p in module.parameters()) == problem.dim
        if not (fits and trained) or problem.y.is_floating_point() or problem.y.dim() != 1:
            return None
        widths = (linear[0].in_features, *(layer.out_features for layer in linear))
        fits = problem.x[0].numel() == widths[0] and all(a.out_features == b.in_features for a, b in pairwise(linear))
        return cls(widths, tuple(map(type, between))) if fits else None

    def gradient(self, theta: Tensor, x: Tensor, y: Tensor, wanted: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Mean losses (k,) of the members theta (k, P), and the gradients (m, P) of those in `wanted`.

        x (n, ...) inputs and y (n,) labels, shared by all members.
        """
        k, x = len(theta), x.flatten(1)
        # the part of the last layer's gradient that does not depend on the outputs, features first
        targets = x.new_zeros(self.widths[-1], len(x)).scatter_(0, y[None], -1 / len(x))
        first, last, _ = wanted.indices(k)
        losses, gradients = theta.new_empty(k), theta.new_empty(last - first, theta.shape[1])
        for start, end in self._chunks(k, x):
            begin = max(first, start)
            into = gradients[begin - first : max(min(last, end) - first, 0)]
            with torch.no_grad():
                losses[start:end] = self._chunk(theta[start:end], x, targets, begin - start, into)
        return losses, gradients

    def _chunks(self, k: int, x: Tensor) -> list[tuple[int, int]]:
        """Ranges of members whose activations fit the cache; of one size, since a small rest would be slow."""
        budget = CACHE_BYTES if x.device.type == "cpu" else ensemble.DEVICE_BYTES
        parts = math.ceil(k * max(self.widths[1:]) * len(x) * x.element_size() / budget)
        size = math.ceil(k / parts)
        return [(start, min(start + size, k)) for start in range(0, k, size)]

    def _chunk(self, theta: Tensor, x: Tensor, targets: Tensor, begin: int, into: Tensor) -> Tensor:
        """Losses (k,); the gradients of the len(into) members from `begin` on are written there."""
        weights, biases = self._split(theta)
        y = torch.addmm(biases[0].reshape(-1, 1), weights[0].reshape(-1, self.widths[0]), x.mT)
        y = y.view(len(theta), -1, len(x))
        hidden = []
        for activation, weight, bias in zip(self.activations, weights[1:], biases[1:], strict=True):
            hidden.append(FORWARD[activation](y))
            y = torch.baddbmm(bias, weight, y)
        y = y.sub_(y.amax(1, keepdim=True))
        picked = (y * targets).sum((1, 2))
        total = y.exp_().sum(1, keepdim=True)
        if len(into):
            members = slice(begin, begin + len(into))
            slope = torch.addcdiv(targets, y[members], total[members], value=1 / len(x))
            self._backward(slope, [w[members] for w in weights], [h[members] for h in hidden], x, into)
        return picked + total.log_().mean((1, 2))

    def _backward(self, slope: Tensor, weights: list[Tensor], hidden: list[Tensor], x: Tensor, into: Tensor) -> None:
        """Gradients of all parameters, from that of the outputs (m, C, n)."""
        to_weights, to_biases = self._split(into)
        for i in range(len(hidden), 0, -1):
            to_biases[i].copy_(slope.sum(-1, keepdim=True))
            to_weights[i].copy_(slope @ hidden[i - 1].mT)
            slope = BACKWARD[self.activations[i - 1]](weights[i].mT @ slope, hidden[i - 1])
        to_biases[0].copy_(slope.sum(-1, keepdim=True))
        to_weights[0].copy_((slope.view(-1, len(x)) @ x).view(to_weights[0].shape))

    def _split(self, theta: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Weights (k, out, in) and biases (k, out, 1) of all layers, views of theta (k, P)."""
        sizes = [n for fan_in, fan_out in pairwise(self.widths) for n in (fan_in * fan_out, fan_out)]
        parts = theta.split(sizes, -1)
        weights = [part.view(len(theta), -1, n) for part, n in zip(parts[::2], self.widths[:-1], strict=True)]
        return weights, [part.unsqueeze(-1) for part in parts[1::2]]
