"""The networks of the MNIST-1D table: sizes, batched layers against PyTorch's own, and shuffled positions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from lossatlas import training
from lossatlas.data import DataSet
from lossatlas.errors import LossAtlasError
from lossatlas.problems.architectures import MNIST1D_NETWORKS, Windows, mnist1d_network
from lossatlas.problems.network import NetworkProblem, initial
from lossatlas.studies import baselines
from lossatlas.studies.settings import Baseline

DOUBLE = {"dtype": torch.float64}


@pytest.mark.parametrize(
    # the parameters that the released notebook prints for 40 inputs and 10 classes
    ("name", "parameters"),
    [("linear", 410), ("residual-mlp", 15210), ("conv", 5210), ("gru", 5134)],
)
def test_sizes_are_the_published_ones(name, parameters):
    assert sum(p.numel() for p in mnist1d_network(name).parameters()) == parameters


def member_by_member(problem, theta):
    """Losses and gradients by PyTorch's own layers, one network at a time."""
    losses, gradients = [], []
    for one in theta:
        one = one.detach().requires_grad_()
        outputs = functional_call(problem.module, problem.layout.split(one), (problem.x,))
        loss = F.cross_entropy(outputs, problem.y)
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, one)[0])
    return torch.stack(losses), torch.stack(gradients)


@pytest.mark.parametrize("name", MNIST1D_NETWORKS)
@pytest.mark.parametrize("length", [12, 13])
def test_an_ensemble_has_the_losses_and_gradients_of_its_members(name, length):
    x = torch.randn(7, length, generator=torch.Generator().manual_seed(0), **DOUBLE)
    y = torch.arange(7) % 4
    build = lambda: mnist1d_network(name, length, 4)  # noqa: E731
    problem = NetworkProblem(build(), x, y).to(dtype=torch.float64)
    theta = initial(build, range(3)).double().requires_grad_()
    loss = problem(theta)
    (gradient,) = torch.autograd.grad(loss.sum(), theta)
    expected = member_by_member(problem, theta)
    torch.testing.assert_close(loss, expected[0])
    torch.testing.assert_close(gradient, expected[1])  # float64, other order of sums


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(5, 2, 1), (3, 2, 1), (3, 1, 0)])
def test_patches_are_what_a_convolution_sees_and_have_two_derivatives(kernel, stride, padding):
    x = torch.randn(2, 3, 9, 4, generator=torch.Generator().manual_seed(0), **DOUBLE)  # (k, C, L, n)
    expected = F.pad(x, (0, 0, padding, padding)).unfold(2, kernel, stride).permute(0, 1, 4, 2, 3)
    assert torch.equal(Windows.apply(x, kernel, stride, padding), expected)
    one = x[:1, :2, :, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(Windows.apply, (one, kernel, stride, padding))
    assert torch.autograd.gradgradcheck(Windows.apply, (one, kernel, stride, padding))


def test_each_member_may_have_rows_of_its_own():
    x = torch.randn(9, 12, generator=torch.Generator().manual_seed(0), **DOUBLE)
    build = lambda: mnist1d_network("gru", 12, 4)  # noqa: E731
    problem = NetworkProblem(build(), x, torch.arange(9) % 4).to(dtype=torch.float64)
    theta, rows = initial(build, range(2)).double(), torch.tensor([[0, 3, 5], [8, 1, 2]])
    own = problem.on(rows)(theta)
    for i in range(2):
        torch.testing.assert_close(own[i], problem.on(rows[i])(theta[i : i + 1])[0])


def test_a_saturated_gate_has_a_finite_gradient():
    x = torch.full((2, 5), 1e4)
    build = lambda: mnist1d_network("gru", 5, 2)  # noqa: E731
    problem, theta = NetworkProblem(build(), x, torch.arange(2)), initial(build, [0]).requires_grad_()
    (gradient,) = torch.autograd.grad(problem(theta).sum(), theta)
    assert gradient.isfinite().all()


def test_the_multilayer_perceptron_adds_its_second_layer_to_the_first():
    module, x = mnist1d_network("residual-mlp"), torch.randn(3, 40)
    linears = [m for m in module.modules() if isinstance(m, nn.Linear)]
    hidden = linears[0](x).relu()
    hidden = hidden + linears[1](hidden).relu()
    torch.testing.assert_close(module(x), linears[2](hidden))


def tiny_data():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    return DataSet("tiny", x[:30], y[:30], x[30:], y[30:], 2)


def test_shuffling_moves_positions_by_one_permutation_for_training_and_test_rows():
    plain = baselines.problems(Baseline("digits", (), architecture="conv"), tiny_data())
    mixed = baselines.problems(Baseline("digits", (), architecture="conv", shuffled=True), tiny_data())
    columns = [next(j for j in range(6) if torch.equal(plain.train.x[:, j], mixed.train.x[:, i])) for i in range(6)]
    assert sorted(columns) == list(range(6))
    assert columns != list(range(6))
    assert torch.equal(plain.test.x[:, columns], mixed.test.x)
    assert torch.equal(plain.test.y, mixed.test.y)


def test_to_a_linear_model_shuffled_positions_are_the_same_problem():
    found = []
    for shuffled in (False, True):
        problem = baselines.problems(
            Baseline("digits", (), architecture="linear", shuffled=shuffled), tiny_data()
        ).train
        start = torch.zeros(1, problem.dim)  # which no permutation of the columns changes
        recipe = training.Recipe("adam", steps=200)
        found.append(problem(training.train(problem, start, recipe, 0.1).final))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=0)  # float32 sums in another order, 200 steps


def test_an_unknown_network_is_refused_in_a_sentence():
    with pytest.raises(LossAtlasError, match="residual-mlp"):
        mnist1d_network("lstm")
