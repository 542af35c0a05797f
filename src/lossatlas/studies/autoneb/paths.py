"""Rows of the study's tables: what a path between two minima is worth, on training and test rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lossatlas import barriers, mode_curves
from lossatlas.elastic_band import Connection, Cycle, Schedule, points
from lossatlas.errors import LossAtlasError
from lossatlas.seeds import seed
from lossatlas.studies.baselines import Problems
from lossatlas.training import Training

CURVE_POINTS = 61  # equidistant t of the released curve code, both ends and the middle included
GAP_POINTS = 10  # intervals of each gap between pivots, as in the released AutoNEB code

# What a band adds to a row of `barriers.COLUMNS`.
BAND_COLUMNS = {
    "pivots": "pivots of the best cycle's path",
    "best_cycle": "the cycle with the lowest saddle; 0 is the straight start",
    "outcome": "`ok`, or that of the last cycle that was not: `torn`, `diverged`",
    "steps": "steps of all cycles",
    "gradients": "gradients of single examples",
    "evaluations": "losses of single examples without a gradient, those of the looks between cycles included",
    "sample_gradients": "gradients + evaluations / 3",
    "spacing_error": "max |d_i / w_i - S| / S of the best cycle's path",
    "end_shift": "distance of the path's last point from the minimum that it should end at",
    "spike": "greatest training loss above the line between the path's ends, in the last fifth of the path",
}


def generator(*axes: str | int | float) -> torch.Generator:
    """A generator named by what it is for."""
    return torch.Generator().manual_seed(seed("autoneb", *axes))


def must_converge(training: Training, part: str) -> None:
    """Raises `LossAtlasError` if a member of a training that a part of the study needs has diverged."""
    diverged = int((training.diverged_at >= 0).sum())
    if diverged:
        raise LossAtlasError(
            f"{part}: {diverged} of {len(training.final)} networks diverged in their training; "
            "lower the learning_rate of its network"
        )


def schedule(settings: Mapping[str, Any], rate: float | None = None) -> Schedule:
    """The configured cycles with a network's batch and its share of the steps; `rate` replaces the first rate."""
    cycles = [Cycle(**cycle) for cycle in settings["schedule"]]
    factor = 1.0 if rate is None else rate / cycles[0].learning_rate
    return Schedule(
        tuple(replace(cycle, learning_rate=cycle.learning_rate * factor) for cycle in cycles),
        batch_size=settings["band_batch"],
        weight_decay=settings["band_decay"],
        top=settings["look_gaps"],
    ).scaled(settings["band_steps"])


def without_insertion(base: Schedule, pivots: int = 0) -> Schedule:
    """The same steps and rates on a fixed number of pivots: `pivots` from the start, or those that the path has."""
    first = Cycle(base.cycles[0].steps, base.cycles[0].learning_rate, "equal", pivots - 2) if pivots else None
    cycles = tuple(replace(cycle, insert="none", count=0) for cycle in base.cycles)
    return replace(base, cycles=(first, *cycles[1:]) if first else cycles)


def final_pivots(base: Schedule, start: int = 2) -> int:
    """Pivots of a path at the end of a schedule that inserts all it may."""
    for cycle in base.cycles:
        start = cycle.pivots(start)
    return start


def cost_limit(base: Schedule, rows: int, start: int = 2) -> float:
    """The most sample gradients that a schedule takes from a path of `start` pivots, its looks included."""
    return sum(_cost_limits(base, rows, start))


def _cost_limits(base: Schedule, rows: int, start: int) -> tuple[float, float]:
    """Those of the steps, and those of the looks."""
    pivots, steps, looks = start, 0.0, base.look_points(start) * rows / 3
    for cycle in base.cycles:
        pivots = cycle.pivots(pivots)
        # the losses of both ends are had without a gradient
        steps += cycle.steps * (pivots - 2 + 2 / 3) * (base.batch_size or rows)
        looks += base.look_points(pivots) * rows / 3
    return steps, looks


def fitted(base: Schedule, rows: int, budget: float, start: int = 2) -> Schedule:
    """The schedule with as many steps, in the same proportions, as the budget of sample gradients pays for."""
    steps, looks = _cost_limits(base, rows, start)
    return base.scaled(max(0.0, (budget - looks) / steps))


def curve_recipe(kind: str, settings: Mapping[str, Any], rows: int, weight_decay: float) -> mode_curves.Recipe:
    """How a curve is trained for the most sample gradients that a band of the configured schedule may take."""
    batch, points_per_step = settings["band_batch"], settings["comparison"]["points_per_step"]
    steps = max(1, int(cost_limit(schedule(settings), rows) / (batch * points_per_step)))
    return mode_curves.Recipe(kind, steps, batch, points_per_step, weight_decay=weight_decay)


def polyline_profile(problems: Problems, pivots: Tensor, gap_points: int = GAP_POINTS) -> barriers.Profile:
    """A path (N, P), at `gap_points` intervals in each gap."""
    grid = torch.linspace(0, len(pivots) - 1, (len(pivots) - 1) * gap_points + 1, dtype=torch.float64)
    return barriers.measure(lambda positions: points(pivots, positions.to(pivots.device)), grid, *problems)


def segment_profile(problems: Problems, a: Tensor, b: Tensor, intervals: int = CURVE_POINTS - 1) -> barriers.Profile:
    """The straight segment, by default at as many points as a curve."""
    return polyline_profile(problems, torch.stack([a, b]), intervals)


def curve_profile(problems: Problems, kind: str, control: Tensor) -> barriers.Profile:
    """A trained curve with the control points (3, P)."""
    grid = torch.linspace(0, 1, CURVE_POINTS, dtype=torch.float64)
    return barriers.measure(partial(mode_curves.points, kind, control), grid, *problems)


def half_barrier(profile: barriers.Profile) -> float:
    """Training loss half-way less the mean of the ends: Entezari et al.'s surrogate of the barrier."""
    middle = profile.positions[-1] / 2
    loss = profile.values["train_loss"]
    return float(loss[int((profile.positions - middle).abs().argmin())] - (loss[0] + loss[-1]) / 2)


def spike(profile: barriers.Profile) -> float:
    """See `BAND_COLUMNS`."""
    s, loss = profile.arc, profile.values["train_loss"]
    rise = (loss - loss[0]) - s * (loss[-1] - loss[0])
    return float(rise[s >= 0.8].max())


def band_columns(connection: Connection, profile: barriers.Profile, end: Tensor) -> dict[str, Any]:
    """The columns of `BAND_COLUMNS`."""
    cost, best = connection.cost, connection.history[connection.best_cycle]
    return {
        "pivots": len(connection.pivots),
        "best_cycle": connection.best_cycle,
        "outcome": connection.outcome,
        "steps": sum(record.steps for record in connection.history),
        "gradients": cost.gradients,
        "evaluations": cost.evaluations,
        "sample_gradients": cost.sample_gradients,
        "spacing_error": best.spacing_error,
        "end_shift": float((connection.pivots[-1].double() - end.double()).norm()),
        "spike": spike(profile),
    }


def no_band(sample_gradients: float = 0.0, pivots: int = 2) -> dict[str, Any]:
    """The columns of `BAND_COLUMNS` of a path that no band made."""
    numbers = dict.fromkeys(BAND_COLUMNS, float("nan"))
    return numbers | {"outcome": "ok", "pivots": pivots, "sample_gradients": sample_gradients}


def cycle_rows(connection: Connection) -> list[dict[str, Any]]:
    """What each cycle of a band reached, and what all had cost by then."""
    return [
        {
            "cycle": record.cycle,
            "pivots": record.pivots,
            "steps": record.steps,
            "outcome": record.outcome,
            "saddle": record.saddle,
            "saddle_error": record.saddle_error,
            "length_ratio": record.length_ratio,
            "spacing_error": record.spacing_error,
            "sample_gradients": record.cost.sample_gradients,
        }
        for record in connection.history
    ]


def overlap(wrong: Sequence[Tensor]) -> tuple[float, float]:
    """|E1 ∩ E2| / min(|E1|, |E2|) and |E1 ∩ E2| / |E1 ∪ E2| of two sets of errors, masks (n,); NaN if one is empty."""
    first, second = wrong
    both, either = (first & second).sum(), (first | second).sum()
    fewer = torch.minimum(first.sum(), second.sum())
    return (float(both / fewer), float(both / either)) if fewer > 0 else (float("nan"), float("nan"))
