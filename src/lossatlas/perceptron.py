"""Losses and gradients of an ensemble of multilayer perceptrons, by a backward pass written out.

The same numbers as `lossatlas.ensemble.gradient`, without a graph: activations are kept features first (k, C, n) in
buffers that are made once, a chunk of members fits the cache, and members whose gradient is not wanted share the
forward pass of the others.
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lossatlas import ensemble
from lossatlas.ensemble import Norm

# activations of one chunk: twice a core's L2 cache is still faster than two chunks, whose products are smaller
CACHE_BYTES = 4 * 2**20
FORWARD = {nn.ReLU: torch.relu_, nn.Tanh: torch.tanh_, nn.Sigmoid: torch.sigmoid_}
# d loss / d input from (d loss / d output, output), in place of the former
BACKWARD = {
    nn.ReLU: lambda slope, y: torch.ops.aten.threshold_backward.grad_input(slope, y, 0, grad_input=slope),
    nn.Tanh: lambda slope, y: torch.ops.aten.tanh_backward.grad_input(slope, y, grad_input=slope),
    nn.Sigmoid: lambda slope, y: torch.ops.aten.sigmoid_backward.grad_input(slope, y, grad_input=slope),
}


def _members(part: Tensor, members: slice, groups: int) -> Tensor:
    """Some members of each of the groups that follow one another in part (g k, ...)."""
    return part[members] if groups == 1 else part.unflatten(0, (groups, -1))[:, members].flatten(0, 1)


class Layer(NamedTuple):
    """Parameters of a linear layer and of the normalisation behind it, if any: views of an ensemble theta (k, P).

    weight (k, out, in); bias, scale and shift (k, out, 1).
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor | None = None
    shift: Tensor | None = None

    def of(self, members: slice, groups: int) -> "Layer":
        """Those members of each group."""
        return Layer(*(part if part is None else _members(part, members, groups) for part in self))


class Hidden(NamedTuple):
    """A hidden layer's activations (k, out, n); where it is normalised, also them before scale and shift, and
    1 / deviation (k, out, 1)."""

    y: Tensor
    standard: Tensor | None = None
    inverse: Tensor | None = None

    def of(self, members: slice, groups: int) -> "Hidden":
        """Those members of each group."""
        return Hidden(*(part if part is None else _members(part, members, groups) for part in self))


@dataclass(frozen=True)
class Perceptron:
    """Linear layers widths[0] -> ... -> widths[-1], each with a bias; an activation between any two; cross-entropy.

    eps: of the BatchNorm before each activation, which uses the statistics of the rows at hand; None: there is none.
    A loop should keep its perceptron, since the buffers come with it.
    """

    widths: tuple[int, ...]
    activations: tuple[type[nn.Module], ...]
    eps: tuple[float | None, ...]
    buffers: dict[tuple, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, problem) -> "Perceptron | None":
        """The perceptron that a problem trains on labels; None for any other problem."""
        module = getattr(problem, "module", None)
        if type(module) is not nn.Sequential or problem.loss != "cross_entropy" or problem.moments is not None:
            return None
        if problem.y.is_floating_point() or problem.y.dim() != 1 + problem.own_rows:
            return None
        linear, norms, activations = [], [], []
        rest = [layer for layer in module if type(layer) is not nn.Flatten]
        while rest:
            linear.append(rest.pop(0))
            norms.append(rest.pop(0) if rest and type(rest[0]) is Norm else None)
            activations.append(type(rest.pop(0)) if rest else None)
        if not all(type(layer) is nn.Linear and layer.bias is not None for layer in linear):
            return None
        fits = activations[-1] is None and norms[-1] is None and all(a in BACKWARD for a in activations[:-1])
        fits = fits and all(n is None or n.weight is not None for n in norms)
        widths = (linear[0].in_features, *(layer.out_features for layer in linear))
        fits = fits and math.prod(problem.x.shape[1 + problem.own_rows :]) == widths[0]
        fits = fits and all(a.out_features == b.in_features for a, b in pairwise(linear))
        # the problem has fewer coordinates where parameters are shared or not trained
        sizes = [(a + (1 if n is None else 3)) * b for (a, b), n in zip(pairwise(widths), norms, strict=True)]
        fits = fits and sum(sizes) == problem.dim
        return cls(widths, tuple(activations[:-1]), tuple(n and n.eps for n in norms[:-1])) if fits else None

    def gradient(self, theta: Tensor, x: Tensor, y: Tensor, wanted: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Mean losses (k,) of the members theta (k, P), and the gradients (m, P) of those in `wanted`.

        x (n, ...) inputs and y (n,) labels, shared by all members; or (k, n, ...) and (k, n), each member's own. Groups
        of members, theta (g, k, P), share rows within a group, x (g, n, ...) and y (g, n), and each has its `wanted`.
        """
        if theta.dim() == 2 and y.dim() == 2:
            losses, gradients = self.gradient(theta[:, None], x, y)
            return losses[:, 0], gradients[wanted, 0]
        if theta.dim() == 2:
            losses, gradients = self.gradient(theta[None], x[None], y[None], wanted)
            return losses[0], gradients[0]
        g, k, n = *theta.shape[:2], y.shape[1]
        x = x.flatten(2)
        # the part of the last layer's gradient that does not depend on the outputs, features first
        targets = x.new_zeros(g, self.widths[-1], n).scatter_(1, y[:, None], -1 / n)
        first, last, _ = wanted.indices(k)
        losses, gradients = theta.new_empty(g, k), theta.new_empty(g, last - first, theta.shape[2])
        for groups, start, end in self._chunks(g, k, n * theta.element_size(), theta.device.type):
            begin = max(first, start)
            into = gradients[groups, begin - first : max(min(last, end) - first, 0)]
            with torch.no_grad():
                part = self._chunk(theta[groups, start:end], x[groups], targets[groups], begin - start, into)
            losses[groups, start:end] = part
        return losses, gradients

    def _chunks(self, g: int, k: int, unit_bytes: int, device: str) -> list[tuple[slice, int, int]]:
        """Groups and ranges of their members whose activations fit the cache, several groups only where all of each do.

        Of one size, since a small rest would be slow.
        """
        budget = CACHE_BYTES if device == "cpu" else ensemble.DEVICE_BYTES
        member = max(self.widths[1:]) * unit_bytes
        size = math.ceil(k / math.ceil(k * member / budget))
        some = max(1, budget // (k * member)) if size == k else 1
        some = math.ceil(g / math.ceil(g / some))
        return [
            (slice(i, i + some), start, min(start + size, k)) for i in range(0, g, some) for start in range(0, k, size)
        ]

    def _chunk(self, theta: Tensor, x: Tensor, targets: Tensor, begin: int, into: Tensor) -> Tensor:
        """Losses (g, k); the gradients of the into.shape[1] members of each group from `begin` on are written there."""
        g, k, n = *theta.shape[:2], x.shape[1]
        layers = self._split(theta.flatten(0, 1))
        weight, bias = layers[0].weight.reshape(g, -1, self.widths[0]), layers[0].bias.reshape(g, -1, 1)
        y = self._buffer(theta, 1, g, k * self.widths[1], n)
        if g == 1:
            torch.addmm(bias[0], weight[0], x[0].mT, out=y[0])
        else:
            torch.baddbmm(bias, weight, x.mT, out=y)
        y = y.view(g * k, -1, n)
        hidden = []
        for i, (activation, eps, layer) in enumerate(zip(self.activations, self.eps, layers, strict=False), 1):
            hidden.append(self._hidden(y, i, activation, eps, layer))
            out, after = self._buffer(theta, i + 1, g * k, self.widths[i + 1], n), layers[i]
            y = torch.baddbmm(after.bias, after.weight, hidden[-1].y, out=out)
        y = y.sub_(y.amax(1, keepdim=True)).view(g, k, -1, n)
        picked = torch.mul(y, targets[:, None], out=self._buffer(theta, "spare", g, k, self.widths[-1], n)).sum((2, 3))
        total = y.exp_().sum(2, keepdim=True)
        if m := into.shape[1]:
            members = slice(begin, begin + m)
            slope = self._slope(theta, len(layers), g * m, n)
            torch.addcdiv(targets[:, None], y[:, members], total[:, members], value=1 / n, out=slope.view(g, m, -1, n))
            own = [layer.of(members, g) for layer in layers], [layer.of(members, g) for layer in hidden]
            whole = into if into.is_contiguous() else torch.empty_like(into, memory_format=torch.contiguous_format)
            self._backward(slope, *own, x, whole.view(-1, into.shape[2]))
            if whole is not into:
                into.copy_(whole)
        return picked + total.log_().mean((2, 3))

    def _buffer(self, like: Tensor, name: str | int, *shape: int) -> Tensor:
        """A tensor of this shape that is overwritten when its name is asked for again."""
        key = (name, shape, like.dtype, like.device)
        if key not in self.buffers:
            self.buffers[key] = like.new_empty(shape)
        return self.buffers[key]

    def _slope(self, like: Tensor, layer: int, members: int, n: int) -> Tensor:
        """The buffer (members, C, n) of the gradient of a layer's output; layers share two by turns."""
        flat = self._buffer(like, f"slope {layer % 2}", members * max(self.widths[1:]) * n)
        return flat[: members * self.widths[layer] * n].view(members, self.widths[layer], n)

    def _hidden(self, y: Tensor, number: int, activation: type[nn.Module], eps: float | None, layer: Layer) -> Hidden:
        """A hidden layer from the outputs y (k, out, n) of its linear part, which are overwritten."""
        if eps is None:
            return Hidden(FORWARD[activation](y))
        y = y.sub_(y.mean(-1, keepdim=True))
        inverse = y.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        standard = y.mul_(inverse)
        scaled = self._buffer(y, f"normalised {number}", *y.shape)
        torch.addcmul(layer.shift, standard, layer.scale, out=scaled)
        return Hidden(FORWARD[activation](scaled), standard, inverse)

    def _backward(self, slope: Tensor, layers: list[Layer], hidden: list[Hidden], x: Tensor, into: Tensor) -> None:
        """Gradients of all parameters, from that of the outputs (g m, C, n); x (g, n, features)."""
        to = self._split(into)
        for i in range(len(hidden), 0, -1):
            to[i].bias.copy_(slope.sum(-1, keepdim=True))
            to[i].weight.copy_(slope @ hidden[i - 1].y.mT)
            before = self._slope(slope, i, len(slope), slope.shape[-1])
            slope = torch.bmm(layers[i].weight.mT, slope, out=before)
            slope = BACKWARD[self.activations[i - 1]](slope, hidden[i - 1].y)
            if self.eps[i - 1] is not None:
                slope = _through_norm(slope, layers[i - 1], hidden[i - 1], to[i - 1])
        to[0].bias.copy_(slope.sum(-1, keepdim=True))
        to[0].weight.copy_((slope.view(len(x), -1, x.shape[1]) @ x).view(to[0].weight.shape))

    def _split(self, theta: Tensor) -> list[Layer]:
        sizes = []
        for fan_in, fan_out, eps in zip(self.widths, self.widths[1:], (*self.eps, None), strict=False):
            sizes.append((fan_in * fan_out, fan_out) if eps is None else (fan_in * fan_out, *[fan_out] * 3))
        parts = iter(theta.split([size for layer in sizes for size in layer], -1))
        layers = []
        for layer, fan_in in zip(sizes, self.widths, strict=False):
            weight, *vectors = (next(parts) for _ in layer)
            layers.append(Layer(weight.view(len(theta), -1, fan_in), *(v.unsqueeze(-1) for v in vectors)))
        return layers


def _through_norm(slope: Tensor, layer: Layer, hidden: Hidden, to: Layer) -> Tensor:
    """From the gradient of a BatchNorm's output (m, out, n) to that of its input; its parameters' are written."""
    n = slope.shape[-1]
    to_shift = slope.sum(-1, keepdim=True)
    to_scale = (slope * hidden.standard).sum(-1, keepdim=True)
    to.shift.copy_(to_shift)
    to.scale.copy_(to_scale)
    return slope.sub_(to_shift / n).addcmul_(hidden.standard, to_scale, value=-1 / n).mul_(layer.scale * hidden.inverse)
