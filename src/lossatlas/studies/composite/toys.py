"""The failure modes where they can be proved, and the numbers of other sources that need no network.

obnoxious teammate: on a line, member 1 sits in a hole at 2 whose wall towards the goal 0 has slope G, the others have
slope s = 1 towards it. With weights ∝ slope^q the team gets out iff n > n*(q) = 1 + (G/s)^(q+1); else it stands where
‖g_1‖ = s (n − 1)^(1/(q+1)), and with steps beyond 2/v′ there it alternates for ever.
desert: L_i = 1 − cos(k_i x), common minimum 0; elsewhere the landscape looks the same everywhere (Weyl), so success
from U[−X, X] is the share of the basin of 0, for every n and weighting.
oscillation: L_1′ = −2, −1 and L_2′ = 1, 2 left and right of 0: neither has a minimum at 0, yet `max` stands there.
"""

from collections.abc import Mapping, Sequence
from math import floor, inf
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchjd.aggregation import IMTLG, MGDA, AlignedMTL, CAGrad, ConFIG, Mean, PCGrad, UPGrad

from lossatlas.composite import power_weights
from lossatlas.composite.balancers import Encodec
from lossatlas.composite.telescoped import Telescope
from lossatlas.composite.training import Seen
from lossatlas.seeds import seed
from lossatlas.stepper import Stepper
from lossatlas.studies.composite.cagrad import METHODS, READ_OFF, cagrad_paths
from lossatlas.studies.composite.plan import STEEPNESS
from lossatlas.theory import critical_team

HOLE, RAMP, RIM = 2.0, 0.5, 0.8  # centre of the hole; half-width of its floor's ramp; distance of the rim


def team_slopes(x: Tensor, n: int, steepness: float) -> Tensor:
    """Slopes (..., n) at x (...) > 0 of the obnoxious member and n − 1 teammates of slope 1 towards 0."""
    into = ((x - HOLE) / RAMP).clamp(-1, 1) * steepness
    own = torch.where(x < HOLE - RIM, torch.ones_like(x), into)
    return torch.cat([own[..., None], torch.ones(*x.shape, n - 1, dtype=x.dtype)], -1)


def velocity(slopes: Tensor, q: float) -> Tensor:
    """Σ w_i g_i (...) of slopes (..., n) on a line, weights ∝ |slope|^q."""
    if q == 0:
        return slopes.mean(-1)
    if q == inf:
        return slopes.gather(-1, slopes.abs().argmax(-1, keepdim=True))[..., 0]
    return (power_weights(slopes.abs(), q) * slopes).sum(-1)


def team_paths(n: int, q: float, steepness: float, step: float, steps: int) -> tuple[Tensor, Tensor]:
    """Positions (steps + 1,) from the hole's bottom, and the obnoxious member's share (steps,) of all pull."""
    x, path, share = torch.tensor(HOLE, dtype=torch.float64), [], []
    for _ in range(steps):
        path.append(x)
        slopes = team_slopes(x, n, steepness)
        pull = power_weights(slopes.abs(), q) * slopes.abs()
        share.append(pull[0] / pull.sum())
        x = x - step * velocity(slopes, q)
    return torch.stack([*path, x]), torch.stack(share)


def smallest_escaping_team(q: float, steepness: float, largest: int = 40) -> int:
    """The least n whose flow leaves the hole, by looking at every n."""
    escaped = [n for n in range(2, largest + 1) if _escapes(n, q, steepness)]
    return escaped[0] if escaped else largest + 1


def _escapes(n: int, q: float, steepness: float) -> bool:
    """On a line the flow passes every point where the velocity points on: no zero from the hole to the rim."""
    x = torch.linspace(HOLE - RIM, HOLE, 4001, dtype=torch.float64)
    return bool((velocity(team_slopes(x, n, steepness), q) > 0).all())


def onset_of_flipping(n: int, q: float, steepness: float) -> float:
    """The product η v′ at which the stuck team begins to alternate, by dividing a bracket of steps η; theory: 2."""
    stand = (n - 1) ** (1 / (q + 1))  # |g_1| in equilibrium, with s = 1
    x = torch.tensor(HOLE - RAMP * stand / steepness, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(velocity(team_slopes(x, n, steepness), q), x)
    low, high = 0.5 / float(slope), 4.0 / float(slope)
    for _ in range(4):  # each divides the bracket by 32
        step = torch.linspace(low, high, 33, dtype=torch.float64)
        position = x.detach() + torch.full_like(step, 1e-6)
        for _ in range(200):
            position = position - step * velocity(team_slopes(position, n, steepness), q)
        first = int(((position - x.detach()).abs() >= 1e-6).int().argmax())
        low, high = float(step[first - 1]), float(step[first])
    return (low + high) / 2 * float(slope)


def desert(members: Sequence[int], powers: Sequence[float], starts: int, half_range: float) -> list[dict[str, Any]]:
    """Rows (n, q, share, predicted, starts): success from U[−X, X] against the share of the interval round 0 that flows
    to 0, up to the nearest other zero of the velocity."""
    rows = []
    for n in members:
        k = torch.sqrt(torch.tensor([2.0 + 3 * i for i in range(n)], dtype=torch.float64))  # rationally independent
        generator = torch.Generator().manual_seed(seed("composite", "desert", n))
        start = half_range * (2 * torch.rand(starts, generator=generator, dtype=torch.float64) - 1)
        for q in powers:

            def v(x: Tensor, k: Tensor = k, q: float = q) -> Tensor:
                slopes = k * torch.sin(k * x[..., None])
                return velocity(slopes, q)

            grid = torch.linspace(1e-4, 4.0, 40001, dtype=torch.float64)
            basin = float(grid[int((v(grid) <= 0).int().argmax())])
            x = start.clone()
            for _ in range(3000):
                x = x - 0.01 * v(x).clamp(-3, 3)
            rows.append(
                {
                    "n": n,
                    "q": q,
                    "share": float((x.abs() < 0.1).double().mean()),
                    "predicted": basin / half_range,
                    "starts": starts,
                }
            )
    return rows


def sliding_path(step: float, steps: int, start: float = 1.03) -> Tensor:
    """Positions (steps + 1,) of steps along the larger of the two slopes, which changes sides at 0."""
    x, path = start, [start]
    for _ in range(steps):
        x = x - step * (2.0 if x > 0 else -2.0)
        path.append(x)
    return torch.tensor(path, dtype=torch.float64)


# --- exact rows -------------------------------------------------------------------------------------------------------

PUBLISHED_JACOBIAN = [[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]


PRINTED = {  # results on it in torchjd's test_values.py
    Mean(): (1.0, 1.0, 1.0),
    MGDA(): (0.0, 1.0, 1.0),
    PCGrad(): (0.5848, 3.8012, 3.8012),
    UPGrad(): (0.2929, 1.9004, 1.9004),
    IMTLG(): (0.0767, 1.0, 1.0),
    AlignedMTL(): (0.2133, 0.9673, 0.9673),
    ConFIG(): (0.1588, 2.0706, 2.0706),
    CAGrad(c=0.5): (0.1835, 1.2041, 1.2041),
}


def torchjd_gap() -> float:
    """Greatest difference of torchjd's aggregators from the values that its tests print."""
    jacobian = torch.tensor(PUBLISHED_JACOBIAN)
    with torch.random.fork_rng(devices=[]):  # its PCGrad draws an order from the global generator
        return max(float((aggregate(jacobian) - torch.tensor(v)).abs().max()) for aggregate, v in PRINTED.items())


def readings(optimizer: str, steps: int) -> dict[str, float]:
    """Readings A and B under one optimiser: steps whose positions differ in any bit, and the greatest relative
    difference of the values that a schedule or line search would read."""
    paths, values = [], []
    for telescopes in (False, True):
        theta = torch.tensor([-1.2, 1.0])
        stepper, telescope, path, value_path = Stepper(theta, optimizer), Telescope(), [], []
        for _ in range(steps):
            theta = theta.detach().requires_grad_()
            losses = torch.stack([(1 - theta[0]) ** 2, 10 * (theta[1] - theta[0] ** 2) ** 2])
            norms = torch.stack([torch.autograd.grad(part, theta, retain_graph=True)[0].norm() for part in losses])
            weights = power_weights(norms, 1.0)
            value = telescope(losses, weights) if telescopes else (weights.detach() * losses).sum()
            theta = theta.detach() + 1e-3 * stepper.step(torch.autograd.grad(value, theta)[0])
            path.append(theta)
            value_path.append(value.detach())
        paths.append(torch.stack(path))
        values.append(torch.stack(value_path))
    differing = int((paths[0] != paths[1]).any(-1).sum())
    return {"differing": differing, "value_gap": float((values[0] - values[1]).abs().max() / values[0][0].abs())}


def attention_exponent() -> float:
    """Slope of log w_1 on log ‖g_1‖ as goal 1 bottoms out beside five others, for q = 1; theory: 1."""
    sizes = torch.logspace(-2, -6, 9, dtype=torch.float64)
    norms = torch.cat([sizes[:, None], torch.ones(9, 5, dtype=torch.float64)], 1)
    weights = power_weights(norms, 1.0)[:, 0]
    return float(np.polyfit(sizes.log().numpy(), weights.log().numpy(), 1)[0])


def encodec_self_test() -> tuple[float, float]:
    """The gradient at 0 of |x − 1| and 100 |x + 1|, summed plainly and by our balancer."""
    slopes = torch.tensor([[-1.0, 100.0]], dtype=torch.float64)
    losses = torch.tensor([[1.0, 100.0]], dtype=torch.float64)
    seen = Seen(losses, slopes.abs(), torch.diag_embed(slopes.square()))
    return float(slopes.sum()), float((Encodec()(seen) * slopes).sum())


# --- all of it --------------------------------------------------------------------------------------------------------

TEAM_POWERS = (0.0, 0.5, 1.0, 2.0, 4.0)
ETA = 0.05


def measure(settings: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Rows (toy, arm, x, measured, predicted, n) and the paths that the figure draws."""
    rows: list[dict[str, Any]] = []

    def add(toy: str, arm: str, x: float, measured: float, predicted: float, n: int = 1) -> None:
        rows.append({"toy": toy, "arm": arm, "x": float(x), "measured": float(measured), "predicted": float(predicted)})
        rows[-1]["n"] = n

    for q in TEAM_POWERS:
        critical = critical_team(q, STEEPNESS)
        add("team", f"q={q:g}", q, smallest_escaping_team(q, STEEPNESS), floor(critical) + 1)
        stuck = floor(critical)
        _, share = team_paths(stuck, q, STEEPNESS, 0.02, 600)
        add("share", f"q={q:g}", stuck, share[-1], 0.5)
        if stuck > 2 or q > 0:
            add("flip", f"q={q:g}", stuck, onset_of_flipping(stuck, q, STEEPNESS), 2.0)
    for row in desert(settings["desert_members"], (0.0, 1.0, inf), settings["desert_starts"], 200.0):
        arm = "max" if row["q"] == inf else f"q={row['q']:g}"
        add("desert", arm, row["n"], row["share"], row["predicted"], row["starts"])
    chatter = sliding_path(ETA, 400)
    add("sliding", "max", ETA, float(chatter[-50:].abs().max()) / ETA, 2.0)
    for optimizer in ("sgd", "adam"):
        found = readings(optimizer, 200)
        add("hidden", optimizer, 200, found["differing"], 0)
        add("hidden value", optimizer, 200, found["value_gap"], 0)
    add("attention", "q=1", 1, attention_exponent(), 1)
    add("torchjd", "all", 0, torchjd_gap(), 0, len(PRINTED))
    unbalanced, balanced = encodec_self_test()
    add("encodec", "unbalanced", 0, unbalanced, 99)
    add("encodec", "balanced", 0, balanced, 0)
    paths = cagrad_paths(settings["cagrad_steps"])
    for name, ends in zip(METHODS, paths[:, :, -1], strict=True):
        for i, (x1, x2) in enumerate(ends):
            read = READ_OFF.get(name, (np.nan,) * 3)[i]
            add("cagrad x1", name, i, x1, np.nan if read is None else read)
            add("cagrad x2", name, i, x2, np.nan)
    team = {
        f"team q={q:g} n={n}": team_paths(n, q, STEEPNESS, 0.02, 400)[0].numpy() for q in (0.0, 1.0) for n in (3, 4)
    }
    return rows, {"cagrad": paths, "sliding": chatter.numpy(), **team}
