"""Closed forms that claims and tests lean on, each with its derivation or source."""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy import integrate, special
from torch import Tensor

from lossatlas.errors import LossAtlasError
from lossatlas.problems.perlin import fade, fade_curvature, fade_slope


def plateau_switch(signal_lead: float, bias_lead: float, depth: int) -> float:
    """The alpha beyond which class i, ahead by its signal, overtakes class j, ahead by its last-layer bias.

    On the line from zero an r-homogeneous network has logits z_k = alpha^r s_k + alpha b_k (each layer is scaled by
    alpha, the last bias once), so z_i > z_j iff alpha^(r-1) (s_i - s_j) > b_j - b_i (after Wang et al. 2022).
    signal_lead = s_i - s_j > 0, bias_lead = b_j - b_i > 0, depth r >= 2.
    """
    return (bias_lead / signal_lead) ** (1 / (depth - 1))


# --- minima of noise --------------------------------------------------------------------------------------------------


class Estimate(NamedTuple):
    """A Monte-Carlo value and its standard error."""

    value: float
    error: float


def common_minima_rate(n: int, neighbours: int) -> float:
    """Probability that a site is a strict minimum of n independent layers of i.i.d. continuous values, p^n.

    Of m + 1 exchangeable values each is the least equally often, so p = 1 / (m + 1) whatever the distribution.
    """
    return (neighbours + 1.0) ** -n


def minima_density(dim: int, lambda2: float, lambda4: float) -> float:
    """Minima a unit volume of a stationary isotropic Gaussian field, lambda2 = E f_x², lambda4 = E f_xx².

    d = 1: Rice 1944; d = 2: Longuet-Higgins 1957; d = 3: Bardeen et al. 1986 with R*² = 9 lambda2 / (5 lambda4). The
    densities are those of maxima. Raises `LossAtlasError` for other dimensions (see `minima_density_sampled`).
    """
    if dim == 1:
        return math.sqrt(lambda4 / lambda2) / (2 * math.pi)
    if dim == 2:
        return lambda4 / (6 * math.sqrt(3) * math.pi * lambda2)
    if dim == 3:
        length = math.sqrt(9 * lambda2 / (5 * lambda4))
        return (29 - 6 * math.sqrt(6)) / (2 * 5**1.5 * (2 * math.pi) ** 2 * length**3)
    raise LossAtlasError(f"no closed form for the density of minima in {dim} dimensions: use minima_density_sampled")


def minima_density_sampled(
    dim: int, lambda2: float, lambda4: float, generator: torch.Generator, samples: int = 200_000
) -> Estimate:
    """The same in any dimension, (2 pi lambda2)^(-d/2) (lambda4 / 3)^(d/2) E[det M 1{M > 0}], by Monte Carlo.

    Kac–Rice with the Hessian independent of the gradient; M is symmetric with variance 2 on and 1 off the diagonal,
    plus z times the identity, z ~ N(0, 1), since E f_xx f_yy = E f_xy² = lambda4 / 3.
    """
    scale = (lambda4 / (3 * 2 * math.pi * lambda2)) ** (dim / 2)
    found = _positive_determinant(_hessians(dim, generator, samples), symmetric=True)
    return Estimate(scale * float(found.mean()), scale * float(found.std()) / math.sqrt(samples))


def _hessians(dim: int, generator: torch.Generator, samples: int) -> Tensor:
    """M (samples, d, d) of the docstring above."""
    raw = torch.randn(samples, dim, dim, generator=generator, dtype=torch.float64)
    common = torch.randn(samples, 1, 1, generator=generator, dtype=torch.float64)
    return (raw + raw.mT) / math.sqrt(2) + common * torch.eye(dim, dtype=torch.float64)


def _positive_determinant(matrices: Tensor, symmetric: bool) -> Tensor:
    """|det| where all eigenvalues have positive real parts, else 0: (samples,)."""
    if matrices.shape[-1] <= 2:  # positive trace and determinant
        determinant = torch.linalg.det(matrices)
        return torch.where(matrices.diagonal(dim1=-2, dim2=-1).sum(-1) > 0, determinant, 0.0).clamp_min(0)
    spectrum = torch.linalg.eigvalsh(matrices) if symmetric else torch.linalg.eigvals(matrices).real
    return torch.linalg.det(matrices).abs() * (spectrum > 0).all(-1)


def bowl_minima_density(x: Tensor, n: int, mu: float, lambda2: float, lambda4: float) -> Tensor:
    """Minima a unit length at x of a sum of n independent 1-D Gaussian layers, each with the bowl ½ mu x².

    f' ~ N(n mu x, n lambda2) and f'' ~ N(n mu, n lambda4) are independent, so Kac–Rice gives
    rho = sqrt(lambda4 / (2 pi lambda2)) exp(-n mu² x² / (2 lambda2)) [a Phi(a) + phi(a)], a = mu sqrt(n / lambda4).
    mu = 0 returns Rice's formula.
    """
    a = mu * math.sqrt(n / lambda4)
    rise = a * float(special.ndtr(a)) + math.exp(-0.5 * a * a) / math.sqrt(2 * math.pi)
    return math.sqrt(lambda4 / (2 * math.pi * lambda2)) * rise * torch.exp(-n * mu**2 * x.square() / (2 * lambda2))


def perlin_minima_per_cell(dim: int, phases: str = "same") -> float:
    """Minima a cell of Perlin noise with Gaussian lattice gradients, which is an exactly Gaussian field (Kac–Rice).

    `same`: one layer, or the sum of any number on one lattice (it stays in the family); the density depends on the
    place in the cell and is averaged over it. `random`: the limit of the sum of many layers whose lattices lie at
    random: the covariance is averaged first. 1-D `same`: with a = K'(t), b = K'(t - 1) the slope is a g + b g', which
    vanishes whenever the angle of (a, b) is orthogonal to that of (g, g'), once for each turn by pi, and every second
    zero is a minimum: rho = (1 / 2 pi) integral |K''(t) b - K''(t - 1) a| / (a² + b²). 2-D: E[det H 1{H > 0} | grad =
    0] / (2 pi sqrt det Sigma_gg), by quadrature. Raises `LossAtlasError` for other dimensions.
    """
    if phases not in ("same", "random") or dim not in (1, 2):
        raise LossAtlasError(f"no closed form in {dim} dimensions with phases {phases!r}: 1 or 2, 'same' or 'random'")
    if dim == 1:
        t = torch.linspace(0, 1, 20_001, dtype=torch.float64)
        (a, b), (c, d) = ([_ramp_derivative(t - corner, order) for corner in (0, 1)] for order in (1, 2))
        if phases == "same":
            return float(torch.trapezoid((c * b - d * a).abs() / (a * a + b * b), t)) / (2 * math.pi)
        lambda2, lambda4 = (float(torch.trapezoid(u * u + v * v, t)) for u, v in ((a, b), (c, d)))
        return minima_density(1, lambda2, lambda4)
    axis = (torch.arange(32, dtype=torch.float64) + 0.5) / 32
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    covariance = _perlin_covariance(x.flatten(), y.flatten())
    if phases == "random":
        covariance = covariance.mean(0, keepdim=True)
    return float(_kac_rice_2d(covariance).mean())


def _ramp_derivative(u: Tensor, order: int) -> Tensor:
    """Derivatives of u f(|u|): f + u f', and 2 f' + u f''."""
    return fade(u) + u * fade_slope(u) if order == 1 else 2 * fade_slope(u) + u * fade_curvature(u)


def _perlin_covariance(x: Tensor, y: Tensor) -> Tensor:
    """Covariance (m, 5, 5) of (f_x, f_y, f_xx, f_yy, f_xy) at phases x, y (m,) for Gaussian lattice gradients."""
    rows = []
    for i in (0, 1):
        for j in (0, 1):
            u, v = x - i, y - j
            f, g = (
                [k(u) for k in (fade, fade_slope, fade_curvature)],
                [k(v) for k in (fade, fade_slope, fade_curvature)],
            )
            r = [u * f[0], _ramp_derivative(u, 1), _ramp_derivative(u, 2)]
            s = [v * g[0], _ramp_derivative(v, 1), _ramp_derivative(v, 2)]
            for p, w in ((r, g), (f, s)):  # K_1 = r(u) f(v), K_2 = f(u) r(v)
                rows.append(torch.stack([p[1] * w[0], p[0] * w[1], p[2] * w[0], p[0] * w[2], p[1] * w[1]], -1))
    table = torch.stack(rows, -2)  # (m, 8, 5)
    return table.mT @ table


def _kac_rice_2d(covariance: Tensor) -> Tensor:
    """Density of minima (m,) from covariances (m, 5, 5) of (f_x, f_y, f_xx, f_yy, f_xy) of a centred Gaussian field.

    det H is homogeneous of degree 2 in the three Hessian entries L z, z ~ N(0, I): the radius contributes E r² = 3, and
    the direction is integrated over the sphere.
    """
    gg, gh, hh = covariance[:, :2, :2], covariance[:, :2, 2:], covariance[:, 2:, 2:]
    given = hh - gh.mT @ torch.linalg.solve(gg, gh)
    spectrum, vectors = torch.linalg.eigh(given)
    root = vectors * spectrum.clamp_min(0).sqrt()[:, None]
    height, weight = np.polynomial.legendre.leggauss(48)
    turn = (torch.arange(96, dtype=torch.float64) + 0.5) * (2 * math.pi / 96)
    z = torch.as_tensor(height)
    ring = (1 - z * z).sqrt()
    u = torch.stack([ring[:, None] * turn.cos(), ring[:, None] * turn.sin(), z[:, None].expand(-1, 96)])  # (3, 48, 96)
    h = torch.einsum("mij,jab->imab", root, u)
    determinant = h[0] * h[1] - h[2] * h[2]
    positive = torch.where((determinant > 0) & (h[0] > 0), determinant, 0.0)
    mean = (positive.mean(-1) * torch.as_tensor(weight) / 2).sum(-1)
    return 3 * mean / (2 * math.pi * torch.linalg.det(gg).sqrt())


# --- where composites of n layers come to rest -----------------------------------------------------------------------


def stall_ratio_power(q: float, dim: int = 1) -> float:
    """Density of attractors of the q-weighted composite of n -> infinity Gaussian layers in 1-D over that of one layer.

    v = sum psi(z_i) with psi(z) = z |z|^q is Gaussian in the limit, with Var v = E psi² and, f'' being independent of
    f', Var v' ∝ E psi'²: rho / rho_1 = sqrt(E psi'² / E psi²) = (q + 1) / sqrt(2 q + 1), q > -1/2; at least 1 by the
    Gaussian Poincaré inequality, with equality for the plain sum alone. Other dimensions: `stall_ratio_sampled`.
    """
    if dim != 1 or q <= -0.5:
        raise LossAtlasError(f"the closed form is for 1 dimension and q > -1/2, not {dim} and {q:g}")
    return (q + 1) / math.sqrt(2 * q + 1)


def stall_ratio_sampled(q: float, dim: int, generator: torch.Generator, samples: int = 200_000) -> Estimate:
    """The same in d dimensions: (d / (d + 2q))^(d/2) E[|det J| 1{spec J > 0}] / E[det M 1{M > 0}] by Monte Carlo.

    v = sum |g|^q g has Dv = sum |g|^q (I + q ĝ ĝᵀ) H. Given the norms, averages over the direction ĝ are
    E[A_ae A_cf] = (1 + 2q/d + q²/(d(d+2))) δ_ae δ_cf + q²/(d(d+2)) (δ_ac δ_ef + δ_af δ_ec), and the Hessian has
    E[M_eb M_fd] = δ_eb δ_fd + δ_ef δ_bd + δ_ed δ_bf; J is Gaussian with the product of the two as covariance. The
    factor in front is the ratio of the densities of v and of g at 0 after E|g|^(2q) cancels.
    """
    d = torch.eye(dim, dtype=torch.float64)
    outer = [torch.einsum(pattern, d, d) for pattern in ("ae,cf->aecf", "ac,ef->aecf", "af,ec->aecf")]
    c = q * q / (dim * (dim + 2))
    a = (1 + 2 * q / dim + c) * outer[0] + c * (outer[1] + outer[2])
    m = sum(torch.einsum(pattern, d, d) for pattern in ("eb,fd->ebfd", "ef,bd->ebfd", "ed,bf->ebfd"))
    covariance = torch.einsum("aecf,ebfd->abcd", a, m).reshape(dim * dim, dim * dim)
    spectrum, vectors = torch.linalg.eigh(covariance)
    root = vectors * spectrum.clamp_min(0).sqrt()
    drawn = torch.randn(samples, dim * dim, generator=generator, dtype=torch.float64) @ root.mT
    above = _positive_determinant(drawn.view(-1, dim, dim), symmetric=False)
    below = _positive_determinant(_hessians(dim, generator, samples), symmetric=True)
    factor = (dim / (dim + 2 * q)) ** (dim / 2)
    ratio = factor * float(above.mean() / below.mean())
    spread = [float(x.std() / x.mean()) / math.sqrt(samples) for x in (above, below)]
    return Estimate(ratio, ratio * math.hypot(*spread))


def stall_ratio_finite(q: float, n: int, generator: torch.Generator, samples: int = 200_000) -> Estimate:
    """The ratio of `stall_ratio_power` for n layers in 1-D: sqrt(2 pi) E[sqrt(sum psi'(z_i)²) δ(sum psi(z_i))], q >= 0.

    Kac–Rice given the slopes z; the delta is solved for the largest |z_i|, which is one of n equal cases: for z_2..z_n
    drawn, z_1 = -psi⁻¹(S), S = sum of the others, counts if no other is larger, with density phi(z_1) / psi'(z_1). For
    n = 2 the two are opposite, where the plain sum rests too, so the ratio is 1 for every q > -1.
    """
    if n <= 2:
        return Estimate(1.0, 0.0)
    others = torch.randn(samples, n - 1, generator=generator, dtype=torch.float64)
    total = (others * others.abs() ** q).sum(-1)
    first = total.abs() ** (1 / (q + 1))
    slopes = (q + 1) ** 2 * ((others.abs() ** (2 * q)).sum(-1) + first ** (2 * q))
    largest = first > others.abs().amax(-1)
    density = torch.exp(-0.5 * first**2) / math.sqrt(2 * math.pi) / ((q + 1) * first**q).clamp_min(1e-300)
    terms = n * math.sqrt(2 * math.pi) * torch.where(largest, slopes.sqrt() * density, 0.0)
    return Estimate(float(terms.mean()), float(terms.std()) / math.sqrt(samples))


def stall_ratio_max(n: int) -> float:
    """Density of attractors of the largest of n Gaussian slopes in 1-D over that of one layer.

    An attractor of n >= 2 layers is where the two largest slopes are opposite and equal: C(n, 2) pairs, the others
    smaller: C(n, 2) E_{u ~ N(0, 1/2)}[erf(|u| / sqrt 2)^(n - 2)], which grows like (sqrt(pi) / 2) sqrt(2 ln n).
    """
    if n < 2:
        return 1.0

    def term(u: float) -> float:
        return math.exp(-u * u) * math.erf(u / math.sqrt(2)) ** (n - 2)

    value, _ = integrate.quad(term, 0, 12, limit=200, epsabs=0)
    return math.comb(n, 2) * 2 * value / math.sqrt(math.pi)


def wendel_probability(n: int, dim: int) -> float:
    """P(0 lies in the convex hull of n independent symmetric vectors of R^d), Wendel 1962.

    1 - 2^(1-n) sum_{k<d} C(n-1, k): the share of space where MGDA and every conflict-free method must stop.
    """
    return 1 - 2.0 ** (1 - n) * sum(math.comb(n - 1, k) for k in range(dim))


def critical_team(q: float, steepness: float) -> float:
    """n* = 1 + (G / s)^(q + 1): how many members, one of them in a hole of wall slope G, escape it by slope s.

    In 1-D with weights ∝ slope^q the team pulls with (n - 1) s^(q+1) against G^(q+1): it escapes iff n > n*.
    """
    return 1 + steepness ** (q + 1)


def harmony_from_correlation(correlation: float, n: int, neighbours: int = 8) -> float:
    """Harmony index h_n = log P_n / (n log p) of n white-noise layers f_i = √c f_0 + √(1 − c) e_i, 0 ≤ c < 1.

    P_n is the rate of common minima, p = 1 / (neighbours + 1). Given the shared values f_0 of a site and its
    neighbours the layers are independent, so P_n = E[π(f_0)^n] with π = ∫ φ(e) Π_j Φ̄(e + s (f_0 − f_j)) de and
    s = √(c / (1 − c)). The inner integral is done by Gauss and Hermite's rule, the outer mean over a fixed sample: 1
    for c = 0, towards 1/n for c → 1.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(48)
    generator = np.random.default_rng(0)
    shared = generator.standard_normal((40_000, neighbours + 1))
    lead = math.sqrt(correlation / (1 - correlation)) * (shared[:, :1] - shared[:, 1:])
    chance = np.zeros(len(shared))
    for node, weight in zip(nodes, weights / math.sqrt(2 * math.pi), strict=True):
        chance += weight * special.ndtr(-(node + lead)).prod(1)
    rate = np.mean(chance**n)
    return float(np.log(rate) / (n * -math.log(neighbours + 1)))
