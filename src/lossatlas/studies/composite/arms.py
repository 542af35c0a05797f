"""The arms: how each weighs the losses, and where it measures their gradients."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor
from torchjd.scalarization import DWA, FAMO, UW, GeometricMean

from lossatlas import composite
from lossatlas.composite import balancers
from lossatlas.composite.balancers import OnGramian, Scalarised, Static
from lossatlas.errors import LossAtlasError


@dataclass(frozen=True, eq=False)
class Setting:
    """What an arm may know before it starts: its random seed, its members' own static weights (k, n), which goals are
    reconstructions (n,) bool, and the limits (n,) of the others, NaN for objectives."""

    seed: int
    weights: Tensor
    reconstruction: Tensor | None = None
    limits: Tensor | None = None

    @property
    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True, eq=False)
class Arm:
    """`weighting(setting)` makes a fresh weighting; `at`: where norms are measured; `noise`: matched noise is added;
    `variational`: the network is a variational autoencoder, with its own two losses."""

    name: str
    weighting: Callable[[Setting], Callable]
    at: str = "outputs"
    noise: bool = False
    variational: bool = False


def _powers(q: float, averaged: bool = False) -> Callable[[Setting], OnGramian]:
    kind = composite.AveragedPowerWeighting if averaged else composite.PowerWeighting
    return lambda setting: OnGramian(kind(q))


def _pcgrad(setting: Setting) -> OnGramian:
    generator = setting.generator
    return OnGramian(lambda gramian: composite.pcgrad(gramian, generator))


def _mean(setting: Setting) -> Static:
    return Static(1 / setting.weights.shape[-1])


SPECIAL = {
    "sum": Arm("sum", _mean),
    "sum, other order": Arm("sum, other order", _mean),
    "sum + noise": Arm("sum + noise", _mean, at="parameters", noise=True),
    "switching": Arm("switching", lambda s: OnGramian(composite.RandomSwitching(s.generator))),
    "static": Arm("static", lambda s: Static(s.weights)),
    "VAE": Arm("VAE", lambda s: Static(s.weights), variational=True),
    "inverse initial": Arm("inverse initial", lambda s: balancers.InverseInitial()),
    "max": Arm("max", _powers(inf)),
    "GradNorm": Arm("GradNorm", lambda s: balancers.GradNorm()),
    "DWA": Arm("DWA", lambda s: Scalarised(lambda n: DWA())),
    "UW": Arm("UW", lambda s: Scalarised(UW)),
    "FAMO": Arm("FAMO", lambda s: Scalarised(FAMO)),
    "geometric mean": Arm("geometric mean", lambda s: Scalarised(lambda n: GeometricMean())),
    "encodec": Arm("encodec", lambda s: balancers.Encodec(), at="items"),
    "SoftAdapt": Arm("SoftAdapt", lambda s: balancers.SoftAdapt()),
    "ReLoBRaLo": Arm("ReLoBRaLo", lambda s: balancers.ReLoBRaLo(s.generator)),
    "PCGrad": Arm("PCGrad", _pcgrad, at="parameters"),
    "CAGrad": Arm("CAGrad", lambda s: OnGramian(composite.cagrad), at="parameters"),
    "MGDA": Arm("MGDA", lambda s: OnGramian(composite.mgda), at="parameters"),
    "UPGrad": Arm("UPGrad", lambda s: OnGramian(composite.upgrad), at="parameters"),
    "Aligned-MTL": Arm("Aligned-MTL", lambda s: OnGramian(composite.aligned_mtl), at="parameters"),
    "computed gamma": Arm("computed gamma", lambda s: balancers.ComputedGamma(s.reconstruction)),
    "augmented Lagrangian": Arm("augmented Lagrangian", lambda s: balancers.AugmentedLagrangian(s.limits)),
}


def arm(name: str, losses: tuple[str, ...] = ()) -> Arm:
    """The arm of that name: one of the table, `only LOSS`, or `q=NUMBER`, then ` ema` (averaged norms) and
    ` parameters` (norms there instead of at the outputs)."""
    if name in SPECIAL:
        return SPECIAL[name]
    if power := re.fullmatch(r"q=(-?[\d.]+)( ema)?( parameters)?", name):
        q, averaged, parameters = power.groups()
        return Arm(name, _powers(float(q), bool(averaged)), "parameters" if parameters else "outputs")
    if name.removeprefix("only ") in losses:
        alone = torch.tensor([float(loss == name.removeprefix("only ")) for loss in losses])
        return Arm(name, lambda s: Static(alone))
    raise LossAtlasError(f"there is no arm {name!r}")
