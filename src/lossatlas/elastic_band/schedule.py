"""Schedules of AutoNEB: how many steps at which rates, and when how many pivots are put in."""

from dataclasses import dataclass, replace
from typing import Literal

from lossatlas.elastic_band.band import Stop

USUAL_REFINEMENT = 24  # points: two rounds round two tops


@dataclass(frozen=True)
class Cycle:
    """Steps at a learning rate, after an insertion.

    insert: `equal`, `count` pivots into each gap; `highest`, one into each of the `count` gaps with the highest bumps;
    `random`, as many into random gaps (a placebo); or `none`.
    """

    steps: int
    learning_rate: float
    insert: Literal["none", "equal", "highest", "random"] = "none"
    count: int = 0

    def pivots(self, before: int) -> int:
        """How many pivots there are at most after the insertion."""
        if self.insert == "equal":
            return (before - 1) * (self.count + 1) + 1
        return before + (0 if self.insert == "none" else min(self.count, before - 1))


@dataclass(frozen=True)
class Schedule:
    """Cycles and what they have in common.

    batch_size None: all rows in each step. samples: inner points of a gap in the look at the losses, odd; top: only
    of so many gaps (`profile`); tolerance: of the refined maximum. stop: when a cycle ends early.
    """

    cycles: tuple[Cycle, ...]
    batch_size: int | None = 512
    momentum: float = 0.9
    weight_decay: float = 1e-4
    samples: int = 9
    top: int | None = None
    tolerance: float = 1e-4
    stop: Stop | None = None

    def look_points(self, pivots: int) -> int:
        """How many points a look at a path of so many pivots takes, with a refinement of usual length."""
        gaps = pivots - 1
        sampled = gaps if self.top is None else min(gaps, 2 * self.top)
        return 2 * gaps + 1 + sampled * (self.samples - 1) + USUAL_REFINEMENT

    def scaled(self, factor: float) -> "Schedule":
        """The same with `factor` times as many steps in each cycle, at least one."""
        cycles = tuple(replace(cycle, steps=max(1, round(cycle.steps * factor))) for cycle in self.cycles)
        return replace(self, cycles=cycles)

    def without_first_insertion(self) -> "Schedule":
        """The same for a path that has its pivots already."""
        return replace(self, cycles=(replace(self.cycles[0], insert="none"), *self.cycles[1:]))

    def pivot_gradients(self, pivots: int = 2) -> int:
        """The most gradients of pivots that it takes from a path of so many pivots."""
        total = 0
        for cycle in self.cycles:
            pivots = cycle.pivots(pivots)
            total += cycle.steps * (pivots - 2)
        return total


def _growing(first: Cycle, *groups: tuple[int, int, float], **common) -> Schedule:
    """`first`, then (cycles, steps, rate) groups of cycles that put a pivot into each of the two highest gaps."""
    later = [Cycle(steps, rate, "highest", 2) for cycles, steps, rate in groups for _ in range(cycles)]
    return Schedule((first, *later), **common)


# cifar10-resnet20.yaml of the released code: 14 cycles, 16,000 steps, up to 31 pivots and 248,000 pivot gradients
PUBLISHED = _growing(Cycle(1000, 0.1, "equal", 3), (3, 1000, 0.1), (2, 2000, 0.1), (4, 1000, 0.01), (4, 1000, 0.001))
# the released `-fast` one: 17 pivots from the start, a single sample in each gap
PUBLISHED_FAST = Schedule(
    (
        Cycle(2000, 0.1, "equal", 15),
        Cycle(2000, 0.1),
        Cycle(2000, 0.1),
        Cycle(2000, 0.01, "highest", 2),
        Cycle(2000, 0.01),
        Cycle(2000, 0.001, "highest", 2),
        Cycle(2000, 0.001),
    ),
    samples=1,
)
# about a fortieth of the published sample gradients: small minibatches, since four steps on 128 rows bring a band
# farther than one on 512; a short cycle at a lower rate against their noise; a look at the top gaps only
CHEAP = _growing(Cycle(500, 0.1, "equal", 3), (3, 800, 0.1), (1, 300, 0.01), batch_size=128, top=4)
# 4 cycles of 100 steps, for a first look at a network in a few seconds
SMOKE = _growing(Cycle(100, 0.1, "equal", 3), (1, 100, 0.1), (2, 100, 0.01), top=3)
