import math

import pytest
import torch

from lossatlas import theory
from lossatlas.composite import PowerWeighting, combine, gramian
from lossatlas.composite.failure_modes import (
    Outcome,
    Window,
    classify,
    displacement_exponent,
    goal_correlation,
    obnoxious,
)
from lossatlas.errors import LossAtlasError


def watched(path):
    """The outcome of one path (T, d) that did not succeed."""
    path = torch.as_tensor(path, dtype=torch.float64)
    window = Window.opened(path[0])
    for position in path[1:]:
        window = window.extended(position)
    return Outcome(int(classify(window, torch.tensor(False))))


T = torch.linspace(0, 6 * math.pi, 400, dtype=torch.float64)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (torch.zeros(50, 2), Outcome.STUCK),
        (0.03 * torch.stack([(-1.0) ** torch.arange(50), torch.zeros(50)], 1), Outcome.STUCK),  # chatter
        (torch.stack([T.cos(), T.sin()], 1), Outcome.CYCLING),
        (torch.stack([(-1.0) ** torch.arange(51), torch.zeros(51)], 1), Outcome.CYCLING),  # hops between two places
        (torch.stack([T, T.sin()], 1), Outcome.WANDERING),
        (torch.stack([0.3 * T.cos() + T, T.sin()], 1), Outcome.WANDERING),
    ],
    ids=["rest", "chatter", "circle", "hops", "march", "drifting circle"],
)
def test_paths_of_known_kind(path, expected):
    assert watched(path) == expected


def test_success_is_not_a_failure():
    window = Window.opened(torch.zeros(3, 2)).extended(torch.ones(3, 2))
    assert classify(window, torch.tensor([True, False, True])).tolist() == [0, 3, 0]


def descend(slopes, q, x, step, steps):
    """Weighted descent in 1-D: slopes(x) gives (..., n)."""
    for _ in range(steps):
        g = slopes(x)[..., None]
        x = x - step * combine(PowerWeighting(q)(gramian(g)), g)[..., 0]
    return x


@pytest.mark.parametrize("q", [-0.5, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("steepness", [1.5, 2.5])
def test_the_critical_team_size_is_exact(q, steepness):
    """One member sits in a hole with walls of slope G, the others pull with slope 1 towards 0: escape iff n > n*."""
    critical = theory.critical_team(q, steepness)
    for n in (math.floor(critical), math.floor(critical) + 1):
        if n < 2 or critical == n:
            continue

        def slopes(x, n=n):
            hole = torch.where((x - 5).abs() < 1, steepness * ((x - 5) / 0.5).clamp(-1, 1), 1.0)
            return torch.stack([hole, *[torch.ones_like(x)] * (n - 1)], -1)

        end = descend(slopes, q, torch.tensor([5.2], dtype=torch.float64), 0.04, 1200)
        assert (float(end) < 3.9) == (n > critical), (n, critical)


def test_the_obnoxious_member_is_seen_where_it_holds_the_team():
    """Three members pull left, one is in its hole and pulls right just as hard: it has half of all pull."""
    held = torch.tensor([[[-3.0], [1.0], [1.0], [1.0]]])
    to_goal = torch.tensor([[-4.0]])
    even = torch.full((1, 4), 0.25)
    assert obnoxious(even, held, to_goal).all()
    assert not obnoxious(even, torch.tensor([[[1.0], [1.0], [1.0], [1.0]]]), to_goal).any()
    assert not obnoxious(even, -held, to_goal).any()  # the strong member pulls towards the goal
    assert not obnoxious(torch.ones(1, 1), held[:, :1], to_goal).any()
    assert not obnoxious(torch.full((1, 2), 0.5), torch.tensor([[[-1.0], [1.0]]]), to_goal).any()  # always half each


def test_sliding_chatter_has_an_amplitude_of_at_most_two_steps():
    """L1' = -2 | -1, L2' = 1 | 2 left and right of 0: neither rests there, the largest gradient does."""

    def slopes(x):
        return torch.stack([torch.where(x < 0, -2.0, -1.0), torch.where(x < 0, 1.0, 2.0)], -1)

    x = torch.tensor([0.7, -1.3, 2.0], dtype=torch.float64)
    x = descend(slopes, math.inf, x, 0.01, 200)
    for _ in range(20):
        assert (x.abs() <= 2 * 0.01 * 2).all()
        x = descend(slopes, math.inf, x, 0.01, 1)
    away = descend(slopes, 0.0, torch.tensor([0.7]).double(), 0.01, 50)
    assert float((away - 0.7).abs()) > 0.2 or float(away) < 0.7  # the plain sum does not rest at 0.7 either


def test_desert_success_is_bounded_by_the_basin():
    """L_i = 1 - cos(k_i x): from starts in [-X, X] no weighting ends at 0 from beyond 0's basin, whatever n."""
    k = torch.tensor([1.0, math.sqrt(2), math.sqrt(3), math.sqrt(5)], dtype=torch.float64)
    x = torch.linspace(-300, 300, 201, dtype=torch.float64)
    for n in (4,):
        for q in (0.0, 1.0):

            def slopes(x, n=n):
                return k[:n] * (k[:n] * x[..., None]).sin()

            near = torch.linspace(0.01, 12, 1200, dtype=torch.float64)
            v = combine(PowerWeighting(q)(gramian(slopes(near)[..., None])), slopes(near)[..., None])[..., 0]
            half_width = float(near[(v <= 0).nonzero()[0, 0]])  # the first zero of the composite beyond 0
            share = float((descend(slopes, q, x, 0.03, 1500).abs() < 0.05).double().mean())
            assert share <= half_width / 300 + 1 / 201  # one start of the grid


def test_exponents_of_known_motions():
    steps = torch.randn(200, 3000, 2, generator=torch.Generator().manual_seed(0))
    walk = torch.cat([torch.zeros(1, 3000, 2), steps.cumsum(0)])
    assert float(displacement_exponent(walk)) == pytest.approx(1.0, abs=0.05)  # sampling error of 3000 walks
    march = torch.arange(50.0)[:, None, None] * torch.ones(4, 2)
    assert float(displacement_exponent(march)) == pytest.approx(2.0, abs=1e-9)
    with pytest.raises(LossAtlasError, match="2 positions have no exponent"):
        displacement_exponent(march[:2])


def test_correlation_with_the_distance():
    distance = torch.rand(3, 500, generator=torch.Generator().manual_seed(0))
    assert goal_correlation(2 * distance + 1, distance) == pytest.approx(torch.ones(3), abs=1e-5)
    noise = torch.randn(3, 500, generator=torch.Generator().manual_seed(1))
    assert (goal_correlation(noise, distance).abs() < 4 / math.sqrt(500)).all()
