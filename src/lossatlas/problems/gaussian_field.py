"""Gaussian random fields with squared-exponential covariance exp(-r²/2 l²) as sums of plane waves.

f(x) = sum_j (a_j cos k_j·x + b_j sin k_j·x) with independent normal a_j, b_j. On a torus the k_j are its wave vectors
and the amplitudes follow the spectral density, so a regular grid is one inverse FFT; in many dimensions the k_j are
drawn from it (random Fourier features, Rahimi and Recht 2007), which costs no more than the number of waves.
lambda2 = E f_x² = l⁻², lambda4 = E f_xx² = 3 l⁻⁴. Points and gradients carry their components first: (..., d, B).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from lossatlas.errors import LossAtlasError
from lossatlas.seeds import seed

CUTOFF = 6.0  # wave numbers beyond 6 / l carry a share of exp(-18) of the variance


@dataclass(frozen=True, eq=False)
class GaussianField:
    """Layers of a Gaussian field; a `Problem`, and for a batch of layers one value a layer at every point.

    waves (m, d) wave vectors; cosine, sine (*batch, m) amplitudes. `side` is that of the torus, None without one (then
    there is no dense path). Layers of one field share their wave vectors, and nothing else.
    """

    waves: Tensor
    cosine: Tensor
    sine: Tensor
    side: float | None = None

    @classmethod
    def torus(
        cls,
        *name: str | int | float,
        layers: Sequence | None = None,
        dim: int = 2,
        side: float = 16.0,
        length: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> "GaussianField":
        """Layers on a torus, named as in `PerlinField.named`, of unit variance but for what lies beyond the cutoff.

        Raises `LossAtlasError` where the torus is too small for its field to look like the plane's.
        """
        if dim < 1 or side < 6 * length:
            raise LossAtlasError(f"a torus of {dim} axes and side {side:g}: need dim >= 1, side >= 6 lengths")
        waves, scale = _torus_waves(dim, side, length)
        return cls(waves.to(dtype), *_amplitudes(name, layers, scale, dtype), side)

    @classmethod
    def features(
        cls,
        *name: str | int | float,
        layers: Sequence | None = None,
        dim: int = 8,
        waves: int = 256,
        length: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> "GaussianField":
        """Layers as random Fourier features: Gaussian given the wave vectors, squared-exponential on average."""
        if dim < 1 or waves < 1:
            raise LossAtlasError(f"dim {dim} and waves {waves} must be at least 1")
        generator = torch.Generator().manual_seed(seed(*name, "waves"))
        drawn = torch.randn(waves, dim, generator=generator, dtype=torch.float64) / length
        scale = torch.full((waves,), waves**-0.5, dtype=torch.float64)
        return cls(drawn.to(dtype), *_amplitudes(name, layers, scale, dtype))

    @property
    def dim(self) -> int:
        return self.waves.shape[-1]

    def shifted(self, shift: Tensor) -> "GaussianField":
        """The field moved so that x + shift, shift (*batch, d), comes to x."""
        phase = shift @ self.waves.mT
        c, s = phase.cos(), phase.sin()
        return replace(self, cosine=self.cosine * c + self.sine * s, sine=self.sine * c - self.cosine * s)

    def with_minimum(self, depth: float) -> "GaussianField":
        """The field conditioned on the value -depth and a vanishing gradient at the origin (given its waves).

        The mean becomes -depth times the correlation with the origin; the Hessian there has the mean depth lambda2 I
        and keeps its Gaussian part, so it is a minimum almost surely where depth is large (Slepian's model).
        """
        if self.side is not None:
            raise LossAtlasError("only random features are conditioned on a minimum: on a torus, find and shift to one")
        # all features have one variance, so conditioning is an orthogonal projection of their amplitudes
        cosine = self.cosine - (depth + self.cosine.sum(-1, keepdim=True)) / len(self.waves)
        slope = self.sine @ self.waves  # the gradient at the origin
        gram = self.waves.mT @ self.waves
        return replace(self, cosine=cosine, sine=self.sine - torch.linalg.solve(gram, slope.mT).mT @ self.waves.mT)

    def to(self, device: str | torch.device) -> "GaussianField":
        return replace(self, waves=self.waves.to(device), cosine=self.cosine.to(device), sine=self.sine.to(device))

    def __call__(self, theta: Tensor) -> Tensor:
        """Values (*batch, ...) at the points theta (..., d), differentiable."""
        value, _ = self.at(theta.reshape(-1, self.dim).mT)
        return value.reshape((*value.shape[:-1], *theta.shape[:-1]))

    def at(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Values (*batch, B) and gradients (*batch, d, B) at points (..., d, B), whose leading axes fit the batch."""
        phase = self.waves @ points  # (..., m, B)
        c, s = phase.cos(), phase.sin()
        if c.dim() > 2 and c.shape[-3] == 1:  # all layers at the same points: they become rows of one product
            c, s, rows = c.squeeze(-3), s.squeeze(-3), self.waves.mT
            along_s, along_c = ((part[..., None, :] * rows).flatten(-3, -2) for part in (self.cosine, self.sine))
            slope = (along_c @ c - along_s @ s).unflatten(-2, (-1, self.dim))
            return self.cosine @ c + self.sine @ s, slope
        a, b = self.cosine[..., None, :], self.sine[..., None, :]
        value = (a @ c + b @ s)[..., 0, :]
        # sum_j (b_j cos - a_j sin) k_j, as a product with (d, m) matrices, one a layer
        return value, (b * self.waves.mT) @ c - (a * self.waves.mT) @ s

    def values(self, samples: int) -> Tensor:
        """The values of `dense` alone, (*batch, *grid)."""
        return self._on_grid(samples, slopes=False)[0]

    def dense(self, samples: int) -> tuple[Tensor, Tensor]:
        """Values (*batch, *grid) and gradients (*batch, d, *grid) on `samples` points a unit of length and axis.

        By inverse FFT. Raises `LossAtlasError` off the torus, in more than 3 dimensions, and for a grid too coarse for
        the shortest wave.
        """
        value, *slopes = self._on_grid(samples, slopes=True)
        return value, torch.stack(slopes, -self.dim - 1)

    def _on_grid(self, samples: int, slopes: bool) -> list[Tensor]:
        if self.side is None:
            raise LossAtlasError("random features have no period, so there is no dense grid: use `at`")
        if self.dim > 3:
            raise LossAtlasError(f"a grid of {self.dim} axes is out of reach (at most 3): use `at`")
        points = round(self.side * samples)
        index = (self.waves * (self.side / (2 * math.pi))).round().long()
        if points <= 2 * int(index.abs().max()):
            raise LossAtlasError(f"{samples} samples a length do not resolve the shortest wave: use more")
        # a cos + b sin is half the spectrum (a - i b) / 2 at k and its conjugate at -k, which irfft supplies
        half = torch.complex(self.cosine, -self.sine) / 2
        spectra = [half, *(1j * self.waves[:, k] * half for k in range(self.dim if slopes else 0))]
        return [self._inverse(spectrum, index, (points,) * self.dim) for spectrum in spectra]

    def _inverse(self, spectrum: Tensor, index: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The real field of coefficients (*batch, m) at integer wave vectors (m, d); the last axis is halved."""
        last = index[:, -1]
        # of k and -k the one with a positive last component is stored; on the plane 0 both are
        sign = torch.where(last < 0, -1, 1)
        index = index * sign[:, None]
        spectrum = torch.where(sign < 0, spectrum.conj(), spectrum)
        table = spectrum.new_zeros(*spectrum.shape[:-1], *grid[:-1], grid[-1] // 2 + 1)
        place = tuple(index[:, k] % n for k, n in enumerate(grid))
        table.permute(*range(-self.dim, 0), *range(spectrum.dim() - 1)).index_put_(
            place, spectrum.movedim(-1, 0), accumulate=True
        )
        flat = index[:, -1] == 0
        mirrored = tuple((-index[flat, k]) % n for k, n in enumerate(grid))
        table.permute(*range(-self.dim, 0), *range(spectrum.dim() - 1)).index_put_(
            mirrored, spectrum[..., flat].conj().movedim(-1, 0), accumulate=True
        )
        return torch.fft.irfftn(table, s=grid, dim=tuple(range(-self.dim, 0)), norm="forward")


@lru_cache(maxsize=8)
def _torus_waves(dim: int, side: float, length: float) -> tuple[Tensor, Tensor]:
    """Wave vectors (m, d) of a torus, one of each pair k, -k, and the standard deviations (m,) of their amplitudes."""
    most = int(CUTOFF * side / (2 * math.pi * length))
    axis = torch.arange(-most, most + 1, dtype=torch.float64)
    index = torch.cartesian_prod(*(axis,) * dim).reshape(-1, dim)
    half = _upper_half(index) & (index.norm(dim=-1) <= CUTOFF * side / (2 * math.pi * length))
    waves = index[half] * (2 * math.pi / side)
    # each wave and its mirror image: a and b have the variance 2 S(k) (2 pi / side)^d, S the spectral density
    density = (length / math.sqrt(2 * math.pi)) ** dim * torch.exp(-0.5 * (length * waves).square().sum(-1))
    scale = (2 * density * (2 * math.pi / side) ** dim).sqrt()
    constant = math.sqrt(float((length / math.sqrt(2 * math.pi) * 2 * math.pi / side) ** dim))
    return torch.cat([torch.zeros(1, dim), waves]), torch.cat([torch.tensor([constant]), scale]).double()


def _upper_half(index: Tensor) -> Tensor:
    """Of each pair k, -k of integer vectors (m, d) the one whose last nonzero component is positive; not 0."""
    result = torch.zeros(len(index), dtype=torch.bool)
    undecided = torch.ones(len(index), dtype=torch.bool)
    for component in reversed(index.unbind(-1)):
        result |= undecided & (component > 0)
        undecided &= component == 0
    return result


def _amplitudes(name: tuple, layers: Sequence | None, scale: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    numbers = torch.tensor(0 if layers is None else layers)
    drawn = torch.stack(
        [
            torch.randn(
                2,
                len(scale),
                generator=torch.Generator().manual_seed(seed(*name, number)),
                dtype=torch.float64,
            )
            for number in numbers.flatten().tolist()
        ]
    )
    drawn = (drawn * scale).to(dtype).reshape(*numbers.shape, 2, len(scale))
    return drawn.select(-2, 0), drawn.select(-2, 1)
