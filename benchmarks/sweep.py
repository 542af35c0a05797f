"""The loss along the line between two networks, against loss-landscapes 3.0.6 (the release that pip installs)."""

import copy

import torch
import torch.nn.functional as F
from loss_landscapes import linear_interpolation, point
from loss_landscapes.metrics import Loss
from torch import Tensor

from benchmarks.measure import Speed, must_agree, paired_seconds, synthetic
from lossatlas.ensemble import stack
from lossatlas.interpolation import sweep
from lossatlas.problems.architectures import mlp
from lossatlas.problems.network import NetworkProblem

POINTS = 50
CASES = (((784, 100, 10), 10_000, 8.0), ((784, 1024, 1024, 10), 1024, 1.5))


def run(widths: tuple[int, ...], rows: int, target: float, repeats: int = 7) -> Speed:
    x, y = synthetic(rows, widths[0])
    torch.manual_seed(0)
    start, end = mlp(widths), mlp(widths)
    theta = stack([start, end])
    problem = NetworkProblem(start, x, y)
    metric = Loss(F.cross_entropy, x, y)

    def ours() -> Tensor:
        return sweep(problem, theta[:1], theta[1:], POINTS).loss[0]

    def theirs() -> Tensor:
        # the peer steps before it evaluates, so the start is a call of its own; it changes the networks it is given
        rest = linear_interpolation(start, end, metric, POINTS - 1, deepcopy_model=True)
        return torch.tensor([point(copy.deepcopy(start), metric), *rest])

    claim = f"{POINTS}-point sweep of {'-'.join(map(str, widths))}, {rows} rows, vs loss-landscapes"
    must_agree(ours(), theirs(), claim)
    seconds = paired_seconds(ours, theirs, repeats)
    return Speed(claim, tuple(peer / mine for mine, peer in seconds), target)


def speeds():
    for case in CASES:
        yield run(*case)
