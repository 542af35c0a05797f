"""AutoNEB: bands in cycles, each of which first puts new pivots where the path is not resolved (Draxler et al. 2018).

A cycle is: insert pivots, move the band, look at the losses between the pivots. The best path of all cycles counts;
cycle 0 is the path one starts from.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from lossatlas.elastic_band import geometry
from lossatlas.elastic_band.arms import CORRECTED, Arm
from lossatlas.elastic_band.band import Band, Cost, Outcome, nebs, step_rows
from lossatlas.elastic_band.normalisation import as_arm, parameters
from lossatlas.elastic_band.profile import Profile, mean_losses, profile, refine
from lossatlas.elastic_band.schedule import CHEAP, Cycle, Schedule
from lossatlas.errors import LossAtlasError

RANGE_FLOOR = 1e-3  # of the losses on a path, in nats: bumps are not measured against a range smaller than this

# --- insertion -------------------------------------------------------------------------------------------------------


def insert(
    path: Tensor, weights: Tensor, profile: Profile, cycle: Cycle, arm: Arm, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The path (N, P) with the cycle's new pivots, which lie on the polyline, and the weights of its gaps.

    A gap's weight is split where the pivot falls, so that a resolution once chosen stays.
    """
    gaps = len(path) - 1
    if cycle.insert == "equal":
        shares = torch.arange(1, cycle.count + 1, dtype=torch.float64) / (cycle.count + 1)
        new = (torch.arange(gaps)[:, None] + shares).flatten()
    elif cycle.insert == "highest":
        new = bumps(profile, cycle.count, arm)
    elif cycle.insert == "random":
        new = torch.randperm(gaps, generator=generator)[: cycle.count].double() + 0.5
    else:
        return path, weights
    positions = torch.cat([torch.arange(gaps + 1, dtype=torch.float64), new]).sort().values
    return geometry.points(path, positions), _split(weights, positions)


def _split(weights: Tensor, positions: Tensor) -> Tensor:
    """Weights of the gaps between positions that contain all whole numbers."""
    return positions.diff() * weights[positions[:-1].floor().long()]


def bumps(profile: Profile, count: int, arm: Arm) -> Tensor:
    """Positions of the highest bump in each of at most `count` gaps, where it is above the arm's threshold.

    A bump is the height above the straight line between the gap's two pivots, as a share of the path's range of
    losses; only upward ones count.
    """
    gap = profile.positions.floor().long().clamp_max(int(profile.positions[-1]) - 1)
    share = profile.positions - gap
    pivots = profile.pivots()
    height = profile.losses - torch.lerp(pivots[gap], pivots[gap + 1], share)
    if arm.normaliser == "dense":
        scale = (profile.losses.max() - profile.losses.min()).clamp_min(RANGE_FLOOR)
    else:
        scale = pivots.max() - pivots.min() + 1e-12
    score = torch.where((share > 0) & (share < 1), height / scale, -torch.inf)
    order = score.argsort(descending=True, stable=True)
    order = order[score[order] > arm.threshold].tolist()
    best: dict[int, int] = {}
    for i in order:
        best.setdefault(int(gap[i]), i)
    return profile.positions[sorted(list(best.values())[:count])]


# --- the cycles ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CycleRecord:
    """A path after a cycle; the cost is that of all so far, the look at the losses included.

    positions, losses (M,): the profile. length_ratio: length / straight distance of the ends, 1 if they coincide.
    """

    cycle: int
    pivots: int
    steps: int
    outcome: Outcome
    saddle: float
    saddle_error: float
    length_ratio: float
    spacing_error: float
    cost: Cost
    positions: Tensor
    losses: Tensor


@dataclass(frozen=True, eq=False)
class Connection:
    """The best path between two minima and how it was found.

    pivots (N, P), weights (N - 1,): of the cycle with the lowest saddle; positions, losses (M,): its profile, refined
    round the top. The saddle is the profile's maximum: an upper bound of the minimax, up to `saddle_error`, by which
    the last refinement moved it. outcome: `ok`, or the last other outcome of a cycle. distance: of the two ends.
    """

    pivots: Tensor
    weights: Tensor
    positions: Tensor
    losses: Tensor
    saddle: float
    saddle_error: float
    saddle_position: float
    length: float
    distance: float
    outcome: Outcome
    best_cycle: int
    history: tuple[CycleRecord, ...]

    @property
    def cost(self) -> Cost:
        return self.history[-1].cost

    @property
    def length_ratio(self) -> float:
        return self.history[self.best_cycle].length_ratio


class Store(Protocol):
    """Where a band that is cut short finds its place again; `load` gives back what `save` got, or None."""

    def load(self) -> Any | None: ...

    def save(self, state: Any) -> None: ...


def connect(
    problem,
    a: Tensor,
    b: Tensor,
    schedule: Schedule = CHEAP,
    *,
    arm: Arm = CORRECTED,
    generator: torch.Generator | None = None,
    budget: float | None = None,
    store: Store | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Connection:
    """A path between the minima a and b (P,), from the straight line on; see `auto_neb`.

    Ends that are equal are joined by a path of length 0, on which nothing is done. Raises `LossAtlasError` for ends
    of different shapes and for an end whose loss is not finite.
    """
    path = line(problem, a, b)
    return auto_neb(
        problem, path, schedule, arm=arm, generator=generator, budget=budget, store=store, progress=progress
    )


def line(problem, a: Tensor, b: Tensor) -> Tensor:
    """The straight start (2, P) between two minima; see `connect`."""
    if a.shape != b.shape or a.shape != (problem.dim,):
        raise LossAtlasError(
            f"the ends have {tuple(a.shape)} and {tuple(b.shape)} parameters, the problem {problem.dim}"
        )
    return geometry.straight(a.detach(), b.detach())


def auto_neb(
    problem,
    path: Tensor,
    schedule: Schedule = CHEAP,
    *,
    weights: Tensor | None = None,
    arm: Arm = CORRECTED,
    generator: torch.Generator | None = None,
    budget: float | None = None,
    store: Store | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Connection:
    """Run the schedule's cycles from any path (N, P), N >= 2, between two fixed ends.

    budget: sample gradients; a cycle that would exceed it is shortened so that it fits, with a look of usual length,
    and is the last. With a store the state is saved after each cycle, and a band that was cut short goes on from
    there bit for bit. A cycle that diverges is recorded and undone, and the next one goes on from where it began.
    progress(done, all cycles).
    """
    starts = [Start(path, schedule, generator or torch.Generator().manual_seed(0), weights, budget)]
    return auto_nebs(problem, starts, arm=arm, store=store and _Single(store), progress=progress)[0]


@dataclass(frozen=True, eq=False)
class Start:
    """What a band of `auto_nebs` starts from, and its own schedule; see `auto_neb`."""

    path: Tensor
    schedule: Schedule
    generator: torch.Generator
    weights: Tensor | None = None
    budget: float | None = None


def auto_nebs(
    problem,
    starts: Sequence[Start],
    *,
    arm: Arm = CORRECTED,
    store: Store | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Connection]:
    """`auto_neb` from several starts, a cycle of all at a time; up to rounding each becomes what it is alone.

    With a store the states of all are saved after each cycle.
    """
    runs = [_Run.of(problem, start, arm) for start in starts]
    saved = store.load() if store else None
    if saved:
        states = [run.restored(own) for run, own in zip(runs, saved, strict=True)]
    else:
        states = [run.begun(start.weights) for run, start in zip(runs, starts, strict=True)]
    while any(cycles := [run.next_cycle(state) for run, state in zip(runs, states, strict=True)]):
        states = _after(runs, states, cycles)
        if store:
            store.save([run.saved(state) for run, state in zip(runs, states, strict=True)])
        if progress:
            progress(max(len(s.history) for s in states) - 1, max(len(s.schedule.cycles) for s in starts))
    return [_connection(run.problem, state) for run, state in zip(runs, states, strict=True)]


@dataclass(frozen=True)
class _Single:
    """The store of a single band as one of a list of bands."""

    store: Store

    def load(self) -> list | None:
        saved = self.store.load()
        return [saved] if saved else None

    def save(self, state: list) -> None:
        self.store.save(state[0])


@dataclass(frozen=True, eq=False)
class _State:
    """A path after a cycle, the best one so far, and the records of all."""

    path: Tensor
    weights: Tensor
    best: Tensor
    best_weights: Tensor
    history: tuple[CycleRecord, ...]


@dataclass(frozen=True, eq=False)
class _Run:
    """What does not change from cycle to cycle."""

    problem: Any
    path: Tensor
    schedule: Schedule
    arm: Arm
    generator: torch.Generator
    budget: float | None

    @classmethod
    def of(cls, problem, start: Start, arm: Arm) -> "_Run":
        problem, path = as_arm(problem, start.path.detach(), arm)
        return cls(problem, path, start.schedule, arm, start.generator, start.budget)

    def begun(self, weights: Tensor | None) -> "_State":
        """The start: cycle 0 is the path that was given."""
        path = self.path
        weights = geometry.equal_weights(path) if weights is None else weights
        record = self.look(0, path, weights, 0, "ok", Cost())
        if not record.losses[[0, -1]].isfinite().all():
            raise LossAtlasError("the loss is not finite at an end of the path: both ends must be trained networks")
        return _State(path, weights, path, weights, (record,))

    def next_cycle(self, state: _State) -> Cycle | None:
        """The cycle to run next, with as many steps as the budget allows; None at the end."""
        number = len(state.history)
        if number > len(self.schedule.cycles) or torch.equal(state.path[0], state.path[-1]):
            return None
        cycle = self.schedule.cycles[number - 1]
        if self.budget is None:
            return cycle
        pivots = cycle.pivots(len(state.path))
        fixed = 1 if self.arm.last_end == "moves" else 2
        rows = getattr(self.problem, "rows", 1)
        step = (pivots - fixed + fixed / 3) * step_rows(self.problem, self.schedule.batch_size)
        left = self.budget - state.history[-1].cost.sample_gradients - self.schedule.look_points(pivots) * rows / 3
        steps = min(cycle.steps, int(left / step))
        return replace(cycle, steps=steps) if steps > 0 else None

    def inserted(self, state: _State, cycle: Cycle) -> tuple[Tensor, Tensor]:
        """The path with the cycle's new pivots, and the weights of its gaps."""
        last = state.history[-1]
        seen = Profile(last.positions, last.losses, 0)
        return insert(state.path, state.weights, seen, cycle, self.arm, self.generator)

    def after(self, state: _State, band: Band, weights: Tensor) -> _State:
        """The state after one cycle more."""
        cost = state.history[-1].cost + band.cost
        record = self.look(len(state.history), band.path, weights, band.steps, band.outcome, cost)
        better = record.saddle < min(r.saddle for r in state.history)
        best = (band.path, weights) if better else (state.best, state.best_weights)
        return _State(band.path, weights, *best, (*state.history, record))

    def look(self, number: int, path: Tensor, weights: Tensor, steps: int, outcome: Outcome, cost: Cost) -> CycleRecord:
        """The record of a path; `cost` is what was spent before the look."""
        function = mean_losses(self.problem)
        seen = profile(function, path, self.schedule.samples, self.schedule.top)
        seen = refine(function, path, seen, self.schedule.tolerance)
        length, distance = _extent(parameters(self.problem, path))
        return CycleRecord(
            cycle=number,
            pivots=len(path),
            steps=steps,
            outcome=outcome if seen.finite or outcome != "ok" else "diverged",
            saddle=seen.saddle if seen.finite else math.inf,  # never lower than a path that was seen whole
            saddle_error=seen.saddle_error,
            length_ratio=length / distance if distance else 1.0,
            spacing_error=geometry.spacing_error(parameters(self.problem, path), weights),
            cost=cost + Cost(0, seen.evaluations * getattr(self.problem, "rows", 1)),
            positions=seen.positions,
            losses=seen.losses,
        )

    def saved(self, state: _State) -> dict[str, Any]:
        """The state as a tree that a `Checkpoint` can hold."""
        tree = {name: getattr(state, name) for name in ("path", "weights", "best", "best_weights")}
        return {**tree, "history": [asdict(record) for record in state.history], "random": self.generator.get_state()}

    def restored(self, saved: dict[str, Any]) -> _State:
        """The inverse of `saved`; the generator goes on from there."""
        device = self.path.device
        self.generator.set_state(saved["random"])
        records = tuple(CycleRecord(**{**record, "cost": Cost(**record["cost"])}) for record in saved["history"])
        path, best = saved["path"].to(device), saved["best"].to(device)
        return _State(path, saved["weights"], best, saved["best_weights"], records)


def _after(runs: Sequence[_Run], states: Sequence[_State], cycles: Sequence[Cycle | None]) -> list[_State]:
    """The states after a cycle of each; None: a band that is through."""
    found = list(states)
    alike: dict[tuple, list[tuple[int, Tensor, Tensor]]] = {}
    for i, (run, state, cycle) in enumerate(zip(runs, states, cycles, strict=True)):
        if cycle is not None:
            path, weights = run.inserted(state, cycle)
            schedule = replace(run.schedule, cycles=())
            key = (id(run.problem), len(path), cycle.steps, schedule)
            alike.setdefault(key, []).append((i, path, weights))
    for members in alike.values():
        numbers, paths, weights = zip(*members, strict=True)
        own = [runs[i] for i in numbers]
        bands = _bands(own, paths, weights, [cycles[i] for i in numbers])
        for i, band, shares in zip(numbers, bands, weights, strict=True):
            found[i] = runs[i].after(states[i], band, shares)
    return found


def _bands(
    runs: Sequence[_Run], paths: Sequence[Tensor], weights: Sequence[Tensor], cycles: Sequence[Cycle]
) -> list[Band]:
    """The bands of cycles of one length; paths without inner pivots, on which no bump was found, stay as they are."""
    if len(paths[0]) == 2:
        return [Band(path, 0, Cost(), "ok", path.new_zeros(0)) for path in paths]
    schedule = runs[0].schedule
    return nebs(
        runs[0].problem,
        torch.stack(paths),
        steps=cycles[0].steps,
        learning_rate=torch.tensor([cycle.learning_rate for cycle in cycles], dtype=torch.float64),
        momentum=schedule.momentum,
        weight_decay=schedule.weight_decay,
        batch_size=schedule.batch_size,
        weights=torch.stack(weights),
        stop=schedule.stop,
        arm=runs[0].arm,
        generators=[run.generator for run in runs],
    )


def _extent(path: Tensor) -> tuple[float, float]:
    """Length of a path, and the distance of its ends."""
    distance = torch.linalg.vector_norm((path[-1] - path[0]).double())
    return float(geometry.segment_lengths(path).sum()), float(distance)


def _connection(problem, state: _State) -> Connection:
    best = min(state.history, key=lambda record: record.saddle)
    pivots = parameters(problem, state.best)
    length, distance = _extent(pivots)
    seen = Profile(best.positions, best.losses, 0)
    return Connection(
        pivots=pivots,
        weights=state.best_weights,
        positions=best.positions,
        losses=best.losses,
        saddle=best.saddle,
        saddle_error=best.saddle_error,
        saddle_position=seen.saddle_position,
        length=length,
        distance=distance,
        outcome=next((r.outcome for r in reversed(state.history[1:]) if r.outcome != "ok"), "ok"),
        best_cycle=best.cycle,
        history=state.history,
    )
