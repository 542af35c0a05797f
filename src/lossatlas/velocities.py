"""How fast the outputs of a network move and turn on a straight line through parameter space.

A layer's values and their first two derivatives along the line are carried forward together (Taylor arithmetic). A
network with a layer that has no such rule is differentiated twice in forward mode instead, which is slower.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import jvp

from lossatlas.ensemble import child_parameters, shares_parameters
from lossatlas.problems.network import NetworkProblem


class Jet(NamedTuple):
    """A value and its first and second derivative along the line; each broadcasts against (A, n, ...)."""

    value: Tensor
    first: Tensor
    second: Tensor


def velocities(problem: NetworkProblem, start: Tensor, end: Tensor, alphas: Tensor) -> tuple[Tensor, Tensor]:
    """First and second derivative (A, n, C) of the logits along the line from start to end (P,), at alphas (A,)."""
    alphas = alphas.to(start.dtype)
    return (_carried if _has_rules(problem) else _differentiated)(problem, start, end, alphas)


def _has_rules(problem: NetworkProblem) -> bool:
    module = problem.module
    if type(module) is not nn.Sequential or problem.own_rows or shares_parameters(module):
        return False
    return all(type(layer) in RULES for layer in module) and all(p.requires_grad for p in module.parameters())


def _carried(problem: NetworkProblem, start: Tensor, end: Tensor, alphas: Tensor) -> tuple[Tensor, Tensor]:
    points = problem.layout.split(torch.lerp(start, end, alphas[:, None]))
    change = problem.layout.split(end - start)
    jet = Jet(problem.x[None], *[problem.x.new_zeros(())] * 2)
    with torch.no_grad():
        for (
            name,
            layer,
        ) in problem.module._modules.items():  # named_children() would skip a layer that stands there twice
            jet = RULES[type(layer)](layer, jet, child_parameters(points, name), child_parameters(change, name))
    shape = (len(alphas), *jet.value.shape[1:])
    return jet.first.expand(shape), jet.second.expand(shape)


def _differentiated(problem: NetworkProblem, start: Tensor, end: Tensor, alphas: Tensor) -> tuple[Tensor, Tensor]:
    def logits(a: Tensor) -> Tensor:
        return problem.logits((1 - a)[:, None] * start + a[:, None] * end)

    def velocity(a: Tensor) -> Tensor:
        return jvp(logits, (a,), (torch.ones_like(a),))[1]

    return jvp(velocity, (alphas,), (torch.ones_like(alphas),))


# --- rules: (layer, jet of its input, its parameters at the points (A, ...), their change along the line) -> jet -----


def _linear(layer: nn.Linear, jet: Jet, points: dict[str, Tensor], change: dict[str, Tensor]) -> Jet:
    """y = v W', with W affine in alpha: y' = v' W' + v dW', y'' = v'' W' + 2 v' dW'."""
    weight, turn = points["weight"].mT, change["weight"].mT
    value, first, second = jet.value @ weight, jet.value @ turn, jet.second
    if jet.first.dim():  # else the input is the same all along the line
        first, second = first + jet.first @ weight, 2 * jet.first @ turn
    if jet.second.dim():
        second = second + jet.second @ weight
    if layer.bias is None:
        return Jet(value, first, second)
    return Jet(value + points["bias"][:, None], first + change["bias"], second)


def _through(value: Tensor, slope: Tensor, bend: Tensor | None, jet: Jet) -> Jet:
    """An activation's values, with its first two derivatives at its input; bend None: piecewise linear."""
    second = slope * jet.second
    return Jet(value, slope * jet.first, second if bend is None else second + bend * jet.first.square())


def _tanh(layer: nn.Tanh, jet: Jet, *_) -> Jet:
    value = jet.value.tanh()
    slope = 1 - value.square()
    return _through(value, slope, -2 * value * slope, jet)


def _sigmoid(layer: nn.Sigmoid, jet: Jet, *_) -> Jet:
    value = jet.value.sigmoid()
    slope = value * (1 - value)
    return _through(value, slope, slope * (1 - 2 * value), jet)


def _relu(layer: nn.ReLU, jet: Jet, *_) -> Jet:
    slope = (jet.value > 0).to(jet.value.dtype)
    return _through(jet.value * slope, slope, None, jet)


def _flatten(layer: nn.Flatten, jet: Jet, *_) -> Jet:
    first, last = (axis + (axis >= 0) for axis in (layer.start_dim, layer.end_dim))  # behind the axis of the points
    return Jet(*(part.flatten(first, last) if part.dim() else part for part in jet))


RULES = {nn.Linear: _linear, nn.Flatten: _flatten, nn.Tanh: _tanh, nn.Sigmoid: _sigmoid, nn.ReLU: _relu}
