"""Counts of common minima: white noise on grids, layers that share a part, and smooth fields. The unit is the field."""

from collections.abc import Iterator, Mapping
from math import log
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from lossatlas.critical_points import neighbour_count, strict_minima
from lossatlas.progress import progress
from lossatlas.studies.perlin.landscapes import generator, layer
from lossatlas.studies.perlin.plan import WHITE

CORRELATIONS = (0.0, 0.25, 0.5, 0.75, 0.95)
CORRELATED_SIZES = 8
HITS = 25  # expected common minima at the largest n
RADII = (0.25, 0.5, 1.0, 1.5, 2.0)  # in correlation lengths
SMOOTH = {"se2d": 1.0, "perlin_phase": 0.4, "perlin4": 0.4}  # unit of the radii: that of equal density of minima
STEPS = (2, 4, 8)  # samples a unit of length at which minima of smooth fields are asked to share a site
FINE = 16  # samples at which their positions are located
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
                equal = sum((x == x.roll(-1, axis)).sum() for axis in range(dim))
                counts = {"common": common, "union": union, "total": strict_minima(total, dim, neighbours)}
                rows.append(
                    {"dim": dim, "neighbours": neighbours, "values": values, "field": number, "n": n, "sites": sites}
                    | {name: int(mask.sum()) for name, mask in counts.items()}
                    | {"ties": int(equal)}
                )
    return rows


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
                minima = strict_minima(c**0.5 * shared + (1 - c) ** 0.5 * own, 2)
                common[c] = common[c] & minima if c in common else minima
                rows.append(
                    {"correlation": c, "field": number, "n": n, "sites": side * side, "common": int(common[c].sum())}
                )
    return rows


def smooth(settings: Mapping[str, Any], device: str = "cpu") -> list[dict[str, Any]]:
    """Rows (kind, field, measure, parameter, n, exposure, count) for smooth layers moved at random.

    measure `grid`: sites that are strict minima of all n layers on a grid of `parameter` samples a length, exposure the
    sites. `near`: minima of layer 1 with a minimum of every other layer within the radius `parameter`, exposure the
    area. `space` (n = 1): random points with a minimum of their layer within that radius, exposure the points. `one` (n
    = 1): minima of one layer.
    """
    rows = []
    side = settings["coincidence_side"]
    for kind, unit in SMOOTH.items():
        for number in progress(settings["coincidence_fields"], f"coincidences of {kind}"):
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
    for n in range(1, SMOOTH_SIZES + 1):
        field = layer(kind, [number], n, side, device)
        if kind == "se2d":
            field = field.shifted(side * torch.rand(2, generator=generator("phase", "se2d", number, n)).to(device))
        value = field.dense(FINE)[0][0]
        for step in STEPS:
            coarse = value[:: FINE // step, :: FINE // step]
            minima = strict_minima(coarse, 2)
            masks[step] = masks[step] & minima if step in masks else minima
            yield "grid", step, n, coarse.numel(), masks[step].sum()
        place = strict_minima(value, 2).nonzero().cpu().numpy() / FINE
        tree = cKDTree(place, boxsize=side)
        probes = np.random.default_rng(generator("probes", kind, number, n).initial_seed()).uniform(
            0, side, (PROBES, 2)
        )
        distance, _ = tree.query(probes)
        yield "one", 0.0, n, side * side, len(place)
        for radius in RADII:
            yield "space", radius, n, PROBES, (distance <= radius * unit).sum()
        if near is None:
            anchors, near = place, np.zeros(len(place))
        else:
            near = np.maximum(near, tree.query(anchors)[0])
        for radius in RADII:
            yield "near", radius, n, side * side, (near <= radius * unit).sum()


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
