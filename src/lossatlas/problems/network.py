"""A network on a data set as a problem: theta (..., P) -> mean loss (...), for all members at once."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lossatlas import ensemble
from lossatlas.ensemble import Layout, Moments, Statistics
from lossatlas.errors import LossAtlasError


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each example: logits (k, n, C), labels y (k, n) -> (k, n)."""
    return F.cross_entropy(logits.mT, y, reduction="none")


def squared_error(outputs: Tensor, y: Tensor) -> Tensor:
    """Squared error of each example, summed over outputs; labels are compared as one-hot vectors. -> (k, n)."""
    if not y.is_floating_point():
        y = F.one_hot(y, outputs.shape[-1]).to(outputs.dtype)
    return (outputs - y).square().flatten(2).sum(-1)


LOSSES = {"cross_entropy": cross_entropy, "squared_error": squared_error}


@dataclass(frozen=True, eq=False)
class NetworkProblem:
    """Mean loss of a network over rows of a data set.

    module: any `nn.Module`; its trainable parameters are the coordinates. BatchNorm layers use the statistics of the
    problem's own rows (one full-batch pass in training mode), unless `moments(theta)` supplies others.
    x (n, ...) and y (n,), or (k, n, ...) and (k, n) where each member has rows of its own (`own_rows`).
    loss: a name in `LOSSES`, or a function like those: outputs (k, n, C) and targets (k, n, ...) -> (k, n).
    """

    module: nn.Module
    x: Tensor
    y: Tensor
    loss: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy"
    own_rows: bool = False
    moments: Callable[[Tensor], Moments] | None = None
    layout: Layout | None = None  # of the module, found once

    def __post_init__(self):
        if self.layout is not None:
            return
        if isinstance(self.loss, str) and self.loss not in LOSSES:
            raise LossAtlasError(f"loss {self.loss!r} is unknown; use one of {', '.join(LOSSES)}")
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.module.modules()):
            object.__setattr__(self, "module", ensemble.without_running_statistics(self.module))
        object.__setattr__(self, "layout", Layout.of(self.module))
        if any(isinstance(m, nn.modules.dropout._DropoutNd) and m.training for m in self.module.modules()):
            raise LossAtlasError("the network drops units at random, so it has no loss at a point: call .eval() first")

    @property
    def dim(self) -> int:
        return self.layout.dim

    @property
    def rows(self) -> int:
        return self.y.shape[1 if self.own_rows else 0]

    @property
    def normalised(self) -> bool:
        """Whether the loss of a row depends on the other rows, through batch statistics."""
        return any(isinstance(m, ensemble.Norm) for m in self.module.modules())

    @cached_property
    def row_numel(self) -> int:
        """Numbers in the largest activation that one example makes."""
        pair = (self.x[0] if self.own_rows else self.x)[:2]  # batch statistics need two rows
        sizes = [pair.numel()]

        def note(_module, _inputs, output):
            sizes.append(output.numel() if isinstance(output, Tensor) else output[0].numel())

        hooks = [m.register_forward_hook(note) for m in self.module.modules() if not list(m.children())]
        try:
            with torch.no_grad():
                self.module(pair)
        finally:
            for hook in hooks:
                hook.remove()
        return max(sizes) // len(pair)

    @property
    def activation_numel(self) -> int:
        return self.rows * self.row_numel

    def logits(self, theta: Tensor) -> Tensor:
        """Outputs (k, n, C) of the members theta (k, P)."""
        x = self.x if self.own_rows else self.x[None]
        given = self.moments(theta) if self.moments else None
        return ensemble.forward(self.module, self.layout.split(theta), x, given=given)

    def example_losses(self, logits: Tensor) -> Tensor:
        """Loss of each example (k, n) from outputs (k, n, C)."""
        by_example = LOSSES[self.loss] if isinstance(self.loss, str) else self.loss
        return by_example(logits, self._targets(logits.shape[0]))

    def example_errors(self, logits: Tensor) -> Tensor:
        """1 where the label's output is not the only largest one, else 0: (k, n). NaN where targets are not labels."""
        y = self._targets(logits.shape[0])
        if y.is_floating_point():
            return logits.new_full(logits.shape[:2], torch.nan)
        own = logits.gather(-1, y[..., None])
        return ((logits >= own).sum(-1) != 1).to(logits.dtype)

    def __call__(self, theta: Tensor) -> Tensor:
        members = theta.reshape(-1, theta.shape[-1])
        return self.example_losses(self.logits(members)).mean(-1).view(theta.shape[:-1])

    def on(self, rows: Tensor) -> "NetworkProblem":
        """The same network on some rows, on any device: (m,) for all members, or (k, m), a set for each member."""
        rows = rows.to(self.x.device)
        if self.own_rows:
            members = torch.arange(len(self.y), device=rows.device)[:, None]
            return replace(self, x=self.x[members, rows], y=self.y[members, rows])
        if rows.dim() == 2:
            return replace(self, x=self.x[rows], y=self.y[rows], own_rows=True)
        # a third of the time of self.x[rows]
        return replace(self, x=self.x.index_select(0, rows), y=self.y.index_select(0, rows))

    def minibatch(self, size: int, generator: torch.Generator) -> "NetworkProblem":
        """The same network on `size` rows, drawn without replacement and shared by all members."""
        return self.on(torch.randperm(self.rows, generator=generator)[:size])

    def blocks(self, members: int = 1) -> list["NetworkProblem"]:
        """Row blocks whose activations fit the cache; one block where rows depend on each other."""
        budget = ensemble.CACHE_BYTES if self.x.device.type == "cpu" else ensemble.DEVICE_BYTES
        size = max(1, budget // (members * self.row_numel * self.x.element_size()))
        if self.own_rows or size >= self.rows or (self.normalised and self.moments is None):
            return [self]
        return [replace(self, x=x, y=y) for x, y in zip(self.x.split(size), self.y.split(size), strict=True)]

    def to(self, device=None, dtype=None) -> "NetworkProblem":
        """The same problem elsewhere, or in another precision; statistics from other rows are chosen after it."""
        if self.moments:
            raise LossAtlasError("move the problem first, then give it moments: they belong to its layers")
        module = copy.deepcopy(self.module).to(device, dtype)
        x, y = (t.to(device, dtype if t.is_floating_point() else None) for t in (self.x, self.y))
        return replace(self, module=module, x=x, y=y)

    def _targets(self, k: int) -> Tensor:
        return self.y if self.own_rows else self.y.expand(k, *self.y.shape)


def initial(build: Callable[[], nn.Module], seeds: Sequence[int]) -> Tensor:
    """Initialisations (k, P): `build()` under each seed; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        modules = []
        for seed in seeds:
            torch.manual_seed(seed)
            modules.append(build())
    return ensemble.stack(modules)


# --- BatchNorm statistics at a point ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ExactMoments:
    """`bn-exact`: the statistics of all rows of `problem` at theta, layer after layer (one full-batch pass)."""

    problem: NetworkProblem

    def __call__(self, theta: Tensor) -> Moments:
        return _in_chunks(self._at, lambda theta: ensemble.chunk_size(self.problem, theta))(theta)

    def _at(self, theta: Tensor) -> Moments:
        record: Moments = {}
        x = self.problem.x if self.problem.own_rows else self.problem.x[None]
        ensemble.forward(self.problem.module, self.problem.layout.split(theta), x, record=record)
        return record


def exact_moments(problem: NetworkProblem) -> ExactMoments:
    """What a problem on other rows takes as its `moments`."""
    return ExactMoments(problem)


def ema_moments(problem: NetworkProblem, rows: Sequence[Tensor], momentum: float = 0.1) -> Callable[[Tensor], Moments]:
    """`bn-ema`, the rule of the code released with Lucas et al. 2021: reset to (0, 1), then one pass over minibatches.

    rows: the row indices of each minibatch, in order. After B minibatches the reset values keep the weight
    (1 - momentum)^B. Running variances are the unbiased ones, as in `nn.BatchNorm1d`.
    """

    parts = [problem.on(batch) for batch in rows]

    def at(theta: Tensor) -> Moments:
        running: Moments = {}
        for part in parts:
            record: Moments = {}
            ensemble.forward(problem.module, problem.layout.split(theta), part.x[None], record=record)
            for layer, (mean, var, count) in record.items():
                start = Statistics(torch.zeros_like(mean), torch.ones_like(var), count)
                old = running.get(layer, start)
                unbiased = var * count / (count - 1)
                running[layer] = Statistics(old.mean.lerp(mean, momentum), old.var.lerp(unbiased, momentum), count)
        return running

    return _in_chunks(at, lambda theta: ensemble.chunk_size(parts[0], theta))


def _in_chunks(moments: Callable[[Tensor], Moments], size: Callable[[Tensor], int]) -> Callable[[Tensor], Moments]:
    """`moments` on as many members at a time as `size` says, joined."""

    return lambda theta: ensemble.joined([moments(block) for block in theta.split(size(theta))])
