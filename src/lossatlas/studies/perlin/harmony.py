"""Same global minimum, different local minima: where teams rest and who arrives, as either is taken away by degrees.

The layers are funnels of the descents, so that c = 0 with exact alignment is that table's landscapes, starts and arms.
Alignments: `none`, layers moved at random; `shift`, every global minimum at the origin; `partial`, the same with a
normal misplacement; `bowl`, aligned with a bowl in every layer; `unaligned_bowl`, its control. Correlation: layers that
are not aligned are sqrt(c) f_0 + sqrt(1 - c) e_i; aligned ones keep the mean well and share what deviates from it (see
`lossatlas.alignment.correlated`), since moving each layer by its own minimum would pull apart what they share, and
mixing whole wells would deepen them. c = 1 is one layer n times, the control.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import nan
from typing import Any

import torch
from torch import Tensor

from lossatlas.alignment import correlated
from lossatlas.critical_points import sliding_points, stall_points
from lossatlas.progress import progress
from lossatlas.studies.perlin.densities import Composites
from lossatlas.studies.perlin.descents import RADIUS, on_grid, start_points
from lossatlas.studies.perlin.landscapes import BOWL, aligned_layer, displacement, layer, mean_well

KIND = "funnel"
LOOSE = "perlin4"  # the same layers, moved at random
SHARED = -1  # the number of the layer that all layers of a landscape share
ARMS = ("sum", "q=1", "max")
WELL_LAYERS = 128  # over which the mean well is taken: its error is a twelfth of a layer's spread
Layer = tuple[Tensor, Tensor]  # values (g, N, N) and gradients (g, 2, N, N)


@dataclass(frozen=True)
class Condition:
    """How the layers of a team are related; offset in cells, NaN where they are not aligned at all."""

    alignment: str
    correlation: float
    offset: float


def measure(settings: Mapping[str, Any], device: str = "cpu") -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of two tables, with alignment, correlation, offset, landscape, n and arm each.

    Densities: attractors (windings, those that touch once for the largest gradient) at n = 1 and the team sizes;
    likeness: mean correlation of two layers over the torus, wells included; lowest: share of the layers whose lowest
    site is within half a cell of the origin. Descents (not where nothing is aligned: there is no common goal to arrive
    at): rate, runs, success, evaluations as in the table of descents.
    """
    densities, descents = [], []
    side, samples, total = settings["cells"], settings["samples"], settings["landscapes"]
    well = mean_well(KIND, settings["well_layers"], side, samples, device)
    chunks = [range(a, min(a + settings["chunk"], total)) for a in range(0, total, settings["chunk"])]
    for chunk in progress(chunks, "harmony"):
        start = start_points(KIND, chunk, settings["starts"], side, device)
        for condition, team in _teams(chunk, well, settings, device):
            rows, fields = _densities(chunk, team, settings)
            about = asdict(condition)
            densities += [about | row for row in rows]
            if condition.alignment != "none":
                descents += [about | row for row in _descents(chunk, fields, start, settings)]
    return densities, descents


def _teams(
    landscapes: range, well: Layer, settings: Mapping[str, Any], device: str
) -> Iterator[tuple[Condition, Iterator[Layer]]]:
    """Every condition with its layers, drawn as they are asked for."""
    side, samples, most = settings["cells"], settings["samples"], max(settings["team_sizes"])
    x = displacement(side, samples, device=device)

    def bowled(layers: list[Layer]) -> Iterator[Layer]:
        return ((value + 0.5 * BOWL * x.square().sum(0), slope + BOWL * x) for value, slope in layers)

    def mixed(shared: Layer, layers: list[Layer], c: float, mean: Layer | tuple[None, None]) -> Iterator[Layer]:
        return (tuple(correlated(*parts, c, m) for *parts, m in zip(shared, own, mean, strict=True)) for own in layers)

    shared, *loose = (layer(LOOSE, landscapes, i, side, device).dense(samples) for i in (SHARED, *range(most)))
    for c in settings["correlations"]:
        yield Condition("none", c, nan), mixed(shared, loose, c, (None, None))
    yield Condition("unaligned_bowl", 0.0, nan), bowled(loose)
    del loose
    fields = (aligned_layer(KIND, landscapes, i, side, device) for i in (SHARED, *range(most)))
    shared, *layers = (field.dense(samples) for field in fields)
    for c in settings["correlations"]:
        yield Condition("shift", c, 0.0), mixed(shared, layers, c, well)
    yield Condition("bowl", 0.0, 0.0), bowled(layers)
    del layers
    for offset in settings["offsets"]:
        fields = (aligned_layer(KIND, landscapes, i, side, device, offset) for i in range(most))
        yield Condition("partial", 0.0, offset), (field.dense(samples) for field in fields)


def _densities(
    landscapes: range, team: Iterator[Layer], settings: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], dict[int, Tensor]]:
    """Rows by landscape, n and arm, and the directions (g, arms, 2, N, N) at each team size."""
    composites, rows, fields = Composites(powers=(1.0,)), [], {}
    side, samples = settings["cells"], settings["samples"]
    near = displacement(side, samples).norm(dim=0).flatten() <= RADIUS
    variance, at_origin = 0.0, 0.0
    for value, slope in team:
        composites.add(value, slope, 2)
        n, flat = composites.n, value.flatten(1)
        variance = variance + flat.var(-1)
        at_origin = at_origin + near.to(flat.device)[flat.argmin(-1)]
        if n > 1 and n not in settings["team_sizes"]:
            continue
        # Var(sum) = sum of variances + n (n - 1) covariances, relative to the mean variance
        together = composites.value["sum"].flatten(1).var(-1)
        likeness = (together - variance) * n / (n * (n - 1) * variance) if n > 1 else torch.full_like(together, nan)
        arms = ARMS if n > 1 else ARMS[:1]  # of one layer all arms are the layer
        directions = {arm: composites.direction(arm) for arm in arms}
        if n > 1:
            fields[n] = torch.stack(list(directions.values()), 1)
        count = {arm: sliding_points if arm == "max" else stall_points for arm in arms}
        counts = {arm: count[arm](v).attractors for arm, v in directions.items()}
        rows += [
            {"landscape": landscape, "n": n, "arm": arm, "attractors": int(found[i])}
            | {"likeness": float(likeness[i]), "lowest": float(at_origin[i]) / n}
            for arm, found in counts.items()
            for i, landscape in enumerate(landscapes)
        ]
    return rows, fields


def _descents(
    landscapes: range, fields: Mapping[int, Tensor], start: Tensor, settings: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Rows by landscape, n, arm and rate: all sizes and arms descend side by side."""
    side, rates = settings["cells"], torch.tensor(settings["rates"], device=start.device)
    runs = on_grid(torch.cat(list(fields.values()), 1), start, rates, settings["steps"], side)
    away = (runs.end + side / 2).remainder(side) - side / 2
    arrived = (away.norm(dim=-1) < RADIUS).sum(-1).cpu()  # (g, sizes * arms, r)
    for i, landscape in enumerate(landscapes):
        for j, (n, arm) in enumerate((n, arm) for n in fields for arm in ARMS):
            for k, rate in enumerate(settings["rates"]):
                yield (
                    {"landscape": landscape, "n": n, "arm": arm, "rate": rate, "runs": start.shape[1]}
                    | {"success": int(arrived[i, j, k]), "evaluations": settings["steps"] * n}
                )
