"""Derivatives of the outputs along a line, by independent ways: finite differences, nested jvp, a closed form."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, jvp

from lossatlas.problems.architectures import cnn, mlp
from lossatlas.problems.network import NetworkProblem, initial
from lossatlas.velocities import velocities


def repeated_activation():
    tanh = nn.Tanh()
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), tanh, nn.Linear(5, 4), tanh, nn.Linear(4, 3))


def half_frozen():
    module = mlp((6, 5, 3), "tanh")
    module[1].bias.requires_grad_(False)
    torch.nn.init.constant_(module[1].bias, 0.3)
    return module


SMOOTH = {
    "mlp": (lambda: mlp((6, 8, 7, 3), "tanh"), (6,)),
    "mlp bn": (lambda: mlp((6, 8, 7, 3), "tanh", batch_norm=True), (6,)),
    "cnn 1d": (lambda: cnn((1, 9), (4, 5), 3, "tanh"), (1, 9)),
    "an activation without a rule": (lambda: nn.Sequential(nn.Linear(6, 4), nn.Softplus(), nn.Linear(4, 3)), (6,)),
    "sigmoid": (lambda: mlp((6, 8, 3), "sigmoid"), (2, 3)),
    "linear": (lambda: mlp((6, 3)), (6,)),
    "repeated activation": (repeated_activation, (6,)),
    "half frozen": (half_frozen, (6,)),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_velocities_are_finite_differences_of_the_logits(name):
    build, shape = SMOOTH[name]
    torch.manual_seed(0)
    problem = NetworkProblem(build().double(), torch.randn(5, *shape).double(), torch.zeros(5, dtype=torch.int64))
    start, end = initial(build, [0, 1]).double()
    alphas = torch.tensor([0.1, 0.45, 0.8]).double()
    velocity, acceleration = velocities(problem, start, end, alphas)

    def z(shift):
        a = (alphas + shift)[:, None]
        return problem.logits((1 - a) * start + a * end)

    step = 1e-4  # error of order step² times a higher derivative, and 1e-16 / step² = 1e-8 of rounding
    torch.testing.assert_close(velocity, (z(step) - z(-step)) / (2 * step), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(acceleration, (z(step) - 2 * z(0) + z(-step)) / step**2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_velocities_of_a_quadratic_path_are_exact(dtype):
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).to(dtype)
    problem = NetworkProblem(module, torch.ones(1, 1, dtype=dtype), torch.zeros(1, dtype=torch.int64))
    alphas = torch.linspace(0, 1, 5, dtype=torch.float64)
    velocity, acceleration = velocities(problem, torch.zeros(2, dtype=dtype), torch.ones(2, dtype=dtype), alphas)
    # z = alpha²; alphas are dyadic
    assert velocity.flatten().tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert acceleration.flatten().tolist() == [2.0] * 5


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_velocities_are_those_of_nested_forward_differentiation(activation):
    widths = (4, 7, 6, 5, 3)
    problem = NetworkProblem(mlp(widths, activation).double(), torch.randn(5, 4).double(), torch.zeros(5).long())
    start, end = initial(lambda: mlp(widths, activation), [0, 1]).double()
    alphas = torch.tensor([0.0, 0.3, 1.0]).double()
    found = velocities(problem, start, end, alphas)
    names = dict(problem.module.named_parameters())
    one = torch.ones((), dtype=torch.float64)

    def logits(a):
        parts = torch.split((1 - a) * start + a * end, [p.numel() for p in names.values()])
        params = {name: part.view(p.shape) for (name, p), part in zip(names.items(), parts, strict=True)}
        return functional_call(problem.module, params, (problem.x,))

    for i, a in enumerate(alphas):
        first, second = jvp(lambda b: jvp(logits, (b,), (one,))[1], (a,), (one,))
        # a few roundings of float64 in sums of seven terms
        torch.testing.assert_close(found[0][i], first, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(found[1][i], second, rtol=1e-11, atol=1e-12)
