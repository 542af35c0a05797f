"""Counts of common minima: white noise on grids, layers that share a part, and smooth fields. The unit is the field."""

from collections.abc import Iterator, Mapping
from math import log
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from lossatlas.alignment import correlated as correlated_layer
from lossatlas.critical_points import neighbour_count, strict_minima
from lossatlas.progress import progress
from lossatlas.studies.perlin.landscapes import generator, layer
from lossatlas.studies.perlin.plan import WHITE

CORRELATIONS = (0.0, 0.25, 0.5, 0.75, 0.95)
CORRELATED_SIZES = 8
HITS = 25  # expected common minima at the largest n
RADII = (0.25, 0.5, 1.0, 1.5, 2.0)  # in correlation lengths
SPACE = "se3d"
# unit of the radii; in the plane the kinds have the same number of minima in a disc of it
SMOOTH = {"se2d": 1.0, "perlin_phase": 0.4, "perlin4": 0.4, SPACE: 1.0}
STEPS = (2, 4, 8)  # samples a unit of length at which minima of smooth fields are asked to share a site
FINE = {2: 16, 3: 8}  # samples at which their positions are located, by dimension
PROBES = 2000  # random points at which the empty-space function of a layer is measured
SMOOTH_SIZES = 4
BOWL_MU = 0.3
BOWL_SIDE = 64  # of which |x| < BOWL_WINDOW is counted, far from where the bowl is cut
BOWL_WINDOW = 16
BOWL_SIZES = (1, 2, 4, 8, 16, 32)


def sizes_for(rate: float, sites: float, most: int = 12) -> int:
    """The largest n with HITS common minima expected, p^n sites >= HITS; 2 at least."""
    return max(2, min(most, int(log(sites / HITS) / -log(rate))))


def white(settings: Mapping[str, Any], device: str = "cpu") -> list[dict[str, Any]]:
    """Rows (dim, neighbours, values, field, n, sites, common, union, total, ties): streamed over layers.

    common, union: sites that are minima of all of, of any of the n layers; total: minima of their sum; ties: sites that
    equal their next neighbour along an axis in the n-th layer alone, which rounding makes and no law of minima knows.
    """
    rows = []
    fields, wanted = settings["white_fields"], settings["white_sites"]
    for dim, neighbours, values in progress(WHITE, "white noise"):
        side = round(wanted ** (1 / dim))
        sites = side**dim
        most = sizes_for(1 / (neighbour_count(dim, neighbours) + 1), fields * sites)
        for number in range(fields):
            common = union = total = None
            for n in range(1, most + 1):
                g = generator("white", dim, neighbours, values, number, n)
                x = _draw(values, (side,) * dim, g).to(device)
                minima = strict_minima(x, dim, neighbours)
                common = minima if common is None else common & minima
                union = minima if union is None else union | minima
                total = x if total is None else total + x
                equal = sum(_equal_neighbours(x, axis) for axis in range(dim))
                counts = {"common": common, "union": union, "total": strict_minima(total, dim, neighbours)}
                rows.append(
                    {"dim": dim, "neighbours": neighbours, "values": values, "field": number, "n": n, "sites": sites}
                    | {name: int(mask.count_nonzero()) for name, mask in counts.items()}
                    | {"ties": int(equal)}
                )
    return rows


def _equal_neighbours(x: Tensor, axis: int) -> Tensor:
    """Sites that equal the next one along an axis of the torus."""
    size = x.shape[axis]
    inside = (x.narrow(axis, 0, size - 1) == x.narrow(axis, 1, size - 1)).count_nonzero()
    return inside + (x.select(axis, size - 1) == x.select(axis, 0)).count_nonzero()


def _draw(values: str, shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    if values == "normal":
        return torch.randn(shape, generator=g)
    uniform = torch.rand(shape, generator=g)
    # the exponential by inversion of float64: float32 would tie where the density is high
    return uniform if values == "uniform" else -torch.log1p(-uniform.double())


def correlated(settings: Mapping[str, Any], device: str = "cpu") -> list[dict[str, Any]]:
    """Rows (correlation, field, n, sites, common) for layers sqrt(c) f_0 + sqrt(1 - c) e_i of 2-D white noise."""
    rows = []
    side = round(settings["white_sites"] ** 0.5)
    for number in progress(settings["white_fields"], "correlated layers"):
        shared = torch.randn(side, side, generator=generator("correlated", number, 0)).to(device)
        common: dict[float, Tensor] = {}
        for n in range(1, CORRELATED_SIZES + 1):
            own = torch.randn(side, side, generator=generator("correlated", number, n)).to(device)
            for c in CORRELATIONS:
                minima = strict_minima(correlated_layer(shared, own, c), 2)
                common[c] = common[c] & minima if c in common else minima
                rows.append(
                    {
                        "correlation": c,
                        "field": number,
                        "n": n,
                        "sites": side * side,
                        "common": int(common[c].count_nonzero()),
                    }
                )
    return rows


def smooth(settings: Mapping[str, Any], device: str = "cpu") -> list[dict[str, Any]]:
    """Rows (kind, field, measure, parameter, n, exposure, count) for smooth layers moved at random.

    measure `grid`: sites that are strict minima of all n layers on a grid of `parameter` samples a length, exposure the
    sites. `near`: minima of layer 1 with a minimum of every other layer within the radius `parameter`, exposure the
    area or volume. `space` (n = 1): random points with a minimum of their layer within that radius, exposure the
    points. `one` (n = 1): minima of one layer.
    """
    rows = []
    for kind, unit in SMOOTH.items():
        part = "coincidence_space" if kind == SPACE else "coincidence"
        fields, side = settings[f"{part}_fields"], settings[f"{part}_side"]
        for number in progress(fields, f"coincidences of {kind}"):
            rows += [
                {"kind": kind, "field": number, "measure": measure, "parameter": float(parameter), "n": n}
                | {"exposure": float(exposure), "count": int(count)}
                for measure, parameter, n, exposure, count in _coincidences(kind, unit, number, side, device)
            ]
    return rows


def _coincidences(
    kind: str, unit: float, number: int, side: int, device: str
) -> Iterator[tuple[str, float, int, float, int]]:
    masks: dict[int, Tensor] = {}
    near = None
    dim = int(kind[2]) if kind.startswith("se") else 2
    fine = FINE[dim]
    for n in range(1, SMOOTH_SIZES + 1):
        field = layer(kind, [number], n, side, device)
        if kind.startswith("se"):
            field = field.shifted(side * torch.rand(dim, generator=generator("phase", kind, number, n)).to(device))
            value = field.values(fine)[0]
        else:
            value = field.dense(fine)[0][0]
        for step in STEPS:
            coarse = value[(slice(None, None, fine // step),) * dim]
            minima = strict_minima(coarse, dim)
            masks[step] = masks[step] & minima if step in masks else minima
            yield "grid", step, n, coarse.numel(), masks[step].sum()
        place = strict_minima(value, dim).nonzero().cpu().numpy() / fine
        tree = cKDTree(place, boxsize=side)
        dice = np.random.default_rng(generator("probes", kind, number, n).initial_seed())
        distance, _ = tree.query(dice.uniform(0, side, (PROBES, dim)))
        yield "one", 0.0, n, side**dim, len(place)
        for radius in RADII:
            yield "space", radius, n, PROBES, (distance <= radius * unit).sum()
        if near is None:
            anchors, near = place, np.zeros(len(place))
        else:
            near = np.maximum(near, tree.query(anchors)[0])
        for radius in RADII:
            yield "near", radius, n, side**dim, (near <= radius * unit).sum()


def bowls(settings: Mapping[str, Any], device: str = "cpu") -> list[dict[str, Any]]:
    """Rows (field, n, minima) of sums of n one-dimensional Gaussian layers with a bowl each, for |x| < 16."""
    samples = 16
    x = torch.arange(-BOWL_SIDE // 2 * samples, BOWL_SIDE // 2 * samples, device=device) / samples
    inside = (x[:-1] >= -BOWL_WINDOW) & (x[:-1] < BOWL_WINDOW)
    rows, total = [], 0
    fields = [10_000 + field for field in range(settings["bowl_fields"])]
    for number in range(max(BOWL_SIZES)):
        slope = layer("se1d", fields, number, BOWL_SIDE, device)
        total = total + slope.dense(samples)[1][:, 0]
        n = number + 1
        if n in BOWL_SIZES:
            v = total + n * BOWL_MU * x
            minima = ((v[:, :-1] < 0) & (v[:, 1:] >= 0) & inside).sum(-1)
            rows += [{"field": i, "n": n, "minima": m} for i, m in enumerate(minima.tolist())]
    return rows
