"""Layers that have something in common: a global minimum at the origin of the torus, or a part of their values."""

from typing import Protocol

import torch
from torch import Tensor

from lossatlas.errors import LossAtlasError

NEWTON_STEPS = 6
TIE = 2  # roundings of the range: values this close to the lowest, more than two steps away, are a second minimum


class Field(Protocol):
    """What `PerlinField` and `GaussianField` on a torus have in common."""

    @property
    def dim(self) -> int: ...

    def at(self, points: Tensor) -> tuple[Tensor, Tensor]: ...

    def dense(self, samples: int) -> tuple[Tensor, Tensor]: ...

    def shifted(self, shift: Tensor) -> "Field": ...


def global_minimum(field: Field, samples: int = 16) -> Tensor:
    """Where each layer of a field on a torus is lowest, (*batch, d): on a dense grid, then polished by Newton's method.

    Raises `LossAtlasError` where the lowest value is attained at two places, so that there is nothing to align with.
    """
    value, _ = field.dense(samples)
    dim = field.dim
    flat = value.flatten(-dim)
    lowest, index = flat.min(-1)
    size = value.shape[-1]
    place = torch.stack([(index // size ** (dim - 1 - k)) % size for k in range(dim)], -1)  # (*batch, d)
    steps = torch.arange(size, device=value.device)
    far = torch.zeros_like(value, dtype=torch.bool)
    for k in range(dim):
        apart = (steps - place[..., k, None]).remainder(size)
        apart = torch.minimum(apart, size - apart) > 2
        far |= apart.view(*apart.shape[:-1], *(size if axis == k else 1 for axis in range(dim)))
    limit = lowest + TIE * torch.finfo(value.dtype).eps * (flat.amax(-1) - lowest)
    if bool((far.flatten(-dim) & (flat <= limit[..., None])).any()):
        raise LossAtlasError("a layer has no unique global minimum to align at: use another seed or more cells")
    return _polished(field, place.to(value.dtype) / samples, 1 / samples)


def _polished(field: Field, start: Tensor, reach: float) -> Tensor:
    """Newton's method from start (*batch, d), never further than `reach` along an axis from it."""
    x = start
    for _ in range(NEWTON_STEPS):
        slope, hessian = _derivatives(field, x)
        step = torch.linalg.solve(hessian, slope)
        x = torch.where((x - step - start).abs() <= reach, x - step, start)
    return x


def _derivatives(field: Field, x: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (*batch, d) and Hessian (*batch, d, d) at one point a layer, x (*batch, d).

    The Hessian is a central difference of exact gradients: its error slows Newton's method down, no more.
    """
    h = 1e-5 if x.dtype == torch.float64 else 1e-3
    moves = h * torch.eye(field.dim, dtype=x.dtype, device=x.device)
    _, slopes = field.at(x[..., None] + torch.cat([torch.zeros_like(moves[:, :1]), moves, -moves], 1))
    forward, backward = slopes[..., 1 : field.dim + 1], slopes[..., field.dim + 1 :]
    return slopes[..., 0], (forward - backward) / (2 * h)


def aligned(field: Field, samples: int = 16, offset: Tensor | float = 0.0) -> Field:
    """The field with each layer's global minimum at -offset (*batch, d), by default the origin: partial alignment.

    Errors: see `global_minimum`.
    """
    return field.shifted(global_minimum(field, samples) + offset)


def correlated(shared: Tensor, own: Tensor, correlation: float, mean: Tensor | None = None) -> Tensor:
    """Layers m + sqrt(c) (f_0 - m) + sqrt(1 - c) (e_i - m) of which each two have the covariance c Var(f).

    shared f_0 and own e_i are independent values (or gradients) of one law with the mean `mean` m, 0 if None; all of
    one shape, or such that they broadcast. Mean and variance are those of one layer for every c: with m the mean of
    aligned layers, all keep a well of that mean shape at the origin while c says how much of the rest is the same.
    c = 0 gives e_i and c = 1 gives f_0. Raises `LossAtlasError` for a correlation outside [0, 1].
    """
    if not 0 <= correlation <= 1:
        raise LossAtlasError(f"a correlation of {correlation:g} between layers: it must be in [0, 1]")
    a, b = correlation**0.5, (1 - correlation) ** 0.5
    mixed = a * shared + b * own
    return mixed if mean is None else mixed + (1 - a - b) * mean
