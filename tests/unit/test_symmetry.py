"""Changes of parameters that leave the function alone, and those that must not pretend to."""

import pytest
import torch
from torch import nn

from lossatlas.errors import LossAtlasError
from lossatlas.problems.architectures import cnn, mlp
from lossatlas.problems.network import NetworkProblem
from lossatlas.symmetry import hidden_layers, permuted, rescaled, rescaled_to_distance

SAME = {"rtol": 1e-10, "atol": 1e-10}  # float64 sums in another order


def problem_of(module, inputs=6, n=9):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, inputs, generator=generator, dtype=torch.float64)
    problem = NetworkProblem(module.double(), x, torch.zeros(n, dtype=torch.int64))
    theta = torch.randn(3, problem.dim, generator=generator, dtype=torch.float64)
    return problem, theta


def generators(seed):
    return [torch.Generator().manual_seed(seed + i) for i in range(3)]


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("hidden", [(8,), (8, 8), (8, 5, 7), (4, 4, 4, 4)])
def test_a_permuted_network_computes_the_same_function(hidden, batch_norm):
    problem, theta = problem_of(mlp((6, *hidden, 3), "tanh", batch_norm))
    moved = permuted(problem, theta, generators(1))
    assert not torch.equal(moved, theta)
    torch.testing.assert_close(problem.logits(moved), problem.logits(theta), **SAME)
    # the same numbers at other places
    assert torch.equal(moved.sort(-1).values, theta.sort(-1).values)


def test_a_permuted_network_without_biases_computes_the_same_function():
    module = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
    problem, theta = problem_of(module)
    torch.testing.assert_close(problem.logits(permuted(problem, theta, generators(1))), problem.logits(theta), **SAME)


def test_every_hidden_layer_is_permuted_and_each_member_by_its_own_generator():
    problem, theta = problem_of(mlp((6, 8, 8, 3)))
    moved = permuted(problem, theta, generators(1))
    for name in ("1.weight", "3.weight", "5.weight"):
        assert not torch.equal(problem.layout.split(moved)[name], problem.layout.split(theta)[name])
    alone = permuted(problem, theta[1:2], generators(1)[1:2])
    assert torch.equal(alone[0], moved[1])
    same = permuted(problem, theta[:1].expand(3, -1), generators(1))
    assert not torch.equal(same[0], same[1])
    assert torch.equal(moved, permuted(problem, theta, generators(1)))
    assert not torch.equal(moved, permuted(problem, theta, generators(9)))


def test_hidden_layers_name_the_norm_between_and_the_consumer():
    problem, _ = problem_of(mlp((6, 8, 7, 3), batch_norm=True))
    names = [name for name, _ in problem.module.named_children()]
    linear = [n for n in names if isinstance(problem.module.get_submodule(n), nn.Linear)]
    (one, norm, consumer), (two, second, last) = hidden_layers(problem)
    assert [one, consumer, last] == linear
    assert two == consumer
    for layer, follower in ((one, norm), (two, second)):
        assert names.index(follower) == names.index(layer) + 1
    assert [norm for _, norm, _ in hidden_layers(problem_of(mlp((6, 8, 7, 3)))[0])] == [None, None]


@pytest.mark.parametrize("hidden", [(8,), (8, 8), (8, 5, 7)])
def test_a_rescaled_relu_network_computes_the_same_function_farther_away(hidden):
    problem, theta = problem_of(mlp((6, *hidden, 3)))
    factors = torch.tensor([1.0, 0.2, 30.0], dtype=torch.float64)
    moved = rescaled(problem, theta, factors)
    torch.testing.assert_close(problem.logits(moved), problem.logits(theta), **SAME)
    assert torch.equal(moved[0], theta[0])
    torch.testing.assert_close(rescaled(problem, moved, 1 / factors), theta, **SAME)


@pytest.mark.parametrize("share", [1.001, 1.5, 10, 1000])
def test_rescaling_reaches_the_distance_that_is_asked_for(share):
    problem, theta = problem_of(mlp((6, 8, 8, 3)))
    origin = 0.9 * theta
    distance = share * (theta - origin).norm(dim=-1)
    moved = rescaled_to_distance(problem, origin, theta, distance)
    torch.testing.assert_close((moved - origin).norm(dim=-1), distance, rtol=1e-9, atol=0)  # sixty halvings
    torch.testing.assert_close(problem.logits(moved), problem.logits(theta), **SAME)


def test_members_that_are_farther_already_are_left_alone():
    problem, theta = problem_of(mlp((6, 8, 3)))
    layout = problem.layout
    parts = {name: value.clone() for name, value in layout.split(theta).items()}
    parts["3.weight"] *= 50  # dividing this layer first brings the network nearer
    theta = torch.cat([parts[name].flatten(1) for name in layout.names], -1)
    origin = torch.zeros_like(theta)
    distance = 0.5 * theta.norm(dim=-1)
    assert torch.equal(rescaled_to_distance(problem, origin, theta, distance), theta)


def test_networks_that_are_no_perceptrons_are_refused():
    for module in (cnn((1, 6), (4,), 3), nn.Sequential(nn.Linear(6, 3))):
        problem = NetworkProblem(module, torch.zeros(2, 6), torch.zeros(2, dtype=torch.int64))
        with pytest.raises(LossAtlasError, match="perceptron"):
            hidden_layers(problem)
