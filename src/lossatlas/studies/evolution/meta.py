"""The bilevel benchmarks: every estimator on the same unrolled problem, at the same number of inner steps.

Each benchmark gives rows (see `_rows`). Rates are chosen on tuning seeds and reported on others; an arm's updates are
the benchmark's budget of inner steps divided by what one update costs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossatlas.data import DataSet
from lossatlas.evolution.unrolled import Unrolled, outer_loss
from lossatlas.problems.bilevel import (
    Activation,
    ActivationFunction,
    HeavyBall,
    InfluenceBalancing,
    LearningRate,
    Lorenz,
    ToyRegression,
    TwoLayers,
    cross_entropy,
    initial_activation,
    rmsprop,
    tanh,
)
from lossatlas.seeds import seed
from lossatlas.studies.evolution import meta_arms as arms
from lossatlas.studies.evolution.meta_arms import Arm, Descent, Noise, best_rate, descend
from lossatlas.training import Store

LOGS = 24  # points of a curve
TUNING = 2  # seeds on which rates are chosen
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a benchmark compares.

    problem(seeds) for the inner initialisations of those seeds; judge: the problem of the reported loss, where it is
    another; start(seeds) -> (seeds, d); arms(seeds, problem, noise): each arm with its rates. cut: arms that
    get fewer updates than the budget allows, since they cost much and soon stand still. together: all seeds and rates
    as one tensor, for problems whose steps are so small that calls count.
    """

    name: str
    problem: Callable[[Sequence[int]], Unrolled]
    start: Callable[[Sequence[int]], Tensor]
    arms: Callable[[Sequence[int], Unrolled, Noise], Iterable[tuple[Arm, Sequence[float]]]]
    budget: int
    optimizer: str = "adam"
    judge: Callable[[Sequence[int]], Unrolled] | None = None
    cut: Mapping[str, int] = field(default_factory=dict)
    together: bool = False


def compare(comparison: Comparison, seeds: int) -> list[Row]:
    """The rows of every arm: the ends of all rates on the tuning seeds, then the best one's curve on `seeds` others."""
    tuning, reported = list(range(100, 100 + TUNING)), list(range(seeds))
    rows: list[Row] = []
    if comparison.together:
        for arm, rates, descent, judge in _descents(comparison, tuning + reported, {}):
            best, tried = _tried(comparison.name, arm, rates, tuning, descent, judge)
            own = descent.of_rate(best)
            loss = losses(judge, own.theta)
            rows += tried + _rows(comparison.name, arm, [rates[best]], reported, own, loss, slice(TUNING, None))
        return rows
    chosen: dict[str, list[float]] = {}
    for arm, rates, descent, judge in _descents(comparison, tuning, {}):
        best, tried = _tried(comparison.name, arm, rates, tuning, descent, judge)
        chosen[arm.name] = [rates[best]]
        rows += tried
    for arm, rates, descent, judge in _descents(comparison, reported, chosen):
        rows += _rows(comparison.name, arm, rates, reported, descent, losses(judge, descent.theta))
    return rows


def _descents(
    comparison: Comparison, group: Sequence[int], chosen: Mapping[str, Sequence[float]]
) -> Iterator[tuple[Arm, Sequence[float], Descent, Unrolled]]:
    """Each arm, its rates, its descent, and the problem whose loss is reported."""
    problem = comparison.problem(group)
    judge = comparison.judge(group) if comparison.judge else problem
    for arm, rates in comparison.arms(group, problem, Noise(comparison.name, group)):
        rates = chosen.get(arm.name, rates)
        updates = max(1, comparison.budget // arm.cost)
        if arm.name in comparison.cut:
            updates = min(updates, comparison.cut[arm.name])
        yield arm, rates, descend(arm, comparison.start(group), rates, comparison.optimizer, updates, LOGS), judge


def _tried(
    name: str, arm: Arm, rates: Sequence[float], tuning: Sequence[int], descent: Descent, judge: Unrolled
) -> tuple[int, list[Row]]:
    """The place of the best rate on the tuning seeds, which come first, and the rows of all rates there."""
    end = descent.end
    loss = losses(judge, end.theta)
    return best_rate(loss[-1], TUNING), _rows(name, arm, rates, tuning, end, loss, slice(TUNING))


def in_turn(benchmarks: Mapping[str, Callable[[], list[Row]]], store: Store) -> dict[str, list[Row]]:
    """The rows of each benchmark; those that an interrupted job finished are taken from the store."""
    done = store.load() or {}
    for name, benchmark in benchmarks.items():
        if name not in done:
            done[name] = benchmark()
            store.save(done)
    return done


def losses(problem: Unrolled, theta: Tensor) -> Tensor:
    """Outer losses (logs, rates, seeds) at theta (logs, rates, seeds, d)."""
    return outer_loss(problem, theta.permute(1, 2, 0, 3)).permute(2, 0, 1)


def _rows(
    name: str,
    arm: Arm,
    rates: Sequence[float],
    seeds: Sequence[int],
    descent: Descent,
    loss: Tensor,
    members: slice = slice(None),
) -> list[Row]:
    """One row for each kept point: benchmark, arm, rate, seed, tuning, updates, inner_steps, loss, theta, diverged_at,
    nonfinite (mean share of lost pairs). A loss that is not finite is missing; theta is given up to two parameters.
    `members` are the places of `seeds` in the descent."""
    theta, loss = descent.theta[:, :, members], loss[:, :, members]
    diverged, lost = descent.diverged_at[:, members], descent.nonfinite[:, members]
    d = theta.shape[-1]
    values = torch.where(loss.isfinite(), loss, torch.nan).tolist()
    where = theta[..., :2].tolist()
    return [
        {
            "benchmark": name,
            "arm": arm.name,
            "rate": float(rate),
            "seed": s,
            "tuning": s >= 100,
            "updates": updates,
            "inner_steps": updates * arm.cost,
            "loss": values[i][r][j],
            "theta_0": where[i][r][j][0] if d <= 2 else None,
            "theta_1": where[i][r][j][1] if d == 2 else None,
            "diverged_at": int(diverged[r, j]),
            "nonfinite": float(lost[r, j]),
        }
        for i, updates in enumerate(descent.updates)
        for r, rate in enumerate(rates)
        for j, s in enumerate(seeds)
    ]


def random_search(
    name: str, problem: Unrolled, seeds: Sequence[int], low: Sequence[float], high: Sequence[float], budget: int
) -> list[Row]:
    """The placebo: the best of uniform draws from a box, with the budget of the others."""
    draws = max(1, budget // problem.steps)
    points = []
    for s in seeds:
        generator = torch.Generator().manual_seed(seed("evolution", "meta", "random", name, s))
        points.append(torch.rand(draws, len(low), generator=generator))
    theta = torch.stack(points) * (torch.tensor(high) - torch.tensor(low)) + torch.tensor(low)
    loss = torch.nan_to_num(outer_loss(problem, theta, 256), nan=torch.inf)  # (seeds, draws)
    best, where = loss.cummin(-1)
    kept = sorted({max(1, round(draws * (i + 1) / LOGS)) for i in range(LOGS)})
    rows = []
    for n in kept:
        at = theta[torch.arange(len(points)), where[:, n - 1]][None, None]
        flat = torch.zeros(1, len(points))
        descent = Descent([n], at, flat.long() - 1, flat)
        arm = Arm("random search", lambda *_: None, problem.steps)
        rows += _rows(name, arm, [0.0], list(seeds), descent, best[:, n - 1][None, None])
    return rows


# --- problems without data --------------------------------------------------------------------------------------------


def toy(settings: Mapping[str, Any], seeds: int) -> list[Row]:
    """B2 of the reference: Vicol's 2-D toy from theta = (0, 0), and the published runs of evosax repeated."""
    problem, window, pairs = ToyRegression(), 10, 8

    def contenders(group: Sequence[int], problem: Unrolled, noise: Noise) -> Iterable[tuple[Arm, Sequence[float]]]:
        rates = (0.01, 0.03, 0.1)
        yield arms.backprop(problem, clip=1.0), rates
        yield arms.truncated_backprop(problem, window), rates
        yield arms.es(problem, noise, pairs, 0.2), rates
        yield arms.es(problem, noise, pairs, arms.annealed(1.0, 0.1), "ES, annealed"), rates
        for kind in ("truncated", "pes", "single"):
            yield arms.windowed(kind, problem, noise, pairs, 0.2, window), rates

    comparison = Comparison(
        "toy",
        lambda _: problem,
        lambda group: torch.zeros(len(group), 2),
        contenders,
        settings["toy_steps"],
        cut={
            "backprop, clipped": settings["backprop_updates"],
            f"truncated backprop {window}": 10 * settings["backprop_updates"],
        },
        together=True,
    )
    rows = compare(comparison, seeds)
    rows += random_search("toy", problem, range(seeds), (-6.0, -6.0), (4.0, 4.0), settings["toy_steps"])
    return rows + published_toy(settings["toy_generations"], seeds)


def published_toy(generations: int, seeds: int) -> list[Row]:
    """PES and NRES with 128 particles, sigma .2, Adam 1e-3, windows of 10, from (0, 0): the loss after generations
    1, 501, ..., since evosax prints it after the update of "generation 0, 500, ..."."""
    problem, rows = ToyRegression(), []
    for kind in ("pes", "single"):
        arm = arms.windowed(kind, problem, Noise(f"published {kind}", range(seeds)), 64, 0.2, 10)
        arm.name = f"published {arm.name}"
        descent = descend(arm, torch.zeros(seeds, 2), [1e-3], "adam", generations, generations)
        at = list(range(1, generations + 1, 500))
        descent = replace(descent, updates=at, theta=descent.theta[at])
        rows += _rows("toy", arm, [1e-3], range(seeds), descent, losses(problem, descent.theta))
    return rows


def influence(settings: Mapping[str, Any], seeds: int) -> list[Row]:
    """B4: influence balancing from theta = .5; judged by the loss at the end of a fresh unroll of 500 steps."""
    updates, pairs = settings["influence_updates"], 500

    def endless(window: int) -> InfluenceBalancing:
        return InfluenceBalancing(updates * window, window)

    def contenders(group: Sequence[int], problem: Unrolled, noise: Noise) -> Iterable[tuple[Arm, Sequence[float]]]:
        rates = (1e-5, 1e-4, 1e-3)
        for window in (1, 10, 100):
            yield arms.truncated_backprop(replace(problem, steps=10**6, window=window), window), rates
        yield arms.windowed("truncated", problem, noise, pairs, 0.1, 1), rates
        yield arms.windowed("pes", problem, noise, pairs, 0.1, 1), rates

    return compare(
        Comparison(
            "influence",
            lambda _: endless(1),
            lambda group: torch.full((len(group), 1), 0.5),
            contenders,
            updates * 2 * pairs,
            optimizer="sgd",
            judge=lambda _: InfluenceBalancing(500, 500),
            cut={f"truncated backprop {window}": updates // 10 for window in (1, 10, 100)},
            together=True,
        ),
        seeds,
    )


def lorenz(settings: Mapping[str, Any], seeds: int) -> list[Row]:
    """B6: the Lorenz system from (log a, log r) = (3.116, 3.7), SGD, windows of 100 of 2000 steps, sigma .04."""
    problem, pairs = Lorenz(settings["lorenz_unroll"]), 10
    window, budget = problem.steps // 20, settings["lorenz_steps"]

    def contenders(group: Sequence[int], problem: Unrolled, noise: Noise) -> Iterable[tuple[Arm, Sequence[float]]]:
        rates = (1e-6, 1e-5, 1e-4)
        yield arms.backprop(problem), (1e-9, 1e-8, 1e-7)  # published: 1e-8
        yield arms.truncated_backprop(problem, window, copies=pairs), rates
        yield arms.es(problem, noise, pairs, 0.04), (1e-7, 1e-6, 1e-5)
        for kind in ("truncated", "pes", "single"):
            yield arms.windowed(kind, problem, noise, pairs, 0.04, window, staggered=True), rates

    comparison = Comparison(
        "lorenz",
        lambda _: problem,
        lambda group: torch.tensor([3.116, 3.7]).expand(len(group), 2),
        contenders,
        budget,
        optimizer="sgd",
        cut={
            "backprop": budget // (20 * problem.steps),
            f"truncated backprop {window}": budget // (2 * problem.steps),
        },
        together=True,
    )
    return compare(comparison, seeds) + random_search("lorenz", problem, range(seeds), (1.3, 2.3), (3.3, 4.3), budget)


# --- inner networks ---------------------------------------------------------------------------------------------------


def one_hot(data_set: DataSet) -> tuple[Tensor, Tensor]:
    """Training inputs (n, d) and one-hot labels (n, classes)."""
    return data_set.train_x.flatten(1), F.one_hot(data_set.train_y, data_set.classes).float()


def named(seeds: Iterable[int], name: str = "init") -> list[int]:
    return [seed("evolution", "meta", name, s) for s in seeds]


def learning_rate(data_set: DataSet, settings: Mapping[str, Any], seeds: int) -> list[Row]:
    """B1: the learning rate of a tanh network 40-50-10 from 1.5, and the notebook's two runs repeated."""
    x, target = rows_for(data_set, 50)
    net = TwoLayers(x.shape[1], 50, data_set.classes)
    steps, window, pairs = settings["learning_rate_unroll"], settings["learning_rate_unroll"] // 10, 2

    def problem(group: Sequence[int]) -> LearningRate:
        return LearningRate(net, x, target, net.initial(named(group)), steps, 50)

    def contenders(group: Sequence[int], problem: Unrolled, noise: Noise) -> Iterable[tuple[Arm, Sequence[float]]]:
        rates = (0.1, 0.3, 1.0)
        yield arms.backprop(problem), rates
        yield arms.es(problem, noise, pairs, 0.05), rates
        for kind in ("truncated", "pes", "single"):
            yield arms.windowed(kind, problem, noise, pairs, 0.05, window), rates

    budget = settings["learning_rate_updates"] * 2 * steps
    rows = compare(
        Comparison(
            "learning_rate",
            problem,
            lambda group: torch.full((len(group), 1), 1.5),
            contenders,
            budget,
            optimizer="sgd",
        ),
        seeds,
    )
    rows += random_search("learning_rate", problem(range(seeds)), range(seeds), (0.05,), (3.0,), budget)
    notebook = LearningRate(net, x, target, net.initial([0]), 200, 50)
    arm = arms.backprop(notebook)
    arm.name = "published backprop"
    start = torch.tensor([[1.5], [0.15]])
    descent = descend(arm, start, [0.3], "sgd", settings["notebook_updates"], settings["notebook_updates"])
    # `seed` counts the two starts
    return rows + _rows("learning_rate", arm, [0.3], [0, 1], descent, losses(notebook, descent.theta))


def rows_for(data_set: DataSet, batch: int) -> tuple[Tensor, Tensor]:
    """Training rows and targets, as many as whole batches take."""
    x, target = one_hot(data_set)
    kept = len(x) // batch * batch
    return x[:kept], target[:kept]


def heavy_ball(data_set: DataSet, steps: int, inits: Tensor, judged: int = 500) -> HeavyBall:
    """B3's inner training of a tanh network 40-32-10."""
    x, target = rows_for(data_set, 50)
    net = TwoLayers(x.shape[1], 32, data_set.classes)
    return HeavyBall(net, x.to(inits), target.to(inits), inits, steps, 50, judged)


def heavy_ball_initial(data_set: DataSet, seeds: Iterable[int]) -> Tensor:
    """Initialisations (seeds, 1, P); the first is PyTorch's under seed 0, as in the reference."""
    net = TwoLayers(data_set.train_x[0].numel(), 32, data_set.classes)
    return net.initial([0 if s == 0 else seed("evolution", "meta", "init", s) for s in seeds])


def rough(data_set: DataSet, settings: Mapping[str, Any], seeds: int) -> list[Row]:
    """B3, optimisers: (log lr, logit momentum) from (log 3, logit .9), where the surface is rough."""
    pairs, steps = 4, settings["rough_unroll"]

    def problem(group: Sequence[int]) -> HeavyBall:
        return heavy_ball(data_set, steps, heavy_ball_initial(data_set, group))

    def contenders(group: Sequence[int], problem: Unrolled, noise: Noise) -> Iterable[tuple[Arm, Sequence[float]]]:
        rates = (0.03, 0.1, 0.3)
        yield arms.backprop(problem, clip=1.0), rates
        yield arms.gradients_at_perturbed_points(problem, noise, pairs, 0.3, merged=False, clip=1.0), rates
        yield arms.gradients_at_perturbed_points(problem, noise, pairs, 0.3, merged=True, clip=1.0), rates
        yield arms.es(problem, noise, pairs, 1.0, "ES, large sigma"), rates
        yield arms.es(problem, noise, pairs, 0.03, "ES, small sigma"), rates
        yield arms.es(problem, noise, pairs, arms.annealed(1.0, 0.03), "ES, annealed"), rates

    budget = settings["rough_updates"] * 2 * pairs * steps
    start = torch.tensor([torch.tensor(3.0).log(), torch.logit(torch.tensor(0.9))])
    comparison = Comparison("rough", problem, lambda group: start.expand(len(group), 2), contenders, budget)
    return compare(comparison, seeds) + random_search(
        "rough", problem(range(seeds)), range(seeds), (-3.0, -2.0), (3.0, 4.0), budget
    )


def activation(data_set: DataSet, settings: Mapping[str, Any], seeds: int) -> list[Row]:
    """B5, learned: a small activation net (see docs), clipped backpropagation with and without noise against ES."""
    x, target = rows_for(data_set, 100)
    net = TwoLayers(x.shape[1], settings["activation_hidden"], data_set.classes)
    width, steps, pairs = settings["activation_width"], settings["activation_unroll"], 4

    def problem(group: Sequence[int], noise: bool = False) -> ActivationFunction:
        tables = [None, None]
        if noise:
            tables = [activation_noise(group, steps, units) for units in (net.hidden, width)]
        inits = net.initial(named(group))
        return ActivationFunction(net, x, target, inits, steps, 100, width, steps * 2 // 3, *tables)

    def contenders(group: Sequence[int], quiet: Unrolled, noise: Noise) -> Iterable[tuple[Arm, Sequence[float]]]:
        rates = (0.3, 1.0, 3.0)
        yield arms.backprop(quiet, clip=0.1), rates
        noisy = arms.backprop(problem(group, noise=True), clip=0.1)
        noisy.name = "backprop, clipped, noise"
        yield noisy, rates
        yield arms.es(quiet, noise, pairs, 0.1), rates

    return compare(
        Comparison(
            "activation",
            problem,
            lambda group: initial_activation(width, named([0], "activation")).expand(len(group), -1),
            contenders,
            settings["activation_updates"] * 2 * pairs * steps,
            optimizer="sgd",
        ),
        seeds,
    )


ACTIVATIONS: dict[str, Activation] = {
    "relu": lambda x: (x.relu(), (x > 0).to(x)),
    "swish": lambda x: (F.silu(x), x.sigmoid() * (1 + x * (1 - x.sigmoid()))),
    "elu": lambda x: (F.elu(x), torch.where(x > 0, 1.0, x.exp())),
    "tanh": tanh,
    "softplus": lambda x: (F.softplus(x), x.sigmoid()),
    "sigmoid": lambda x: (x.sigmoid(), x.sigmoid() * (1 - x.sigmoid())),
}


def activation_baselines(data_set: DataSet, hidden: int, steps: int, seeds: int) -> list[Row]:
    """Rows (activation, seed): the inner training of the notebook with the usual activations, noise and all; its loss
    averaged over all steps, as printed there for them, and over the last 200, as printed for the learned one."""
    x, target = rows_for(data_set, 100)
    net = TwoLayers(x.shape[1], hidden, data_set.classes)
    noise = activation_noise(range(seeds), steps, hidden)
    rows = []
    for name, function in ACTIVATIONS.items():
        params = net.initial(named(range(seeds)))[:, 0]
        accumulated, losses = torch.ones_like(params), []
        for t in range(steps):
            first = t * 100 % len(x)
            batch, targets = x[first : first + 100], target[first : first + 100]
            gradient, log_p = net.gradient(params, batch, targets, function, noise[:, t])
            losses.append(cross_entropy(log_p, targets))
            params, accumulated = rmsprop(params, accumulated, gradient)
        loss = torch.stack(losses, -1)
        for s in range(seeds):
            rows.append(
                {
                    "activation": name,
                    "seed": s,
                    "mean_loss": float(loss[s].mean()),
                    "late_loss": float(loss[s, -200:].mean()),
                }
            )
    return rows


def activation_noise(seeds: Iterable[int], steps: int, units: int) -> Tensor:
    """Uniform in ±.1, (seeds, steps, units)."""
    generators = [torch.Generator().manual_seed(s) for s in named(seeds, f"activation noise {units}")]
    return torch.stack([0.2 * torch.rand(steps, units, generator=g) - 0.1 for g in generators])
