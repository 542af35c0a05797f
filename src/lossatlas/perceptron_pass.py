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

    perceptron: their `lossatlas.perceptron.Perceptron`. targets (g, C, n), read at each call: -1 / n at each row's
    label, else 0. losses (g, k): where they are written.
    """

    def __init__(self, perceptron, theta: Tensor, into: Tensor, begin: int, targets: Tensor, losses: Tensor):
        widths, activations, eps = perceptron.widths, perceptron.activations, perceptron.eps
        self.g, self.k, self.m, self.begin, self.n = *theta.shape[:2], into.shape[1], begin, targets.shape[2]
        self.buffers, self.like = perceptron.buffers, theta
        self.renewed: list[tuple[Tensor, Tensor]] = []
        members, wanted = self.g * self.k, self.g * self.m
        parts = layers(theta.view(members, -1), widths, eps)
        outputs = [self.buffer(f"output {i}", members, width, self.n) for i, width in enumerate(widths[1:], 1)]
        self.first = _First(self, parts[0], outputs[0])
        self.hidden = []
        for i, (activation, one) in enumerate(zip(activations, eps, strict=True)):
            norm = None if one is None else _Norm(self, i, parts[i], one, outputs[i])
            self.hidden.append(_Hidden(activation, norm, outputs[i], parts[i + 1], outputs[i + 1]))
        self.last = _CrossEntropy(self, outputs[-1], targets, losses)
        if self.m:
            to = layers(into.view(wanted, -1), widths, eps)
            # two by turns, each as large as the largest
            flat = [self.buffer(f"slope {i}", wanted * max(widths[1:]) * self.n) for i in range(2)]
            slopes = [flat[i % 2][: wanted * w * self.n].view(wanted, w, self.n) for i, w in enumerate(widths[1:])]
            self.first.wants(self, slopes[0], to[0])
            for i, layer in enumerate(self.hidden):
                layer.wants(self, i, slopes[i : i + 2], to[i : i + 2])
            self.last.wants(self, slopes[-1])

    def __call__(self, x: Tensor) -> None:
        """On the rows x (g, n, features)."""
        self.first.forward(x)
        for layer in self.hidden:
            layer.forward()
        self.last.forward()
        if self.m:
            self.last.backward()
            for copy, part in self.renewed:
                copy.copy_(part)
            for layer in reversed(self.hidden):
                layer.backward()
            self.first.backward(x)

    def buffer(self, name: str, *shape: int) -> Tensor:
        return self.buffers(self.like, name, *shape)

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


class _First:
    """The first linear layer, to outputs y (g k, out, n): one product for all members of a group."""

    def __init__(self, run: Pass, layer: Layer, y: Tensor):
        members, out, features = layer.weight.shape
        self.weight = run.buffer("first weight", run.g, run.k * out, features)
        self.staged = (self.weight.view(members, out, features), layer.weight), (y, layer.bias)
        self.y = y.view(run.g, -1, run.n)

    def forward(self, x: Tensor) -> None:
        for copy, parameters in self.staged:
            copy.copy_(parameters)
        self.y.baddbmm_(self.weight, x.mT)

    def wants(self, run: Pass, slope: Tensor, to: Layer) -> None:
        """Prepare for `backward`: the gradient of the outputs, and where those of the parameters go."""
        self.slope, self.to = slope, to
        self.rows = slope.view(run.g, -1, run.n)
        self.product = run.buffer("first product", *self.rows.shape[:2], to.weight.shape[2])
        self.own_product = self.product.view(to.weight.shape)

    def backward(self, x: Tensor) -> None:
        torch.sum(self.slope, -1, keepdim=True, out=self.to.bias)
        torch.bmm(self.rows, x, out=self.product)
        self.to.weight.copy_(self.own_product)


class _Hidden:
    """A hidden layer's activation, with a normalisation before it if any, and the linear layer behind it.

    y (k, C, n): the outputs of the linear layer before, which are overwritten; out: those of the one behind.
    """

    def __init__(self, activation: type[nn.Module], norm: "_Norm | None", y: Tensor, after: Layer, out: Tensor):
        self.activate, self.pull_back = FORWARD[activation], BACKWARD[activation]
        self.norm, self.y, self.after, self.out = norm, norm.out if norm else y, after, out

    def forward(self) -> None:
        if self.norm:
            self.norm.forward()
        torch.baddbmm(self.after.bias, self.after.weight, self.activate(self.y), out=self.out)

    def wants(self, run: Pass, number: int, slopes: list[Tensor], to: list[Layer]) -> None:
        """Prepare for `backward`: gradients of the outputs of the two linear layers, and of their parameters."""
        self.slope, self.slope_after = slopes
        self.to = to[1]
        self.own_y = run.own(f"hidden {number}", self.y)
        self.own_rows = self.own_y.mT
        self.weight = run.own(f"weight {number}", self.after.weight).mT
        self.product = run.buffer("product", *self.weight.mT.shape)
        if self.norm:
            self.norm.wants(run, number, self.slope, to[0])

    def backward(self) -> None:
        """From the gradient of the outputs behind to that of the outputs before."""
        torch.sum(self.slope_after, -1, keepdim=True, out=self.to.bias)
        torch.bmm(self.slope_after, self.own_rows, out=self.product)
        self.to.weight.copy_(self.product)
        torch.bmm(self.weight, self.slope_after, out=self.slope)
        self.pull_back(self.slope, self.own_y)
        if self.norm:
            self.norm.backward()


class _Norm:
    """A BatchNorm by the statistics of the rows at hand: outputs y (k, C, n) of a linear layer become standard."""

    def __init__(self, run: Pass, number: int, layer: Layer, eps: float, y: Tensor):
        self.scale, self.shift, self.eps, self.standard = layer.scale, layer.shift, eps, y
        self.inverse = run.buffer(f"inverse {number}", *y.shape[:2], 1)  # of the deviation
        self.out = run.buffer(f"normalised {number}", *y.shape)

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


class _CrossEntropy:
    """The loss of outputs y (g k, C, n), which are overwritten.

    Its two means over rows, of the labels' outputs and of log-sums, are matrix products, cheaper than reductions.
    """

    def __init__(self, run: Pass, y: Tensor, targets: Tensor, losses: Tensor):
        self.y, self.targets = y.view(run.g, run.k, -1, run.n), targets[:, None]
        self.flat, self.flat_targets = self.y.flatten(2), targets.view(run.g, -1, 1)
        self.flat_total, self.log_total = (run.buffer(name, run.g, run.k, run.n) for name in ("total", "log total"))
        self.total = self.flat_total[:, :, None]
        self.mean = y.new_full((run.g, run.n, 1), 1 / run.n)
        self.losses = losses.unsqueeze(2)
        self.n = run.n

    def forward(self) -> None:
        y = self.y
        y.sub_(torch.amax(y, 2, keepdim=True, out=self.total))
        torch.bmm(self.flat, self.flat_targets, out=self.losses)
        torch.sum(y.exp_(), 2, keepdim=True, out=self.total)
        torch.log(self.flat_total, out=self.log_total)
        torch.baddbmm(self.losses, self.log_total, self.mean, out=self.losses)

    def wants(self, run: Pass, slope: Tensor) -> None:
        """Prepare for `backward`, which writes the gradient of the outputs to `slope`."""
        own = slice(run.begin, run.begin + run.m)
        self.own_y, self.own_total = self.y[:, own], self.total[:, own]
        self.slope = slope.view(run.g, run.m, -1, run.n)

    def backward(self) -> None:
        torch.addcdiv(self.targets, self.own_y, self.own_total, value=1 / self.n, out=self.slope)
