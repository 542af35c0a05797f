"""The geometry of a path: a tensor (N, P) of pivots, the first and last row of which are its ends.

With the differences D_i = p_{i+1} - p_i (N - 1, P), every length and tangent is made of inner products of them, and a
new place of a pivot is a few numbers: these are computed on the CPU, wherever the parameters are.

A `position` counts pivots: 2.25 is a quarter of the way from pivot 2 to pivot 3. `weights` (N - 1,) are the shares of
the path's length that the gaps should have; they sum to 1 and are equal where none are given.
"""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from lossatlas.errors import LossAtlasError

SPACED = 1e-3  # a saved path's gaps keep their shares to this part of the length
FOLDED = 1e-6  # |a τ⁻ + b τ⁺|² / (|a τ⁻| + |b τ⁺|)² below which it is mostly float32's rounding: the path turns back
TINY = 1e-300  # instead of a zero to divide by


def straight(start: Tensor, end: Tensor, pivots: int = 2) -> Tensor:
    """Equally spaced pivots (pivots, P) from start to end (P,); both ends bit by bit."""
    path = torch.lerp(start, end, torch.linspace(0, 1, pivots, dtype=start.dtype, device=start.device)[:, None])
    path[0], path[-1] = start, end
    return path


def numbers(tensor: Tensor) -> np.ndarray:
    """A small tensor as a float64 array."""
    return tensor.detach().to("cpu", torch.float64).numpy()


def gram_matrix(differences: Tensor) -> np.ndarray:
    """D Dᵀ (..., N - 1, N - 1) of the differences D (..., N - 1, P)."""
    return numbers(differences @ differences.mT)


def lengths_of(differences: Tensor) -> Tensor:
    """|D_i| (..., N - 1)."""
    return torch.linalg.vector_norm(differences, dim=-1)


def segment_lengths(path: Tensor) -> Tensor:
    """Euclidean lengths d_i (N - 1,) of the gaps, in float64 on the CPU."""
    return torch.linalg.vector_norm(path.diff(dim=0), dim=-1, dtype=torch.float64).cpu()


def equal_weights(path: Tensor) -> Tensor:
    """The weights (..., N - 1) of equally spaced pivots, float64 on the CPU."""
    gaps = path.shape[-2] - 1
    return torch.full((*path.shape[:-2], gaps), 1 / gaps, dtype=torch.float64)


# --- points of the polyline -----------------------------------------------------------------------------------------


def points(path: Tensor, positions: Tensor) -> Tensor:
    """The points (M, P) of the polyline at positions (M,); exactly the pivots at whole numbers."""
    return _mix(path, numbers(positions))


def _mix(path: Tensor, positions: np.ndarray) -> Tensor:
    """`points` as one matrix product: the pivots' weights are hat functions round them."""
    hats = np.maximum(1 - np.abs(positions[..., None] - np.arange(path.shape[-2])), 0)
    return torch.from_numpy(hats).to(path) @ path


def arc_length(path: Tensor, positions: Tensor) -> Tensor:
    """Normalised arc length in [0, 1] (M,) at positions (M,), float64; 0 everywhere on a path of length 0."""
    reached = _cumulative(segment_lengths(path).tolist())
    at = np.interp(numbers(positions), np.arange(len(reached)), reached)
    return torch.from_numpy(at / max(reached[-1], TINY))


def _cumulative(parts: Sequence[float]) -> list[float]:
    """Sums of the first 0, 1, ... parts."""
    return [0.0, *accumulate(parts)]


# --- spacing --------------------------------------------------------------------------------------------------------


def redistribute(path: Tensor, weights: Tensor | None = None, passes: int = 100, anchor: int | None = None) -> Tensor:
    """Pivots (..., N, P) moved along their polyline until the gaps have the shares `weights` (..., N - 1); ends stay.

    One pass puts pivot i at the arc length S (w_1 + ... + w_i) (Draxler et al. 2018, Alg. 1), which is exact on a
    straight line; on a bent one the chords are shorter than the arcs, so passes are repeated until they obey to
    `SPACED`. All passes move on the given polyline, so its corners are cut once only and its length never grows.
    anchor: a pivot that stays where it is; the shares then hold on each side of it.
    """
    return redistribute_(path.clone(), weights, passes, anchor)


def redistribute_(path: Tensor, weights: Tensor | None = None, passes: int = 100, anchor: int | None = None) -> Tensor:
    """`redistribute` in place."""
    bands = path if path.dim() == 3 else path[None]
    weights = equal_weights(bands) if weights is None else weights.view(len(bands), bands.shape[1] - 1)
    differences = bands.diff(dim=1)
    grams = gram_matrix(differences) if passes > 1 else [None] * len(bands)
    parts = zip(lengths_of(differences).tolist(), weights.tolist(), grams, strict=True)
    positions = np.array([spaced_positions(lengths, shares, anchor, gram, passes) for lengths, shares, gram in parts])
    bands[:, 1:-1] = _mix(bands, positions[:, 1:-1])
    return path


def spaced_positions(
    lengths: Sequence[float],
    weights: Sequence[float],
    anchor: int | None = None,
    gram: np.ndarray | None = None,
    passes: int = 1,
) -> np.ndarray:
    """Positions (N,) on the polyline with these lengths (N - 1,) at which the gaps have the shares `weights`.

    More than one pass needs the Gram matrix of its differences, to find what became of the lengths.
    """
    positions = np.arange(len(lengths) + 1.0)
    for left in reversed(range(passes)):
        gaps, shares = map(np.array, zip(*places(lengths, weights, anchor), strict=True))
        positions = positions[gaps] + shares * np.diff(positions)[gaps]
        if left:
            behind = np.clip(positions[:, None] - np.arange(len(gram)), 0, 1)  # point = p_0 + behind D
            steps = np.diff(behind, axis=0)
            lengths = np.sqrt(np.maximum(((steps @ gram) * steps).sum(-1), 0)).tolist()
            if _worst(np.array(lengths), np.array(weights)) < 0.1 * SPACED:
                break
    return positions


def places(lengths: Sequence[float], weights: Sequence[float], anchor: int | None = None) -> list[tuple[int, float]]:
    """The gap, and the share of it, where each of N pivots belongs on a polyline with these lengths (N - 1,).

    Gaps without length are passed over. Where a length is not finite shares are NaN: a band that has blown up must not
    look well spaced.
    """
    reached = _cumulative(lengths)
    gap, found = 0, []
    for target in _targets(reached, _cumulative(weights), anchor):
        while gap < len(lengths) - 1 and (target > reached[gap + 1] or reached[gap] == reached[gap + 1]):
            gap += 1
        length = reached[gap + 1] - reached[gap]  # `lengths` would let shares leave [0, 1] by rounding
        found.append((gap, (target - reached[gap]) / length if length else 0.0))
    return found


def _targets(reached: Sequence[float], shares: Sequence[float], anchor: int | None) -> list[float]:
    """Arc lengths (N,) where the pivots should be, for arc lengths `reached` so far and cumulative shares."""
    whole = reached[-1]
    if anchor is None:
        return [whole * share for share in shares]
    fixed, there = reached[anchor], shares[anchor]
    return [
        fixed * share / there if share <= there else fixed + (whole - fixed) * (share - there) / (1 - there)
        for share in shares
    ]


def spacing_error(path: Tensor, weights: Tensor | None = None) -> float:
    """The worst gap against its share of the length S: max |d_i / w_i - S| / S; 0 for a path of length 0."""
    weights = equal_weights(path) if weights is None else weights
    return _worst(segment_lengths(path).numpy(), weights.numpy())


def _worst(lengths: np.ndarray, weights: np.ndarray) -> float:
    total = lengths.sum()
    return float(np.abs(lengths / weights - total).max() / max(total, TINY))


def resample(path: Tensor, pivots: int) -> Tensor:
    """The same polyline with `pivots` equally spaced pivots."""
    reached = _cumulative(segment_lengths(path).tolist())
    at = np.linspace(0, 1, pivots) * reached[-1]
    sampled = _mix(path, np.interp(at, reached, np.arange(len(path))))
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

# A rule gives the coefficients (a, b) of the tangent a τ⁻ + b τ⁺ at an inner pivot, where τ⁻ = p_i - p_{i-1} and
# τ⁺ = p_{i+1} - p_i, from the losses before, at and after it, and the lengths |τ⁻| and |τ⁺|. Plain numbers: for the few
# pivots of a band, arrays cost more than what they compute.
Coefficients = tuple[float, float]
Rule = Callable[[float, float, float, float, float], Coefficients]


def henkelman(before: float, at: float, after: float, back: float, forth: float) -> Coefficients:
    """The improved tangent (Henkelman and Jónsson 2000, eq. 8-11): towards the higher neighbour.

    On a slope the difference towards it; at an extremum both, the larger weight for the *higher* neighbour. Three
    equal losses leave 0/0 there, and get the bisecting p_{i+1} - p_{i-1}.
    """
    if before < at < after or before > at > after:
        lesser = 0.0
    else:
        small, large = _changes(before, at, after)
        lesser = small / large if large > 0 else 1.0
    return (lesser if after > before else 1.0), (lesser if before > after else 1.0)


def draxler2019(before: float, at: float, after: float, back: float, forth: float) -> Coefficients:
    """As released (PyTorch-AutoNEB, June 2019 on): unit differences, and at an extremum the two weights swapped."""
    return _released(before, at, after, back, forth, *_changes(before, at, after))


def draxler2018(before: float, at: float, after: float, back: float, forth: float) -> Coefficients:
    """As released in 2018: swapped too, and M <- M / (M + m), m <- m / (M + m) with the new M: not of unit length."""
    small, large = _changes(before, at, after)
    large = large / max(large + small, TINY)
    small = small / max(large + small, TINY)
    return _released(before, at, after, back, forth, small, large)


def bisector(before: float, at: float, after: float, back: float, forth: float) -> Coefficients:
    """p_{i+1} - p_{i-1}, whatever the losses: the placebo."""
    return 1.0, 1.0


RULES: dict[str, Rule] = {
    "henkelman": henkelman,
    "draxler2019": draxler2019,
    "draxler2018": draxler2018,
    "bisector": bisector,
}


def _changes(before: float, at: float, after: float) -> tuple[float, float]:
    """The smaller and the larger of |l_{i+1} - l_i| and |l_{i-1} - l_i|."""
    left, right = abs(before - at), abs(after - at)
    return min(left, right), max(left, right)


def _released(before, at, after, back, forth, small: float, large: float) -> Coefficients:
    extremum = before < at > after or before > at < after
    falls = before > after
    a, b = ((small, large) if falls else (large, small)) if extremum else (float(falls), float(not falls))
    return a / max(back, TINY), b / max(forth, TINY)


def tangent_coefficients(
    losses: Sequence[float], lengths: Sequence[float], products: Sequence[float], rule: str
) -> list[Coefficients]:
    """(a, b) of the N - 2 inner pivots of a path: their tangents are of unit length but for draxler2018.

    Where pivots coincide, or the path turns straight back, there is no direction, and the tangent is 0.

    losses: of the N pivots; lengths: |D_i| of the N - 1 gaps; products: D_i . D_{i+1} of the N - 2 neighbouring ones.
    """
    if rule not in RULES:
        raise LossAtlasError(f"tangent rule {rule!r} is unknown; use one of {', '.join(RULES)}")
    pivots = zip(losses, losses[1:], losses[2:], lengths, lengths[1:], strict=False)
    found = [RULES[rule](*pivot) for pivot in pivots]
    if rule == "draxler2018":
        return found
    units = []
    for (a, b), back, forth, product in zip(found, lengths, lengths[1:], products, strict=False):
        # products, since a power of a float raises where it overflows
        square = (a * back) * (a * back) + 2 * a * b * product + (b * forth) * (b * forth)
        unfolded = a * back + b * forth
        folded = square <= FOLDED * unfolded * unfolded
        scale = math.inf if folded else math.sqrt(square)
        units.append((a / scale, b / scale))
    return units


def tangents(path: Tensor, losses: Tensor, rule: str = "henkelman") -> Tensor:
    """The tangents (N - 2, P) at the inner pivots of a path (N, P) with the losses (N,), ends included.

    rule: `henkelman`, or as released `draxler2019`, `draxler2018`, or the placebo `bisector`. Of unit length, except
    that `draxler2018` is not where a pivot is an extremum, and that the tangent is 0 where there is no direction: at
    pivots that coincide, or where the path turns straight back.
    """
    differences = path.diff(dim=0)
    products = torch.linalg.vecdot(differences[:-1], differences[1:])
    found = tangent_coefficients(losses.tolist(), lengths_of(differences).tolist(), products.tolist(), rule)
    a, b = torch.tensor(found, dtype=torch.float64).to(path).view(-1, 2, 1).unbind(1)
    return a * differences[:-1] + b * differences[1:]
