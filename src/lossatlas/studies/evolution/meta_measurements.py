"""The claims about unrolled problems and the MNIST-1D table: {claim id: function of the tables}.

The unit is the seed of a run, the inner initialisation of a surface, or the independent estimate of a gradient.
Intervals are Student's, 95 %, except where a bootstrap is named.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import pandas as pd

from lossatlas import statistics
from lossatlas.seeds import seed
from lossatlas.smoothing import influence_optimum
from lossatlas.statistics import Interval
from lossatlas.studies.evolution import meta_published as published

Tables = Mapping[str, pd.DataFrame]
Measure = Callable[[Tables], Interval | None]
ES_KINDS = ("ES", "ES, large sigma", "ES, small sigma", "ES, annealed", "truncated ES", "PES", "ES-Single")


# --- runs of the estimators -------------------------------------------------------------------------------------------


def _runs(tables: Tables, benchmark: str) -> pd.DataFrame | None:
    """The reported rows of a benchmark, published settings excluded."""
    name = "meta_networks" if benchmark in ("learning_rate", "rough", "activation") else "meta_toys"
    if name not in tables:
        return None
    rows = tables[name]
    return rows[(rows["benchmark"] == benchmark) & ~rows["tuning"] & ~rows["arm"].str.startswith("published")]


def _last(rows: pd.DataFrame) -> pd.DataFrame:
    """The last row of each arm and seed."""
    return rows.sort_values("inner_steps").groupby(["arm", "seed"]).tail(1)


def _final(rows: pd.DataFrame, arm: str) -> pd.Series:
    """Final losses by seed; one that is not finite is infinite."""
    mine = _last(rows[rows["arm"] == arm])
    return mine.set_index("seed")["loss"].fillna(np.inf).sort_index()


def _paired(a: pd.Series, b: pd.Series) -> Interval:
    """Mean of a - b over seeds; without limits, of the finite ones, where a run ended without a finite loss."""
    difference = (a - b).to_numpy()
    finite = difference[np.isfinite(difference)]
    if len(finite) == len(difference):
        return statistics.t_interval(difference)
    return Interval(float(finite.mean()) if len(finite) else 0.0, np.nan, np.nan, len(difference))


def annealing(tables: Tables) -> Interval | None:
    """Final loss of the better fixed sigma minus that of the annealed one, paired by seed."""
    if (rows := _runs(tables, "rough")) is None:
        return None
    fixed = [_final(rows, arm) for arm in ("ES, large sigma", "ES, small sigma")]
    return _paired(min(fixed, key=lambda loss: loss.median()), _final(rows, "ES, annealed"))


def _medians(tables: Tables) -> dict[str, pd.Series]:
    """Median final loss by arm, for each benchmark."""
    found = {}
    for benchmark in ("learning_rate", "toy", "rough", "influence", "activation", "lorenz"):
        rows = _runs(tables, benchmark)
        if rows is not None and len(rows):
            found[benchmark] = (
                _last(rows).assign(loss=lambda t: t["loss"].fillna(np.inf)).groupby("arm")["loss"].median()
            )
    return found


def es_wins(tables: Tables) -> Interval | None:
    """Share of the six benchmarks on which some ES kind ends below every arm that backpropagates alone."""
    found = _medians(tables)
    if len(found) < 6:
        return None
    wins = 0
    for medians in found.values():
        es = medians[medians.index.isin(ES_KINDS)].min()
        wins += es < medians[medians.index.str.contains("backprop")].min()
    return statistics.exact(wins / len(found), len(found))


def placebo_wins(tables: Tables) -> Interval | None:
    """Benchmarks on which random search ends below every estimator."""
    found = {name: medians for name, medians in _medians(tables).items() if "random search" in medians}
    if not found:
        return None
    wins = sum(medians["random search"] <= medians.drop("random search").min() for medians in found.values())
    return statistics.exact(wins, len(found))


def lost(tables: Tables) -> Interval | None:
    """Share of reported runs that diverged or ended at a loss that is not finite."""
    names = [name for name in ("meta_toys", "meta_networks") if name in tables]
    if not names:
        return None
    rows = pd.concat([tables[name] for name in names])
    last = rows[~rows["tuning"]].sort_values("inner_steps").groupby(["benchmark", "arm", "seed"]).tail(1)
    bad = (last["diverged_at"] >= 0) | last["loss"].isna()
    return statistics.wilson(int(bad.sum()), len(bad))


def _influence(arm: str, value: Callable[[pd.Series], pd.Series]) -> Measure:
    def measure(tables: Tables) -> Interval | None:
        if (rows := _runs(tables, "influence")) is None:
            return None
        last = _last(rows[rows["arm"] == arm]).set_index("seed")["theta_0"]
        return statistics.t_interval(value(last))

    return measure


def activation_es(tables: Tables) -> Interval | None:
    """Final outer loss of ES without noise minus that of clipped backpropagation with noise, paired by seed."""
    if (rows := _runs(tables, "activation")) is None:
        return None
    return _paired(_final(rows, "ES"), _final(rows, "backprop, clipped, noise"))


# --- published runs ---------------------------------------------------------------------------------------------------


def _toy_deviation(kind: str) -> Measure:
    """Greatest relative deviation of the median over seeds from the printed series, generations 3500 to 4500."""

    def measure(tables: Tables) -> Interval | None:
        if "meta_toys" not in tables:
            return None
        rows = tables["meta_toys"]
        rows = rows[rows["arm"] == f"published {kind}"]
        medians = rows.groupby("updates")["loss"].median()
        pairs = [
            (medians[generation + 1], printed)
            for generation, printed in zip(published.TOY_GENERATIONS, published.TOY[kind], strict=True)
            if generation >= 3500 and generation + 1 in medians
        ]
        if not pairs:
            return None
        return statistics.exact(max(abs(ours / printed - 1) for ours, printed in pairs), rows["seed"].nunique())

    return measure


def _toy_level(kind: str) -> Measure:
    """Loss after the last printed generation, mean over seeds."""

    def measure(tables: Tables) -> Interval | None:
        if "meta_toys" not in tables:
            return None
        rows = tables["meta_toys"]
        rows = rows[(rows["arm"] == f"published {kind}") & (rows["updates"] == published.TOY_GENERATIONS[-1] + 1)]
        return None if rows.empty else statistics.t_interval(rows["loss"])

    return measure


def _notebook(tables: Tables) -> pd.DataFrame | None:
    if "meta_networks" not in tables:
        return None
    rows = tables["meta_networks"]
    return rows[(rows["benchmark"] == "learning_rate") & (rows["arm"] == "published backprop")]


def notebook_rates(tables: Tables) -> Interval | None:
    """Greatest distance between the learning rates of our two runs and the 12 that the notebook printed."""
    rows = _notebook(tables)
    if rows is None or rows["updates"].max() < 49:
        return None
    rates = rows.set_index(["seed", "updates"])["theta_0"]
    distances = [
        abs(rates[start, step + 1] - printed)
        for start, series in published.LEARNING_RATES.items()
        for step, printed in series.items()
    ]
    return statistics.exact(max(distances), len(distances))


def notebook_loss(tables: Tables) -> Interval | None:
    """Mean inner loss at the end of the run that is farther from the printed one."""
    rows = _notebook(tables)
    if rows is None or rows["updates"].max() < 49:
        return None
    losses = rows[rows["updates"] == 49]["loss"]
    return statistics.exact(losses.iloc[(losses - published.LEARNING_RATE_LOSS).abs().argmax()], len(losses))


# --- activations ------------------------------------------------------------------------------------------------------


def _activation(name: str, column: str = "mean_loss") -> Measure:
    def measure(tables: Tables) -> Interval | None:
        if "meta_activations" not in tables:
            return None
        rows = tables["meta_activations"]
        return statistics.t_interval(rows[rows["activation"] == name][column])

    return measure


def activation_order(tables: Tables) -> Interval | None:
    """How many neighbours of the printed order of the six activations stand the other way round in our means."""
    if "meta_activations" not in tables:
        return None
    means = tables["meta_activations"].groupby("activation")["mean_loss"].mean()
    order = sorted(published.ACTIVATIONS, key=published.ACTIVATIONS.get)
    return statistics.exact(sum(means[a] >= means[b] for a, b in pairwise(order)), len(order) - 1)


# --- bias, variance, roughness ----------------------------------------------------------------------------------------


def _estimates(tables: Tables, benchmark: str, kind: str) -> np.ndarray | None:
    """Gradients (repeats, d)."""
    if "meta_checks" not in tables:
        return None
    rows = tables["meta_checks"]
    rows = rows[(rows["benchmark"] == benchmark) & (rows["kind"] == kind)]
    return rows[["value_0", "value_1"]].dropna(axis=1).to_numpy()


def pes_unbiased(tables: Tables) -> Interval | None:
    """Distance of the mean PES estimate from the exact gradient in standard errors."""
    estimates, exact = (_estimates(tables, "influence", kind) for kind in ("pes", "exact"))
    if estimates is None:
        return None
    x = estimates[:, 0]
    return statistics.exact((x.mean() - exact[0, 0]) / (x.std(ddof=1) / len(x) ** 0.5), len(x))


def truncation_biased(tables: Tables) -> Interval | None:
    """Mean truncated-ES estimate over the exact gradient."""
    estimates, exact = (_estimates(tables, "influence", kind) for kind in ("truncated", "exact"))
    return None if estimates is None else statistics.t_interval(estimates[:, 0] / exact[0, 0])


def _variance(benchmark: str) -> Measure:
    """log10 of the trace of the covariance of PES over that of ES-Single, bootstrap over estimates, 90 %."""

    def measure(tables: Tables) -> Interval | None:
        pes, single = (_estimates(tables, benchmark, kind) for kind in ("pes", "single"))
        if pes is None:
            return None
        kinds = np.repeat([0, 1], [len(pes), len(single)])
        return statistics.bootstrap(
            lambda t: np.log10(t["x"][t["kind"] == 0].var(0).sum() / t["x"][t["kind"] == 1].var(0).sum()),
            {"x": np.concatenate([pes, single]), "kind": kinds},
            np.random.default_rng(seed("evolution", "meta", "bootstrap", benchmark)),
            level=0.90,
            strata=kinds.tolist(),
        )

    return measure


def _rougher(column: str, sigma: float = 0.0) -> Measure:
    """Spearman's correlation of a roughness with the number of inner steps, by initialisation (0 if constant)."""

    def measure(tables: Tables) -> Interval | None:
        if "meta_roughness" not in tables:
            return None
        rows = tables["meta_roughness"]
        rows = rows[rows["sigma"] == sigma]
        found = [statistics.spearman(t["unroll"], t[column]) for _, t in rows.groupby("init")]
        return statistics.t_interval(np.nan_to_num(found))

    return measure


def smoothing(tables: Tables) -> Interval | None:
    """log10 of the turns of the raw line over those (plus one) of the line smoothed most, at the longest unroll."""
    if "meta_roughness" not in tables:
        return None
    rows = tables["meta_roughness"]
    rows = rows[rows["unroll"] == rows["unroll"].max()]
    turns = rows.pivot(index="init", columns="sigma", values="turns") + 1
    return statistics.t_interval(np.log10(turns[0.0] / turns[turns.columns.max()]))


def _explosion(lr: float) -> Measure:
    """log10 of the standard deviation of the exact derivative over that of smoothed estimates, longest unroll."""

    def measure(tables: Tables) -> Interval | None:
        if "meta_explosion" not in tables:
            return None
        rows = tables["meta_explosion"]
        rows = rows[(rows["lr"] == lr) & (rows["unroll"] == rows["unroll"].max())]
        return statistics.t_interval(np.log10(rows["exact_sd"] / rows["smooth_sd"]))

    return measure


# --- the MNIST-1D table -----------------------------------------------------------------------------------------------


def _network(tables: Tables, network: str, shuffled: bool, rate: float = 0.01) -> pd.DataFrame | None:
    if "mnist1d_table" not in tables:
        return None
    rows = tables["mnist1d_table"]
    rows = rows[(rows["network"] == network) & (rows["shuffled"] == shuffled) & (rows["data"] == "mnist1d")]
    rows = rows[rows["learning_rate"] == rate]
    return None if rows.empty else rows


def _accuracy(network: str, shuffled: bool, column: str = "test_accuracy") -> Measure:
    def measure(tables: Tables) -> Interval | None:
        rows = _network(tables, network, shuffled)
        return None if rows is None else statistics.t_interval(rows[column])

    return measure


def best_mlp(tables: Tables) -> Interval | None:
    """Test accuracy of the MLP at the learning rate at which its mean is highest."""
    if _network(tables, "residual-mlp", False) is None:
        return None
    rows = tables["mnist1d_table"]
    rows = rows[(rows["network"] == "residual-mlp") & ~rows["shuffled"]]
    return max(
        (statistics.t_interval(cell["test_accuracy"]) for _, cell in rows.groupby("learning_rate")),
        key=lambda found: found.value,
    )


def notebook_not_readme(tables: Tables) -> Interval | None:
    """Mean over the networks with 6000 steps of |accuracy - README| - |accuracy - notebook|, by seed."""
    columns = []
    for network, shuffled in published.README:
        rows = _network(tables, network, shuffled)
        if rows is not None and (rows["steps"] == published.NOTEBOOK_STEPS).all():
            accuracy = rows.set_index("seed")["test_accuracy"]
            readme, notebook = (source[network, shuffled] for source in (published.README, published.NOTEBOOK))
            columns.append((accuracy - readme).abs() - (accuracy - notebook).abs())
    return statistics.t_interval(pd.concat(columns, axis=1).mean(axis=1)) if columns else None


def shuffling_loss(network: str) -> Measure:
    """Test accuracy in order minus shuffled, paired by seed."""

    def measure(tables: Tables) -> Interval | None:
        plain, mixed = (_network(tables, network, shuffled) for shuffled in (False, True))
        if plain is None or mixed is None:
            return None
        return statistics.t_interval(
            plain.set_index("seed")["test_accuracy"] - mixed.set_index("seed")["test_accuracy"]
        )

    return measure


SHORT = {"linear": "logreg", "residual-mlp": "mlp", "conv": "cnn", "gru": "gru"}

MEASURES: dict[str, Measure] = {
    "evolution.rough": _rougher("total_variation"),
    "evolution.rough_turns": _rougher("turns"),
    "evolution.rough_slope": _rougher("median_slope"),
    "evolution.smoothing": smoothing,
    "evolution.anneal": annealing,
    "evolution.purpose": es_wins,
    "evolution.meta_placebo": placebo_wins,
    "evolution.meta_lost": lost,
    "evolution.explode_stable": _explosion(0.05),
    "evolution.explode_unstable": _explosion(3.0),
    "evolution.pes_unbiased": pes_unbiased,
    "evolution.truncation_biased": truncation_biased,
    "evolution.influence_pes": _influence("PES", lambda theta: theta - influence_optimum()),
    "evolution.influence_truncated": _influence("truncated ES", lambda theta: theta - 0.5),
    "evolution.pes_toy": _toy_deviation("PES"),
    "evolution.nres_toy": _toy_deviation("ES-Single"),
    "evolution.pes_toy_level": _toy_level("PES"),
    "evolution.nres_var_toy": _variance("toy"),
    "evolution.nres_var_lorenz": _variance("lorenz"),
    "evolution.m1d_lr": notebook_rates,
    "evolution.m1d_lr_loss": notebook_loss,
    "evolution.m1d_afunc_order": activation_order,
    "evolution.m1d_afunc_window": _activation("relu", "late_loss"),
    "evolution.afunc_es": activation_es,
    "evolution.m1d_mlp_best": best_mlp,
    "evolution.m1d_notebook": notebook_not_readme,
    **{f"evolution.m1d_afunc_{name}": _activation(name) for name in published.ACTIVATIONS},
    **{
        f"evolution.m1d_table_{SHORT[network]}{'_shuffled' if shuffled else ''}": _accuracy(network, shuffled)
        for network, shuffled in published.README
    },
    **{
        f"evolution.m1d_nb_{SHORT[network]}{'_shuffled' if shuffled else ''}": _accuracy(network, shuffled)
        for network, shuffled in published.NOTEBOOK
    },
    **{f"evolution.m1d_nb_{SHORT[n]}_train": _accuracy(n, False, "train_accuracy") for n in SHORT},
    **{f"evolution.m1d_shuffling_{SHORT[n]}": shuffling_loss(n) for n in SHORT},
}
