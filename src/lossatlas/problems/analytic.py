"""Losses whose minima, saddles and barriers are known, so that a method can be proved before it meets a network.

All follow `lossatlas.problems.Problem`: theta (..., P) -> loss (...), differentiable, in theta's dtype and device.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lossatlas.errors import LossAtlasError


@dataclass(frozen=True)
class Rosenbrock:
    """100 (x² - y)² + (x - 1)², with the minimum 0 at (1, 1).

    A sum of squares u² + v² with u = 10 (x² - y), v = x - 1. Source: Zhao et al. 2022 (arXiv 2205.10637), Fig. 2.
    """

    dim: ClassVar[int] = 2

    def __call__(self, theta: Tensor) -> Tensor:
        x, y = theta.unbind(-1)
        return 100 * (x * x - y).square() + (x - 1).square()


@dataclass(frozen=True)
class Booth:
    """(x + 2y - 7)² + (2x + y - 5)², with the minimum 0 at (1, 3); its Hessian has the eigenvalues 2 and 18.

    Source: Zhao et al. 2022 (arXiv 2205.10637), Fig. 2.
    """

    dim: ClassVar[int] = 2

    def __call__(self, theta: Tensor) -> Tensor:
        x, y = theta.unbind(-1)
        return (x + 2 * y - 7).square() + (2 * x + y - 5).square()


@dataclass(frozen=True)
class Rastrigin:
    """sum_i (x_i² + 10 - 10 cos 2 pi x_i): a minimum close to each integer point with |x_i| <= 31, 0 at the origin."""

    dim: int = 2

    def __call__(self, theta: Tensor) -> Tensor:
        return (theta.square() + 10 - 10 * torch.cos(2 * math.pi * theta)).sum(-1)


@dataclass(frozen=True)
class MuellerBrown:
    """sum_k A_k exp(a_k dx² + b_k dx dy + c_k dy²) with dx = x - x0_k, dy = y - y0_k (Müller and Brown 1979).

    Three minima, the lowest first near (-0.56, 1.44), (0.62, 0.03) and (-0.05, 0.47), and two saddles of index 1 on
    the way from the first over the third to the second, near (-0.82, 0.62) (the higher) and (0.21, 0.29).
    """

    dim: ClassVar[int] = 2
    A: ClassVar = (-200.0, -100.0, -170.0, 15.0)
    a: ClassVar = (-1.0, -1.0, -6.5, 0.7)
    b: ClassVar = (0.0, 0.0, 11.0, 0.6)
    c: ClassVar = (-10.0, -10.0, -6.5, 0.7)
    x0: ClassVar = (1.0, 0.0, -0.5, -1.0)
    y0: ClassVar = (0.0, 0.5, 1.5, 1.0)

    def __call__(self, theta: Tensor) -> Tensor:
        A, a, b, c, x0, y0 = (theta.new_tensor(v) for v in (self.A, self.a, self.b, self.c, self.x0, self.y0))
        dx, dy = theta[..., :1] - x0, theta[..., 1:] - y0
        return (A * torch.exp(a * dx * dx + b * dx * dy + c * dy * dy)).sum(-1)


@dataclass(frozen=True)
class Eggcarton:
    """cos 2πx + cos 2πy (a toy energy of Draxler et al. 2018's code): minima -2, saddles 0, maxima 2.

    Minima lie at half-integers; neighbours that differ in one coordinate are joined by a straight minimum-energy path
    of saddle 0. On the diagonal between two minima, which crosses a maximum, the force across it is exactly 0.
    """

    dim: ClassVar[int] = 2

    def __call__(self, theta: Tensor) -> Tensor:
        return torch.cos(2 * math.pi * theta).sum(-1)


@dataclass(frozen=True)
class CurvyValley:
    """(y - sin x)² + (1 - (x / x0)²)² with x0 = 5π/2 (a toy energy of Draxler et al. 2018's code).

    Minima 0 at (-x0, -1) and (x0, 1). Every path between them crosses x = 0, where the loss is at least 1, and y =
    sin x attains that at the origin: the minimax is exactly 1.
    """

    dim: ClassVar[int] = 2
    half_distance: ClassVar[float] = 2.5 * math.pi

    def __call__(self, theta: Tensor) -> Tensor:
        x, y = theta.unbind(-1)
        return (y - x.sin()).square() + (1 - (x / self.half_distance).square()).square()


@dataclass(frozen=True)
class DoubleWell:
    """(x² - 1)² + stiffness (y - bend (1 - x²))²: minima 0 at (-1, 0) and (1, 0), saddle 1 at (0, bend).

    Every path between the minima crosses x = 0, where the loss is at least 1, so the minimax is exactly 1. On the
    straight segment the loss is (1 + stiffness bend²) (1 - x²)².
    """

    dim: ClassVar[int] = 2
    bend: float = 1.0
    stiffness: float = 4.0

    def __call__(self, theta: Tensor) -> Tensor:
        x, y = theta.unbind(-1)
        valley = self.bend * (1 - x * x)
        return (x * x - 1).square() + self.stiffness * (y - valley).square()


@dataclass(frozen=True)
class Ring:
    """½ stiffness (r - radius)² + barriers[i] sin²(n angle / 2) between the angles 2 pi i / n and 2 pi (i + 1) / n.

    n = len(barriers) minima of loss 0 at the angles 2 pi i / n; neighbours i and i + 1 are separated by a saddle of
    height barriers[i] >= 0 halfway along the ring. Where all barriers are 0 the whole ring is one flat minimum. The
    gradient is continuous everywhere but at the centre, whose loss ½ stiffness radius² no barrier may exceed.
    """

    dim: ClassVar[int] = 2
    barriers: tuple[float, ...] = (1.0, 2.0, 3.0)
    radius: float = 1.0
    stiffness: float = 20.0

    def __post_init__(self):
        centre = 0.5 * self.stiffness * self.radius**2
        if not self.barriers or min(self.barriers) < 0 or max(self.barriers) > centre:
            raise LossAtlasError(f"barriers {self.barriers}: give at least one, each in [0, {centre:g}]")

    def __call__(self, theta: Tensor) -> Tensor:
        x, y = theta.unbind(-1)
        n = len(self.barriers)
        angle = torch.atan2(y, x)
        sector = torch.floor(angle.detach() * n / (2 * math.pi)).long() % n
        height = theta.new_tensor(self.barriers)[sector]
        off_ring = torch.hypot(x, y) - self.radius
        return 0.5 * self.stiffness * off_ring.square() + height * torch.sin(n * angle / 2).square()

    def minima(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """The n minima (n, 2), in the order of their angles."""
        angle = torch.arange(len(self.barriers), dtype=dtype) * (2 * math.pi / len(self.barriers))
        return self.radius * torch.stack([angle.cos(), angle.sin()], dim=-1)

    def bottlenecks(self) -> Tensor:
        """The minimax loss over all paths between each pair of minima (n, n): the lower of the two ways round.

        A path crosses the middle rays of all sectors on one side, where the loss is at least the sector's barrier,
        or passes through the centre, which is no lower.
        """
        n = len(self.barriers)
        result = torch.zeros(n, n, dtype=torch.float64)
        for i in range(n):
            for j in range(i + 1, n):
                there, back = self.barriers[i:j], self.barriers[j:] + self.barriers[:i]
                result[i, j] = result[j, i] = min(max(there), max(back))
        return result


@dataclass(frozen=True, eq=False)
class Quadratic:
    """½ (theta - minimum)ᵀ H (theta - minimum), with its gradient flow and gradient descent in closed form.

    hessian: the symmetric H (P, P), or its spectrum (P,) for a diagonal one. minimum (P,), the origin if None.
    """

    hessian: Tensor
    minimum: Tensor | None = None

    @property
    def dim(self) -> int:
        return self.hessian.shape[-1]

    def __call__(self, theta: Tensor) -> Tensor:
        offset, hessian = theta - self._centre(theta), self.hessian.to(theta)
        slope = offset * hessian if hessian.dim() == 1 else offset @ hessian
        return 0.5 * (offset * slope).sum(-1)

    def gradient_flow(self, theta: Tensor, time: float) -> Tensor:
        """Where d theta/dt = -gradient leads from theta (..., P) after `time`: the offset times exp(-time H)."""
        return self._propagate(theta, lambda h: torch.exp(-time * h))

    def gradient_descent(self, theta: Tensor, learning_rate: float, steps: int) -> Tensor:
        """Where `steps` steps of gradient descent lead from theta (..., P): the offset times (1 - lr H)^steps."""
        return self._propagate(theta, lambda h: (1 - learning_rate * h) ** steps)

    def _propagate(self, theta: Tensor, factor: Callable[[Tensor], Tensor]) -> Tensor:
        """The offset from the minimum with each of its eigendirections multiplied by factor(eigenvalue)."""
        centre, hessian = self._centre(theta), self.hessian.to(theta)
        offset = theta - centre
        if hessian.dim() == 1:
            return centre + offset * factor(hessian)
        spectrum, vectors = torch.linalg.eigh(hessian)
        return centre + (offset @ vectors * factor(spectrum)) @ vectors.mT

    def _centre(self, theta: Tensor) -> Tensor:
        return theta.new_zeros(self.dim) if self.minimum is None else self.minimum.to(theta)
