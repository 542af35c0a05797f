"""Linear interpolation between two points of parameter space, as a sweep that yields losses, errors and logits.

`sweep` evaluates theta(a) = (1 - a) start + a end on a grid of a in [0, 1] (Lucas et al. 2021, arXiv 2104.11044).
The first linear layer is evaluated twice for the whole line, since it is affine in a; the deeper layers are batched
over as many points as fit the cache. What one reads off the curves is in `lossatlas.curves`.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lossatlas import ensemble
from lossatlas.ensemble import Layout
from lossatlas.errors import LossAtlasError
from lossatlas.problems.network import NetworkProblem

MOMENT_BYTES = 32 * 2**20  # parameters of the points whose BatchNorm statistics are found together
POINTS = 50  # the grid of Lucas et al. 2021, both ends included


@dataclass(frozen=True, eq=False)
class Sweep:
    """Curves of k lines: alphas (A,), loss and error (k, A) in float64, logits (k, A, r, C) of the first r rows.

    moments: of each line the BatchNorm statistics (A, C) that its points met; empty where nothing is normalised.
    """

    alphas: Tensor
    loss: Tensor
    error: Tensor
    logits: Tensor
    moments: tuple[ensemble.Moments, ...] = ()

    def every_second(self) -> "Sweep":
        """The sweep on the grid that this one refines."""
        moments = tuple(_points(found, slice(None, None, 2)) for found in self.moments)
        return Sweep(self.alphas[::2], self.loss[:, ::2], self.error[:, ::2], self.logits[:, ::2], moments)


def refined(n_points: int) -> int:
    """Points of the nested grid with every interval halved: 50 -> 99 -> 197."""
    return 2 * n_points - 1


def line(start: Tensor, end: Tensor, alphas: Tensor, exponents: Tensor | None = None) -> Tensor:
    """Points (A, P) between start and end (P,); exactly `start` at 0 and `end` at 1.

    exponents (P,): coordinate p moves by alpha^exponents[p] instead of alpha (another bias schedule, say).
    """
    weights = alphas[:, None] if exponents is None else alphas[:, None] ** exponents
    return torch.lerp(start, end, weights.to(start.dtype))


def sweep(
    problem: NetworkProblem,
    start: Tensor,
    end: Tensor,
    n_points: int = POINTS,
    *,
    exponents: Tensor | None = None,
    logits_rows: int = 0,
    moments: Sequence[ensemble.Moments] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Sweep:
    """Curves of `problem` on the lines from start (k, P) to end (k, P), at `n_points` equally spaced points.

    `exponents` (P,) as in `line`; they must be 1 in the first linear layer. BatchNorm statistics are `moments`, those
    that a sweep of the same lines met on other rows, or else what `problem.moments` says, or else those of the
    problem's own rows at each point.
    """
    if start.shape != end.shape or start.dim() != 2:
        raise LossAtlasError(f"a sweep needs starts and ends (k, P), not {tuple(start.shape)}, {tuple(end.shape)}")
    if problem.own_rows:
        raise LossAtlasError("a sweep needs one set of rows for all members: take the problem before `on(rows)`")
    alphas = torch.linspace(0, 1, n_points, dtype=torch.float64, device=start.device)
    curves = []
    with torch.no_grad():
        for i, (a, b) in enumerate(zip(start, end, strict=True)):
            met = moments[i] if moments else None
            curves.append(_sweep_one(problem, a, b, alphas, exponents, logits_rows, met))
            if progress:
                progress(i + 1, len(start))
    *columns, found = zip(*curves, strict=True)
    return Sweep(alphas, *(torch.stack(column) for column in columns), found if any(found) else ())


def _sweep_one(problem, start, end, alphas, exponents, logits_rows, met):
    blocks = [_Block.of(block, start, end) for block in problem.blocks()]
    widest = max(block.activation_numel for block in blocks)
    size = max(1, _budget(start) // (widest * start.element_size()))
    rest = slice(problem.dim - blocks[0].layout.dim, None)  # without the first layer, which the blocks have
    loss, error, kept, records = [], [], [], []
    parts = alphas.split(size)
    if met is None:
        moments = _moments_on(problem, start, end, alphas, exponents, size)
    else:
        moments = (_points(met, slice(first, first + size)) for first in range(0, len(alphas), size))
    for part, given in zip(parts, moments, strict=True):
        theta = line(start[rest], end[rest], part, None if exponents is None else exponents[rest])
        losses = errors = 0.0
        logits, record = [], {}
        for block in blocks:
            z = block.logits(theta, part, given, record)
            losses = losses + block.problem.example_losses(z).sum(-1, dtype=torch.float64)
            errors = errors + block.problem.example_errors(z).sum(-1, dtype=torch.float64)
            if sum(len(z[0]) for z in logits) < logits_rows:
                logits.append(z)
        loss.append(losses / problem.rows)
        error.append(errors / problem.rows)
        kept.append(torch.cat(logits, 1)[:, :logits_rows] if logits else z[:, :0])
        records.append(record)
    return torch.cat(loss), torch.cat(error), torch.cat(kept), ensemble.joined(records)


def _moments_on(problem, start, end, alphas, exponents, size) -> Iterator[ensemble.Moments | None]:
    """The moments of each `size` points of a line, found for as many points at once as have room for parameters."""
    if problem.moments is None:
        yield from [None] * math.ceil(len(alphas) / size)
        return
    group = max(1, MOMENT_BYTES // (size * problem.dim * start.element_size())) * size
    for points in alphas.split(group):
        found = problem.moments(line(start, end, points, exponents))
        for first in range(0, len(points), size):
            yield _points(found, slice(first, first + size))


def _points(moments: ensemble.Moments, part: slice) -> ensemble.Moments:
    return {layer: ensemble.Statistics(m.mean[part], m.var[part], m.count) for layer, m in moments.items()}


def _budget(theta: Tensor) -> int:
    return ensemble.CACHE_BYTES if theta.device.type == "cpu" else ensemble.DEVICE_BYTES


@dataclass(frozen=True, eq=False)
class _Block:
    """Some rows of a problem with what of the line can be computed once: the first layer at both ends."""

    problem: NetworkProblem
    tail: nn.Module
    layout: Layout  # of the tail
    ends: Tensor | None  # (2, n, ...): the first layer at the start, and its change along the line

    @classmethod
    def of(cls, problem: NetworkProblem, start: Tensor, end: Tensor) -> "_Block":
        parts = split_first(problem.module)
        if parts is None:
            return cls(problem, problem.module, problem.layout, None)
        head, tail = parts
        params = problem.layout.split(torch.stack([start, end - start]))
        return cls(problem, tail, Layout.of(tail), ensemble.forward(head, params, problem.x[None]))

    @property
    def activation_numel(self) -> int:
        return self.problem.activation_numel if self.ends is None else self.ends[0].numel()

    def logits(self, theta: Tensor, alphas: Tensor, given: ensemble.Moments | None, record: ensemble.Moments) -> Tensor:
        """Logits (c, n, C) at the points of the line with the tail's parameters theta (c, ...), at alphas (c,)."""
        params = self.layout.split(theta)
        if self.ends is None:
            return ensemble.forward(self.tail, params, self.problem.x[None], given, record)
        weights = alphas.to(theta.dtype).view(-1, *[1] * (self.ends.dim() - 1))
        return ensemble.forward(self.tail, params, torch.addcmul(self.ends[:1], self.ends[1:], weights), given, record)


def split_first(module: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """(head, tail) of a Sequential, the head ending with its first linear or convolutional layer; else None."""
    if type(module) is not nn.Sequential or ensemble.shares_parameters(module):
        return None
    children = list(module._modules.items())
    for i, (_, child) in enumerate(children):
        if type(child) in (nn.Linear, nn.Conv1d, nn.Conv2d):
            return nn.Sequential(OrderedDict(children[: i + 1])), nn.Sequential(OrderedDict(children[i + 1 :]))
        if any(True for _ in child.parameters()) or any(isinstance(m, ensemble.Norm) for m in child.modules()):
            return None
    return None
