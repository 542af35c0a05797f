"""Curves between networks that were trained with an L2 penalty: does the loss fall along them, or the penalty?

The released curve code (Garipov et al. 2018) reports the training loss with its penalty, which falls inside a curve.
Here the two terms are told apart, at the middle of the curve.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lossatlas import barriers, mode_curves
from lossatlas.data import DataSet
from lossatlas.studies import baselines
from lossatlas.studies.autoneb import paths, plan
from lossatlas.studies.baselines import Problems
from lossatlas.studies.settings import Baseline

PENALISED_COLUMNS = {
    "weight_decay": "of the networks and of the curves; the penalty is half of it times the squared length",
    "curve": "kind of curve",
    "pair": "running number of the pair of minima",
    "learning_rate": "the rate whose curves had the lowest mean objective on the tuning pairs",
    "outcome": "`ok` or `diverged`",
    "regularised_ends": "training loss and penalty, mean of the ends",
    "regularised_higher_end": "training loss and penalty at the higher end",
    "regularised_saddle": "greatest training loss and penalty on the curve",
    "regularised_lowest": "least training loss and penalty on the curve, ends included, as the README gives it",
    "lowest_inside": "whether that is inside the curve",
    "regularised_middle": "training loss and penalty half-way, t = 1/2",
    "loss_ends": "training loss, mean of the ends",
    "loss_middle": "training loss half-way",
    "penalty_ends": "penalty, mean of the ends",
    "penalty_middle": "penalty half-way",
}


def measure(
    baseline: Baseline,
    data_set: DataSet,
    settings: Mapping[str, Any],
    device: str,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Rows, one for each weight decay, kind of curve and pair; curves cost what the network's bands may."""
    own, rates = settings["penalised"], settings["comparison"]["curve_rates"]
    problems = baselines.problems(baseline, data_set, device)
    pairs = plan.disjoint_pairs(own["pairs"])
    tuning = plan.disjoint_pairs(own["tuning_pairs"], 2 * own["pairs"])
    seeds = tuple(range(2 * (own["pairs"] + own["tuning_pairs"])))
    rows = []
    for decay in own["weight_decays"]:
        training = baselines.run(replace(baseline, weight_decay=decay, seeds=seeds), data_set, device)
        paths.must_converge(training, "autoneb.penalised")
        for kind in mode_curves.CURVES:
            recipe = paths.curve_recipe(kind, settings, problems.train.rows, decay)
            rate = _best_rate(problems, recipe, training.final[torch.tensor(tuning)], rates)
            found = _trained(problems, recipe, training.final[torch.tensor(pairs)], rate)
            for number, (control, diverged) in enumerate(zip(found.control, found.diverged_at.tolist(), strict=True)):
                about = {"weight_decay": decay, "curve": kind, "pair": number, "learning_rate": rate}
                about["outcome"] = "ok" if diverged < 0 else "diverged"
                rows.append(about | _row(problems, recipe, control))
            if progress:
                progress(len(rows) // len(pairs), len(own["weight_decays"]) * len(mode_curves.CURVES))
    return rows


def _trained(problems: Problems, recipe: mode_curves.Recipe, ends: Tensor, rate: float | Tensor) -> mode_curves.Curves:
    generator = paths.generator("penalised", recipe.kind, recipe.weight_decay)
    return mode_curves.train(problems.train, ends, recipe, rate, generator)


def _best_rate(problems: Problems, recipe: mode_curves.Recipe, ends: Tensor, rates: Sequence[float]) -> float:
    """The rate whose curves between the ends (m, 2, P) have the lowest mean objective; all rates step together."""
    each = torch.tensor(rates, dtype=torch.float64).repeat_interleave(len(ends))
    tried = _trained(problems, recipe, ends.repeat(len(rates), 1, 1), each).control
    theta = mode_curves.points(recipe.kind, tried, torch.linspace(0, 1, paths.CURVE_POINTS)).flatten(0, 1)
    values = barriers.means(problems.train, theta)[0] + mode_curves.penalty(theta, recipe.weight_decay).cpu()
    means = values.view(len(rates), -1).mean(-1).nan_to_num(nan=torch.inf)
    return rates[int(means.argmin())]


def _row(problems: Problems, recipe: mode_curves.Recipe, control: Tensor) -> dict[str, Any]:
    """The columns that are about the penalty, and those of `barriers.COLUMNS`, of one curve (3, P)."""
    profile = paths.curve_profile(problems, recipe.kind, control)
    loss = profile.values["train_loss"]
    theta = mode_curves.points(recipe.kind, control, profile.positions.to(control.device))
    penalty = mode_curves.penalty(theta.double(), recipe.weight_decay).cpu()
    total = loss + penalty
    lowest, middle, ends = int(total.argmin()), int((profile.positions - 0.5).abs().argmin()), [0, -1]
    return {
        "regularised_ends": float(total[ends].mean()),
        "regularised_higher_end": float(total[ends].max()),
        "regularised_saddle": float(total.max()),
        "regularised_lowest": float(total.min()),
        "lowest_inside": 0 < lowest < len(total) - 1,
        "regularised_middle": float(total[middle]),
        "loss_ends": float(loss[ends].mean()),
        "loss_middle": float(loss[middle]),
        "penalty_ends": float(penalty[ends].mean()),
        "penalty_middle": float(penalty[middle]),
        **barriers.summary(profile),
    }
