"""The classification comparison: one network under several losses that all have the right labels as their minimum."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lossatlas import data, ensemble
from lossatlas.data import DataSet
from lossatlas.interpolation import sweep
from lossatlas.problems.classifier import ClassifierProblem
from lossatlas.studies import baselines
from lossatlas.studies.composite.comparison import Outcome, log_uniform_weights
from lossatlas.studies.settings import Baseline

LINE_POINTS = 11


@dataclass(frozen=True, eq=False)
class ClassifierTask:
    """One data set and network of the comparison; see `comparison.Task`. The score is the held-out error."""

    data_set: DataSet
    job: Mapping[str, Any]
    device: str
    reconstruction: None = None
    limits: None = None

    @classmethod
    def load(cls, job: Mapping[str, Any], data_dir: str, download: bool, device: str) -> "ClassifierTask":
        """The task of a job; see `lossatlas.data.load` for the errors."""
        return cls(data.load(job["data"], data_dir, download=download), job, device)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.job["losses"])

    @property
    def losses(self) -> tuple[str, ...]:
        """What an arm weighs."""
        return self.names

    def static_weights(self, count: int, generator: torch.Generator) -> Tensor:
        """Weights (count, n) to tune over."""
        return log_uniform_weights(count, len(self.names), generator)

    @cached_property
    def baseline(self) -> Baseline:
        return Baseline(data=self.job["data"], hidden=tuple(self.job["hidden"]))

    @cached_property
    def splits(self) -> tuple[DataSet, DataSet]:
        """The data set, and for tuning its training rows with a quarter of them held out."""
        return self.data_set, data.validation_split(self.data_set, len(self.data_set.train_y) // 4)

    @cached_property
    def networks(self) -> tuple[baselines.Problems, baselines.Problems]:
        return tuple(baselines.problems(self.baseline, split, self.device) for split in self.splits)

    def problem(self, tuning: bool) -> ClassifierProblem:
        return ClassifierProblem(self.networks[tuning].train, self.names)

    def starts(self, seeds: Sequence[int]) -> Tensor:
        return baselines.starts(self.baseline, self.data_set, list(seeds))

    def judged(self, theta: Tensor, tuning: bool) -> dict[str, Tensor]:
        held_out = self.networks[tuning].test
        error = self._error(held_out, theta)
        return {
            "score": error,
            "error": error,
            "cross_entropy": ensemble.loss(held_out, theta).double().cpu(),
            "train_error": self._error(self.networks[tuning].train, theta),
        }

    def between(self, outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
        """Rows (arm, seed, early_error, barrier, distance) of the final runs.

        barrier: the greatest rise of the training cross-entropy over the chord on the straight line to the solution of
        the arm `sum` with the same seed; early_error: held-out error after a quarter of the steps.
        """
        train, reference = self.networks[0].train, outcomes["sum"].final.to(self.device)
        rows = []
        for name, outcome in outcomes.items():
            final = outcome.final.to(self.device)
            line = sweep(train, reference, final, LINE_POINTS)
            alphas = line.alphas.to(line.loss)
            chord = line.loss[:, :1] * (1 - alphas) + line.loss[:, -1:] * alphas
            barrier = (line.loss - chord).amax(1).double().tolist()
            early = self._error(self.networks[0].test, next(iter(outcome.kept.values())).to(self.device)).tolist()
            distance = (final - reference).norm(dim=-1).double().tolist()
            for s, values in enumerate(zip(early, barrier, distance, strict=True)):
                rows.append(
                    {"arm": name, "seed": s} | dict(zip(("early_error", "barrier", "distance"), values, strict=True))
                )
        return rows

    def _error(self, problem, theta: Tensor) -> Tensor:
        with torch.no_grad():
            return problem.example_errors(problem.logits(theta)).double().mean(-1).cpu()
