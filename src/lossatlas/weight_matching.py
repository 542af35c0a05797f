"""Weight matching: the order of one network's hidden units that brings its weights nearest to another's.

Ainsworth et al. 2022 (arXiv 2209.04836), algorithm 1. Which axis of which parameter follows which permutation is a
table (`axes`), and the table is all that the algorithm knows of the architecture: with the other permutations held,
the best order of one layer's units is a linear assignment. All sums are taken in float64.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from lossatlas.ensemble import Norm
from lossatlas.errors import LossAtlasError
from lossatlas.problems.architectures import ResidualBlock
from lossatlas.problems.network import NetworkProblem

Axes = Mapping[str, tuple[str | None, ...]]  # parameter -> the permutation that each of its axes follows, if any
Permutations = Mapping[str, Tensor]  # permutation -> the old index of each unit's new place

PASSES = 100  # of the released code; a matching ends by itself long before
GAIN = 1e-12  # relative; float64 sums of a few thousand terms are good to about 1e-13

_MIXING = nn.Linear | nn.Conv1d | nn.Conv2d
_UNIT_WISE = nn.ReLU | nn.Tanh | nn.Sigmoid | nn.Flatten | nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d


@dataclass(frozen=True, eq=False)
class Matching:
    """The second network's parameters theta (P,) in the order that was found, and how it was found.

    `passes` counts those that gained something; `objective` holds <a, permuted b> before and after each of them.
    """

    theta: Tensor
    permutations: dict[str, Tensor]
    passes: int
    objective: tuple[float, ...]


def axes(problem: NetworkProblem) -> dict[str, tuple[str | None, ...]]:
    """The table of a chain of linear, convolutional, normalisation and residual layers.

    The stream of a residual network keeps its order, since its shortcuts tie all blocks together; the channels
    inside each block are matched. Raises `LossAtlasError` for a network that is no such chain.
    """
    if type(problem.module) is not nn.Sequential:
        raise LossAtlasError("weight matching needs a chain of layers (nn.Sequential): give a table of axes instead")
    table: dict[str, tuple[str | None, ...]] = {}
    _chain(problem.module, "", table)
    return {name: table[name] for name in problem.layout.names}


def _chain(chain: nn.Sequential, prefix: str, table: dict[str, tuple[str | None, ...]]) -> None:
    layers = [(f"{prefix}{name}", child) for name, child in chain.named_children() if not _is_unit_wise(child)]
    order, units = None, None  # of the activations that reach a layer
    for i, (name, layer) in enumerate(layers):
        if isinstance(layer, _MIXING):
            if order is not None and layer.weight.shape[1] != units:
                raise LossAtlasError(f"layer {name} takes {layer.weight.shape[1]} inputs of {units} units: pool first")
            follower = next((child for _, child in layers[i + 1 :] if not isinstance(child, Norm)), None)
            order, before = (name if isinstance(follower, _MIXING) else None), order
            units = len(layer.weight)
            table[f"{name}.weight"] = (order, before, *(None,) * (layer.weight.dim() - 2))
            table[f"{name}.bias"] = (order,)
        elif isinstance(layer, Norm):
            table[f"{name}.weight"] = table[f"{name}.bias"] = (order,)
        elif isinstance(layer, ResidualBlock):
            for part in ("branch", "shortcut"):
                _chain(getattr(layer, part), f"{name}.{part}.", table)
            table[f"{name}.scale.weight"] = (None,)
        elif any(True for _ in layer.parameters()):
            raise LossAtlasError(f"weight matching has no rule for layer {name} ({type(layer).__name__})")


def _is_unit_wise(layer: nn.Module) -> bool:
    return isinstance(layer, _UNIT_WISE)


def permute(params: Mapping[str, Tensor], table: Axes, permutations: Permutations) -> dict[str, Tensor]:
    """The parameters {name: (*shape)} with their units in another order."""
    return {name: _permuted(value, table[name], permutations) for name, value in params.items()}


def _permuted(value: Tensor, orders: tuple[str | None, ...], permutations: Permutations, but: str = "") -> Tensor:
    for axis, order in enumerate(orders):
        if order is not None and order != but and order in permutations:
            value = value.index_select(axis, permutations[order])
    return value


def match(
    problem: NetworkProblem,
    a: Tensor,
    b: Tensor,
    generator: torch.Generator,
    *,
    table: Axes | None = None,
    start: Permutations | None = None,
) -> Matching:
    """b (P,) with its hidden units in the order that maximises <a, permuted b>, by coordinate ascent.

    Each pass visits the permutations in a random order from `generator` and ends the search when it gains nothing.
    The objective never falls; the end is a local maximum. `start` is left as it is.
    """
    table = axes(problem) if table is None else table
    first, second = (
        {name: value.double() for name, value in problem.layout.split(theta.detach().cpu()).items()} for theta in (a, b)
    )
    sizes = {
        order: first[name].shape[axis]
        for name, orders in table.items()
        for axis, order in enumerate(orders)
        if order is not None
    }
    found = {order: torch.arange(size) for order, size in sizes.items()} | dict(start or {})
    objective = [_objective(first, permute(second, table, found))]
    while sizes and len(objective) <= PASSES:
        for i in torch.randperm(len(sizes), generator=generator).tolist():
            order = list(sizes)[i]
            gains = _gains(order, first, second, table, found)
            found[order] = torch.as_tensor(linear_sum_assignment(gains.numpy(), maximize=True)[1])
        objective.append(_objective(first, permute(second, table, found)))
        if objective[-1] - objective[-2] <= GAIN * abs(objective[-2]):
            break
    passes = max(0, len(objective) - 2) if sizes else 0
    split = {name: value.cpu() for name, value in problem.layout.split(b.detach()).items()}
    parts = permute(split, table, found)
    theta = torch.cat([parts[name].flatten() for name in problem.layout.names]).to(b.device)
    return Matching(theta, found, passes, tuple(objective))


def _gains(order: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor], table: Axes, found: Permutations) -> Tensor:
    """What unit j of b in the place of unit i of a adds to the objective, (units, units)."""
    total = 0.0
    for name, orders in table.items():
        if order in orders:
            axis = orders.index(order)
            other = _permuted(b[name], orders, found, but=order)
            mine, theirs = (value.movedim(axis, 0).reshape(value.shape[axis], -1) for value in (a[name], other))
            total = total + mine @ theirs.mT
    return total


def _objective(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return sum(float((a[name] * b[name]).sum()) for name in a)
