"""What each experiment of the study is told, from the study's section of the config."""

from collections.abc import Mapping
from typing import Any

from lossatlas.errors import LossAtlasError

EPOCHS, AT = 300, 5  # of the MLP regression as published: epochs, and that before which there is the teleport
COMMON = ("gl_radius", "scaling_bound", "candidates", "ascent_steps", "published_steps")
WITHOUT_DATA = ("functions", "regression")
# Experiments that are jobs of their own, and those that share one: its start would cost as much as some of them.
LONG = ("schedules", "optimizers")
SHORT = (*WITHOUT_DATA, "control", "bands", "off_batch", "baubels")


def experiments(teleport: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{experiment: settings}; the names are those of the result files.

    Raises `LossAtlasError` for settings that the claims cannot be measured with.
    """
    own = ("schedules", "optimizers", "control", "bands", "off_batch")
    found = {name: dict(teleport[name]) for name in (*WITHOUT_DATA, *own)}
    found["baubels"] = dict(teleport["leap"])
    shared = {key: teleport[key] for key in COMMON}
    for name in ("regression", "schedules", "optimizers", "control", "baubels"):
        found[name] = shared | found[name]
    for name, settings in found.items():
        if name not in WITHOUT_DATA:
            settings.setdefault("data", teleport["data"])
    _check(1.0 in found["functions"]["rate_multiples"], "functions.rate_multiples", "the published rate, 1.0")
    for name in ("sgd_multiples", "adagrad_multiples"):
        _check(1.0 in found["regression"][name], f"regression.{name}", "the published rate, 1.0")
    _check(found["regression"]["gl_radius"] in found["regression"]["gl_radii"], "regression.gl_radii", "gl_radius")
    _check(
        found["regression"]["scaling_radius"] in found["regression"]["scaling_radii"],
        "regression.scaling_radii",
        "scaling_radius",
    )
    return found


def _check(good: bool, key: str, what: str) -> None:
    if not good:
        raise LossAtlasError(f"teleport.{key} must hold {what}, since claims are measured there")
