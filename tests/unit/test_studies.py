"""The study's plan, its tables, and every measure on tables whose answer is known by hand."""

from dataclasses import asdict, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from matplotlib import pyplot as plt
from scipy.stats import binomtest

from lossatlas import artifacts, console, statistics, tables
from lossatlas.claims import load_ledger, measurement_rows
from lossatlas.config import load_schema, validate
from lossatlas.data import DataSet
from lossatlas.device import resolve
from lossatlas.errors import LossAtlasError
from lossatlas.figures import mli as figure_module
from lossatlas.interpolation import sweep
from lossatlas.minibatches import minibatch_rows
from lossatlas.problems.architectures import mlp
from lossatlas.problems.network import NetworkProblem, initial
from lossatlas.seeds import seed
from lossatlas.statistics import Interval
from lossatlas.studies import baselines
from lossatlas.studies.mli import controls, measurements, plan, runs, toys
from lossatlas.studies.mli.measurements import MEASURES, Tables
from lossatlas.studies.settings import Baseline

ROOT = Path(__file__).parents[2]
nan = float("nan")


@pytest.fixture
def few_resamples(monkeypatch):
    """For measures whose value alone is looked at: intervals from few resamples."""
    whole = statistics.spearman_interval
    monkeypatch.setattr(statistics, "spearman_interval", partial(whole, resamples=20))


# --- seeds and the plan -----------------------------------------------------------------------------------------------


def test_a_seed_is_named_by_its_axes_and_their_order():
    assert seed("mli", "digits", 3) == seed("mli", "digits", 3)
    names = [("mli", 3), (3, "mli"), ("mli", "3"), ("mli3",), ("m", "li", 3), ("mli", 3, 0), ("mli", 0.3)]
    assert len({seed(*axes) for axes in names}) == len(names)
    assert all(0 <= seed("x", i) < 2**63 for i in range(100))
    # frozen: sha256 of the text ["a",1], first 16 hexadecimal digits, halved
    assert seed("a", 1) == int(sha256(b'["a",1]').hexdigest()[:16], 16) // 2


def settings(tier="default"):
    schema = load_schema(ROOT / "workflow/schemas/config.schema.yaml")
    return validate(yaml.safe_load((ROOT / f"config/{tier}.yaml").read_text()), schema)["mli"]


@pytest.mark.parametrize("tier", ["smoke", "default", "paper"])
def test_the_plan_has_each_run_of_the_main_grids_exactly_once(tier):
    mli = settings(tier)
    found = plan.ensembles(mli)
    cells = [
        (b.data, b.hidden, b.architecture, b.optimizer, b.batch_norm, rate, s)
        for name, b in found.items()
        if any(name in (f"{g['name']}-{o}", f"{g['name']}-{o}-bn") for g in mli["grids"] for o in g["optimizers"])
        for rate, _, _, s in b.members()
    ]
    expected = [
        (g["data"], tuple(g["hidden"]), g["architecture"], optimizer, batch_norm, rate, s)
        for g in mli["grids"]
        for optimizer in g["optimizers"]
        for batch_norm in {"resnet_identity": (True,), "resnet_fixup": (False,)}.get(g["architecture"], (False, True))
        for rate in g["learning_rates"]
        for s in range(g["seeds"])
    ]
    assert sorted(cells) == sorted(expected)
    assert len(set(cells)) == len(cells)


@pytest.mark.parametrize("tier", ["smoke", "default", "paper"])
def test_no_run_of_the_plan_is_trained_twice_under_two_names(tier):
    found = plan.ensembles(settings(tier))
    runs = {}
    for name, b in found.items():
        about = asdict(replace(b, learning_rates=(), initial_scales=(), pushes=(), seeds=()))
        for rate, scale, push, s in b.members():
            strength = b.push_strength if push else 0.0
            key = str({**about, "push_strength": strength, "member": (rate, scale, push, s)})
            runs.setdefault(key, []).append(name)
    assert [names for names in runs.values() if len(names) > 1] == []


@pytest.mark.parametrize("tier", ["smoke", "default", "paper"])
def test_controls_and_figure_take_ensembles_of_the_plan(tier):
    found = plan.ensembles(settings(tier))
    chosen = plan.controls(found)
    assert set(chosen) <= set(found)
    assert {arm for arms in chosen.values() for arm in arms} >= set(plan.LINES)
    assert set(plan.drawn(found)) <= set(found)
    assert len(plan.drawn(found)) == 4


def test_autoencoders_have_their_width_optimisers_rates_and_epochs():
    own = {"bottlenecks": [5, 2], "autoencoder_width": 64, "autoencoder_optimizers": ["momentum", "adam"]}
    mli = {**settings(), **own, "autoencoder_rates": [0.1, 0.2], "autoencoder_epochs": 7}
    found = {name: b for name, b in plan.ensembles(mli).items() if b.autoencoder}
    assert {name: (b.hidden, b.optimizer) for name, b in found.items()} == {
        "digits-autoencoder5": ((64, 5, 64), "momentum"),
        "digits-autoencoder2": ((64, 2, 64), "momentum"),
        "digits-autoencoder5-adam": ((64, 5, 64), "adam"),
        "digits-autoencoder2-adam": ((64, 2, 64), "adam"),
    }
    assert {(b.learning_rates, b.epochs) for b in found.values()} == {((0.1, 0.2), 7)}
    inherited = plan.ensembles({**mli, "autoencoder_epochs": 0})["digits-autoencoder5"]
    assert inherited.epochs == mli["grids"][0]["epochs"]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "digits"},  # of another grid: its results would overwrite that one's
        {"data": "cifar10"},  # no filter for the runs that train
        {"optimizers": ["adam"]},  # nothing to start the variations from
    ],
)
def test_grids_that_cannot_be_planned_are_refused_in_a_sentence(change):
    mli = settings()
    which = 0 if "optimizers" in change else 1
    mli["grids"][which] = {**mli["grids"][which], **change}
    with pytest.raises(LossAtlasError, match="grid"):
        plan.ensembles(mli)


def test_members_are_the_product_of_their_settings_in_order_and_survive_json():
    b = Baseline("digits", (4,), learning_rates=(0.1, 0.2), initial_scales=(1.0, 0.5), pushes=(0.0, 2.0), seeds=(0, 1))
    members = b.members()
    assert len(members) == len(set(members)) == 16
    assert members[:3] == [(0.1, 1.0, 0.0, 0), (0.1, 1.0, 0.0, 1), (0.1, 1.0, 2.0, 0)]
    assert Baseline.from_parameters(artifacts.normalise(asdict(b))) == b


# --- training, runs and controls on a tiny data set -------------------------------------------------------------------


def tiny_data(n=24, name="tiny"):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n + 8, 6, generator=generator)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return DataSet(name, x[:n], y[:n], x[n:], y[n:], 3)


TINY = Baseline("digits", (8, 8), epochs=2, batch_size=8, learning_rates=(0.1, 0.3), seeds=(0, 1))
MLI = {
    "points": 6,
    "control_points": 6,
    "logit_rows": 24,
    "trained_loss": {"digits": 100.0},
    "variation_rates": [0.1],
    "fresh_starts": 2,
}


def trained(baseline, data=None):
    found = baselines.run(baseline, data or tiny_data())
    names = ("initial", "final", "losses", "diverged_at")
    return {name: getattr(found, name).numpy() for name in names}


def run_table(baseline, mli=MLI, data=None):
    table, curves = runs.measure(baseline, trained(baseline, data), data or tiny_data(), mli, "cpu")
    return pd.DataFrame(table), curves


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("autoencoder", [False, True])
def test_every_member_has_one_row_and_one_curve(batch_norm, autoencoder):
    baseline = replace(TINY, batch_norm=batch_norm, autoencoder=autoencoder)
    table, curves = run_table(baseline)
    members = list(table[["learning_rate", "initial_scale", "push", "seed"]].itertuples(index=False, name=None))
    assert members == baseline.members()
    assert curves["loss"].shape == (4, 6)
    assert ("loss_ema" in curves) == batch_norm
    followed = table["delta"].notna()
    assert followed.tolist() == (table["trained"] if table["trained"].any() else table["loss_end"].rank() == 1).tolist()
    np.testing.assert_allclose(table["loss_start"][followed], curves["loss"][followed, 0], rtol=0)
    np.testing.assert_allclose(table["loss_end"][followed], curves["loss"][followed, -1], rtol=0)
    table = table[followed]
    assert table["error_end"].isna().all() == autoencoder
    assert table["delta_ema"].notna().all() == batch_norm
    assert (table["delta_fine"] >= table["delta"]).all()  # a nested refinement


def test_of_a_run_that_did_not_train_only_the_ends_are_told_and_the_others_do_not_change():
    last = run_table(TINY)[0]["loss_end"]
    limit = last.sort_values().iloc[1:3].mean()  # two of the four runs are below it
    some, curves = run_table(TINY, {**MLI, "trained_loss": {"digits": limit}})
    every, all_curves = run_table(TINY)
    trained = some["trained"]
    assert trained.tolist() == (last < limit).tolist()
    assert trained.sum() == 2
    pd.testing.assert_frame_equal(some[trained], every[trained], check_exact=True)
    assert (some["loss_end"] == last).all()
    assert some.loc[~trained, "delta"].isna().all()
    assert curves["loss"][torch.tensor(~trained.to_numpy())].isnan().all()
    torch.testing.assert_close(
        *(c["loss"][torch.tensor(trained.to_numpy())] for c in (curves, all_curves)), rtol=0, atol=0
    )


def test_the_held_out_line_meets_the_statistics_of_the_training_rows():
    baseline = replace(TINY, batch_norm=True)
    _table, curves = run_table(baseline)
    problems = baselines.problems(baseline, tiny_data())
    start, end = (torch.as_tensor(trained(baseline)[name]) for name in ("initial", "final"))
    independent = sweep(problems.test, start, end, 6)  # finds them at each point by itself
    torch.testing.assert_close(curves["test_loss"], independent.loss, rtol=1e-5, atol=0)  # float32
    torch.testing.assert_close(curves["test_error"], independent.error, rtol=0, atol=0)


@pytest.mark.parametrize("logit_rows", [2, 8, 24])
def test_any_number_of_logit_rows_can_be_measured(logit_rows):
    table, _ = run_table(TINY, {**MLI, "logit_rows": logit_rows})
    assert table["gauss"].notna().all()
    assert table["certified_share"].between(0, 1).all()


def test_runs_whose_paths_are_measured_one_by_one_have_the_same_row(monkeypatch):
    together = run_table(TINY)[0]
    monkeypatch.setattr(runs, "PATH_BYTES", 1)
    # angles and shares in float64; a product of matrices may be summed in another order
    pd.testing.assert_frame_equal(run_table(TINY)[0], together, check_exact=False, rtol=1e-9)


def test_depth_counts_the_hidden_layers():
    for baseline, depth in (
        (TINY, 2),
        (replace(TINY, hidden=(8,)), 1),
        (replace(TINY, architecture="cnn", hidden=(4, 4, 4)), 3),
    ):
        assert set(run_table(baseline)[0]["depth"]) == {depth}


@pytest.mark.parametrize(
    ("architecture", "batch_norm"),
    [("resnet", False), ("resnet", True), ("resnet_identity", True), ("resnet_fixup", False)],
)
def test_a_residual_network_is_followed_from_where_its_kind_starts(architecture, batch_norm):
    data = tiny_data()
    images = [torch.nn.functional.pad(x.view(-1, 1, 2, 3), (0, 1, 0, 2)) for x in (data.train_x, data.test_x)]
    data = replace(data, train_x=images[0], test_x=images[1])
    baseline = replace(TINY, architecture=architecture, batch_norm=batch_norm, hidden=(8, 2, 3, 4))
    table, curves = run_table(baseline, data=data)
    assert set(table["depth"]) == {8}
    assert set(table["architecture"]) == {f"{architecture}-8-2-3-4-relu"}
    assert curves["loss"].isfinite().all()
    if architecture == "resnet_fixup":  # all outputs are 0 at first
        np.testing.assert_allclose(table["loss_start"], np.log(3), rtol=1e-6)  # float32
        assert (curves["error"][:, 0] == 1).all()


def test_distance_is_divided_by_the_norm_of_the_start():
    found = trained(TINY)
    table, _ = run_table(TINY)
    distance = np.linalg.norm((found["final"] - found["initial"]).astype(float), axis=1)
    # norms of float32 parameters
    np.testing.assert_allclose(table["distance"], distance, rtol=1e-5)
    start = np.linalg.norm(found["initial"].astype(float), axis=1)
    np.testing.assert_allclose(table["relative_distance"], distance / start, rtol=1e-5)


def test_a_run_that_diverged_has_its_row_and_is_not_trained():
    table, _ = run_table(replace(TINY, learning_rates=(0.1, 1e30), batch_size=8))
    assert (table["diverged_at"] >= 0).tolist() == [False, False, True, True]
    assert table["trained"].tolist() == [True, True, False, False]
    assert np.isfinite(table["distance"]).all()


def test_another_rate_or_seed_moves_no_number_of_the_runs_there_were():
    few = run_table(TINY)[0].set_index(["learning_rate", "seed"])
    many = run_table(replace(TINY, learning_rates=(0.01, 0.1, 0.3), seeds=(0, 1, 2)))[0]
    many = many.set_index(["learning_rate", "seed"]).loc[few.index]
    few, many = (t.drop(columns="noise") for t in (few, many))  # measured on the first runs of an ensemble alone
    pd.testing.assert_frame_equal(few, many, check_exact=True)


def lines(baseline, arms=plan.LINES, mli=MLI):
    return pd.DataFrame(controls.measure(arms, baseline, trained(baseline), tiny_data(), mli, "cpu"))


def test_another_rate_seed_or_arm_moves_no_number_of_the_controls_there_were():
    keys = ["arm", "index", "learning_rate", "seed"]
    few = lines(TINY).set_index(keys)
    more = {**MLI, "variation_rates": [0.01, 0.1], "fresh_starts": 3}
    many = lines(replace(TINY, learning_rates=(0.01, 0.1), seeds=(0, 1, 2)), mli=more).set_index(keys)
    few = few[~few.index.get_level_values("arm").isin(["init-init", "end-end"])]  # whose partner is the next seed
    pd.testing.assert_frame_equal(few, many.loc[few.index], check_exact=True)
    some = lines(TINY, ("own", "permuted")).set_index(keys)
    pd.testing.assert_frame_equal(some, lines(TINY).set_index(keys).loc[some.index], check_exact=True)


def test_each_control_is_the_line_that_it_names():
    found = trained(TINY)
    table, own = lines(TINY), run_table(TINY)[0]
    own = own[own["learning_rate"] == 0.1]

    def of(arm, index=0):
        return table[(table["arm"] == arm) & (table["index"] == index)].reset_index(drop=True)

    assert len(of("own")) == 2  # one a seed at the variation rate
    # float32 losses of order 1, evaluated in other chunks
    close = {"rtol": 1e-5, "atol": 1e-6}
    for column in ("loss_start", "loss_end", "delta"):
        np.testing.assert_allclose(of("own")[column], own[column], **close)
    for arm in ("fresh", "noise", "zero", "homogeneous"):
        np.testing.assert_allclose(of(arm)["loss_end"], own["loss_end"], **close)
    np.testing.assert_allclose(of("zero")["loss_start"], np.log(3), **close)  # all logits are 0
    np.testing.assert_allclose(of("homogeneous")["loss_start"], own["loss_start"], **close)
    for column in ("loss_start", "loss_end"):
        np.testing.assert_allclose(of("permuted")[column], own[column], **close)
    assert not np.allclose(of("noise")["loss_start"], own["loss_start"], **close)
    assert of("fresh", 0)["loss_start"].nunique() == 1  # one start for all
    assert of("fresh", 0)["loss_start"][0] != of("fresh", 1)["loss_start"][0]
    np.testing.assert_allclose(of("init-init")["loss_start"], own["loss_start"], **close)
    np.testing.assert_allclose(of("init-init")["loss_end"], own["loss_start"].iloc[::-1], **close)
    np.testing.assert_allclose(of("end-end")["loss_end"], own["loss_end"].iloc[::-1], **close)
    assert set(table[table["arm"] == "layer-own"]["index"]) == {0, 1, 2}

    problem = baselines.problems(TINY, tiny_data()).train
    layout, start, end = problem.layout, *(torch.as_tensor(found[n][:2]) for n in ("initial", "final"))
    for index, layer in enumerate(("1", "3", "5")):
        parts = {n: v.clone() for n, v in layout.split(end).items()}
        back = layout.split(start)
        for name in (f"{layer}.weight", f"{layer}.bias"):
            parts[name] = back[name]
        mixed = torch.cat([parts[name].flatten(1) for name in layout.names], -1)
        np.testing.assert_allclose(of("layer-own", index)["loss_start"], problem(mixed), **close)
        assert of("layer-own", index)["delta"].isna().all()  # only the ends are known


def test_noise_has_the_norm_of_the_start():
    start = torch.as_tensor(trained(TINY)["initial"])[:2]
    problem = baselines.problems(TINY, tiny_data()).train
    members = [m for m in TINY.members() if m[0] == 0.1]
    every = controls._lines(problem, TINY, tiny_data(), members, start, start, MLI)
    ((_, _, noise, _, _),) = [line for line in every if line[0] == "noise"]
    torch.testing.assert_close(noise.norm(dim=-1), start.norm(dim=-1), rtol=1e-5, atol=0)  # float32


def test_on_the_homogeneous_schedule_the_winner_never_changes_and_on_the_linear_one_it_does():
    # from zero, z = alpha^3 s + alpha^3 b, so the order of the classes is that at the end (after Wang et al. 2022)
    problem = NetworkProblem(mlp((1, 1, 1, 2)).double(), torch.ones(1, 1).double(), torch.zeros(1, dtype=torch.int64))
    end = torch.tensor([[1.0, 0, 1.0, 0, 2.0, 1.0, 0, 0.3]], dtype=torch.float64)  # signals 2 and 1, biases 0 and 0.3
    start = torch.zeros_like(end)
    linear, bent = (sweep(problem, start, end, 50, exponents=e).error[0] for e in (None, controls.homogeneous(problem)))
    assert bent[1:].tolist() == [0.0] * 49  # at zero all logits are equal
    switch = 0.3**0.5
    assert linear[1:].tolist() == [float(i / 49 < switch) for i in range(1, 50)]


@pytest.mark.parametrize("near", [0, 1])
def test_the_placebo_is_the_nearest_network_that_trained_at_the_far_distance(near):
    baseline = replace(TINY, learning_rates=(0.05,), pushes=(1.0, 2.0, 6.0), push_strength=0.1, epochs=6)
    found, members = dict(trained(baseline)), baseline.members()
    problem = baselines.problems(baseline, tiny_data()).train
    of_push = [[i for i, m in enumerate(members) if m[2] == push] for push in (1.0, 2.0)]
    if near == 1:  # one run of the first push did not train
        found["final"] = found["final"].copy()
        found["final"][of_push[0][-1]] *= 40
    losses = problem(torch.as_tensor(found["final"]))
    limit = 1.001 * float(losses[of_push[near]].max())
    if near == 1:
        assert losses[of_push[0][-1]] > limit
    mli = {**MLI, "trained_loss": dict.fromkeys(MLI["trained_loss"], limit)}
    table = pd.DataFrame(controls.measure(("placebo",), baseline, found, tiny_data(), mli, "cpu"))
    assert set(table["index"]) == {near}
    assert table["seed"].tolist() == [members[i][3] for i in of_push[near]]
    for column, name in (("loss_start", "initial"), ("loss_end", "final")):
        # the same function, in float32
        np.testing.assert_allclose(table[column], problem(torch.as_tensor(found[name][of_push[near]])), rtol=1e-4)


def test_the_push_of_a_network_has_its_closed_form():
    problem = NetworkProblem(
        mlp((6, 5, 3), batch_norm=True).double(), torch.zeros(2, 6).double(), torch.zeros(2, dtype=torch.int64)
    )
    start = initial(lambda: mlp((6, 5, 3), batch_norm=True), [0, 1, 2]).double()
    pushes = torch.tensor([0.0, 2.0, 3.0]).double()
    penalty = baselines.push_outwards(problem, start, pushes, 0.7)
    theta = (
        start + 0.3 * torch.randn(start.shape, generator=torch.Generator().manual_seed(0)).double()
    ).requires_grad_()
    value = penalty(theta)
    expected = []
    for i, c in enumerate(pushes.tolist()):
        total = 0.0
        for name in problem.layout.names:
            before = problem.layout.split(start[i])[name].norm().item()
            now = problem.layout.split(theta.detach()[i])[name].norm().item()
            if c > 0 and before > 0:  # a tensor that starts at zero has no radius
                total += (now - c * before) ** 2
        expected.append(0.7 * total)
    assert value.tolist() == pytest.approx(expected, rel=1e-12)
    (slope,) = torch.autograd.grad(value.sum(), theta)
    assert slope.isfinite().all()
    at_start = penalty(start.clone().requires_grad_())
    assert at_start[0].item() == 0


def test_a_push_moves_the_weights_outwards_and_no_push_changes_nothing():
    still = trained(replace(TINY, push_strength=0.0))
    pushed = trained(replace(TINY, pushes=(0.0, 4.0), push_strength=0.05))
    members = replace(TINY, pushes=(0.0, 4.0)).members()
    plain = [i for i, m in enumerate(members) if m[2] == 0]
    far = [i for i, m in enumerate(members) if m[2] == 4]
    # adding a penalty of zero; more members beside it
    np.testing.assert_allclose(pushed["final"][plain], still["final"], rtol=1e-5, atol=1e-6)
    assert (np.linalg.norm(pushed["final"][far], axis=1) > 1.5 * np.linalg.norm(still["final"], axis=1)).all()


def test_arms_of_one_architecture_share_their_starts_and_orders():
    one, other = trained(TINY), trained(replace(TINY, optimizer="adam", learning_rates=(0.01, 0.1)))
    np.testing.assert_array_equal(one["initial"], other["initial"])
    np.testing.assert_array_equal(one["initial"][:2], one["initial"][2:])  # by seed, not by rate
    half = trained(replace(TINY, initial_scales=(0.5,)))
    np.testing.assert_array_equal(half["initial"], one["initial"] / 2)
    a, b = (torch.cat(list(minibatch_rows(24, 8, [s], 0))) for s in (0, 1))
    assert not torch.equal(a, b)


def test_held_out_rows_are_normalised_by_the_training_rows():
    baseline, data = replace(TINY, batch_norm=True), tiny_data()
    problems = baselines.problems(baseline, data)
    theta = torch.as_tensor(trained(baseline)["final"])
    whole = problems.test.logits(theta)
    # one row at a time gives the same logits, in float32
    torch.testing.assert_close(problems.test.on(torch.tensor([3])).logits(theta), whole[:, 3:4], rtol=1e-4, atol=1e-5)


def test_an_autoencoder_reproduces_its_input_and_a_cnn_takes_vectors_as_signals():
    data = tiny_data()
    problem = baselines.problems(replace(TINY, autoencoder=True), data).train
    theta = initial(lambda: problem.module, [0])
    z = problem.logits(theta)[0]
    torch.testing.assert_close(problem(theta)[0], (z - data.train_x).square().sum(-1).mean())
    signals = baselines.problems(replace(TINY, architecture="cnn", hidden=(4,)), data).train
    assert signals.x.shape == (24, 1, 6)


# --- measures: tables of which the answer is known by hand ------------------------------------------------------------

RUN = {
    "ensemble": "digits-momentum",
    "data": "digits",
    "architecture": "mlp-8-8-relu",
    "depth": 2,
    "optimizer": "momentum",
    "batch_norm": False,
    "autoencoder": False,
    "learning_rate": 0.1,
    "initial_scale": 1.0,
    "push": 0.0,
    "seed": 0,
    "diverged_at": -1,
    "trained": True,
    "loss_start": 2.0,
    "loss_end": 0.01,
    "delta": 0.0,
    "delta_2021": 0.0,
    "delta_ema": nan,
    "delta_error": 0.0,
    "delta_fine": 0.0,
    "distance": 1.0,
    "plateau_loss": 0.2,
    "plateau_error": 0.2,
    "test_error": 0.1,
    "turning": 1.0,
    "turning_certified": 1.0,
    "certified_share": 1.0,
    "certified": 5,
    "certified_rises": 0,
    "stacked_certified": True,
    "gauss": 1.0,
    "gauss_certified": 1.0,
    "gauss_flips": 0.0,
    "gauss_paths": 7.0,
    "noise": nan,
}
LINE = {
    "ensemble": "digits-momentum",
    "arm": "own",
    "index": 0,
    "learning_rate": 0.1,
    "seed": 0,
    "loss_start": 2.0,
    "loss_end": 0.01,
    "delta": 0.0,
    "delta_error": 0.0,
    "plateau_loss": 0.2,
    "plateau_error": 0.2,
}
YES, NO = 0.5, 0.0005  # above and below the threshold


def frame(rows, like):
    return (
        pd.DataFrame([like, *({**like, **row} for row in rows)]).iloc[1:].reset_index(drop=True)
    )  # kinds also if empty


def measured(identity, rows, lines=()):
    return MEASURES[identity](Tables(frame(rows, RUN), frame(lines, LINE)))


def value_and_n(interval):
    return interval.value, interval.n


def grid(**columns):
    """Rows that differ in the columns given, all of one length."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def test_every_measure_is_a_claim_and_every_claim_of_a_tier_has_its_measure():
    ledger = load_ledger(ROOT / "claims")
    ours = {c.id: c for c in ledger.claims if c.study in ("mli", "baselines")}
    assert set(MEASURES) <= set(ours)
    missing = {name for name, claim in ours.items() if claim.tiers} - set(MEASURES)
    assert missing <= {"mli.flip_augmented"}  # augmented loaders: no tier trains with augmentation


def test_typical_is_the_share_of_monotone_runs_among_trained_sgd_runs():
    rows = grid(
        delta=[NO, YES, NO, NO, YES, YES, YES, YES, YES],
        learning_rate=[0.1, 0.1, 0.3, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1],
        trained=[True] * 4 + [False] + [True] * 4,
        optimizer=["momentum"] * 5 + ["adam"] + ["momentum"] * 3,
        initial_scale=[1.0] * 6 + [0.5, 1.0, 1.0],
        push=[0.0] * 7 + [2.0, 0.0],
        autoencoder=[False] * 8 + [True],
        seed=[0, 1, 0, 1, 2, 0, 0, 0, 0],
    )
    assert value_and_n(measured("mli.typical", rows)) == (0.75, 2)


def test_a_run_at_exactly_the_threshold_is_monotone():
    assert measured("mli.typical", [{"delta": 0.001}, {"delta": 0.0010001, "seed": 1}]).value == 0.5


def test_configurations_are_what_the_bootstrap_draws():
    # two configurations, all alike inside: the limits are the means of one configuration drawn twice
    rows = grid(delta=[YES] * 5 + [NO] * 5, learning_rate=[0.1] * 5 + [0.3] * 5, seed=[*range(5), *range(5)])
    found = measured("mli.typical", rows)
    assert (found.value, found.low, found.high, found.n) == (0.5, 0.0, 1.0, 2)


def test_persists_is_the_share_of_cells_at_their_best_and_median_rate():
    def cell(rates, seeds=5, **about):
        return [
            {**about, "learning_rate": rate, "loss_end": loss, "trained": trains, "delta": delta, "seed": s}
            for rate, loss, trains, delta in rates
            for s in range(seeds)
        ]

    rows = cell([(0.01, 0.09, True, NO), (0.1, 0.05, True, NO), (1.0, 0.02, True, YES), (3.0, 0.01, False, YES)])
    rows += cell([(0.1, 0.01, True, NO), (0.3, 5.0, False, YES)], optimizer="adam")  # best and median are one rate
    rows += cell([(0.1, 0.01, False, NO)], batch_norm=True)  # never trains
    # momentum: best 1.0 violates, median 0.1 does not, so 5 of 10; adam: 5 of 5, whose Wilson limit is 0.566
    found = measured("mli.persists", rows)
    assert (found.value, found.n, found.low, found.high) == (0.5, 2, 0.5, 0.5)
    assert measured("mli.persists", cell([(0.1, 0.01, True, NO)], seeds=3)).value == 0  # 3 of 3: limit 0.44


def test_sufficient_counts_certified_paths_that_rise():
    found = measured("mli.sufficient", grid(certified_rises=[0, 2, 1], certified=[4, 3, 2], seed=[0, 1, 2]))
    assert found == Interval(3.0, 3.0, 3.0, 9)


@pytest.mark.parametrize(
    ("identity", "column"),
    [
        ("mli.certified_share", "certified_share"),
        ("mli.certified_smooth", "gauss_certified"),
        ("mli.certified_polygon", "turning_certified"),
    ],
)
def test_certified_shares_are_means_over_trained_squared_error_runs(identity, column):
    rows = [
        {"autoencoder": a, "trained": t, column: share, "learning_rate": rate}
        for a, t, share, rate in [
            (True, True, 0.25, 0.1), (True, True, 0.75, 0.3), (True, False, 0.0, 0.1), (False, True, 0.0, 0.1)
        ]
    ]  # fmt: skip
    assert value_and_n(measured(identity, rows)) == (0.5, 2)


def test_certified_runs_are_those_whose_stacked_path_is():
    rows = grid(autoencoder=[True] * 4 + [False], stacked_certified=[True, False, False, False, True])
    assert measured("mli.certified_runs", rows).value == 0.25


def push_rows(near, far, nearest=()):
    rows = [{"push": 1.0, "trained": t, "delta": NO, "seed": s} for s, t in enumerate(nearest)]
    rows += [{"push": 2.0, "trained": True, "delta": d, "seed": s} for s, d in enumerate(near)]
    rows += [{"push": 8.0, "trained": t, "delta": d, "seed": s} for s, (t, d) in enumerate(far)]
    return [{**row, "ensemble": "digits-push"} for row in rows]


def test_violations_compare_the_far_arm_with_the_nearest_that_trains_seed_by_seed():
    near = [NO, NO, YES, NO]
    far = [(True, YES), (True, YES), (True, YES), (False, NO)]
    found = measured("mli.violations", push_rows(near, far, nearest=[True, False, True, True]))
    assert value_and_n(found) == (pytest.approx(2 / 3), 3)  # seeds 0 to 2, which trained in both
    # Agresti and Min: two discordant of three, half an observation in each cell
    centre, spread = 2 / 5, ((2 + 1) / 5 - (2 / 5) ** 2) / 5
    assert found.low == pytest.approx(centre - 1.959964 * spread**0.5, abs=1e-6)
    assert found.high == pytest.approx(min(1, centre + 1.959964 * spread**0.5), abs=1e-6)


def test_violations_are_absent_without_two_arms():
    for rows in ([{}], push_rows([], [(True, YES)])):
        assert measured("mli.violations", rows) is None
        assert measured("mli.placebo", rows, [{"arm": "placebo"}]) is None


def test_systematic_takes_the_arm_with_the_highest_share_and_pays_for_the_choice():
    rows = push_rows([YES, NO, NO, NO], [(True, YES), (True, YES), (True, YES), (True, NO)])
    rows += [{"ensemble": "digits-scale", "initial_scale": 0.5, "delta": NO, "seed": s} for s in range(4)]
    rows += [{"learning_rate": 1.0, "delta": YES if s == 0 else NO, "seed": s} for s in range(4)]
    found = measured("mli.violations_systematic", rows)
    assert value_and_n(found) == (0.75, 4)
    limits = binomtest(3, 4).proportion_ci(1 - 0.05 / 4, method="wilson")  # arms: two pushes, a scale and a rate
    assert (found.low, found.high) == pytest.approx((limits.low, limits.high))


def ranks(**columns):
    return grid(learning_rate=[0.01, 0.03, 0.1, 0.3], **columns)


@pytest.mark.parametrize(
    ("identity", "x", "y"),
    [
        ("mli.violations_trend", "distance", "delta"),
        ("mli.gauss_smooth_delta", "gauss", "delta"),
        ("mli.gauss_polygon_delta", "turning", "delta"),
        ("mli.gauss_smooth_distance", "gauss", "distance"),
        ("mli.gauss_polygon_distance", "turning", "distance"),
    ],
)
@pytest.mark.usefixtures("few_resamples")
def test_correlations_are_spearmans_over_trained_classifiers(identity, x, y):
    rows = ranks(**{x: [1.0, 2.0, 3.0, 4.0], y: [0.0, 0.2, 0.1, 0.9]})
    # ranks 1 2 3 4 and 1 3 2 4: 1 - 6 * 2 / (4 * 15)
    left_out = [{x: 9.0, y: -1.0, "trained": False}, {x: 9.0, y: -1.0, "autoencoder": True}]
    found = measured(identity, rows + left_out)
    assert value_and_n(found) == (pytest.approx(0.8), 4)


@pytest.mark.parametrize("other", ["delta", "distance"])
@pytest.mark.usefixtures("few_resamples")
def test_polygon_turning_is_correlated_over_all_trained_runs_also_those_without_a_smooth_length(other):
    rows = ranks(turning=[1.0, 2.0, 3.0, 4.0], **{other: [0.0, 0.2, 0.1, 0.9]}, gauss=[1.0, nan, 1.0, nan])
    assert measured(f"mli.gauss_polygon_{other}", rows).value == pytest.approx(0.8)


@pytest.mark.usefixtures("few_resamples")
def test_a_trend_within_rates_holds_the_rate_fixed():
    # between rates: strongly positive; within each: exactly opposed
    rows = grid(
        learning_rate=[0.1] * 3 + [1.0] * 3,
        distance=[1.0, 2.0, 3.0, 11.0, 12.0, 13.0],
        delta=[0.3, 0.2, 0.1, 1.3, 1.2, 1.1],
        seed=[0, 1, 2] * 2,
    )
    assert measured("mli.violations_trend", rows).value > 0
    assert measured("mli.violations_trend_within_lr", rows).value == pytest.approx(-1)


def test_a_correlation_with_a_constant_has_no_limits():
    found = measured("mli.violations_trend", ranks(delta=[0.0] * 4))
    assert np.isnan(found.low)
    assert np.isnan(found.high)


@pytest.mark.parametrize(
    ("identity", "factor", "arm", "ensemble"),
    [
        ("mli.bn", "batch_norm", (False, True), ("digits-momentum", "digits-momentum-bn")),
        ("mli.adam", "optimizer", ("momentum", "adam"), ("digits-momentum", "digits-adam")),
    ],
)
def test_factors_are_compared_in_pairs_that_trained_in_both(identity, factor, arm, ensemble):
    rows = []
    for rate, s, without, having, trains in [
        (0.1, 0, NO, YES, True),
        (0.1, 1, NO, YES, True),
        (0.3, 0, YES, NO, True),
        (0.3, 1, NO, NO, True),
        (1.0, 0, NO, YES, False),
        (3.0, 0, NO, YES, True),
    ]:
        about = {"learning_rate": rate, "seed": s}
        rows.append({**about, factor: arm[0], "ensemble": ensemble[0], "delta": without})
        if rate != 3.0:  # no partner at 3.0
            rows.append({**about, factor: arm[1], "ensemble": ensemble[1], "delta": having, "trained": trains})
    rows += [{"ensemble": "digits-depth4", factor: arm[1], "delta": YES}]  # no grid run
    assert value_and_n(measured(identity, rows)) == (0.25, 2)  # two rates, (1 + 1 - 1 + 0) / 4


@pytest.mark.usefixtures("few_resamples")
def test_the_effect_of_the_rate_is_taken_within_each_arm():
    rows = []
    for batch_norm, deltas in ((False, [NO, NO, YES]), (True, [NO, YES, YES])):
        name = "digits-momentum-bn" if batch_norm else "digits-momentum"
        for rate, delta in zip([0.1, 0.3, 1.0], deltas, strict=True):
            rows.append({"ensemble": name, "batch_norm": batch_norm, "learning_rate": rate, "delta": delta})
    # centred ranks (-1, 0, 1) with (-.5, -.5, 1) and (-1, .5, .5): both 1.5; norms 2 and 1.5: 3 / sqrt(4 * 3)
    assert measured("mli.lr", rows).value == pytest.approx(3 / (4 * 3) ** 0.5)


def test_published_tables_pool_their_data_sets_at_their_threshold():
    rows = [{"data": d, "ensemble": f"{d}-momentum", "delta": delta} for d, delta in
            [("mnist", YES), ("mnist", NO), ("fashion_mnist", NO), ("fashion_mnist", NO),
             ("cifar10", NO), ("cifar10", 0.0), ("digits", YES)]]  # fmt: skip
    assert value_and_n(measured("mli.table1", rows)) == (0.25, 4)
    for identity in ("mli.table2", "mli.table3"):
        assert value_and_n(measured(identity, rows)) == (0.5, 2)


def test_resnets_are_averaged_over_seeds():
    rows = [{"data": "cifar10", "architecture": "resnet-20-relu", "ensemble": "cifar10-momentum", "seed": s,
             "learning_rate": rate, "plateau_loss": p, "delta": 0.02, "loss_start": 2.0}
            for s, rate, p in [(0, 0.1, 0.4), (0, 0.01, 0.6), (1, 0.1, 0.7)]]  # fmt: skip
    assert value_and_n(measured("mli.frankle_plateau", rows)) == (pytest.approx(0.6), 2)
    assert measured("mli.frankle_roughly", rows).value == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("identity", "arm", "column"),
    [
        ("mli.any_init", "fresh", "delta"),
        ("mli.fresh_init", "fresh", "delta_error"),
        ("mli.zero_init", "zero", "delta_error"),
        ("mli.noise_init", "noise", "delta_error"),
    ],
)
def test_other_starts_are_compared_with_the_own_one_network_by_network(identity, arm, column):
    rows = grid(seed=[0, 1, 2, 3], trained=[True, True, True, False], learning_rate=[0.1, 0.1, 0.3, 0.3])
    keys = [{"seed": r["seed"], "learning_rate": r["learning_rate"]} for r in rows]
    lines = [{**k, "arm": "own", column: d} for k, d in zip(keys, [NO, YES, NO, NO], strict=True)]
    for index in (0, 1):
        deltas = [NO, NO, YES if index else NO, YES]
        lines += [{**k, "arm": arm, "index": index, column: d} for k, d in zip(keys, deltas, strict=True)]
    # shares 1, 1, 1/2 against 1, 0, 1 for the three that trained; (0 + 1) / 2 and -1/2 at the two rates
    assert value_and_n(measured(identity, rows, lines)) == (pytest.approx((0.5 - 0.5) / 2), 2)


def test_a_permuted_end_is_counted_by_its_violations():
    rows = grid(seed=[0, 1], learning_rate=[0.1, 0.3])
    lines = [{**r, "arm": "own", "delta": NO} for r in rows]
    lines += [{**r, "arm": "permuted", "delta": d} for r, d in zip(rows, [YES, NO], strict=True)]
    found = measured("mli.permuted_end", rows, lines)
    assert (found.value, found.n) == (0.5, 2)
    assert found.low <= found.value <= found.high


def test_the_bias_plateau_is_that_of_the_deepest_network_by_seed():
    rows = [
        {"ensemble": "digits-depth6", "depth": 6, "seed": s, "learning_rate": r} for s in (0, 1) for r in (0.1, 0.3)
    ]
    rows += [{"seed": 0}]
    plateaus = {(0, 0.1): (0.6, 0.2), (0, 0.3): (0.4, 0.2), (1, 0.1): (0.7, 0.2), (1, 0.3): (nan, 0.2)}
    lines = []
    for (s, rate), (linear, homogeneous) in plateaus.items():
        about = {"ensemble": "digits-depth6", "seed": s, "learning_rate": rate}
        lines += [{**about, "arm": "own", "plateau_error": linear}]
        lines += [{**about, "arm": "homogeneous", "plateau_error": homogeneous}]
    lines += [{"arm": "own", "plateau_error": 0.0}, {"arm": "homogeneous", "plateau_error": 0.9}]
    found = measured("mli.plateau_bias", rows, lines)  # seeds: (0.4 + 0.2) / 2 and 0.5
    assert value_and_n(found) == (pytest.approx(0.4), 2)
    half = 12.7062 * (0.02 / 2) ** 0.5  # Student, one degree of freedom; variance (0.1² + 0.1²)
    assert found.high - found.value == pytest.approx(half, rel=1e-4)


def test_the_choice_among_equally_deep_networks_does_not_depend_on_the_hash_of_their_names():
    outcomes = set()
    for i in range(12):
        names = [f"a{i}-momentum", f"b{i}-momentum"]
        rows = [{"ensemble": name} for name in names]
        lines = [
            {"ensemble": name, "arm": arm, "plateau_error": plateau}
            for name, own in zip(names, (0.5, 0.9), strict=True)
            for arm, plateau in (("own", own), ("homogeneous", 0.2))
        ]
        outcomes.add(round(measured("mli.plateau_bias", rows, lines).value, 6))
    assert len(outcomes) == 1


def test_the_depth_plateau_is_the_deepest_against_the_grid_by_rate_and_seed():
    rows = [{"seed": s, "plateau_error": p} for s, p in ((0, 0.2), (1, 0.1))]
    rows += [{"ensemble": "digits-depth4", "depth": 4, "seed": 0, "plateau_error": 0.9}]
    rows += [
        {"ensemble": "digits-depth6", "depth": 6, "seed": s, "plateau_error": p}
        for s, p in ((0, 0.5), (1, 0.6), (2, 0.9))
    ]
    rows += [{"ensemble": "digits_deep-momentum", "depth": 4, "seed": 0, "plateau_error": 0.5}]  # another grid
    assert value_and_n(measured("mli.plateau_depth", rows)) == (pytest.approx(0.4), 2)


@pytest.mark.parametrize(
    ("identity", "x"), [("mli.not_hardness_delta", "delta"), ("mli.not_hardness_plateau", "plateau_error")]
)
@pytest.mark.usefixtures("few_resamples")
def test_hardness_is_correlated_with_accuracy_within_an_architecture(identity, x):
    rows = []
    for architecture, level in (("mlp-8-8-relu", 0.0), ("mlp-9-relu", 0.5)):
        for s, (shape, error) in enumerate([(0.1, 0.10), (0.2, 0.20), (0.3, 0.15)]):
            # the second architecture has higher values and lower errors throughout
            rows.append({"architecture": architecture, x: shape + level, "test_error": error - 0.15 * level, "seed": s,
                         "learning_rate": level + 0.1})  # fmt: skip
    rows += [{x: nan, "test_error": 0.5}] if x != "delta" else []
    # accuracy falls as ranks 3 1 2: within each, -(1 - 6 * 2 / 24)
    assert measured(identity, rows).value == pytest.approx(-0.5)


def test_layers_differ_by_the_share_of_variance_between_them():
    # logarithms of rises of the loss by seed and layer; own and fresh starts differ by factors that cancel
    logarithms = np.array([[-2.0, -0.5, 1.0], [-1.2, -0.3, 0.7], [-1.6, -2.3, 1.0], [-0.9, -0.1, 1.2]])
    rows = [{"seed": s, "learning_rate": rate} for s in range(4) for rate in (0.1, 0.3)]
    lines = [
        {"arm": arm, "index": layer, "learning_rate": rate, "seed": s,
         "loss_start": 0.01 + np.exp(logarithms[s, layer] + shift + tilt)}
        for s in range(4)
        for layer in range(3)
        for arm, shift in (("layer-own", -0.3), ("layer-fresh", 0.3))
        for rate, tilt in ((0.1, -0.2), (0.3, 0.2))
    ]  # fmt: skip
    lines += [{"arm": "layer-own", "index": 0, "seed": 9, "loss_start": 5.0}]  # its network did not train
    found = measured("mli.layers", rows, lines)
    centred = logarithms - logarithms.mean(1, keepdims=True)
    share = (centred.mean(0) ** 2).mean() / (centred**2).mean()
    assert found.n == 4
    # shuffled rows are independent with mean zero, so their mean share is 1 / seeds; 2000 shuffles, spread under 1/4
    assert found.value == pytest.approx(share - 1 / 4, abs=4 * 0.25 / 2000**0.5)
    assert found.low <= found.value <= found.high


def test_the_placebo_is_compared_with_the_far_arm_seed_by_seed():
    rows = push_rows([NO] * 4, [(True, YES)] * 3 + [(True, NO)])
    lines = [
        {"ensemble": "digits-push", "arm": "placebo", "index": 0, "seed": s, "delta": d}
        for s, d in enumerate([YES, NO, NO, NO])
    ]
    assert value_and_n(measured("mli.placebo", rows, lines)) == (-0.5, 4)


@pytest.mark.parametrize(
    ("identity", "column"), [("mli.flip_delta2021", "delta_2021"), ("mli.flip_bn_ema", "delta_ema")]
)
def test_flips_count_the_runs_that_change_sides(identity, column):
    rows = [{"delta": d, column: o, "trained": t} for d, o, t in
            [(YES, NO, True), (NO, YES, True), (YES, YES, True), (NO, 0.0, True), (YES, NO, False)]]  # fmt: skip
    rows += [{"delta": YES, column: nan}] if column == "delta_ema" else []
    assert value_and_n(measured(identity, rows)) == (2, 4)


def test_flips_of_the_threshold_lie_above_zero_and_not_above_the_threshold():
    rows = grid(delta=[0.0, 1e-9, 0.001, 0.0011, 0.0005], trained=[True] * 4 + [False])
    assert value_and_n(measured("mli.flip_threshold", rows)) == (2, 4)


def test_flips_of_the_gauss_length_are_paths_of_trained_runs():
    rows = grid(gauss_flips=[3.0, nan, 2.0, 4.0], gauss_paths=[8.0, nan, 8.0, 8.0], trained=[True, True, True, False])
    assert value_and_n(measured("mli.flip_gl_smooth", rows)) == (5, 16)


def test_the_grid_check_allows_the_threshold_or_a_twentieth():
    rows = grid(delta=[0.0, 0.0, 1.0, 1.0], delta_fine=[0.0009, 0.002, 1.04, 1.06])
    assert value_and_n(measured("mli.grid_check", rows)) == (0.5, 4)


def test_the_noise_floor_is_the_greatest():
    rows = grid(noise=[1e-6, 3e-6, nan, 1.0], trained=[True, True, True, False])
    assert value_and_n(measured("mli.noise_floor", rows)) == (3e-6, 2)


def test_runs_that_diverge_and_runs_that_train_are_shares_of_all():
    rows = grid(diverged_at=[-1, 0, 7, -1], trained=[True, False, False, False])
    assert value_and_n(measured("baselines.diverged", rows)) == (0.5, 4)
    assert value_and_n(measured("baselines.trained", rows)) == (0.25, 4)


@pytest.mark.parametrize("depth", toys.DEPTHS)
def test_the_toys_hit_their_closed_forms(depth):
    assert toys.zero_start_error(depth) < 1e-12  # float64
    assert toys.plateau_switch_error(depth) < 1e-12


def test_claims_whose_runs_are_absent_are_left_out_and_none_of_them_crashes():
    only = Tables(frame([{"trained": False, "diverged_at": 3, "delta": nan}], RUN), frame([], LINE))
    found = measurements.measure(only)
    assert set(found) == {
        "baselines.diverged", "baselines.trained", "mli.sufficient", "mli.zero_init_exact", "mli.plateau_toy"
    }  # fmt: skip


def test_networks_of_one_data_set_have_their_own_cells_and_the_published_table_all_of_them():
    rows = [
        {"data": "cifar10", "ensemble": f"{name}-momentum", "architecture": f"{kind}-20-relu", "delta": d}
        for name, kind, d in (
            ("cifar10", "resnet", NO),
            ("cifar10_fixup", "resnet_fixup", YES),
            ("cifar10_fixup", "resnet_fixup", NO),
        )
    ]
    table = measurements.monotone_table(Tables(frame(rows, RUN), frame([], LINE))).set_index("architecture")
    assert table["violating_share"].to_dict() == {"resnet-20-relu": 0.0, "resnet_fixup-20-relu": 0.5}
    assert value_and_n(measured("mli.table2", rows)) == (1.0, 3)  # every delta above 0 counts there
    assert measured("mli.frankle_roughly", rows).n == 1  # of the plain network


def test_the_monotone_table_has_every_cell_with_its_n():
    rows = grid(
        delta=[YES, NO, YES, NO],
        trained=[True, True, False, True],
        diverged_at=[-1, -1, 4, -1],
        learning_rate=[0.1, 0.1, 0.1, 0.3],
        seed=[0, 1, 2, 0],
    )
    table = measurements.monotone_table(Tables(frame(rows, RUN), frame([], LINE))).set_index("learning_rate")
    assert table.loc[0.1, ["runs", "trained", "diverged"]].tolist() == [3, 2, 1]
    assert table.loc[0.1, "violating_share"] == 0.5
    assert table.loc[0.1, "violating_mean"] == YES  # of the violating runs only, as released
    assert table.loc[0.1, "median"] == pytest.approx((YES + NO) / 2)
    assert table.loc[0.3, "violating_share"] == 0
    assert np.isnan(table.loc[0.3, "violating_mean"])  # missing, not a number


def test_tables_of_many_ensembles_keep_every_row_and_its_name(tmp_path):
    for name, n in (("a-momentum", 2), ("b-adam", 3)):
        artifacts.save_table(tmp_path / f"{name}.csv", [{"seed": i} for i in range(n)], parameters={}, code="c")
    joined = tables.joined([artifacts.load_table(tmp_path / f"{n}.csv") for n in ("a-momentum", "b-adam")])
    assert list(zip(joined["ensemble"], joined["seed"], strict=True)) == [
        ("a-momentum", 0), ("a-momentum", 1), ("b-adam", 0), ("b-adam", 1), ("b-adam", 2)
    ]  # fmt: skip


def test_measurement_rows_have_the_units_of_the_ledger():
    found = {"mli.typical": Interval(np.float64(0.5), 0.1, nan, np.int64(3))}
    (row,) = measurement_rows(found, load_ledger(ROOT / "claims"), "x.csv")
    assert row["unit"] == "share"
    assert (row["id"], row["measured"], row["n"], row["artifact"]) == ("mli.typical", 0.5, 3, "x.csv")
    assert {type(row[c]) for c in ("measured", "low", "high")} == {float}


# --- what the console says --------------------------------------------------------------------------------------------


class Rule:
    def __init__(self, name):
        self.name = name


class Job:
    def __init__(self, name):
        self.rule = Rule(name)


class Workflow:
    cores = 2

    class dag:
        @staticmethod
        def needrun_jobs():
            return [Job("train"), Job("train"), Job("claims")]


def test_the_cost_is_said_before_with_tier_device_jobs_and_minutes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {"tier": "smoke", "device": "cpu"}
    line = console.cost_line(Workflow(), config)
    assert "smoke" in line
    assert "CPU" in line
    assert "3 jobs" in line
    costs = Path("results/reference/smoke/costs.csv")
    costs.parent.mkdir(parents=True)
    costs.write_text("rule,jobs,seconds\ntrain,4,1200\nclaims,1,5\n")
    assert "5 min" in console.cost_line(Workflow(), config)  # (2 * 300 + 5) / 2 cores, a good five minutes


def test_a_failure_shows_the_end_of_each_failed_log_and_the_way_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("logs").mkdir()
    Path("logs/train.log").write_text("\n".join(f"line {i}" for i in range(100)))
    Path("snakemake.log").write_text(
        "Building DAG\nError in rule train:\n    jobid: 3\n    output: x.npz\n"
        "    log: logs/train.log (check log file(s) for error details)\n\nComplete log: somewhere\n"
    )
    text = console.failure_lines(["snakemake.log"])
    assert "failed: train" in text
    assert "logs/train.log" in text
    assert "line 99" in text
    assert "line 5\n" not in text
    assert "again" in text
    assert "failed" in console.failure_lines(["no such file"])


def test_the_end_names_the_files_that_are_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {"tier": "smoke"}
    assert "results" not in console.done_line(config)
    for name in ("report.html", "claims.csv"):
        path = Path("results/smoke", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert str(path) in console.done_line(config)


def test_the_cpu_is_always_there_and_a_missing_gpu_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve("cpu") == resolve("auto") == "cpu"
    with pytest.raises(LossAtlasError, match="auto or cpu"):
        resolve("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [resolve(name) for name in ("cpu", "auto", "cuda")] == ["cpu", "cuda", "cuda"]


# --- the figure -------------------------------------------------------------------------------------------------------


def recorded(arms):
    rows, curves = [], {}
    for optimizer, batch_norm in arms:
        name = f"digits-{optimizer}{'-bn' if batch_norm else ''}"
        for rate in (0.1, 1.0):
            rows += [
                {"ensemble": name, "optimizer": optimizer, "batch_norm": batch_norm, "learning_rate": rate, "seed": s,
                 "delta": 10.0 ** -(s + 1) * rate, "distance": 1.0 + s + rate, "turning": 1.0 + s}
                for s in range(2)
            ]  # fmt: skip
        alphas = np.linspace(0, 1, 5)
        path = f"results/smoke/mli/runs/{name}.npz"
        curves[path] = artifacts.Artifact(
            path, {"alphas": alphas, "loss": np.outer([2, 2, 1, 1], 1 - alphas**2 / 2)}, {}
        )
    runs = frame(rows, RUN)
    return runs, measurements.monotone_table(Tables(runs, frame([], LINE))), curves


FOUR = [("momentum", False), ("momentum", True), ("adam", False), ("adam", True)]


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_figure_has_the_same_bytes_each_time_it_is_drawn(kind, tmp_path):
    for i in range(2):
        figure = figure_module.draw(*recorded(FOUR))
        figure_module.save(figure, tmp_path / f"{i}.{kind}")
        plt.close(figure)
    one, other = ((tmp_path / f"{i}.{kind}").read_bytes() for i in range(2))
    assert one == other
    assert len(one) > 1000
    assert str(tmp_path).encode() not in one


def test_a_figure_drops_no_arm_and_marks_the_thresholds():
    arms = [*FOUR, ("rmsprop", False), ("adagrad", False)]
    runs, table, curves = recorded(arms)
    figure = figure_module.draw(runs, table, curves)
    shares, distance, turning = figure.axes[1:4]
    assert len(shares.containers) == len(arms)
    assert len(distance.collections) >= len(arms)
    points = sum(len(c.get_offsets()) for c in distance.collections)
    assert points == len(runs)
    levels = [line.get_ydata()[0] for axes in (distance, turning) for line in axes.lines]
    assert levels.count(1e-3) == 2
    assert any(line.get_xdata()[0] == pytest.approx(np.pi / 2) for line in turning.lines)
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)
    plt.close(figure)


def test_the_panels_of_one_grid_are_named_and_filled_by_the_grid_whose_curves_are_drawn():
    runs, _, curves = recorded(FOUR)
    other = runs.assign(data="cifar10", ensemble="cifar10-" + runs["optimizer"], learning_rate=7.0)  # first by name
    runs = pd.concat([other, runs], ignore_index=True)
    figure = figure_module.draw(runs, measurements.monotone_table(Tables(runs, frame([], LINE))), curves)
    lines, shares = figure.axes[:2]
    assert lines.get_title(loc="left").endswith("digits")
    assert shares.get_title(loc="left").endswith("digits")
    assert shares.get_xlim()[1] < 7
    plt.close(figure)


def test_a_figure_can_be_drawn_when_runs_diverged_or_none_trained():
    runs, table, curves = recorded(FOUR)
    runs.loc[0, ["trained", "delta", "distance"]] = [False, nan, nan]
    figure = figure_module.draw(runs, table, curves)
    figure.canvas.draw()
    plt.close(figure)
