"""The study's own parts: the released arms as released, the descent, the arithmetic of its measurements."""

import ast
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from matplotlib import pyplot as plt

from lossatlas import data, ensemble
from lossatlas.claims import load_ledger
from lossatlas.config import load_schema, validate
from lossatlas.errors import LossAtlasError
from lossatlas.figures import teleport as figures
from lossatlas.problems import Quadratic
from lossatlas.studies.teleport import bands, baubels, classifiers, functions, measurements, plan, published, regression
from lossatlas.studies.teleport.descent import Descent, members
from lossatlas.studies.teleport.measurements import control, leap, pairs, schedules
from lossatlas.teleport import Ascent, Corner, teleport
from lossatlas.teleport.general_linear import GeneralLinear
from lossatlas.teleport.groups import PositiveScaling
from lossatlas.teleport.plane_rotation import BOOTH, PlaneRotation
from lossatlas.training import Recipe, train

ROOT = Path(__file__).parents[2]


# --- the descent ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adagrad", "rmsprop", "adam"])
def test_a_descent_that_is_not_moved_is_the_trainers(optimizer):
    problem = Quadratic(torch.tensor([1.0, 3.0], dtype=torch.float64))
    theta = torch.tensor([[1.0, 2.0], [-1.0, 0.5]], dtype=torch.float64)
    rates = torch.tensor([0.05, 0.1], dtype=torch.float64)
    descent = Descent(theta, optimizer, rates)
    for _ in range(12):
        descent.step(problem)
    assert torch.equal(descent.theta, train(problem, theta, Recipe(optimizer, steps=12), rates).final)


def test_a_member_that_diverges_stays_and_is_recorded():
    problem = Quadratic(torch.tensor([1.0, 3.0], dtype=torch.float64))
    theta = torch.ones(2, 2, dtype=torch.float64)
    descent = Descent(theta, "sgd", torch.tensor([0.1, 1e200], dtype=torch.float64))
    for _ in range(6):
        descent.step(problem)
    assert descent.diverged_at[0] == -1
    assert descent.diverged_at[1] > 0
    assert descent.theta.isfinite().all()


def test_a_rate_for_each_coordinate_multiplies_its_steps():
    problem = Quadratic(torch.tensor([1.0, 3.0], dtype=torch.float64))
    theta = torch.ones(1, 2, dtype=torch.float64)
    descent = Descent(theta, "sgd", torch.tensor([[0.1, 0.2]], dtype=torch.float64))
    descent.step(problem)
    torch.testing.assert_close(descent.theta, torch.tensor([[0.9, 0.4]], dtype=torch.float64))


@pytest.mark.parametrize("optimizer", ["momentum", "adam", "adagrad", "rmsprop"])
def test_a_teleport_takes_the_state_along_only_on_request(optimizer):
    problem, theta = regression.problem_of([0, 1])
    rates = torch.full((2,), 1e-5)
    states = []
    for transport in (False, True):
        descent = Descent(theta, optimizer, rates)
        descent.step(problem)
        before = [None if moment is None else moment.clone() for moment in descent.optimizer.moments]
        assert any(moment is not None for moment in before)
        group = PositiveScaling(problem)
        found = teleport(problem, descent.theta, group, Corner(0.2))
        descent.teleport(group, found, transport)
        factor = group.log_factors(found.elements[0]).exp()
        for power, old, new in zip((-1, -2), before, descent.optimizer.moments, strict=True):
            if old is not None:
                torch.testing.assert_close(new, old * factor**power if transport else old)
        descent.step(problem)
        states.append(descent.theta)
    assert not torch.equal(*states)


def test_the_step_after_a_move_takes_the_gradient_of_the_new_point():
    problem, theta = regression.problem_of([0, 1])
    descent = Descent(theta, "sgd", torch.full((2,), 1e-5))
    descent.step(problem)
    found = teleport(problem, descent.theta, PositiveScaling(problem), Corner(0.2))
    descent.teleport(None, found)
    descent.step(problem)
    torch.testing.assert_close(descent.theta, found.theta - 1e-5 * ensemble.gradient(problem, found.theta)[1])


def test_members_are_seeds_times_rates():
    which, rates = members([4, 5], [0.1, 0.2, 0.3])
    assert which == [0, 0, 0, 1, 1, 1]
    assert rates.tolist() == [0.1, 0.2, 0.3, 0.1, 0.2, 0.3]


# --- the released arms ------------------------------------------------------------------------------------------------


def test_the_published_problem_has_its_shapes_and_stream():
    x, y, theta = regression.published_start(2)
    generator = torch.Generator().manual_seed(4 * 12345)
    first = torch.rand(6, 5, generator=generator).double()
    assert (x.shape, y.shape, theta.shape) == ((4, 5), (4, 8), (6 * 5 + 7 * 6 + 8 * 7,))
    assert torch.equal(theta[:30], first.flatten())
    problem, start = regression.problem_of([2])
    w1, w2, w3 = problem.layout.split(start).values()

    def sigma(z):
        return torch.where(z > 0, z, 0.1 * z)

    out = w3[0] @ sigma(w2[0] @ sigma(w1[0] @ x.T))
    torch.testing.assert_close(problem(start)[0], 0.5 * (y.T - out).square().sum())


def test_the_released_action_is_only_first_order_exact_and_the_refreshed_one_second():
    """(I - T)(I + T) = I - T²: with h refreshed the error is of second order; with stale h it is of first."""
    problem, theta = regression.problem_of([0, 1, 2])
    group = GeneralLinear(problem)
    generator = torch.Generator().manual_seed(0)
    tangents = [torch.randn(3, n, n, generator=generator, dtype=torch.float64) for n in group.widths]
    changes = {}
    for refresh in (False, True):
        for size in (1e-3, 5e-4):
            moved = published.act(group, theta, [size * t for t in tangents], refresh)
            changes[refresh, size] = (problem(moved) - problem(theta)).abs() / problem(theta)
    stale, fresh = (changes[r, 1e-3] / changes[r, 5e-4] for r in (False, True))
    torch.testing.assert_close(stale, torch.full_like(stale, 2), rtol=0.05, atol=0)
    torch.testing.assert_close(fresh, torch.full_like(fresh, 4), rtol=0.05, atol=0)
    exact = teleport(problem, theta, group, Ascent(0.5))
    assert (exact.loss_change.abs() < 1e-10).all()


def test_the_released_search_returns_the_angle_before_its_last_update():
    group, theta = PlaneRotation(BOOTH), torch.tensor([[5.0, -5.0]], dtype=torch.float64)
    start = torch.tensor([0.7], dtype=torch.float64)
    found = functions.published_search(group, theta, start, 1e-3)
    angle = start.clone()
    for _ in range(functions.SEARCH_STEPS - 1):
        at = angle.clone().requires_grad_()
        (slope,) = torch.autograd.grad(group.gradient_squares(theta, at[:, None]).sum(), at)
        angle = angle + 1e-3 * slope
    torch.testing.assert_close(found, angle)


def test_an_arm_more_or_a_seed_more_moves_no_other_number():
    rates = torch.full((2,), 1e-3, dtype=torch.float64)
    few = functions.run("booth", "published", rates * 80, [0, 1])
    one = functions.run("booth", "published", rates[:1] * 80, [1])
    assert torch.equal(few.losses[1], one.losses[0])


def test_the_loss_placebo_lands_on_the_loss_without_a_teleport():
    problem, theta = regression.problem_of([0, 1])
    target = problem(theta) * torch.tensor([0.7, 1.3], dtype=torch.float64)
    moved = regression.loss_drop(problem, theta, target)
    torch.testing.assert_close(problem(moved)[0], target[0], rtol=1e-6, atol=0)
    assert torch.equal(moved[1], theta[1])  # it has no way up along the gradient


def test_the_notebooks_matrix_is_not_of_unit_size():
    """Its inverse's singular values lie about 10, 8 and 4: a layer 8 times as large is a teleport of its rate."""
    values = torch.linalg.svdvals(baubels.released_inverse(64, torch.Generator().manual_seed(0)))
    assert 6 < values.median() < 10
    assert values.max() < 14


def test_the_notebooks_score_can_hardly_tell_its_candidates_apart():
    """||G g⁻¹|| over ||G||, of 300 draws: the best of many is no better than any."""
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(64, 64, generator=generator, dtype=torch.float64)
    inverses = torch.stack([baubels.released_inverse(64, generator) for _ in range(300)])
    scores = (gradient @ inverses).norm(dim=(-2, -1)) / gradient.norm()
    assert scores.max() / scores.min() < 1.05


def test_every_arm_of_the_leap_takes_the_same_steps_but_for_the_long_ones(monkeypatch):
    steps = []
    real = Descent.step
    monkeypatch.setattr(Descent, "step", lambda self, problem: (steps.append(problem.rows), real(self, problem))[1])
    settings = COMMON | {"seeds": 2, "hidden": [40, 40], "rates": [0.1], "epochs": 3, "at": 1, "steps": 4, "batch": 20}
    table, curves = baubels.measure(settings, toy_data())
    assert set(steps) == {20}
    long = ("published", "long epoch", "layer rate, long epoch")
    assert len(steps) == len(baubels.ARMS) * 3 * 4 + len(long) * (baubels.LONG - 1) * 4
    for curve in curves.values():
        assert torch.equal(curve[:, 0], curves["none"][:, 0])  # all are one until the teleport
    runs = pd.DataFrame(table)
    exact = runs[runs["arm"].str.startswith(("gl-", "scaling-"))]
    assert (exact["loss_change"] < 1e-10).all()


def test_training_and_held_out_rows_are_apart():
    split = data.validation_split(toy_data(), 24)
    train, held_out = classifiers.problems(split, [6])
    assert torch.cdist(train.x, held_out.x).min() > 0
    assert (train.rows, held_out.rows) == (96, 24)


def test_no_function_of_the_study_takes_what_it_does_not_use():
    for path in (ROOT / "src/lossatlas/studies/teleport").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                assert {a.arg for a in (*node.args.args, *node.args.kwonlyargs)} <= used | {"self"}, node.name


def test_goldstein_price_has_its_minimum():
    assert functions.GoldsteinPrice()(torch.tensor([0.0, -1.0], dtype=torch.float64)).item() == 3
    slope = ensemble.gradient(functions.GoldsteinPrice(), torch.tensor([[0.0, -1.0]], dtype=torch.float64))[1]
    assert slope.abs().max() < 1e-9


def test_the_logistic_problem_has_its_smoothness_and_its_minimum():
    problem = functions.logistic_problem()
    assert ensemble.gradient(problem, problem.minimum())[1].abs().max() < 1e-12
    at = torch.randn(50, problem.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hessians = torch.func.vmap(torch.func.hessian(lambda t: problem(t[None])[0]))(at)
    top = torch.linalg.eigvalsh(hessians)[:, -1]
    assert (top <= problem.smoothness).all()
    assert problem.smoothness == pytest.approx(
        torch.linalg.eigvalsh(torch.func.hessian(lambda t: problem(t[None])[0])(at[0] * 0))[-1].item()
    )  # all sigmoids are at their steepest in the origin


def test_teleports_keep_the_bounds_of_convex_descent():
    assert max(functions.stable_step()) < 1e-24  # squares of rounding errors
    ratios = functions.logistic_bound(starts=5, steps=8)
    assert ((ratios > 0) & (ratios < 1)).all()


# --- classifiers ------------------------------------------------------------------------------------------------------


def toy_data():
    return data.gaussian_classes(torch.Generator().manual_seed(0), rows=120, test_rows=40, dim=24)


COMMON = {"gl_radius": 0.3, "scaling_bound": 0.2, "candidates": 5, "ascent_steps": 2, "published_steps": 1}


def test_arms_share_seeds_and_the_untouched_one_does_not_depend_on_the_rest():
    settings = COMMON | {"seeds": 2, "hidden": [20, 20], "rows": 60, "epochs": 3, "batch": 20, "teleport_batches": 1,
                         "rates": [0.05]}  # fmt: skip
    table, curves = classifiers.schedules(settings, toy_data())
    runs = pd.DataFrame(table)
    assert len(runs) == 2 * (1 + 2 * len(classifiers.SCHEDULES) + 6)
    one = curves["gl-ascent/16"]  # three epochs end before its teleport
    assert torch.equal(one, curves["none/none"])
    assert not torch.equal(curves["gl-ascent/1"], curves["none/none"])
    assert torch.equal(curves["gl-ascent/1"][:, 0], curves["none/none"][:, 0])
    exact = runs[runs["arm"].isin(["gl-ascent", "gl-random", "scaling-corner", "balance"])]
    assert (exact["worst_change"] < 1e-10).all()
    assert (runs["refused"] == 0).all()


def test_off_its_batch_the_identity_is_one_for_the_least_norm_only():
    settings = {"seeds": 2, "networks": [[24]], "sizes": [10], "epochs": 1, "batch": 20, "radius": 0.3}
    runs = pd.DataFrame(classifiers.off_batch(settings, toy_data())[0])
    still = runs[runs["radius"] == 0].set_index("action")["train_change"]
    assert (still["minimum norm"] == 0).all()
    assert (still["projection"].abs() > 1e-3).all()


BANDS = {"seeds": 2, "hidden": [6, 5], "rows": 40, "rates": [0.1, 0.3], "steps": 40, "at": 3, "band_share": 0.01}


def test_without_a_teleport_there_is_nothing_to_undo_and_no_barrier():
    rows, arrays = bands.measure(BANDS | {"radius": 0.0}, toy_data())
    found = pd.DataFrame(rows).set_index("pair")
    for pair in ("teleported", "undone", "image", "shift"):
        assert (found.loc[pair, ["distance", "segment", "band"]] == 0).all(axis=None)
    assert (found.loc["seed", "distance"] > 1).all()
    assert (arrays["orbit"] == 0).all()


def test_barriers_are_those_of_a_fine_grid_and_the_orbit_has_none():
    settings = BANDS | {"radius": 3.0}
    rows, arrays = bands.measure(settings, toy_data())
    found = pd.DataFrame(rows)
    assert (arrays["orbit"] < 1e-12).all()
    # cycle 0 of a band is the segment, whose top both see to 1e-3 on these losses of about 1
    assert (found["band"] <= found["segment"] + 1e-3).all()
    problem, _ = classifiers.problems(toy_data(), settings["hidden"], settings["rows"])
    ends, element = bands.solutions(problem, PositiveScaling(problem), settings, [0, 1])
    image = PositiveScaling(problem).act(ends["none"], element)
    for pair, others in (("seed", ends["other"]), ("teleported", ends["teleported"]), ("image", image)):
        for s, other in enumerate(others):
            grid = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None]
            losses = ensemble.loss(problem, torch.lerp(ends["none"][s], other, grid))
            row = found[(found["pair"] == pair) & (found["seed"] == s)].iloc[0]
            assert row["segment"] == pytest.approx(float(losses.max() - losses[[0, -1]].max()), abs=1e-3)
    loss = problem(ends["none"])
    torch.testing.assert_close(problem(image), loss, rtol=1e-12, atol=0)


# --- measurements -----------------------------------------------------------------------------------------------------


def test_the_best_rate_is_that_of_the_least_mean_and_a_diverged_run_is_worst():
    runs = pd.DataFrame(
        [
            {"seed": s, "rate": r, "final_loss": x}
            for r, xs in ((1, (1.0, 1.0)), (2, (0.5, 0.5)), (3, (0.01, math.inf)))
            for s, x in enumerate(xs)
        ]
    )
    best = pairs.at_best_rate(runs, "rate", pairs.final_log)
    assert best.tolist() == pytest.approx([math.log(0.5)] * 2)


def test_differences_are_paired_by_seed_and_bounded_where_one_diverged():
    a = pd.Series([0.0, math.inf, -math.inf, math.inf], index=[3, 1, 2, 0])
    b = pd.Series([0.5, 0.0, 0.0, math.inf], index=[3, 1, 2, 0])
    assert sorted(pairs.difference(a, b)) == [-pairs.WORST, -0.5, 0.0, pairs.WORST]


def test_pages_test_sees_a_trend_and_not_its_reverse():
    rows = [
        {"arm": "projected", "schedule": name, "seed": s, "rate": 0.1, "diverged_at": -1}
        | {"train_loss": math.exp(i + 0.1 * s)}
        for i, name in enumerate(("1", "2", "4", "16", "0"))
        for s in range(6)
    ]
    results = measurements.Results({"schedules": pd.DataFrame(rows)}, {})
    order = (("1",), ("2",), ("4",), ("16",), ("0",))
    assert schedules.page("projected", order)(results).value < 1e-3
    assert schedules.page("projected", order[::-1])(results).value > 0.99


def test_a_slope_on_the_orbit_is_that_of_a_power():
    gain = np.exp(np.array([[0.1, 0.5, 1.0], [0.2, 0.4, 0.9]]))
    arrays = {"control": {"orbit/gl-ascent/gain": gain, "orbit/gl-ascent/sharpness": gain**1.7}}
    assert control.sharpness_slope("gl-ascent")(measurements.Results({}, arrays)).value == pytest.approx(1.7)


def test_leaps_are_taken_where_the_untouched_accuracy_is_nearest_to_the_published():
    rows = [
        {"arm": arm, "seed": s, "rate": rate, "before": before, "leap": leap + 0.01 * s, "diverged_at": -1}
        for rate, before in ((0.1, 0.2), (0.3, 0.45))
        for arm, leap in (("none", rate), ("published", 2 * rate))
        for s in range(3)
    ]
    results = measurements.Results({"baubels": pd.DataFrame(rows)}, {})
    assert leap.leap("published")(results).value == pytest.approx(0.3)


def test_every_measure_is_in_the_ledger():
    ledger = {claim.id for claim in load_ledger(ROOT / "claims").claims if claim.study == "teleport"}
    assert set(measurements.MEASURES) <= ledger


# --- figures ----------------------------------------------------------------------------------------------------------


def test_a_schedule_that_diverged_at_every_rate_is_drawn_at_the_edge():
    rows = [
        {"arm": arm, "schedule": name, "seed": s, "rate": 0.1, "diverged_at": 3 if name == "0" else -1}
        | {"train_loss": math.nan if name == "0" else 0.1 + 0.01 * s}
        for arm, names in (("none", ["none"]), ("gl-ascent", figures.PUBLISHED), ("projected", figures.PUBLISHED))
        for name in names
        for s in range(3)
    ]
    figure = figures.schedules({"schedules": pd.DataFrame(rows)}, {})
    edge = [line for line in figure.axes[0].lines if line.get_marker() == ">"]
    assert [tuple(line.get_xdata()) for line in edge] == [(figures.BOUND,)] * 2
    drawn = {tuple(line.get_xdata()) for line in figure.axes[0].lines if line.get_marker() == "D"}
    assert len(next(iter(drawn))) == len(figures.PUBLISHED)  # every published point is overlaid
    plt.close(figure)


# --- the plan ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["smoke", "default", "paper"])
def test_the_tiers_settings_make_a_plan(tier):
    config = yaml.safe_load((ROOT / f"config/{tier}.yaml").read_text())
    schema = load_schema(ROOT / "workflow/schemas/config.schema.yaml")
    found = plan.experiments(validate(config, schema)["teleport"])
    assert set(found) == {
        "functions",
        "regression",
        "schedules",
        "optimizers",
        "control",
        "bands",
        "off_batch",
        "baubels",
    }
    assert found["baubels"]["data"] == ("fashion_mnist" if tier == "paper" else "digits")
    assert found["schedules"]["seeds"] >= (2 if tier == "smoke" else 10)


def test_settings_without_the_published_rate_are_refused():
    schema = load_schema(ROOT / "workflow/schemas/config.schema.yaml")
    teleport_config = validate({"teleport": {"regression": {"sgd_multiples": [2.0]}}}, schema)["teleport"]
    with pytest.raises(LossAtlasError, match="published rate"):
        plan.experiments(teleport_config)
