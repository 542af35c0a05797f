"""The rows of minibatches: all that fit of a data set, each once, before there is a fresh order."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lossatlas.errors import LossAtlasError
from lossatlas.seeds import seed


def minibatch_rows(rows: int, batch_size: int, orders: Sequence[int], epoch: int) -> Iterator[Tensor]:
    """Row indices of each minibatch of an epoch: (batch,) if all members share one order, else (k, batch).

    An order is named by an integer and is a fresh permutation each epoch, drawn from (order, epoch) alone; an
    incomplete last minibatch is dropped.
    """
    permutations = {}
    for order in dict.fromkeys(orders):
        generator = torch.Generator().manual_seed(seed("order", order, epoch))
        permutations[order] = torch.randperm(rows, generator=generator)
    if len(permutations) == 1:
        table = next(iter(permutations.values()))
    else:
        table = torch.stack([permutations[order] for order in orders])
    for start in range(0, rows - batch_size + 1, batch_size):
        yield table[..., start : start + batch_size]


def endless_rows(rows: int, batch_size: int, generators: Sequence[torch.Generator]) -> Iterator[Tensor]:
    """Row indices (b, batch) of one minibatch after another, each of the b by its own generator.

    A fresh permutation is drawn when less than a minibatch of the last one is left. Raises `LossAtlasError` for a
    batch larger than the data set.
    """
    if batch_size > rows:
        raise LossAtlasError(f"batch_size {batch_size} is larger than the data set ({rows} rows)")
    return _endless(rows, batch_size, generators)


def _endless(rows: int, batch_size: int, generators: Sequence[torch.Generator]) -> Iterator[Tensor]:
    while True:
        orders = torch.stack([torch.randperm(rows, generator=generator) for generator in generators])
        yield from orders[:, : rows - rows % batch_size].split(batch_size, 1)
