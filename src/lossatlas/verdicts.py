"""The verdict rule: one interval and one rule give one word.

An interval of level 1 - 2a makes each wrong word about a true value on the margin as likely as a. A study passes
the 90 % interval (a = 5 %, two one-sided tests) or says in its claim's aggregate which other one; the intervals
of the `mli` study are 95 %.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import hypot, inf, isnan

from lossatlas.errors import LossAtlasError
from lossatlas.statistics import Interval, student_quantile


class Verdict(StrEnum):
    """What a row of the claims table says about its statement."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    INCONCLUSIVE = "inconclusive"
    NOT_COMPARABLE = "not comparable"  # another scale or other data than the statement is about
    NOT_RUN = "not run"
    MEASURED = "measured"  # the sources make no checkable claim: a value, and nothing to judge


JUDGED = (Verdict.REPRODUCED, Verdict.NOT_REPRODUCED, Verdict.INCONCLUSIVE)
KINDS = ("equals", "above", "below", "within", "exact", "report")


@dataclass(frozen=True)
class Rule:
    """`kind` and the numbers it needs: the value p, the margin d, and for `equals` a standard error of p.

    | kind     | reproduced              | not reproduced       | inconclusive |
    |----------|-------------------------|----------------------|--------------|
    | `equals` | interval in [p-d, p+d]  | interval outside it  | otherwise    |
    | `within` | the same with p = 0     |                      |              |
    | `above`  | low > p-d               | high ≤ p-d           | otherwise    |
    | `below`  | high < p+d              | low ≥ p+d            | otherwise    |
    | `exact`  | abs(value - p) ≤ d      | otherwise            | never        |
    | `report` | nothing is judged: the verdict is `measured`                   |

    `above` and `below` are strict, so an effect of exactly zero is not an effect.
    `level` is that of the Student interval passed in, and matters only with a `standard_error`.
    """

    kind: str
    value: float = 0.0
    margin: float = 0.0
    standard_error: float = 0.0
    level: float = 0.90

    def __post_init__(self):
        if self.kind not in KINDS:
            raise LossAtlasError(f"{self.kind!r} is no kind of rule: take one of {', '.join(KINDS)}")
        if self.kind == "within" and self.value != 0:
            raise LossAtlasError("a rule `within` is about zero: write `equals` for another value")
        if self.standard_error and self.kind != "equals":
            raise LossAtlasError(f"a rule `{self.kind}` takes no standard_error: only `equals` does")
        if self.margin < 0 or self.standard_error < 0 or not 0 < self.level < 1:
            raise LossAtlasError("margin and standard_error of a rule are ≥ 0, its level lies between 0 and 1")


def judge(interval: Interval, rule: Rule) -> Verdict:
    """The verdict of `rule` on `interval`.

    A NaN value is a missing result: `not run`. NaN limits say nothing, like infinite ones: `inconclusive`, except
    under `exact`, where the value is deterministic and seeds are no replicates.
    """
    if isnan(interval.value):
        return Verdict.NOT_RUN
    if rule.kind == "report":
        return Verdict.MEASURED
    if rule.kind == "exact":
        return _word(abs(interval.value - rule.value) <= rule.margin, True)
    low, high = widened(interval, rule) if rule.standard_error else (interval.low, interval.high)
    low, high = (-inf if isnan(low) else low), (inf if isnan(high) else high)
    bottom, top = rule.value - rule.margin, rule.value + rule.margin
    if rule.kind == "above":
        return _word(low > bottom, high <= bottom)
    if rule.kind == "below":
        return _word(high < top, low >= top)
    return _word(bottom <= low and high <= top, high < bottom or low > top)


def widened(interval: Interval, rule: Rule) -> tuple[float, float]:
    """The limits of a Student interval with the published value's standard error u folded in.

    sqrt(s²/n + u²) with the Welch–Satterthwaite degrees of freedom; sources seldom say how many seeds are behind
    u, so it counts as known exactly. Without limits (n = 1) there are none.
    """
    if isnan(interval.low) or interval.n < 2:
        return -inf, inf
    tail = (1 + rule.level) / 2
    own = (interval.high - interval.low) / 2 / student_quantile(tail, interval.n - 1)
    both = hypot(own, rule.standard_error)
    freedom = (interval.n - 1) * (both / own) ** 4 if own else inf
    half = student_quantile(tail, freedom) * both
    return interval.value - half, interval.value + half


def _word(holds: bool, fails: bool) -> Verdict:
    return Verdict.REPRODUCED if holds else Verdict.NOT_REPRODUCED if fails else Verdict.INCONCLUSIVE
