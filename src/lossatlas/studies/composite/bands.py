"""Whether two arms find different solutions: barriers between final networks, straight and along an elastic band.

Pairs start from the sum's network of a seed. From the same start: the network of q = 1 with that seed, and as its
control the sum on another order of the data. From another start: the network of q = 1 with another seed, and as its
control the sum's with that seed, so what two seeds differ by is not taken for what two arms differ by.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from lossatlas.elastic_band import Cycle, Schedule, connect
from lossatlas.seeds import seed
from lossatlas.studies.composite import plan
from lossatlas.studies.composite.classifiers import ClassifierTask
from lossatlas.studies.composite.comparison import Outcome


def schedule(steps: int, batch_size: int) -> Schedule:
    """Three cycles of so many steps: five pivots, then two more at the highest bumps, twice."""
    cycles = (Cycle(steps, 0.1, "equal", 3), Cycle(steps, 0.1, "highest", 2), Cycle(steps, 0.01, "highest", 2))
    return Schedule(cycles, batch_size=batch_size, weight_decay=0.0, top=2)  # the networks were trained without decay


def between(
    task: ClassifierTask,
    outcomes: Mapping[str, Outcome],
    job: Mapping[str, Any],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """`pairs` (4,), and (4, band_seeds): `straight` and `band`, the training cross-entropy's maximum on the segment and
    on the band less that of the higher end; `stretch`, the band's length over the segment's."""
    train, seeds = task.networks[0].train, job["band_seeds"]
    settings = schedule(job["band_steps"], job["batch_size"])
    first = outcomes[plan.SUM].final.to(task.device)
    found = {name: np.full((len(plan.PAIRS), seeds), np.nan) for name in ("straight", "band", "stretch")}
    for p, (pair, (arm, other_start)) in enumerate(plan.PAIRS.items()):
        second = outcomes[arm].final.to(task.device)
        for s in range(seeds):
            ends = first[s], second[s + seeds if other_start else s]
            if all(bool(end.isfinite().all()) for end in ends):
                generator = torch.Generator().manual_seed(seed("composite", job["name"], "band", pair, s))
                band = connect(train, *ends, settings, generator=generator)
                higher = float(torch.maximum(band.losses[0], band.losses[-1]))
                found["straight"][p, s] = band.history[0].saddle - higher
                found["band"][p, s] = band.saddle - higher
                found["stretch"][p, s] = band.length_ratio
            if progress:
                progress(p * seeds + s + 1, len(plan.PAIRS) * seeds)
    return {"pairs": np.array(list(plan.PAIRS)), **found}
