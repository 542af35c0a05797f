"""The nudged elastic band: all pivots of a path take their steps together, on one minibatch.

At each inner pivot the gradient of the loss acts across the path and a spring force along it (Henkelman and Jónsson
2000). With infinitely stiff springs, the published case (Draxler et al. 2018, Alg. 1), the spring force is dropped
and the pivots are redistributed along the path after each step. The mechanical model keeps both forces in full.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

import torch
from torch import Tensor

from lossatlas import ensemble
from lossatlas.elastic_band import geometry
from lossatlas.elastic_band.arms import CORRECTED, Arm
from lossatlas.elastic_band.step import Forces, Frame, highest, moving
from lossatlas.errors import LossAtlasError
from lossatlas.minibatches import endless_rows
from lossatlas.perceptron import Perceptron
from lossatlas.problems.network import NetworkProblem

CHECK_EVERY = 50  # steps between two looks at whether the band is finite
TORN = 1.0  # spacing error above which a band is torn: a gap that is twice as long as it should be

Outcome = Literal["ok", "torn", "diverged"]


@dataclass(frozen=True)
class Cost:
    """Work in samples (points times rows): gradients, and evaluations that go forward only."""

    gradients: int = 0
    evaluations: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.gradients + other.gradients, self.evaluations + other.evaluations)

    @property
    def sample_gradients(self) -> float:
        """In units of a sample's gradient; going forward only is a third of one."""
        return (3 * self.gradients + self.evaluations) / 3


@dataclass(frozen=True)
class Stop:
    """Ends a band when its highest pivot no longer falls.

    The mean loss of the highest pivot over `every` steps (of the minibatch losses, which cost nothing) must fall
    below (1 - gain) times the lowest such mean, or the band ends after `patience` such blocks of steps.
    """

    every: int = 50
    gain: float = 0.02
    patience: int = 1


@dataclass(frozen=True, eq=False)
class Band:
    """A path (N, P) after some steps, what they cost, and what became of it.

    `diverged`: a loss or pivot was not finite; the path is then the one it started from. `torn`: the pivots could
    not be spaced (`TORN`). saddles (steps,): the highest loss among the pivots of each step, on its minibatch, float64;
    NaN where one is not finite.
    """

    path: Tensor
    steps: int
    cost: Cost
    outcome: Outcome
    saddles: Tensor


def neb(
    problem,
    path: Tensor,
    *,
    steps: int,
    learning_rate: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    batch_size: int | None = None,
    weights: Tensor | None = None,
    spring: float = math.inf,
    climbing: bool = False,
    stop: Stop | None = None,
    arm: Arm = CORRECTED,
    generator: torch.Generator | None = None,
) -> Band:
    """Move the inner pivots of a path (N, P) by SGD with momentum; the ends stay bit by bit.

    problem: anything that follows `lossatlas.problems.Problem`; with a batch_size, one with `rows` and `on` is put on
    the next minibatch in each step (`lossatlas.minibatches.endless_rows`). weights (N - 1,): the gaps' shares of
    the length. spring: the constant k of the springs, where infinity means redistribution. climbing: the highest inner
    pivot climbs along the path, to the saddle. Raises `LossAtlasError` for a batch larger than the data set, a path of
    fewer than three pivots, or a weight that is not positive.
    """
    _check(problem, path, weights, batch_size)
    return _together(
        problem,
        path[None],
        None if weights is None else weights[None],
        [generator or torch.Generator().manual_seed(0)],
        arm,
        steps=steps,
        learning_rate=path.new_full((1, 1, 1), learning_rate),
        momentum=momentum,
        weight_decay=weight_decay,
        batch_size=batch_size,
        spring=spring,
        climbing=climbing,
        stop=stop,
    )[0]


def nebs(
    problem,
    paths: Tensor,
    *,
    steps: int,
    learning_rate: float | Tensor,
    generators: Sequence[torch.Generator],
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    batch_size: int | None = None,
    weights: Tensor | None = None,
    spring: float = math.inf,
    stop: Stop | None = None,
    arm: Arm = CORRECTED,
) -> list[Band]:
    """`neb` of several paths (b, N, P), each with its own generator, weights (b, N - 1) and rate (b,), in one go.

    Perceptrons take their steps together, which spares most of what small networks cost; other problems, and bands
    that may stop early, run one after the other. Up to rounding the numbers are the same.
    """
    _check(problem, paths[0], weights, batch_size)
    weights = geometry.equal_weights(paths) if weights is None else weights
    rates = torch.as_tensor(learning_rate, dtype=torch.float64).expand(len(paths))
    steppers = {"steps": steps, "momentum": momentum, "weight_decay": weight_decay}
    steppers |= {"batch_size": batch_size, "spring": spring, "stop": stop}
    together = type(problem) is NetworkProblem and stop is None and Perceptron.of(problem) is not None
    size = len(paths) if together else 1
    parts = zip(paths.split(size), weights.split(size), _in_parts(generators, size), rates.split(size), strict=True)
    return [
        band
        for *part, rate in parts
        for band in _together(problem, *part, arm, learning_rate=rate.to(paths)[:, None, None], **steppers)
    ]


def _in_parts(items: Sequence, size: int) -> list[Sequence]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _together(
    problem,
    path: Tensor,
    weights: Tensor | None,
    generators: Sequence[torch.Generator],
    arm: Arm,
    *,
    steps: int,
    learning_rate: Tensor,
    momentum: float,
    weight_decay: float,
    batch_size: int | None,
    spring: float,
    stop: Stop | None,
    climbing: bool = False,
) -> list[Band]:
    """The bands from some paths (b, N, P), all in the same steps at the rates (b, 1, 1).

    `climbing` and a `stop` are for a single one.
    """
    weights = geometry.equal_weights(path) if weights is None else weights
    shares, redistributes = weights.tolist(), spring == math.inf and arm.force == "neb"
    batches = _batches(problem, batch_size, path.shape[1], arm, generators)
    advances = hasattr(problem, "advanced")
    watch = _Watch(stop, len(path))
    with torch.inference_mode(_in_one_pass(problem, batch_size, arm) is not None):  # which needs no graph
        frame = Frame(path, Forces(arm, weight_decay, spring, climbing))
        slopes = slopes_of(problem, frame, batch_size, arm)
        while watch.steps < steps and not watch.ended:
            rows = next(batches)
            losses = frame.nudge(slopes(rows), shares)
            watch.note(losses)
            if advances:
                frame.moving[0] = seen(problem, rows, arm)[0].advanced(frame.moving[0])
            frame.move(momentum, learning_rate)
            if redistributes and (arm.spacing == "always" or watch.steps < steps):
                frame.respace(shares, highest(losses[0]) if climbing else None)
        if redistributes and arm.spacing == "always" and not climbing:
            geometry.redistribute_(frame.path, weights)
    bands = []
    m = frame.moving.shape[1]
    for one, before, own, saddles in zip(frame.path.clone(), path, weights, watch.of_each(), strict=True):
        samples = len(saddles) * step_rows(problem, batch_size)
        became = outcome(one, own, saddles)
        cost = Cost(samples * m, samples * (path.shape[1] - m))
        bands.append(Band(before if became == "diverged" else one, len(saddles), cost, became, saddles))
    return bands


def _check(problem, path: Tensor, weights: Tensor | None, batch_size: int | None) -> None:
    if path.dim() != 2 or len(path) < 3 or path.shape[1] != problem.dim:
        raise LossAtlasError(f"a band needs a path (3 or more pivots, {problem.dim}), not {tuple(path.shape)}")
    if weights is not None and not (weights > 0).all():
        raise LossAtlasError("every gap of a band needs a share of its length above 0: see `weights`")


def step_rows(problem, batch_size: int | None) -> int:
    """Rows of a problem that a step sees; an analytic problem has one."""
    return batch_size if _sampled(problem, batch_size) else getattr(problem, "rows", 1)


def _sampled(problem, batch_size: int | None) -> bool:
    return batch_size is not None and hasattr(problem, "rows") and hasattr(problem, "on")


def _chunk(problem, path: Tensor, rows: int) -> int | None:
    """Pivots whose activations fit the cache at once, found for all steps; None where the problem does not say."""
    if not hasattr(problem, "row_numel"):
        return None
    budget = ensemble.CACHE_BYTES if path.device.type == "cpu" else ensemble.DEVICE_BYTES
    return max(1, budget // (problem.row_numel * rows * path.element_size()))


def _batches(
    problem, batch_size: int | None, pivots: int, arm: Arm, generators: Sequence[torch.Generator]
) -> Iterator[Tensor | None]:
    """The rows of each step, each band's by its generator; None where a step sees all of the problem.

    (b, n), or (b, N, n) where the arm gives each pivot its own: the next minibatch, as in the released code.
    """
    if not _sampled(problem, batch_size):
        return repeat(None)
    shared = endless_rows(problem.rows, batch_size, generators)
    return shared if arm.minibatch == "shared" else map(_abreast, zip(*[shared] * pivots, strict=True))


def _abreast(batches: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(batches), 1)


def seen(problem, rows: Tensor | None, arm: Arm):
    """The problem on the rows of a step as the moving pivots of all bands see it, and as their ends do.

    Both see one minibatch (so that neighbours can be compared), rows (1, n), unless the arm gives each pivot its own,
    (b, N, n). A problem with an `ends` shows that to the ends where the arm asks for it: the same rows, in evaluation
    mode.
    """
    if rows is None:
        inner = ends = problem
    elif arm.minibatch == "own":
        inner, ends = (problem.on(own.flatten(0, 1)) for own in _split(rows, arm))
    else:
        inner = ends = problem.on(rows[0])
    return inner, getattr(ends, "ends", ends) if arm.mode == "ends-eval" else ends


def _split(path: Tensor, arm: Arm) -> tuple[Tensor, Tensor]:
    """Of something (b, N, ...), what belongs to the pivots that move, and to those that do not."""
    return path[:, moving(arm)], path[:, :1] if arm.last_end == "moves" else path[:, [0, -1]]


def _in_one_pass(problem, batch_size: int | None, arm: Arm) -> Perceptron | None:
    """The perceptron whose ends and moving pivots see the same rows in the same way, so that one pass does for all."""
    one_mode = arm.mode == "one" or not hasattr(problem, "ends")
    one_batch = batch_size is None or arm.minibatch == "shared"
    return Perceptron.of(problem) if one_mode and one_batch else None


def slopes_of(problem, frame: Frame, batch_size: int | None, arm: Arm) -> Callable[[Tensor | None], Tensor]:
    """The rows of a step -> losses (b, N) of the frame's paths as they stand; the gradients go to the frame.

    The next call may overwrite what one gave.
    """
    if perceptron := _in_one_pass(problem, batch_size, arm):
        gradient = frame.gradient.contiguous()  # of several bands a copy
        run = perceptron.prepare(frame.path, gradient, step_rows(problem, batch_size), first=1)

        def together(rows: Tensor | None) -> Tensor:
            losses = run(*_of_each_band(problem, rows, len(frame.path)))
            frame.gradient.copy_(gradient)
            return losses

        return together
    perceptron = Perceptron.of(problem)
    chunk = _chunk(problem, frame.path, step_rows(problem, batch_size))

    def apart(rows: Tensor | None) -> Tensor:
        inner, ends = seen(problem, rows, arm)
        free, fixed = _split(frame.path, arm)
        members = free.flatten(0, 1)
        if perceptron:
            losses, gradient = perceptron.gradient(members, inner.x, inner.y)
        else:
            losses, gradient = ensemble.gradient(inner, members, chunk)
        frame.gradient.copy_(gradient.view(free.shape))
        losses = losses.view(free.shape[:2])
        at_ends = ensemble.loss(ends, fixed.flatten(0, 1), chunk).view(fixed.shape[:2])
        return torch.cat([at_ends[:, :1], losses, at_ends[:, 1:]], 1)

    return apart


def _of_each_band(problem, rows: Tensor | None, bands: int) -> tuple[Tensor, Tensor]:
    """Inputs (b, n, ...) and labels (b, n) of the rows (b, n) that all pivots of a band see."""
    if problem.own_rows:
        part = problem if rows is None else problem.on(rows)
        return part.x, part.y
    x, y = problem.x, problem.y
    if rows is None:
        return x.expand(bands, *x.shape), y.expand(bands, *y.shape)
    flat = rows.flatten().to(x.device)
    return x.index_select(0, flat).view(*rows.shape, -1), y.index_select(0, flat).view(rows.shape)


class _Watch:
    """The highest losses of the bands' steps, and whether they should go on."""

    def __init__(self, stop: Stop | None, bands: int):
        self.stop = stop
        self.saddles: list[list[float]] = [[] for _ in range(bands)]
        self.last = [0] * bands  # the step at which a band was found not to be finite; 0: not yet
        self.lowest, self.idle, self.ended = math.inf, 0, False

    def note(self, losses: list[list[float]]) -> None:
        for saddles, own in zip(self.saddles, losses, strict=True):
            saddles.append(max(own) if math.isfinite(sum(own)) else math.nan)
        every = self.stop.every if self.stop else CHECK_EVERY
        if self.steps % every:
            return
        levels = [sum(saddles[-every:]) / every for saddles in self.saddles]
        self.last = [last or (0 if math.isfinite(x) else self.steps) for last, x in zip(self.last, levels, strict=True)]
        self.ended = all(self.last)
        if self.stop:
            level = levels[0]
            falls = level < self.lowest - self.stop.gain * abs(self.lowest) or self.lowest == math.inf
            self.idle = 0 if falls else self.idle + 1
            self.lowest = min(self.lowest, level)
            self.ended |= self.idle >= self.stop.patience

    @property
    def steps(self) -> int:
        return len(self.saddles[0])

    def of_each(self) -> list[Tensor]:
        """The highest losses of each band's own steps."""
        found = zip(self.saddles, self.last, strict=True)
        return [torch.tensor(saddles[: last or None], dtype=torch.float64) for saddles, last in found]


def outcome(path: Tensor, weights: Tensor, saddles: Tensor) -> Outcome:
    """What became of a band with these saddles (steps,)."""
    if not (path.isfinite().all() and saddles.isfinite().all()):
        return "diverged"
    return "torn" if geometry.spacing_error(path, weights) > TORN else "ok"
