"""Losses whose slope is known in closed form, so that autograd neither records nor retraces how they were computed."""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Slope = Callable[[], Tensor]  # computed only where it is asked for


class _Known(torch.autograd.Function):
    @staticmethod
    def forward(ctx, point: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx, outer: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return outer.view(-1, *[1] * (slope.dim() - 1)) * slope, None, None


def with_slope(function: Callable[..., tuple[Tensor, Slope]]) -> Callable[..., Tensor]:
    """A loss (k,) of a first argument (k, ...), made of a function that gives its value and its slope there (k, ...).

    It can be differentiated once and in its first argument alone: the others, as the images of a data set, are fixed.
    """

    @wraps(function)
    def loss(point: Tensor, *fixed) -> Tensor:
        with torch.no_grad():
            value, slope = function(point, *fixed)
            wanted = slope() if point.requires_grad else None
        return value if wanted is None else _Known.apply(point, value, wanted)

    return loss
