"""Changes of a multilayer perceptron's parameters that leave its function as it is."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lossatlas.ensemble import Layout, Norm
from lossatlas.errors import LossAtlasError
from lossatlas.problems.network import NetworkProblem


def hidden_layers(problem: NetworkProblem) -> list[tuple[str, str | None, str]]:
    """Names (linear layer, its normalisation or None, the layer that consumes it) of each hidden layer of an MLP."""
    layers = [(name, child) for name, child in problem.module.named_children() if isinstance(child, nn.Linear | Norm)]
    linear = [name for name, child in layers if isinstance(child, nn.Linear)]
    follows = dict(zip([name for name, _ in layers[:-1]], layers[1:], strict=True))
    if not isinstance(problem.module, nn.Sequential) or len(linear) < 2:
        raise LossAtlasError("hidden units can be permuted or rescaled in multilayer perceptrons only")
    return [
        (name, follows[name][0] if isinstance(follows[name][1], Norm) else None, consumer)
        for name, consumer in pairwise(linear)
    ]


def permuted(problem: NetworkProblem, theta: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """The members theta (k, P) with the units of every hidden layer in a random order, from a generator for each."""
    shapes = dict(zip(problem.layout.names, problem.layout.shapes, strict=True))
    orders = []
    for name, _, _ in hidden_layers(problem):
        units = shapes[f"{name}.weight"][0]
        orders.append(torch.stack([torch.randperm(units, generator=g) for g in generators]).to(theta.device))
    return reordered(problem, theta, orders)


def reordered(problem: NetworkProblem, theta: Tensor, orders: Sequence[Tensor]) -> Tensor:
    """The members theta (k, P) with unit orders[l][:, i] of hidden layer l at place i; orders[l] (k, units)."""
    params = {name: value.clone() for name, value in problem.layout.split(theta).items()}
    members = torch.arange(len(theta), device=theta.device)[:, None]
    for (name, norm, consumer), order in zip(hidden_layers(problem), orders, strict=True):
        for key in (f"{name}.weight", f"{name}.bias", f"{norm}.weight", f"{norm}.bias"):
            if key in params:
                params[key] = params[key][members, order]
        params[f"{consumer}.weight"] = params[f"{consumer}.weight"].mT[members, order].mT
    return joined(problem.layout, params)


def swapped_through(problem: NetworkProblem, theta: Tensor, layer: int, units: tuple[int, int], dead: int) -> Tensor:
    """A path (8, P) from theta (P,) to the same network with two hidden units exchanged, of exactly constant function.

    layer: which hidden layer; dead: a unit of it whose outgoing weights are all 0. Two moves leave the function alone
    at every point: a unit without outgoing weight takes any incoming weights, and units with equal incoming weights
    share their outgoing ones in any ratio. Raises `LossAtlasError` for a unit that is not dead.
    """
    name, norm, consumer = hidden_layers(problem)[layer]
    if norm is not None:
        raise LossAtlasError("units behind a normalisation cannot be exchanged like this: its parameters stay behind")
    first, second = units
    start = {key: value.clone() for key, value in problem.layout.split(theta).items()}
    if start[f"{consumer}.weight"][:, dead].any() or len({first, second, dead}) < 3:
        raise LossAtlasError(f"unit {dead} must be a third one, without outgoing weight, to exchange {first}, {second}")
    incoming = [key for key in (f"{name}.weight", f"{name}.bias") if key in start]

    def copied(params: dict[str, Tensor], source: dict[str, Tensor], unit: int, to: int) -> dict[str, Tensor]:
        """With the incoming weights of `unit` in `source` at `to`."""
        params = {key: value.clone() for key, value in params.items()}
        for key in incoming:
            params[key][to] = source[key][unit]
        return params

    def handed(params: dict[str, Tensor], unit: int, to: int) -> dict[str, Tensor]:
        """With the outgoing weights of `unit` added to those of its twin `to`."""
        params = {key: value.clone() for key, value in params.items()}
        weight = params[f"{consumer}.weight"]
        weight[:, to] += weight[:, unit]
        weight[:, unit] = 0
        return params

    path = [start]
    for unit, to, twin in ((first, dead, first), (second, first, second), (first, second, dead)):
        path.append(copied(path[-1], start, unit, to))
        path.append(handed(path[-1], twin, to))
    path.append(copied(path[-1], start, dead, dead))
    return torch.stack([torch.cat([point[key].flatten() for key in problem.layout.names]) for point in path])


def rescaled(problem: NetworkProblem, theta: Tensor, factors: Tensor) -> Tensor:
    """The members theta (k, P) with the first hidden layer multiplied by factors (k,) > 0 and the next divided.

    Leaves the function of a ReLU network without normalisation as it is, since relu(c x) = c relu(x). Raises
    `LossAtlasError` for another network.
    """
    allowed = nn.Sequential | nn.Flatten | nn.Linear | nn.ReLU
    if not all(isinstance(module, allowed) for module in problem.module.modules()):
        raise LossAtlasError("layers can be rescaled against each other in ReLU networks without normalisation only")
    (name, _, consumer), *_ = hidden_layers(problem)
    params = dict(problem.layout.split(theta))
    params[f"{name}.weight"] = params[f"{name}.weight"] * factors[:, None, None]
    if f"{name}.bias" in params:
        params[f"{name}.bias"] = params[f"{name}.bias"] * factors[:, None]
    params[f"{consumer}.weight"] = params[f"{consumer}.weight"] / factors[:, None, None]
    return joined(problem.layout, params)


def rescaled_to_distance(problem: NetworkProblem, origin: Tensor, theta: Tensor, distance: Tensor) -> Tensor:
    """`rescaled` with factors >= 1 that put theta (k, P) at the given distances (k,) from origin (k, P).

    Members that are already farther than that are left alone. By bisection; the distance grows with the factor
    once that is large enough.
    """
    low, high = torch.ones_like(distance), torch.full_like(distance, 2.0)
    for _ in range(60):
        short = (rescaled(problem, theta, high) - origin).norm(dim=-1) < distance
        high = torch.where(short, 2 * high, high)
    for _ in range(60):
        middle = (low + high) / 2
        short = (rescaled(problem, theta, middle) - origin).norm(dim=-1) < distance
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    near = (theta - origin).norm(dim=-1) < distance
    return torch.where(near[:, None], rescaled(problem, theta, low), theta)


def joined(layout: Layout, params: dict[str, Tensor]) -> Tensor:
    """The ensemble (k, P) of parameters {name: (k, *shape)}: the inverse of `Layout.split`."""
    return torch.cat([params[name].flatten(1) for name in layout.names], -1)
