"""The hypervolume of sets of outcomes: boxes, inclusion and exclusion, and what any measure of a union obeys."""

import numpy as np
import pytest

from lossatlas.composite.hypervolume import hypervolume


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_one_point_dominates_a_box(n):
    point = np.linspace(0.1, 0.7, n)
    assert hypervolume([point], np.ones(n)) == pytest.approx(np.prod(1 - point), rel=1e-12)


def test_two_and_three_boxes_by_inclusion_and_exclusion():
    generator = np.random.default_rng(0)
    reference = np.array([1.0, 2.0, 1.5, 1.0])
    for _ in range(20):
        a, b, c = generator.uniform(0, 1, (3, 4))

        def box(*corners):
            return np.prod(reference - np.max(corners, 0))  # boxes with a common upper corner meet in one

        assert hypervolume([a, b], reference) == pytest.approx(box(a) + box(b) - box(a, b), rel=1e-12)
        three = box(a) + box(b) + box(c) - box(a, b) - box(a, c) - box(b, c) + box(a, b, c)
        assert hypervolume([a, b, c], reference) == pytest.approx(three, rel=1e-12)


def test_a_staircase_in_the_plane():
    steps = [(0, 3), (1, 2), (2, 1), (3, 0)]
    assert hypervolume(steps, (4, 4)) == 4 * 1 + 3 * 1 + 2 * 1 + 1 * 1  # rows of the staircase, widest at the top


def test_order_repetition_and_dominated_points_do_not_matter_and_more_is_never_less():
    generator = np.random.default_rng(1)
    points, reference = generator.uniform(0, 1, (12, 3)), np.ones(3)
    whole = hypervolume(points, reference)
    assert hypervolume(generator.permutation(points), reference) == pytest.approx(whole, rel=1e-12)
    assert hypervolume([*points, points[0]], reference) == pytest.approx(whole, rel=1e-12)
    assert hypervolume([*points, (points[0] + 1) / 2], reference) == pytest.approx(whole, rel=1e-12)
    grown = [hypervolume(points[:m], reference) for m in range(13)]
    assert (np.diff(grown) >= -1e-12).all()  # rounding of sums of a hundred slices
    assert grown[0] == 0
    assert hypervolume(points * 2, 2 * reference) == pytest.approx(8 * whole, rel=1e-12)
    assert hypervolume([*(points - [1e-3, 0, 0])], reference) > whole


def test_four_objectives_against_a_sampled_volume():
    generator = np.random.default_rng(2)
    points = generator.uniform(0, 1, (8, 4))
    samples = generator.uniform(0, 1, (100_000, 4))
    share = (samples[:, None] >= points).all(2).any(1).mean()
    error = np.sqrt(share * (1 - share) / len(samples))
    assert abs(hypervolume(points, np.ones(4)) - share) < 4 * error  # four standard errors


def test_what_does_not_reach_the_reference_or_is_not_finite_dominates_nothing():
    assert hypervolume([(0.5, 1.0), (2, 0), (np.nan, 0), (-np.inf, 0)], (1, 1)) == 0
    assert hypervolume(np.empty((0, 2)), (1, 1)) == 0
    assert hypervolume([(0.5, 0.5), (np.nan, 0)], (1, 1)) == 0.25
