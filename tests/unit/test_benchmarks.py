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
    noise = evolution.from_table(case.table, 1, case.problem.dim)(0, benchmark.POPULATION // 2)
    members = evolution.points(case.theta, noise, benchmark.SIGMA, mirrored=True)
    with torch.no_grad():
        losses = case.losses_of(members)
    assert (ensemble.loss(case.problem, members) - losses).abs().max() < AGREEMENT
    values = evolution.ranks(losses)
    step = case.theta - benchmark.RATE * evolution.estimate(noise, values, benchmark.SIGMA, True, "ranks")
    assert (case.ours() - step).abs().max() < AGREEMENT
