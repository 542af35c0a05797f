"""The saddles of a group of minima, from the rows of its bands: no tensors, so that figures may use it, too."""

from collections.abc import Iterable, Mapping
from math import inf
from typing import Any

from lossatlas.spanning_tree import Pair


def lowest(rows: Iterable[Mapping[str, Any]]) -> dict[Pair, float]:
    """{pair: its lowest saddle over starts}, in the order of running, from the rows of one group."""
    saddles: dict[Pair, float] = {}
    for row in sorted(rows, key=lambda row: row["order"]):
        pair = (int(row["i"]), int(row["j"]))
        saddles[pair] = min(saddles.get(pair, inf), float(row["train_loss_saddle"]))
    return saddles
