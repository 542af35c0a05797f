"""Which bands to run, and the tree of the lowest saddles: against brute force and on surfaces with known saddles."""

import itertools
import math
import random

import pytest
import torch

from lossatlas import elastic_band as eb
from lossatlas import spanning_tree
from lossatlas.errors import LossAtlasError
from lossatlas.problems import Eggcarton, Ring

F64 = torch.float64
SHORT = eb.Schedule((eb.Cycle(150, 0.02, "equal", 3), eb.Cycle(100, 0.02, "highest", 2)), weight_decay=0.0)


def landscape(n, seed, ties=False):
    """Losses of n minima, and a saddle above both of its ends for each pair."""
    draw = random.Random(seed)
    losses = [draw.random() for _ in range(n)]
    height = (lambda: float(draw.randint(2, 4))) if ties else (lambda: 1 + draw.random())
    return losses, {pair: height() for pair in itertools.combinations(range(n), 2)}


def minimax(n, saddles):
    """The lowest highest saddle over all paths of the graph, by Floyd and Warshall's recursion."""
    best = [[0.0 if i == j else saddles.get((min(i, j), max(i, j)), math.inf) for j in range(n)] for i in range(n)]
    for k, i, j in itertools.product(range(n), repeat=3):
        best[i][j] = min(best[i][j], max(best[i][k], best[k][j]))
    return best


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_bottlenecks_of_the_tree_are_the_minimax_over_all_paths_and_an_ultrametric(seed, ties):
    n = 7
    losses, saddles = landscape(n, seed, ties)
    found = eb.bottlenecks(losses, saddles)
    expected = minimax(n, saddles)
    for i, j in itertools.permutations(range(n), 2):
        assert found[i, j].item() == expected[i][j]
    for i, j, k in itertools.permutations(range(n), 3):
        assert found[i, k] <= max(found[i, j], found[j, k])
    assert found.diagonal().tolist() == losses


@pytest.mark.parametrize("seed", range(5))
def test_a_band_outside_the_tree_changes_nothing_and_ties_do_not_change_its_weights(seed):
    losses, saddles = landscape(6, seed, ties=True)
    tree = eb.minimum_tree(6, saddles)
    inside = {pair: saddles[pair] for pair in tree}
    assert torch.equal(eb.bottlenecks(losses, inside), eb.bottlenecks(losses, saddles))
    other_order = dict(sorted(saddles.items(), reverse=True))
    assert sorted(saddles[p] for p in eb.minimum_tree(6, other_order)) == sorted(saddles[p] for p in tree)


def test_a_tree_drawn_by_hand():
    saddles = {(0, 1): 3.0, (0, 2): 5.0, (1, 2): 4.0, (2, 3): 2.0, (0, 3): 6.0}
    assert spanning_tree.minimum_tree(4, saddles) == [(2, 3), (0, 1), (1, 2)]
    assert spanning_tree.summary(4, saddles) == (5, 3.0, 4.0)
    assert spanning_tree.summary(5, saddles).mean == math.inf  # nothing leads to the fifth
    assert [row.mean for row in spanning_tree.anytime(4, saddles)] == [math.inf] * 3 + [3.0, 3.0]
    assert list(spanning_tree.merges(4, saddles)) == [({2}, {3}, 2.0), ({0}, {1}, 3.0), ({0, 1}, {2, 3}, 4.0)]


@pytest.mark.parametrize("seed", range(3))
def test_the_minimax_of_the_whole_graph_is_that_of_its_tree_and_an_ultrametric(seed):
    _, saddles = landscape(6, seed)
    whole = spanning_tree.minimax(6, saddles)
    assert whole == spanning_tree.minimax(6, {pair: saddles[pair] for pair in spanning_tree.minimum_tree(6, saddles)})
    expected = minimax(6, saddles)
    assert whole == {(i, j): expected[i][j] for i, j in itertools.permutations(range(6), 2)}
    assert spanning_tree.ultrametric_violations(6, saddles) == 0


def test_the_star_is_round_the_lowest_minimum():
    assert eb.star([3.0, 1.0, 2.0, 5.0]) == [(1, 2), (0, 1), (1, 3)]


@pytest.mark.parametrize("n", [2, 4, 7])
@pytest.mark.parametrize("per_round", [1, 3])
def test_exploring_runs_every_pair_once_and_the_tree_never_rises(n, per_round):
    losses, saddles = landscape(n, seed=n)
    ran = []

    def run(pairs):
        assert 1 <= len(pairs) <= per_round
        ran.extend(pairs)
        return [saddles[pair] for pair in pairs]

    found = eb.explore(losses, run, per_round=per_round)
    assert found.stopped == "complete"
    assert sorted(ran) == sorted(saddles)
    assert len(ran) == n * (n - 1) // 2
    assert sorted(ran[: n - 1]) == sorted(eb.star(losses))
    means = [step.mean for step in found.record[n - 2 :]]
    assert means == sorted(means, reverse=True)
    assert math.isinf(found.record[n - 3].mean) or n == 2
    assert torch.equal(found.bottlenecks, eb.bottlenecks(losses, saddles))


def test_a_new_pair_crosses_the_cut_of_the_highest_edge_between_the_lowest_minima():
    losses = [0.0, 0.1, 0.2, 0.3]
    star = {(0, 1): 1.0, (0, 2): 3.0, (0, 3): 2.0}
    assert eb.suggest(losses, star) == [(1, 2)]  # without 0-2, minimum 2 is alone: its lowest new partner is 1
    assert eb.suggest(losses, star, count=2) == [(1, 2), (1, 3)]
    assert eb.suggest(losses, star, count=9) == [(1, 2), (1, 3), (2, 3)]
    assert eb.suggest(losses, star, running=[(1, 2)]) == [(2, 3)]
    assert eb.suggest(losses, {**star, (1, 2): 1.0, (1, 3): 1.0, (2, 3): 1.0}) == []


def test_exploring_stops_at_its_budget_or_when_the_tree_no_longer_improves():
    losses, _ = landscape(6, 0)
    budgeted = eb.explore(losses, lambda pairs: [1.0] * len(pairs), budget=8, per_round=3)
    assert (budgeted.stopped, len(budgeted.saddles)) == ("budget", 8)
    patient = eb.explore(losses, lambda pairs: [1.0] * len(pairs), patience=2)
    assert (patient.stopped, len(patient.saddles)) == ("patience", 5 + 2)


def test_a_band_without_a_saddle_is_infinitely_high():
    found = eb.explore([0.0, 0.0, 0.0], lambda pairs: [math.nan if pair == (0, 1) else 1.0 for pair in pairs])
    assert found.saddles[0, 1] == math.inf
    assert found.tree == [(0, 2), (1, 2)]


def test_the_way_through_a_tree():
    assert eb.tree_path([(0, 1), (1, 3), (2, 3)], 0, 2) == [0, 1, 3, 2]
    with pytest.raises(LossAtlasError, match="does not connect"):
        eb.tree_path([(0, 1)], 0, 2)


def test_what_cannot_be_a_tree_is_refused():
    with pytest.raises(LossAtlasError, match="at least two minima"):
        eb.explore([1.0], list)
    with pytest.raises(LossAtlasError, match="not finite"):
        eb.explore([1.0, math.nan], list)
    with pytest.raises(LossAtlasError, match="need at least 2 bands"):
        eb.explore([1.0, 1.0, 1.0], list, budget=1)


def test_the_ring_of_minima_has_its_bottlenecks():
    ring = Ring((1.0, 4.0, 2.0, 3.0))
    found = eb.spanning_tree(ring, ring.minima(), SHORT)
    assert len(found.saddles) == len(found.connections) == 6
    # bands of five to seven pivots end where the polyline is within its sagitta of the exact saddle: see tolerance
    torch.testing.assert_close(found.bottlenecks, ring.bottlenecks(), rtol=0, atol=1e-2)


def test_a_start_from_the_tree_finds_what_the_straight_line_cannot():
    minima = torch.tensor([[0.5, 0.5], [1.5, 0.5], [1.5, 1.5]], dtype=F64)
    straight = eb.spanning_tree(Eggcarton(), minima, SHORT)
    assert straight.saddles[0, 2] == pytest.approx(2, abs=1e-9)  # it stalls on the maximum
    joined = eb.spanning_tree(Eggcarton(), minima[[1, 0, 2]], SHORT, start="concatenated")
    assert joined.saddles[1, 2] == pytest.approx(0, abs=1e-2)
    assert torch.equal(joined.connections[1, 2].pivots[[0, -1]], minima[[0, 2]])
    assert straight.bottlenecks[0, 2].item() == pytest.approx(0, abs=1e-9)  # the tree goes round


def test_spanning_trees_are_the_same_each_time():
    ring = Ring((1.0, 2.0, 3.0))
    first, second = (eb.spanning_tree(ring, ring.minima(), SHORT.scaled(0.1)) for _ in range(2))
    assert first.saddles == second.saddles
