"""Groups that act on parameters and leave the loss as it is, each with identity, compose, inverse, act and cotangent.

`act(theta, g)` maps an ensemble theta (k, P), one element of the group for each member; the identity changes no bit.
`cotangent(theta, g, v)` maps covectors (k, P) at theta (gradients, momentum) to those at g theta: v -> J^-T v with
J = d(g theta)/d theta, since differentiating L(g w) = L(w) gives Jᵀ grad L(g w) = grad L(w).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lossatlas import symmetry
from lossatlas.errors import LossAtlasError
from lossatlas.problems.network import NetworkProblem


class Group(Protocol):
    """What `lossatlas.teleport` needs. `diagonal`: each coordinate is multiplied by a number, or moved to a place."""

    diagonal: bool

    def identity(self, k: int) -> Any: ...

    def compose(self, second: Any, first: Any) -> Any: ...

    def inverse(self, element: Any) -> Any: ...

    def act(self, theta: Tensor, element: Any) -> Tensor: ...

    def cotangent(self, theta: Tensor, element: Any, covector: Tensor) -> Tensor: ...

    def random(self, k: int, radius: float, generators: Sequence[torch.Generator]) -> Any: ...


def leaks(problem: NetworkProblem, invertible: bool) -> list[float]:
    """Slope below zero of the piecewise linear activation behind each hidden layer of an MLP.

    Raises `LossAtlasError` for normalisation, for other activations, and for ReLU where it must be `invertible`.
    """
    found = []
    children = list(problem.module.children())
    if any(norm for _, norm, _ in symmetry.hidden_layers(problem)):
        raise LossAtlasError("hidden layers behind a normalisation have no scaling or GL symmetry of this form")
    linear = [i for i, child in enumerate(children) if isinstance(child, nn.Linear)]
    for i, j in pairwise(linear):
        leak = 1.0
        for layer in children[i + 1 : j]:
            if type(layer) is nn.LeakyReLU:
                leak *= layer.negative_slope
            elif type(layer) is nn.ReLU:
                leak = 0.0
            elif type(layer) is not nn.Identity:
                kind = type(layer).__name__
                raise LossAtlasError(f"{kind} between layers: scaling and GL act through (leaky) ReLU or Identity only")
        if invertible and leak <= 0:
            raise LossAtlasError(
                "GL acts through an invertible activation, and ReLU is none: use LeakyReLU, or scaling"
            )
        found.append(leak)
    return found


@dataclass(frozen=True, eq=False)
class Permutation:
    """Permutations of hidden units, which change no trajectory: the null test. An element: orders[l] (k, units)."""

    problem: NetworkProblem
    diagonal = True

    @property
    def widths(self) -> list[int]:
        shapes = dict(zip(self.problem.layout.names, self.problem.layout.shapes, strict=True))
        return [shapes[f"{name}.weight"][0] for name, _, _ in symmetry.hidden_layers(self.problem)]

    def identity(self, k: int) -> tuple[Tensor, ...]:
        return tuple(torch.arange(width).expand(k, -1) for width in self.widths)

    def compose(self, second: tuple[Tensor, ...], first: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(a.gather(-1, b) for a, b in zip(first, second, strict=True))

    def inverse(self, element: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(order.argsort(-1) for order in element)

    def act(self, theta: Tensor, element: tuple[Tensor, ...]) -> Tensor:
        return symmetry.reordered(self.problem, theta, [order.to(theta.device) for order in element])

    def cotangent(self, theta: Tensor, element: tuple[Tensor, ...], covector: Tensor) -> Tensor:
        return self.act(covector, element)

    def squared_cotangent(self, element: tuple[Tensor, ...], squares: Tensor) -> Tensor:
        return self.act(squares, element)

    def random(self, k: int, radius: float, generators: Sequence[torch.Generator]) -> tuple[Tensor, ...]:
        """Even over all orders, whatever the radius."""
        return tuple(torch.stack([torch.randperm(w, generator=g) for g in generators]) for w in self.widths)


@dataclass(frozen=True, eq=False)
class PositiveScaling:
    """W_l -> e^{s_l} W_l e^{-s_{l-1}} in networks of (leaky) ReLUs: exact on every batch, biases scale like rows.

    An element is s (k, H), the logarithm of the factor of each hidden unit, layer after layer. The gradient on the
    whole orbit follows from one gradient G: G_ij e^{-s_i + s_j}, no forward pass (teleportation by change of basis,
    Armenta et al. arXiv 2012.01118, restricted to positive factors).
    """

    problem: NetworkProblem
    diagonal = True

    def __post_init__(self):
        leaks(self.problem, invertible=False)

    @cached_property
    def layers(self) -> list[slice]:
        """Where the units of each hidden layer lie in s."""
        shapes = dict(zip(self.problem.layout.names, self.problem.layout.shapes, strict=True))
        found, start = [], 0
        for name, _, _ in symmetry.hidden_layers(self.problem):
            found.append(slice(start, start + shapes[f"{name}.weight"][0]))
            start = found[-1].stop
        return found

    @property
    def units(self) -> int:
        return self.layers[-1].stop

    @cached_property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The hidden unit that each coordinate (P,) leads to, and that it comes from; `units` where there is none."""
        hidden = symmetry.hidden_layers(self.problem)
        to = {name: unit for (name, _, _), unit in zip(hidden, self.layers, strict=True)}
        come = {consumer: unit for (_, _, consumer), unit in zip(hidden, self.layers, strict=True)}
        rows, columns = [], []
        for name, shape in zip(self.problem.layout.names, self.problem.layout.shapes, strict=True):
            layer = name.rpartition(".")[0]
            out = torch.arange(shape[0]) + to[layer].start if layer in to else torch.full(shape[:1], self.units)
            into = torch.full(shape[1:], self.units)
            if len(shape) == 2 and layer in come:
                into = torch.arange(shape[1]) + come[layer].start
            rows.append(out.view(-1, *[1] * (len(shape) - 1)).expand(shape).flatten())
            columns.append(into.expand(shape).flatten())
        device = self.problem.x.device
        return torch.cat(rows).to(device), torch.cat(columns).to(device)

    def log_factors(self, element: Tensor) -> Tensor:
        """s_i - s_j of each coordinate, (k, P)."""
        padded = torch.cat([element, element.new_zeros(*element.shape[:-1], 1)], -1)
        return padded[..., self.ends[0]] - padded[..., self.ends[1]]

    def identity(self, k: int) -> Tensor:
        return torch.zeros(k, self.units, dtype=torch.float64)

    def compose(self, second: Tensor, first: Tensor) -> Tensor:
        return second + first

    def inverse(self, element: Tensor) -> Tensor:
        return -element

    def act(self, theta: Tensor, element: Tensor) -> Tensor:
        return theta * self.log_factors(element.to(theta)).exp()

    def cotangent(self, theta: Tensor, element: Tensor, covector: Tensor) -> Tensor:
        return covector * (-self.log_factors(element.to(covector))).exp()

    def squared_cotangent(self, element: Tensor, squares: Tensor) -> Tensor:
        """Second moments (k, P) at the image."""
        return squares * (-2 * self.log_factors(element.to(squares))).exp()

    def random(self, k: int, radius: float, generators: Sequence[torch.Generator]) -> Tensor:
        """Uniform directions of length `radius`."""
        draws = torch.stack([torch.randn(self.units, generator=g, dtype=torch.float64) for g in generators])
        return radius * draws / draws.norm(dim=-1, keepdim=True)

    def gradient_squares(self, gradient: Tensor, elements: Tensor) -> Tensor:
        """||grad L||² (k, m) at m elements (k, m, H) from the gradient (k, P) at the identity.

        sum_l sum_ij e^{-2 s_li} G²_lij e^{2 s_{l-1},j}: the first and last layer need their row and column sums only.
        """
        into, out = (-2 * elements).exp(), (2 * elements).exp()
        total = 0.0
        for name, square in self.problem.layout.split(gradient.square()).items():
            layer, _, kind = name.rpartition(".")
            row, column = self._slices[layer]
            if kind == "bias":
                square = square[..., None]
                column = None
            if row is None and column is None:
                total = total + square.sum((-2, -1))[:, None]
            elif column is None:
                total = total + (into[..., row] @ square.sum(-1)[..., None])[..., 0]
            elif row is None:
                total = total + (out[..., column] @ square.sum(-2)[..., None])[..., 0]
            else:
                total = total + ((out[..., column] @ square.mT) * into[..., row]).sum(-1)
        return total

    @cached_property
    def _slices(self) -> dict[str, tuple[slice | None, slice | None]]:
        """The units that each layer leads to and comes from."""
        found: dict[str, tuple[slice | None, slice | None]] = {}
        for (name, _, consumer), units in zip(symmetry.hidden_layers(self.problem), self.layers, strict=True):
            found[name] = (units, found.get(name, (None, None))[1])
            found[consumer] = (None, units)
        return found

    def flows(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Squared gradient that comes into and goes out of each hidden unit, two (k, H)."""
        square = gradient.square()
        empty = square.new_zeros(len(square), self.units + 1)
        return tuple(empty.index_add(1, end, square)[:, :-1] for end in self.ends)

    def balance(self, gradient: Tensor, sweeps: int = 100, tolerance: float = 1e-12) -> Tensor:
        """The s (k, H) of least ||grad L||: log-convex in s, so balancing unit by unit (e^{4 s} = in/out) finds it.

        Units without any gradient on a side have no minimum and stay.
        """

        def update(s: Tensor, layer: slice, into: Tensor, out: Tensor) -> Tensor:
            step = 0.25 * (into / out).log()
            return s[:, layer] + torch.where(step.isfinite(), step, 0)

        return self._by_layers(gradient, update, sweeps, tolerance)

    def corner(self, gradient: Tensor, bound: float, sweeps: int = 100) -> Tensor:
        """A vertex s (k, H) of the box |s| <= bound with the greatest ||grad L|| that no change of a layer improves.

        The maximum of a convex function over a box is at a vertex; given its neighbours, a layer's best vertex is
        sign(out - in), so with one hidden layer this is the maximum itself, and with more one of its local ones.
        """

        def update(s: Tensor, layer: slice, into: Tensor, out: Tensor) -> Tensor:
            here = s[:, layer]
            rises = out * (-2 * here).exp() >= into * (2 * here).exp()  # with the unit's own factor taken out
            return bound * torch.where(rises, 1, -1).to(s)

        return self._by_layers(gradient, update, sweeps, 0.0)

    def _by_layers(self, gradient: Tensor, update: Callable, sweeps: int, tolerance: float) -> Tensor:
        s = gradient.new_zeros(len(gradient), self.units)
        for _ in range(sweeps):
            before = s
            for layer in self.layers:
                into, out = self.flows(self.cotangent(gradient, s, gradient))
                s = s.clone()
                s[:, layer] = update(s, layer, into[:, layer], out[:, layer])
            if (s - before).abs().amax() <= tolerance:
                break
        return s
