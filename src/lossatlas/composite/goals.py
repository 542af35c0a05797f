"""Goals of an autoencoder: reconstruction losses, batch statistics of the codes, and what those are for exact N(0, I).

Every function is batched over members: images x_hat (k, b, C, H, W) against x (k or 1, b, C, H, W), codes z (k, b, d);
each gives a loss (k,) that is zero at its goal. Only the reconstruction goals share a minimum by construction.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lossatlas.composite.known_slopes import Slope, with_slope
from lossatlas.errors import LossAtlasError

SSIM_CONSTANTS = (0.01**2, 0.03**2)  # (K L)^2 of Wang et al. 2004 for pixels in [0, 1]
WINDOW = 5  # pixels a side of SSIM's window
SMALL_IMAGE = 256  # pixels up to which one matrix for the whole image is faster than shifted sums, or an FFT
EPS = 1e-3  # of Charbonnier's root
TINY = 1e-6  # of the modulus of a spectrum, and under the determinant of a singular covariance


# --- reconstruction ---------------------------------------------------------------------------------------------------


@with_slope
def squared(x_hat: Tensor, x: Tensor) -> tuple[Tensor, Slope]:
    """Mean squared error, (k,)."""
    error = x_hat - x
    return error.square().flatten(1).mean(1), lambda: 2 / error[0].numel() * error


@with_slope
def absolute(x_hat: Tensor, x: Tensor) -> tuple[Tensor, Slope]:
    """Mean of Charbonnier's root √(e² + ε²) − ε, an absolute error with a gradient at zero, (k,)."""
    return _absolute(x_hat - x)


@with_slope
def dissimilarity(x_hat: Tensor, x: Tensor) -> tuple[Tensor, Slope]:
    """1 − SSIM (Wang et al. 2004, eq. 13), a uniform window wholly inside the image, mean over it and channels, (k,).

    Raises `LossAtlasError` for an image smaller than the window.
    """
    if min(x_hat.shape[-2:]) < WINDOW:
        raise LossAtlasError(f"images of {tuple(x_hat.shape[-2:])} pixels are smaller than SSIM's window of {WINDOW}")
    m_a, m_aa, m_ab = (_window_means(maps) for maps in (x_hat, x_hat * x_hat, x_hat * x))
    m_b, m_bb = _window_means(x), _window_means(x * x)
    c1, c2 = SSIM_CONSTANTS
    means, squares = m_a * m_b, torch.addcmul(m_b.square(), m_a, m_a)
    cross_part = m_ab.sub_(means).mul_(2).add_(c2)  # in place from here on: fresh memory costs more than arithmetic
    spread_norm = m_aa.add_(m_bb).sub_(squares).add_(c2)
    mean_part, mean_norm = means.mul_(2).add_(c1), squares.add_(c1)
    norm = mean_norm * spread_norm
    similarity = (mean_part * cross_part).div_(norm)

    def slope() -> Tensor:
        of_m_ab, of_m_aa = mean_part.div(norm).mul_(2), similarity.div(spread_norm).neg_()
        of_m_a = (cross_part - mean_part).div_(norm).mul_(m_b)
        of_m_a.sub_((similarity / mean_norm).add_(of_m_aa).mul_(m_a)).mul_(2)
        plain, twice, once = (_window_adjoint(of, x_hat.shape[-2:]) for of in (of_m_a, of_m_aa, of_m_ab))
        total = plain.addcmul_(x_hat, twice, value=2).addcmul_(x, once)
        return total.mul_(-1 / similarity[0].numel())

    return 1 - similarity.flatten(1).mean(1), slope


@with_slope
def image_gradient(x_hat: Tensor, x: Tensor) -> tuple[Tensor, Slope]:
    """Mean absolute difference of the finite differences along rows and along columns, (k,)."""
    error = x_hat - x
    along_rows, row_slope = _absolute(error.diff(dim=-1))
    along_columns, column_slope = _absolute(error.diff(dim=-2))

    def slope() -> Tensor:
        total = torch.zeros_like(error)
        step = row_slope()
        total[..., 1:] += step
        total[..., :-1] -= step
        step = column_slope()
        total[..., 1:, :] += step
        total[..., :-1, :] -= step
        return total.div_(2)

    return (along_rows + along_columns) / 2, slope


@with_slope
def fourier(x_hat: Tensor, x: Tensor) -> tuple[Tensor, Slope]:
    """Mean absolute difference of the magnitudes of the orthonormal 2-D Fourier transforms, (k,).

    Blind to phases: zero for images that differ by a circular shift, so the minimum of this goal alone is not x.
    """
    spectrum = _spectrum(x_hat)
    modulus = _modulus(spectrum)
    value, rise = _absolute(modulus - _modulus(_spectrum(x)))
    return value, lambda: _spectrum_adjoint(spectrum * (rise() / modulus)[..., None, :], x_hat.shape[-2:])


def _absolute(error: Tensor) -> tuple[Tensor, Slope]:
    root = error.square().add_(EPS**2).sqrt_()
    return root.flatten(1).mean(1) - EPS, lambda: (error / root).div_(error[0].numel())


def _spectrum(x: Tensor) -> Tensor:
    """Real and imaginary parts (..., 2, f) of the orthonormal half spectrum of x (..., H, W)."""
    if x.shape[-2] * x.shape[-1] <= SMALL_IMAGE:
        return (x.flatten(-2) @ _spectrum_matrix(*x.shape[-2:], x.dtype, x.device)).unflatten(-1, (2, -1))
    spectrum = torch.fft.rfft2(x, norm="ortho").flatten(-2)
    return torch.stack([spectrum.real, spectrum.imag], -2)


def _spectrum_adjoint(parts: Tensor, shape: torch.Size) -> Tensor:
    """The transpose of `_spectrum`, (..., 2, f) -> (..., H, W)."""
    if shape.numel() <= SMALL_IMAGE:
        return (parts.flatten(-2) @ _spectrum_matrix(*shape, parts.dtype, parts.device).mT).unflatten(-1, shape)
    spectrum = torch.complex(*parts.unbind(-2)).unflatten(-1, (shape[0], -1))
    spectrum[..., 1 : (shape[1] + 1) // 2] /= 2  # the inverse takes these frequencies twice
    return torch.fft.irfft2(spectrum, s=shape, norm="ortho")


@lru_cache(maxsize=8)
def _spectrum_matrix(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    pixels = torch.eye(rows * columns, dtype=dtype, device=device).unflatten(-1, (rows, columns))
    spectrum = torch.fft.rfft2(pixels, norm="ortho").flatten(-2)
    return torch.cat([spectrum.real, spectrum.imag], -1)


def _modulus(spectrum: Tensor) -> Tensor:
    return spectrum.square().sum(-2).add_(TINY**2).sqrt_()  # has a gradient at zero


def _window_means(maps: Tensor) -> Tensor:
    """Means over all windows (..., H, W) -> (..., H', W')."""
    rows, columns = maps.shape[-2:]
    if rows * columns > SMALL_IMAGE:
        return _window_sums(_window_sums(maps, -2), -1).div_(WINDOW**2)
    matrix = _window_matrix(rows, columns, maps.dtype, maps.device)
    return (maps.flatten(-2) @ matrix.mT).unflatten(-1, (rows - WINDOW + 1, columns - WINDOW + 1))


def _window_adjoint(means: Tensor, shape: torch.Size) -> Tensor:
    """The transpose of `_window_means`, (..., H', W') -> (..., H, W)."""
    if shape.numel() <= SMALL_IMAGE:
        return (means.flatten(-2) @ _window_matrix(*shape, means.dtype, means.device)).unflatten(-1, shape)
    edge = WINDOW - 1
    return _window_sums(_window_sums(F.pad(means, (edge,) * 4), -1), -2).div_(WINDOW**2)


def _window_sums(maps: Tensor, axis: int) -> Tensor:
    """Sums over WINDOW = 5 neighbours along an axis, which gets shorter by 4: pairs, pairs of pairs, and the fifth."""
    length = maps.shape[axis]
    pairs = maps.narrow(axis, 0, length - 1) + maps.narrow(axis, 1, length - 1)
    fours = pairs.narrow(axis, 0, length - 3) + pairs.narrow(axis, 2, length - 3)
    return fours.narrow(axis, 0, length - 4) + maps.narrow(axis, 4, length - 4)


@lru_cache(maxsize=8)
def _window_matrix(rows: int, columns: int, dtype, device) -> Tensor:
    """The means over all windows as one matrix (H' W', H W)."""

    def band(side: int) -> Tensor:
        offsets = torch.arange(side, device=device) - torch.arange(side - WINDOW + 1, device=device)[:, None]
        return ((offsets >= 0) & (offsets < WINDOW)).to(dtype) / WINDOW

    return torch.kron(band(rows), band(columns))


# --- batch statistics of the codes ------------------------------------------------------------------------------------


@with_slope
def mean_square(z: Tensor) -> tuple[Tensor, Slope]:
    """Mean over dimensions of the squared batch mean, (k,); 1/b in expectation under N(0, I)."""
    mean = z.mean(1)
    return mean.square().mean(-1), lambda: (2 / z[0].numel() * mean)[:, None].expand_as(z)


@with_slope
def covariance_gap(z: Tensor) -> tuple[Tensor, Slope]:
    """‖Ĉ − I‖²_F / d², Ĉ the batch covariance (divided by b), (k,)."""
    b, d = z.shape[1:]
    centred = z - z.mean(1, keepdim=True)
    if b < d:  # Ĉ and the inner products of the rows, K = centred centredᵀ / b, have the same eigenvalues but for zeros
        inner = centred @ centred.mT / b
        value = inner.square().sum((-2, -1)) - 2 * inner.diagonal(dim1=-2, dim2=-1).sum(-1) + d
        return value / d**2, lambda: (inner @ centred - centred) * (4 / (b * d * d))
    gap = centred.mT @ centred / b - torch.eye(d, dtype=z.dtype, device=z.device)
    return gap.square().mean((-2, -1)), lambda: centred @ (4 / (b * d * d) * gap)


@with_slope
def kurtosis_gap(z: Tensor) -> tuple[Tensor, Slope]:
    """Mean over dimensions of the squared excess kurtosis of the batch, (k,)."""
    centred = z - z.mean(1, keepdim=True)
    square = centred.square()
    variance, fourth = square.mean(1, keepdim=True), square.square().mean(1, keepdim=True)
    norm = variance.square() + TINY
    excess = fourth / norm - 3

    def slope() -> Tensor:
        cube = square * centred
        rise = cube - cube.mean(1, keepdim=True) - fourth * variance / norm * centred
        return rise * (8 / z[0].numel() * excess / norm)

    return excess.square().mean((1, 2)), slope


def sliced_distance(z: Tensor, directions: Tensor) -> Tensor:
    """Mean over directions (r, d), of unit length, of the squared 2-Wasserstein distance to N(0, 1), (k,).

    In one dimension the optimal coupling is the sorted one: the sorted projections against the normal quantiles at
    (i − ½)/b.
    """
    return _sliced_distance(z, directions.to(z))


@with_slope
def _sliced_distance(z: Tensor, directions: Tensor) -> tuple[Tensor, Slope]:
    projected, order = (directions @ z.mT).sort(dim=-1)
    error = projected - _normal_quantiles(z.shape[1], z.dtype, z.device)

    def slope() -> Tensor:
        unsorted = torch.empty_like(error).scatter_(-1, order, error)
        return unsorted.mT @ (2 / error[0].numel() * directions)

    return error.square().mean((1, 2)), slope


@lru_cache(maxsize=8)
def _normal_quantiles(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The normal quantiles (count,) at (i − ½)/count."""
    levels = (torch.arange(count, dtype=torch.float64, device=device) + 0.5) / count
    return torch.special.ndtri(levels).to(dtype)


def gaussian_divergence(z: Tensor) -> Tensor:
    """KL(N(m̂, Ĉ) ‖ N(0, I)) / d of the fitted Gaussian, (k,); needs more rows than dimensions to be finite."""
    c = covariance(z) + TINY * torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    trace = c.diagonal(dim1=-2, dim2=-1).sum(-1)
    return 0.5 * (trace + z.mean(1).square().sum(-1) - z.shape[-1] - torch.logdet(c)) / z.shape[-1]


def covariance(z: Tensor) -> Tensor:
    """The batch covariance (k, d, d), divided by b."""
    centred = z - z.mean(1, keepdim=True)
    return centred.mT @ centred / z.shape[1]


def unit_directions(count: int, dim: int, generator: torch.Generator) -> Tensor:
    """Directions (count, dim), uniform on the sphere."""
    return F.normalize(torch.randn(count, dim, generator=generator), dim=-1)


RECONSTRUCTION: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": squared,
    "l1": absolute,
    "ssim": dissimilarity,
    "gradient": image_gradient,
    "fourier": fourier,
}
LATENT: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": mean_square,
    "covariance": covariance_gap,
    "kurtosis": kurtosis_gap,
    "kl": gaussian_divergence,
}
SLICED = "sliced"  # the one latent goal that needs directions


def names() -> tuple[str, ...]:
    """All goals, reconstruction first."""
    return (*RECONSTRUCTION, *LATENT, SLICED)


# --- what the statistics are for codes that are exactly N(0, I) -------------------------------------------------------


def feasible_limits(
    goals: tuple[str, ...],
    rows: int,
    dim: int,
    generator: torch.Generator,
    *,
    directions: Tensor | None = None,
    level: float = 0.99,
    draws: int = 2000,
) -> Tensor:
    """The `level` quantile of each latent statistic over `draws` batches (rows, dim) of N(0, I): (goals,).

    What no encoder can be asked to stay below more often than exact codes do.
    """
    found, size = [], max(1, 2**20 // (rows * dim))
    for start in range(0, draws, size):
        z = torch.randn(min(size, draws - start), rows, dim, generator=generator)
        found.append(torch.stack([latent(goal, z, directions) for goal in goals]))
    return torch.quantile(torch.cat(found, 1), level, dim=1)


def latent(goal: str, z: Tensor, directions: Tensor | None = None) -> Tensor:
    """The latent goal of that name, (k,)."""
    if goal == SLICED:
        if directions is None:
            raise LossAtlasError("the goal sliced needs directions: draw them with goals.unit_directions")
        return sliced_distance(z, directions)
    if goal not in LATENT:
        raise LossAtlasError(f"goal {goal!r} is unknown; use one of {', '.join(names())}")
    return LATENT[goal](z)


def covariance_floor(rows: int, dim: int) -> float:
    """A lower bound of ‖Ĉ − I‖²_F for any batch: a centred batch has rank below `rows`, so d − (b − 1) eigenvalues
    are 0 where they should be 1."""
    return float(max(0, dim - (rows - 1)))


def expected_covariance_gap(rows: int, dim: int) -> float:
    """E ‖Ĉ − I‖²_F / d² under N(0, I), Ĉ divided by b.

    With m = b − 1, b Ĉ is Wishart(m): off the diagonal E Ĉ_ij² = m/b², on it E(Ĉ_ii − 1)² = 2m/b² + 1/b².
    """
    m = rows - 1
    return ((dim * dim - dim) * m + dim * (2 * m + 1)) / rows**2 / dim**2


def psnr(mse: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB for pixels in [0, 1]."""
    return -10 * torch.log10(mse)
