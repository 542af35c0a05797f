"""How smooth composites are as aligned layers are added: relief that persists, variation and energy over the depth.

With shared minima the wells add up coherently over a background that grows like the square root of n, so counts are
given raw and relative to the depth of the well.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lossatlas.critical_points import basins, potential, strict_minima
from lossatlas.problems.perlin import PerlinField
from lossatlas.progress import progress
from lossatlas.studies.perlin.densities import Composites
from lossatlas.studies.perlin.landscapes import (
    BOWL,
    aligned_layer,
    displacement,
    layer,
    misplacements,
)

ALIGNMENTS = ("none", "shift", "partial", "bowl", "unaligned_bowl", "same")
OFFSET = 0.25  # cells: standard deviation of the misplacement of a partially aligned layer
SAMPLES = 16


def measure(settings: Mapping[str, Any], device: str = "cpu") -> list[dict[str, Any]]:
    """Rows (alignment, landscape, n, arm, depth, minima, persistent, variation, energy, barrier, basin).

    depth: median minus the value at the well (the origin, or the lowest site of layers that are not aligned). minima:
    strict ones; persistent: those whose persistence is above a share of the depth. variation: mean |gradient| over the
    depth; energy: mean |gradient|² over its square; barrier: median over minima of the pass to the well above them,
    over the depth; basin: share of sites that flow to the well. Arms: the sum, the largest gradient pasted, and the
    potential of the q = 1 composite and of the largest gradient's.
    """
    rows = []
    side, sizes, landscapes = settings["cells"], settings["team_sizes"], range(settings["landscapes"])
    team = [aligned_layer("desert", landscapes, number, side, device) for number in range(max(sizes))]
    for alignment in progress(ALIGNMENTS, "smoothness"):
        composites = Composites(powers=(1.0,))
        for number, field in enumerate(team):
            if number == 0 or alignment != "same":
                parts = _layers(alignment, landscapes, number, field, side, device)
            composites.add(*parts, 2)
            if composites.n not in sizes:
                continue
            about = {"alignment": alignment, "n": composites.n}
            for arm, fields in surfaces(composites, side).items():
                for landscape, values in enumerate(fields.cpu()):  # flooding is no work for an accelerator
                    home = int(values.argmin()) if alignment in ("none", "unaligned_bowl") else 0
                    relief = _relief(values, home, side, settings["persistence"])
                    rows.append(about | {"landscape": landscape, "arm": arm} | relief)
    return rows


def surfaces(composites: Composites, side: int) -> dict[str, Tensor]:
    """The four surfaces (g, N, N) that are looked at."""
    smooth = {name: potential(composites.direction(arm), float(side))[0] for name, arm in POTENTIALS.items()}
    return {"sum": composites.value["sum"], "max_pasted": composites.value["max"]} | smooth


POTENTIALS = {"q1_potential": "q=1", "max_potential": "max"}


def _layers(
    alignment: str, landscapes: Sequence[int], number: int, field: PerlinField, side: int, device: str
) -> tuple[Tensor, Tensor]:
    """Values (g, N, N) and gradients (g, 2, N, N) of a layer of one octave, given the aligned one."""
    if alignment in ("none", "unaligned_bowl"):
        field = layer("perlin_phase", landscapes, number, side, device)
    elif alignment == "partial":
        field = field.shifted(OFFSET * misplacements(landscapes, number, device=device))
    value, slope = field.dense(SAMPLES)
    if alignment in ("bowl", "unaligned_bowl"):
        x = displacement(side, SAMPLES, device=device)
        value, slope = value + 0.5 * BOWL * x.square().sum(0), slope + BOWL * x
    return value, slope


def _relief(field: Tensor, home: int, side: int, share: float) -> dict[str, Any]:
    found = basins(field.double().numpy(), home)
    at_home = float(field.flatten()[home])
    depth = float(field.median()) - at_home
    step = side / field.shape[-1]
    steepness = sum(((field.roll(-1, axis) - field) / step).square_() for axis in (0, 1))  # |gradient|²
    others = found.barrier > float("-inf")
    passes = (found.barrier - found.birth)[others] / depth
    return {
        "depth": depth,
        "minima": int(strict_minima(field, 2).sum()),
        "persistent": int((found.persistence > share * depth).sum()),
        "variation": float(steepness.sqrt().mean()) / depth,
        "energy": float(steepness.mean()) / depth**2,
        "barrier": float(torch.as_tensor(passes).median()) if others.any() else 0.0,
        "basin": float(found.size[~others].sum()) / field.numel(),
    }


def gallery(settings: Mapping[str, Any], device: str = "cpu") -> dict[str, Tensor]:
    """One landscape as pictures (N, N): `one` layer, and composites of `gallery_size` aligned layers of one octave."""
    side = settings["cells"]
    composites = Composites(powers=(1.0,))
    for number in range(settings["gallery_size"]):
        value, slope = aligned_layer("desert", [0], number, side, device).dense(SAMPLES)
        composites.add(value, slope, 2)
        if number == 0:
            one = value
    return {name: picture[0].cpu() for name, picture in {"one": one, **surfaces(composites, side)}.items()}
