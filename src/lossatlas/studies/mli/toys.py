"""Two lines whose curves have a closed form, computed by the study's own code in float64."""

from dataclasses import replace

import torch
from scipy.optimize import brentq

from lossatlas.interpolation import sweep
from lossatlas.problems.architectures import mlp
from lossatlas.problems.network import NetworkProblem, initial
from lossatlas.seeds import seed
from lossatlas.theory import plateau_switch

DEPTHS = (2, 3, 4, 5, 6)


def zero_start_error(depth: int) -> float:
    """Greatest |z(a) - a^depth z(1)| / max |z(1)| on the line from zero to a ReLU network without biases."""
    generator = torch.Generator().manual_seed(seed("mli", "toys", depth))
    x = torch.randn(16, 8, generator=generator, dtype=torch.float64)
    widths = (8, *(16,) * (depth - 1), 4)
    problem = NetworkProblem(mlp(widths), x, torch.zeros(16, dtype=torch.int64)).to(dtype=torch.float64)
    end = initial(lambda: mlp(widths), [seed("mli", "toys", depth)]).double()
    weights = torch.cat(
        [
            torch.full((size,), name.endswith("weight"), dtype=torch.float64)
            for name, size in zip(problem.layout.names, problem.layout.sizes, strict=True)
        ]
    )
    end = end * weights
    line = sweep(problem, torch.zeros_like(end), end, logits_rows=16)
    expected = line.alphas[:, None, None] ** depth * line.logits[0, -1]
    return float((line.logits[0] - expected).abs().max() / expected.abs().max())


def plateau_switch_error(depth: int) -> float:
    """Distance between the predicted switch of the winning class and the one located on the network's logits.

    A linear chain of `depth` layers with weights a and a last layer with biases has logits a^depth s + a b.
    """
    signal, bias = torch.tensor([2.0, 1.0], dtype=torch.float64), torch.tensor([0.0, 0.3], dtype=torch.float64)
    widths = (1,) * depth + (2,)
    problem = NetworkProblem(mlp(widths), torch.ones(1, 1), torch.zeros(1, dtype=torch.int64))
    problem = replace(problem, x=problem.x.double(), module=problem.module.double())
    end = torch.cat(
        [
            value.flatten()
            for name in problem.layout.names
            for value in [_last_or_one(name, problem.layout.names, signal, bias)]
        ]
    )

    def lead(a: float) -> float:
        logits = problem.logits(a * end[None])[0, 0]
        return float(logits[0] - logits[1])

    found = brentq(lead, 1e-3, 1.0, xtol=1e-14)
    return abs(found - plateau_switch(float(signal[0] - signal[1]), float(bias[1] - bias[0]), depth))


def _last_or_one(name: str, names: tuple[str, ...], signal: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    if name == names[-2]:
        return signal
    if name == names[-1]:
        return bias
    return torch.ones(1, dtype=torch.float64) if name.endswith("weight") else torch.zeros(1, dtype=torch.float64)
