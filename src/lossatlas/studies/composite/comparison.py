"""One comparison: every arm is tuned with one budget, then run on fresh seeds that all arms share.

A configuration is a learning rate; the arms `static` and `VAE` draw weights of their own with each. Tuning seeds see
the validation rows only, and the best configuration by the mean score (NaN counts as the worst) goes on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lossatlas.composite import telescoped
from lossatlas.composite.training import Composition, train
from lossatlas.seeds import seed
from lossatlas.studies.composite.arms import Arm, Setting, arm
from lossatlas.training import Recipe, Store

TUNING = 1000  # seeds of the tuning runs start here, so that no evaluated run was tuned on
STATIC_RANGE = 10.0  # the tuned static weights are log-uniform between 1/10 and 10
STEPS_LOOKED_AT = 16
LOOK_EVERY = 4  # steps at least, since a look costs a pass for every loss


class Task(Protocol):
    """What is trained in a comparison."""

    losses: tuple[str, ...]  # the names of what is weighed
    reconstruction: Tensor | None
    limits: Tensor | None

    def problem(self, tuning: bool): ...

    def starts(self, seeds: Sequence[int]) -> Tensor: ...

    def static_weights(self, count: int, generator: torch.Generator) -> Tensor: ...

    def judged(self, theta: Tensor, tuning: bool) -> dict[str, Tensor]:
        """Columns (k,) on held-out rows (of validation, if `tuning`), `score` among them: the less the better."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """rows: tuning and final runs of one arm. logs: arrays over (looks, seeds, ...) of the final runs. final (k, P)."""

    rows: list[dict[str, Any]]
    logs: dict[str, Tensor]
    final: Tensor
    kept: dict[int, Tensor]


def run(
    task: Task,
    job: Mapping[str, Any],
    device: str,
    store: Store | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Outcome]:
    """{arm: outcome} of all arms of a job; with a `store`, one that was cut short goes on after its last arm."""
    saved = (store.load() if store else None) or {}
    found = {name: Outcome(**fields) for name, fields in saved.items()}
    for done, name in enumerate(job["arms"]):
        if name not in found:
            found[name] = run_arm(task, arm(name, task.losses), job, device)
            if store:
                store.save({name: vars(outcome) for name, outcome in found.items()})
        if progress:
            progress(done + 1, len(job["arms"]))
    return found


def run_arm(task: Task, arm: Arm, job: Mapping[str, Any], device: str) -> Outcome:
    """One arm: its tuning runs, and the runs of its best configuration on the seeds of all arms."""
    task = task.variational() if arm.variational else task
    rates, weights = configurations(task, job)
    tuning = [TUNING + s for s in range(job["tuning_seeds"])]
    cells = [(c, s) for c in range(len(rates)) for s in tuning]
    rows, _ = _runs(task, arm, job, device, cells, rates, weights, tuning=True)
    score = torch.tensor([row["score"] for row in rows], dtype=torch.float64)
    score = score.nan_to_num(torch.inf).view(len(rates), -1).mean(1)
    best = int(score.argmin())
    final, composition = _runs(
        task, arm, job, device, [(best, s) for s in range(job["seeds"])], rates, weights, tuning=False
    )
    return Outcome(rows + final, looks(composition), composition.final, composition.kept)


def configurations(task: Task, job: Mapping[str, Any]) -> tuple[list[float], Tensor]:
    """Learning rates, and the weights (c, n) that an arm with static weights draws with each."""
    rates = list(job["learning_rates"])
    generator = torch.Generator().manual_seed(seed("composite", job["name"], "static"))
    return rates, task.static_weights(len(rates), generator)


def log_uniform_weights(count: int, n: int, generator: torch.Generator) -> Tensor:
    """Weights (count, n), log-uniform between 1 / STATIC_RANGE and STATIC_RANGE."""
    return STATIC_RANGE ** (2 * torch.rand(count, n, generator=generator, dtype=torch.float64) - 1)


def _runs(task, arm: Arm, job, device, cells, rates, weights, tuning: bool) -> tuple[list[dict], Composition]:
    """The runs of some (configuration, seed) cells, together."""
    problem = task.problem(tuning)
    chosen = [c for c, _ in cells]
    seeds = [s for _, s in cells]
    unique = list(dict.fromkeys(seeds))
    theta = task.starts(unique)[[unique.index(s) for s in seeds]].to(device)
    name = seed("composite", job["name"], arm.name, "tuning" if tuning else "final")
    setting = Setting(name, weights[chosen].to(theta), task.reconstruction, task.limits)
    recipe = Recipe("adam", steps=job["steps"], batch_size=job["batch_size"], schedule="cosine")
    found = train(
        problem,
        theta,
        arm.weighting(setting),
        recipe,
        torch.tensor([rates[c] for c in chosen], device=device),
        orders=[s + 5000 if arm.name == "sum, other order" else s for s in seeds],
        at=arm.at,
        noise=torch.Generator().manual_seed(name) if arm.noise else None,
        look_every=job["steps"] if tuning else max(LOOK_EVERY, job["steps"] // STEPS_LOOKED_AT),
        keep=() if tuning else (max(1, job["steps"] // 4),),
    )
    columns = {name: value.tolist() for name, value in task.judged(found.final, tuning).items()}
    diverged = found.diverged_at.tolist()
    rows = []
    for i, (c, s) in enumerate(cells):
        row = {"arm": arm.name, "stage": "tuning" if tuning else "final", "configuration": c}
        row |= {"learning_rate": rates[c], "seed": s, "diverged_at": diverged[i]}
        row |= {"passes": 1.0 if arm.name.startswith("only ") else found.passes}
        row |= {name: value[i] for name, value in columns.items()}
        if diverged[i] >= 0:
            row |= {"score": float("nan")} | ({"success": False} if "success" in row else {})
        rows.append(row)
    return rows, found


def looks(found: Composition) -> dict[str, Tensor]:
    """What is written down of the final runs at the steps that were looked at (L,), for each seed (k).

    weights (L, k, n), normalised to a sum of sizes 1; effective (L, k) = 1 / Σ w²; authority (L, k, n), the share of
    w_i ‖g_i‖ at the parameters; cosine (L, k, n, n) between gradients there; value (L, k, 5): weighted sum, S_t by the
    right, left and middle quadrature, and the accumulated effect of re-weighting.
    """
    at = found.looked
    sizes = found.weights[at].abs()
    weights = sizes / sizes.sum(-1, keepdim=True).clamp_min(1e-30)
    norms = found.gramians.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    pull = weights * norms
    cosine = found.gramians / (norms[..., None] * norms[..., None, :]).clamp_min(1e-30)
    # the value needs every step, and weights of one scale: those that sum to 1
    whole = found.weights.abs()
    value = telescoped.values(found.losses.double(), (whole / whole.sum(-1, keepdim=True).clamp_min(1e-30)).double())
    reweighting = value.reweighting.cumsum(0)
    columns = torch.stack([value.weighted, value.right, value.left, value.middle, reweighting], -1)
    return {
        "looked": at,
        "weights": weights,
        "effective": 1 / weights.square().sum(-1).clamp_min(1e-30),
        "authority": pull / pull.sum(-1, keepdim=True).clamp_min(1e-30),
        "cosine": cosine,
        "value": columns[at].float(),
        "losses": found.losses[at],
    }
