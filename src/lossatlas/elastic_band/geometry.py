"""The geometry of a path: a tensor (N, P) of pivots, the first and last row of which are its ends.

With the differences D_i = p_{i+1} - p_i (N - 1, P), every length, tangent and projection is made of the Gram matrix
D Dᵀ, which is tiny. So a band step reads the parameters a few times, and all that is delicate happens in float64.

A `position` counts pivots: 2.25 is a quarter of the way from pivot 2 to pivot 3. `weights` (N - 1,) are the shares of
the path's length that the gaps should have; they sum to 1 and are equal where none are given.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lossatlas.errors import LossAtlasError

SPACED = 1e-3  # a saved path's gaps keep their shares to this part of the length


def straight(start: Tensor, end: Tensor, pivots: int = 2) -> Tensor:
    """Equally spaced pivots (pivots, P) from start to end (P,); both ends bit by bit."""
    path = torch.lerp(start, end, torch.linspace(0, 1, pivots, dtype=start.dtype, device=start.device)[:, None])
    path[0], path[-1] = start, end
    return path


def gram_matrix(differences: Tensor) -> Tensor:
    """D Dᵀ (N - 1, N - 1) in float64 of the differences D (N - 1, P)."""
    return (differences @ differences.mT).double()


def segment_lengths(path: Tensor) -> Tensor:
    """Euclidean lengths d_i (N - 1,) of the gaps, in float64."""
    return torch.linalg.vector_norm(path.diff(dim=0), dim=-1, dtype=torch.float64)


def equal_weights(path: Tensor) -> Tensor:
    """The weights (N - 1,) of equally spaced pivots."""
    gaps = len(path) - 1
    return torch.full((gaps,), 1 / gaps, dtype=torch.float64, device=path.device)


# --- points of the polyline -----------------------------------------------------------------------------------------


def points(path: Tensor, positions: Tensor) -> Tensor:
    """The points (M, P) of the polyline at positions (M,); exactly the pivots at whole numbers."""
    return _hats(positions, len(path)).to(path.dtype) @ path


def _hats(positions: Tensor, pivots: int) -> Tensor:
    """Weights (M, pivots) of the pivots in the points at positions (M,): one hat function around each pivot."""
    index = torch.arange(pivots, dtype=torch.float64, device=positions.device)
    return (1 - (positions.double()[:, None] - index).abs()).clamp_min(0)


def arc_length(path: Tensor, positions: Tensor) -> Tensor:
    """Normalised arc length in [0, 1] (M,) at positions (M,), float64; 0 everywhere on a path of length 0."""
    lengths = segment_lengths(path)
    return (_coefficients(positions.double(), len(lengths)) @ lengths) / lengths.sum().clamp_min(1e-300)


def _coefficients(positions: Tensor, gaps: int) -> Tensor:
    """C (M, gaps) with point(position) = p_0 + C D: how much of each gap lies behind a position."""
    index = torch.arange(gaps, dtype=torch.float64, device=positions.device)
    return (positions[:, None] - index).clamp(0, 1)


# --- spacing --------------------------------------------------------------------------------------------------------


def redistribute(
    path: Tensor, weights: Tensor | None = None, passes: int = 100, anchor: Tensor | None = None
) -> Tensor:
    """The pivots (N, P) moved along their own polyline until the gaps have the shares `weights`; ends untouched.

    One pass puts pivot i at the arc length S (w_1 + ... + w_i) (Draxler et al. 2018, Alg. 1), which is exact on a
    straight line; on a bent one the chords are shorter than the arcs, so passes are repeated until they obey to
    `SPACED`. All passes move on the given polyline, so its corners are cut once only and its length never grows.
    anchor: a pivot that stays where it is; the shares then hold on each side of it.
    """
    weights = equal_weights(path) if weights is None else weights
    return at_positions(path, spaced_positions(gram_matrix(path.diff(dim=0)), weights, passes, anchor))


def at_positions(path: Tensor, positions: Tensor) -> Tensor:
    """The path with its inner pivots moved to positions (N,) of the polyline; the ends are copied."""
    moved = points(path, positions)
    moved[0], moved[-1] = path[0], path[-1]
    return moved


def spaced_positions(gram: Tensor, weights: Tensor, passes: int = 1, anchor: Tensor | None = None) -> Tensor:
    """Positions (N,) on the polyline of a Gram matrix at which the gaps have the shares `weights`."""
    positions = torch.arange(len(gram) + 1, dtype=torch.float64, device=gram.device)
    lengths = gram.diagonal().clamp_min(0).sqrt()
    for left in reversed(range(passes)):
        reached = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        shares = torch.cat([weights.new_zeros(1), weights.cumsum(0)])
        positions = _interpolate(_targets(reached, shares, anchor), reached, positions)
        if left:
            steps = _coefficients(positions, len(gram)).diff(dim=0)
            lengths = ((steps @ gram) * steps).sum(-1).clamp_min(0).sqrt()
            if _worst(lengths, weights) < 0.1 * SPACED:
                break
    return positions


def _targets(reached: Tensor, shares: Tensor, anchor: Tensor | None) -> Tensor:
    """Arc lengths (N,) where the pivots should be, for arc lengths `reached` so far and cumulative shares."""
    if anchor is None:
        return reached[-1] * shares / shares[-1]
    before = reached[anchor] * shares / shares[anchor]
    after = reached[anchor] + (reached[-1] - reached[anchor]) * (shares - shares[anchor]) / (1 - shares[anchor])
    return torch.where(shares <= shares[anchor], before, after)


def _interpolate(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Piecewise linear y(at) through the points (x, y), x non-decreasing; where x stands still the first y counts."""
    right = torch.searchsorted(x, at).clamp(1, len(x) - 1)
    width = (x[right] - x[right - 1]).clamp_min(1e-300)
    return torch.lerp(y[right - 1], y[right], ((at - x[right - 1]) / width).clamp(0, 1))


def spacing_error(path: Tensor, weights: Tensor | None = None) -> float:
    """The worst gap against its share of the length S: max |d_i / w_i - S| / S; 0 for a path of length 0."""
    weights = equal_weights(path) if weights is None else weights
    return float(_worst(segment_lengths(path), weights))


def _worst(lengths: Tensor, weights: Tensor) -> Tensor:
    total = lengths.sum()
    return (lengths / weights - total).abs().max() / total.clamp_min(1e-300)


def resample(path: Tensor, pivots: int) -> Tensor:
    """The same polyline with `pivots` equally spaced pivots."""
    lengths = segment_lengths(path)
    reached = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    steps = torch.arange(len(path), dtype=torch.float64, device=path.device)
    at = torch.linspace(0, 1, pivots, dtype=torch.float64, device=path.device) * reached[-1]
    sampled = points(path, _interpolate(at, reached, steps))
    sampled[0], sampled[-1] = path[0], path[-1]
    return redistribute(sampled)


def concatenate(paths: Sequence[Tensor]) -> Tensor:
    """Paths from A to B, from B to C and so on as one path; a joint is one pivot.

    Raises `LossAtlasError` where a path does not start, bit by bit, at the end of the one before.
    """
    for i, (before, after) in enumerate(pairwise(paths)):
        if not torch.equal(before[-1], after[0]):
            raise LossAtlasError(f"path {i} does not end where path {i + 1} starts: reverse one with .flip(0)?")
    return torch.cat([paths[0], *(path[1:] for path in paths[1:])])


# --- tangents -------------------------------------------------------------------------------------------------------

# A rule gives the coefficients (a, b) of the tangent a τ⁻ + b τ⁺ at the inner pivots, where τ⁻ = p_i - p_{i-1} and
# τ⁺ = p_{i+1} - p_i, from the losses (before, at, after) and the lengths (d⁻, d⁺), all (N - 2,).
Coefficients = tuple[Tensor, Tensor]


def henkelman(before: Tensor, at: Tensor, after: Tensor, back: Tensor, forth: Tensor) -> Coefficients:
    """The improved tangent (Henkelman and Jónsson 2000, eq. 8-11): towards the higher neighbour.

    On a slope the difference towards it; at an extremum both, the larger weight for the *higher* neighbour. Three
    equal losses leave 0/0 there, and get the bisecting p_{i+1} - p_{i-1}.
    """
    small, large = _changes(before, at, after)
    share = torch.where(large > 0, small / large.clamp_min(1e-300), 1.0)
    one, zero = torch.ones_like(share), torch.zeros_like(share)
    up, down = (before < at) & (at < after), (before > at) & (at > after)
    low_weight = torch.where(up | down, zero, share)
    forward = after > before
    return torch.where(forward, low_weight, one), torch.where(forward | (large == 0), one, low_weight)


def draxler2019(before: Tensor, at: Tensor, after: Tensor, back: Tensor, forth: Tensor) -> Coefficients:
    """As released (PyTorch-AutoNEB, June 2019 on): unit differences, and at an extremum the two weights swapped."""
    small, large = _changes(before, at, after)
    return _released(before, at, after, back, forth, small, large)


def draxler2018(before: Tensor, at: Tensor, after: Tensor, back: Tensor, forth: Tensor) -> Coefficients:
    """As released in 2018: swapped too, and M <- M / (M + m), m <- m / (M + m) with the new M: not of unit length."""
    small, large = _changes(before, at, after)
    large = large / (large + small).clamp_min(1e-300)
    small = small / (large + small).clamp_min(1e-300)
    return _released(before, at, after, back, forth, small, large)


def bisector(before: Tensor, at: Tensor, after: Tensor, back: Tensor, forth: Tensor) -> Coefficients:
    """p_{i+1} - p_{i-1}, whatever the losses: the placebo."""
    return torch.ones_like(at), torch.ones_like(at)


RULES: dict[str, Callable[..., Coefficients]] = {
    "henkelman": henkelman,
    "draxler2019": draxler2019,
    "draxler2018": draxler2018,
    "bisector": bisector,
}


def _changes(before: Tensor, at: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """The smaller and the larger of |l_{i+1} - l_i| and |l_{i-1} - l_i|."""
    left, right = (before - at).abs(), (after - at).abs()
    return torch.minimum(left, right), torch.maximum(left, right)


def _released(before, at, after, back, forth, small, large) -> Coefficients:
    extremum = ((at > before) & (at > after)) | ((at < before) & (at < after))
    falls = before > after
    to_back = torch.where(falls, small, large)
    to_forth = torch.where(falls, large, small)
    a = torch.where(extremum, to_back, falls.double())
    b = torch.where(extremum, to_forth, (~falls).double())
    return a / back.clamp_min(1e-300), b / forth.clamp_min(1e-300)


def tangent_coefficients(gram: Tensor, losses: Tensor, rule: str) -> Coefficients:
    """(a, b), each (N - 2,) float64: the tangents are a D[:-1] + b D[1:], of unit length but for draxler2018."""
    if rule not in RULES:
        raise LossAtlasError(f"tangent rule {rule!r} is unknown; use one of {', '.join(RULES)}")
    losses = losses.double()
    squares = gram.diagonal()
    lengths = squares.clamp_min(0).sqrt()
    a, b = RULES[rule](losses[:-2], losses[1:-1], losses[2:], lengths[:-1], lengths[1:])
    if rule == "draxler2018":
        return a, b
    square = a * a * squares[:-1] + 2 * a * b * gram.diagonal(1) + b * b * squares[1:]
    scale = square.clamp_min(0).sqrt().clamp_min(1e-300)  # pivots that coincide have the tangent 0, not NaN
    return a / scale, b / scale


def tangents(path: Tensor, losses: Tensor, rule: str = "henkelman") -> Tensor:
    """The tangents (N - 2, P) at the inner pivots of a path (N, P) with the losses (N,), ends included.

    rule: `henkelman`, or as released `draxler2019`, `draxler2018`, or the placebo `bisector`. Of unit length, except
    that `draxler2018` is not where a pivot is an extremum, and that pivots which coincide have the tangent 0.
    """
    differences = path.diff(dim=0)
    a, b = (c.to(path.dtype)[:, None] for c in tangent_coefficients(gram_matrix(differences), losses, rule))
    return a * differences[:-1] + b * differences[1:]
