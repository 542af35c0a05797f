"""How many losses become one direction: weights from the Gramian of their gradients.

A weighting takes Gramians G = J Jᵀ (..., n, n) of n gradients, batched over trajectories or grid points, and returns
weights (..., n); the direction is Jᵀ w. All of torchjd's that appear here (UPGrad, MGDA, PCGrad, CAGrad, Aligned-MTL)
are batched versions of the same definitions, which torchjd 0.18 solves for one Gramian at a time;
`lossatlas.composite.torchjd_bridge` turns a weighting into a torchjd aggregator.
"""

from dataclasses import dataclass, field
from math import inf
from typing import Protocol

import torch
from torch import Tensor

FLOOR = 1e-12  # of a norm relative to the largest one, so that negative powers stay finite
TOLERANCE = 1e-9  # of signs in the quadratic programs, and of the length that CAGrad's iteration looks for
PIVOTS = 200  # of the quadratic programs at most; random ones of 8 gradients take about 6
HALVINGS = 24  # of the bracket of CAGrad's length: to 6e-8 of the longest gradient
RIDGE = 1e-10  # makes the quadratic program of the least norm strictly convex
NORM_EPS = 1e-4  # torchjd's: below this squared Frobenius norm a Gramian counts as zero
REG_EPS = 1e-4  # torchjd's: added to the normalised Gramian's diagonal


class Weighting(Protocol):
    """Gramians (..., n, n) -> weights (..., n)."""

    def __call__(self, gramian: Tensor) -> Tensor: ...


def gramian(gradients: Tensor) -> Tensor:
    """Gradients (..., n, d) -> inner products (..., n, n)."""
    return gradients @ gradients.mT


def combine(weights: Tensor, gradients: Tensor) -> Tensor:
    """The direction sum_i w_i g_i: weights (..., n), gradients (..., n, d) -> (..., d)."""
    return (weights[..., None, :] @ gradients)[..., 0, :]


def norms(gramian: Tensor) -> Tensor:
    """Gradient norms (..., n)."""
    return gramian.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()


def power_weights(lengths: Tensor, q: float | Tensor) -> Tensor:
    """w_i = r_i^q / sum_j r_j^q of norms r (..., n); q = inf gives the largest alone. Equal weights if all r are 0.

    A tensor of finite powers (..., 1) gives each leading index its own.
    """
    if not isinstance(q, Tensor) and q == inf:
        return torch.nn.functional.one_hot(lengths.argmax(-1), lengths.shape[-1]).to(lengths.dtype)
    tiny = torch.finfo(lengths.dtype).tiny
    floored = lengths.clamp_min(tiny).maximum(FLOOR * lengths.amax(-1, keepdim=True))
    return torch.softmax(q * floored.log(), -1)


@dataclass(frozen=True)
class PowerWeighting:
    """Weights ∝ |g_i|^q: 0 the sum (mean), 1 the planeswalker README's, -1 unit gradients, inf the largest alone."""

    q: float = 1.0

    def __call__(self, gramian: Tensor) -> Tensor:
        return power_weights(norms(gramian), self.q)


LargestGradient = PowerWeighting(inf)
Sum = PowerWeighting(0.0)


@dataclass
class AveragedPowerWeighting:
    """Weights ∝ m_i^q with m_i the bias-corrected running mean of |g_i| (decay as in an EMA), one for each index.

    Stateful: `reset()` before another run. For `q` as a tensor see `power_weights`.
    """

    q: float | Tensor = 1.0
    decay: float = 0.9
    _mean: Tensor | None = field(default=None, repr=False)
    _steps: int = 0

    def reset(self) -> None:
        self._mean, self._steps = None, 0

    def __call__(self, gramian: Tensor) -> Tensor:
        return self.of_norms(norms(gramian))

    def of_norms(self, lengths: Tensor) -> Tensor:
        """The weights (..., n) of gradients of these norms (..., n), where nothing else of the Gramian is known."""
        before = torch.zeros_like(lengths) if self._mean is None else self._mean
        self._mean = self.decay * before + (1 - self.decay) * lengths
        self._steps += 1
        return power_weights(self._mean / (1 - self.decay**self._steps), self.q)


@dataclass(frozen=True)
class RandomSwitching:
    """One member a call, drawn uniformly: the same for all (`shared`) or one for each leading index."""

    generator: torch.Generator
    shared: bool = False

    def __call__(self, gramian: Tensor) -> Tensor:
        n, batch = gramian.shape[-1], gramian.shape[:-2]
        chosen = torch.randint(n, () if self.shared else batch, generator=self.generator).expand(batch)
        return torch.nn.functional.one_hot(chosen, n).to(gramian)


def noise_variance(gramian: Tensor, dim: int) -> Tensor:
    """Per-component variance (...) of the gradient of a random member about the mean gradient in `dim` dimensions.

    What random switching adds to the mean: (mean_i |g_i|² - |mean g|²) / d.
    """
    return ((gramian.diagonal(dim1=-2, dim2=-1).mean(-1) - gramian.mean((-2, -1))) / dim).clamp_min(0)


def matched_noise(mean: Tensor, variance: Tensor, generator: torch.Generator) -> Tensor:
    """The control for switching: the mean gradient (..., d) plus isotropic noise of that variance (...)."""
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(mean.device)
    return mean + variance.sqrt()[..., None] * noise


# --- multi-objective baselines --------------------------------------------------------------------------------------


def nonnegative_quadratic(matrix: Tensor, linear: Tensor, free: Tensor | None = None) -> Tensor:
    """argmin over x >= 0 of ½ xᵀ A x - bᵀ x for A (B, n, n) positive definite and b (B, n): x (B, n).

    Block principal pivoting (Kim and Park 2011): all coordinates on the wrong side change between free and zero at
    once; where that does not shrink their number three times in a row, only the last of them does, which always ends.
    `free` (B, n) is a guess at the positive coordinates.
    """
    n = linear.shape[-1]
    result = torch.zeros_like(linear)
    rows = torch.arange(len(linear), device=linear.device)
    free = linear > 0 if free is None else free
    fewest, patience = torch.full_like(rows, n + 1), torch.full_like(rows, 3)
    eye = torch.eye(n, dtype=linear.dtype, device=linear.device)
    for _ in range(PIVOTS):
        inside = free.to(linear.dtype)
        system = matrix * inside[:, None] * inside[:, :, None] + eye * (1 - inside)[:, None]
        x = torch.linalg.solve(system, linear * inside)
        slope = (matrix @ x[..., None])[..., 0] - linear
        wrong = torch.where(free, x < -TOLERANCE, slope < -TOLERANCE)
        count = wrong.sum(-1)
        result[rows] = x.clamp_min(0)
        on = count > 0
        if not on.any():
            break
        better = count < fewest
        patience = torch.where(better, 3, patience - 1)
        fewest = torch.minimum(fewest, count)
        last = torch.nn.functional.one_hot(n - 1 - wrong.flip(-1).to(torch.int8).argmax(-1), n).bool()
        free = free ^ torch.where((patience >= 0)[:, None], wrong, last)
        rows, matrix, linear, free = rows[on], matrix[on], linear[on], free[on]
        fewest, patience = fewest[on], patience[on]
    return result


def _normalised(gramian: Tensor) -> Tensor:
    """Gramians (..., n, n) -> (B, n, n), float64, of Jacobians over their Frobenius norm; zero if that nearly is."""
    work = gramian.double().reshape(-1, *gramian.shape[-2:])
    trace = work.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    return torch.where(trace < NORM_EPS, torch.zeros_like(work), work / trace.clamp_min(1e-300))


def _min_norm(points: Tensor, free: Tensor | None = None) -> Tensor:
    """Weights (B, n) of the point of least norm in the hull, from Gramians (B, n, n) of trace about 1; `free` as in
    `nonnegative_quadratic`, by default the shortest corner.

    u = argmin over u >= 0 of ½ uᵀ(G + 1 1ᵀ)u - 1ᵀu has w = u / sum u: both have the same optimality conditions.
    """
    ridge = RIDGE * torch.eye(points.shape[-1], dtype=points.dtype, device=points.device)
    if free is None:
        free = torch.nn.functional.one_hot(points.diagonal(dim1=-2, dim2=-1).argmin(-1), points.shape[-1]).bool()
    u = nonnegative_quadratic(points + 1 + ridge, torch.ones_like(points[..., 0]), free)
    return u / u.sum(-1, keepdim=True).clamp_min(1e-30)


def _like(weights: Tensor, gramian: Tensor) -> Tensor:
    return weights.reshape(gramian.shape[:-1]).to(gramian.dtype)


def mgda(gramian: Tensor) -> Tensor:
    """The point of least norm in the hull of the gradients (Désidéri 2012), exactly."""
    work = gramian.double().reshape(-1, *gramian.shape[-2:])
    trace = work.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(1e-300)
    return _like(_min_norm(work / trace[:, None, None]), gramian)


def upgrad(gramian: Tensor) -> Tensor:
    """Mean of the projections of each gradient on the dual cone of all (Quinton and Rey 2024, arXiv 2406.16232).

    Normalised and regularised as torchjd does, by 1e-4.
    """
    n = gramian.shape[-1]
    eye = torch.eye(n, dtype=torch.float64, device=gramian.device)
    matrix = _normalised(gramian) + REG_EPS * eye
    # the i-th projection has weights e_i + u >= e_i with least (e_i + u)ᵀ G (e_i + u); i joins the batch
    every = matrix[:, None].expand(-1, n, -1, -1).reshape(-1, n, n)
    u = nonnegative_quadratic(every, -matrix.reshape(-1, n)).view(-1, n, n)
    return _like((u + eye).mean(1), gramian)


def cagrad(gramian: Tensor, c: float = 0.5) -> Tensor:
    """CAGrad (Liu et al. 2021): mean gradient plus c |mean| g_w / |g_w|, w minimising g_0·g_w + c |g_0| |g_w| on the
    simplex.

    |g_w| <= (|g_w|² / s + s) / 2 turns the problem into the point of least norm among g_i + t g_0, t = s / (c |g_0|);
    the s that equals |g_w| is bracketed and halved. Normalised as torchjd does. Zero weights where g_w vanishes.
    """
    n = gramian.shape[-1]
    work = _normalised(gramian)
    inner, square = work.mean(-1), work.mean((-2, -1)).clamp_min(0)  # g_i·g_0 and |g_0|²
    radius = c * square.sqrt()
    high = work.diagonal(dim1=-2, dim2=-1).amax(-1).clamp_min(0).sqrt()
    low = torch.zeros_like(high)
    cross, free = inner[:, None] + inner[:, :, None], None
    for _ in range(HALVINGS):
        s = 0.5 * (low + high)
        t = (s / radius.clamp_min(1e-12))[:, None, None]
        weights = _min_norm(work + t * cross + t * t * square[:, None, None], free)
        free = weights > 0  # the same face, mostly: the next quadratic program is solved at once
        length = (weights * (work @ weights[..., None])[..., 0]).sum(-1).clamp_min(0).sqrt()
        low, high = torch.where(length > s, s, low), torch.where(length > s, high, s)
    share = torch.where(length < NORM_EPS, 0.0, radius / length.clamp_min(NORM_EPS))[:, None]
    return _like(torch.where(length[:, None] < NORM_EPS, 0.0, 1 / n + share * weights), gramian)


def pcgrad(gramian: Tensor, generator: torch.Generator) -> Tensor:
    """PCGrad (Yu et al. 2020): each gradient projected off those it conflicts with, in random order, then summed."""
    work = gramian.reshape(-1, *gramian.shape[-2:])
    batch, n = work.shape[:2]
    every = torch.arange(batch, device=work.device)
    others = torch.tensor([[j for j in range(n) if j != i] for i in range(n)], device=work.device)[..., None]
    draws = torch.rand(n, n - 1, batch, generator=generator).to(work.device)
    orders = others.expand(-1, -1, batch).gather(1, draws.argsort(1))
    squares = work.diagonal(dim1=-2, dim2=-1).clamp_min(1e-30)
    # the projections of all n gradients side by side, as weights (n, B, n)
    current = torch.eye(n, dtype=work.dtype, device=work.device)[:, None].repeat(1, batch, 1)
    for j in orders.unbind(1):
        conflict = (work[every, j] * current).sum(-1).clamp_max(0)
        current.scatter_add_(-1, j[..., None], -(conflict / squares[every, j])[..., None])
    return _like(current.sum(0), gramian)


def aligned_mtl(gramian: Tensor) -> Tensor:
    """Aligned-MTL (Senushkin et al. 2023): mean of the principal components, rescaled to the least singular value."""
    n = gramian.shape[-1]
    values, vectors = torch.linalg.eigh(gramian.double())
    eps = torch.finfo(torch.float64).eps
    kept = values > values.amax(-1, keepdim=True).clamp_min(0) * n * eps
    least = torch.where(kept, values, inf).amin(-1, keepdim=True)
    ratio = torch.where(kept, (least / values.clamp_min(1e-300)).sqrt(), 0.0)
    weights = (vectors * ratio[..., None, :] @ vectors.mT).mean(-1)
    return torch.where(kept.any(-1, keepdim=True), weights, 1 / n).to(gramian.dtype)
