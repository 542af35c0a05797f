"""Which ensembles the study trains (reference grids of Lucas et al. 2021), from its section of the config."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lossatlas.studies.settings import Baseline

LINES = (
    *("own", "fresh", "noise", "zero", "permuted", "homogeneous"),
    *("layer-own", "layer-fresh", "init-init", "end-end"),
)


def ensembles(mli: Mapping[str, Any]) -> dict[str, Baseline]:
    """{name: baseline} of everything the study trains; the names are those of the result files."""
    plan: dict[str, Baseline] = {}
    for data in mli["data"]:
        base = Baseline(
            data=data,
            hidden=tuple(mli["hidden"]),
            architecture=mli["architecture"],
            epochs=mli["epochs"][data],
            batch_size=mli["batch_size"],
            weight_decay=mli["weight_decay"],
            schedule="milestones" if mli["milestones"] else "constant",
            milestones=tuple(mli["milestones"]),
            learning_rates=tuple(mli["learning_rates"]),
            seeds=tuple(range(mli["seeds"])),
        )
        for optimizer in mli["optimizers"]:
            plan[f"{data}-{optimizer}"] = replace(base, optimizer=optimizer)
            plan[f"{data}-{optimizer}-bn"] = replace(base, optimizer=optimizer, batch_norm=True)
    return plan | _variations(replace(plan[f"{mli['data'][0]}-momentum"], batch_norm=False), mli)


def _variations(base: Baseline, mli: Mapping[str, Any]) -> dict[str, Baseline]:
    """One factor changed at a time, on the first data set, at a few learning rates."""
    few = replace(base, learning_rates=tuple(mli["variation_rates"]))
    width = base.hidden[0]
    plan = {}
    for depth in mli["depths"]:
        plan[f"{base.data}-depth{depth}"] = replace(few, hidden=(width,) * depth)
    for narrow in mli["widths"]:
        plan[f"{base.data}-width{narrow}"] = replace(few, hidden=(width, narrow))
    for activation in mli["activations"]:
        plan[f"{base.data}-{activation}"] = replace(few, activation=activation)
    if mli["initial_scales"]:
        scales = tuple(mli["initial_scales"])
        plan[f"{base.data}-scale"] = replace(few, initial_scales=scales)
        plan[f"{base.data}-scale-adam"] = replace(
            few, initial_scales=scales, optimizer="adam", learning_rates=tuple(mli["adam_rates"])
        )
    if mli["pushes"]:
        plan[f"{base.data}-push"] = replace(
            base,
            learning_rates=(mli["push_rate"],),
            push_strength=mli["push_strength"],
            pushes=(0.0, *mli["pushes"]),
            seeds=tuple(range(mli["push_seeds"])),
        )
    for bottleneck in mli["bottlenecks"]:
        plan[f"{base.data}-autoencoder{bottleneck}"] = replace(
            few,
            autoencoder=True,
            hidden=(32, bottleneck, 32),
            learning_rates=tuple(mli["autoencoder_rates"]),
        )
    return plan


def controls(plan: Mapping[str, Baseline]) -> dict[str, tuple[str, ...]]:
    """{name: arms} of the ensembles whose lines are repeated with other starts, ends and bias schedules."""
    chosen = {name: LINES for name, b in plan.items() if name == f"{b.data}-momentum" and b.architecture == "mlp"}
    chosen |= {name: ("placebo",) for name, b in plan.items() if len(b.pushes) > 2}
    depths = {name: len(b.hidden) for name, b in plan.items() if "-depth" in name}
    if depths:
        chosen[max(depths, key=depths.get)] = ("own", "homogeneous")
    return chosen


def drawn(plan: Mapping[str, Baseline]) -> list[str]:
    """The ensembles whose curves are drawn: the main grid of the first data set."""
    first = next(iter(plan.values())).data
    return [name for name, b in plan.items() if name.removesuffix("-bn") == f"{first}-{b.optimizer}"]
