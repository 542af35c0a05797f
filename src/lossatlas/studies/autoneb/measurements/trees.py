"""The spanning tree of a group of minima, band by band."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from lossatlas import spanning_tree, statistics
from lossatlas.spanning_tree import Round
from lossatlas.studies.autoneb.measurements.tables import Found, Measure, Tables, generator, network_of, student
from lossatlas.studies.autoneb.tree_tables import lowest

LOCAL = 1.1  # how much higher than a detour a band must lie, since of three different numbers one is the highest
PATIENCE = 2  # bands of the stop rule
RANDOM_ORDERS = 50


def anytime(tables: Tables) -> pd.DataFrame:
    """By group and number of bands: mean and highest saddle of the tree, for suggested pairs and for random ones."""
    rows = []
    for number, (n, saddles, orders) in enumerate(_orders(tables)):
        rows += [{"group": number, "order": "suggested", **row._asdict()} for row in spanning_tree.anytime(n, saddles)]
        drawn = [spanning_tree.anytime(n, {pair: saddles[pair] for pair in order}) for order in orders]
        for step in zip(*drawn, strict=True):
            mean = Round(*(float(np.mean(values)) for values in zip(*step, strict=True)))
            rows.append({"group": number, "order": "random", **mean._asdict(), "bands": step[0].bands})
    return pd.DataFrame([row for row in rows if np.isfinite(row["mean"])])


def _orders(tables: Tables) -> list[tuple[int, dict, list]]:
    """By group: its minima, its saddles as they ran, and orders that draw the pairs after the star at random."""
    found = []
    for number, (n, rows) in enumerate(_groups(tables)):
        saddles = lowest(rows)
        star, rest = list(saddles)[: n - 1], list(saddles)[n - 1 :]
        rng = generator(f"random-order-{number}")
        drawn = [[*star, *(rest[i] for i in rng.permutation(len(rest)))] for _ in range(RANDOM_ORDERS)]
        found.append((n, saddles, drawn))
    return found


def _groups(tables: Tables, starts: Sequence[str] = ("straight", "concatenated")) -> list[tuple[int, list]]:
    """Of each group: how many minima it has, and the rows of its bands."""
    rows = tables.tree[tables.tree["start"].isin(starts)]
    return [(int(cell["minima"].iloc[0]), cell.to_dict("records")) for _, cell in rows.groupby("group")]


def _mean_saddle(n: int, rows: Sequence[Mapping]) -> float:
    """Over the edges of the tree of these bands."""
    return spanning_tree.summary(n, lowest(rows)).mean


def _means(n: int, rows: Sequence[Mapping]) -> list[float]:
    """The same after each band, from the first on that connects all minima."""
    return [row.mean for row in spanning_tree.anytime(n, lowest(rows)) if np.isfinite(row.mean)]


def _tree_of_cifar(column: str) -> Measure:
    def value(tables: Tables) -> Found:
        if network_of(tables, "tree")["data"] != "cifar10":
            return None
        return student(_tree_means(tables)[column])

    return value


def _tree_means(tables: Tables) -> pd.DataFrame:
    """By group: mean training loss of the minima and mean saddle over the edges of the tree."""
    rows = []
    for _, group in tables.tree.groupby("group"):
        minima = pd.concat(
            [
                group[["i", "train_loss_start"]].set_axis(["m", "loss"], axis=1),
                group[["j", "train_loss_end"]].set_axis(["m", "loss"], axis=1),
            ]
        )
        losses = minima.groupby("m")["loss"].first()
        rows.append({"minima": losses.mean(), "saddles": _mean_saddle(len(losses), group.to_dict("records"))})
    return pd.DataFrame(rows)


def d_ratio(tables: Tables) -> Found:
    found = _tree_means(tables)
    return student(found["saddles"] / found["minima"])


def local_meps(tables: Tables) -> Found:
    shares = []
    for n, rows in _groups(tables, ["straight"]):
        saddles = lowest(rows)
        triples = [t for t in combinations(range(n), 3) if all(p in saddles for p in combinations(t, 2))]
        heights = [sorted(saddles[pair] for pair in combinations(triple, 2)) for triple in triples]
        worse = [highest > LOCAL * second for _, second, highest in heights]  # only the highest can exceed both others
        if triples:
            shares.append(np.mean(worse))
    return statistics.clustered_mean(shares, range(len(shares)), (0.0, 1.0)) if shares else None


def ultrametric(tables: Tables) -> Found:
    found = _groups(tables)
    analytic = tables.surfaces[tables.surfaces["quantity"] == "ultrametric_violations"]["value"]
    return statistics.exact(
        sum(spanning_tree.ultrametric_violations(n, lowest(rows)) for n, rows in found) + analytic.sum(), len(found)
    )


def tree_improves(tables: Tables) -> Found:
    falls = []
    for n, rows in _groups(tables):
        star = [row for row in rows if row["round"] == 0]
        falls.append(_mean_saddle(n, star) - _mean_saddle(n, rows))
    return student(falls)


def tree_never_rises(tables: Tables) -> Found:
    rises = 0
    for n, rows in _groups(tables):
        means = _means(n, rows)
        rises += int((np.diff(means) > 0).sum())
    return statistics.exact(rises, len(_groups(tables)))


def concatenated_start(tables: Tables) -> Found:
    later = tables.tree[tables.tree["round"] > 0]
    both = later.pivot_table(index=["group", "order"], columns="start", values="train_loss_saddle").dropna()
    if both.empty:
        return None
    return student((both["straight"] - both["concatenated"]).groupby("group").mean())


def stop_rule(tables: Tables) -> Found:
    gains = []
    for n, rows in _groups(tables):
        means = _means(n, rows)
        if len(means) < 2:
            continue
        stop, idle = len(means) - 1, 0
        for i in range(1, len(means)):
            idle = idle + 1 if means[i] == means[i - 1] else 0
            if idle >= PATIENCE:
                stop = i
                break
        saved = (len(means) - 1 - stop) / (len(means) - 1)
        fall = means[0] - means[-1]
        gains.append(saved - ((means[stop] - means[-1]) / fall if fall > 0 else 0.0))
    return student(gains)


def suggestions_beat_random(tables: Tables) -> Found:
    table = anytime(tables)
    means = table.groupby(["group", "order"])["mean"].mean().unstack("order")
    complete = table.groupby("group")["bands"].nunique() > 2
    return student((means["random"] - means["suggested"])[complete])


MEASURES: Mapping[str, Measure] = {
    "local_meps": local_meps,
    "ultrametric": ultrametric,
    "tree_improves": tree_improves,
    "tree_never_rises": tree_never_rises,
    "concatenated_start": concatenated_start,
    "stop_rule": stop_rule,
    "suggestions_beat_random": suggestions_beat_random,
    "d_minima": _tree_of_cifar("minima"),
    "d_saddles": _tree_of_cifar("saddles"),
    "d_ratio": d_ratio,
}
