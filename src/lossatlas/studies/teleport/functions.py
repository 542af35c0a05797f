"""Gradient descent with teleports on Rosenbrock, Booth and quadratics: as published, exact, and controls."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossatlas import ensemble
from lossatlas.problems import Booth, Quadratic, Rosenbrock
from lossatlas.problems.architectures import mlp
from lossatlas.problems.network import NetworkProblem, initial
from lossatlas.seeds import seed
from lossatlas.teleport import HESSIAN_VECTOR, level_set
from lossatlas.teleport.groups import PositiveScaling
from lossatlas.teleport.plane_rotation import BOOTH, ROSENBROCK, PlaneRotation

ARMS = ("none", "published", "hse", "random", "exact", "level_set")
DRAWN = ("published", "hse", "random")  # arms that draw angles, one run a seed
SEARCH_STEPS = 10
SEARCH_COST = 4.0 * SEARCH_STEPS  # an angle's gradient is a derivative of a gradient: four gradients a step


@dataclass(frozen=True)
class Experiment:
    """A published run: Zhao et al. 2022, Figure 2, and the code beside it."""

    problem: Any
    chart: Any
    start: tuple[float, float]
    minimum: tuple[float, float]
    rate: float
    epochs: int
    search_rate: float
    hse_search_rate: float
    teleports: tuple[int, ...]
    hse_teleports: tuple[int, ...]


EXPERIMENTS = {
    "rosenbrock": Experiment(
        Rosenbrock(), ROSENBROCK, (-1.0, -1.0), (1.0, 1.0), 1e-3, 1000, 0.1, 0.1, tuple(range(99, 1000, 100)),
        tuple(range(99, 1000, 100)),
    ),
    "booth": Experiment(Booth(), BOOTH, (5.0, -5.0), (1.0, 3.0), 0.08, 10, 1e-3, 0.1, (4,), (5,)),
}  # fmt: skip


def published_search(group: PlaneRotation, theta: Tensor, start: Tensor, rate: float) -> Tensor:
    """The released search: ascent of ||grad L||² in the angle from `start` (k,); angles (k,).

    The last update is never used, as in the released code: the angle returned is the one before it.
    """
    angle = start
    for _ in range(SEARCH_STEPS):
        used = angle.detach().requires_grad_()
        value = group.gradient_squares(theta, used[:, None])[:, 0]
        (slope,) = torch.autograd.grad(value.sum(), used)
        angle = used.detach() + rate * slope
    return used.detach()


@dataclass(eq=False)
class Trajectory:
    """Of k runs: points (k, E, 2), losses and squared gradients (k, E) at each logged epoch; what teleports did."""

    points: Tensor
    losses: Tensor
    squares: Tensor
    worst_change: Tensor  # greatest relative change of the loss at a teleport (k,)
    first_gain: Tensor  # ||grad|| after over before the first teleport (k,)
    cost: float  # gradients


def run(name: str, arm: str, rates: Tensor, seeds: Sequence[int]) -> Trajectory:
    """One run for each pair of `rates` (k,) and `seeds`; an epoch is logged, then its step is taken."""
    about = EXPERIMENTS[name]
    group = PlaneRotation(about.chart)
    dtype = torch.float32 if arm in ("published", "hse") else torch.float64
    theta = torch.tensor(about.start, dtype=dtype).expand(len(rates), 2)
    rates = rates.to(dtype)
    when = about.hse_teleports if arm == "hse" else () if arm == "none" else about.teleports
    points, losses, squares = [], [], []
    worst, first_gain = torch.zeros(len(rates)), torch.full((len(rates),), torch.nan)
    cost = 0.0
    for epoch in range(about.epochs):
        replaced = False
        if epoch in when:
            before, slope = ensemble.gradient(about.problem, theta)
            moved, price = _teleported(arm, about, group, theta, name, seeds, epoch)
            after, slope_after = ensemble.gradient(about.problem, moved)
            # a loss of rounding errors alone has no relative change to speak of
            change = (after - before).abs() / before.clamp_min(1e-12)
            worst = torch.maximum(worst, change.double())
            gain = (slope_after.norm(dim=-1) / slope.norm(dim=-1)).double()
            first_gain = torch.where(first_gain.isnan(), gain, first_gain)
            theta, cost, replaced = moved, cost + price, arm == "hse"
        loss, slope = ensemble.gradient(about.problem, theta)
        points.append(theta)
        losses.append(loss)
        squares.append(slope.square().sum(-1))
        if not replaced:
            theta = theta - rates[:, None] * slope
            cost += 1
    stacked = (torch.stack(column, 1).double() for column in (points, losses, squares))
    return Trajectory(*stacked, worst, first_gain, cost)


def _teleported(arm, about, group, theta, name, seeds, epoch) -> tuple[Tensor, float]:
    if arm == "exact":
        return group.act(theta, group.argmax(theta)), 32.0  # samples of the gradient on the orbit
    if arm == "level_set":
        found = level_set.ascend(about.problem, theta, step=0.1, iterations=100)
        return found.theta, found.gradients + HESSIAN_VECTOR * found.products
    draws = []
    for s in seeds:
        generator = torch.Generator().manual_seed(seed("teleport", name, "angle", s, epoch))
        draws.append(torch.rand(1, generator=generator, dtype=torch.float64))
    turn = math.pi if arm == "published" else math.tau
    start = (turn * torch.cat(draws)).to(theta)
    if arm == "random":
        return group.act(theta, start), 0.0
    rate = about.search_rate if arm == "published" else about.hse_search_rate
    return group.act(theta, published_search(group, theta, start, rate)), SEARCH_COST


def measure(settings: Mapping[str, Any]) -> tuple[dict[str, list], dict[str, Tensor]]:
    """The table of all runs (columns), and curves and points by `function/arm/...` at the published rate."""
    rows: list[dict[str, Any]] = []
    arrays: dict[str, Tensor] = {}
    for name, about in EXPERIMENTS.items():
        multiples = settings["rate_multiples"]
        for arm in ARMS:
            seeds = range(settings["function_seeds"]) if arm in DRAWN else (0,)
            rates = torch.tensor([about.rate * m for m in multiples for _ in seeds], dtype=torch.float64)
            found = run(name, arm, rates, list(seeds) * len(multiples))
            for i in range(len(rates)):
                rows.append(
                    {
                        "function": name,
                        "arm": arm,
                        "rate_multiple": multiples[i // len(seeds)],
                        "seed": seeds[i % len(seeds)],
                        "first_loss": found.losses[i, 0].item(),
                        "second_loss": found.losses[i, 1].item(),
                        "final_loss": found.losses[i, -1].item(),
                        "worst_change": found.worst_change[i].item(),
                        "first_gain": found.first_gain[i].item(),
                        "cost": found.cost,
                    }
                )
            kept = slice(multiples.index(1.0) * len(seeds), (multiples.index(1.0) + 1) * len(seeds))
            arrays[f"{name}/{arm}/losses"] = found.losses[kept]
            arrays[f"{name}/{arm}/squares"] = found.squares[kept]
            arrays[f"{name}/{arm}/points"] = found.points[kept][:1]
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    arrays["booth_error"] = torch.tensor(
        one_teleport_suffices(arrays["booth/exact/losses"], arrays["booth/exact/squares"])
    )
    arrays["booth_published_error"] = torch.tensor(published_against_exact(arrays))
    arrays["theorem_error"] = torch.tensor(theorem_error())
    arrays["hurts"] = torch.tensor(hurts())
    arrays["convex_bound"] = torch.tensor(convex_bound())
    arrays["stable_step"] = torch.tensor(stable_step())
    arrays["logistic_bound"] = logistic_bound()
    arrays["micro_cosine"] = torch.tensor(micro_cosines(settings["function_seeds"]))
    arrays["moment_ratio"] = torch.tensor(moment_ratios(settings["function_seeds"]))
    for label, values in line_search().items():
        arrays[f"line_search/{label}"] = values
    return columns, arrays


# --- closed forms -----------------------------------------------------------------------------------------------------


def one_teleport_suffices(losses: Tensor, squares: Tensor) -> float:
    """Greatest relative error of ||g||² = 2 lambda L at all epochs from the teleport on, Booth's exact arm.

    lambda = 18, L* = 0; and of L shrinking by (1 - eta lambda)² a step.
    """
    about = EXPERIMENTS["booth"]
    first = about.teleports[0]
    curved = (squares[:, first:] / (36 * losses[:, first:]) - 1).abs().max()
    shrunk = (losses[:, first + 1 :] / losses[:, first:-1] / (1 - 18 * about.rate) ** 2 - 1).abs().max()
    return max(curved.item(), shrunk.item())


def published_against_exact(arrays: Mapping[str, Tensor]) -> list[float]:
    """Of each seed of the published search on Booth: the greatest relative distance of its losses from the exact."""
    exact, found = arrays["booth/exact/losses"], arrays["booth/published/losses"]
    return (found / exact - 1).abs().amax(-1).tolist()


def _quadratics(count: int = 20, dim: int = 10) -> list[tuple[Quadratic, Tensor]]:
    made = []
    for i in range(count):
        generator = torch.Generator().manual_seed(seed("teleport", "quadratic", i))
        basis, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
        spectrum = 0.1 + 3.9 * torch.rand(dim, generator=generator, dtype=torch.float64)
        minimum = torch.randn(dim, generator=generator, dtype=torch.float64)
        start = torch.randn(1, dim, generator=generator, dtype=torch.float64)
        made.append((Quadratic(basis @ spectrum.diag() @ basis.mT, minimum), start))
    return made


def theorem_error() -> float:
    """Greatest relative error of the theorem on random convex quadratics, ten steps of rate 1 / (4 lambda) each."""
    worst = 0.0
    for problem, start in _quadratics():
        top = torch.linalg.eigvalsh(problem.hessian)[-1]
        theta = level_set.quadratic_argmax(problem, start)
        loss = problem(start)
        for _ in range(10):
            here, slope = ensemble.gradient(problem, theta)
            errors = torch.stack([here / loss - 1, slope.square().sum(-1) / (2 * top * loss) - 1])
            worst = max(worst, errors.abs().max().item())
            theta = theta - slope / (4 * top)
            loss = loss * 0.75**2
    return worst


def hurts() -> list[float]:
    """log(loss with / without the teleport) after ten steps of a rate at which the top direction converges slowest."""
    found = []
    for problem, start in _quadratics():
        spectrum = torch.linalg.eigvalsh(problem.hessian)
        rate = 1.9 / spectrum[-1]  # |1 - rate lambda_max| = 0.9, and less for all others above lambda_max / 19
        moved = level_set.quadratic_argmax(problem, start)
        losses = [problem(problem.gradient_descent(at, float(rate), 10)) for at in (moved, start)]
        found.append((losses[0] / losses[1]).log().item())
    return found


def convex_bound(steps: int = 50) -> list[float]:
    """delta_K over its bound 2 R² / (K eta (2 - beta eta)), greatest over K, with a teleport before every step.

    R² = 2 delta_0 / mu, the farthest that the initial sub-level set reaches; eta = 1/beta (Mishkin et al. 2024).
    """
    worst = []
    for problem, start in _quadratics():
        spectrum = torch.linalg.eigvalsh(problem.hessian)
        rate = 1 / spectrum[-1] / 4  # at 1/beta a single teleported step reaches the minimum
        radius = 2 * problem(start) / spectrum[0]
        theta, ratios = start, []
        for k in range(1, steps + 1):
            theta = level_set.quadratic_argmax(problem, theta)
            theta = theta - rate * ensemble.gradient(problem, theta)[1]
            bound = 2 * radius / (k * rate * (2 - spectrum[-1] * rate))
            ratios.append((problem(theta) / bound).item())
        worst.append(max(ratios))
    return worst


def stable_step() -> list[float]:
    """delta_1 / delta_0 after a teleport and a step of exact line search, on quadratics.

    Their Hessian is constant, so (L, mu)-stable with L = mu, where delta_{k+1} <= (1 - mu/L) delta_k says zero.
    """
    found = []
    for problem, start in _quadratics():
        moved = level_set.quadratic_argmax(problem, start)
        slope = ensemble.gradient(problem, moved)[1]
        bent = ensemble.hessian_vector(problem, moved, slope)
        step = slope.square().sum(-1) / (slope * bent).sum(-1)
        found.append((problem(moved - step[:, None] * slope) / problem(start)).item())
    return found


@dataclass(frozen=True, eq=False)
class Logistic:
    """mean log(1 + exp(-z)) + reg/2 ||theta||² with z = margins (n, P) theta: convex, and no quadratic."""

    margins: Tensor
    reg: float = 0.1

    @property
    def dim(self) -> int:
        return self.margins.shape[-1]

    @property
    def smoothness(self) -> float:
        """beta: the greatest eigenvalue that the Hessian can have."""
        return torch.linalg.eigvalsh(self.margins.mT @ self.margins)[-1].item() / (4 * len(self.margins)) + self.reg

    def __call__(self, theta: Tensor) -> Tensor:
        penalty = 0.5 * self.reg * theta.square().sum(-1)
        return torch.nn.functional.softplus(-theta @ self.margins.mT).mean(-1) + penalty

    def minimum(self, steps: int = 30) -> Tensor:
        """The minimum (1, P) by Newton's method."""
        theta = self.margins.new_zeros(1, self.dim)
        for _ in range(steps):
            share = torch.sigmoid(-theta @ self.margins.mT)[0]
            hessian = (self.margins.mT * (share * (1 - share))) @ self.margins / len(self.margins)
            hessian = hessian + self.reg * torch.eye(self.dim).to(hessian)
            theta = theta - torch.linalg.solve(hessian, ensemble.gradient(self, theta)[1][0])[None]
        return theta


def logistic_problem(rows: int = 40, dim: int = 5) -> Logistic:
    generator = torch.Generator().manual_seed(seed("teleport", "logistic"))
    return Logistic(torch.randn(rows, dim, generator=generator, dtype=torch.float64) + 0.5)


def logistic_bound(starts: int = 20, steps: int = 15) -> Tensor:
    """As `convex_bound` on logistic regression, (starts,); rate 1/beta, the level-set method before every step."""
    problem = logistic_problem()
    generator = torch.Generator().manual_seed(seed("teleport", "logistic", "starts"))
    theta = 3 * torch.randn(starts, problem.dim, generator=generator, dtype=torch.float64)
    least, beta = problem(problem.minimum()), problem.smoothness
    radius = 2 * (problem(theta) - least) / problem.reg
    ratios = []
    for k in range(1, steps + 1):
        theta = level_set.ascend(problem, theta, step=0.1, iterations=10).theta
        theta = theta - ensemble.gradient(problem, theta)[1] / beta
        ratios.append((problem(theta) - least) / (2 * radius * beta / k))
    return torch.stack(ratios).amax(0)


def _small_network(count: int) -> tuple[NetworkProblem, Tensor, PositiveScaling]:
    generator = torch.Generator().manual_seed(seed("teleport", "micro"))
    x = torch.randn(32, 8, generator=generator, dtype=torch.float64)
    y = torch.randint(4, (32,), generator=generator)
    problem = NetworkProblem(mlp((8, 32, 32, 4)).double(), x, y)
    theta = initial(lambda: mlp((8, 32, 32, 4)), [seed("teleport", "micro", i) for i in range(count)]).double()
    return problem, theta, PositiveScaling(problem)


def micro_cosines(count: int, spread: float = 1e-3) -> list[float]:
    """cos of the angle between the gradient and a random change of basis, tau ~ U(1 - spread, 1 + spread)."""
    problem, theta, group = _small_network(count)
    slope = ensemble.gradient(problem, theta)[1]
    move = group.act(theta, _change_of_basis(group, count, spread)) - theta
    return ((slope * move).sum(-1) / slope.norm(dim=-1) / move.norm(dim=-1)).tolist()


def moment_ratios(count: int, spread: float = 0.5, draws: int = 50) -> list[list[float]]:
    """E||G'||²/||G||² over E||W'||²/||W||² of the middle layer, over draws, one network a row: [gradient, weight].

    Both have the expectation (1 + c²/3) / (1 - c²): the boost of the gradient is one of scale.
    """
    problem, theta, group = _small_network(count)
    slope = ensemble.gradient(problem, theta)[1]
    name = problem.layout.names[2]
    found = torch.zeros(count, 2, dtype=torch.float64)
    for i in range(draws):
        s = _change_of_basis(group, count, spread, i)
        for j, (vector, image) in enumerate(((slope, group.cotangent(theta, s, slope)), (theta, group.act(theta, s)))):
            squares = [problem.layout.split(v)[name].square().sum((-2, -1)) for v in (image, vector)]
            found[:, j] += squares[0] / squares[1] / draws
    expected = (1 + spread**2 / 3) / (1 - spread**2)
    return (found / expected).tolist()


def _change_of_basis(group: PositiveScaling, count: int, spread: float, draw: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed("teleport", "basis", draw))
    tau = 1 + spread * (2 * torch.rand(count, group.units, generator=generator, dtype=torch.float64) - 1)
    return tau.log()


# --- gradient descent with a line search (Mishkin et al. 2024, Figure 1) --------------------------------------------


@dataclass(frozen=True)
class GoldsteinPrice:
    """The Goldstein-Price function, with its minimum 3 at (0, -1)."""

    dim = 2

    def __call__(self, theta: Tensor) -> Tensor:
        x, y = theta.unbind(-1)
        a = 1 + (x + y + 1) ** 2 * (19 - 14 * x + 3 * x * x - 14 * y + 6 * x * y + 3 * y * y)
        b = 30 + (2 * x - 3 * y) ** 2 * (18 - 32 * x + 12 * x * x + 48 * y - 36 * x * y + 27 * y * y)
        return a * b


LINE_SEARCH: dict[str, tuple[Callable, tuple[float, float], float]] = {
    "booth": (Booth(), (7.5, -4.0), 0.0),
    "goldstein_price": (GoldsteinPrice(), (0.0, 0.0), 3.0),
    "rosenbrock": (Rosenbrock(), (-1.0, -1.0), 0.0),
}


def armijo(problem, theta: Tensor, epochs: int = 100) -> Tensor:
    """Losses (k, epochs + 1) of gradient descent with Armijo's rule (alpha 0.5, shrink 0.8, growth 1/0.8 an epoch)."""
    rate = theta.new_ones(len(theta))
    losses = [problem(theta)]
    for _ in range(epochs):
        loss, slope = ensemble.gradient(problem, theta)
        square = slope.square().sum(-1)
        rate = rate / 0.8
        for _ in range(100):
            short = problem(theta - rate[:, None] * slope) > loss - 0.5 * rate * square
            if not short.any():
                break
            rate = torch.where(short, 0.8 * rate, rate)
        theta = theta - rate[:, None] * slope
        losses.append(problem(theta))
    return torch.stack(losses, -1)


def line_search() -> dict[str, Tensor]:
    """{function: gaps f - f* (arms none, 100 and 1000 trial points, 101)} after one level-set teleport at step 0."""
    found = {}
    for name, (problem, start, least) in LINE_SEARCH.items():
        theta = torch.tensor([start], dtype=torch.float64)
        starts = [theta]
        for iterations in (100, 1000):
            starts.append(level_set.ascend(problem, theta, step=10.0, iterations=iterations, shrink=0.8).theta)
        found[name] = armijo(problem, torch.cat(starts)) - least
    return found
