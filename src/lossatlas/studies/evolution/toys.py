"""The analytic benchmarks of greydanus/evostrats and of Guided ES: two least-squares problems and Rastrigin.

A least-squares loss 1/2 |Ax - b|² / m is run in the eigenbasis of its Hessian. That turns every vector of the problem,
and Gaussian noise is the same turned, so runs have the published law; its random numbers are others.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossatlas import evolution, smoothing
from lossatlas.evolution import evostrats, guided
from lossatlas.evolution.annealing import Annealing, anneal
from lossatlas.problems.analytic import Quadratic, Rastrigin
from lossatlas.progress import progress
from lossatlas.seeds import seed
from lossatlas.studies.evolution.laws import _columns

ROWS, COLUMNS = 2000, 1000  # of A, in both sources
GUIDED_SIGMA, GUIDED_RATE, GUIDED_DESCENT_RATE, GUIDED_ALPHA = 0.1, 0.2, 5e-3, 0.5
QUADRATIC_RATE, QUADRATIC_BIAS, QUADRATIC_POPULATION = 5e-2, 1.05, 100
RASTRIGIN_POPULATION, RASTRIGIN_CENTRE, RASTRIGIN_RATE = 100, 10.0, 1e-3


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """The problem in its eigenbasis, started at the origin, and a unit vector by which surrogate gradients are off."""

    problem: Quadratic
    bias: Tensor


def least_squares(generator: np.random.RandomState) -> LeastSquares:
    """A (2000, 1000), b and the bias's direction, drawn in this order (the notebooks of Guided ES, RandomState(0))."""
    a = generator.randn(ROWS, COLUMNS)
    b = generator.randn(ROWS)
    bias = generator.randn(COLUMNS)
    spectrum, basis = np.linalg.eigh(a.T @ a / ROWS)
    minimum = (basis.T @ (a.T @ b / ROWS)) / spectrum
    turned = basis.T @ (bias / np.linalg.norm(bias))
    return LeastSquares(Quadratic(torch.from_numpy(spectrum), torch.from_numpy(minimum)), torch.from_numpy(turned))


def guided_table(settings: Mapping[str, Any]) -> dict[str, list]:
    """Rows (arm, seed, iteration): loss minus its optimum, in the toy of Guided ES (row `ges-demo`): one pair a step.

    The surrogate is the gradient plus the unit bias times the gradient's length. `random guide` has a fresh random
    direction in its place; `constant coefficient` is the guide as evostrats codes it.
    """
    toy = least_squares(np.random.RandomState(0))
    problem, seeds, iterations = toy.problem, settings["seeds"], settings["guided_iterations"]
    arms = ("vanilla", "guided", "constant coefficient", "random guide")
    generators = [torch.Generator().manual_seed(seed("evolution", "guided", s)) for s in range(seeds)]
    theta = torch.zeros(len(arms) + 2, seeds, COLUMNS, dtype=torch.float64)
    descent, es = theta[:2], theta[2:]
    logged = sorted({round(i) for i in np.geomspace(1, iterations, 60)})
    rows = []
    for iteration in progress(iterations, "guided"):
        noise = torch.stack([torch.randn(2 * COLUMNS + 1, generator=g, dtype=theta.dtype) for g in generators])
        z, other, y = noise[:, :COLUMNS], noise[:, COLUMNS:-1], noise[:, -1:]
        gradient = problem.hessian * (theta - problem.minimum)
        surrogate = gradient + gradient.norm(dim=-1, keepdim=True) * toy.bias
        unit = surrogate / surrogate.norm(dim=-1, keepdim=True)
        free, kept = math.sqrt(GUIDED_ALPHA / COLUMNS) * z, math.sqrt(1 - GUIDED_ALPHA)
        steps = torch.stack(
            [
                z / math.sqrt(COLUMNS),
                free + kept * y * unit[3],
                free + kept * unit[4],
                free + kept * y * other / other.norm(dim=-1, keepdim=True),
            ]
        )
        losses = torch.stack([problem(es + GUIDED_SIGMA * steps), problem(es - GUIDED_SIGMA * steps)], dim=-1)
        estimate = guided.guided_estimate(steps[..., None, :], losses, GUIDED_SIGMA)
        descent -= GUIDED_DESCENT_RATE * torch.stack([gradient[0], surrogate[1]])
        es -= GUIDED_RATE * estimate
        if iteration + 1 in logged:
            excess = problem(theta)
            for arm, values in zip(("gradient descent", "biased gradient descent", *arms), excess, strict=True):
                rows += [
                    {"arm": arm, "seed": s, "iteration": iteration + 1, "excess": v}
                    for s, v in enumerate(values.tolist())
                ]
    return _columns(rows)


def quadratic_table(settings: Mapping[str, Any]) -> dict[str, list]:
    """Rows (arm, seed, step): loss minus its optimum in evostrats' quadratic benchmark, rate 0.05 for all arms.

    `... as published` takes evostrats' direction (ranks, beta 50, sigma 0.01); raw arms take the estimate of the
    gradient itself at this rate divided by P / n, since its noise is so much longer; `unscaled` does not.
    """
    toy = least_squares(np.random.RandomState(1))
    problem, n, sigma = toy.problem, QUADRATIC_POPULATION, evostrats.SIGMA
    arms = {  # (shaping or None, mirrored, what the estimate is multiplied by)
        "backprop": (None, False, 1.0),
        "backprop, biased": (None, False, 1.0),
        "antithetic as published": ("ranks", True, evostrats.BETA * sigma),
        "iid as published": ("ranks", False, evostrats.BETA * sigma),
        "antithetic": ("none", True, n / COLUMNS),
        "iid": ("none", False, n / COLUMNS),
        "iid unscaled": ("none", False, 1.0),
    }
    theta = {arm: torch.zeros(settings["seeds"], COLUMNS) for arm in arms}
    single = Quadratic(problem.hessian.float(), problem.minimum.float())
    rows = []
    for step in progress(settings["quadratic_steps"], "quadratic"):
        z = torch.stack(
            [
                evolution.sample(seed("evolution", "quadratic", s, step), n, COLUMNS, "iid")
                for s in range(settings["seeds"])
            ]
        )
        for arm, (shaping, mirrored, scale) in arms.items():
            here = theta[arm]
            if shaping is None:
                direction = single.hessian * (here - single.minimum)
                if arm != "backprop":
                    direction = direction + QUADRATIC_BIAS * direction.norm(dim=-1, keepdim=True) * toy.bias.float()
            else:
                used = z[:, : n // 2] if mirrored else z
                losses = single(evolution.points(here, used, sigma, mirrored))
                values = evolution.ranks(losses) if shaping == "ranks" else losses
                direction = evolution.estimate(used, values, sigma, mirrored, shaping)
            theta[arm] = here - QUADRATIC_RATE * scale * direction
        if step % 20 == 19:
            for arm, here in theta.items():
                excess = problem(here.double())
                rows += [
                    {"arm": arm, "seed": s, "step": step + 1, "excess": v if math.isfinite(v) else math.inf}
                    for s, v in enumerate(excess.tolist())
                ]
    return _columns(rows)


def rastrigin_table(settings: Mapping[str, Any]) -> dict[str, list]:
    """Rows (arm, start, step): loss of Rastrigin in `rastrigin_dim` coordinates, 100 losses a step in every arm.

    Arms: `as published` (start at ones, minimum at 10, rate 1e-3, ranks, sigma 0.01); fixed small and fixed large sigma
    and the annealed one, each at the rate with the lowest mean loss from other starts; gradient descent from the same
    starts, and the best of as many random points as there were losses (placebo).
    """
    dim, starts, steps = settings["rastrigin_dim"], settings["rastrigin_starts"], settings["rastrigin_steps"]
    rows: list[dict[str, Any]] = []
    critical = smoothing.RASTRIGIN_CONVEX_SIGMA
    schedules = {
        "small sigma": (0.1 * critical, 0.1 * critical),
        "large sigma": (1.2 * critical, 1.2 * critical),
        "annealed": (2 * critical, 0.1 * critical),
        "gradient descent": None,
    }
    for arm, schedule in progress(list(schedules.items()), "rastrigin"):
        tried = {
            rate: _rastrigin(schedule, dim, starts, steps, rate, "tuning")[-1] for rate in settings["rastrigin_rates"]
        }
        rate = min(tried, key=lambda rate: float(tried[rate].nan_to_num(nan=torch.inf).mean()))
        rows += _rastrigin_rows(arm, rate, _rastrigin(schedule, dim, starts, steps, rate, "judged"))
    rows += _rastrigin_rows("random search", 0.0, _random_search(dim, starts, steps))
    rows += _rastrigin_rows("as published", RASTRIGIN_RATE, _rastrigin_as_published(starts, steps))
    return _columns(rows)


def _starts(dim: int, starts: int, purpose: str) -> tuple[Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed("evolution", "rastrigin", purpose))
    return torch.rand(starts, dim, generator=generator) * 10 - 5, generator


def _rastrigin(schedule, dim: int, starts: int, steps: int, rate: float, purpose: str) -> Tensor:
    """Losses (steps + 1, starts): start, and after each step; descent on the exact gradient without a schedule."""
    problem = Rastrigin(dim)
    theta, generator = _starts(dim, starts, purpose)
    if schedule is not None:
        return anneal(problem, theta, Annealing(*schedule, rate, steps, RASTRIGIN_POPULATION), generator)[0]
    found = [problem(theta)]
    for step in range(steps):
        slope = 2 * theta + 20 * math.pi * torch.sin(2 * math.pi * theta)
        theta = theta - Annealing(1, 1, rate, steps, 2).rate_at(step) * slope
        found.append(problem(theta))
    return torch.stack(found)


def _random_search(dim: int, starts: int, steps: int) -> Tensor:
    """The best loss so far of uniform points on [-5, 5], 100 a step."""
    theta, generator = _starts(dim, starts, "judged")
    best = [Rastrigin(dim)(theta)]
    for _ in range(steps):
        tried = torch.rand(starts, RASTRIGIN_POPULATION, dim, generator=generator) * 10 - 5
        best.append(torch.minimum(best[-1], Rastrigin(dim)(tried).amin(-1)))
    return torch.stack(best)


def _rastrigin_as_published(starts: int, steps: int) -> Tensor:
    """evostrats' own benchmark in two coordinates; the starts differ in their noise only."""
    problem, sigma = Rastrigin(2), evostrats.SIGMA
    theta = torch.ones(starts, 2)
    generator = torch.Generator().manual_seed(seed("evolution", "rastrigin", "as published"))
    found = [problem(theta - RASTRIGIN_CENTRE)]
    for _ in range(steps):
        z = torch.randn(starts, RASTRIGIN_POPULATION // 2, 2, generator=generator)
        values = evolution.ranks(problem(evolution.points(theta, z, sigma, True) - RASTRIGIN_CENTRE))
        direction = evolution.estimate(z, values, sigma, True, "ranks")
        theta = theta - RASTRIGIN_RATE * evostrats.BETA * sigma * direction
        found.append(problem(theta - RASTRIGIN_CENTRE))
    return torch.stack(found)


def _rastrigin_rows(arm: str, rate: float, losses: Tensor) -> list[dict[str, Any]]:
    return [
        {
            "arm": arm,
            "rate": rate,
            "start": start,
            "step": step,
            "evaluations": step * RASTRIGIN_POPULATION,
            "loss": value,
        }
        for step in range(0, len(losses), 20)
        for start, value in enumerate(losses[step].tolist())
    ]
