from dataclasses import replace

import pytest
import torch
from torch import nn

from lossatlas import ensemble, perceptron
from lossatlas.ensemble import Norm
from lossatlas.perceptron import Perceptron
from lossatlas.problems.architectures import mlp
from lossatlas.problems.network import NetworkProblem, initial

WIDTHS = (5, 7, 6, 3)


def network(activation="relu", rows=11, widths=WIDTHS, batch_norm=False):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, widths[0], generator=generator, dtype=torch.float64)
    y = torch.randint(widths[-1], (rows,), generator=generator)
    problem = NetworkProblem(mlp(widths, activation, batch_norm).double(), x, y)
    theta = initial(lambda: mlp(widths, activation, batch_norm).double(), range(4))
    # scales and shifts of a normalisation start at one and zero, where an error could hide
    return problem, theta + 0.1 * torch.randn(theta.shape, generator=generator, dtype=theta.dtype)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("wanted", [slice(None), slice(1, -1), slice(1, None), slice(0, 0)], ids=str)
def test_losses_and_gradients_are_those_of_automatic_differentiation(activation, wanted, batch_norm):
    problem, theta = network(activation, batch_norm=batch_norm)
    losses, gradients = Perceptron.of(problem).gradient(theta, problem.x, problem.y, wanted)
    expected, slopes = ensemble.gradient(problem, theta)
    # 1e-12: a few roundings of float64 in sums of eleven rows
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients, slopes[wanted], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wanted", [slice(None), slice(1, -1)], ids=str)
@pytest.mark.parametrize("cache", [700, 10**6])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_each_member_may_see_rows_of_its_own(wanted, cache, batch_norm, monkeypatch):
    problem, theta = network(batch_norm=batch_norm)
    monkeypatch.setattr(perceptron, "CACHE_BYTES", cache)
    part = problem.on(torch.tensor([[0, 1, 2], [3, 2, 1], [7, 8, 9], [10, 0, 5]]))
    losses, gradients = Perceptron.of(part).gradient(theta, part.x, part.y, wanted)
    expected, slopes = ensemble.gradient(part, theta)
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients, slopes[wanted], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wanted", [slice(None), slice(1, -1)], ids=str)
@pytest.mark.parametrize("cache", [300, 1500, 10**6])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_groups_of_members_are_evaluated_as_each_group_is_by_itself(wanted, cache, batch_norm, monkeypatch):
    problem, theta = network(batch_norm=batch_norm)
    monkeypatch.setattr(perceptron, "CACHE_BYTES", cache)
    groups = torch.stack([theta, theta.flip(0) / 2, theta.square()])
    rows = torch.tensor([[0, 1, 2], [3, 2, 1], [7, 10, 9]])
    losses, gradients = Perceptron.of(problem).gradient(groups, problem.x[rows], problem.y[rows], wanted)
    for group, own, loss, gradient in zip(groups, rows, losses, gradients, strict=True):
        expected, slopes = ensemble.gradient(problem.on(own), group)
        # float64, summed in another order than autograd's
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, slopes[wanted], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cache", [1, 700, 10**6])
def test_chunks_do_not_change_the_numbers(cache, monkeypatch):
    problem, theta = network()
    whole = Perceptron.of(problem).gradient(theta, problem.x, problem.y, slice(1, -1))
    monkeypatch.setattr(perceptron, "CACHE_BYTES", cache)
    parts = Perceptron.of(problem).gradient(theta, problem.x, problem.y, slice(1, -1))
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_what_was_handed_out_outlives_the_next_call(groups, batch_norm):
    problem, theta = network(batch_norm=batch_norm)
    kept = Perceptron.of(problem)
    theta = torch.stack([theta, theta.flip(0)][:groups])
    x, y = problem.x.expand(groups, -1, -1), problem.y.expand(groups, -1)
    losses, gradients = kept.gradient(theta, x, y, slice(1, -1))
    before = losses.clone(), gradients.clone()
    kept.gradient(-theta, x, y, slice(1, -1))
    assert torch.equal(losses, before[0])
    assert torch.equal(gradients, before[1])
    again = kept.gradient(theta, x, y, slice(1, -1))
    assert torch.equal(losses, again[0])
    assert torch.equal(gradients, again[1])


@pytest.mark.parametrize("cache", [300, 10**6])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
def test_what_was_prepared_once_follows_parameters_that_change_in_place(groups, batch_norm, cache, monkeypatch):
    problem, theta = network(batch_norm=batch_norm)
    monkeypatch.setattr(perceptron, "CACHE_BYTES", cache)
    standing = torch.stack([theta] * groups)
    gradients = torch.full_like(standing[:, 1:-1], torch.nan)
    run = Perceptron.of(problem).prepare(standing, gradients, 4, first=1)
    for step in range(3):
        standing += 0.1 * torch.randn(standing.shape, generator=torch.Generator().manual_seed(step), dtype=theta.dtype)
        rows = torch.arange(4 * groups).view(groups, 4).add(step) % problem.rows
        losses = run(problem.x[rows], problem.y[rows])
        for own, group, loss, gradient in zip(rows, standing, losses, gradients, strict=True):
            expected, slopes = ensemble.gradient(problem.on(own), group)
            # float64, summed in another order than autograd's
            torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(gradient, slopes[1:-1], rtol=1e-12, atol=1e-12)


def test_large_outputs_do_not_overflow():
    problem, theta = network()
    losses, gradients = Perceptron.of(problem).gradient(1e3 * theta, problem.x, problem.y)
    expected, slopes = ensemble.gradient(problem, 1e3 * theta)
    torch.testing.assert_close(losses, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(gradients, slopes, rtol=1e-10, atol=1e-12)


def test_a_linear_model_has_no_hidden_layer():
    problem, theta = network(widths=(5, 3))
    losses, gradients = Perceptron.of(problem).gradient(theta, problem.x, problem.y)
    torch.testing.assert_close((losses, gradients), ensemble.gradient(problem, theta), rtol=1e-12, atol=1e-12)


def problem_of(module, loss="cross_entropy"):
    return NetworkProblem(module, torch.randn(6, 5), torch.zeros(6, dtype=torch.long), loss)


def shared_layer():
    layer = nn.Linear(5, 5)
    return nn.Sequential(layer, nn.ReLU(), layer)


@pytest.mark.parametrize(
    "problem",
    [
        problem_of(nn.Sequential(nn.Linear(5, 4), Norm(4, affine=False), nn.ReLU(), nn.Linear(4, 3))),
        problem_of(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), Norm(3))),
        problem_of(nn.Sequential(Norm(5), nn.ReLU(), nn.Linear(5, 3))),
        replace(problem_of(mlp((5, 4, 3), batch_norm=True)), moments=lambda theta: {}),
        problem_of(mlp((5, 4, 5)), "squared_error"),
        problem_of(nn.Sequential(nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 3))),
        problem_of(nn.Sequential(nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3))),
        problem_of(nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3), nn.ReLU())),
        problem_of(shared_layer()),
        object(),
    ],
)
def test_any_other_problem_is_left_alone(problem):
    assert Perceptron.of(problem) is None
