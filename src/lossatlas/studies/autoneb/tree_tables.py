"""Trees read off the rows of a group's bands, with plain numbers: no tensors, so that figures may use it, too."""

from collections.abc import Iterable, Mapping
from itertools import permutations
from math import inf
from typing import Any

import pandas as pd

Pair = tuple[int, int]


def lowest(rows: pd.DataFrame) -> dict[Pair, float]:
    """{pair: its lowest saddle over starts} of one group, in the order of running."""
    saddles: dict[Pair, float] = {}
    for row in rows.sort_values("order", kind="stable").itertuples():
        pair = (int(row.i), int(row.j))
        saddles[pair] = min(saddles.get(pair, inf), float(row.train_loss_saddle))
    return saddles


def minimum_tree(n: int, saddles: Mapping[Pair, float]) -> list[Pair]:
    """The pairs of the minimum spanning tree (Kruskal), lowest first; among equals the smaller pair."""
    component = list(range(n))
    tree = []
    for pair in sorted(saddles, key=lambda pair: (saddles[pair], pair)):
        a, b = (component[i] for i in pair)
        if a != b:
            tree.append(pair)
            component = [a if c == b else c for c in component]
    return tree


def mean_tree(n: int, saddles: Mapping[Pair, float]) -> float:
    """Mean saddle over the edges of the tree; infinite while it does not connect all minima."""
    tree = minimum_tree(n, saddles)
    return sum(saddles[pair] for pair in tree) / len(tree) if len(tree) == n - 1 else inf


def anytime_table(n: int, saddles: Mapping[Pair, float]) -> list[dict[str, Any]]:
    """Mean and highest saddle of the tree after each band, in the order of `saddles`."""
    so_far: dict[Pair, float] = {}
    rows = []
    for pair, saddle in saddles.items():
        so_far[pair] = saddle
        tree = minimum_tree(n, so_far)
        whole = len(tree) == n - 1
        highest = max(so_far[edge] for edge in tree) if whole else inf
        rows.append({"bands": len(so_far), "mean": mean_tree(n, so_far), "highest": highest})
    return rows


def bottleneck(n: int, saddles: Mapping[Pair, float]) -> dict[Pair, float]:
    """The lowest of the highest saddles over all ways between two minima, by relaxation over a third (Floyd)."""
    found = {(i, j): saddles.get((min(i, j), max(i, j)), inf) for i, j in permutations(range(n), 2)}
    for k in range(n):
        for i, j in permutations(range(n), 2):
            if k not in (i, j):
                found[i, j] = min(found[i, j], max(found[i, k], found[k, j]))
    return found


def ultrametric_violations(n: int, saddles: Mapping[Pair, float]) -> int:
    """How often B_ac > max(B_ab, B_bc), over the tree's bottlenecks B."""
    tree = {pair: saddles[pair] for pair in minimum_tree(n, saddles)}
    found = bottleneck(n, tree)
    return sum(found[a, c] > max(found[a, b], found[b, c]) for a, b, c in permutations(range(n), 3))


def merges(n: int, saddles: Mapping[Pair, float]) -> Iterable[tuple[set[int], set[int], float]]:
    """Which sets of minima the tree joins, and at which saddle, from the lowest on: the disconnectivity graph."""
    sets = [{i} for i in range(n)]
    for pair in minimum_tree(n, saddles):
        first, second = (next(s for s in sets if i in s) for i in pair)
        yield first, second, saddles[pair]
        sets = [s for s in sets if s is not first and s is not second] + [first | second]
