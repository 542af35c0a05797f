"""The baselines: SGD, momentum, AdaGrad, RMSprop and Adam for whole grids of seeds and rates at once.

All members take their steps together; a learning rate, a data order and a penalty may differ from member to member.
The optimisers are torch's own: they step a displacement that starts at zero with rate 1, and each member then moves
by its own rate times that displacement. This is exact, since every one of these updates is proportional to its rate.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lossatlas.errors import LossAtlasError
from lossatlas.seeds import seed

SAVE_SECONDS = 20.0  # how much work a kill may cost

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p, momentum: torch.optim.SGD(p, lr=1.0),
    "momentum": lambda p, momentum: torch.optim.SGD(p, lr=1.0, momentum=momentum),
    "adagrad": lambda p, momentum: torch.optim.Adagrad(p, lr=1.0),
    "rmsprop": lambda p, momentum: torch.optim.RMSprop(p, lr=1.0),
    "adam": lambda p, momentum: torch.optim.Adam(p, lr=1.0, betas=(momentum, 0.999)),
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


def minibatch_rows(rows: int, batch_size: int, orders: Sequence[int], epoch: int) -> Iterator[Tensor]:
    """Row indices of each minibatch of an epoch: (batch,) if all members share one order, else (k, batch).

    An order is named by an integer and is a fresh permutation each epoch, drawn from (order, epoch) alone; an
    incomplete last minibatch is dropped.
    """
    permutations = {}
    for order in dict.fromkeys(orders):
        generator = torch.Generator().manual_seed(seed("order", order, epoch))
        permutations[order] = torch.randperm(rows, generator=generator)
    if len(permutations) == 1:
        table = next(iter(permutations.values()))
    else:
        table = torch.stack([permutations[order] for order in orders])
    for start in range(0, rows - batch_size + 1, batch_size):
        yield table[..., start : start + batch_size]


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
    saved_at = time.monotonic()
    while state.step < recipe.steps:
        epoch = state.step // epoch_steps
        steps = min(epoch_steps, recipe.steps - state.step)
        for part in _epoch(problem, recipe, orders, epoch, steps):
            _take_step(state, part, recipe, rate, penalty, epoch)
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
    theta: Tensor
    displacement: Tensor
    optimizer: torch.optim.Optimizer
    losses: Tensor
    diverged_at: Tensor
    kept: dict[int, Tensor]
    step: int = 0

    def saved(self) -> dict[str, Any]:
        names = ("step", "theta", "losses", "diverged_at", "kept")
        return {name: getattr(self, name) for name in names} | {"optimizer": self.optimizer.state_dict()}

    def restore(self, saved: dict[str, Any]) -> None:
        device = self.theta.device
        self.step = saved["step"]
        self.theta, self.losses, self.diverged_at = (
            saved[name].to(device) for name in ("theta", "losses", "diverged_at")
        )
        self.kept = {step: theta.to(device) for step, theta in saved["kept"].items()}
        self.optimizer.load_state_dict(saved["optimizer"])


def _start(theta: Tensor, recipe: Recipe, epochs: int) -> _State:
    displacement = torch.zeros_like(theta, requires_grad=True)
    return _State(
        theta=theta.detach().clone(),
        displacement=displacement,
        optimizer=OPTIMIZERS[recipe.optimizer]([displacement], recipe.momentum),
        losses=theta.new_zeros(theta.shape[0], epochs),
        diverged_at=torch.full((theta.shape[0],), -1, device=theta.device),
        kept={},
    )


def _epoch(problem, recipe: Recipe, orders: Sequence[int], epoch: int, steps: int) -> Iterator:
    """The problem of each step of an epoch."""
    if recipe.batch_size is None:
        yield problem
        return
    batches = minibatch_rows(problem.rows, recipe.batch_size, orders, epoch)
    for _, rows in zip(range(steps), batches, strict=False):
        yield problem.on(rows.to(problem.x.device))


def _take_step(state: _State, problem, recipe: Recipe, rate: Tensor, penalty, epoch: int) -> None:
    theta = state.theta.requires_grad_()
    loss = problem(theta)
    if penalty is not None:
        loss = loss + penalty(theta)
    (gradient,) = torch.autograd.grad(loss.sum(), theta)
    with torch.no_grad():
        state.theta = theta = theta.detach()
        if recipe.weight_decay:
            gradient.add_(theta, alpha=recipe.weight_decay)
        state.displacement.grad = gradient
        state.displacement.zero_()
        state.optimizer.step()
        moved = torch.addcmul(theta, state.displacement, (rate * recipe.rate_factor(state.step))[:, None])
        # a gradient that is not finite makes the move so, and a sum is finite only if all its terms are
        finite = (loss + moved.sum(-1)).isfinite()
        state.diverged_at.masked_fill_((state.diverged_at < 0) & ~finite, state.step)
        stopped = state.diverged_at >= 0
        state.losses[:, epoch] += loss.masked_fill(stopped, torch.nan)
        state.theta = torch.where(stopped[:, None], theta, moved)
        state.step += 1
