"""Cycles, insertion, arms, resuming, and the library's front door."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossatlas
from lossatlas import elastic_band as eb
from lossatlas.checkpoint import Checkpoint
from lossatlas.elastic_band.auto_neb import bumps, insert
from lossatlas.elastic_band.normalisation import EvaluatedEnds, WithBuffers, as_arm
from lossatlas.errors import LossAtlasError
from lossatlas.problems import DoubleWell, Eggcarton, Quadratic, Ring
from lossatlas.problems.architectures import mlp
from lossatlas.problems.network import NetworkProblem, exact_moments, initial

F64 = torch.float64
SHORT = eb.Schedule(
    (eb.Cycle(60, 0.02, "equal", 3), eb.Cycle(60, 0.02, "highest", 2), eb.Cycle(60, 0.02, "highest", 2)),
    batch_size=16,
    weight_decay=0.0,
)


def point(*values):
    return torch.tensor(values, dtype=F64)


def network(batch_norm=False, rows=48):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(rows, 4, generator=generator, dtype=F64), torch.randint(3, (rows,), generator=generator)
    build = lambda: mlp((4, 6, 3), batch_norm=batch_norm).double()  # noqa: E731
    return NetworkProblem(build(), x, y), initial(build, range(2))


# --- insertion ------------------------------------------------------------------------------------------------------


def profile_of(pivots, samples):
    """A profile of pivots at the whole positions and samples {position: loss} between them."""
    values = {float(i): loss for i, loss in enumerate(pivots)} | samples
    positions = torch.tensor(sorted(values), dtype=F64)
    return eb.Profile(positions, torch.tensor([values[p] for p in positions.tolist()], dtype=F64), 0)


FLAT = profile_of([0, 0, 0, 0], {0.3: 1.0, 0.5: 0.4, 1.5: -1.0, 2.6: 0.5})  # hidden bumps, and a dent


@pytest.mark.parametrize("count", [1, 3])
def test_equal_insertion_gives_so_many_pivots_on_the_same_polyline(count):
    path, weights = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=F64), point(0.1, 0.2, 0.3, 0.4)
    new, split = insert(path, weights, FLAT, eb.Cycle(1, 0.1, "equal", count), eb.CORRECTED, None)
    assert len(new) == (5 - 1) * (count + 1) + 1 == eb.Cycle(1, 0.1, "equal", count).pivots(5)
    assert torch.equal(new[:: count + 1], path)
    assert eb.segment_lengths(new).sum().item() == pytest.approx(eb.segment_lengths(path).sum().item(), rel=1e-12)
    torch.testing.assert_close(split.view(4, -1).sum(-1), weights)
    torch.testing.assert_close(split.sum().item(), 1.0)


def test_hidden_bumps_get_pivots_where_they_are_highest_and_dents_do_not():
    path, weights = eb.straight(point(0, 0), point(3, 0), 4), torch.full((3,), 1 / 3, dtype=F64)
    new, split = insert(path, weights, FLAT, eb.Cycle(1, 0.1, "highest", 3), eb.CORRECTED, None)
    torch.testing.assert_close(new[:, 0], point(0, 0.3, 1, 2, 2.6, 3))
    torch.testing.assert_close(split, point(0.3, 0.7, 1, 0.6, 0.4) / 3)  # the weight splits as the gap does
    one, _ = insert(path, weights, FLAT, eb.Cycle(1, 0.1, "highest", 1), eb.CORRECTED, None)
    torch.testing.assert_close(one[:, 0], point(0, 0.3, 1, 2, 3))


def test_a_bump_counts_above_the_straight_line_between_its_pivots():
    seen = profile_of([0, 2, 0], {0.5: 1.9, 1.5: 0.9})  # 0.9 above the line, and 0.1 below it
    assert bumps(seen, 5, eb.CORRECTED).tolist() == [0.5]


def test_the_threshold_is_a_share_of_the_range_of_losses():
    seen = profile_of([0, 1, 0], {0.5: 0.65})  # 0.15 above the line, of a range of 1
    assert bumps(seen, 5, eb.Arm(threshold=0.1)).tolist() == [0.5]
    assert bumps(seen, 5, eb.Arm(threshold=0.2)).tolist() == []


def test_flat_pivots_do_not_make_every_ripple_a_bump_unless_measured_as_released():
    ripple = profile_of([0, 0, 0], {0.5: 1e-6, 1.5: 2e-6})
    assert bumps(ripple, 5, eb.CORRECTED).tolist() == []
    assert bumps(ripple, 5, eb.AUTONEB_13C8BA8).tolist() == [0.5, 1.5]


def test_random_insertion_draws_that_many_different_gaps():
    path, weights = eb.straight(point(0, 0), point(3, 0), 4), torch.full((3,), 1 / 3, dtype=F64)
    new, split = insert(path, weights, FLAT, eb.Cycle(1, 0.1, "random", 2), eb.CORRECTED, torch.Generator())
    assert len(new) == 6
    assert eb.segment_lengths(new).min() > 0.4  # halves of two gaps of length 1, never one gap twice
    torch.testing.assert_close(split.sum().item(), 1.0)


# --- schedules ------------------------------------------------------------------------------------------------------


def test_the_published_schedule_costs_what_its_source_says():
    assert len(eb.PUBLISHED.cycles) == 14
    assert sum(cycle.steps for cycle in eb.PUBLISHED.cycles) == 16_000
    assert eb.PUBLISHED.pivot_gradients() == 248_000
    pivots = 2
    for cycle in eb.PUBLISHED.cycles:
        pivots = cycle.pivots(pivots)
    assert pivots == 31


def test_the_default_schedule_takes_less_than_a_tenth_of_the_published_sample_gradients():
    published, cheap = (schedule.pivot_gradients() * schedule.batch_size for schedule in (eb.PUBLISHED, eb.CHEAP))
    assert cheap < published / 10


def test_a_scaled_schedule_keeps_its_cycles():
    eighth = eb.PUBLISHED.scaled(1 / 8)
    assert sum(cycle.steps for cycle in eighth.cycles) == 2000
    assert [c.learning_rate for c in eighth.cycles] == [c.learning_rate for c in eb.PUBLISHED.cycles]


# --- connections ----------------------------------------------------------------------------------------------------


def test_a_connection_of_the_double_well_reaches_the_minimax_and_every_record_holds():
    well = DoubleWell()
    found = eb.connect(well, point(-1, 0), point(1, 0), SHORT)
    assert found.saddle == pytest.approx(1, abs=1e-4)  # the tolerance of the refinement
    assert found.saddle == found.losses.max() == min(record.saddle for record in found.history)
    assert found.history[0].saddle == pytest.approx(1 + 4, rel=1e-9)  # the segment: 1 + stiffness bend²
    assert torch.equal(found.pivots[[0, -1]], torch.stack([point(-1, 0), point(1, 0)]))
    assert eb.spacing_error(found.pivots, found.weights) < 1e-3
    assert all(record.spacing_error < 1e-3 for record in found.history)
    assert found.distance == 2
    assert found.length == pytest.approx(eb.segment_lengths(found.pivots).sum().item())
    assert found.length_ratio == pytest.approx(found.length / 2)
    assert found.outcome == "ok"
    torch.testing.assert_close(found.losses, well(eb.points(found.pivots, found.positions)))


class Counting:
    """The double well, counting the points at which it is asked for a gradient and for a value alone."""

    dim = 2

    def __init__(self):
        self.gradients = self.evaluations = 0

    def __call__(self, theta):
        points = theta.numel() // 2
        if theta.requires_grad:
            self.gradients += points
        else:
            self.evaluations += points
        return DoubleWell()(theta)


@pytest.mark.parametrize("top", [None, 2])
def test_the_cost_is_exactly_what_the_problem_was_asked(top):
    problem = Counting()
    found = eb.connect(problem, point(-1, 0), point(1, 0), replace(SHORT, top=top))
    assert (found.cost.gradients, found.cost.evaluations) == (problem.gradients, problem.evaluations)
    costs = [record.cost.sample_gradients for record in found.history]
    assert costs == sorted(costs)
    assert found.cost.sample_gradients == pytest.approx(problem.gradients + problem.evaluations / 3)


@pytest.mark.parametrize("budget", [50, 300, 10**6])
def test_a_budget_is_kept(budget):
    found = eb.connect(DoubleWell(), point(-1, 0), point(1, 0), SHORT, budget=budget)
    steps = sum(record.steps for record in found.history)
    assert found.cost.sample_gradients <= budget
    assert (steps == 180) == (budget == 10**6)


def test_equal_ends_are_joined_by_a_path_of_length_zero_without_a_step():
    problem, ends = network()
    found = eb.connect(problem, ends[0], ends[0], SHORT)
    assert (found.length, found.distance, found.length_ratio) == (0, 0, 1)
    assert found.saddle == pytest.approx(problem(ends[0]).item(), rel=1e-12)
    assert found.losses.isfinite().all()
    assert found.cost.gradients == 0
    assert eb.arc_length(found.pivots, found.positions).isfinite().all()


def test_a_convex_loss_has_no_barrier_and_the_segment_counts_as_cycle_zero():
    found = eb.connect(Quadratic(point(1.0, 1.0)), point(-1, 0), point(1, 0.5), SHORT)
    assert found.saddle == pytest.approx(0.5 * (1 + 0.25))  # the higher end
    assert found.best_cycle == 0


class NotFinite:
    dim = 2

    def __call__(self, theta):
        return torch.where(theta[..., 0] > 0.9, torch.nan, DoubleWell()(theta))


def test_ends_that_cannot_be_joined_are_refused():
    with pytest.raises(LossAtlasError, match="not finite at an end"):
        eb.connect(NotFinite(), point(-1, 0), point(1, 0), SHORT)
    with pytest.raises(LossAtlasError, match="the ends have"):
        eb.connect(DoubleWell(), point(-1, 0), point(1, 0, 0), SHORT)
    problem, ends = network(rows=10)
    with pytest.raises(LossAtlasError, match="larger than the data set"):
        eb.connect(problem, *ends, SHORT)


class Wall:
    """The double well with a hole in the middle of the straight line, where there is no loss."""

    dim = 2

    def __call__(self, theta):
        hole = theta.detach().norm(dim=-1) < 0.1
        return torch.where(hole, torch.nan, DoubleWell()(theta))


def test_a_segment_that_cannot_be_evaluated_everywhere_is_infinitely_high_and_then_left():
    found = eb.connect(Wall(), point(-1, 0), point(1, 0), replace(SHORT, cycles=(eb.Cycle(60, 0.02, "equal", 4),)))
    assert found.history[0].saddle == math.inf
    assert found.history[0].outcome == "diverged"
    assert (found.best_cycle, found.outcome) == (1, "ok")
    assert found.losses.isfinite().all()


def test_a_path_without_inner_pivots_or_bumps_stays_as_it_is():
    highest = replace(SHORT, cycles=(eb.Cycle(10, 0.1, "highest", 2),))
    found = eb.connect(Quadratic(point(1.0, 1.0)), point(-1, 0), point(1, 0), highest)
    assert [record.pivots for record in found.history] == [2, 2]
    assert found.cost.gradients == 0


def test_a_diverged_cycle_is_recorded_undone_and_not_the_last():
    wild = replace(SHORT, cycles=(eb.Cycle(200, 50.0, "equal", 3), eb.Cycle(300, 0.02)))
    found = eb.connect(DoubleWell(), point(-1, 0.1), point(1, 0), wild)
    assert [record.outcome for record in found.history] == ["ok", "diverged", "ok"]
    assert found.outcome == "diverged"
    assert found.pivots.isfinite().all()
    assert found.saddle < 1.2  # five pivots cut the bend a little; the segment has 4.6


def test_two_runs_give_the_same_bits_and_a_generator_others():
    problem, ends = network()
    runs = [eb.connect(problem, *ends, SHORT, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    last = [run.history[-1].losses for run in runs]
    assert torch.equal(last[0], last[1])
    assert not torch.equal(last[0], last[2])


class Killed(Exception):
    pass


class Dying:
    """A store whose process is killed just after the second cycle was saved."""

    def __init__(self, store):
        self.store, self.saves = store, 0

    def load(self):
        return self.store.load()

    def save(self, state):
        self.store.save(state)
        self.saves += 1
        if self.saves == 2:
            raise Killed


def test_a_killed_band_goes_on_at_its_last_cycle_with_the_same_bits(tmp_path):
    problem, ends = network()
    store = Checkpoint(tmp_path / "band.npz", {"pair": [0, 1]}, "code")
    whole = eb.connect(problem, *ends, SHORT, generator=torch.Generator().manual_seed(3))
    with pytest.raises(Killed):
        eb.connect(problem, *ends, SHORT, store=Dying(store), generator=torch.Generator().manual_seed(3))
    done = []
    resumed = eb.connect(problem, *ends, SHORT, store=store, progress=lambda cycle, _: done.append(cycle))
    assert done == [3]
    assert torch.equal(resumed.pivots, whole.pivots)
    assert torch.equal(resumed.weights, whole.weights)
    for ours, theirs in zip(resumed.history, whole.history, strict=True):
        assert torch.equal(ours.losses, theirs.losses)
        assert (ours.saddle, ours.cost, ours.outcome) == (theirs.saddle, theirs.cost, theirs.outcome)


def test_on_the_diagonal_of_the_eggcarton_a_band_stalls_and_the_concatenation_does_not():
    a, b, c = point(0.5, 0.5), point(1.5, 0.5), point(1.5, 1.5)
    assert eb.connect(Eggcarton(), a, c, SHORT).saddle == pytest.approx(2, abs=1e-9)
    direct = [eb.connect(Eggcarton(), *ends, SHORT) for ends in ((a, b), (b, c))]
    assert [found.saddle for found in direct] == pytest.approx([0, 0], abs=1e-9)
    joined = eb.auto_neb(Eggcarton(), eb.concatenate([f.pivots for f in direct]), SHORT.without_first_insertion())
    assert joined.saddle == pytest.approx(0, abs=1e-4)


def test_a_flat_ring_is_joined_without_a_barrier():
    ring = Ring(barriers=(0.0,))
    found = eb.connect(ring, point(1, 0), point(math.cos(2.0), math.sin(2.0)), SHORT)
    step = 2.0 / (len(found.pivots) - 1)
    sagitta = 0.5 * ring.stiffness * (1 - math.cos(step / 2)) ** 2
    assert found.saddle < 2 * sagitta  # pivots on the ring; twice, as the gaps of inserted pivots are not all equal
    assert found.history[0].saddle == pytest.approx(0.5 * ring.stiffness * (1 - math.cos(1.0)) ** 2)


# --- arms -----------------------------------------------------------------------------------------------------------


def test_arms_differ_from_the_corrected_one_by_single_switches():
    released = eb.one_released(eb.AUTONEB_2018)
    assert set(released) == {
        *("tangent", "minibatch", "mode", "buffers", "decay", "spacing", "last_end", "threshold", "normaliser")
    }
    rebuilt = eb.CORRECTED
    for name, arm in released.items():
        rebuilt = replace(rebuilt, **{name: getattr(arm, name)})
    assert rebuilt == eb.AUTONEB_2018
    assert eb.one_corrected(eb.AUTONEB_13C8BA8)["tangent"] == replace(eb.AUTONEB_13C8BA8, tangent="henkelman")
    assert "last_end" not in eb.one_corrected(eb.AUTONEB_13C8BA8)


@pytest.mark.parametrize("arm", eb.ARMS.values(), ids=eb.ARMS)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_every_named_arm_runs_and_returns_trainable_parameters_only(arm, batch_norm):
    problem, ends = network(batch_norm)
    found = eb.connect(problem, *ends, replace(SHORT, weight_decay=1e-3), arm=arm)
    trainable = sum(p.numel() for p in problem.module.parameters())
    assert found.pivots.shape[1] == trainable
    assert found.losses.isfinite().all()
    assert torch.equal(found.pivots[0], ends[0])
    assert torch.equal(found.pivots[-1], ends[1]) == (arm.last_end == "fixed" or found.best_cycle == 0)


def test_every_single_switch_runs():
    problem, ends = network(batch_norm=True)
    short = replace(SHORT, cycles=SHORT.cycles[:2], weight_decay=1e-3).scaled(0.1)
    for arm in [*eb.one_released(eb.AUTONEB_2018).values(), *eb.one_corrected(eb.AUTONEB_2018).values()]:
        assert eb.connect(problem, *ends, short, arm=arm).losses.isfinite().all()


def test_counters_as_coordinates_make_the_gaps_unequal_in_weight_space():
    problem, ends = network(batch_norm=True)
    cycle = replace(SHORT, cycles=(eb.Cycle(100, 0.02, "equal", 9),))
    ours = eb.connect(problem, *ends, cycle)
    theirs = eb.connect(problem, *ends, cycle, arm=eb.Arm(buffers="coordinates"))
    assert ours.history[1].spacing_error < 1e-3
    assert theirs.history[1].spacing_error > 10 * 1e-3


def test_running_statistics_move_as_torch_moves_them():
    problem, ends = network(batch_norm=True)
    released = WithBuffers(problem)
    lifted = released.lift(ends)
    assert lifted.shape == (2, released.dim)
    assert released.dim == problem.dim + 2 * 6 + 1
    torch.testing.assert_close(released(lifted), problem(ends))  # evaluation with its own statistics
    rows = torch.arange(16)
    moved = released.on(rows).advanced(lifted)
    theirs = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)).double()
    first = problem.layout.split(ends)
    with torch.no_grad():
        theirs[0].weight.copy_(first["1.weight"][0])
        theirs[0].bias.copy_(first["1.bias"][0])
        theirs[1].running_mean.copy_(lifted[0, problem.dim : problem.dim + 6])
        theirs[1].running_var.copy_(lifted[0, problem.dim + 6 : problem.dim + 12])
        theirs(problem.x[rows])
    torch.testing.assert_close(moved[0, problem.dim : problem.dim + 6], theirs[1].running_mean)
    torch.testing.assert_close(moved[0, problem.dim + 6 : problem.dim + 12], theirs[1].running_var)
    assert moved[:, -1].tolist() == [1, 1]
    assert torch.equal(moved[:, : problem.dim], ends)


def test_counters_of_inner_pivots_count_the_steps_of_a_band():
    problem, ends = network(batch_norm=True)
    arm = eb.Arm(buffers="coordinates", spacing="not-last")
    lifted, path = as_arm(problem, eb.straight(*ends, 5), arm)
    band = eb.neb(lifted, path, steps=1, learning_rate=0.01, batch_size=8, arm=arm)
    assert band.path[:, -1].tolist() == [0, 1, 1, 1, 0]


def test_a_minibatch_of_the_released_network_trains_and_its_ends_evaluate():
    problem, ends = network(batch_norm=True)
    rows = torch.arange(16)
    lifted = WithBuffers(problem).lift(ends)
    part = WithBuffers(problem).on(rows)
    torch.testing.assert_close(part(lifted), problem.on(rows)(ends))
    statistics = exact_moments(problem)(ends)
    evaluated = replace(problem.on(rows), moments=lambda theta: statistics)(ends)
    torch.testing.assert_close(part.ends(lifted), evaluated)
    held, _ = as_arm(problem, ends, eb.Arm(mode="ends-eval"))
    assert isinstance(held, EvaluatedEnds)
    torch.testing.assert_close(held.on(rows).ends(ends), evaluated)
    torch.testing.assert_close(held.on(rows)(ends), problem.on(rows)(ends))
    assert not torch.allclose(evaluated, problem.on(rows)(ends))


def test_the_first_saddle_of_a_band_with_evaluated_ends_is_theirs_on_the_shared_minibatch():
    problem, ends = network(batch_norm=True)
    arm = eb.Arm(mode="ends-eval")
    held, path = as_arm(problem, eb.straight(*ends, 5), arm)
    rows = torch.randperm(problem.rows, generator=torch.Generator().manual_seed(0))[:8]
    inner = problem.on(rows)(path[1:-1])
    evaluated, trained = held.on(rows).ends(path[[0, -1]]), problem.on(rows)(path[[0, -1]])
    assert evaluated.max() > max(inner.max(), trained.max())  # so that the mode of the ends is what the saddle shows
    how = {"steps": 1, "learning_rate": 0.01, "batch_size": 8, "generator": torch.Generator().manual_seed(0)}
    torch.testing.assert_close(eb.neb(held, path, arm=arm, **how).saddles[0], evaluated.max())


# --- lossatlas.connect ----------------------------------------------------------------------------------------------


def two_networks():
    torch.manual_seed(0)
    build = lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))  # noqa: E731
    return build(), build(), (torch.randn(40, 4), torch.randint(3, (40,)))


def test_connect_joins_any_two_modules_and_leaves_them_alone():
    net_a, net_b, data = two_networks()
    before = [p.clone() for p in net_a.state_dict().values()]
    tiny = replace(SHORT, cycles=(eb.Cycle(3, 0.1, "equal", 1),))
    found = lossatlas.connect(net_a, net_b, "cross_entropy", data, tiny)
    assert torch.equal(found.pivots[0], nn.utils.parameters_to_vector(net_a.parameters()).detach())
    assert torch.equal(found.pivots[-1], nn.utils.parameters_to_vector(net_b.parameters()).detach())
    assert all(torch.equal(a, b) for a, b in zip(before, net_a.state_dict().values(), strict=True))
    for loss in (F.cross_entropy, lambda outputs, y: F.cross_entropy(outputs, y)):
        same = lossatlas.connect(net_a, net_b, loss, data, tiny)
        torch.testing.assert_close(same.losses, found.losses, rtol=1e-4, atol=1e-5)  # float32, other kernels


def test_connect_has_a_default_that_fits_few_rows(monkeypatch):
    assert eb.CHEAP.batch_size > 40
    monkeypatch.setattr("lossatlas.elastic_band.networks.CHEAP", eb.CHEAP.scaled(0.02))
    net_a, net_b, data = two_networks()
    found = lossatlas.connect(net_a, net_b, "cross_entropy", data)
    assert found.saddle <= found.history[0].saddle
    assert len(found.history) == 1 + len(eb.CHEAP.cycles)


def test_connect_refuses_different_architectures():
    net_a, _, data = two_networks()
    wider = nn.Sequential(nn.Linear(4, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3))
    smoother = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    for other in (wider, smoother):
        with pytest.raises(LossAtlasError, match="different architectures"):
            lossatlas.connect(net_a, other, "cross_entropy", data)


def test_importing_the_package_does_not_import_torch():
    code = "import sys, lossatlas; assert 'connect' in dir(lossatlas); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'conect'"):
        _ = lossatlas.conect
