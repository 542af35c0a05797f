"""How a speed is measured: CPU seconds on one thread, repeats of the two sides interleaved, median of their ratios."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

AGREEMENT = 1e-4  # both sides of a benchmark must compute the same curve to this, else there is no ratio


@dataclass(frozen=True)
class Speed:
    """One line of the table: a ratio of CPU seconds over `repeats` pairs, and what it should be at least."""

    claim: str
    ratios: tuple[float, ...]
    target: float

    @property
    def measured(self) -> float:
        return statistics.median(self.ratios)

    def row(self) -> str:
        verdict = "met" if self.measured >= self.target else "missed"
        spread = f"{min(self.ratios):.2f}-{max(self.ratios):.2f}"
        return f"{self.claim:<72} {self.measured:>8.2f} {spread:>12} {self.target:>8.2f}  {verdict}"


HEADER = f"{'ratio of CPU seconds, one thread':<72} {'measured':>8} {'range':>12} {'target':>8}"


def cpu_seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def paired_seconds(ours: Callable, theirs: Callable, repeats: int) -> list[tuple[float, float]]:
    """CPU seconds of both sides, one after the other in each repeat; neither's first call counts."""
    ours()
    theirs()
    return [(cpu_seconds(ours), cpu_seconds(theirs)) for _ in range(repeats)]


def must_agree(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Refuse to compare the speed of two computations that do not give the same numbers."""
    gap = (ours - theirs).abs().max().item()
    if not gap <= AGREEMENT:
        raise SystemExit(f"{what}: the two sides differ by {gap:.2g} (more than {AGREEMENT}), so there is no ratio")


def synthetic(rows: int, width: int) -> tuple[Tensor, Tensor]:
    """Inputs N(0, 1) (rows, width) and ten labels, of the shape of a data set: nothing to download."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, width, generator=generator), torch.randint(10, (rows,), generator=generator)
