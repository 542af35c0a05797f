"""Annealed smoothing, teleports and composites on the same Perlin landscapes, at equal numbers of evaluations.

A landscape is the mean of n layers of Perlin noise (the funnels of the study `perlin`) that share their global minimum,
at the origin of a torus. One evaluation is the loss of all n layers at a point; a gradient of all n counts as 3, a
product with the Hessian as 6. Every arm has the same evaluations, is credited with the lowest loss that it has
evaluated, and takes the rate that served it best on other landscapes, out of one grid. Rates are in cells: they are
divided by the root mean square of the gradient on those other landscapes, and fall to 0 by a half cosine.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from lossatlas import evolution
from lossatlas.alignment import aligned
from lossatlas.composite import PowerWeighting, combine, gramian
from lossatlas.evolution.annealing import Annealing
from lossatlas.problems.perlin import PerlinField
from lossatlas.progress import progress
from lossatlas.seeds import seed
from lossatlas.studies.evolution.laws import _columns
from lossatlas.studies.perlin.landscapes import OCTAVES, aligned_layer
from lossatlas.teleport import HESSIAN_VECTOR, level_set
from lossatlas.teleport.searches import shifted

GRADIENT = 3  # evaluations that a gradient counts as: a backward pass is two forward passes
KIND, SIDE = "funnel", 8  # of the study `perlin`: four octaves on a torus of 8 cells
SAMPLES = 8  # points a cell among which the global minimum of a layer in three dimensions is looked for
RADIUS = 0.5  # cells: a run whose lowest point is this near the common minimum has found it
TUNING = 1000  # number of the first landscape that rates are chosen on
MARKS = 6  # equal parts of the budget after which runs are compared
POPULATION = 10
RESTARTS = 4
TELEPORTS, TRIALS, RESTORATIONS = 2, 4, 3
# what `level_set.ascend` may use at most; all of it is charged
TELEPORT = int(GRADIENT * (1 + TRIALS + RESTORATIONS + HESSIAN_VECTOR * (1 + TRIALS)))
POWERS = {"descent": 0.0, "q = -1": -1.0, "q = 1": 1.0, "q = 4": 4.0}
SIGMAS = {"annealed": (1.5, 0.1), "small sigma": (0.1, 0.1), "large sigma": (1.5, 1.5)}  # cells; roughness has 1 to 2
JUMPS = ("teleport", "random shift")


@dataclass(frozen=True, eq=False)
class Landscapes:
    """n layers of each of g landscapes, their names, and starts (g, s, d); layers is a field of batch (g, n)."""

    names: Sequence[int]
    layers: PerlinField
    start: Tensor

    @property
    def dim(self) -> int:
        return self.layers.dim

    @property
    def n(self) -> int:
        return self.layers.shift.shape[1]

    @property
    def lowest(self) -> Tensor:
        """The loss (g,) at the common minimum. Its mean over the torus is 0, since the kernel of the noise is odd."""
        return self.layers.values(self.start.new_zeros(self.dim, 1)).mean((1, 2))

    def team(self, n: int) -> "Landscapes":
        """The same landscapes with their first n layers."""
        parts = tuple(lattice[:, :n] for lattice in self.layers.lattices)
        return replace(self, layers=replace(self.layers, lattices=parts, shift=self.layers.shift[:, :n]))

    def at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean losses (g, ...) and gradients (g, ..., n, d) of the layers at x (g, ..., d)."""
        value, slope = self.layers.at(x.flatten(1, -2).mT[:, None])  # (g, n, B), (g, n, d, B)
        shape = x.shape[1:-1]
        return value.mean(1).unflatten(1, shape), slope.permute(0, 3, 1, 2).unflatten(1, shape)

    def losses(self, x: Tensor) -> Tensor:
        """The former alone."""
        return self.layers.values(x.flatten(1, -2).mT[:, None]).mean(1).unflatten(1, x.shape[1:-1])


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean loss as a problem of g times `points` members, for the level-set method."""

    landscapes: Landscapes
    points: int
    own_rows = True

    @property
    def dim(self) -> int:
        return self.landscapes.dim

    def __call__(self, theta: Tensor) -> Tensor:
        return self.landscapes.losses(theta.unflatten(0, (-1, self.points))).flatten()


def landscapes(dim: int, names: Sequence[int], n: int, starts: int) -> Landscapes:
    """Aligned funnels; in two dimensions those of the study `perlin`. Starts are uniform on the torus."""
    layers = [_layer(dim, names, number) for number in range(n)]
    lattices = tuple(torch.stack(same, 1) for same in zip(*(layer.lattices for layer in layers), strict=True))
    field = replace(layers[0], lattices=lattices, shift=torch.stack([layer.shift for layer in layers], 1))
    start = torch.zeros(len(names), starts, dim)
    here = Landscapes(names, field, start)
    return replace(here, start=torch.stack([_uniform(here, "start", name) for name in names]))


def _layer(dim: int, names: Sequence[int], number: int) -> PerlinField:
    if dim == 2:
        return aligned_layer(KIND, names, number, SIDE)
    shape = {"dim": dim, "cells": SIDE, "octaves": OCTAVES[KIND]}
    parts = [PerlinField.named("evolution", "landscapes", dim, name, number, **shape) for name in names]
    lattices = tuple(torch.stack(same) for same in zip(*(part.lattices for part in parts), strict=True))
    return aligned(replace(parts[0], lattices=lattices), SAMPLES)


def _uniform(here: Landscapes, *name: str | int, points: int | None = None) -> Tensor:
    """Named points on the torus (s, d), or (s, points, d)."""
    shape = (here.start.shape[1], *([] if points is None else [points]), here.dim)
    return SIDE * torch.rand(shape, generator=_generator(here.dim, *name))


def _generator(*name: str | int) -> torch.Generator:
    return torch.Generator().manual_seed(seed("evolution", "landscapes", *name))


# --- runs -------------------------------------------------------------------------------------------------------------

# Evaluations spent in all, points (g, a, r, s, m, d) and their losses (g, a, r, s, m), for a arms at r rates each.
Seen = Iterator[tuple[int, Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Steps:
    """Rates (a, r) in cells for gradients of size `unit`, and the evaluations that each run may spend."""

    rates: Tensor
    unit: float
    budget: int

    def start(self, here: Landscapes) -> Tensor:
        """Where the runs begin, (g, a, r, s, d)."""
        return here.start[:, None, None].expand(-1, *self.rates.shape, -1, -1)

    def of(self, direction: Tensor, step: int, steps: int) -> Tensor:
        """Steps (g, a, r, s, d) along directions of that shape."""
        share = Annealing(1, 1, 1.0, steps, 2).rate_at(step) / self.unit
        return -share * self.rates[..., None, None] * direction


def descents(here: Landscapes, plan: Steps, powers: Sequence[float]) -> Seen:
    """Steps against the direction of each power weighting (0: the gradient of the mean), from each start."""
    steps = plan.budget // GRADIENT
    x = plan.start(here)
    for step in range(steps):
        value, slope = here.at(x)
        yield GRADIENT * (step + 1), x[..., None, :], value[..., None]
        matrix = gramian(slope)
        weights = torch.stack([PowerWeighting(q)(matrix[:, a]) for a, q in enumerate(powers)], 1)
        x = x + plan.of(combine(weights, slope), step, steps)


def restarts(here: Landscapes, plan: Steps) -> Seen:
    """Gradient descents one after another, the first from the start, the others from uniform points."""
    part = replace(plan, budget=plan.budget // RESTARTS // GRADIENT * GRADIENT)
    for restart in range(RESTARTS):
        fresh = [_uniform(here, "restart", restart, name) for name in here.names]
        first = replace(here, start=torch.stack(fresh)) if restart else here
        for spent, x, value in descents(first, part, [0.0]):
            yield restart * part.budget + spent, x, value


def jumps(here: Landscapes, plan: Steps) -> Seen:
    """Gradient descent with level-set teleports at the start and after equal parts of the steps.

    The second arm is the placebo: in their place shifts of the same length in random directions, charged alike.
    """
    steps = (plan.budget - TELEPORTS * TELEPORT) // GRADIENT
    x, spent = plan.start(here).clone(), 0
    for step in range(steps):
        if step % -(-steps // TELEPORTS) == 0:
            x = _jumped(here, x, step)
            spent += TELEPORT
        value, slope = here.at(x)
        spent += GRADIENT
        yield spent, x[..., None, :], value[..., None]
        x = x + plan.of(slope.mean(-2), step, steps)


def _jumped(here: Landscapes, x: Tensor, step: int) -> Tensor:
    problem = Mean(here, x[0].numel() // here.dim)
    found = level_set.ascend(problem, x.flatten(0, -2), iterations=TRIALS, restorations=RESTORATIONS).theta.view_as(x)
    found = torch.where(found.isfinite().all(-1, keepdim=True), found, x)
    flat = x[:, 1].flatten(0, -2)
    length = (found - x)[:, 1].flatten(0, -2).norm(dim=-1)  # of the teleport from the placebo's own point
    members = product(here.names, *map(range, x.shape[2:4]))
    names = [seed("evolution", "landscapes", "shift", here.dim, step, *member) for member in members]
    shift = shifted(flat, length, names).view_as(x[:, 1])
    return torch.stack([found[:, 0], shift], 1)


def evolved(here: Landscapes, plan: Steps, sigmas: Sequence[tuple[float, float]]) -> Seen:
    """Antithetic evolution strategies without shaping; only the population's losses are known, not the iterate's."""
    steps = plan.budget // POPULATION
    schedules = [Annealing(*ends, 1.0, steps, POPULATION) for ends in sigmas]
    shape = (steps, here.start.shape[1], POPULATION // 2, here.dim)
    z = torch.stack([torch.randn(shape, generator=_generator("noise", here.dim, name)) for name in here.names], 1)
    x = plan.start(here)
    for step in range(steps):
        directions = z[step][:, None, None]
        sigma = torch.tensor([schedule.sigma(step) for schedule in schedules]).view(-1, 1, 1, 1)
        population = evolution.points(x, directions, sigma[..., None], mirrored=True)
        value = here.losses(population)
        yield POPULATION * (step + 1), population, value
        x = x + plan.of(evolution.estimate(directions, value, sigma, mirrored=True), step, steps)


def random_search(here: Landscapes, plan: Steps) -> Seen:
    """The lowest of uniform points; it has no rate, and gives the same for all."""
    part = plan.budget // MARKS
    for mark in range(MARKS):
        drawn = [_uniform(here, "search", mark, name, points=part) for name in here.names]
        x = torch.stack(drawn)[:, None, None]
        value = here.losses(x).expand(-1, *plan.rates.shape, -1, -1)
        yield part * (mark + 1), x.expand(*value.shape, -1), value


FAMILIES: dict[tuple[str, ...], Callable[[Landscapes, Steps], Seen]] = {
    tuple(POWERS): lambda here, plan: descents(here, plan, list(POWERS.values())),
    ("restarts",): restarts,
    JUMPS: jumps,
    tuple(SIGMAS): lambda here, plan: evolved(here, plan, list(SIGMAS.values())),
    ("random search",): random_search,
}


def best_so_far(seen: Seen, budget: int) -> tuple[Tensor, Tensor]:
    """Lowest losses (MARKS, g, a, r, s) evaluated up to each mark, and where (MARKS, g, a, r, s, d)."""
    marks = [budget * (mark + 1) // MARKS for mark in range(MARKS)]
    best = where = None
    values, places = [], []
    for spent, x, value in seen:
        while best is not None and marks[len(values)] < spent:
            values.append(best)
            places.append(where)
        low, index = value.nan_to_num(nan=torch.inf).min(-1)
        place = x.take_along_dim(index[..., None, None], -2)[..., 0, :]
        if best is None:
            best, where = low, place
        else:
            where = torch.where((low < best)[..., None], place, where)
            best = torch.minimum(best, low)
    rest = MARKS - len(values)
    return torch.stack(values + [best] * rest), torch.stack(places + [where] * rest)


# --- the table --------------------------------------------------------------------------------------------------------


def table(settings: Mapping[str, Any]) -> dict[str, list]:
    """Rows (dim, n, arm, landscape, evaluations) of the judged landscapes, means over starts:

    excess: lowest loss evaluated above the common minimum's, in units of the mean loss above it (1 is a random point, 0
    the minimum); success: share of starts whose lowest point lies within half a cell of it. Rows of `purpose` tuning
    have the mean over all other landscapes (landscape -1) at the end of the budget, one for each rate.
    """
    rows: list[dict[str, Any]] = []
    budget, sizes = settings["evaluations"], settings["sizes"]
    grid = torch.tensor(settings["rates"])
    for dim in settings["dims"]:
        tuning, judged = (
            landscapes(dim, [first + i for i in range(settings[count])], max(sizes), settings["starts"])
            for first, count in ((TUNING, "tuning_landscapes"), (0, "landscapes"))
        )
        for n in progress(sizes, f"landscapes in {dim} dimensions"):
            others, mine = tuning.team(n), judged.team(n)
            unit = float(others.at(others.start)[1].mean(-2).square().sum(-1).mean().sqrt())
            for arms, family in FAMILIES.items():
                plan = Steps(grid.expand(len(arms), -1), unit, budget)
                excess, success = _scores(others, family(others, plan), budget)
                tried, found = excess[-1].mean((0, 3)), success[-1].mean((0, 3))
                best = tried.argmin(-1)
                plan = replace(plan, rates=grid[best][:, None])
                runs = [score[:, :, :, 0].mean(-1) for score in _scores(mine, family(mine, plan), budget)]
                for a, arm in enumerate(arms):
                    cell = {"dim": dim, "n": n, "arm": arm}
                    rows += [
                        cell | _row("tuning", rate, -1, budget, float(tried[a, r]), float(found[a, r]))
                        for r, rate in enumerate(settings["rates"])
                    ]
                    excess, success = (score[:, :, a].tolist() for score in runs)
                    rate = settings["rates"][int(best[a])]
                    rows += [
                        cell | _row("run", rate, name, budget * (mark + 1) // MARKS, excess[mark][i], success[mark][i])
                        for mark in range(MARKS)
                        for i, name in enumerate(mine.names)
                    ]
    return _columns(rows)


def _scores(here: Landscapes, seen: Seen, budget: int) -> tuple[Tensor, Tensor]:
    """Excess and success (MARKS, g, a, r, s)."""
    value, place = best_so_far(seen, budget)
    offset = (place + SIDE / 2).remainder(SIDE) - SIDE / 2
    success = (offset.norm(dim=-1) < RADIUS).to(value.dtype)
    return 1 - value / here.lowest[:, None, None, None], success


def _row(purpose: str, rate: float, landscape: int, evaluations: int, excess: float, success: float) -> dict[str, Any]:
    return {
        "purpose": purpose,
        "rate": rate,
        "landscape": landscape,
        "evaluations": evaluations,
        "excess": excess,
        "success": success,
    }
