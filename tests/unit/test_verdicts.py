"""The verdict rule says what its table says, and errs as often as it claims to."""

from math import inf, nan, sqrt

import numpy as np
import pytest
from scipy import integrate, stats

from lossatlas.errors import LossAtlasError
from lossatlas.statistics import Interval, equivalence
from lossatlas.verdicts import Rule, Verdict, judge

REPRODUCED, FAILED, OPEN = Verdict.REPRODUCED, Verdict.NOT_REPRODUCED, Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("rule", "low", "high", "verdict"),
    [
        (Rule("equals", 5, 1), 4.5, 5.5, REPRODUCED),
        (Rule("equals", 5, 1), 4, 6, REPRODUCED),
        (Rule("equals", 5, 1), 5.5, 6.5, OPEN),
        (Rule("equals", 5, 1), 3, 7, OPEN),
        (Rule("equals", 5, 1), 6.1, 7, FAILED),
        (Rule("equals", 5, 1), 1, 3.9, FAILED),
        (Rule("within", margin=0.1), -0.1, 0.05, REPRODUCED),
        (Rule("within", margin=0.1), 0.05, 0.2, OPEN),
        (Rule("within", margin=0.1), 0.11, 0.2, FAILED),
        (Rule("above", 0.5), 0.51, 0.9, REPRODUCED),
        (Rule("above", 0.5), 0.4, 0.9, OPEN),
        (Rule("above", 0.5), 0.1, 0.49, FAILED),
        (Rule("above", 0.5, 0.2), 0.4, 0.9, REPRODUCED),
        (Rule("below", 0.5), 0.1, 0.49, REPRODUCED),
        (Rule("below", 0.5), 0.1, 0.51, OPEN),
        (Rule("below", 0.5), 0.51, 0.9, FAILED),
        (Rule("below", 0.5, 0.2), 0.1, 0.6, REPRODUCED),
    ],
)
def test_the_table_of_rules(rule, low, high, verdict):
    assert judge(Interval((low + high) / 2, low, high, 5), rule) == verdict


@pytest.mark.parametrize("kind", ["above", "below"])
def test_an_effect_of_exactly_zero_is_no_effect(kind):
    assert judge(Interval(0, 0, 0, 5), Rule(kind, 0)) == FAILED


def test_exact_needs_no_interval_and_is_never_inconclusive():
    rule = Rule("exact", 2, 0.5)
    assert [judge(Interval(x, nan, nan, 1), rule) for x in (1.4, 1.5, 2.5, 2.6)] == [
        FAILED,
        REPRODUCED,
        REPRODUCED,
        FAILED,
    ]


@pytest.mark.parametrize("kind", ["equals", "above", "below", "within", "exact", "report"])
def test_a_missing_value_is_not_run_under_every_rule(kind):
    assert judge(Interval(nan, nan, nan, 0), Rule(kind)) == Verdict.NOT_RUN


@pytest.mark.parametrize("rule", [Rule("equals", 1, 9), Rule("above", -9), Rule("below", 9), Rule("equals", 1, 9, 0.1)])
@pytest.mark.parametrize("limit", [nan, inf])
def test_without_limits_nothing_is_concluded(rule, limit):
    assert judge(Interval(1.0, -limit, limit, 1), rule) == OPEN


def test_a_report_is_measured():
    assert judge(Interval(1.0, 0.0, 2.0, 5), Rule("report")) == Verdict.MEASURED


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "equal"}, "equals"),
        ({"kind": "within", "value": 1}, "about zero"),
        ({"kind": "above", "standard_error": 1}, "standard_error"),
        ({"kind": "equals", "margin": -1}, "≥ 0"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(arguments, words):
    with pytest.raises(LossAtlasError, match=words):
        Rule(**arguments)


def verdicts(rule, mean, n, trials, seed):
    """How often each verdict falls on samples of n normal seeds of deviation 1."""
    samples = np.random.default_rng(seed).normal(mean, 1, size=(trials, n))
    words = [judge(equivalence(x), rule) for x in samples]
    return {verdict: words.count(verdict) / trials for verdict in Verdict}


def near(share, rate, trials):
    """Within four standard errors of the rate."""
    return abs(share - rate) <= 4 * sqrt(rate * (1 - rate) / trials)


@pytest.mark.parametrize("rule", [Rule("equals", 0, 1.5), Rule("below", 0, 1.5)])
def test_a_true_value_on_the_margin_is_misjudged_in_alpha_of_the_cases_each_way(rule):
    # n = 10, margin of 1.5 deviations: the far side of the margin is 3 sqrt(10) = 9 standard errors away
    shares = verdicts(rule, mean=1.5, n=10, trials=4000, seed=1)
    assert near(shares[REPRODUCED], 0.05, 4000)
    assert near(shares[FAILED], 0.05, 4000)


def power(n, d):
    """P(reproduced) at zero difference: |m| + t s / sqrt(n) <= d, m normal, s² chi-square, by quadrature."""
    t = stats.t.ppf(0.95, n - 1)

    def given(variance):
        room = sqrt(n) * d - t * sqrt(variance / (n - 1))
        return (2 * stats.norm.cdf(room) - 1) * stats.chi2.pdf(variance, n - 1)

    return integrate.quad(given, 0, (n - 1) * n * (d / t) ** 2)[0]


@pytest.mark.parametrize(("n", "d", "known"), [(5, 1, 0.30), (5, 1.5, 0.73), (10, 1, 0.80), (20, 0.8, 0.93)])
def test_the_power_at_zero_difference_is_the_known_one(n, d, known):
    # `known` are simulated values with two digits: half a unit of rounding, and their own sampling error of as much
    assert power(n, d) == pytest.approx(known, abs=0.01)
    assert near(verdicts(Rule("equals", 0, d), mean=0, n=n, trials=3000, seed=2)[REPRODUCED], power(n, d), 3000)


def test_a_published_standard_error_counts_as_welch_would():
    # both means have the same true difference of exactly the margin; the published one errs by u = 0.5 too
    rng, trials, n, u = np.random.default_rng(3), 4000, 10, 0.5
    words = [
        judge(equivalence(rng.normal(3, 1, size=n)), Rule("equals", rng.normal(0, u), 3, standard_error=u))
        for _ in range(trials)
    ]
    assert near(words.count(REPRODUCED) / trials, 0.05, trials)
    assert near(words.count(FAILED) / trials, 0.05, trials)


def test_without_spread_of_our_own_the_published_error_makes_a_normal_interval():
    z = stats.norm.ppf(0.95)
    rule = Rule("equals", 0, margin=0.2, standard_error=0.1)
    # |m| + z u against d, just inside and just outside
    assert judge(Interval(0.2 - 0.1 * z - 1e-9, *[0.2 - 0.1 * z - 1e-9] * 2, 5), rule) == REPRODUCED
    assert judge(Interval(0.2 - 0.1 * z + 1e-9, *[0.2 - 0.1 * z + 1e-9] * 2, 5), rule) == OPEN
