"""Which jobs the study has, from its section of the config: arms by name, autoencoders, classifiers (no torch here)."""

from collections.abc import Mapping
from typing import Any

from lossatlas.errors import LossAtlasError

STEEPNESS = 1.6  # of the obnoxious member's wall, in slopes of its teammates
LATENT = ("mean", "covariance", "kurtosis", "kl", "sliced")
RECONSTRUCTION = ("mse", "l1", "ssim", "gradient", "fourier")
SEVERAL = (  # arms of every comparison, in the order of the tables
    *("sum", "sum + noise", "switching", "static", "inverse initial"),
    *("q=-2 ema", "q=-1", "q=-1 ema", "q=0.5", "q=1", "q=1 ema", "q=2", "q=4", "max"),
    *("q=1 parameters", "q=-1 parameters"),
    *("GradNorm", "DWA", "UW", "FAMO", "geometric mean", "encodec", "SoftAdapt", "ReLoBRaLo"),
    *("PCGrad", "CAGrad", "MGDA", "UPGrad", "Aligned-MTL"),
)
CONSTRAINED = ("computed gamma", "augmented Lagrangian")  # those that know which goals are constraints
VARIATIONAL = "VAE"  # a rival with two losses of its own instead of the goals
PLANESWALKER = "q=1"
SUM = "sum"
PAIRS = {  # whose networks bands join to the sum's: arm, and whether with another seed
    "q=1, same start": ("q=1", False),
    "sum, same start": ("sum, other order", False),
    "q=1, other start": ("q=1", True),
    "sum, other start": ("sum", True),
}
BASELINES = tuple(arm for arm in (*SEVERAL, *CONSTRAINED, VARIATIONAL) if not arm.startswith(("q=", "max")))
DYNAMIC = (*SEVERAL[5:], *CONSTRAINED)  # all whose weights change by rule
POWERS = {"sum": 0.0, "q=0.5": 0.5, "q=1": 1.0, "q=2": 2.0, "q=4": 4.0, "q=-1": -1.0}  # pointwise, norms at outputs


def jobs(composite: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{name of the result files: settings and kind} of the comparisons.

    Raises `LossAtlasError` for names that are not unique, goals that make no comparison, a variational form of patches,
    and more bands than pairs.
    """
    entries = [("autoencoder", entry) for entry in composite["autoencoders"]]
    entries += [("classifier", entry) for entry in composite["classifiers"]]
    names = [entry["name"] for _, entry in entries]
    if len(set(names)) < len(names):
        raise LossAtlasError(f"composite: {', '.join(names)} must have different names, since files are named by them")
    for kind, entry in entries:
        if kind == "autoencoder":
            _check_goals(entry)
        elif 2 * entry["band_seeds"] > entry["seeds"]:
            raise LossAtlasError(
                f"composite.classifiers: {entry['name']} has {entry['seeds']} seeds; bands join two of them, so "
                f"band_seeds can be at most {entry['seeds'] // 2}"
            )
    return {entry["name"]: {"kind": kind, **entry} for kind, entry in entries}


def arms(job: Mapping[str, Any]) -> tuple[str, ...]:
    """The arms of a comparison; a classifier has each loss alone, and the sum on other data orders, as controls."""
    if job["kind"] == "autoencoder":
        return (*SEVERAL, *CONSTRAINED, *((VARIATIONAL,) if job["vae"] else ()))
    return (*SEVERAL, *(f"only {loss}" for loss in job["losses"]), "sum, other order")


def _check_goals(entry: Mapping[str, Any]) -> None:
    goals = entry["goals"]
    if not set(goals) & set(LATENT) or "mse" not in goals:
        raise LossAtlasError(
            f"composite.autoencoders: the goals of {entry['name']} must have mse and one of {', '.join(LATENT)}: the "
            "event of success is about both"
        )
    if entry["vae"] and entry["architecture"] == "patches":
        raise LossAtlasError(
            f"composite.autoencoders: {entry['name']} has the architecture patches, which has no variational form; "
            "set vae: false"
        )
    if list(goals) != sorted(goals, key=lambda goal: goal in LATENT):
        raise LossAtlasError(f"composite.autoencoders: name the reconstruction goals of {entry['name']} first")
