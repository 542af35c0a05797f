"""How smooth composites are as aligned layers are added: relief that persists, variation and energy over the depth.

With shared minima the wells add up coherently over a background that grows like the square root of n, so counts are
given raw and relative to the depth of the well.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lossatlas.critical_points import basins, potential, strict_minima
from lossatlas.progress import progress
from lossatlas.studies.perlin.densities import Composites
from lossatlas.studies.perlin.landscapes import (
    BOWL,
    aligned_layer,
    displacement,
    generator,
    layer,
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
    side, sizes = settings["cells"], settings["team_sizes"]
    for alignment in ALIGNMENTS:
        for landscape in progress(settings["landscapes"], f"smoothness, {alignment}"):
            composites = Composites(powers=(1.0,))
            for number in range(max(sizes)):
                value, slope = _layer(alignment, landscape, number, side, device)
                composites.add(value, slope, 2)
                if composites.n in sizes:
                    about = {"alignment": alignment, "landscape": landscape, "n": composites.n}
                    for arm, field in surfaces(composites, side).items():
                        home = int(field.argmin()) if alignment in ("none", "unaligned_bowl") else 0
                        rows.append(about | {"arm": arm} | _relief(field, home, side, settings["persistence"]))
    return rows


def surfaces(composites: Composites, side: int) -> dict[str, Tensor]:
    """The four surfaces (N, N) that are looked at."""
    smooth = {name: potential(composites.direction(arm), float(side))[0] for name, arm in POTENTIALS.items()}
    pasted = {"sum": composites.value["sum"], "max_pasted": composites.value["max"]}
    return {name: field[0] for name, field in (pasted | smooth).items()}


POTENTIALS = {"q1_potential": "q=1", "max_potential": "max"}


def _layer(alignment: str, landscape: int, number: int, side: int, device: str) -> tuple[Tensor, Tensor]:
    """Values (1, N, N) and gradients (1, 2, N, N) of a layer of one octave."""
    if alignment in ("none", "unaligned_bowl"):
        field = layer("perlin_phase", [landscape], number, side, device)
    else:
        field = aligned_layer("desert", [landscape], 0 if alignment == "same" else number, side, device)
    if alignment == "partial":
        field = field.shifted(OFFSET * torch.randn(1, 2, generator=generator("offset", landscape, number)).to(device))
    value, slope = field.dense(SAMPLES)
    if alignment in ("bowl", "unaligned_bowl"):
        x = displacement(side, SAMPLES, device=device)
        value, slope = value + 0.5 * BOWL * x.square().sum(0), slope + BOWL * x
    return value, slope


def _relief(field: Tensor, home: int, side: int, share: float) -> dict[str, Any]:
    field = field.cpu()  # flooding is no work for an accelerator
    found = basins(field.double().numpy(), home)
    at_home = float(field.flatten()[home])
    depth = float(field.median()) - at_home
    step = side / field.shape[-1]
    slope = torch.stack([(field.roll(-1, axis) - field) / step for axis in (0, 1)])
    others = found.barrier > float("-inf")
    passes = (found.barrier - found.birth)[others] / depth
    return {
        "depth": depth,
        "minima": int(strict_minima(field, 2).sum()),
        "persistent": int((found.persistence > share * depth).sum()),
        "variation": float(slope.norm(dim=0).mean()) / depth,
        "energy": float(slope.square().sum(0).mean()) / depth**2,
        "barrier": float(torch.as_tensor(passes).median()) if others.any() else 0.0,
        "basin": float(found.size[~others].sum()) / field.numel(),
    }


def gallery(settings: Mapping[str, Any], device: str = "cpu") -> dict[str, Tensor]:
    """One landscape as pictures (N, N): `one` layer, and composites of `gallery_size` aligned layers of one octave."""
    side = settings["cells"]
    composites = Composites(powers=(1.0,))
    for number in range(settings["gallery_size"]):
        value, slope = _layer("shift", 0, number, side, device)
        composites.add(value, slope, 2)
        if number == 0:
            one = value[0]
    return {name: picture.cpu() for name, picture in {"one": one, **surfaces(composites, side)}.items()}
