"""Many independent estimates at one point: bias of PES and truncated ES, variance of PES and ES-Single."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lossatlas.evolution.unrolled import Unrolled, backpropagated, begin, windowed_es
from lossatlas.problems.bilevel import InfluenceBalancing, Lorenz, ToyRegression
from lossatlas.seeds import seed

INFLUENCE_STEPS, INFLUENCE_THETA, PAIRS_OF_A_REPEAT = 200, 0.5, 40


def checks(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows (benchmark, kind, repeat, value_0, value_1): gradients of whole inner problems, each from noise of its own.

    `influence` at theta = .5 in windows of one step, with the exact gradient as kind `exact`; `toy` at (0, 0) and
    `lorenz` at its start, with the same number of particles and steps for both kinds.
    """
    repeats = settings["repeats"]
    problem = InfluenceBalancing(INFLUENCE_STEPS)
    theta = torch.tensor([INFLUENCE_THETA], dtype=torch.float64)
    rows = [_row("influence", "exact", 0, backpropagated(problem, theta[None])[1][0])]
    for kind in ("pes", "truncated"):
        rows += _rows("influence", kind, problem, theta, 1, 0.1, PAIRS_OF_A_REPEAT, repeats)
    chaotic = Lorenz(settings["lorenz_unroll"])
    for kind in ("pes", "single"):
        rows += _rows("toy", kind, ToyRegression(), torch.zeros(2), 10, 0.2, 4, repeats)
        rows += _rows("lorenz", kind, chaotic, torch.tensor([3.116, 3.7]), chaotic.steps // 20, 0.04, 4, repeats)
    return rows


def _rows(
    benchmark: str, kind: str, problem: Unrolled, theta: Tensor, window: int, sigma: float, pairs: int, repeats: int
) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed("evolution", "meta", "checks", benchmark, kind))
    everywhere = theta.expand(repeats, -1)
    memory, total = begin(kind, problem, everywhere, pairs, window), torch.zeros_like(everywhere)
    for _ in range(problem.steps // window):
        noise = torch.randn(repeats, pairs, len(theta), generator=generator, dtype=theta.dtype)
        found, memory = windowed_es(kind, problem, everywhere, memory, noise, sigma, window)
        total = total + found.gradient
    return [_row(benchmark, kind, i, gradient) for i, gradient in enumerate(total)]


def _row(benchmark: str, kind: str, repeat: int, gradient: Tensor) -> dict[str, Any]:
    values = gradient.tolist()
    return {
        "benchmark": benchmark,
        "kind": kind,
        "repeat": repeat,
        "value_0": values[0],
        "value_1": values[1] if len(values) > 1 else None,
    }
