"""One network: how high minima, segments, matched segments and bands lie, for disjoint pairs of its minima."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossatlas import barriers, curvature, ensemble, weight_matching
from lossatlas.data import DataSet
from lossatlas.elastic_band import Start, auto_nebs, line, points
from lossatlas.elastic_band.auto_neb import Store
from lossatlas.problems.network import NetworkProblem
from lossatlas.seeds import seed
from lossatlas.studies import baselines
from lossatlas.studies.autoneb import paths, plan
from lossatlas.studies.autoneb.journal import Journal
from lossatlas.studies.baselines import Problems
from lossatlas.studies.settings import Baseline
from lossatlas.training import Recipe, steps_per_epoch, train

# What describes a pair, beside `barriers.COLUMNS` and `paths.BAND_COLUMNS`.
PAIR_COLUMNS = {
    "data": "data set",
    "architecture": "network with its widths",
    "family": "`mlp`, `cnn` or `resnet`",
    "width": "of the hidden layers where they are equal, else 0",
    "depth": "hidden layers",
    "dim": "P, number of parameters",
    "pair": "running number; pairs of one network share no minimum",
    "arm": "`segment`, `matched` (segment after weight matching), `autoneb`; `stopped-...`: minima of equal loss",
    "half": "training loss half-way less the mean of the ends",
    "initial_loss": "mean training loss of the two initialisations",
    "overlap": "shared test errors of the two minima over the smaller number of errors",
    "jaccard": "shared test errors over all test errors of the two",
    "crossing": "share of the training after which a minibatch loss first lay below the mean saddle, mean of the two",
    "ensemble_error": "test error of the mean probability of five points of the band",
    "ends_ensemble_error": "test error of the mean probability of the two minima",
    "disagreement": "share of test rows that the band's middle and its first end classify differently",
    "signs_shared": "share of (draw, pivot) with the sign that l(i+1) - l(i-1) has on all rows, one minibatch for all",
    "signs_own": "the same, a minibatch for each pivot",
    "curvature": "lowest eigenvalue of the training loss's Hessian at a maximum inside the band; networks of a trend",
    "end_curvature": "the same at the higher end of such a band",
}

SIGN_DRAWS = 50
CURVATURES = ("curvature", "end_curvature")


@dataclass(frozen=True, eq=False)
class Found:
    """The rows of a network, and arrays by name: profiles of the first pair, error masks and minima's losses."""

    rows: list[dict[str, Any]]
    arrays: dict[str, Tensor]


def measure(
    baseline: Baseline,
    training: Mapping[str, Any],
    data_set: DataSet,
    settings: Mapping[str, Any],
    device: str,
    progress: Callable[[int, int], None] | None = None,
    store: Store | None = None,
) -> Found:
    """The rows of a network: one for each disjoint pair of its minima and each arm.

    With a store a job that was cut short goes on at the last cycle of its bands, bit for bit.
    """
    journal = Journal(store)
    problems = baselines.problems(baseline, data_set, device)
    initial, final = (torch.as_tensor(training[name]).to(device) for name in ("initial", "final"))
    pairs = plan.disjoint_pairs(settings["bands"])
    rows, arrays = [], {}
    stopped = None
    if settings["matched_loss"]:
        stopped = journal.part("stopped", lambda: _stopped(baseline, problems.train, initial, settings)).to(device)
    abouts = [
        _pair_columns(baseline, problems, n, initial[list(pair)], final[list(pair)]) for n, pair in enumerate(pairs)
    ]
    for done, (prefix, minima) in enumerate((("", final), ("stopped-", stopped))):
        if minima is None:
            continue
        ends = {n: minima[list(pair)] for n, pair in enumerate(pairs) if minima[list(pair)].isfinite().all()}
        arms = partial(_arms, baseline, problems, ends, prefix, settings, journal)
        for number, arm, columns, shape in journal.part(f"{prefix}bands", arms):
            rows.append({**abouts[number], "arm": prefix + arm, **columns})
            if number == 0:
                arrays |= {f"{prefix}{arm}_{name}": values for name, values in shape.items()}
        if progress:
            progress(done + 1, 2)
    rows.sort(key=lambda row: row["pair"])
    _add_crossings(rows, training["losses"], pairs)
    return Found(rows, arrays)


def _arms(
    baseline: Baseline,
    problems: Problems,
    ends: Mapping[int, Tensor],
    prefix: str,
    settings: Mapping[str, Any],
    journal: Journal,
) -> list[tuple[int, str, dict[str, Any], dict[str, Tensor]]]:
    """(pair, arm, columns of its row, arc and losses of its profile) of each arm between the ends {pair: (2, P)}."""
    axes = (baseline.data, baseline.architecture, *baseline.hidden)
    of_bands = ("ensemble_error", "ends_ensemble_error", "disagreement", "signs_shared", "signs_own")
    without = dict.fromkeys((*of_bands, *CURVATURES), float("nan"))
    schedule = paths.schedule(settings)
    starts = [
        Start(line(problems.train, *own), schedule, paths.generator("levels", prefix, *axes, number))
        for number, own in ends.items()
    ]
    bands = auto_nebs(problems.train, starts, store=journal)
    found = []

    def add(number: int, arm: str, profile: barriers.Profile, extra: Mapping[str, Any]) -> None:
        columns = {"half": paths.half_barrier(profile), **extra, **barriers.summary(profile)}
        found.append((number, arm, columns, {"arc": profile.arc, "loss": profile.values["train_loss"]}))

    for (number, (a, b)), band in zip(ends.items(), bands, strict=True):
        matched = weight_matching.match(problems.train, a, b, paths.generator("matching", *axes, number)).theta
        for arm, end in (("segment", b), ("matched", matched)):
            profile = paths.segment_profile(problems, a, end, 6 * settings["gap_points"])
            add(number, arm, profile, {**without, **paths.no_band()})
        profile = paths.polyline_profile(problems, band.pivots, settings["gap_points"])
        extra = _ensembles(problems.test, band.pivots)
        signs = paths.generator("signs", prefix, *axes, number)
        extra |= _signs(problems.train, band.pivots, settings["band_batch"], signs)
        extra |= dict.fromkeys(CURVATURES, float("nan"))
        if settings["matched_loss"] and not prefix:
            extra |= _curvatures(problems.train, band.pivots, profile, seed("autoneb", "curvature", *axes, number))
        add(number, "autoneb", profile, {**extra, **paths.band_columns(band, profile, b)})
    return found


def _pair_columns(baseline: Baseline, problems: Problems, number: int, initial: Tensor, final: Tensor) -> dict:
    wrong = _wrong(problems.test, final)
    overlap, jaccard = paths.overlap(wrong)
    return network_columns(baseline, problems.train.dim) | {
        "pair": number,
        "initial_loss": float(barriers.means(problems.train, initial)[0].mean()),
        "overlap": overlap,
        "jaccard": jaccard,
        "crossing": float("nan"),
    }


def network_columns(baseline: Baseline, dim: int) -> dict[str, Any]:
    """The columns that name a network."""
    widths = baseline.hidden[1:] if baseline.architecture == "resnet" else baseline.hidden
    return {
        "data": baseline.data,
        "architecture": "-".join([baseline.architecture, *map(str, baseline.hidden)]),
        "family": baseline.architecture,
        "width": widths[0] if widths and len(set(widths)) == 1 else 0,
        "depth": baseline.hidden[0] if baseline.architecture == "resnet" else len(baseline.hidden),
        "dim": dim,
    }


def _wrong(problem: NetworkProblem, theta: Tensor) -> Tensor:
    """Masks (k, n) of the rows that each member gets wrong."""
    with torch.no_grad():
        return problem.example_errors(problem.logits(theta)).bool().cpu()


def _ensembles(problem: NetworkProblem, pivots: Tensor) -> dict[str, float]:
    where = torch.linspace(0, len(pivots) - 1, 5, dtype=torch.float64, device=pivots.device)
    with torch.no_grad():
        logits = problem.logits(points(pivots, where)).double()
    right = [mean.argmax(-1) == problem.y for mean in (logits.softmax(-1).mean(0), logits[[0, -1]].softmax(-1).mean(0))]
    votes = logits.argmax(-1)
    return {
        "ensemble_error": 1 - float(right[0].double().mean()),
        "ends_ensemble_error": 1 - float(right[1].double().mean()),
        "disagreement": float((votes[2] != votes[0]).double().mean()),
    }


def _signs(problem: NetworkProblem, pivots: Tensor, batch: int, generator: torch.Generator) -> dict[str, float]:
    """How often neighbours of a pivot are ordered on minibatches as on the whole training set."""
    truth = _slopes(barriers.means(problem, pivots)[0])
    own, shared = [], []
    for _ in range(SIGN_DRAWS):
        rows = torch.stack([torch.randperm(problem.rows, generator=generator)[:batch] for _ in pivots])
        shared.append(_slopes(ensemble.loss(problem.on(rows[0]), pivots)))
        own.append(_slopes(ensemble.loss(problem.on(rows), pivots)))
    return {
        "signs_shared": float((torch.stack(shared).cpu() == truth).double().mean()),
        "signs_own": float((torch.stack(own).cpu() == truth).double().mean()),
    }


def _curvatures(problem: NetworkProblem, pivots: Tensor, profile: barriers.Profile, name: int) -> dict[str, float]:
    """The `CURVATURES` of a band whose highest point lies inside it, above both ends by more than is left to refine."""
    loss = profile.values["train_loss"]
    ends = loss[[0, -1]]
    if not loss.max() > ends.max() + barriers.TOLERANCE * loss.max():
        return {}
    top = points(pivots, profile.positions[int(loss.argmax())][None])[0]
    higher = pivots[-int(ends.argmax())]
    found = [curvature.lowest(problem, theta, np.random.default_rng(name)) for theta in (top, higher)]
    return dict(zip(CURVATURES, found, strict=True))


def _slopes(losses: Tensor) -> Tensor:
    return (losses[2:] - losses[:-2]).sign()


def _add_crossings(rows: list[dict[str, Any]], losses: Tensor, pairs: Sequence[tuple[int, int]]) -> None:
    """Fill in `crossing`: the first epoch whose mean minibatch loss lies below the mean of the bands' saddles."""
    saddles = [row["train_loss_saddle"] for row in rows if row["arm"] == "autoneb"]
    curves = torch.as_tensor(losses).double()
    mean = sum(saddles) / len(saddles)
    below = curves < mean
    first = torch.where(below.any(-1), (below.double().argmax(-1) + 1) / curves.shape[1], torch.inf)
    for row in rows:
        pair = float(first[list(pairs[row["pair"]])].mean())
        row["crossing"] = pair if pair < float("inf") else float("nan")


def _stopped(baseline: Baseline, problem: NetworkProblem, initial: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """Networks (k, P) of about equal loss: each where its training loss first lay below `matched_loss` after an epoch.

    NaN where it never did in the part of the training with the first learning rate (one epoch at least).
    """
    limit = settings["matched_loss"]
    recipe = Recipe(optimizer=baseline.optimizer, batch_size=baseline.batch_size, weight_decay=baseline.weight_decay)
    steps = steps_per_epoch(problem, recipe)
    epochs = max(1, int(baseline.epochs * min(baseline.milestones, default=1.0)))
    keep = [steps * (epoch + 1) for epoch in range(epochs)]
    recipe = replace(recipe, steps=keep[-1])
    found = torch.full_like(initial, torch.nan)
    run = train(problem, initial, recipe, baseline.learning_rates[0], orders=list(baseline.seeds), keep=keep)
    for step in keep:
        open_members = found.isnan().any(-1).nonzero().flatten()
        if not len(open_members):
            break
        theta = run.kept[step][open_members]
        below = barriers.means(problem, theta)[0].to(theta.device) < limit
        found[open_members[below]] = theta[below]
    return found
