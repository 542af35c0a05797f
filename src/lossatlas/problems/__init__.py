"""The things with a loss. Every method takes any of them: `problem.dim` and `problem(theta)` are all it may use."""

from typing import Protocol

from torch import Tensor

from lossatlas.problems.analytic import (
    Booth,
    DoubleWell,
    MuellerBrown,
    Quadratic,
    Rastrigin,
    Ring,
    Rosenbrock,
)
from lossatlas.problems.gaussian_field import GaussianField
from lossatlas.problems.perlin import PerlinField

__all__ = [
    "Booth",
    "DoubleWell",
    "GaussianField",
    "MuellerBrown",
    "PerlinField",
    "Problem",
    "Quadratic",
    "Rastrigin",
    "Ring",
    "Rosenbrock",
]


class Problem(Protocol):
    """A loss over `dim` parameters."""

    @property
    def dim(self) -> int:
        """P, the number of parameters."""

    def __call__(self, theta: Tensor) -> Tensor:
        """Losses (...) at the points theta (..., P): differentiable, in the dtype and on the device of theta."""
