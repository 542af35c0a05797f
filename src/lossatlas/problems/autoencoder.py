"""An autoencoder with several goals, as a problem: theta (k, P) -> the losses (k,) of each goal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lossatlas import ensemble
from lossatlas.composite import goals
from lossatlas.ensemble import Layout
from lossatlas.errors import LossAtlasError
from lossatlas.problems.architectures import mlp

Outputs = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class AutoencoderProblem:
    """Losses of reconstructions and codes of the rows of x.

    module: `Sequential(encoder, decoder)`; its parameters are the coordinates. x (n, C, H, W) in [0, 1], or
    (k, n, C, H, W) where each member has rows of its own. goals: names out of `lossatlas.composite.goals`.
    """

    module: nn.Sequential
    x: Tensor
    goals: tuple[str, ...]
    directions: Tensor | None = None
    own_rows: bool = False

    def __post_init__(self):
        known = goals.names()
        for goal in self.goals:
            if goal not in known:
                raise LossAtlasError(f"goal {goal!r} is unknown; use one of {', '.join(known)}")
        if goals.SLICED in self.goals and self.directions is None:
            raise LossAtlasError("the goal sliced needs directions: draw them with goals.unit_directions")

    @cached_property
    def layout(self) -> Layout:
        return Layout.of(self.module)

    @property
    def dim(self) -> int:
        return self.layout.dim

    @property
    def rows(self) -> int:
        return self.x.shape[1 if self.own_rows else 0]

    @property
    def reconstruction(self) -> Tensor:
        """Which goals are about the image, not about the codes: (n,) bool."""
        return torch.tensor([goal in goals.RECONSTRUCTION for goal in self.goals])

    def outputs(self, theta: Tensor) -> Outputs:
        """Reconstructions (k, n, C, H, W) and codes (k, n, d) of the members theta (k, P)."""
        params = self.layout.split(theta)
        encoder, decoder = (ensemble.child_parameters(params, name) for name in ("0", "1"))
        x = self.x if self.own_rows else self.x[None]
        z = ensemble.forward(self.module[0], encoder, x)
        return ensemble.forward(self.module[1], decoder, z), z

    def goal_functions(self) -> list[Callable[[Outputs], Tensor]]:
        """One function a goal: (x_hat, z) -> (k,)."""
        return [self.goal(goal) for goal in self.goals]

    def goal(self, goal: str) -> Callable[[Outputs], Tensor]:
        """The goal of that name, (x_hat, z, ...) -> (k,), whether the problem has it or not."""
        if goal in goals.RECONSTRUCTION:
            x = self.x if self.own_rows else self.x[None]
            return lambda outputs: goals.RECONSTRUCTION[goal](outputs[0], x)
        return lambda outputs: goals.latent(goal, outputs[1], self.directions)

    def __call__(self, theta: Tensor) -> Tensor:
        """The plain sum of all goals, (...) for theta (..., P)."""
        outputs = self.outputs(theta.reshape(-1, theta.shape[-1]))
        return sum(goal(outputs) for goal in self.goal_functions()).view(theta.shape[:-1])

    def on(self, rows: Tensor) -> "AutoencoderProblem":
        """The same network on some rows: (m,) for all members, or (k, m), a set for each member."""
        return replace(self, x=self.x[rows], own_rows=rows.dim() == 2)


@dataclass(frozen=True, eq=False)
class VariationalProblem(AutoencoderProblem):
    """The variational autoencoder (Kingma & Welling 2014): its encoder gives means and log variances (2d numbers) of
    the codes z = μ + σ ε; its losses are the squared error and the divergence of the posteriors from N(0, I).

    noise: where ε comes from, anew each time that outputs are computed.
    """

    noise: torch.Generator | None = None

    def outputs(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstructions (k, n, C, H, W), codes (k, n, d) and the encoder's means and log variances (k, n, 2d)."""
        params = self.layout.split(theta)
        encoder, decoder = (ensemble.child_parameters(params, name) for name in ("0", "1"))
        x = self.x if self.own_rows else self.x[None]
        posterior = ensemble.forward(self.module[0], encoder, x)
        mean, log_variance = posterior.chunk(2, dim=-1)
        noise = torch.randn(mean.shape, generator=self.noise).to(mean)
        z = mean + (log_variance / 2).exp() * noise
        return ensemble.forward(self.module[1], decoder, z), z, posterior

    def goal_functions(self) -> list[Callable[[tuple[Tensor, ...]], Tensor]]:
        """The squared error, and the divergence in nats a number of the code."""
        return [self.goal("mse"), lambda outputs: posterior_divergence(outputs[2])]


def posterior_divergence(posterior: Tensor) -> Tensor:
    """Mean over rows and dimensions of KL(N(μ, σ²) ‖ N(0, 1)) = ½(μ² + σ² − 1 − ln σ²), nats: (k, n, 2d) -> (k,)."""
    mean, log_variance = posterior.chunk(2, dim=-1)
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean((1, 2))


def variational(module: nn.Sequential) -> nn.Sequential:
    """The same autoencoder, its encoder's last layer (linear) widened to means and log variances."""
    encoder, decoder = module
    *body, last = encoder
    return nn.Sequential(nn.Sequential(*body, nn.Linear(last.in_features, 2 * last.out_features)), decoder)


def dense(shape: Sequence[int], hidden: Sequence[int], latent: int, activation: str = "tanh") -> nn.Sequential:
    """Encoder and decoder as mirrored multilayer perceptrons, a sigmoid at the end: images (C, H, W) in [0, 1]."""
    pixels = torch.Size(shape).numel()
    encoder = mlp((pixels, *hidden, latent), activation)
    decoder = mlp((latent, *reversed(hidden), pixels), activation)
    return nn.Sequential(encoder, nn.Sequential(*decoder, nn.Sigmoid(), nn.Unflatten(-1, tuple(shape))))


def convolutional(shape: Sequence[int], channels: int, latent: int) -> nn.Sequential:
    """The network of the UvA deep-learning tutorial 9 for images whose sides are multiples of 8.

    Three convolutions of stride 2 (c, 2c, 2c channels) with one of stride 1 after the first two, GELU; mirrored with
    transposed convolutions. The end is a sigmoid, since pixels are in [0, 1] here (there: tanh, [−1, 1]).
    """
    c, colours = channels, shape[0]
    side = shape[-1] // 8
    if shape[-1] != shape[-2] or shape[-1] % 8:
        raise LossAtlasError(f"the convolutional autoencoder takes square images of 8, 16, ... pixels, not {shape}")

    def down(fan_in: int, fan_out: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(fan_in, fan_out, 3, stride, 1), nn.GELU()]

    def up(fan_in: int, fan_out: int) -> nn.Module:
        return nn.ConvTranspose2d(fan_in, fan_out, 3, 2, 1, 1)

    encoder = [*down(colours, c, 2), *down(c, c, 1), *down(c, 2 * c, 2), *down(2 * c, 2 * c, 1)]
    encoder += [*down(2 * c, 2 * c, 2), nn.Flatten(), nn.Linear(2 * c * side * side, latent)]
    decoder = [nn.Linear(latent, 2 * c * side * side), nn.GELU(), nn.Unflatten(-1, (2 * c, side, side))]
    decoder += [up(2 * c, 2 * c), nn.GELU(), *down(2 * c, 2 * c, 1), up(2 * c, c), nn.GELU(), *down(c, c, 1)]
    return nn.Sequential(nn.Sequential(*encoder), nn.Sequential(*decoder, up(c, colours), nn.Sigmoid()))


class Patches(nn.Module):
    """Images (..., C, H, W) with pixels in [0, 1] as rows of square patches (..., H W / side², C side²) in [−1, 1]; and
    `backwards` from rows to images, without the change of scale.

    A linear layer between them is a convolution whose stride is the side of its kernel, as one matrix product.
    """

    def __init__(self, shape: Sequence[int], side: int, backwards: bool = False):
        super().__init__()
        self.shape, self.side, self.backwards = tuple(shape), side, backwards

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        colours, height, width = self.shape
        rows, columns = height // self.side, width // self.side
        if self.backwards:
            x = x.unflatten(-1, (colours, self.side, self.side)).unflatten(-4, (rows, columns))
            return x.movedim((-3, -5, -2, -4, -1), (-5, -4, -3, -2, -1)).reshape(*x.shape[:-5], *self.shape)
        x = x.unflatten(-2, (rows, self.side)).unflatten(-1, (columns, self.side))
        return x.movedim((-4, -2, -5, -3, -1), (-5, -4, -3, -2, -1)).flatten(-3).flatten(-3, -2).mul(2).sub_(1)


def patchwise(shape: Sequence[int], side: int, hidden: int, latent: int) -> nn.Sequential:
    """The same small autoencoder on every patch of side x side pixels: the code has `latent` numbers for all together.

    A linear encoder of the centred pixels, a decoder with one hidden layer of tanh and a sigmoid at its end. Raises
    `LossAtlasError` where patches do not tile the image or do not share the code evenly.
    """
    colours, height, width = shape
    count = (height // side) * (width // side)
    if height % side or width % side or latent % count:
        raise LossAtlasError(
            f"patches of {side} pixels do not tile images {tuple(shape)} with codes of {latent} numbers"
        )
    pixels, numbers = colours * side * side, latent // count
    encoder = [Patches(shape, side), nn.Linear(pixels, numbers), nn.Flatten()]
    decoder = [nn.Unflatten(-1, (count, numbers)), nn.Linear(numbers, hidden), nn.Tanh(), nn.Linear(hidden, pixels)]
    return nn.Sequential(
        nn.Sequential(*encoder), nn.Sequential(*decoder, Patches(shape, side, backwards=True), nn.Sigmoid())
    )


@ensemble.rule(nn.ConvTranspose2d)
def _(layer, params, x, given, record):
    weight, bias = params["weight"], params.get("bias")
    k = weight.shape[0]
    y = F.conv_transpose2d(
        x.expand(k, *x.shape[1:]).movedim(0, 1).flatten(1, 2),
        weight.flatten(0, 1),
        None if bias is None else bias.flatten(),
        layer.stride,
        layer.padding,
        layer.output_padding,
        layer.groups * k,
        layer.dilation,
    )
    return y.unflatten(1, (k, y.shape[1] // k)).movedim(1, 0)


# --- the linear rival -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pca:
    """Principal components of training rows: mean (p,), components (m, p)."""

    mean: Tensor
    components: Tensor

    @classmethod
    def fit(cls, x: Tensor, size: int) -> "Pca":
        """The first `size` components of the rows x (n, ...)."""
        rows = x.flatten(1).double()
        mean = rows.mean(0)
        return cls(mean, torch.linalg.svd(rows - mean, full_matrices=False).Vh[:size])

    def squared_error(self, x: Tensor) -> float:
        """Mean squared error of the reconstructions of the rows x (n, ...)."""
        centred = x.flatten(1).double() - self.mean
        return float((centred - centred @ self.components.mT @ self.components).square().mean())
