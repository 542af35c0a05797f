"""What one estimate is worth: cosines, lengths and variance on functions whose answer is known.

The quadratic has P = `dim` coordinates, eigenvalues evenly spaced on [0.1, 2] and a normal gradient. One repetition
draws directions once; every arm and every sigma then uses the same ones, so that differences are paired.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossatlas import evolution, smoothing, statistics
from lossatlas.evolution import evostrats, guided
from lossatlas.problems.analytic import Quadratic
from lossatlas.progress import progress
from lossatlas.seeds import seed

ARMS = ("iid", "iid ranks", "antithetic", "antithetic ranks", "orthogonal", "auto", "random")


def quadratic(dim: int) -> tuple[Quadratic, Tensor]:
    """The problem, and its gradient (P,) at the origin."""
    spectrum = torch.linspace(0.1, 2, dim, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed("evolution", "laws", "gradient"))
    gradient = torch.randn(dim, generator=generator, dtype=torch.float64)
    return Quadratic(spectrum, minimum=-gradient / spectrum), gradient


def cosine(estimates: Tensor, gradient: Tensor) -> Tensor:
    """Cosines (...) of estimates (..., P) with gradients (..., P); 0 for an estimate of length 0."""
    along = (estimates * gradient).sum(-1)
    return along / (estimates.norm(dim=-1) * gradient.norm(dim=-1)).clamp(min=torch.finfo(along.dtype).tiny)


def sampling_table(settings: Mapping[str, Any]) -> dict[str, list]:
    """Rows (arm, sigma / crossover): mean cosine with its 95 % interval, the law, length, bias and variance."""
    problem, gradient = quadratic(settings["dim"])
    theta, n = torch.zeros_like(gradient), settings["population"]
    critical = smoothing.crossover_sigma(float(gradient.norm()), float(problem.hessian.norm()))
    rows = []
    for ratio in progress(settings["sigma_ratios"], "sampling laws"):
        kappa = smoothing.curvature_noise(ratio * critical, float(gradient.norm()), float(problem.hessian.norm()))
        for arm in ARMS:
            drawn = _estimates(arm, problem, theta, ratio * critical, n, settings["repeats"])
            found = cosine(drawn, gradient).numpy()
            mean = drawn.mean(0)
            interval = statistics.t_interval(found)
            rows.append(
                {"arm": arm, "sigma_ratio": ratio, "population": n, "curvature_noise": kappa}
                | {"cosine": interval.value, "low": interval.low, "high": interval.high, "repeats": interval.n}
                | {"law": _law(arm, n, settings["dim"], kappa)}
                | {"norm_ratio": float((drawn.norm(dim=-1) / gradient.norm()).mean())}
                | {"along": float(mean @ gradient / gradient.norm() ** 2)}
                | {"variance": float((drawn - mean).square().sum(-1).mean() / gradient.norm() ** 2)}
            )
    return _columns(rows)


def _estimates(arm: str, problem, theta: Tensor, sigma: float, n: int, repeats: int) -> Tensor:
    """Independent estimates (repeats, P); the same keys for each arm and sigma."""
    keys = [seed("evolution", "laws", "noise", repeat) for repeat in range(repeats)]
    if arm == "random":  # the placebo knows nothing of the loss
        return torch.cat([evolution.normal(key, theta.numel(), theta.dtype)(0, 1) for key in keys])
    sampling, _, shaping = arm.partition(" ")
    shaping = shaping or "none"
    found = [evolution.generation(problem, theta, sigma, n, key, sampling, shaping) for key in keys]
    return torch.stack([generation.gradient for generation in found])


def _law(arm: str, n: int, dim: int, kappa: float) -> float:
    """The predicted cosine; for `auto` that of the better sampling, all evaluations counted."""
    if arm == "random":
        return 0.0
    if arm == "orthogonal":
        return math.sqrt(smoothing.subspace_cosine2(n // 2, dim))
    if arm == "auto":
        return max(_law("iid", n, dim, kappa), _law("antithetic", n, dim, kappa))
    count = smoothing.es_effective_count(n, kappa, arm.startswith("antithetic"), arm.endswith("ranks"))
    return smoothing.es_cosine(count, dim)


def expectation_table(settings: Mapping[str, Any]) -> dict[str, list]:
    """Rows (arm): the mean estimate's share along grad F_sigma, with its interval, ours and as evostrats codes it.

    `along` is est.g / |g|², 1 for an unbiased estimate; `across` the length of the mean's other part over what chance
    gives it, about 1 where there is none.
    """
    problem, gradient = quadratic(settings["dim"])
    n, theta = settings["population"], torch.zeros_like(gradient)
    sigma = smoothing.crossover_sigma(float(gradient.norm()), float(problem.hessian.norm()))
    rows = []
    for mirrored in (False, True):
        sampling = "antithetic" if mirrored else "iid"
        ours, coded = [], []
        for repeat in range(settings["repeats"]):
            z = evolution.sample(
                seed("evolution", "laws", "expectation", repeat), n, len(theta), "iid", dtype=theta.dtype
            )
            z = evostrats.as_published_directions(z, mirrored)
            losses = problem(theta + sigma * z)
            half = z[: n // 2] if mirrored else z
            ours.append(
                [evolution.estimate(half, evolution.shape(losses, s), sigma, mirrored, s) for s in evolution.SHAPINGS]
            )
            coded.append(
                [-evostrats.as_published_estimate(z, -losses, sigma, mirrored, ranked) for ranked in (False, True)]
            )
        for who, drawn in (("corrected", ours), ("as published", coded)):
            for j, shaping in enumerate(evolution.SHAPINGS):
                rows.append(_expectation(f"{sampling} {shaping} {who}", torch.stack([d[j] for d in drawn]), gradient))
    return _columns(rows)


def _expectation(arm: str, drawn: Tensor, gradient: Tensor) -> dict[str, Any]:
    along = (drawn @ gradient / gradient.norm() ** 2).numpy()
    interval = statistics.t_interval(along)
    mean = drawn.mean(0)
    across = mean - (mean @ gradient / gradient.norm() ** 2) * gradient
    noise = ((drawn - mean).square().sum(-1).mean() / len(drawn)).sqrt()
    return {
        "arm": arm,
        "along": interval.value,
        "low": interval.low,
        "high": interval.high,
        "error": float(along.std(ddof=1) / np.sqrt(len(along))),
        "across": float(across.norm() / noise),
        "repeats": interval.n,
    }


def memory_table(settings: Mapping[str, Any]) -> dict[str, list]:
    """Rows (arm, step): mean c² with its interval on a linear function, and the recursion; P, k of `memory`.

    Arms: past descent; the same directions without memory, at as many losses (k + 1 directions a step).
    """
    dim, k, repeats = settings["memory_dim"], settings["memory_directions"], settings["memory_repeats"]
    generator = torch.Generator().manual_seed(seed("evolution", "laws", "memory"))
    gradient = torch.randn(repeats, dim, generator=generator, dtype=torch.float64)
    previous, law, rows = None, smoothing.subspace_cosine2(k, dim), []
    for step in range(1, settings["memory_steps"] + 1):
        z = torch.randn(repeats, k + 1, dim, generator=generator, dtype=torch.float64)
        forgetful = _projected(gradient, guided.basis_of(z))
        spanned = z[:, :k] if previous is None else torch.cat([previous[:, None], z[:, :k]], dim=1)
        previous = _projected(gradient, guided.basis_of(spanned))
        law = law if step == 1 else smoothing.memory_cosine2(law, k, dim)
        for arm, found, expected in (
            ("past descent", previous, law),
            ("no memory", forgetful, smoothing.subspace_cosine2(k + 1, dim)),
        ):
            interval = statistics.t_interval((cosine(found, gradient) ** 2).numpy())
            rows.append(
                {"arm": arm, "step": step, "cosine2": interval.value, "low": interval.low, "high": interval.high}
                | {"law": expected, "repeats": interval.n}
            )
    return _columns(rows)


def _projected(gradient: Tensor, basis: Tensor) -> Tensor:
    """Exact differences of a linear function: the gradients (r, P) projected on bases (r, P, k)."""
    return (basis @ (basis.mT @ gradient[..., None]))[..., 0]


def guide_table(settings: Mapping[str, Any]) -> dict[str, list]:
    """Rows (arm, sampling): mean cosine on a linear function with a guide of cosine 1/2, alpha 1/2, at equal n.

    A fifth of the population, since a guide is for few losses: with P / 3 of them iid sampling knows more than it.
    """
    dim, n, repeats = settings["dim"], settings["population"] // 10 * 2, settings["repeats"]
    generator = torch.Generator().manual_seed(seed("evolution", "laws", "guide"))
    gradient = torch.randn(repeats, dim, generator=generator, dtype=torch.float64)
    unit = gradient / gradient.norm(dim=-1, keepdim=True)
    other = torch.randn(repeats, dim, generator=generator, dtype=torch.float64)
    placebo = other / other.norm(dim=-1, keepdim=True)
    other = other - (other * unit).sum(-1, keepdim=True) * unit
    guide = 0.5 * unit + math.sqrt(0.75) * other / other.norm(dim=-1, keepdim=True)
    rows = []
    for mirrored in (False, True):
        m = n // 2 if mirrored else n
        z = torch.randn(repeats, m, dim, generator=generator, dtype=torch.float64)
        y = torch.randn(repeats, m, 1, generator=generator, dtype=torch.float64)
        moved = {
            "no guide": z,
            "guided": guided.guided_directions(z, y, guide[..., None], 0.5),
            "guided as published": guided.guided_directions(z, torch.ones_like(y), guide[..., None], 0.5),
            "random guide": guided.guided_directions(z, y, placebo[..., None], 0.5),
        }
        for arm, steps in moved.items():
            losses = (steps @ gradient[..., None])[..., 0]
            weights = losses if mirrored else losses - losses.mean(-1, keepdim=True)
            found = statistics.t_interval(cosine((weights[:, None] @ steps)[:, 0], gradient).numpy())
            rows.append(
                {"arm": arm, "sampling": "antithetic" if mirrored else "iid", "cosine": found.value}
                | {"low": found.low, "high": found.high, "repeats": found.n}
            )
    return _columns(rows)


def _columns(rows: list[dict[str, Any]]) -> dict[str, list]:
    return {name: [row[name] for row in rows] for name in rows[0]}
