"""Curves against closed forms: coefficients, the optimum on a quadratic, and gradients by finite differences."""

import pytest
import torch

from lossatlas import mode_curves
from lossatlas.errors import LossAtlasError
from lossatlas.mode_curves import CURVES, Recipe, bend_gradient, objective, penalty, points, straight, train
from lossatlas.problems.analytic import Quadratic
from lossatlas.problems.architectures import mlp
from lossatlas.problems.network import NetworkProblem

KINDS = list(CURVES)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def network():
    x = random(30, 4, seed=3)
    return NetworkProblem(mlp((4, 6, 3), "tanh").double(), x, torch.arange(30) % 3)


@pytest.mark.parametrize("kind", KINDS)
def test_coefficients_are_a_partition_of_one_and_the_curve_meets_its_ends(kind):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    c = CURVES[kind](t)
    assert (c >= 0).all()
    torch.testing.assert_close(c.sum(-1), torch.ones_like(t), rtol=1e-14, atol=0)
    control = random(2, 3, 5)
    curve = points(kind, control, t)
    assert torch.equal(curve[:, 0], control[:, 0])
    assert torch.equal(curve[:, -1], control[:, 2])
    # time reversed is the curve from the other end
    torch.testing.assert_close(points(kind, control.flip(1), t.flip(0)), curve, rtol=1e-13, atol=1e-13)


def test_a_chain_passes_through_its_bend_and_a_bezier_curve_half_way_to_it():
    control, half = random(1, 3, 5), torch.tensor([0.5], dtype=torch.float64)
    torch.testing.assert_close(points("polychain", control, half)[0, 0], control[0, 1])
    expected = (control[0, 0] + 2 * control[0, 1] + control[0, 2]) / 4
    torch.testing.assert_close(points("bezier", control, half)[0, 0], expected)
    several = mode_curves.polychain(torch.tensor([0.0, 0.125, 0.25, 0.6, 1.0]).double(), 5)
    expected = [[1, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0.6, 0.4, 0], [0, 0, 0, 0, 1]]
    torch.testing.assert_close(several, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_a_straight_start_is_the_segment(kind):
    ends = random(3, 2, 4)
    t = torch.linspace(0, 1, 7, dtype=torch.float64)
    expected = torch.lerp(ends[:, :1], ends[:, 1:], t[:, None])
    torch.testing.assert_close(points(kind, straight(ends), t), expected)


@pytest.mark.parametrize(("kind", "share"), [("bezier", -3 / 4), ("polychain", -1 / 4)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_the_best_bend_on_a_quadratic_has_its_closed_form(kind, share, weight_decay):
    """theta* = -(E[c0 c1] theta0 + E[c1 c2] theta2) / E[c1²], whatever the Hessian, L2 penalty included."""
    problem = Quadratic(torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64))
    ends = random(2, 2, 3)
    recipe = Recipe(kind, steps=400, batch_size=None, points_per_step=200, momentum=0.5, weight_decay=weight_decay)
    found = train(problem, ends, recipe, 0.3, generator())
    # the midpoint rule with 200 jittered strata leaves an error of a few thousandths of ends of order 1
    torch.testing.assert_close(found.control[:, 1], share * ends.sum(1), rtol=0, atol=1e-2)
    assert torch.equal(found.control[:, [0, 2]], ends)
    assert (found.diverged_at == -1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_the_bend_matches_finite_differences_of_the_penalised_loss(kind):
    problem, t = network(), torch.tensor([0.1, 0.35, 0.8], dtype=torch.float64)
    control = random(2, 3, problem.dim)
    found = bend_gradient(problem, kind, control, t, weight_decay=0.3)
    for p in (0, 7, problem.dim - 1):
        step = torch.zeros(2, 3, problem.dim, dtype=torch.float64)
        step[:, 1, p] = 1e-6
        rise = objective(problem, kind, control + step, t, 0.3) - objective(problem, kind, control - step, t, 0.3)
        torch.testing.assert_close(found[:, p], rise / 2e-6, rtol=1e-6, atol=1e-8)


def test_there_is_one_l2_term_half_the_sum_of_squares_of_the_curves_point():
    problem, control = network(), random(2, 3, network().dim)
    t = torch.tensor([0.25], dtype=torch.float64)
    point = points("bezier", control, t)[:, 0]
    torch.testing.assert_close(penalty(point, 0.3), 0.15 * (point**2).sum(-1))
    with_it, without = objective(problem, "bezier", control, t, 0.3), objective(problem, "bezier", control, t)
    torch.testing.assert_close(with_it - without, penalty(point, 0.3))


def test_pairs_are_trained_as_if_alone_and_each_with_its_own_rate():
    problem = network()
    ends = random(3, 2, problem.dim)
    recipe = Recipe(steps=12, batch_size=8, points_per_step=3)
    together = train(problem, ends, recipe, torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64), generator(5)).control
    alone = train(problem, ends[1:2], recipe, 0.2, generator(5)).control
    torch.testing.assert_close(together[1:2], alone, rtol=1e-10, atol=1e-12)
    assert not torch.equal(
        together, train(problem, ends, recipe, torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64), generator(6)).control
    )
    assert torch.equal(
        together, train(problem, ends, recipe, torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64), generator(5)).control
    )


def test_many_values_of_t_a_step_estimate_the_same_gradient_with_less_noise():
    problem, control = network(), straight(random(1, 2, network().dim))
    grid = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    exact = bend_gradient(problem, "bezier", control, grid)[0]

    def draws(count, n=200):
        g = generator(count)
        ts = [(torch.arange(count) + torch.rand(count, generator=g)).double() / count for _ in range(n)]
        return torch.stack([bend_gradient(problem, "bezier", control, t)[0] for t in ts])

    one, five = draws(1), draws(5)
    for sample in (one, five):
        error = (sample.mean(0) - exact).abs() / (sample.std(0) / len(sample) ** 0.5)
        # of 45 coordinates none lies beyond 4.5 standard errors (p < 1e-3 for all together)
        assert error.max() < 4.5
    assert five.var(0).sum() < one.var(0).sum() / 5


def test_the_rate_is_constant_then_falls_to_one_per_cent():
    recipe = Recipe(steps=1000)
    factors = [recipe.rate_factor(step) for step in (0, 500, 700, 900, 999)]
    assert factors == pytest.approx([1, 1, 0.505, 0.01, 0.01])


def test_the_cost_is_counted_in_gradients_of_single_examples():
    calls = []

    class Counting(NetworkProblem):
        def __call__(self, theta):
            calls.append(theta.shape[0] * self.rows)
            return super().__call__(theta)

    problem = network()
    problem = Counting(problem.module, problem.x, problem.y)
    recipe = Recipe(steps=5, batch_size=8, points_per_step=3)
    train(problem, random(2, 2, problem.dim), recipe, 0.1, generator())
    assert sum(calls) == 2 * recipe.sample_gradients(problem.rows) == 2 * 5 * 3 * 8


def test_a_curve_that_diverges_is_recorded_and_stays_where_it_was():
    problem = Quadratic(torch.tensor([1.0, 2.0], dtype=torch.float64))
    found = train(problem, random(2, 2, 2), Recipe(steps=3000, batch_size=None), torch.tensor([0.1, 50.0]), generator())
    assert found.diverged_at[0] == -1
    assert found.diverged_at[1] > 0
    assert found.control.isfinite().all()


def test_what_cannot_be_trained_is_refused_in_a_sentence():
    problem = network()
    with pytest.raises(LossAtlasError, match="larger than the data set"):
        train(problem, random(1, 2, problem.dim), Recipe(batch_size=64), 0.1, generator())
    with pytest.raises(LossAtlasError, match="pairs of ends"):
        train(problem, random(2, problem.dim), Recipe(), 0.1, generator())
    with pytest.raises(LossAtlasError, match="unknown"):
        Recipe("spline")
