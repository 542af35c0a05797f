"""The noise study: its plan, its parts against slow versions, and its measures on tables whose answer is known."""

import math
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from matplotlib import pyplot as plt
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lossatlas import statistics, theory
from lossatlas.claims import load_ledger, measurement_rows
from lossatlas.composite import PowerWeighting, combine, gramian
from lossatlas.config import load_schema, validate
from lossatlas.critical_points import stall_points, strict_minima
from lossatlas.errors import LossAtlasError
from lossatlas.figures import perlin as figures
from lossatlas.studies.perlin import common, densities, descents, harmony, plan, smoothness
from lossatlas.studies.perlin.landscapes import aligned_layer, layer
from lossatlas.studies.perlin.measurements import MEASURES, arrivals, common_minima, measure, stalling
from lossatlas.studies.perlin.measurements import harmony as measured_harmony
from lossatlas.studies.perlin.measurements.arrivals import tuned
from lossatlas.studies.perlin.measurements.evidence import Tables
from lossatlas.studies.perlin.measurements.stalling import density_ratio

ROOT = Path(__file__).parents[2]


def settings(tier="default"):
    schema = load_schema(ROOT / "workflow/schemas/config.schema.yaml")
    return validate(yaml.safe_load((ROOT / f"config/{tier}.yaml").read_text()), schema)["perlin"]


@pytest.fixture(scope="module")
def tables():
    """The study at the size of the smoke tier, and three dimensions beside it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = settings("smoke")
    config["fields"].append({"name": "se3d", "side": 6, "samples": [2, 4], "landscapes": 4})
    config["space"] |= {"kinds": ["funnel3d"], "samples": 5, "landscapes": 2, "team_sizes": [1, 4]}
    counts = plan.counts(config)
    found = Tables(
        {
            name: pd.DataFrame(part(counts))
            for name, part in (
                ("white", common.white),
                ("correlated", common.correlated),
                ("smooth", common.smooth),
                ("bowls", common.bowls),
            )
        },
        {kind: pd.DataFrame(densities.measure(kind, s)) for kind, s in plan.densities(config).items()},
        pd.DataFrame(smoothness.measure(plan.smoothness(config))),
        {kind: pd.DataFrame(descents.measure(kind, s)) for kind, s in plan.descents(config).items()},
        dict(zip(("densities", "descents"), map(pd.DataFrame, harmony.measure(plan.harmony(config))), strict=True)),
    )
    torch.set_num_threads(threads)
    return found


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_every_tier_has_a_plan():
    for tier in ("smoke", "default", "paper"):
        config = settings(tier)
        assert set(plan.descents(config)) == {*config["kinds"], *config["space"]["kinds"], "high"}
        assert all(s["team_sizes"][0] == 1 for s in plan.densities(config).values())


def test_grids_that_cannot_be_used_are_refused():
    config = settings()
    with pytest.raises(LossAtlasError, match="team_sizes must hold 1"):
        plan.densities({**config, "team_sizes": [2, 3]})
    with pytest.raises(LossAtlasError, match="the coarser first"):
        plan.densities({**config, "fields": [{"name": "se2d", "side": 12, "samples": [8, 4]}]})
    with pytest.raises(LossAtlasError, match="2 at least"):
        plan.descents({**config, "descent_landscapes": 1})


# --- the parts --------------------------------------------------------------------------------------------------------


def test_counts_of_white_noise(tables):
    white = tables.counts["white"]
    first = white[white["n"] == 1]
    assert (first["common"] == first["union"]).all()
    assert (first["common"] == first["total"]).all()
    wide = white.set_index(["dim", "neighbours", "values", "field", "n"])
    for _, cell in wide.groupby(level=[0, 1, 2, 3]):
        assert (cell["common"].diff().dropna() <= 0).all()  # one more condition
        assert (cell["union"].diff().dropna() >= 0).all()


def test_coincidences_are_nested(tables):
    smooth = tables.counts["smooth"]
    near = smooth[smooth["measure"] == "near"]
    for _, cell in near.groupby(["kind", "field", "parameter"]):
        assert (cell.sort_values("n")["count"].diff().dropna() <= 0).all()
    for _, cell in near.groupby(["kind", "field", "n"]):
        assert (cell.sort_values("parameter")["count"].diff().dropna() >= 0).all()


def test_running_composites_are_those_of_all_gradients_at_once():
    layers = [layer("perlin", [0, 1], number, 8).dense(4) for number in range(5)]
    composites = densities.Composites(powers=(-1.0, 1.0, 4.0))
    for value, slope in layers:
        composites.add(value, slope, 2)
    gradients = torch.stack([slope for _, slope in layers], 1).permute(0, 3, 4, 1, 2)  # (g, N, N, n, 2)
    for q in (-1.0, 1.0, 4.0):
        expected = combine(PowerWeighting(q)(gramian(gradients)), gradients).movedim(-1, 1)
        # float32, and a Gramian loses half the digits of the smallest norms
        torch.testing.assert_close(composites.direction(f"q={q:g}"), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(composites.direction("sum"), gradients.sum(-2).movedim(-1, 1), rtol=0, atol=1e-5)
    largest = gradients.norm(dim=-1).argmax(-1)
    values = torch.stack([value for value, _ in layers], -1)
    assert torch.equal(composites.value["max"], values.gather(-1, largest[..., None])[..., 0])


class PeakBytes(TorchDispatchMode):
    """The most bytes that tensors held at once while it was entered, each storage counted once."""

    def __init__(self):
        super().__init__()
        self.live, self.users, self.peak = {}, {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and id(tensor) not in self.users:
                storage = tensor.untyped_storage()
                place = storage.data_ptr()
                self.users[id(tensor)] = place
                count, _ = self.live.get(place, (0, 0))
                self.live[place] = (count + 1, storage.nbytes())
                weakref.finalize(tensor, self._release, id(tensor), place)
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return out

    def _release(self, key, place):
        del self.users[key]
        count, size = self.live[place]
        if count == 1:
            del self.live[place]
        else:
            self.live[place] = (count - 1, size)


def peak_bytes(function, *args):
    with PeakBytes() as watched:
        function(*args)
    return watched.peak


def test_the_watch_on_memory_sees_what_is_held_and_what_is_let_go():
    def hold(n):
        return sum(torch.stack([torch.ones(1000) for _ in range(n)]))

    assert peak_bytes(hold, 8) > 1.8 * peak_bytes(hold, 4)
    assert 4000 <= peak_bytes(lambda: [torch.ones(1000).sum() for _ in range(9)]) < 9000


@pytest.mark.parametrize(("kind", "side"), [("se1d", 400), ("perlin_phase", 12), ("se3d", 6)])
def test_memory_of_densities_does_not_grow_with_the_number_of_layers(kind, side):
    few, many = (
        peak_bytes(densities.measure, kind, {"landscapes": 1, "team_sizes": [1, n], "side": side, "samples": [4, 8]})
        for n in (3, 12)
    )
    assert few > 30_000
    assert many < 1.05 * few  # nine more layers of a tenth to a twentieth each would double it


def test_memory_of_counts_does_not_grow_with_the_number_of_layers():
    """The number of layers follows from the number of fields alone: 16 fields of one size against one."""
    few, many = (peak_bytes(common.white, {"white_fields": fields, "white_sites": 4096}) for fields in (1, 16))
    sizes = [max(row["n"] for row in common.white({"white_fields": f, "white_sites": 4096})) for f in (1, 16)]
    assert sizes[1] > sizes[0] + 1
    assert many < 1.05 * few


def test_shifting_leaves_densities_where_they_were(tables):
    """One layer aligned with itself has the minima of the layer, and n copies of it the same relief."""
    same = tables.smoothness[tables.smoothness["alignment"] == "same"]
    for _, cell in same[same["arm"] == "sum"].groupby("landscape"):
        assert cell["minima"].nunique() == 1
        assert np.ptp(cell["depth"] / cell["n"]) < 1e-4 * cell["depth"].iloc[0]


def test_grids_are_read_exactly_where_they_have_points():
    field = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    grid = descents.Grid(field, side=4)
    index = torch.tensor([[0, 0], [3, 15], [15, 7]])
    points = (index / 4.0).expand(2, -1, -1)
    expected = torch.stack([field[:, :, i, j] for i, j in index.tolist()], -1)
    torch.testing.assert_close(grid(points), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(grid(points + 4), expected, rtol=0, atol=1e-4)  # the torus
    torch.testing.assert_close(grid(points - 8), expected, rtol=0, atol=1e-4)
    between = grid((index[:1] / 4.0 + torch.tensor([0.125, 0.0])).expand(2, -1, -1))[:, :, 0]
    torch.testing.assert_close(between, (field[:, :, 0, 0] + field[:, :, 1, 0]) / 2, rtol=0, atol=1e-5)


def test_grids_in_space_are_read_exactly_where_they_have_points():
    field = torch.randn(2, 3, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    grid = descents.Grid(field, side=4)
    index = [[0, 0, 0], [3, 7, 1], [7, 2, 5]]
    points = (torch.tensor(index) / 2.0).expand(2, -1, -1)
    expected = torch.stack([field[:, :, i, j, k] for i, j, k in index], -1)
    torch.testing.assert_close(grid(points), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(grid(points - 4), expected, rtol=0, atol=1e-4)  # the torus
    between = grid(torch.tensor([0.0, 0.25, 0.0]).expand(2, 1, -1))[:, :, 0]
    torch.testing.assert_close(between, (field[:, :, 0, 0, 0] + field[:, :, 0, 1, 0]) / 2, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dim", [2, 3])
def test_rows_read_what_grids_read(dim):
    dice = torch.Generator().manual_seed(0)
    fields = torch.randn(2, 5, *(12,) * dim, generator=dice)
    points = 12 * torch.rand(2, 40, dim, generator=dice) - 4  # also off the torus, which is 4 long
    points[0, 0] = 0.0
    found = descents.Rows(fields, side=4)(points)
    torch.testing.assert_close(found, descents.Grid(fields, side=4)(points).mT, rtol=0, atol=1e-5)


def test_averaged_norms_without_a_memory_of_change_are_pointwise_ones():
    """On constant gradients a running mean is the norm itself, so each power's direction is its pointwise one."""
    gradients = torch.randn(1, 4, 2, generator=torch.Generator().manual_seed(1))
    grid = descents.Rows(gradients.reshape(1, 8, 1, 1).expand(-1, -1, 4, 4), side=2)
    direction = descents._averaged(grid, 4)
    x = torch.rand(1, len(descents.POWERS), 1, 3, 2)
    for step in range(3):
        found = direction(x, step)
    for i, q in enumerate(descents.POWERS):
        expected = combine(PowerWeighting(q)(gramian(gradients[0])), gradients[0])
        torch.testing.assert_close(found[0, i, 0], expected.expand(3, -1), rtol=1e-4, atol=1e-5)


def test_every_power_is_an_arm_wherever_composites_are_compared(tables):
    powers = {"q=-2", "q=-1", "q=0.5", "q=1", "q=2", "q=4"}
    assert all(powers < set(table["arm"]) for table in tables.densities.values())
    for kind in ("funnel", "funnel3d"):
        table = tables.descents[kind]
        assert powers < set(table.loc[table["family"] == "pointwise", "arm"])
        assert {f"ema {q}" for q in powers} < set(table.loc[table["family"] == "control", "arm"])
    assert {"q=-2", "q=1", "q=4"} < set(tables.descents["high"]["arm"])


def test_weights_that_fall_steeply_keep_the_minima_of_every_layer():
    """q < -1: where one gradient vanishes its weight is all and v is that gradient to first order: they stay."""
    layers = [layer("se2d", [0], number, 8).dense(64) for number in range(2)]
    composites = densities.Composites(powers=(-2.0,))
    for value, slope in layers:
        composites.add(value, slope, 2)
    minima = sum(int(strict_minima(value, 2).sum()) for value, _ in layers)
    assert minima > 6
    assert int(stall_points(composites.direction("q=-2")).attractors) >= minima


def test_counts_at_two_steps_agree_as_their_order_says():
    """Density of minima of a smooth field against the step h: what is missed falls like h²; 40 fields, three grids."""
    fields = layer("se2d", list(range(40)), 0, 12)
    counts = [strict_minima(fields.dense(samples)[0], 2).sum((1, 2)).double() for samples in (3, 6, 12)]
    first, second = counts[1] - counts[0], counts[2] - counts[1]
    left = second - first / 4  # zero to second order
    assert abs(float(left.mean())) < 4 * float(left.std()) / math.sqrt(40)
    assert abs(float(first.mean())) > abs(float(second.mean()))


def test_descents_of_a_bowl_arrive():
    """v = x towards the origin, RMS 1 at distance 1: the offset shrinks by 1 - rate a step."""
    start = torch.tensor([[[1.0, 2.0], [-3.0, 0.5]]])
    runs = descents.descend(lambda x, _: x, start, torch.tensor([0.1]), torch.ones(1, 1), 40)
    slow = 20  # half of the steps, by 0.15 of the rate
    expected = start * 0.9**20 * (1 - 0.015) ** slow
    torch.testing.assert_close(runs.end[0, 0, 0], expected[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(runs.window.first[0, 0, 0], start[0] * 0.9**20, rtol=1e-5, atol=0)


def test_every_run_has_one_outcome_and_chunks_change_nothing(tables):
    table = tables.descents["funnel"]
    outcomes = table[["success", "stuck", "cycling", "wandering"]].sum(axis=1)
    assert (outcomes == table["runs"]).all()
    assert (table["obnoxious"].fillna(0) <= table["stuck"]).all()
    config = plan.descents(settings("smoke"))["funnel"]
    alone = pd.DataFrame(descents.measure("funnel", {**config, "landscapes": 2, "chunk": 1, "team_sizes": [1, 4]}))
    keys = ["family", "landscape", "n", "arm", "rate"]
    both = table.merge(alone, on=keys, suffixes=("", "_alone"))
    assert len(both) == len(alone)
    assert set(both["family"]) == {"pointwise", "control", "baseline"}
    # an end on the edge of the goal may fall to either side with the order of summation: one run in a cell
    assert (both["success"] - both["success_alone"]).abs().max() <= 1


def test_for_one_layer_all_power_weightings_are_the_layer(tables):
    table = tables.descents["funnel"]
    one = table[(table["n"] == 1) & (table["family"] == "pointwise") & (table["rate"] == 0.1)]
    by_arm = one.groupby("arm")["success"].sum()
    assert by_arm.max() - by_arm.min() <= 1  # rounding at the edge of the goal


def test_poincare_hopf_and_two_layers(tables):
    assert stalling.poincare_hopf(tables).value == 0
    assert stalling.two_layers(tables).value < 0.001


def test_aligned_layers_are_the_same_for_every_part():
    a, b = aligned_layer("desert", [0, 1], 3, 8), aligned_layer("desert", [1], 3, 8)
    torch.testing.assert_close(a.dense(8)[0][1], b.dense(8)[0][0], rtol=0, atol=1e-5)


# --- harmony ----------------------------------------------------------------------------------------------------------


def test_layers_that_share_nothing_but_the_minimum_are_those_of_the_descents(tables):
    """c = 0 with exact alignment meets the landscapes, starts and arms of the other table, run for run."""
    found = MEASURES["perlin.harmony_uncorrelated"](tables)
    assert (found.value, found.n) == (0, 4 * 3 * 2)  # landscapes, arms, rates


def test_one_layer_n_times_is_that_layer(tables):
    assert MEASURES["perlin.harmony_one_layer"](tables).value == 0
    runs = tables.harmony["descents"]
    same = runs[(runs["alignment"] == "shift") & (runs["correlation"] == 1)]
    by_arm = same.pivot_table(index=["landscape", "n", "rate"], columns="arm", values="success")
    assert (by_arm.max(axis=1) - by_arm.min(axis=1)).max() <= 1  # rounding at the edge of the goal
    dense = tables.harmony["densities"]
    alike = dense[(dense["correlation"] == 1) & (dense["n"] > 1)]["likeness"]
    assert len(alike)
    assert alike.to_numpy() == pytest.approx(1, abs=1e-4)


def test_layers_of_teams_are_as_alike_as_they_are_told_to_be():
    """Likeness of layers that are not aligned is c within 4 standard errors; a bowl or a well makes them more alike."""
    config = plan.harmony(settings("smoke")) | {"landscapes": 12, "starts": 1, "steps": 10, "samples": 8}
    dense = pd.DataFrame(harmony.measure(config)[0])
    alike = dense[(dense["n"] == 4) & (dense["arm"] == "sum")]
    loose = alike[alike["alignment"] == "none"].groupby("correlation")["likeness"]
    for c, values in loose:
        assert abs(values.mean() - c) <= 4 * values.std() / math.sqrt(len(values)) + 1e-6
    mean = alike.groupby(["alignment", "correlation"])["likeness"].mean()
    assert mean["shift", 0] > mean["none", 0]
    assert mean["unaligned_bowl", 0] > mean["none", 0]


def test_descents_without_a_common_goal_are_not_judged(tables):
    assert "none" not in set(tables.harmony["descents"]["alignment"])
    summary = measured_harmony.summary(tables)
    nowhere = summary[summary["alignment"] == "none"]
    assert len(nowhere)
    assert nowhere["success"].isna().all()
    assert nowhere["density"].notna().all()


def test_teams_need_both_ends_of_sharing():
    config = settings()
    with pytest.raises(LossAtlasError, match="must hold 0 and 1"):
        plan.harmony({**config, "harmony": {**config["harmony"], "correlations": [0, 0.5]}})
    with pytest.raises(LossAtlasError, match="2 at least"):
        plan.harmony({**config, "harmony": {**config["harmony"], "landscapes": 1}})


# --- measures on known tables -----------------------------------------------------------------------------------------


def white_table(rate, n=(1, 2, 3, 4), fields=6, sites=10**9):
    rows = [
        {"dim": 2, "neighbours": "moore", "values": "normal", "field": f, "n": m, "sites": sites}
        | {"common": round(sites * rate(m)), "union": m, "total": 1}
        for f in range(fields)
        for m in n
    ]
    return pd.DataFrame(rows)


def only(**parts):
    return Tables(
        parts.get("counts", {}),
        parts.get("densities", {}),
        parts.get("relief"),
        parts.get("descents", {}),
        parts.get("harmony", {}),
    )


def test_slopes_of_exact_laws():
    assert common_minima.p_power_grid(only(counts={"white": white_table(lambda n: 9.0**-n)})).value == pytest.approx(
        1, abs=1e-6
    )
    half = common_minima.p_power_grid(only(counts={"white": white_table(lambda n: 9.0 ** (-n / 2))}))
    assert half.value == pytest.approx(0.5, abs=1e-6)
    together = white_table(lambda n: 9.0**-1).rename(columns={"values": "x"}).assign(correlation=0.5)
    index = common_minima.harmony(only(counts={"correlated": together}))
    assert index.value == pytest.approx(0.25, abs=1e-6)  # identical layers: 1 / n


def test_a_layer_that_shares_more_minima_than_it_has_is_found():
    wrong = white_table(lambda n: 0.1 * n)
    smooth = pd.DataFrame(
        [{"kind": "a", "field": 0, "parameter": 2.0, "measure": "grid", "n": n, "count": 5} for n in (1, 2)]
    )
    assert common_minima.two_vs_one(only(counts={"white": wrong, "smooth": smooth})).value == 6


def density_table(fine_bias):
    rows = []
    for samples, landscapes, bias in ((8, 8, 0.0), (16, 2, fine_bias)):
        for landscape in range(landscapes):
            for arm, n, count in (("sum", 1, 100), ("sum", 30, 100), ("q=1", 30, 130 + bias), ("max", 30, 200 + bias)):
                rows.append({"samples": samples, "landscape": landscape, "arm": arm, "n": n, "flow": count})
    return pd.DataFrame(rows)


def test_density_ratios_are_extrapolated_in_the_step():
    """Counts 130 at h and 133 at h / 2: 134 at 0 to second order; 200 and 203: 206 to first."""
    table = density_table(3.0)
    assert density_ratio(table, "q=1", 30).value == pytest.approx(1.34)
    assert density_ratio(table, "max", 30).value == pytest.approx(2.06)
    assert density_ratio(table, "sum", 30, base="one").value == pytest.approx(1.0)
    table["flow"] *= 2
    assert density_ratio(table, "q=1", 30).value == pytest.approx(1.34)


def test_pasted_minima_are_not_compared_across_steps():
    """They grow with the grid; their ratio is that of the coarser one, whatever the finer one has."""
    table = density_table(0.0)
    table["pasted"] = np.where(table["samples"] == 8, table["flow"], 1e6 * (1 + table["n"]))
    assert density_ratio(table, "max", 30, "pasted").value == pytest.approx(2.0)
    rows = stalling.ratios(only(densities={"se2d": table.assign(potential=1.0)}))
    assert (rows.loc[rows["meaning"] == "pasted", "samples"] == 8).all()
    assert (rows.loc[rows["meaning"] != "pasted", "samples"] == 0).all()


def test_single_layers_in_space_are_held_against_the_formula():
    """Counts of 0.99 and 0.9975 of the law at h and h / 2 extrapolate to it; unlike volumes are weighed."""
    law = theory.minima_density(3, 1.0, 3.0)
    rows = [
        {"samples": samples, "landscape": i, "n": 30, "arm": "layers", "volume": volume, "flow": share * law * volume}
        for samples, share, landscapes in ((4, 0.99, 8), (8, 0.9975, 2))
        for i, volume in zip(range(landscapes), [1e4, 3e4] * 4, strict=False)
    ]
    found = stalling.longuet_higgins_space(only(densities={"se3d": pd.DataFrame(rows)}))
    assert found.value == pytest.approx(1.0)
    assert found.n == 8


def descent_table(best_even, best_odd):
    rows = [
        {"family": "pointwise", "arm": "sum", "n": 4, "landscape": i, "rate": rate, "runs": 10}
        | {"success": 9 if rate == (best_even, best_odd)[i % 2] else 2, "stuck": 1}
        for i in range(6)
        for rate in (0.1, 0.3)
    ]
    return pd.DataFrame(rows)


def test_rates_are_tuned_on_one_half_and_judged_on_the_other():
    assert tuned(descent_table(0.3, 0.3)).tolist() == [0.9] * 6
    # where the best rate of each half is the worst of the other, tuning must not profit from its own half
    assert tuned(descent_table(0.1, 0.3)).tolist() == [0.2] * 6
    assert tuned(descent_table(0.3, 0.3), "stuck").tolist() == [0.1] * 6


def test_arms_are_paired_by_the_landscapes_that_both_met():
    """Six landscapes against two of them: a difference of 0.3 on those, whatever the others show."""
    many = descent_table(0.1, 0.1).assign(family="pointwise", arm="q=1")
    many["success"] = np.where(many["landscape"] < 2, 8, 1)
    few = many[many["landscape"] < 2].assign(family="control", arm="noise", success=5)
    found = MEASURES["perlin.dynamic_against_noise"](only(descents={"funnel": pd.concat([many, few])}))
    assert found.value == pytest.approx(0.3)
    assert found.n == 2


def test_what_never_happens_does_not_become_rarer():
    table = pd.concat([descent_table(0.1, 0.1).assign(arm="q=1", n=n, cycling=0) for n in (2, 4)])
    found = MEASURES["perlin.modes_drop_cycling"](only(descents={"funnel": table}))
    assert found.value == 0
    assert math.isnan(found.low)


def test_poisson_intervals_and_slopes():
    found = statistics.garwood(3, 10.0, 0.95)
    assert (found.low * 10, found.high * 10) == pytest.approx((0.61867, 8.76727), abs=1e-4)  # published tables
    assert statistics.garwood(0, 1.0, 0.95).high == pytest.approx(-math.log(0.025))
    rng = np.random.default_rng(0)
    n, exposures = np.arange(1, 6), np.full(5, 1e5)
    slopes = [statistics.poisson_slope(n, rng.poisson(exposures * np.exp(-1 - 0.7 * n)), exposures) for _ in range(300)]
    assert abs(np.mean(slopes) + 0.7) < 4 * np.std(slopes) / math.sqrt(300)
    assert math.isnan(statistics.poisson_slope([1, 2], [0, 0], [1, 1]))
    assert math.isnan(statistics.poisson_slope([1, 2, 3], [4, 0, 0], [1, 1, 1]))  # likeliest: minus infinity
    assert statistics.poisson_slope([1, 2, 3], [0, 4, 0], [1, 1, 1]) == pytest.approx(0, abs=1e-9)


# --- ledger and figures -----------------------------------------------------------------------------------------------


def test_every_measure_is_a_claim_and_every_claim_is_measured_or_says_why(tables):
    claims = {claim.id: claim for claim in load_ledger(ROOT / "claims").claims if claim.study == "perlin"}
    assert set(claims) - set(MEASURES) == {"perlin.beats_sota"}
    assert set(MEASURES) <= set(claims)
    found = measure(tables)
    assert {"perlin.two_vs_one", "perlin.numpy_formula", "perlin.p_power_n_grid", "perlin.grad_weights"} <= set(found)
    assert found["perlin.two_vs_one"].value == 0
    assert found["perlin.numpy_formula"].value < 1e-12
    rows = measurement_rows(found, load_ledger(ROOT / "claims"), "x.csv")
    assert all(row["low"] <= row["measured"] <= row["high"] or math.isnan(row["low"]) for row in rows)


def test_figures_are_drawn_from_the_summary_tables(tables, tmp_path):
    gallery = smoothness.gallery(plan.smoothness(settings("smoke")))
    drawn = {
        "gallery": figures.gallery({name: picture.numpy() for name, picture in gallery.items()}),
        "rates": figures.rates(common_minima.rates(tables)),
        "densities": figures.densities(stalling.ratios(tables), stalling.limits(tables)),
        "success": figures.success(arrivals.success(tables)),
        "failures": figures.failures(arrivals.success(tables)),
        "harmony": figures.harmony(measured_harmony.summary(tables)),
    }
    for name, figure in drawn.items():
        figures.save(figure, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
        plt.close(figure)
