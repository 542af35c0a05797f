"""Teleports: what they keep, what they record, what they refuse; and the theorems on quadratics."""

import math
from dataclasses import replace

import pytest
import torch
from scipy import linalg
from test_groups import SAME, generators, network, points

from lossatlas import ensemble
from lossatlas.errors import LossAtlasError
from lossatlas.problems import Booth, Quadratic, Rosenbrock
from lossatlas.teleport import (
    Argmax,
    Ascent,
    Balance,
    BestOf,
    Corner,
    Identity,
    LevelSet,
    Outcome,
    level_set,
    shifted,
    teleport,
    transported,
)
from lossatlas.teleport.general_linear import GeneralLinear
from lossatlas.teleport.groups import Permutation, PositiveScaling
from lossatlas.teleport.plane_rotation import BOOTH, ROSENBROCK, PlaneRotation
from lossatlas.teleport.sharpness import largest_eigenvalue
from lossatlas.training import Recipe, train

SEEDS = (1, 2, 3)


def square(problem, theta):
    return ensemble.gradient(problem, theta)[1].square().sum(-1)


SEARCHES = {
    "gl-ascent": (GeneralLinear, Ascent(0.5)),
    "gl-best": (GeneralLinear, BestOf(5, 0.5, SEEDS)),
    "scaling-ascent": (PositiveScaling, Ascent(1.0)),
    "scaling-corner": (PositiveScaling, Corner(0.5)),
    "scaling-best": (PositiveScaling, BestOf(50, 1.0, SEEDS)),
    "scaling-balance": (PositiveScaling, Balance()),
}


@pytest.mark.parametrize(("kind", "search"), SEARCHES.values(), ids=SEARCHES)
def test_an_exact_teleport_keeps_the_loss_and_records_what_it_did(kind, search):
    problem, theta = network(own_rows=True)
    found = teleport(problem, theta, kind(problem), search, sharpness_seeds=SEEDS)
    assert found.moved.all()
    assert (found.loss_change.abs() <= 1e-10).all()
    gain = (square(problem, found.theta) / square(problem, theta)).sqrt()
    torch.testing.assert_close(found.gain, gain)
    if isinstance(search, Balance):
        assert (gain < 1).all()
    elif not isinstance(search, BestOf):
        assert (gain > 1).all()
    torch.testing.assert_close(found.distance, (found.theta - theta).norm(dim=-1))
    seeds = list(SEEDS)
    torch.testing.assert_close(found.sharpness_after, largest_eigenvalue(problem, found.theta, seeds))
    assert found.cost >= 1
    assert isinstance(search, BestOf) == bool(found.spread.isfinite().all())
    if isinstance(search, BestOf):
        assert (found.spread > 0.01).all()  # candidates differ, so there is something to choose


@pytest.mark.parametrize("kind", [Permutation, PositiveScaling, GeneralLinear])
def test_teleporting_with_the_identity_changes_no_bit(kind):
    problem, theta = network()
    found = teleport(problem, theta, kind(problem), Identity())
    assert torch.equal(found.theta, theta)
    assert torch.equal(found.gain, torch.ones_like(found.gain))


def test_more_candidates_of_one_stream_are_never_worse_and_a_box_bounds_them_all():
    problem, theta = network()
    group = PositiveScaling(problem)
    gains = [teleport(problem, theta, group, BestOf(n, 0.5, SEEDS)).gain for n in (1, 10, 100)]
    assert (gains[0] <= gains[1]).all()
    assert (gains[1] <= gains[2]).all()
    # the ball of radius 0.5 lies inside the box
    one_layer, start = network((9, 8, 3))
    group = PositiveScaling(one_layer)
    best = teleport(one_layer, start, group, BestOf(100, 0.5, SEEDS)).gain
    assert (best <= teleport(one_layer, start, group, Corner(0.5)).gain).all()


@pytest.mark.parametrize(("kind", "search"), SEARCHES.values(), ids=SEARCHES)
def test_searches_change_nothing_outside_and_find_the_same_again(kind, search):
    problem, theta = network(own_rows=True)
    before, state = theta.clone(), torch.get_rng_state()
    first = teleport(problem, theta, kind(problem), search).theta
    assert torch.equal(theta, before)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)  # nothing is drawn from the global generator
    try:
        assert torch.equal(teleport(problem, theta, kind(problem), search).theta, first)
    finally:
        torch.set_rng_state(state)


@pytest.mark.parametrize("kind", [PositiveScaling, GeneralLinear])
def test_the_point_returned_is_the_best_of_the_candidates_that_were_scored(kind):
    problem, theta = network()
    move = BestOf(20, 0.5, SEEDS)(problem, theta, kind(problem))
    torch.testing.assert_close(square(problem, move.theta), move.scores.amax(-1))


@pytest.mark.parametrize("group_of", [PositiveScaling, GeneralLinear])
def test_both_layers_of_every_pair_move(group_of):
    problem, theta = network()
    moved = teleport(problem, theta, group_of(problem), BestOf(1, 0.5, SEEDS)).theta
    for name, change in problem.layout.split(moved - theta).items():
        assert (change.abs().amax((-2, -1)) > 1e-3).all(), name


def test_random_elements_have_the_radius_for_length():
    problem, _ = network()
    s = PositiveScaling(problem).random(3, 0.7, generators(1))
    torch.testing.assert_close(s.norm(dim=-1), torch.full((3,), 0.7, dtype=torch.float64))
    elements = GeneralLinear(problem).random(3, 0.4, generators(1))
    logs = [[linalg.logm(g.numpy()) for g in layer] for layer in elements.g]
    lengths = [math.hypot(*(linalg.norm(layer[i]) for layer in logs)) for i in range(3)]
    assert lengths == pytest.approx([0.4] * 3, rel=1e-9)


def test_ascent_stays_within_its_radius():
    problem, theta = network()
    group = PositiveScaling(problem)
    (s,) = teleport(problem, theta, group, Ascent(1.0, steps=8)).elements
    assert (s.norm(dim=-1) <= 1 + 1e-12).all()
    found = teleport(problem, theta, GeneralLinear(problem), Ascent(0.4, steps=4))
    assert len(found.elements) == 4
    assert found.cost == pytest.approx((1 + 4) * 3 + 1 / 3)
    one = teleport(problem, theta, GeneralLinear(problem), Ascent(0.1, steps=1))
    assert (one.distance < found.distance).all()


def test_no_step_returns_the_start():
    problem, theta = network()
    assert torch.equal(teleport(problem, theta, GeneralLinear(problem), Ascent(1.0, steps=0)).theta, theta)


def test_an_action_that_changes_the_loss_is_refused_and_recorded_or_made_on_request():
    problem, theta = network((4, 8, 7, 3), rows=9)
    group = GeneralLinear(problem, least_squares=True)
    refused = teleport(problem, theta, group, BestOf(1, 0.5, SEEDS))
    assert (refused.outcome == Outcome.REFUSED).all()
    assert torch.equal(refused.theta, theta)
    assert (refused.loss_change.abs() > 1e-6).all()
    made = teleport(problem, theta, group, BestOf(1, 0.5, SEEDS), exact=False)
    assert made.moved.all()
    torch.testing.assert_close((problem(made.theta) / problem(theta) - 1), made.loss_change)


def test_an_overflow_is_an_outcome_and_leaves_its_neighbours_alone():
    problem, theta = network()
    theta = theta.clone()
    theta[1] *= 1e200
    found = teleport(problem, theta, PositiveScaling(problem), Corner(0.5))
    assert found.outcome.tolist() == [Outcome.MOVED, Outcome.OVERFLOW, Outcome.MOVED]
    assert torch.equal(found.theta[1], theta[1])
    too_far = teleport(problem, theta[:1], PositiveScaling(problem), Corner(800.0))
    assert too_far.outcome.item() == Outcome.OVERFLOW


def test_a_batch_that_does_not_determine_the_action_is_ill_conditioned():
    problem, theta = network()
    dependent = problem.x.clone()
    dependent[2] = dependent[0] + dependent[1]
    problem = replace(problem, x=dependent)
    found = teleport(problem, theta, GeneralLinear(problem, (0,)), BestOf(1, 0.5, SEEDS))
    assert (found.outcome == Outcome.ILL_CONDITIONED).all()
    assert torch.equal(found.theta, theta)


def test_off_the_batch_scaling_keeps_the_loss_and_gl_does_not():
    problem, theta = network()
    elsewhere = replace(problem, x=torch.randn(5, 9, generator=generators(9, 1)[0], dtype=torch.float64))
    scaled = teleport(problem, theta, PositiveScaling(problem), Corner(0.5), off_batch=elsewhere)
    bent = teleport(problem, theta, GeneralLinear(problem), BestOf(1, 0.5, SEEDS), off_batch=elsewhere)
    assert (scaled.off_batch_change.abs() < 1e-10).all()
    assert (bent.off_batch_change.abs() > 1e-4).all()


def test_searches_that_a_group_does_not_have_are_refused():
    problem, theta = network()
    for search, group in (
        (Argmax(), PositiveScaling(problem)),
        (Corner(1.0), GeneralLinear(problem)),
        (Balance(), Permutation(problem)),
        (Ascent(1.0), Permutation(problem)),
    ):
        with pytest.raises(LossAtlasError, match="known for"):
            teleport(problem, theta, group, search)


# --- optimisers -------------------------------------------------------------------------------------------------------


def momentum_run(gradient, theta, first, steps=20, rate=0.01):
    """Plain heavy ball, the slow independent one."""
    for _ in range(steps):
        first = 0.9 * first + gradient(theta)
        theta = theta - rate * first
    return theta


def test_a_permutation_commutes_with_training():
    problem, theta = network(bias=True)
    group = Permutation(problem)
    element = group.random(3, 1.0, generators(0))
    for optimizer in ("momentum", "adagrad", "rmsprop", "adam"):
        recipe = Recipe(optimizer, steps=25)
        there = train(problem, group.act(theta, element), recipe, 0.01).final
        here = train(problem, theta, recipe, 0.01).final
        torch.testing.assert_close(there, group.act(here, element), rtol=1e-7, atol=1e-8)


def test_momentum_that_is_taken_along_makes_the_run_its_preconditioned_twin():
    """After W -> D W with momentum taken along, heavy ball is heavy ball from the old point with D^-2 before the
    gradient."""
    problem, theta = network()
    group = PositiveScaling(problem)
    first = torch.randn(3, problem.dim, generator=generators(5, 1)[0], dtype=torch.float64) / 10
    second = first.square()
    found = teleport(problem, theta, group, Corner(0.3))
    moved_first, moved_second = transported(group, theta, found, first, second)
    torch.testing.assert_close(moved_second, moved_first.square())  # v_ij (tau_j / tau_i)² beside m_ij tau_j / tau_i
    (s,) = found.elements
    factor = (-2 * group.log_factors(s)).exp()

    def slope(at):
        return ensemble.gradient(problem, at)[1]

    there = momentum_run(slope, found.theta, moved_first)
    twin = momentum_run(lambda at: factor * slope(at), theta, factor * first)
    torch.testing.assert_close(group.act(twin, s), there, **SAME)
    plain = momentum_run(slope, theta, first)
    assert (group.act(plain, s) - there).norm() > 1e-3


def test_momentum_is_a_gradient_so_it_goes_as_the_gradient_does_under_gl_and_second_moments_start_anew():
    problem, theta = network()
    _, slope = ensemble.gradient(problem, theta)
    for pairs in ((0,), ()):
        group = GeneralLinear(problem, pairs)
        found = teleport(problem, theta, group, Ascent(0.4, steps=2))
        first, second = transported(group, theta, found, slope, slope.square())
        torch.testing.assert_close(first, ensemble.gradient(problem, found.theta)[1], rtol=1e-7, atol=1e-8)
        assert not second.any()


def test_members_that_did_not_move_keep_their_state():
    problem, theta = network()
    theta = theta.clone()
    theta[1] *= 1e200
    group = PositiveScaling(problem)
    found = teleport(problem, theta, group, Corner(0.3))
    first, second = transported(group, theta, found, torch.ones_like(theta), torch.ones_like(theta))
    assert (first[1] == 1).all()
    assert (second[1] == 1).all()
    assert (first[0] != 1).any()


def test_gradient_flow_keeps_what_a_scaling_teleport_changes():
    """||row i of W_1||² - ||column i of W_2||² is conserved by gradient flow, and moved by the teleport."""
    problem, theta = network((9, 8, 3), rows=20)
    group = PositiveScaling(problem)

    def imbalance(at):
        first, last = problem.layout.split(at).values()
        return first.square().sum(-1) - last.square().sum(-2)

    moved = teleport(problem, theta, group, Corner(0.5)).theta
    for start in (theta, moved):
        drifts = []
        for rate in (1e-3, 5e-4):
            end = train(problem, start, Recipe("sgd", steps=round(0.2 / rate)), rate).final
            drifts.append((imbalance(end) - imbalance(start)).abs().max())
        assert drifts[1] / drifts[0] == pytest.approx(0.5, abs=0.05)  # Euler's error, of first order in the rate
    assert (imbalance(moved) - imbalance(theta)).abs().max() > 10 * drifts[1]


def test_the_shift_placebo_has_its_length_and_changes_the_loss():
    problem, theta = network()
    distance = torch.tensor([0.1, 1.0, 2.0], dtype=torch.float64)
    moved = shifted(theta, distance, SEEDS)
    torch.testing.assert_close((moved - theta).norm(dim=-1), distance)
    assert ((problem(moved) - problem(theta)).abs() > 1e-6).all()


def test_a_gain_lasts_as_long_as_smoothness_says():
    """One step of rate eta changes ||grad|| by a factor in [1 - eta beta, 1 + eta beta]."""
    problem = Quadratic(torch.tensor([0.1, 0.7, 2.0], dtype=torch.float64))
    theta = torch.randn(20, 3, generator=generators(0, 1)[0], dtype=torch.float64)
    moved, beta, rate = level_set.quadratic_argmax(problem, theta), 2.0, 0.05
    gain = (square(problem, moved) / square(problem, theta)).sqrt()
    survives = (gain.log() / math.log((1 + rate * beta) / (1 - rate * beta))).floor().int()
    assert survives.max() >= 2
    for steps in range(survives.max() + 1):
        ratio = square(problem, problem.gradient_descent(moved, rate, steps)) / square(
            problem, problem.gradient_descent(theta, rate, steps)
        )
        assert (ratio[survives >= steps] >= 1).all()


# --- level sets -------------------------------------------------------------------------------------------------------


def quadratic(seed=0, dim=6):
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
    spectrum = torch.linspace(0.5, 4, dim, dtype=torch.float64)
    problem = Quadratic(basis @ spectrum.diag() @ basis.mT, torch.randn(dim, generator=generator, dtype=torch.float64))
    return problem, torch.randn(8, dim, generator=generator, dtype=torch.float64)


def test_on_a_quadratic_one_teleport_suffices():
    """The argmax stays in the top eigenspace: ||g||² = 2 lambda (L - L*) and L shrinks by (1 - eta lambda)² a step."""
    problem, theta = quadratic()
    moved = level_set.quadratic_argmax(problem, theta)
    torch.testing.assert_close(problem(moved), problem(theta), rtol=1e-13, atol=0)
    others = torch.linspace(0, math.tau, 400, dtype=torch.float64)
    root = torch.linalg.cholesky(problem.hessian)  # points of the level set: w* + root^-T (unit vector)
    circle = torch.stack([others.cos(), others.sin(), *[torch.zeros_like(others)] * 4], -1)
    level = problem.minimum + (2 * problem(theta[:1])).sqrt() * torch.linalg.solve(root.mT, circle.mT).mT
    assert (square(problem, level) <= square(problem, moved[:1]) * (1 + 1e-12)).all()
    rate = 0.1
    loss = problem(moved)
    for _ in range(20):
        torch.testing.assert_close(square(problem, moved), 2 * 4 * loss, rtol=1e-9, atol=0)
        moved = moved - rate * ensemble.gradient(problem, moved)[1]
        torch.testing.assert_close(problem(moved), (1 - rate * 4) ** 2 * loss, rtol=1e-9, atol=0)
        loss = problem(moved)
    one_step = level_set.quadratic_argmax(problem, theta)
    one_step = one_step - ensemble.gradient(problem, one_step)[1] / 4
    assert (problem(one_step) < 1e-28 * problem(theta)).all()


def test_a_teleport_hurts_where_the_top_eigendirection_converges_slowest():
    problem, theta = quadratic()
    rate = 0.48  # |1 - 4 rate| = 0.92 > |1 - 0.5 rate| = 0.76
    moved = level_set.quadratic_argmax(problem, theta)
    after = [problem(problem.gradient_descent(at, rate, 10)) for at in (theta, moved)]
    assert (after[1] > after[0]).all()


def test_the_exact_argmax_on_booths_orbit_is_that_of_its_quadratic():
    x = points(5, 20)
    booth = Quadratic(torch.tensor([[10.0, 8.0], [8.0, 10.0]], dtype=torch.float64), torch.tensor([1.0, 3.0]).double())
    torch.testing.assert_close(booth(x), Booth()(x))
    turned = teleport(Booth(), x, PlaneRotation(BOOTH), Argmax())
    assert turned.moved.all()
    best = level_set.quadratic_argmax(booth, x)
    other = 2 * booth.minimum - best
    nearest = torch.minimum((turned.theta - best).norm(dim=-1), (turned.theta - other).norm(dim=-1))
    assert nearest.max() < 1e-6  # of an angle that maximises to rounding, half the digits are left
    torch.testing.assert_close(square(Booth(), turned.theta), square(Booth(), best), rtol=1e-11, atol=0)


@pytest.mark.parametrize("problem", [Booth(), Rosenbrock()])
def test_level_set_ascent_raises_the_gradient_and_ends_no_higher(problem):
    theta = torch.tensor([[5.0, -5.0], [-1.0, -1.0], [0.3, 2.0]], dtype=torch.float64)
    found = level_set.ascend(problem, theta, step=1.0, iterations=150, shrink=0.8)
    assert (problem(found.theta) <= problem(theta) * (1 + 1.01e-6)).all()
    assert (square(problem, found.theta) > square(problem, theta)).all()
    if isinstance(problem, Booth):  # the gradient becomes an eigenvector; Rosenbrock's valley takes longer
        assert (level_set.kkt_residual(problem, found.theta) < 1e-4).all()


def test_level_set_ascent_finds_the_closed_form_on_quadratics():
    problem, theta = quadratic(3)
    found = teleport(problem, theta, None, LevelSet(step=1.0, iterations=200, shrink=0.8))
    assert found.moved.all()
    best = square(problem, level_set.quadratic_argmax(problem, theta))
    assert (square(problem, found.theta) <= best * (1 + 3e-6)).all()
    assert (square(problem, found.theta) >= 0.999 * best).all()


def test_the_residual_is_zero_at_eigenvectors_only():
    problem, theta = quadratic()
    assert (level_set.kkt_residual(problem, level_set.quadratic_argmax(problem, theta)) < 1e-20).all()
    assert (level_set.kkt_residual(problem, theta) > 1e-4).all()


def test_a_failed_ascent_leaves_the_exact_start():
    class Cliff(Booth):
        """Finite at the start, NaN everywhere else."""

        def __call__(self, theta):
            there = (theta - 1).abs().sum(-1) > 1e-12
            return super().__call__(theta) + torch.where(there, torch.nan, 0)

    start = torch.ones(2, 2, dtype=torch.float64)
    assert torch.equal(level_set.ascend(Cliff(), start, iterations=5).theta, start)


# --- sharpness --------------------------------------------------------------------------------------------------------


def test_sharpness_is_the_largest_eigenvalue_of_the_hessian():
    problem, theta = quadratic(1)
    assert largest_eigenvalue(problem, theta[:2], [0, 1]).tolist() == pytest.approx([4.0, 4.0], rel=1e-10)
    network_problem, at = network((4, 3, 2))
    full = torch.func.vmap(torch.func.hessian(lambda t: network_problem(t[None])[0]))(at)
    expected = torch.linalg.eigvalsh(full)[:, -1]
    found = largest_eigenvalue(network_problem, at, SEEDS, steps=18)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    bowl = Quadratic(-torch.ones(3, dtype=torch.float64))  # all eigenvalues negative, and one invariant subspace
    assert largest_eigenvalue(bowl, torch.ones(1, 3, dtype=torch.float64), [0]).item() <= 0


def test_booths_gradient_descent_is_the_published_one():
    """From (5, -5) with rate 0.08: L(0) = 144, L(1) = 64.7424."""
    theta = torch.tensor([[5.0, -5.0]], dtype=torch.float64)
    assert Booth()(theta).item() == 144
    theta = theta - 0.08 * ensemble.gradient(Booth(), theta)[1]
    assert Booth()(theta).item() == pytest.approx(64.7424, rel=1e-12)


def test_rosenbrocks_teleport_keeps_the_loss_to_rounding():
    theta = torch.tensor([[-1.0, -1.0]], dtype=torch.float64)
    found = teleport(Rosenbrock(), theta, PlaneRotation(ROSENBROCK), Argmax())
    assert found.loss_change.abs().item() < 1e-12
    assert found.gain.item() > 1
