"""The minimum spanning tree of saddles, in plain numbers: no tensors, so that figures may use it, too.

Minima are numbered from 0; a pair (i, j) has i < j, and `saddles` maps a pair to the loss of its path's saddle, in the
order in which the paths were found.
"""

from collections.abc import Iterator, Mapping
from itertools import permutations
from math import inf
from typing import NamedTuple

Pair = tuple[int, int]


def minimum_tree(n: int, saddles: Mapping[Pair, float]) -> list[Pair]:
    """The pairs of the minimum spanning tree (a forest, while the pairs do not connect all), lowest first.

    Kruskal's algorithm; among equal saddles the smaller pair comes first, so the tree is one.
    """
    component = list(range(n))
    tree = []
    for pair in sorted(saddles, key=lambda pair: (saddles[pair], pair)):
        a, b = (component[i] for i in pair)
        if a != b:
            tree.append(pair)
            component = [a if c == b else c for c in component]
    return tree


def merges(n: int, saddles: Mapping[Pair, float]) -> Iterator[tuple[set[int], set[int], float]]:
    """Which sets of minima the tree joins, and at which saddle, from the lowest on: the disconnectivity graph."""
    sets = [{i} for i in range(n)]
    for pair in minimum_tree(n, saddles):
        first, second = (next(s for s in sets if i in s) for i in pair)
        yield first, second, saddles[pair]
        sets = [s for s in sets if s is not first and s is not second] + [first | second]


def minimax(n: int, saddles: Mapping[Pair, float]) -> dict[Pair, float]:
    """The lowest of the highest saddles over all ways between two minima, by relaxation over a third (Floyd)."""
    found = {(i, j): saddles.get((min(i, j), max(i, j)), inf) for i, j in permutations(range(n), 2)}
    for k in range(n):
        for i, j in permutations(range(n), 2):
            if k not in (i, j):
                found[i, j] = min(found[i, j], max(found[i, k], found[k, j]))
    return found


def ultrametric_violations(n: int, saddles: Mapping[Pair, float]) -> int:
    """How often B_ac > max(B_ab, B_bc), over the tree's minimax B."""
    found = minimax(n, {pair: saddles[pair] for pair in minimum_tree(n, saddles)})
    return sum(found[a, c] > max(found[a, b], found[b, c]) for a, b, c in permutations(range(n), 3))


class Round(NamedTuple):
    """The tree after so many bands: mean and maximum of its saddles, infinite while it does not connect all."""

    bands: int
    mean: float
    highest: float


def summary(n: int, saddles: Mapping[Pair, float]) -> Round:
    """The tree of all the saddles."""
    heights = [saddles[pair] for pair in minimum_tree(n, saddles)]
    whole = len(heights) == n - 1
    return Round(len(saddles), sum(heights) / len(heights) if whole else inf, max(heights) if whole else inf)


def anytime(n: int, saddles: Mapping[Pair, float]) -> tuple[Round, ...]:
    """The tree after each band, for bands in the order of `saddles`."""
    bands = list(saddles.items())
    return tuple(summary(n, dict(bands[:count])) for count in range(1, len(bands) + 1))
