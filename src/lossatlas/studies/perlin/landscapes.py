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


def aligned_layer(kind: str, landscapes: Sequence[int], number: int, side: int, device: str = "cpu") -> PerlinField:
    """One Perlin layer of each landscape (see `OCTAVES`) with its global minimum at the origin."""
    dim = space(kind)
    names = [[landscape, number] if dim == 2 else ["space", landscape, number] for landscape in landscapes]
    return aligned(_perlin(names, side, OCTAVES[kind], dim=dim).to(device), 16 if dim == 2 else 8)


def displacement(side: int, samples: int, dim: int = 2, device: str = "cpu") -> Tensor:
    """The shortest vector from the origin to each grid point of the torus: (d, *grid)."""
    axis = torch.arange(side * samples, device=device) / samples
    axis = axis - side * (axis >= side / 2)
    return torch.stack(torch.meshgrid(*(axis,) * dim, indexing="ij"))
