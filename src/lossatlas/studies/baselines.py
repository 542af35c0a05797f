"""Trains an ensemble of baselines: settings -> parameters before and after, for any study to read."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lossatlas import data
from lossatlas.problems import architectures
from lossatlas.problems.network import NetworkProblem, exact_moments, initial
from lossatlas.seeds import seed
from lossatlas.studies.settings import RESIDUAL, Baseline
from lossatlas.training import Recipe, Store, Training, steps_per_epoch, train


class Problems(NamedTuple):
    """The same network on the training rows, and on the held-out rows with BatchNorm statistics of the former."""

    train: NetworkProblem
    test: NetworkProblem


def data_set(baseline: Baseline, data_dir: str, download: bool) -> data.DataSet:
    """The baseline's data set; see `lossatlas.data.load` for the errors."""
    return data.load(baseline.data, data_dir, download=download, folder=baseline.folder or None)


def build(baseline: Baseline, shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """A freshly initialised network for inputs of `shape`."""
    inputs = torch.Size(shape).numel()
    if baseline.architecture in architectures.MNIST1D_NETWORKS:
        return architectures.mnist1d_network(baseline.architecture, inputs, classes)
    if baseline.architecture in RESIDUAL:
        depth, *channels = baseline.hidden
        norm = RESIDUAL[baseline.architecture] or ("batch" if baseline.batch_norm else "none")
        return architectures.resnet(depth, classes, norm, shape[0], channels or (16, 32, 64))
    if baseline.architecture == "cnn":
        shape = shape if len(shape) > 1 else (1, *shape)
        return architectures.cnn(shape, baseline.hidden, classes, baseline.activation, baseline.batch_norm)
    outputs = inputs if baseline.autoencoder else classes
    return architectures.mlp((inputs, *baseline.hidden, outputs), baseline.activation, baseline.batch_norm)


def problems(baseline: Baseline, data_set: data.DataSet, device: str = "cpu") -> Problems:
    """The baseline's problems on a data set."""

    def inputs(x: Tensor) -> Tensor:
        if baseline.shuffled:
            x = x.flatten(1)
            x = x[:, data.mixed_order(f"{data_set.name}/positions", x.shape[1])]
        if baseline.architecture in ("conv", "gru"):
            x = x.flatten(1)  # a sequence of numbers
        return x[:, None] if baseline.architecture == "cnn" and x.dim() == 2 else x

    def problem(x: Tensor, y: Tensor) -> NetworkProblem:
        target, loss = (x.flatten(1), "squared_error") if baseline.autoencoder else (y, "cross_entropy")
        return NetworkProblem(module, inputs(x), target, loss).to(device)

    with torch.random.fork_rng(devices=[]):  # the initialisation is not used; the caller's random state stays
        module = build(baseline, tuple(data_set.train_x.shape[1:]), data_set.classes)
    training = problem(data_set.train_x, data_set.train_y)
    held_out = replace(problem(data_set.test_x, data_set.test_y), module=training.module)
    return Problems(training, replace(held_out, moments=exact_moments(training)) if training.normalised else held_out)


def starts(baseline: Baseline, data_set: data.DataSet, seeds: list[int]) -> Tensor:
    """Initialisations (k, P), named by data set and seed alone, so that arms with one architecture share them."""
    shape = tuple(data_set.train_x.shape[1:])
    return initial(lambda: build(baseline, shape, data_set.classes), [seed("init", data_set.name, s) for s in seeds])


def recipe_of(baseline: Baseline, problem: NetworkProblem) -> Recipe:
    """How the baseline's members are trained on a problem, for all of its epochs."""
    recipe = Recipe(
        optimizer=baseline.optimizer,
        batch_size=baseline.batch_size,
        schedule=baseline.schedule,
        milestones=baseline.milestones,
        weight_decay=baseline.weight_decay,
    )
    return replace(recipe, steps=baseline.epochs * steps_per_epoch(problem, recipe))


def push_outwards(
    problem: NetworkProblem, theta: Tensor, pushes: Tensor, strength: float
) -> Callable[[Tensor], Tensor]:
    """The penalty s sum_p (|p| - c |p(0)|)^2 over the tensors p of a network, for members theta (k, P), c (k,).

    Lucas et al. 2021 (`outR`) take one radius R for all tensors; that would pull wide layers inwards. Tensors that
    start at zero have no radius and are left out; c = 0 switches the penalty off.
    """
    squares = _tensor_squares(problem, theta)
    weights = strength * ((pushes > 0)[:, None] & (squares > 0)).to(theta.dtype)
    radii = pushes[:, None] * squares.sqrt()

    def penalty(theta: Tensor) -> Tensor:
        norms = _tensor_squares(problem, theta).clamp_min(1e-24).sqrt()  # the root has a gradient at zero, too
        return (weights * (norms - radii).square()).sum(-1)

    return penalty


def _tensor_squares(problem: NetworkProblem, theta: Tensor) -> Tensor:
    """Squared norm of each parameter tensor, (k, tensors)."""
    return torch.stack([part.flatten(1).square().sum(-1) for part in problem.layout.split(theta).values()], -1)


def run(
    baseline: Baseline,
    data_set: data.DataSet,
    device: str = "cpu",
    store: Store | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Training:
    """Train all members of a baseline."""
    problem = problems(baseline, data_set, device).train
    rates, scales, pushes, seeds = zip(*baseline.members(), strict=True)
    unique = list(dict.fromkeys(seeds))
    theta = starts(baseline, data_set, unique)[[unique.index(s) for s in seeds]]
    theta = (theta * torch.tensor(scales)[:, None]).to(device)
    recipe = recipe_of(baseline, problem)
    penalty = None
    if any(pushes):
        penalty = push_outwards(problem, theta, torch.tensor(pushes, device=device), baseline.push_strength)
    return train(
        problem,
        theta,
        recipe,
        torch.tensor(rates, device=device),
        orders=seeds,
        penalty=penalty,
        store=store,
        progress=progress,
    )
