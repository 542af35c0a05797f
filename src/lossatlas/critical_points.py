"""Where a field of values or directions on a periodic grid comes to rest: minima, attractors, basins, barriers.

A composite direction v need not be a gradient, so "local minimum" has three meanings, all of them counted here: (F)
attractors of dx/dt = -v, by winding numbers and, in space, degrees; (V) strict minima of the values that the composite
pastes together; (P) minima of the potential whose gradient is closest to v. Grids are (*batch, *grid), directions
(*batch, d, *grid).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

from lossatlas.errors import LossAtlasError

NEIGHBOURS = ("von_neumann", "moore")


def neighbour_count(dim: int, neighbours: str) -> int:
    """2 d (`von_neumann`) or 3^d - 1 (`moore`)."""
    if neighbours not in NEIGHBOURS:
        raise LossAtlasError(f"neighbours {neighbours!r} are unknown: use {' or '.join(NEIGHBOURS)}")
    return 2 * dim if neighbours == "von_neumann" else 3**dim - 1


def strict_minima(values: Tensor, dim: int, neighbours: str = "moore") -> Tensor:
    """Which sites of the last `dim` axes lie strictly below all their neighbours, (*batch, *grid) bool.

    The neighbourhood's minimum is taken axis by axis; a plateau has no strict minimum.
    """
    neighbour_count(dim, neighbours)
    around = None  # the least neighbour so far, the site itself left out
    block = values  # the least of the neighbourhood so far, the site included
    for axis in range(-dim, 0):
        centre = block if neighbours == "moore" else values
        size = centre.shape[axis]
        ring = torch.cat([centre.narrow(axis, size - 1, 1), centre, centre.narrow(axis, 0, 1)], axis)
        sides = torch.minimum(ring.narrow(axis, 0, size), ring.narrow(axis, 2, size))
        around = sides if around is None else torch.minimum(around, sides)
        if neighbours == "moore" and axis < -1:
            block = torch.minimum(block, sides)
    return values < around


def upward_crossings(direction: Tensor) -> Tensor:
    """Number of attractors of a 1-D direction (*batch, N): where it goes from negative to not negative, (*batch,)."""
    return ((direction < 0) & (direction.roll(-1, -1) >= 0)).sum(-1)


def winding_numbers(direction: Tensor) -> Tensor:
    """Winding of a 2-D direction (*batch, 2, X, Y) round each plaquette (*batch, X, Y), as int8.

    Along an edge the direction turns the short way, and the winding counts its crossings of the positive first axis.
    Each edge enters two plaquettes with opposite signs, bit for bit, so the windings add up to 0 exactly on the torus
    (Poincaré–Hopf).
    """
    a, b = direction[..., 0, :, :], direction[..., 1, :, :]
    negative = b < 0

    def crossings(axis: int) -> Tensor:
        later, below = negative.roll(-1, axis), negative
        turn = a * b.roll(-1, axis) - b * a.roll(-1, axis)
        return (below & ~later & (turn > 0)).to(torch.int8) - (~below & later & (turn < 0)).to(torch.int8)

    along_x, along_y = crossings(-2), crossings(-1)
    return along_x + along_y.roll(-1, -2) - along_x.roll(-1, -1) - along_y


class StallPoints(NamedTuple):
    """Numbers (*batch,) of zeros of a direction in the plane by kind; attractors + repellers = saddles on the torus."""

    attractors: Tensor
    repellers: Tensor
    saddles: Tensor


def stall_points(direction: Tensor) -> StallPoints:
    """Zeros of a 2-D direction (*batch, 2, X, Y) of dx/dt = -v: winding +1 attracts where div v > 0.

    For a direction that is continuous at the scale of the grid; for one that jumps see `sliding_points`. Raises
    `LossAtlasError` for other dimensions, which have no such count.
    """
    _in_the_plane(direction)
    winding = winding_numbers(direction)
    attracts = divergence(direction) > 0
    positive = winding.clamp_min(0)

    def total(counts: Tensor) -> Tensor:
        return counts.sum((-2, -1), dtype=torch.int64)

    return StallPoints(total(positive * attracts), total(positive * ~attracts), total((-winding).clamp_min(0)))


def sliding_points(direction: Tensor) -> StallPoints:
    """`stall_points` of a direction that jumps: touching plaquettes count once, with the sum of their windings.

    Where v jumps to its opposite (a sliding equilibrium, Filippov) the staircase of the grid makes the turn flip sides
    several times, at any step: each true zero comes with pairs of opposite windings that touch. Sums over clusters
    leave the totals, and so Poincaré–Hopf, as they are.
    """
    _in_the_plane(direction)
    batch, size = direction.shape[:-3], direction.shape[-2:]
    winding = winding_numbers(direction).reshape(-1, *size).cpu().numpy()
    spread = divergence(direction).reshape(-1, *size).cpu().numpy()
    counts = [_clusters(w, d) for w, d in zip(winding, spread, strict=True)]
    found = torch.tensor(counts, dtype=torch.int64, device=direction.device)
    return StallPoints(*found.reshape(*batch, 3).unbind(-1))


def _clusters(winding: np.ndarray, spread: np.ndarray) -> tuple[int, int, int]:
    """(attractors, repellers, saddles) of one grid (X, Y), clusters taken over touching plaquettes on the torus."""
    place = np.argwhere(winding)
    if not len(place):
        return 0, 0, 0
    pairs = cKDTree(place, boxsize=winding.shape).query_pairs(1.5, output_type="ndarray")
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(place),) * 2)
    number, label = connected_components(graph, directed=False)
    at = tuple(place.T)
    net = np.bincount(label, winding[at], number).round().astype(int)
    attracts = np.bincount(label, spread[at], number) > 0
    positive = net.clip(min=0)
    return int((positive * attracts).sum()), int((positive * ~attracts).sum()), int((-net).clip(min=0).sum())


def _in_the_plane(direction: Tensor) -> None:
    if direction.dim() < 3 or direction.shape[-3] != 2:
        raise LossAtlasError("windings are counted in two dimensions: give directions (..., 2, X, Y)")


class SpaceStallPoints(NamedTuple):
    """Numbers (*batch,) of zeros of a direction in space: attractors, and the sum of all degrees, 0 on the torus."""

    attractors: Tensor
    degree: Tensor


CUBE = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
CUBES = 1024  # that are looked at together, for the cache's sake
# The faces of a cube as triangles of its corners, seen from outside. Opposite faces are cut along the same diagonal, so
# that the cubes on both sides of a face see the same two triangles, with opposite orientation.
TRIANGLES = [
    *((0, 1, 3), (0, 3, 2)),
    *((4, 7, 5), (4, 6, 7)),
    *((0, 5, 1), (0, 4, 5)),
    *((2, 3, 7), (2, 7, 6)),
    *((0, 2, 6), (0, 6, 4)),
    *((1, 7, 3), (1, 5, 7)),
]


def space_stall_points(direction: Tensor) -> SpaceStallPoints:
    """Zeros of a 3-D direction (*batch, 3, X, Y, Z) of dx/dt = -v, for v continuous at the scale of the grid.

    The degree of v on the surface of a grid cube is the solid angle that its triangles see, over 4 pi; a zero of degree
    +1 attracts where all eigenvalues of the finite-difference Jacobian have positive real parts (Routh and Hurwitz).
    Only cubes in which every component changes its sign can hold a zero. Neighbours share triangles, so the degrees add
    up to 0 on the torus (Poincaré–Hopf). Raises `LossAtlasError` for other dimensions.
    """
    if direction.dim() < 4 or direction.shape[-4] != 3:
        raise LossAtlasError("degrees are counted in three dimensions: give directions (..., 3, X, Y, Z)")
    batch = direction.shape[:-4]
    fields = direction.reshape(-1, *direction.shape[-4:])
    positive = fields > 0
    some = every = positive
    for axis in (-3, -2, -1):
        some, every = some | some.roll(-1, axis), every & every.roll(-1, axis)
    size = fields.shape[-3:]
    found = torch.zeros(2, len(fields), dtype=torch.int64, device=direction.device)
    for cubes in (some & ~every).all(1).nonzero().split(CUBES):
        field, *place = cubes.unbind(-1)
        sites = ([(p + b) % n for p, b, n in zip(place, bits, size, strict=True)] for bits in CUBE)
        corners = torch.stack([fields[(field, slice(None), *site)] for site in sites], 1).double()  # (cubes, 8, 3)
        degree = _degrees(corners)
        found[1].index_add_(0, field, degree)
        positive = degree > 0
        field, corners, degree = field[positive], corners[positive], degree[positive]
        found[0].index_add_(0, field, degree * _attracting(corners))
    return SpaceStallPoints(*found.reshape(2, *batch))


def _degrees(corners: Tensor) -> Tensor:
    """Degrees (m,) of directions at the corners (m, 8, 3) of cubes: sum of 2 atan2(a·(b x c), 1 + ab + bc + ca) / 4 pi.

    The solid angle of a triangle of unit vectors a, b, c (van Oosterom and Strackee 1983).
    """
    parts = corners.permute(2, 1, 0).contiguous()  # components first: (3, 8, m)
    unit = parts / parts.square().sum(0).sqrt_().clamp_min(1e-300)
    a, b, c = unit[:, TRIANGLES].unbind(2)  # (3, 12, m) each

    def dot(u: Sequence[Tensor], v: Sequence[Tensor]) -> Tensor:
        return u[0] * v[0] + u[1] * v[1] + u[2] * v[2]

    normal = [b[i] * c[j] - b[j] * c[i] for i, j in ((1, 2), (2, 0), (0, 1))]
    volume = dot(a, normal)
    aperture = 1 + ((dot(a, b) + dot(c, a)) + dot(b, c))
    return (torch.atan2(volume, aperture).sum(0) / (2 * torch.pi)).round().long()


def _attracting(corners: Tensor) -> Tensor:
    """Whether all eigenvalues of the Jacobian of cubes (m, 8, 3) have positive real parts: (m,) bool."""
    cube = corners.unflatten(1, (2, 2, 2))
    slopes = [cube.select(axis, 1).mean((1, 2)) - cube.select(axis, 0).mean((1, 2)) for axis in (1, 2, 3)]
    jacobian = torch.stack(slopes, -1)
    trace = jacobian.diagonal(dim1=-2, dim2=-1).sum(-1)
    minors = (trace.square() - (jacobian @ jacobian).diagonal(dim1=-2, dim2=-1).sum(-1)) / 2
    determinant = torch.linalg.det(jacobian)
    return (trace > 0) & (determinant > 0) & (trace * minors > determinant)


def divergence(direction: Tensor) -> Tensor:
    """Finite-difference divergence (times the step) of a 2-D direction at the middle of each plaquette."""
    a, b = direction[..., 0, :, :], direction[..., 1, :, :]
    da, db = a.roll(-1, -2) - a, b.roll(-1, -1) - b
    return 0.5 * (da + da.roll(-1, -1) + db + db.roll(-1, -2))


def potential(direction: Tensor, side: float) -> tuple[Tensor, Tensor]:
    """The potential whose gradient is closest to v (*batch, d, *grid) in least squares, and the energy share left over.

    Solves the Poisson equation of div v by FFT on a torus of length `side`; the potential (*batch, *grid) has mean 0,
    the share (*batch,) holds curl and the mean of v. It is 0 exactly for a gradient that the grid resolves.
    """
    dim = _space(direction)
    axes = tuple(range(-dim, 0))
    grid = direction.shape[-dim:]
    numbers, inverse, energies = _waves(tuple(grid), float(side), direction.device, direction.dtype)
    spectrum = torch.fft.rfftn(direction, dim=axes)
    along = spectrum.select(-dim - 1, 0) * numbers[0]
    for axis in range(1, dim):
        along.addcmul_(spectrum.select(-dim - 1, axis), numbers[axis])
    gradient_energy = (torch.view_as_real(along).square() * energies[..., None]).sum((*(a - 1 for a in axes), -1))
    energy = direction.square().sum((-dim - 1, *axes)) * grid.numel()  # of all waves, by Parseval
    rest = (1 - gradient_energy / energy.clamp_min(1e-300)).clamp_min(0)
    return torch.fft.irfftn(along.mul_(inverse), s=grid, dim=axes), rest


@lru_cache(maxsize=8)
def _waves(
    grid: tuple[int, ...], side: float, device: torch.device, dtype: torch.dtype
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Of the half spectrum of a grid: wave numbers k_a of each axis, complex and shaped to be multiplied with it;
    -i / |k|², 0 at k = 0; and 1 / |k|² times how often a wave stands for itself and its conjugate."""
    numbers = [torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n in grid[:-1]]
    numbers.append(torch.fft.rfftfreq(grid[-1], 1 / grid[-1], dtype=torch.float64))
    for k, n in zip(numbers, grid, strict=True):
        k[k.abs() * 2 == n] = 0  # the highest wave of an even grid has no derivative there
    numbers = [(k * (2 * torch.pi / side)).view(-1, *(1,) * (len(grid) - 1 - axis)) for axis, k in enumerate(numbers)]
    square = sum(k.square() for k in numbers)
    inverse = torch.where(square > 0, 1 / square.clamp_min(1e-30), 0)
    weight = torch.full((grid[-1] // 2 + 1,), 2.0, dtype=torch.float64)
    weight[0] = 1.0
    if grid[-1] % 2 == 0:
        weight[-1] = 1.0
    spectral = torch.complex(torch.empty(0, dtype=dtype), torch.empty(0, dtype=dtype)).dtype
    return (
        [k.to(device, spectral) for k in numbers],
        (-1j * inverse).to(device, spectral),
        (inverse * weight).to(device, dtype),
    )


def _space(direction: Tensor) -> int:
    """d of a direction (*batch, d, *grid): the one size whose axis has as many axes behind it."""
    for dim in (1, 2, 3):
        if direction.dim() > dim and direction.shape[-dim - 1] == dim:
            return dim
    raise LossAtlasError(f"a direction must be (..., d, *grid) with d axes of grid, not {tuple(direction.shape)}")


@dataclass(frozen=True, eq=False)
class Basins:
    """The minima of one 2-D landscape, how deep they are and what separates them from the one called home.

    site (m,) flat index, birth (m,) value of each minimum; death (m,) the level at which its sublevel component joins
    one with a lower minimum (inf for the lowest); barrier (m,) the lowest pass to home, counted from value 0 (-inf for
    home itself); size (m,) sites whose steepest descent ends there.
    """

    site: np.ndarray
    birth: np.ndarray
    death: np.ndarray
    barrier: np.ndarray
    size: np.ndarray

    @property
    def persistence(self) -> np.ndarray:
        return self.death - self.birth


def basins(values: np.ndarray, home: int = 0) -> Basins:
    """Basins of a periodic landscape (X, Y) with Moore neighbours; `home` is the flat index of a site in home's basin.

    Sites flow to their lowest neighbour (equal values in the order of their index); then basins are joined over their
    lowest passes by union–find, which gives the 0-dimensional sublevel persistence and the minimax barriers at once.
    """
    shape, flat = values.shape, values.ravel()
    order = np.argsort(flat, kind="stable")
    rank = np.empty(flat.size, dtype=np.int64)
    rank[order] = np.arange(flat.size)
    level = rank.reshape(shape)
    rows = np.minimum(np.minimum(np.roll(level, 1, 0), np.roll(level, -1, 0)), level)
    lowest_near = np.minimum(np.minimum(np.roll(rows, 1, 1), np.roll(rows, -1, 1)), rows)
    target = order[lowest_near.ravel()]
    while not np.array_equal(further := target[target], target):
        target = further
    site = np.flatnonzero(target == np.arange(flat.size))
    number = np.empty(flat.size, dtype=np.int64)
    number[site] = np.arange(len(site))
    label = number[target].reshape(shape)
    size = np.bincount(label.ravel(), minlength=len(site))
    # the lowest pass between each two basins that touch, as one number: which two, then its level
    keys = []
    for move in ((-1, -1), (-1, 0), (-1, 1), (0, -1)):  # the other half are the same neighbours seen from there
        other = np.roll(label, move, (0, 1))
        between = label != other
        a, b = label[between], other[between]
        height = np.maximum(level, np.roll(level, move, (0, 1)))[between]
        keys.append((np.minimum(a, b) * len(site) + np.maximum(a, b)) * flat.size + height)
    pair, height = np.divmod(np.sort(np.concatenate(keys)), flat.size)
    first = np.flatnonzero(np.diff(pair, prepend=-1))
    first = first[np.argsort(height[first], kind="stable")]
    ends = np.stack(np.divmod(pair[first], len(site)), 1).tolist()
    passes = zip(ends, flat[order[height[first]]].tolist(), strict=True)
    birth = flat[site]
    parent = list(range(len(site)))
    members = [[i] for i in range(len(site))]
    lowest = rank[site].tolist()
    death, barrier = np.full(len(site), np.inf), np.full(len(site), np.inf)
    at_home = int(label.ravel()[home])
    barrier[at_home] = -np.inf
    least = list(range(len(site)))  # the lowest minimum of each component

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for (i, j), height in passes:
        i, j = root(i), root(j)
        if i == j:
            continue
        home_root = root(at_home)
        if home_root in (i, j):
            barrier[members[j if home_root == i else i]] = height
        if lowest[i] > lowest[j]:
            i, j = j, i
        death[least[j]] = height
        parent[j] = i
        members[i] += members[j]
    return Basins(site, birth, death, barrier, size)
