"""Methods, placebos and the released code on the same pairs for the same sample gradients."""

from collections.abc import Mapping

import numpy as np

from lossatlas import statistics
from lossatlas.statistics import Interval
from lossatlas.studies.autoneb.measurements.tables import Found, Measure, Tables, network_of, paired_column, student

CHEAP = 1.05  # how near the published schedule's saddle counts as the same
BUDGET, RELEASED = ("budget", "autoneb"), ("released", "autoneb-13c8ba8")
SWITCHES = ("tangent", "minibatch", "decay", "spacing", "threshold", "normaliser")
NORM = ("norm", "autoneb-13c8ba8")


def difference(
    first: tuple[str, str], second: tuple[str, str], column: str = "train_loss_saddle", level: float = 0.95
) -> Measure:
    """Paired difference of a column between two arms, each (family, arm)."""

    def measured(tables: Tables) -> Found:
        change = paired_column(tables, *first, column) - paired_column(tables, *second, column)
        return student(change.dropna(), level)

    return measured


def relative(first: tuple[str, str], second: tuple[str, str]) -> Measure:
    """The difference as a share of the segment's barrier, with the interval of two one-sided tests."""

    def measured(tables: Tables) -> Found:
        one, other = (paired_column(tables, *arm, "train_loss_saddle") for arm in (first, second))
        barrier = paired_column(tables, "budget", "segment", "train_loss_over_mean")
        return student(((one - other) / barrier).dropna(), 0.90)

    return measured


def cheap_saddle(tables: Tables) -> Found:
    ours, published = (paired_column(tables, "published", arm, "train_loss_saddle") for arm in ("ours", "published"))
    found = student(np.log(ours / published).dropna())
    return found and Interval(*(float(np.exp(v)) for v in (found.value, found.low, found.high)), found.n)


def cheap_gradients(tables: Tables) -> Found:
    ours, published = (paired_column(tables, "published", arm, "sample_gradients") for arm in ("ours", "published"))
    return student((ours / published).dropna())


def gradients_to_saddle(name: str) -> Measure:
    """What a schedule spends until it is near the published one's saddle, as a share of what that spends in all."""

    def measured(tables: Tables) -> Found:
        cycles = tables.cycles[tables.cycles["family"] == "published"]
        shares = []
        for _, rows in cycles.groupby("pair"):
            published, own = (rows[rows["arm"] == arm].sort_values("cycle") for arm in ("published", name))
            near = own[own["saddle"] <= CHEAP * published["saddle"].min()]
            whole = published["sample_gradients"].max()
            shares.append(float(near["sample_gradients"].iloc[0] / whole) if len(near) else 1.0)
        return student(shares)

    return measured


def cost_of_an_edge(tables: Tables) -> Found:
    network = network_of(tables, "comparison")
    rows = {"digits": 1437, "mnist1d": 4000, "cifar10": 50000, "mnist": 60000, "fashion_mnist": 60000}[network["data"]]
    minimum = network["epochs"] * (rows // network["batch_size"]) * network["batch_size"]
    return student(paired_column(tables, "published", "published", "sample_gradients") / minimum)


def cost_of_a_published_edge(_: Tables) -> Found:
    return statistics.exact(248_000 * 512 / (64_000 * 128), 1)


def threshold_pivots(tables: Tables) -> Found:
    return difference(("released", "autoneb-13c8ba8"), ("released", "corrected-threshold"), "pivots")(tables)


def _spike(arm: str) -> Measure:
    return lambda tables: student(paired_column(tables, "released", arm, "spike"))


def last_end_moves(tables: Tables) -> Found:
    return student(paired_column(tables, "released", "autoneb-2018", "end_shift"))


def _curve(arm: str, column: str, divided: str | None = None, scale: float = 1.0) -> Measure:
    def value(tables: Tables) -> Found:
        values = scale * paired_column(tables, "budget", arm, column)
        return student(values / paired_column(tables, "budget", arm, divided) if divided else values)

    return value


def g_interior_nll(tables: Tables) -> Found:
    lowest_loss = paired_column(tables, "budget", "bezier", "train_loss_lowest")
    ends = (
        paired_column(tables, "budget", "bezier", "train_loss_start")
        + paired_column(tables, "budget", "bezier", "train_loss_end")
    ) / 2
    return student(lowest_loss / ends)


MEASURES: Mapping[str, Measure] = {
    "springs_or_redistribution_networks": relative(("placebos", "neb-springs"), ("budget", "neb-fixed")),
    "inserts_where_needed_fixed": difference(("budget", "neb-fixed"), BUDGET),
    "inserts_where_needed_random": difference(("placebos", "insert-random"), BUDGET),
    "threshold_saddle": relative(RELEASED, ("released", "corrected-threshold")),
    "threshold_pivots": threshold_pivots,
    "cost_of_an_edge": cost_of_an_edge,
    "cost_of_a_published_edge": cost_of_a_published_edge,
    "spike_2018": _spike("autoneb-2018"),
    "spike_13c8ba8": _spike("autoneb-13c8ba8"),
    "spike_corrected": _spike("corrected"),
    "last_end_moves": last_end_moves,
    **{f"switch_{name}": difference(RELEASED, ("released", f"corrected-{name}")) for name in SWITCHES},
    **{f"switch_{name}": difference(NORM, ("norm", f"corrected-{name}")) for name in ("mode", "buffers")},
    "switch_all": difference(RELEASED, ("released", "corrected")),
    "switch_2018": difference(("released", "autoneb-2018"), RELEASED),
    "switch_all_norm": difference(NORM, ("norm", "corrected")),
    "buffers_spacing": difference(NORM, ("norm", "corrected-buffers"), "spacing_error"),
    "cheap_saddle": cheap_saddle,
    "cheap_gradients": cheap_gradients,
    "cheap_gradients_to_saddle": gradients_to_saddle("ours"),
    "published_gradients_to_saddle": gradients_to_saddle("published"),
    "budget_bezier": difference(("budget", "bezier"), BUDGET),
    "budget_polychain": difference(("budget", "polychain"), BUDGET),
    "budget_matched": difference(("budget", "autoneb-matched"), BUDGET),
    "budget_segment_matched": difference(("budget", "segment-matched"), BUDGET),
    "placebo_tangent_bisector": difference(("placebos", "tangent-bisector"), BUDGET),
    "placebo_pivots_alone": difference(("placebos", "pivots-alone"), BUDGET),
    "placebo_mechanical": difference(("placebos", "mechanical"), BUDGET),
    "g_bezier_max": _curve("bezier", "train_loss_over_ends"),
    "g_polychain_max": _curve("polychain", "train_loss_over_ends"),
    "g_interior_nll": g_interior_nll,
    "g_segment_chance": _curve("segment", "test_error_saddle", scale=100.0),
    "g_curve_ends": _curve("bezier", "test_error_over_ends", scale=100.0),
    "g_length_bezier": _curve("bezier", "length_ratio"),
    "g_length_polychain": _curve("polychain", "length_ratio"),
    "yao_curve_wins": difference(BUDGET, ("budget", "bezier")),
}
