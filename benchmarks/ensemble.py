"""Training 16 networks at once: against the machine's matrix product, and against training them one after another."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import Speed, must_agree, paired_seconds, synthetic
from lossatlas.minibatches import minibatch_rows
from lossatlas.problems.architectures import mlp
from lossatlas.problems.network import NetworkProblem, initial
from lossatlas.training import Recipe, train

MEMBERS = 16
LEARNING_RATE = 0.05
PEAK_SIDE = 2048  # of the square matrices whose product is the peak


class Case:
    """16 networks of one architecture that see the same minibatches."""

    def __init__(self, widths: tuple[int, ...], rows: int, batch_size: int, steps: int):
        self.widths, self.recipe = widths, Recipe("momentum", steps=steps, batch_size=batch_size)
        self.x, self.y = synthetic(rows, widths[0])
        self.problem = NetworkProblem(mlp(widths), self.x, self.y)
        self.theta = initial(lambda: mlp(widths), range(MEMBERS))

    @property
    def name(self) -> str:
        return f"{MEMBERS} x {'-'.join(map(str, self.widths))}, batch {self.recipe.batch_size}"

    @property
    def flop(self) -> float:
        """Of all steps: forward and both backward products of each weight, without the gradient of the inputs."""
        weights = [a * b for a, b in zip(self.widths[:-1], self.widths[1:], strict=True)]
        return (6 * sum(weights) - 2 * weights[0]) * self.recipe.batch_size * MEMBERS * self.recipe.steps

    def together(self) -> Tensor:
        """Mean minibatch losses (members, epochs) of our ensemble."""
        return train(self.problem, self.theta, self.recipe, LEARNING_RATE).losses

    def one_after_another(self) -> Tensor:
        """The same by the plain loop that anyone would write for one network."""
        return torch.stack([self._one(self.problem.layout.write(member, mlp(self.widths))) for member in self.theta])

    def _one(self, network: nn.Module) -> Tensor:
        optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=self.recipe.momentum)
        epochs, step = [], 0
        while step < self.recipe.steps:
            losses = []
            for rows in minibatch_rows(len(self.y), self.recipe.batch_size, [0], len(epochs)):
                loss = F.cross_entropy(network(self.x[rows]), self.y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            step += len(losses)
            epochs.append(torch.stack(losses).mean())
        return torch.stack(epochs)


def share_of_peak(repeats: int = 7) -> Speed:
    case = Case((784, 64, 64, 10), rows=5120, batch_size=512, steps=40)
    claim = f"training {case.name}, share of the matrix-product peak"
    must_agree(case.together(), case.one_after_another(), claim)
    a, b = torch.randn(2, PEAK_SIDE, PEAK_SIDE)
    peak_flop = 2 * PEAK_SIDE**3
    seconds = paired_seconds(case.together, lambda: a @ b, repeats)
    return Speed(claim, tuple((case.flop / mine) / (peak_flop / peak) for mine, peak in seconds), target=0.6)


def against_a_loop(repeats: int = 7) -> Speed:
    case = Case((40, 100, 100, 10), rows=4000, batch_size=100, steps=120)
    claim = f"training {case.name}, vs one after another"
    must_agree(case.together(), case.one_after_another(), claim)
    seconds = paired_seconds(case.together, case.one_after_another, repeats)
    return Speed(claim, tuple(loop / mine for mine, loop in seconds), target=3.0)


def speeds():
    yield share_of_peak()
    yield against_a_loop()
