"""Is the outcome of training, up to a path without a barrier, settled by the initialisation or by the data order?

Two children continue from one parent with different orders of the data (Frankle et al. 2020, arXiv 1912.05671). Their
instability is the highest error on the segment between them less the mean of theirs.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

from lossatlas import barriers
from lossatlas.data import DataSet
from lossatlas.studies import baselines
from lossatlas.studies.autoneb import paths
from lossatlas.studies.settings import Baseline
from lossatlas.training import train

STABILITY_COLUMNS = {
    "branch": "share of the training after which the children part",
    "initialisation": "which parent",
    "first": "data order of one child",
    "second": "data order of the other",
}


def measure(
    baseline: Baseline,
    data_set: DataSet,
    settings: Mapping[str, Any],
    device: str,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Rows, one for each branching point, parent and pair of children; a child starts without momentum."""
    problems = baselines.problems(baseline, data_set, device)
    stability = settings["stability"]
    parents = list(range(stability["initialisations"]))
    orders = list(range(stability["orders"]))
    starts = baselines.starts(baseline, data_set, parents).to(device)
    recipe = baselines.recipe_of(baseline, problems.train)
    total = recipe.steps
    branches = {branch: round(branch * total) for branch in stability["branches"]}
    rate = baseline.learning_rates[0]
    run = train(problems.train, starts, recipe, rate, orders=parents, keep=list(branches.values()))
    kept = {0: starts, **run.kept}
    rows = []
    for done, (branch, step) in enumerate(branches.items()):
        children = kept[step].repeat_interleave(len(orders), 0)
        # an order's name: children of different parents and of different branches see other orders, too
        names = [1000 + len(orders) * parent + order for parent in parents for order in orders]
        left = tuple((share * total - step) / (total - step) for share in recipe.milestones)
        rest = replace(recipe, steps=total - step, milestones=left)
        final = train(problems.train, children, rest, rate, orders=names).final.view(len(parents), len(orders), -1)
        for parent in parents:
            for first, second in combinations(orders, 2):
                profile = paths.polyline_profile(problems, final[parent, [first, second]], stability["points"] - 1)
                about = {"branch": branch, "initialisation": parent, "first": first, "second": second}
                rows.append({**about, **barriers.summary(profile)})
        if progress:
            progress(done + 1, len(branches))
    return rows
