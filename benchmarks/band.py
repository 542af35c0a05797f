"""A step of an elastic band over a network: against the machine's matrix product, geometry and all included."""

import torch

from benchmarks.measure import Speed, must_agree, paired_seconds, synthetic
from lossatlas.elastic_band import geometry, neb
from lossatlas.minibatches import endless_rows
from lossatlas.problems.architectures import mlp
from lossatlas.problems.network import NetworkProblem, initial

PIVOTS, BATCH = 11, 512
AGREEING_STEPS = 3  # after which both sides still round alike
PEAK_SIDE = 2048  # of the square matrices whose product is the peak
LEARNING_RATE, MOMENTUM, DECAY = 0.1, 0.9, 1e-4
CASES = {  # steps of a timing (of about half a second), target
    (64, 32, 32, 10): (200, 0.4),
    (40, 100, 100, 10): (60, 0.5),
    (784, 100, 100, 10): (20, 0.6),
}


class Case:
    """A band of 11 pivots between two networks, on minibatches of 512 rows that all pivots share."""

    def __init__(self, widths: tuple[int, ...], batch: int, steps: int):
        x, y = synthetic(8 * batch, widths[0])
        self.widths, self.batch, self.steps = widths, batch, steps
        self.problem = NetworkProblem(mlp(widths), x, y)
        ends = initial(lambda: mlp(widths), range(2))
        # a bent path, since on a straight one nothing has to be redistributed
        bend = torch.linspace(0, 3.14159, PIVOTS).sin()[:, None] * initial(lambda: mlp(widths), [2])
        self.path = geometry.straight(*ends, PIVOTS) + bend

    @property
    def flop(self) -> float:
        """Of all steps: three products of each weight for inner pivots (two in the first layer), one for the ends."""
        weights = [a * b for a, b in zip(self.widths[:-1], self.widths[1:], strict=True)]
        inner = (6 * sum(weights) - 2 * weights[0]) * (PIVOTS - 2)
        return (inner + 2 * sum(weights) * 2) * self.batch * self.steps

    def band(self) -> torch.Tensor:
        """The path after the steps of our band."""
        return neb(
            self.problem,
            self.path,
            steps=self.steps,
            learning_rate=LEARNING_RATE,
            momentum=MOMENTUM,
            weight_decay=DECAY,
            batch_size=self.batch,
        ).path

    def one_after_another(self) -> torch.Tensor:
        """The same by the plain loop over pivots, in the order in which the paper tells it."""
        batches = endless_rows(self.problem.rows, self.batch, [torch.Generator().manual_seed(0)])
        path, velocity = self.path.clone(), torch.zeros_like(self.path[1:-1])
        for _ in range(self.steps):
            batch = self.problem.on(next(batches)[0])
            points = [p.clone().requires_grad_() for p in path]
            losses = torch.stack([batch(p) + 0.5 * DECAY * p.square().sum() for p in points])
            gradients = torch.stack(torch.autograd.grad(losses.sum(), points))[1:-1]
            tangents = geometry.tangents(path, losses.detach())
            gradients -= (gradients * tangents).sum(-1, keepdim=True) * tangents
            velocity = MOMENTUM * velocity + gradients
            path[1:-1] -= LEARNING_RATE * velocity
            path = geometry.redistribute(path, passes=1)
        return geometry.redistribute(path)


def share_of_peak(widths: tuple[int, ...], steps: int, target: float, repeats: int = 7) -> Speed:
    case, short = Case(widths, BATCH, steps), Case(widths, BATCH, AGREEING_STEPS)
    claim = f"band of {PIVOTS} x {'-'.join(map(str, widths))}, batch {BATCH}, share of the matrix-product peak"
    must_agree(short.band(), short.one_after_another(), claim)
    a, b = torch.randn(2, PEAK_SIDE, PEAK_SIDE)
    peak_flop = 2 * PEAK_SIDE**3
    seconds = paired_seconds(case.band, lambda: a @ b, repeats)
    return Speed(claim, tuple((case.flop / mine) / (peak_flop / peak) for mine, peak in seconds), target)


def speeds():
    for widths, (steps, target) in CASES.items():
        yield share_of_peak(widths, steps, target)
