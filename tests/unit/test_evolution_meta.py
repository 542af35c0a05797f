"""The study of unrolled problems: budgets, tuning, published runs, roughness, and measures on tables known by hand."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from matplotlib import pyplot as plt

from lossatlas.claims import load_ledger
from lossatlas.config import load_schema, validate
from lossatlas.data import DataSet
from lossatlas.evolution.unrolled import Estimate
from lossatlas.figures import evolution_meta as figures
from lossatlas.problems.bilevel import ToyRegression
from lossatlas.studies.evolution import (
    meta,
    meta_arms,
    meta_checks,
    meta_measurements,
    meta_published,
    meta_surface,
    mnist1d_baselines,
    mnist1d_plan,
)
from lossatlas.studies.evolution.meta_arms import Arm, Noise, best_rate, descend

ROOT = Path(__file__).parents[2]


def settings(tier, part):
    schema = load_schema(ROOT / "workflow/schemas/config.schema.yaml")
    return validate(yaml.safe_load((ROOT / f"config/{tier}.yaml").read_text()), schema)["evolution"][part]


def tiny_data(n=100):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n + 20, 5, generator=generator)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return DataSet("tiny", x[:n], y[:n], x[n:], y[n:], 3)


# --- the outer descent ------------------------------------------------------------------------------------------------


def bowl(cost=3):
    """The gradient of |theta|²/2, so that gradient descent shrinks theta by 1 - rate in each update."""
    return Arm("bowl", lambda theta, done: Estimate(theta, torch.zeros(theta.shape[:-1])), cost)


def test_each_rate_and_seed_descends_by_itself():
    start = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    found = descend(bowl(), start, [0.1, 0.5], "sgd", 6, 3)
    assert found.updates == [0, 2, 4, 6]
    for log, updates in enumerate(found.updates):
        for r, rate in enumerate((0.1, 0.5)):
            torch.testing.assert_close(found.theta[log, r], start * (1 - rate) ** updates)


def test_a_descent_that_diverges_stays_where_it_was_finite_and_says_when():
    found = descend(bowl(), torch.tensor([[1.0]]), [0.5, 1e30], "sgd", 4, 4)
    assert found.diverged_at.tolist() == [[-1], [1]]  # 1e30² is no float32
    assert found.theta.isfinite().all()
    assert found.theta[-1, 1].item() == found.theta[1, 1].item()


def test_the_best_rate_is_that_of_the_tuning_seeds_and_infinite_losses_lose():
    losses = torch.tensor([[1.0, 1.0, 9.0, 9.0], [2.0, 2.0, 0.0, 0.0], [math.nan, math.inf, 0.0, 0.0]])
    assert best_rate(losses, 2) == 0


def test_noise_is_named_by_the_seed_alone():
    like = torch.zeros(1, 3)
    many, few = Noise("toy", [4, 7, 9]), Noise("toy", [7])
    for _ in range(2):
        assert torch.equal(many.draw(5, like)[1], few.draw(5, like)[0])


def counted(problem):
    """The problem, and a list whose entry grows with every inner step of every particle of one seed."""
    steps = [0]

    class Counted:
        dim, steps_ = problem.dim, problem.steps

        @property
        def steps(self):
            return problem.steps

        def start(self, theta):
            return problem.start(theta)

        def step(self, state, theta, t):
            steps[0] += theta.shape[-2]
            return problem.step(state, theta, t)

    return Counted(), steps


@pytest.mark.parametrize(
    ("build", "backward"),
    [
        (lambda p, z: meta_arms.backprop(p), 2),
        (lambda p, z: meta_arms.truncated_backprop(p, 5), 2),
        (lambda p, z: meta_arms.es(p, z, 3, 0.2), 1),
        (lambda p, z: meta_arms.gradients_at_perturbed_points(p, z, 3, 0.2, merged=True), 2),
        (lambda p, z: meta_arms.windowed("truncated", p, z, 3, 0.2, 5), 1),
        (lambda p, z: meta_arms.windowed("pes", p, z, 3, 0.2, 5), 1),
        (lambda p, z: meta_arms.windowed("single", p, z, 3, 0.2, 5), 1),
    ],
)
def test_an_arm_costs_the_inner_steps_that_it_runs(build, backward):
    problem, steps = counted(ToyRegression(10))
    arm = build(problem, Noise("toy", [0]))
    for _ in range(2):
        arm.estimate(torch.zeros(1, 1, 2), 0.0)
    assert backward * steps[0] == 2 * arm.cost


def test_annealing_goes_from_the_first_to_the_last_sigma():
    sigma = meta_arms.annealed(1.0, 0.01)
    assert [sigma(x) for x in (0, 0.5, 1)] == pytest.approx([1.0, 0.1, 0.01])


@pytest.mark.parametrize("together", [True, False])
def test_rates_are_chosen_on_other_seeds_and_every_arm_has_one_budget(together):
    comparison = meta.Comparison(
        "toy",
        lambda _: ToyRegression(10),
        lambda group: torch.zeros(len(group), 2),
        lambda group, problem, noise: [(meta_arms.es(problem, noise, 2, 0.2), (0.01, 0.1))],
        budget=400,
        together=together,
    )
    rows = pd.DataFrame(meta.compare(comparison, 3))
    assert set(rows[rows["tuning"]]["seed"]) == {100, 101}
    assert set(rows[~rows["tuning"]]["seed"]) == {0, 1, 2}
    assert set(rows[rows["tuning"]]["rate"]) == {0.01, 0.1}
    assert rows[~rows["tuning"]]["rate"].nunique() == 1
    assert rows["inner_steps"].max() == 400
    last = rows[rows["tuning"] & (rows["inner_steps"] == 400)].groupby("rate")["loss"].median()
    assert rows[~rows["tuning"]]["rate"].iloc[0] == last.idxmin()


def test_a_comparison_in_one_tensor_or_in_two_has_the_same_numbers():
    tables = []
    for together in (True, False):
        comparison = meta.Comparison(
            "toy",
            lambda _: ToyRegression(10),
            lambda group: torch.zeros(len(group), 2),
            lambda group, problem, noise: [(meta_arms.windowed("pes", problem, noise, 2, 0.2, 5), (0.01, 0.1))],
            budget=100,
            together=together,
        )
        rows = pd.DataFrame(meta.compare(comparison, 2))
        tables.append(rows.sort_values(["tuning", "rate", "seed", "updates"]).reset_index(drop=True))
    # elementwise float32 operations may be vectorised otherwise in another shape
    pd.testing.assert_frame_equal(*tables, rtol=1e-5)


def test_random_search_keeps_the_best_and_spends_the_budget():
    rows = pd.DataFrame(meta.random_search("toy", ToyRegression(10), [0, 1], (-6, -6), (4, 4), 500))
    assert rows["inner_steps"].max() == 500
    for _, run in rows.groupby("seed"):
        assert (run.sort_values("inner_steps")["loss"].diff().dropna() <= 0).all()


def test_an_interrupted_job_takes_finished_benchmarks_from_its_store():
    class Store:
        state = None

        def load(self):
            return self.state

        def save(self, state):
            self.state = dict(state)

    store, calls = Store(), []

    def benchmark(name, fail=False):
        def run():
            calls.append(name)
            if fail:
                raise KeyboardInterrupt
            return [{"name": name}]

        return run

    with pytest.raises(KeyboardInterrupt):
        meta.in_turn({"a": benchmark("a"), "b": benchmark("b", fail=True)}, store)
    found = meta.in_turn({"a": benchmark("a"), "b": benchmark("b")}, store)
    assert calls == ["a", "b", "b"]
    assert found == {"a": [{"name": "a"}], "b": [{"name": "b"}]}


# --- the benchmarks, very small ---------------------------------------------------------------------------------------


def test_every_benchmark_gives_finite_rows_of_one_kind():
    small = settings("smoke", "meta")
    data = tiny_data()
    rows = meta.learning_rate(data, {**small, "notebook_updates": 1}, 2)
    rows += meta.rough(data, small, 2) + meta.activation(data, small, 2) + meta.toy(small, 2)
    table = pd.DataFrame(rows)
    assert set(table["benchmark"]) == {"learning_rate", "rough", "activation", "toy"}
    start = table[(table["updates"] == 0) & (table["arm"] != "random search") & ~table["arm"].str.startswith("publ")]
    for (_, seed), cell in start.groupby(["benchmark", "seed"]):
        # all arms start at one point, chunks and axes of their batches differ
        np.testing.assert_allclose(cell["loss"], cell["loss"].iloc[0], rtol=1e-4, err_msg=str(seed))


def test_the_published_series_is_compared_after_the_update_that_it_is_named_after():
    """Its "generation 0" has one step of Adam in it, whose size is the rate whatever the gradient."""
    rows = pd.DataFrame(meta.published_toy(1, 2))
    assert set(rows["updates"]) == {1}
    assert rows[["theta_0", "theta_1"]].abs().to_numpy() == pytest.approx(1e-3, rel=1e-3)


def test_windows_of_the_usual_activations_are_all_steps_and_the_last_200():
    rows = pd.DataFrame(meta.activation_baselines(tiny_data(), 3, 210, 2))
    first = (210 * rows["mean_loss"] - 200 * rows["late_loss"]) / 10  # mean of the first ten steps
    assert (first > rows["late_loss"]).all()  # that is where training begins
    relu = rows[rows["activation"] == "relu"]
    measures, tables = meta_measurements.MEASURES, {"meta_activations": rows}
    assert measures["evolution.m1d_afunc_relu"](tables).value == pytest.approx(relu["mean_loss"].mean())
    assert measures["evolution.m1d_afunc_window"](tables).value == pytest.approx(relu["late_loss"].mean())


def test_usual_activations_have_the_derivatives_that_they_claim():
    x = torch.linspace(-3, 3, 24, dtype=torch.float64).requires_grad_()
    for name, function in meta.ACTIVATIONS.items():
        value, slope = function(x)
        (expected,) = torch.autograd.grad(value.sum(), x)
        torch.testing.assert_close(slope, expected, msg=name)


def test_checks_hold_the_exact_gradient_and_repeats_for_both_kinds():
    rows = pd.DataFrame(meta_checks.checks({"repeats": 3, "lorenz_unroll": 40}))
    assert rows.groupby(["benchmark", "kind"]).size().to_dict() == {
        ("influence", "exact"): 1,
        ("influence", "pes"): 3,
        ("influence", "truncated"): 3,
        ("lorenz", "pes"): 3,
        ("lorenz", "single"): 3,
        ("toy", "pes"): 3,
        ("toy", "single"): 3,
    }


# --- the surface ------------------------------------------------------------------------------------------------------

SURFACE = {
    "unrolls": [1, 3],
    "explosion_unrolls": [2],
    "surface_points": 300,
    "surface_inits": 2,
    "surface_side": 8,
}


def test_one_unroll_serves_all_lengths_and_chunks_change_nothing():
    data = tiny_data()
    found = meta_surface.curves(data, SURFACE)
    inits = meta.heavy_ball_initial(data, range(2))
    for i, unroll in enumerate((1, 3)):
        problem = meta.heavy_ball(data, unroll, inits)
        theta = torch.stack([found["log_lr"], torch.full((300,), math.log(9.0))], -1)[:5].expand(2, 5, 2)
        expected = meta.outer_loss(problem, theta)
        torch.testing.assert_close(found["loss"][:, :5, i], expected, rtol=1e-4, atol=1e-5)  # float32, other chunks
    assert found["surface"].shape == (8, 8, 2)


def test_roughness_of_a_known_line():
    x = np.linspace(0, 3, 301)
    # one cosine period over 100 intervals: 6 monotone pieces of height 2, so 5 turns and a total variation of 12
    line = np.cos(2 * np.pi * x)
    rows = meta_surface.roughness({"log_lr": x, "loss": line[None, :, None], "unrolls": np.array([7])})
    raw = rows[0]
    assert (raw["turns"], raw["unroll"], raw["nonfinite"]) == (5, 7, 0)
    assert raw["total_variation"] == pytest.approx(12)
    # the median of |2 pi sin| over whole periods is 2 pi sin 45°, on a grid of 100 points to a thousandth or so
    assert raw["median_slope"] == pytest.approx(2 * np.pi * np.sin(np.pi / 4), rel=2e-3)


def test_smoothing_attenuates_a_ripple_by_the_law():
    x = np.linspace(0, 10, 5001)
    for sigma in (0.1, 0.3):
        found = meta_surface.smoothed(np.cos(2 * np.pi * x), sigma, x[1] - x[0])
        expected = math.exp(-2 * math.pi**2 * sigma**2)
        # away from the ends, which are continued; the kernel is cut at four sigma
        assert np.abs(found[2000:3000] - expected * np.cos(2 * np.pi * x[2000:3000])).max() < 1e-3


def test_points_that_are_not_finite_are_counted_and_do_not_spread():
    loss = np.ones((1, 50, 1))
    loss[0, 20, 0], loss[0, 21, 0] = np.nan, np.inf
    rows = meta_surface.roughness({"log_lr": np.arange(50.0), "loss": loss, "unrolls": np.array([1])})
    assert all(row["nonfinite"] == 2 for row in rows)
    assert all(row["total_variation"] == pytest.approx(0, abs=1e-12) for row in rows)


# --- the table of mnist1d ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["smoke", "default", "paper"])
def test_every_network_is_trained_in_order_and_shuffled_with_the_published_rate(tier):
    found = mnist1d_plan.ensembles(settings(tier, "mnist1d"))
    for name, baseline in found.items():
        assert baseline.shuffled == name.endswith("-shuffled")
        assert 0.01 in baseline.learning_rates
        assert baseline.optimizer == "adam"
    assert len(found) == 2 * len({b.architecture for b in found.values()})


def test_accuracy_counts_rows_whose_label_is_largest():
    data = tiny_data()
    baseline = mnist1d_plan.ensembles({"networks": [NETWORK], "data": "digits"})["mnist1d-linear"]
    from lossatlas.studies import baselines

    training = baselines.run(baseline, data)
    found = {name: getattr(training, name).numpy() for name in ("final", "diverged_at")}
    rows = mnist1d_baselines.score(baseline, found, data, "cpu")
    for i, row in enumerate(rows):
        weight, bias = training.final[i][:15].view(3, 5), training.final[i][15:]
        right = (data.test_x @ weight.T + bias).argmax(-1) == data.test_y
        assert row["test_accuracy"] == pytest.approx(100 * right.double().mean().item())
        assert row["steps"] == 2  # two epochs of 100 rows in batches of 100


NETWORK = {"name": "linear", "epochs": 2, "shuffled_epochs": 1, "learning_rates": [0.01], "seeds": 2}


# --- measures ---------------------------------------------------------------------------------------------------------


def test_every_measure_has_a_claim_and_says_nothing_without_its_table():
    ids = {claim.id for claim in load_ledger(ROOT / "claims").claims}
    assert set(meta_measurements.MEASURES) <= ids
    assert {name for name, measure in meta_measurements.MEASURES.items() if measure({}) is not None} == set()


def run_rows(benchmark, arm, losses, theta=0.0, steps=100):
    return [
        {
            "benchmark": benchmark,
            "arm": arm,
            "rate": 0.1,
            "seed": s,
            "tuning": False,
            "updates": n,
            "inner_steps": n * steps,
            "loss": loss if n else 5.0,
            "theta_0": theta,
            "theta_1": math.nan,
            "diverged_at": -1,
            "nonfinite": 0.0,
        }
        for s, loss in enumerate(losses)
        for n in (0, 1)
    ]


def test_annealing_is_compared_with_the_better_fixed_sigma_seed_by_seed():
    rows = run_rows("rough", "ES, large sigma", [2.0, 2.1, 2.2]) + run_rows("rough", "ES, small sigma", [9.0, 9.0, 1.0])
    rows += run_rows("rough", "ES, annealed", [1.5, 1.5, 1.5])
    found = meta_measurements.annealing({"meta_networks": pd.DataFrame(rows)})
    assert found.value == pytest.approx(np.mean([0.5, 0.6, 0.7]))
    assert found.n == 3


def test_a_run_without_a_finite_loss_leaves_a_comparison_without_limits():
    rows = run_rows("rough", "ES, large sigma", [2.0, math.nan]) + run_rows("rough", "ES, small sigma", [9.0, 9.0])
    rows += run_rows("rough", "ES, annealed", [1.5, math.nan])
    found = meta_measurements.annealing({"meta_networks": pd.DataFrame(rows)})
    assert math.isfinite(found.value)
    assert math.isnan(found.low)


def test_a_roughness_that_does_not_change_has_no_trend():
    rows = [{"init": i, "unroll": u, "sigma": 0.0, "turns": 3} for i in range(2) for u in (5, 10)]
    assert meta_measurements.MEASURES["evolution.rough_turns"]({"meta_roughness": pd.DataFrame(rows)}).value == 0


def test_pes_and_truncation_are_judged_by_known_estimates():
    rows = [{"benchmark": "influence", "kind": "exact", "repeat": 0, "value_0": 2.0, "value_1": math.nan}]
    for kind, values in {"pes": (1.0, 2.0, 3.5), "truncated": (-1.0, -1.0, -1.0)}.items():
        rows += [
            {"benchmark": "influence", "kind": kind, "repeat": i, "value_0": v, "value_1": math.nan}
            for i, v in enumerate(values)
        ]
    tables = {"meta_checks": pd.DataFrame(rows)}
    x = np.array([1.0, 2.0, 3.5])
    assert meta_measurements.pes_unbiased(tables).value == pytest.approx((x.mean() - 2) / (x.std(ddof=1) / 3**0.5))
    assert meta_measurements.truncation_biased(tables).value == -0.5


def test_the_order_of_activations_counts_neighbours_that_swapped():
    means = dict(meta_published.ACTIVATIONS) | {"swish": 1.30}  # now below relu
    rows = [{"activation": a, "seed": 0, "mean_loss": v, "late_loss": v} for a, v in means.items()]
    assert meta_measurements.activation_order({"meta_activations": pd.DataFrame(rows)}).value == 1


def test_accuracies_at_the_notebooks_are_nearer_to_it():
    rows = [
        {
            "network": network,
            "shuffled": shuffled,
            "data": "mnist1d",
            "learning_rate": 0.01,
            "seed": s,
            "steps": 6000,
            "test_accuracy": accuracy,
            "train_accuracy": 100.0,
        }
        for (network, shuffled), accuracy in meta_published.NOTEBOOK.items()
        for s in range(2)
    ]
    tables = {"mnist1d_table": pd.DataFrame(rows)}
    gaps = [abs(meta_published.README[key] - meta_published.NOTEBOOK[key]) for key in meta_published.README]
    assert meta_measurements.notebook_not_readme(tables).value == pytest.approx(np.mean(gaps))
    assert meta_measurements.MEASURES["evolution.m1d_nb_mlp"](tables).value == pytest.approx(65.1)
    assert meta_measurements.MEASURES["evolution.m1d_shuffling_cnn"](tables).value == pytest.approx(92.3 - 58.7)


def test_figures_can_be_drawn_from_the_smallest_tables():
    data = tiny_data()
    surface = {name: value.numpy() for name, value in meta_surface.curves(data, SURFACE).items()}
    explosion = pd.DataFrame(meta_surface.explosion(data, SURFACE))
    rows = pd.DataFrame(run_rows("toy", "PES", [1.0, 2.0]) + run_rows("toy", "published PES", [1.0]))
    table = pd.DataFrame(
        [{"network": "gru", "shuffled": s, "data": "digits", "learning_rate": 0.01, "seed": 0, "steps": 3,
          "train_accuracy": 50.0, "test_accuracy": 40.0, "diverged_at": -1} for s in (False, True)]
    )  # fmt: skip
    for figure in (
        figures.draw_surface(surface, explosion),
        figures.draw_comparison(rows),
        figures.draw_mnist1d(table),
    ):
        figure.canvas.draw()
        plt.close(figure)
