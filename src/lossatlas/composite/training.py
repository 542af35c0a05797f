"""Training on several losses at once: what each step measures, how it weighs them, and what is written down of it.

A problem with several losses has `outputs(theta) -> tuple of (k, ...)`, `goal_functions() -> [outputs -> (k,)]`, `rows`
and `on(rows)`. Gradients are measured where `at` says: at the `outputs` of the network, which costs one pass through
it however many losses there are, or at its `parameters`, which costs one pass for each loss. Members (k,) are trained
together, as in `lossatlas.training`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lossatlas.composite import weightings
from lossatlas.composite.weightings import matched_noise, noise_variance
from lossatlas.errors import LossAtlasError
from lossatlas.minibatches import minibatch_rows
from lossatlas.stepper import Stepper
from lossatlas.training import Recipe, steps_per_epoch

PLACES = ("outputs", "items", "parameters")


class Seen(NamedTuple):
    """What a weighting may read in one step of k members with n losses."""

    losses: Tensor  # (k, n)
    norms: Tensor  # (k, n), of the gradients where they are measured
    gramian: Tensor  # (k, n, n) of those gradients
    epoch: int = 0


class Weighting(Protocol):
    """Weights (k, n) of the losses of one step. `reset` forgets what was seen; `after` gets the losses of the same
    rows when the step is done, if `reads_result`."""

    def __call__(self, seen: Seen) -> Tensor: ...

    def reset(self) -> None: ...


@dataclass(frozen=True, eq=False)
class Composition:
    """What a training with several losses leaves behind.

    final (k, P); kept {step: (k, P)}, parameters after that many steps; by step losses, weights (T, k, n); at the steps
    of `looked` (L,) the Gramians (L, k, n, n) of the gradients at the parameters, wherever the weighting measured its
    own; passes, backward passes through the network a step, those looks not counted; diverged_at (k,), -1 if never.
    """

    final: Tensor
    kept: dict[int, Tensor]
    losses: Tensor
    weights: Tensor
    looked: Tensor
    gramians: Tensor
    passes: float
    diverged_at: Tensor


class Measured(NamedTuple):
    """Losses (k, n), Gramian (k, n, n) and norms (k, n) of their gradients, and how to go back to the parameters.

    `at_parameters` is to be called before `pull_back`, which ends the way back through the network.
    """

    losses: Tensor
    norms: Tensor
    gramian: Tensor
    pull_back: Callable[[Tensor], Tensor]  # weights (k, n) -> direction (k, P)
    at_parameters: Callable[[], Tensor]  # the Gramian (k, n, n) of the gradients there


def measure(problem, theta: Tensor, at: str = "outputs") -> Measured:
    """The gradients of all losses at theta (k, P), measured at the `outputs`, there by item (`items`: norms are means
    over the rows, as in encodec's balancer), or at the `parameters`.

    A loss that does not depend on an output has the gradient zero there. Raises `LossAtlasError` for another place, or
    fewer than two losses: one goal needs no weights.
    """
    if at not in PLACES:
        raise LossAtlasError(f"gradients are measured at one of {', '.join(PLACES)}, not at {at!r}")
    functions = problem.goal_functions()
    if len(functions) < 2:
        raise LossAtlasError("a composite needs at least two losses: with one, train on it directly")
    theta = theta.detach().requires_grad_()
    outputs = problem.outputs(theta)
    # each loss has leaves of its own, so that one call gives all gradients and none is visited twice
    leaves = [[o.detach().requires_grad_() for o in outputs] for _ in functions]
    losses = [goal(tuple(leaf)) for goal, leaf in zip(functions, leaves, strict=True)]
    flat = [leaf for row in leaves for leaf in row]
    found = torch.autograd.grad(sum(loss.sum() for loss in losses), flat, allow_unused=True)
    slopes = [list(found[i : i + len(outputs)]) for i in range(0, len(flat), len(outputs))]
    values = torch.stack([loss.detach() for loss in losses], -1)
    if at == "parameters":
        return _at_parameters(theta, outputs, slopes, values)
    return _at_outputs(theta, outputs, slopes, values, by_item=at == "items")


def _at_outputs(theta: Tensor, outputs, slopes, values: Tensor, by_item: bool) -> Measured:
    k, n = values.shape
    gramian = values.new_zeros(k, n, n)
    item_squares = values.new_zeros(k, n, outputs[0].shape[1]) if by_item else None
    reached = [[i for i in range(n) if slopes[i][j] is not None] for j in range(len(outputs))]
    blocks = []  # of each output the slopes (k, n', ...) of those that reach it
    for j, present in enumerate(reached):
        if not present:
            blocks.append(None)
            continue
        rows = torch.stack([slopes[i][j].flatten(1) for i in present], 1)
        blocks.append(rows)
        gramian[:, torch.tensor(present)[:, None], torch.tensor(present)] += rows @ rows.mT
        if by_item:
            item_squares[:, present] += rows.unflatten(-1, (outputs[j].shape[1], -1)).square().sum(-1)
    norms = gramian.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    if by_item:
        norms = item_squares.sqrt().mean(-1)

    def pull_back(weights: Tensor) -> Tensor:
        mixed = [
            torch.zeros_like(output) if rows is None else (weights[:, None, present] @ rows).view_as(output)
            for output, rows, present in zip(outputs, blocks, reached, strict=True)
        ]
        return torch.autograd.grad(outputs, theta, mixed)[0]

    return Measured(values, norms, gramian, pull_back, lambda: weightings.gramian(_jacobian(theta, outputs, slopes)))


def _at_parameters(theta: Tensor, outputs, slopes, values: Tensor) -> Measured:
    jacobian = _jacobian(theta, outputs, slopes)
    gramian = weightings.gramian(jacobian)
    norms = gramian.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()

    def pull_back(weights: Tensor) -> Tensor:
        return (weights[:, None] @ jacobian)[:, 0]

    return Measured(values, norms, gramian, pull_back, lambda: gramian)


def _jacobian(theta: Tensor, outputs, slopes) -> Tensor:
    """The gradients (k, n, P) of all losses at the parameters theta (k, P)."""
    rows = []
    for slope in slopes:
        reached = [j for j, s in enumerate(slope) if s is not None]
        if not reached:
            rows.append(torch.zeros_like(theta))
            continue
        rows.append(
            torch.autograd.grad([outputs[j] for j in reached], theta, [slope[j] for j in reached], retain_graph=True)[0]
        )
    return torch.stack(rows, 1)


def train(
    problem,
    theta: Tensor,
    weighting: Weighting,
    recipe: Recipe,
    learning_rate: float | Tensor,
    *,
    orders: Sequence[int] | None = None,
    at: str = "outputs",
    noise: torch.Generator | None = None,
    look_every: int = 50,
    keep: Sequence[int] = (),
) -> Composition:
    """Train the ensemble theta (k, P) on all losses of a problem, weighted anew in every step.

    noise: adds isotropic noise of the variance that random switching has, `matched_noise` (which needs the
    gradients at the parameters). The weighting is reset first, so two runs share no averages. A member that diverges
    stays where it last was finite, and its later losses and weights are NaN.
    """
    if noise is not None and at != "parameters":
        raise LossAtlasError("matched noise needs the gradient of every loss: measure at the parameters")
    k = theta.shape[0]
    orders = [0] * k if orders is None else list(orders)
    rate = torch.as_tensor(learning_rate, dtype=theta.dtype, device=theta.device).expand(k)
    weighting.reset()
    theta = theta.detach().clone()
    optimizer = Stepper(theta, recipe.optimizer, recipe.momentum)
    diverged_at = torch.full((k,), -1, device=theta.device)
    kept, looked, gramians, losses, used = {}, [], [], [], []
    for step, (epoch, part) in enumerate(_minibatches(problem, recipe, orders)):
        found = measure(part, theta, at)
        weights = weighting(Seen(found.losses, found.norms, found.gramian, epoch)).to(theta)
        if step % look_every == 0 or step == recipe.steps - 1:
            looked.append(step)
            gramians.append(found.at_parameters())
        direction = found.pull_back(weights)
        if noise is not None:
            direction = matched_noise(direction, noise_variance(found.gramian, theta.shape[-1]), noise)
        with torch.no_grad():
            moved = torch.addcmul(theta, optimizer.step(direction), (rate * recipe.rate_factor(step))[:, None])
            finite = (found.losses.sum(-1) + moved.sum(-1)).isfinite()
            diverged_at.masked_fill_((diverged_at < 0) & ~finite, step)
            stopped = diverged_at >= 0
            theta = torch.where(stopped[:, None], theta, moved)
        losses.append(found.losses.masked_fill(stopped[:, None], torch.nan))
        used.append(weights.masked_fill(stopped[:, None], torch.nan))
        if step + 1 in keep:
            kept[step + 1] = theta.clone()
        if getattr(weighting, "reads_result", False):
            with torch.no_grad():
                outputs = part.outputs(theta)
                weighting.after(torch.stack([goal(outputs) for goal in part.goal_functions()], -1))
    passes = float(losses[0].shape[-1] if at == "parameters" else 1)
    histories = (torch.stack(log) for log in (losses, used))
    return Composition(theta, kept, *histories, torch.tensor(looked), torch.stack(gramians), passes, diverged_at)


def _minibatches(problem, recipe: Recipe, orders: Sequence[int]):
    """(epoch, the problem of the step) for each step of the recipe."""
    step, epoch = 0, 0
    while step < recipe.steps:
        if recipe.batch_size is None:
            yield epoch, problem
            step += 1
        else:
            steps_per_epoch(problem, recipe)
            for rows in minibatch_rows(problem.rows, recipe.batch_size, orders, epoch):
                if step == recipe.steps:
                    return
                yield epoch, problem.on(rows.to(problem.x.device))
                step += 1
        epoch += 1
