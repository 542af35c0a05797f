"""The networks of the studies. All are `nn.Sequential`s whose layers have a batched rule in `lossatlas.ensemble`."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lossatlas import ensemble
from lossatlas.ensemble import Norm
from lossatlas.errors import LossAtlasError
from lossatlas.problems.recurrent import BidirectionalGRU

LEAK = 0.1  # slope of leaky_relu below zero, as in the networks of Zhao et al. 2022
ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(LEAK),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def activation_layer(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise LossAtlasError(f"activation {name!r} is unknown; use one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def mlp(widths: Sequence[int], activation: str = "relu", batch_norm: bool = False, bias: bool = True) -> nn.Sequential:
    """Linear layers widths[0] -> ... -> widths[-1], with PyTorch's default initialisation.

    BatchNorm, if any, stands before the activation, as in Lucas et al. 2021.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(fan_in, fan_out, bias=bias))
        if i < len(widths) - 2:
            layers += [Norm(fan_out)] if batch_norm else []
            layers.append(activation_layer(activation))
    return nn.Sequential(*layers)


def cnn(
    shape: Sequence[int],
    channels: Sequence[int],
    classes: int,
    activation: str = "relu",
    batch_norm: bool = False,
) -> nn.Sequential:
    """3-wide convolutions with stride 2 over inputs of `shape` (C, L) or (C, H, W), global mean, linear layer."""
    conv = nn.Conv1d if len(shape) == 2 else nn.Conv2d
    pool = nn.AdaptiveAvgPool1d if len(shape) == 2 else nn.AdaptiveAvgPool2d
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip([shape[0], *channels[:-1]], channels, strict=True):
        layers.append(conv(fan_in, fan_out, 3, stride=2, padding=1))
        layers += [Norm(fan_out)] if batch_norm else []
        layers.append(activation_layer(activation))
    return nn.Sequential(*layers, pool(1), nn.Flatten(), nn.Linear(channels[-1], classes))


class Shortcut(nn.Module):
    """The parameter-free shortcut of CIFAR ResNets: subsample by the stride, missing channels are zero."""

    def __init__(self, fan_in: int, fan_out: int, stride: int):
        super().__init__()
        self.missing, self.stride = fan_out - fan_in, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.missing))


NORMS = ("batch", "batch-identity", "none", "fixup")


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + branch(x)), two 3x3 convolutions without bias in the branch (He et al. 2016).

    norm: `batch`; `batch-identity` (the last scale starts at 0, so the block starts as its shortcut); `none` (no
    normalisation, the branch is multiplied by one scalar that starts at 0: NBN-I of Lucas et al. 2021); or `fixup` (a
    scalar that starts at 1, and one added before each convolution and activation; for the rest see `resnet`).
    """

    def __init__(self, fan_in: int, fan_out: int, stride: int, norm: str):
        super().__init__()
        normalised = norm.startswith("batch")

        def normal(features: int) -> list[nn.Module]:
            return [Norm(features)] if normalised else []

        def shift() -> list[nn.Module]:
            return [Shift()] if norm == "fixup" else []

        self.branch = nn.Sequential(
            *shift(),
            nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False),
            *normal(fan_out),
            *shift(),
            nn.ReLU(),
            *shift(),
            nn.Conv2d(fan_out, fan_out, 3, 1, 1, bias=False),
            *normal(fan_out),
            *([Scale(1.0), Shift()] if norm == "fixup" else []),
        )
        keeps_shape = stride == 1 and fan_in == fan_out
        self.shortcut = nn.Sequential(*([] if keeps_shape else [Shortcut(fan_in, fan_out, stride), *normal(fan_out)]))
        if norm == "batch-identity":
            nn.init.zeros_(self.branch[-1].weight)
        self.scale = Scale(0.0) if norm == "none" else None

    def forward(self, x: Tensor) -> Tensor:
        branch = self.branch(x)
        return F.relu(self.shortcut(x) + (branch if self.scale is None else self.scale(branch)))


class Scale(nn.Module):
    """Multiplication by one trainable number."""

    def __init__(self, start: float):
        super().__init__()
        self.weight = nn.Parameter(Tensor([start]))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


class Shift(nn.Module):
    """Addition of one trainable number that starts at 0."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(Tensor([0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


def resnet(
    depth: int, classes: int = 10, norm: str = "batch", inputs: int = 3, channels: Sequence[int] = (16, 32, 64)
) -> nn.Sequential:
    """ResNet of 6n + 2 layers for images (He et al. 2016, by default that for 32x32 ones), Kaiming-normal fan-out.

    norm: of the blocks, see there. `fixup` starts as in Zhang et al. 2019 (arXiv 1901.09321, section 3): the last
    convolution of each of the L branches and the linear layer at 0, the others in the branches, m = 2 convolutions a
    branch, times L^(-1 / (2m - 2)); one number is added before each activation and before the linear layer as well.
    """
    if depth < 8 or (depth - 2) % 6 or norm not in NORMS:
        raise LossAtlasError(
            f"resnet depth {depth} with norm {norm!r}: depth must be 6n + 2 (20, 32, 44, 56) "
            f"and norm one of {', '.join(NORMS)}"
        )

    def shifts() -> list[nn.Module]:
        return [Shift()] if norm == "fixup" else []

    fan_in = channels[0]
    layers: list[nn.Module] = [nn.Conv2d(inputs, fan_in, 3, 1, 1, bias=False)]
    layers += [Norm(fan_in)] if norm.startswith("batch") else shifts()
    layers.append(nn.ReLU())
    for fan_out, first_stride in zip(channels, (1, 2, 2), strict=True):
        for i in range((depth - 2) // 6):
            layers.append(ResidualBlock(fan_in, fan_out, first_stride if i == 0 else 1, norm))
            fan_in = fan_out
    for module in nn.Sequential(*layers).modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    linear = nn.Linear(fan_in, classes)
    if norm == "fixup":
        _fixup([layer for layer in layers if isinstance(layer, ResidualBlock)], linear)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *shifts(), linear)


def _fixup(blocks: Sequence[ResidualBlock], linear: nn.Linear) -> None:
    """Start the branches of the blocks, whose convolutions are Kaiming-normal, and the last layer: see `resnet`."""
    with torch.no_grad():
        for block in blocks:
            first, last = (layer for layer in block.branch if isinstance(layer, nn.Conv2d))
            first.weight *= len(blocks) ** -0.5
            last.weight.zero_()
        linear.weight.zero_()
        linear.bias.zero_()


@ensemble.rule(ResidualBlock)
def _(layer, params, x, given, record):
    def run(name: str, x: Tensor) -> Tensor:
        return ensemble.run_layer(getattr(layer, name), ensemble.child_parameters(params, name), x, given, record)

    branch = run("branch", x)
    return F.relu(run("shortcut", x) + (branch if layer.scale is None else run("scale", branch)))


@ensemble.rule(Scale)
def _(layer, params, x, given, record):
    return params["weight"].view(-1, *[1] * (x.dim() - 1)) * x


@ensemble.rule(Shift)
def _(layer, params, x, given, record):
    return x + params["bias"].view(-1, *[1] * (x.dim() - 1))


# --- the four networks of the MNIST-1D table (Greydanus and Kobak 2024, released `models.py`) ------------------------


MNIST1D_NETWORKS = ("linear", "residual-mlp", "conv", "gru")


def mnist1d_network(name: str, length: int = 40, classes: int = 10) -> nn.Sequential:
    """`linear`, `residual-mlp`, `conv` or `gru` for inputs (n, length): 410, 15210, 5210, 5134 parameters at 40."""
    if name == "linear":
        return mlp((length, classes))
    if name == "residual-mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(length, 100), nn.ReLU(), ResidualLayer(100), nn.Linear(100, classes)
        )
    if name == "conv":
        layers: list[nn.Module] = [nn.Unflatten(1, (1, length))]
        channels, width = 1, length
        for kernel in (5, 3, 3):
            layers += [NarrowConv1d(channels, 25, kernel, stride=2, padding=1), nn.ReLU()]
            channels, width = 25, (width + 2 - kernel) // 2 + 1
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(25 * width, classes))
    if name == "gru":
        return nn.Sequential(BidirectionalGRU(6), nn.Flatten(), nn.Linear(2 * 6 * length, classes))
    raise LossAtlasError(f"{name!r} is no network of the MNIST-1D table: take one of {', '.join(MNIST1D_NETWORKS)}")


class ResidualLayer(nn.Module):
    """x + relu(W x + b)."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.linear(x))


@ensemble.rule(ResidualLayer)
def _(layer, params, x, given, record):
    inner = ensemble.child_parameters(params, "linear")
    return x + F.relu(ensemble.run_layer(layer.linear, inner, x, given, record))


class NarrowConv1d(nn.Conv1d):
    """`nn.Conv1d` for few channels, whose ensembles are matrix products of unfolded inputs instead of grouped kernels:
    the same numbers several times faster where a convolution has tens of channels."""


@ensemble.rule(NarrowConv1d)
def _(layer, params, x, given, record):
    (kernel,), (stride,), (padding,) = layer.kernel_size, layer.stride, layer.padding
    weight = params["weight"].flatten(2)  # (k, out, in kernel)
    rows = Windows.apply(x.permute(0, 2, 3, 1), kernel, stride, padding)
    y = torch.baddbmm(params["bias"][..., None], weight, rows.flatten(3).flatten(1, 2).expand(len(weight), -1, -1))
    return y.unflatten(-1, rows.shape[3:]).permute(0, 3, 1, 2)


class Windows(torch.autograd.Function):
    """What each output of a convolution sees: (k, C, L, n) -> (k, C, kernel, outputs, n), zeros beyond both ends.

    With the examples last a shifted copy is made of whole rows. Autograd would fill a tensor of the inputs' size for
    each shift.
    """

    @staticmethod
    def forward(ctx, x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
        k, channels, length, n = x.shape
        ctx.inner = slice(padding, padding + length)
        ctx.padded = k, channels, length + 2 * padding, n
        ctx.shifts = [slice(i, i + length + 2 * padding - kernel + 1, stride) for i in range(kernel)]
        padded = x.new_zeros(ctx.padded)
        padded[:, :, ctx.inner] = x
        return torch.stack([padded[:, :, shift] for shift in ctx.shifts], 2)

    @staticmethod
    def backward(ctx, slope: Tensor):
        padded = slope.new_zeros(ctx.padded)
        for i, shift in enumerate(ctx.shifts):
            padded[:, :, shift] += slope[:, :, i]
        return padded[:, :, ctx.inner], None, None, None
