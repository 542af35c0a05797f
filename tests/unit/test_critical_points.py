import math

import numpy as np
import pytest
import torch

from lossatlas.composite import power_weights
from lossatlas.critical_points import (
    basins,
    neighbour_count,
    potential,
    sliding_points,
    space_stall_points,
    stall_points,
    strict_minima,
    upward_crossings,
    winding_numbers,
)
from lossatlas.errors import LossAtlasError
from lossatlas.problems import GaussianField, PerlinField


def generator(number=0):
    return torch.Generator().manual_seed(number)


def plane(nx=40, ny=48):
    x = torch.arange(nx, dtype=torch.float64) * (2 * math.pi / nx)
    y = torch.arange(ny, dtype=torch.float64) * (2 * math.pi / ny)
    return torch.meshgrid(x + 0.1, y + 0.2, indexing="ij")  # so that no zero falls on the grid


@pytest.mark.parametrize("neighbours", ["moore", "von_neumann"])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_strict_minima_by_their_definition(dim, neighbours):
    values = torch.rand(*(5,) * dim, generator=generator())
    found = strict_minima(values, dim, neighbours)
    array = values.numpy()
    for site in np.ndindex(array.shape):
        around = [
            array[tuple((a + b) % 5 for a, b in zip(site, move, strict=True))]
            for move in np.ndindex(*(3,) * dim)
            for move in [tuple(m - 1 for m in move)]
            if (sum(map(abs, move)) == 1 if neighbours == "von_neumann" else any(move))
        ]
        assert len(around) == neighbour_count(dim, neighbours)
        assert bool(found[site]) == (array[site] < min(around))


def test_a_plateau_has_no_strict_minimum():
    values = torch.ones(6, 6)
    values[2, 2] = values[2, 3] = 0.0
    assert not strict_minima(values, 2).any()
    values[2, 3] = 0.5
    assert strict_minima(values, 2).sum() == 1


def test_unknown_neighbours_are_refused():
    with pytest.raises(LossAtlasError, match="neighbours 'hexagonal' are unknown"):
        strict_minima(torch.ones(3, 3), 2, "hexagonal")


def test_zeros_of_a_known_landscape():
    """cos x + cos y on the torus: one minimum, one maximum, two saddles."""
    x, y = plane()
    count = stall_points(-torch.stack([x.sin(), y.sin()]))
    assert [int(c) for c in count] == [1, 1, 2]
    rotation = stall_points(torch.stack([-y.sin(), x.sin()]))  # the same zeros, quarter turned: neither kind is stable
    assert int(rotation.attractors + rotation.repellers) == int(rotation.saddles) == 2


@pytest.mark.parametrize("q", [0.0, 1.0, 4.0, math.inf])
def test_poincare_hopf_is_exact_for_every_composite(q):
    """Windings cancel edge by edge on the torus, in float32 too, for any number of layers and any weighting."""
    for field in (
        PerlinField.named("hopf", layers=[list(range(6))] * 3, cells=6),
        GaussianField.torus("hopf", layers=[list(range(6))] * 3, side=6.0),
    ):
        g = field.dense(8)[1]
        w = power_weights(g.norm(dim=-3).movedim(1, -1), q).movedim(-1, 1)
        v = (w[:, :, None] * g).sum(1)
        count = stall_points(v)
        assert torch.equal(count.attractors + count.repellers, count.saddles)
        assert int(winding_numbers(v).sum()) == 0
    noise = torch.randn(4, 2, 30, 31, generator=generator())
    assert (winding_numbers(noise).sum((-2, -1), dtype=torch.int64) == 0).all()


def test_winding_agrees_with_the_turned_angle():
    v = torch.randn(2, 20, 20, generator=generator(), dtype=torch.float64)
    angle = torch.atan2(v[1], v[0])

    def turn(a, b):
        return torch.remainder(b - a + math.pi, 2 * math.pi) - math.pi

    corners = [angle, angle.roll(-1, 0), angle.roll((-1, -1), (0, 1)), angle.roll(-1, 1)]
    total = sum(turn(a, b) for a, b in zip(corners, [*corners[1:], corners[0]], strict=True)) / (2 * math.pi)
    assert torch.equal(winding_numbers(v).long(), total.round().long())


def test_two_layers_rest_where_their_sum_does():
    """n = 2: the q-weighted composite and the sum have the same attractors, an identity of each landscape.

    On a grid an attractor is found in its plaquette unless the composite bends within one: one in a hundred may differ.
    """
    g = GaussianField.torus("two", layers=[[i, 100 + i] for i in range(8)], side=12.0, dtype=torch.float64).dense(24)[1]
    total = stall_points(g.sum(1))
    for q in (0.5, 1.0, 4.0):
        weights = power_weights(g.norm(dim=-3).movedim(1, -1), q).movedim(-1, 1)
        found = stall_points((weights[:, :, None] * g).sum(1))
        gap = (found.attractors - total.attractors).abs().sum() / total.attractors.sum()
        assert gap <= 0.01


def test_sliding_equilibria_of_two_layers_are_the_zeros_of_their_sum():
    """The largest of two gradients rests where they are opposite and equal. On the grid its jump makes the plain count
    too high by a sixth at any step; touching windings count once, which loses pairs closer than a step (3 %)."""
    g = GaussianField.torus("jump", layers=[[i, 100 + i] for i in range(8)], side=12.0).dense(20)[1]
    total = stall_points(g.sum(1)).attractors.sum()
    lengths = g.norm(dim=-3)
    largest = torch.where((lengths[:, 0] > lengths[:, 1])[:, None], g[:, 0], g[:, 1])
    found = sliding_points(largest)
    assert abs(int(found.attractors.sum()) - int(total)) <= 0.03 * int(total)
    assert int(stall_points(largest).attractors.sum()) > 1.08 * int(total)
    assert torch.equal(found.attractors + found.repellers, found.saddles)


def test_attractors_of_a_gradient_are_the_minima_of_its_values():
    """Both counts see the same minima but for those whose distance the grid does not resolve (below 2 %)."""
    value, slope = GaussianField.torus("same", layers=list(range(10)), side=12.0).dense(16)
    by_value, by_flow = strict_minima(value, 2).sum(), stall_points(slope).attractors.sum()
    assert abs(int(by_value) - int(by_flow)) <= 0.02 * int(by_value)


def test_windings_need_two_dimensions():
    with pytest.raises(LossAtlasError, match="two dimensions"):
        stall_points(torch.zeros(3, 4, 4, 4))


def test_upward_crossings():
    v = torch.tensor([[1.0, -1, 2, -3, -1, 0], [1.0, 1, 1, 1, 1, 1]])
    assert upward_crossings(v).tolist() == [2, 0]


@pytest.mark.parametrize("shape", [(32,), (16, 18), (8, 10, 12)])
def test_the_potential_of_a_gradient_is_its_function(shape):
    dim = len(shape)
    axes = [torch.arange(n, dtype=torch.float64) * (5.0 / n) for n in shape]
    x = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    k = 2 * math.pi / 5
    value = (k * x).sin().prod(0) + (2 * k * x[0]).cos()
    slope = torch.stack(
        [
            k
            * (k * x[i]).cos()
            * torch.stack([(k * x[j]).sin() for j in range(dim) if j != i] or [torch.ones(shape)]).prod(0)
            - (2 * k * (2 * k * x[0]).sin() if i == 0 else 0)
            for i in range(dim)
        ]
    )
    found, rest = potential(slope, 5.0)
    torch.testing.assert_close(found, value - value.mean(), rtol=0, atol=1e-12)
    assert abs(float(rest)) < 1e-12


def test_a_rotation_has_no_potential():
    x, y = plane()
    found, rest = potential(torch.stack([y.sin(), -x.sin()]), 2 * math.pi)
    assert found.abs().max() < 1e-12
    assert float(rest) == pytest.approx(1.0, abs=1e-12)
    half = torch.stack([x.sin() + y.sin(), y.sin() - x.sin()])
    assert float(potential(half, 2 * math.pi)[1]) == pytest.approx(0.5, abs=1e-12)


def test_basins_of_a_ridge_with_known_passes():
    """Three wells on a ring, the same along the other axis: depths -3, -2, -1 and passes 1, 2 and 5 between them."""
    line = np.array([-3.0, 1, -2, 2, -1, 5])
    values = np.repeat(line[:, None], 4, axis=1) + 0.01 * np.arange(4)[None]  # each well has its bottom in column 0
    found = basins(values, home=2 * 4)
    assert found.birth.tolist() == [-3, -2, -1]
    assert found.persistence.tolist() == [math.inf, 3, 3]
    assert found.barrier.tolist() == [1, -math.inf, 2]
    assert found.size.sum() == values.size


def test_basins_agree_with_flooding():
    """Persistence and barriers against a flood level by level with scipy's labels."""
    label = pytest.importorskip("scipy.ndimage").label
    values = PerlinField.named("flood", cells=4, dtype=torch.float64).dense(4)[0].numpy()
    found = basins(values, home=int(values.argmax()))
    tiled = np.tile(values, (3, 3))

    def joined(level, a, b):
        """Whether two sites are in one component of the sublevel set, as seen in 3 x 3 periods."""
        labels, _ = label(tiled <= level, np.ones((3, 3)))
        (ax, ay), (bx, by) = (np.unravel_index(site, values.shape) for site in (a, b))
        at_a = labels[ax + 16, ay + 16]
        return at_a > 0 and any(labels[bx + 16 * i, by + 16 * j] == at_a for i in range(3) for j in range(3))

    home = found.site[np.isneginf(found.barrier)][0]
    for site, barrier in zip(found.site, found.barrier, strict=True):
        if np.isfinite(barrier):
            assert joined(barrier + 1e-9, site, home)
            assert not joined(barrier - 1e-9, site, home)
    assert int(strict_minima(torch.as_tensor(values), 2).sum()) == len(found.site)
    assert np.isinf(found.death).sum() == 1


# --- three dimensions -------------------------------------------------------------------------------------------------


def space(size=24):
    axis = 2 * torch.pi * (torch.arange(size) + 0.3) / size
    return torch.meshgrid(axis, axis, axis, indexing="ij")


def test_zeros_of_a_known_field_in_space():
    """-cos x - cos y - cos z has one minimum among its eight critical points; so have its turned and reversed flows."""
    x, y, z = space()
    gradient = torch.stack([x.sin(), y.sin(), z.sin()])
    spiral = torch.stack(
        [x.sin() + 2 * y.sin(), y.sin() - 2 * x.sin(), z.sin()]
    )  # eigenvalues 1 ± 2i, 1 at the minimum
    found = space_stall_points(torch.stack([gradient, spiral, -gradient]))
    assert found.attractors.tolist() == [1, 1, 1]
    assert found.degree.tolist() == [0, 0, 0]
    twisted = torch.stack(
        [y.sin(), z.sin(), x.sin()]
    )  # a cyclic permutation: eigenvalues 1, -1/2 ± i √3/2, no attractor
    assert space_stall_points(twisted).attractors == 0
    assert space_stall_points(torch.stack([x.sin() + 2, y.sin(), z.sin()])) == (0, 0)


def test_degrees_in_space_add_up_to_nothing_for_every_composite():
    layers = GaussianField.torus("space", layers=list(range(3)), dim=3, side=6.0)
    slopes = layers.dense(4)[1]  # (3, 3, 24, 24, 24)
    lengths = slopes.norm(dim=1, keepdim=True)
    for q in (-2.0, 0.0, 1.0, 4.0):
        assert space_stall_points((slopes * lengths**q).sum(0)).degree == 0
    largest = slopes.gather(0, lengths.argmax(0, keepdim=True).expand(1, 3, -1, -1, -1))
    assert space_stall_points(largest).degree == 0


def test_attractors_in_space_are_the_minima_of_the_values():
    """For a gradient, up to minima at whose place the grid is too coarse."""
    field = GaussianField.torus("minima", layers=[0, 1, 2, 3], dim=3, side=8.0)
    value, slope = field.dense(8)
    found = space_stall_points(slope).attractors
    expected = strict_minima(value, 3).sum((-3, -2, -1))
    assert expected.sum() > 40
    assert ((found - expected).abs() <= 1).all()


def test_degrees_need_three_dimensions():
    with pytest.raises(LossAtlasError, match="three dimensions"):
        space_stall_points(torch.zeros(2, 8, 8))
