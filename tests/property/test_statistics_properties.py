"""Invariances of the statistics and of the verdict rule, for any sample."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lossatlas.statistics import (
    Interval,
    holm,
    iqm,
    optimality_gap,
    paired_share_difference,
    performance_profile,
    probability_of_improvement,
    spearman,
    t_interval,
    wilson,
)
from lossatlas.verdicts import JUDGED, Rule, Verdict, judge

# sixteenths: sums and products of the few numbers drawn here are exact, so equalities may be asserted as such
EXACT = st.integers(-160, 160).map(lambda k: k / 16)
OPPOSITE = {"above": "below", "below": "above", "equals": "equals", "within": "within"}


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_wilson_holds_its_share_and_mirrors_its_complement(counts, level):
    k, n = counts
    interval, other = wilson(k, n, level), wilson(n - k, n, level)
    assert -1e-12 <= interval.low <= interval.value + 1e-12  # a limit may meet the share, up to rounding
    assert interval.value - 1e-12 <= interval.high <= 1 + 1e-12
    assert abs(interval.low - (1 - other.high)) < 1e-12


@given(arrays(float, st.integers(2, 12), elements=EXACT), EXACT)
def test_a_t_interval_moves_with_its_sample(x, shift):
    here, there = t_interval(x), t_interval(x + shift)
    # rounding of numbers up to 100: 1e-14 each, a dozen of them
    assert np.allclose([there.low - shift, there.high - shift], [here.low, here.high], rtol=0, atol=1e-12)


@given(arrays(bool, st.tuples(st.just(2), st.integers(1, 40))))
def test_the_paired_difference_changes_sign_with_its_order(outcomes):
    a, b = outcomes
    ab, ba = paired_share_difference(a, b), paired_share_difference(b, a)
    assert (ab.value, ab.low, ab.high) == (-ba.value, -ba.high, -ba.low)
    assert -1 <= ab.low <= ab.value <= ab.high <= 1


@given(arrays(float, st.tuples(st.just(2), st.integers(3, 30)), elements=EXACT))
def test_spearman_sees_only_the_order(xy):
    x, y = xy
    correlation = spearman(x, y)
    if np.isnan(correlation):
        assert np.ptp(x) == 0 or np.ptp(y) == 0
    else:
        assert abs(correlation) <= 1 + 1e-12  # rounding of the norm
        # a cubic keeps the order, a minus turns it; the ranks are then exactly the same
        assert spearman(x**3 + x, y) == spearman(y, x) == correlation
        assert spearman(-x, y) == -correlation


@given(arrays(float, st.integers(1, 20), elements=st.floats(0, 1)))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p):
    adjusted = holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


@given(
    arrays(float, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.integers(0, 40).map(lambda k: k / 16))
)
def test_the_performance_profile_integrates_to_what_the_optimality_gap_leaves(x):
    # scores are sixteenths, so a sum over the sixteenths of [0, 1) is the integral, exactly
    integral = performance_profile(x, np.arange(16) / 16).sum() / 16
    assert abs(integral - (1 - optimality_gap(x))) < 1e-12  # a mean over up to 30 scores rounds


@given(arrays(float, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=EXACT))
def test_the_iqm_lies_among_the_scores(x):
    assert x.min() - 1e-12 <= iqm(x) <= x.max() + 1e-12  # a mean rounds


@given(
    arrays(float, st.tuples(st.integers(1, 5), st.just(3)), elements=EXACT),
    arrays(float, st.tuples(st.integers(1, 5), st.just(3)), elements=EXACT),
)
def test_either_of_two_arms_improves_on_the_other_or_they_tie(a, b):
    assert abs(probability_of_improvement(a, b) + probability_of_improvement(b, a) - 1) < 1e-12  # two means round


@st.composite
def judgements(draw):
    low, value, high = sorted(draw(st.tuples(EXACT, EXACT, EXACT)))
    kind = draw(st.sampled_from(sorted(OPPOSITE)))
    return Interval(value, low, high, 5), Rule(kind, 0 if kind == "within" else draw(EXACT), abs(draw(EXACT)))


@settings(max_examples=300)
@given(judgements())
def test_a_mirrored_interval_gets_the_verdict_of_the_mirrored_rule(judgement):
    interval, rule = judgement
    mirrored = Interval(-interval.value, -interval.high, -interval.low, 5)
    assert judge(mirrored, Rule(OPPOSITE[rule.kind], -rule.value, rule.margin)) == judge(interval, rule)


@settings(max_examples=300)
@given(judgements(), EXACT, EXACT)
def test_a_wider_interval_never_decides_more(judgement, left, right):
    interval, rule = judgement
    wider = Interval(interval.value, interval.low - abs(left), interval.high + abs(right), 5)
    before, after = judge(interval, rule), judge(wider, rule)
    assert before in JUDGED
    assert after in (before, Verdict.INCONCLUSIVE)
