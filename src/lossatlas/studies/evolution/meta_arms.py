"""The estimators as arms of a comparison, and the outer descent that runs them: all rates and seeds at once.

The budget axis is the number of inner steps that one seed really runs: every particle, the unperturbed unroll of
truncated ES, and a backward pass counts as much as its forward pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lossatlas.evolution.unrolled import (
    Estimate,
    Memory,
    Unrolled,
    backpropagated,
    begin,
    full_es,
    merge,
    reparameterised,
    windowed_backpropagation,
    windowed_es,
)
from lossatlas.progress import progress
from lossatlas.seeds import seed
from lossatlas.stepper import Stepper

MOMENTUM = 0.9  # Adam's first beta


class Noise:
    """Standard normals (seeds, m, d), one generator a seed, so that another seed moves no other seed's numbers."""

    def __init__(self, benchmark: str, seeds: Sequence[int]):
        self.generators = [torch.Generator().manual_seed(seed("evolution", "meta", benchmark, s)) for s in seeds]

    def draw(self, pairs: int, like: Tensor) -> Tensor:
        d = like.shape[-1]
        return torch.stack([torch.randn(pairs, d, generator=g) for g in self.generators]).to(like)


@dataclass(eq=False)
class Arm:
    """`estimate(theta (rates, seeds, d), share of the updates done)` and the inner steps of one update."""

    name: str
    estimate: Callable[[Tensor, float], Estimate]
    cost: int


def backprop(problem: Unrolled, clip: float | None = None) -> Arm:
    """The exact gradient by backpropagation through the whole unroll, clipped elementwise."""

    def estimate(theta: Tensor, done: float) -> Estimate:
        _, slope = backpropagated(problem, theta[..., None, :])
        bad = ~slope.isfinite()
        slope = torch.where(bad, 0.0, slope)[..., 0, :]
        return Estimate(slope if clip is None else slope.clamp(-clip, clip), bad.any(-1)[..., 0].to(theta.dtype))

    return Arm("backprop" if clip is None else "backprop, clipped", estimate, 2 * problem.steps)


def annealed(first: float, last: float) -> Callable[[float], float]:
    """sigma as a function of the share of updates done, geometric from first to last."""
    return lambda done: first * (last / first) ** done


def es(problem: Unrolled, noise: Noise, pairs: int, sigma: float | Callable[[float], float], name: str = "ES") -> Arm:
    """ES over whole unrolls; a sigma that depends on the share of updates done anneals the smoothing."""

    def estimate(theta: Tensor, done: float) -> Estimate:
        return full_es(problem, theta, noise.draw(pairs, theta), sigma(done) if callable(sigma) else sigma)

    return Arm(name, estimate, 2 * pairs * problem.steps)


def gradients_at_perturbed_points(
    problem: Unrolled, noise: Noise, pairs: int, sigma: float, merged: bool, clip: float | None = None
) -> Arm:
    """The mean gradient at theta ± sigma z, alone or merged with ES on the same unrolls (Metz et al. 2019)."""

    def estimate(theta: Tensor, done: float) -> Estimate:
        rp, es, bad = reparameterised(problem, theta, noise.draw(pairs, theta), sigma)
        gradient = merge(rp, es) if merged else rp.mean(-2)
        if clip is not None:
            gradient = gradient.clamp(-clip, clip)
        return Estimate(gradient, bad.to(theta.dtype).mean(-1))

    return Arm("merge" if merged else "backprop at perturbed points", estimate, 4 * pairs * problem.steps)


def windowed(
    kind: str, problem: Unrolled, noise: Noise, pairs: int, sigma: float, window: int, staggered: bool = False
) -> Arm:
    """Truncated ES, PES or ES-Single; an update after each window."""
    memory: list[Memory] = []

    def estimate(theta: Tensor, done: float) -> Estimate:
        if not memory:
            memory.append(begin(kind, problem, theta, pairs, window, staggered))
        found, memory[0] = windowed_es(kind, problem, theta, memory[0], noise.draw(pairs, theta), sigma, window)
        return found

    centre = (pairs if staggered else 1) if kind == "truncated" else 0
    return Arm(
        {"truncated": "truncated ES", "pes": "PES", "single": "ES-Single"}[kind],
        estimate,
        (2 * pairs + centre) * window,
    )


def truncated_backprop(problem: Unrolled, window: int, copies: int = 1, clip: float | None = None) -> Arm:
    """Truncated backpropagation, averaged over copies of the unroll at different times."""
    memory: list[Memory] = []

    def estimate(theta: Tensor, done: float) -> Estimate:
        if not memory:
            memory.append(begin("truncated", problem, theta, copies, window, copies > 1))
        found, memory[0] = windowed_backpropagation(problem, theta, memory[0], window)
        gradient = torch.where(found.gradient.isfinite(), found.gradient, 0.0)
        return Estimate(gradient if clip is None else gradient.clamp(-clip, clip), found.nonfinite)

    return Arm(f"truncated backprop {window}", estimate, 2 * copies * window)


@dataclass(frozen=True, eq=False)
class Descent:
    """updates (logs,) after which theta (logs, rates, seeds, d) was kept; diverged_at (rates, seeds), -1 where theta
    stayed finite (one that did not stays where it last was); nonfinite (rates, seeds), mean share of lost pairs."""

    updates: list[int]
    theta: Tensor
    diverged_at: Tensor
    nonfinite: Tensor

    @property
    def end(self) -> "Descent":
        """After the last update alone."""
        return replace(self, updates=self.updates[-1:], theta=self.theta[-1:])

    def of_rate(self, place: int) -> "Descent":
        """At one of the rates alone."""
        own = slice(place, place + 1)
        return replace(self, theta=self.theta[:, own], diverged_at=self.diverged_at[own], nonfinite=self.nonfinite[own])


def descend(arm: Arm, start: Tensor, rates: Sequence[float], optimizer: str, updates: int, logs: int) -> Descent:
    """Descend from `start` (seeds, d) at every rate for a number of updates, kept `logs` times and at both ends.

    The optimiser (a name of `lossatlas.training.OPTIMIZERS`) steps a displacement of rate 1, which each rate scales.
    """
    kept_after = sorted({round(updates * i / logs) for i in range(logs + 1)})
    rate = torch.tensor(rates, dtype=start.dtype)[:, None, None]
    theta = start.expand(len(rates), *start.shape).clone()
    stepper = Stepper(theta, optimizer, MOMENTUM)
    diverged = torch.full(theta.shape[:-1], -1)
    lost = theta.new_zeros(theta.shape[:-1])
    kept = [theta]
    for update in progress(updates, arm.name):
        found = arm.estimate(theta, update / max(1, updates - 1))
        with torch.no_grad():
            moved = theta + rate * stepper.step(found.gradient)
            diverged.masked_fill_((diverged < 0) & ~moved.isfinite().all(-1), update)
            theta = torch.where((diverged >= 0)[..., None], theta, moved)
            lost += found.nonfinite
        if update + 1 in kept_after:
            kept.append(theta)
    return Descent(kept_after, torch.stack(kept), diverged, lost / max(1, updates))


def best_rate(losses: Tensor, tuning: int) -> int:
    """Of final losses (rates, seeds), the rate with the lowest median over the first `tuning` seeds; not finite is
    worst."""
    judged = torch.where(losses.isfinite(), losses, torch.inf)[:, :tuning]
    return int(judged.median(dim=1).values.argmin())
