import math

import pytest
import torch

from lossatlas import theory
from lossatlas.critical_points import neighbour_count, stall_points, strict_minima, upward_crossings
from lossatlas.errors import LossAtlasError
from lossatlas.problems import GaussianField, PerlinField


def generator(number=0):
    return torch.Generator().manual_seed(number)


def within_four_errors(units, expected, bias=0.0):
    """Whether the mean of independent units (n,) agrees with a closed form; `bias` is what the grid may add."""
    units = units.double()
    return abs(float(units.mean()) - expected) < 4 * float(units.std()) / math.sqrt(len(units)) + bias


@pytest.mark.parametrize(("dim", "neighbours"), [(1, "moore"), (2, "moore"), (2, "von_neumann"), (3, "von_neumann")])
def test_common_minima_of_white_noise(dim, neighbours):
    side = {1: 4096, 2: 64, 3: 16}[dim]
    values = torch.rand(2, 200, *(side,) * dim, generator=generator())
    common = strict_minima(values, dim, neighbours).all(0).flatten(1).double().mean(1)
    assert within_four_errors(common, theory.common_minima_rate(2, neighbour_count(dim, neighbours)))


def test_the_sum_of_white_layers_has_the_density_of_one():
    values = torch.empty(5, 200, 64, 64).exponential_(generator=generator()).sum(0)
    assert within_four_errors(strict_minima(values, 2).flatten(1).double().mean(1), 1 / 9)


def test_density_of_minima_of_gaussian_fields():
    """A grid of h = 1/16 misses a minimum when two lie closer than h: a bias of order h², below 0.5 %."""
    line = GaussianField.torus("density", layers=list(range(200)), dim=1, side=64.0).dense(16)[1][:, 0]
    expected = theory.minima_density(1, 1.0, 3.0)
    assert within_four_errors(upward_crossings(line) / 64, expected, 0.005 * expected)
    plane = GaussianField.torus("density", layers=list(range(60)), side=16.0)
    found = torch.cat([stall_points(plane_slope).attractors for plane_slope in plane.dense(8)[1].split(10)])
    expected = theory.minima_density(2, 1.0, 3.0)
    assert within_four_errors(found / 256, expected, 0.005 * expected)


def test_length_enters_the_density_as_a_volume():
    for dim in (1, 2, 3):
        unit, double = theory.minima_density(dim, 1.0, 3.0), theory.minima_density(dim, 0.25, 3 / 16)
        assert double == pytest.approx(unit / 2**dim, rel=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_formula_for_any_dimension_agrees_with_the_closed_ones(dim):
    found = theory.minima_density_sampled(dim, 2.0, 5.0, generator())
    assert abs(found.value - theory.minima_density(dim, 2.0, 5.0)) < 4 * found.error


def test_the_density_in_a_bowl():
    """Ten layers with bowls: counts in the window against the integral of the density; mu = 0 is Rice's formula."""
    n, mu = 10, 0.1
    zero = theory.bowl_minima_density(torch.zeros(1), 3, 0.0, 1.0, 3.0)
    assert float(zero) == pytest.approx(theory.minima_density(1, 1.0, 3.0), rel=1e-6)
    x = (torch.arange(64 * 16) - 512) / 16
    slope = sum(
        GaussianField.torus("bowl", i, layers=list(range(400)), dim=1, side=64.0).dense(16)[1][:, 0] for i in range(n)
    )
    slope = slope + n * mu * x
    inside = (slope[:, :-1] < 0) & (slope[:, 1:] >= 0)
    expected = float(torch.trapezoid(theory.bowl_minima_density(x.double(), n, mu, 1.0, 3.0), x.double()))
    assert within_four_errors(inside.sum(1), expected, 0.005 * expected)


def test_perlin_minima_per_cell_in_one_dimension():
    field = PerlinField.named("cells", layers=list(range(400)), dim=1, cells=64, gradients="gaussian")
    expected = theory.perlin_minima_per_cell(1)
    assert within_four_errors(upward_crossings(field.dense(32)[1][:, 0]) / 64, expected, 0.002)
    # the limit of random phases: the summed slope of many shifted layers is a stationary Gaussian process
    shifted = PerlinField.named("cells", layers=list(range(2000)), dim=1, cells=64, gradients="gaussian").shifted(
        torch.rand(2000, 1, generator=generator()) * 64
    )
    total = shifted.dense(16)[1][:, 0].unflatten(0, (40, 50)).sum(1)
    assert within_four_errors(upward_crossings(total) / 64, theory.perlin_minima_per_cell(1, "random"), 0.005)


def test_perlin_minima_per_cell_in_two_dimensions():
    field = PerlinField.named("plane", layers=list(range(60)), cells=16, gradients="gaussian")
    found = stall_points(field.dense(16)[1]).attractors / 256
    assert within_four_errors(found, theory.perlin_minima_per_cell(2), 0.005)
    moved = PerlinField.named("plane", layers=list(range(640)), cells=16, gradients="gaussian").shifted(
        torch.rand(640, 2, generator=generator()) * 16
    )
    total = torch.stack([part.dense(12)[1].sum(0) for part in _parts(moved, 32)])
    # 32 layers are near their limit; the grid misses the minima of pairs closer than a twelfth of a cell
    assert within_four_errors(stall_points(total).attractors / 256, theory.perlin_minima_per_cell(2, "random"), 0.01)


def _parts(field, size):
    for a in range(0, len(field.shift), size):
        yield PerlinField(
            tuple(lattice[a : a + size] for lattice in field.lattices), 2, field.cells, shift=field.shift[a : a + size]
        )


def _ratio_1d(n, weight):
    """Attractors a layer of composites of n one-dimensional Gaussian layers over those of one: (200,) units."""
    slopes = torch.stack(
        [
            GaussianField.torus("ratio", i, layers=list(range(200)), dim=1, side=64.0).dense(16)[1][:, 0]
            for i in range(n)
        ]
    )
    if weight is None:
        found = slopes.gather(0, slopes.abs().argmax(0, keepdim=True))[0]
    else:
        found = (slopes * slopes.abs() ** weight).sum(0)
    return upward_crossings(found) / (64 * theory.minima_density(1, 1.0, 3.0))


def test_stall_ratio_of_finite_teams():
    """Grid bias of order h for kinked v at h = 1/16: allow 1.5 %."""
    for q, n in ((1.0, 3), (4.0, 5)):
        expected = theory.stall_ratio_finite(q, n, generator())
        assert within_four_errors(_ratio_1d(n, q), expected.value, 0.015 + 4 * expected.error)


def test_stall_ratio_of_the_largest_gradient():
    for n in (3, 10):
        assert within_four_errors(_ratio_1d(n, None), theory.stall_ratio_max(n), 0.015 * theory.stall_ratio_max(n))
    # growth like (sqrt(pi) / 2) sqrt(2 ln n): the local exponent of the square against ln n comes near pi / 2
    slope = (theory.stall_ratio_max(10**6) ** 2 - theory.stall_ratio_max(10**4) ** 2) / math.log(100)
    assert slope == pytest.approx(math.pi / 2, rel=0.1)


def test_stall_ratios_have_the_right_limits():
    assert theory.stall_ratio_power(0.0) == 1
    assert theory.stall_ratio_max(2) == pytest.approx(1, abs=1e-12)
    assert theory.stall_ratio_finite(3.0, 2, generator()).value == 1
    large = theory.stall_ratio_finite(1.0, 60, generator(), 50_000)
    assert abs(large.value - theory.stall_ratio_power(1.0)) < 4 * large.error + 0.02  # 1/n corrections
    for q in (0.5, 2.0):
        found = theory.stall_ratio_sampled(q, 1, generator())
        assert abs(found.value - theory.stall_ratio_power(q)) < 4 * found.error
    for dim in (2, 3):
        found = theory.stall_ratio_sampled(0.0, dim, generator(), 50_000)
        assert abs(found.value - 1) < 4 * found.error
    with pytest.raises(LossAtlasError, match="1 dimension and q > -1/2"):
        theory.stall_ratio_power(1.0, dim=2)


def test_wendel():
    """0 is in the hull of plane vectors iff no angular gap reaches pi: an exact test, against Wendel."""
    angles = torch.rand(20_000, 5, generator=generator(), dtype=torch.float64).mul(2 * math.pi).sort(-1).values
    gaps = torch.cat([angles.diff(dim=-1), angles[:, :1] + 2 * math.pi - angles[:, -1:]], -1)
    assert within_four_errors((gaps.amax(-1) < math.pi).double(), theory.wendel_probability(5, 2))
    for dim in (1, 3, 7):
        assert theory.wendel_probability(2 * dim, dim) == pytest.approx(0.5, abs=1e-12)
        assert theory.wendel_probability(dim, dim) == pytest.approx(0, abs=1e-12)


def test_no_closed_form_is_said():
    with pytest.raises(LossAtlasError, match="in 4 dimensions"):
        theory.minima_density(4, 1.0, 3.0)
    with pytest.raises(LossAtlasError, match="in 3 dimensions"):
        theory.perlin_minima_per_cell(3)
