"""Cosines of evostrats' own network, d = 4012, under each option of its estimator, to find out how its figure was made.

The digits are enlarged to 28x28 and the network is trained by SGD for some steps; then, on one minibatch, a pool of iid
directions and a pool of pairs are evaluated once, and disjoint parts of the pools are populations of each size.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossatlas import data, ensemble, evolution, smoothing
from lossatlas.evolution import evostrats
from lossatlas.problems.network import NetworkProblem, initial
from lossatlas.progress import progress
from lossatlas.seeds import seed
from lossatlas.studies.evolution.classification import centred
from lossatlas.studies.evolution.laws import _columns, cosine
from lossatlas.training import Recipe, train

OPTIONS = ("iid", "iid ranks", "antithetic", "antithetic ranks")
SIZE = 28
PROBES = 8


def table(rows: data.DataSet, settings: Mapping[str, Any]) -> dict[str, list]:
    """Rows (option, population, seed, step of the checkpoint): mean cosine over the parts, length, the law, kappa."""
    rows = centred(rows)
    images = F.interpolate(rows.train_x, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    problem = NetworkProblem(evostrats.network((1, SIZE, SIZE), rows.classes), images, rows.train_y)
    seeds = range(settings["seeds"])
    theta = initial(
        lambda: evostrats.network((1, SIZE, SIZE), rows.classes), [seed("evolution", "cosines", s) for s in seeds]
    )
    batch = settings["batch_size"]
    checkpoints = settings["checkpoints"]
    recipe = Recipe("sgd", steps=max(checkpoints), batch_size=batch)
    training = train(problem, theta, recipe, settings["rate"], keep=checkpoints, progress=None)
    found = []
    for s in progress(seeds, "cosines"):
        generator = torch.Generator().manual_seed(seed("evolution", "cosines", "batch", s))
        part = problem.minibatch(batch, generator)
        for step in checkpoints:
            found += _checkpoint(part, training.kept[step][s], step, s, settings["populations"])
    return _columns(found)


def _checkpoint(part: NetworkProblem, theta: Tensor, step: int, s: int, populations) -> list[dict[str, Any]]:
    loss, gradient = (found[0] for found in ensemble.gradient(part, theta[None]))
    generator = torch.Generator().manual_seed(seed("evolution", "cosines", "probes", s, step))
    critical = float(evolution.crossover_sigma(part, theta, generator, PROBES))
    kappa = (evostrats.SIGMA / critical) ** 2
    pool = max(populations)
    z = evolution.sample(seed("evolution", "cosines", "noise", s, step), pool, len(theta), "iid")
    noise = lambda first, last: z[first:last]  # noqa: E731
    plus_minus = evolution.population_losses(part, theta, noise, (0, pool // 2), evostrats.SIGMA, True)
    rest = evolution.population_losses(part, theta, noise, (pool // 2, pool), evostrats.SIGMA, False)
    plus, minus = plus_minus.chunk(2)
    single = torch.cat([plus, rest])
    rows = []
    for option in OPTIONS:
        mirrored = option.startswith("antithetic")
        shaping = "ranks" if option.endswith("ranks") else "none"
        for n in populations:
            if mirrored and n % 2:
                continue
            m = n // 2 if mirrored else n
            parts = (pool // 2 if mirrored else pool) // m
            directions = z[: parts * m].unflatten(0, (parts, m))
            losses = single[: parts * m].unflatten(0, (parts, m))
            if mirrored:
                losses = torch.cat([losses, minus[: parts * m].unflatten(0, (parts, m))], dim=-1)
            estimates = evolution.estimate(
                directions, evolution.shape(losses, shaping), evostrats.SIGMA, mirrored, shaping
            )
            scale = evostrats.BETA * evostrats.SIGMA if shaping == "ranks" else 1.0
            count = smoothing.es_effective_count(n, kappa, mirrored, shaping == "ranks")
            rows.append(
                {"option": option, "population": n, "seed": s, "step": step, "parts": parts, "loss": float(loss)}
                | {"cosine": float(cosine(estimates, gradient).mean())}
                | {"norm_ratio": scale * float(estimates.norm(dim=-1).mean() / gradient.norm())}
                | {"law": smoothing.es_cosine(count, len(theta)), "crossover_sigma": critical, "curvature_noise": kappa}
            )
    return rows
