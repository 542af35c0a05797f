"""Loss weights from losses and norms, batched over members: the strategies that torchjd lacks.

Each is called with a `Seen` of one step and gives weights (k, n). Buffers are made at the first call, on the device of
what is seen; `reset()` forgets them. Randomness comes from the generator passed in alone.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lossatlas.composite.training import Seen
from lossatlas.errors import LossAtlasError
from lossatlas.stepper import Stepper

TINY = 1e-12


class Static:
    """The same weights (n,) or (k, n) in each step; all ones are the plain sum."""

    def __init__(self, weights: Tensor | float = 1.0):
        self.weights = torch.as_tensor(weights)

    def __call__(self, seen: Seen) -> Tensor:
        return self.weights.to(seen.losses).expand_as(seen.losses)

    def reset(self) -> None:
        """Nothing is remembered."""


class InverseInitial:
    """1 / L_i(0): every loss starts at 1."""

    def __init__(self):
        self.initial: Tensor | None = None

    def __call__(self, seen: Seen) -> Tensor:
        if self.initial is None:
            self.initial = seen.losses.clone()
        return 1 / (self.initial.abs() + TINY)

    def reset(self) -> None:
        self.initial = None


class Encodec:
    """The balancer of encodec: share_i / (ε + m_i), m_i the bias-corrected average of the norm of ∂L_i/∂x̂.

    Its norms are means over the rows of the batch (at="items"). R = 1.
    """

    def __init__(self, shares: Sequence[float] | None = None, decay: float = 0.999):
        self.shares, self.decay = shares, decay
        self.reset()

    def __call__(self, seen: Seen) -> Tensor:
        self.count = self.decay * self.count + 1
        self.total = seen.norms if self.total is None else self.decay * self.total + seen.norms
        n = seen.norms.shape[-1]
        shares = torch.full((n,), 1 / n) if self.shares is None else torch.tensor(self.shares) / sum(self.shares)
        return shares.to(seen.norms) / (TINY + self.total / self.count)

    def reset(self) -> None:
        self.total: Tensor | None = None
        self.count = 0.0


class GradNorm:
    """GradNorm (Chen et al. 2018): w = n softmax(s), s trained so that ‖w_i g_i‖ approaches Ḡ r_i^α.

    r_i = (L_i / L_i(0)) / their mean, so a loss that has fallen less gets the larger target for α > 0. The distance is
    the sum of absolute differences with the target held fixed, minimised by Adam.
    """

    def __init__(self, alpha: float = 1.5, rate: float = 0.025):
        self.alpha, self.rate = alpha, rate
        self.reset()

    def __call__(self, seen: Seen) -> Tensor:
        if self.initial is None:
            self.initial = seen.losses.clone()
            self.logits = torch.zeros_like(seen.losses)
            self.stepper = Stepper(self.logits, "adam")
        with torch.enable_grad():
            logits = self.logits.requires_grad_()
            weights = seen.losses.shape[-1] * logits.softmax(-1)
            sizes = weights * seen.norms
            distance = (sizes - self.targets(seen, sizes.detach())).abs().sum()
            (slope,) = torch.autograd.grad(distance, logits)
        # a member that diverged must not spoil the averages of the others
        self.logits = logits.detach() + self.rate * self.stepper.step(slope.nan_to_num())
        return weights.detach()

    def targets(self, seen: Seen, sizes: Tensor) -> Tensor:
        """The norms (k, n) that the weighted gradients of norms `sizes` should have."""
        ratios = seen.losses / (self.initial + TINY)
        relative = ratios / (ratios.mean(-1, keepdim=True) + TINY)
        return sizes.mean(-1, keepdim=True) * relative.clamp_min(0).pow(self.alpha)

    def reset(self) -> None:
        self.initial: Tensor | None = None


class SoftAdapt:
    """SoftAdapt (Heydari et al. 2019): n softmax(β slope) of the last change of each loss.

    normalised: slopes divided by the sum of their absolute values (by the signed sum a mixture of signs flips them);
    loss_weighted: numerators multiplied by the losses.
    """

    def __init__(self, beta: float = 0.1, normalised: bool = False, loss_weighted: bool = False):
        self.beta, self.normalised, self.loss_weighted = beta, normalised, loss_weighted
        self.before: Tensor | None = None

    def __call__(self, seen: Seen) -> Tensor:
        slopes = torch.zeros_like(seen.losses) if self.before is None else seen.losses - self.before
        self.before = seen.losses.clone()
        if self.normalised:
            slopes = slopes / (slopes.abs().sum(-1, keepdim=True) + TINY)
        weights = (self.beta * slopes).softmax(-1)
        if self.loss_weighted:
            weights = weights * seen.losses
            weights = weights / (weights.sum(-1, keepdim=True) + TINY)
        return weights * weights.shape[-1]

    def reset(self) -> None:
        self.before = None


class ReLoBRaLo:
    """ReLoBRaLo (Bischof & Kraus 2021): relative losses against the start or the last step, with a random look-back.

    λ_t = ρα λ_{t−1} + (1 − ρ)α n softmax(L / (T L⁰)) + (1 − α) n softmax(L / (T L_{t−1})), ρ in {0, 1} of mean `saved`.
    Its code takes α = 1 in the first step, 0 in the second and `alpha` from then on.
    """

    def __init__(self, generator: torch.Generator, alpha: float = 0.999, temperature: float = 1.0, saved: float = 1.0):
        self.generator, self.alpha, self.temperature, self.saved = generator, alpha, temperature, saved
        self.state = generator.get_state()
        self.reset()

    def __call__(self, seen: Seen) -> Tensor:
        losses = seen.losses
        if self.initial is None:
            self.initial, self.before, self.weights = losses.clone(), losses.clone(), torch.ones_like(losses)
        alpha = (1.0, 0.0)[self.steps] if self.steps < 2 else self.alpha
        rho = float(torch.rand((), generator=self.generator) < self.saved)
        self.weights = (
            rho * alpha * self.weights
            + (1 - rho) * alpha * self._relative(losses, self.initial)
            + (1 - alpha) * self._relative(losses, self.before)
        )
        self.before, self.steps = losses.clone(), self.steps + 1
        return self.weights

    def _relative(self, losses: Tensor, reference: Tensor) -> Tensor:
        return losses.shape[-1] * (losses / (self.temperature * reference + TINY)).softmax(-1)

    def reset(self) -> None:
        self.generator.set_state(self.state)
        self.initial: Tensor | None = None
        self.steps = 0


class ComputedGamma:
    """The computed γ of Asperti & Trentin 2020 for reconstruction goals: 1/γ², γ² a running loss that only falls.

    γ² <- min(γ², 0.99 γ² + 0.01 L) for each of them by itself; the other goals have the weight 1.
    """

    def __init__(self, reconstruction: Tensor):
        self.reconstruction = reconstruction
        self.squares: Tensor | None = None

    def __call__(self, seen: Seen) -> Tensor:
        if self.squares is None:
            self.squares = seen.losses.clone()
        self.squares = torch.minimum(self.squares, 0.99 * self.squares + 0.01 * seen.losses)
        return torch.where(self.reconstruction.to(seen.losses.device), 1 / (self.squares + TINY), 1.0)

    def reset(self) -> None:
        self.squares = None


class AugmentedLagrangian:
    """Objectives under constraints L_j ≤ limit_j (Hestenes 1969, Powell 1969; Rockafellar's form for inequalities).

    With c_j = L_j / limit_j − 1, constraint j has the weight max(0, λ_j + ρ c_j) /
    limit_j; after each step λ_j <- max(0, λ_j + η c_j). An objective has 1 / L_i(0). limits (n,): NaN for objectives.
    """

    def __init__(self, limits: Tensor, penalty: float = 1.0, rate: float = 0.01):
        self.limits, self.penalty, self.rate = limits, penalty, rate
        if not limits.isnan().any() or limits.isnan().all():
            raise LossAtlasError("an augmented Lagrangian needs objectives (limit NaN) and constraints (a limit)")
        self.multipliers: Tensor | None = None

    def __call__(self, seen: Seen) -> Tensor:
        limits = self.limits.to(seen.losses)
        objective = limits.isnan()
        if self.multipliers is None:
            self.initial, self.multipliers = seen.losses.clone(), torch.zeros_like(seen.losses)
        excess = torch.where(objective, 0.0, seen.losses / limits - 1)
        pressed = (self.multipliers + self.penalty * excess).clamp_min(0) / limits
        self.multipliers = (self.multipliers + self.rate * excess).clamp_min(0)
        return torch.where(objective, 1 / (self.initial + TINY), pressed)

    def reset(self) -> None:
        self.multipliers = None


class OnGramian:
    """A weighting of `lossatlas.composite`, which reads the Gramians alone.

    A member whose Gramian is not finite gets NaN weights, which ends it, and is kept from the solvers.
    """

    def __init__(self, weighting: Callable[[Tensor], Tensor]):
        self.weighting = weighting

    def __call__(self, seen: Seen) -> Tensor:
        finite = seen.gramian.isfinite().flatten(1).all(1)
        eye = torch.eye(seen.gramian.shape[-1], dtype=seen.gramian.dtype, device=seen.gramian.device)
        weights = self.weighting(torch.where(finite[:, None, None], seen.gramian, eye))
        return weights.masked_fill(~finite[:, None], torch.nan)

    def reset(self) -> None:
        if hasattr(self.weighting, "reset"):
            self.weighting.reset()


class Scalarised:
    """Scalarizers of torchjd as weights: w_i = ∂s/∂L_i by autograd, so what is reported is what acts.

    One object a member; their own parameters (UW) are trained by Adam with `rate`, DWA is told when an epoch ends, and
    FAMO gets the losses of the same rows after the step (one more forward pass).
    """

    def __init__(self, make: Callable[[int], torch.nn.Module], rate: float = 0.025):
        self.make, self.rate = make, rate
        self.reset()

    @property
    def reads_result(self) -> bool:
        return bool(self.members) and hasattr(self.members[0], "update")

    def __call__(self, seen: Seen) -> Tensor:
        k, n = seen.losses.shape
        if not self.members:
            self.members = [self.make(n).to(seen.losses.device) for _ in range(k)]
            self.own = [] if self.reads_result else [p for m in self.members for p in m.parameters()]
            if self.own:
                self.stepper = Stepper(torch.cat([p.detach().flatten() for p in self.own]), "adam")
            self.epoch = seen.epoch
        if seen.epoch != self.epoch:
            for member in self.members:
                if hasattr(member, "step"):
                    member.step()
            self.epoch = seen.epoch
        self.dead = (~seen.losses.isfinite().all(-1)).tolist()
        losses = seen.losses.detach().nan_to_num(1.0, 1.0, 1.0).requires_grad_()
        with torch.enable_grad():
            total = sum(member(values) for member, values in zip(self.members, losses, strict=True))
            weights, *slopes = torch.autograd.grad(total, [losses, *self.own])
        if self.own:
            moves = self.rate * self.stepper.step(torch.cat([slope.flatten() for slope in slopes]))
            with torch.no_grad():
                for parameter, move in zip(self.own, moves.split([p.numel() for p in self.own]), strict=True):
                    parameter += move.view_as(parameter)
        return weights.masked_fill(torch.tensor(self.dead, device=weights.device)[:, None], torch.nan)

    def after(self, losses: Tensor) -> None:
        """The losses (k, n) of the same rows after the step."""
        for member, values, dead in zip(self.members, losses, self.dead, strict=True):
            if not dead and bool(values.isfinite().all()):
                member.update(values)

    def reset(self) -> None:
        self.members: list[torch.nn.Module] = []
