"""Goals of an autoencoder against slow definitions, and their statistics under exact N(0, I)."""

import numpy as np
import pytest
import torch
from scipy import stats

from lossatlas.composite import goals
from lossatlas.composite.textures import textures
from lossatlas.errors import LossAtlasError


def images(seed=0, k=2, b=3, shape=(2, 8, 8)):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(k, b, *shape, generator=generator, dtype=torch.float64)


def slow_ssim(a, b, window):
    """Wang et al. 2004, eq. 13, window by window in numpy, mean over windows and channels of one pair (C, H, W)."""
    c1, c2 = 0.01**2, 0.03**2
    found = []
    for channel_a, channel_b in zip(a, b, strict=True):
        for i in range(channel_a.shape[0] - window + 1):
            for j in range(channel_a.shape[1] - window + 1):
                p, q = (c[i : i + window, j : j + window].ravel() for c in (channel_a, channel_b))
                cov = np.mean((p - p.mean()) * (q - q.mean()))
                found.append(
                    (2 * p.mean() * q.mean() + c1)
                    * (2 * cov + c2)
                    / ((p.mean() ** 2 + q.mean() ** 2 + c1) * (p.var() + q.var() + c2))
                )
    return np.mean(found)


@pytest.mark.parametrize("shape", [(2, 8, 8), (1, 18, 17)])  # one product, shifted sums
def test_ssim_is_that_of_the_definition(shape):
    a, b = images(0, shape=shape), images(1, shape=shape)
    pairs = [list(zip(x, y, strict=True)) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    expected = [np.mean([slow_ssim(p, q, 5) for p, q in pair]) for pair in pairs]
    assert (1 - goals.dissimilarity(a, b)).numpy() == pytest.approx(expected, abs=1e-12)  # rounding of float64


@pytest.mark.parametrize("name", goals.RECONSTRUCTION)
def test_reconstruction_goals_are_zero_at_the_image_and_nowhere_below(name):
    goal, x = goals.RECONSTRUCTION[name], images()
    assert goal(x, x).abs().max() < 1e-12
    assert (goal(images(1), x) > 0.01).all()
    shared = goal(images(1), x[:1])  # a minibatch that the members share
    # float64 products of another shape add up in another order
    assert shared[0].item() == pytest.approx(goal(images(1), x)[0].item(), abs=1e-12)
    leaf = x.clone().requires_grad_()  # the gradient at the goal exists and is zero
    assert torch.autograd.grad(goal(leaf, x).sum(), leaf)[0].abs().max() < 1e-9


@pytest.mark.parametrize("shape", [(2, 8, 6), (1, 5, 7), (1, 18, 17), (1, 17, 18)])  # even and odd; small and large
@pytest.mark.parametrize("name", goals.RECONSTRUCTION)
def test_slopes_of_reconstruction_goals_are_differences_of_their_values(name, shape):
    x_hat, x = images(1, k=2, b=1, shape=shape).requires_grad_(), images(0, k=1, b=1, shape=shape)
    assert torch.autograd.gradcheck(lambda point: goals.RECONSTRUCTION[name](point, x), x_hat, fast_mode=True)


@pytest.mark.parametrize("name", [*goals.LATENT, goals.SLICED])
def test_slopes_of_latent_goals_are_differences_of_their_values(name):
    generator = torch.Generator().manual_seed(4)
    z = (2 * torch.randn(2, 9, 3, generator=generator, dtype=torch.float64) + 1).requires_grad_()
    directions = goals.unit_directions(4, 3, generator).double()
    assert torch.autograd.gradcheck(lambda point: goals.latent(name, point, directions), z)


def test_fourier_magnitudes_do_not_see_a_shift_and_image_gradients_no_constant():
    x = images()
    assert goals.fourier(x.roll(3, -1), x).max() < 1e-12
    assert goals.image_gradient(x + 0.3, x).max() < 1e-12
    assert goals.squared(x.roll(3, -1), x).min() > 0.01
    flat = torch.full_like(x, 0.7)  # the orthonormal transform keeps squares (Parseval)
    spectrum = torch.fft.fft2(flat, norm="ortho")
    assert spectrum.abs().square().sum() == pytest.approx(flat.square().sum().item())


def test_latent_statistics_vanish_for_codes_that_have_the_moments():
    z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)[None]
    assert goals.mean_square(z) == 0
    assert goals.covariance_gap(z) == 0
    assert goals.kurtosis_gap(z).item() == pytest.approx(4.0, abs=1e-4)  # two-point codes: excess kurtosis −2
    assert goals.gaussian_divergence(z).item() == pytest.approx(0, abs=1e-5)
    moved = 3 * z + 1
    expected = 0.5 * (9 + 1 - 1 - np.log(9))  # KL(N(1, 9) ‖ N(0, 1)) a dimension
    assert goals.gaussian_divergence(moved).item() == pytest.approx(expected, abs=1e-5)


def test_the_sliced_distance_is_the_transport_to_normal_quantiles():
    levels = (np.arange(200) + 0.5) / 200
    exact = torch.tensor(stats.norm.ppf(levels))[None, :, None]
    one = torch.ones(1, 1, dtype=torch.float64)
    assert goals.sliced_distance(exact, one).item() == pytest.approx(0, abs=1e-20)
    assert goals.sliced_distance(exact.flip(1) + 2, one).item() == pytest.approx(4)  # a shift by 2, in any order
    directions = goals.unit_directions(5, 3, torch.Generator().manual_seed(0))
    assert directions.norm(dim=-1).numpy() == pytest.approx(np.ones(5), abs=1e-6)


@pytest.mark.parametrize(("rows", "dim"), [(20, 3), (50, 6)])
def test_sampling_floor_of_mean_and_covariance(rows, dim):
    z = torch.randn(4000, rows, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for found, expected in (
        (goals.mean_square(z), 1 / rows),
        (goals.covariance_gap(z), goals.expected_covariance_gap(rows, dim)),
    ):
        error = found.std() / len(found) ** 0.5
        assert abs(found.mean() - expected) < 4 * error  # four standard errors


def test_feasible_is_what_exact_codes_are_in_99_of_100_batches():
    names = ("mean", "covariance", "kurtosis", "sliced")
    generator = torch.Generator().manual_seed(2)
    directions = goals.unit_directions(4, 3, generator)
    limits = goals.feasible_limits(names, 60, 3, generator, directions=directions, draws=4000)
    z = torch.randn(4000, 60, 3, generator=generator)
    for name, limit in zip(names, limits, strict=True):
        share = (goals.latent(name, z, directions) <= limit).double().mean()
        error = (0.99 * 0.01 * 2 / 4000) ** 0.5  # the limit is estimated from as many draws as the share
        assert abs(share - 0.99) < 4 * error
    chi_square = stats.chi2.ppf(0.99, 3) / 60 / 3  # rows times dim times mean square is χ² with dim degrees of freedom
    assert limits[0].item() == pytest.approx(chi_square, rel=0.06)  # the 99 % point of 4000 draws: 1.6 % a s.e.


def test_a_batch_smaller_than_the_code_cannot_be_white():
    assert goals.covariance_floor(128, 307) == 180
    z = torch.randn(1, 10, 25, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    white = torch.linalg.svd(z - z.mean(1, keepdim=True), full_matrices=False)
    best = (white.U[..., :9] @ white.Vh[..., :9, :]) * 10**0.5  # all nine directions that ten centred rows have
    assert goals.covariance_gap(best).item() * 25**2 == pytest.approx(goals.covariance_floor(10, 25))
    assert goals.covariance_gap(z).item() * 25**2 > goals.covariance_floor(10, 25)


@pytest.mark.parametrize(("rows", "dim"), [(40, 7), (7, 40), (10, 10)])  # by the covariance, by inner products
def test_the_covariance_gap_of_any_batch_is_numpys(rows, dim):
    z = torch.randn(3, rows, dim, generator=torch.Generator().manual_seed(4), dtype=torch.float64).requires_grad_()
    gap = goals.covariance_gap(z)
    for i in range(3):
        covariance = np.cov(z[i].detach().numpy().T, bias=True)
        assert gap[i].item() == pytest.approx(np.square(covariance - np.eye(dim)).mean(), rel=1e-10)
    centred = z - z.mean(1, keepdim=True)  # and its slope is that which autograd finds through the covariance itself
    slow = (centred.mT @ centred / rows - torch.eye(dim)).square().mean((-2, -1)).sum()
    (expected,), (found,) = torch.autograd.grad(slow, z), torch.autograd.grad(gap.sum(), z)
    assert (found - expected).abs().max() < 1e-12 * max(1, expected.abs().max())


def test_bad_goals_are_refused_in_one_sentence():
    with pytest.raises(LossAtlasError, match="smaller than SSIM's window"):
        goals.dissimilarity(torch.zeros(1, 1, 1, 4, 8), torch.zeros(1, 1, 1, 4, 8))
    with pytest.raises(LossAtlasError, match="needs directions"):
        goals.latent("sliced", torch.zeros(1, 4, 2))
    with pytest.raises(LossAtlasError, match="'mmd' is unknown"):
        goals.latent("mmd", torch.zeros(1, 4, 2))


def test_textures_are_named_images_of_colours_that_one_number_gives():
    a, b = textures(8, 2, 20, 5), textures(8, 2, 30, 5)
    assert a.train_x.shape == (20, 3, 8, 8)
    assert torch.equal(a.train_x, b.train_x[:20]) or (a.train_x - b.train_x[:20]).abs().max() < 1e-6
    assert a.train_x.min() >= 0
    assert a.train_x.max() <= 1
    phases = torch.tensor([0.0, 2.0, 4.0])  # cos(t + phase) lies on an ellipse: a linear relation plus a quadratic one
    waves = (2 * a.train_x - 1).transpose(0, 1).flatten(1)
    basis = torch.stack([phases.cos(), -phases.sin()], 1)
    cosine_sine = torch.linalg.lstsq(basis, waves).solution
    assert (basis @ cosine_sine - waves).abs().max() < 1e-5
    assert (cosine_sine.square().sum(0) - 1).abs().max() < 1e-5
    with pytest.raises(LossAtlasError, match="must be a multiple"):
        textures(6, 2, 4, 4)
