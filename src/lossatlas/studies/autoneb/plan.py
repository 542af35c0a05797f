"""Which minima the study trains and which bands each job runs, from its section of the config."""

from collections.abc import Mapping
from typing import Any

from lossatlas.errors import LossAtlasError
from lossatlas.studies.settings import Baseline

NEIGHBOURS = ("penalised", "dropped", "ensembles")  # parts that train a network's architecture anew in their own way
FAMILIES = ("budget", "placebos", "released", "norm", "published")  # of arms; each is a job


def ensembles(autoneb: Mapping[str, Any]) -> dict[str, Baseline]:
    """{name: baseline} of everything the study trains; the names are those of the result files.

    Raises `LossAtlasError` for networks or numbers of minima that the study cannot use.
    """
    networks = autoneb["networks"]
    names = [network["name"] for network in networks]
    if len(set(names)) < len(names):
        raise LossAtlasError(f"autoneb.networks: {', '.join(names)} must have different names")
    for network in networks:
        if network["minima"] < 2 * network["bands"]:
            raise LossAtlasError(
                f"autoneb.networks: {network['name']} joins {network['bands']} disjoint pairs, which needs "
                f"{2 * network['bands']} minima, not {network['minima']}"
            )
    tree, comparison = autoneb["tree"], autoneb["comparison"]
    _needs(autoneb, "tree", tree["groups"] * tree["minima"])
    _needs(autoneb, "comparison", 1 + max(judged_pairs(comparison)[-1]))
    _needs(autoneb, "stability", 1)
    _needs(autoneb, "controls", max(2 * autoneb["controls"]["networks"], 1))
    for part in NEIGHBOURS:
        _needs(autoneb, part, 0)
    _needs_halves(autoneb)
    if comparison["norm_network"]:
        _needs(autoneb, "comparison", 2 * comparison["pairs"], "norm_network")
    return {ensemble(network["name"]): _baseline(network) for network in networks}


def ensemble(network: str) -> str:
    """The name of a network's result files."""
    return f"autoneb-{network}"


def labels(autoneb: Mapping[str, Any]) -> dict[str, str]:
    """{ensemble: how a figure names it}, in the order of the config."""
    found = {}
    for network in autoneb["networks"]:
        norm = ", BatchNorm" if network["batch_norm"] and network["architecture"] != "resnet" else ""
        shape = "-".join(map(str, network["hidden"]))
        kind = {"mlp": "", "cnn": "CNN ", "resnet": "ResNet "}[network["architecture"]]
        found[ensemble(network["name"])] = f"{network['data']} {kind}{shape}{norm}"
    return found


def bands(autoneb: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{ensemble: how its bands are run and reported} of every network."""
    own = ("bands", "band_batch", "band_steps", "gap_points")
    shared = {key: autoneb[key] for key in ("schedule", "look_gaps", "band_decay")}
    return {
        ensemble(network["name"]): {key: network[key] for key in own}
        | shared
        | {"matched_loss": _matched_loss(autoneb, network)}
        for network in autoneb["networks"]
    }


def _matched_loss(autoneb: Mapping[str, Any], network: Mapping[str, Any]) -> float | None:
    """The loss at which minima are stopped for a second look, of the networks that form the trends."""
    plain = network["architecture"] == "mlp" and not network["batch_norm"]
    return autoneb["matched_loss"].get(network["data"]) if autoneb["matched_bands"] and plain else None


def _needs(autoneb: Mapping[str, Any], part: str, minima: int, key: str = "network") -> None:
    """Raises `LossAtlasError` unless the network that a part of the study names exists and has so many minima."""
    name = autoneb[part][key]
    found = {network["name"]: network["minima"] for network in autoneb["networks"]}
    if name not in found:
        raise LossAtlasError(f"autoneb.{part}.{key}: {name} is none of the networks, {', '.join(found)}")
    if found[name] < minima:
        raise LossAtlasError(f"autoneb.{part} needs {minima} minima of {name}, which has {found[name]}")


def _needs_halves(autoneb: Mapping[str, Any]) -> None:
    """Raises `LossAtlasError` unless the network whose units are dropped is a plain perceptron of even widths."""
    name = autoneb["dropped"]["network"]
    network = next(network for network in autoneb["networks"] if network["name"] == name)
    if network["architecture"] != "mlp" or network["batch_norm"] or any(width % 2 for width in network["hidden"]):
        raise LossAtlasError(
            f"autoneb.dropped.network: {name} must be a perceptron (mlp) without BatchNorm, its layers of even width"
        )


def _baseline(network: Mapping[str, Any]) -> Baseline:
    return Baseline(
        data=network["data"],
        hidden=tuple(network["hidden"]),
        architecture=network["architecture"],
        batch_norm=network["batch_norm"],
        epochs=network["epochs"],
        batch_size=network["batch_size"],
        schedule="milestones" if network["milestones"] else "constant",
        milestones=tuple(network["milestones"]),
        weight_decay=network["weight_decay"],
        learning_rates=(network["learning_rate"],),
        seeds=tuple(range(network["minima"])),
    )


def families(autoneb: Mapping[str, Any]) -> dict[str, str]:
    """{family of arms: its ensemble}; `norm` is the released code on a network with BatchNorm."""
    comparison = autoneb["comparison"]
    found = {family: ensemble(comparison["network"]) for family in FAMILIES if family != "norm"}
    return found | ({"norm": ensemble(comparison["norm_network"])} if comparison["norm_network"] else {})


def neighbours(autoneb: Mapping[str, Any]) -> dict[str, str]:
    """{part of the study that trains a network anew: the ensemble of that network}."""
    return {part: ensemble(autoneb[part]["network"]) for part in NEIGHBOURS}


def disjoint_pairs(count: int, first: int = 0) -> list[tuple[int, int]]:
    """`count` pairs of minima that share none: (first, first + 1), (first + 2, first + 3), ..."""
    return [(first + 2 * i, first + 2 * i + 1) for i in range(count)]


def tuning_pairs(comparison: Mapping[str, Any]) -> list[tuple[int, int]]:
    """The pairs that rates are tuned on: those after the ones that are compared."""
    return disjoint_pairs(comparison["tuning_pairs"], 2 * comparison["pairs"])


def judged_pairs(comparison: Mapping[str, Any]) -> list[tuple[int, int]]:
    """The pairs of the published schedule and ours, which no rate and no number of steps was chosen on: the next."""
    return disjoint_pairs(comparison["published_pairs"], 2 * (comparison["pairs"] + comparison["tuning_pairs"]))


def groups(tree: Mapping[str, Any]) -> list[list[int]]:
    """The minima of each group of the tree; groups share none."""
    return [list(range(g * tree["minima"], (g + 1) * tree["minima"])) for g in range(tree["groups"])]


def parts(tree: Mapping[str, Any]) -> list[tuple[int, int]]:
    """(round, part) of every job of the tree; round 0 is the star."""
    return [(r, part) for r in range(tree["rounds"] + 1) for part in range(tree["parts"])]


def former_parts(tree: Mapping[str, Any], round_number: int) -> list[tuple[int, int]]:
    """What a round reads: every part of every round before it."""
    return [(r, part) for r, part in parts(tree) if r < round_number]
