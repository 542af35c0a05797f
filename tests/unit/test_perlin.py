import math
from itertools import product

import numpy as np
import pytest
import torch

from lossatlas.alignment import aligned, correlated, global_minimum
from lossatlas.errors import LossAtlasError
from lossatlas.problems import GaussianField, PerlinField

EXACT = 1e-12  # float64 paths that differ by the order of summation alone; measured at 1e-15


def grid(dim, cells, samples):
    axis = torch.arange(cells * samples, dtype=torch.float64) / samples
    return torch.stack(torch.meshgrid(*(axis,) * dim, indexing="ij")).flatten(1)


def by_definition(lattice, point):
    """The noise of one octave at one point, summed over all lattice points and their periodic images."""
    dim, cells = lattice.shape[0], lattice.shape[-1]
    total = 0.0
    for vertex in product(range(-1, cells + 1), repeat=dim):
        u = [float(x) - c for x, c in zip(point, vertex, strict=True)]
        if max(map(abs, u)) >= 1:
            continue
        g = lattice[(slice(None), *(c % cells for c in vertex))].tolist()
        weight = math.prod(1 - (6 * t**5 - 15 * t**4 + 10 * t**3) for t in map(abs, u))
        total += weight * sum(a * b for a, b in zip(g, u, strict=True))
    return total


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_noise_is_the_sum_of_gradients_times_kernel(dim):
    field = PerlinField.named("definition", dim=dim, cells=3, dtype=torch.float64)
    points = torch.rand(dim, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    expected = [by_definition(field.lattices[0], point) for point in points.T.tolist()]
    torch.testing.assert_close(field.at(points)[0], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=EXACT)


@pytest.mark.parametrize(("dim", "octaves", "moved"), list(product((1, 2, 3), (1, 3), (False, True))))
def test_dense_scattered_and_autograd_paths_agree(dim, octaves, moved):
    field = PerlinField.named("paths", layers=[0, 1], dim=dim, cells=4, octaves=octaves, dtype=torch.float64)
    if moved:
        shift = torch.rand(2, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        field = field.shifted(9 * shift - 4)
    points = grid(dim, 4, 3)
    dense, slope = field.dense(3)
    scattered, its_slope = field.at(points)
    theta = points.mT.clone().requires_grad_()
    values = field(theta)
    by_autograd = torch.stack([torch.autograd.grad(v.sum(), theta, retain_graph=True)[0].mT for v in values])
    for a, b in ((dense.flatten(1), scattered), (slope.flatten(2), its_slope), (its_slope, by_autograd)):
        torch.testing.assert_close(a, b, rtol=0, atol=EXACT)
    assert torch.equal(field.values(points), scattered)


def test_points_of_their_own_for_each_layer():
    field = PerlinField.named("own", layers=[[0, 1], [2, 3]], cells=5, dtype=torch.float64)
    points = torch.rand(2, 2, 2, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 5
    value, slope = field.at(points)
    for i, j in product(range(2), repeat=2):
        alone = PerlinField.named("own", layers=[2 * i + j], cells=5, dtype=torch.float64).at(points[i, j])
        torch.testing.assert_close(value[i, j], alone[0][0], rtol=0, atol=EXACT)
        torch.testing.assert_close(slope[i, j], alone[1][0], rtol=0, atol=EXACT)


def test_it_agrees_with_perlin_numpy_times_root_two():
    perlin_numpy = pytest.importorskip("perlin_numpy", reason="the peer is in the extra `benchmarks`")
    angles = 2 * np.pi * np.random.default_rng(5).uniform(size=(4, 6))  # what the peer draws
    theirs = perlin_numpy.generate_perlin_noise_2d((30, 50), (3, 5), rng=np.random.default_rng(5))
    # ours has one number of cells a side: a 5 x 5 field whose first 4 x 6 vertices carry the peer's gradients
    lattice = torch.zeros(2, 6, 6, dtype=torch.float64)
    lattice[:, :4] = torch.as_tensor(np.stack([np.cos(angles), np.sin(angles)]))
    field = PerlinField((lattice,), 2, 5, periodic=False)
    x, y = torch.arange(30, dtype=torch.float64) / 10, torch.arange(50, dtype=torch.float64) / 10
    points = torch.stack(torch.meshgrid(x, y, indexing="ij")).flatten(1)
    ours = field.at(points)[0].view(30, 50) * math.sqrt(2)
    torch.testing.assert_close(ours, torch.as_tensor(theirs), rtol=0, atol=EXACT)


def test_zero_at_lattice_points_and_bounded():
    field = PerlinField.named("bounds", layers=list(range(20)), cells=4, dtype=torch.float64)
    assert field.at(grid(2, 4, 1))[0].abs().max() == 0
    assert field.dense(9)[0].abs().max() <= math.sqrt(2) / 2  # |noise| <= sqrt(d) / 2 for unit gradients


def test_smooth_across_faces_of_cells():
    """C²: value, gradient and finite-difference curvature are continuous where cells meet."""
    field = PerlinField.named("faces", cells=4, dtype=torch.float64)
    near = torch.tensor([[2 - 1e-6, 2 + 1e-6], [1.3, 1.3]], dtype=torch.float64)
    value, slope = field.at(near)
    assert (value[0] - value[1]).abs() < 1e-5
    assert (slope[:, 0] - slope[:, 1]).abs().max() < 1e-4  # twice the step times a curvature of at most about 20
    h = 1e-4
    curvature = [
        (
            field.at(torch.tensor([[x + h, x - h], [1.3, 1.3]], dtype=torch.float64))[1][0]
            @ torch.tensor([1.0, -1]).double()
        )
        / (2 * h)
        for x in (2 - 2 * h, 2 + 2 * h)
    ]
    assert abs(curvature[0] - curvature[1]) < 0.2  # the third derivative is bounded; a kink would give O(10)


def test_nothing_is_correlated_beyond_two_cells():
    """Covariance of one octave over many layers: 0 at distance 2, within four standard errors."""
    field = PerlinField.named("reach", layers=list(range(4000)), cells=6)
    value, _ = field.at(torch.tensor([[0.4, 2.4, 0.6], [0.3, 0.3, 0.3]]))
    covariance = (value[:, 0] * value[:, 1]).double()
    assert covariance.mean().abs() < 4 * covariance.std() / math.sqrt(4000)
    near = (value[:, 0] * value[:, 2]).double()
    assert near.mean() > 4 * near.std() / math.sqrt(4000)


def test_gradients_are_isotropic_in_three_dimensions():
    """Mean of g gᵀ is I / 3; two angles uniform on the circle would not give it."""
    lattice = PerlinField.named("isotropy", dim=3, cells=20, dtype=torch.float64).lattices[0].flatten(1)
    assert lattice.norm(dim=0).sub(1).abs().max() < EXACT
    second = lattice[:, None] * lattice[None]
    error = second.std(-1) / math.sqrt(lattice.shape[1])
    assert ((second.mean(-1) - torch.eye(3, dtype=torch.float64) / 3).abs() < 4 * error).all()


def test_randomness_is_named_and_global_state_untouched():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = PerlinField.named("names", layers=[3], cells=8, octaves=2)
    torch.rand(7)
    torch.set_rng_state(before)
    more = PerlinField.named("names", layers=[0, 3, 9], cells=8, octaves=4)
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(one.lattices, more.lattices[-2:], strict=True):  # the finest two, of the layer numbered 3
        assert torch.equal(a[0], b[1])


def test_octaves_add_coarser_lattices_of_more_weight():
    fine = PerlinField.named("octaves", cells=8, dtype=torch.float64)
    both = PerlinField.named("octaves", cells=8, octaves=2, dtype=torch.float64)
    coarse = PerlinField(both.lattices[:1], 2, 4)
    x = torch.rand(2, 40, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 8
    torch.testing.assert_close(both.at(x)[0], coarse.at(x / 2)[0] + 0.5 * fine.at(x)[0], rtol=0, atol=EXACT)


def test_the_sum_of_layers_is_the_noise_of_summed_gradients():
    layers = PerlinField.named("sum", layers=[0, 1, 2], cells=4, dtype=torch.float64)
    total = PerlinField((layers.lattices[0].sum(0),), 2, 4)
    torch.testing.assert_close(layers.dense(4)[0].sum(0), total.dense(4)[0], rtol=0, atol=EXACT)


def test_four_dimensions_scattered_only():
    field = PerlinField.named("four", dim=4, cells=3, dtype=torch.float64)
    point = torch.tensor([0.3, 1.6, 2.9, 0.1], dtype=torch.float64)
    assert float(field(point)) == pytest.approx(by_definition(field.lattices[0], point.tolist()), abs=EXACT)
    with pytest.raises(LossAtlasError, match="a grid of 4 axes is out of reach"):
        field.dense(4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 0}, "dim 0"),
        ({"octaves": 0}, "octaves 0"),
        ({"cells": 6, "octaves": 3}, "6 cells cannot have 3 octaves: they must be a multiple of 4"),
        ({"gradients": "plusminus"}, "gradients 'plusminus'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(change, message):
    with pytest.raises(LossAtlasError, match=message):
        PerlinField.named("bad", **change)


def test_other_bad_input_is_refused():
    field = PerlinField.named("bad", cells=4, periodic=False)
    with pytest.raises(LossAtlasError, match="1 samples a cell do not resolve a cell"):
        field.dense(1)
    with pytest.raises(LossAtlasError, match="not periodic cannot be shifted"):
        field.shifted(torch.zeros(2))
    with pytest.raises(LossAtlasError, match=r"points outside \[0, 4\]"):
        field.at(torch.tensor([[4.5], [1.0]]))


def test_a_field_that_is_not_periodic_ends_at_its_last_vertex():
    field = PerlinField.named("ends", cells=3, periodic=False, dtype=torch.float64)
    points = grid(2, 3, 4)
    torch.testing.assert_close(field.dense(4)[0].flatten(), field.at(points)[0], rtol=0, atol=EXACT)
    assert field.at(torch.tensor([[3.0], [3.0]], dtype=torch.float64))[0] == 0


# --- alignment --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["perlin", "funnel", "gaussian"])
def test_aligned_layers_share_their_global_minimum(kind):
    if kind == "gaussian":
        field = GaussianField.torus("align", layers=[0, 1, 2], side=8.0, dtype=torch.float64)
    else:
        octaves = 3 if kind == "funnel" else 1
        field = PerlinField.named("align", layers=[0, 1, 2], cells=8, octaves=octaves, dtype=torch.float64)
    moved = aligned(field, 8)
    value, slope = moved.at(torch.zeros(2, 1, dtype=torch.float64))
    assert slope.abs().max() < 1e-10  # polished
    assert (moved.dense(16)[0].flatten(1).amin(1) >= value[:, 0] - 1e-12).all()
    # a translation leaves the values as a whole where they were
    assert float((moved.dense(16)[0].mean() - field.dense(16)[0].mean()).abs()) < 1e-3


def test_a_misplacement_of_zero_is_exact_alignment():
    field = PerlinField.named("align", layers=[0, 1], cells=8, octaves=4)
    place = global_minimum(field)
    assert torch.equal(aligned(field, 16, torch.zeros(2, 2)).shift, aligned(field).shift)
    assert torch.equal(aligned(field).shift, place)
    offset = torch.tensor([[0.5, -0.25], [0.0, 1.0]])
    moved = global_minimum(aligned(field, 16, offset))
    away = (moved + offset + 4).remainder(8) - 4  # the minimum lies at -offset, on the torus
    assert float(away.abs().max()) < 1e-3


@pytest.mark.parametrize("c", [0.25, 0.5, 0.95])
def test_layers_share_the_variance_they_are_told_to(c):
    """Cov(f_i, f_j) = c Var, Var(f_i) = Var, over 4000 independent fields at one place of a cell; within 4 s.e."""
    count = 4000
    x = torch.tensor([[0.3], [0.6]], dtype=torch.float64)
    fields = [
        PerlinField.named("share", c, part, layers=list(range(count)), cells=2, dtype=torch.float64) for part in "abc"
    ]
    shared, own, other = (field.at(x)[0][:, 0] for field in fields)
    one, two = correlated(shared, own, c), correlated(shared, other, c)
    known = float(torch.cat([shared, own, other]).square().mean())  # the mean of noise is 0 by symmetry
    for moment, expected in ((one.square(), known), (two.square(), known), (one * two, c * known)):
        error = math.hypot(float(moment.std()) / math.sqrt(count), expected / math.sqrt(1.5 * count))
        assert abs(float(moment.mean()) - expected) < 4 * error


def test_layers_that_share_all_are_identical_and_those_that_share_nothing_their_own():
    dice = torch.Generator().manual_seed(0)
    shared, own, mean = (torch.randn(5, generator=dice) for _ in range(3))
    assert torch.equal(correlated(shared, own, 1.0), shared)
    assert torch.equal(correlated(shared, own, 0.0), own)
    assert torch.equal(correlated(shared, own, 1.0, mean), shared)
    assert torch.equal(correlated(shared, own, 0.0, mean), own)
    with pytest.raises(LossAtlasError, match="must be in"):
        correlated(shared, own, 1.5)


def test_sharing_about_a_mean_keeps_that_mean():
    """f = m + sqrt(c) (f_0 - m) + sqrt(1 - c) (e - m): where both parts are the mean, so is the layer, for every c."""
    mean = torch.linspace(-2, 1, 7, dtype=torch.float64)
    for c in (0.1, 0.5, 0.9):
        torch.testing.assert_close(correlated(mean, mean, c, mean), mean, rtol=0, atol=1e-15)


def test_alignment_needs_a_unique_minimum():
    twice = PerlinField.named("twice", cells=4)
    lattice = twice.lattices[0].repeat(1, 2, 2)  # four copies side by side
    with pytest.raises(LossAtlasError, match="no unique global minimum"):
        global_minimum(PerlinField((lattice,), 2, 8))


def test_flat_cells_of_plus_minus_one_gradients():
    """In 1-D two layers of gradients ±1 cancel in a quarter of the cells, which then have no strict minimum at all."""
    layers = PerlinField.named("flat", layers=list(range(200)), dim=1, cells=64)
    total = PerlinField((layers.lattices[0].unflatten(0, (100, 2)).sum(1),), 1, 64)
    value = total.dense(8)[0].view(100, 64, 8)
    share = (value.abs().amax(-1) == 0).double().mean(1)  # by layer pair
    assert abs(float(share.mean()) - 0.25) < 4 * float(share.std()) / 10
    gaussian = PerlinField.named("flat", layers=[0], dim=1, cells=64, gradients="gaussian").dense(8)[0].view(64, 8)
    assert not (gaussian.abs().amax(-1) == 0).any()
