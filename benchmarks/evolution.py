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

WIDTHS = (40, 100, 100, 10)
POPULATION, SIGMA, RATE = 256, 0.01, 0.05
TABLE_NUMBERS = 2**24  # normals of the shared table, as in `lossatlas.studies.evolution.classification`


class Case:
    """A network, a minibatch, and the noise of a generation."""

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self.network = mlp(WIDTHS)
        self.problem = NetworkProblem(self.network, *synthetic(batch_size, WIDTHS[0]))
        self.theta = initial(lambda: mlp(WIDTHS), [0])[0]
        self.table = torch.randn(TABLE_NUMBERS, generator=torch.Generator().manual_seed(0))

    @property
    def name(self) -> str:
        return f"generation of {POPULATION} x {'-'.join(map(str, WIDTHS))}, batch {self.batch_size}"

    @property
    def flop(self) -> float:
        """Of the forward passes alone; noise, ranks and the sum of directions are overhead."""
        return 2 * POPULATION * self.batch_size * sum(a * b for a, b in pairwise(WIDTHS))

    def ours(self) -> Tensor:
        """Parameters after one generation."""
        found = evolution.generation(
            self.problem, self.theta, SIGMA, POPULATION, 1, "antithetic", "ranks", table=self.table
        )
        return self.theta - RATE * found.gradient

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
    return Speed(claim, tuple((case.flop / mine) / (2 * PEAK_SIDE**3 / peak) for mine, peak in seconds), target)


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
        with torch.no_grad():
            members = pgpe_ask(state, popsize=POPULATION)
            return pgpe_tell(state, members, case.losses_of(members))

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
