"""Goals of an autoencoder: reconstruction losses, batch statistics of the codes, and what those are for exact N(0, I).

Every function is batched over members: images x_hat (k, b, C, H, W) against x (k or 1, b, C, H, W), codes z (k, b, d);
each gives a loss (k,) that is zero at its goal. Only the reconstruction goals share a minimum by construction.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lossatlas.errors import LossAtlasError

SSIM_CONSTANTS = (0.01**2, 0.03**2)  # (K L)^2 of Wang et al. 2004 for pixels in [0, 1]
SMALL_IMAGE = 256  # pixels up to which all windows in one product are faster than two products
TINY = 1e-6  # of Charbonnier's root, and under the determinant of a singular covariance


# --- reconstruction ---------------------------------------------------------------------------------------------------


def squared(x_hat: Tensor, x: Tensor) -> Tensor:
    """Mean squared error, (k,)."""
    return (x_hat - x).square().flatten(1).mean(1)


def absolute(x_hat: Tensor, x: Tensor) -> Tensor:
    """Mean of Charbonnier's root √(e² + ε²) − ε, an absolute error with a gradient at zero, (k,)."""
    return _absolute(x_hat - x)


def dissimilarity(x_hat: Tensor, x: Tensor, window: int = 5) -> Tensor:
    """1 − SSIM (Wang et al. 2004, eq. 13), a uniform window wholly inside the image, mean over it and channels, (k,).

    Raises `LossAtlasError` for an image smaller than the window.
    """
    if min(x_hat.shape[-2:]) < window:
        raise LossAtlasError(f"images of {tuple(x_hat.shape[-2:])} pixels are smaller than SSIM's window of {window}")
    m_a, m_aa, m_ab = _window_means(torch.stack([x_hat, x_hat * x_hat, x_hat * x]), window)
    m_b, m_bb = _window_means(torch.stack([x, x * x]), window)
    c1, c2 = SSIM_CONSTANTS
    means, cross = m_a * m_b, m_ab - m_a * m_b
    squares = m_a.square() + m_b.square()
    similarity = (2 * means + c1) * (2 * cross + c2) / ((squares + c1) * (m_aa + m_bb - squares + c2))
    return 1 - similarity.flatten(1).mean(1)


def image_gradient(x_hat: Tensor, x: Tensor) -> Tensor:
    """Mean absolute difference of the finite differences along rows and along columns, (k,)."""
    error = x_hat - x
    return (_absolute(error.diff(dim=-1)) + _absolute(error.diff(dim=-2))) / 2


def fourier(x_hat: Tensor, x: Tensor) -> Tensor:
    """Mean absolute difference of the magnitudes of the orthonormal 2-D Fourier transforms, (k,).

    Blind to phases: zero for images that differ by a circular shift, so the minimum of this goal alone is not x.
    """
    magnitudes = [_modulus(torch.fft.rfft2(image, norm="ortho")) for image in (x_hat, x)]
    return _absolute(magnitudes[0] - magnitudes[1])


def _absolute(error: Tensor) -> Tensor:
    eps = 1e-3
    return ((error.square() + eps**2).sqrt() - eps).flatten(1).mean(1)


def _modulus(spectrum: Tensor) -> Tensor:
    return (spectrum.real.square() + spectrum.imag.square() + TINY**2).sqrt()  # has a gradient at zero


def _window_means(maps: Tensor, window: int) -> Tensor:
    """Means over all windows (..., H, W) -> (..., H', W'): one matrix for small images, else one for each axis."""

    def band(side: int) -> Tensor:
        offsets = torch.arange(side, device=maps.device) - torch.arange(side - window + 1, device=maps.device)[:, None]
        return ((offsets >= 0) & (offsets < window)).to(maps.dtype) / window

    rows, columns = band(maps.shape[-2]), band(maps.shape[-1])
    if maps.shape[-2] * maps.shape[-1] <= SMALL_IMAGE:
        means = maps.flatten(-2) @ torch.kron(rows, columns).mT
        return means.unflatten(-1, (len(rows), len(columns)))
    return rows @ (maps @ columns.mT)


# --- batch statistics of the codes ------------------------------------------------------------------------------------


def mean_square(z: Tensor) -> Tensor:
    """Mean over dimensions of the squared batch mean, (k,); 1/b in expectation under N(0, I)."""
    return z.mean(1).square().mean(-1)


def covariance_gap(z: Tensor) -> Tensor:
    """‖Ĉ − I‖²_F / d², Ĉ the batch covariance (divided by b), (k,)."""
    return (covariance(z) - torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)).square().mean((-2, -1))


def kurtosis_gap(z: Tensor) -> Tensor:
    """Mean over dimensions of the squared excess kurtosis of the batch, (k,)."""
    centred = z - z.mean(1, keepdim=True)
    variance = centred.square().mean(1)
    return (centred.pow(4).mean(1) / (variance.square() + TINY) - 3).square().mean(-1)


def sliced_distance(z: Tensor, directions: Tensor) -> Tensor:
    """Mean over directions (r, d), of unit length, of the squared 2-Wasserstein distance to N(0, 1), (k,).

    In one dimension the optimal coupling is the sorted one: the sorted projections against the normal quantiles at
    (i − ½)/b.
    """
    b = z.shape[1]
    levels = (torch.arange(b, dtype=torch.float64, device=z.device) + 0.5) / b
    quantiles = torch.special.ndtri(levels).to(z.dtype)
    projected = (z @ directions.to(z).mT).sort(dim=1).values
    return (projected - quantiles[:, None]).square().mean((1, 2))


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
