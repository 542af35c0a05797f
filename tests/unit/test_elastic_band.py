"""The geometry of paths, tangents, and bands on surfaces whose answer is known."""

import math
from itertools import pairwise

import pytest
import torch

from lossatlas import elastic_band as eb
from lossatlas.elastic_band.band import seen, slopes_of
from lossatlas.elastic_band.step import Forces, Frame
from lossatlas.errors import LossAtlasError
from lossatlas.problems import CurvyValley, DoubleWell, MuellerBrown, Quadratic, Ring
from lossatlas.problems.architectures import mlp
from lossatlas.problems.network import NetworkProblem, initial

F64 = torch.float64


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def bent(pivots=9, dim=5, seed=0):
    """A smooth path with unequal gaps."""
    t = torch.linspace(0, 1, pivots, dtype=F64)[:, None] ** 1.5
    a, b, c = noise(3, dim, seed=seed)
    return a + t * b + (math.pi * t).sin() * c


def point(*values):
    return torch.tensor(values, dtype=F64)


# --- points, lengths, spacing ---------------------------------------------------------------------------------------


def test_points_at_whole_positions_are_the_pivots_bit_by_bit():
    path = bent().float()
    assert torch.equal(eb.points(path, torch.arange(9.0)), path)
    halfway = eb.points(path, torch.tensor([2.25]))[0]
    torch.testing.assert_close(halfway, 0.75 * path[2] + 0.25 * path[3])


def test_arc_length_is_the_share_of_the_length_behind_a_position():
    path = bent()
    d = (path[1:] - path[:-1]).norm(dim=-1)
    expected = torch.stack([torch.zeros((), dtype=F64), (d[0] + 0.5 * d[1]) / d.sum(), torch.ones((), dtype=F64)])
    torch.testing.assert_close(eb.arc_length(path, torch.tensor([0.0, 1.5, 8.0])), expected)
    assert eb.arc_length(path[:1].expand(4, -1), torch.arange(4.0)).tolist() == [0] * 4


def test_redistribution_of_a_straight_line_is_exact_and_then_changes_nothing():
    uneven = torch.lerp(point(0, 1), point(3, -2), point(0, 0.05, 0.5, 0.6, 1.0)[:, None])
    weights = point(0.1, 0.2, 0.3, 0.4)
    spaced = eb.redistribute(uneven, weights, passes=1)
    shares = eb.segment_lengths(spaced) / eb.segment_lengths(spaced).sum()
    torch.testing.assert_close(shares, weights, rtol=1e-12, atol=0)
    torch.testing.assert_close(eb.redistribute(spaced, weights), spaced, rtol=1e-12, atol=1e-12)


def test_one_pass_puts_pivots_on_the_old_polyline_at_their_share_of_its_arc():
    path, weights = bent(), torch.softmax(noise(8), 0)
    moved = eb.redistribute(path, weights, passes=1)
    fine = torch.linspace(0, 8, 800_001, dtype=F64)
    reached = eb.arc_length(path, fine)
    for i, share in enumerate(weights.cumsum(0)[:-1], start=1):
        nearest = eb.points(path, fine[(reached - share).abs().argmin()][None])[0]
        assert (moved[i] - nearest).norm() < 1e-4  # the step of the fine grid is 1e-5 of a gap of length about 1


@pytest.mark.parametrize("seed", range(5))
def test_redistribution_spaces_keeps_the_ends_and_never_lengthens(seed):
    path, weights = bent(seed=seed).float(), torch.softmax(noise(8, seed=seed), 0)
    moved = eb.redistribute(path, weights)
    assert eb.spacing_error(moved, weights) < 1e-3
    assert torch.equal(moved[[0, -1]], path[[0, -1]])
    assert eb.segment_lengths(moved).sum() <= eb.segment_lengths(path).sum() * (1 + 1e-6)  # float32


def test_a_pivot_that_coincides_with_an_end_is_spaced_again():
    for seed in range(100):
        path = noise(6, 3, seed=seed).abs().cumsum(0)  # turns by less than a right angle
        for together in (0, 4):
            start = path.clone()
            start[together + 1] = start[together]
            assert eb.spacing_error(eb.redistribute(start)) < 1e-3  # what `redistribute` promises
    same = path[:1].repeat(5, 1)  # and on a path without length nothing moves
    assert torch.equal(eb.redistribute(same), same)


def test_a_path_that_is_not_finite_is_not_spaced():
    path = bent()
    path[3, 0] = math.inf
    assert eb.redistribute(path, passes=1)[1:-1].isnan().all()


def test_an_anchor_stays_and_both_sides_are_spaced():
    path = bent()
    moved = eb.redistribute(path, anchor=3)
    torch.testing.assert_close(moved[3], path[3], rtol=1e-12, atol=1e-12)
    assert eb.spacing_error(moved[:4]) < 1e-3
    assert eb.spacing_error(moved[3:]) < 1e-3


def test_resampling_a_polyline_of_more_pivots_keeps_it():
    path = bent(5)
    resampled = eb.resample(path, 401)
    gap = torch.cdist(path, resampled).amin(1).max()
    assert gap <= eb.segment_lengths(path).sum() / 400  # each old pivot is at most one new gap away
    assert eb.spacing_error(resampled) < 1e-3


def test_paths_are_joined_at_equal_ends_only():
    first, second = bent(4), bent(5, seed=1)
    second = torch.cat([first[-1:], second])
    assert len(eb.concatenate([first, second])) == 9
    with pytest.raises(LossAtlasError, match="does not end where"):
        eb.concatenate([first, second.flip(0)])


# --- tangents -------------------------------------------------------------------------------------------------------


def improved_tangents(path, losses):
    """Henkelman and Jónsson's equations 8 to 11, pivot by pivot."""
    rows = []
    for i in range(1, len(path) - 1):
        forth, back = path[i + 1] - path[i], path[i] - path[i - 1]
        before, at, after = losses[i - 1 : i + 2].tolist()
        if after > at > before:
            tangent = forth
        elif after < at < before:
            tangent = back
        else:
            large, small = sorted([abs(after - at), abs(before - at)], reverse=True)
            tangent = forth * large + back * small if after > before else forth * small + back * large
        rows.append(tangent / tangent.norm())
    return torch.stack(rows)


@pytest.mark.parametrize("seed", range(4))
def test_tangents_are_those_of_henkelman_and_jonsson(seed):
    path, losses = bent(30, seed=seed), noise(30, seed=seed + 10)
    torch.testing.assert_close(eb.tangents(path, losses), improved_tangents(path, losses), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rule", ["henkelman", "draxler2019", "bisector"])
def test_tangents_have_unit_length_do_not_see_units_of_loss_and_turn_with_the_path(rule):
    path, losses = bent(30), noise(30)
    found = eb.tangents(path, losses, rule)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(28, dtype=F64))
    torch.testing.assert_close(eb.tangents(path, 3 * losses - 5, rule), found)
    torch.testing.assert_close(eb.tangents(path.flip(0), losses.flip(0), rule), -found.flip(0))


def at_a_peak(rule):
    """Cosines of the tangent at a peak with the differences to the lower and to the higher neighbour, equally far."""
    path = point(-1, 0, 0, 0, 0, 1).view(3, 2)
    tangent = eb.tangents(path, point(0.0, 1.0, 0.8), rule)[0]
    return (tangent @ (path[1] - path[0])).item(), (tangent @ (path[2] - path[1])).item()


def test_at_an_extremum_the_tangent_leans_to_the_higher_neighbour_and_the_released_ones_do_not():
    low, high = at_a_peak("henkelman")
    assert high > low
    for rule in ("draxler2019", "draxler2018"):
        low, high = at_a_peak(rule)
        assert high < low


def test_the_released_tangent_of_2018_is_not_of_unit_length_at_an_extremum():
    path = point(-1, 0, 0, 0, 1, 0).view(3, 2)
    # M = 1, m = 0.2: M' = 1 / 1.2, m' = 0.2 / (0.2 + M'), and both differences are the unit vector (1, 0)
    large = 1 / 1.2
    expected = large + 0.2 / (0.2 + large)
    found = eb.tangents(path, point(0.0, 1.0, 0.8), "draxler2018").norm().item()
    assert found == pytest.approx(expected, rel=1e-12)
    assert abs(found - 1) > 0.01


def test_equal_losses_give_the_bisecting_tangent_and_coinciding_pivots_none():
    path = bent(3)
    flat = eb.tangents(path, torch.zeros(3, dtype=F64))[0]
    torch.testing.assert_close(flat, (path[2] - path[0]) / (path[2] - path[0]).norm())
    assert eb.tangents(path[:1].expand(3, -1), torch.zeros(3, dtype=F64)).abs().max() == 0


@pytest.mark.parametrize("rule", ["henkelman", "draxler2019", "bisector"])
def test_a_path_that_turns_straight_back_has_no_tangent(rule):
    there = bent(2, 50).float()
    back = torch.stack([there[0], there[1], torch.nextafter(there[0], there[1])])
    assert eb.tangents(back, torch.tensor([0.0, 1.0, 0.0]), rule).abs().max() == 0


def test_a_band_of_pivots_that_coincide_stays_whole():
    path = noise(1, 6).float().repeat(5, 1)
    band = eb.neb(Quadratic(torch.eye(6)), path, steps=60, learning_rate=0.01, weight_decay=0.1)
    assert band.outcome == "ok"


def test_a_path_without_inner_pivots_has_no_tangents():
    assert eb.tangents(torch.eye(2, 4), torch.ones(2)).shape == (0, 4)


def test_an_unknown_rule_is_named():
    with pytest.raises(LossAtlasError, match="tangent rule 'left' is unknown"):
        eb.tangents(bent(), noise(9), "left")


# --- forces ---------------------------------------------------------------------------------------------------------


def forces(path, losses, gradient, arm=eb.CORRECTED, shares=None, **how):
    """Minus the forces (m, P) on the moving pivots of a path (N, P), and the losses that the tangents are made of."""
    frame = Frame(path[None], Forces(arm, **how))
    frame.gradient[0] = gradient
    gaps = len(path) - 1
    (losses,) = frame.nudge(losses[None], [shares or [1 / gaps] * gaps])
    return (frame.pull.to(path) @ frame.rows)[0], losses


def test_the_projected_gradient_is_across_the_path():
    path, losses = bent(9, 50), noise(9)
    gradient = noise(7, 50, seed=3)
    across, _ = forces(path, losses, gradient)
    tangents = eb.tangents(path, losses)
    assert ((across * tangents).sum(-1)).abs().max() < 1e-12 * gradient.norm()
    rest = gradient - across  # and only what lies along the tangent was taken out
    torch.testing.assert_close(rest, (rest * tangents).sum(-1, keepdim=True) * tangents, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("last_end", ["fixed", "moves"])
@pytest.mark.parametrize("rule", ["henkelman", "draxler2019"])
def test_the_penalty_is_projected_with_the_gradient(rule, last_end):
    arm = eb.Arm(tangent=rule, last_end=last_end)
    path, losses = 3 + bent(9, 50), noise(9)
    gradient = noise(8 if last_end == "moves" else 7, 50, seed=3)
    penalised = losses + 0.5 * 0.3 * path.square().sum(-1)
    across, levels = forces(path, losses, gradient, arm, weight_decay=0.3)
    torch.testing.assert_close(point(*levels), penalised, rtol=1e-12, atol=0)  # float64, norms summed gap by gap
    expected, tangents = gradient + 0.3 * path[1 : 1 + len(gradient)], eb.tangents(path, penalised, rule)
    expected[:7] -= (expected[:7] * tangents).sum(-1, keepdim=True) * tangents  # a moving end has no tangent
    # float64: products of 50 coordinates, divided by differences of losses that may be near each other
    torch.testing.assert_close(across, expected, rtol=1e-10, atol=1e-10)


def test_pivots_that_lie_close_lose_no_digits():
    path, gradient = 3 + bent(9, 50), noise(7, 50, seed=3)
    path = path[0] + 1e-3 * (path - path[0])  # gaps are some 1e-4 of the pivots' norms
    exact, _ = forces(path, noise(9), gradient, weight_decay=0.3)
    single, _ = forces(path.float(), noise(9).float(), gradient.float(), weight_decay=0.3)
    # float32 gaps, and so tangents, are right to 1e-7 / 1e-4; products of pivots do not hold a digit of them
    assert (single - exact).norm() < 1e-3 * exact.norm()


@pytest.mark.parametrize("spring", [math.inf, 2.0], ids=["redistributed", "springs"])
def test_the_highest_pivot_climbs_and_feels_no_spring(spring):
    path, losses, gradient = bent(5, 20), point(0, 1, 3, 2, 0), noise(3, 20, seed=3)
    nudged, _ = forces(path, losses, gradient, spring=spring)
    climbing, _ = forces(path, losses, gradient, climbing=True, spring=spring)
    torch.testing.assert_close(climbing[[0, 2]], nudged[[0, 2]])
    tangent = eb.tangents(path, losses)[1]
    # its force along the path is turned round
    torch.testing.assert_close(climbing[1], gradient[1] - 2 * (gradient[1] @ tangent) * tangent)


def test_springs_pull_along_the_path_towards_the_longer_gap():
    path = torch.lerp(point(0, 0), point(1, 0), point(0, 0.1, 0.3, 1.0)[:, None])
    found, _ = forces(path, point(0, 1, 2, 3), torch.zeros(2, 2, dtype=F64), spring=5.0)
    # k (d_{i+1} - d_i) along the path, as a force: minus the gradient
    torch.testing.assert_close(-found, point(5 * (0.2 - 0.1), 0, 5 * (0.7 - 0.2), 0).view(2, 2))


def test_springs_are_at_rest_where_gaps_have_their_shares():
    path = torch.lerp(point(0, 0), point(1, 0), point(0, 0.1, 0.3, 1.0)[:, None])
    found, _ = forces(path, point(0, 1, 2, 3), torch.zeros(2, 2, dtype=F64), shares=[0.1, 0.2, 0.7], spring=5.0)
    assert found.abs().max() < 1e-12  # lengths of order 1 in float64


def test_mechanical_springs_and_gradients_act_in_full():
    path, gradient = bent(5, 20), noise(3, 20)
    found, _ = forces(path, noise(5), gradient, eb.Arm(force="mechanical"), spring=5.0)
    torch.testing.assert_close(-found, -gradient + 5 * (path[2:] - 2 * path[1:-1] + path[:-2]))
    more = torch.cat([gradient, noise(1, 20, seed=4)])
    moved, _ = forces(path, noise(5), more, eb.Arm(force="mechanical", last_end="moves"), spring=5.0)
    torch.testing.assert_close(moved, torch.cat([found, more[-1:]]))  # no spring beyond the last end


@pytest.mark.parametrize("decay", ["both", "gradient"])
def test_losses_and_gradients_belong_together_if_both_contain_the_penalty(decay):
    problem, path = DoubleWell(), bent(5, 2)
    arm = eb.Arm(decay=decay, force="mechanical")  # without springs: the gradient in full

    def evaluate(path):
        frame = Frame(path[None], Forces(arm, 0.3, spring=0.0))
        losses = frame.nudge(slopes_of(problem, frame, None, arm)(None), [[0.25] * 4])
        return point(*losses[0]), (frame.pull @ frame.rows)[0]

    losses, gradient = evaluate(path)
    step = 1e-6 * noise(3, 2)
    moved = path.clone()
    moved[1:-1] += step
    change = evaluate(moved)[0] - losses
    predicted = (gradient * step).sum(-1)
    # second order in a step of 1e-6: curvatures are below 1e3
    agrees = torch.allclose(change[1:-1], predicted, rtol=0, atol=1e-9)
    assert agrees == (decay == "both")


# --- bands ----------------------------------------------------------------------------------------------------------


def small_network(rows=40):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(rows, 4, generator=generator, dtype=F64), torch.randint(3, (rows,), generator=generator)
    build = lambda: mlp((4, 6, 3)).double()  # noqa: E731
    return NetworkProblem(build(), x, y), initial(build, range(2))


def sequential_band(problem, path, steps, rate, momentum, decay, batch):
    """The definition, pivot by pivot: Draxler et al. 2018, Alg. 1, with Henkelman and Jónsson's tangent."""
    generator = torch.Generator().manual_seed(0)
    path, velocity = path.clone(), [torch.zeros(problem.dim, dtype=F64) for _ in path]
    rest = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(rest) < batch:
            rest = torch.randperm(problem.rows, generator=generator)
        part, rest = problem.on(rest[:batch]), rest[batch:]
        losses, slopes = [], []
        for pivot in path:
            pivot = pivot.clone().requires_grad_()
            loss = part(pivot) + 0.5 * decay * pivot.square().sum()
            losses.append(loss.detach())
            slopes.append(torch.autograd.grad(loss, pivot)[0])
        tangents = improved_tangents(path, torch.stack(losses))
        for i in range(1, len(path) - 1):
            across = slopes[i] - (slopes[i] @ tangents[i - 1]) * tangents[i - 1]
            velocity[i] = momentum * velocity[i] + across
            path[i] = path[i] - rate * velocity[i]
        old, lengths = path.clone(), (path[1:] - path[:-1]).norm(dim=-1)
        for i in range(1, len(path) - 1):
            target, gap = lengths.sum() * i / (len(path) - 1), 0
            while target > lengths[gap]:
                target, gap = target - lengths[gap], gap + 1
            path[i] = old[gap] + target / lengths[gap] * (old[gap + 1] - old[gap])
    return eb.redistribute(path)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_a_band_is_the_sequential_loop_on_the_same_minibatches(momentum):
    problem, ends = small_network()
    how = {"steps": 15, "learning_rate": 0.1, "momentum": momentum, "weight_decay": 1e-2, "batch_size": 16}
    path = eb.straight(*ends, 7) + (math.pi * torch.linspace(0, 1, 7, dtype=F64)).sin()[:, None] * noise(problem.dim)
    expected = sequential_band(problem, path, 15, 0.1, momentum, 1e-2, 16)
    band = eb.neb(problem, path, **how)
    torch.testing.assert_close(band.path, expected, rtol=1e-8, atol=1e-10)  # roundings grow over 15 steps
    single = eb.neb(problem.to(dtype=torch.float32), path.float(), **how)
    torch.testing.assert_close(single.path.double(), expected, rtol=1e-3, atol=1e-4)  # float32: 7 digits, 15 steps


def newton(problem, guess):
    theta = point(*guess)
    for _ in range(50):
        leaf = theta.clone().requires_grad_()
        (slope,) = torch.autograd.grad(problem(leaf), leaf)
        theta = theta - torch.linalg.solve(torch.autograd.functional.hessian(problem, theta), slope)
    return theta


def converged(problem, a, b, rate, pivots=21, steps=800):
    band = eb.neb(problem, eb.straight(a, b, pivots), steps=steps, learning_rate=rate)
    return eb.neb(problem, band.path, steps=steps, learning_rate=rate, climbing=True)


@pytest.mark.parametrize(
    ("guesses", "saddle"),
    [(((-0.56, 1.44), (-0.05, 0.47)), (-0.82, 0.62)), (((-0.05, 0.47), (0.62, 0.03)), (0.21, 0.29))],
    ids=["higher", "lower"],
)
def test_mueller_brown_saddles_are_those_of_newtons_method(guesses, saddle):
    problem = MuellerBrown()
    a, b = (newton(problem, guess) for guess in guesses)
    exact = newton(problem, saddle)
    spectrum = torch.linalg.eigvalsh(torch.autograd.functional.hessian(problem, exact))
    assert spectrum.sign().tolist() == [-1, 1]
    path = converged(problem, a, b, 2e-4).path
    function = eb.mean_losses(problem)
    seen = eb.refine(function, path, eb.profile(function, path), tolerance=1e-8)
    assert abs(seen.saddle - problem(exact).item()) < 1e-4  # what the study promises; energies are of order 100
    top = path[problem(path)[1:-1].argmax() + 1].requires_grad_()
    assert torch.autograd.grad(problem(top), top)[0].norm() < 1e-6
    assert (top - exact).norm() < 1e-6


@pytest.mark.parametrize(
    ("problem", "ends"),
    [(DoubleWell(), ((-1, 0), (1, 0))), (CurvyValley(), ((-2.5 * math.pi, -1), (2.5 * math.pi, 1)))],
    ids=["double well", "curvy valley"],
)
def test_the_saddle_is_the_exact_minimax(problem, ends):
    path = converged(problem, point(*ends[0]), point(*ends[1]), 0.02).path
    function = eb.mean_losses(problem)
    seen = eb.refine(function, path, eb.profile(function, path), tolerance=1e-8)
    assert abs(seen.saddle - 1) < 1e-4
    assert seen.saddle >= 1 - 1e-12  # every path crosses x = 0, where the loss is at least 1: never below


def test_a_band_on_a_flat_ring_stays_and_its_chords_rise_by_their_sagitta():
    ring = Ring(barriers=(0.0,), radius=2.0, stiffness=3.0)
    angles = torch.linspace(0, 1.2, 7, dtype=F64)
    path = 2 * torch.stack([angles.cos(), angles.sin()], -1)
    band = eb.neb(ring, path, steps=50, learning_rate=0.1)
    torch.testing.assert_close(band.path, path, rtol=0, atol=1e-10)
    function = eb.mean_losses(ring)
    seen = eb.refine(function, path, eb.profile(function, path), tolerance=1e-10)
    exact = 0.5 * 3 * 2**2 * (1 - math.cos(0.1)) ** 2  # half a step of 0.2 from the middle of a chord to its pivots
    assert seen.saddle == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("spring", [0.1, 1.0, 30.0])
def test_the_mechanical_chain_cuts_the_corner_of_a_ring_and_the_nudged_one_does_not(spring):
    step, radius, stiffness = 0.3, 2.0, 3.0
    ring = Ring(barriers=(0.0,), radius=radius, stiffness=stiffness)
    inside = stiffness * radius / (stiffness + 2 * spring * (1 - math.cos(step)))
    angles = step * torch.arange(9, dtype=F64)
    circle = torch.stack([angles.cos(), angles.sin()], -1)
    for arm, balanced in ((eb.Arm(force="mechanical"), inside), (eb.CORRECTED, radius)):
        start = balanced * circle
        moved = eb.neb(ring, start, steps=1, learning_rate=1.0, spring=spring, arm=arm).path
        torch.testing.assert_close(moved, start, rtol=0, atol=1e-10)  # the forces on all inner pivots vanish
    assert inside < radius


def test_the_mechanical_chain_on_a_quadratic_is_the_hyperbolic_one():
    spectrum, spring, inner = point(0.5, 3.0), 2.0, 6
    ends = noise(2, 2)
    arm = eb.Arm(force="mechanical")
    start = eb.straight(*ends, inner + 2)
    path = eb.neb(Quadratic(spectrum), start, steps=1500, learning_rate=0.05, spring=spring, arm=arm).path
    kappa = torch.acosh((2 + spectrum / spring) / 2)
    i = torch.arange(inner + 2, dtype=F64)[:, None]
    expected = (ends[0] * ((inner + 1 - i) * kappa).sinh() + ends[1] * (i * kappa).sinh()) / (
        (inner + 1) * kappa
    ).sinh()
    torch.testing.assert_close(path, expected, rtol=0, atol=1e-10)


def test_small_springs_let_pivots_drift_apart_over_the_saddle_and_large_ones_pull_the_path_straight():
    a, b = point(-1, 0), point(1, 0)
    arm = eb.Arm(force="mechanical")
    ratios, lengths = [], []
    for spring in (1.0, 10.0, 100.0):
        rate = 0.5 / (4 * spring + 30)
        path = eb.neb(DoubleWell(), eb.straight(a, b, 12), steps=800, learning_rate=rate, spring=spring, arm=arm).path
        d = eb.segment_lengths(path)
        ratios.append((d.max() / d.mean()).item())
        lengths.append((d.sum() / 2).item())
        if spring == 1.0:
            longest = int(d.argmax())
            assert path[longest, 0] < 0 < path[longest + 1, 0]
    assert ratios == sorted(ratios, reverse=True)
    assert 1 < lengths[2] < lengths[1]


# --- what a band promises ------------------------------------------------------------------------------------------


class Recording:
    """A surface with rows that notes what it is asked for."""

    dim, rows = 2, 100

    def __init__(self, seen=None, rows=()):
        self.seen, self.asked = ([] if seen is None else seen), rows

    def on(self, rows):
        return Recording(self.seen, tuple(rows.flatten().tolist()))

    def __call__(self, theta):
        self.seen.append((theta.numel() // 2, self.asked, theta.requires_grad))
        return DoubleWell()(theta)


def test_all_pivots_and_both_ends_of_a_step_see_one_minibatch_and_the_cost_counts_them():
    problem = Recording()
    path = eb.straight(point(-1, 0), point(1, 0), 6)
    band = eb.neb(problem, path, steps=3, learning_rate=0.01, batch_size=10)
    inner = [call for call in problem.seen if call[2]]
    ends = [call for call in problem.seen if not call[2]]
    assert [rows for _, rows, _ in inner] == [rows for _, rows, _ in ends]
    assert len({rows for _, rows, _ in inner}) == 3
    assert band.cost.gradients == 10 * sum(points for points, _, _ in inner) == 3 * 4 * 10
    assert band.cost.evaluations == 10 * sum(points for points, _, _ in ends) == 3 * 2 * 10
    assert band.cost.sample_gradients == 3 * 10 * (4 + 2 / 3)


def test_each_pivot_sees_the_next_minibatch_where_the_arm_says_so():
    problem = Recording()
    path = eb.straight(point(-1, 0), point(1, 0), 6)
    eb.neb(problem, path, steps=2, learning_rate=0.01, batch_size=10, arm=eb.Arm(minibatch="own"))
    steps = [inner + ends for (_, inner, _), (_, ends, _) in pairwise(problem.seen)][::2]
    assert [len(rows) for rows in steps] == [60, 60]
    # of 100 rows the first step takes 60, the second the other 40 and then some in a new order
    assert len(set(steps[0])) == 60
    assert len(set(steps[1]) - set(steps[0])) >= 40


def test_own_minibatches_of_a_network_are_rows_of_the_data_one_set_for_each_pivot():
    problem, _ = small_network()
    rows = torch.arange(40).view(1, 5, 8)
    inner, ends = seen(problem, rows, eb.Arm(minibatch="own"))
    assert torch.equal(inner.x, problem.x[8:32].view(3, 8, 4))
    assert torch.equal(ends.y, problem.y[[*range(8), *range(32, 40)]].view(2, 8))


@pytest.mark.parametrize("steps", [0, 3])
def test_a_band_can_be_differentiated_through_like_any_tensor(steps):
    problem, ends = small_network()
    path = eb.neb(problem, eb.straight(*ends, 5), steps=steps, learning_rate=0.1, batch_size=8).path
    pivot = path[2].requires_grad_()
    (slope,) = torch.autograd.grad(pivot.square().sum(), pivot)
    assert torch.equal(slope, 2 * path[2])


@pytest.mark.parametrize(
    "arm", [eb.CORRECTED, eb.AUTONEB_2018, eb.AUTONEB_13C8BA8, eb.Arm(force="mechanical")], ids=lambda arm: arm.tangent
)
@pytest.mark.parametrize("rows", [None, 8])
def test_bands_that_step_together_go_the_ways_that_each_goes_alone(arm, rows):
    problem, ends = small_network()
    path = eb.straight(*ends, 7) + 0.1 * noise(7, problem.dim)
    paths = torch.stack([path, path.flip(0), 2 * path])
    how = {"steps": 60, "learning_rate": 0.05, "weight_decay": 1e-3, "batch_size": rows, "arm": arm}
    how |= {"spring": 0.1} if arm.force == "mechanical" else {}

    def generator(number):
        return torch.Generator().manual_seed(number)

    bands = eb.nebs(problem, paths, generators=[generator(i) for i in range(3)], **how)
    for number, (start, band) in enumerate(zip(paths, bands, strict=True)):
        alone = eb.neb(problem, start, generator=generator(number), **how)
        # 1e-9: sixty steps of float64 roundings
        torch.testing.assert_close(band.path, alone.path, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(band.saddles, alone.saddles, rtol=1e-9, atol=1e-9)
        assert (band.steps, band.cost, band.outcome) == (alone.steps, alone.cost, alone.outcome)


@pytest.mark.parametrize("batch", [None, 8])
def test_bands_may_have_data_of_their_own(batch):
    problem, ends = small_network()
    own = torch.stack([torch.arange(20), torch.arange(20, 40)])
    paths = torch.stack([eb.straight(*ends, 5), 2 * eb.straight(*ends, 5)]) + 0.1 * noise(2, 5, problem.dim)
    how = {"steps": 30, "learning_rate": 0.05, "batch_size": batch}
    bands = eb.nebs(problem.on(own), paths, generators=[torch.Generator().manual_seed(i) for i in range(2)], **how)
    for i, band in enumerate(bands):
        alone = eb.neb(problem.on(own[i]), paths[i], generator=torch.Generator().manual_seed(i), **how)
        # 1e-9: thirty steps of float64 roundings
        torch.testing.assert_close(band.path, alone.path, rtol=1e-9, atol=1e-9)
        assert band.cost == alone.cost


def test_a_band_that_diverges_leaves_those_beside_it_alone():
    problem, ends = small_network()
    path = eb.straight(*ends, 7) + 0.1 * noise(7, problem.dim)
    paths = torch.stack([path, path, 1e200 * path])
    generators = [torch.Generator().manual_seed(0) for _ in range(3)]
    bands = eb.nebs(problem, paths, steps=200, learning_rate=0.05, batch_size=8, generators=generators)
    assert [band.outcome for band in bands] == ["ok", "ok", "diverged"]
    assert [band.steps for band in bands] == [200, 200, 50]  # 50: the first look
    torch.testing.assert_close(bands[0].path, bands[1].path, rtol=1e-9, atol=1e-9)
    assert torch.equal(bands[2].path, paths[2])


def test_both_ends_stay_bit_by_bit_after_every_step_but_the_last_one_in_the_arm_of_2018():
    problem, ends = small_network()
    path = eb.straight(*ends, 5)
    for steps in (1, 2, 7):
        band = eb.neb(problem, path, steps=steps, learning_rate=0.1, weight_decay=1e-2, batch_size=8)
        assert torch.equal(band.path[[0, -1]], ends)
    moved = eb.neb(problem, path, steps=1, learning_rate=0.1, batch_size=8, arm=eb.Arm(last_end="moves"))
    assert torch.equal(moved.path[0], ends[0])
    assert not torch.equal(moved.path[-1], ends[1])


def test_the_moved_last_end_gets_the_whole_gradient():
    problem = Quadratic(point(1.0, 2.0))
    path = eb.straight(point(1, 1), point(-1, 2), 4)
    band = eb.neb(problem, path, steps=1, learning_rate=0.1, arm=eb.Arm(last_end="moves", spacing="not-last"))
    torch.testing.assert_close(band.path[-1], path[-1] - 0.1 * point(1.0, 2.0) * path[-1])


def test_the_released_last_step_is_that_of_its_forces_alone():
    path = bent(6, 2)
    points = path.clone().requires_grad_()
    losses = DoubleWell()(points)
    gradient = torch.autograd.grad(losses.sum(), points)[0]
    across, _ = forces(path, losses.detach(), gradient[1:-1])
    band = eb.neb(DoubleWell(), path, steps=1, learning_rate=0.02, arm=eb.Arm(spacing="not-last"))
    torch.testing.assert_close(band.path[1:-1], path[1:-1] - 0.02 * across)


def test_a_saved_path_is_spaced_and_the_released_last_step_is_not():
    a, b = point(-1, 0), point(1, 0)
    weights = point(0.1, 0.2, 0.4, 0.2, 0.1)
    start = eb.straight(a, b, 6)
    ours = eb.neb(DoubleWell(), start, steps=60, learning_rate=0.02, weights=weights)
    theirs = eb.neb(DoubleWell(), start, steps=3, learning_rate=0.02, weights=weights, arm=eb.Arm(spacing="not-last"))
    assert eb.spacing_error(ours.path, weights) < 1e-3
    assert eb.spacing_error(theirs.path, weights) > 1e-3


def test_a_band_that_diverges_says_so_and_gives_back_its_start():
    start = eb.straight(point(-1, 0), point(1, 0), 5)
    band = eb.neb(DoubleWell(), start + 0.1, steps=200, learning_rate=10.0)
    assert band.outcome == "diverged"
    assert torch.equal(band.path, start + 0.1)
    assert band.steps < 200  # it did not go on for long


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_no_saddle(loss):
    class Hole(DoubleWell):
        def __call__(self, theta):
            return torch.where(theta[..., 0].abs() < 0.1, loss, super().__call__(theta))

    band = eb.neb(Hole(), eb.straight(point(-1, 0), point(1, 0), 5), steps=1, learning_rate=0.02)
    assert band.outcome == "diverged"
    assert not band.saddles.isfinite().any()


def test_a_band_whose_pivots_drift_apart_is_torn():
    start = eb.straight(point(-1, 0), point(1, 0), 12)
    band = eb.neb(DoubleWell(), start, steps=500, learning_rate=0.02, spring=0.0, arm=eb.Arm(force="mechanical"))
    assert band.outcome == "torn"
    assert eb.spacing_error(band.path) > 1


def test_a_band_stops_when_its_saddle_no_longer_falls():
    start = eb.straight(point(-1, 0), point(1, 0), 5)
    band = eb.neb(DoubleWell(), start, steps=5000, learning_rate=0.02, stop=eb.Stop(every=20, gain=0.01, patience=2))
    assert band.steps < 1000
    assert band.saddles[-1] == pytest.approx(1, abs=1e-3)  # but not before it was there


def test_what_cannot_be_a_band_is_refused():
    problem, ends = small_network(rows=20)
    with pytest.raises(LossAtlasError, match="larger than the data set"):
        eb.neb(problem, eb.straight(*ends, 4), steps=1, learning_rate=0.1, batch_size=21)
    with pytest.raises(LossAtlasError, match="share of its length above 0"):
        eb.neb(problem, eb.straight(*ends, 4), steps=1, learning_rate=0.1, weights=torch.tensor([0.0, 0.5, 0.5]))
    with pytest.raises(LossAtlasError, match="3 or more pivots"):
        eb.neb(problem, ends, steps=1, learning_rate=0.1)
    with pytest.raises(LossAtlasError, match="minibatch 'some' is unknown"):
        eb.Arm(minibatch="some")


# --- profiles -------------------------------------------------------------------------------------------------------


def bump(position):
    """Values along the x-axis: a flat floor with a narrow bump at a position."""
    return lambda theta: torch.exp(-((theta[:, 0] - position) ** 2) / 0.02)


def test_the_refined_maximum_is_the_maximum_and_its_error_says_how_near():
    path = eb.straight(point(0, 0), point(6, 0), 7)
    for position in (0.0, 2.37, 5.93):
        function = bump(position)
        coarse = eb.profile(function, path)
        for tolerance in (1e-3, 1e-9):
            seen = eb.refine(function, path, coarse, tolerance)
            assert 0 <= 1 - seen.saddle <= 4 * tolerance
            assert 0 <= seen.saddle_error < tolerance
        assert math.isnan(coarse.saddle_error)


def test_looking_at_the_top_gaps_only_finds_the_same_maximum_for_less():
    path = eb.straight(point(0, 0), point(12, 0), 13)
    function = bump(7.42)
    everywhere = eb.refine(function, path, eb.profile(function, path), 1e-9)
    top = eb.refine(function, path, eb.profile(function, path, top=2), 1e-9)
    assert top.saddle == pytest.approx(everywhere.saddle, abs=1e-9)
    assert top.evaluations < 0.6 * everywhere.evaluations
    assert top.evaluations == len(top.positions)


def test_the_higher_of_two_tops_is_found_though_the_grid_shows_the_other():
    path = eb.straight(point(0, 0), point(4, 0), 5)
    higher, lower = 1.25, 3.2  # between two samples, and on one

    def function(theta):
        return 1.0 * bump(higher)(theta) + 0.9 * bump(lower)(theta)

    coarse = eb.profile(function, path, samples=1)
    seen = eb.refine(function, path, eb.profile(function, path, samples=4 + 1), 1e-9)
    assert coarse.saddle_position > 2
    assert seen.saddle_position == pytest.approx(higher, abs=1e-3)


def test_a_profile_contains_every_pivot_once_and_is_sorted():
    path = bent(6, 2)
    seen = eb.refine(eb.mean_losses(DoubleWell()), path, eb.profile(eb.mean_losses(DoubleWell()), path))
    assert torch.equal(seen.pivots(), DoubleWell()(path))
    assert (seen.positions.diff() > 0).all()


def test_mean_losses_are_those_of_all_rows_and_the_same_each_time():
    problem, ends = small_network(rows=37)
    path = eb.straight(*ends, 20)
    function = eb.mean_losses(problem)
    torch.testing.assert_close(function(path), problem(path).detach(), rtol=1e-12, atol=0)
    assert torch.equal(function(path), function(path))
