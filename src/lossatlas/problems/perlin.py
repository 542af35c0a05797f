"""Perlin noise in any dimension as a lattice convolution, many layers at once, with exact gradients.

noise(x) = sum_c g_c · K(x - c) over lattice points c, with K_k(u) = u_k prod_j f(|u_j|), f(t) = 1 - (6t⁵ - 15t⁴ + 10t³)
for t <= 1 and 0 beyond (Perlin 2002). Hence a sum of layers on one lattice is the noise of the summed gradients, and a
regular grid is a transposed convolution; since K is a product over axes it is carried out axis by axis.

Octave o of O has amplitude persistence^o and cells / lacunarity^(O-1-o) cells a side: the finest lattice stays as it is
and coarser, stronger ones are added, so more octaves make a deeper funnel, not a rougher field. Positions are in units
of the finest cell. Points and gradients carry their d components before the points: (..., d, B) or (..., d, *grid).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from operator import add, mul

import torch
from torch import Tensor

from lossatlas.errors import LossAtlasError
from lossatlas.seeds import seed

GRADIENTS = ("unit", "gaussian")
DENSE_DIMS = 3  # a grid of more axes does not fit into memory at a useful resolution


def fade(t: Tensor) -> Tensor:
    """f(|t|), which falls from 1 at 0 to 0 at 1 and beyond."""
    return 1 - _smooth(t.abs().clamp_max(1))


def fade_slope(t: Tensor) -> Tensor:
    """The derivative of `fade`: -sign(t) 30 t² (1 - |t|)², 0 beyond 1."""
    a = t.abs().clamp_max(1)
    return -t.sign() * 30 * (a * (1 - a)).square()


def fade_curvature(t: Tensor) -> Tensor:
    """The second derivative of `fade`: -60 |t| (1 - |t|) (1 - 2|t|), 0 beyond 1."""
    a = t.abs().clamp_max(1)
    return -60 * a * (1 - a) * (1 - 2 * a)


@dataclass(frozen=True, eq=False)
class PerlinField:
    """Layers of Perlin noise; a `Problem`, and for a batch of layers one value a layer at every point.

    lattices: gradients (*batch, d, *vertices) of each octave, the coarsest first; `cells` of the finest octave a side,
    with as many vertices if `periodic`, else one more. shift (*batch, d) or None: the field at x is the unshifted one
    at x + shift. `PerlinField.named` draws one.
    """

    lattices: tuple[Tensor, ...]
    dim: int
    cells: int
    persistence: float = 0.5
    periodic: bool = True
    shift: Tensor | None = None

    @classmethod
    def named(
        cls,
        *name: str | int | float,
        layers: Sequence | None = None,
        dim: int = 2,
        cells: int = 8,
        octaves: int = 1,
        gradients: str = "unit",
        persistence: float = 0.5,
        lacunarity: int = 2,
        periodic: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> "PerlinField":
        """Layers whose randomness is named: each octave of each layer has a generator of its own.

        layers: the layers' numbers, a list (batch (n,)) or a list of lists (batch (a, b)), or None for a single one
        (batch ()). Other octaves or layers change none of a layer's lattices. Raises `LossAtlasError` for a dimension,
        octaves or cells that there cannot be.
        """
        sizes = octave_cells(cells, octaves, lacunarity)
        numbers = torch.tensor(0 if layers is None else layers)
        lattices = []
        for coarseness, size in zip(reversed(range(octaves)), sizes, strict=True):
            drawn = [
                lattice(
                    dim,
                    size + (not periodic),
                    torch.Generator().manual_seed(seed(*name, number, "octave", coarseness)),
                    gradients,
                    dtype,
                )
                for number in numbers.flatten().tolist()
            ]
            lattices.append(torch.stack(drawn).reshape(*numbers.shape, *drawn[0].shape))
        return cls(tuple(lattices), dim, cells, persistence, periodic)

    def shifted(self, shift: Tensor) -> "PerlinField":
        """The field moved so that x + shift, shift (*batch, d), comes to x."""
        if not self.periodic:
            raise LossAtlasError("a field that is not periodic cannot be shifted: draw it with periodic=True")
        return replace(self, shift=shift if self.shift is None else self.shift + shift)

    def to(self, device: str | torch.device) -> "PerlinField":
        shift = None if self.shift is None else self.shift.to(device)
        return replace(self, lattices=tuple(lattice.to(device) for lattice in self.lattices), shift=shift)

    def __call__(self, theta: Tensor) -> Tensor:
        """Values (*batch, ...) at the points theta (..., d), differentiable."""
        value = self.values(theta.reshape(-1, self.dim).mT)
        return value.reshape((*value.shape[:-1], *theta.shape[:-1]))

    def at(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Values (*batch, B) and gradients (*batch, d, B) at points (..., d, B), whose leading axes fit the batch.

        The scattered path: 2^d corners of a cell for each octave. Raises `LossAtlasError` for points outside a field
        that is not periodic.
        """
        points = self._moved(points)
        value = slope = 0
        for lattice, size, amplitude in self._octaves():
            scale = size / self.cells
            octave, its_slope = _scattered(lattice, points * scale, size, self.periodic)
            value = value + amplitude * octave
            slope = slope + amplitude * scale * its_slope
        return value, slope

    def values(self, points: Tensor) -> Tensor:
        """The values of `at` alone, bit for bit, in a fraction of the time."""
        points = self._moved(points)
        value = 0
        for lattice, size, amplitude in self._octaves():
            value = value + amplitude * _scattered_values(lattice, points * (size / self.cells), size, self.periodic)
        return value

    def _moved(self, points: Tensor) -> Tensor:
        return points if self.shift is None else points + self.shift[..., None]

    def dense(self, samples: int) -> tuple[Tensor, Tensor]:
        """Values (*batch, *grid) and gradients (*batch, d, *grid) at the points j / samples, `samples` a cell and axis.

        Raises `LossAtlasError` in more than 3 dimensions and for fewer than 2 samples a cell.
        """
        if self.dim > DENSE_DIMS:
            raise LossAtlasError(f"a grid of {self.dim} axes is out of reach (at most {DENSE_DIMS}): use `at`")
        if samples < 2:
            raise LossAtlasError(
                f"{samples} samples a cell do not resolve a cell (noise is 0 at its corners): use >= 2"
            )
        batch = self.lattices[0].shape[: -self.dim - 1]
        value = slope = None
        for lattice, size, amplitude in self._octaves():
            scale = size / self.cells
            shift = None if self.shift is None else (self.shift * scale).expand(*batch, self.dim).reshape(-1, self.dim)
            per_cell = samples * self.cells // size
            octave, its_slope = _dense(lattice.reshape(-1, *lattice.shape[len(batch) :]), shift, size, per_cell)
            if amplitude != 1:
                octave.mul_(amplitude)
            if amplitude * scale != 1:
                its_slope.mul_(amplitude * scale)
            value = octave if value is None else value.add_(octave)
            slope = its_slope if slope is None else slope.add_(its_slope)
        return value.reshape(*batch, *value.shape[1:]), slope.reshape(*batch, *slope.shape[1:])

    def _octaves(self) -> Iterator[tuple[Tensor, int, float]]:
        for o, lattice in enumerate(self.lattices):
            yield lattice, lattice.shape[-1] - (not self.periodic), self.persistence**o


def octave_cells(cells: int, octaves: int, lacunarity: int) -> list[int]:
    """Cells a side of each octave, the coarsest first. Raises `LossAtlasError` if they are not whole numbers."""
    if octaves < 1 or lacunarity < 2 or cells < 1:
        raise LossAtlasError(f"octaves {octaves}, lacunarity {lacunarity}, cells {cells}: at least 1, 2, 1")
    if cells % lacunarity ** (octaves - 1):
        raise LossAtlasError(
            f"{cells} cells cannot have {octaves} octaves: they must be a multiple of {lacunarity ** (octaves - 1)}"
        )
    return [cells // lacunarity ** (octaves - 1 - o) for o in range(octaves)]


def lattice(dim: int, vertices: int, generator: torch.Generator, gradients: str, dtype: torch.dtype) -> Tensor:
    """Gradients (d, *vertices): normal ones (`gaussian`), or those normalised, uniform on the sphere (`unit`)."""
    if dim < 1 or gradients not in GRADIENTS:
        raise LossAtlasError(f"dim {dim}, gradients {gradients!r}: need dim >= 1 and one of {', '.join(GRADIENTS)}")
    drawn = torch.randn(dim, *(vertices,) * dim, generator=generator, dtype=torch.float64)
    return (drawn / drawn.norm(dim=0) if gradients == "unit" else drawn).to(dtype)


# The scattered path computes all 2^d corners of a cell at once; corners are the leading axes (2, ..., 2), one for each
# dimension, and sums over them are made one after the other, so that the number of points in a call changes no bit.


def _scattered(lattice: Tensor, points: Tensor, size: int, periodic: bool) -> tuple[Tensor, Tensor]:
    """Value (*batch, B) and gradient (*batch, d, B) of one octave of `size` cells at points (..., d, B) in cells."""
    dim = points.shape[-2]
    t, g = _cell(lattice, points, size, periodic)
    s, slope = _smooth(t), 30 * (t * (1 - t)).square()
    f, df = _by_corner(1 - s, s), _by_corner(-slope, slope)
    weight, along = _product(f), _along(g, t)
    others = [df[k] * _product(f[:k] + f[k + 1 :]) for k in range(dim)]
    others = torch.stack([part.expand(weight.shape) for part in others], -2)
    gradient: Tensor | int = 0
    for corner in product((0, 1), repeat=dim):  # each product is used while it lies in the cache
        gradient = gradient + weight[corner].unsqueeze(-2) * g[corner] + others[corner] * along[corner].unsqueeze(-2)
    return sum((weight * along).flatten(0, dim - 1)), gradient


def _scattered_values(lattice: Tensor, points: Tensor, size: int, periodic: bool) -> Tensor:
    """The first of these, without the others' work."""
    t, g = _cell(lattice, points, size, periodic)
    s = _smooth(t)
    return sum((_product(_by_corner(1 - s, s)) * _along(g, t)).flatten(0, points.shape[-2] - 1))


def _cell(lattice: Tensor, points: Tensor, size: int, periodic: bool) -> tuple[Tensor, Tensor]:
    """The points' places in their cells, with as many axes as the batch (..., d, B), and the gradients at the corners
    (2, ..., 2, *batch, d, B)."""
    dim, vertices = points.shape[-2], lattice.shape[-1]
    corner = points.detach().floor()
    if not periodic:
        if points.numel() and (points.min() < 0 or points.max() > size):
            raise LossAtlasError(f"points outside [0, {size}] of a field that is not periodic")
        corner = corner.clamp(max=size - 1)
    base, flat = corner.long(), lattice.flatten(-dim)
    index: Tensor | int = 0
    for coordinate in _by_corner(base % vertices, (base + 1) % vertices):
        index = index * vertices + coordinate
    index = index.movedim(tuple(range(dim)), tuple(range(-dim - 1, -1)))  # (..., 2, ..., 2, B)
    corners = index.shape[-dim - 1 :]
    index = index.flatten(-dim - 1)
    # gather, also where all layers share the points: indexing takes seven times as long
    g = flat.gather(-1, (index if index.dim() == 1 else index[..., None, :]).expand(*flat.shape[:-1], -1))
    t = points - corner
    t = t.view(*(1,) * (flat.dim() - points.dim()), *t.shape)
    return t, g.unflatten(-1, corners).movedim(tuple(range(-dim - 1, -1)), tuple(range(dim)))


def _smooth(t: Tensor) -> Tensor:
    """6 t⁵ - 15 t⁴ + 10 t³, which rises from 0 at 0 to 1 at 1."""
    return t * t * t * (t * (6 * t - 15) + 10)


def _by_corner(lower: Tensor, upper: Tensor) -> list[Tensor]:
    """Of each dimension what belongs to a corner's two places in it: (..., d, B) -> (1, ..., 2, ..., 1, ..., B)."""
    dim = lower.shape[-2]
    both = torch.stack([lower, upper]).unbind(-2)
    return [part.view(*(1,) * k, 2, *(1,) * (dim - 1 - k), *part.shape[1:]) for k, part in enumerate(both)]


def _along(g: Tensor, t: Tensor) -> Tensor:
    """The corners' gradients times the ways from them."""
    return reduce(add, map(mul, g.unbind(-2), _by_corner(t, t - 1)))


def _product(factors: list[Tensor]) -> Tensor | float:
    result: Tensor | float = 1.0
    for factor in factors:
        result = factor * result
    return result


def _dense(lattice: Tensor, shift: Tensor | None, size: int, per_cell: int) -> tuple[Tensor, Tensor]:
    """Value (N, *grid) and gradient (N, d, *grid) of one octave, lattice (N, d, *vertices), shift (N, d) in its cells.

    A shift by whole cells rolls the lattice; its fraction enters the taps, which then reach over three vertices.
    """
    dim = lattice.dim() - 2
    steps = torch.arange(per_cell, dtype=lattice.dtype, device=lattice.device) / per_cell
    reach = 2 if shift is None else 3
    wrap = torch.arange(size + reach - 1, device=lattice.device)
    taps = []  # (N or 1, component, vertex, sample) of each axis, and their derivatives
    for axis in range(dim):
        place = axis + 2
        if shift is None:
            offset = steps[None]
            if lattice.shape[place] == size:  # periodic: repeat the first vertex at the end
                lattice = lattice.index_select(place, wrap % size)
        else:
            whole = shift[:, axis].floor()
            offset = (shift[:, axis] - whole)[:, None] + steps
            index = (whole.long()[:, None] + wrap) % size
            shape = [len(lattice), *lattice.shape[1:place], len(wrap), *lattice.shape[place + 1 :]]
            index = index.view(-1, *(1,) * (place - 1), len(wrap), *(1,) * (dim - 1 - axis)).expand(shape)
            lattice = lattice.gather(place, index)
        taps.append(_taps(offset[:, None] - torch.arange(reach, device=lattice.device)[:, None], axis, dim))
    # (N, v0, d, A, v, B): the axes before the one in work, that axis, and the finished ones behind it
    states = {None: lattice.movedim(2, 1).contiguous()}
    for axis in reversed(range(1, dim)):
        plain, derived = taps[axis]
        slope = _spread(states[None], derived, size, per_cell, axis)
        states = {which: _spread(table, plain, size, per_cell, axis) for which, table in states.items()} | {axis: slope}
    plain, derived = taps[0]
    grid = (len(lattice), *(size * per_cell,) * dim)
    value = _contract(states[None], plain, size).view(grid)
    slopes = [_contract(states[None], derived, size).view(grid)]
    slopes += [_contract(states[axis], plain, size).view(grid) for axis in range(1, dim)]
    return value, torch.stack(slopes, 1)


def _taps(u: Tensor, axis: int, dim: int) -> tuple[Tensor, Tensor]:
    """The kernel's factor along `axis` at u (N, V, s) for each component, and its derivative: both (N, d, V, s)."""
    f, df = fade(u), fade_slope(u)
    own, its_slope = u * f, f + u * df
    plain = torch.stack([own if k == axis else f for k in range(dim)], 1)
    return plain, torch.stack([its_slope if k == axis else df for k in range(dim)], 1)


def _spread(table: Tensor, taps: Tensor, size: int, per_cell: int, axis: int) -> Tensor:
    """Refine one axis of `table` (N, v0, d, vertices..., samples...) by the taps (N or 1, d, V, s)."""
    shape = table.shape
    work = table.reshape(*shape[:3], -1, shape[axis + 2], shape[axis + 3 :].numel())
    taps = taps[:, None, :, None, :, :]  # (N, 1, d, 1, V, s)
    out = 0
    for c in range(taps.shape[-2]):
        out = out + work[..., c : c + size, None, :] * taps[..., c, None, :, None]
    return out.reshape(*shape[: axis + 2], size * per_cell, *shape[axis + 3 :])


def _contract(table: Tensor, taps: Tensor, size: int) -> Tensor:
    """Sum over components and vertices along the first axis: table (N, v0, d, rest...), taps (N or 1, d, V, s)."""
    n, rest = len(table), table.shape[3:].numel()
    reach = taps.shape[-2]
    windows = table.reshape(n, table.shape[1], -1, rest).unfold(1, reach, 1)  # (N, size, d, rest, V)
    windows = windows.permute(0, 1, 2, 4, 3).reshape(n, size, -1, rest)
    weights = taps.flatten(1, 2).mT[:, None]  # (N, 1, s, d V)
    return weights @ windows
