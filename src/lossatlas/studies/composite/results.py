"""From the outcomes of a comparison to its two files: one table of runs, and arrays with all arms stacked."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from lossatlas.studies.composite import bands, plan
from lossatlas.studies.composite.autoencoders import AutoencoderTask
from lossatlas.studies.composite.classifiers import ClassifierTask
from lossatlas.studies.composite.comparison import Outcome


def task(job: Mapping[str, Any], data_dir: str, download: bool, device: str) -> AutoencoderTask | ClassifierTask:
    """The task of a job by its kind."""
    kind = AutoencoderTask if job["kind"] == "autoencoder" else ClassifierTask
    return kind.load(job, data_dir, download, device)


def with_arms(job: Mapping[str, Any]) -> dict[str, Any]:
    """The job with the names of its arms."""
    return {**job, "arms": plan.arms(job)}


def rows(task: AutoencoderTask | ClassifierTask, outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """One row a run, of tuning and final ones; of a classifier's final ones also what lies between solutions."""
    found = [row for outcome in outcomes.values() for row in outcome.rows]
    if isinstance(task, AutoencoderTask):
        return [{"rate_bits": float("nan")} | row for row in found]
    between = {(row["arm"], row["seed"]): row for row in task.between(outcomes)}
    names = ("early_error", "barrier", "distance")
    nothing = dict.fromkeys(names, float("nan"))
    return [
        row | {name: (between[row["arm"], row["seed"]] if row["stage"] == "final" else nothing)[name] for name in names}
        for row in found
    ]


def arrays(
    task: AutoencoderTask | ClassifierTask,
    outcomes: Mapping[str, Outcome],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Logs with the arms (in the order of `arms`) as the first axis; of autoencoders pictures and limits, of
    classifiers the barriers of `bands.between`, whose bands `progress` counts.

    An arm with losses of its own is in the table of runs alone.
    """
    outcomes = {name: outcome for name, outcome in outcomes.items() if name != plan.VARIATIONAL}
    first = next(iter(outcomes.values()))
    found = {name: torch.stack([o.logs[name] for o in outcomes.values()]).cpu() for name in first.logs}
    found = {name: values.numpy() for name, values in found.items()}
    found |= {"arms": np.array(list(outcomes)), "goals": np.array(task.names)}
    if isinstance(task, AutoencoderTask):
        found |= {name: values.float().numpy() for name, values in task.pictures(list(outcomes.values())).items()}
        found["pca_error"] = np.array(task.pca_error(tuning=False))
    else:
        found |= bands.between(task, outcomes, task.job, progress)
    return found
