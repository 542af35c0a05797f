"""The landscapes of the study, by name: the same layers meet every arm and every table.

Layers are drawn on the CPU, whatever the device, and moved there once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lossatlas.alignment import Field, aligned
from lossatlas.problems.gaussian_field import GaussianField
from lossatlas.problems.perlin import PerlinField
from lossatlas.seeds import seed

BOWL = 6 / 64  # curvature in cells: ½ 6 |x|² with x in patches of 8 cells
WELLS = 20_000  # landscapes from this number on lend their layers to the mean well and are no unit of any table
OCTAVES = {"desert": 1, "funnel": 4, "bowl": 1, "desert3d": 1, "funnel3d": 3}  # the coarsest of a funnel: one cell


def layer(kind: str, landscapes: Sequence[int], number: int, side: int, device: str = "cpu") -> Field:
    """One layer of each landscape, batch (g,), on a torus of length `side` (cells, or correlation lengths).

    se1d, se2d, se3d: squared-exponential. perlin: unit gradients on one lattice; perlin_phase: the same, each layer
    moved at random; perlin_gaussian: normal gradients; perlin4: four octaves, moved at random.
    """
    names = [[landscape, number] for landscape in landscapes]
    if kind.startswith("se"):
        parts = [GaussianField.torus("perlin", kind, *name, dim=int(kind[2]), side=float(side)) for name in names]
        cosine, sine = (torch.stack([getattr(part, which) for part in parts]) for which in ("cosine", "sine"))
        return GaussianField(parts[0].waves, cosine, sine, float(side)).to(device)
    gradients = "gaussian" if kind == "perlin_gaussian" else "unit"
    octaves = 4 if kind == "perlin4" else 1
    field = _perlin(names, side, octaves, gradients)
    return (field.shifted(phases(names) * side) if kind in ("perlin_phase", "perlin4") else field).to(device)


def _perlin(
    names: Sequence[Sequence[int | str]], side: int, octaves: int, gradients: str = "unit", dim: int = 2
) -> PerlinField:
    settings = {"dim": dim, "cells": side, "octaves": octaves, "gradients": gradients}
    parts = [PerlinField.named("perlin", *name, **settings) for name in names]
    return PerlinField(tuple(torch.stack(same) for same in zip(*(p.lattices for p in parts), strict=True)), dim, side)


def phases(names: Sequence[Sequence[int]], dim: int = 2) -> Tensor:
    """A place for each named layer, uniform in the unit cube: (len(names), dim)."""
    return torch.stack([torch.rand(dim, generator=generator("phase", *name)) for name in names])


def generator(*name: str | int | float) -> torch.Generator:
    return torch.Generator().manual_seed(seed("perlin", *name))


def space(kind: str) -> int:
    """Dimensions of a kind of landscape that is descended."""
    return 3 if kind.endswith("3d") else 2


def aligned_layer(
    kind: str, landscapes: Sequence[int], number: int, side: int, device: str = "cpu", offset: float = 0.0
) -> PerlinField:
    """One Perlin layer of each landscape (see `OCTAVES`) with its global minimum at the origin.

    offset: standard deviation of a normal misplacement of the minima along each axis, in cells.
    """
    dim = space(kind)
    names = [[landscape, number] if dim == 2 else ["space", landscape, number] for landscape in landscapes]
    field = _perlin(names, side, OCTAVES[kind], dim=dim).to(device)
    return aligned(field, 16 if dim == 2 else 8, offset * misplacements(landscapes, number, dim, device))


def misplacements(landscapes: Sequence[int], number: int, dim: int = 2, device: str = "cpu") -> Tensor:
    """Standard normal misplacements (g, d) of one layer of each landscape."""
    dice = [generator("offset", landscape, number) for landscape in landscapes]
    return torch.stack([torch.randn(dim, generator=die) for die in dice]).to(device)


def mean_well(
    kind: str, count: int, side: int, samples: int, device: str = "cpu", batch: int = 8
) -> tuple[Tensor, Tensor]:
    """The mean of `count` aligned layers that belong to no landscape: values (*grid), gradients (d, *grid)."""
    total = None
    for first in range(0, count, batch):
        members = range(WELLS + first, WELLS + min(first + batch, count))
        parts = [part.sum(0) for part in aligned_layer(kind, members, 0, side, device).dense(samples)]
        total = parts if total is None else [a.add_(b) for a, b in zip(total, parts, strict=True)]
    value, slope = total
    return value / count, slope / count


def displacement(side: int, samples: int, dim: int = 2, device: str = "cpu") -> Tensor:
    """The shortest vector from the origin to each grid point of the torus: (d, *grid)."""
    axis = torch.arange(side * samples, device=device) / samples
    axis = axis - side * (axis >= side / 2)
    return torch.stack(torch.meshgrid(*(axis,) * dim, indexing="ij"))
