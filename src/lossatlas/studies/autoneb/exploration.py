"""The spanning tree of a network's minima: a star, then rounds of bands that may replace the tree's highest edges.

Groups of minima are independent of each other. A round is several jobs, each of which runs a part of the round's
bands; what they are follows from the results of the rounds before, so every job of a round finds the same list.
After the star each suggested pair gets two bands of equal budget: one from the straight line, one from the path
that the tree has already (the concatenation of its local paths, with all their pivots and so fewer steps).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossatlas import barriers
from lossatlas.data import DataSet
from lossatlas.elastic_band import Start, auto_nebs, minimum_tree, star, start_path, suggest
from lossatlas.elastic_band.auto_neb import Store
from lossatlas.studies import baselines
from lossatlas.studies.autoneb import paths, plan
from lossatlas.studies.autoneb.journal import Journal
from lossatlas.studies.autoneb.tree_tables import lowest
from lossatlas.studies.settings import Baseline

STARTS = ("straight", "concatenated")

# What describes a band of the tree, beside `barriers.COLUMNS` and `paths.BAND_COLUMNS`.
TREE_COLUMNS = {
    "group": "number of the group; groups share no minimum",
    "minima": "minima of the group",
    "i": "the pair's first minimum, numbered within its group",
    "j": "its second one",
    "round": "0 for the star",
    "order": "running number of the pair within its group",
    "start": "`straight` or `concatenated`",
    "start_saddle": "saddle of the path that the band started from",
}


class Band(NamedTuple):
    """A band to run: minima i < j of a group, numbered within it."""

    group: int
    i: int
    j: int
    order: int
    start: str

    @property
    def name(self) -> str:
        return f"{self.group}-{self.i}-{self.j}-{self.start}"


@dataclass(frozen=True, eq=False)
class Path:
    """What `start_path` asks of a connection."""

    pivots: Tensor


def bands_of_round(
    losses: Sequence[Sequence[float]], done: Iterable[Mapping[str, Any]], round_number: int, per_round: int
) -> list[Band]:
    """The bands of a round over all groups: losses of each group's minima, rows of the rounds before."""
    done = list(done)
    found = []
    for group, heights in enumerate(losses):
        if round_number == 0:
            found += [Band(group, *pair, order, "straight") for order, pair in enumerate(star(heights))]
            continue
        saddles = lowest(row for row in done if row["group"] == group)
        pairs = suggest(heights, saddles, per_round)
        found += [Band(group, *pair, len(saddles) + n, start) for n, pair in enumerate(pairs) for start in STARTS]
    return found


def measure(
    baseline: Baseline,
    training: Mapping[str, Any],
    data_set: DataSet,
    settings: Mapping[str, Any],
    former: Sequence[Mapping[str, Any]],
    former_paths: Mapping[str, Any],
    round_number: int,
    part: int,
    device: str,
    progress: Callable[[int, int], None] | None = None,
    store: Store | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """(rows, pivots by the bands' names) of one part of a round.

    former: rows of the rounds before; former_paths: their pivots by the bands' names. With a store a job that was cut
    short goes on at the last cycle of its bands, bit for bit.
    """
    problems = baselines.problems(baseline, data_set, device)
    minima = torch.as_tensor(training["final"]).to(device)
    tree = settings["tree"]
    groups = [minima[members] for members in plan.groups(tree)]
    losses = [barriers.means(problems.train, group)[0].tolist() for group in groups]
    bands = bands_of_round(losses, former, round_number, tree["per_round"])
    mine = [band for number, band in enumerate(bands) if number % tree["parts"] == part]
    schedule = paths.schedule(settings)
    journal = Journal(store)

    def start(band: Band) -> Start:
        path = _start(band, groups[band.group], former, former_paths)
        cycles = schedule
        if band.start == "concatenated":
            cycles = paths.without_insertion(schedule)
            budget = paths.cost_limit(schedule, problems.train.rows)
            cycles = paths.fitted(cycles, problems.train.rows, budget, len(path))
        return Start(path, cycles, paths.generator("tree", *baseline.hidden, band.name))

    def run() -> list[tuple[dict[str, Any], Tensor]]:
        results = []
        found = auto_nebs(problems.train, [start(band) for band in mine], store=journal)
        for band, connection in zip(mine, found, strict=True):
            profile = paths.polyline_profile(problems, connection.pivots, settings["gap_points"])
            about = {"group": band.group, "minima": tree["minima"], "i": band.i, "j": band.j, "round": round_number}
            about |= {"order": band.order, "start": band.start, "start_saddle": connection.history[0].saddle}
            columns = paths.band_columns(connection, profile, groups[band.group][band.j])
            results.append(({**about, **columns, **barriers.summary(profile)}, connection.pivots))
        return results

    rows, pivots = [], {}
    for band, (row, path) in zip(mine, journal.part("bands", run), strict=True):
        rows.append(row)
        pivots[band.name] = path
    if progress:
        progress(len(mine), len(mine))
    return rows, pivots


def _start(
    band: Band,
    minima: Tensor,
    former: Sequence[Mapping[str, Any]],
    former_paths: Mapping[str, Any],
) -> Tensor:
    """The path that a band starts from: straight, or through the tree of the lowest bands so far."""
    best: dict[tuple[int, int], Path] = {}
    saddles = lowest(row for row in former if row["group"] == band.group)
    for row in former:
        pair = (row["i"], row["j"])
        if row["group"] == band.group and row["train_loss_saddle"] == saddles[pair]:
            name = Band(band.group, *pair, row["order"], row["start"]).name
            best[pair] = Path(torch.as_tensor(former_paths[name]).to(minima.device))
    tree = minimum_tree(len(minima), saddles)
    return start_path(minima, (band.i, band.j), tree, best, band.start)
