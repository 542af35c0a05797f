"""Bands on surfaces whose saddles are known: what the note says of the method, without noise and in float64."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from lossatlas import ensemble
from lossatlas.elastic_band import (
    CORRECTED,
    Cycle,
    mean_losses,
    neb,
    profile,
    refine,
    segment_lengths,
    straight,
)
from lossatlas.elastic_band.auto_neb import insert
from lossatlas.problems import CurvyValley, DoubleWell, Eggcarton, MuellerBrown, Ring

PIVOTS = 11
SPRING_PIVOTS = 12  # even, so that no pivot sits on the double well's saddle by symmetry
STEPS = 200
SPRINGS = tuple(np.logspace(-2, 2, 9).tolist())  # four decades
STIFF = 3e4  # where the mechanical model is the straight line to a part in a hundred
NEB_SPRINGS = (0.1, 1.0, 10.0, 100.0)  # three decades
WELL = DoubleWell(bend=1.0, stiffness=4.0)


def measure() -> list[dict[str, Any]]:
    """Rows (quantity, surface, setting, value)."""
    found = [*_saddles(), *_springs(), *_insertion(), *_local_paths()]
    return [
        dict(zip(("quantity", "surface", "setting", "value"), (q, s, float(k), float(v)), strict=True))
        for q, s, k, v in found
    ]


Rows = Iterator[tuple[str, str, float, float]]


def _saddles() -> Rows:
    """The saddle that a climbing band ends at, against the exact one."""
    for name, problem, ends, exact, rate in _surfaces():
        path = straight(*ends, PIVOTS)
        path = neb(problem, path, steps=STEPS, learning_rate=rate).path
        path = neb(problem, path, steps=2 * STEPS, learning_rate=rate, climbing=True).path
        losses, slopes = ensemble.gradient(problem, path)
        top = int(losses[1:-1].argmax()) + 1
        yield "saddle_error", name, 0, abs(float(losses[top]) - exact)
        yield "gradient_norm", name, 0, float(slopes[top].norm())
        yield "negative_curvatures", name, 0, int((_hessian(problem, path[top]) < 0).sum())


def _surfaces() -> Iterator[tuple[str, Any, Tensor, float, float]]:
    """(name, problem, ends (2, P), exact saddle, learning rate)."""

    def at(*rows: tuple[float, float]) -> Tensor:
        return torch.tensor(rows, dtype=torch.float64)

    x0 = 2.5 * math.pi
    yield "double well", WELL, at((-1, 0), (1, 0)), 1.0, 0.005
    yield "curvy valley", CurvyValley(), at((-x0, -1), (x0, 1)), 1.0, 0.05
    yield "eggcarton", Eggcarton(), at((0.5, 0.5), (1.5, 0.5)), 0.0, 0.005
    ring = Ring((1.0, 2.0, 3.0))
    yield "ring", ring, ring.minima()[[0, 1]], 1.0, 0.005
    surface = MuellerBrown()
    minima = at(*(_critical(surface, guess) for guess in ((-0.56, 1.44), (-0.05, 0.47), (0.62, 0.03))))
    saddles = at(*(_critical(surface, guess) for guess in ((-0.82, 0.62), (0.21, 0.29))))
    heights = surface(saddles).tolist()
    for number, height in enumerate(heights):
        yield f"mueller-brown {number + 1}", surface, minima[number : number + 2], height, 2e-4


def _critical(problem, guess: tuple[float, float]) -> tuple[float, float]:
    """The point near a guess where the gradient vanishes, by Newton's method."""
    theta = torch.tensor(guess, dtype=torch.float64)
    for _ in range(50):
        slope = ensemble.gradient(problem, theta[None])[1][0]
        theta = theta - torch.linalg.solve(torch.autograd.functional.hessian(problem, theta), slope)
    return tuple(theta.tolist())


def _hessian(problem, theta: Tensor) -> Tensor:
    """Eigenvalues of the Hessian at theta (P,)."""
    return torch.linalg.eigvalsh(torch.autograd.functional.hessian(problem, theta))


# --- springs ----------------------------------------------------------------------------------------------------------


def mechanical(problem, a: Tensor, b: Tensor, spring: float, pivots: int = SPRING_PIVOTS) -> Tensor:
    """The path (N, P) of least energy sum_i L(p_i) + sum_i ½ k ‖p_{i+1} - p_i‖² near the straight line."""
    start = straight(a, b, pivots)

    def energy(flat: np.ndarray) -> tuple[float, np.ndarray]:
        inner = torch.from_numpy(flat).view(-1, problem.dim)
        path = torch.cat([start[:1], inner, start[-1:]])
        losses, slopes = ensemble.gradient(problem, inner)
        stretch = path.diff(dim=0)
        force = slopes - spring * path.diff(n=2, dim=0)
        return float(losses.sum() + 0.5 * spring * stretch.square().sum()), force.flatten().numpy()

    options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-9}
    found = minimize(energy, start[1:-1].flatten().numpy(), jac=True, method="L-BFGS-B", options=options)
    return torch.cat([start[:1], torch.from_numpy(found.x).view(-1, problem.dim), start[-1:]])


def _saddle(problem, path: Tensor) -> float:
    function = mean_losses(problem)
    return refine(function, path, profile(function, path), tolerance=1e-9).saddle


def _springs() -> Rows:
    """The mechanical model and the nudged band on the double well, against the spring constant."""
    a, b = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    distance = float((b - a).norm())
    segment = _saddle(WELL, straight(a, b))  # which is its barrier, since both ends have loss 0
    ratios, contains, saddles = [], [], []
    for spring in SPRINGS:
        path = mechanical(WELL, a, b, spring)
        lengths = segment_lengths(path)
        longest = int(lengths.argmax())
        ratios.append(float(lengths.max() / lengths.mean()))
        # the saddle lies on x = 0, between the two halves
        contains.append(bool(path[longest, 0] <= 0 <= path[longest + 1, 0]))
        saddles.append(_saddle(WELL, path))
        yield "longest_over_mean", "double well", spring, ratios[-1]
        yield "mechanical_saddle", "double well", spring, saddles[-1]
        yield "mechanical_length", "double well", spring, float(lengths.sum()) / distance
    rises = sum(later > earlier + 1e-6 for earlier, later in pairwise(ratios))
    yield "small_springs_violations", "double well", SPRINGS[0], rises + (not contains[0])
    stiff = mechanical(WELL, a, b, STIFF)
    yield "large_springs_length", "double well", STIFF, abs(float(segment_lengths(stiff).sum()) / distance - 1)
    yield "large_springs_saddle", "double well", STIFF, abs(_saddle(WELL, stiff) / segment - 1)
    start = straight(a, b, SPRING_PIVOTS)
    converged = neb(WELL, start, steps=2 * STEPS, learning_rate=0.005).path
    redistributed = _saddle(WELL, converged)
    nudged = []  # from the converged path: weak springs alone would need very many steps to space the pivots
    for spring in NEB_SPRINGS:
        rate = 0.005 / max(1.0, spring / 10)
        band = neb(WELL, converged, steps=STEPS, learning_rate=rate, spring=spring, arm=CORRECTED)
        nudged.append(_saddle(WELL, band.path))
        yield "neb_saddle", "double well", spring, nudged[-1]
    same = [_saddle(WELL, mechanical(WELL, a, b, spring)) for spring in NEB_SPRINGS]
    yield "neb_saddle_change", "double well", 0, (max(nudged) - min(nudged)) / segment
    yield "mechanical_saddle_change", "double well", 0, (max(same) - min(same)) / segment
    yield "springs_or_redistribution", "double well", 0, max(abs(s - redistributed) for s in nudged) / segment


# --- insertion and local paths ----------------------------------------------------------------------------------------


def _insertion() -> Rows:
    """A bump that hides between two flat pivots gets a pivot, a dip there does not."""
    path = straight(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64), 6)
    weights = torch.full((5,), 0.2, dtype=torch.float64)
    for gap in range(5):
        found = []
        for sign in (1.0, -1.0):

            def hidden(theta: Tensor, centre: float = 0.2 * gap + 0.1, sign: float = sign) -> Tensor:
                return sign * (1 - ((theta[:, 0] - centre) / 0.05).square()).clamp_min(0)

            seen = profile(hidden, path)
            longer, _ = insert(path, weights, seen, Cycle(1, 0.1, "highest", 2), CORRECTED, torch.Generator())
            inside = (longer[:, 0] > 0.2 * gap + 1e-9) & (longer[:, 0] < 0.2 * (gap + 1) - 1e-9)
            found.append(int(inside.sum()) if len(longer) == 6 + int(inside.sum()) else 2)
        yield "bump_recall", "hidden bump", gap, found[0] - found[1]


def _local_paths() -> Rows:
    """On the diagonal of an egg carton the force across the path vanishes, and the band stays on a maximum."""
    problem = Eggcarton()
    a, b, c = torch.tensor([[0.5, 0.5], [1.5, 0.5], [1.5, 1.5]], dtype=torch.float64)

    def band(start: Tensor, end: Tensor) -> float:
        return _saddle(problem, neb(problem, straight(start, end, PIVOTS), steps=STEPS, learning_rate=0.005).path)

    yield "eggcarton_excess", "eggcarton", 0, band(a, c) - max(band(a, b), band(b, c))
