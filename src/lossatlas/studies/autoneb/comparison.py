"""The same pairs of minima joined in many ways, each for the same number of sample gradients.

`budget`: the methods; `placebos`: bands without the thing that should make them work; `released`: the authors' code
and one switch of it corrected at a time; `published`: the published schedule against ours, on pairs of their own.
Learning rates of the first two families are tuned on pairs that nothing else uses.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossatlas import barriers, mode_curves, weight_matching
from lossatlas.data import DataSet
from lossatlas.elastic_band import (
    ARMS,
    AUTONEB_13C8BA8,
    CORRECTED,
    PUBLISHED,
    Arm,
    Connection,
    Cycle,
    Schedule,
    Start,
    auto_nebs,
    line,
    nebs,
    one_corrected,
    straight,
)
from lossatlas.elastic_band.auto_neb import Store
from lossatlas.studies import baselines
from lossatlas.studies.autoneb import paths, plan
from lossatlas.studies.autoneb.journal import Journal
from lossatlas.studies.baselines import Problems
from lossatlas.studies.settings import Baseline

CURVES = ("bezier", "polychain")
BUDGET_ARMS = ("segment", "segment-matched", *CURVES, "neb-fixed", "autoneb", "autoneb-matched")
PLACEBOS = ("insert-random", "tangent-bisector", "pivots-alone", "mechanical", "neb-springs")
TUNED = (*CURVES, "neb-fixed", "autoneb", "autoneb-matched", *PLACEBOS)
MATCHED = ("segment-matched", "autoneb-matched")
SPRING = 1.0  # of the arms with springs: of the order of the curvature along the paths, so that both forces count
NORM_SWITCHES = ("mode", "buffers")  # of the released code, which matter to networks with BatchNorm only


@dataclass(frozen=True, eq=False)
class Found:
    """Rows of the arms, rows of the bands' cycles, and profiles by name."""

    rows: list[dict[str, Any]]
    cycles: list[dict[str, Any]]
    arrays: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Setting:
    """What all arms of a family share."""

    problems: Problems
    minima: Tensor
    settings: Mapping[str, Any]
    name: tuple  # of the network, for the seeds
    budget: float

    @classmethod
    def of(
        cls,
        baseline: Baseline,
        training: Mapping[str, Any],
        data_set: DataSet,
        settings: Mapping[str, Any],
        device: str,
    ) -> "Setting":
        problems = baselines.problems(baseline, data_set, device)
        own = paths.schedule(settings)
        name = (baseline.data, baseline.architecture, baseline.batch_norm, *baseline.hidden)
        minima = torch.as_tensor(training["final"]).to(device)
        return cls(problems, minima, settings, name, paths.cost_limit(own, problems.train.rows))

    def ends(self, arm: str, pair: tuple[int, int]) -> Tensor:
        """The ends (2, P) of a pair; the second one's units in the matched order where the arm says so."""
        a, b = self.minima[list(pair)]
        if arm in MATCHED:
            b = weight_matching.match(self.problems.train, a, b, paths.generator("matching", *self.name, *pair)).theta
        return torch.stack([a, b])


def tune(
    setting: Setting, progress: Callable[[int, int], None] | None = None, store: Store | None = None
) -> list[dict[str, Any]]:
    """Rows (arm, learning_rate, pair, saddle) of every tuned arm at every rate, on the tuning pairs.

    With a store a job that was cut short goes on at the last cycle of its bands, bit for bit.
    """
    journal = Journal(store)
    comparison = setting.settings["comparison"]
    pairs = plan.tuning_pairs(comparison)
    rows = []
    for done, arm in enumerate(TUNED):
        rates = comparison["curve_rates" if arm in CURVES else "learning_rates"]
        tasks = [Task(pair, rate) for rate in rates for pair in pairs]
        for task, result in zip(tasks, _run(setting, arm, tasks, journal), strict=True):
            about = {"arm": arm, "learning_rate": task.rate, "pair": pairs.index(task.pair)}
            rows.append({**about, "saddle": result["columns"]["train_loss_saddle"]})
        if progress:
            progress(done + 1, len(TUNED))
    return rows


def best_rates(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """{arm: the rate with the lowest mean saddle}; a rate at which a path is not finite is none."""
    found: dict[str, tuple[float, float]] = {}
    for arm, rate in dict.fromkeys((row["arm"], row["learning_rate"]) for row in rows):
        saddles = [row["saddle"] for row in rows if (row["arm"], row["learning_rate"]) == (arm, rate)]
        mean = sum(saddles) / len(saddles)
        mean = mean if mean == mean else float("inf")
        if arm not in found or mean < found[arm][0]:
            found[arm] = (mean, rate)
    return {arm: rate for arm, (_, rate) in found.items()}


def measure(
    family: str,
    setting: Setting,
    rates: Mapping[str, float],
    progress: Callable[[int, int], None] | None = None,
    store: Store | None = None,
) -> Found:
    """All arms of a family on all pairs. rates: the tuned ones, by arm.

    With a store a job that was cut short goes on at the last cycle of its bands, bit for bit.
    """
    journal = Journal(store)
    comparison = setting.settings["comparison"]
    pairs = plan.judged_pairs(comparison) if family == "published" else plan.disjoint_pairs(comparison["pairs"])
    arms = {
        "budget": BUDGET_ARMS,
        "placebos": PLACEBOS,
        "released": tuple(released(False)),
        "norm": tuple(released(True)),
        "published": ("published", "ours"),
    }[family]
    rows, cycles, arrays = [], [], {}
    for done, arm in enumerate(arms):
        rate = rates.get(arm, float("nan"))
        for number, result in enumerate(_run(setting, arm, [Task(pair, rate) for pair in pairs], journal)):
            about = {"family": family, "arm": arm, "pair": pairs[number][0] // 2, "learning_rate": rate}
            rows.append({**about, **result["columns"]})
            cycles += [{**about, **row} for row in result["cycles"]]
            if number == 0:
                arrays |= {f"{arm}_{name}": values for name, values in result["arrays"].items()}
        if progress:
            progress(done + 1, len(arms))
    return Found(rows, cycles, arrays)


def released(normalised: bool) -> dict[str, Arm]:
    """The arms of the released code, and it with one switch corrected.

    On a network with BatchNorm only the switches that matter there, without it only the others.
    """
    switches = {
        f"corrected-{name}": arm
        for name, arm in one_corrected(AUTONEB_13C8BA8).items()
        if (name in NORM_SWITCHES) == normalised
    }
    whole = {name: arm for name, arm in ARMS.items() if not (normalised and name == "autoneb-2018")}
    return whole | switches


Result = dict[str, Any]  # a path's `columns`, `cycles` (rows) and `arrays` (its profile and that after each cycle)


def _result(
    profile: barriers.Profile, columns: Mapping[str, Any], cycles: Sequence = (), shapes: Sequence[Mapping] = ()
) -> Result:
    arrays = {"arc": profile.arc, "loss": profile.values["train_loss"]}
    arrays |= {f"cycle{i}_{name}": values for i, shape in enumerate(shapes) for name, values in shape.items()}
    return {"columns": {**columns, **barriers.summary(profile)}, "cycles": list(cycles), "arrays": arrays}


class Task(NamedTuple):
    """What an arm is run on."""

    pair: tuple[int, int]
    rate: float


def _run(setting: Setting, arm: str, tasks: Sequence[Task], journal: Journal) -> list[Result]:
    """An arm on each of the tasks, in their order; bands and curves of all tasks step together."""
    if arm in CURVES:
        run = partial(_curves, setting, arm, tasks)
    elif arm.startswith("segment"):
        run = partial(_segments, setting, arm, tasks)
    elif arm in ("pivots-alone", "mechanical", "neb-springs"):
        run = partial(_springs, setting, arm, tasks)
    else:
        run = partial(_cycles, setting, arm, tasks, journal)
    return journal.part(arm, run)


def _generator(setting: Setting, arm: str, task: Task) -> torch.Generator:
    return paths.generator("comparison", *setting.name, arm.removesuffix("-matched"), *task.pair)


def _segments(setting: Setting, arm: str, tasks: Sequence[Task]) -> list[Result]:
    profiles = [paths.segment_profile(setting.problems, *setting.ends(arm, task.pair)) for task in tasks]
    return [_result(profile, paths.no_band()) for profile in profiles]


def _curves(setting: Setting, kind: str, tasks: Sequence[Task]) -> list[Result]:
    """Trained curves."""
    rows = setting.problems.train.rows
    recipe = paths.curve_recipe(kind, setting.settings, rows, setting.settings["band_decay"])
    ends = torch.stack([setting.ends(kind, task.pair) for task in tasks])
    generator = paths.generator("comparison", *setting.name, "curves")
    rates = torch.tensor([task.rate for task in tasks], dtype=torch.float64)
    found = mode_curves.train(setting.problems.train, ends, recipe, rates, generator)
    spent = recipe.sample_gradients(rows)
    results = []
    for control, diverged in zip(found.control, found.diverged_at.tolist(), strict=True):
        columns = paths.no_band(spent, pivots=3)
        columns |= {"gradients": spent, "steps": recipe.steps, "outcome": "ok" if diverged < 0 else "diverged"}
        results.append(_result(paths.curve_profile(setting.problems, kind, control), columns))
    return results


def _springs(setting: Setting, arm: str, tasks: Sequence[Task]) -> list[Result]:
    """One long band on the final number of pivots, with springs or with nothing between the pivots."""
    own = paths.schedule(setting.settings)
    rows = setting.problems.train.rows
    pivots = paths.final_pivots(own)
    single = replace(own, cycles=(Cycle(1000, own.cycles[0].learning_rate),))
    bands = nebs(
        setting.problems.train,
        torch.stack([straight(*setting.ends(arm, task.pair), pivots) for task in tasks]),
        steps=paths.fitted(single, rows, setting.budget, pivots).cycles[0].steps,
        learning_rate=torch.tensor([task.rate for task in tasks], dtype=torch.float64),
        weight_decay=setting.settings["band_decay"],
        batch_size=setting.settings["band_batch"],
        spring=0.0 if arm == "pivots-alone" else SPRING,
        arm=CORRECTED if arm == "neb-springs" else replace(CORRECTED, force="mechanical"),
        generators=[_generator(setting, arm, task) for task in tasks],
    )
    results = []
    for band in bands:
        profile = paths.polyline_profile(setting.problems, band.path, setting.settings["gap_points"])
        columns = paths.no_band(band.cost.sample_gradients, pivots)
        columns |= {
            "outcome": "ok" if band.outcome == "torn" else band.outcome,  # these springs do not space the pivots
            "steps": band.steps,
            "gradients": band.cost.gradients,
            "evaluations": band.cost.evaluations,
            "end_shift": 0.0,
            "spike": paths.spike(profile),
        }
        results.append(_result(profile, columns))
    return results


def _cycles(setting: Setting, arm: str, tasks: Sequence[Task], journal: Journal) -> list[Result]:
    """An arm that runs in cycles."""
    problem = setting.problems.train
    ends = [setting.ends(arm, task.pair) for task in tasks]
    starts = [_start(setting, arm, task, own) for own, task in zip(ends, tasks, strict=True)]
    switches = released(problem.normalised).get(arm, CORRECTED)
    if arm == "tangent-bisector":
        switches = replace(CORRECTED, tangent="bisector")
    recorder = Recorder(journal)
    results = []
    for number, found in enumerate(auto_nebs(problem, starts, arm=switches, store=recorder)):
        profile = paths.polyline_profile(setting.problems, found.pivots, setting.settings["gap_points"])
        columns = paths.band_columns(found, profile, ends[number][1])
        results.append(_result(profile, columns, paths.cycle_rows(found), recorder.shapes(number, found)))
    return results


def _start(setting: Setting, arm: str, task: Task, ends: Tensor) -> Start:
    schedule, budget = _schedule(setting, arm, task.rate)
    return Start(line(setting.problems.train, *ends), schedule, _generator(setting, arm, task), budget=budget)


def _schedule(setting: Setting, arm: str, rate: float) -> tuple[Schedule, float | None]:
    """The schedule of an arm that runs in cycles, and the budget that cuts it short; a rate that is NaN is not used."""
    problem, budget = setting.problems.train, setting.budget
    own = paths.schedule(setting.settings, None if rate != rate else rate)
    if arm in released(problem.normalised):
        own = replace(own, weight_decay=PUBLISHED.weight_decay)  # without which two of the switches do nothing
    if arm == "neb-fixed":
        own = paths.fitted(paths.without_insertion(own, paths.final_pivots(own)), problem.rows, budget)
    elif arm == "insert-random":
        cycles = (replace(c, insert="random" if c.insert == "highest" else c.insert) for c in own.cycles)
        own = replace(own, cycles=tuple(cycles))
    elif arm == "published":
        return replace(PUBLISHED, batch_size=own.batch_size).scaled(_share(setting, "published_steps")), None
    elif arm == "ours":
        return own.scaled(_share(setting, "ours_steps")), None
    return own, budget


def _share(setting: Setting, key: str) -> float:
    return setting.settings["comparison"][key]


class Recorder:
    """A store of bands that also keeps where the positions of each cycle's look lie on its path."""

    def __init__(self, store: Store):
        self.store = store
        self.weights: list[list[Tensor]] = []

    def load(self) -> Any | None:
        saved = self.store.load()
        if saved is None:
            return None
        self.weights = list(saved["weights"])
        return saved["bands"]

    def save(self, states: Sequence[Mapping[str, Any]]) -> None:
        self.weights.append([state["weights"] for state in states])
        self.store.save({"bands": states, "weights": list(self.weights)})

    def shapes(self, number: int, connection: Connection) -> list[dict[str, Tensor]]:
        """Arc length and loss at the points of each look at a band, the straight start first."""
        weights = [torch.ones(1, dtype=torch.float64), *(all_bands[number] for all_bands in self.weights)]
        shapes = []
        for own, record in zip(weights, connection.history, strict=False):
            knots = torch.cat([own.new_zeros(1), own.cumsum(0)])
            left = record.positions.floor().long().clamp_max(len(own) - 1)
            arc = torch.lerp(knots[left], knots[left + 1], record.positions - left)
            shapes.append({"arc": arc, "loss": record.losses})
        return shapes
