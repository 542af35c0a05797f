"""One pass over some perceptrons, forward and backward, written out on tensors that are all made beforehand.

A small network costs as much for the views of its layers and for new memory as for its products. So a `Pass` makes the
views of parameters, activations and gradients once, and each call is its products and what is done in place.
Activations are kept features first, (k, C, n).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

FORWARD = {nn.ReLU: torch.relu_, nn.Tanh: torch.tanh_, nn.Sigmoid: torch.sigmoid_}
# d loss / d input from (d loss / d output, output), in place of the former
BACKWARD = {
    nn.ReLU: lambda slope, y: torch.ops.aten.threshold_backward.grad_input(slope, y, 0, grad_input=slope),
    nn.Tanh: lambda slope, y: torch.ops.aten.tanh_backward.grad_input(slope, y, grad_input=slope),
    nn.Sigmoid: lambda slope, y: torch.ops.aten.sigmoid_backward.grad_input(slope, y, grad_input=slope),
}


class Buffers:
    """Tensors by name and shape, which are overwritten when they are asked for again."""

    def __init__(self):
        self.made: dict[tuple, Tensor] = {}

    def __call__(self, like: Tensor, name: str, *shape: int) -> Tensor:
        key = (name, shape, like.dtype, like.device)
        if key not in self.made:
            self.made[key] = like.new_empty(shape)
        return self.made[key]


class Layer(NamedTuple):
    """Parameters of a linear layer and of the normalisation behind it, if any: views of an ensemble theta (k, P).

    weight (k, out, in); bias, scale and shift (k, out, 1).
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor | None = None
    shift: Tensor | None = None


def layers(theta: Tensor, widths: tuple[int, ...], eps: tuple[float | None, ...]) -> list[Layer]:
    """The layers of an ensemble theta (k, P)."""
    sizes = []
    for fan_in, fan_out, one in zip(widths, widths[1:], (*eps, None), strict=False):
        sizes.append((fan_in * fan_out, *[fan_out] * (1 if one is None else 3)))
    parts = iter(theta.split([size for layer in sizes for size in layer], -1))
    made = []
    for layer, fan_in in zip(sizes, widths, strict=False):
        weight, *vectors = (next(parts) for _ in layer)
        made.append(Layer(weight.unflatten(-1, (-1, fan_in)), *(v.unsqueeze(-1) for v in vectors)))
    return made


class Pass:
    """Losses of the members theta (g, k, P) on n rows a group; gradients of the members `begin` on to `into` (g, m, P).

    widths, activations and eps: see `lossatlas.perceptron.Perceptron`.
    """

    def __init__(self, widths, activations, eps, theta: Tensor, into: Tensor, begin: int, n: int, buffers: Buffers):
        self.g, self.k, self.m, self.begin, self.n = *theta.shape[:2], into.shape[1], begin, n
        self.renewed: list[tuple[Tensor, Tensor]] = []
        self._buffers, self._like = buffers, theta
        members, wanted = self.g * self.k, self.g * self.m
        parts = layers(theta.view(members, -1), widths, eps)
        # the first layer of all members of a group is one product
        self.parameters = parts[0].weight, parts[0].bias
        self.weight = self.buffer("weight", self.g, self.k * widths[1], widths[0])
        self.bias = self.buffer("bias", self.g, self.k * widths[1], 1)
        self.staged = self.weight.view(members, widths[1], -1), self.bias.view(members, widths[1], 1)
        outputs = [self.buffer(f"output {i}", members, width, n) for i, width in enumerate(widths[1:], 1)]
        self.first = outputs[0].view(self.g, -1, n)
        self.logits = outputs[-1].view(self.g, self.k, -1, n)
        self.spare = self.buffer("spare", self.g, self.k, widths[-1], n)
        if self.m:
            to = layers(into.view(wanted, -1), widths, eps)
            # two by turns, each as large as the largest
            flat = [self.buffer(f"slope {i}", wanted * max(widths[1:]) * n) for i in range(2)]
            slopes = [flat[i % 2][: wanted * w * n].view(wanted, w, n) for i, w in enumerate(widths[1:])]
            self.own_logits = self.logits[:, begin : begin + self.m]
            self.top = slopes[-1].view(self.g, self.m, -1, n)
            self.bottom = slopes[0].view(self.g, -1, n), slopes[0]
            self.to = to[0]
            self.product = self.buffer("product", self.g, self.m * widths[1], widths[0])
        self.hidden = []
        for i, (activation, one) in enumerate(zip(activations, eps, strict=True)):
            y, norm = outputs[i], None
            if one is not None:
                y = self.buffer(f"normalised {i}", *y.shape)
                norm = _Norm(parts[i], one, outputs[i], self.buffer(f"inverse {i}", *y.shape[:2], 1), y)
            layer = _Hidden(activation, norm, y, parts[i + 1], outputs[i + 1])
            if self.m:
                layer.wants(self, i, (slopes[i], slopes[i + 1]), (to[i], to[i + 1]))
            self.hidden.append(layer)

    def __call__(self, x: Tensor, targets: Tensor) -> Tensor:
        """Losses (g, k) on the rows x (g, n, features); targets (g, C, n): -1 / n at each row's label, else 0."""
        for copy, parameters in zip(self.staged, self.parameters, strict=True):
            copy.copy_(parameters)
        if self.g == 1:
            torch.addmm(self.bias[0], self.weight[0], x[0].mT, out=self.first[0])
        else:
            torch.baddbmm(self.bias, self.weight, x.mT, out=self.first)
        for layer in self.hidden:
            layer.forward()
        y, targets = self.logits, targets[:, None]
        y.sub_(y.amax(2, keepdim=True))
        picked = torch.mul(y, targets, out=self.spare).sum((2, 3))
        total = y.exp_().sum(2, keepdim=True)
        if self.m:
            own = total[:, self.begin : self.begin + self.m]
            torch.addcdiv(targets, self.own_logits, own, value=1 / self.n, out=self.top)
            self._backward(x)
        return picked + total.log_().mean((2, 3))

    def _backward(self, x: Tensor) -> None:
        for copy, part in self.renewed:
            copy.copy_(part)
        for layer in reversed(self.hidden):
            layer.backward()
        rows, slope = self.bottom
        torch.sum(slope, -1, keepdim=True, out=self.to.bias)
        torch.bmm(rows, x, out=self.product)
        self.to.weight.copy_(self.product.view(self.to.weight.shape))

    def buffer(self, name: str, *shape: int) -> Tensor:
        return self._buffers(self._like, name, *shape)

    def own(self, name: str, part: Tensor) -> Tensor:
        """What belongs to the members whose gradients are wanted, of something (g k, ...) that belongs to all.

        A view, or where several groups allow none, a copy that each call renews.
        """
        chosen = part.unflatten(0, (self.g, self.k))[:, self.begin : self.begin + self.m]
        if self.g == 1 or self.m == self.k:
            return chosen.flatten(0, 1)
        copy = self.buffer(f"own {name}", *chosen.shape)
        self.renewed.append((copy, chosen))
        return copy.flatten(0, 1)


class _Hidden:
    """A hidden layer's activation, with a normalisation before it if any, and the linear layer behind it."""

    def __init__(self, activation: type[nn.Module], norm: "_Norm | None", y: Tensor, after: Layer, out: Tensor):
        self.activate, self.pull_back = FORWARD[activation], BACKWARD[activation]
        self.norm, self.y, self.after, self.out = norm, y, after, out

    def forward(self) -> None:
        """From the outputs of one linear layer to those of the next."""
        if self.norm:
            self.norm.forward()
        torch.baddbmm(self.after.bias, self.after.weight, self.activate(self.y), out=self.out)

    def wants(self, run: Pass, number: int, slopes: tuple[Tensor, Tensor], to: tuple[Layer, Layer]) -> None:
        """Prepare for `backward`: slopes and gradients of the linear layer before this one, and of that behind it."""
        self.slope, self.slope_after = slopes
        to_norm, self.to = to
        self.own_y = run.own(f"hidden {number}", self.y)
        self.weight = run.own(f"weight {number}", self.after.weight).mT
        self.product = run.buffer("weight's gradient", *self.weight.mT.shape)
        if self.norm:
            self.norm.wants(run, number, self.slope, to_norm)

    def backward(self) -> None:
        """From the gradient of the next linear layer's outputs to that of the outputs of the one before."""
        torch.sum(self.slope_after, -1, keepdim=True, out=self.to.bias)
        torch.bmm(self.slope_after, self.own_y.mT, out=self.product)
        self.to.weight.copy_(self.product)
        torch.bmm(self.weight, self.slope_after, out=self.slope)
        self.pull_back(self.slope, self.own_y)
        if self.norm:
            self.norm.backward()


class _Norm:
    """A BatchNorm by the statistics of the rows at hand: outputs y (k, C, n) of a linear layer become standard."""

    def __init__(self, layer: Layer, eps: float, standard: Tensor, inverse: Tensor, out: Tensor):
        self.scale, self.shift, self.eps = layer.scale, layer.shift, eps
        self.standard, self.inverse, self.out = standard, inverse, out

    def forward(self) -> None:
        y = self.standard
        y.sub_(y.mean(-1, keepdim=True))
        torch.rsqrt(y.square().mean(-1, keepdim=True).add_(self.eps), out=self.inverse)
        y.mul_(self.inverse)
        torch.addcmul(self.shift, y, self.scale, out=self.out)

    def wants(self, run: Pass, number: int, slope: Tensor, to: Layer) -> None:
        """Prepare for `backward`, which turns the gradient of the outputs in `slope` into that of the inputs."""
        self.slope, self.to = slope, to
        self.own_standard = run.own(f"standard {number}", self.standard)
        self.own_inverse = run.own(f"inverse {number}", self.inverse)
        self.own_scale = run.own(f"scale {number}", self.scale)

    def backward(self) -> None:
        slope, n = self.slope, self.slope.shape[-1]
        to_shift = slope.sum(-1, keepdim=True)
        to_scale = (slope * self.own_standard).sum(-1, keepdim=True)
        self.to.shift.copy_(to_shift)
        self.to.scale.copy_(to_scale)
        slope.sub_(to_shift / n).addcmul_(self.own_standard, to_scale, value=-1 / n)
        slope.mul_(self.own_scale * self.own_inverse)
