"""Descents in aligned landscapes: who arrives, at which cost, and what became of the others.

A pointwise strategy on a torus is a fixed vector field: it is composed once on a grid, and all starts descend it by
linear interpolation. Strategies with a memory or a die see the gradients of every layer at every step. All arms meet
the same landscapes and starts, steps have the length rate * |v| / RMS(v) with the RMS over the torus, and every arm is
run at every rate.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossatlas import composite
from lossatlas.composite import AveragedPowerWeighting, PowerWeighting, combine, gramian, power_weights
from lossatlas.composite.failure_modes import (
    Outcome,
    Window,
    classify,
    displacement_exponent,
    goal_correlation,
    obnoxious,
)
from lossatlas.problems.gaussian_field import GaussianField
from lossatlas.problems.perlin import PerlinField
from lossatlas.progress import progress
from lossatlas.studies.perlin.densities import Composites
from lossatlas.studies.perlin.landscapes import BOWL, aligned_layer, displacement, generator, space

POWERS = (-2.0, -1.0, 0.5, 1.0, 2.0, 4.0)
POINTWISE = {"sum": 0.0, **{f"q={q:g}": q for q in POWERS}, "max": inf}
RADIUS = 0.5  # cells: a run that ends this near the common minimum has arrived
SLOW, SLOW_SHARE = 200, 0.15  # the last steps are shorter; they are also the window in which failures are told apart
TRACES = 10  # positions, equally spaced before the slow steps, from which the exponent of the displacement is read
DECAY = 0.9
BASELINES: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": PowerWeighting(0.0),
    "q=1": PowerWeighting(1.0),
    "upgrad": composite.upgrad,
    "mgda": composite.mgda,
    "cagrad": composite.cagrad,
    "aligned_mtl": composite.aligned_mtl,
}


@dataclass(frozen=True, eq=False)
class Runs:
    """Where runs (g, a, r, s) of landscapes, arms, rates and starts ended, and their windows and traces."""

    end: Tensor
    window: Window
    trace: Tensor


def start_points(kind: str, landscapes: Sequence[int], starts: int, side: int, device: str = "cpu") -> Tensor:
    """Uniform starts (g, starts, d), named by landscape: the same for every arm, rate and number of layers."""
    dice = [generator("starts", kind, landscape) for landscape in landscapes]
    return torch.stack([side * torch.rand(starts, space(kind), generator=die) for die in dice]).to(device)


def descend(direction: Callable[[Tensor, int], Tensor], start: Tensor, rates: Tensor, rms: Tensor, steps: int) -> Runs:
    """Follow -v from start (g, s, d) for every arm and rate: direction(x, step) gives v at x (g, a, r, s, d).

    rms (g, a) of each arm's v over the torus; positions are unwrapped.
    """
    a = rms.shape[1]
    x = start[:, None, None].expand(-1, a, len(rates), -1, -1).clone()
    length = rates[:, None, None] / rms[:, :, None, None, None].clamp_min(1e-30)
    window, trace = Window.opened(x), [x]
    slow = min(SLOW, steps // 2)
    pause = max(1, (steps - slow) // TRACES)
    for step in range(steps):
        late = step >= steps - slow
        if step == steps - slow:
            window = Window.opened(x)
        x = x - (SLOW_SHARE if late else 1.0) * length * direction(x, step)
        if late:
            window = window.extended(x)
        elif step % pause == pause - 1:
            trace.append(x)
    return Runs(x, window, torch.stack(trace))


class Grid:
    """Vector fields (g, c, *grid) in 2 or 3 dimensions on a torus of length `side`, interpolated linearly."""

    def __init__(self, fields: Tensor, side: int):
        self.side, self.dim = side, fields.dim() - 2
        self.padded = F.pad(fields, (0, 1) * self.dim, mode="circular")

    def __call__(self, x: Tensor) -> Tensor:
        """Fields (g, c, points) at x (g, points, d) anywhere; grid points lie at multiples of side / N."""
        place = (x / self.side).remainder(1.0) * 2 - 1
        # grid_sample names the last axis first, and wants as many axes of points as of grid
        place = place.flip(-1).view(len(x), *(1,) * (self.dim - 1), -1, self.dim)
        return F.grid_sample(self.padded, place, mode="bilinear", align_corners=True).flatten(2)


class Rows:
    """As `Grid`, for fields of many components, which lie side by side in memory: the answer is (g, points, c)."""

    def __init__(self, fields: Tensor, side: int):
        self.side, self.dim, self.device = side, fields.dim() - 2, fields.device
        self.size = fields.shape[-1]
        # one more vertex on every axis, so that the corners of a cell are at fixed distances
        padded = F.pad(fields, (0, 1) * self.dim, mode="circular").movedim(1, -1)
        self.strides = [(self.size + 1) ** (self.dim - 1 - axis) for axis in range(self.dim)]
        self.first = torch.arange(len(fields), device=fields.device)[:, None] * (self.size + 1) ** self.dim
        self.table = padded.reshape(-1, fields.shape[1]).contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        place = (x / self.side).remainder(1.0) * self.size
        corner = place.floor().clamp_max(self.size - 1)  # a remainder may round up to 1
        within = place - corner
        corner = corner.long()
        site = (self.first + sum(corner[..., k] * stride for k, stride in enumerate(self.strides))).flatten()

        def between(axis: int, offset: int) -> Tensor:
            if axis == self.dim:
                return self.table.index_select(0, site + offset).view(*x.shape[:-1], -1)
            low, high = (between(axis + 1, offset + step) for step in (0, self.strides[axis]))
            return torch.lerp(low, high, within[..., axis, None])

        return between(0, 0)


def measure(kind: str, settings: Mapping[str, Any], device: str = "cpu") -> list[dict[str, Any]]:
    """Rows of the table of descents (see `_rows`): pointwise arms, controls with memory or noise, and baselines.

    The kind `high` is that of `high_dimensional`. With a bowl there are pointwise arms alone; in space no baselines.
    """
    if kind == "high":
        return high_dimensional(settings, device)
    rows: list[dict[str, Any]] = []
    total, size = settings["landscapes"], settings["chunk"]
    chunks = [range(a, min(a + size, total)) for a in range(0, total, size)]
    most = max(settings["team_sizes"] + settings["control_sizes"] + settings["baseline_sizes"])
    for chunk in progress(chunks, f"descents, {kind}"):
        layers = [aligned_layer(kind, chunk, number, settings["cells"], device) for number in range(most)]
        rows += _pointwise(kind, chunk, layers, settings)
        controls = [landscape for landscape in chunk if landscape < settings["control_landscapes"]]
        if controls and kind != "bowl":
            rows += _controls(kind, controls, _first(layers, controls), settings)
        baselines = [landscape for landscape in chunk if landscape < settings["baseline_landscapes"]]
        if baselines and kind in ("desert", "funnel"):
            rows += _baselines(kind, baselines, _first(layers, baselines), settings)
    return rows


def _first(layers: Sequence[PerlinField], landscapes: Sequence[int]) -> list[PerlinField]:
    """The layers of the first landscapes of a chunk."""
    size = len(landscapes)
    return [
        replace(field, lattices=tuple(lattice[:size] for lattice in field.lattices), shift=field.shift[:size])
        for field in layers
    ]


def _dense(kind: str, field: PerlinField, samples: int) -> tuple[Tensor, Tensor]:
    """Values (g, *grid) and gradients (g, d, *grid) of a layer, its bowl included."""
    value, slope = field.dense(samples)
    if kind == "bowl":
        x = displacement(field.cells, samples, device=value.device)
        return value + 0.5 * BOWL * x.square().sum(0), slope + BOWL * x
    return value, slope


def _pointwise(
    kind: str, landscapes: Sequence[int], layers: Sequence[PerlinField], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    side, samples, sizes = settings["cells"], settings["samples"], settings["team_sizes"]
    dim, device = layers[0].dim, layers[0].lattices[0].device
    start = start_points(kind, landscapes, settings["starts"], side, device)
    rates = torch.tensor(settings["rates"], device=device)
    distance = displacement(side, samples, dim, device).norm(dim=0).flatten()
    composites, rows = Composites(powers=POWERS), []
    for field in layers[: max(sizes)]:
        value, slope = _dense(kind, field, samples)
        composites.add(value, slope, dim)
        n = composites.n
        if n not in sizes:
            continue
        fields = torch.stack([composites.direction(arm) for arm in POINTWISE], 1)  # (g, a, d, *grid)
        runs = on_grid(fields, start, rates, settings["steps"], side)
        held = _held_back(kind, layers[:n], runs)
        desert = goal_correlation(composites.value["sum"].flatten(1), distance.expand(len(value), -1))
        rows += _rows("pointwise", list(POINTWISE), landscapes, n, settings, runs, side, held=held, correlation=desert)
    return rows


def on_grid(fields: Tensor, start: Tensor, rates: Tensor, steps: int, side: int) -> Runs:
    """Descents of fixed fields (g, a, d, *grid)."""
    g, a, dim = fields.shape[:3]
    grid = Grid(fields.flatten(0, 1), side)

    def direction(x: Tensor, _: int) -> Tensor:
        v = grid(x.reshape(g * a, -1, dim))
        return v.mT.reshape(x.shape)

    rms = fields.square().sum(2).flatten(2).mean(-1).sqrt()
    return descend(direction, start, rates, rms, steps)


def _held_back(kind: str, layers: Sequence[PerlinField], runs: Runs) -> Tensor:
    """Whether one member holds the team where a run of the power family ended (g, a, r, s), by exact gradients."""
    side = layers[0].cells
    shape = runs.end.shape[:-1]
    to_goal = (side / 2 - runs.end).remainder(side) - side / 2
    gradients = torch.stack([field.at(runs.end.flatten(1, 3).mT)[1] for field in layers], 1)  # (g, n, d, points)
    gradients = gradients.permute(0, 3, 1, 2).unflatten(1, shape[1:])
    if kind == "bowl":
        gradients = gradients - BOWL * to_goal[..., None, :]
    lengths = gradients.norm(dim=-1)
    weights = torch.stack([power_weights(lengths[:, i], q) for i, q in enumerate(POINTWISE.values())], 1)
    return obnoxious(weights, gradients, to_goal)


def _controls(
    kind: str, landscapes: Sequence[int], layers: Sequence[PerlinField], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Averaged norms, random switching, and the sum with noise that matches it."""
    side, samples, steps = settings["cells"], settings["samples"], settings["steps"]
    dim, device = layers[0].dim, layers[0].lattices[0].device
    rates, rows = torch.tensor(settings["rates"], device=device), []
    start = start_points(kind, landscapes, settings["starts"], side, device)
    most = max(settings["control_sizes"])
    slopes = torch.stack([_dense(kind, field, samples)[1] for field in layers[:most]], 1)
    for n in settings["control_sizes"]:
        team = slopes[:, :n]  # (g, n, d, *grid)
        grid = Rows(team.flatten(1, 2), side)
        logs = team.square().sum(2, keepdim=True).sqrt().clamp_min(1e-12).log()
        fields = ((torch.softmax(q * logs, 1) * team).sum(1) for q in POWERS)
        rms = torch.stack([field.square().sum(1).flatten(1).mean(1).sqrt() for field in fields], 1)
        runs = descend(_averaged(grid, n), start, rates, rms, steps)
        rows += _rows("control", [f"ema q={q:g}" for q in POWERS], landscapes, n, settings, runs, side)
        mean_square = team.square().sum(2).flatten(2).mean((1, 2))
        spread = (mean_square - team.mean(1).square().sum(1).flatten(1).mean(1)) / dim  # per component, over the torus
        names = [("control", kind, n, landscape) for landscape in landscapes]
        for arm in ("switch", "switch_shared", "noise", "noise_local"):
            dice = [generator(arm, *name) for name in names]  # one a landscape, so that chunks change nothing
            if arm.startswith("switch"):
                direction, cost = _switched(grid, n, dice, arm == "switch_shared"), 1
            else:
                direction, cost = _noisy(grid, n, dice, spread if arm == "noise" else None), n
            # the mean square of the mean plus noise is that of a random member
            runs = descend(direction, start, rates, mean_square.sqrt()[:, None], steps)
            rows += _rows("control", [arm], landscapes, n, settings, runs, side, cost=cost)
    return rows


def _gradients(grid: Rows, x: Tensor, n: int) -> Tensor:
    """Gradients (g, a, r, s, n, d) of the layers at x (g, a, r, s, d)."""
    return grid(x.flatten(1, 3)).view(*x.shape[:-1], n, grid.dim)


def _averaged(grid: Rows, n: int) -> Callable[[Tensor, int], Tensor]:
    """Weights by running means of the norms, one arm a power."""
    weighting = AveragedPowerWeighting(torch.tensor(POWERS, device=grid.device).view(-1, 1, 1, 1), DECAY)

    def direction(x: Tensor, _: int) -> Tensor:
        gradients = _gradients(grid, x, n)
        return combine(weighting.of_norms(gradients.square().sum(-1).sqrt()), gradients)

    return direction


def _switched(grid: Rows, n: int, dice: Sequence[torch.Generator], shared: bool) -> Callable[[Tensor, int], Tensor]:
    """The gradient of one member a step, drawn for every run or shared by all."""

    def direction(x: Tensor, _: int) -> Tensor:
        gradients = _gradients(grid, x, n)
        runs = gradients.shape[1:-2]
        drawn = [torch.randint(n, () if shared else runs, generator=die).expand(runs) for die in dice]
        chosen = torch.stack(drawn).to(x.device)[..., None, None].expand(*x.shape[:-1], 1, grid.dim)
        return gradients.gather(-2, chosen)[..., 0, :]

    return direction


def _noisy(
    grid: Rows, n: int, dice: Sequence[torch.Generator], spread: Tensor | None
) -> Callable[[Tensor, int], Tensor]:
    """The mean gradient with the switching noise's variance: that of the torus (g,), or that at the place."""

    def direction(x: Tensor, _: int) -> Tensor:
        gradients = _gradients(grid, x, n)
        mean = gradients.mean(-2)
        if spread is None:
            variance = composite.noise_variance(gramian(gradients), grid.dim)
        else:
            variance = spread.view(-1, 1, 1, 1).expand(mean.shape[:-1])
        parts = zip(mean, variance, dice, strict=True)
        return torch.stack([composite.matched_noise(m, v, die) for m, v, die in parts])

    return direction


def _baselines(
    kind: str, landscapes: Sequence[int], layers: Sequence[PerlinField], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Multi-objective baselines, with the sum and q = 1 on the same coarser grid."""
    side, samples, rows = settings["cells"], settings["baseline_samples"], []
    device = layers[0].lattices[0].device
    start = start_points(kind, landscapes, settings["starts"], side, device)
    most = max(settings["baseline_sizes"])
    slopes = torch.stack([_dense(kind, field, samples)[1] for field in layers[:most]], 1)
    for n in settings["baseline_sizes"]:
        gradients = slopes[:, :n].permute(0, 3, 4, 1, 2)  # (g, N, N, n, 2)
        matrix = gramian(gradients)
        arms = dict(BASELINES)
        orders = [generator("pcgrad", kind, n, landscape) for landscape in landscapes]
        weights = [weighting(matrix) for weighting in arms.values()]
        weights.append(torch.stack([composite.pcgrad(g, o) for g, o in zip(matrix, orders, strict=True)]))
        fields = torch.stack([combine(w, gradients) for w in weights], 1).movedim(-1, 2)
        runs = on_grid(fields, start, torch.tensor(settings["rates"], device=device), settings["steps"], side)
        rows += _rows("baseline", [*arms, "pcgrad"], landscapes, n, settings, runs, side)
    return rows


def _rows(
    family: str,
    arms: Sequence[str],
    landscapes: Sequence[int],
    n: int,
    settings: Mapping[str, Any],
    runs: Runs,
    side: int,
    held: Tensor | None = None,
    correlation: Tensor | None = None,
    cost: int | None = None,
) -> list[dict[str, Any]]:
    """Counts of runs by outcome for each landscape, arm and rate.

    evaluations: gradients of single layers that one run cost; obnoxious: runs at rest that one member holds back (power
    family only); exponent: of the mean squared displacement; correlation: of the sum's value with the distance to the
    goal over the torus.
    """
    offset = (runs.end + side / 2).remainder(side) - side / 2
    outcome = classify(runs.window, offset.norm(dim=-1) < RADIUS)
    counts = {kind.name.lower(): (outcome == kind).sum(-1).tolist() for kind in Outcome}  # [g][a][r]
    still = None if held is None else (held & (outcome == Outcome.STUCK)).sum(-1).tolist()
    exponents = displacement_exponent(runs.trace).tolist()
    return [
        {"family": family, "landscape": landscape, "n": n, "arm": arm, "rate": rate, "runs": outcome.shape[-1]}
        | {name: count[i][j][k] for name, count in counts.items()}
        | {
            "obnoxious": float("nan") if still is None else float(still[i][j][k]),
            "evaluations": settings["steps"] * (n if cost is None else cost),
            "exponent": exponents[i][j][k],
            "correlation": float("nan") if correlation is None else float(correlation[i]),
        }
        for i, landscape in enumerate(landscapes)
        for j, arm in enumerate(arms)
        for k, rate in enumerate(settings["rates"])
    ]


# --- more dimensions ------------------------------------------------------------------------------------------------

DEPTH = 3.0  # of the common minimum, in standard deviations of the field
DISTANCE = 2.5  # of the starts from it, in correlation lengths
HIGH_RATES = (0.1,)
HIGH_ARMS = {"sum": 0.0, "q=-2": -2.0, "q=1": 1.0, "q=4": 4.0, "max": inf}
WAVES = 192


def high_dimensional(settings: Mapping[str, Any], device: str = "cpu") -> list[dict[str, Any]]:
    """Rows (dim, landscape, n, arm, runs, success, evaluations) in Gaussian fields conditioned on a minimum at 0.

    Starts lie uniformly on a sphere of radius 2.5 lengths. RMS(v) is that of the field far away, from the starts.
    """
    rows = []
    landscapes, starts, steps = (settings[key] for key in ("landscapes", "starts", "steps"))
    for dim in settings["dims"]:
        dice = [generator("sphere", dim, i) for i in range(landscapes)]
        start = torch.stack([torch.randn(starts, dim, generator=die) for die in dice]).to(device)
        start = DISTANCE * start / start.norm(dim=-1, keepdim=True)
        for n in progress(settings["team_sizes"], f"descents in {dim} dimensions"):
            numbers = [[1000 * i + number for number in range(n)] for i in range(landscapes)]
            field = GaussianField.features("perlin", "high", dim, layers=numbers, dim=dim, waves=WAVES)
            field = field.with_minimum(DEPTH).to(device)

            def gradients(x: Tensor, field: GaussianField = field) -> Tensor:
                flat = x.flatten(1, -2)  # (g, points, d)
                slope = field.at(flat.mT[:, None])[1]  # (g, n, d, points)
                return slope.permute(0, 3, 1, 2).unflatten(1, x.shape[1:-1])

            def direction(x: Tensor, _: int, gradients: Callable = gradients) -> Tensor:
                g = gradients(x)
                powers = enumerate(HIGH_ARMS.values())
                return combine(torch.stack([PowerWeighting(q)(gramian(g[:, i])) for i, q in powers], 1), g)

            first = start[:, None, None].expand(-1, len(HIGH_ARMS), 1, -1, -1)
            rms = direction(first, 0).square().sum(-1).mean((-2, -1)).sqrt()
            runs = descend(direction, start, torch.tensor(HIGH_RATES, device=device), rms, steps)
            arrived = (runs.end.norm(dim=-1) < RADIUS).cpu()
            for i in range(landscapes):
                for j, arm in enumerate(HIGH_ARMS):
                    rows.append(
                        {"dim": dim, "landscape": i, "n": n, "arm": arm, "runs": starts}
                        | {"success": int(arrived[i, j, 0].sum()), "evaluations": steps * n}
                    )
    return rows
