from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])


def test_both_sides_of_each_benchmark_compute_the_same_curve():
    pytest.importorskip("loss_landscapes", reason="the peer is in the extra `benchmarks`")
    from benchmarks import ensemble, sweep
    from benchmarks.measure import AGREEMENT

    case = ensemble.Case((6, 8, 10), rows=40, batch_size=10, steps=8)
    gap = case.together() - case.one_after_another()
    assert gap.shape == (ensemble.MEMBERS, 2)
    assert gap.abs().max() < AGREEMENT
    assert sweep.run((6, 8, 10), rows=20, target=0.0, repeats=1).measured > 0  # stops where the curves differ


def test_both_sides_of_the_noise_benchmarks_compute_the_same_field():
    pytest.importorskip("perlin_numpy", reason="the peer is in the extra `benchmarks`")
    pytest.importorskip("pyfastnoiselite", reason="the peer is in the extra `benchmarks`")
    from benchmarks import perlin

    assert perlin.dense(repeats=1).measured > 0  # stops where the fields differ
    assert perlin.scattered(layers=3, points=50, repeats=1).measured > 0


def test_the_fast_band_is_the_plain_loop_over_its_pivots():
    from benchmarks import band
    from benchmarks.measure import AGREEMENT

    case = band.Case((6, 8, 10), batch=10, steps=band.AGREEING_STEPS)
    gap = case.band() - case.one_after_another()
    assert gap.shape == (band.PIVOTS, case.problem.dim)
    assert gap.abs().max() < AGREEMENT
    assert not case.band().equal(case.path)


def test_a_composite_step_is_the_same_by_all_three_ways():
    from benchmarks.composite import GOALS, Case
    from benchmarks.measure import AGREEMENT

    case = Case(side=8, channels=2, latent=3, batch=6)
    plain = case.plain()
    assert plain.norm() > 0.01
    for other in (case.weighted(0.0), case.torchjd(0.0)):
        assert (plain - other).abs().max() < AGREEMENT
    assert case.weighted(1.0).shape == plain.shape
    assert len(GOALS) == 6


def test_sides_that_differ_get_no_ratio():
    from benchmarks.measure import must_agree

    curve = torch.linspace(0, 1, 5)
    must_agree(curve, curve + 1e-5, "close")
    for other in (curve + 1e-3, curve * torch.nan):
        with pytest.raises(SystemExit, match="far: the two sides differ by"):
            must_agree(curve, other, "far")


def test_a_generations_two_evaluators_agree_and_it_steps_as_the_definition_says():
    from benchmarks import evolution as benchmark
    from benchmarks.measure import AGREEMENT
    from lossatlas import ensemble, evolution

    case = benchmark.Case(batch_size=20)
    noise = evolution.from_table(case.table, 0, case.problem.dim)(0, benchmark.POPULATION // 2)
    members = evolution.points(case.theta, noise, benchmark.SIGMA, mirrored=True)
    with torch.no_grad():
        losses = case.losses_of(members)
    assert (ensemble.loss(case.problem, members) - losses).abs().max() < AGREEMENT
    values = evolution.ranks(losses)
    step = case.theta - benchmark.RATE * evolution.estimate(noise, values, benchmark.SIGMA, True, "ranks")
    assert (case.ours(generations=1) - step).abs().max() < AGREEMENT


def test_the_teleport_benchmark_compares_one_direction_and_one_norm():
    from benchmarks import teleport

    case = teleport.Case((12, 8, 8, 3), rows=6)
    ours, theirs = case.directions()
    assert (ours - theirs).abs().max() < 1e-4  # float32
    scores = case.score_candidates()
    first = case.scaling.act(case.theta, case.candidates[:, 0])
    direct = teleport.ensemble.gradient(case.problem, first)[1].square().sum(-1)
    torch.testing.assert_close(scores[:, 0], direct, rtol=1e-4, atol=0)
    assert case.ascend().isfinite().all()


def test_at_equal_seconds_a_teleport_to_where_one_is_loses_by_what_it_took():
    from benchmarks import teleport

    case = teleport.Seconds(seeds=(0, 1, 2), multiples=(1.0, 5.0))
    still = case.losses(case.theta)
    assert case.at_equal_seconds(still, 0.0) == pytest.approx(1)
    taken = [case.at_equal_seconds(still, extra) for extra in (10, 100)]
    assert 1 > taken[0] > taken[1]  # descent goes on meanwhile
    assert set(case.arms) >= {"official", "gl-ascent@0.5", "scaling-corner", "balance", "level-set"}
