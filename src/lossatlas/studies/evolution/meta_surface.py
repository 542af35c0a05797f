"""How rough the outer surface is against the length of the unroll, and what smoothing does to it (B3 of the reference).

The figure that evostrats borrowed from Metz et al. 2019, made anew: raw surface, smoothed surface, gradient magnitude.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from lossatlas.data import DataSet
from lossatlas.evolution.unrolled import forward_mode, full_es_samples
from lossatlas.problems.bilevel import HeavyBall
from lossatlas.progress import progress
from lossatlas.seeds import seed
from lossatlas.studies.evolution.meta import heavy_ball, heavy_ball_initial

LOW, HIGH = 0.05, 20.0  # learning rates of the surface
MOMENTUM = 0.9
SIGMAS = (0.03, 0.1, 0.3)  # of the smoothing, in log lr
CHUNK = 64  # particles whose parameters and activations fit the cache
RATES = (0.05, 0.2, 1.0, 3.0)  # at which exact and smoothed derivatives are compared
SMOOTHING = 0.1
POINTS, ESTIMATES, PAIRS = 12, 8, 8


def log_rates(points: int) -> Tensor:
    """log lr (points,), evenly spaced from log .05 to log 20."""
    return torch.linspace(float(np.log(LOW)), float(np.log(HIGH)), points)


def after(problem: HeavyBall, theta: Tensor, unrolls: Sequence[int]) -> Tensor:
    """The outer loss (seeds, N, unrolls) of theta (seeds, N, 2) for several lengths, from one unroll to the longest."""
    parts = []
    with torch.no_grad():
        for part in progress(theta.split(CHUNK, dim=-2), "surface"):
            state, found = problem.start(part), []
            for t in range(max(unrolls)):
                state, _ = problem.step(state, part, t)
                if t + 1 in unrolls:
                    found.append(problem.final_loss(state[..., : problem.net.dim]))
            parts.append(torch.stack(found, -1))
    return torch.cat(parts, dim=-2)


def curves(data_set: DataSet, settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """`loss` (inits, points, unrolls) on the line of learning rates with momentum .9, and `surface` (side, side,
    unrolls), rows momentum, columns learning rate, of the first initialisation; their axes beside them."""
    unrolls = settings["unrolls"]
    inits = heavy_ball_initial(data_set, range(settings["surface_inits"]))
    x = log_rates(settings["surface_points"])
    line = torch.stack([x, torch.full_like(x, float(torch.logit(torch.tensor(MOMENTUM))))], -1)
    loss = torch.cat([after(heavy_ball(data_set, 10**9, one[None]), line[None], unrolls) for one in inits])
    side = settings["surface_side"]
    momenta = torch.linspace(-2.0, 4.0, side)
    grid = torch.stack(torch.meshgrid(momenta, log_rates(side), indexing="ij")[::-1], -1).reshape(1, -1, 2)
    surface = after(heavy_ball(data_set, 10**9, inits[:1]), grid, unrolls)[0].view(side, side, -1)
    return {
        "log_lr": x,
        "loss": loss,
        "momenta": momenta,
        "surface": surface,
        "unrolls": torch.tensor(unrolls),
    }


def smoothed(loss: np.ndarray, sigma: float, spacing: float, axis: int = -1) -> np.ndarray:
    """`loss` on a grid convolved with a Gaussian of `sigma`, both in units of the axis; its ends are continued.

    Points that are not finite count as the largest finite one.
    """
    finite = np.isfinite(loss)
    filled = np.where(finite, loss, loss[finite].max() if finite.any() else 0.0)
    return gaussian_filter1d(filled, sigma / spacing, axis=axis, mode="nearest")


def roughness(found: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Rows (init, unroll, sigma) with total_variation sum |L_{i+1} - L_i|, turns (changes of sign of consecutive
    slopes), median_slope |dL / d log lr| and the number of points that are not finite; sigma 0 is the raw curve."""
    spacing = float(found["log_lr"][1] - found["log_lr"][0])
    rows = []
    for init, per_init in enumerate(np.asarray(found["loss"], float)):
        for unroll, loss in zip(np.asarray(found["unrolls"]).tolist(), per_init.T, strict=True):
            for sigma in (0.0, *SIGMAS):
                curve = loss[np.isfinite(loss)] if sigma == 0 else smoothed(loss, sigma, spacing)
                slopes = np.diff(curve)
                signs = np.sign(slopes[slopes != 0])
                rows.append(
                    {
                        "init": init,
                        "unroll": unroll,
                        "sigma": sigma,
                        "total_variation": float(np.abs(slopes).sum()),
                        "turns": int((signs[1:] != signs[:-1]).sum()),
                        "median_slope": float(np.median(np.abs(slopes)) / spacing),
                        "nonfinite": int((~np.isfinite(loss)).sum()),
                    }
                )
    return rows


def explosion(data_set: DataSet, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows (init, unroll, lr) in float64: |dL / d log lr| exactly (forward mode) at points log lr + .02 N(0, 1), and
    estimates of the smoothed slope (sigma .1, 8 antithetic pairs each): medians, maxima, means and standard deviations.
    """
    inits = heavy_ball_initial(data_set, range(settings["surface_inits"])).double()
    rates = torch.tensor(RATES, dtype=torch.float64).log()
    jitter, noise = _normals(len(inits), POINTS), _normals(len(inits), ESTIMATES * PAIRS, "es")
    rows = []
    for unroll in progress(settings["explosion_unrolls"], "exploding gradients"):
        problem = LogRate(heavy_ball(data_set, unroll, inits, judged=200))
        centres = rates.expand(len(inits), -1)  # (inits, rates)
        points = centres[..., None] + 0.02 * jitter[:, None]  # (inits, rates, points)
        _, exact = forward_mode(problem, points.flatten(1)[..., None])
        exact = exact.view(points.shape)
        estimates = []
        for i in range(len(RATES)):
            samples, _ = full_es_samples(problem, centres[:, i : i + 1], noise[..., None], SMOOTHING, CHUNK)
            estimates.append(samples[..., 0].unflatten(-1, (ESTIMATES, PAIRS)).mean(-1))
        smooth = torch.stack(estimates, 1)  # (inits, rates, estimates)
        for i in range(len(inits)):
            for j, rate in enumerate(RATES):
                slope = exact[i, j]
                rows.append(
                    {
                        "init": i,
                        "unroll": unroll,
                        "lr": rate,
                        "exact_median": float(slope.abs().median()),
                        "exact_max": float(slope.abs().max()),
                        "exact_sd": float(slope.std()),
                        "smooth_mean": float(smooth[i, j].mean()),
                        "smooth_sd": float(smooth[i, j].std()),
                    }
                )
    return rows


class LogRate:
    """An inner training with heavy ball as a function of log lr alone, momentum .9."""

    dim = 1

    def __init__(self, problem: HeavyBall):
        self.problem, self.steps = problem, problem.steps

    def start(self, theta: Tensor) -> Tensor:
        return self.problem.start(theta)

    def step(self, state: Tensor, theta: Tensor, t: int) -> tuple[Tensor, Tensor]:
        momentum = torch.logit(theta.new_tensor(MOMENTUM)).expand_as(theta)
        return self.problem.step(state, torch.cat([theta, momentum], -1), t)


def _normals(inits: int, numbers: int, name: str = "jitter") -> Tensor:
    """(inits, numbers) in float64, named by initialisation."""
    generators = [torch.Generator().manual_seed(seed("evolution", "meta", name, i)) for i in range(inits)]
    return torch.stack([torch.randn(numbers, generator=g, dtype=torch.float64) for g in generators])
