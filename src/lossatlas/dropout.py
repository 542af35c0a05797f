"""Perceptrons that do without half of their hidden units, and the path of low loss between two of them.

Kuditipudi et al. 2019 (arXiv 1906.06247): networks that keep their loss when half of the units of each layer are
dropped and the others rescaled are joined by a piecewise-linear path on which the loss never exceeds that of the
dropped networks. `path` is such a path, for any depth; `Dropout` is how networks of that kind are trained.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lossatlas import barriers, ensemble
from lossatlas.errors import LossAtlasError
from lossatlas.problems.network import NetworkProblem
from lossatlas.symmetry import hidden_layers, joined

CANDIDATES = 50  # halves whose dropped networks are evaluated at a time
RESCALED = 2  # what the outgoing weights of the half that stays are multiplied by

Half = Sequence[Tensor]  # for each hidden layer which of its units stay: (units,) bool
Parameters = dict[str, Tensor]


# --- which units stay -------------------------------------------------------------------------------------------------


def random_halves(problem: NetworkProblem, count: int, generator: torch.Generator) -> list[Tensor]:
    """`count` random halves of the units of every hidden layer: for each layer (count, units) bool."""
    return [
        torch.stack([torch.randperm(units, generator=generator) < units // 2 for _ in range(count)])
        for units in _units(problem)
    ]


def dropped(problem: NetworkProblem, theta: Tensor, halves: Half, first: int = 0) -> Tensor:
    """theta (P,) without the units of hidden layers `first`, `first` + 1, ... that the halves leave out: (m, P).

    halves: (m, units) bool for each hidden layer, `first` or not. Units that stay have their outgoing weights doubled.
    """
    halves = [half.to(theta.device) for half in halves]
    count = len(halves[0])
    params = {name: value.expand(count, *value.shape) for name, value in problem.layout.split(theta).items()}
    for (_, _, consumer), half in list(zip(_plain_layers(problem), halves, strict=True))[first:]:
        weight = params[f"{consumer}.weight"]
        params[f"{consumer}.weight"] = weight * (RESCALED * half.to(weight.dtype))[:, None]
    return joined(problem.layout, params)


def stages(problem: NetworkProblem, theta: Tensor, halves: Half) -> Tensor:
    """The networks that a path from theta (P,) passes: dropped in the last layer, ..., in all layers; (L, m, P)."""
    return torch.stack([dropped(problem, theta, halves, first) for first in reversed(range(len(halves)))])


def best_half(
    problem: NetworkProblem, a: Tensor, b: Tensor, candidates: int, generator: torch.Generator
) -> tuple[Half, float]:
    """Of random halves the one for the least highest loss on the path from a to b (P,), and that loss.

    a keeps the half and b the other units, so one draw has to suit both. The loss is the highest of both ends and of
    all networks of `stages`.
    """
    halves = random_halves(problem, candidates, generator)
    parts = [half.split(CANDIDATES) for half in halves]  # so that few dropped networks are held at a time
    worst, best = torch.cat([_worst(problem, a, b, part) for part in zip(*parts, strict=True)]).min(0)
    ends = barriers.means(problem, torch.stack([a, b]))[0]
    return [half[best].to(a.device) for half in halves], max(float(worst), float(ends.max()))


def _worst(problem: NetworkProblem, a: Tensor, b: Tensor, halves: Half) -> Tensor:
    """The highest loss (m,) of the dropped networks on the paths by halves (m, units)."""
    points = torch.cat([stages(problem, a, halves), stages(problem, b, [~half for half in halves])])
    return barriers.means(problem, points.flatten(0, 1))[0].view(points.shape[:2]).amax(0)


# --- the path ---------------------------------------------------------------------------------------------------------


def path(problem: NetworkProblem, a: Tensor, b: Tensor, half: Half) -> Tensor:
    """The pivots (4 L + 2, P) of a path from a to b (P,), for L hidden layers; a keeps the half, b the other units.

    On each segment either only weights into units change whose output nobody reads, so that the function stays, or
    only the last layer does, so that the outputs are linear and every convex loss is convex. Hence no loss on the path
    exceeds the highest of the ends' and of `stages`'. Raises `LossAtlasError` for networks that are no plain
    perceptrons, and for layers that have no halves.
    """
    if [int(own.sum()) * 2 for own in half] != _units(problem):
        raise LossAtlasError("a path through dropped networks needs layers of even width, of which half the units stay")
    forth, live = _halved(problem, a, half)
    back, _ = _halved(problem, b, [~own for own in half])
    names, final = _linear_names(problem), back[-1]
    both = _copy(forth[-1])
    for name, own in zip(names, live, strict=False):
        spare = torch.ones(len(both[f"{name}.weight"]), dtype=torch.bool, device=a.device)
        spare[own] = False
        _write(both, name, spare, final[f"{name}.weight"][spare], final[f"{name}.bias"][spare])
    handed = _copy(both) | {key: final[key] for key in (f"{names[-1]}.weight", f"{names[-1]}.bias")}
    pivots = [*forth, both, handed, *reversed(back)]
    return torch.stack([torch.cat([pivot[key].flatten() for key in problem.layout.names]) for pivot in pivots])


def _halved(problem: NetworkProblem, theta: Tensor, half: Half) -> tuple[list[Parameters], list[Tensor]]:
    """Pivots from theta (P,) to a network that uses half of each layer, and which units those are at last.

    The last hidden layer is dropped by moving the output's weights. To drop a layer below it, a copy that reads only
    the units that stay there is built in the spare halves of all layers above, and the output turns to that copy.
    """
    names = _linear_names(problem)
    live = [own.nonzero()[:, 0] for own in half]
    spare = [(~own).nonzero()[:, 0] for own in half]
    here = {key: value.clone() for key, value in problem.layout.split(theta).items()}
    pivots = [here]
    here = _copy(here)
    output = here[f"{names[-1]}.weight"]
    output[:, spare[-1]] = 0
    output[:, live[-1]] *= RESCALED
    pivots.append(here)
    for layer in reversed(range(len(half) - 1)):
        built = _copy(here)
        for upper in range(layer + 1, len(half)):
            weight, bias = here[f"{names[upper]}.weight"], here[f"{names[upper]}.bias"]
            just_above = upper == layer + 1
            reads, place = live[upper - 1], live[upper - 1] if just_above else spare[upper - 1]
            rows = torch.zeros_like(weight[live[upper]])
            rows[:, place] = weight[live[upper]][:, reads] * (RESCALED if just_above else 1)
            _write(built, names[upper], spare[upper], rows, bias[live[upper]])
        handed = _copy(built)
        output = handed[f"{names[-1]}.weight"]
        output[:, spare[-1]] = output[:, live[-1]]
        output[:, live[-1]] = 0
        pivots += [built, handed]
        here = handed
        for upper in range(layer + 1, len(half)):
            live[upper], spare[upper] = spare[upper], live[upper]
    return pivots, live


def _copy(params: Parameters) -> Parameters:
    return {key: value.clone() for key, value in params.items()}


def _write(params: Parameters, name: str, units: Tensor, weight: Tensor, bias: Tensor) -> None:
    """The incoming weights of some units of a layer."""
    params[f"{name}.weight"][units] = weight
    params[f"{name}.bias"][units] = bias


def _plain_layers(problem: NetworkProblem) -> list[tuple[str, str | None, str]]:
    """`symmetry.hidden_layers` of a perceptron without normalisation and with biases."""
    layers = hidden_layers(problem)
    linear = [child for child in problem.module if isinstance(child, nn.Linear)]
    if problem.normalised or any(child.bias is None for child in linear):
        raise LossAtlasError("units can be dropped in perceptrons with biases and without normalisation only")
    return layers


def _linear_names(problem: NetworkProblem) -> list[str]:
    layers = _plain_layers(problem)
    return [name for name, _, _ in layers] + [layers[-1][-1]]


def _units(problem: NetworkProblem) -> list[int]:
    shapes = dict(zip(problem.layout.names, problem.layout.shapes, strict=True))
    return [shapes[f"{name}.weight"][0] for name, _, _ in _plain_layers(problem)]


# --- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Dropout:
    """A perceptron's problem that drops each hidden unit of each example and member with probability 1 - keep.

    What is left is divided by keep. For the trainer, which asks for one minibatch after the other: each evaluation
    draws from the generator.
    """

    problem: NetworkProblem
    keep: float
    generator: torch.Generator

    def __post_init__(self):
        _plain_layers(self.problem)
        if not 0 < self.keep <= 1:
            raise LossAtlasError(f"a share of {self.keep} of the units cannot be kept; take one above 0 and up to 1")

    @property
    def rows(self) -> int:
        return self.problem.rows

    def on(self, rows: Tensor) -> Callable[[Tensor], Tensor]:
        """The mean loss (k,) of members (k, P) on a minibatch, as `NetworkProblem.on` takes its rows."""
        part = self.problem.on(rows)

        def loss(theta: Tensor) -> Tensor:
            params = part.layout.split(theta)
            x = part.x if part.own_rows else part.x[None]
            for name, layer in part.module.named_children():
                x = ensemble.run_layer(layer, ensemble.child_parameters(params, name), x, {}, None)
                if not isinstance(layer, nn.Flatten | nn.Linear):
                    stay = torch.rand(x.shape, generator=self.generator) < self.keep
                    x = x * stay.to(x) / self.keep
            return part.example_losses(x).mean(-1)

        return loss
