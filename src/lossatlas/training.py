"""The baselines: SGD, momentum, AdaGrad, RMSprop and Adam for whole grids of seeds and rates at once.

All members take their steps together; a learning rate, a data order and a penalty may differ from member to member.
The optimisers are torch's own: they step a displacement that starts at zero with rate 1, and each member then moves
by its own rate times that displacement. This is exact, since every one of these updates is proportional to its rate.
They are called as functions: to construct a `torch.optim.Optimizer` imports torch's compiler, which takes seconds.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.optim.adagrad import adagrad
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from lossatlas import ensemble
from lossatlas.errors import LossAtlasError
from lossatlas.minibatches import minibatch_rows
from lossatlas.perceptron import Perceptron

SAVE_SECONDS = 20.0  # how much work a kill may cost


class Optimizer(NamedTuple):
    """One of torch's updates: how many averages of the gradient's size it keeps, and the update itself.

    update(displacement, gradient, averages, count, momentum) works in place on lists of tensors; `count` holds the
    number of steps before. Not torch's fused kernels: they give a member other bits when others stand behind it.
    """

    averages: int
    update: Callable[..., None]


def _sgd(step, gradient, averages, count, momentum):
    plain = {"weight_decay": 0.0, "dampening": 0.0, "nesterov": False, "maximize": False}
    sgd(step, gradient, averages or [None], foreach=False, lr=1.0, momentum=momentum if averages else 0.0, **plain)


def _adagrad(step, gradient, averages, count, momentum):
    plain = {"weight_decay": 0.0, "lr_decay": 0.0, "maximize": False}
    adagrad(step, gradient, averages, count, foreach=False, lr=1.0, eps=1e-10, **plain)


def _rmsprop(step, gradient, averages, count, momentum):
    plain = {"weight_decay": 0.0, "momentum": 0.0, "centered": False}
    rmsprop(step, gradient, averages, [], [], count, foreach=False, lr=1.0, alpha=0.99, eps=1e-8, **plain)


def _adam(step, gradient, averages, count, momentum):
    mean, square = averages
    plain = {"weight_decay": 0.0, "amsgrad": False, "maximize": False}
    betas = {"beta1": momentum, "beta2": 0.999, "eps": 1e-8}
    adam(step, gradient, [mean], [square], [], count, foreach=False, lr=1.0, **betas, **plain)


OPTIMIZERS = {
    "sgd": Optimizer(0, _sgd),
    "momentum": Optimizer(1, _sgd),
    "adagrad": Optimizer(1, _adagrad),
    "rmsprop": Optimizer(1, _rmsprop),
    "adam": Optimizer(2, _adam),
}


@dataclass(frozen=True)
class Recipe:
    """How every member is trained.

    momentum: of SGD with momentum, and Adam's first beta. batch_size None: all rows in each step.
    milestones: shares of the training at which the rate is multiplied by `factor`; cosine: from 1 to 0 over the steps.
    """

    optimizer: str = "momentum"
    steps: int = 1000
    batch_size: int | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "constant"
    milestones: tuple[float, ...] = ()
    factor: float = 0.1

    def __post_init__(self):
        if self.optimizer not in OPTIMIZERS:
            raise LossAtlasError(f"optimizer {self.optimizer!r} is unknown; use one of {', '.join(OPTIMIZERS)}")
        if self.schedule not in ("constant", "milestones", "cosine"):
            raise LossAtlasError(f"schedule {self.schedule!r} is unknown; use constant, milestones or cosine")

    def rate_factor(self, step: int) -> float:
        """The schedule's factor of the learning rate at a step in [0, steps)."""
        done = step / self.steps
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        if self.schedule == "milestones":
            return self.factor ** sum(done >= share for share in self.milestones)
        return 1.0


@dataclass(frozen=True, eq=False)
class Training:
    """What a training leaves behind.

    initial, final (k, P); kept {step: (k, P)}, parameters after that many steps; losses (k, epochs), the mean
    minibatch loss of each epoch (moving parameters, penalty included, NaN once diverged); diverged_at (k,) int64,
    the step whose loss, gradient or result was not finite, -1 where there was none. A member that diverged stays
    where it last was finite.
    """

    initial: Tensor
    final: Tensor
    kept: dict[int, Tensor]
    losses: Tensor
    diverged_at: Tensor


class Store(Protocol):
    """Where a training that is cut short finds its place again; `load` gives back what `save` got, or None."""

    def load(self) -> dict[str, Any] | None: ...

    def save(self, state: dict[str, Any]) -> None: ...


def steps_per_epoch(problem, recipe: Recipe) -> int:
    """Steps between two fresh permutations of the rows; 1 where a step sees all of the problem."""
    if recipe.batch_size is None:
        return 1
    if recipe.batch_size > problem.rows:
        raise LossAtlasError(f"batch_size {recipe.batch_size} is larger than the data set ({problem.rows} rows)")
    return problem.rows // recipe.batch_size


def train(
    problem,
    theta: Tensor,
    recipe: Recipe,
    learning_rate: float | Tensor,
    *,
    orders: Sequence[int] | None = None,
    penalty: Callable[[Tensor], Tensor] | None = None,
    keep: Sequence[int] = (),
    store: Store | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Training:
    """Train the ensemble theta (k, P) on any problem; a number or (k,) learning rates; data orders by member.

    penalty(theta (k, P)) -> (k,) is added to the loss. keep: numbers of steps after which parameters are kept.
    With a `store`, the state is saved now and then after an epoch; a training that was cut short goes on bit for bit.
    """
    k = theta.shape[0]
    orders = [0] * k if orders is None else list(orders)
    rate = torch.as_tensor(learning_rate, dtype=theta.dtype, device=theta.device).expand(k)
    epoch_steps = steps_per_epoch(problem, recipe)
    state = _start(theta, recipe, math.ceil(recipe.steps / epoch_steps))
    if store and (saved := store.load()):
        state.restore(saved)
    slope = _slope(problem, penalty)
    saved_at = time.monotonic()
    while state.step < recipe.steps:
        epoch = state.step // epoch_steps
        steps = min(epoch_steps, recipe.steps - state.step)
        for part in _epoch(problem, recipe, orders, epoch, steps):
            _take_step(state, *slope(part, state.theta), recipe, rate, epoch)
            if state.step in keep:
                state.kept[state.step] = state.theta.clone()
        state.losses[:, epoch] /= steps
        if store and state.step < recipe.steps and time.monotonic() - saved_at > SAVE_SECONDS:
            store.save(state.saved())
            saved_at = time.monotonic()
        if progress:
            progress(state.step, recipe.steps)
    return Training(theta.detach().clone(), state.theta, state.kept, state.losses, state.diverged_at)


@dataclass(eq=False)
class _State:
    """Of a training between two steps; `saved` is what a resumed one needs, the other tensors are scratch space."""

    theta: Tensor
    averages: list[Tensor]
    count: Tensor
    losses: Tensor
    diverged_at: Tensor
    kept: dict[int, Tensor]
    displacement: Tensor
    spare: Tensor
    step: int = 0

    def saved(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _SAVED}

    def restore(self, saved: dict[str, Any]) -> None:
        device = self.theta.device
        self.step, self.count = saved["step"], saved["count"]
        self.theta, self.losses, self.diverged_at = (
            saved[name].to(device) for name in ("theta", "losses", "diverged_at")
        )
        self.averages = [average.to(device) for average in saved["averages"]]
        self.kept = {step: theta.to(device) for step, theta in saved["kept"].items()}


_SAVED = ("step", "theta", "averages", "count", "losses", "diverged_at", "kept")


def _start(theta: Tensor, recipe: Recipe, epochs: int) -> _State:
    theta = theta.detach().clone(memory_format=torch.contiguous_format)
    return _State(
        theta=theta,
        averages=[torch.zeros_like(theta) for _ in range(OPTIMIZERS[recipe.optimizer].averages)],
        count=torch.zeros(()),  # on the CPU wherever theta is, as torch has it
        losses=theta.new_zeros(theta.shape[0], epochs),
        diverged_at=torch.full((theta.shape[0],), -1, device=theta.device),
        kept={},
        displacement=torch.empty_like(theta),
        spare=torch.empty_like(theta),
    )


def _epoch(problem, recipe: Recipe, orders: Sequence[int], epoch: int, steps: int) -> Iterator:
    """The problem of each step of an epoch."""
    if recipe.batch_size is None:
        yield problem
        return
    batches = minibatch_rows(problem.rows, recipe.batch_size, orders, epoch)
    for _, rows in zip(range(steps), batches, strict=False):
        yield problem.on(rows)


Slope = Callable[[Any, Tensor], tuple[Tensor, Tensor]]


def _slope(problem, penalty: Callable[[Tensor], Tensor] | None) -> Slope:
    """(part of the problem, theta (k, P)) -> losses (k,) and gradients (k, P), of all members at once.

    The next call may overwrite what one gave.
    """
    perceptron = Perceptron.of(problem)
    plain = _written_out(perceptron) if perceptron else lambda part, theta: ensemble.gradient(part, theta, len(theta))
    if penalty is None:
        return plain

    def penalised(part, theta: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = plain(part, theta)
        more, outwards = ensemble.gradient(penalty, theta, len(theta))
        return loss + more, gradient.add_(outwards)

    return penalised


def _written_out(perceptron: Perceptron) -> Slope:
    """Passes are prepared once for each tensor that the parameters stand in by turns."""
    kept = {}  # by address, which is not used again as long as the pass holds the tensor

    def slope(part, theta: Tensor) -> tuple[Tensor, Tensor]:
        # as groups of one member each where members have rows of their own, else as one group
        own = part.own_rows
        if theta.data_ptr() not in kept:
            gradient = torch.empty_like(theta)
            members, into = (theta[:, None], gradient[:, None]) if own else (theta[None], gradient[None])
            kept[theta.data_ptr()] = perceptron.prepare(members, into, part.rows), gradient
        run, gradient = kept[theta.data_ptr()]
        loss = run(part.x, part.y) if own else run(part.x[None], part.y[None])
        return loss.flatten(), gradient

    return slope


def _take_step(state: _State, loss: Tensor, gradient: Tensor, recipe: Recipe, rate: Tensor, epoch: int) -> None:
    with torch.no_grad():
        theta = state.theta
        if recipe.weight_decay:
            gradient.add_(theta, alpha=recipe.weight_decay)
        step, update = state.displacement.zero_(), OPTIMIZERS[recipe.optimizer].update
        update([step], [gradient], state.averages, [state.count], recipe.momentum)
        factor = (rate * recipe.rate_factor(state.step))[:, None]
        moved = torch.addcmul(theta, step, factor, out=state.spare)
        # a gradient that is not finite makes the move so, and a sum is finite only if all its terms are
        going = (loss + moved.sum(-1)).isfinite() & (state.diverged_at < 0)
        if not going.all():
            state.diverged_at.masked_fill_((state.diverged_at < 0) & ~going, state.step)
            moved[~going] = theta[~going]
            loss = loss.masked_fill(~going, torch.nan)
        state.losses[:, epoch] += loss
        state.theta, state.spare = moved, theta
        state.step += 1
