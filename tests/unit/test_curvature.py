"""The lowest curvature of losses whose Hessian is known."""

import math

import numpy as np
import pytest
import torch

from lossatlas import curvature
from lossatlas.problems.analytic import Quadratic
from lossatlas.problems.architectures import mlp
from lossatlas.problems.network import NetworkProblem


def random(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("lowest", "highest"), [(-0.5, 100.0), (0.2, 3.0), (-40.0, -1.0)])
def test_the_lowest_eigenvalue_of_a_quadratic_is_found_beside_large_ones(lowest, highest):
    spectrum = torch.cat([torch.tensor([lowest]), torch.linspace(max(lowest, 0.0) + 0.5, highest, 199)])
    if highest < 0:
        spectrum = torch.linspace(lowest, highest, 200)
    problem = Quadratic(spectrum.double())
    theta = torch.randn(200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = curvature.lowest(problem, theta, random())
    assert found == pytest.approx(lowest, rel=curvature.TOLERANCE)
    assert found == curvature.lowest(problem, theta, random())  # bit by bit


def test_it_is_that_of_the_whole_hessian_of_a_network():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 4, generator=generator, dtype=torch.float64), torch.arange(30) % 3
    problem = NetworkProblem(mlp((4, 5, 3), "tanh"), x, y).to(dtype=torch.float64)
    theta = torch.randn(problem.dim, generator=generator, dtype=torch.float64)
    whole = torch.autograd.functional.hessian(lambda t: problem(t[None])[0], theta)
    assert curvature.lowest(problem, theta, random()) == pytest.approx(
        float(torch.linalg.eigvalsh(whole)[0]), rel=curvature.TOLERANCE
    )


def test_what_does_not_settle_is_no_number(monkeypatch):
    monkeypatch.setattr(curvature, "VECTORS", 3)  # far too few for a lowest eigenvalue that stands so close to others
    problem = Quadratic(torch.linspace(1, 1e4, 1000, dtype=torch.float64))
    assert math.isnan(curvature.lowest(problem, torch.zeros(1000, dtype=torch.float64), random()))
