"""Accuracies of the trained networks of the MNIST-1D table."""

from collections.abc import Mapping
from typing import Any

import torch

from lossatlas.data import DataSet
from lossatlas.problems.network import NetworkProblem
from lossatlas.studies import baselines
from lossatlas.studies.settings import Baseline


def score(baseline: Baseline, training: Mapping[str, Any], data_set: DataSet, device: str) -> list[dict[str, Any]]:
    """Rows (network, shuffled, learning_rate, seed): accuracies in per cent at the end, and whether it diverged."""
    both = baselines.problems(baseline, data_set, device)
    theta = torch.as_tensor(training["final"]).to(device)
    train, test = accuracies(both.train, theta), accuracies(both.test, theta)
    steps = baseline.epochs * (len(data_set.train_y) // baseline.batch_size)
    return [
        {
            "network": baseline.architecture,
            "shuffled": baseline.shuffled,
            "data": data_set.name,
            "learning_rate": rate,
            "seed": seed,
            "steps": steps,
            "train_accuracy": float(train[i]),
            "test_accuracy": float(test[i]),
            "diverged_at": int(training["diverged_at"][i]),
        }
        for i, (rate, _, _, seed) in enumerate(baseline.members())
    ]


def accuracies(problem: NetworkProblem, theta: torch.Tensor) -> torch.Tensor:
    """Per cent of the rows whose label has the only largest output, (k,)."""
    wrong = 0.0
    with torch.no_grad():
        for block in problem.blocks(len(theta)):
            wrong = wrong + block.example_errors(block.logits(theta)).sum(-1)
    return 100 * (1 - wrong / problem.rows)
