"""The study's plan, its jobs on tiny data, and every measure on tables whose answer is known by hand."""

from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from matplotlib import pyplot as plt

from lossatlas import barriers, mode_curves
from lossatlas.checkpoint import Checkpoint
from lossatlas.claims import load_ledger
from lossatlas.config import load_schema, validate
from lossatlas.data import DataSet
from lossatlas.elastic_band import AUTONEB_13C8BA8, CORRECTED, nebs
from lossatlas.errors import LossAtlasError
from lossatlas.figures import autoneb as figures
from lossatlas.geometric_ensembles import Geometric, Released
from lossatlas.statistics import Interval
from lossatlas.studies import baselines
from lossatlas.studies.autoneb import (
    comparison,
    controls,
    dropped,
    ensembles,
    exploration,
    journal,
    levels,
    measurements,
    paths,
    penalised,
    plan,
    stability,
    surfaces,
    tree_tables,
)
from lossatlas.studies.autoneb.measurements import trends
from lossatlas.studies.settings import Baseline
from lossatlas.training import train

ROOT = Path(__file__).parents[2]


def settings(tier="default"):
    schema = load_schema(ROOT / "workflow/schemas/config.schema.yaml")
    return validate(yaml.safe_load((ROOT / f"config/{tier}.yaml").read_text()), schema)["autoneb"]


# --- the plan ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["smoke", "default", "paper"])
def test_every_part_of_the_study_has_the_minima_it_needs_and_pairs_share_none(tier):
    autoneb = settings(tier)
    found = plan.ensembles(autoneb)
    minima = {name: len(baseline.seeds) for name, baseline in found.items()}
    own = plan.bands(autoneb)
    assert set(own) == set(found)
    for name, how in own.items():
        used = [m for pair in plan.disjoint_pairs(how["bands"]) for m in pair]
        assert len(set(used)) == len(used)
        assert max(used) < minima[name]
    compared = autoneb["comparison"]
    judged = {m for pair in plan.disjoint_pairs(compared["pairs"]) for m in pair}
    tuned = {m for pair in plan.tuning_pairs(compared) for m in pair}
    fresh = {m for pair in plan.judged_pairs(compared) for m in pair}
    assert len(judged | tuned | fresh) == len(judged) + len(tuned) + len(fresh)
    assert max(judged | tuned | fresh) < minima[plan.ensemble(compared["network"])]
    groups = [m for group in plan.groups(autoneb["tree"]) for m in group]
    assert len(set(groups)) == len(groups)
    assert max(groups) < minima[plan.ensemble(autoneb["tree"]["network"])]


def test_five_units_are_the_floor_of_what_is_judged_at_the_default_tier():
    autoneb = settings()
    trend = [n for n in autoneb["networks"] if n["architecture"] == "mlp" and not n["batch_norm"]]
    assert all(network["bands"] >= 5 for network in trend)
    assert autoneb["comparison"]["pairs"] >= 5
    assert autoneb["comparison"]["published_pairs"] >= 5
    assert autoneb["tree"]["groups"] >= 5
    assert autoneb["tree"]["minima"] >= 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a["networks"][0].update(minima=3), "disjoint pairs"),
        (lambda a: a["networks"].append(a["networks"][0]), "different names"),
        (lambda a: a["tree"].update(network="nowhere"), "none of the networks"),
        (lambda a: a["tree"].update(groups=50), "needs 250 minima"),
        (lambda a: a["comparison"].update(norm_network="nowhere"), "none of the networks"),
        (lambda a: a["ensembles"].update(network="nowhere"), "none of the networks"),
        (lambda a: a["dropped"].update(network="digits_cnn"), "digits_cnn must be a perceptron"),
        (lambda a: a["networks"][4].update(hidden=[63, 63]), "digits_w64 must be a perceptron.*even width"),
    ],
)
def test_plans_that_cannot_be_run_are_refused_in_a_sentence(change, said):
    autoneb = settings()
    change(autoneb)
    with pytest.raises(LossAtlasError, match=said):
        plan.ensembles(autoneb)


def test_a_round_reads_every_part_of_every_round_before_it():
    tree = {"rounds": 2, "parts": 2}
    assert plan.parts(tree) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert plan.former_parts(tree, 0) == []
    assert plan.former_parts(tree, 2) == [(0, 0), (0, 1), (1, 0), (1, 1)]


# --- the jobs on tiny data --------------------------------------------------------------------------------------------


def tiny_data(n=60):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n + 20, 6, generator=generator)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return DataSet("tiny", x[:n], y[:n], x[n:], y[n:], 3)


TINY = Baseline("tiny", (6, 6), epochs=12, batch_size=20, seeds=tuple(range(8)))
SETTINGS = {
    "bands": 1,
    "band_batch": 20,
    "band_steps": 1.0,
    "band_decay": 0.0,
    "gap_points": 2,
    "look_gaps": 4,
    "matched_loss": 0.8,
    "schedule": [
        {"steps": 6, "learning_rate": 0.1, "insert": "equal", "count": 2},
        {"steps": 6, "learning_rate": 0.01, "insert": "highest", "count": 1},
    ],
    "tree": {"groups": 2, "minima": 3, "rounds": 1, "per_round": 1, "parts": 2},
    "comparison": {
        "pairs": 2,
        "tuning_pairs": 1,
        "learning_rates": [0.03, 0.1],
        "curve_rates": [0.3, 1.0],
        "points_per_step": 3,
        "published_pairs": 1,
        "published_steps": 0.001,
        "ours_steps": 1.0,
    },
    "stability": {"initialisations": 2, "orders": 2, "branches": [0.0, 0.5], "points": 5},
    "controls": {"networks": 1, "xor_networks": 1},
    "penalised": {"weight_decays": [0.01, 0.1], "pairs": 2, "tuning_pairs": 1},
    "dropped": {"keep": [1.0, 0.5], "pairs": 2, "candidates": 5},
    "ensembles": {"weight_decay": 0.0, "groups": 2, "start": 0.5, "cycle": 2},
}


@pytest.fixture(scope="module")
def minima():
    run = baselines.run(TINY, tiny_data())
    return {"initial": run.initial.numpy(), "final": run.final.numpy(), "losses": run.losses.numpy()}


@pytest.fixture(scope="module")
def problems():
    return baselines.problems(TINY, tiny_data())


@pytest.fixture(scope="module")
def setting(minima):
    return comparison.Setting.of(TINY, minima, tiny_data(), SETTINGS, "cpu")


def columns_are_documented(rows, *documented):
    names = {name for row in rows for name in row}
    known = set(barriers.COLUMNS).union(*documented)
    assert names <= known, names - known
    assert all(list(row) == list(rows[0]) for row in rows)


def test_levels_has_a_row_for_each_pair_and_arm_and_documents_each_column(minima, problems):
    found = levels.measure(TINY, minima, tiny_data(), SETTINGS, "cpu")
    assert [row["arm"] for row in found.rows[:3]] == ["segment", "matched", "autoneb"]
    columns_are_documented(found.rows, levels.PAIR_COLUMNS, paths.BAND_COLUMNS)
    segment, matched, band = found.rows[:3]
    ends = barriers.means(problems.train, torch.as_tensor(minima["final"][:2]))[0]
    for row in found.rows[:3]:
        assert row["train_loss_start"] == pytest.approx(float(ends[0]))
        assert row["train_loss_end"] == pytest.approx(float(ends[1]))
        assert row["train_loss_saddle"] >= max(row["train_loss_start"], row["train_loss_end"])
    assert matched["distance"] < segment["distance"]
    assert band["train_loss_saddle"] <= segment["train_loss_saddle"] + 1e-6  # the start counts as cycle 0
    assert band["end_shift"] == 0
    assert segment["half"] <= segment["train_loss_over_line"] + 1e-9


def test_stopped_minima_lie_just_below_the_loss_they_are_stopped_at(minima, problems):
    found = levels._stopped(TINY, problems.train, torch.as_tensor(minima["initial"]), SETTINGS)
    losses = barriers.means(problems.train, found[found.isfinite().all(-1)])[0]
    assert len(losses) > 0
    assert (losses < 0.8).all()
    never = levels._stopped(TINY, problems.train, torch.as_tensor(minima["initial"]), {"matched_loss": 1e-9})
    assert never.isnan().all()


def test_a_training_of_one_epoch_is_stopped_after_it_or_never(minima, problems):
    """Half of one epoch, the first milestone, is no epoch."""
    short = replace(TINY, epochs=1, schedule="milestones", milestones=(0.5, 0.75))
    found = levels._stopped(short, problems.train, torch.as_tensor(minima["initial"]), {"matched_loss": 1e9})
    assert found.isfinite().all()


def test_a_rounds_parts_are_its_bands_each_once_whoever_computes_them(minima, problems):
    def part(number, former=(), former_paths=None, round_number=0):
        return exploration.measure(
            TINY, minima, tiny_data(), SETTINGS, former, former_paths or {}, round_number, number, "cpu"
        )

    (rows, pivots), (others, other_pivots) = part(0), part(1)
    star = rows + others
    columns_are_documented(star, exploration.TREE_COLUMNS, paths.BAND_COLUMNS)
    assert len(star) == 2 * 2
    assert len({(row["group"], row["i"], row["j"]) for row in star}) == len(star)
    for group in (0, 1):
        mine = [row for row in star if row["group"] == group]
        hub = set.intersection(*({row["i"], row["j"]} for row in mine))
        losses = barriers.means(problems.train, torch.as_tensor(minima["final"][3 * group : 3 * group + 3]))[0]
        assert int(losses.argmin()) in hub
    later, later_pivots = part(0, star, pivots | other_pivots, 1)
    again, _ = part(0, list(reversed(star)), other_pivots | pivots, 1)
    assert later == again
    assert {row["start"] for row in later} <= set(exploration.STARTS)
    both = later + part(1, star, pivots | other_pivots, 1)[0]
    assert sorted(row["start"] for row in both) == ["concatenated"] * 2 + ["straight"] * 2
    budget = paths.cost_limit(paths.schedule(SETTINGS), problems.train.rows)
    assert all(row["sample_gradients"] <= 1.25 * budget for row in both)  # looks vary a little in length
    for name, path in later_pivots.items():
        group, i, j, _ = name.split("-")
        ends = torch.as_tensor(minima["final"][3 * int(group) : 3 * int(group) + 3])[[int(i), int(j)]]
        assert torch.equal(path[[0, -1]], ends)


def test_all_arms_of_the_budget_spend_no_more_than_it_and_join_the_same_minima(setting, minima):
    found = comparison.measure("budget", setting, dict.fromkeys(comparison.TUNED, 0.1))
    assert [row["arm"] for row in found.rows] == [arm for arm in comparison.BUDGET_ARMS for _ in range(2)]
    schedule = paths.schedule(setting.settings)
    # all steps, on the pivots that there are if no bump is found after the first cycle; the ends go forward only
    moving = schedule.cycles[0].pivots(2) - 2
    floor = (
        sum(c.steps for c in schedule.cycles) * (moving + 2 / 3) * (schedule.batch_size or setting.problems.train.rows)
    )
    for row in found.rows:
        assert row["sample_gradients"] <= setting.budget * 1.02, row["arm"]  # a look may need one refinement more
        # AutoNEB spares the pivots for which it finds no bump; if its lowest path has all, it spared none
        if row["arm"].startswith("autoneb"):
            assert row["sample_gradients"] >= floor, row["arm"]
        spared = row["arm"].startswith("autoneb") and row["pivots"] < paths.final_pivots(schedule)
        if not row["arm"].startswith("segment") and not spared:
            # 0.7: steps of a tiny schedule are whole numbers, and its looks are not refined as often as they may be
            assert row["sample_gradients"] >= 0.7 * setting.budget, row["arm"]
    for _, rows in pd.DataFrame(found.rows).groupby("pair"):
        for column in ("train_loss_start", "train_loss_end", "test_error_end"):  # matching leaves the function alone
            np.testing.assert_allclose(rows[column], rows[column].iloc[0], rtol=1e-5)
    by_arm = {row["arm"]: row for row in found.rows if row["pair"] == 0}
    assert by_arm["segment"]["sample_gradients"] == 0
    assert by_arm["neb-fixed"]["pivots"] >= by_arm["autoneb"]["pivots"]


def test_the_placebos_differ_from_the_method_in_what_they_are_named_for(setting):
    found = comparison.measure("placebos", setting, dict.fromkeys(comparison.TUNED, 0.1))
    assert [row["arm"] for row in found.rows] == [arm for arm in comparison.PLACEBOS for _ in range(2)]
    saddles = pd.DataFrame(found.rows).pivot_table(index="arm", columns="pair", values="train_loss_saddle")
    assert saddles.round(12).drop_duplicates().shape == saddles.shape


class Killed(Exception):
    pass


class Dying:
    """A store whose process is killed just after so many saves."""

    def __init__(self, store, saves):
        self.store, self.left = store, saves

    def load(self):
        return self.store.load()

    def save(self, state):
        self.store.save(state)
        self.left -= 1
        if not self.left:
            raise Killed


def same(first, second):
    """Whether two trees of rows and tensors are the same bit for bit; nothing equals NaN but NaN."""
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    return type(first) is type(second) and repr(first) == repr(second)


JOBS = ("levels", "round", "budget", "released", "tuning")


@pytest.fixture(scope="module")
def jobs(minima, setting):
    """By name, a job as a function of its store, to a tree of what it writes."""
    data = tiny_data()
    star = [exploration.measure(TINY, minima, data, SETTINGS, [], {}, 0, part, "cpu") for part in (0, 1)]
    rows, pivots = star[0][0] + star[1][0], star[0][1] | star[1][1]
    rates = dict.fromkeys(comparison.TUNED, 0.1)
    return {
        "levels": lambda store: vars(levels.measure(TINY, minima, data, SETTINGS, "cpu", store=store)),
        "round": lambda store: exploration.measure(
            TINY, minima, data, SETTINGS, rows, pivots, 1, 0, "cpu", store=store
        ),
        "budget": lambda store: vars(comparison.measure("budget", setting, rates, store=store)),
        "released": lambda store: vars(comparison.measure("released", setting, rates, store=store)),
        "tuning": lambda store: comparison.tune(setting, store=store),
    }


@pytest.mark.parametrize("name", JOBS)
def test_a_job_killed_between_cycles_goes_on_in_its_band_with_the_same_bits(name, jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "SAVE_SECONDS", 0.0)
    bands = []
    monkeypatch.setattr(
        import_module("lossatlas.elastic_band.auto_neb"), "nebs", lambda *a, **k: bands.append(1) or nebs(*a, **k)
    )
    whole = jobs[name](None)
    needed = len(bands)
    store = Checkpoint(tmp_path / "job.npz", {"job": name}, "code")
    bands.clear()
    # between cycles, and, in a job of several parts, between the end of a part and the next one
    for saves in (1, 1) if name == "round" else (1, 1, 2):
        with pytest.raises(Killed):
            jobs[name](Dying(store, saves))
    assert same(jobs[name](store), whole)
    assert len(bands) == needed  # no cycle ran twice


def test_what_takes_less_than_a_moment_is_not_saved(jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "SAVE_SECONDS", 1e9)
    jobs["round"](Checkpoint(tmp_path / "job.npz", {}, "code"))
    assert not (tmp_path / "job.npz").exists()


def test_the_released_family_corrects_one_switch_at_a_time():
    plain, normalised = comparison.released(False), comparison.released(True)
    for arms in (plain, normalised):
        for name, arm in arms.items():
            if name.startswith("corrected-"):
                switch = name.removeprefix("corrected-")
                changed = [f for f in asdict(arm) if asdict(arm)[f] != asdict(AUTONEB_13C8BA8)[f]]
                assert changed == [switch]
                assert getattr(arm, switch) == getattr(CORRECTED, switch)
    switches = {name for arms in (plain, normalised) for name in arms if name.startswith("corrected-")}
    differing = {f for f in asdict(CORRECTED) if asdict(CORRECTED)[f] != asdict(AUTONEB_13C8BA8)[f]}
    assert switches == {f"corrected-{name}" for name in differing}


def test_tuning_uses_only_its_own_pairs_and_takes_the_lowest_mean(setting):
    rows = [
        {"arm": "a", "learning_rate": r, "pair": p, "saddle": s}
        for r, values in ((0.1, (1.0, 3.0)), (0.3, (1.5, 1.5)), (1.0, (0.1, float("nan"))))
        for p, s in enumerate(values)
    ]
    assert comparison.best_rates(rows) == {"a": 0.3}
    found = comparison.tune(replace(setting, settings={**SETTINGS, "comparison": SETTINGS["comparison"]}))
    assert {row["arm"] for row in found} == set(comparison.TUNED)
    assert len(found) == len(comparison.TUNED) * 2


def test_a_schedule_is_fitted_to_a_budget_and_its_limit_is_the_cost_of_the_most_it_can_do():
    own = paths.schedule(SETTINGS)
    assert [cycle.steps for cycle in own.cycles] == [6, 6]
    assert [cycle.learning_rate for cycle in paths.schedule(SETTINGS, 0.2).cycles] == pytest.approx([0.2, 0.02])
    assert paths.final_pivots(own) == 5
    gradients = 20 * (6 * (2 + 2 / 3) + 6 * (3 + 2 / 3))
    looks = sum(own.look_points(n) for n in (2, 4, 5)) * 60 / 3
    assert paths.cost_limit(own, 60) == pytest.approx(gradients + looks)
    for budget in (5e3, 2e4, 1e5):
        longer = paths.fitted(own, 60, budget)
        assert paths.cost_limit(longer, 60) <= budget * 1.05
    fixed = paths.without_insertion(own, 5)
    assert paths.final_pivots(fixed) == 5
    assert fixed.cycles[0].pivots(2) == 5


def test_children_that_part_late_are_nearer_to_each_other():
    rows = pd.DataFrame(stability.measure(TINY, tiny_data(), SETTINGS, "cpu"))
    assert len(rows) == 2 * 2 * 1
    distance = rows.groupby("branch")["distance"].mean()
    assert distance[0.5] < distance[0.0]
    assert (rows["distance"] > 0).all()


def test_controls_whose_barrier_is_known_have_it(minima):
    rows = pd.DataFrame(controls.measure(TINY, minima, tiny_data(), SETTINGS, "cpu"))

    def of(control, path):
        return rows[(rows["control"] == control) & (rows["path"] == path)]

    assert (of("permuted", "matched")["recovered"] == 1).all()
    assert (of("permuted", "matched")["train_loss_over_line"].abs() < 1e-6).all()
    assert (of("dead-unit", "explicit")["train_loss_over_ends"] < 1e-6).all()
    assert (of("xor-spare", "explicit")["train_loss_over_ends"] < 1e-6).all()
    assert (of("xor-2", "segment")["train_loss_over_ends"] > 0.1).all()
    for depth in controls.COPY_DEPTHS:
        assert (of(f"copy-{depth}", "matched")["recovered"] == 1).all()
    assert (of("copy-1", "matched")["passes"] == 1).all()


def test_curves_with_a_penalty_have_its_terms_and_their_sum():
    rows = pd.DataFrame(penalised.measure(TINY, tiny_data(), SETTINGS, "cpu"))
    columns_are_documented(rows.to_dict("records"), penalised.PENALISED_COLUMNS)
    assert len(rows) == 2 * 2 * 2
    for place in ("ends", "middle"):
        sums = rows[f"loss_{place}"] + rows[f"penalty_{place}"]
        np.testing.assert_allclose(sums, rows[f"regularised_{place}"], rtol=1e-12)
    assert (rows["regularised_lowest"] <= rows["regularised_middle"]).all()
    assert (rows["regularised_saddle"] >= rows["regularised_middle"]).all()
    inside = rows["regularised_lowest"] < 2 * rows["regularised_ends"] - rows["regularised_higher_end"]
    assert (inside == rows["lowest_inside"]).all()
    # the ends are trained with the same penalty, so the stronger one leaves shorter vectors
    weak, strong = (rows[rows["weight_decay"] == decay] for decay in (0.01, 0.1))
    squared = [2 * part["penalty_ends"].mean() / part["weight_decay"].iloc[0] for part in (weak, strong)]
    assert squared[1] < squared[0]
    # both curves join the same pairs
    np.testing.assert_array_equal(*(part["loss_ends"] for _, part in weak.groupby("curve")))


def test_curves_are_trained_with_the_penalty_of_their_networks_and_tuned_on_other_pairs(monkeypatch):
    calls, train = [], mode_curves.train

    def noted(problem, ends, recipe, rate, generator):
        calls.append((recipe.kind, recipe.weight_decay, ends))
        return train(problem, ends, recipe, rate, generator)

    monkeypatch.setattr(mode_curves, "train", noted)
    penalised.measure(TINY, tiny_data(), SETTINGS, "cpu")
    assert [call[:2] for call in calls[::2]] == [(k, d) for d in (0.01, 0.1) for k in ("bezier", "polychain")]
    for (_, decay, tuned), (_, same, judged) in zip(calls[::2], calls[1::2], strict=True):
        trained = baselines.run(replace(TINY, weight_decay=decay, seeds=tuple(range(6))), tiny_data()).final
        assert decay == same
        assert torch.equal(judged.flatten(0, 1), trained[:4])
        assert torch.equal(tuned, trained[4:].expand(2, -1, -1))  # at each of two rates


def test_paths_through_dropped_networks_keep_to_their_bound():
    rows, profiles = dropped.measure(TINY, tiny_data(), SETTINGS, "cpu")
    columns_are_documented(rows, dropped.DROPPED_COLUMNS)
    frame = pd.DataFrame(rows)
    assert len(frame) == 2 * 2 * 2
    explicit = frame[frame["path"] == "dropped"]
    # float32: sums in another order
    np.testing.assert_allclose(explicit["train_loss_saddle"], explicit["bound"], rtol=1e-5)
    shares, drawn = (1.0, 0.5), ("dropped", "segment")
    assert set(profiles) == {f"{k}_{p}_{v}" for k in shares for p in drawn for v in ("arc", "loss")}
    ends = frame.pivot_table(index=["keep", "pair"], columns="path", values="train_loss_start")
    np.testing.assert_array_equal(ends["dropped"], ends["segment"])
    # with all units kept the networks are the ordinary ones; dropout makes others of the same starts
    plain = baselines.run(replace(TINY, seeds=(0, 2)), tiny_data()).final
    wanted = barriers.means(baselines.problems(TINY, tiny_data()).train, plain)[0]
    np.testing.assert_allclose(ends.loc[1.0, "dropped"], wanted, rtol=1e-4)  # autograd rounds otherwise
    assert (abs(ends.loc[0.5, "dropped"] / ends.loc[1.0, "dropped"] - 1) > 0.01).all()


def test_a_network_that_diverges_is_named_and_not_measured():
    wild = replace(TINY, learning_rates=(1e20,))
    for part in (penalised, dropped, ensembles):
        name = part.__name__.rpartition(".")[-1]
        with pytest.raises(LossAtlasError, match=rf"autoneb\.{name}: .* diverged.*learning_rate"):
            part.measure(wild, tiny_data(), SETTINGS, "cpu")


def test_the_arms_of_ensembles_differ_in_the_rate_of_their_last_steps_alone():
    problem = baselines.problems(TINY, tiny_data()).train
    starts = baselines.starts(TINY, tiny_data(), [0, 1])
    found = ensembles.trained(problem, replace(TINY, weight_decay=0.1), starts, [0, 1], start=0.5, cycle=2)
    recipe = Released(steps=36, batch_size=20, weight_decay=0.1)  # 12 epochs of 3 steps

    def by_hand(recipe, steps):
        run = train(problem, starts, recipe, 0.1, orders=[0, 1], keep=steps)
        return torch.stack([run.kept[step] for step in steps], 1)

    middles = [21, 27, 33]  # of the cycles of 6 steps from step 18 on
    assert torch.equal(found["snapshots"], by_hand(recipe, middles))
    assert torch.equal(found["independent"], by_hand(recipe, [36]))
    rates = {"start": 18, "cycle": 6}
    assert torch.equal(found["geometric"], by_hand(Geometric(**asdict(recipe), **rates, high=0.5, low=0.1), middles))
    assert torch.equal(found["constant"], by_hand(Geometric(**asdict(recipe), **rates, high=0.2, low=0.2), middles))


def test_rows_of_ensembles_are_those_of_their_groups_and_of_the_configured_decay():
    problem = baselines.problems(TINY, tiny_data()).test
    members = torch.randn(6, 3, problem.dim, generator=torch.Generator().manual_seed(0))
    rows = pd.DataFrame(ensembles._rows(problem, "geometric", members, 2))
    assert list(rows.columns) == list(ensembles.ENSEMBLE_COLUMNS)
    assert rows["members"].tolist() == [3, 6, 9] * 2
    other = members.clone()
    other[2] = other[2].flip(-1)
    changed = pd.DataFrame(ensembles._rows(problem, "geometric", other, 2))
    same = (rows == changed).all(axis=1).groupby(rows["group"]).agg(["all", "any"])
    assert same.loc[1, "all"]
    assert not same.loc[0, "any"]
    # all three runs in one, by hand
    each = [problem.logits(one[None])[0].softmax(-1) for one in members[3:].flatten(0, 1)]
    right = (torch.stack(each).mean(0).argmax(1) == problem.y).double().mean()
    assert rows["test_accuracy"].iloc[-1] == pytest.approx(float(right))
    alike = pd.DataFrame(ensembles._rows(problem, "x", members[:, :1].expand(-1, 3, -1), 2))
    assert (alike["disagreement"] == 0).all()
    assert (rows["disagreement"] > 0).all()

    def measured(decay):
        own = {**SETTINGS["ensembles"], "weight_decay": decay}
        return pd.DataFrame(ensembles.measure(TINY, tiny_data(), {**SETTINGS, "ensembles": own}, "cpu"))

    plain, decayed = measured(0.0), measured(0.3)
    assert len(plain) == 4 * 2 * 3
    assert (plain["test_loss"] != decayed["test_loss"]).all()


def test_xor_cannot_be_solved_by_one_hidden_unit_and_its_copies_compute_the_same():
    problems = controls.xor_problems(2)
    minima = controls.xor_minima(problems.train, 2)
    assert len(minima) >= 5
    assert barriers.means(problems.test, minima)[1].max() == 0
    three = controls.xor_problems(3)
    longer = torch.stack([controls.with_a_spare_unit(theta) for theta in minima])
    torch.testing.assert_close(three.train.logits(longer), problems.train.logits(minima), rtol=1e-5, atol=1e-5)


def test_the_weakest_springs_leave_pivots_at_minima_and_the_strongest_make_a_straight_line():
    a, b = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    weak, strong = (surfaces.mechanical(surfaces.WELL, a, b, spring) for spring in (1e-4, 1e6))
    assert torch.minimum((weak - a).norm(dim=-1), (weak - b).norm(dim=-1)).max() < 0.02
    torch.testing.assert_close(strong[:, 1], torch.zeros(len(strong), dtype=torch.float64), rtol=0, atol=1e-3)


def test_the_mechanical_model_on_a_quadratic_has_its_closed_form():
    """p_i = [p_0 sinh((N + 1 - i) q) + p_{N+1} sinh(i q)] / sinh((N + 1) q), 2 cosh q = 2 + h / k."""

    class Bowl:
        dim = 1

        def __call__(self, theta):
            return 0.5 * 3.0 * theta[..., 0].square()

    a, b, spring = torch.tensor([1.0]).double(), torch.tensor([-2.0]).double(), 0.7
    found = surfaces.mechanical(Bowl(), a, b, spring, 9)[:, 0]
    q, i = np.arccosh(1 + 3.0 / spring / 2), np.arange(9)
    expected = (1.0 * np.sinh((8 - i) * q) - 2.0 * np.sinh(i * q)) / np.sinh(8 * q)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-7)


# --- trees, and measures on tables whose answer is known --------------------------------------------------------------


def level_rows(barrier, arms=("segment", "matched", "autoneb", "stopped-autoneb"), widths=(8, 16, 32), depths=(1, 3)):
    """Rows of perceptrons whose barrier is a given function of width, depth and pair."""
    base = dict.fromkeys(barriers.COLUMNS, 0.1) | dict.fromkeys(levels.PAIR_COLUMNS, 0.5)
    base |= dict.fromkeys(paths.BAND_COLUMNS, 1.0) | {"outcome": "ok", "train_error_start": 0.0, "finite": True}
    rows = []
    for width, depth in [(w, 2) for w in widths] + [(16, d) for d in depths]:
        for pair in range(5):
            for arm in arms:
                value = barrier(width, depth, pair)
                rows.append(
                    base
                    | {"ensemble": f"autoneb-{width}-{depth}", "data": "digits", "architecture": f"mlp-{width}-{depth}"}
                    | {"family": "mlp", "width": width, "depth": depth, "dim": width * depth, "pair": pair, "arm": arm}
                    | {"train_loss_over_mean": value, "train_loss_over_line": value, "train_loss_saddle": 0.1 + value}
                    | {"train_loss_over_ends": value, "test_loss_over_mean": value, "test_loss_start": 0.3}
                    | {"test_loss_end": 0.3, "initial_loss": 2.3, "half": 0.9 * value}
                )
    return pd.DataFrame(rows)


TABLES = ("tree", "arms", "cycles", "controls", "stability", "penalised", "dropped", "ensembles", "surfaces")


def tables_of(levels_frame=None, **others):
    empty = {name: pd.DataFrame() for name in TABLES}
    return measurements.Tables(
        **(
            {"levels": pd.DataFrame() if levels_frame is None else levels_frame, "settings": settings()}
            | empty
            | others
        )
    )


def test_trends_have_the_slopes_and_ranks_that_the_barriers_were_made_with():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, 5)
    tables = tables_of(level_rows(lambda w, d, pair: np.exp(noise[pair]) * w**-1.5 * d**-2.0))
    found = {name: measurements.MEASURES[name](tables) for name in measurements.MEASURES if "slope" in name}
    assert found["slope_width"].value == pytest.approx(-1.5, abs=1e-9)
    assert found["slope_depth"].value == pytest.approx(-2.0, abs=1e-9)
    assert found["slope_difference"].value == pytest.approx(-0.5, abs=1e-9)
    assert found["slope_width"].n == 5
    ranks = measurements.MEASURES["trend_width_train"](tables)
    assert (ranks.value, ranks.low) == (-1, -1)
    assert ranks.high > -1  # five blocks that agree are no certainty
    assert measurements.MEASURES["depth_raises"](tables).value == pytest.approx(-2.0, abs=1e-9)


def test_networks_too_narrow_to_fit_the_data_are_no_part_of_a_trend():
    frame = level_rows(lambda w, d, pair: 1.0 / w)
    frame.loc[frame["width"] == 8, "train_error_start"] = 0.2
    assert set(trends.family_of(frame, "width")["width"]) == {16, 32}


def test_the_peak_of_the_width_grid_is_compared_with_the_first_width_that_fits():
    frame = level_rows(lambda w, d, pair: {8: 1.0, 16: 2.0, 32: 0.5}[w])
    assert (
        measurements.MEASURES["width_peak"](tables_of(frame)).value == 1
    )  # all widths fit: the peak is one step above
    frame.loc[frame["width"] == 8, "train_error_start"] = 0.01
    assert measurements.MEASURES["width_peak"](tables_of(frame)).value == 0
    fall = measurements.MEASURES["width_falls"](tables_of(frame))
    assert fall.value == pytest.approx(-2)


def test_the_level_of_a_saddle_is_0_at_the_training_and_1_at_the_test_loss():
    frame = level_rows(lambda w, d, pair: {1: 0.2, 2: 0.1, 3: 0.0}[d])  # minima 0.1, test loss 0.3
    tables = tables_of(frame)
    assert measurements.MEASURES["level_shallow"](tables).value == pytest.approx(1)
    assert measurements.MEASURES["level_deep"](tables).value == pytest.approx(0)
    assert measurements.MEASURES["level_trend"](tables).value == pytest.approx(1)


def tree_rows(saddles, group=0, n=4, rounds=None, start="straight"):
    base = {"group": group, "minima": n, "start": start, "start_saddle": 9.0, "train_loss_start": 1.0}
    return [
        base
        | {"i": i, "j": j, "order": order, "round": (rounds or {}).get((i, j), 0)}
        | {"train_loss_saddle": saddle, "train_loss_end": 1.0}
        for order, ((i, j), saddle) in enumerate(saddles.items())
    ]


def test_measures_of_trees_on_a_tree_drawn_by_hand():
    star = {(0, 1): 4.0, (0, 2): 4.0, (0, 3): 4.0}
    later = {(1, 2): 2.0, (1, 3): 9.0, (2, 3): 9.0}
    rounds = dict.fromkeys(later, 1)
    rows = tree_rows(star | later, rounds=rounds) + tree_rows(star | later, group=1, rounds=rounds)
    tables = tables_of(tree=pd.DataFrame(rows), surfaces=pd.DataFrame({"quantity": [], "value": []}))
    assert measurements.MEASURES["tree_improves"](tables) == Interval(
        pytest.approx(4 - 10 / 3), *[pytest.approx(4 - 10 / 3)] * 2, 2
    )
    assert measurements.MEASURES["tree_never_rises"](tables).value == 0
    assert measurements.MEASURES["ultrametric"](tables).value == 0
    # triples 012: 4 against 4 and 2; 013, 023, 123: 9 against at most 4, 4 and 9
    assert measurements.MEASURES["local_meps"](tables).value == 0.5
    # the fall comes with the first band, two idle ones end it: none of three is saved, nothing is lost
    assert measurements.MEASURES["stop_rule"](tables).value == pytest.approx(0)
    table = measurements.anytime(tables)
    assert set(table["order"]) == {"suggested", "random"}
    assert measurements.MEASURES["suggestions_beat_random"](tables).value > 0


def test_the_better_of_two_starts_counts_and_their_difference_is_by_group():
    star, later = {(0, 1): 4.0, (0, 2): 4.0, (0, 3): 4.0}, {(1, 2): 3.0}
    rows = tree_rows(star | later, rounds={(1, 2): 1})
    joined = [row | {"start": "concatenated", "train_loss_saddle": 2.5} for row in rows if row["round"] == 1]
    frame = pd.DataFrame(rows + joined)
    assert tree_tables.lowest(frame.to_dict("records"))[1, 2] == 2.5
    found = measurements.MEASURES["concatenated_start"](tables_of(tree=frame))
    assert (found.value, found.n) == (0.5, 1)


def arm_rows(family, values, column="train_loss_saddle", **more):
    return [
        {"family": family, "arm": arm, "pair": pair, column: value, **more}
        for arm, row in values.items()
        for pair, value in enumerate(row)
    ]


def test_differences_between_arms_are_paired():
    rows = arm_rows("budget", {"autoneb": [1.0, 2.0, 3.0], "bezier": [1.5, 2.5, 3.5]})
    found = measurements.MEASURES["budget_bezier"](tables_of(arms=pd.DataFrame(rows)))
    assert (found.value, found.low, found.high, found.n) == (0.5, 0.5, 0.5, 3)
    against = measurements.MEASURES["yao_curve_wins"](tables_of(arms=pd.DataFrame(rows)))
    assert against.value == -0.5


def test_curvatures_are_counted_where_the_maximum_lies_inside():
    rows = [(-2.0, -1.0), (-1.0, -2.0), (1.0, 2.0), (np.nan, np.nan)]
    frame = pd.DataFrame([{"arm": "autoneb", "curvature": a, "end_curvature": b} for a, b in rows])
    down, more = (measurements.MEASURES[f"saddle_{name}"] for name in ("curves_down", "curvature"))
    for measure in (down, more):
        found = measure(tables_of(frame))
        assert (found.value, found.n) == (pytest.approx(2 / 3), 3)
        assert measure(tables_of(frame.tail(1))) is None


def test_the_cheap_schedule_is_judged_by_ratios():
    rows = arm_rows("published", {"published": [0.01, 0.02], "ours": [0.0102, 0.0204]})
    for row in rows:
        row["sample_gradients"] = 100.0 if row["arm"] == "published" else 8.0
    cycles = [
        {"family": "published", "arm": arm, "pair": pair, "cycle": cycle, "saddle": saddle * (1 + pair), **cost}
        for pair in (0, 1)
        for arm, cycle, saddle, cost in (
            ("published", 1, 0.02, {"sample_gradients": 50.0}),
            ("published", 2, 0.01, {"sample_gradients": 100.0}),
            ("ours", 1, 0.03, {"sample_gradients": 4.0}),
            ("ours", 2, 0.0102, {"sample_gradients": 8.0}),
        )
    ]
    tables = tables_of(arms=pd.DataFrame(rows), cycles=pd.DataFrame(cycles))
    assert measurements.MEASURES["cheap_saddle"](tables).value == pytest.approx(1.02)
    assert measurements.MEASURES["cheap_gradients"](tables).value == pytest.approx(0.08)
    assert measurements.MEASURES["cheap_gradients_to_saddle"](tables).value == pytest.approx(0.08)
    assert measurements.MEASURES["published_gradients_to_saddle"](tables).value == 1.0  # the cycle before lies higher


def test_the_neighbours_rows_are_read_with_the_sign_and_the_pairs_of_their_claims():
    curve = {"regularised_ends": 2.0, "regularised_higher_end": 2.2, "loss_ends": 1.0, "penalty_ends": 1.0}
    rows = [
        {"weight_decay": decay, "curve": kind, "pair": pair, "outcome": "ok", **curve}
        | {"regularised_saddle": 2.2 + rise + more, "regularised_lowest": 1.2 + more, "lowest_inside": pair == 0}
        | {"loss_middle": 0.5 + more, "penalty_middle": 0.7 + more}
        for decay, more in ((0.0005, 0.0), (0.02, 0.4))
        for kind, rise in (("bezier", 0.0), ("polychain", 0.3))
        for pair in (0, 1)
    ]
    height = {1.0: 0.9, 0.8: 0.1, 0.5: 0.05}
    paths_of = [
        {"keep": keep, "pair": pair, "path": path, "bound": 1.0, "train_loss_over_ends": value}
        | {"train_loss_saddle": value + 0.01 * pair}
        for keep, low in height.items()
        for path, value in (("dropped", low), ("segment", 0.4))
        for pair in (0, 1)
    ]
    accuracy = {"independent": (0.6, 0.65, 0.66), "geometric": (0.62, 0.66, 0.66)}
    accuracy |= {"snapshots": (0.61, 0.65, 0.66), "constant": (0.63, 0.66, 0.66)}
    scored = [
        {"arm": arm, "group": group, "budgets": budgets, "test_accuracy": values[budgets - 1] + 0.1 * group}
        | {"disagreement": 0.2 if arm == "geometric" else 0.5}
        for arm, values in accuracy.items()
        for group in (0, 1)
        for budgets in (1, 2, 3)
    ]
    tables = tables_of(penalised=pd.DataFrame(rows), dropped=pd.DataFrame(paths_of), ensembles=pd.DataFrame(scored))
    wanted = {
        "g_bezier_max_l2": 0.0,
        "g_polychain_max_l2": 0.3,
        "g_bezier_max_l2_strong": 0.4,
        "g_interior_l2": 0.6,
        "g_interior_l2_strong": 0.8,
        "g_interior_l2_loss": 0.5,
        "g_interior_l2_penalty": 0.7,
        "dropout_path": 0.1,
        "dropout_path_half": 0.05,
        "dropout_path_plain": 0.9,
        "dropout_helps": 0.8,
        "dropout_below_segment": 0.3,
        "dropout_below_segment_plain": -0.5,
        "g_fge_one": 2.0,
        "g_fge_two": 1.0,
        "g_fge_three": 0.0,
        "g_fge_shrinks": 2.0,
        "g_fge_snapshots": 1.0,
        "g_fge_cycles": -1.0,
        "g_fge_disagreement": 0.2,
    }
    for name, value in wanted.items():
        found = measurements.MEASURES[name](tables)
        assert (found.value, found.n) == (pytest.approx(value), 2), name
    worst = measurements.MEASURES["dropout_bound"](tables)
    assert (worst.value, worst.n) == (pytest.approx(0.91 - 1.0), 6)
    inside = measurements.MEASURES["g_interior_l2_inside"](tables)
    assert (inside.value, inside.n) == (0.5, 8)
    weak = tables_of(penalised=pd.DataFrame(rows[:4]))
    assert measurements.MEASURES["g_interior_l2"](weak).value == pytest.approx(0.6)
    assert measurements.MEASURES["g_interior_l2_strong"](weak) is None


def test_every_measure_has_its_claim_and_every_claim_of_the_tier_its_measure():
    ledger = {c.id: c for c in load_ledger(ROOT / "claims").claims if c.study == "autoneb"}
    measured = {f"autoneb.{name}" for name in measurements.MEASURES}
    assert measured <= set(ledger)
    assert {name for name, claim in ledger.items() if "default" in claim.tiers} <= measured


def test_overlap_of_errors_by_both_definitions():
    first = torch.tensor([1, 1, 1, 0, 0, 0]).bool()
    second = torch.tensor([0, 1, 1, 1, 1, 0]).bool()
    assert paths.overlap([first, second]) == (pytest.approx(2 / 3), pytest.approx(2 / 5))
    assert all(np.isnan(paths.overlap([first, torch.zeros(6).bool()])))


def test_the_spike_near_the_last_end_is_read_above_the_line_between_the_ends():
    positions = torch.linspace(0, 1, 11, dtype=torch.float64)
    loss = positions.clone()
    loss[9] += 0.4
    loss[3] += 5.0
    profile = barriers.Profile(
        positions, torch.full((10,), 0.1).double(), torch.ones(11).bool(), {"train_loss": loss}, 1.0, 0.0
    )
    assert paths.spike(profile) == pytest.approx(0.4)
    assert paths.half_barrier(profile) == pytest.approx(0.0)


# --- figures on made-up tables ----------------------------------------------------------------------------------------


def test_the_figures_are_drawn_from_tables_alone(tmp_path):
    frame = level_rows(lambda w, d, pair: 0.01 * (1 + pair) / w)
    tables = tables_of(frame)
    networks = measurements.networks_table(tables)
    star = {(0, 1): 4.0, (0, 2): 4.0, (0, 3): 4.0, (1, 2): 2.0, (1, 3): 9.0}
    rows = tree_rows(star, rounds={(1, 2): 1, (1, 3): 1})
    joined = [row | {"start": "concatenated", "train_loss_saddle": 3.0} for row in rows if row["round"] == 1]
    bands = pd.DataFrame(rows + joined)
    made = measurements.anytime(tables_of(tree=bands))
    arms = pd.DataFrame(
        arm_rows("budget", {a: [0.1, 0.2] for a in comparison.BUDGET_ARMS}, length_ratio=1.2, sample_gradients=1.0)
    ).assign(train_loss_start=0.01, train_loss_end=0.02, pivots=3, spike=0.0, test_error_saddle=0.1, outcome="ok")
    arms["learning_rate"] = 0.1
    cycles = pd.DataFrame(
        [
            {"family": "published", "arm": arm, "pair": 0, "cycle": c, "saddle": 1.0 / c, "sample_gradients": 10.0 * c}
            for arm in ("published", "ours")
            for c in (1, 2, 3)
        ]
    )
    methods = measurements.methods_table(tables_of(arms=arms))
    arc, loss = np.linspace(0, 1, 5), np.array([0.1, 0.5, 1.0, 0.4, 0.1])
    arrays = {f"autoneb_cycle{i}_{k}": v / (1 + i) for i in range(3) for k, v in (("arc", arc), ("loss", loss))}
    arms_of_ensembles = ("independent", "geometric", "snapshots", "constant")
    scored = [
        {"arm": arm, "group": g, "budgets": b, "test_accuracy": 0.6 + 0.01 * g}
        for arm in arms_of_ensembles
        for g in (0, 1)
        for b in (1, 2, 3)
    ]
    curve = dict.fromkeys([f"{term}_{place}" for term in figures.TERMS for place in ("middle", "ends")], 0.5)
    curves = pd.DataFrame([{"curve": "bezier", "weight_decay": d, **curve} for d in (0.1, 0.2) for _ in range(2)])
    profiles = {f"0.8_{path}_{k}": v for path in ("dropped", "segment") for k, v in (("arc", arc), ("loss", loss))}
    drawn = {
        "neighbours": figures.neighbours(profiles, curves, pd.DataFrame(scored)),
        "cycles": figures.cycles(arrays | {"segment_arc": arc, "segment_loss": loss}),
        "levels": figures.levels(networks),
        "tree": figures.tree(bands, made),
        "length": figures.length(frame, arms, {"autoneb-8-2": "8-8"}),
        "budget": figures.budget(arms, methods, cycles),
    }
    for name, figure in drawn.items():
        figures.save(figure, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
        plt.close(figure)


def test_the_surfaces_rows_are_read_with_the_sign_and_the_zero_of_their_claims():
    rows = [("negative_curvatures", 1.0), ("negative_curvatures", 1.0), ("saddle_error", 2e-9), ("bump_recall", 1.0)]
    frame = pd.DataFrame(rows, columns=["quantity", "value"])
    tables = tables_of(surfaces=frame)
    assert measurements.MEASURES["saddle_index"](tables).value == 0
    assert measurements.MEASURES["minimax"](tables).value == 2e-9
    assert measurements.MEASURES["bump_recall"](tables).value == 1
    frame.loc[0, "value"] = 0.0  # a minimum in place of a saddle
    assert measurements.MEASURES["saddle_index"](tables).value == 1
    assert measurements.MEASURES["local_mep_eggcarton"](tables) is None
