"""Are networks that keep their loss without half of their units joined by a path of low loss?

The explicit path through dropped networks (Kuditipudi et al. 2019), between networks trained with and without dropout.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lossatlas import barriers, dropout
from lossatlas.data import DataSet
from lossatlas.studies import baselines
from lossatlas.studies.autoneb import paths, plan
from lossatlas.studies.settings import Baseline
from lossatlas.training import train

DROPPED_COLUMNS = {
    "keep": "share of the hidden units that stay in each step of the training; 1 is training without dropout",
    "pair": "running number of the pair of networks",
    "path": "`dropped`: the explicit path; `segment`",
    "bound": "highest training loss of the ends and of the dropped networks, which the explicit path cannot exceed",
}


def measure(
    baseline: Baseline,
    data_set: DataSet,
    settings: Mapping[str, Any],
    device: str,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Rows, one for each share of kept units, pair and path, and the first pair's profiles {<keep>_<path>_...: (M,)}.

    Networks of one number start alike for every share.
    """
    problems = baselines.problems(baseline, data_set, device)
    own = settings["dropped"]
    pairs = plan.disjoint_pairs(own["pairs"])
    seeds = list(range(2 * own["pairs"]))
    starts = baselines.starts(baseline, data_set, seeds).to(device)
    recipe = baselines.recipe_of(baseline, problems.train)
    rows, arrays = [], {}
    for done, keep in enumerate(own["keep"]):
        noisy = dropout.Dropout(problems.train, keep, paths.generator("dropped", "training", keep))
        training = train(noisy, starts, recipe, baseline.learning_rates[0], orders=seeds)
        paths.must_converge(training, "autoneb.dropped")
        for number, pair in enumerate(pairs):
            a, b = training.final[list(pair)]
            generator = paths.generator("dropped", "halves", keep, number)
            half, bound = dropout.best_half(problems.train, a, b, own["candidates"], generator)
            pivots = {"dropped": dropout.path(problems.train, a, b, half), "segment": torch.stack([a, b])}
            for path, points in pivots.items():
                gaps = settings["gap_points"] if path == "dropped" else paths.CURVE_POINTS - 1
                profile = paths.polyline_profile(problems, points, gaps)
                about = {"keep": keep, "pair": number, "path": path, "bound": bound}
                rows.append({**about, **barriers.summary(profile)})
                if number == 0:
                    name = f"{keep}_{path}"
                    arrays |= {f"{name}_arc": profile.arc, f"{name}_loss": profile.values["train_loss"]}
        if progress:
            progress(done + 1, len(own["keep"]))
    return rows, arrays
