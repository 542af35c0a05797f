"""Gradients of a loss that is the outcome of an inner training, where that loss may be rough.

An inner problem takes `steps` steps, each with a loss; the outer loss L(theta) is their sum. It can be differentiated
exactly (backpropagation through the unroll, forward mode) or smoothed, F_sigma(theta) = E L(theta + sigma z), and its
gradient estimated from perturbed unrolls (evolution strategies, whole or in windows). All estimators are batched:
theta is (..., d), particles are the axis before d, and everything in front (rates, seeds) is run at once.

A loss that is not finite is data: its antithetic pair gives no direction, and the share of such pairs is returned.

Sources: Salimans et al. 2017 (arXiv 1703.03864), whole unrolls; Metz et al. 2019, the merge by inverse variances;
Vicol et al. 2021 (arXiv 2112.13835), truncated ES and PES; Vicol et al. 2023 (arXiv 2304.11153), ES-Single, which is
NRES of Li et al. 2023 (arXiv 2304.12180).
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lossatlas.errors import LossAtlasError

KINDS = ("truncated", "pes", "single")
TINY = 1e-8  # added to the variances of the merge, as released


class Unrolled(Protocol):
    """An inner training as a function of d outer parameters. `t` is the number of steps done before this one."""

    dim: int
    steps: int

    def start(self, theta: Tensor) -> Tensor:
        """States (..., N, S) in which the unrolls of theta (..., N, d) begin."""

    def step(self, state: Tensor, theta: Tensor, t: int | Tensor) -> tuple[Tensor, Tensor]:
        """The states (..., N, S) after one step, and the losses (..., N) of the step; t may differ by particle (N,)."""


# --- unrolls and exact gradients --------------------------------------------------------------------------------------


def unroll(
    problem: Unrolled, theta: Tensor, state: Tensor | None = None, t: int | Tensor = 0, steps: int | None = None
) -> tuple[Tensor, Tensor]:
    """Losses (..., N) of theta (..., N, d), summed over `steps` steps (all) from `state` (the start), and the state."""
    state = problem.start(theta) if state is None else state
    total: Tensor | float = 0.0
    for i in range(problem.steps if steps is None else steps):
        state, loss = problem.step(state, theta, t + i)
        total = total + loss
    return total, state


def outer_loss(problem: Unrolled, theta: Tensor, chunk: int | None = None) -> Tensor:
    """L(theta) (..., N) of theta (..., N, d) without a graph, `chunk` particles at a time; any chunk, same numbers."""
    with torch.no_grad():
        parts = theta.split(chunk or theta.shape[-2], dim=-2)
        return torch.cat([unroll(problem, part)[0] for part in parts], dim=-1)


def backpropagated(problem: Unrolled, theta: Tensor) -> tuple[Tensor, Tensor]:
    """L (..., N) and its gradient (..., N, d) at theta (..., N, d), by backpropagation through the whole unroll."""
    theta = theta.detach().requires_grad_()
    loss, _ = unroll(problem, theta)
    return loss.detach(), torch.autograd.grad(loss.sum(), theta)[0]


def forward_mode(problem: Unrolled, theta: Tensor) -> tuple[Tensor, Tensor]:
    """The same by forward mode: d tangents run along, and nothing is stored. For few outer parameters."""
    d = theta.shape[-1]
    axis = (1,) * (theta.dim() - 1)
    tangents = torch.eye(d, dtype=theta.dtype, device=theta.device).view(d, *axis, d).expand(d, *theta.shape)
    with torch.no_grad():
        copies = theta.detach().expand(d, *theta.shape).contiguous()
        loss, slope = torch.func.jvp(lambda p: unroll(problem, p)[0], (copies,), (tangents.contiguous(),))
    return loss[0], slope.movedim(0, -1)


# --- smoothed gradients over whole unrolls ----------------------------------------------------------------------------


class Estimate(NamedTuple):
    """gradient (..., d), to be descended; nonfinite (...), the share of pairs that had a loss that is not finite."""

    gradient: Tensor
    nonfinite: Tensor


def pair_estimates(plus: Tensor, minus: Tensor, directions: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
    """(L+ - L-) xi / (2 sigma²) of each antithetic pair: losses (..., m), xi (..., m, d) -> (..., m, d), and which
    pairs (..., m) had a loss that is not finite; those give zero."""
    difference = plus - minus
    finite = difference.isfinite()
    difference = torch.where(finite, difference, 0.0)
    return difference[..., None] * directions / (2 * sigma**2), ~finite


def full_es(problem: Unrolled, theta: Tensor, noise: Tensor, sigma: float, chunk: int | None = None) -> Estimate:
    """ES over whole unrolls: theta (..., d), standard normals `noise` (..., m, d), m antithetic pairs."""
    samples, bad = full_es_samples(problem, theta, noise, sigma, chunk)
    return Estimate(samples.mean(-2), bad.to(theta.dtype).mean(-1))


def full_es_samples(
    problem: Unrolled, theta: Tensor, noise: Tensor, sigma: float, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """The estimates of the single pairs (..., m, d), each of them unbiased, and which pairs were not finite."""
    _check(sigma, noise)
    loss = outer_loss(problem, mirrored(theta, sigma * noise), chunk)
    plus, minus = loss.chunk(2, dim=-1)
    return pair_estimates(plus, minus, sigma * noise, sigma)


def mirrored(theta: Tensor, offsets: Tensor) -> Tensor:
    """theta (..., d) plus and minus the offsets (..., m, d) -> (..., 2m, d)."""
    centre = theta[..., None, :]
    return torch.cat([centre + offsets, centre - offsets], dim=-2)


def reparameterised(problem: Unrolled, theta: Tensor, noise: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Backpropagated and ES estimates of grad F_sigma from the same perturbed unrolls, each (..., m, d), one a pair.

    The first is the mean gradient at theta ± sigma z, the second (L+ - L-) z / (2 sigma); the third says which pairs
    (..., m) had a loss or gradient that is not finite: both their estimates are zero.
    """
    _check(sigma, noise)
    loss, slope = backpropagated(problem, mirrored(theta, sigma * noise))
    (plus, minus), slopes = loss.chunk(2, dim=-1), slope.chunk(2, dim=-2)
    mean_slope = (slopes[0] + slopes[1]) / 2
    es, bad = pair_estimates(plus, minus, sigma * noise, sigma)
    bad = bad | ~mean_slope.isfinite().all(-1)
    return torch.where(bad[..., None], 0.0, mean_slope), torch.where(bad[..., None], 0.0, es), bad


def merge(a: Tensor, b: Tensor) -> Tensor:
    """Two samples of estimates (..., n, d) of one gradient, weighted by inverse variances parameter by parameter.

    (a/v_a + b/v_b) / (1/v_a + 1/v_b) with sample variances v + 1e-8 over n (Metz et al. 2019, released code); the
    merged estimate (..., d) has the variance 1/(n/v_a + n/v_b) where a and b are independent.
    """
    if a.shape[-2] < 2:
        raise LossAtlasError("the merge weighs by sample variances: it needs at least two pairs")
    weights = [1 / (x.var(-2) + TINY) for x in (a, b)]
    return (a.mean(-2) * weights[0] + b.mean(-2) * weights[1]) / (weights[0] + weights[1])


# --- smoothed and exact gradients window by window --------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Memory:
    """What a windowed estimator remembers between windows.

    state (..., m, S) of the unperturbed theta (`truncated`; m may be 1), else (..., 2m, S) of the particles. history
    (..., m, d): the sum of the perturbations since the start (`pes`) or the one in use (`single`). time: steps
    done, one number or (m,) where pairs began at different times.
    """

    state: Tensor
    history: Tensor
    time: int | Tensor


def begin(kind: str, problem: Unrolled, theta: Tensor, pairs: int, window: int, staggered: bool = False) -> Memory:
    """The memory before the first window. Staggered: pair i starts i/m of the way, from the unperturbed unroll.

    Raises `LossAtlasError` unless windows tile the inner problem.
    """
    if kind not in KINDS:
        raise LossAtlasError(f"{kind!r} is no windowed estimator: take one of {', '.join(KINDS)}")
    if problem.steps % window:
        raise LossAtlasError(f"a window of {window} steps does not tile {problem.steps} steps: take a divisor")
    centre = theta[..., None, :]
    history = theta.new_zeros(*theta.shape[:-1], pairs, theta.shape[-1])
    if not staggered:
        state = problem.start(centre)
        particles = state if kind == "truncated" else state.expand(*state.shape[:-2], 2 * pairs, state.shape[-1])
        return Memory(particles, history, 0)
    windows = problem.steps // window
    first = torch.arange(pairs, device=theta.device) * windows // pairs
    states = [problem.start(centre)]
    with torch.no_grad():
        for i in range(windows - 1):
            states.append(unroll(problem, centre, states[-1], i * window, window)[1])
    state = torch.cat(states, dim=-2)[..., first, :]
    return Memory(state if kind == "truncated" else torch.cat([state, state], -2), history, first * window)


def windowed_es(
    kind: str, problem: Unrolled, theta: Tensor, memory: Memory, noise: Tensor, sigma: float, window: int
) -> tuple[Estimate, Memory]:
    """One window of `window` steps for theta (..., d) with standard normals (..., m, d): an estimate, and the memory.

    `truncated`: both signs start from the state of the unperturbed theta: the effect of theta on that state is lost.
    `pes`: particles keep their own states, and the loss is paired with the sum of all their perturbations since the
    start of the inner problem. `single`: the first perturbation is kept over the inner problem. Summed over the
    windows of an inner problem at fixed theta, `pes` and `single` estimate the gradient of the whole; with one window
    all three are `full_es`. States and histories start afresh exactly at the end of the inner problem.
    """
    _check(sigma, noise)
    time, offsets, history = memory.time, sigma * noise, memory.history
    if kind == "single":
        offsets = history = _where_new(time, offsets, history)
    elif kind == "pes":
        history = history + offsets
    else:
        history = offsets
    with torch.no_grad():
        particles = mirrored(theta, offsets)
        state = memory.state
        if kind == "truncated":
            own = state.expand(*state.shape[:-2], offsets.shape[-2], state.shape[-1])
            state = torch.cat([own, own], dim=-2)
        both = time if isinstance(time, int) else torch.cat([time, time])
        loss, state = unroll(problem, particles, state, both, window)
        if kind == "truncated":
            centre = theta[..., None, :].expand(*memory.state.shape[:-1], theta.shape[-1])
            state = unroll(problem, centre, memory.state, time, window)[1]
    samples, bad = pair_estimates(*loss.chunk(2, dim=-1), history, sigma)
    estimate = Estimate(samples.mean(-2), bad.to(theta.dtype).mean(-1))
    return estimate, _renewed(problem, theta, replace(memory, state=state, history=history, time=time + window))


def windowed_backpropagation(problem: Unrolled, theta: Tensor, memory: Memory, window: int) -> tuple[Estimate, Memory]:
    """Truncated backpropagation: the gradient through one window from a state that counts as given (kind `truncated`).

    The particles of the memory are the copies at different times over which the gradient is averaged.
    """
    theta = theta.detach().requires_grad_()
    centre = theta[..., None, :].expand(*memory.state.shape[:-1], theta.shape[-1])
    loss, state = unroll(problem, centre, memory.state.detach(), memory.time, window)
    (gradient,) = torch.autograd.grad(loss.mean(-1).sum(), theta)
    moved = replace(memory, state=state.detach(), time=memory.time + window)
    return Estimate(gradient, (~loss.isfinite()).to(theta.dtype).mean(-1)), _renewed(problem, theta.detach(), moved)


def _where_new(time: int | Tensor, new: Tensor, old: Tensor) -> Tensor:
    if isinstance(time, int):
        return new if time == 0 else old
    return torch.where((time == 0)[:, None], new, old)


def _renewed(problem: Unrolled, theta: Tensor, memory: Memory) -> Memory:
    """The memory with finished particles put back to the start."""
    time, state = memory.time, memory.state
    if isinstance(time, int):
        if time < problem.steps:
            return memory
        done: Tensor = torch.ones(1, dtype=torch.bool, device=state.device)
        time = 0
    else:
        done = time >= problem.steps
        time = torch.where(done, 0, time)
    start = problem.start(theta[..., None, :]).expand_as(state)
    copies = state.shape[-2] // len(done) if len(done) > 1 else 1
    state = torch.where(done.repeat(copies)[:, None], start, state)
    return Memory(state, torch.where(done[:, None], 0.0, memory.history), time)


def _check(sigma: float, noise: Tensor) -> None:
    if not sigma > 0:
        raise LossAtlasError(f"sigma {sigma}: a smoothed gradient needs a positive one")
    if noise.shape[-2] < 1:
        raise LossAtlasError("an estimate needs at least one antithetic pair")
