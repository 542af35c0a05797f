"""Pairs of ends whose true barrier is known, and what the methods make of them.

Copies of one network with the same function (permuted, rescaled, exchanged through a dead unit) have the barrier 0;
two units of the smallest network for XOR cannot be exchanged without one; networks that were not trained are joined by
a segment that says nothing about minima.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lossatlas import barriers, weight_matching
from lossatlas.data import DataSet
from lossatlas.elastic_band import Schedule, Start, auto_nebs, line
from lossatlas.problems.architectures import mlp
from lossatlas.problems.network import NetworkProblem, initial
from lossatlas.seeds import seed
from lossatlas.studies import baselines
from lossatlas.studies.autoneb import paths
from lossatlas.studies.baselines import Problems
from lossatlas.studies.settings import Baseline
from lossatlas.symmetry import permuted, rescaled, swapped_through
from lossatlas.training import Recipe, train

RESCALING = 3.0
COPY_DEPTHS, COPY_WIDTH, COPY_ROWS = (1, 2, 3), 32, 64  # perceptrons whose known permutation is to be recovered
XOR_SPREAD = 0.2  # of the clouds at the corners (±1, ±1)
XOR_ROWS, XOR_TEST_ROWS = 500, 100
XOR_CANDIDATES = 24  # networks trained for each width; those that solve the task are used, in their order
XOR_SOLVED = 0.05  # mean loss
ALONG = 9  # points of a path along which only a scale changes

CONTROL_COLUMNS = {
    "control": "what is known about the two ends",
    "number": "running number of the network",
    "path": "`segment`, `matched`, `autoneb`, or `explicit`: a path that is known beforehand",
    "passes": "passes of weight matching that gained something",
    "recovered": "share of the coordinates that weight matching put back exactly",
}


def measure(
    baseline: Baseline,
    training: Mapping[str, Any],
    data_set: DataSet,
    settings: Mapping[str, Any],
    device: str,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Rows (control, number, path, ...), one for each path between two ends."""
    problems = baselines.problems(baseline, data_set, device)
    minima, starts = (torch.as_tensor(training[name]).to(device) for name in ("final", "initial"))
    count = settings["controls"]["networks"]
    own = paths.schedule(settings)
    rows, ends = [], {}
    for number in range(count):
        for control, found in _copies(problems, minima[number], number, settings, ends):
            rows.append({"control": control, "number": number, **found})
        untrained = paths.segment_profile(problems, *starts[[2 * number, 2 * number + 1]])
        rows.append({"control": "untrained", "number": number, **_row("segment", untrained)})
        if progress:
            progress(number + 1, count)
    for (control, number), found in _bands(problems, ends, own, settings["gap_points"], "controls"):
        rows.append({"control": control, "number": number, **found})
    for depth in COPY_DEPTHS:
        for number in range(count):
            rows.append({"control": f"copy-{depth}", "number": number, **_copy(problems, depth, number)})
    count = settings["controls"]["xor_networks"]
    for units in (2, 3):
        for number, found in _xor(units, count, settings):
            rows.append({"control": f"xor-{units}", "number": number, **found})
    for number, found in _xor_spare(count, settings):
        rows.append({"control": "xor-spare", "number": number, **found})
    return rows


def _row(path: str, profile: barriers.Profile, passes: float = float("nan"), recovered: float = float("nan")) -> dict:
    return {"path": path, "passes": passes, "recovered": recovered, **barriers.summary(profile)}


Ends = dict[tuple[str | int, ...], tuple[Tensor, Tensor]]  # by the name of their band


def _bands(
    problems: Problems, ends: Ends, schedule: Schedule, gap_points: int, *axes: str | int
) -> Iterator[tuple[tuple, dict[str, Any]]]:
    """(name, row) of the band between each two ends; all step together."""
    starts = [Start(line(problems.train, *own), schedule, paths.generator(*axes, *name)) for name, own in ends.items()]
    for name, found in zip(ends, auto_nebs(problems.train, starts), strict=True):
        yield name, _row("autoneb", paths.polyline_profile(problems, found.pivots, gap_points))


def _copies(
    problems: Problems, theta: Tensor, number: int, settings: Mapping[str, Any], ends: Ends
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(control, row) of the known paths of a network; the ends that bands are to join go to `ends`."""
    gap_points = settings["gap_points"]
    copy = permuted(problems.train, theta[None], [paths.generator("controls", "permuted", number)])[0]
    yield "permuted", _row("segment", paths.segment_profile(problems, theta, copy))
    matching = weight_matching.match(problems.train, theta, copy, paths.generator("controls", "matching", number))
    recovered = float((matching.theta == theta).double().mean())
    matched = paths.segment_profile(problems, theta, matching.theta)
    yield "permuted", _row("matched", matched, float(matching.passes), recovered)
    ends["permuted", number] = theta, copy

    far = rescaled(problems.train, theta[None], torch.tensor([RESCALING]).to(theta))[0]
    yield "rescaled", _row("segment", paths.segment_profile(problems, theta, far))
    scales = (RESCALING ** torch.linspace(0, 1, ALONG)).to(theta)
    along = rescaled(problems.train, theta.expand(ALONG, -1), scales)
    yield "rescaled", _row("explicit", paths.polyline_profile(problems, along, 1))
    ends["rescaled", number] = theta, far

    dead = _with_a_dead_unit(problems.train, theta)
    way = swapped_through(problems.train, dead, 0, (0, 1), _units(problems.train) - 1)
    yield "dead-unit", _row("segment", paths.segment_profile(problems, dead, way[-1]))
    yield "dead-unit", _row("explicit", paths.polyline_profile(problems, way, gap_points))
    ends["dead-unit", number] = dead, way[-1]


def _copy(problems: Problems, depth: int, number: int) -> dict[str, Any]:
    """A perceptron at its initialisation and a permuted copy: does matching find the permutation?"""
    x = problems.train.x.flatten(1)
    widths = (x.shape[1], *(COPY_WIDTH,) * depth, 10)
    few = [NetworkProblem(mlp(widths), p.x.flatten(1)[:COPY_ROWS], p.y[:COPY_ROWS]) for p in problems]
    theta = initial(lambda: mlp(widths), [seed("autoneb", "copy", depth, number)]).to(x.device)
    copy = permuted(few[0], theta, [paths.generator("controls", "copy", depth, number)])[0]
    found = weight_matching.match(few[0], theta[0], copy, paths.generator("controls", "copies", depth, number))
    recovered = float((found.theta == theta[0]).double().mean())
    profile = paths.segment_profile(Problems(*few), theta[0], found.theta)
    return _row("matched", profile, float(found.passes), recovered)


def _units(problem: NetworkProblem) -> int:
    """Units of the first hidden layer."""
    return problem.layout.shapes[0][0]


def _with_a_dead_unit(problem: NetworkProblem, theta: Tensor) -> Tensor:
    """theta (P,) with the outgoing weights of the last unit of the first hidden layer set to 0."""
    result = theta.clone()
    weights = [name for name in problem.layout.names if name.endswith("weight")]
    problem.layout.split(result)[weights[1]][:, -1] = 0
    return result


# --- XOR (Draxler et al. 2018, section 5) -----------------------------------------------------------------------------


def xor_problems(units: int) -> Problems:
    """Clouds at the corners (±1, ±1), class 1 where the signs agree, for a network with so many hidden units."""

    def drawn(rows: int, name: str) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed("autoneb", "xor", name))
        corners = torch.randint(2, (rows, 2), generator=generator)
        x = (2 * corners - 1) + XOR_SPREAD * torch.randn(rows, 2, generator=generator)
        return x, (corners[:, 0] == corners[:, 1]).long()

    module = mlp((2, units, 2), "tanh")
    return Problems(
        NetworkProblem(module, *drawn(XOR_ROWS, "train")), NetworkProblem(module, *drawn(XOR_TEST_ROWS, "test"))
    )


def xor_minima(problem: NetworkProblem, units: int) -> Tensor:
    """The solutions (k, P) among all trained candidates with so many hidden units."""
    seeds = [seed("autoneb", "xor", units, i) for i in range(XOR_CANDIDATES)]
    starts = initial(lambda: mlp((2, units, 2), "tanh"), seeds)
    found = train(problem, starts, Recipe(steps=400, batch_size=None), 0.3).final
    return found[barriers.means(problem, found)[0] < XOR_SOLVED]


def _xor(units: int, count: int, settings: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Paths between solutions and their copies with the first two units exchanged."""
    problems = xor_problems(units)
    minima = xor_minima(problems.train, units)
    own = paths.schedule({**settings, "band_batch": None})
    layout = problems.train.layout
    order = torch.tensor([1, 0, *range(2, units)])
    ends: Ends = {}
    for number, theta in enumerate(minima[:count]):
        parts = layout.split(theta)
        names = list(layout.names)
        swapped = {name: parts[name][order] for name in names[:2]} | {names[2]: parts[names[2]][:, order]}
        copy = torch.cat([{**parts, **swapped}[name].flatten() for name in names])
        yield number, _row("segment", paths.segment_profile(problems, theta, copy))
        ends[number,] = theta, copy
    for (number,), found in _bands(problems, ends, own, settings["gap_points"], "controls", "xor", units):
        yield number, found


def _xor_spare(count: int, settings: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The known path that exchanges the two units of a solution through a third without outgoing weight."""
    problems = xor_problems(3)
    for number, theta in enumerate(xor_minima(xor_problems(2).train, 2)[:count]):
        way = swapped_through(problems.train, with_a_spare_unit(theta), 0, (0, 1), 2)
        yield number, _row("segment", paths.segment_profile(problems, way[0], way[-1]))
        yield number, _row("explicit", paths.polyline_profile(problems, way, settings["gap_points"]))


def with_a_spare_unit(theta: Tensor) -> Tensor:
    """A solution with two units (12,), as one with three whose third has no outgoing weight (17,)."""
    weight, bias, outgoing, last = theta.split([4, 2, 4, 2])
    third, nothing = weight.view(2, 2).mean(0), outgoing.new_zeros(2, 1)
    return torch.cat(
        [weight, third, bias, bias.mean()[None], torch.cat([outgoing.view(2, 2), nothing], 1).flatten(), last]
    )
