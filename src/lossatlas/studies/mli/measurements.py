"""From the tables of runs and controls to the numbers that the claims are judged by.

The unit is the configuration (ensemble, learning rate, initial scale, push); seeds repeat it. Intervals are 95 %:
Student's over configurations for means, a bootstrap over them for correlations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd

from lossatlas import statistics
from lossatlas.seeds import seed
from lossatlas.statistics import Interval
from lossatlas.studies.mli import toys
from lossatlas.thresholds import MONOTONE

SMALLEST_RISE = 1e-4  # smaller rises of the loss, and falls, count as this when logarithms are taken
PAIRED = ["data", "architecture", "learning_rate", "seed"]


@dataclass(frozen=True, eq=False)
class Tables:
    """Every run of every ensemble, and every line of the controls; `ensemble` names the ensemble in both."""

    runs: pd.DataFrame
    controls: pd.DataFrame

    @property
    def plain(self) -> pd.DataFrame:
        """Trained classifiers of the unmodified kind: default initial scale, not pushed."""
        runs = self.classifiers
        return runs[(runs["initial_scale"] == 1) & (runs["push"] == 0)]

    @property
    def classifiers(self) -> pd.DataFrame:
        return self.runs[self.runs["trained"] & ~self.runs["autoencoder"]]

    @property
    def autoencoders(self) -> pd.DataFrame:
        return self.runs[self.runs["trained"] & self.runs["autoencoder"]]

    @property
    def pushed(self) -> pd.DataFrame:
        return self.runs[self.runs["ensemble"].str.endswith("-push")]


def measure(tables: Tables) -> dict[str, Interval]:
    """{claim id: measured interval}; claims whose runs are absent from this tier are left out."""
    found = {identity: function(tables) for identity, function in MEASURES.items()}
    return {identity: interval for identity, interval in found.items() if interval is not None and interval.n}


def monotone_table(tables: Tables) -> pd.DataFrame:
    """Share of non-monotone runs among the trained ones, by network, optimiser, BatchNorm and learning rate.

    The layout of table 1 of Lucas et al. 2021, with Wilson limits, the released mean over violating runs only
    (`violating_mean`), and the median over all trained runs beside it.
    """
    runs = tables.runs[_is_grid(tables.runs)]
    rows = []
    columns = ["data", "architecture", "optimizer", "batch_norm", "learning_rate"]
    for key, cell in runs.groupby(columns):
        trained = cell[cell["trained"]]
        violating = trained[trained["delta"] > MONOTONE]
        share = statistics.wilson(len(violating), len(trained))
        rows.append(
            dict(zip(columns, key, strict=True))
            | {"runs": len(cell), "trained": len(trained), "diverged": int((cell["diverged_at"] >= 0).sum())}
            | {"violating_share": share.value, "low": share.low, "high": share.high}
            | {"violating_mean": float(violating["delta"].mean()), "median": float(trained["delta"].median())}
        )
    return pd.DataFrame(rows)


# --- samples and units ------------------------------------------------------------------------------------------------


def _is_grid(runs: pd.DataFrame) -> pd.Series:
    """Runs of the main grids, which have every learning rate."""
    return runs["ensemble"].str.fullmatch(r"[a-z0-9_]+-(?:sgd|momentum|adagrad|rmsprop|adam)(?:-bn)?")


def _violates(runs: pd.DataFrame) -> np.ndarray:
    return (runs["delta"] > MONOTONE).to_numpy(float)


def _configurations(runs: pd.DataFrame) -> list[tuple]:
    columns = [c for c in ("ensemble", "learning_rate", "initial_scale", "push") if c in runs]
    return list(runs[columns].itertuples(index=False, name=None))


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(seed("mli", "bootstrap", name))


SHARE, DIFFERENCE = (0.0, 1.0), (-1.0, 1.0)


def _mean(runs: pd.DataFrame, values: np.ndarray | pd.Series, bounds: tuple[float, float]) -> Interval:
    return statistics.clustered_mean(np.asarray(values, float), _configurations(runs), bounds)


def _correlation(name: str, runs: pd.DataFrame, x: str, y: str, groups: list[str] | None = None) -> Interval:
    """Spearman over runs; 0 without limits where one of the two is constant, so that nothing can be said."""
    labels = list(runs[groups].itertuples(index=False, name=None)) if groups else None
    found = statistics.spearman_interval(runs[x], runs[y], _rng(name), groups=labels, clusters=_configurations(runs))
    return Interval(0.0, nan, nan, found.n) if np.isnan(found.value) else found


def _paired(a: pd.DataFrame, b: pd.DataFrame, keys: list[str]) -> Interval | None:
    """P(violates) in a minus in b, over runs that are in both."""
    pairs = a.merge(b, on=keys, suffixes=("", "_b"))
    if pairs.empty:
        return None
    difference = (pairs["delta"] > MONOTONE).to_numpy(float) - (pairs["delta_b"] > MONOTONE).to_numpy(float)
    return _mean(pairs, difference, DIFFERENCE)


# --- the measures, one a claim ----------------------------------------------------------------------------------------


def typical(tables: Tables) -> Interval:
    runs = tables.plain[tables.plain["optimizer"].isin(["sgd", "momentum"])]
    return _mean(runs, 1 - _violates(runs), SHARE)


def persists(tables: Tables) -> Interval:
    outcomes = []
    everything = tables.runs[
        ~tables.runs["autoencoder"] & (tables.runs["initial_scale"] == 1) & (tables.runs["push"] == 0)
    ]
    for _, cell in everything.groupby(["data", "architecture", "batch_norm", "optimizer"]):
        rates = cell.groupby("learning_rate").agg(trained=("trained", "all"), loss=("loss_end", "mean"))
        rates = rates[rates["trained"]]
        if rates.empty:
            continue
        ordered = sorted(rates.index)
        runs = cell[cell["learning_rate"].isin([rates["loss"].idxmin(), ordered[(len(ordered) - 1) // 2]])]
        outcomes.append(statistics.wilson(int((1 - _violates(runs)).sum()), len(runs)).low > 0.5)
    return statistics.exact(np.mean(outcomes) if outcomes else nan, len(outcomes))


def sufficient(tables: Tables) -> Interval:
    return statistics.exact(tables.runs["certified_rises"].sum(), tables.runs["certified"].sum())


def _certified(column: str) -> Callable[[Tables], Interval]:
    def share(tables: Tables) -> Interval:
        return _mean(tables.autoencoders, tables.autoencoders[column], SHARE)

    return share


def _arms(tables: Tables) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """All runs of the near arm (the smallest radius whose runs all train) and of the far one (the largest)."""
    pushed = tables.pushed
    trains = pushed.groupby("push")["trained"].all()
    if not trains.any() or trains.idxmax() == pushed["push"].max():
        return None
    return pushed[pushed["push"] == trains.idxmax()], pushed[pushed["push"] == pushed["push"].max()]


def violations(tables: Tables) -> Interval | None:
    if (arms := _arms(tables)) is None:
        return None
    near, far = (arm[arm["trained"]] for arm in arms)
    pairs = far.merge(near, on="seed", suffixes=("", "_near"))
    return statistics.paired_share_difference(pairs["delta"] > MONOTONE, pairs["delta_near"] > MONOTONE)


def violations_systematic(tables: Tables) -> Interval | None:
    runs = tables.classifiers
    far = [arm for _, arm in runs[runs["push"] > 1].groupby("push")]
    far += [arm for _, arm in runs[runs["initial_scale"] < 1].groupby(["optimizer", "initial_scale"])]
    for _, arm in runs[_is_grid(runs)].groupby(["data", "optimizer", "batch_norm"]):
        far.append(arm[arm["learning_rate"] == arm["learning_rate"].max()])
    if not far:
        return None
    level = 1 - 0.05 / len(far)
    shares = [statistics.wilson(int(_violates(arm).sum()), len(arm), level) for arm in far]
    return max(shares, key=lambda share: share.value)


def _trend(name: str, groups: list[str] | None) -> Callable[[Tables], Interval]:
    def correlation(tables: Tables) -> Interval:
        return _correlation(name, tables.classifiers, "distance", "delta", groups)

    return correlation


def batch_norm(tables: Tables) -> Interval | None:
    runs = tables.plain[_is_grid(tables.plain)]
    return _paired(runs[runs["batch_norm"]], runs[~runs["batch_norm"]], [*PAIRED, "optimizer"])


def adam(tables: Tables) -> Interval | None:
    runs = tables.plain[_is_grid(tables.plain)]
    return _paired(
        runs[runs["optimizer"] == "adam"],
        runs[runs["optimizer"] == "momentum"],
        [*PAIRED, "batch_norm"],
    )


def learning_rate(tables: Tables) -> Interval:
    runs = tables.plain[_is_grid(tables.plain)].assign(violates=lambda r: _violates(r))
    return _correlation("lr", runs, "learning_rate", "violates", ["data", "optimizer", "batch_norm"])


def _gauss(estimator: str, other: str) -> Callable[[Tables], Interval]:
    def correlation(tables: Tables) -> Interval:
        runs = tables.classifiers[tables.classifiers[estimator].notna()]
        return _correlation(f"{estimator}-{other}", runs, estimator, other)

    return correlation


def _against_own(arm: str, curve: str) -> Callable[[Tables], Interval | None]:
    """Share of monotone curves with that start or end minus with the own ones, by trained network."""

    def difference(tables: Tables) -> Interval | None:
        keys = ["ensemble", "learning_rate", "seed"]
        lines = tables.controls.merge(tables.classifiers[keys], on=keys)
        if lines.empty:
            return None
        lines = lines.assign(monotone=(lines[curve] <= MONOTONE).astype(float))
        own = lines[lines["arm"] == "own"].groupby(keys)["monotone"].mean()
        other = lines[lines["arm"] == arm].groupby(keys)["monotone"].mean()
        change = (other - own).dropna().reset_index()
        return _mean(change, change["monotone"], DIFFERENCE) if len(change) else None

    return difference


def permuted_end(tables: Tables) -> Interval | None:
    change = _against_own("permuted", "delta")(tables)
    return change and Interval(-change.value, -change.high, -change.low, change.n)


def _by_seed(pairs: pd.DataFrame, difference: pd.Series) -> Interval | None:
    """Student's interval over seeds, each the mean over its learning rates; runs without a plateau are left out."""
    values = difference.groupby(pairs["seed"]).mean().dropna()
    return statistics.t_interval(values) if len(values) else None


def plateau_bias(tables: Tables) -> Interval | None:
    lines = tables.controls
    if lines.empty:
        return None
    keys = ["ensemble", "learning_rate", "seed"]
    deepest = max(sorted(set(lines["ensemble"])), key=lambda name: _depth(tables, name))
    lines = lines[lines["ensemble"] == deepest].merge(tables.classifiers[keys], on=keys)
    pairs = lines[lines["arm"] == "own"].merge(lines[lines["arm"] == "homogeneous"], on=keys, suffixes=("", "_h"))
    return _by_seed(pairs, pairs["plateau_error"] - pairs["plateau_error_h"])


def _depth(tables: Tables, ensemble: str) -> int:
    return int(tables.runs.loc[tables.runs["ensemble"] == ensemble, "depth"].iloc[0])


def plateau_depth(tables: Tables) -> Interval | None:
    runs = tables.plain[(tables.plain["optimizer"] == "momentum") & ~tables.plain["batch_norm"]]
    deep = runs[runs["ensemble"].str.contains("-depth")]
    deep = deep[deep["depth"] == deep["depth"].max()]
    varied = deep["ensemble"].str.replace(r"-depth\d+", "-momentum", regex=True)
    base = runs[runs["ensemble"].isin(varied)]  # another grid may have the same data
    pairs = deep.merge(base, on=["data", "learning_rate", "seed"], suffixes=("", "_base"))
    return _by_seed(pairs, pairs["plateau_error"] - pairs["plateau_error_base"])


def _not_hardness(column: str) -> Callable[[Tables], Interval]:
    def correlation(tables: Tables) -> Interval:
        runs = tables.classifiers[tables.classifiers[column].notna()].assign(accuracy=lambda r: 1 - r["test_error"])
        return _correlation(f"hardness-{column}", runs, column, "accuracy", ["data", "architecture", "batch_norm"])

    return correlation


def layers(tables: Tables) -> Interval | None:
    lines = tables.controls[tables.controls["arm"].str.startswith("layer-")]
    if lines.empty:
        return None
    keys = ["ensemble", "learning_rate", "seed"]
    lines = lines.merge(tables.classifiers[keys], on=keys)
    rise = np.log((lines["loss_start"] - lines["loss_end"]).clip(lower=SMALLEST_RISE))
    table = rise.groupby([lines["ensemble"], lines["seed"], lines["index"]]).mean().unstack("index").dropna()
    if len(table) < 2:
        return None
    test = statistics.permutation_test(_variance_between_columns, table.to_numpy(), _rng("layers"))
    return Interval(test.excess.value, test.excess.low, test.excess.high, len(table))


def _variance_between_columns(x: np.ndarray) -> float:
    centred = x - x.mean(axis=1, keepdims=True)
    return float((centred.mean(axis=0) ** 2).mean() / (centred**2).mean())


def placebo(tables: Tables) -> Interval | None:
    arms, lines = _arms(tables), tables.controls[tables.controls["arm"] == "placebo"]
    if arms is None or lines.empty:
        return None
    radii = sorted(set(tables.pushed["push"]))
    lines = lines[lines["index"] == radii.index(arms[0]["push"].iloc[0])]
    far = arms[1][arms[1]["trained"]]
    pairs = lines.merge(far[["seed", "delta"]], on="seed", suffixes=("", "_far"))
    return statistics.paired_share_difference(pairs["delta"] > MONOTONE, pairs["delta_far"] > MONOTONE)


def _published_table(data: tuple[str, ...], threshold: float) -> Callable[[Tables], Interval | None]:
    """Share of non-monotone runs over a whole published table, by the threshold that printed it."""

    def share(tables: Tables) -> Interval | None:
        runs = tables.plain[tables.plain["data"].isin(data) & _is_grid(tables.plain)]
        return statistics.wilson(int((runs["delta"] > threshold).sum()), len(runs))

    return share


def _resnet(column: str, divisor: str | None = None) -> Callable[[Tables], Interval | None]:
    """Mean over the seeds of the trained plain ResNets on CIFAR-10, each seed the mean of its runs."""

    def mean(tables: Tables) -> Interval | None:
        runs = tables.plain[
            (tables.plain["data"] == "cifar10") & tables.plain["architecture"].str.startswith("resnet-")
        ]
        values = runs[column] / (runs[divisor] if divisor else 1)
        return _by_seed(runs, values)

    return mean


def _flips(column: str) -> Callable[[Tables], Interval | None]:
    """Number of trained runs whose verdict changes with another definition of delta."""

    def count(tables: Tables) -> Interval | None:
        runs = tables.classifiers[tables.classifiers[column].notna()]
        return statistics.exact(((runs[column] > MONOTONE) != (runs["delta"] > MONOTONE)).sum(), len(runs))

    return count


def flip_threshold(tables: Tables) -> Interval:
    delta = tables.classifiers["delta"]
    return statistics.exact(((delta > 0) & (delta <= MONOTONE)).sum(), len(delta))


def flip_gauss(tables: Tables) -> Interval:
    runs = tables.classifiers[tables.classifiers["gauss_flips"].notna()]
    return statistics.exact(runs["gauss_flips"].sum(), runs["gauss_paths"].sum())


def grid_check(tables: Tables) -> Interval:
    runs = tables.classifiers
    change = (runs["delta_fine"] - runs["delta"]).abs()
    same = (change <= MONOTONE) | (change <= 0.05 * runs["delta"])
    return statistics.wilson(int(same.sum()), len(same))


def noise_floor(tables: Tables) -> Interval:
    noise = tables.classifiers["noise"].dropna()
    return statistics.exact(noise.max() if len(noise) else nan, len(noise))


def diverged(tables: Tables) -> Interval:
    return statistics.wilson(int((tables.runs["diverged_at"] >= 0).sum()), len(tables.runs))


def trained(tables: Tables) -> Interval:
    return statistics.wilson(int(tables.runs["trained"].sum()), len(tables.runs))


def zero_init_exact(_: Tables) -> Interval:
    return statistics.exact(max(toys.zero_start_error(depth) for depth in toys.DEPTHS), len(toys.DEPTHS))


def plateau_toy(_: Tables) -> Interval:
    return statistics.exact(max(toys.plateau_switch_error(depth) for depth in toys.DEPTHS), len(toys.DEPTHS))


MEASURES: dict[str, Callable[[Tables], Interval | None]] = {
    "baselines.diverged": diverged,
    "baselines.trained": trained,
    "mli.typical": typical,
    "mli.persists": persists,
    "mli.sufficient": sufficient,
    "mli.certified_share": _certified("certified_share"),
    "mli.certified_runs": _certified("stacked_certified"),
    "mli.certified_smooth": _certified("gauss_certified"),
    "mli.certified_polygon": _certified("turning_certified"),
    "mli.violations": violations,
    "mli.violations_systematic": violations_systematic,
    "mli.violations_trend": _trend("trend", None),
    "mli.violations_trend_within_lr": _trend("trend-lr", ["data", "optimizer", "batch_norm", "learning_rate"]),
    "mli.bn": batch_norm,
    "mli.adam": adam,
    "mli.lr": learning_rate,
    "mli.table1": _published_table(("mnist", "fashion_mnist"), MONOTONE),
    "mli.table2": _published_table(("cifar10",), 0.0),
    "mli.table3": _published_table(("cifar10",), 0.0),
    "mli.frankle_plateau": _resnet("plateau_loss"),
    "mli.frankle_roughly": _resnet("delta", "loss_start"),
    "mli.gauss_smooth_delta": _gauss("gauss", "delta"),
    "mli.gauss_polygon_delta": _gauss("turning", "delta"),
    "mli.gauss_smooth_distance": _gauss("gauss", "distance"),
    "mli.gauss_polygon_distance": _gauss("turning", "distance"),
    "mli.any_init": _against_own("fresh", "delta"),
    "mli.zero_init": _against_own("zero", "delta_error"),
    "mli.noise_init": _against_own("noise", "delta_error"),
    "mli.fresh_init": _against_own("fresh", "delta_error"),
    "mli.zero_init_exact": zero_init_exact,
    "mli.plateau_bias": plateau_bias,
    "mli.plateau_depth": plateau_depth,
    "mli.plateau_toy": plateau_toy,
    "mli.not_hardness_delta": _not_hardness("delta"),
    "mli.not_hardness_plateau": _not_hardness("plateau_error"),
    "mli.layers": layers,
    "mli.flip_delta2021": _flips("delta_2021"),
    "mli.flip_bn_ema": _flips("delta_ema"),
    "mli.flip_gl_smooth": flip_gauss,
    "mli.flip_threshold": flip_threshold,
    "mli.grid_check": grid_check,
    "mli.noise_floor": noise_floor,
    "mli.placebo": placebo,
    "mli.permuted_end": permuted_end,
}
