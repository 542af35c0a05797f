"""Exploration: which pairs of minima to join by a band next, and the spanning tree of the lowest saddles.

Minima, pairs and `saddles` are those of `lossatlas.spanning_tree`. The functions that suggest pairs are pure, so that
whoever runs the bands may run those of one round side by side.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from lossatlas.elastic_band import geometry
from lossatlas.elastic_band.arms import CORRECTED, Arm
from lossatlas.elastic_band.auto_neb import Connection, auto_neb
from lossatlas.elastic_band.profile import mean_losses
from lossatlas.elastic_band.schedule import CHEAP, Schedule
from lossatlas.errors import LossAtlasError
from lossatlas.seeds import seed
from lossatlas.spanning_tree import Pair, Round, anytime, merges, minimum_tree


def star(losses: Sequence[float]) -> list[Pair]:
    """The pairs of the lowest minimum with all others, the lowest other first (Draxler et al. 2018)."""
    order = sorted(range(_count(losses)), key=lambda i: (losses[i], i))
    return [_pair(order[0], other) for other in order[1:]]


def suggest(
    losses: Sequence[float], saddles: Mapping[Pair, float], count: int = 1, running: Collection[Pair] = ()
) -> list[Pair]:
    """At most `count` new pairs to try: the star, and after it pairs that could replace an edge of the tree.

    From the highest edge of the tree down: without it the tree falls into two parts, and the pair of the lowest
    minima across that cut which has no band yet is suggested. Each edge gives one pair, and only if they give too
    few a further one. `running` pairs count as done. Empty when every pair has its band.
    """
    n = _count(losses)
    done = set(saddles) | set(running)
    found = [pair for pair in star(losses) if pair not in done][:count]
    if len(minimum_tree(n, saddles)) < n - 1:
        return found
    tree = sorted(minimum_tree(n, saddles), key=lambda pair: (-saddles[pair], pair))
    while len(found) < count:
        new = []
        for edge in tree:
            across = [pair for pair in _cut(n, tree, edge) if pair not in done and pair not in found + new]
            if across and len(found) + len(new) < count:
                new.append(min(across, key=lambda pair: (losses[pair[0]] + losses[pair[1]], pair)))
        if not new:
            break
        found += new
    return found


def _cut(n: int, tree: Sequence[Pair], edge: Pair) -> list[Pair]:
    """All pairs across the cut that the tree has without one of its edges."""
    rest = {pair: 0.0 for pair in tree if pair != edge}
    near = {i for i in range(n) if i == edge[0] or _way(rest, edge[0], i)}
    return [_pair(i, j) for i in near for j in range(n) if j not in near]


def tree_path(tree: Collection[Pair], start: int, end: int) -> list[int]:
    """The minima on the way from one to another in a tree, both included."""
    way = _way(tree, start, end)
    if not way:
        raise LossAtlasError(f"the tree does not connect the minima {start} and {end}")
    return way


def _way(tree: Collection[Pair], start: int, end: int) -> list[int]:
    waiting = [[start]]
    while waiting:
        way = waiting.pop()
        if way[-1] == end:
            return way
        ends = [b if a == way[-1] else a for a, b in tree if way[-1] in (a, b)]
        waiting += [[*way, other] for other in ends if other not in way]
    return []


def bottlenecks(losses: Sequence[float], saddles: Mapping[Pair, float]) -> Tensor:
    """B (n, n): the lowest of the highest saddles on the ways between two minima, with the losses on the diagonal.

    Ways use the bands in `saddles`; infinity where there is none. It is read off the minimum spanning tree, and is an
    ultrametric: B_ac <= max(B_ab, B_bc).
    """
    n = len(losses)
    result = torch.full((n, n), math.inf, dtype=torch.float64)
    result.diagonal().copy_(torch.as_tensor(losses, dtype=torch.float64))
    for first, second, height in merges(n, saddles):
        for i in first:
            for j in second:
                result[i, j] = result[j, i] = height
    return result


# --- exploring ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Exploration:
    """What an exploration found. saddles: of all bands, in the order in which they ran. stopped: why it ended."""

    losses: tuple[float, ...]
    saddles: dict[Pair, float]
    record: tuple[Round, ...]
    stopped: Literal["complete", "budget", "patience"]
    connections: dict[Pair, Connection] = field(default_factory=dict)

    @property
    def tree(self) -> list[Pair]:
        return minimum_tree(len(self.losses), self.saddles)

    @property
    def bottlenecks(self) -> Tensor:
        return bottlenecks(self.losses, self.saddles)


def _heights(n: int, saddles: Mapping[Pair, float]) -> list[float]:
    return [saddles[pair] for pair in minimum_tree(n, saddles)]


def explore(
    losses: Sequence[float],
    run: Callable[[list[Pair]], Sequence[float]],
    *,
    budget: int | None = None,
    patience: int | None = None,
    per_round: int = 1,
) -> Exploration:
    """Run bands in rounds of suggested pairs until all have one, a budget is spent or the tree no longer improves.

    losses (n,): of the minima, n >= 2. run(pairs) -> their saddles; pairs of a round may run side by side. budget:
    bands in all. patience: bands in a row that leave the tree's saddles as they are. Raises `LossAtlasError` for
    fewer than two minima, a loss that is not finite, or a budget that does not pay for the star.
    """
    n = _count(losses)
    if budget is not None and budget < n - 1:
        raise LossAtlasError(f"{n} minima need at least {n - 1} bands, and the budget is {budget}")
    saddles: dict[Pair, float] = {}
    stopped = "complete"
    idle = 0
    while pairs := suggest(losses, saddles, per_round):
        left = math.inf if budget is None else budget - len(saddles)
        if left <= 0 or (patience is not None and idle >= patience):
            stopped = "budget" if left <= 0 else "patience"
            break
        pairs = pairs[: int(min(left, len(pairs)))]
        before = _heights(n, saddles)
        for pair, saddle in zip(pairs, run(pairs), strict=True):
            saddles[pair] = math.inf if math.isnan(saddle) else float(saddle)
        idle = 0 if _heights(n, saddles) != before else idle + len(pairs)
    return Exploration(tuple(map(float, losses)), saddles, anytime(n, saddles), stopped)


def spanning_tree(
    problem,
    minima: Tensor,
    schedule: Schedule = CHEAP,
    *,
    arm: Arm = CORRECTED,
    start: Literal["straight", "concatenated"] = "straight",
    name: Sequence[str | int] = ("spanning tree",),
    budget: int | None = None,
    patience: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Exploration:
    """Join minima (n, P) of any problem by bands, and these to the tree of the lowest saddles.

    start: whether a band after the star starts from the straight line, or from the path that the tree has already.
    name: axes of the random seeds; that of a band depends on them and its pair alone. budget, patience: of `explore`.
    """
    losses = mean_losses(problem)(minima).tolist()
    connections: dict[Pair, Connection] = {}

    def run(pairs: list[Pair]) -> list[float]:
        for pair in pairs:
            saddles = {done: c.saddle for done, c in connections.items()}
            path = start_path(minima, pair, minimum_tree(len(minima), saddles), connections, start)
            generator = torch.Generator().manual_seed(seed(*name, *pair))
            cycles = schedule if len(path) == 2 else schedule.without_first_insertion()
            connections[pair] = auto_neb(problem, path, cycles, arm=arm, generator=generator)
            if progress:
                progress(len(connections), budget or len(minima) * (len(minima) - 1) // 2)
        return [connections[pair].saddle for pair in pairs]

    explored = explore(losses, run, budget=budget, patience=patience)
    return Exploration(explored.losses, explored.saddles, explored.record, explored.stopped, connections)


def start_path(
    minima: Tensor, pair: Pair, tree: Collection[Pair], connections: Mapping[Pair, Connection], start: str
) -> Tensor:
    """The path (N, P) to start a pair's band from: the straight line, or the tree's paths one after the other."""
    way = _way(tree, *pair) if start == "concatenated" else []
    if not way:
        return geometry.straight(*minima[list(pair)])
    parts = [connections[_pair(i, j)].pivots for i, j in pairwise(way)]
    return geometry.concatenate(
        [part if i < j else part.flip(0) for part, (i, j) in zip(parts, pairwise(way), strict=True)]
    )


def _pair(i: int, j: int) -> Pair:
    return (i, j) if i < j else (j, i)


def _count(losses: Sequence[float]) -> int:
    if len(losses) < 2:
        raise LossAtlasError(f"a spanning tree needs at least two minima, not {len(losses)}")
    if not all(math.isfinite(loss) for loss in losses):
        raise LossAtlasError("the loss of a minimum is not finite: leave diverged networks out of the tree")
    return len(losses)
