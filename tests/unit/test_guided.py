"""Guided ES, past descent, sigma adaptation and safe mutation, and what evostrats codes in their place."""

import math

import pytest
import torch

from lossatlas import evolution, smoothing
from lossatlas.errors import LossAtlasError
from lossatlas.evolution import evostrats, guided, pepg, safe_mutation
from lossatlas.evolution.annealing import Annealing, anneal
from lossatlas.problems.analytic import Quadratic, Rastrigin
from lossatlas.problems.architectures import mlp
from lossatlas.problems.network import NetworkProblem, initial


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosines(estimates, gradient):
    return (estimates @ gradient) / (estimates.norm(dim=-1) * gradient.norm())


def mean_and_error(x):
    return x.mean(0), x.std(0) / math.sqrt(len(x))


def guide_of_cosine(gradient, cosine, seed=9):
    """A unit vector at that cosine to the gradient."""
    g = gradient / gradient.norm()
    other = normals(len(g), seed=seed)
    other = other - (other @ g) * g
    return cosine * g + math.sqrt(1 - cosine**2) * other / other.norm()


def sphered(steps, losses, mirrored):
    """The estimate from perturbations `steps` (r, m, P) whatever their law, iid or in pairs."""
    if mirrored:
        return guided.guided_estimate(steps, losses, 1.0)
    return ((losses - losses.mean(-1, keepdim=True))[..., None, :] @ steps).squeeze(-2)


@pytest.mark.parametrize("mirrored", [True, False])
def test_a_guide_of_cosine_one_half_helps_iid_and_in_pairs(mirrored):
    dim, m, repeats = 200, 20, 300
    gradient = normals(dim)
    basis = guide_of_cosine(gradient, 0.5)[:, None]
    z, y = normals(repeats, m, dim, seed=1), normals(repeats, m, 1, seed=2)

    def cosine(alpha):
        steps = guided.guided_directions(z, y, basis, alpha)
        losses = steps @ gradient
        losses = torch.cat([losses, -losses], -1) if mirrored else losses
        return cosines(sphered(steps, losses, mirrored), gradient)

    mean, error = mean_and_error(cosine(0.5) - cosine(1.0))
    assert mean > 4 * error


def test_the_published_constant_coefficient_is_cancelled_by_an_iid_baseline():
    dim, n, repeats = 200, 20, 300
    gradient = normals(dim)
    guide = guide_of_cosine(gradient, 0.5)
    z = normals(repeats, n, dim, seed=1)
    plain, moved = z, evostrats.as_published_guide(z, guide, 0.5)
    without, with_guide = (
        cosines(torch.stack([evostrats.as_published_estimate(d, d @ gradient, 0.1, False, False) for d in x]), gradient)
        for x in (plain, moved)
    )
    mean, error = mean_and_error(with_guide - without)
    # what is left is one more direction among n: a fiftieth is allowed
    assert abs(mean) < 4 * error + 0.02
    pairs = [
        torch.stack([evostrats.as_published_estimate(d, d @ gradient, 0.1, True, False) for d in x])
        for x in (
            torch.stack([evostrats.as_published_directions(d) for d in plain]),
            torch.stack([torch.cat([d[: n // 2], -d[: n // 2]]) for d in moved]),
        )
    ]
    assert cosines(pairs[1], gradient).mean() > 2 * cosines(pairs[0], gradient).mean()


def test_guided_directions_have_the_covariance_of_the_paper():
    dim, k, alpha = 12, 2, 0.3
    basis = guided.basis_of(normals(k, dim, seed=5))
    steps = guided.guided_directions(normals(200_000, dim), normals(200_000, k, seed=1), basis, alpha)
    covariance = steps.T @ steps / len(steps)
    expected = alpha / dim * torch.eye(dim) + (1 - alpha) / k * basis @ basis.T
    # entries of a covariance of normals have standard errors of sqrt((s_ii s_jj + s_ij²) / n)
    diagonal = expected.diagonal()
    error = ((diagonal[:, None] * diagonal + expected**2) / len(steps)).sqrt()
    assert ((covariance - expected).abs() < 4.5 * error).all()


def test_the_guided_estimate_points_along_the_covariance_times_the_gradient():
    dim, alpha = 10, 0.5
    gradient = normals(dim)
    basis = guide_of_cosine(gradient, 0.5)[:, None]
    steps = guided.guided_directions(normals(4000, 1, dim, seed=1), normals(4000, 1, 1, seed=2), basis, alpha)
    losses = 0.1 * steps @ gradient
    drawn = guided.guided_estimate(steps, torch.cat([losses, -losses], -1), 0.1, beta=2.0)
    mean, error = mean_and_error(drawn)
    expected = 2.0 * (alpha / dim * gradient + (1 - alpha) * basis[:, 0] * (basis[:, 0] @ gradient))
    assert ((mean - expected).abs() < 4 * error).all()


def test_a_random_guide_is_no_help():
    dim, m, repeats = 200, 20, 400
    gradient = normals(dim)
    z, y = normals(repeats, m, dim, seed=1), normals(repeats, m, 1, seed=2)
    bases = normals(repeats, dim, 1, seed=3)
    bases = bases / bases.norm(dim=1, keepdim=True)

    def cosine(alpha):
        steps = guided.guided_directions(z, y, bases, alpha)
        losses = steps @ gradient
        return cosines(guided.guided_estimate(steps, torch.cat([losses, -losses], -1), 1.0), gradient)

    mean, error = mean_and_error(cosine(0.5) - cosine(1.0))
    assert mean < -4 * error


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_alpha_is_a_share(alpha):
    with pytest.raises(LossAtlasError, match="between 0 and 1"):
        guided.guided_directions(torch.zeros(2, 3), torch.zeros(2, 1), torch.zeros(3, 1), alpha)


def test_the_memory_recursion_of_past_descent():
    dim, k, repeats = 500, 20, 60
    gradient = normals(dim)

    class Slope:
        def __init__(self):
            self.dim = dim

        def __call__(self, theta):
            return theta @ gradient

    previous: list = [None] * repeats
    expected = smoothing.subspace_cosine2(k, dim)
    for step in range(1, 11):
        previous = [
            guided.past_descent(Slope(), torch.zeros(dim, dtype=torch.float64), p, k, 1e-3, normals(k, dim, seed=s))
            for p, s in zip(previous, range(1000 * step, 1000 * step + repeats), strict=True)
        ]
        if step > 1:
            expected = smoothing.memory_cosine2(expected, k, dim)
        if step in (1, 2, 5, 10):
            mean, error = mean_and_error(cosines(torch.stack(previous), gradient) ** 2)
            # the recursion is exact for the mean: each step adds (1 - c²) k / (P - 1) in expectation
            assert abs(mean - expected) < 4 * error


# --- sigma ------------------------------------------------------------------------------------------------------------


def test_sigma_gradient_is_sigma_times_the_curvature():
    dim = 6
    spectrum = torch.linspace(-1, 2, dim, dtype=torch.float64)
    problem, theta, sigma = Quadratic(spectrum), normals(dim), torch.linspace(0.2, 0.7, dim, dtype=torch.float64)
    z = normals(3000, 8, dim, seed=1)
    losses = problem(evolution.points(theta, z, sigma, mirrored=True))
    mean, error = mean_and_error(pepg.sigma_gradient(z, losses, sigma))
    assert ((mean - sigma * spectrum).abs() < 4 * error).all()


def test_sigma_stays_positive_and_survives_what_is_not_finite():
    sigma = torch.tensor([0.1, 0.1, 0.1, 0.1])
    gradient = torch.tensor([1e9, -1e9, 0.1, torch.nan])
    torch.testing.assert_close(pepg.adapted(sigma, gradient, 0.1), torch.tensor([0.08, 0.12, 0.09, 0.1]))


def test_a_diagnostic_changes_no_state():
    """evostrats adapts sigma in the very call that its log makes; here nothing is kept between calls."""
    problem, theta = Quadratic(torch.ones(5, dtype=torch.float64)), normals(5)
    sigma = torch.full((5,), 0.3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    before = sigma.clone(), theta.clone()
    evolution.es_gradient(problem, theta, sigma, 10, generator=generator)
    evolution.crossover_sigma(problem, theta, generator)
    assert torch.equal(sigma, before[0])
    assert torch.equal(theta, before[1])


# --- safe mutation ----------------------------------------------------------------------------------------------------


def test_sensitivity_takes_one_output_at_a_time():
    """On a linear model the derivative of output k, summed over rows, is the sum of the rows in k's weights."""
    problem = NetworkProblem(mlp((3, 4)), normals(7, 3).float(), torch.zeros(7, dtype=torch.long))
    theta = initial(lambda: mlp((3, 4)), [0])[0]
    found = safe_mutation.sensitivity(problem, theta)
    weight, bias = problem.layout.split(found).values()
    summed = problem.x.sum(0).abs()
    torch.testing.assert_close(weight, (summed / 4).expand(4, 3))
    torch.testing.assert_close(bias, torch.full((4,), 7 / 4))
    published = problem.layout.split(evostrats.as_published_sensitivity(problem, theta))["1.bias"]
    # outputs 0 ... k are summed in row k, so the first output counts four times
    torch.testing.assert_close(published, torch.tensor([4, 3, 2, 1]) * 7 / 4)


def test_safe_sigma_is_clamped():
    reaction = torch.tensor([0.0, 0.5, 100.0])
    torch.testing.assert_close(safe_mutation.safe_sigma(0.1, reaction), torch.tensor([10.0, 0.2, 0.02]))


# --- evostrats as published -------------------------------------------------------------------------------------------


def test_the_published_raw_estimate_is_beta_over_p_of_the_gradient():
    dim, n, sigma = 8, 20, 0.3
    spectrum = torch.linspace(0.5, 2, dim, dtype=torch.float64)
    problem, theta = Quadratic(spectrum), normals(dim)
    ascent = -spectrum * theta
    for mirrored, factor in ((True, 1.0), (False, (n - 1) / n)):
        drawn = []
        for repeat in range(3000):
            z = evostrats.as_published_directions(normals(n, dim, seed=repeat), mirrored)
            drawn.append(evostrats.as_published_estimate(z, -problem(theta + sigma * z), sigma, mirrored, False))
        mean, error = mean_and_error(torch.stack(drawn))
        assert ((mean - factor * evostrats.BETA / dim * ascent).abs() < 4 * error).all()
        if not mirrored:
            along = torch.stack(drawn) @ ascent / ascent.norm() ** 2 * dim / evostrats.BETA
            mean, error = mean_and_error(along)
            assert abs(mean - factor) < 4 * error


def test_the_published_step_is_beta_sigma_times_ours():
    theta, sigma = normals(30), 0.01
    problem = Quadratic(torch.ones(30, dtype=torch.float64))
    z = normals(40, 30, seed=2)
    for mirrored in (True, False):
        all_rows = evostrats.as_published_directions(z, mirrored)
        losses = problem(theta + sigma * all_rows)
        published = evostrats.as_published_estimate(all_rows, -losses, sigma, mirrored)
        ours = evolution.estimate(z[:20] if mirrored else z, evolution.shape(losses, "ranks"), sigma, mirrored, "ranks")
        torch.testing.assert_close(published, -evostrats.BETA * sigma * ours)


def test_the_published_ranks_step_on_a_plateau_and_love_nan():
    assert evostrats.as_published_ranks(torch.zeros(5)).abs().max() == 0.5
    assert evostrats.as_published_ranks(torch.tensor([1.0, torch.nan, 2.0])).argmax() == 1


def test_the_published_default_cannot_run_25_members():
    with pytest.raises(LossAtlasError, match="24 of 25"):
        evostrats.as_published_directions(torch.zeros(25, 3))


# --- annealing --------------------------------------------------------------------------------------------------------


def test_annealing_leaves_the_basin_that_a_small_sigma_stays_in():
    problem, start = Rastrigin(2), torch.full((8, 2), 2.2)
    critical = smoothing.RASTRIGIN_CONVEX_SIGMA
    ends = {}
    # a small sigma needs the smaller rate, or its steps leap over the barriers
    for name, first, rate in (("small", 0.1 * critical, 0.003), ("annealed", 2 * critical, 0.01)):
        schedule = Annealing(first, 0.1 * critical, rate, steps=1000, population=30)
        assert schedule.evaluations == 30_000
        losses, theta = anneal(problem, start, schedule, torch.Generator().manual_seed(0))
        torch.testing.assert_close(losses[-1], problem(theta))
        ends[name] = losses[-1]
    assert (ends["small"] > 7).all()  # two coordinates near 2 cost 4 each
    assert (ends["annealed"] < 0.5).all()


def test_annealing_on_a_quadratic_goes_where_gradient_descent_goes():
    """Its estimate is unbiased, so the mean over runs follows the linear recursion of the exact gradient."""
    problem = Quadratic(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))
    schedule = Annealing(0.5, 0.1, rate=0.1, steps=20, population=10)
    start = torch.ones(4000, 3, dtype=torch.float64)
    _, theta = anneal(problem, start, schedule, torch.Generator().manual_seed(0))
    mean, error = mean_and_error(theta)
    exact = torch.ones(3, dtype=torch.float64)
    for step in range(20):
        exact = exact * (1 - schedule.rate_at(step) * problem.hessian)
    assert ((mean - exact).abs() < 4 * error).all()


@pytest.mark.parametrize(("change", "match"), [({"sigma_end": 0.0}, "positive"), ({"population": 7}, "6 or 8")])
def test_bad_annealings_are_refused(change, match):
    settings = {"sigma_start": 1.0, "sigma_end": 0.1, "rate": 0.1, "steps": 5, "population": 8} | change
    with pytest.raises(LossAtlasError, match=match):
        Annealing(**settings)
