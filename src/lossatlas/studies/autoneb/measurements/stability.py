"""Children of one parent that part at some time of its training."""

from collections.abc import Mapping

from scipy import stats

from lossatlas import statistics
from lossatlas.studies.autoneb.measurements.tables import Found, Measure, Tables, student


def instability_init(tables: Tables) -> Found:
    rows = tables.stability[tables.stability["branch"] == 0]
    return student(100 * rows.groupby("initialisation")["test_error_over_mean"].mean())


def instability_falls(tables: Tables) -> Found:
    means = tables.stability.pivot_table(
        index="initialisation", columns="branch", values="train_loss_over_line", aggfunc="mean"
    )
    if means.shape[1] < 3:
        return None
    found = [stats.spearmanr(means.columns, row).statistic for row in means.to_numpy()]
    found = [value for value in found if value == value]
    return statistics.clustered_mean(found, range(len(found)), (-1.0, 1.0)) if found else None


MEASURES: Mapping[str, Measure] = {
    "instability_init": instability_init,
    "instability_falls": instability_falls,
}
