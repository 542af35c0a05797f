"""BatchNorm in the released AutoNEB code: statistics that are coordinates of the path, and ends in evaluation mode.

The corrected band needs none of this: all its pivots use the statistics of the minibatch they share. Here the two
habits of the released code become problems of their own, which the arms `buffers` and `mode` put in place of the
network they are given.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lossatlas.elastic_band.arms import Arm
from lossatlas.ensemble import Moments, Norm, Statistics
from lossatlas.problems.network import NetworkProblem, exact_moments

MOMENTUM = 0.1  # of running statistics, torch's default


def as_arm(problem, path: Tensor, arm: Arm) -> tuple[object, Tensor]:
    """The problem and the path (N, P) as an arm sees them; both unchanged where nothing is normalised by batches."""
    if not getattr(problem, "normalised", False) or problem.moments:
        return problem, path
    if arm.buffers == "coordinates":
        problem = WithBuffers(problem)
        return problem, problem.lift(path)
    if arm.mode == "ends-eval":
        with torch.no_grad():
            fixed = path[:1] if arm.last_end == "moves" else path[[0, -1]]
            return EvaluatedEnds(problem, exact_moments(problem)(fixed)), path
    return problem, path


def parameters(problem, path: Tensor) -> Tensor:
    """The trainable parameters (..., P) of a path of the problem, without what `as_arm` added."""
    return path[..., : problem.problem.dim] if isinstance(problem, WithBuffers) else path


@dataclass(frozen=True, eq=False)
class EvaluatedEnds:
    """A network whose minibatches offer `ends`: their rows with the statistics `given` of the ends on all rows."""

    problem: NetworkProblem
    given: Moments

    def __getattr__(self, name):
        return getattr(self.problem, name)

    def __call__(self, theta: Tensor) -> Tensor:
        return self.problem(theta)

    @property
    def ends(self) -> NetworkProblem:
        return replace(self.problem, moments=lambda theta: self.given)

    def on(self, rows: Tensor) -> "EvaluatedEnds":
        return EvaluatedEnds(self.problem.on(rows), self.given)


@dataclass(frozen=True, eq=False)
class WithBuffers:
    """A network whose coordinates (P + buffers) hold its BatchNorm statistics and their counters, too.

    On all its rows it is in evaluation mode: it uses the statistics in its coordinates, so that between two pivots
    they are interpolated. A minibatch is in training mode: it uses its own statistics, and `advanced` moves the
    coordinates as torch moves running statistics. Nothing but decay gives these coordinates a gradient.
    """

    problem: NetworkProblem
    training: bool = False

    def __getattr__(self, name):
        return getattr(self.problem, name)

    @property
    def dim(self) -> int:
        return self.problem.dim + sum(2 * features + 1 for features in self.features)

    @cached_property
    def norms(self) -> list[Norm]:
        return [module for module in self.problem.module.modules() if isinstance(module, Norm)]

    @cached_property
    def features(self) -> list[int]:
        """Channels of each normalisation layer."""
        with torch.no_grad():
            pair = self.problem.on(torch.arange(2)) if not self.problem.own_rows else self.problem
            zero = self.problem.x.new_zeros(len(pair.y) if pair.own_rows else 1, self.problem.dim)
            moments = exact_moments(pair)(zero)
        return [moments[norm].mean.shape[-1] for norm in self.norms]

    def __call__(self, theta: Tensor) -> Tensor:
        members = theta.reshape(-1, theta.shape[-1])
        own, buffers = members.split([self.problem.dim, members.shape[-1] - self.problem.dim], dim=-1)
        problem = self.problem if self.training else replace(self.problem, moments=lambda _: self.read(buffers))
        return problem(own).view(theta.shape[:-1])

    @property
    def ends(self) -> "WithBuffers":
        """The same rows in evaluation mode."""
        return replace(self, training=False)

    def on(self, rows: Tensor) -> "WithBuffers":
        return WithBuffers(self.problem.on(rows), training=True)

    def blocks(self, members: int = 1) -> list["WithBuffers"]:
        return [WithBuffers(block) for block in replace(self.problem, moments=self.read).blocks(members)]

    def read(self, buffers: Tensor) -> Moments:
        """The statistics in buffers (k, 2 features + 1 of each layer)."""
        result: Moments = {}
        for norm, features, part in zip(self.norms, self.features, self._parts(buffers), strict=True):
            result[norm] = Statistics(part[:, :features], part[:, features : 2 * features], 1)
        return result

    def lift(self, theta: Tensor) -> Tensor:
        """theta (k, P) with the statistics of all rows at each point, and counters of zero."""
        with torch.no_grad():
            moments = exact_moments(self.problem)(theta)
        columns = [theta]
        for norm in self.norms:
            columns += [moments[norm].mean, moments[norm].var, theta.new_zeros(len(theta), 1)]
        return torch.cat(columns, -1)

    def advanced(self, theta: Tensor) -> Tensor:
        """theta (k, dim) after a forward pass in training mode: running statistics follow, counters count."""
        own, buffers = theta.split([self.problem.dim, theta.shape[-1] - self.problem.dim], dim=-1)
        with torch.no_grad():
            moments = exact_moments(self.problem)(own)
        columns = [own]
        for norm, features, part in zip(self.norms, self.features, self._parts(buffers), strict=True):
            mean, var, count = moments[norm]
            columns.append(part[:, :features].lerp(mean, MOMENTUM))
            columns.append(part[:, features:-1].lerp(var * count / (count - 1), MOMENTUM))
            columns.append(part[:, -1:] + 1)
        return torch.cat(columns, -1)

    def _parts(self, buffers: Tensor) -> tuple[Tensor, ...]:
        return buffers.split([2 * features + 1 for features in self.features], dim=-1)
