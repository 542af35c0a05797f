"""What a teleport costs, in gradients of the same network on the same batch; and a step against the published one.

And the abscissa that results cannot hold: seconds. For each arm of the MLP regression of Zhao et al. 2022 (Figure 3)
it is measured what its teleport takes, against the gradients it is booked with, and which loss an untouched run has
reached in the seconds of the teleported one.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.measure import Speed, cpu_seconds, must_agree, synthetic
from lossatlas import ensemble
from lossatlas.problems.architectures import LEAK, mlp
from lossatlas.problems.network import NetworkProblem, initial
from lossatlas.studies.teleport import regression
from lossatlas.studies.teleport.descent import Descent, members
from lossatlas.studies.teleport.plan import AT, EPOCHS
from lossatlas.teleport import bent_gradient
from lossatlas.teleport.general_linear import GeneralLinear, exponential, invert, leaky
from lossatlas.teleport.groups import PositiveScaling

WIDTHS, ROWS = (784, 128, 128, 10), 200
CANDIDATES = 1000
CHUNK = 250  # candidates whose factors fit the cache
SEEDS = tuple(range(25))
ARMS = {"gl_radii": [0.5], "gl_radius": 0.5, "gl_candidates": 20, "scaling_radii": [1.0], "scaling_radius": 1.0,
        "candidates": CANDIDATES}  # fmt: skip
MULTIPLES = (1.0, 3.0, 5.0, 10.0, 20.0, 30.0)  # of the published rate, the same for every arm
LONGEST = 3 * EPOCHS  # steps of the untouched run: more than any arm's seconds pay for


class Case:
    """One network without biases and a batch."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS, rows: int = ROWS):
        def build():
            return mlp(widths, "leaky_relu", bias=False)

        x, y = synthetic(rows, widths[0])
        self.problem = NetworkProblem(build(), x, y % widths[-1])
        self.theta = initial(build, [0])
        self.scaling = PositiveScaling(self.problem)
        self.linear = GeneralLinear(self.problem, least_squares=True)
        generator = torch.Generator().manual_seed(0)
        self.candidates = 0.1 * torch.randn(1, CANDIDATES, self.scaling.units, generator=generator)

    def gradient(self) -> Tensor:
        return ensemble.gradient(self.problem, self.theta)[1]

    def score_candidates(self) -> Tensor:
        """||grad L||² (1, candidates) on the scaling orbit, the one gradient included."""
        slope = self.gradient()
        parts = [self.scaling.gradient_squares(slope, part) for part in self.candidates.split(CHUNK, 1)]
        return torch.cat(parts, 1)

    def ascend(self, length: float = 0.1) -> Tensor:
        """One step of ascent on GL: gradient, product with the Hessian, direction, action."""
        _, q = bent_gradient(self.problem, self.theta)
        tangents = self.linear.direction(self.theta, q)
        norm = torch.stack([t.square().sum((-2, -1)) for t in tangents]).sum(0).sqrt()
        return self.linear.act(self.theta, exponential([length / norm[:, None, None] * t for t in tangents]))

    def ascend_through_pinv(self) -> list[Tensor]:
        """The published way to a direction: differentiate ||grad L||² through the action and its pseudo-inverse."""
        weights = list(self.problem.layout.split(self.theta[0]).values())
        tangents = [torch.zeros(w.shape[0], w.shape[0], requires_grad=True) for w in weights[:-1]]
        h, moved = self.problem.x.mT, list(weights)
        for i, tangent in enumerate(tangents):
            eye = torch.eye(len(tangent))
            z = moved[i] @ h
            new = invert((eye + tangent) @ leaky(z, LEAK), LEAK)
            moved[i] = moved[i] + (new - z) @ torch.linalg.pinv(h)
            moved[i + 1] = moved[i + 1] @ (eye - tangent)
            h = leaky(new, LEAK)
        theta = torch.cat([w.flatten() for w in moved])[None]
        (slope,) = torch.autograd.grad(self.problem(theta).sum(), theta, create_graph=True)
        return list(torch.autograd.grad(slope.square().sum() / 2, tangents))

    def directions(self) -> tuple[Tensor, Tensor]:
        """The same direction by both ways, each as one normalised vector."""
        _, q = bent_gradient(self.problem, self.theta)
        both = self.linear.direction(self.theta, q), self.ascend_through_pinv()
        ours, theirs = (torch.cat([t.flatten() for t in tangents]) for tangents in both)
        return ours / ours.norm(), theirs / theirs.norm()


class Seconds:
    """All seeds of the regression together, at the step of the teleport; arms as in the study."""

    def __init__(self, seeds: tuple[int, ...] = SEEDS, multiples: tuple[float, ...] = MULTIPLES):
        self.setting = regression.SETTINGS["sgd"]
        self.seeds, self.multiples = seeds, multiples
        self.problem, theta = regression.problem_of(seeds)
        start = Descent(theta, "sgd", torch.full((len(seeds),), self.setting.rate))
        for _ in range(AT):
            start.step(self.problem)
        self.theta = start.theta
        self.arms = regression.arms(self.setting, seeds, ARMS)
        self.descent = Descent(self.theta, "sgd", torch.full((len(seeds),), self.setting.rate))
        self.untouched = self.losses(self.theta, LONGEST)

    def step(self) -> None:
        self.descent.step(self.problem)

    def teleport(self, arm: str):
        return self.arms[arm](self.problem, self.theta, None)

    def losses(self, theta: Tensor, epochs: int = EPOCHS) -> Tensor:
        """Log losses (seeds, rates, epochs - AT), inf where a run diverged."""
        which, rates = members(self.seeds, [self.setting.rate * m for m in self.multiples])
        going = Descent(theta[which], "sgd", rates)
        wide = regression.wide(self.problem, len(self.multiples))
        losses = torch.stack([going.step(wide) for _ in range(epochs - AT)], -1).log()
        losses[going.diverged_at >= 0] = torch.inf
        return losses.unflatten(0, (len(self.seeds), -1))

    def at_equal_seconds(self, teleported: Tensor, extra: float) -> float:
        """Geometric mean over seeds of the untouched loss over the teleported (seeds, rates, epochs), best rates both.

        extra: what the teleport took, in steps, which the untouched run has more.
        """
        last = min(EPOCHS - AT + round(extra), self.untouched.shape[-1]) - 1
        ends = [curve.mean(0).nan_to_num(nan=torch.inf).min() for curve in
                (self.untouched[..., last], teleported[..., -1])]  # fmt: skip
        return (ends[0] - ends[1]).exp().item()


def seconds(repeats: int = 9, case: Seconds | None = None) -> Iterator[Speed]:
    """Two lines an arm: gradients booked over those that its seconds are worth, and the loss at equal seconds."""
    case = case or Seconds()
    for arm in case.arms:
        found = case.teleport(arm)
        curves = case.losses(found.theta)
        measured = ratios(lambda arm=arm: case.teleport(arm), case.step, repeats, 20)
        yield Speed(f"regression, {arm}: gradients booked over measured", tuple(found.cost / m for m in measured), 1.0)
        at_equal = tuple(case.at_equal_seconds(curves, m) for m in measured)
        yield Speed(f"regression, {arm}: loss of none over its own, equal seconds", at_equal, 1.0)


def ratios(slow, fast, repeats: int, calls: int) -> tuple[float, ...]:
    """CPU seconds of one `slow` over those of one `fast`, `calls` of which are timed together, in turns."""
    slow()
    fast()
    return tuple(
        cpu_seconds(slow) / (cpu_seconds(lambda: [fast() for _ in range(calls)]) / calls) for _ in range(repeats)
    )


def speeds(repeats: int = 9):
    """Ratios are written so that more is better: how many times the budget of gradients would have been enough."""
    case = Case()
    name = "-".join(map(str, WIDTHS))
    cost = ratios(case.score_candidates, case.gradient, repeats, 20)
    claim = f"{CANDIDATES} scaling candidates of {name}, 3 gradients over their cost"
    yield Speed(claim, tuple(3 / c for c in cost), 1.0)
    cost = ratios(case.ascend, case.gradient, repeats, 20)
    yield Speed(f"a GL ascent step of {name}, 8 gradients over its cost", tuple(8 / c for c in cost), 1.0)
    claim = f"a GL ascent step of {name}, vs through the pseudo-inverse"
    must_agree(*case.directions(), claim)
    yield Speed(claim, ratios(case.ascend_through_pinv, case.ascend, repeats, 1), 1.0)
    yield from seconds(repeats)
