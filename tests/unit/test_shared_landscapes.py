"""Methods on the same landscapes: the landscapes are what they should be, and budgets are kept and charged in full."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from lossatlas.claims import load_ledger
from lossatlas.studies.evolution import landscape_measurements, shared_landscapes
from lossatlas.studies.evolution.shared_landscapes import (
    FAMILIES,
    GRADIENT,
    JUMPS,
    MARKS,
    RADIUS,
    RESTORATIONS,
    SIDE,
    TELEPORT,
    TRIALS,
    Mean,
    Steps,
    best_so_far,
    landscapes,
)
from lossatlas.studies.perlin.landscapes import aligned_layer
from lossatlas.teleport import HESSIAN_VECTOR, level_set

BUDGET = 150


@pytest.fixture(scope="module")
def flat():
    return landscapes(2, [0, 1, 2], 3, starts=4)


@pytest.fixture(scope="module")
def deep():
    return landscapes(3, [0, 1], 2, starts=3)


def plan(arms, rates=(1.0,), budget=BUDGET):
    return Steps(torch.tensor(rates).expand(len(arms), -1), 1.0, budget)


# --- the landscapes ---------------------------------------------------------------------------------------------------


def test_in_two_dimensions_they_are_those_of_the_perlin_study(flat):
    x = SIDE * torch.rand(2, 7, generator=torch.Generator().manual_seed(0))
    theirs = [aligned_layer("funnel", [0, 1, 2], number, SIDE).at(x) for number in range(3)]
    mine, slopes = flat.at(x.mT[None].expand(3, -1, -1))
    torch.testing.assert_close(mine, torch.stack([value for value, _ in theirs]).mean(0))
    torch.testing.assert_close(slopes[:, :, 1].mT, theirs[1][1])


@pytest.mark.parametrize("kind", ["flat", "deep"])
def test_nothing_lies_below_the_common_minimum(kind, request):
    here = request.getfixturevalue(kind)
    x = SIDE * torch.rand(len(here.names), 4000, here.dim, generator=torch.Generator().manual_seed(1))
    # the minima are polished in float32, by steps that stop short of 1e-3 of the depth
    assert (here.at(x)[0] > here.lowest[:, None] * (1 + 1e-3)).all()
    assert (here.lowest < 0).all()


def test_the_mean_over_the_torus_is_the_zero_that_excess_counts_from(flat):
    axis = torch.arange(0, SIDE, 1 / 16)
    x = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(1, -1, 2).expand(3, -1, -1)
    # the trapezoidal rule on a periodic function: its error is far below this share of the depth
    assert (flat.at(x)[0].mean(1).abs() < 1e-3 * flat.lowest.abs()).all()


def test_fewer_layers_are_the_first_ones_and_other_landscapes_change_none(flat):
    x = flat.start
    torch.testing.assert_close(flat.team(2).at(x)[1], flat.at(x)[1][:, :, :2])
    alone = landscapes(2, [1], 3, starts=4)
    torch.testing.assert_close(alone.start[0], flat.start[1], rtol=0, atol=0)
    torch.testing.assert_close(alone.at(alone.start)[0][0], flat.at(x)[0][1])


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arms", FAMILIES, ids=lambda arms: arms[0])
def test_every_arm_spends_the_budget_and_no_more(arms, flat):
    spent = [spent for spent, _, _ in FAMILIES[arms](flat, plan(arms))]
    assert spent == sorted(spent)
    assert BUDGET - GRADIENT * 4 < spent[-1] <= BUDGET  # four restarts may each leave a part of a step


@pytest.mark.parametrize("arms", FAMILIES, ids=lambda arms: arms[0])
def test_what_is_charged_is_what_is_evaluated(arms, flat):
    """Losses are counted one by one; gradients by the batches of one point, at 3 each."""
    batches = list(FAMILIES[arms](flat, plan(arms)))
    points = sum(value.shape[-1] for _, _, value in batches)
    each = 1 if arms in (("random search",), ("annealed", "small sigma", "large sigma")) else GRADIENT
    jumps = 2 * TELEPORT if arms == JUMPS else 0
    assert batches[-1][0] == points * each + jumps
    for _, x, value in batches[:: len(batches) // 3]:  # the losses are those of the points
        torch.testing.assert_close(value, flat.at(x)[0])


def test_a_teleport_uses_no_more_than_it_is_charged(flat):
    found = level_set.ascend(Mean(flat, 4), flat.start.flatten(0, 1), iterations=TRIALS, restorations=RESTORATIONS)
    assert GRADIENT * (found.gradients + HESSIAN_VECTOR * found.products) <= TELEPORT
    assert found.products > 1  # it did go somewhere


def test_a_teleport_steepens_and_stays_and_its_placebo_moves_as_far(flat):
    x = flat.start[:, None, None].expand(-1, 2, 2, -1, -1)
    moved = shared_landscapes._jumped(flat, x, 0)
    length = (moved - x).norm(dim=-1)
    torch.testing.assert_close(length[:, 0], length[:, 1])
    assert (length > 0.01).float().mean() > 0.8
    before, after = (flat.at(point[:, 0]) for point in (x, moved))
    assert (after[0] - before[0] <= 1e-5 * before[0].abs() + 1e-5).all()  # float32
    assert (after[1].mean(-2).norm(dim=-1) >= before[1].mean(-2).norm(dim=-1) - 1e-5).all()


@pytest.mark.parametrize("arms", FAMILIES, ids=lambda arms: arms[0])
def test_a_landscape_has_the_same_runs_whatever_others_stand_beside_it(arms, flat):
    alone = landscapes(2, [2], 3, starts=4)
    small = plan(arms, rates=(0.1,))
    _, there = best_so_far(FAMILIES[arms](flat, small), BUDGET)
    _, here = best_so_far(FAMILIES[arms](alone, small), BUDGET)
    # sums over a population may be ordered by the batch: rounding in float32, little amplified by these small steps
    torch.testing.assert_close(here[:, 0], there[:, 2], rtol=1e-3, atol=1e-3)


def test_gradient_descent_agrees_with_autograd_on_one_landscape(flat):
    arms = next(arms for arms in FAMILIES if "descent" in arms)
    seen = list(FAMILIES[arms](flat, plan(arms, rates=(0.2,), budget=30)))
    x = flat.start[1].double()
    for step, (_, points, _) in enumerate(seen):
        torch.testing.assert_close(points[1, 0, 0, :, 0].double(), x, rtol=1e-4, atol=1e-4)
        x.requires_grad_()
        layers = replace(flat.layers, shift=flat.layers.shift.double())
        layers = replace(layers, lattices=tuple(lattice.double() for lattice in layers.lattices))
        (slope,) = torch.autograd.grad(layers(x)[1].mean(0).sum(), x)
        x = x.detach() - 0.2 * 0.5 * (1 + math.cos(math.pi * step / 10)) * slope


def test_random_points_find_the_minimum_as_often_as_their_share_of_the_area():
    here = landscapes(2, [0], 1, starts=400)
    (arms,) = [arms for arms in FAMILIES if "random search" in arms]
    _, x, _ = next(FAMILIES[arms](here, plan(arms)))
    offset = (x + SIDE / 2).remainder(SIDE) - SIDE / 2
    share, n = math.pi * RADIUS**2 / SIDE**2, x[..., 0].numel()
    found = (offset.norm(dim=-1) < RADIUS).float().mean()
    assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / n)


def test_the_best_so_far_is_that_of_a_slow_loop():
    generator = torch.Generator().manual_seed(3)
    spent = [20, 40, 60, 90, 120]
    values = torch.randn(len(spent), 2, 1, 2, 3, 5, generator=generator)
    values[1, 0] = math.nan  # a loss that is not finite is never the best
    points = torch.randn(*values.shape, 2, generator=generator)
    low, where = best_so_far(iter(zip(spent, points, values, strict=True)), 120)
    for mark in range(MARKS):
        known = [i for i in range(len(spent)) if spent[i] <= 120 * (mark + 1) / MARKS]
        for cell in [(0, 0, 1, 2), (1, 0, 0, 0)]:
            candidates = [
                (float(values[i][cell][m]), points[i][cell][m])
                for i in known
                for m in range(5)
                if not math.isnan(values[i][cell][m])
            ]
            best = min(candidates, key=lambda pair: pair[0])
            assert float(low[mark][cell]) == best[0]
            assert torch.equal(where[mark][cell], best[1])


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    settings = {"dims": [2], "sizes": [1, 2], "landscapes": 3, "tuning_landscapes": 2, "starts": 3}
    return pd.DataFrame(shared_landscapes.table(settings | {"evaluations": BUDGET, "rates": [1.0, 3.0]}))


def test_the_rate_of_an_arm_is_the_best_of_the_grid_on_other_landscapes(table):
    runs = table[table["purpose"] == "run"].groupby(["n", "arm"])["rate"].agg(["min", "max"])
    assert (runs["min"] == runs["max"]).all()
    tuning = table[table["purpose"] == "tuning"]
    best = tuning.loc[tuning.groupby(["n", "arm"])["excess"].idxmin()].set_index(["n", "arm"])["rate"]
    assert (best == runs["min"]).all()
    assert not set(tuning["landscape"]) & set(table.loc[table["purpose"] == "run", "landscape"])


def test_one_layer_has_no_composite_and_losses_only_fall(table):
    runs = table[table["purpose"] == "run"]
    one = runs[runs["n"] == 1].pivot(index=["landscape", "evaluations"], columns="arm", values="excess")
    for arm in ("q = 1", "q = 4", "q = -1"):
        assert (one[arm] - one["descent"]).abs().max() < 1e-3  # weights of one layer are 1 up to rounding
    for _, cells in runs.groupby(["n", "arm", "landscape"]):
        assert cells.sort_values("evaluations")["excess"].diff().max() <= 0 or len(cells) < 2
    assert runs["excess"].between(-2e-3, 2).all()
    assert runs["success"].between(0, 1).all()


def test_each_claim_is_measured_and_has_the_sign_of_its_statement():
    names = {claim.id for claim in load_ledger("claims").claims}
    assert set(landscape_measurements.MEASURES) == {name for name in names if name.startswith("evolution.landscapes")}
    rows = [
        {
            "purpose": "run",
            "dim": 2,
            "n": n,
            "landscape": i,
            "evaluations": 300,
            "arm": arm,
            "excess": excess + 0.01 * i,
        }
        for i in range(5)
        for n in (1, 2)
        for arm, excess in (("descent", 0.3), ("annealed", 0.1 if n == 2 else 9.0))
    ]
    found = landscape_measurements.MEASURES["evolution.landscapes_anneal_2d"]({"landscapes": pd.DataFrame(rows)})
    assert found.value == pytest.approx(0.2)  # one layer alone is left out
    assert landscape_measurements.MEASURES["evolution.landscapes_anneal_3d"]({"landscapes": pd.DataFrame(rows)}) is None
