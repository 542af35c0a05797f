"""The estimator of greydanus/evostrats (commit 6f1236e) as it is coded, for arms named "as published".

It maximises a fitness F = -loss and gives a direction of ascent. Populations are tensors here; what it does otherwise
(one member at a time, with a graph) has no influence on the numbers. Its default: n = 100, sigma 0.01, mirrored, ranks,
beta 50. What is corrected in `evolution`, `guided`, `pepg` and `safe_mutation` is said at each function.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lossatlas import ensemble
from lossatlas.errors import LossAtlasError

BETA = 50.0
SIGMA = 0.01


def as_published_directions(z: Tensor, mirrored: bool = True) -> Tensor:
    """All n perturbation directions from n normals (n, P): the first n // 2 and their negatives, or z itself.

    For an odd n it keeps n - 1 rows and then asks for n of them: its own default crashes at n = 25.
    """
    if not mirrored:
        return z
    if len(z) % 2:
        raise LossAtlasError(
            f"evostrats draws {len(z) // 2 * 2} of {len(z)} mirrored members and then reads past the end: "
            "take an even population, or mirrored=False"
        )
    half = z[: len(z) // 2]
    return torch.cat([half, -half])


def as_published_guide(z: Tensor, previous: Tensor, alpha: float) -> Tensor:
    """sqrt(alpha) z + sqrt(1 - alpha) sqrt(P) u for the previous estimate's unit vector u: no random factor on u.

    All members so move by the same vector, which an iid estimate with a mean baseline cancels again. Corrected:
    `guided.guided_directions`.
    """
    u = previous / previous.norm()
    return math.sqrt(alpha) * z + math.sqrt((1 - alpha) * z.shape[-1]) * u


def as_published_ranks(fitness: Tensor) -> Tensor:
    """Places (n,) in ascending order of fitness, in [-1/2, 1/2]; ties by position, NaN above everything.

    So a plateau gives a step and a NaN is the best member. Corrected: `evolution.ranks`.
    """
    places = torch.empty_like(fitness)
    places[fitness.argsort(stable=True)] = torch.arange(len(fitness), dtype=fitness.dtype, device=fitness.device)
    return places / (len(fitness) - 1) - 0.5


def as_published_estimate(
    z: Tensor, fitness: Tensor, sigma: float, mirrored: bool = True, ranked: bool = True, beta: float = BETA
) -> Tensor:
    """Its direction of ascent (P,) from directions z (n, P) in its order and fitnesses (n,).

    Mirrored: mean over pairs of beta (f+ - f-) / 2 eps. iid: mean of beta (f - mean f) eps. Without ranks it is
    further divided by sigma² P, which makes its mean beta / P times the gradient of F_sigma, and in iid mode another
    (n - 1) / n, since a member is part of its own baseline.
    """
    values = as_published_ranks(fitness) if ranked else fitness
    n = len(values)
    if mirrored:
        plus, minus = values.chunk(2)
        direction = beta * ((plus - minus) / 2) @ (sigma * z[: n // 2]) / (n // 2)
    else:
        direction = beta * (values - values.mean()) @ (sigma * z) / n
    return direction if ranked else direction / (sigma**2 * z.shape[-1])


def as_published_sensitivity(problem, theta: Tensor) -> Tensor:
    """mean_k |J_0 + ... + J_k| (P,): the seed vector of its backward passes is never reset.

    Corrected: `safe_mutation.sensitivity`.
    """
    theta = theta.detach()[None].requires_grad_()
    outputs = problem.logits(theta)[0].sum(0)
    rows = [torch.autograd.grad(output, theta, retain_graph=True)[0][0] for output in outputs]
    return torch.stack(rows).cumsum(0).abs().mean(0)


class SquareMaximum(nn.Module):
    """`nn.MaxPool2d(2)` for x (..., C, H, W): where no gradient is wanted maxima of slices, several times faster."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return F.max_pool2d(x.flatten(0, -4), 2).unflatten(0, x.shape[:-3])
        x = x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2]
        x = torch.maximum(x[..., 0::2, :], x[..., 1::2, :])
        return torch.maximum(x[..., 0::2], x[..., 1::2])


@ensemble.rule(SquareMaximum)
def _(layer, params, x, given, record):
    return layer(x)


def network(shape: tuple[int, ...] = (1, 28, 28), classes: int = 10, channels: int = 6) -> nn.Sequential:
    """Its network: twice (5x5 convolution with padding 2, ReLU, 2x2 maximum), then linear; 4012 parameters on MNIST."""
    _, height, width = shape
    return nn.Sequential(
        nn.Conv2d(shape[0], channels, 5, padding=2),
        nn.ReLU(),
        SquareMaximum(),
        nn.Conv2d(channels, channels, 5, padding=2),
        nn.ReLU(),
        SquareMaximum(),
        nn.Flatten(),
        nn.Linear(channels * (height // 4) * (width // 4), classes),
    )
