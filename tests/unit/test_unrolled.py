"""Estimators of unrolled problems against closed forms, finite differences and each other."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from lossatlas import smoothing
from lossatlas.errors import LossAtlasError
from lossatlas.evolution.unrolled import (
    backpropagated,
    begin,
    forward_mode,
    full_es,
    full_es_samples,
    merge,
    outer_loss,
    reparameterised,
    unroll,
    windowed_backpropagation,
    windowed_es,
)
from lossatlas.problems import bilevel
from lossatlas.problems.bilevel import (
    ActivationFunction,
    HeavyBall,
    InfluenceBalancing,
    LearningRate,
    Lorenz,
    ToyRegression,
    TwoLayers,
)

DOUBLE = {"dtype": torch.float64}


@dataclass(frozen=True)
class Linear:
    """s <- a s + theta_0 + theta_1 t from s = 1, loss s²/2 a step: quadratic in theta, gradient known by recursion."""

    steps: int = 12
    a: float = 0.8
    dim: int = 2

    def start(self, theta):
        return theta.new_ones(*theta.shape[:-1], 1)

    def step(self, state, theta, t):
        state = self.a * state + theta[..., :1] + theta[..., 1:] * torch.as_tensor(t)[..., None]
        return state, 0.5 * state[..., 0] ** 2

    def closed_form(self, theta):
        s, slope, loss, gradient = 1.0, [0.0, 0.0], 0.0, [0.0, 0.0]
        for t in range(self.steps):
            s = self.a * s + theta[0] + theta[1] * t
            slope = [self.a * slope[0] + 1, self.a * slope[1] + t]
            loss += 0.5 * s * s
            gradient = [g + s * d for g, d in zip(gradient, slope, strict=True)]
        return loss, gradient


def networks(kind, steps=6, seeds=(0, 1), hidden=5, **more):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(12, 4, generator=generator, **DOUBLE)
    target = torch.nn.functional.one_hot(torch.randint(0, 3, (12,), generator=generator), 3).double()
    net = TwoLayers(4, hidden, 3)
    return kind(net, x, target, net.initial(seeds).double(), steps, 4, **more)


def activation_problem():
    noise = [torch.rand(2, 6, units, generator=torch.Generator().manual_seed(2), **DOUBLE) for units in (5, 3)]
    return networks(ActivationFunction, width=3, judged=4, hidden_noise=noise[0], net_noise=noise[1])


PROBLEMS = {
    "toy": (ToyRegression(8), [[-1.0, -2.0]]),
    "influence": (InfluenceBalancing(8, 2), [[0.3]]),
    "lorenz": (Lorenz(30), [[2.5, 3.4]]),
    "learning_rate": (networks(LearningRate), [[0.3]]),
    "heavy_ball": (networks(HeavyBall, judged=12), [[-1.0, 0.5]]),
    "activation": (activation_problem(), [[0.1 * i for i in range(10)]]),
    "linear": (Linear(), [[0.3, -0.1]]),
}


def theta_of(name):
    """(seeds 2, N 1, d), a little different for the seeds."""
    theta = torch.tensor(PROBLEMS[name][1], **DOUBLE)
    return torch.stack([theta, theta + 0.01])


def normals(*shape, key=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(key), **DOUBLE)


# --- exact gradients --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROBLEMS)
def test_both_modes_of_differentiation_agree_with_finite_differences(name):
    problem, theta = PROBLEMS[name][0], theta_of(name)
    loss, slope = backpropagated(problem, theta)
    forward_loss, forward_slope = forward_mode(problem, theta)
    torch.testing.assert_close(loss, outer_loss(problem, theta))
    torch.testing.assert_close(forward_loss, loss)
    torch.testing.assert_close(forward_slope, slope, rtol=1e-9, atol=1e-12)  # float64, other order of sums
    h = 1e-6
    for i in range(problem.dim):
        offset = torch.zeros(problem.dim, **DOUBLE).index_fill(0, torch.tensor(i), h)
        numeric = (outer_loss(problem, theta + offset) - outer_loss(problem, theta - offset)) / (2 * h)
        # central differences: h² times the third derivative, and rounding of the loss over h
        torch.testing.assert_close(slope[..., i], numeric, rtol=1e-5, atol=1e-7)


def test_linear_dynamics_have_the_gradient_of_their_recursion():
    theta = torch.tensor([[0.3, -0.1]], **DOUBLE)
    loss, slope = backpropagated(Linear(), theta)
    expected_loss, expected = Linear().closed_form(theta[0].tolist())
    assert loss.item() == pytest.approx(expected_loss, rel=1e-12)
    assert slope[0].tolist() == pytest.approx(expected, rel=1e-12)


def test_inner_networks_take_the_steps_of_torchs_own_optimizer():
    problem = networks(HeavyBall, judged=12)
    theta = torch.tensor([[[math.log(0.2), 0.7]]] * 2, **DOUBLE)
    _, state = unroll(problem, theta)
    for i in range(2):
        module = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
        torch.nn.utils.vector_to_parameters(problem.inits[i, 0], module.parameters())
        momentum = float(torch.sigmoid(theta[i, 0, 1]))
        optimizer = torch.optim.SGD(module.parameters(), 0.2, momentum=momentum)
        for t in range(problem.steps):
            x, target = problem.rows(t)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(x), target).backward()
            optimizer.step()
        walked = torch.nn.utils.parameters_to_vector(module.parameters())
        torch.testing.assert_close(state[i, 0, : problem.net.dim], walked.detach(), rtol=1e-10, atol=1e-12)


def test_the_activation_and_its_derivative_belong_together():
    theta, x = normals(2, 10), normals(2, 5, 4, key=1).requires_grad_()
    value, slope = bilevel.learned_activation(theta, 3, normals(2, 3, key=2))(x)
    (autograd,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(slope, autograd)
    u, c, v, e = theta[0].split((3, 3, 3, 1))
    by_hand = torch.nn.functional.elu(x[0, 2, 1]) + 0.2 * (
        (v * (torch.tanh(u * x[0, 2, 1] + c) + normals(2, 3, key=2)[0])).sum() + e
    )
    torch.testing.assert_close(value[0, 2, 1], by_hand[0])


def test_chunks_and_batches_change_no_number():
    theta = torch.linspace(0.1, 0.5, 7, **DOUBLE)[None, :, None].expand(2, 7, 1)
    problem = networks(LearningRate)
    whole = outer_loss(problem, theta)
    torch.testing.assert_close(outer_loss(problem, theta, 3), whole, rtol=1e-12, atol=0)  # float64, other matrix shapes
    alone = replace(problem, inits=problem.inits[1:])
    torch.testing.assert_close(outer_loss(alone, theta[1:]), whole[1:], rtol=1e-12, atol=0)


# --- the problems -----------------------------------------------------------------------------------------------------


def test_the_toy_has_the_published_loss_at_the_origin():
    # persistent ES example of evosax: 2423.47 at (0, 0)
    assert round(float(outer_loss(ToyRegression(), torch.zeros(1, 2, **DOUBLE))), 2) == 2423.47


def test_influence_balancing_has_its_closed_form():
    for steps in (1, 2, 5, 30):
        problem = InfluenceBalancing(steps, steps)
        theta = torch.tensor([[0.2], [-0.4]], **DOUBLE)
        loss, slope = backpropagated(problem, theta)
        torch.testing.assert_close(loss, 0.5 * (smoothing.influence_state(theta[:, 0], steps) - 1) ** 2)
        expected = (smoothing.influence_state(theta[:, 0], steps) - 1) * smoothing.influence_slope(steps)
        torch.testing.assert_close(slope[:, 0], expected)
    assert smoothing.influence_slope(1) == 1.0  # the wrong sign
    assert smoothing.influence_slope(2000) == pytest.approx(-6.0, abs=1e-9)  # 2 (10 - 13)
    assert smoothing.influence_optimum() == pytest.approx(-1 / 6)
    turn = smoothing.influence_turn()
    assert smoothing.influence_slope(turn - 1) > 0 > smoothing.influence_slope(turn)


def test_lorenz_at_the_truth_has_no_loss_and_stays_on_the_attractor():
    problem = Lorenz()
    truth = torch.log(torch.tensor([[10.0, 28.0]], **DOUBLE))
    # exp(log a) differs from a in the last bit, which chaos magnifies by about e^(0.9 t): 10 time units, 1e-16 e^9
    loss, state = unroll(problem, truth)
    assert float(loss) < 1e-6
    assert 0 < float(state[0, 2]) < 60


def test_the_sensitivity_of_lorenz_grows_exponentially_with_the_unroll():
    theta = torch.tensor([[math.log(10.5), math.log(28.5)]], **DOUBLE)
    slopes = [backpropagated(Lorenz(steps), theta)[1].norm().item() for steps in (200, 1000, 2000)]
    assert slopes[0] < slopes[1] / 10 < slopes[2] / 100


@pytest.mark.parametrize("name", ["toy", "influence", "lorenz"])
def test_particles_may_stand_at_different_times(name):
    problem, theta = PROBLEMS[name][0], theta_of(name)[0].expand(3, -1)
    t = torch.tensor([0, 2, 4])
    state = problem.start(theta) + normals(*problem.start(theta).shape) * 0.1
    together = unroll(problem, theta, state, t, 2)
    for i in range(3):
        alone = unroll(problem, theta[i : i + 1], state[i : i + 1], int(t[i]), 2)
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a[0], b[i])


# --- smoothed gradients -----------------------------------------------------------------------------------------------


def within_four_standard_errors(samples, expected):
    """samples (n, d) independent."""
    error = samples.std(0) / len(samples) ** 0.5
    assert ((samples.mean(0) - expected).abs() <= 4 * error).all(), (samples.mean(0), expected, error)


def whole_problem(kind, problem, theta, pairs, window, noise, sigma):
    """Estimates of the windows of one inner problem, summed; noise (windows, ..., pairs, d)."""
    memory, total = begin(kind, problem, theta, pairs, window), 0.0
    for part in noise:
        found, memory = windowed_es(kind, problem, theta, memory, part, sigma, window)
        total = total + found.gradient
    return total, memory


REPEATS, SIGMA = 4000, 0.1


@pytest.mark.parametrize("kind", ["pes", "single", "full"])
def test_es_kinds_are_unbiased_on_a_quadratic(kind):
    problem = Linear()
    theta = torch.tensor([0.3, -0.1], **DOUBLE).expand(REPEATS, 2)
    if kind == "full":
        found = full_es(problem, theta, normals(REPEATS, 1, 2), SIGMA).gradient
    else:
        found, _ = whole_problem(kind, problem, theta, 1, 3, normals(4, REPEATS, 1, 2), SIGMA)
    # smoothing adds a constant to a quadratic, so the gradient of the smoothed loss is that of the loss
    within_four_standard_errors(found, torch.tensor(problem.closed_form([0.3, -0.1])[1], **DOUBLE))


def test_pes_is_unbiased_on_influence_balancing_and_truncated_es_has_the_wrong_sign():
    steps, theta0 = 200, 0.5  # long enough for the stationary part to outweigh the start
    problem = InfluenceBalancing(steps)
    theta = torch.full((REPEATS, 1), theta0, **DOUBLE)
    noise = normals(steps, REPEATS, 1, 1)
    exact = backpropagated(problem, theta[:1, None])[1][0, 0]
    pes, _ = whole_problem("pes", problem, theta, 1, 1, noise, SIGMA)
    within_four_standard_errors(pes, exact)
    truncated, _ = whole_problem("truncated", problem, theta, 1, 1, noise, SIGMA)
    # what truncation estimates instead: each step's loss with the slope of one step, which is 1
    biased = sum(float(smoothing.influence_state(torch.tensor(theta0, **DOUBLE), t)) - 1 for t in range(1, steps + 1))
    within_four_standard_errors(truncated, torch.tensor([biased], **DOUBLE))
    error = truncated.std() / REPEATS**0.5
    assert abs(biased - exact.item()) > 100 * error  # so the two cannot be confused
    assert biased * exact.item() < 0


@pytest.mark.parametrize("kind", ["truncated", "pes", "single"])
def test_one_window_of_the_whole_problem_is_full_es_draw_for_draw(kind):
    problem, noise = ToyRegression(8), normals(3, 4, 2)
    theta = torch.tensor([-1.0, -2.0], **DOUBLE).expand(3, 2)
    expected = full_es(problem, theta, noise, 0.3).gradient
    memory = begin(kind, problem, theta, 4, 8)
    found, memory = windowed_es(kind, problem, theta, memory, noise, 0.3, 8)
    torch.testing.assert_close(found.gradient, expected, rtol=1e-12, atol=0)
    assert memory.time == 0
    assert (memory.history == 0).all()
    # and again after the reset, so nothing is carried over
    found, _ = windowed_es(kind, problem, theta, memory, noise, 0.3, 8)
    torch.testing.assert_close(found.gradient, expected, rtol=1e-12, atol=0)


def test_the_first_window_of_pes_is_truncated_es_and_the_second_is_not():
    problem, noise = ToyRegression(8), normals(2, 4, 2)
    theta = torch.tensor([-1.0, -2.0], **DOUBLE)
    memories = {kind: begin(kind, problem, theta, 4, 4) for kind in ("pes", "truncated")}
    found = {kind: [] for kind in memories}
    for part in noise:
        for kind in memories:
            estimate, memories[kind] = windowed_es(kind, problem, theta, memories[kind], part, 0.3, 4)
            found[kind].append(estimate.gradient)
    torch.testing.assert_close(found["pes"][0], found["truncated"][0])
    assert not torch.allclose(found["pes"][1], found["truncated"][1])


def test_pes_adds_up_its_perturbations_and_es_single_keeps_the_first():
    problem, theta, noise = Linear(), torch.zeros(2, **DOUBLE), normals(3, 2, 2)
    _, pes = whole_problem("pes", problem, theta, 2, 3, noise, SIGMA)
    torch.testing.assert_close(pes.history, SIGMA * noise.sum(0))
    _, single = whole_problem("single", problem, theta, 2, 3, noise, SIGMA)
    torch.testing.assert_close(single.history, SIGMA * noise[0])
    assert pes.time == single.time == 9


def test_staggered_particles_stand_where_an_unperturbed_unroll_passes_and_reset_one_by_one():
    problem, theta = Linear(), torch.tensor([0.3, -0.1], **DOUBLE)
    memory = begin("pes", problem, theta, 4, 3, staggered=True)
    assert memory.time.tolist() == [0, 3, 6, 9]
    for i, t in enumerate(memory.time.tolist()):
        passed = unroll(problem, theta[None], steps=t)[1] if t else problem.start(theta[None])
        torch.testing.assert_close(memory.state[i], passed[0])
        torch.testing.assert_close(memory.state[4 + i], passed[0])
    _, memory = windowed_es("pes", problem, theta, memory, normals(4, 2), SIGMA, 3)
    assert memory.time.tolist() == [3, 6, 9, 0]
    assert memory.history[3].tolist() == [0, 0]
    assert (memory.history[:3] != 0).all()
    assert memory.state[3].item() == memory.state[7].item() == 1.0


def test_truncated_backpropagation_has_the_slope_of_its_window():
    problem = InfluenceBalancing(12, 3)
    theta = torch.tensor([[0.5]], **DOUBLE)
    memory = begin("truncated", problem, theta, 1, 3)
    for windows in (1, 2, 3):
        found, memory = windowed_backpropagation(problem, theta, memory, 3)
        s = smoothing.influence_state(theta[0, 0], 3 * windows)
        assert found.gradient.item() == pytest.approx(float((s - 1) * smoothing.influence_slope(3)), rel=1e-12)


def test_a_pair_of_signs_swapped_is_the_same_pair():
    problem, noise = ToyRegression(8), normals(4, 2)
    theta = torch.tensor([-1.0, -2.0], **DOUBLE)
    a, b = (full_es(problem, theta, z, 0.3).gradient for z in (noise, -noise))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def test_the_two_ingredients_of_the_merge_estimate_the_same_gradient():
    problem = Linear()
    theta = torch.tensor([0.3, -0.1], **DOUBLE)
    rp, es, bad = reparameterised(problem, theta, normals(REPEATS, 2), SIGMA)
    expected = torch.tensor(problem.closed_form([0.3, -0.1])[1], **DOUBLE)
    within_four_standard_errors(es, expected)
    # of a quadratic the mean gradient of a pair is that at its centre
    torch.testing.assert_close(rp, expected.expand(REPEATS, 2), rtol=1e-9, atol=0)
    assert not bad.any()
    samples, _ = full_es_samples(problem, theta, normals(REPEATS, 2), SIGMA)
    torch.testing.assert_close(es, samples, rtol=1e-9, atol=1e-9)


def test_the_variance_of_the_merge_is_the_harmonic_one_and_it_is_unbiased():
    repeats, n, va, vb = 20000, 64, 1.0, 4.0
    a = 1 + va**0.5 * normals(repeats, n, 1)
    b = 1 + vb**0.5 * normals(repeats, n, 1, key=1)
    merged = merge(a, b)
    expected = 1 / (n / va + n / vb)
    within_four_standard_errors(merged, torch.ones(1, **DOUBLE))
    # weights estimated from n samples cost less than a share 4/n of the variance; a sample variance of `repeats` draws
    # has the relative standard error sqrt(2/repeats)
    error = 4 * expected * (2 / repeats) ** 0.5
    assert expected - error <= merged.var().item() <= expected * (1 + 4 / n) + error


def test_an_ingredient_of_infinite_variance_has_no_weight():
    a, b = normals(5, 3), 1e12 * normals(5, 3, key=1)
    torch.testing.assert_close(merge(a, b), a.mean(0), rtol=1e-9, atol=1e-9)  # weights differ by 1e24


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_pair_with_a_loss_that_is_not_finite_gives_no_direction_and_is_counted():
    theta = torch.tensor([[30.0, 30.0]], dtype=torch.float32)  # e^30 as a parameter: the system overflows
    found = full_es(Lorenz(50), theta, torch.randn(1, 4, 2), 0.1)
    assert found.nonfinite.item() == 1
    assert found.gradient.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p, th: full_es(p, th, normals(2, 2), 0.0), "sigma"),
        (lambda p, th: full_es(p, th, normals(0, 2), 0.1), "pair"),
        (lambda p, th: begin("pes", p, th, 2, 5), "tile"),
        (lambda p, th: begin("nes", p, th, 2, 4), "windowed estimator"),
        (lambda p, th: merge(normals(1, 2), normals(1, 2)), "two pairs"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, words):
    with pytest.raises(LossAtlasError, match=words):
        call(Linear(), torch.zeros(2, **DOUBLE))


def test_a_batch_that_does_not_divide_the_rows_is_refused():
    with pytest.raises(LossAtlasError, match="divisor"):
        replace(networks(LearningRate), batch=5)
