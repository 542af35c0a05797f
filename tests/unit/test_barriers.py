"""Every convention on paths whose numbers are known by hand, and the maximum on paths where a grid misses it."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from lossatlas import barriers
from lossatlas.barriers import COLUMNS, QUANTITIES, Profile, measure, summary
from lossatlas.errors import LossAtlasError
from lossatlas.problems.architectures import mlp
from lossatlas.problems.network import NetworkProblem, exact_moments, initial
from lossatlas.symmetry import permuted, rescaled, swapped_through


def profile_of(values, positions=None, steps=None, distance=1.0):
    positions = torch.linspace(0, 1, len(values), dtype=torch.float64) if positions is None else positions
    steps = torch.full((len(values) - 1,), 1.0, dtype=torch.float64) if steps is None else steps
    v = torch.tensor(values, dtype=torch.float64)
    return Profile(positions, steps, torch.ones(len(v), dtype=torch.bool), dict.fromkeys(QUANTITIES, v), distance, 0.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def problem_of(module, inputs=6, n=40, classes=3):
    x = torch.randn(n, inputs, generator=generator(), dtype=torch.float64)
    return NetworkProblem(module.double(), x, torch.randint(classes, (n,), generator=generator(1)))


def segment(a, b):
    return lambda t: torch.lerp(a, b, t[:, None].to(a.dtype))


GRID = torch.linspace(0, 1, 11, dtype=torch.float64)


def test_every_convention_on_a_path_read_by_hand():
    """Values 1, 4, 2, 3 at arc lengths 0, 1, 3, 4 of 4: a line of ends 1 -> 3."""
    steps = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    found = summary(profile_of([1.0, 4.0, 2.0, 3.0], steps=steps, distance=2.0))
    expected = {
        "start": 1,
        "end": 3,
        "lowest": 1,
        "saddle": 4,
        "at_saddle": 4,
        "over_ends": 1,
        "over_line": 4 - (1 + 2 * 0.25),
        "over_mean": 2,
        "average": 2.5,
        "integral": (2.5 * 1 + 3 * 2 + 2.5 * 1) / 4,
    }
    for name, value in expected.items():
        assert found[f"test_error_{name}"] == value, name
    assert found["length"] == 4
    assert found["length_ratio"] == 2
    assert found["saddle_position"] == 0.25


def test_each_quantity_has_its_own_maximum_and_its_value_at_the_train_saddle():
    profile = profile_of([0.0, 1.0, 0.0])
    profile.values["test_error"] = torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64)
    found = summary(profile)
    assert found["test_error_saddle"] == 0.5
    assert found["test_error_at_saddle"] == 0.2


def test_every_column_is_defined_and_nothing_else_is():
    assert set(summary(profile_of([0.0, 1.0, 0.0]))) == set(COLUMNS)
    assert all(text.strip() for text in COLUMNS.values())


def test_equal_ends_give_one_barrier_by_three_conventions_and_a_constant_gives_zero():
    found = summary(profile_of([2.0, 5.0, 3.0, 2.0]))
    assert found["train_loss_over_ends"] == found["train_loss_over_line"] == found["train_loss_over_mean"] == 3
    flat = summary(profile_of([0.7] * 5))
    assert all(flat[f"{q}_{c}"] == 0 for q in QUANTITIES for c in ("over_ends", "over_line", "over_mean"))


def test_a_path_that_is_below_its_line_has_the_barrier_zero_at_its_ends():
    """A convex loss: L(s) <= (1 - s) L_A + s L_B, so the greatest excess is the ends' own zero."""
    found = summary(profile_of([4.0, 1.0, 0.0, 1.0, 4.0]))
    assert found["train_loss_over_line"] == 0
    assert found["train_loss_saddle"] == 4


def parabola(height=1.0, centre=0.3172, width=1.0):
    """A problem with loss h max(0, 1 - ((theta_0 - c) / w)²): its maximum is h at c, wherever the grid lies."""

    class Bump(nn.Module):
        def __init__(self):
            super().__init__()
            self.theta = nn.Parameter(torch.zeros(2))

        def forward(self, x):
            rise = height * (1 - ((self.theta[0] - centre) / width).square()).clamp_min(0)
            return rise.sqrt() * torch.ones_like(x)

    return NetworkProblem(Bump(), torch.zeros(4, 1), torch.zeros(4, 1), "squared_error")


@pytest.mark.parametrize("width", [0.3, 0.06])
def test_the_maximum_between_grid_points_is_found_to_the_stated_tolerance(width):
    problem = parabola(width=width)
    path = segment(torch.zeros(2), torch.ones(2))
    coarse = float(problem(path(GRID)).max())
    profile = measure(path, GRID, problem, problem)
    found = summary(profile)
    assert coarse < 1 - barriers.TOLERANCE
    assert found["train_loss_saddle"] == pytest.approx(1, abs=2 * barriers.TOLERANCE)
    assert found["train_loss_saddle"] <= 1 + 1e-6  # a grid maximum is a lower bound
    assert found["saddle_change"] <= barriers.TOLERANCE
    assert found["saddle_position"] == pytest.approx(0.3172, abs=width * 0.05)
    assert int(profile.regular.sum()) == len(GRID)
    assert found["points"] == len(profile.positions) > len(GRID)


def test_the_test_losses_own_maximum_is_refined_as_well():
    train, test = parabola(centre=0.3172), parabola(height=2.0, centre=0.7718, width=0.06)
    found = summary(measure(segment(torch.zeros(2), torch.ones(2)), GRID, train, test))
    assert found["train_loss_saddle"] == pytest.approx(1, abs=2e-3)
    assert found["test_loss_saddle"] == pytest.approx(2, abs=4e-3)
    assert found["test_loss_at_saddle"] == pytest.approx(0, abs=1e-6)


def test_lengths_and_arc_length_are_those_of_the_path():
    problem = problem_of(mlp((6, 4, 3)))
    pivots = torch.randn(4, problem.dim, generator=generator(2), dtype=torch.float64)

    def polyline(positions):
        left = positions.floor().clamp_max(2).long()
        return torch.lerp(pivots[left], pivots[left + 1], (positions - left)[:, None])

    profile = measure(polyline, torch.linspace(0, 3, 31, dtype=torch.float64), problem, problem)
    lengths = pivots.diff(dim=0).norm(dim=-1)
    found = summary(profile)
    assert found["length"] == pytest.approx(float(lengths.sum()), rel=1e-12)
    assert found["distance"] == pytest.approx(float((pivots[3] - pivots[0]).norm()), rel=1e-12)
    at_pivots = torch.stack([profile.arc[int((profile.positions - i).abs().argmin())] for i in range(4)])
    expected = torch.cat([torch.zeros(1, dtype=torch.float64), lengths.cumsum(0)]) / lengths.sum()
    torch.testing.assert_close(at_pivots, expected, rtol=1e-9, atol=1e-12)


def test_a_network_with_itself_has_no_length_and_no_barrier_and_no_nan():
    problem = problem_of(mlp((6, 8, 3)))
    theta = torch.randn(problem.dim, generator=generator(), dtype=torch.float64)
    found = summary(measure(segment(theta, theta), GRID, problem, problem))
    assert found["length"] == found["distance"] == 0
    assert found["length_ratio"] == 1
    assert not any(math.isnan(float(value)) for value in found.values())
    assert all(found[f"{q}_{c}"] == 0 for q in QUANTITIES for c in ("over_ends", "over_line", "over_mean"))


def test_means_agree_with_one_network_after_another_also_with_batch_statistics():
    for module in (mlp((6, 8, 3)), mlp((6, 8, 3), batch_norm=True)):
        problem = problem_of(module)
        held_out = replace(problem, x=problem.x[:7], y=problem.y[:7])
        if problem.normalised:
            held_out = replace(held_out, moments=exact_moments(problem))
        theta = torch.randn(11, problem.dim, generator=generator(), dtype=torch.float64)
        for p in (problem, held_out):
            loss, error = barriers.means(p, theta)
            torch.testing.assert_close(loss, p(theta), rtol=1e-12, atol=0)
            wrong = p.logits(theta).argmax(-1) != p.y
            torch.testing.assert_close(error, wrong.double().mean(-1))


def test_batch_statistics_that_training_rows_met_on_a_path_serve_the_test_rows():
    problem = problem_of(mlp((6, 8, 3), batch_norm=True))
    held_out = replace(problem, x=problem.x[:7] + 1, y=problem.y[:7], moments=exact_moments(problem))
    ends = torch.randn(2, problem.dim, generator=generator(), dtype=torch.float64)
    profile = measure(segment(*ends), GRID, problem, held_out)
    loss, error = barriers.means(held_out, segment(*ends)(profile.positions))
    torch.testing.assert_close(profile.values["test_loss"], loss, rtol=1e-12, atol=0)  # rounding of float64
    torch.testing.assert_close(profile.values["test_error"], error)


def test_a_loss_that_is_not_finite_on_the_path_is_recorded():
    problem = problem_of(mlp((6, 4, 3)))
    ends = torch.stack([torch.zeros(problem.dim), torch.full((problem.dim,), 1e20)])
    problem = problem.to(dtype=torch.float32)  # whose logits overflow
    found = summary(measure(segment(*ends), GRID, problem, problem))
    assert found["finite"] is False


def test_the_barrier_does_not_depend_on_the_direction():
    problem = problem_of(mlp((6, 8, 3)))
    a, b = torch.randn(2, problem.dim, generator=generator(), dtype=torch.float64)
    there, back = (summary(measure(segment(*ends), GRID, problem, problem)) for ends in ((a, b), (b, a)))
    for name in ("saddle", "over_ends", "over_line", "over_mean", "integral"):
        assert there[f"train_loss_{name}"] == pytest.approx(back[f"train_loss_{name}"], rel=1e-9)
    assert there["train_loss_start"] == pytest.approx(back["train_loss_end"])


# --- networks whose true barrier is known -----------------------------------------------------------------------------


def test_units_are_exchanged_through_a_dead_one_without_any_change_of_the_function():
    problem = problem_of(mlp((6, 5, 3)))
    theta = initial(lambda: mlp((6, 5, 3)), [0]).double()[0]
    problem.layout.split(theta)["3.weight"][:, 4] = 0
    path = swapped_through(problem, theta, 0, (0, 2), 4)
    assert path.shape == (8, problem.dim)
    logits = problem.logits(theta[None])
    for a, b in pairwise(path):
        between = torch.lerp(a, b, torch.linspace(0, 1, 5, dtype=torch.float64)[:, None])
        # constant at every point: sums of five products in another order
        torch.testing.assert_close(problem.logits(between), logits.expand(5, -1, -1), rtol=0, atol=1e-14)
    assert torch.equal(path[0], theta)
    start, end = problem.layout.split(path[0]), problem.layout.split(path[-1])
    order = [2, 1, 0, 3, 4]
    assert torch.equal(end["1.weight"], start["1.weight"][order])
    assert torch.equal(end["1.bias"], start["1.bias"][order])
    assert torch.equal(end["3.weight"], start["3.weight"][:, order])
    half_way = problem.logits(torch.lerp(path[:1], path[-1:], 0.5))
    assert (half_way - logits).abs().max() > 0.01  # the straight segment does change it


def test_a_unit_that_is_not_dead_cannot_lend_its_place():
    problem = problem_of(mlp((6, 5, 3)))
    theta = initial(lambda: mlp((6, 5, 3)), [0]).double()[0]
    with pytest.raises(LossAtlasError, match="without outgoing weight"):
        swapped_through(problem, theta, 0, (0, 2), 4)


def test_between_a_relu_network_and_its_rescaled_copy_the_output_grows_by_a_known_factor():
    """On the segment: times 1 + a (1 - a) (s + 1/s - 2), less the last bias; along s the loss is constant."""
    problem = problem_of(mlp((6, 8, 3)))
    theta = initial(lambda: mlp((6, 8, 3)), [1]).double()
    theta[:, -3:] = 0  # no last bias
    s = torch.tensor([5.0], dtype=torch.float64)
    far = rescaled(problem, theta, s)
    a = torch.linspace(0, 1, 9, dtype=torch.float64)
    growth = 1 + a * (1 - a) * (s + 1 / s - 2)
    found = problem.logits(torch.lerp(theta, far, a[:, None]))
    torch.testing.assert_close(found, growth[:, None, None] * problem.logits(theta))
    along = torch.cat([rescaled(problem, theta, 5.0 ** x[None]) for x in a])
    torch.testing.assert_close(problem(along), problem(theta).expand(9), rtol=1e-12, atol=0)


def test_a_permuted_copy_is_as_good_at_both_ends_and_worse_between_them():
    problem = problem_of(mlp((6, 16, 3)))
    theta = torch.randn(1, problem.dim, generator=generator(), dtype=torch.float64)
    copy = permuted(problem, theta, [generator(3)])
    found = summary(measure(segment(theta[0], copy[0]), GRID, problem, problem))
    assert found["train_loss_start"] == pytest.approx(found["train_loss_end"], rel=1e-12)
    assert found["length_ratio"] == pytest.approx(1)
