"""The estimators against closed forms on linear and quadratic functions, within four standard errors."""

import math
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from lossatlas import ensemble, evolution, smoothing
from lossatlas.code_hash import covered
from lossatlas.errors import LossAtlasError
from lossatlas.evolution import estimator, population
from lossatlas.problems.analytic import Quadratic, Rastrigin
from lossatlas.problems.architectures import mlp
from lossatlas.problems.network import NetworkProblem, initial

DIM = 24


@pytest.fixture
def quadratic():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(DIM, DIM, generator=generator, dtype=torch.float64)
    hessian = root @ root.T / DIM
    return Quadratic(hessian), torch.randn(DIM, generator=generator, dtype=torch.float64)


class Slope:
    """A linear function."""

    def __init__(self, gradient):
        self.gradient, self.dim = gradient, len(gradient)

    def __call__(self, theta):
        return theta @ self.gradient


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosines(estimates, gradient):
    return (estimates @ gradient) / (estimates.norm(dim=-1) * gradient.norm())


def within_four_errors(samples, expected, slack=0.0):
    """slack: what the closed form itself leaves out, where it is an approximation."""
    error = samples.std(0) / math.sqrt(len(samples))
    return ((samples.mean(0) - expected).abs() <= 4 * error + slack).all()


# --- the estimate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", evolution.SAMPLINGS)
def test_unshaped_estimates_are_unbiased_on_a_quadratic(quadratic, sampling):
    problem, theta = quadratic
    generator = torch.Generator().manual_seed(1)
    drawn = torch.stack(
        [evolution.es_gradient(problem, theta, 0.7, 20, sampling, generator=generator) for _ in range(400)]
    )
    # 24 coordinates at four standard errors: a false alarm in 700 such tests
    assert within_four_errors(drawn, problem.hessian @ theta)


@pytest.mark.parametrize("sampling", ["iid", "antithetic"])
def test_doubling_the_population_does_not_change_the_expected_step(quadratic, sampling):
    problem, theta = quadratic
    gradient = problem.hessian @ theta
    for n in (10, 20, 40):
        keys = range(300)
        drawn = torch.stack([evolution.generation(problem, theta, 0.3, n, key, sampling).gradient for key in keys])
        along = drawn @ gradient / gradient.norm() ** 2
        assert within_four_errors(along, 1.0)


def test_the_estimate_is_of_the_smoothed_gradient_not_of_the_gradient():
    class Ripple:
        dim = 1

        def __call__(self, theta):
            return torch.cos(2 * math.pi * theta[..., 0] / 3)

    theta, sigma = torch.tensor([0.6], dtype=torch.float64), 0.8
    drawn = torch.stack([evolution.generation(Ripple(), theta, sigma, 20, key).gradient for key in range(400)])
    exact = -2 * math.pi / 3 * math.sin(2 * math.pi * 0.6 / 3)
    assert within_four_errors(drawn[:, 0], exact * smoothing.ripple_attenuation(sigma, 3))
    assert not within_four_errors(drawn[:, 0], exact)


def test_a_sigma_for_each_coordinate_is_unbiased_too(quadratic):
    problem, theta = quadratic
    sigma = torch.linspace(0.1, 1.0, DIM, dtype=torch.float64)
    drawn = torch.stack([evolution.generation(problem, theta, sigma, 20, key).gradient for key in range(400)])
    assert within_four_errors(drawn, problem.hessian @ theta)


def test_three_steps_by_hand_are_the_generation(quadratic):
    problem, theta = quadratic
    for sampling in ("iid", "antithetic", "orthogonal"):
        for shaping in evolution.SHAPINGS:
            mirrored = sampling != "iid"
            z = evolution.sample(7, 12, DIM, sampling, dtype=torch.float64)
            losses = problem(evolution.points(theta, z, 0.4, mirrored))
            by_hand = evolution.estimate(z, evolution.shape(losses, shaping), 0.4, mirrored, shaping)
            whole = evolution.generation(problem, theta, 0.4, 12, 7, sampling, shaping)
            torch.testing.assert_close(whole.gradient, by_hand)
            torch.testing.assert_close(whole.losses, losses)


# --- noise and chunks -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    x = torch.randn(30, 12, generator=torch.Generator().manual_seed(0))
    problem = NetworkProblem(mlp((12, 17, 9, 4)), x, torch.arange(30) % 4)
    return problem, initial(lambda: mlp((12, 17, 9, 4)), [0])[0]


@pytest.mark.parametrize("sampling", evolution.SAMPLINGS)
@pytest.mark.parametrize("shaping", evolution.SHAPINGS)
def test_the_chunk_size_changes_no_bit(network, sampling, shaping):
    problem, theta = network
    table = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    for source in (None, table):
        arguments = (problem, theta, 0.05, 150, 11, sampling, shaping, source)
        whole = evolution.generation(*arguments, chunk=150)
        for chunk in (1, 2, 7, 64):
            part = evolution.generation(*arguments, chunk=chunk)
            assert torch.equal(part.gradient, whole.gradient)
            assert torch.equal(part.losses, whole.losses)


def test_directions_drawn_twice_are_those_that_are_kept(network, monkeypatch):
    problem, theta = network
    kept = evolution.generation(problem, theta, 0.05, 150, 11)
    for module in (estimator, population):
        monkeypatch.setattr(module, "KEPT_BYTES", 0)
    assert torch.equal(evolution.generation(problem, theta, 0.05, 150, 11).gradient, kept.gradient)


def test_a_members_noise_is_its_own():
    noise = evolution.normal(5, 37)
    assert torch.equal(noise(0, 9)[4:7], noise(4, 7))
    assert not torch.equal(noise(0, 1), evolution.normal(6, 37)(0, 1))


def test_members_and_generations_are_independent():
    z = torch.cat([evolution.normal(key, 1000)(0, 40) for key in range(5)])
    gram = z @ z.T / math.sqrt(1000)
    off = gram[~torch.eye(200, dtype=torch.bool)]  # each about N(0, 1)
    assert off.abs().max() < 5.5  # 20 000 different pairs: passes in all but one of a thousand
    assert abs(off.square().mean() - 1) < 4 * math.sqrt(2 / 20_000)


def test_directions_from_a_table_follow_the_cosine_law():
    table = torch.randn(2**20, generator=torch.Generator().manual_seed(0))
    gradient = torch.randn(500, generator=torch.Generator().manual_seed(1))
    drawn = [
        evolution.generation(Slope(gradient), torch.zeros(500), 0.1, 100, key, "iid", table=table).gradient
        for key in range(300)
    ]
    # the mean of a cosine is below the cosine of means by less than a hundredth of it at these sizes
    expected = smoothing.es_cosine(100, 500)
    assert within_four_errors(cosines(torch.stack(drawn), gradient), expected, slack=0.01 * expected)


def test_slices_of_a_table_are_views_that_share_no_number_for_a_turn_and_repeat_none_after_it():
    table = torch.arange(1001)  # each number tells its place
    for dim in (7, 10, 1001):  # of which the first divides the length, and the last leaves one place
        for key in range(20):
            noise = evolution.from_table(table, key, dim)
            turn = 1001 // dim - 1
            assert len(noise(0, turn).unique()) == turn * dim
            first = noise(0, 1)
            assert first.untyped_storage().data_ptr() == table.untyped_storage().data_ptr()
            places = noise(0, 900)[:, 0]
            assert len(places.unique()) == (1 if dim == 1001 else 900)
            assert torch.equal(noise(0, 900) - places[:, None], torch.arange(dim).expand(900, -1))
            for some in (1, 13, 64):
                parts = [noise(at, min(at + some, 900)) for at in range(0, 900, some)]
                assert torch.equal(torch.cat(parts), noise(0, 900))


def test_no_direction_from_a_table_is_told_apart_from_fresh_normals_by_its_cosines():
    """Also those of later turns, whose numbers are those of earlier ones shifted."""
    table = torch.randn(60_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = torch.cat([evolution.from_table(table, key, 1000)(0, 100) for key in (1, 2)])
    gram = z @ z.T / math.sqrt(1000)
    off = gram[torch.ones_like(gram, dtype=torch.bool).triu(1)]  # each about N(0, 1)
    assert off.abs().max() < 5.5  # 20 000 different pairs: passes in all but one of a thousand
    assert abs(off.mean()) < 4 / math.sqrt(len(off))
    assert abs(off.square().mean() - 1) < 4 * math.sqrt(2 / len(off))


def test_generations_share_as_many_directions_of_a_table_as_is_said():
    length, dim, m = 20_003, 9, 60
    table = torch.arange(length)
    starts = torch.stack([evolution.from_table(table, key, dim)(0, 1)[0, 0] for key in range(20_000)])
    room = (length - dim + 1) // 2
    assert starts.max() <= room + 1
    apart = (starts[::2] - starts[1::2]).abs()
    shared = torch.where(apart % dim == 0, (m - apart // dim).clamp_min(0), 0).double()
    # two uniform starts are k dim apart with probability (1 - |k| dim / starts) / starts
    expected = sum((m - abs(k)) * (1 - abs(k) * dim / room) / room for k in range(1 - m, m))
    assert within_four_errors(shared, expected)
    assert expected < m**2 / room
    assert (shared > 0).double().mean() < 2 * m / room


def test_the_generator_names_the_run_and_nothing_else_moves_it(network):
    problem, theta = network

    def run(n):
        generator = torch.Generator().manual_seed(3)
        first = evolution.es_gradient(problem, theta, 0.1, n, generator=generator)
        return first, torch.rand(1, generator=generator)

    (a, after_a), (_, after_b) = run(10), run(40)
    assert torch.equal(a, run(10)[0])
    assert torch.equal(after_a, after_b)  # the population's size does not move the stream


def test_no_graph_is_built_and_the_callers_tensors_stay_as_they_are(network):
    problem, theta = network
    before, rows = theta.clone(), problem.x.clone()
    found = evolution.generation(problem, theta, 0.1, 8, 0)
    assert torch.equal(theta, before)
    assert torch.equal(problem.x, rows)
    assert not found.gradient.requires_grad
    assert not found.losses.requires_grad


def test_all_evaluators_agree(network):
    problem, theta = network
    z = evolution.sample(3, 16, problem.dim)
    members = evolution.points(theta, z, 0.05, True)
    loop = torch.stack(
        [
            torch.nn.functional.cross_entropy(problem.layout.write(member, problem.module)(problem.x), problem.y)
            for member in members
        ]
    ).detach()
    torch.testing.assert_close(ensemble.loss(problem, members), loop, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(evolution.generation(problem, theta, 0.05, 16, 3).losses, loop, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("hidden", [(), (17,), (17, 9)])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("sampling", ["iid", "antithetic"])
def test_perceptrons_have_the_losses_of_their_perturbed_parameters(hidden, activation, sampling):
    """Also where each coordinate has a sigma of its own, against every member called by itself."""
    build = lambda: mlp((12, *hidden, 4), activation)  # noqa: E731
    x = torch.randn(30, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = NetworkProblem(build().double(), x, torch.arange(30) % 4)
    theta = initial(build, [0])[0].double()
    z = evolution.sample(3, 10, problem.dim, sampling, dtype=torch.float64)
    for sigma in (0.3, torch.linspace(0.01, 0.6, problem.dim, dtype=torch.float64)):
        members = evolution.points(theta, z, sigma, sampling == "antithetic")
        one_by_one = torch.stack(
            [
                torch.nn.functional.cross_entropy(problem.layout.write(member, problem.module)(x), problem.y)
                for member in members
            ]
        ).detach()
        found = evolution.generation(problem, theta, sigma, 10, 3, sampling).losses
        # float64, summed in another order
        torch.testing.assert_close(found, one_by_one, rtol=1e-12, atol=1e-12)


# --- shaping ----------------------------------------------------------------------------------------------------------


def test_ranks_share_ties_and_put_what_is_not_finite_last():
    losses = torch.tensor([3.0, 1.0, 1.0, torch.nan, 2.0, torch.inf])
    assert torch.equal(evolution.ranks(losses), torch.tensor([3, 0.5, 0.5, 4.5, 2, 4.5]) / 5 - 0.5)


def test_a_plateau_gives_no_step():
    z = normals(8, 5)
    for mirrored in (True, False):
        flat = torch.full((16 if mirrored else 8,), 0.3, dtype=torch.float64)
        for shaping in evolution.SHAPINGS:
            step = evolution.estimate(z, evolution.shape(flat, shaping), 0.1, mirrored, shaping)
            assert step.abs().max() < 1e-15


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("shaping", evolution.SHAPINGS)
def test_symmetries_of_the_estimate(mirrored, shaping):
    z, losses = normals(9, 6), normals(18 if mirrored else 9, seed=1)

    def estimate(z, losses):
        return evolution.estimate(z, evolution.shape(losses, shaping), 0.2, mirrored, shaping)

    before = estimate(z, losses)
    torch.testing.assert_close(estimate(z, losses + 5), before)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    pairs = torch.cat([order, order + 9]) if mirrored else order
    torch.testing.assert_close(estimate(z[order], losses[pairs]), before)
    if shaping == "ranks":
        torch.testing.assert_close(estimate(z, losses.exp()), before)
    if mirrored:
        torch.testing.assert_close(estimate(-z, losses.roll(9)), before)


def test_the_rank_direction_has_a_length_of_its_own(quadratic):
    _, theta = quadratic
    for mirrored, scale in ((True, 1.0), (True, 100.0), (False, 1.0)):
        sampling = "antithetic" if mirrored else "iid"
        small = [
            evolution.generation(Slope(scale * theta), theta, 1e-3, 2000, key, sampling, "ranks").gradient.norm()
            for key in range(40)
        ]
        # the gradient's own part adds |mean|² = 1/4 pi to P / 12 M = 1/500 or 1/1000 here
        signal = 1 / (4 * math.pi)
        noise = smoothing.rank_direction_norm(DIM, 1000 if mirrored else 2000) ** 2
        assert within_four_errors(torch.stack(small) ** 2, signal + noise, slack=0.02 * signal)


# --- laws -------------------------------------------------------------------------------------------------------------


def law(sampling, shaping, dim, n, repeats=400):
    gradient = normals(dim)
    drawn = [
        evolution.generation(Slope(gradient), torch.zeros_like(gradient), 0.1, n, key, sampling, shaping).gradient
        for key in range(repeats)
    ]
    return cosines(torch.stack(drawn), gradient)


@pytest.mark.parametrize(
    ("sampling", "shaping"), [("iid", "none"), ("antithetic", "none"), ("iid", "ranks"), ("antithetic", "ranks")]
)
def test_cosine_law_on_a_linear_function(sampling, shaping):
    n, dim = 60, 300
    count = smoothing.es_effective_count(n, mirrored=sampling != "iid", ranks=shaping == "ranks")
    expected = smoothing.es_cosine(count, dim)
    # E c against sqrt of E c² and the law's 1/P terms: a hundredth of it; two for ranks of a few members
    slack = (0.02 if shaping == "ranks" else 0.01) * expected
    assert within_four_errors(law(sampling, shaping, dim, n), expected, slack)


def test_orthogonal_directions_see_their_share_of_the_space():
    found = law("orthogonal", "none", 300, 60)
    # lengths of chi, not of sqrt P, cost 2 / P of it
    assert within_four_errors(found**2, smoothing.subspace_cosine2(30, 300), slack=0.01 * 0.1)
    assert found.mean() > law("antithetic", "none", 300, 60).mean()


def test_orthogonal_directions_are_so_and_each_is_normal():
    z = evolution.orthogonal(evolution.normal(0, 50, torch.float64), 80, 50)(0, 80)
    for block in (z[:50], z[50:]):
        gram = block @ block.T
        assert (gram - gram.diagonal().diag()).abs().max() < 1e-10
    lengths = torch.cat([evolution.orthogonal(evolution.normal(k, 50, torch.float64), 50, 50)(0, 50) for k in range(9)])
    assert within_four_errors(lengths.square().sum(-1), 50.0)
    assert within_four_errors(lengths[:, 0].square(), 1.0)


REFERENCE = {"dim": 200, "n": 100}


def curved(ratio, sampling, shaping="none", repeats=200):
    """Cosines on a quadratic whose spectrum is uniform on [0.1, 2], at sigma = ratio times the crossover."""
    dim = REFERENCE["dim"]
    spectrum = torch.linspace(0.1, 2, dim, dtype=torch.float64)
    gradient = normals(dim)
    problem = Quadratic(spectrum, minimum=-gradient / spectrum)
    sigma = ratio * smoothing.crossover_sigma(gradient.norm().item(), spectrum.norm().item())
    theta = torch.zeros(dim, dtype=torch.float64)
    found = [evolution.generation(problem, theta, sigma, REFERENCE["n"], k, sampling, shaping) for k in range(repeats)]
    return cosines(torch.stack([f.gradient for f in found]), gradient), found


@pytest.mark.parametrize("ratio", [0.1, 0.5, 1.0, 2.0])
def test_curvature_is_noise_to_iid_sampling_and_nothing_to_pairs(ratio):
    for mirrored in (False, True):
        count = smoothing.es_effective_count(REFERENCE["n"], ratio**2, mirrored)
        expected = smoothing.es_cosine(count, REFERENCE["dim"])
        found, _ = curved(ratio, "antithetic" if mirrored else "iid")
        # terms of order 1/n that the law leaves out, a fiftieth of it at n = 100
        assert within_four_errors(found, expected, slack=0.02 * expected)


def test_sampling_arms_cross_at_the_crossover():
    for ratio, better in ((0.5, "iid"), (2.0, "antithetic")):
        gap = curved(ratio, "iid")[0] - curved(ratio, "antithetic")[0]
        assert (gap.mean() > 4 * gap.std() / math.sqrt(len(gap))) == (better == "iid")
    gap = curved(1.0, "iid")[0] - curved(1.0, "antithetic")[0]
    assert within_four_errors(gap, 0.0, slack=0.01)


def test_auto_takes_the_better_arm():
    for ratio, better in ((0.2, "iid"), (5.0, "antithetic")):
        found, generations = curved(ratio, "auto", repeats=100)
        chosen = sum(g.sampling.startswith(better) for g in generations)
        assert chosen >= 95
        assert found.mean() > 0.9 * curved(ratio, better, repeats=100)[0].mean()


def test_auto_that_mirrors_is_antithetic_sampling(quadratic):
    problem, theta = quadratic
    auto = evolution.generation(problem, theta, 30.0, 40, 3, "auto")
    pairs = evolution.generation(problem, theta, 30.0, 40, 3, "antithetic")
    assert auto.sampling == "antithetic"
    torch.testing.assert_close(auto.gradient, pairs.gradient)
    torch.testing.assert_close(auto.losses, pairs.losses)


def test_crossover_from_hessian_vector_products_and_from_losses(quadratic):
    problem, theta = quadratic
    gradient = problem.hessian @ theta
    exact = smoothing.crossover_sigma(gradient.norm().item(), problem.hessian.norm().item())
    found = evolution.crossover_sigma(problem, theta, torch.Generator().manual_seed(0), probes=4000)
    assert abs(found / exact - 1) < 0.05  # 4000 probes of a quantity whose relative spread is about 1
    z = evolution.sample(0, 20_000, DIM, dtype=torch.float64)
    losses = problem(evolution.points(theta, z, 2 * exact, True))
    kappa = smoothing.curvature_noise(2 * exact, gradient.norm().item(), problem.hessian.norm().item())
    assert kappa == pytest.approx(4)
    assert evolution.curvature_noise(losses).item() == pytest.approx(kappa, rel=0.1)  # 10 000 pairs, heavy tails


def test_variance_of_pairs_on_a_quadratic(quadratic):
    problem, theta = quadratic
    gradient = problem.hessian @ theta
    for m in (1, 4):
        drawn = torch.stack([evolution.generation(problem, theta, 0.5, 2 * m, k).gradient for k in range(1500)])
        squares = (drawn - gradient).square().sum(-1)
        assert within_four_errors(squares, smoothing.pair_variance(DIM, gradient.norm().item()) / m)


def test_a_score_without_baseline_carries_the_offset(quadratic):
    """n = 2 members, raw score function: d f0² / sigma² of variance a member, that a baseline removes."""
    _, theta = quadratic
    z, sigma, offset = normals(4000, 1, DIM), 0.5, 7.0
    losses = offset + (sigma * z) @ theta
    raw = (losses[..., None] * z)[:, 0] / sigma
    variance = (raw - theta).square().sum(-1)
    assert within_four_errors(variance, smoothing.pair_variance(DIM, theta.norm().item()) + DIM * offset**2 / sigma**2)


def test_the_smoothed_rastrigin_turns_convex_where_it_should():
    x = torch.linspace(-5, 5, 4001, dtype=torch.float64).numpy()

    def minima(sigma):
        y = smoothing.rastrigin_smoothed(x, sigma)
        return int(((y[1:-1] < y[:-2]) & (y[1:-1] < y[2:])).sum())

    critical = smoothing.RASTRIGIN_CONVEX_SIGMA
    assert minima(0.0) == 11  # one close to each integer, on its inner side
    assert minima(critical * 1.001) == 1
    curvature = smoothing.rastrigin_smoothed(x, critical * 0.95)
    assert (curvature[2:] - 2 * curvature[1:-1] + curvature[:-2]).min() < 0
    curvature = smoothing.rastrigin_smoothed(x, critical * 1.001)
    assert (curvature[2:] - 2 * curvature[1:-1] + curvature[:-2]).min() > 0


def test_smoothing_by_sampling_is_the_closed_form():
    x, sigma = torch.tensor([0.3, -1.2], dtype=torch.float64), 0.3
    drawn = Rastrigin(2)(x + sigma * normals(200_000, 2))
    assert within_four_errors(drawn, smoothing.rastrigin_smoothed(x.numpy(), sigma).sum())


def test_the_budget_law_inverts_the_cosine_law():
    for cosine in (0.05, 0.3, 0.9):
        assert smoothing.es_cosine(smoothing.es_evaluations(cosine, 10**7), 10**7) == pytest.approx(cosine, rel=1e-6)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"n": 25, "sampling": "antithetic"}, "24 or 26"),
        ({"n": 25, "sampling": "orthogonal"}, "24 or 26"),
        ({"sigma": 0.0}, "positive"),
        ({"sigma": -1.0}, "positive"),
        ({"sigma": math.nan}, "positive"),
        ({"n": 1, "sampling": "iid"}, "at least 2"),
        ({"n": 8, "sampling": "auto"}, "too small"),
        ({"sampling": "sobol"}, "one of iid"),
        ({"shaping": "z-score"}, "one of none, ranks"),
    ],
)
def test_bad_input_is_one_sentence(quadratic, change, match):
    problem, theta = quadratic
    settings = {"sigma": 0.1, "n": 20, "sampling": "antithetic", "shaping": "none"} | change
    with pytest.raises(LossAtlasError, match=match):
        evolution.es_gradient(problem, theta, **settings, generator=torch.Generator())


def test_an_odd_population_works_iid(quadratic):
    problem, theta = quadratic
    assert evolution.generation(problem, theta, 0.1, 25, 0, "iid", "ranks").losses.shape == (25,)


def test_ranks_of_one_member_are_refused():
    with pytest.raises(LossAtlasError, match="no ranks"):
        evolution.ranks(torch.zeros(3, 1))


class Cliff:
    dim = 3

    def __call__(self, theta):
        return torch.where(theta[..., 0] > 0, torch.nan, theta[..., 1])


def test_losses_that_are_not_finite_rank_worst_or_are_refused():
    theta = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(LossAtlasError, match="not finite"):
        evolution.es_gradient(Cliff(), theta, 0.1, 20, generator=torch.Generator())
    step = evolution.generation(Cliff(), theta, 0.1, 400, 0, "antithetic", "ranks").gradient
    assert step[0] > 0.2  # descent leads away from the cliff
    assert step.isfinite().all()


def test_a_table_shorter_than_a_direction_is_refused():
    with pytest.raises(LossAtlasError, match="longer"):
        evolution.from_table(torch.zeros(10), 0, 11)


def test_the_estimator_needs_no_data_library():
    sources = {name: Path(find_spec(name).origin).read_text() for name in covered("lossatlas.evolution")}
    assert "lossatlas.evolution.estimator" in sources
    assert not [name for name, text in sources.items() if re.search(r"^\s*(import|from) torchvision", text, re.M)]
