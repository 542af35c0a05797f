"""The loss along the line between two networks, against loss-landscapes 3.0.6 (the peer that PyPI has)."""

import torch
import torch.nn.functional as F
from loss_landscapes import linear_interpolation
from loss_landscapes.metrics import Loss

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

    def ours():
        # the peer steps before it evaluates, so its points are i / 50 for i = 1..50: ours has the start as well
        return sweep(problem, theta[:1], theta[1:], POINTS + 1).loss[0, 1:]

    def theirs():
        return torch.from_numpy(linear_interpolation(start, end, metric, POINTS, deepcopy_model=True))

    claim = f"{POINTS}-point sweep of {'-'.join(map(str, widths))}, {rows} rows, vs loss-landscapes"
    must_agree(ours(), theirs(), claim)
    seconds = paired_seconds(ours, theirs, repeats)
    return Speed(claim, tuple(peer / mine for mine, peer in seconds), target)


def speeds():
    for case in CASES:
        yield run(*case)
