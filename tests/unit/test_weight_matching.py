"""Weight matching finds what it must find exactly, and ends by itself."""

from dataclasses import replace
from itertools import permutations as orders
from itertools import product

import pytest
import torch
from torch import nn

from lossatlas import barriers, weight_matching
from lossatlas.errors import LossAtlasError
from lossatlas.problems.architectures import cnn, mlp, resnet
from lossatlas.problems.network import NetworkProblem
from lossatlas.symmetry import permuted

NETWORKS = {
    "one hidden layer": (lambda: mlp((6, 9, 3)), (6,)),
    "three hidden layers": (lambda: mlp((6, 8, 7, 9, 3), "tanh"), (6,)),
    "batch norm": (lambda: mlp((6, 8, 7, 3), batch_norm=True), (6,)),
    "convolutions": (lambda: cnn((2, 8, 8), (4, 5, 6), 3, batch_norm=True), (2, 8, 8)),
    "residual": (lambda: resnet(8), (3, 8, 8)),
}


def problem_of(module, shape, n=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, *shape, generator=generator).to(dtype)
    y = torch.randint(3, (n,), generator=generator)
    return NetworkProblem(module.to(dtype), x, y)


def members(problem, k=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(k, problem.dim, generator=generator, dtype=torch.float64).to(problem.x.dtype)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def shuffled(problem, theta, seed=5):
    """theta (P,) with all matchable units in a random order, and that order."""
    table = weight_matching.axes(problem)
    params = problem.layout.split(theta)
    sizes = {o: params[n].shape[i] for n, axes in table.items() for i, o in enumerate(axes) if o is not None}
    order = {o: torch.randperm(size, generator=generator(seed)) for o, size in sizes.items()}
    moved = weight_matching.permute(params, table, order)
    return torch.cat([moved[n].flatten() for n in problem.layout.names]), order


@pytest.mark.parametrize("name", NETWORKS)
def test_the_table_describes_permutations_that_leave_the_function_alone(name):
    build, shape = NETWORKS[name]
    problem = problem_of(build(), shape)
    theta = members(problem, 1)[0]
    moved, order = shuffled(problem, theta)
    assert order
    assert not torch.equal(moved, theta)
    # float64 sums of up to some hundred terms in another order
    torch.testing.assert_close(problem.logits(moved[None]), problem.logits(theta[None]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_permuted_copy_is_recovered_exactly(name):
    build, shape = NETWORKS[name]
    problem = problem_of(build(), shape)
    theta = members(problem, 1)[0]
    moved, order = shuffled(problem, theta)
    found = weight_matching.match(problem, theta, moved, generator())
    assert torch.equal(found.theta, theta)
    for key, value in order.items():
        assert torch.equal(value[found.permutations[key]], torch.arange(len(value)))
    # 3 to 4 passes are the authors' own experience; one hidden layer is one assignment
    assert found.passes == 1 if name == "one hidden layer" else found.passes <= 4


def test_the_matched_segment_of_a_permuted_copy_has_no_barrier():
    problem = problem_of(mlp((6, 12, 12, 3)), (6,), n=32)
    theta = members(problem, 1)
    problem = replace(problem, y=problem.logits(theta)[0].argmax(-1))  # which it then fits
    copy = permuted(problem, theta, [generator(3)])[0]

    def barrier(end):
        profile = barriers.measure(
            lambda t: torch.lerp(theta[0], end, t[:, None]), torch.linspace(0, 1, 9), problem, problem
        )
        return barriers.summary(profile)["train_loss_over_line"]

    assert barrier(copy) > 0.1
    assert barrier(weight_matching.match(problem, theta[0], copy, generator()).theta) == 0


def test_one_hidden_layer_is_matched_as_well_as_by_trying_all_orders():
    problem = problem_of(mlp((3, 5, 2), "tanh"), (3,))
    a, b = members(problem)
    table = weight_matching.axes(problem)
    first, second = problem.layout.split(a), problem.layout.split(b)
    best = max(
        sum(
            float((first[n] * v).sum())
            for n, v in weight_matching.permute(second, table, {"1": torch.tensor(o)}).items()
        )
        for o in orders(range(5))
    )
    found = weight_matching.match(problem, a, b, generator())
    assert found.objective[-1] == pytest.approx(best, rel=1e-12)
    assert found.passes <= 1


@pytest.mark.parametrize("seed", range(3))
def test_the_objective_never_falls_and_is_the_inner_product_of_the_two_networks(seed):
    problem = problem_of(mlp((6, 16, 16, 16, 3)), (6,))
    a, b = members(problem, seed=seed)
    found = weight_matching.match(problem, a, b, generator(seed))
    assert all(later >= earlier for earlier, later in zip(found.objective, found.objective[1:], strict=False))
    assert found.objective[0] == pytest.approx(float(a @ b))
    assert found.objective[-1] == pytest.approx(float(a @ found.theta))
    assert (a - found.theta).norm() < (a - b).norm()
    torch.testing.assert_close(problem.logits(found.theta[None]), problem.logits(b[None]), rtol=1e-9, atol=1e-9)


def test_the_end_is_a_local_maximum_in_each_permutation():
    problem = problem_of(mlp((4, 4, 4, 2)), (4,))
    a, b = members(problem)
    table = weight_matching.axes(problem)
    found = weight_matching.match(problem, a, b, generator())
    first, second = problem.layout.split(a), problem.layout.split(b)
    for key, o in product(found.permutations, orders(range(4))):
        other = weight_matching.permute(second, table, {**found.permutations, key: torch.tensor(o)})
        assert sum(float((first[n] * v).sum()) for n, v in other.items()) <= found.objective[-1] + 1e-9


@pytest.mark.parametrize("name", ["one hidden layer", "three hidden layers", "convolutions"])
def test_matching_does_not_depend_on_how_the_units_of_both_networks_are_numbered(name):
    build, shape = NETWORKS[name]
    problem = problem_of(build(), shape)
    a, b = members(problem)
    found = weight_matching.match(problem, a, b, generator(7)).theta
    again = weight_matching.match(problem, shuffled(problem, a)[0], shuffled(problem, b)[0], generator(7)).theta
    assert torch.equal(again, shuffled(problem, found)[0])


def test_a_given_start_is_used_and_left_as_it_is():
    problem = problem_of(mlp((6, 8, 8, 3)), (6,))
    theta = members(problem, 1)[0]
    moved, order = shuffled(problem, theta)
    inverse = {key: value.argsort() for key, value in order.items()}
    kept = {key: value.clone() for key, value in inverse.items()}
    found = weight_matching.match(problem, theta, moved, generator(), start=inverse)
    assert found.passes == 0
    assert torch.equal(found.theta, theta)
    worse = weight_matching.match(problem, theta, moved, generator(), start=order)
    assert worse.objective[0] < found.objective[0]
    for key, value in kept.items():
        assert torch.equal(inverse[key], value)


def test_a_float32_matching_ends_long_before_the_cap_and_the_same_key_gives_the_same_bits():
    problem = problem_of(mlp((20, 64, 64, 64, 10)), (20,), dtype=torch.float32)
    a, b = members(problem)
    found = weight_matching.match(problem, a, b, generator(3))
    assert 0 < found.passes < weight_matching.PASSES / 2
    again = weight_matching.match(problem, a, b, generator(3))
    assert torch.equal(found.theta, again.theta)
    assert found.objective == again.objective
    assert torch.equal(found.theta.sort().values, b.sort().values)


def test_a_network_without_a_table_is_refused_in_a_sentence():
    with pytest.raises(LossAtlasError, match="table of axes"):
        weight_matching.axes(problem_of(nn.Linear(6, 3), (6,)))
    unpooled = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    with pytest.raises(LossAtlasError, match="pool first"):
        weight_matching.axes(problem_of(unpooled, (1, 4, 4)))
    mixed = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 3))
    with pytest.raises(LossAtlasError, match="no rule for layer 1"):
        weight_matching.axes(problem_of(mixed, (6,)))
