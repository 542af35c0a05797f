"""Inner trainings as functions of outer parameters, for the estimators of `lossatlas.evolution.unrolled`.

theta is (..., N, d) with particles N before the last axis; networks that start from several initialisations have one a
seed, on the axis in front of the particles. Gradients of inner networks are written out, so an unroll needs no graph,
and can be differentiated all the same. Nothing works in place.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lossatlas.errors import LossAtlasError
from lossatlas.problems.architectures import mlp
from lossatlas.problems.network import initial

# --- problems without data --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ToyRegression:
    """Learning rates of a 2-D descent on a rough function (Vicol et al. 2021, `toy_regression.py`).

    x <- x - lr_t grad f(x) from x = (1, 1), lr_t = e^th0 (T - t)/T + e^th1 t/T, and the loss of a step is f after it,
    f(x) = sqrt(x0² + 5) - sqrt 5 + sin²(x1) exp(-5 x0²) + |x1 - 100| / 4.
    """

    steps: int = 100
    dim: int = field(default=2, init=False)

    def start(self, theta: Tensor) -> Tensor:
        return theta.new_ones(*theta.shape[:-1], 2)

    def step(self, state: Tensor, theta: Tensor, t: int | Tensor) -> tuple[Tensor, Tensor]:
        share = t / self.steps
        first, second = theta.exp().unbind(-1)
        rate = first * (1 - share) + second * share
        x0, x1 = state.unbind(-1)
        bump, sine = torch.exp(-5 * x0 * x0), torch.sin(x1)
        slope0 = x0 / torch.sqrt(x0 * x0 + 5) - 10 * x0 * sine * sine * bump
        slope1 = torch.sin(2 * x1) * bump + 0.25 * torch.sign(x1 - 100)
        state = torch.stack([x0 - rate * slope0, x1 - rate * slope1], -1)
        return state, self.inner_loss(state)

    @staticmethod
    def inner_loss(x: Tensor) -> Tensor:
        """f (...) at x (..., 2)."""
        x0, x1 = x.unbind(-1)
        ripple = torch.sin(x1).square() * torch.exp(-5 * x0 * x0)
        return torch.sqrt(x0 * x0 + 5) - math.sqrt(5) + ripple + 0.25 * (x1 - 100).abs()


@dataclass(frozen=True)
class InfluenceBalancing:
    """s <- A s + theta v with the loss (s_0 - 1)²/2 at the end of every window (Tallec and Ollivier 2017).

    23 coordinates, A = I/2 + 1/2 on the superdiagonal, v = +1 on the first `positive` = 10 coordinates and -1 on the
    others, s = 1 at the start. In the short run theta moves s_0 up, in the long run down, with the slope 2 sum(v).
    """

    steps: int = 500
    window: int = 1
    size: int = 23
    positive: int = 10
    dim: int = field(default=1, init=False)

    def start(self, theta: Tensor) -> Tensor:
        return theta.new_ones(*theta.shape[:-1], self.size)

    def step(self, state: Tensor, theta: Tensor, t: int | Tensor) -> tuple[Tensor, Tensor]:
        sign = torch.where(torch.arange(self.size, device=theta.device) < self.positive, 1.0, -1.0).to(theta)
        state = 0.5 * (state + F.pad(state[..., 1:], (0, 1))) + theta * sign
        loss = 0.5 * (state[..., 0] - 1).square()
        return state, loss * ((t + 1) % self.window == 0)


@dataclass(frozen=True)
class Lorenz:
    """Parameters (log a, log r) of the Lorenz system from its z coordinate (Li et al. 2023).

    Euler steps of dt from (1.2, 1.3, 1.6), b = 8/3 known; the loss of a step is (z - z_true)² after it, with the truth
    (a, r) = (10, 28). The sum over long unrolls is as rough as the system is chaotic.
    """

    steps: int = 2000
    dt: float = 0.005
    dim: int = field(default=2, init=False)

    def start(self, theta: Tensor) -> Tensor:
        return theta.new_tensor([1.2, 1.3, 1.6]).expand(*theta.shape[:-1], 3)

    def step(self, state: Tensor, theta: Tensor, t: int | Tensor) -> tuple[Tensor, Tensor]:
        state = self.euler(state, theta.exp())
        truth = _lorenz_truth(self, theta.dtype, theta.device)
        return state, (state[..., 2] - truth[t]).square()

    def euler(self, state: Tensor, parameters: Tensor) -> Tensor:
        """States (..., 3) one step later, parameters (a, r) (..., 2)."""
        (a, r), (x, y, z) = parameters.unbind(-1), state.unbind(-1)
        dt = self.dt
        return torch.stack([x + a * (y - x) * dt, y + ((r - z) * x - y) * dt, z + (x * y - 8 / 3 * z) * dt], -1)


@lru_cache
def _lorenz_truth(problem: Lorenz, dtype: torch.dtype, device: torch.device) -> Tensor:
    """z (steps,) of the true system after each step."""
    parameters = torch.tensor([10.0, 28.0], dtype=dtype, device=device)
    state, z = problem.start(parameters), []
    for _ in range(problem.steps):
        state = problem.euler(state, parameters)
        z.append(state[2])
    return torch.stack(z)


# --- networks ---------------------------------------------------------------------------------------------------------

Activation = Callable[[Tensor], tuple[Tensor, Tensor]]  # values and derivatives


def tanh(x: Tensor) -> tuple[Tensor, Tensor]:
    """tanh and its derivative."""
    value = torch.tanh(x)
    return value, 1 - value * value


@dataclass(frozen=True)
class TwoLayers:
    """Networks inputs -> hidden -> classes with written-out gradients; parameters (k, P): W1, b1, W2, b2."""

    inputs: int
    hidden: int
    classes: int = 10

    @property
    def dim(self) -> int:
        return self.hidden * (self.inputs + 1) + self.classes * (self.hidden + 1)

    def initial(self, seeds: Sequence[int]) -> Tensor:
        """PyTorch's default initialisation under each seed, (seeds, 1, P): one a seed, shared by its particles."""
        return initial(lambda: mlp((self.inputs, self.hidden, self.classes), "tanh"), seeds)[:, None]

    def loss(self, params: Tensor, x: Tensor, target: Tensor, activation: Activation = tanh) -> Tensor:
        """Mean cross-entropies (...) of params (..., P) on the rows x (b, inputs) with one-hot targets (b, classes)."""
        logits, *_ = self._forward(params.reshape(-1, self.dim), x, activation, None)
        return cross_entropy(logits.log_softmax(1), target).view(params.shape[:-1])

    def gradient(
        self, params: Tensor, x: Tensor, target: Tensor, activation: Activation = tanh, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The gradients (..., P) of that loss, and log-probabilities (k, classes, b); `noise` (k, hidden) is added to
        the hidden activations."""
        flat = params.reshape(-1, self.dim)
        logits, hidden, slope, w2 = self._forward(flat, x, activation, noise)
        log_p = logits.log_softmax(1)
        error = (log_p.exp() - target.T) / len(target)
        back = (w2.mT @ error) * slope
        w1 = (back.flatten(0, 1) @ x).view(len(flat), -1)
        parts = [w1, back.sum(-1), (error @ hidden.mT).flatten(1), error.sum(-1)]
        return torch.cat(parts, dim=1).view(params.shape), log_p

    def _forward(
        self, params: Tensor, x: Tensor, activation: Activation, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits (k, classes, b), hidden activations and their derivatives (k, hidden, b), W2; members share x."""
        k, h = len(params), self.hidden
        w1, b1, w2, b2 = params.split((h * self.inputs, h, self.classes * h, self.classes), dim=1)
        pre = torch.addmm(b1.reshape(-1, 1), w1.reshape(k * h, self.inputs), x.T).view(k, h, len(x))
        hidden, slope = activation(pre)
        if noise is not None:
            hidden = hidden + noise[..., None]
        w2 = w2.reshape(k, self.classes, h)
        return torch.baddbmm(b2[..., None], w2, hidden), hidden, slope, w2


def cross_entropy(log_p: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropies (k,) of log-probabilities (k, classes, b) for one-hot targets (b, classes)."""
    return -(log_p * target.T).sum((1, 2)) / len(target)


@dataclass(frozen=True, eq=False)
class InnerNetworks:
    """Rows x (n, inputs) and one-hot targets (n, classes) in stored order, `batch` of them a step, and one
    initialisation a seed, inits (seeds, 1, P)."""

    net: TwoLayers
    x: Tensor
    target: Tensor
    inits: Tensor
    steps: int
    batch: int

    def __post_init__(self):
        if len(self.x) % self.batch:
            raise LossAtlasError(f"a batch of {self.batch} does not divide {len(self.x)} rows: take a divisor")

    def rows(self, t: int) -> tuple[Tensor, Tensor]:
        """The minibatch of step t."""
        first = t * self.batch % len(self.x)
        return self.x[first : first + self.batch], self.target[first : first + self.batch]

    def params(self, theta: Tensor) -> Tensor:
        """The initialisations as (..., N, P) for theta (..., N, d)."""
        return self.inits.to(theta).expand(*theta.shape[:-1], self.net.dim)


@dataclass(frozen=True, eq=False)
class LearningRate(InnerNetworks):
    """theta is the learning rate of plain SGD; the outer loss is the mean of the losses before each update.

    mnist1d's notebook on metalearning a learning rate: tanh 40-50-10, 200 steps of 50 rows.
    """

    dim: int = field(default=1, init=False)

    def start(self, theta: Tensor) -> Tensor:
        return self.params(theta)

    def step(self, state: Tensor, theta: Tensor, t: int) -> tuple[Tensor, Tensor]:
        x, target = self.rows(t)
        gradient, log_p = self.net.gradient(state, x, target)
        loss = cross_entropy(log_p, target).view(state.shape[:-1])
        return state - theta * gradient, loss / self.steps


@dataclass(frozen=True, eq=False)
class HeavyBall(InnerNetworks):
    """theta = (log lr, logit mu) of V <- mu V + grad, P <- P - lr V; the loss is that of the first `judged` rows at
    the end alone. Long unrolls make it rough (after Metz et al. 2019)."""

    judged: int = 500
    dim: int = field(default=2, init=False)

    def start(self, theta: Tensor) -> Tensor:
        params = self.params(theta)
        return torch.cat([params, torch.zeros_like(params)], -1)

    def step(self, state: Tensor, theta: Tensor, t: int) -> tuple[Tensor, Tensor]:
        params, velocity = state.chunk(2, -1)
        gradient, _ = self.net.gradient(params, *self.rows(t))
        velocity = theta[..., 1:].sigmoid() * velocity + gradient
        params = params - theta[..., :1].exp() * velocity
        loss = self.final_loss(params) if t == self.steps - 1 else params.new_zeros(params.shape[:-1])
        return torch.cat([params, velocity], -1), loss

    def final_loss(self, params: Tensor) -> Tensor:
        """Mean cross-entropy (...) over the first `judged` rows at params (..., P)."""
        return self.net.loss(params, self.x[: self.judged], self.target[: self.judged])


@dataclass(frozen=True, eq=False)
class ActivationFunction(InnerNetworks):
    """theta are the weights of a tanh net 1-m-1 that shapes the activation ELU(x) + 0.2 net(x) (mnist1d's notebook).

    Inner optimiser RMSprop: accumulator from ones, decay .4, 1e-8 outside the root, rate 1e-2. Outer loss: mean of the
    last `judged` losses. hidden_noise (seeds, steps, hidden) and net_noise (seeds, steps, m) are added to the hidden
    activations of the network and of the net, one value a unit for the whole batch; they are given, so that equal theta
    have equal losses.
    """

    width: int = 100
    judged: int = 200
    hidden_noise: Tensor | None = None
    net_noise: Tensor | None = None

    @property
    def dim(self) -> int:
        return 3 * self.width + 1

    def start(self, theta: Tensor) -> Tensor:
        params = self.params(theta)
        return torch.cat([params, torch.ones_like(params)], -1)

    def step(self, state: Tensor, theta: Tensor, t: int) -> tuple[Tensor, Tensor]:
        params, accumulated = state.chunk(2, -1)
        flat = theta.reshape(-1, self.dim)
        noise = self._noise(self.hidden_noise, theta, t)
        activation = learned_activation(flat, self.width, self._noise(self.net_noise, theta, t))
        x, target = self.rows(t)
        gradient, log_p = self.net.gradient(params, x, target, activation, noise)
        loss = cross_entropy(log_p, target).view(params.shape[:-1])
        params, accumulated = rmsprop(params, accumulated, gradient)
        return torch.cat([params, accumulated], -1), loss * ((t >= self.steps - self.judged) / self.judged)

    @staticmethod
    def _noise(table: Tensor | None, theta: Tensor, t: int) -> Tensor | None:
        """Of step t, (k, units): one row a seed, the same for all its particles."""
        if table is None:
            return None
        row = table[:, t, None]  # (seeds, 1, units)
        return row.expand(*theta.shape[:-1], row.shape[-1]).reshape(-1, row.shape[-1])


def learned_activation(theta: Tensor, width: int, noise: Tensor | None = None) -> Activation:
    """ELU(x) + 0.2 net(x) with the weights theta (k, 3 width + 1) of k nets 1-width-1: u, c, v, e in this order."""
    u, c, v, e = theta.split((width, width, width, 1), dim=-1)

    def activation(x: Tensor) -> tuple[Tensor, Tensor]:  # x (k, h, b)
        shape = x.shape
        flat = x.flatten(1)[:, None]  # (k, 1, h b)
        value, slope = tanh(u[..., None] * flat + c[..., None])  # (k, width, h b)
        out = v[:, None] @ value
        if noise is not None:
            out = out + (v * noise).sum(-1)[:, None, None]
        out = out + e[..., None]
        inner = (u * v)[:, None] @ slope
        grown = F.elu(x)
        return grown + 0.2 * out.view(shape), torch.where(x > 0, 1.0, grown + 1) + 0.2 * inner.view(shape)

    return activation


def initial_activation(width: int, seeds: Sequence[int]) -> Tensor:
    """PyTorch's default initialisation of the net 1-width-1 under each seed, (seeds, 3 width + 1)."""
    return initial(lambda: mlp((1, width, 1), "tanh"), seeds)


def rmsprop(params: Tensor, accumulated: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """One step of the notebook's RMSprop: decay .4, rate 1e-2, 1e-8 outside the root."""
    accumulated = 0.4 * accumulated + 0.6 * gradient.square()
    return params - 1e-2 * gradient / (accumulated.sqrt() + 1e-8), accumulated
