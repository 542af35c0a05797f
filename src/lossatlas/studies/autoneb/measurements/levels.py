"""How high the saddles of bands lie, what holds along them, and what the published networks gave."""

from collections.abc import Mapping

import numpy as np

from lossatlas import statistics
from lossatlas.studies.autoneb.measurements.tables import Found, Measure, Tables, by_network, student

INSIDE = 1e-3  # barriers.TOLERANCE: what a refinement may still add, as a share of the loss


def saddle_networks(tables: Tables) -> Found:
    bands = tables.bands
    inside = bands["train_loss_over_ends"] > INSIDE * bands["train_loss_saddle"]
    return statistics.wilson(int(inside.sum()), len(inside))


def _curvature(against: str | None = None) -> Measure:
    """Share of the maxima inside bands whose lowest curvature is below that in another column, or below 0."""

    def share(tables: Tables) -> Found:
        bands = tables.bands[tables.bands["curvature"].notna()]
        below = bands["curvature"] < (bands[against] if against else 0)
        return statistics.wilson(int(below.sum()), len(bands)) if len(bands) else None

    return share


def _test_rise(arm: str, column: str, level: float) -> Measure:
    def rise(tables: Tables) -> Found:
        rows = tables.arm(arm)
        return by_network(rows, 100 * rows[column], level)

    return rise


def _cifar(column: str, scale: float = 100.0) -> Measure:
    def value(tables: Tables) -> Found:
        rows = tables.bands[tables.bands["data"] == "cifar10"]
        return student(scale * rows[column]) if len(rows) else None

    return value


def d_orders(tables: Tables) -> Found:
    rows = tables.bands[tables.bands["family"] == "resnet"]
    rows = rows[rows["dim"] == rows["dim"].max()]
    return student(np.log10(rows["initial_loss"] / rows["train_loss_saddle"])) if len(rows) else None


def crossing(tables: Tables) -> Found:
    return by_network(tables.bands, tables.bands["crossing"])


def _mean_column(column: str) -> Measure:
    return lambda tables: by_network(tables.bands, tables.bands[column])


def family_ensemble(tables: Tables) -> Found:
    bands = tables.bands
    return by_network(bands, 100 * (bands["ends_ensemble_error"] - bands["ensemble_error"]))


def shared_batch_signs(tables: Tables) -> Found:
    bands = tables.bands
    return by_network(bands, bands["signs_shared"] - bands["signs_own"])


def control_narrow(tables: Tables) -> Found:
    bands = tables.bands[(tables.bands["family"] == "mlp") & (tables.bands["width"] > 0)]
    return student(bands[bands["width"] == bands["width"].min()]["train_loss_over_mean"]) if len(bands) else None


MEASURES: Mapping[str, Measure] = {
    "saddle_networks": saddle_networks,
    "saddle_curves_down": _curvature(),
    "saddle_curvature": _curvature("end_curvature"),
    "test_error_flat": _test_rise("autoneb", "test_error_over_ends", 0.90),
    "test_error_segment": _test_rise("segment", "test_error_over_ends", 0.95),
    "family_ensemble": family_ensemble,
    "family_disagreement": _mean_column("disagreement"),
    "d_test_rise_cifar10": _cifar("test_error_over_mean"),
    "d_test_rise_resnets": _cifar("test_error_over_mean"),
    "d_orders": d_orders,
    "crossing": crossing,
    "length_ratio": _mean_column("length_ratio"),
    "error_overlap": _mean_column("overlap"),
    "error_overlap_jaccard": _mean_column("jaccard"),
    "shared_batch_signs": shared_batch_signs,
    "control_narrow": control_narrow,
}
