"""What is read off curves and logit paths, against closed forms and brute force."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossatlas import curves
from lossatlas.thresholds import MONOTONE, RIGHT_ANGLE

nan = math.nan
CURVES = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def brute_force_delta(losses):
    pairs = [losses[j] - losses[i] for i in range(len(losses)) for j in range(i + 1, len(losses))]
    return max(0.0, *pairs)


# --- minimum delta ----------------------------------------------------------------------------------------------------


@given(CURVES)
def test_delta_is_the_greatest_rise_over_all_pairs_and_zero_iff_monotone(losses):
    found = curves.minimum_delta(tensor(losses)).item()
    assert found == brute_force_delta(losses)  # the same subtraction of the same numbers
    assert (found == 0) == all(b <= a for a, b in pairwise(losses))


@given(CURVES, st.floats(0.1, 10), st.floats(-10, 10))
def test_delta_scales_with_the_loss_and_ignores_its_level(losses, c, b):
    # rounding of c L + b, |L| up to 100
    assert curves.minimum_delta(c * tensor(losses) + b).item() == pytest.approx(
        c * curves.minimum_delta(tensor(losses)).item(), abs=1e-11
    )


@given(CURVES, st.data())
def test_delta_does_not_fall_under_refinement_nor_depend_on_the_spacing(losses, data):
    fine = [value for pair in zip(losses, data.draw(st.permutations(losses)), strict=True) for value in pair]
    coarse = curves.minimum_delta(tensor(fine[::2])).item()
    assert curves.minimum_delta(tensor(fine)).item() >= coarse
    repeated = [value for value in losses for _ in range(1 + data.draw(st.integers(0, 2)))]  # another walk over alpha
    assert curves.minimum_delta(tensor(repeated)).item() == curves.minimum_delta(tensor(losses)).item()


@given(CURVES)
def test_the_bumps_are_disjoint_rises_whose_greatest_height_is_delta(losses):
    found = curves.bumps(losses)
    assert max((height for *_, height in found), default=0.0) == brute_force_delta(losses)
    for (_, end, _), (start, _, _) in pairwise(found):
        assert end <= start
    for start, end, height in found:
        assert losses[start + 1] > losses[start]
        assert losses[end] < losses[start] or end == len(losses) - 1
        assert height == max(losses[start : end + 1]) - losses[start] > 0


@given(CURVES)
def test_the_released_rule_differs_from_the_closed_form_only_by_a_rise_that_starts_last(losses):
    released = curves.minimum_delta_2021(tensor(losses)).item()
    whole, cut = (curves.minimum_delta(tensor(c)).item() for c in (losses, losses[:-1]))
    lowest = min(losses[:-1])
    last_rise_is_a_bump_of_its_own = set(losses[losses.index(lowest) : -1]) == {lowest}  # no earlier one is open
    assert released == (cut if last_rise_is_a_bump_of_its_own else whole)


def test_a_rise_at_the_last_point_counts_and_the_released_rule_overlooks_it():
    losses = tensor([4, 3, 2, 1, 9])
    assert curves.minimum_delta(losses).item() == 8
    assert curves.minimum_delta_2021(losses).item() == 0
    assert curves.bumps(losses.tolist()) == [(3, 4, 8.0)]
    assert curves.bump_width(losses).item() == 0.25


def test_many_curves_are_read_like_single_ones():
    many = torch.randn(3, 4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for function in (
        curves.minimum_delta,
        curves.minimum_delta_2021,
        curves.bump_width,
        curves.greatest_step,
        curves.convex_share,
        curves.below_chord_share,
        curves.plateau_length,
    ):
        single = torch.stack([torch.stack([function(c) for c in row]) for row in many])
        torch.testing.assert_close(function(many), single, rtol=0, atol=0, equal_nan=True)


def test_a_missing_value_is_never_a_number():
    losses = tensor([[3.0, nan, 2.0, 1.0], [3.0, 2.0, 1.0, 0.0]])
    for function in (
        curves.minimum_delta,
        curves.minimum_delta_2021,
        curves.greatest_step,
        curves.plateau_length,
        curves.bump_width,
    ):
        found = function(losses)
        assert found[0].isnan(), function.__name__
        assert not found[1].isnan(), function.__name__


def test_there_is_one_threshold_and_it_is_the_published_one():
    assert MONOTONE == 1e-3
    assert math.pi / 2 == RIGHT_ANGLE


# --- widths, steps, convexity, plateaus -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "width"),
    [
        ([4, 3, 2, 1, 0], 0.0),
        ([2, 3, 1, 0, 0], 0.5),  # from 0 to the first value below the start
        ([2, 3, 1, 5, 0], 0.5),  # of the higher of the two
        ([1, 2, 3, 2, 1.5], 1.0),  # never below its start again
    ],
)
def test_the_width_is_that_of_the_highest_bump(losses, width):
    assert curves.bump_width(tensor(losses)).item() == width


@given(CURVES)
def test_the_greatest_step_never_exceeds_delta(losses):
    step = curves.greatest_step(tensor(losses)).item()
    assert step == max(b - a for a, b in pairwise(losses))
    assert step <= brute_force_delta(losses)


def test_convexity_of_known_curves():
    alphas = torch.linspace(0, 1, 17, dtype=torch.float64)  # dyadic, so a straight line is one also in binary
    square, root, straight = alphas**2, -(alphas**2), 3 - 2 * alphas
    assert curves.convex_share(torch.stack([square, root, straight])).tolist() == [1, 0, 1]
    assert curves.below_chord_share(torch.stack([square, root, straight])).tolist() == [1, 0, 1]
    bent = tensor([0, 1, 0, -1, 0])  # second differences -2, 0, 2
    assert curves.convex_share(bent).item() == pytest.approx(2 / 3)
    assert curves.below_chord_share(bent).item() == pytest.approx(2 / 3)


def test_the_chord_goes_to_the_last_value_not_to_the_second():
    losses = tensor([1.0, 0.9, 0.45, 0.2, 0.0])
    # chord to the last value: 0.75, 0.5, 0.25; on the line through the first two values all would lie below
    assert curves.below_chord_share(losses).item() == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("curve", "length"),
    [
        ([1, 1, 1, 1, 0], 0.75),
        ([1, 0.9, 0.9, 0.5, 0], 0.5),  # exactly a tenth lost still counts
        ([1, 0.8, 1, 1, 0], 0.0),  # once left, it is over
        ([1, 1.5, 0.95, 0, 0], 0.5),
        ([1, 0.5, 0.25, 0.1, 0], 0.0),
        ([10, 9.5, 9.5, 9.5, 5], 0.75),  # a tenth of the fall, not of the value
        ([1, 1, 1, 1, 1], nan),
        ([0, 1, 1, 1, 1], nan),
        ([1, 1, 1, 1, nan], nan),
        ([nan, 1, 1, 1, 0], nan),
        ([1, 1, nan, 1, 0], nan),
    ],
)
def test_plateau_of_known_curves(curve, length):
    assert curves.plateau_length(tensor(curve)).item() == pytest.approx(length, nan_ok=True)


@pytest.mark.parametrize("depth", [1, 2, 6])
def test_the_plateau_of_a_power_is_where_a_tenth_is_lost(depth):
    alphas = torch.linspace(0, 1, 2001, dtype=torch.float64)
    assert curves.plateau_length(1 - alphas**depth).item() == pytest.approx(0.1 ** (1 / depth), abs=1 / 2000)  # grid


def test_distances_are_euclidean_and_relative_to_the_start():
    start, end = tensor([[3.0, 4.0], [0.0, 2.0]]), tensor([[3.0, 4.0], [6.0, 10.0]])
    distance, relative = curves.distances(start, end)
    assert distance.tolist() == [0, 10]
    assert relative.tolist() == [0, 5]


def test_distances_of_a_run_that_blew_up_stay_finite():
    distance, _ = curves.distances(torch.ones(1, 2), torch.full((1, 2), 1e30))
    assert distance.item() == pytest.approx(math.sqrt(2) * 1e30, rel=1e-6)  # 1e30 in float32


# --- turning ----------------------------------------------------------------------------------------------------------


def arc(angle, points, dimension=2):
    t = torch.linspace(0, angle, points, dtype=torch.float64)
    path = torch.stack([t.cos(), t.sin()], -1)
    basis = torch.linalg.qr(torch.randn(dimension, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    return path if dimension == 2 else 3 * path @ basis.Q.mT + 7


def arc_derivatives(angle, points):
    t = torch.linspace(0, angle, points, dtype=torch.float64)
    v = angle * torch.stack([-t.sin(), t.cos()], -1)
    a = angle**2 * torch.stack([-t.cos(), -t.sin()], -1)
    return v[:, None], a[:, None]


@pytest.mark.parametrize("angle", [0.1, math.pi / 2, 3.0, 6.0])
@pytest.mark.parametrize("chords", [2, 5, 49])
def test_a_polygon_in_an_arc_turns_by_the_arcs_angle_less_one_chord(angle, chords):
    for dimension in (2, 10):  # rotation, scale and translation change nothing
        path = arc(angle, chords + 1, dimension)
        assert curves.turning(path).item() == pytest.approx(angle * (chords - 1) / chords, rel=1e-10)
    smooth, still = curves.gauss_length(*arc_derivatives(angle, chords + 1))
    assert smooth.item() == pytest.approx(angle, rel=1e-12)  # a constant rate is integrated exactly
    assert not still.item()


@pytest.mark.parametrize("angle", [1.0, math.pi - 0.01, math.pi + 0.2, 5.0])
def test_on_an_arc_the_distance_to_its_end_falls_iff_the_angle_is_at_most_pi(angle):
    to_end = curves.distance_to_end(arc(angle, 401))
    assert (curves.minimum_delta(to_end).item() > 1e-12) == (angle > math.pi)
    t = torch.linspace(0, angle, 401, dtype=torch.float64)
    # |z(t) - z(angle)| = 2 sin of half the angle between
    torch.testing.assert_close(to_end, 4 * ((angle - t) / 2).sin().square(), rtol=0, atol=1e-14)


def test_a_straight_line_turns_nowhere_at_any_speed():
    t = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None] ** 3
    path = tensor([[1.0, -2.0, 0.5]]) + t * tensor([[3.0, 1.0, -4.0]])
    assert curves.turning(path).item() < 1e-9  # differences as small as 1e-5
    assert curves.indicatrix_diameter(path).item() < 1e-7  # arccos near 1 halves the digits
    assert curves.certified(path)
    velocity = 3 * torch.linspace(0, 1, 50, dtype=torch.float64)[:, None, None] ** 2 * tensor([[3.0, 1.0, -4.0]])
    acceleration = 6 * torch.linspace(0, 1, 50, dtype=torch.float64)[:, None, None] * tensor([[3.0, 1.0, -4.0]])
    smooth, still = curves.gauss_length(velocity, acceleration)
    assert smooth.item() < 1e-5  # a difference of equal squares
    assert still.item()  # the velocity is zero at the start: flagged, and finite


def test_small_angles_keep_their_digits():
    assert curves.turning(tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 1e-9]])).item() == pytest.approx(1e-9, rel=1e-7)
    assert curves.turning(tensor([[0.0], [1.0], [0.0]])).item() == pytest.approx(math.pi, rel=1e-15)


def test_edges_of_length_zero_are_skipped():
    corner = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
    with_stops = [corner[0], corner[0], corner[1], corner[1], corner[1], corner[2], corner[3], corner[3]]
    assert curves.turning(tensor(with_stops)).item() == pytest.approx(math.pi, rel=1e-15)
    assert curves.turning(tensor(corner)).item() == pytest.approx(math.pi, rel=1e-15)
    assert curves.indicatrix_diameter(tensor(with_stops)).item() == pytest.approx(math.pi, rel=1e-15)


def test_a_path_that_stands_still_is_finite_everywhere():
    for dtype in (torch.float32, torch.float64):
        path = torch.ones(5, 3, dtype=dtype)
        assert curves.turning(path).item() == 0
        assert curves.indicatrix_diameter(path).item() == 0  # at most the turning
        assert curves.certified(path)
        assert curves.logit_linearity(path[None]).item() == 0
        smooth, still = curves.gauss_length(torch.zeros(5, 2, 3), torch.ones(5, 2, 3))
        assert smooth.tolist() == [0, 0]
        assert still.tolist() == [True, True]


def random_paths(count, points, dimension, seed, wildness):
    """Smooth curves: a straight line plus sines of random phase, many of them nearly straight."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.linspace(0, 1, points, dtype=torch.float64)
    waves = torch.arange(1, 5, dtype=torch.float64)
    size = wildness * torch.rand(count, 1, 4, dimension, dtype=torch.float64, generator=generator) / waves[:, None]
    phase = 2 * math.pi * torch.rand(count, 1, 4, dimension, dtype=torch.float64, generator=generator)
    curve = (size * torch.sin(math.pi * waves[:, None] * t[:, None, None] + phase)).sum(2)
    return curve + t[:, None] * torch.randn(count, 1, dimension, dtype=torch.float64, generator=generator)


def test_turning_does_not_fall_under_nested_refinement():
    path = random_paths(200, 197, 3, 0, 1.0)
    fine, middle, coarse = (curves.turning(path[:, ::step]) for step in (1, 2, 4))
    assert (fine >= middle - 1e-9).all()  # sums of 195 angles
    assert (middle >= coarse - 1e-9).all()


def test_the_indicatrix_is_no_wider_than_the_turning():
    for dimension in (2, 3, 10):
        path = random_paths(300, 50, dimension, dimension, 0.5)
        assert (curves.indicatrix_diameter(path) <= curves.turning(path) + 1e-7).all()  # arccos near 1


def test_the_greatest_angle_is_found_among_all_pairs_of_edges():
    path = random_paths(3, 9, 3, 1, 1.0)
    for one in path:
        edges = one.diff(dim=0)
        angles = [math.acos(max(-1.0, min(1.0, float(a @ b / (a.norm() * b.norm()))))) for a in edges for b in edges]
        assert curves.indicatrix_diameter(one).item() == pytest.approx(max(angles), abs=1e-7)  # arccos


def test_the_certificate_is_never_wrong_on_ten_thousand_random_curves():
    certified = rises = 0
    for i, wildness in enumerate((0.05, 0.2, 0.4, 0.6, 1.0)):
        paths = random_paths(2000, 40, (2, 3, 5, 10, 3)[i], i, wildness)
        delta = curves.minimum_delta(curves.distance_to_end(paths))
        narrow, gram = curves.indicatrix_diameter(paths) < RIGHT_ANGLE, curves.certified(paths)
        assert torch.equal(narrow, gram)  # the two forms of one condition; no angle here is within rounding of it
        assert (delta[narrow] == 0).all()
        assert (curves.turning(paths)[~narrow] >= RIGHT_ANGLE).all()
        certified, rises = certified + int(narrow.sum()), rises + int((delta > 0).sum())
    assert certified > 2000  # neither side of the condition is empty
    assert rises > 500


def test_the_gram_identity_of_squared_distances():
    path = random_paths(1, 50, 6, 2, 1.0)[0]
    to_end = curves.distance_to_end(path).tolist()
    edges = path.diff(dim=0)
    gram = (edges @ edges.mT).tolist()
    for i in range(49):
        fall = 2 * sum(gram[i][j] for j in range(i + 1, 49)) + gram[i][i]
        assert to_end[i] - to_end[i + 1] == pytest.approx(fall, abs=1e-12)


def test_all_examples_certified_certify_the_stacked_path():
    paths = random_paths(80, 30, 3, 3, 0.1)
    paths = paths[curves.certified(paths)]
    assert len(paths) > 40
    stacked = paths.transpose(0, 1).flatten(1)
    assert curves.certified(stacked)
    assert curves.indicatrix_diameter(stacked) <= curves.indicatrix_diameter(paths).max() + 1e-7  # arccos


def test_a_certificate_is_given_up_for_one_wide_angle_even_if_the_loss_falls():
    path = arc(2.5, 60)  # wider than pi/2, still monotone: sufficient, not necessary
    assert not curves.certified(path)
    assert curves.minimum_delta(curves.distance_to_end(path)).item() == 0


@pytest.mark.parametrize(("psi", "length"), [(1.0, 2.0), (2.0, 0.5), (2.8, 3.0)])
def test_two_straight_legs_turn_by_the_angle_between_them(psi, length):
    first = torch.linspace(-1, 0, 400, dtype=torch.float64)[:, None] * tensor([[1.0, 0.0]])
    second = torch.linspace(0, 1, 40001, dtype=torch.float64)[1:, None] * tensor(
        [[length * math.cos(psi), length * math.sin(psi)]]
    )
    path = torch.cat([first, second])
    assert curves.turning(path).item() == pytest.approx(psi, abs=1e-6)  # 40,000 edges
    assert curves.indicatrix_diameter(path[::100]).item() == pytest.approx(psi, abs=1e-7)
    c = length * math.cos(psi)
    expected = 0 if c >= 0 else c * c if c > -1 else -1 - 2 * c
    # the first leg's stationary point is met to within a 400th, quadratically
    assert curves.minimum_delta(curves.distance_to_end(path)).item() == pytest.approx(expected, abs=1e-5)


# --- the smooth estimator ---------------------------------------------------------------------------------------------


def test_the_smooth_length_is_that_of_the_unit_tangents_path():
    # z = (t, t²): the tangent's angle is atan 2t, so the length is atan 2
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    velocity = torch.stack([torch.ones_like(t), 2 * t], -1)[:, None]
    acceleration = torch.stack([torch.zeros_like(t), 2 * torch.ones_like(t)], -1)[:, None]
    smooth, _ = curves.gauss_length(velocity, acceleration)
    assert smooth.item() == pytest.approx(math.atan(2), abs=1e-6)  # trapezoid rule, step 1/2000
    path = torch.stack([t, t * t], -1)
    assert curves.turning(path).item() == pytest.approx(math.atan(2), abs=2e-3)  # a chord less, from below
    assert curves.turning(path).item() < math.atan(2)
    by_differences = (velocity[:, 0] / velocity[:, 0].norm(dim=-1, keepdim=True)).diff(dim=0).norm(dim=-1).sum()
    assert smooth.item() == pytest.approx(by_differences.item(), abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_lengths_do_not_depend_on_rotation_scale_place_or_clock(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    coefficients = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator)).Q

    def path(t):
        powers = torch.stack([t, t**2, t**3, t**4], -1)
        return powers @ coefficients

    t = torch.linspace(0, 1, 60, dtype=torch.float64)
    own = curves.turning(path(t)).item()
    # angles of edges as short as 1e-3
    assert curves.turning(scale * path(t) @ rotation + 5).item() == pytest.approx(own, abs=1e-9)

    def smooth(clock, speed, change):  # on t = clock(a), with the clock's first two derivatives
        u = clock
        first = torch.stack([torch.ones_like(u), 2 * u, 3 * u**2, 4 * u**3], -1) @ coefficients
        second = torch.stack([torch.zeros_like(u), torch.full_like(u, 2.0), 6 * u, 12 * u**2], -1) @ coefficients
        v = first * speed[:, None]
        a = second * speed[:, None] ** 2 + first * change[:, None]
        return curves.gauss_length(v[:, None], a[:, None])[0].item()

    a = torch.linspace(0, 1, 200001, dtype=torch.float64)
    plain = smooth(a, torch.ones_like(a), torch.zeros_like(a))
    other = smooth((a + a**2) / 2, (1 + 2 * a) / 2, torch.ones_like(a))
    assert plain == pytest.approx(other, rel=1e-3)  # trapezoid rule; a near-cusp turns within few steps
    assert own <= plain * 1.001 + 1e-9  # Milnor: inscribed polygons never turn more


# --- logit linearity --------------------------------------------------------------------------------------------------


def test_linearity_is_zero_on_chords_and_the_mean_square_of_what_sticks_out():
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    straight = torch.stack([t**2, 2 * t**2], -1)
    sine = torch.stack([t, 0.3 * torch.sin(math.pi * t)], -1)
    assert curves.logit_linearity(straight[None]).item() < 1e-25
    # the integral of 0.09 sin² is 0.045; a mean over two examples halves it
    assert curves.logit_linearity(sine[None]).item() == pytest.approx(0.045, rel=1e-6)
    assert curves.logit_linearity(torch.stack([straight, sine])).item() == pytest.approx(0.0225, rel=1e-6)
