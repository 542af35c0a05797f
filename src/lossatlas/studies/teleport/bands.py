"""Barriers between runs with and without a teleport: on the segment, once the group is undone, and on an elastic band.

All runs are full-batch descents of one network with the same start and teleport (the scaling ascent). Barriers are of
the training loss, saddle minus the higher end.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lossatlas import data, ensemble
from lossatlas.elastic_band import CHEAP, connect
from lossatlas.interpolation import sweep
from lossatlas.problems.network import NetworkProblem
from lossatlas.progress import progress
from lossatlas.seeds import seed
from lossatlas.studies.teleport.classifiers import problems, starts, table
from lossatlas.studies.teleport.descent import Descent, members
from lossatlas.teleport import Ascent, shifted, teleport
from lossatlas.teleport.groups import PositiveScaling

ORBIT_POINTS = 21
SEGMENT_POINTS = 201  # a segment between solutions may have several tops


def measure(settings: Mapping[str, Any], data_set: data.DataSet) -> tuple[dict[str, list], dict[str, Tensor]]:
    """One row a pair of solutions and seed; `orbit` (seeds,): how far the loss strays along the orbit itself."""
    train, _ = problems(data_set, settings["hidden"], settings["rows"])
    seeds = list(range(settings["seeds"]))
    group = PositiveScaling(train)
    ends, element = solutions(train, group, settings, seeds)
    pairs = {
        "teleported": ends["teleported"],
        "undone": group.act(ends["teleported"], group.inverse(element)),
        "image": group.act(ends["none"], element),
        "shift": ends["shift"],
        "seed": ends["other"],
    }
    schedule = replace(CHEAP, batch_size=None, weight_decay=0.0).scaled(settings["band_share"])
    segments = {name: sweep(train, ends["none"], end, SEGMENT_POINTS).loss for name, end in pairs.items()}
    rows = []
    for name, s in progress([(name, s) for name in pairs for s in seeds], "bands"):
        generator = torch.Generator().manual_seed(seed("teleport", "band", name, s))
        found = connect(train, ends["none"][s], pairs[name][s], schedule, generator=generator)
        start, end = found.losses[0].item(), found.losses[-1].item()
        rows.append(
            {
                "pair": name,
                "seed": s,
                "start_loss": start,
                "end_loss": end,
                "segment": max(0.0, segments[name][s].max().item() - max(start, end)),
                "band": found.saddle - max(start, end),
                "band_error": found.saddle_error,
                "distance": found.distance,
                "length_ratio": found.length_ratio,
                "pivots": len(found.pivots),
                "outcome": found.outcome,
                "sample_gradients": found.cost.sample_gradients,
            }
        )
    return table(rows), {"orbit": strays(train, group, ends["none"], element)}


def solutions(
    train: NetworkProblem, group: PositiveScaling, settings: Mapping[str, Any], seeds: list[int]
) -> tuple[dict[str, Tensor], Tensor]:
    """Ends (seeds, P) of each arm at its best rate, and the element s (seeds, H) that the teleported ones went by.

    `other`: untouched runs from as many further starts. The best rate has the least mean log loss over seeds.
    """
    which, rates = members(seeds, settings["rates"])
    descent = Descent(starts(train, settings["hidden"], seeds)[which], "sgd", rates)
    for _ in range(settings["at"]):
        descent.step(train)
    found = teleport(train, descent.theta, group, Ascent(settings["radius"]))
    (element,) = found.elements
    draws = [seed("teleport", "bands", "shift", seeds[i]) for i in which]
    begun = {
        "none": descent.theta,
        "teleported": found.theta,
        "shift": shifted(descent.theta, found.distance, draws),
    }
    others = starts(train, settings["hidden"], [len(seeds) + s for s in seeds])[which]
    finals, best = {}, {}
    for name, theta, steps in [(n, t, settings["steps"] - settings["at"]) for n, t in begun.items()] + [
        ("other", others, settings["steps"])
    ]:
        going = Descent(theta, "sgd", rates)
        for _ in range(steps):
            going.step(train)
        losses = ensemble.loss(train, going.theta).log()
        losses = torch.where(going.diverged_at < 0, losses, torch.inf).unflatten(0, (len(seeds), -1))
        best[name] = int(losses.mean(0).argmin())
        finals[name] = going.theta.unflatten(0, (len(seeds), -1))[:, best[name]]
    return finals, element.unflatten(0, (len(seeds), -1))[:, best["teleported"]]


def strays(train: NetworkProblem, group: PositiveScaling, theta: Tensor, element: Tensor) -> Tensor:
    """Greatest relative change of the loss (k,) on the orbit from theta (k, P) to its image, which a segment leaves."""
    loss = ensemble.loss(train, theta)
    shares = torch.linspace(0, 1, ORBIT_POINTS, dtype=torch.float64)
    there = torch.stack([ensemble.loss(train, group.act(theta, share * element)) for share in shares])
    return (there / loss - 1).abs().amax(0)
