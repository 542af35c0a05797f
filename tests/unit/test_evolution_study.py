"""The study's tables: problems turned without change, runs that can be cut short, and numbers from made-up tables."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from lossatlas import data
from lossatlas.claims import load_ledger
from lossatlas.errors import LossAtlasError
from lossatlas.evolution import evostrats
from lossatlas.problems.network import NetworkProblem
from lossatlas.studies.evolution import classification, cosines, laws, measurements, published, toys

SETTINGS = {
    "network": "mlp",
    "hidden": [6],
    "steps": 24,
    "logs": 2,
    "batch_size": 20,
    "seeds": 2,
    "populations": [10, 11],
    "antithetic_populations": [10],
    "ablation_population": 10,
    "rates": [0.3, 1.0],
    "sigmas": ["pepg", "safe", "shuffled"],
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As jobs have: with more the order of sums, and so the last bits, are the machine's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rows():
    return data.gaussian_classes(torch.Generator().manual_seed(0), rows=200, test_rows=60, classes=3, dim=8)


@pytest.fixture(scope="module")
def curves(rows):
    return classification.run("toy", rows, SETTINGS)


class Killed(Exception):
    pass


class Store:
    """Keeps a state in memory and kills the run after some saves."""

    def __init__(self, saves):
        self.saves, self.state = saves, None

    def load(self):
        return self.state

    def save(self, state):
        self.state = {"rows": list(state["rows"]), "rates": dict(state["rates"])}
        self.saves -= 1
        if self.saves == 0:
            raise Killed


def test_a_run_that_was_killed_goes_on_to_the_same_table(rows, curves):
    store = Store(saves=5)
    with pytest.raises(Killed):
        classification.run("toy", rows, SETTINGS, store)
    assert classification.run("toy", rows, SETTINGS, store) == curves


def test_each_arm_and_seed_has_its_rows_and_counts_its_forward_passes(curves):
    table = pd.DataFrame(curves)
    runs = table[table["purpose"] == "run"]
    arms = classification.arms(SETTINGS)
    assert len(runs) == len(arms) * SETTINGS["seeds"] * SETTINGS["logs"]
    mutating = runs["arm"].isin(["antithetic, safe", "antithetic, shuffled"])
    es = runs[(runs["arm"] != "backprop") & ~mutating]
    assert (es["forward_passes"] == es["step"] * es["population"]).all()
    safe = runs[mutating]  # one pass forward and three backward, one for each class
    assert (safe["forward_passes"] == safe["step"] * (safe["population"] + 1 + 2 * 3)).all()
    backprop = runs[runs["arm"] == "backprop"]
    assert (backprop["forward_passes"] == 3 * backprop["step"]).all()
    assert runs["finite"].all()
    assert set(table.loc[table["purpose"] == "tuning", "seed"]) == {-1}


def test_how_often_is_looked_changes_no_run(rows, curves):
    """Measuring does not move sigma, which evostrats' own logging does."""
    often = pd.DataFrame(classification.run("toy", rows, SETTINGS | {"logs": 4, "rates": [1.0], "seeds": 1}))
    once = pd.DataFrame(classification.run("toy", rows, SETTINGS | {"logs": 1, "rates": [1.0], "seeds": 1}))
    last = often[often["step"] == SETTINGS["steps"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(last, once)


def test_adapted_sigmas_are_those_they_are_named_after(rows, curves):
    table = pd.DataFrame(curves)
    sigma = table[table["purpose"] == "run"].groupby("arm")["sigma"].agg(["min", "max"])
    assert sigma.loc["antithetic"].to_numpy() == pytest.approx(evostrats.SIGMA)  # a mean in float32
    assert sigma.loc["antithetic, pepg", "min"] != sigma.loc["antithetic, pepg", "max"]
    problem = NetworkProblem(classification.network(SETTINGS, rows), rows.train_x[:20], rows.train_y[:20])
    theta = problem.layout.flatten(problem.module)
    safe, shuffled = classification._safe(problem, theta, None), classification._safe(problem, theta, 7)
    assert not torch.equal(safe, shuffled)
    torch.testing.assert_close(safe.sort().values, shuffled.sort().values, rtol=0, atol=0)


def test_sigma_grows_along_a_falling_and_shrinks_along_a_rising_curvature():
    """On -x² + y² a wider perturbation along x lowers the smoothed loss, along y it raises it."""
    z = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    sigma = torch.full((2,), 0.5)
    even = 0.5**2 * (z[:, 1].square() - z[:, 0].square())
    after = classification._adapted(sigma, z, torch.cat([even, even]))
    assert after[0] > sigma[0]
    assert after[1] < sigma[1]


def test_an_unknown_sigma_is_named():
    with pytest.raises(LossAtlasError, match="sigma wild is unknown"):
        classification.arms(SETTINGS | {"sigmas": ["wild"]})


def test_tuning_never_sees_the_test_rows(rows, curves):
    spoiled = replace(rows, test_y=torch.zeros_like(rows.test_y))
    table = pd.DataFrame(classification.run("toy", spoiled, SETTINGS | {"seeds": 1}))
    first = pd.DataFrame(curves).query("seed < 1").reset_index(drop=True)
    assert (table["rate"] == first["rate"]).all()
    assert table.loc[table["purpose"] == "tuning"].equals(first.loc[first["purpose"] == "tuning"])


def test_the_published_network_has_the_published_size():
    assert published.BETA == evostrats.BETA
    network = evostrats.network()
    assert NetworkProblem(network, torch.zeros(2, 1, 28, 28), torch.zeros(2).long()).dim == published.DIM
    # six channels are in the released arguments, seven the default of the released model
    assert sum(p.numel() for p in evostrats.network(channels=7).parameters()) == 4854


def test_the_published_networks_maxima_are_torchs():
    generator = torch.Generator().manual_seed(0)
    for side in (6, 7):
        x = torch.randn(2, 3, 4, side, side, generator=generator)
        expected = torch.nn.functional.max_pool2d(x.flatten(0, 1), 2).unflatten(0, (2, 3))
        with torch.no_grad():
            assert torch.equal(evostrats.SquareMaximum()(x), expected)
        assert torch.equal(evostrats.SquareMaximum()(x.requires_grad_()), expected)
        assert torch.equal(evostrats.SquareMaximum()(x[0]), expected[0])


def test_least_squares_in_the_eigenbasis_is_the_same_problem():
    toy = toys.least_squares(np.random.RandomState(0))
    generator = np.random.RandomState(0)
    a, b = generator.randn(2000, 1000), generator.randn(2000)
    best = np.linalg.lstsq(a, b, rcond=None)[0]
    excess = (0.5 * (b @ b) - 0.5 * ((a @ best - b) @ (a @ best - b))) / 2000
    assert float(toy.problem(torch.zeros(1000, dtype=torch.float64))) == pytest.approx(excess, rel=1e-10)
    assert float(toy.bias.norm()) == pytest.approx(1.0)
    # the bias has the same angle with the gradient before and after the turn
    bias, gradient = generator.randn(1000), -a.T @ b / 2000
    turned = -toy.problem.hessian * toy.problem.minimum
    assert float(toy.bias @ turned) == pytest.approx(bias / np.linalg.norm(bias) @ gradient, abs=1e-12)


def test_the_tables_of_the_laws_agree_with_themselves():
    table = pd.DataFrame(laws.sampling_table({"dim": 60, "population": 20, "repeats": 30, "sigma_ratios": [0.5]}))
    assert (table["low"] <= table["cosine"]).all()
    assert (table["cosine"] <= table["high"]).all()
    assert set(table["arm"]) == set(laws.ARMS)


def test_cosines_of_a_network_come_from_disjoint_parts_of_one_pool():
    settings = {"seeds": 1, "batch_size": 5, "checkpoints": [1], "rate": 0.1, "populations": [5, 10, 20]}
    rows = data.load("digits")
    rows = replace(rows, train_x=rows.train_x[:50], train_y=rows.train_y[:50])
    table = pd.DataFrame(cosines.table(rows, settings))
    parts = table.set_index(["option", "population"])["parts"]
    assert parts["iid ranks", 5] == 4
    assert parts["antithetic ranks", 10] == 2
    assert ("antithetic", 5) not in parts.index  # odd
    assert table["cosine"].abs().max() < 1


# --- measurements -----------------------------------------------------------------------------------------------------


def test_every_measured_claim_is_in_the_ledger():
    ids = {claim.id for claim in load_ledger("claims").claims}
    assert set(measurements.OWN) <= ids


def test_published_cosines_exclude_pairs_and_raw_estimates():
    assert measurements.published_share({}).low > 0.5
    assert measurements.OWN["evolution.published_antithetic_law"]({}).low > 1
    assert measurements.published_raw_length({}).value > 10
    kappa = measurements.published_kappa({})
    assert 0 < kappa.low < kappa.value < 0.5


def synthetic_curves(gap):
    """Accuracies that rise by `gap` from one population to the next."""
    cells = [("iid", n, 0.5 + gap * i) for i, n in enumerate((25, 50, 100))] + [("antithetic", 100, 0.5)]
    cells += [("backprop", 0, 0.9)]
    return pd.DataFrame(
        {"data": "digits", "purpose": "run", "arm": arm, "population": n, "seed": s, "step": step, "test_accuracy": a}
        for arm, n, a in cells
        for s in range(3)
        for step in (90, 100)
    )


def test_order_and_paired_differences():
    tables = {"curves_digits": synthetic_curves(0.1)}
    assert measurements.order(tables).value == 1
    assert measurements.order({"curves_digits": synthetic_curves(-0.1)}).value == -1
    assert measurements.backprop_above(tables).value == pytest.approx(20)
    assert measurements.OWN["evolution.noanti"](tables).value == pytest.approx(20)
    assert measurements.OWN["evolution.acc_25"](tables) is None  # MNIST only
    assert math.isnan(
        measurements.OWN["evolution.noanti"]({"curves_digits": synthetic_curves(0).query("seed == 0")}).low
    )
