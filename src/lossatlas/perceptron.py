"""Losses and gradients of an ensemble of multilayer perceptrons, by a backward pass written out.

The same numbers as `lossatlas.ensemble.gradient`, without a graph: a chunk of members fits the cache, members whose
gradient is not wanted share the forward pass of the others, and a loop whose parameters change in place prepares its
passes once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from torch import Tensor, nn

from lossatlas import ensemble
from lossatlas.ensemble import Norm
from lossatlas.perceptron_pass import BACKWARD, Buffers, Pass

# activations of one chunk: twice a core's L2 cache is still faster than two chunks, whose products are smaller
CACHE_BYTES = 4 * 2**20


@dataclass(frozen=True, eq=False)
class Prepared:
    """Evaluates parameters (g, k, P) as they stand at each call, and writes their gradients to a tensor.

    passes: with the groups that each is about. targets (g, C, n) and losses (g, k): theirs.
    """

    passes: Sequence[tuple[slice, Pass]]
    targets: Tensor
    losses: Tensor

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean losses (g, k), overwritten by the next call, on the rows x (g, n, ...) with labels y (g, n)."""
        x = x.detach().flatten(2)
        # the part of the last layer's gradient that does not depend on the outputs, features first
        self.targets.zero_().scatter_(1, y[:, None], -1 / y.shape[1])
        for groups, run in self.passes:
            run(x[groups])
        return self.losses


@dataclass(frozen=True)
class Perceptron:
    """Linear layers widths[0] -> ... -> widths[-1], each with a bias; an activation between any two; cross-entropy.

    eps: of the BatchNorm before each activation, which uses the statistics of the rows at hand; None: there is none.
    A loop should keep its perceptron, since the buffers come with it.
    """

    widths: tuple[int, ...]
    activations: tuple[type[nn.Module], ...]
    eps: tuple[float | None, ...]
    buffers: Buffers = field(default_factory=Buffers, repr=False, compare=False)

    @classmethod
    def of(cls, problem) -> "Perceptron | None":
        """The perceptron that a problem trains on labels; None for any other problem."""
        module = getattr(problem, "module", None)
        if type(module) is not nn.Sequential or problem.loss != "cross_entropy" or problem.moments is not None:
            return None
        if problem.y.is_floating_point() or problem.y.dim() != 1 + problem.own_rows:
            return None
        linear, norms, activations = [], [], []
        rest = [layer for layer in module if type(layer) is not nn.Flatten]
        while rest:
            linear.append(rest.pop(0))
            norms.append(rest.pop(0) if rest and type(rest[0]) is Norm else None)
            activations.append(type(rest.pop(0)) if rest else None)
        if not all(type(layer) is nn.Linear and layer.bias is not None for layer in linear):
            return None
        fits = activations[-1] is None and norms[-1] is None and all(a in BACKWARD for a in activations[:-1])
        fits = fits and all(n is None or n.weight is not None for n in norms)
        widths = (linear[0].in_features, *(layer.out_features for layer in linear))
        fits = fits and math.prod(problem.x.shape[1 + problem.own_rows :]) == widths[0]
        fits = fits and all(a.out_features == b.in_features for a, b in pairwise(linear))
        # the problem has fewer coordinates where parameters are shared or not trained
        sizes = [(a + (1 if n is None else 3)) * b for (a, b), n in zip(pairwise(widths), norms, strict=True)]
        fits = fits and sum(sizes) == problem.dim
        return cls(widths, tuple(activations[:-1]), tuple(n and n.eps for n in norms[:-1])) if fits else None

    def gradient(self, theta: Tensor, x: Tensor, y: Tensor, wanted: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Mean losses (k,) of the members theta (k, P), and the gradients (m, P) of those in `wanted`.

        x (n, ...) inputs and y (n,) labels, shared by all members; or (k, n, ...) and (k, n), each member's own. Groups
        of members, theta (g, k, P), share rows within a group, x (g, n, ...) and y (g, n), and each has its `wanted`.
        """
        if theta.dim() == 2 and y.dim() == 2:
            losses, gradients = self.gradient(theta[:, None], x, y)
            return losses[:, 0], gradients[wanted, 0]
        if theta.dim() == 2:
            losses, gradients = self.gradient(theta[None], x[None], y[None], wanted)
            return losses[0], gradients[0]
        first, last, _ = wanted.indices(theta.shape[1])
        gradients = theta.new_empty(len(theta), last - first, theta.shape[2])
        return self.prepare(theta.contiguous(), gradients, y.shape[1], first)(x, y), gradients

    def prepare(self, theta: Tensor, gradients: Tensor, rows: int, first: int = 0) -> Prepared:
        """`gradient` for parameters theta (g, k, P) that change in place, on so many rows a call.

        gradients (g, m, P): where those of the members first ... first + m - 1 are written. Both are contiguous.
        """
        theta, gradients = theta.detach(), gradients.detach()
        g, k, m = *theta.shape[:2], gradients.shape[1]
        targets, losses = theta.new_empty(g, self.widths[-1], rows), theta.new_empty(g, k)
        passes = []
        for groups, start, end in self._chunks(g, k, rows * theta.element_size(), theta.device.type):
            begin, stop = max(first, start), max(first, min(first + m, end))
            members, into = theta[groups, start:end], gradients[groups, begin - first : stop - first]
            run = Pass(self, members, into, begin - start, targets[groups], losses[groups, start:end])
            passes.append((groups, run))
        return Prepared(passes, targets, losses)

    def _chunks(self, g: int, k: int, unit_bytes: int, device: str) -> list[tuple[slice, int, int]]:
        """Groups and ranges of their members whose activations fit the cache, several groups only where all of each do.

        Of one size, since a small rest would be slow.
        """
        budget = CACHE_BYTES if device == "cpu" else ensemble.DEVICE_BYTES
        member = max(self.widths[1:]) * unit_bytes
        size = math.ceil(k / math.ceil(k * member / budget))
        some = max(1, budget // (k * member)) if size == k else 1
        some = math.ceil(g / math.ceil(g / some))
        return [
            (slice(i, i + some), start, min(start + size, k)) for i in range(0, g, some) for start in range(0, k, size)
        ]
