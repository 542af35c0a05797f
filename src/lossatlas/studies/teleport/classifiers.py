"""Small classifiers that are teleported on the way: schedules, optimisers, a full-batch control, and off-batch changes.

All in float64, all members of an arm (seeds x rates) together. A teleport's batch costs its rows: one gradient on 200
rows counts as ten on a minibatch of 20.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lossatlas import data, ensemble
from lossatlas.interpolation import sweep
from lossatlas.minibatches import minibatch_rows
from lossatlas.problems.architectures import mlp
from lossatlas.problems.network import NetworkProblem, initial
from lossatlas.progress import progress
from lossatlas.seeds import seed
from lossatlas.studies.teleport import published
from lossatlas.studies.teleport.descent import Descent, members
from lossatlas.teleport import Ascent, Balance, BestOf, Corner, Search, Teleported, shifted, teleport
from lossatlas.teleport.general_linear import GeneralLinear, exponential
from lossatlas.teleport.groups import PositiveScaling

LEAST_LOSS = 1e-12  # added where logarithms of losses are averaged


def network(widths: Sequence[int], x: Tensor, y: Tensor) -> NetworkProblem:
    """A perceptron without biases, LeakyReLU(0.1), as in Zhao et al. 2022."""
    return NetworkProblem(mlp(widths, "leaky_relu", bias=False).double(), x.double(), y)


def problems(data_set: data.DataSet, hidden: Sequence[int], rows: int | None = None):
    """(training problem, held-out problem) of a network with these hidden layers on flat inputs."""
    flat = data_set.flat()
    widths = (flat.train_x.shape[1], *hidden, flat.classes)
    with torch.random.fork_rng(devices=[]):
        train = network(widths, flat.train_x[:rows], flat.train_y[:rows])
        return train, replace(train, x=flat.test_x.double(), y=flat.test_y)


def starts(problem: NetworkProblem, hidden: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Initialisations (k, P) U(±1/sqrt(fan_in)), named by the widths and the seed."""
    widths = (problem.x.shape[-1], *hidden, 10)
    names = [seed("teleport", "init", *widths, s) for s in seeds]
    return initial(lambda: mlp(widths, "leaky_relu", bias=False), names).double()


def epoch_batches(problem: NetworkProblem, size: int, orders: Sequence[int], epoch: int) -> Iterator[NetworkProblem]:
    for rows in minibatch_rows(problem.rows, size, orders, epoch):
        yield problem.on(rows)


def evaluated(problem: NetworkProblem, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss and error (k,) over all rows."""
    losses, errors = [], []
    with torch.no_grad():
        for part in theta.split(8):
            logits = problem.logits(part)
            losses.append(problem.example_losses(logits).mean(-1))
            errors.append(problem.example_errors(logits).mean(-1))
    return torch.cat(losses), torch.cat(errors)


def table(rows: list[dict[str, Any]]) -> dict[str, list]:
    return {key: [row[key] for row in rows] for key in rows[0]}


Go = Callable[[NetworkProblem, Tensor, int], Teleported]


def goer(kind, search: Callable[[tuple[int, ...]], Search], names: Sequence[Any], exact: bool = True) -> Go:
    """A function of (batch, theta, index of the teleport); random searches draw by member, arm and index."""

    def go(batch: NetworkProblem, theta: Tensor, index: int) -> Teleported:
        draws = tuple(seed("teleport", "draw", *name, index) for name in names)
        return teleport(batch, theta, kind(batch), search(draws), exact=exact)

    return go


def shifter(distance_of: Go, names: Sequence[Any]) -> Go:
    """The placebo: as far as another arm would go, in a random direction."""

    def go(batch: NetworkProblem, theta: Tensor, index: int) -> Teleported:
        found = distance_of(batch, theta, index)
        draws = [seed("teleport", "shift", *name, index) for name in names]
        moved = shifted(theta, found.distance.nan_to_num(0), draws)
        before, after = ensemble.loss(batch, theta), ensemble.loss(batch, moved)
        return replace(found, theta=moved, loss_change=(after - before) / before, cost=0.0)

    return go


def arms(settings: Mapping[str, Any], names: Sequence[Any]) -> dict[str, Go]:
    """The teleports that several experiments share."""
    gl, scaling = settings["gl_radius"], settings["scaling_bound"]
    found = {
        "gl-ascent": goer(GeneralLinear, lambda _: Ascent(gl, settings["ascent_steps"]), names),
        "gl-random": goer(GeneralLinear, lambda draws: BestOf(1, gl, draws), names),
        "scaling-corner": goer(PositiveScaling, lambda _: Corner(scaling), names),
        "balance": goer(PositiveScaling, lambda _: Balance(), names),
        "projected": goer(
            lambda batch: GeneralLinear(batch, least_squares=True),
            lambda _: partial(published.ascend_projected, rate=1e-3, steps=settings["published_steps"], clip=5.0),
            names,
            exact=False,
        ),
    }

    def scaling_best(count: int) -> Go:
        def go(batch, theta, index):
            group = PositiveScaling(batch)
            draws = tuple(seed("teleport", "draw", *name, index) for name in names)
            return teleport(batch, theta, group, BestOf(count, scaling * group.units**0.5, draws))

        return go

    found["scaling-random"], found["scaling-best"] = scaling_best(1), scaling_best(settings["candidates"])
    found["shift"] = shifter(found["scaling-corner"], names)
    return found


# --- schedules (Zhao et al. 2022, MNIST) ------------------------------------------------------------------------------

SCHEDULES = {
    "0": (0,), "1": (1,), "2": (2,), "4": (4,), "16": (16,),
    "4,8,12,16,20": (4, 8, 12, 16, 20), "1,5,9,13,17": (1, 5, 9, 13, 17), "1,3,5,7,9": (1, 3, 5, 7, 9),
    "4,6,8,10,12": (4, 6, 8, 10, 12), "4,5,6,7,8": (4, 5, 6, 7, 8), "1,2,3,4,5": (1, 2, 3, 4, 5),
}  # fmt: skip


def schedules(settings: Mapping[str, Any], data_set: data.DataSet) -> tuple[dict[str, list], dict[str, Tensor]]:
    """One row a run of each schedule and action, and mean minibatch losses (members, epochs) by `arm/schedule`."""
    split = data.validation_split(data_set, len(data_set.train_y) // 5)
    train, held_out = problems(split, settings["hidden"], settings["rows"])
    seeds = list(range(settings["seeds"]))
    which, rates = members(seeds, settings["rates"])
    orders = [seeds[i] for i in which]
    theta = starts(train, settings["hidden"], seeds)[which]
    go = arms(settings, [("schedules", s) for s in orders])
    plan = [("none", "none")]
    plan += [(arm, name) for arm in ("gl-ascent", "projected") for name in SCHEDULES]
    plan += [
        (arm, "1") for arm in ("gl-random", "scaling-corner", "scaling-random", "scaling-best", "balance", "shift")
    ]
    rows, curves = [], {}
    for arm, name in progress(plan, "schedules"):
        descent = Descent(theta, "sgd", rates)
        losses, gains, changes, cost, teleports, refused = [], [], [], 0.0, 0, 0
        for epoch in range(settings["epochs"]):
            if epoch in SCHEDULES.get(name, ()):
                batches = epoch_batches(train, settings["batch"], orders, epoch)
                for _, batch in zip(range(settings["teleport_batches"]), batches, strict=False):
                    found = go[arm](batch, descent.theta, teleports)
                    descent.teleport(None, found)
                    teleports += 1
                    cost += found.cost
                    refused = refused + (~found.moved).long()
                    gains.append(found.gain)
                    changes.append(found.loss_change.abs())
            batches = epoch_batches(train, settings["batch"], orders, epoch)
            losses.append(torch.stack([descent.step(batch) for batch in batches]).mean(0))
            cost += train.rows // settings["batch"]
        curve = torch.stack(losses, -1)
        train_loss, train_error = evaluated(train, descent.theta)
        test_loss, test_error = evaluated(held_out, descent.theta)
        gain = torch.stack(gains).median(0).values if gains else torch.full_like(train_loss, torch.nan)
        change = torch.stack(changes).amax(0) if changes else torch.zeros_like(train_loss)
        first = min(SCHEDULES.get(name, (settings["epochs"],)))
        jump = (
            curve[:, first] - curve[:, first - 1]
            if 0 < first < settings["epochs"]
            else torch.full_like(gain, torch.nan)
        )
        curves[f"{arm}/{name}"] = curve.float()
        rows += [
            {
                "arm": arm,
                "schedule": name,
                "seed": orders[i],
                "rate": rates[i].item(),
                "train_loss": train_loss[i].item(),
                "train_error": train_error[i].item(),
                "validation_loss": test_loss[i].item(),
                "validation_error": test_error[i].item(),
                "diverged_at": descent.diverged_at[i].item(),
                "gain": gain[i].item(),
                "worst_change": change[i].item(),
                "jump": jump[i].item(),
                "refused": int(refused[i]) if teleports else 0,
                "teleports": teleports,
                "cost": cost,
            }
            for i in range(len(orders))
        ]
    return table(rows), curves


# --- optimisers (Zhao et al. 2024, Figure 5) --------------------------------------------------------------------------

OPTIMISERS = {  # share of the common base rate, epoch of the teleports
    "sgd": (1.0, 2), "adagrad": (1.0, 2), "momentum": (0.1, 0), "rmsprop": (0.01, 0), "adam": (0.01, 0),
}  # fmt: skip


def optimizers(settings: Mapping[str, Any], data_set: data.DataSet) -> tuple[dict[str, list], dict[str, Tensor]]:
    """One row a run of each optimiser and arm, and mean minibatch losses (members, epochs) by `optimizer/arm`."""
    train, held_out = problems(data_set, settings["hidden"], settings["rows"])
    seeds = list(range(settings["seeds"]))
    rows, curves = [], {}
    names = ("none", "reset", "scaling-corner", "scaling-transport", "scaling-random", "scaling-best", "gl-ascent",
             "projected", "balance", "shift")  # fmt: skip
    plan = [(optimizer, arm) for optimizer in OPTIMISERS for arm in names]
    for optimizer, arm in progress(plan, "optimisers"):
        share, when = OPTIMISERS[optimizer]
        which, rates = members(seeds, [settings["base_rate"] * share * m for m in settings["multiples"]])
        multiples = list(settings["multiples"]) * len(seeds)
        orders = [seeds[i] for i in which]
        go = arms(settings, [("optimizers", s) for s in orders])
        descent = Descent(starts(train, settings["hidden"], seeds)[which], optimizer, rates)
        size = settings["gl_rows"] if arm == "gl-ascent" else settings["teleport_rows"]
        losses, gains, cost, refused = [], [], 0.0, torch.zeros(len(orders), dtype=torch.int64)
        for epoch in range(settings["epochs"]):
            teleport_on = list(epoch_batches(train, size, orders, 1000 + epoch))
            batches = epoch_batches(train, settings["batch"], orders, epoch)
            steps = []
            for i, batch in enumerate(batches):
                if epoch == when and i < settings["teleports"] and arm != "none":
                    if arm in ("reset", "projected"):
                        descent.reset()
                    if arm != "reset":
                        on = teleport_on[i % len(teleport_on)]
                        name = "scaling-corner" if arm == "scaling-transport" else arm
                        found = go[name](on, descent.theta, i)
                        descent.teleport(PositiveScaling(on), found, transport=arm == "scaling-transport")
                        cost += found.cost * size / settings["batch"]
                        gains.append(found.gain)
                        refused += (~found.moved).long()
                steps.append(descent.step(batch))
            cost += len(steps)
            losses.append(torch.stack(steps).mean(0))
        curve = torch.stack(losses, -1)
        curves[f"{optimizer}/{arm}"] = curve.float()
        train_loss, _ = evaluated(train, descent.theta)
        test_loss, test_error = evaluated(held_out, descent.theta)
        gain = torch.stack(gains).median(0).values if gains else torch.full_like(train_loss, torch.nan)
        rows += [
            {
                "optimizer": optimizer,
                "arm": arm,
                "seed": orders[i],
                "multiple": multiples[i],
                "area": (curve[i] + LEAST_LOSS).log().mean().item(),
                "train_loss": train_loss[i].item(),
                "test_loss": test_loss[i].item(),
                "test_error": test_error[i].item(),
                "diverged_at": descent.diverged_at[i].item(),
                "gain": gain[i].item(),
                "refused": refused[i].item(),
                "cost": cost,
            }
            for i in range(len(orders))
        ]
    return table(rows), curves


# --- full batch: radius, rate, sharpness, barrier ---------------------------------------------------------------------


def control(settings: Mapping[str, Any], data_set: data.DataSet) -> tuple[dict[str, list], dict[str, Tensor]]:
    """Scaling teleports at one step of full-batch descent, at every radius and rate; the orbit; barriers.

    Arrays: losses (members, steps) by arm; `orbit/...` (seeds, radii): gain and sharpness ratio along ascents on both
    groups; `barrier` (seeds,) of each arm against the untouched run, both at their best rates.
    """
    train, held_out = problems(data_set, settings["hidden"], settings["rows"])
    seeds = list(range(settings["seeds"]))
    which, rates = members(seeds, settings["rates"])
    orders = [seeds[i] for i in which]
    common = Descent(starts(train, settings["hidden"], seeds)[which], "sgd", rates)
    early = [common.step(train) for _ in range(settings["at"])]
    sharp = [seed("teleport", "control", "sharpness", s) for s in orders]

    def scaling(search):
        return lambda theta: teleport(train, theta, PositiveScaling(train), search)

    draws = tuple(seed("teleport", "control", "draw", s) for s in orders)
    plan: dict[str, Callable | None] = {"none": None}
    for radius in settings["radii"]:
        plan[f"scaling-ascent@{radius:g}"] = scaling(Ascent(radius))
    middle = settings["radii"][0]
    plan["scaling-random"] = scaling(BestOf(1, middle, draws))
    plan["scaling-best"] = scaling(BestOf(settings["candidates"], middle, draws))
    plan["balance"] = scaling(Balance())
    rows, curves, finals, distance = [], {}, {}, None
    for arm in progress([*plan, "shift"], "full batch"):
        descent = Descent(common.theta, "sgd", rates)
        found = None
        if arm == "shift":
            descent.move(shifted(common.theta, distance, draws))
        elif plan[arm] is not None:
            found = plan[arm](common.theta)
            descent.teleport(None, found)
            distance = found.distance if arm == f"scaling-ascent@{middle:g}" else distance
        losses = [descent.step(train) for _ in range(settings["steps"] - settings["at"])]
        curve = torch.stack([*early, *losses], -1)
        dead = (common.diverged_at >= 0) | (descent.diverged_at >= 0)
        curve[:, settings["at"] :][dead] = torch.inf
        curves[arm] = curve.float()
        finals[arm] = descent.theta
        test_loss, test_error = evaluated(held_out, descent.theta)
        nothing = torch.full_like(test_loss, torch.nan)
        rows += [
            {
                "arm": arm,
                "seed": orders[i],
                "rate": rates[i].item(),
                "final_loss": curve[i, -1].item(),
                "test_loss": test_loss[i].item(),
                "test_error": test_error[i].item(),
                "gain": (nothing if found is None else found.gain)[i].item(),
                "loss_change": (nothing if found is None else found.loss_change)[i].item(),
                "outcome": 0 if found is None else found.outcome[i].item(),
                "cost": settings["steps"] + (0.0 if found is None else found.cost),
            }
            for i in range(len(orders))
        ]
    first = [i for i, s in enumerate(which) if i == which.index(s)]
    curves |= orbit(train, common.theta[first], [sharp[i] for i in first], settings)
    for arm in finals:
        if arm != "none":
            curves[f"barrier/{arm}"] = barrier(train, finals, arm, curves, len(seeds))
    return table(rows), curves


def orbit(
    problem: NetworkProblem, theta: Tensor, sharp: Sequence[int], settings: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Gradient norm and sharpness, relative to the start, (seeds, radii) along ascents and at random elements."""
    rows = torch.arange(settings["orbit_rows"])
    batch = problem.on(rows)
    found: dict[str, list[Tensor]] = {}
    for radius in settings["orbit_radii"]:
        for name, group, search in (
            ("gl-ascent", GeneralLinear(batch), Ascent(radius)),
            ("scaling-ascent", PositiveScaling(batch), Ascent(radius * settings["orbit_stretch"])),
            ("scaling-random", PositiveScaling(batch), BestOf(1, radius * settings["orbit_stretch"], tuple(sharp))),
        ):
            moved = teleport(batch, theta, group, search, sharpness_seeds=sharp)
            found.setdefault(f"orbit/{name}/gain", []).append(moved.gain)
            ratio = moved.sharpness_after / moved.sharpness_before
            found.setdefault(f"orbit/{name}/sharpness", []).append(ratio)
    return {name: torch.stack(columns, -1) for name, columns in found.items()}


def barrier(problem, finals: Mapping[str, Tensor], arm: str, curves: Mapping[str, Tensor], seeds: int) -> Tensor:
    """Barriers (seeds,) on the straight segment between the untouched and the teleported run, both at best rates.

    max over a of L(a) - [(1 - a) L(0) + a L(1)] (Entezari et al. 2022), the rate of least mean log loss for each arm.
    """
    ends = []
    for name in ("none", arm):
        last = curves[name][:, -1].double().log().unflatten(0, (seeds, -1))
        best = int(last.mean(0).nan_to_num(nan=torch.inf).argmin())
        ends.append(finals[name].unflatten(0, (seeds, -1))[:, best])
    line = sweep(problem, *ends, 21)
    chord = line.loss[:, :1] + line.alphas * (line.loss[:, -1:] - line.loss[:, :1])
    return (line.loss - chord).amax(-1)


# --- off the batch ----------------------------------------------------------------------------------------------------


def off_batch(settings: Mapping[str, Any], data_set: data.DataSet) -> tuple[dict[str, list], dict[str, Tensor]]:
    """What GL does to the loss on and off its batch, with the projection and with the correction of least norm."""
    rows = []
    seeds = list(range(settings["seeds"]))
    for hidden in settings["networks"]:
        train, held_out = problems(data_set, hidden)
        descent = Descent(starts(train, hidden, seeds), "sgd", torch.full((len(seeds),), 0.1))
        for epoch in range(settings["epochs"]):
            for batch in epoch_batches(train, settings["batch"], seeds, epoch):
                descent.step(batch)
        before, error_before = evaluated(held_out, descent.theta)
        for size in settings["sizes"]:
            batch = train.on(torch.arange(size))
            for projected in (False, True):
                group = GeneralLinear(batch, projected=projected, least_squares=True)
                for radius in (0.0, settings["radius"]):
                    element = _random_element(group, seeds, radius)
                    moved = group.act(descent.theta, element)
                    condition = group.condition(descent.theta)
                    after, error_after = evaluated(held_out, moved)
                    on = [ensemble.loss(batch, at) for at in (descent.theta, moved)]
                    off = [ensemble.loss(train, at) for at in (descent.theta, moved)]
                    rows += [
                        {
                            "network": "-".join(map(str, (train.x.shape[-1], *hidden, 10))),
                            "rows": size,
                            "action": "projection" if projected else "minimum norm",
                            "radius": radius,
                            "seed": s,
                            "exact": size <= min([train.x.shape[-1], *hidden[:-1]]),
                            "batch_change": (on[1] / on[0] - 1)[i].item(),
                            "train_change": (off[1] / off[0] - 1)[i].item(),
                            "test_change": (after / before - 1)[i].item(),
                            "test_error_change": (error_after - error_before)[i].item(),
                            "condition": condition[i].item(),
                        }
                        for i, s in enumerate(seeds)
                    ]
    return table(rows), {}


def _random_element(group: GeneralLinear, seeds: Sequence[int], radius: float):
    generators = [torch.Generator().manual_seed(seed("teleport", "off-batch", s)) for s in seeds]
    if radius == 0:
        return exponential([torch.zeros(len(seeds), n, n, dtype=torch.float64) for n in group.widths])
    return group.random(len(seeds), radius, generators)
