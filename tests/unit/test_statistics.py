"""Intervals cover at the stated rate, tests err at the stated rate, and every statistic has its closed form."""

from dataclasses import astuple

import numpy as np
import pytest
from scipy import stats

from lossatlas import statistics
from lossatlas.errors import LossAtlasError
from lossatlas.statistics import (
    bootstrap,
    equivalence,
    holm,
    iqm,
    mcnemar_exact,
    median,
    optimality_gap,
    paired_share_difference,
    performance_profile,
    permutation_test,
    probability_of_improvement,
    sign_test,
    spearman,
    spearman_interval,
    stratified_bootstrap,
    t_interval,
    wilson,
)


def within_four_standard_errors(hits, trials, rate):
    """The share of hits is what a true `rate` gives, but for sampling: beyond 4 s.e. one seed in 16,000 lies."""
    return abs(hits / trials - rate) <= 4 * np.sqrt(rate * (1 - rate) / trials)


def limits(interval):
    return interval.low, interval.high


# --- intervals


@pytest.mark.parametrize(("successes", "n"), [(0, 7), (3, 10), (10, 10)])
def test_wilson_limits_solve_the_score_equation(successes, n):
    interval = wilson(successes, n)
    z = stats.norm.ppf(0.975)
    for limit in limits(interval):
        # both sides are of order 1, rounding is 1e-15
        assert n * (interval.value - limit) ** 2 == pytest.approx(z**2 * limit * (1 - limit), abs=1e-12)


def test_the_statistics_written_out_here_are_scipys():
    # inverses of distribution functions, to rounding
    for p, freedom in ((0.975, 1), (0.95, 4), (0.999, 3.7), (0.025, 1e6)):
        assert statistics.student_quantile(p, freedom) == pytest.approx(stats.t.ppf(p, freedom), rel=1e-12)
    assert statistics.student_quantile(0.9, np.inf) == pytest.approx(stats.norm.ppf(0.9), rel=1e-12)
    for successes, n in ((0, 7), (3, 10), (10, 10), (1, 1)):
        scipys = stats.binomtest(successes, n).proportion_ci(0.9, method="wilson")
        assert limits(wilson(successes, n, 0.9)) == pytest.approx((scipys.low, scipys.high), rel=1e-12, abs=1e-15)
    for count in (0, 1, 12):
        upper = stats.chi2.ppf(0.975, 2 * count + 2) / 2 / 3.0
        lower = stats.chi2.ppf(0.025, 2 * count) / 2 / 3.0 if count else 0.0
        assert limits(statistics.garwood(count, 3.0)) == pytest.approx((lower, upper), rel=1e-12)
    for signs in ([1, 1, -1, 1, 1, 0], [1, -1], [-1] * 9, [0.0]):
        positive, changed = sum(s > 0 for s in signs), sum(s != 0 for s in signs)
        expected = stats.binomtest(positive, changed).pvalue if changed else 1.0
        assert sign_test(signs) == pytest.approx(expected, rel=1e-12)
    scores = np.random.default_rng(0).normal(size=(3, 7))
    assert iqm(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None), rel=1e-12)


@pytest.mark.parametrize("n", [5, 20, 50])
def test_wilson_covers_at_the_nominal_rate(n):
    # exact, no sampling: binomial probabilities, averaged over 999 true shares. Agresti and Coull (1998) show the
    # mean coverage within 0.01 of nominal from n = 5 on.
    shares = np.linspace(0.001, 0.999, 999)
    low, high = np.array([limits(wilson(k, n)) for k in range(n + 1)]).T
    covered = (low <= shares[:, None]) & (shares[:, None] <= high)
    coverage = (stats.binom.pmf(np.arange(n + 1), n, shares[:, None]) * covered).sum(axis=1)
    assert abs(coverage.mean() - 0.95) < 0.01


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_t_interval_covers_at_the_nominal_rate_with_five_seeds(level):
    rng, trials = np.random.default_rng(1), 4000
    intervals = [t_interval(rng.normal(3, 2, size=5), level) for _ in range(trials)]
    hits = sum(i.low <= 3 <= i.high for i in intervals)
    assert within_four_standard_errors(hits, trials, level)


@pytest.mark.parametrize(("b", "c"), [(0.1, 0.1), (0.3, 0.1), (0.5, 0.2), (0.05, 0.25)])
def test_the_paired_difference_covers_at_the_nominal_rate(b, c):
    # exact: all 2x2 tables of 30 pairs with cell probabilities b, c. The added half observations make the interval
    # slightly conservative; Agresti and Min (2005) report coverage from just under to a few hundredths over nominal.
    n, coverage = 30, 0.0
    for only_a in range(n + 1):
        for only_b in range(n + 1 - only_a):
            agree = n - only_a - only_b
            a = np.repeat([1, 0, 1], [only_a, only_b, agree])
            interval = paired_share_difference(a, np.repeat([0, 1, 1], [only_a, only_b, agree]))
            weight = stats.multinomial.pmf([only_a, only_b, agree], n, [b, c, 1 - b - c])
            coverage += weight * (interval.low <= b - c <= interval.high)
    assert 0.94 <= coverage <= 0.98


def test_equivalence_is_declared_at_the_margin_in_at_most_alpha_of_samples():
    # with the true difference on the margin and 20 seeds of deviation d, only one of the two one-sided tests binds
    rng, trials = np.random.default_rng(2), 4000
    intervals = [equivalence(rng.normal(1, 1, size=20)) for _ in range(trials)]
    hits = sum(i.low > -1 and i.high < 1 for i in intervals)
    assert within_four_standard_errors(hits, trials, 0.05)


def test_the_bootstrap_of_a_mean_has_the_normal_width_in_large_samples():
    rng = np.random.default_rng(3)
    x = rng.normal(size=500)
    interval = bootstrap(np.mean, x, rng, resamples=4000)
    error = x.std() / np.sqrt(len(x))
    # a 97.5 % quantile of 4000 draws has a standard error of sqrt(.975 * .025 / 4000) / 0.0584 = 0.042 deviations
    assert interval.high == pytest.approx(interval.value + 1.96 * error, abs=4 * 0.042 * error)
    assert interval.low == pytest.approx(interval.value - 1.96 * error, abs=4 * 0.042 * error)


def test_copies_of_a_row_add_nothing_when_they_form_a_cluster():
    x = np.random.default_rng(4).exponential(size=30)
    once = bootstrap(np.mean, x, np.random.default_rng(5))
    copied = bootstrap(np.mean, np.tile(x, 4), np.random.default_rng(5), clusters=list(range(30)) * 4)
    # only the order of summation differs
    assert limits(copied) == pytest.approx(limits(once), rel=1e-12)
    assert copied.n == 30
    unclustered = bootstrap(np.mean, np.tile(x, 4), np.random.default_rng(5))
    assert unclustered.high - unclustered.low < 0.6 * (once.high - once.low)  # four copies halve it, wrongly


def test_the_cluster_bootstrap_covers_a_mean_whose_runs_share_their_configuration():
    # 40 configurations of 5 seeds, correlation 0.8 within one. The percentile interval of 40 units covers nearly its
    # nominal 90 %: z sqrt(39/40) against t(39) covers 0.89. Ignoring clusters makes the deviation sqrt(1 + 4 * 0.8)
    # times too small and covers 0.58.
    rng, trials = np.random.default_rng(6), 250
    clusters = np.repeat(np.arange(40), 5)
    hits = ignored = 0
    for _ in range(trials):
        x = np.sqrt(0.8) * rng.normal(size=40)[clusters] + np.sqrt(0.2) * rng.normal(size=200)
        interval = bootstrap(np.mean, x, rng, level=0.9, resamples=150, clusters=clusters)
        hits += interval.low <= 0 <= interval.high
        ignored += abs(x.mean()) <= 1.645 * x.std() / np.sqrt(200)
    # 150 resamples lose about another 0.01, which four standard errors (0.08) contain
    assert within_four_standard_errors(hits, trials, 0.89)
    assert within_four_standard_errors(ignored, trials, 0.58)


def test_strata_keep_their_sizes_in_every_resample():
    labels = np.repeat(["a", "b"], [3, 9])
    interval = bootstrap(lambda x: (x == "a").mean(), labels, np.random.default_rng(7), strata=labels)
    assert (interval.value, interval.low, interval.high) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: bootstrap(np.mean, np.arange(20.0), rng, resamples=200),
        lambda rng: stratified_bootstrap(iqm, np.arange(20.0).reshape(5, 4), rng, resamples=200),
        lambda rng: spearman_interval(np.arange(20), np.arange(20) ** 2 % 17, rng, resamples=200),
        lambda rng: permutation_test(spread_between_columns, np.arange(20.0).reshape(5, 4) % 3, rng).excess,
    ],
)
def test_a_seed_acts_repeats_and_leaves_the_global_generator_alone(draw):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = draw(np.random.default_rng(8))
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    np.random.seed(int(state[0]) ^ 1)  # noqa: NPY002
    assert draw(np.random.default_rng(8)) == first
    assert draw(np.random.default_rng(9)) != first


def test_samples_too_small_for_an_interval_have_no_limits():
    rng = np.random.default_rng(10)
    for interval, n in [
        (t_interval([2.0]), 1),
        (bootstrap(np.mean, [2.0], rng), 1),
        (bootstrap(np.mean, [2.0, 2.0], rng, clusters=["c", "c"]), 1),
    ]:
        assert (interval.value, interval.n) == (2.0, n)
        assert np.isnan(limits(interval)).all()
    for interval in [wilson(0, 0), t_interval([]), paired_share_difference([], []), bootstrap(np.mean, [], rng)]:
        assert interval.n == 0
        assert np.isnan([interval.value, *limits(interval)]).all()


def test_constant_samples_have_intervals_of_zero_width_but_agreeing_pairs_do_not():
    assert limits(t_interval([0.5] * 4)) == (0.5, 0.5)
    assert limits(bootstrap(np.mean, [0.5] * 4, np.random.default_rng(11))) == (0.5, 0.5)
    low, high = limits(paired_share_difference([1] * 10, [1] * 10))
    assert low < 0 < high


@pytest.mark.parametrize(
    "summarise",
    [t_interval, sign_test, holm, lambda x: spearman(x, [1, 2, 3]), lambda x: mcnemar_exact(x, [0, 0, 1])],
)
def test_a_nan_is_never_averaged_away(summarise):
    with pytest.raises(LossAtlasError, match="NaN"):
        summarise([1.0, np.nan, 0.0])


def test_an_infinite_value_has_a_rank_but_no_mean():
    assert spearman([1.0, 2.0, np.inf], [1, 2, 3]) == pytest.approx(1.0, abs=1e-12)  # rounding of three products
    with pytest.raises(LossAtlasError, match="diverged"):
        t_interval([1.0, np.inf])


def test_labels_and_pairs_that_do_not_fit_are_refused():
    rng = np.random.default_rng(12)
    with pytest.raises(LossAtlasError, match="one entry for every row"):
        bootstrap(np.mean, [1.0, 2.0], rng, clusters=[0])
    with pytest.raises(LossAtlasError, match="nested"):
        bootstrap(np.mean, [1.0, 2.0], rng, clusters=[0, 0], strata=[0, 1])
    with pytest.raises(LossAtlasError, match="one shape"):
        paired_share_difference([1, 0], [1])


# --- rank correlation and tests


def test_spearman_agrees_with_scipy_where_there_are_ties():
    rng = np.random.default_rng(13)
    x, y = rng.integers(0, 6, size=(2, 80))
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)  # two orders of summation
    assert np.isnan(spearman(x, np.ones(80)))


def test_ranks_within_groups_are_scipys_of_each_group_by_itself():
    rng = np.random.default_rng(0)
    x, y, group = rng.integers(0, 6, 60).astype(float), rng.normal(size=60).round(1), rng.integers(0, 4, 60)
    x[:5] = np.inf
    ranks = np.empty((2, 60))
    for label in range(4):
        rows = group == label
        ranks[:, rows] = stats.rankdata([x[rows], y[rows]], axis=1) / rows.sum() - (rows.sum() + 1) / (2 * rows.sum())
    expected = np.corrcoef(ranks)[0, 1]  # of ranks whose mean is zero in each group
    assert spearman(x, y, groups=group) == pytest.approx(expected, abs=1e-12)  # two orders of summation


def test_spearman_within_groups_does_not_see_what_the_groups_explain():
    rng = np.random.default_rng(14)
    group = np.repeat(np.arange(8), 50)
    x, y = 10 * group + rng.normal(size=(2, 400))
    assert spearman(x, y) > 0.9
    # independent ranks have a correlation of deviation 1 / sqrt(400 - 8); four of them
    assert abs(spearman(x, y, groups=group)) < 4 / np.sqrt(392)
    assert spearman(x, x - 100 * group, groups=group) == pytest.approx(1.0, abs=1e-12)  # rounding


def test_mcnemar_and_the_sign_test_have_their_binomial_closed_form():
    a = np.repeat([1, 0, 1, 0], [8, 1, 5, 6])
    b = np.repeat([0, 1, 1, 0], [8, 1, 5, 6])
    assert mcnemar_exact(a, b) == pytest.approx(2 * (1 + 9) / 2**9, rel=1e-12)  # rounding
    assert sign_test([1.5] * 5 + [0.0] * 3) == pytest.approx(2 / 2**5, rel=1e-12)
    assert sign_test([0.0, 0.0]) == mcnemar_exact([1, 0], [1, 0]) == 1.0


def test_holm_keeps_the_family_wise_error_and_the_textbook_example():
    # p sorted .005 .01 .03 .04 times 4 3 2 1, made non-decreasing; products of decimals round at 1e-17
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], abs=1e-12)
    families = np.random.default_rng(15).uniform(size=(4000, 5))
    hits = sum((holm(p) <= 0.05).any() for p in families)
    # all hypotheses true and independent: an error means that the least p is at most alpha / m
    assert within_four_standard_errors(hits, 4000, 1 - (1 - 0.05 / 5) ** 5)


def spread_between_columns(x):
    return x.mean(axis=0).var()


def test_the_permutation_test_rejects_a_true_null_at_its_level():
    rng, trials = np.random.default_rng(16), 400
    tests = [
        permutation_test(spread_between_columns, rng.normal(size=(5, 4)), rng, permutations=99) for _ in range(trials)
    ]
    # 99 permutations: p is a multiple of 1/100, uniform under the null, so p <= 0.1 has probability 0.1 exactly
    assert within_four_standard_errors(sum(t.p_value <= 0.1 for t in tests), trials, 0.1)
    # the excess interval is the same test at 2.5 %, with interpolated quantiles: 3 of 100 places
    assert sum(t.excess.low > 0 for t in tests) <= trials * (0.03 + 4 * np.sqrt(0.03 * 0.97 / trials))


def test_the_permutation_test_sees_a_column_that_differs_in_every_row():
    x = np.random.default_rng(17).normal(loc=[0, 0, 0, 5], size=(6, 4))
    result = permutation_test(spread_between_columns, x, np.random.default_rng(18), permutations=499)
    assert result.p_value == 1 / 500
    assert result.excess.low > 0


def test_the_permutation_p_value_is_one_where_nothing_can_change():
    x = np.full((3, 4), 0.1)
    result = permutation_test(spread_between_columns, x, np.random.default_rng(19), permutations=50)
    assert result.p_value == 1.0
    assert (result.excess.value, *limits(result.excess)) == pytest.approx((0, 0, 0), abs=1e-15)  # rounding of 0.1


# --- aggregates over tasks (closed forms: one line each)


@pytest.mark.parametrize("m", [1, 3, 10])
def test_iqm_of_1_to_4m_is_its_midpoint_and_ignores_what_it_cuts(m):
    x = np.arange(1.0, 4 * m + 1)
    assert iqm(x.reshape(m, 4)) == (4 * m + 1) / 2
    x[:m], x[-m:] = -1e9, 1e9
    assert iqm(x.reshape(4, m)) == (4 * m + 1) / 2


def test_the_median_over_tasks_survives_one_runaway_task():
    x = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, np.inf]])
    assert median(x) == 3.0


def test_the_optimality_gap_counts_only_what_is_missing():
    assert optimality_gap([[0.5, 0.7], [0.2, 1.0]]) == pytest.approx(1 - 0.6, abs=1e-12)  # rounding
    assert optimality_gap([[1.0, 2.0], [3.0, 4.0]]) == 0.0


def test_improvement_of_a_sample_over_itself_is_a_half_and_counts_ties_as_half():
    x = np.array([[1.0, 5.0], [2.0, 5.0], [2.0, 7.0]])
    assert probability_of_improvement(x, x) == 0.5
    assert probability_of_improvement([[2.0]], [[1.0], [2.0], [3.0], [2.0]]) == 0.5


def test_the_performance_profile_is_a_falling_step_function():
    assert performance_profile([[1.0, 2.0], [2.0, 4.0]], [0, 1, 1.5, 2, 3, 4]).tolist() == [
        1,
        0.75,
        0.75,
        0.25,
        0.25,
        0,
    ]


def test_the_stratified_bootstrap_of_one_task_is_the_ordinary_one():
    x = np.random.default_rng(20).normal(size=12)
    one_task = stratified_bootstrap(np.mean, x[:, None], np.random.default_rng(21))
    assert one_task == bootstrap(np.mean, x, np.random.default_rng(21))


def test_the_stratified_bootstrap_resamples_runs_within_their_task():
    x = np.tile([1.0, 2.0, 4.0], (5, 1))  # constant in each task: no resample can differ
    interval = stratified_bootstrap(
        lambda scores: scores[:, 2].mean() - scores[:, 0].mean(), x, np.random.default_rng(22)
    )
    assert (interval.value, *limits(interval)) == (3.0, 3.0, 3.0)


def test_a_clustered_mean_is_students_of_the_clusters_own_means():
    clusters = ["a", "a", "b", "c", "c"]
    found = statistics.clustered_mean([0.2, 0.4, 0.5, 0.1, 0.3], clusters, (0, 1))
    expected = statistics.t_interval([0.3, 0.5, 0.2])
    assert (found.value, found.n) == (pytest.approx(expected.value), 3)
    assert (found.low, found.high) == (max(0, expected.low), pytest.approx(expected.high))


def test_clusters_that_all_agree_have_wilsons_limits_of_n_of_n():
    agreed = statistics.clustered_mean(np.ones(6), [0, 0, 1, 1, 2, 2], (0, 1))
    # 1 - (1 - low) is low but for a rounding, about 1e-16
    assert astuple(agreed) == pytest.approx(astuple(statistics.wilson(3, 3)), rel=1e-14)
    none = statistics.clustered_mean(np.zeros(3), [0, 1, 2], (0, 1))
    assert astuple(none) == pytest.approx(astuple(statistics.wilson(0, 3)), rel=1e-14)
    difference = statistics.clustered_mean(np.zeros(3), [0, 1, 2], (-1, 1))
    assert difference.low == pytest.approx(-difference.high)
    assert difference.high == pytest.approx(statistics.wilson(0, 3).high)


def test_limits_of_a_clustered_mean_stay_within_its_bounds():
    found = statistics.clustered_mean([1.0, 0.0, 1.0], [0, 1, 2], (0, 1))
    assert (found.low, found.high) == (0, 1)


def test_one_cluster_says_as_little_as_one_yes():
    assert statistics.clustered_mean([1.0, 1.0], [0, 0], (0, 1)) == statistics.wilson(1, 1)


def test_a_clustered_mean_covers_when_clusters_differ_among_themselves():
    """Normal cluster effects, so Student's interval is exact: 95 % within four standard errors of 1000 trials."""
    rng, hits = np.random.default_rng(5), 0
    for _ in range(1000):
        effects = np.repeat(rng.normal(size=6), 5)
        found = statistics.clustered_mean(effects + rng.normal(size=30), np.repeat(np.arange(6), 5), (-99, 99))
        hits += found.low <= 0 <= found.high
    assert abs(hits / 1000 - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 1000)
