"""Classification by evolution strategies as in evostrats, population by population, and by backpropagation.

Every arm takes minibatches in one order a seed, from one initialisation a seed, so arms are paired. The step is the
rate times evostrats' direction (ranks, beta 50, sigma 0.01); the rate falls to 3/4 after each twelfth of the steps.
Each arm has the rate that served it best on validation rows, unless only one is given (the published 0.1).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lossatlas import data, ensemble, evolution, smoothing
from lossatlas.errors import LossAtlasError
from lossatlas.evolution import evostrats, pepg, safe_mutation
from lossatlas.minibatches import minibatch_rows
from lossatlas.perceptron import Perceptron
from lossatlas.problems.architectures import mlp
from lossatlas.problems.network import NetworkProblem, initial
from lossatlas.seeds import seed
from lossatlas.studies.evolution.laws import _columns, cosine
from lossatlas.training import Store

FALL, STAGES = 0.75, 12  # as published: times 3/4 every 1000 of 12 000 steps
BACKWARD = 2  # forward passes that a backward pass counts as
TABLE_NUMBERS = 2**22  # normals in the table that directions are slices of
PROBES = 8  # Hessian-vector products behind a crossover sigma
SIGMAS = ("fixed", "pepg", "safe", "shuffled")
PEPG_RATE = 20.0  # of sigma; one reading of the "20" in the published ablations, whose code does not say


@dataclass(frozen=True)
class Arm:
    """sampling: as in `evolution`, or `backprop`.

    sigma: `fixed`; `pepg`, adapted after each step; `safe`, smaller where the outputs react more; or `shuffled`, the
    safe ones at random coordinates, the placebo of the former.
    """

    sampling: str
    population: int = 0
    schedule: bool = True
    sigma: str = "fixed"

    @property
    def name(self) -> str:
        name = self.sampling if self.sigma == "fixed" else f"{self.sampling}, {self.sigma}"
        return name if self.schedule else f"{name} without schedule"

    def passes(self, classes: int) -> int:
        """Forward passes of a step; a safe sigma needs the derivative of each output."""
        if self.sigma in ("safe", "shuffled"):
            return self.population + 1 + BACKWARD * classes
        return self.population or 1 + BACKWARD


def arms(settings: Mapping[str, Any]) -> list[Arm]:
    """All arms: the iid populations, what evostrats would do with pairs, and its ablations at one population.

    Raises `LossAtlasError` for a sigma that is no adapted one.
    """
    if unknown := set(settings["sigmas"]) - set(SIGMAS[1:]):
        raise LossAtlasError(f"sigma {', '.join(sorted(unknown))} is unknown; use some of {', '.join(SIGMAS[1:])}")
    middle = settings["ablation_population"]
    return [
        Arm("backprop"),
        *(Arm("iid", n) for n in settings["populations"]),
        *(Arm("antithetic", n) for n in settings["antithetic_populations"]),
        Arm("antithetic", middle, schedule=False),
        Arm("auto", middle),
        *(Arm("antithetic", middle, sigma=sigma) for sigma in settings["sigmas"]),
    ]


def network(settings: Mapping[str, Any], rows: data.DataSet) -> torch.nn.Sequential:
    """A freshly initialised network for the data set's rows."""
    shape = tuple(rows.train_x.shape[1:])
    if settings["network"] == "evostrats":
        return evostrats.network(shape, rows.classes)
    return mlp((math.prod(shape), *settings["hidden"], rows.classes))


def centred(rows: data.DataSet) -> data.DataSet:
    """Pixels (x - 0.5) / 0.5, as published; the signals of MNIST-1D as they are."""
    if rows.train_x.dim() == 2:
        return rows
    return replace(rows, train_x=rows.train_x * 2 - 1, test_x=rows.test_x * 2 - 1)


def run(
    name: str,
    rows: data.DataSet,
    settings: Mapping[str, Any],
    store: Store | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list]:
    """The table of one data set: a row for each arm, seed and log point; `purpose` is `run` or `tuning`."""
    rows = centred(rows)
    tuning = data.validation_split(rows, len(rows.train_y) // 5)
    state = (store.load() if store else None) or {"rows": [], "rates": {}}
    plan = [(arm, s) for arm in arms(settings) for s in range(settings["seeds"])]
    done = {(row["arm"], row["population"], row["seed"]) for row in state["rows"] if row["purpose"] == "run"}
    for index, (arm, s) in enumerate(plan):
        if progress:
            progress(index, len(plan))
        if (arm.name, arm.population, s) in done:
            continue
        key = f"{arm.name} {arm.population}"
        if key not in state["rates"]:
            state["rates"][key], tried = _tuned(name, tuning, arm, settings)
            state["rows"] += tried
        rate = state["rates"][key]
        state["rows"] += list(_train(name, rows, arm, rate, s, settings))
        if store:
            store.save(state)
    return _columns(state["rows"])


def _tuned(name: str, rows: data.DataSet, arm: Arm, settings: Mapping[str, Any]) -> tuple[float, list[dict]]:
    """The rate with the best validation accuracy at the end of a training of a seed that is used for nothing else.

    A single rate is taken as it is.
    """
    found, tried = {}, []
    if len(settings["rates"]) == 1:
        return settings["rates"][0], []
    for rate in settings["rates"]:
        last = [row | {"purpose": "tuning"} for row in _train(name, rows, arm, rate, "tuning", settings, logs=1)]
        found[rate] = last[-1]["test_accuracy"]
        tried += last
    return max(found, key=found.get), tried


def _train(
    name: str, rows: data.DataSet, arm: Arm, rate: float, s: int | str, settings: Mapping[str, Any], logs: int = 0
) -> Iterator[dict[str, Any]]:
    """One training; yields a row after each `steps` / `logs` steps."""
    steps, logs = settings["steps"], logs or settings["logs"]
    problem = NetworkProblem(network(settings, rows), rows.train_x, rows.train_y)
    test = NetworkProblem(problem.module, rows.test_x, rows.test_y)
    theta = initial(lambda: network(settings, rows), [seed("evolution", name, "initial", s)])[0]
    table = noise_table()
    # found once where it takes a forward pass to find it
    part = problem.on(torch.arange(settings["batch_size"]))
    perceptron = Perceptron.of(part)
    chunk = None if perceptron else ensemble.chunk_size(part, theta[None])
    sigma: float | Tensor = evostrats.SIGMA if arm.sigma == "fixed" else torch.full_like(theta, evostrats.SIGMA)
    batches = _minibatches(problem, settings["batch_size"], seed("evolution", name, "order", s))
    for step in range(steps):
        batch = next(batches)
        now = rate * FALL ** (step * STAGES // steps) if arm.schedule else rate
        key = seed("evolution", name, "noise", s, step)
        if arm.sigma in ("safe", "shuffled"):
            shuffling = seed("evolution", name, "shuffle", s) if arm.sigma == "shuffled" else None
            sigma = _safe(batch, theta, shuffling)
        if arm.sampling == "backprop":
            losses, direction = _gradient(batch, theta, perceptron)
        else:
            direction, losses = _direction(batch, theta, sigma, arm, key, table, chunk)
        theta = theta - now * direction
        if arm.sigma == "pepg":
            z = evolution.from_table(table, key, len(theta))(0, arm.population // 2)
            sigma = _adapted(sigma, z, losses)
        if (step + 1) % (steps // logs) == 0:
            yield {
                "data": name,
                "purpose": "run",
                "arm": arm.name,
                "population": arm.population,
                "rate": rate,
                "seed": s if isinstance(s, int) else -1,
                "parameters": problem.dim,
                "step": step + 1,
                "forward_passes": arm.passes(rows.classes) * (step + 1),
                "test_accuracy": 1 - float(test.example_errors(test.logits(theta[None]).detach()).mean()),
                "finite": bool(theta.isfinite().all()),
                "sigma": float(torch.as_tensor(sigma).mean()),
                **_diagnosis(
                    batch, theta, sigma, arm, seed("evolution", name, "diagnosis", s, step), table, chunk, perceptron
                ),
            }


@cache
def noise_table() -> Tensor:
    """The normals that all directions are slices of, made once a job."""
    generator = torch.Generator().manual_seed(seed("evolution", "noise table") % 2**32)
    return torch.randn(TABLE_NUMBERS, generator=generator)


def _minibatches(problem: NetworkProblem, size: int, order: int) -> Iterator[NetworkProblem]:
    epoch = 0
    while True:
        for rows in minibatch_rows(problem.rows, size, [order], epoch):
            yield problem.on(rows)
        epoch += 1


def _direction(
    batch: NetworkProblem, theta: Tensor, sigma: float | Tensor, arm: Arm, key: int, table: Tensor, chunk: int | None
) -> tuple[Tensor, Tensor]:
    """Evostrats' direction turned downhill, which the rate multiplies, and the losses (n,)."""
    found = evolution.generation(
        batch, theta, sigma, arm.population, key, arm.sampling, "ranks", table=table, chunk=chunk
    )
    return evostrats.BETA * sigma * found.gradient, found.losses


def _gradient(batch: NetworkProblem, theta: Tensor, perceptron: Perceptron | None) -> tuple[Tensor, Tensor]:
    """Losses (1,) and the gradient (P,)."""
    written_out = (theta[None], batch.x, batch.y)
    loss, gradient = perceptron.gradient(*written_out) if perceptron else ensemble.gradient(batch, theta[None])
    return loss, gradient[0]


def _adapted(sigma: Tensor, z: Tensor, losses: Tensor) -> Tensor:
    """sigma after a step of PEPG, scaled as in evostrats: by the losses' deviation, the population and sigma."""
    gradient = pepg.sigma_gradient(z, losses / losses.std(), sigma)
    return pepg.adapted(sigma, sigma.square() * gradient, PEPG_RATE / len(losses))


def _safe(batch: NetworkProblem, theta: Tensor, shuffling: int | None) -> Tensor:
    """The sigmas of safe mutation (P,); for a placebo in an order that one number fixes for the whole training."""
    sigma = safe_mutation.safe_sigma(evostrats.SIGMA, safe_mutation.sensitivity(batch, theta))
    if shuffling is None:
        return sigma
    return sigma[torch.randperm(len(sigma), generator=torch.Generator().manual_seed(shuffling))]


def _diagnosis(
    batch: NetworkProblem,
    theta: Tensor,
    sigma: float | Tensor,
    arm: Arm,
    key: int,
    table: Tensor,
    chunk: int | None,
    perceptron: Perceptron | None,
) -> dict[str, Any]:
    """Cosine and length of a fresh estimate against the gradient of the same batch, and what the law expects.

    The law is about one sigma for all parameters.
    """
    loss, gradient = _gradient(batch, theta, perceptron)
    row = {"loss": float(loss), "cosine": 1.0, "norm_ratio": 1.0, "crossover_sigma": math.nan, "law": 1.0}
    if arm.sampling == "backprop":
        return row
    estimate, _ = _direction(batch, theta, sigma, arm, key, table, chunk)
    generator = torch.Generator().manual_seed(key % 2**32)
    critical = float(evolution.crossover_sigma(batch, theta, generator, PROBES))
    kappa = (evostrats.SIGMA / critical) ** 2
    mirrored = arm.sampling == "antithetic" or (arm.sampling == "auto" and kappa >= 1)
    count = smoothing.es_effective_count(arm.population, kappa, mirrored, ranks=True)
    return row | {
        "cosine": float(cosine(estimate, gradient)),
        "norm_ratio": float(estimate.norm() / gradient.norm()),
        "crossover_sigma": critical,
        "law": smoothing.es_cosine(count, len(theta)) if arm.sigma == "fixed" else math.nan,
    }
