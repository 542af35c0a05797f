"""SO(2) on test functions that are u² + v² in other coordinates (Zhao et al. 2022, arXiv 2205.10637, section 3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chart:
    """Coordinates z = (u, v) in which a loss on the plane is u² + v²: x (..., 2) -> z, its inverse, and dz/dx."""

    to_linear: Callable[[Tensor], Tensor]
    from_linear: Callable[[Tensor], Tensor]
    jacobian: Callable[[Tensor], Tensor]


def _stack(*columns: Tensor) -> Tensor:
    return torch.stack(columns, -1)


def _rosenbrock_jacobian(p: Tensor) -> Tensor:
    x = p[..., 0]
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    return torch.stack([_stack(20 * x, -10 * one), _stack(one, zero)], -2)


BOOTH_ROWS = ((1.0, 2.0), (2.0, 1.0))

# Zhao et al. 2022 (arXiv 2205.10637), section 3: u = 10 (x² - y), v = x - 1, and u = x + 2y - 7, v = 2x + y - 5.
ROSENBROCK = Chart(
    lambda p: _stack(10 * (p[..., 0] ** 2 - p[..., 1]), p[..., 0] - 1),
    lambda z: _stack(z[..., 1] + 1, (z[..., 1] + 1) ** 2 - z[..., 0] / 10),
    _rosenbrock_jacobian,
)
BOOTH = Chart(
    lambda p: _stack(p[..., 0] + 2 * p[..., 1] - 7, 2 * p[..., 0] + p[..., 1] - 5),
    lambda z: _stack(-z[..., 0] / 3 + 2 * z[..., 1] / 3 + 1, 2 * z[..., 0] / 3 - z[..., 1] / 3 + 3),
    lambda p: p.new_tensor(BOOTH_ROWS).expand(*p.shape[:-1], 2, 2),
)


def rotated(z: Tensor, angle: Tensor) -> Tensor:
    """z (..., 2) turned by angle (...)."""
    c, s = angle.cos(), angle.sin()
    return _stack(c * z[..., 0] - s * z[..., 1], s * z[..., 0] + c * z[..., 1])


@dataclass(frozen=True)
class PlaneRotation:
    """SO(2) on the level sets of u² + v². An element is an angle in radians for each member, (k,)."""

    chart: Chart
    diagonal = False

    def identity(self, k: int) -> Tensor:
        return torch.zeros(k, dtype=torch.float64)

    def compose(self, second: Tensor, first: Tensor) -> Tensor:
        return second + first

    def inverse(self, element: Tensor) -> Tensor:
        return -element

    def act(self, theta: Tensor, element: Tensor) -> Tensor:
        """theta (..., 2) with angles (...)."""
        moved = self.chart.from_linear(rotated(self.chart.to_linear(theta), element.to(theta)))
        return torch.where(element[..., None] == 0, theta, moved)  # the charts round

    def cotangent(self, theta: Tensor, element: Tensor, covector: Tensor) -> Tensor:
        at_z = torch.linalg.solve(self.chart.jacobian(theta).mT, covector)
        turned = rotated(at_z, element.to(theta))
        return (self.chart.jacobian(self.act(theta, element)).mT @ turned[..., None])[..., 0]

    def random(self, k: int, radius: float, generators: Sequence[torch.Generator]) -> Tensor:
        """Angles (k,) even in ±radius."""
        return radius * torch.cat([2 * torch.rand(1, generator=g, dtype=torch.float64) - 1 for g in generators])

    def gradient_squares(self, theta: Tensor, angles: Tensor) -> Tensor:
        """||grad L||² (k, m) at the images of theta (k, 2) under angles (k, m); the gradient is 2 (dz/dx)ᵀ z."""
        moved = self.act(theta[:, None].expand(-1, angles.shape[1], 2), angles)
        z = self.chart.to_linear(moved)
        return 4 * (self.chart.jacobian(moved).mT @ z[..., None])[..., 0].square().sum(-1)

    def argmax(self, theta: Tensor, samples: int = 32, grid: int = 720) -> Tensor:
        """The angles (k,) of greatest ||grad L|| on the whole orbit; of several, the one nearest to 0.

        ||grad L||² is a trigonometric polynomial (degree 2 for Booth, 4 for Rosenbrock), so fewer samples than that
        determine it; its best grid point is polished by Newton's iteration on the derivative.
        """
        nodes = torch.arange(samples, dtype=theta.dtype) * (2 * torch.pi / samples)
        values = self.gradient_squares(theta, nodes.expand(len(theta), -1))
        coefficients = 2 * torch.fft.rfft(values, dim=-1) / samples
        order = torch.arange(coefficients.shape[-1], dtype=theta.dtype)

        def derivative(angle: Tensor, times: int) -> Tensor:
            waves = torch.exp(1j * order * angle[..., None]) * (1j * order) ** times
            return (coefficients[:, None] * waves).real.sum(-1)

        points = torch.arange(grid, dtype=theta.dtype) * (2 * torch.pi / grid) - torch.pi
        heights = derivative(points.expand(len(theta), -1), 0)
        lowest, highest = heights.amin(-1, keepdim=True), heights.amax(-1, keepdim=True)
        # the grid misses a peak by at most (degree * spacing / 2)² / 2 of its height, 2e-4
        as_high = heights >= highest - 5e-4 * (highest - lowest)
        angle = torch.where(as_high, points.abs(), torch.inf).argmin(-1)
        angle = points[angle][:, None]
        for _ in range(8):
            bend = derivative(angle, 2)
            step = torch.where(bend < 0, -derivative(angle, 1) / bend, 0)
            angle = angle + step.clamp(-2 * torch.pi / grid, 2 * torch.pi / grid)
        return angle[:, 0]
