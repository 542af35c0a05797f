"""The MLP regression of Zhao et al. 2022, Figure 3: the released teleport, exact ones, placebos, and rates for all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lossatlas import ensemble
from lossatlas.problems.architectures import mlp
from lossatlas.problems.network import NetworkProblem
from lossatlas.seeds import seed
from lossatlas.studies.teleport import published
from lossatlas.studies.teleport.descent import Descent
from lossatlas.studies.teleport.plan import AT, EPOCHS
from lossatlas.teleport import Ascent, Balance, BestOf, Corner, LevelSet, Teleported, shifted, teleport
from lossatlas.teleport.general_linear import GeneralLinear
from lossatlas.teleport.groups import PositiveScaling
from lossatlas.teleport.sharpness import largest_eigenvalue

ROWS, INPUTS, HIDDEN, OUTPUTS = 4, 5, (6, 7), 8
PUBLISHED_SEEDS = 5


@dataclass(frozen=True)
class Setting:
    """A released optimiser setting: rates of the descent and of the teleport's ascent, and the ascent's steps."""

    rate: float
    teleport_rate: float
    steps: int


SETTINGS = {"sgd": Setting(1e-4, 1e-7, 8), "adagrad": Setting(1e-1, 1e-5, 2)}


class HalfSquares(NetworkProblem):
    """½ ||Y - f(X)||² over all rows, the loss of the source."""

    def __call__(self, theta: Tensor) -> Tensor:
        return super().__call__(theta) * (self.rows / 2)


def build():
    return mlp((INPUTS, *HIDDEN, OUTPUTS), "leaky_relu", bias=False)


def published_start(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """X (rows, inputs), Y (rows, outputs) and parameters (P,) of seed n: all U(0, 1), drawn W1, W2, W3, X, Y."""
    generator = torch.Generator().manual_seed(n * n * 12345)
    widths = (INPUTS, *HIDDEN, OUTPUTS)
    shapes = [(out, into) for into, out in pairwise(widths)]
    weights = [torch.rand(shape, generator=generator) for shape in shapes]
    x = torch.rand(INPUTS, ROWS, generator=generator)
    y = torch.rand(OUTPUTS, ROWS, generator=generator)
    return x.T.double(), y.T.double(), torch.cat([w.flatten() for w in weights]).double()


def problem_of(seeds: Sequence[int], fresh: bool = False) -> tuple[HalfSquares, Tensor]:
    """The ensemble's problem (each member its own rows) and starts (k, P); `fresh`: other rows of the same law."""
    xs, ys, thetas = zip(*map(published_start, seeds), strict=True)
    if fresh:
        generators = [torch.Generator().manual_seed(seed("teleport", "regression", "fresh", n)) for n in seeds]
        xs = [torch.rand(ROWS, INPUTS, generator=g, dtype=torch.float64) for g in generators]
        ys = [torch.rand(ROWS, OUTPUTS, generator=g, dtype=torch.float64) for g in generators]
    problem = HalfSquares(build().double(), torch.stack(xs), torch.stack(ys), "squared_error", own_rows=True)
    return problem, torch.stack(thetas)


# --- arms -------------------------------------------------------------------------------------------------------------


def _released(setting: Setting, refresh: bool):
    return partial(published.ascend, rate=setting.teleport_rate, steps=setting.steps, refresh=refresh)


def arms(setting: Setting, seeds: Sequence[int], settings: Mapping[str, Any]) -> dict[str, Callable]:
    """{arm: (problem, theta, off-batch problem) -> Teleported}, the shift and loss placebos left out."""
    draws = tuple(seed("teleport", "regression", "draw", n) for n in seeds)

    def go(kind, search, exact=True):
        def move(problem, theta, elsewhere):
            group = kind(problem) if kind else None
            return teleport(problem, theta, group, search, off_batch=elsewhere, exact=exact)

        return move

    found = {
        "official": go(GeneralLinear, _released(setting, False), exact=False),
        "official-2024": go(GeneralLinear, _released(setting, True), exact=False),
    }
    for radius in settings["gl_radii"]:
        found[f"gl-ascent@{radius:g}"] = go(GeneralLinear, Ascent(radius))
    radius = settings["gl_radius"]
    found["gl-random"] = go(GeneralLinear, BestOf(1, radius, draws))
    found["gl-best"] = go(GeneralLinear, BestOf(settings["gl_candidates"], radius, draws))
    found["gl-projected"] = go(partial(GeneralLinear, projected=True), Ascent(radius))
    for radius in settings["scaling_radii"]:
        found[f"scaling-ascent@{radius:g}"] = go(PositiveScaling, Ascent(radius))
    radius = settings["scaling_radius"]
    found["scaling-random"] = go(PositiveScaling, BestOf(1, radius, draws))
    found["scaling-best"] = go(PositiveScaling, BestOf(settings["candidates"], radius, draws))
    found["scaling-corner"] = go(PositiveScaling, Corner(radius / sum(HIDDEN) ** 0.5))  # the box inside the ball
    found["balance"] = go(PositiveScaling, Balance())
    found["level-set"] = go(None, LevelSet(step=0.1, iterations=50))
    return found


def loss_drop(problem, theta: Tensor, target: Tensor) -> Tensor:
    """theta (k, P) moved along -grad to where the loss is `target` (k,), by bisection; where it rose, left alone."""
    loss, slope = ensemble.gradient(problem, theta)
    low, high = torch.zeros_like(loss), (2 * (loss - target).clamp_min(0) / slope.square().sum(-1))
    for _ in range(50):
        middle = (low + high) / 2
        above = problem(theta - middle[:, None] * slope) > target
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return theta - torch.where(target < loss, low, 0)[:, None] * slope


# --- the experiment ---------------------------------------------------------------------------------------------------


def measure(settings: Mapping[str, Any]) -> tuple[dict[str, list], dict[str, Tensor]]:
    """One row a run (columns), and losses (members, epochs) by `optimizer/arm` at the two rates that are drawn."""
    seeds = list(range(settings["regression_seeds"]))
    rows, arrays = [], {}
    for optimizer, setting in SETTINGS.items():
        found, curves = _runs(optimizer, setting, seeds, settings)
        rows += found
        arrays |= curves
        rows += _sweep(optimizer, setting, seeds[:PUBLISHED_SEEDS], settings) if optimizer == "sgd" else []
    return {key: [row.get(key) for row in rows] for key in rows[0]}, arrays


def _warm_up(optimizer: str, setting: Setting, problem, theta: Tensor) -> tuple[Descent, list[Tensor]]:
    descent = Descent(theta, optimizer, torch.full((len(theta),), setting.rate))
    return descent, [descent.step(problem) for _ in range(AT)]


def wide(problem: HalfSquares, multiple: int) -> HalfSquares:
    """The problem of `multiple` runs of each member."""
    return replace(problem, x=problem.x.repeat_interleave(multiple, 0), y=problem.y.repeat_interleave(multiple, 0))


def _sharpness(problem: HalfSquares, thetas: Sequence[Tensor], seeds: Sequence[int]) -> Tensor:
    """lambda_max (k, m) at each of m ensembles (k, P), all together; Lanczos starts the same for all of a seed."""
    sharp = [seed("teleport", "regression", "sharpness", n) for n in seeds for _ in thetas]
    found = largest_eigenvalue(wide(problem, len(thetas)), torch.stack(thetas, 1).flatten(0, 1), sharp)
    return found.unflatten(0, (len(seeds), len(thetas)))


def _go_on(descent: Descent, problem, optimizer, rates: Sequence[float], states: list[tuple[Tensor, Tensor | None]]):
    """Losses (k, arms, rates, epochs from the teleport on) from each arm's parameters (k, P) and AdaGrad sums."""
    k, multiple = len(descent.theta), len(states) * len(rates)
    many = wide(problem, multiple)
    theta = torch.stack([theta for theta, _ in states], 1).repeat_interleave(len(rates), 1).flatten(0, 1)
    rate = torch.tensor(list(rates) * (k * len(states)), dtype=theta.dtype)
    going = Descent(theta, optimizer, rate)
    if optimizer == "adagrad":
        sums = torch.stack([s for _, s in states], 1).repeat_interleave(len(rates), 1).flatten(0, 1)
        going.optimizer.set_moments(None, sums)
    losses = torch.stack([going.step(many) for _ in range(EPOCHS - AT)], -1)
    stopped = going.diverged_at[:, None] >= 0
    late = torch.arange(EPOCHS - AT) >= going.diverged_at[:, None]
    return torch.where(stopped & late, torch.inf, losses).unflatten(0, (k, len(states), len(rates)))


def _runs(optimizer: str, setting: Setting, seeds, settings) -> tuple[list[dict], dict[str, Tensor]]:
    problem, start = problem_of(seeds)
    elsewhere, _ = problem_of(seeds, fresh=True)
    descent, early = _warm_up(optimizer, setting, problem, start)
    theta = descent.theta
    _, state = descent.optimizer.moments
    moves: dict[str, Teleported | None] = {"none": None}
    states = [(theta, state)]
    for arm, go in arms(setting, seeds, settings).items():
        found = moves[arm] = go(problem, theta, elsewhere)
        states.append((found.theta, state))
    official = moves["official"]
    shift = [seed("teleport", "regression", "shift", n) for n in seeds]
    corner = moves["scaling-corner"]
    moves["shift"], moves["shift-small"], moves["loss-drop"] = None, None, None
    states.append((shifted(theta, official.distance.nan_to_num(0), shift), state))
    states.append((shifted(theta, corner.distance, shift), state))
    states.append((loss_drop(problem, theta, problem(official.theta)), state))
    if optimizer == "adagrad":
        name = f"scaling-ascent@{settings['scaling_radius']:g}"
        (s,) = moves[name].elements
        moves["scaling-transport"] = moves[name]
        states.append((moves[name].theta, PositiveScaling(problem).squared_cotangent(s, state)))
    rates = [setting.rate * m for m in settings[f"{optimizer}_multiples"]]
    losses = _go_on(descent, problem, optimizer, rates, states)
    before = torch.stack(early, -1)
    sharpness = _sharpness(problem, [theta for theta, _ in states], seeds)  # the first arm has not moved
    rows = [
        row
        for i, (arm, found) in enumerate(moves.items())
        for row in _rows(
            optimizer, arm, found, problem, theta, states[i][0], seeds, rates, settings, losses[:, i],
            sharpness[:, [0, i]],
        )
    ]  # fmt: skip
    curves = {
        f"{optimizer}/{arm}": torch.cat([before[:, None].expand(-1, len(rates), -1), losses[:, i]], -1).float()
        for i, arm in enumerate(moves)
    }
    return rows, curves


def _rows(optimizer, arm, found, problem, theta, moved, seeds, rates, settings, losses, sharpness) -> list[dict]:
    """Rows of one arm; losses (seeds, rates, epochs), sharpness before and after (seeds, 2)."""
    nothing = torch.full((len(seeds),), torch.nan)
    before, after = problem(theta), problem(moved)
    gain = ensemble.gradient(problem, moved)[1].norm(dim=-1) / ensemble.gradient(problem, theta)[1].norm(dim=-1)
    columns = {
        "loss_change": (after - before) / before,
        "off_batch_change": nothing if found is None else found.off_batch_change,
        "gain": gain,
        "sharpness_before": sharpness[:, 0],
        "sharpness_after": sharpness[:, 1],
        "distance": (moved - theta).norm(dim=-1),
        "condition": nothing if found is None else found.condition,
        "spread": nothing if found is None else found.spread,
        "outcome": torch.zeros(len(seeds)) if found is None else found.outcome,
    }
    return [
        {"experiment": "run", "optimizer": optimizer, "arm": arm, "seed": n}
        | {"rate_multiple": settings[f"{optimizer}_multiples"][j]}
        | {"final_loss": losses[i, j, -1].item(), "cost": EPOCHS + (0.0 if found is None else found.cost)}
        | {name: column[i].item() for name, column in columns.items()}
        | {"steps": float("nan"), "teleport_multiple": float("nan"), "epochs_to_target": float("nan")}
        for i, n in enumerate(seeds)
        for j in range(len(rates))
    ]


def _sweep(optimizer: str, setting: Setting, seeds, settings) -> list[dict]:
    """Released teleports of other lengths and rates: epochs (and gradients) until the loss at which plain GD converges.

    GD counts as converged at the first epoch whose loss changes by less than 1e-3.
    """
    problem, start = problem_of(seeds)
    descent, _ = _warm_up(optimizer, setting, problem, start)
    pairs = [(steps, multiple) for steps in settings["sweep_steps"] for multiple in settings["sweep_multiples"]]
    states, moves = [(descent.theta, None)], []
    for steps, multiple in pairs:
        search = partial(published.ascend, rate=setting.teleport_rate * multiple, steps=steps, refresh=False)
        moves.append(teleport(problem, descent.theta, GeneralLinear(problem), search, exact=False))
        states.append((moves[-1].theta, None))
    losses = _go_on(descent, problem, optimizer, [setting.rate], states)[:, :, 0]
    small = (losses[:, 0, 1:] - losses[:, 0, :-1]).abs() < 1e-3
    converged = torch.where(small.any(-1), small.int().argmax(-1) + 1, EPOCHS - AT - 1)
    target = losses[:, 0].gather(-1, converged[:, None])
    below = losses[:, 1:] <= target[:, None]
    reached = torch.where(below.any(-1), below.int().argmax(-1) + AT, torch.nan)
    change = losses[:, 1:, 1:] - losses[:, 1:, :-1]
    settled = ((change.abs() < 1e-3).any(-1) & losses[:, 1:].isfinite().all(-1)).tolist()
    return [
        {"experiment": "sweep", "optimizer": optimizer, "arm": "official", "seed": n, "rate_multiple": 1.0}
        | {
            "final_loss": losses[i, j + 1, -1].item(),
            "cost": moves[j].cost,
            "loss_change": moves[j].loss_change[i].item(),
        }
        | {name: float("nan") for name in ("off_batch_change", "sharpness_before", "sharpness_after", "condition")}
        | {"gain": moves[j].gain[i].item(), "distance": moves[j].distance[i].item(), "spread": float("nan")}
        | {"outcome": int(settled[i][j]), "steps": steps, "teleport_multiple": multiple}
        | {"epochs_to_target": (reached[i, j] / (converged[i] + AT)).item()}
        for i, n in enumerate(seeds)
        for j, (steps, multiple) in enumerate(pairs)
    ]
