"""The composite study: its plan, its tuning, its event of success, its toys and its numbers."""

import numpy as np
import pandas as pd
import pytest
import torch

from torchjd.aggregation import CAGrad, MGDA, PCGrad  # isort: skip

from lossatlas import data, ensemble
from lossatlas.errors import LossAtlasError
from lossatlas.problems.autoencoder import posterior_divergence
from lossatlas.studies.composite import bands, cagrad, comparison, plan, samples, toys
from lossatlas.studies.composite.arms import arm
from lossatlas.studies.composite.autoencoders import AutoencoderTask, latent_limits
from lossatlas.studies.composite.classifiers import ClassifierTask
from lossatlas.theory import critical_team, harmony_from_correlation

AUTOENCODER = {
    "kind": "autoencoder", "name": "tiny", "data": "digits", "folder": "", "rows": 0, "architecture": "dense",
    "hidden": [8], "latent": 3, "goals": ["mse", "l1", "mean", "covariance", "sliced"], "steps": 4, "batch_size": 16,
    "learning_rates": [1e-5, 0.02], "tuning_seeds": 1, "seeds": 2, "vae": True,
}  # fmt: skip
CLASSIFIER = {
    "kind": "classifier", "name": "tiny", "data": "digits", "hidden": [8], "losses": ["cross_entropy", "brier"],
    "steps": 8, "batch_size": 32, "learning_rates": [1e-5, 0.02], "tuning_seeds": 1, "seeds": 2, "band_seeds": 1,
    "band_steps": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def autoencoder():
    return AutoencoderTask.load(AUTOENCODER, "", False, "cpu")


# --- plan and arms ----------------------------------------------------------------------------------------------------


def test_every_arm_of_the_plan_exists_and_measures_where_its_name_says():
    for job in (AUTOENCODER, CLASSIFIER):
        names = plan.arms(job)
        assert len(set(names)) == len(names)
        found = {name: arm(name, tuple(job.get("losses", ()))) for name in names}
        for name in names:
            at_parameters = found[name].at == "parameters"
            assert at_parameters == (name.endswith(" parameters") or name in ("sum + noise", *plan.SEVERAL[-5:]))
    with pytest.raises(LossAtlasError, match="there is no arm 'adam'"):
        arm("adam")


def test_a_plan_that_makes_no_comparison_is_refused():
    def section(**changes):
        return {"autoencoders": [{**AUTOENCODER, **changes}], "classifiers": [{**CLASSIFIER, "name": "labels"}]}

    assert list(plan.jobs(section())) == ["tiny", "labels"]
    with pytest.raises(LossAtlasError, match="different names"):
        plan.jobs(section(name="labels"))
    with pytest.raises(LossAtlasError, match="must have mse"):
        plan.jobs(section(goals=["mse", "l1"]))
    with pytest.raises(LossAtlasError, match="reconstruction goals of tiny first"):
        plan.jobs(section(goals=["mean", "mse"]))
    assert list(plan.jobs(section(architecture="patches", vae=False))) == ["tiny", "labels"]
    with pytest.raises(LossAtlasError, match="no variational form"):
        plan.jobs(section(architecture="patches"))


# --- tuning and judging -----------------------------------------------------------------------------------------------


def test_an_arm_is_tuned_on_other_seeds_and_rows_and_run_on_shared_ones(autoencoder):
    outcomes = {
        name: comparison.run_arm(autoencoder, arm(name), AUTOENCODER, "cpu") for name in ("sum", "q=1", "static")
    }
    for outcome in outcomes.values():
        runs = pd.DataFrame(outcome.rows)
        tuning, final = runs[runs["stage"] == "tuning"], runs[runs["stage"] == "final"]
        assert set(tuning["seed"]).isdisjoint(final["seed"])
        assert len(tuning) == 2
        best = tuning.loc[tuning["score"].idxmin(), "learning_rate"]
        assert (final["learning_rate"] == best).all()
        assert list(final["seed"]) == [0, 1]
    one, other = (outcome.logs["losses"][0] for outcome in (outcomes["sum"], outcomes["q=1"]))
    assert torch.equal(one, other)  # the same initialisation and the same first minibatch
    split, whole = autoencoder.problem(True), autoencoder.problem(False)
    assert split.rows + autoencoder.held_out(True).rows == whole.rows


def test_a_comparison_that_is_cut_short_goes_on_to_the_same_numbers(autoencoder):
    class Store:
        state = None

        def load(self):
            return self.state

        def save(self, state):
            self.state = dict(state)

    job = {**AUTOENCODER, "arms": ("sum", "switching")}
    whole = comparison.run(autoencoder, job, "cpu")
    store = Store()
    comparison.run(autoencoder, {**job, "arms": ("sum",)}, "cpu", store)
    resumed = comparison.run(autoencoder, job, "cpu", store)
    assert torch.equal(whole["switching"].final, resumed["switching"].final)
    assert whole["sum"].rows == resumed["sum"].rows


def test_success_is_met_by_exactly_those_who_meet_every_limit(autoencoder):
    theta = autoencoder.starts([0, 1, 2])
    columns = autoencoder.judged(theta, tuning=False)
    limits = latent_limits(autoencoder.names, 360, 3, 0.99)
    pca = autoencoder.pca_error(tuning=False)
    for i in range(3):
        worst = [columns["held_out_mse"][i] / pca]
        worst += [
            columns[f"held_out_{name}"][i] / limits[2 + j] for j, name in enumerate(("mean", "covariance", "sliced"))
        ]
        assert columns["score"][i].item() == pytest.approx(np.log(max(float(w) for w in worst)), rel=1e-6)
        assert bool(columns["success"][i]) == all(w <= 1 for w in worst)
    assert limits[:2].isnan().all()


def test_a_variational_code_is_judged_by_samples_and_its_rate_is_the_divergence(autoencoder):
    task = autoencoder.variational()
    weights = task.static_weights(4, torch.Generator().manual_seed(0))
    assert (weights[:, 0] == 1).all()
    assert weights[:, 1].log10().sort().values.diff().numpy() == pytest.approx(0.75)  # three decades in four parts
    theta = task.starts([0, 1])
    last = task.problem(False).layout  # a posterior that ignores the image and is N(0, 1) has a rate of zero
    params = last.split(theta.clone())
    silent = torch.cat([p.flatten(1) * (0 if name.startswith("0.") else 1) for name, p in params.items()], 1)
    columns = task.judged(silent, tuning=False)
    assert columns["rate_bits"].abs().max() == 0
    # and its codes are exact samples of N(0, I), whatever they are worth: within the sampling band at level 0.99
    limits = latent_limits(task.names, 360, 3, 0.99)
    gap = columns["latent_excess"]
    assert (gap < 0.7).all()  # a factor of two above the 99th percentile has no chance with exact codes
    assert columns["gap_bits"].max() < 0.05  # about (d + 3) d / (4 d n) nats for n exact codes
    assert limits[2:].isfinite().all()
    assert "rate_bits" not in autoencoder.judged(autoencoder.starts([0]), tuning=False)


def test_a_variational_arm_trains_in_the_comparison(autoencoder):
    first, again = (comparison.run_arm(autoencoder, arm("VAE"), AUTOENCODER, "cpu") for _ in range(2))
    assert torch.equal(first.final, again.final)  # its noise is named
    final = [row for row in first.rows if row["stage"] == "final"]
    assert all(np.isfinite(row["rate_bits"]) and row["rate_bits"] > 0 for row in final)


def test_the_divergence_of_a_posterior_is_torchs():
    posterior = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, log_variance = posterior.chunk(2, -1)
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
    exact = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).mean((1, 2))
    assert torch.allclose(posterior_divergence(posterior), exact, rtol=1e-12)


def test_principal_components_succeed_on_the_image_half_of_the_event(autoencoder):
    """The limit is attainable: the components themselves have an excess of exactly 0."""
    found = data.load("digits")
    x = found.train_x.flatten(1).double()
    mean = x.mean(0)
    vectors = torch.linalg.eigh((x - mean).mT @ (x - mean)).eigenvectors[:, -3:]
    rest = found.test_x.flatten(1).double() - mean
    error = (rest - rest @ vectors @ vectors.mT).square().mean()
    assert autoencoder.pca_error(tuning=False) == pytest.approx(error.item(), rel=1e-8)


def test_solutions_of_classifiers_lie_between_themselves_without_a_barrier():
    task = ClassifierTask.load(CLASSIFIER, "", False, "cpu")
    names = ("sum", "only brier", "sum, other order")
    outcomes = {name: comparison.run_arm(task, arm(name, task.names), CLASSIFIER, "cpu") for name in names}
    between = pd.DataFrame(task.between(outcomes)).set_index("arm")
    assert (between.loc["sum", "distance"] == 0).all()
    assert between.loc["sum", "barrier"].abs().max() < 1e-6  # rounding of the chord
    assert (between.loc["sum, other order", "distance"] > 0).all()
    assert between["early_error"].between(0, 1).all()


def test_bands_end_at_the_solutions_and_lie_no_higher_than_the_segment():
    task = ClassifierTask.load(CLASSIFIER, "", False, "cpu")
    names = ("sum", "q=1", "sum, other order")
    outcomes = {name: comparison.run_arm(task, arm(name, task.names), CLASSIFIER, "cpu") for name in names}
    found = bands.between(task, outcomes, CLASSIFIER)
    assert found["pairs"].tolist() == list(plan.PAIRS)
    assert (found["band"] <= found["straight"]).all()  # the straight start counts as the first path
    assert (found["band"] >= 0).all()
    assert (found["stretch"] >= 1 - 1e-6).all()
    other = ensemble.loss(task.networks[0].train, torch.stack([outcomes["sum"].final[0], outcomes["sum"].final[1]]))
    middle = (outcomes["sum"].final[0] + outcomes["sum"].final[1]) / 2
    rise = ensemble.loss(task.networks[0].train, middle[None]) - other.max()
    assert found["straight"][3, 0] >= float(rise) - 1e-6  # of the pair with two starts
    section = {"autoencoders": [AUTOENCODER], "classifiers": [{**CLASSIFIER, "name": "labels", "band_seeds": 2}]}
    with pytest.raises(LossAtlasError, match="band_seeds can be at most 1"):
        plan.jobs(section)


# --- toys -------------------------------------------------------------------------------------------------------------


def test_the_critical_team_by_simulated_flows():
    for q, steepness in ((0.0, 1.6), (1.0, 1.6), (2.0, 1.3)):
        least = toys.smallest_escaping_team(q, steepness)
        assert least == int(np.floor(critical_team(q, steepness))) + 1
        stuck, share = toys.team_paths(least - 1, q, steepness, 0.01, 3000)
        away, _ = toys.team_paths(least, q, steepness, 0.01, 3000)
        assert stuck[-1] > toys.HOLE - toys.RAMP
        assert away[-1] < toys.HOLE - toys.RIM
        assert share[-1].item() == pytest.approx(0.5, abs=1e-6)  # at rest it balances all the others


def test_gradients_of_cagrads_toy_are_those_of_its_losses():
    generator = np.random.default_rng(0)
    x = generator.uniform(-9, 9, (200, 2))
    losses, slopes = cagrad.two_losses(x)
    step = 1e-6
    for axis in range(2):
        shift = step * np.eye(2)[axis]
        central = (cagrad.two_losses(x + shift)[0] - cagrad.two_losses(x - shift)[0]) / (2 * step)
        smooth = np.abs(slopes).max((1, 2)) < 100  # away from the kinks and poles of the logarithms
        assert np.abs(central - slopes[..., axis])[smooth].max() < 1e-3
    t1, t2 = torch.tensor(x[:, 0]), torch.tensor(x[:, 1])  # the formula as it is printed, in torch
    c1, c2 = (t2 / 2).tanh().clamp_min(0), (-t2 / 2).tanh().clamp_min(0)
    f1 = (0.5 * (-t1 - 7) - (-t2).tanh()).abs().clamp_min(5e-6).log() + 6
    f2 = (0.5 * (-t1 + 3) + (-t2).tanh() + 2).abs().clamp_min(5e-6).log() + 6
    g1 = ((-t1 + 7) ** 2 + 0.1 * (-t2 - 8) ** 2) / 10 - 20
    g2 = ((-t1 - 7) ** 2 + 0.1 * (-t2 - 8) ** 2) / 10 - 20
    assert np.abs(losses - torch.stack([c1 * f1 + c2 * g1, c1 * f2 + c2 * g2], -1).numpy()).max() < 1e-12


@pytest.mark.parametrize(("method", "peer"), [("MGDA", MGDA()), ("CAGrad", CAGrad(c=0.5)), ("PCGrad", PCGrad())])
def test_two_gradients_in_closed_form_are_torchjds(method, peer):
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        g = torch.randn(2, 2, generator=generator, dtype=torch.float64)
        ours = cagrad.two_weights(method, *cagrad.inner_products(g.numpy())) @ g.numpy()
        theirs = peer(g).numpy()
        if method == "CAGrad":
            ours = 1.5 * ours  # the toy divides by 1 + c
        scale = max(1e-3, np.abs(theirs).max())
        assert np.abs(ours - theirs).max() < 2e-3 * scale + 2e-3  # torchjd stops its solvers near 1e-3


def test_the_exact_rows_of_the_toys():
    assert toys.torchjd_gap() < 1e-4  # the digits printed
    assert toys.encodec_self_test() == (99.0, pytest.approx(0, abs=1e-6))
    assert toys.readings("adam", 30)["differing"] == 0
    assert toys.attention_exponent() == pytest.approx(1, abs=1e-3)
    assert toys.onset_of_flipping(3, 1.0, 1.6) == pytest.approx(2, abs=1e-3)
    path = toys.sliding_path(0.05, 200)
    assert path[-50:].abs().max() <= 2 * 0.05


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_harmony_of_correlated_layers_against_a_simulated_field():
    """Common minima of two white-noise layers of correlation ½ on a periodic grid, Moore neighbourhood."""
    assert harmony_from_correlation(0.0, 5) == pytest.approx(1, abs=1e-6)
    generator = torch.Generator().manual_seed(0)
    shared, *own = torch.randn(3, 1500, 1500, generator=generator)
    common = torch.ones(1500, 1500, dtype=torch.bool)
    for noise in own:
        field = 0.5**0.5 * (shared + noise)
        for dx, dy in [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]:
            common &= field < field.roll((dx, dy), (0, 1))
    rate = common.double().mean().item()
    error = (rate / 1500**2) ** 0.5 / rate / (2 * np.log(9))  # Poisson error of the log rate over n log p
    assert abs(np.log(rate) / (2 * -np.log(9)) - harmony_from_correlation(0.5, 2)) < 4 * error + 0.01  # its own sample


def test_volumes_of_runs_are_boxes_on_the_log_scale_of_their_limits():
    excess = {"a": [(0.0, 0.0), (1.0, 0.0)], "b": [(5.0, -9.0), (0.0, 1.0)], "c": [(-1.0, -1.0)] * 2}
    rows = [
        {"arm": a, "stage": "final", "seed": s, "image_excess": i, "latent_excess": z}
        | {"score": np.nan if a == "c" else max(i, z)}
        for a, points in excess.items()
        for s, (i, z) in enumerate(points)
    ]
    runs, side = pd.DataFrame(rows), np.log(10)
    assert samples.volumes(runs, ["a"]) == pytest.approx([1, (side - 1) / side])  # at both limits: the whole square
    assert samples.volumes(runs, ["b"])[0] == 0  # more than ten times one limit
    assert samples.volumes(runs, ["c"]) == pytest.approx([0, 0])  # it diverged
    assert samples.volumes(runs, ["a", "b", "c"])[1] == pytest.approx(1 - 1 / side**2)  # two strips meet in a square


def test_the_best_baseline_is_chosen_by_tuning_runs_alone():
    rows = [
        {"arm": a, "stage": stage, "configuration": 0, "seed": s, "score": score}
        for a, tuned, final in (("sum", 1.0, 0.0), ("static", 0.5, 9.0), ("q=1", 0.1, 0.1))
        for stage, score in (("tuning", tuned), ("final", final))
        for s in range(2)
    ]
    runs = pd.DataFrame(rows)
    assert samples.best_baseline(runs) == "static"
    runs.loc[(runs["arm"] == "static") & (runs["stage"] == "tuning"), "score"] = np.nan  # it diverged
    assert samples.best_baseline(runs) == "sum"
