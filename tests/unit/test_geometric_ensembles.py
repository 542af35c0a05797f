"""The rates of geometric ensembles, where their networks are collected, and what averaging predictions gives."""

import math
from itertools import pairwise

import pytest
import torch

from lossatlas.errors import LossAtlasError
from lossatlas.geometric_ensembles import Geometric, Released, predictions, scores
from lossatlas.problems.architectures import mlp
from lossatlas.problems.network import NetworkProblem
from lossatlas.training import train


def test_the_ordinary_rate_is_constant_and_then_falls_to_a_hundredth():
    recipe = Released(steps=1000)
    factors = [recipe.rate_factor(step) for step in range(1000)]
    assert factors[:501] == [1.0] * 501
    assert factors[700] == pytest.approx((1 + 0.01) / 2)  # half-way of the fall
    assert factors[900:] == pytest.approx([0.01] * 100)
    assert all(a >= b for a, b in pairwise(factors))


def test_cycles_fall_to_the_low_rate_where_a_network_is_kept_and_rise_again():
    recipe = Geometric(steps=100, start=80, cycle=8, high=0.5, low=0.1)
    assert recipe.collected == [84, 92, 100]
    before = [recipe.rate_factor(step) for step in range(80)]
    assert before == [Released(steps=100).rate_factor(step) for step in range(80)]
    for kept in recipe.collected:
        assert recipe.rate_factor(kept - 1) == pytest.approx(0.1)  # the last step before it is kept
    cycle = [recipe.rate_factor(step) for step in range(80, 88)]
    assert cycle == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert cycle == pytest.approx([recipe.rate_factor(step) for step in range(88, 96)])
    flat = Geometric(steps=100, start=80, cycle=8, high=0.2, low=0.2)
    assert {flat.rate_factor(step) for step in range(80, 100)} == {0.2}


def test_cycles_that_would_collect_nothing_are_refused():
    for wrong in ({"start": 99, "cycle": 8}, {"start": -1, "cycle": 8}, {"start": 10, "cycle": 1}):
        with pytest.raises(LossAtlasError, match="collect nothing"):
            Geometric(steps=100, **wrong)


def case():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=generator)
    problem = NetworkProblem(mlp((4, 6, 3)), x, torch.randint(3, (30,), generator=generator))
    return problem, 0.5 * torch.randn(10, problem.dim, generator=generator)


def test_both_trainings_are_the_same_until_the_cycles_begin():
    problem, theta = case()
    common = {"steps": 20, "batch_size": 10}
    ordinary = train(problem, theta, Released(**common), 0.1, keep=[16])
    cyclic = Geometric(**common, start=16, cycle=2)
    cycles = train(problem, theta, cyclic, 0.1, keep=[16, *cyclic.collected])
    assert torch.equal(ordinary.kept[16], cycles.kept[16])
    assert not torch.equal(ordinary.final, cycles.final)
    assert set(cycles.kept) == {16, 17, 19}


def test_predictions_are_averaged_as_probabilities():
    problem, theta = case()
    each = predictions(problem, theta)
    torch.testing.assert_close(each.sum(-1), torch.ones(10, 30))
    torch.testing.assert_close(each[3].log(), problem.logits(theta[3:4])[0].log_softmax(-1))
    # two that disagree: 0.9 and 0.3 for the label make 0.6, which is right; the mean of logits would give 0.66
    accuracy, loss = scores(torch.tensor([[[0.9, 0.1]], [[0.3, 0.7]]]), torch.tensor([0]))
    assert (accuracy, loss) == (1.0, pytest.approx(-math.log(0.6)))
    assert scores(torch.tensor([[[0.3, 0.7]]]), torch.tensor([0])) == (0.0, pytest.approx(-math.log(0.3)))
