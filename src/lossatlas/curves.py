"""What one reads off a curve on a line: monotonicity, plateaus, convexity, and how far the logits turn.

Definitions follow Lucas et al. 2021 (arXiv 2104.11044), with corrections named where they differ. Curves are
(..., A) on a grid of A points in [0, 1]; logit paths are (..., A, C), one path for each leading index.
"""

import torch
from torch import Tensor


def minimum_delta(losses: Tensor) -> Tensor:
    """The greatest rise max_j (L_j - min_{i <= j} L_i) of curves (..., A) -> (...); 0 iff monotone.

    The last point counts too: the code released with Lucas et al. 2021 overlooks a rise that starts there.
    """
    return (losses - losses.cummin(-1).values).amax(-1)


def bumps(losses: list[float], *, released: bool = False) -> list[tuple[int, int, float]]:
    """(start, end, height) of each bump of one curve, by the walk in the code released with Lucas et al. 2021.

    A bump starts where the loss first rises and ends where it is first below the start (at the last point if it
    never is). `released`: a bump that starts at the last step is not recorded, as in that code.
    """
    found, i, last = [], 0, len(losses) - 1
    while i < last:
        if losses[i + 1] <= losses[i]:
            i += 1
            continue
        end = next((j for j in range(i + 1, last + 1) if losses[j] < losses[i]), last)
        if not (released and i == last - 1):
            found.append((i, end, max(losses[i : end + 1]) - losses[i]))
        i = end
    return found


def minimum_delta_2021(losses: Tensor) -> Tensor:
    """`delta-2021`: the greatest height among the bumps that the released code records; curves (..., A) -> (...)."""
    heights = [
        max((height for _, _, height in bumps(curve, released=True)), default=0.0)
        for curve in losses.reshape(-1, losses.shape[-1]).tolist()
    ]
    found = losses.new_tensor(heights).view(losses.shape[:-1])
    return found.masked_fill(losses.isnan().any(-1), torch.nan)


def bump_width(losses: Tensor) -> Tensor:
    """Width in alpha of each curve's highest bump, (..., A) -> (...); 0 where the curve is monotone, NaN with a NaN."""
    widths = []
    for curve in losses.reshape(-1, losses.shape[-1]).tolist():
        start, end, _ = max(bumps(curve), key=lambda bump: bump[2], default=(0, 0, 0.0))
        widths.append((end - start) / (len(curve) - 1))
    found = losses.new_tensor(widths).view(losses.shape[:-1])
    return found.masked_fill(losses.isnan().any(-1), torch.nan)


def greatest_step(losses: Tensor) -> Tensor:
    """The greatest rise from one point to the next (Lim et al. 2024), (..., A) -> (...); negative if there is none."""
    return losses.diff(dim=-1).amax(-1)


def convex_share(losses: Tensor) -> Tensor:
    """Share of the interior points with a second difference >= 0, (..., A) -> (...)."""
    return (losses.diff(n=2, dim=-1) >= 0).double().mean(-1)


def below_chord_share(losses: Tensor) -> Tensor:
    """Share of the interior points on or below the chord from the first to the last value, (..., A) -> (...)."""
    alphas = torch.linspace(0, 1, losses.shape[-1], dtype=losses.dtype, device=losses.device)
    chord = torch.lerp(losses[..., :1], losses[..., -1:], alphas)
    return (losses <= chord)[..., 1:-1].double().mean(-1)


def plateau_length(curve: Tensor) -> Tensor:
    """Largest alpha up to which the curve keeps above curve(0) - 0.1 (curve(0) - curve(1)), (..., A) -> (...).

    NaN where the curve does not end below its start (nothing is lost that could be kept), or has a NaN.
    """
    first, last = curve[..., :1], curve[..., -1:]
    kept = (curve >= first - 0.1 * (first - last)).cummin(-1).values
    length = (kept.sum(-1) - 1).double() / (curve.shape[-1] - 1)
    undefined = ~(last < first)[..., 0] | curve.isnan().any(-1)
    return length.masked_fill(undefined, torch.nan)


def distances(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Euclidean distance (k,) between parameters (k, P), and the same divided by the norm of the start.

    In float64, since the squares of a run that blew up leave the range of float32.
    """
    distance = (end.double() - start.double()).norm(dim=-1)
    return distance, distance / start.double().norm(dim=-1)


def logit_linearity(logits: Tensor) -> Tensor:
    """Integral over alpha of the mean squared distance of the paths (r, A, C) from their chords."""
    moved = (logits - logits[:, :1]).double()
    chord = moved[:, -1:]
    along = (moved * chord).sum(-1, keepdim=True) / chord.square().sum(-1, keepdim=True).clamp_min(1e-300)
    return torch.trapezoid((moved - along * chord).square().sum(-1).mean(0), dx=1 / (logits.shape[1] - 1))


# --- how far a path turns -------------------------------------------------------------------------------------------


def turning(paths: Tensor) -> Tensor:
    """`gl-polygon`: total turning of the inscribed polygon of paths (..., A, C) -> (...), in radians.

    It sees the kinks of a ReLU network, which the smooth Gauss length cannot; by Milnor it never exceeds the true
    turning and does not decrease under nested refinement. Edges of length zero have no direction and are skipped.
    Angles are 2 atan2(|a - b|, |a + b|) of unit vectors in float64, accurate also for small ones.
    """
    edges = _directions(paths)
    a, b = edges[..., :-1, :], edges[..., 1:, :]
    return 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1)).sum(-1)


def _directions(paths: Tensor) -> Tensor:
    """Unit edges (..., A - 1, C); an edge of length zero repeats its predecessor's direction (or the first one's)."""
    edges = paths.double().diff(dim=-2)
    lengths = edges.norm(dim=-1)
    index = torch.arange(lengths.shape[-1], device=paths.device).expand(lengths.shape)
    moving = lengths > 0
    first = torch.where(moving.any(-1), moving.double().argmax(-1), 0)[..., None]
    source = torch.where(moving, index, -1).cummax(-1).values
    source = torch.where(source < 0, first, source)
    edges = edges / lengths.clamp_min(1e-300)[..., None]
    return edges.gather(-2, source[..., None].expand(edges.shape))


def gauss_length(velocity: Tensor, acceleration: Tensor) -> tuple[Tensor, Tensor]:
    """`gl-smooth`: the integral of sqrt(|v|^2 |a|^2 - <v, a>^2) / |v|^2 over alpha, by the trapezoid rule.

    velocity, acceleration (A, n, C) on an equally spaced grid -> lengths (n,) in radians, and whether a path stood
    still at some point (n,), where the formula is 0/0 and the point counts 0. Lucas et al. 2021, section on the
    Gauss length; the published estimator, blind to kinks.
    """
    v, a = velocity.double(), acceleration.double()
    speed = v.square().sum(-1)
    area = (speed * a.square().sum(-1) - (v * a).sum(-1).square()).clamp_min(0).sqrt()
    still = speed == 0
    rate = torch.where(still, 0.0, area / torch.where(still, 1.0, speed))
    return torch.trapezoid(rate, dx=1 / (v.shape[0] - 1), dim=0), still.any(0)


def indicatrix_diameter(paths: Tensor) -> Tensor:
    """Greatest angle between any two edges of paths (..., A, C) -> (...), in radians; at most the turning.

    Below pi/2 the squared distance to the path's end falls strictly, whatever the path (the certificate). A path that
    stands still has the diameter 0.
    """
    edges = _directions(paths)
    cosine = (edges @ edges.mT).flatten(-2).amin(-1).clamp(-1, 1)
    moves = (edges != 0).flatten(-2).any(-1)
    return torch.where(moves, torch.arccos(cosine), 0.0)


def certified(paths: Tensor) -> Tensor:
    """Whether no two edges of a path (..., A, C) make an angle above pi/2, (...) bool.

    Exact on the grid: with the edges' Gram matrix G, |z_i - z_A|^2 - |z_{i+1} - z_A|^2 = 2 sum_{j > i} G_ij + G_ii,
    so G >= 0 makes the squared distance to the end non-increasing.
    """
    edges = paths.double().diff(dim=-2)
    return ((edges @ edges.mT) >= 0).flatten(-2).all(-1)


def distance_to_end(paths: Tensor) -> Tensor:
    """Squared distance |z(alpha) - z(1)|^2 along paths (..., A, C) -> (..., A)."""
    return (paths - paths[..., -1:, :]).double().square().sum(-1)
