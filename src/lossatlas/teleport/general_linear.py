"""GL(n) on adjacent layers of a perceptron, exact on a batch (Zhao et al. 2022, arXiv 2205.10637, equation 8)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lossatlas import symmetry
from lossatlas.errors import LossAtlasError
from lossatlas.problems.network import NetworkProblem
from lossatlas.teleport.groups import leaks


class Matrices(NamedTuple):
    """An element of GL(n_1) x ... x GL(n_m): g (k, n, n) of each pair of layers, and the inverses beside them."""

    g: tuple[Tensor, ...]
    inverse: tuple[Tensor, ...]


def exponential(tangents: Sequence[Tensor]) -> Matrices:
    """exp(T) of each tangent T (k, n, n), with the exact inverses exp(-T)."""
    return Matrices(tuple(map(torch.matrix_exp, tangents)), tuple(torch.matrix_exp(-t) for t in tangents))


@dataclass(frozen=True, eq=False)
class GeneralLinear:
    """GL(n) on each pair of adjacent layers through an invertible activation (Zhao et al. 2022, eq. 8, made exact).

    With z = W_m h: z' = sigma^-1(g sigma(z)), W_m += (z' - z) h⁺, W_{m+1} -> W_{m+1} g^-1, where h⁺ is the
    pseudo-inverse of this batch's inputs of layer m; then h = sigma(z') for the next pair. The loss on the batch is
    kept if h has full column rank (at least as many units as rows). The correction has minimum norm, so g = e is the
    identity; `projected` is the printed form W_m = z' h⁺ instead, which loses what W_m did outside the batch.

    On one pair this is a group action. A sweep over adjacent pairs is one on the batch, but outside of it no choice of
    h⁺ makes it one while rows < units: h⁺ would have to follow every g that fixes h. `tests/unit/test_groups.py` shows
    both. Raises `LossAtlasError` where the batch is wider than a layer, unless `least_squares` accepts a changed loss.
    """

    problem: NetworkProblem
    pairs: tuple[int, ...] = ()  # hidden layers that g acts on; () for all
    projected: bool = False
    least_squares: bool = False
    diagonal = False

    def __post_init__(self):
        leaks(self.problem, invertible=True)
        inputs = [self.problem.x.flatten(2 if self.problem.own_rows else 1).shape[-1], *self.widths]
        used = min(inputs[i] for i in self.indices)
        if used < self.problem.rows and not self.least_squares:
            raise LossAtlasError(
                f"a batch of {self.problem.rows} rows in a layer of {used} units leaves GL no exact action: "
                "take fewer rows, or scale units instead"
            )

    @property
    def layers(self) -> list[tuple[str, str]]:
        """(layer, its consumer) of each hidden layer."""
        return [(name, consumer) for name, _, consumer in symmetry.hidden_layers(self.problem)]

    @property
    def widths(self) -> list[int]:
        shapes = dict(zip(self.problem.layout.names, self.problem.layout.shapes, strict=True))
        return [shapes[f"{name}.weight"][0] for name, _ in self.layers]

    @property
    def indices(self) -> tuple[int, ...]:
        return self.pairs or tuple(range(len(self.layers)))

    def identity(self, k: int) -> Matrices:
        eyes = tuple(torch.eye(self.widths[i], dtype=torch.float64).expand(k, -1, -1) for i in self.indices)
        return Matrices(eyes, eyes)

    def compose(self, second: Matrices, first: Matrices) -> Matrices:
        g = tuple(b @ a for b, a in zip(second.g, first.g, strict=True))
        return Matrices(g, tuple(a @ b for b, a in zip(second.inverse, first.inverse, strict=True)))

    def inverse(self, element: Matrices) -> Matrices:
        return Matrices(element.inverse, element.g)

    def random(self, k: int, radius: float, generators: Sequence[torch.Generator]) -> Matrices:
        """exp(T), T uniform on the sphere ||T||_F = radius over all pairs together."""
        sizes = [self.widths[i] for i in self.indices]
        total = sum(n * n for n in sizes)
        draws = torch.stack([torch.randn(total, generator=g, dtype=torch.float64) for g in generators])
        draws = radius * draws / draws.norm(dim=-1, keepdim=True)
        parts = draws.split([n * n for n in sizes], -1)
        return exponential([part.unflatten(-1, (n, n)) for part, n in zip(parts, sizes, strict=True)])

    def act(self, theta: Tensor, element: Matrices) -> Tensor:
        moved = self._moved(theta, element)
        if self.projected:
            return moved
        still = torch.stack([(g == torch.eye(g.shape[-1]).to(g)).all(-1).all(-1) for g in element.g]).all(0)
        return torch.where(still.to(theta.device)[:, None], theta, moved)

    def cotangent(self, theta: Tensor, element: Matrices, covector: Tensor) -> Tensor:
        """Pair after pair, since each is a bijection of its own: J^-T is the transpose of the inverse's Jacobian."""
        for i, g, inverse in zip(self.indices, *element, strict=True):
            pair = GeneralLinear(self.problem, (i,), least_squares=self.least_squares)
            theta = pair._moved(theta, Matrices((g,), (inverse,))).detach().requires_grad_()
            back = pair._moved(theta, Matrices((inverse,), (g,)))
            (covector,) = torch.autograd.grad((back * covector).sum(), theta)
            theta = theta.detach()
        return covector

    def _moved(self, theta: Tensor, element: Matrices) -> Tensor:
        params = dict(self.problem.layout.split(theta))
        for _ in self._sweep(params, element):
            pass
        return symmetry.joined(self.problem.layout, params)

    def _sweep(self, params: dict[str, Tensor], element: Matrices | None) -> Iterator[tuple[int, "Inputs", Tensor]]:
        """(hidden layer, its inputs h, its pre-activations z) from the first on; `params` change on the way."""
        first = params[f"{self.layers[0][0]}.weight"]
        h, factor = (t.to(first) for t in self._inputs)
        elements = {} if element is None else dict(zip(self.indices, zip(*element, strict=True), strict=True))
        for i, ((name, consumer), leak) in enumerate(zip(self.layers, leaks(self.problem, True), strict=True)):
            weight, bias = params[f"{name}.weight"], params.get(f"{name}.bias")
            shift = 0 if bias is None else bias[..., None]
            z = weight @ h + shift
            yield i, Inputs(h, factor), z
            if i in elements:
                g, inverse = (m.to(z) for m in elements[i])
                new = invert(g @ leaky(z, leak), leak)
                inputs = Inputs(h, factor)
                params[f"{name}.weight"] = (
                    times_pinv(new - shift, inputs) if self.projected else weight + times_pinv(new - z, inputs)
                )
                params[f"{consumer}.weight"] = params[f"{consumer}.weight"] @ inverse
                z = new if h.shape[-2] >= h.shape[-1] else params[f"{name}.weight"] @ h + shift
            h, factor = leaky(z, leak), None

    @cached_property
    def _inputs(self) -> tuple[Tensor, Tensor]:
        """The batch as columns (1 or k, d, b), with its Gram matrix factorised once."""
        x = self.problem.x.flatten(2) if self.problem.own_rows else self.problem.x.flatten(1)[None]
        return x.mT, gram_factor(x.mT)

    def direction(self, theta: Tensor, q: Tensor) -> list[Tensor]:
        """d(½ ||grad L||²)/dT_m at T = 0, (k, n, n) for each pair, from q = (Hessian) (gradient) (k, P): no pinv graph.

        ((q_{W_m} h⁺ᵀ) / sigma'(z_m)) sigma(z_m)ᵀ - W_{m+1}ᵀ q_{W_{m+1}}.
        """
        params, bent = dict(self.problem.layout.split(theta)), self.problem.layout.split(q)
        slopes, found = leaks(self.problem, True), []
        for i, inputs, z in self._sweep(params, None):
            if i in self.indices:
                name, consumer = self.layers[i]
                rows = pinv_times(inputs, bent[f"{name}.weight"].mT).mT
                slope = torch.where(z > 0, torch.ones_like(z), slopes[i])
                found.append(
                    (rows / slope) @ leaky(z, slopes[i]).mT
                    - params[f"{consumer}.weight"].mT @ bent[f"{consumer}.weight"]
                )
        return found

    def condition(self, theta: Tensor) -> Tensor:
        """The worst condition number (k,) of the inputs h of the layers that are corrected."""
        worst = theta.new_ones(len(theta))
        for i, inputs, _ in self._sweep(dict(self.problem.layout.split(theta)), None):
            if i in self.indices:
                h = inputs.h
                values = torch.linalg.svdvals(torch.where(h.isfinite().all(-1).all(-1)[:, None, None], h, 0))
                worst = torch.maximum(worst, values[..., 0] / values[..., -1])
        return worst


def leaky(z: Tensor, leak: float) -> Tensor:
    return F.leaky_relu(z, leak)


def invert(y: Tensor, leak: float) -> Tensor:
    return torch.where(y > 0, y, y / leak)


class Inputs(NamedTuple):
    """Columns h (1 or k, d, b) that a layer sees, and their `gram_factor` if it is there already."""

    h: Tensor
    factor: Tensor | None = None

    def gram(self) -> Tensor:
        return gram_factor(self.h) if self.factor is None else self.factor


def times_pinv(y: Tensor, inputs: Inputs) -> Tensor:
    """y h⁺ (k, n, d) for y (k, n, b), from the Cholesky factor of h's smaller Gram matrix, refined once.

    Where that is not positive definite by singular values. The refinement (corrected semi-normal equations) brings the
    residual back to rounding while the condition number of h is below about 1e7 in float64.
    """
    h, factor = inputs.h, _for_members(inputs.gram(), y)
    if h.shape[-2] < h.shape[-1]:
        return _or_by_svd(torch.cholesky_solve((y @ h.mT).mT, factor).mT, h, factor, lambda p: y @ p)
    weights = torch.cholesky_solve(y.mT, factor).mT
    residual = y - (weights @ h.mT) @ h
    found = (weights + torch.cholesky_solve(residual.mT, factor).mT) @ h.mT
    return _or_by_svd(found, h, factor, lambda p: y @ p)


def pinv_times(inputs: Inputs, y: Tensor) -> Tensor:
    """h⁺ y (k, b, n) for y (k, d, n)."""
    h, factor = inputs.h, _for_members(inputs.gram(), y)
    wide = h.shape[-2] < h.shape[-1]
    found = h.mT @ torch.cholesky_solve(y, factor) if wide else torch.cholesky_solve(h.mT @ y, factor)
    return _or_by_svd(found, h, factor, lambda p: p @ y)


def pinv(h: Tensor) -> Tensor:
    """h⁺ by singular values; NaN for members that are not finite, where the decomposition would raise."""
    finite = h.isfinite().all(-1).all(-1)[:, None, None]
    return torch.where(finite, torch.linalg.pinv(torch.where(finite, h, 1.0)), torch.nan)


def _or_by_svd(found: Tensor, h: Tensor, factor: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
    failed = factor.isnan().any(-1).any(-1)
    return torch.where(failed[:, None, None], product(pinv(h)), found) if failed.any() else found


def gram_factor(h: Tensor) -> Tensor:
    """The Cholesky factor (k, r, r) of hᵀh or h hᵀ, whichever is smaller; NaN where that is not positive definite."""
    gram = h.mT @ h if h.shape[-2] >= h.shape[-1] else h @ h.mT
    factor, failed = torch.linalg.cholesky_ex(gram)
    return torch.where(failed[..., None, None] > 0, torch.nan, factor)


def _for_members(factor: Tensor, y: Tensor) -> Tensor:
    return factor.expand(len(y), *factor.shape[1:])
