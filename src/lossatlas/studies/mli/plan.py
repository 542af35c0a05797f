"""Which ensembles the study trains (reference grids of Lucas et al. 2021), from its section of the config."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from lossatlas.errors import LossAtlasError
from lossatlas.studies.settings import Baseline

LINES = (
    *("own", "fresh", "noise", "zero", "permuted", "homogeneous"),
    *("layer-own", "layer-fresh", "init-init", "end-end"),
)
# Whether with BatchNorm, of architectures that are made for one of the two.
NORMALISED = {"resnet_identity": (True,), "resnet_fixup": (False,)}


def ensembles(mli: Mapping[str, Any]) -> dict[str, Baseline]:
    """{name: baseline} of everything the study trains; the names are those of the result files.

    Raises `LossAtlasError` for a grid that the study cannot use.
    """
    plan: dict[str, Baseline] = {}
    names = [grid["name"] for grid in mli["grids"]]
    first = mli["grids"][0]
    if len(set(names)) < len(names):
        raise LossAtlasError(f"mli.grids: {', '.join(names)} must have different names, since files are named by them")
    if first["architecture"] != "mlp" or "momentum" not in first["optimizers"]:
        raise LossAtlasError(
            f"mli.grids: {first['name']}, the first, must be an mlp with momentum among its optimizers, since the "
            "variations of one factor start from it"
        )
    for grid in mli["grids"]:
        if grid["data"] not in mli["trained_loss"]:
            raise LossAtlasError(f"mli.trained_loss has no entry for {grid['data']}, the data of grid {grid['name']}")
        base = Baseline(
            data=grid["data"],
            folder=grid["folder"],
            hidden=tuple(grid["hidden"]),
            architecture=grid["architecture"],
            epochs=grid["epochs"],
            batch_size=grid["batch_size"],
            weight_decay=grid["weight_decay"],
            schedule="milestones" if grid["milestones"] else "constant",
            milestones=tuple(grid["milestones"]),
            learning_rates=tuple(grid["learning_rates"]),
            seeds=tuple(range(grid["seeds"])),
        )
        for optimizer in grid["optimizers"]:
            for batch_norm in NORMALISED.get(grid["architecture"], (False, True)):
                name = f"{grid['name']}-{optimizer}{'-bn' if batch_norm else ''}"
                plan[name] = replace(base, optimizer=optimizer, batch_norm=batch_norm)
    return plan | _variations(first["name"], plan[f"{first['name']}-momentum"], mli)


def _variations(grid: str, base: Baseline, mli: Mapping[str, Any]) -> dict[str, Baseline]:
    """One factor changed at a time, on the first grid, at a few learning rates."""
    few = replace(base, learning_rates=tuple(mli["variation_rates"]))
    width = base.hidden[0]
    plan = {}
    for depth in mli["depths"]:
        plan[f"{grid}-depth{depth}"] = replace(few, hidden=(width,) * depth)
    for narrow in mli["widths"]:
        plan[f"{grid}-width{narrow}"] = replace(few, hidden=(width, narrow))
    for activation in mli["activations"]:
        plan[f"{grid}-{activation}"] = replace(few, activation=activation)
    if mli["initial_scales"]:
        scales = tuple(mli["initial_scales"])
        plan[f"{grid}-scale"] = replace(few, initial_scales=scales)
        plan[f"{grid}-scale-adam"] = replace(
            few, initial_scales=scales, optimizer="adam", learning_rates=tuple(mli["adam_rates"])
        )
    if mli["pushes"]:
        plan[f"{grid}-push"] = replace(
            base,
            learning_rates=(mli["push_rate"],),
            push_strength=mli["push_strength"],
            pushes=tuple(mli["pushes"]),
            seeds=tuple(range(mli["push_seeds"])),
        )
    for optimizer, bottleneck in product(mli["autoencoder_optimizers"], mli["bottlenecks"]):
        name = f"{grid}-autoencoder{bottleneck}{'' if optimizer == base.optimizer else f'-{optimizer}'}"
        plan[name] = replace(
            few,
            autoencoder=True,
            optimizer=optimizer,
            hidden=(mli["autoencoder_width"], bottleneck, mli["autoencoder_width"]),
            learning_rates=tuple(mli["autoencoder_rates"]),
            epochs=mli["autoencoder_epochs"] or base.epochs,
        )
    return plan


def controls(plan: Mapping[str, Baseline]) -> dict[str, tuple[str, ...]]:
    """{name: arms} of the ensembles whose lines are repeated with other starts, ends and bias schedules."""
    chosen = {name: LINES for name, b in plan.items() if name.endswith("-momentum") and b.architecture == "mlp"}
    chosen |= {name: ("placebo",) for name, b in plan.items() if len(b.pushes) > 1}
    depths = {name: len(b.hidden) for name, b in plan.items() if "-depth" in name}
    if depths:
        chosen[max(depths, key=depths.get)] = ("own", "homogeneous")
    return chosen


def drawn(plan: Mapping[str, Baseline]) -> list[str]:
    """The ensembles whose curves are drawn: the first grid."""
    grid = next(iter(plan)).partition("-")[0]
    return [name for name, b in plan.items() if name in (f"{grid}-{b.optimizer}", f"{grid}-{b.optimizer}-bn")]
