"""The same trained networks on other lines: exchanged starts and ends, bias schedules, single layers, placebo."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lossatlas import curves
from lossatlas.data import DataSet
from lossatlas.interpolation import Sweep, sweep
from lossatlas.problems.network import NetworkProblem
from lossatlas.seeds import seed
from lossatlas.studies import baselines
from lossatlas.studies.mli.runs import trained_runs
from lossatlas.studies.settings import Baseline
from lossatlas.symmetry import hidden_layers, permuted, rescaled_to_distance

Member = tuple[float, float, float, int]  # learning rate, initial scale, push, seed


def measure(
    arms: Collection[str],
    baseline: Baseline,
    training: Mapping[str, Any],
    data_set: DataSet,
    mli: Mapping[str, Any],
    device: str,
) -> list[dict[str, Any]]:
    """Rows (arm, index, learning_rate, seed, and what the curve shows), one for each line of the arms asked for.

    Arms: `own`, `fresh` (index: which), `noise`, `zero` starts; `permuted` end; `homogeneous` bias schedule;
    `layer-own`, `layer-fresh` (index: which layer is moved back alone); pairs `init-init` and `end-end` of seeds;
    and `placebo`, for which see there. Members that were not pushed take part at the variation rates only, and only
    lines of networks that trained are followed; of the lines of single layers, whose claim is about the rise at the
    start, only the ends.
    """
    problem = baselines.problems(baseline, data_set, device).train
    members = baseline.members()
    taken = [i for i, (rate, _, push, _) in enumerate(members) if push or rate in mli["variation_rates"]]
    start, end = (torch.as_tensor(training[name])[taken].to(device) for name in ("initial", "final"))
    members = [members[i] for i in taken]
    if "placebo" in arms:
        return _placebo(problem, baseline, members, start, end, mli)
    _, followed = trained_runs(sweep(problem, start, end, 2).loss, baseline, mli)
    rows = []
    for arm, index, a, b, exponents in _lines(problem, baseline, data_set, members, start, end, mli):
        if arm in arms:
            points = 2 if arm.startswith("layer-") else mli["control_points"]
            line = sweep(problem, a[followed], b[followed], points, exponents=exponents)
            rows += _rows(arm, index, [members[i] for i in followed.tolist()], line)
    return rows


def _lines(
    problem: NetworkProblem,
    baseline: Baseline,
    data_set: DataSet,
    members: Sequence[Member],
    start: Tensor,
    end: Tensor,
    mli: Mapping[str, Any],
) -> Iterator[tuple[str, int, Tensor, Tensor, Tensor | None]]:

    def generators(arm: str) -> list[torch.Generator]:
        """One a member, named by it, so that another rate or seed moves no other member's numbers."""
        names = [("mli", "controls", arm, baseline.data, *baseline.hidden, rate, s) for rate, _, _, s in members]
        return [torch.Generator().manual_seed(seed(*name)) for name in names]

    yield "own", 0, start, end, None
    fresh = baselines.starts(baseline, data_set, [1000 + i for i in range(mli["fresh_starts"])]).to(device=start.device)
    for i, other in enumerate(fresh):
        yield "fresh", i, other.expand_as(end), end, None
    noise = torch.stack([torch.randn(problem.dim, generator=g) for g in generators("noise")]).to(start.device)
    yield "noise", 0, noise * (start.norm(dim=-1) / noise.norm(dim=-1))[:, None], end, None
    yield "zero", 0, torch.zeros_like(end), end, None
    yield "permuted", 0, start, permuted(problem, end, generators("permuted")), None
    yield "homogeneous", 0, start, end, homogeneous(problem)
    for i, layer in enumerate(layer_masks(problem)):
        yield "layer-own", i, torch.where(layer, start, end), end, None
        yield "layer-fresh", i, torch.where(layer, fresh[0], end), end, None
    others = _partners(members)
    yield "init-init", 0, start, start[others], None
    yield "end-end", 0, end, end[others], None


def _placebo(
    problem: NetworkProblem,
    baseline: Baseline,
    members: Sequence[Member],
    start: Tensor,
    end: Tensor,
    mli: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Networks that stayed near, moved as far as the far arm without a change of their function.

    The final networks of the near arm (the smallest push whose runs all train; the smallest of all where none does)
    are rescaled between their layers until their distance from the start is that of the largest push with the same
    seed: same start, same function at the end, other line. `index` counts the pushes.
    """
    pushes = sorted({push for _, _, push, _ in members})
    of_push = [[i for i, member in enumerate(members) if member[2] == push] for push in pushes]
    trained, _ = trained_runs(sweep(problem, start, end, 2).loss, baseline, mli)
    index = next((i for i, runs in enumerate(of_push[:-1]) if trained[runs].all()), 0)
    near, far = of_push[index], of_push[-1]
    moved = rescaled_to_distance(problem, start[near], end[near], (end[far] - start[far]).norm(dim=-1))
    line = sweep(problem, start[near], moved, mli["points"])  # the far arm's own lines have as many
    return _rows("placebo", index, [members[i] for i in near], line)


def homogeneous(problem: NetworkProblem) -> Tensor:
    """Exponents (P,) of the homogeneous bias schedule (Wang et al. 2022): last-layer bias by alpha^depth, else 1."""
    layout = problem.layout
    depth = len(hidden_layers(problem)) + 1
    last = f"{hidden_layers(problem)[-1][2]}.bias"
    return torch.cat(
        [
            torch.full((size,), float(depth if name == last else 1), device=problem.x.device)
            for name, size in zip(layout.names, layout.sizes, strict=True)
        ]
    )


def layer_masks(problem: NetworkProblem) -> list[Tensor]:
    """For each linear layer, which coordinates (P,) are its weight and bias."""
    layout = problem.layout
    blocks = [name.rpartition(".")[0] for name in layout.names]
    return [
        torch.cat(
            [
                torch.full((size,), block == layer, device=problem.x.device)
                for block, size in zip(blocks, layout.sizes, strict=True)
            ]
        )
        for layer in dict.fromkeys(blocks)
    ]


def _partners(members: Sequence[Member]) -> list[int]:
    """For each member the one with the next seed and the same settings."""
    seeds = list(dict.fromkeys(s for *_, s in members))
    following = dict(zip(seeds, [*seeds[1:], seeds[0]], strict=True))
    return [members.index((*settings, following[s])) for *settings, s in members]


def _rows(arm: str, index: int, members: Sequence[Member], line: Sweep) -> list[dict[str, Any]]:
    columns = {"loss_start": line.loss[:, 0], "loss_end": line.loss[:, -1]} | _curve_columns(line)
    values = [dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]
    return [
        {"arm": arm, "index": index, "learning_rate": rate, "seed": s, **value}
        for (rate, _, _, s), value in zip(members, values, strict=True)
    ]


def _curve_columns(line: Sweep) -> dict[str, Tensor]:
    """What a curve shows; NaN of a line of which only the ends are known."""
    found = {
        "delta": curves.minimum_delta(line.loss),
        "delta_error": curves.minimum_delta(line.error),
        "plateau_loss": curves.plateau_length(line.loss),
        "plateau_error": curves.plateau_length(line.error),
    }
    return found if len(line.alphas) > 2 else {name: torch.full_like(c, torch.nan) for name, c in found.items()}
