"""A step on six losses, weighted by gradient norms at the outputs: against the plain sum's, and against torchjd's."""

import torch
from torch import Tensor
from torchjd.autojac import backward, jac_to_grad

from benchmarks.measure import Speed, must_agree, paired_seconds
from lossatlas.composite import PowerWeighting
from lossatlas.composite.torchjd_bridge import aggregator
from lossatlas.composite.training import measure
from lossatlas.problems.autoencoder import AutoencoderProblem, convolutional
from lossatlas.problems.network import initial

GOALS = ("mse", "l1", "gradient", "fourier", "mean", "covariance")
MOST = 1.8  # times the plain sum's step, that a step with norms at the outputs may cost


class Case:
    """The convolutional autoencoder of the UvA tutorial with six goals, one minibatch of random images."""

    def __init__(self, side: int, channels: int, latent: int, batch: int):
        shape = (3, side, side)
        x = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0))
        self.problem = AutoencoderProblem(convolutional(shape, channels, latent), x, GOALS)
        self.theta = initial(lambda: convolutional(shape, channels, latent), [0])

    def plain(self) -> Tensor:
        """The gradient (1, P) of the mean of the goals."""
        theta = self.theta.clone().requires_grad_()
        return torch.autograd.grad(self.problem(theta).sum() / len(GOALS), theta)[0]

    def weighted(self, q: float) -> Tensor:
        """The direction (1, P) under weights by the power q of the norms at the outputs."""
        found = measure(self.problem, self.theta)
        return found.pull_back(PowerWeighting(q)(found.gramian))

    def torchjd(self, q: float) -> Tensor:
        """The same by torchjd: the Jacobian at the parameters, then its aggregation."""
        theta = self.theta.clone().requires_grad_()
        outputs = self.problem.outputs(theta)
        backward([goal(outputs).sum() for goal in self.problem.goal_functions()], inputs=[theta])
        jac_to_grad([theta], aggregator(PowerWeighting(q)))
        return theta.grad


def against_the_sum(case: Case, repeats: int = 5) -> Speed:
    claim = f"composite step, {len(GOALS)} losses, norms at the outputs, vs the plain sum"
    must_agree(case.weighted(0.0), case.plain(), claim)
    seconds = paired_seconds(lambda: case.weighted(1.0), case.plain, repeats)
    return Speed(claim, tuple(plain / mine for mine, plain in seconds), target=1 / MOST)


def against_torchjd(case: Case, repeats: int = 3) -> Speed:
    claim = f"the same, vs torchjd's Jacobian of {len(GOALS)} losses"
    must_agree(case.weighted(0.0), case.torchjd(0.0), claim)
    seconds = paired_seconds(lambda: case.weighted(1.0), lambda: case.torchjd(1.0), repeats)
    return Speed(claim, tuple(peer / mine for mine, peer in seconds), target=1.5)


def speeds():
    case = Case(32, 32, 307, batch=64)
    yield against_the_sum(case)
    yield against_torchjd(case)
