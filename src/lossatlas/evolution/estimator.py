"""Evolution strategies: the gradient of a smoothed loss from losses alone, as three pure steps.

F_sigma(theta) = E F(theta + sigma z), z ~ N(0, I), is a smoothed loss; its gradient is E F(theta + sigma z) z / sigma.
`sample` draws directions z, `shape` turns the losses of a population into its values, `estimate` sums directions by
value; `es_gradient` does all three. Losses are minimised: step against what comes back.

A mirrored population evaluates theta + sigma z and theta - sigma z; losses come in that order, all of one sign first.
Member i's noise is drawn from (key, i) alone and sums are made in blocks of fixed size, so results do not depend on how
many members are evaluated at once.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lossatlas import ensemble
from lossatlas.errors import LossAtlasError
from lossatlas.evolution.population import KEPT_BYTES, Noise, population_losses

SAMPLINGS = ("iid", "antithetic", "orthogonal", "auto")
SHAPINGS = ("none", "ranks")
BLOCK = 64  # directions that are summed by one product; fixed, since the order of a sum changes its last bits
PILOT_SHARE = 16  # `auto` mirrors one direction for each so many members before it chooses


# --- noise ------------------------------------------------------------------------------------------------------------


def normal(key: int, dim: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Noise:
    """Directions N(0, I), each from a generator that is seeded by (key, member)."""
    generator = torch.Generator(device)

    def rows(first: int, last: int) -> Tensor:
        block = torch.empty(last - first, dim, dtype=dtype, device=device)
        for row, member in zip(block, range(first, last), strict=True):
            torch.randn(dim, generator=generator.manual_seed(_mixed(key, member)), out=row)
        return block

    return rows


def from_table(table: Tensor, key: int, dim: int) -> Noise:
    """Slices of a shared table of normals, one behind the other, from a place in its first half that the key names.

    Several times cheaper than fresh normals (Salimans et al. 2017, section 2.1, who draw a place for each member): up
    to the table's end they are views. The first len(table) // dim - 1 members, a turn, have no number in common. Later
    ones stand at other places, since dim and the number of places have no common divisor, so numbers that they share
    with earlier ones are at different coordinates. Two generations of m directions share m² / starts of them on
    average, many at once, with a probability below 2 m / starts, where starts is half the number of places.
    """
    places = len(table) - dim + 1
    if places < 1:
        raise LossAtlasError(f"a noise table of {len(table)} numbers has no slice of {dim}: make it longer")
    while math.gcd(places, dim) > 1:
        places -= 1
    start = _mixed(key, 0) % (places // 2 + 1)

    def rows(first: int, last: int) -> Tensor:
        at = (start + first * dim) % places
        end = at + (last - first) * dim
        if end - dim < places:
            return table[at:end].view(last - first, dim)
        members = torch.arange(first, last, device=table.device)
        return table.unfold(0, dim, 1).index_select(0, (start + members * dim) % places)

    return rows


def orthogonal(noise: Noise, directions: int, dim: int) -> Noise:
    """Directions that are orthogonal within blocks of at most `dim`, with the lengths of independent normal vectors.

    Each direction by itself is still N(0, I) (Choromanski et al. 2018, "Structured evolution", section 3).
    """
    blocks = []
    for first in range(0, directions, dim):
        last = min(first + dim, directions)
        z = noise(first, last)
        # independent of the directions of these very rows, which the factorisation uses up
        lengths = noise(directions + first, directions + last).norm(dim=-1, keepdim=True)
        q, r = torch.linalg.qr(z.mT)
        blocks.append((q * r.diagonal().sign()).mT * lengths)  # the sign makes the frame uniform (Haar)
    kept = torch.cat(blocks)
    return lambda first, last: kept[first:last]


def _mixed(key: int, member: int) -> int:
    """63 bits that differ in about half their places for any two (key, member): the finaliser of splitmix64.

    All 32-bit pieces are good, of which torch's CPU generator uses the lowest.
    """
    x = (key + (member + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (x ^ (x >> 31)) >> 1


# --- the three steps --------------------------------------------------------------------------------------------------


def sample(key: int, n: int, dim: int, sampling: str = "antithetic", **kind) -> Tensor:
    """Directions z (m, P) of a population of n: m = n iid, m = n / 2 where they are mirrored. kind: dtype, device."""
    m = directions(n, sampling)
    noise = normal(key, dim, **kind)
    return (orthogonal(noise, m, dim) if sampling == "orthogonal" else noise)(0, m)


def points(theta: Tensor, z: Tensor, sigma: float | Tensor, mirrored: bool) -> Tensor:
    """The population (..., n, P) around theta (..., P): theta + sigma z, then theta - sigma z if mirrored.

    sigma: a number, or one for each coordinate, (P,).
    """
    step = sigma * z
    return theta[..., None, :] + (torch.cat([step, -step], dim=-2) if mirrored else step)


def shape(losses: Tensor, shaping: str = "none") -> Tensor:
    """Values (..., n) from losses (..., n): themselves, or their centred `ranks`.

    Raises `LossAtlasError` for unshaped losses that are not finite.
    """
    if shaping == "ranks":
        return ranks(losses)
    finite = losses.isfinite()
    if not finite.all():
        raise LossAtlasError(
            f"{int((~finite).sum())} of {losses.numel()} losses of the population are not finite: shape them with "
            "ranks, where they count as the worst, or lower sigma"
        )
    return losses


def ranks(losses: Tensor) -> Tensor:
    """Ranks (..., n) of losses (..., n), mapped linearly to [-1/2, 1/2]; equal losses share their mean rank.

    A loss that is not finite ranks worst, together with all others that are not.
    """
    n = losses.shape[-1]
    if n < 2:
        raise LossAtlasError(f"a population of {n} has no ranks: take at least 2 members")
    losses = torch.where(losses.isfinite(), losses, torch.inf).contiguous()
    ordered = losses.sort(dim=-1).values
    below = torch.searchsorted(ordered, losses)
    up_to = torch.searchsorted(ordered, losses, right=True)
    return ((below + up_to - 1) / (2 * (n - 1)) - 0.5).to(losses.dtype)


def coefficients(values: Tensor, mirrored: bool, shaped: bool) -> Tensor:
    """What each direction is multiplied by, (..., m), before the division by sigma.

    Mirrored: (v+ - v-) / 2m. iid: (v - baseline) / n with the mean of the other members as baseline, so that it is
    unbiased; ranks need none, their mean is a constant.
    """
    if mirrored:
        plus, minus = values.chunk(2, dim=-1)
        return (plus - minus) / values.shape[-1]
    return (values - values.mean(-1, keepdim=True)) / (values.shape[-1] - (0 if shaped else 1))


def estimate(z: Tensor, values: Tensor, sigma: float | Tensor, mirrored: bool, shaping: str = "none") -> Tensor:
    """Gradients (..., P) from directions z (..., m, P) and values (..., n).

    Unshaped: an unbiased estimate of the gradient of F_sigma. With ranks: mean of rank times z, a direction whose
    length is that of `smoothing.rank_direction_norm` whatever the gradient's; no power of sigma is in it.
    """
    direction = (coefficients(values, mirrored, shaping == "ranks")[..., None, :] @ z).squeeze(-2)
    return direction if shaping == "ranks" else direction / sigma


# --- the whole generation ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Generation:
    """gradient (P,); losses (n,) of the population in the order of `points`; and how it was sampled in the end."""

    gradient: Tensor
    losses: Tensor
    sampling: str


def es_gradient(
    problem,
    theta: Tensor,
    sigma: float | Tensor,
    n: int,
    sampling: str = "antithetic",
    shaping: str = "none",
    generator: torch.Generator | None = None,
    **kind,
) -> Tensor:
    """An estimate (P,) of the gradient of the smoothed loss at theta (P,), from n losses; see `generation`.

    Unshaped it is unbiased for any of the samplings. With `ranks` it is a direction (see `estimate`).
    """
    return generation(problem, theta, sigma, n, new_key(generator), sampling, shaping, **kind).gradient


def new_key(generator: torch.Generator | None = None) -> int:
    """The key of the next generation's noise: one number drawn from the generator, whatever the population."""
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device))


def generation(
    problem,
    theta: Tensor,
    sigma: float | Tensor,
    n: int,
    key: int,
    sampling: str = "antithetic",
    shaping: str = "none",
    table: Tensor | None = None,
    chunk: int | None = None,
) -> Generation:
    """Sample, evaluate, shape and estimate around theta (P,), without a graph.

    sampling: `iid`; `antithetic`, pairs theta ± sigma z; `orthogonal`, pairs along orthogonal directions; `auto`,
    which mirrors a first few directions, sees how much of the losses' variance is even in z (the curvature, noise to
    iid sampling, absent from pairs), and goes on as iid or antithetic, whichever leaves less noise. The mirrored part
    has the same weight either way, so the estimate is unbiased.
    table: normals that the directions are slices of; chunk: members evaluated at once, found from the cache if None.
    Raises `LossAtlasError` for sigma <= 0, a population too small or odd, and unshaped losses that are not finite.
    """
    _check(theta, sigma, n, sampling, shaping)
    m = directions(n, "iid" if sampling == "auto" else sampling)
    dim = theta.shape[-1]
    if table is None:
        noise = _kept(normal(key, dim, theta.dtype, theta.device), theta, m)
    else:
        noise = from_table(table, key, dim)
    if sampling == "auto":
        return _chosen(problem, theta, sigma, n, noise, shaping, chunk)
    if sampling == "orthogonal":
        noise = orthogonal(noise, m, len(theta))
    mirrored = sampling != "iid"
    losses = population_losses(problem, theta, noise, (0, m), sigma, mirrored, chunk)
    weights = coefficients(shape(losses, shaping), mirrored, shaping == "ranks")
    return Generation(_sum(noise, weights, theta, sigma, shaping), losses, sampling)


def directions(n: int, sampling: str) -> int:
    """The number of directions of a population of n. Raises `LossAtlasError` for an odd one that is mirrored."""
    if sampling == "iid":
        return n
    if n % 2:
        raise LossAtlasError(
            f"a population of {n} cannot be mirrored by {sampling} sampling: take {n - 1} or {n + 1}, or sampling iid"
        )
    return n // 2


def _kept(noise: Noise, theta: Tensor, m: int) -> Noise:
    """The same directions; the first m are drawn once if there is room for them."""
    if m * theta.numel() * theta.element_size() > KEPT_BYTES:
        return noise
    z = noise(0, m)
    return lambda first, last: z[first:last] if last <= m else noise(first, last)


def _sum(noise: Noise, weights: Tensor, theta: Tensor, sigma: float | Tensor, shaping: str) -> Tensor:
    """Sum of weights (m,) times directions, in blocks of fixed size; divided by sigma where it is unshaped."""
    total = torch.zeros_like(theta)
    for first in range(0, len(weights), BLOCK):
        block = weights[first : first + BLOCK]
        total += block @ noise(first, first + len(block))
    return total if shaping == "ranks" else total / sigma


def _chosen(problem, theta, sigma, n: int, noise: Noise, shaping: str, chunk: int | None) -> Generation:
    pilot = max(4, n // PILOT_SHARE)
    if 2 * pilot >= n:
        raise LossAtlasError(f"a population of {n} is too small to choose its sampling: take more than {2 * pilot}")
    m = directions(n, "antithetic")
    first = population_losses(problem, theta, noise, (0, pilot), sigma, True, chunk)
    mirrored = bool(curvature_noise(first) >= 1)
    rest = population_losses(problem, theta, noise, (pilot, m if mirrored else n - pilot), sigma, mirrored, chunk)
    values = shape(torch.cat([first, rest]), shaping)
    share = pilot / m
    weights = torch.cat(
        [
            share * coefficients(values[: 2 * pilot], True, shaping == "ranks"),
            (1 - share) * coefficients(values[2 * pilot :], mirrored, shaping == "ranks"),
        ]
    )
    # in the order of `points`: all of one sign before the other
    signs = [*first.chunk(2), *rest.chunk(2)] if mirrored else [first, rest]
    losses = torch.cat([signs[0], signs[2], signs[1], signs[3]] if mirrored else signs)
    return Generation(
        _sum(noise, weights, theta, sigma, shaping), losses, "antithetic" if mirrored else "iid after a mirrored pilot"
    )


def _check(theta: Tensor, sigma: float | Tensor, n: int, sampling: str, shaping: str) -> None:
    if sampling not in SAMPLINGS:
        raise LossAtlasError(f"sampling {sampling!r} is unknown; use one of {', '.join(SAMPLINGS)}")
    if shaping not in SHAPINGS:
        raise LossAtlasError(f"shaping {shaping!r} is unknown; use one of {', '.join(SHAPINGS)}")
    if theta.dim() != 1:
        raise LossAtlasError(f"theta of shape {tuple(theta.shape)}: a generation is around one point (P,)")
    smallest = float(sigma.min()) if isinstance(sigma, Tensor) else sigma
    if not (math.isfinite(smallest) and smallest > 0):
        raise LossAtlasError(f"sigma is {smallest:g}: the perturbation needs a positive, finite standard deviation")
    if n < 2:
        raise LossAtlasError(f"a population of {n} gives no estimate: take at least 2 members")


# --- which sampling ---------------------------------------------------------------------------------------------------


def curvature_noise(losses: Tensor) -> Tensor:
    """kappa (...): variance of the even part of a mirrored population's losses (..., n) over that of the odd part.

    On a quadratic its expectation is about sigma² |H|_F² / 2|g|² (`smoothing.curvature_noise`): it needs no derivative.
    """
    plus, minus = losses.chunk(2, dim=-1)
    return ((plus + minus) / 2).var(-1) / ((plus - minus) / 2).square().mean(-1)


def crossover_sigma(problem, theta: Tensor, generator: torch.Generator, probes: int = 16) -> Tensor:
    """sqrt(2) |g| / |H|_F at theta (P,): the sigma below which iid sampling has the better cosine, pairs above.

    |H|_F² = E|Hv|², v ~ N(0, I), from `probes` Hessian-vector products (Hutchinson's estimator).
    """
    v = torch.randn(probes, len(theta), generator=generator, dtype=theta.dtype, device=theta.device)
    _, gradient = ensemble.gradient(problem, theta[None])
    products = ensemble.hessian_vector(problem, theta.expand(probes, -1), v)
    return math.sqrt(2) * gradient.norm() / products.square().sum(-1).mean().sqrt()
