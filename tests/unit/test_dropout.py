"""Dropped networks, the path through them, and training that drops units."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossatlas import barriers, dropout
from lossatlas.elastic_band import points
from lossatlas.errors import LossAtlasError
from lossatlas.problems.architectures import mlp
from lossatlas.problems.network import NetworkProblem
from lossatlas.training import Recipe, train

SAME = {"rtol": 1e-10, "atol": 1e-10}  # float64 sums in another order
DEPTHS = [(6,), (6, 4), (4, 6, 8), (4, 4, 4, 4)]


def case(hidden, activation="relu", rows=20, inputs=5, classes=3):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(rows, inputs, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (rows,), generator=generator)
    problem = NetworkProblem(mlp((inputs, *hidden, classes), activation).double(), x, y)
    a, b = torch.randn(2, problem.dim, generator=generator, dtype=torch.float64)
    half = [own[0] for own in dropout.random_halves(problem, 1, generator)]
    return problem, a, b, half


def by_hand(problem, theta, half, first):
    """A dropped network, layer by layer: units that go give nothing, the others twice as much."""
    linear = [layer for layer in problem.layout.write(theta, problem.module) if isinstance(layer, nn.Linear)]
    x = problem.x
    for i, layer in enumerate(linear[:-1]):
        x = F.relu(layer(x))
        if i >= first:
            x = 2 * x * half[i]
    return linear[-1](x)


@pytest.mark.parametrize("hidden", DEPTHS)
def test_a_dropped_network_is_one_whose_units_give_nothing(hidden):
    problem, a, _, half = case(hidden)
    for first in range(len(hidden)):
        found = dropout.dropped(problem, a, [own[None] for own in half], first)
        wanted = by_hand(problem, a, half, first)
        # doubled weights instead of doubled outputs: rounding of one float64 pass
        torch.testing.assert_close(problem.logits(found)[0], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("hidden", DEPTHS)
def test_the_path_joins_its_ends_through_the_dropped_networks(hidden, activation):
    problem, a, b, half = case(hidden, activation)
    path = dropout.path(problem, a, b, half)
    assert path.shape == (4 * len(hidden) + 2, problem.dim)
    assert torch.equal(path[0], a)
    assert torch.equal(path[-1], b)
    # each dropped network's function is met: a's on the way out, b's on the way in
    kept = [own[None] for own in half]
    wanted = [*dropout.stages(problem, a, kept)[:, 0]]
    wanted += [*dropout.stages(problem, b, [~own for own in kept])[:, 0]][::-1]
    met = problem.logits(path)
    for theta in wanted:
        assert (met - problem.logits(theta[None])).abs().amax((1, 2)).min() < 1e-10  # float64 sums in another order


@pytest.mark.parametrize("hidden", DEPTHS)
def test_on_each_segment_the_outputs_are_linear_and_on_the_others_constant(hidden):
    problem, a, b, half = case(hidden, "tanh")
    path = dropout.path(problem, a, b, half)
    constant = 0
    for left, right in pairwise(path):
        ends = problem.logits(torch.stack([left, right]))
        for share in (0.3, 0.8):
            between = problem.logits(torch.lerp(left, right, share)[None])[0]
            torch.testing.assert_close(between, torch.lerp(*ends, share), **SAME)
        constant += torch.allclose(*ends, **SAME)
    # the output turns to the dropped layer, once more for each layer below, both ways, and once to the other network
    assert constant == len(path) - 1 - (2 * len(hidden) + 1)


@pytest.mark.parametrize("hidden", DEPTHS)
def test_no_loss_on_the_path_exceeds_the_ends_and_the_dropped_networks(hidden):
    problem, a, b, _ = case(hidden)
    half, bound = dropout.best_half(problem, a, b, 8, torch.Generator().manual_seed(0))
    path = dropout.path(problem, a, b, half)
    grid = torch.linspace(0, len(path) - 1, 20 * (len(path) - 1) + 1, dtype=torch.float64)
    highest = float(barriers.means(problem, points(path, grid))[0].max())
    assert highest <= bound * (1 + 1e-12)  # rounding of the two means
    assert highest == pytest.approx(bound, rel=1e-10)  # and the bound is met, since the path passes all of them


def test_the_best_half_is_the_best_of_those_drawn():
    problem, a, b, _ = case((6, 4))
    bounds = [dropout.best_half(problem, a, b, n, torch.Generator().manual_seed(1))[1] for n in (1, 4, 200)]
    assert bounds[0] >= bounds[1] >= bounds[2]
    halves = dropout.random_halves(problem, 200, torch.Generator().manual_seed(2))
    assert [half.shape for half in halves] == [(200, 6), (200, 4)]
    for half, units in zip(halves, (6, 4), strict=True):
        assert (half.sum(-1) * 2 == units).all()
        # each unit stays in half of the draws, within four standard errors
        assert ((half.double().mean(0) - 0.5).abs() < 4 * 0.5 / 200**0.5).all()


def test_a_network_whose_halves_are_twins_loses_nothing():
    """Twins share what they give, so either half doubled is the whole: the path between such networks is flat."""
    problem, *_ = case((6, 4))
    generator = torch.Generator().manual_seed(0)
    layout, half = problem.layout, [torch.arange(n) < n // 2 for n in (6, 4)]
    ends = []
    for _ in range(2):
        params = {
            key: torch.randn(shape, generator=generator, dtype=torch.float64)
            for key, shape in zip(layout.names, layout.shapes, strict=True)
        }
        for key, units in (("1", 6), ("3", 4)):
            for name in (f"{key}.weight", f"{key}.bias"):
                params[name][units // 2 :] = params[name][: units // 2]
        for key, units in (("3", 6), ("5", 4)):
            params[f"{key}.weight"][:, units // 2 :] = params[f"{key}.weight"][:, : units // 2]
        ends.append(torch.cat([params[key].flatten() for key in layout.names]))
    losses = barriers.means(problem, dropout.path(problem, *ends, half))[0]
    torch.testing.assert_close(losses.max(), losses[[0, -1]].max(), rtol=1e-12, atol=0)  # as above


def test_layers_without_halves_and_normalised_networks_are_refused():
    problem, a, b, half = case((6, 5))
    with pytest.raises(LossAtlasError, match="even width"):
        dropout.path(problem, a, b, half)
    normalised = NetworkProblem(mlp((5, 4, 3), batch_norm=True).double(), problem.x, problem.y)
    with pytest.raises(LossAtlasError, match="without normalisation"):
        dropout.random_halves(normalised, 1, torch.Generator())
    without = nn.Sequential(nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 3)).double()
    with pytest.raises(LossAtlasError, match="with biases"):
        dropout.random_halves(NetworkProblem(without, problem.x, problem.y), 1, torch.Generator())
    with pytest.raises(LossAtlasError, match=r"0\.0 of the units"):
        dropout.Dropout(problem, 0.0, torch.Generator())


def test_training_that_keeps_all_units_is_ordinary_training():
    problem, a, b, _ = case((6, 4))
    theta, recipe = torch.stack([a, b]), Recipe(steps=12, batch_size=8)
    plain = train(problem, theta, recipe, 0.1, orders=[0, 1])
    kept = train(dropout.Dropout(problem, 1.0, torch.Generator()), theta, recipe, 0.1, orders=[0, 1])
    torch.testing.assert_close(kept.final, plain.final, **SAME)


def test_dropped_outputs_are_right_on_average_and_differ_between_members():
    """With one hidden layer the outputs are linear in what stays, so their mean over draws is the whole network's."""
    problem, a, *_ = case((6,), rows=4)
    draws = 20_000
    outputs = []

    def noted(logits, _):
        outputs.append(logits)
        return logits[..., 0]

    noisy = NetworkProblem(problem.module, problem.x, problem.y, noted)
    part = dropout.Dropout(noisy, 0.8, torch.Generator().manual_seed(0)).on(torch.arange(4))
    part(a.expand(draws, -1))
    (found,) = outputs
    error = found.std(0) / draws**0.5
    assert ((found.mean(0) - problem.logits(a[None])[0]).abs() <= 4 * error).all()
    assert not torch.equal(found[0], found[1])


def test_every_hidden_layer_drops_units_of_each_example_and_member_by_itself():
    """One unit in each of two layers: an output is more than nothing where both stay, in keep squared of the cases."""
    x = torch.ones(40, 2, dtype=torch.float64)
    outputs = []

    def noted(logits, _):
        outputs.append(logits)
        return logits[..., 0]

    problem = NetworkProblem(mlp((2, 1, 1, 1)).double(), x, torch.zeros(40, dtype=torch.int64), noted)
    theta = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64).expand(200, -1)
    dropout.Dropout(problem, 0.5, torch.Generator().manual_seed(0)).on(torch.arange(40))(theta)
    stays = outputs[0][..., 0] > 0
    torch.testing.assert_close(outputs[0][stays], torch.full((int(stays.sum()), 1), 8.0, dtype=torch.float64))
    n = stays.numel()
    assert abs(float(stays.double().mean()) - 0.25) < 4 * (0.25 * 0.75 / n) ** 0.5
    # independent cases: means over members, and over examples, scatter as those of so many coins
    for axis, coins in ((0, 200), (1, 40)):
        spread = float(stays.double().mean(axis).var())
        assert spread == pytest.approx(0.25 * 0.75 / coins, rel=4 * (2 / (n // coins)) ** 0.5)
