"""How a band is run: one switch for each thing that the released AutoNEB code does otherwise than it should.

The released code is github.com/fdraxler/PyTorch-AutoNEB, at the commit 13c8ba8 and as it was until January 2019.
"""

from dataclasses import dataclass, fields, replace

from lossatlas.elastic_band.geometry import RULES
from lossatlas.errors import LossAtlasError


@dataclass(frozen=True)
class Arm:
    """The switches of a band; the defaults are the corrected band.

    tangent: a rule of `geometry.tangents`. minibatch: `shared` by all pivots of a step, or each pivot its `own`.
    mode: all pivots use the statistics of the minibatch (`one`), or the ends those of evaluation (`ends-eval`).
    buffers: BatchNorm statistics are recomputed at each point (`out`), or are coordinates that move, decay and count
    in lengths (`coordinates`). decay: the losses that tangents are made of contain the penalty whose gradient is
    added (`both`), or do not (`gradient`). spacing: the pivots are redistributed after every step (`always`), or not
    after a cycle's last (`not-last`). last_end: `fixed`, or trained like a pivot without a tangent (`moves`).
    threshold: a bump this high, as a share of the path's range of losses, gets a pivot. normaliser: that range is
    taken over the `dense` losses, with a floor, or over the `pivots`, without one. force: of the loss across the
    path and of the springs along it (`neb`), or both in full (`mechanical`).
    """

    tangent: str = "henkelman"
    minibatch: str = "shared"
    mode: str = "one"
    buffers: str = "out"
    decay: str = "both"
    spacing: str = "always"
    last_end: str = "fixed"
    threshold: float = 0.2
    normaliser: str = "dense"
    force: str = "neb"

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise LossAtlasError(f"{name} {getattr(self, name)!r} is unknown; use one of {', '.join(allowed)}")


CHOICES = {
    "tangent": tuple(RULES),
    "minibatch": ("shared", "own"),
    "mode": ("one", "ends-eval"),
    "buffers": ("out", "coordinates"),
    "decay": ("both", "gradient"),
    "spacing": ("always", "not-last"),
    "last_end": ("fixed", "moves"),
    "normaliser": ("dense", "pivots"),
    "force": ("neb", "mechanical"),
}

CORRECTED = Arm()
AUTONEB_13C8BA8 = Arm(
    tangent="draxler2019",
    minibatch="own",
    mode="ends-eval",
    buffers="coordinates",
    decay="gradient",
    spacing="not-last",
    threshold=0.1,
    normaliser="pivots",
)
AUTONEB_2018 = replace(AUTONEB_13C8BA8, tangent="draxler2018", last_end="moves")

ARMS = {"autoneb-2018": AUTONEB_2018, "autoneb-13c8ba8": AUTONEB_13C8BA8, "corrected": CORRECTED}


def one_corrected(arm: Arm) -> dict[str, Arm]:
    """By the switch's name, `arm` with that one switch as in `CORRECTED`, for each in which they differ."""
    return _one_changed(arm, CORRECTED)


def one_released(arm: Arm) -> dict[str, Arm]:
    """By the switch's name, `CORRECTED` with that one switch as in `arm`, for each in which they differ."""
    return _one_changed(CORRECTED, arm)


def _one_changed(base: Arm, other: Arm) -> dict[str, Arm]:
    differing = [f.name for f in fields(Arm) if getattr(base, f.name) != getattr(other, f.name)]
    return {name: replace(base, **{name: getattr(other, name)}) for name in differing}
