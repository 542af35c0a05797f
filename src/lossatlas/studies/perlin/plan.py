"""Which tables the study computes, from its section of the config: one job a part."""

from collections.abc import Mapping
from typing import Any

from lossatlas.errors import LossAtlasError

WHITE = (  # dimension, neighbours, distribution of the site values
    (1, "moore", "normal"),
    (2, "moore", "normal"),
    (2, "moore", "uniform"),
    (2, "moore", "exponential"),
    (2, "von_neumann", "normal"),
    (3, "moore", "normal"),
    (3, "von_neumann", "normal"),
)


def counts(perlin: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the tables of common minima."""
    keys = ("white_fields", "white_sites", "coincidence_fields", "coincidence_side", "bowl_fields")
    keys += ("coincidence_space_fields", "coincidence_space_side")
    return {key: perlin[key] for key in keys}


def densities(perlin: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{kind of field: settings} of the density tables. Raises `LossAtlasError` for team sizes without 1."""
    sizes = sorted(perlin["team_sizes"])
    if sizes[0] != 1:
        raise LossAtlasError("perlin.team_sizes must hold 1, since densities are given relative to one layer")
    if any(len(field["samples"]) != 2 or field["samples"][0] >= field["samples"][1] for field in perlin["fields"]):
        raise LossAtlasError("perlin.fields: samples must be two grids, the coarser first, to extrapolate from")
    return {
        field["name"]: {"landscapes": field["landscapes"] or perlin["landscapes"], "team_sizes": sizes}
        | {"side": field["side"], "samples": field["samples"]}
        for field in perlin["fields"]
    }


def smoothness(perlin: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the smoothness table and the gallery."""
    keys = ("cells", "gallery_size", "persistence")
    sizes = sorted(perlin["descent_sizes"])
    return {"landscapes": perlin["smoothness_landscapes"], "team_sizes": sizes, **{key: perlin[key] for key in keys}}


def harmony(perlin: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the teams that share more or less. Raises `LossAtlasError` where their ends or halves are missing."""
    chosen = perlin["harmony"]
    if not {0, 1} <= set(chosen["correlations"]):
        raise LossAtlasError("perlin.harmony.correlations must hold 0 and 1, the ends that others are held against")
    if chosen["landscapes"] < 2:
        raise LossAtlasError("perlin.harmony.landscapes: 2 at least, since steps are tuned on one half of them")
    shared = {key: perlin[key] for key in ("cells", "samples", "starts", "steps", "rates", "chunk")}
    ordered = {key: sorted(chosen[key]) for key in ("team_sizes", "correlations", "offsets")}
    return shared | chosen | ordered


def descents(perlin: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{kind of landscape: settings} of the descents; those in space have sizes of their own, `high` more dimensions.

    Raises `LossAtlasError` where landscapes are too few to choose a step size on one half and judge it on the other.
    """
    if min(perlin["descent_landscapes"], perlin["space"]["landscapes"]) < 2:
        raise LossAtlasError(
            "perlin.descent_landscapes: 2 at least, since steps are tuned on one half and judged on the other; "
            "perlin.space.landscapes as well"
        )
    keys = ("cells", "samples", "starts", "steps", "rates", "control_landscapes", "control_sizes")
    more = ("baseline_landscapes", "baseline_sizes", "baseline_samples", "chunk")
    shared = {key: perlin[key] for key in (*keys, *more)}
    shared |= {"landscapes": perlin["descent_landscapes"], "team_sizes": sorted(perlin["descent_sizes"])}
    space = {**shared, **{key: value for key, value in perlin["space"].items() if key != "kinds"}}
    high = {"dims": perlin["high_dims"], "team_sizes": sorted(perlin["high_sizes"])}
    high |= {"landscapes": perlin["high_landscapes"], "starts": perlin["high_starts"], "steps": perlin["high_steps"]}
    return dict.fromkeys(perlin["kinds"], shared) | dict.fromkeys(perlin["space"]["kinds"], space) | {"high": high}
