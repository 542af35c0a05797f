"""Do networks from one training's cycles make a better ensemble than independent ones, at equal budgets?

A budget is the cost of one ordinary training. Runs of one number share initialisation, data order and the first part
of their training in all arms. Controls: as many networks from the end of the ordinary training (`snapshots`), and the
constant rate at which the released code runs VGG-16 instead of cycles.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from itertools import combinations
from typing import Any

import torch

from lossatlas.data import DataSet
from lossatlas.geometric_ensembles import Geometric, Released, mean_prediction, scores
from lossatlas.studies import baselines
from lossatlas.studies.settings import Baseline
from lossatlas.training import steps_per_epoch, train

FIRST = 15  # the runs before were looked at when the weight decay was chosen, so others are judged
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
}


def measure(
    baseline: Baseline,
    data_set: DataSet,
    settings: Mapping[str, Any],
    device: str,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Rows, one for each arm, group and number of budgets."""
    problems = baselines.problems(baseline, data_set, device)
    own = settings["ensembles"]
    count = RUNS * own["groups"]
    seeds = list(range(FIRST, FIRST + count))
    starts = baselines.starts(baseline, data_set, seeds).to(device)
    base = baselines.recipe_of(replace(baseline, weight_decay=own["weight_decay"]), problems.train)
    per_epoch = steps_per_epoch(problems.train, base)
    ordinary = Released(**asdict(base))
    recipes = {
        arm: Geometric(
            **asdict(base),
            start=round(own["start"] * base.steps),
            cycle=own["cycle"] * per_epoch,
            high=high,
            low=low,
        )
        for arm, (high, low) in RATES.items()
    }
    collected = recipes["geometric"].collected
    done = 0

    def run(recipe: Released, keep: list[int]):
        nonlocal done
        found = train(problems.train, starts, recipe, baseline.learning_rates[0], orders=seeds, keep=keep)
        done += 1
        if progress:
            progress(done, 1 + len(RATES))
        return found

    first = run(ordinary, collected)
    networks = {"independent": [first.final], "snapshots": [first.kept[step] for step in collected]}
    for arm, recipe in recipes.items():
        found = run(recipe, collected)
        networks[arm] = [found.kept[step] for step in collected]
    rows = []
    for arm, members in networks.items():
        each = torch.stack(members, 1)  # (run, member, P)
        predictions = [mean_prediction(problems.test, part) for part in each]
        for group in range(own["groups"]):
            runs = range(RUNS * group, RUNS * (group + 1))
            for budgets in range(1, RUNS + 1):
                found = [
                    scores([predictions[i] for i in chosen], problems.test.y) for chosen in combinations(runs, budgets)
                ]
                accuracy, loss = (sum(column) / len(found) for column in zip(*found, strict=True))
                rows.append(
                    {
                        "arm": arm,
                        "group": group,
                        "budgets": budgets,
                        "members": budgets * len(members),
                        "test_accuracy": accuracy,
                        "test_loss": loss,
                    }
                )
    return rows
