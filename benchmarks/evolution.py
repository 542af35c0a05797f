"""One generation of an evolution strategy: against the machine's matrix product, and against evotorch's PGPE.

A generation samples 256 mirrored members of an MLP, evaluates them on one minibatch, ranks, estimates and steps.
"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from benchmarks.ensemble import PEAK_SIDE
from benchmarks.measure import Speed, must_agree, paired_seconds, synthetic
from lossatlas import ensemble, evolution
from lossatlas.problems.architectures import mlp
from lossatlas.problems.network import NetworkProblem, initial
from lossatlas.studies.evolution.classification import noise_table

WIDTHS = (40, 100, 100, 10)
POPULATION, SIGMA, RATE = 256, 0.01, 0.05
GENERATIONS = 10  # timed together, as in a training: each finds the caches as the one before left them


class Case:
    """A network, a minibatch, and the noise of a generation."""

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self.network = mlp(WIDTHS)
        self.problem = NetworkProblem(self.network, *synthetic(batch_size, WIDTHS[0]))
        self.theta = initial(lambda: mlp(WIDTHS), [0])[0]
        self.table = noise_table()

    @property
    def name(self) -> str:
        return f"generation of {POPULATION} x {'-'.join(map(str, WIDTHS))}, batch {self.batch_size}"

    @property
    def flop(self) -> float:
        """Of a generation's products alone, so all else is overhead: noise, perturbation, ranks, the sum of directions.

        The first layer's product is needed once a pair, since it is linear in the direction.
        """
        first, *others = [a * b for a, b in pairwise(WIDTHS)]
        return 2 * POPULATION * self.batch_size * (first / 2 + sum(others))

    def ours(self, generations: int = GENERATIONS) -> Tensor:
        """Parameters after some generations."""
        theta = self.theta
        for key in range(generations):
            found = evolution.generation(
                self.problem, theta, SIGMA, POPULATION, key, "antithetic", "ranks", table=self.table
            )
            theta = theta - RATE * found.gradient
        return theta

    def losses_of(self, members: Tensor) -> Tensor:
        """Losses of members (n, P) by a vmap over the network, as the peer's users write it."""

        def loss(theta: Tensor) -> Tensor:
            logits = functional_call(self.network, self.problem.layout.split(theta), (self.problem.x,))
            return torch.nn.functional.cross_entropy(logits, self.problem.y)

        return vmap(loss)(members)


def share_of_peak(batch_size: int, target: float, repeats: int = 15) -> Speed:
    case = Case(batch_size)
    claim = f"{case.name}, share of the matrix-product peak"
    a, b = torch.randn(2, PEAK_SIDE, PEAK_SIDE)
    seconds = paired_seconds(case.ours, lambda: a @ b, repeats)
    return Speed(
        claim, tuple((GENERATIONS * case.flop / mine) / (2 * PEAK_SIDE**3 / peak) for mine, peak in seconds), target
    )


def against_evotorch(repeats: int = 9) -> Speed | None:
    """None where the peer is not installed."""
    try:
        from evotorch.algorithms.functional import pgpe, pgpe_ask, pgpe_tell
    except ImportError:
        return None
    case = Case(100)
    state = pgpe(
        center_init=case.theta,
        center_learning_rate=RATE,
        stdev_init=SIGMA,
        stdev_learning_rate=0.1,
        objective_sense="min",
        ranking_method="centered",
        optimizer="sgd",
    )

    def theirs():
        now = state
        with torch.no_grad():
            for _ in range(GENERATIONS):
                members = pgpe_ask(now, popsize=POPULATION)
                now = pgpe_tell(now, members, case.losses_of(members))
        return now

    claim = f"{case.name}, vs evotorch's functional PGPE and vmap"
    members = evolution.points(case.theta, evolution.sample(0, 32, case.problem.dim), SIGMA, mirrored=True)
    with torch.no_grad():
        must_agree(ensemble.loss(case.problem, members), case.losses_of(members), claim)
    seconds = paired_seconds(case.ours, theirs, repeats)
    return Speed(claim, tuple(peer / mine for mine, peer in seconds), target=2.0)


def speeds():
    yield share_of_peak(100, target=0.5)
    yield share_of_peak(1000, target=0.55)
    if (compared := against_evotorch()) is None:
        print("skipped: evotorch is not installed (pip install -e .[peers])")
    else:
        yield compared
