"""Do networks from one training's cycles make a better ensemble than independent ones, at equal budgets?

A budget is the cost of one ordinary training. Runs of one number share initialisation, data order and the first part
of their training in all arms. Controls: as many networks from the end of the ordinary training (`snapshots`), and the
constant rate at which the released code runs VGG-16 instead of cycles.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from lossatlas.data import DataSet
from lossatlas.geometric_ensembles import Geometric, Released, predictions, scores
from lossatlas.problems.network import NetworkProblem
from lossatlas.studies import baselines
from lossatlas.studies.autoneb import paths
from lossatlas.studies.settings import Baseline
from lossatlas.training import steps_per_epoch, train

FIRST = 15  # at the default tier the weight decay was chosen on the ordinary networks of the runs before
RUNS = 3  # of a group: the published tables end at three budgets
RATES = {  # highest and lowest rate of the cycles, by the first rate of the training
    "geometric": (0.5, 0.1),  # PreResNet-164 and WRN-28-10: 0.05 and 0.01 of 0.1
    "constant": (0.2, 0.2),  # VGG-16: 0.01 of 0.05
}

ENSEMBLE_COLUMNS = {
    "arm": "`independent`: one network of each run; `snapshots`: as many networks of each as `geometric` has, from the "
    "end of that same training; `geometric`: cycles of the learning rate; `constant`: a constant rate instead",
    "group": "of three runs; groups share none",
    "budgets": "runs whose networks form the ensemble",
    "members": "networks of the ensemble",
    "test_accuracy": "share of test rows that the mean prediction gets right, mean over the group's choices of runs",
    "test_loss": "mean -log of the mean prediction for the label, likewise",
    "member_accuracy": "share of test rows that a single member gets right, mean over the group's members",
    "disagreement": "share of test rows that two members of one run name differently, mean over the group's runs; "
    "NaN where a run has one",
}

Networks = Mapping[str, Tensor]  # by arm: (run, member, P)


def measure(
    baseline: Baseline,
    data_set: DataSet,
    settings: Mapping[str, Any],
    device: str,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Rows, one for each arm, group and number of budgets."""
    own = settings["ensembles"]
    problems = baselines.problems(baseline, data_set, device)
    seeds = list(range(FIRST, FIRST + RUNS * own["groups"]))
    starts = baselines.starts(baseline, data_set, seeds).to(device)
    decayed = replace(baseline, weight_decay=own["weight_decay"])
    networks = trained(problems.train, decayed, starts, seeds, own["start"], own["cycle"], progress)
    return [row for arm, members in networks.items() for row in _rows(problems.test, arm, members, own["groups"])]


def trained(
    problem: NetworkProblem,
    baseline: Baseline,
    starts: Tensor,
    orders: Sequence[int],
    start: float,
    cycle: int,
    progress: Callable[[int, int], None] | None = None,
) -> Networks:
    """The networks of every arm. start: share of the epochs before the cycles; cycle: epochs of each."""
    base = baselines.recipe_of(baseline, problem)
    per_epoch = steps_per_epoch(problem, base)
    where = {"start": round(start * baseline.epochs) * per_epoch, "cycle": cycle * per_epoch}
    recipes: dict[str, Released] = {"independent": Released(**asdict(base))}
    for arm, (high, low) in RATES.items():
        recipes[arm] = Geometric(**asdict(base), **where, high=high, low=low)
    collected = recipes["geometric"].collected
    networks = {}
    for done, (arm, recipe) in enumerate(recipes.items()):
        run = train(problem, starts, recipe, baseline.learning_rates[0], orders=orders, keep=collected)
        paths.must_converge(run, "autoneb.ensembles")
        members = torch.stack([run.kept[step] for step in collected], 1)
        networks |= {arm: run.final[:, None], "snapshots": members} if arm == "independent" else {arm: members}
        if progress:
            progress(done + 1, len(recipes))
    return networks


def _rows(problem: NetworkProblem, arm: str, members: Tensor, groups: int) -> Iterator[dict[str, Any]]:
    """The rows of one arm; members (run, member, P)."""
    each = torch.stack([predictions(problem, own) for own in members])  # (run, member, n, C)
    for group in range(groups):
        runs = range(RUNS * group, RUNS * (group + 1))
        singles = [scores(one[None], problem.y)[0] for one in each[list(runs)].flatten(0, 1)]
        apart = [_disagreement(each[run]) for run in runs]
        for budgets in range(1, RUNS + 1):
            choices = combinations(runs, budgets)
            found = [scores(each[list(chosen)].flatten(0, 1), problem.y) for chosen in choices]
            accuracy, loss = (sum(column) / len(found) for column in zip(*found, strict=True))
            yield {
                "arm": arm,
                "group": group,
                "budgets": budgets,
                "members": budgets * members.shape[1],
                "test_accuracy": accuracy,
                "test_loss": loss,
                "member_accuracy": sum(singles) / len(singles),
                "disagreement": sum(apart) / len(apart),
            }


def _disagreement(predicted: Tensor) -> float:
    """Share of rows on which two of the predictions (m, n, C) name different classes, mean over pairs; NaN for one."""
    named = predicted.argmax(-1)
    first, second = torch.combinations(torch.arange(len(named), device=named.device), 2).T
    return float((named[first] != named[second]).double().mean())
