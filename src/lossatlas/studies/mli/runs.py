"""One row a run: the curves on the line from the initialisation to the trained network, and what they show."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lossatlas import curves
from lossatlas.data import DataSet
from lossatlas.interpolation import refined, sweep
from lossatlas.minibatches import minibatch_rows
from lossatlas.problems.network import NetworkProblem, ema_moments
from lossatlas.studies import baselines
from lossatlas.studies.settings import RESIDUAL, Baseline
from lossatlas.thresholds import RIGHT_ANGLE
from lossatlas.velocities import velocities

SMOOTH_ROWS = 32  # examples of each run whose smooth Gauss length is integrated
PATH_BYTES = 256 * 2**20  # logit paths of the runs whose angles are found together; autoencoders have long logits
FLOAT64_ROWS = 256  # examples of the comparison with float64


def measure(
    baseline: Baseline, training: Mapping[str, Any], data_set: DataSet, mli: Mapping[str, Any], device: str
) -> tuple[dict[str, list], dict[str, Tensor]]:
    """The table of an ensemble's runs (columns), and its curves (k, A) by name.

    training: arrays `initial`, `final` (k, P), `losses` (k, epochs), `diverged_at` (k,). A line to a network that did
    not train is evidence for nothing, so only its ends are evaluated and the rest is NaN.
    """
    problems = baselines.problems(baseline, data_set, device)
    start, end = (torch.as_tensor(training[name]).to(device) for name in ("initial", "final"))
    ends = sweep(problems.train, start, end, 2).loss
    trained, followed = trained_runs(ends, baseline, mli)
    columns, found = _follow(baseline, problems, start[followed], end[followed], followed.tolist(), mli)
    table = _identity(baseline) | _training_columns(training)
    table |= {"trained": trained.tolist(), "loss_start": ends[:, 0].tolist(), "loss_end": ends[:, 1].tolist()}
    table["distance"], table["relative_distance"] = (d.tolist() for d in curves.distances(start, end))
    table["start_norm"], table["end_norm"] = (theta.double().norm(dim=-1).tolist() for theta in (start, end))
    spread = {name: _spread(torch.as_tensor(column), followed, len(start)) for name, column in columns.items()}
    found = {name: _spread(curve, followed, len(start)) for name, curve in found.items()}
    alphas = torch.linspace(0, 1, mli["points"], dtype=torch.float64)
    return table | {name: column.tolist() for name, column in spread.items()}, {"alphas": alphas} | found


def trained_runs(ends: Tensor, baseline: Baseline, mli: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Which runs (k,) trained, from their losses (k, 2) at both ends, and the indices of those to follow.

    Those are the trained ones, or where none did the best, so that no table is empty.
    """
    # An autoencoder has learned something once it halves the squared error of its start.
    limit = ends[:, 0] / 2 if baseline.autoencoder else mli["trained_loss"][baseline.data]
    last = ends[:, 1].nan_to_num(nan=torch.inf)
    trained = last < limit
    return trained, (trained | (last == last.min())).nonzero().flatten()


def _spread(values: Tensor, followed: Tensor, k: int) -> Tensor:
    """Values (f, ...) of the followed runs among those of all (k, ...), NaN elsewhere."""
    everywhere = torch.full((k, *values.shape[1:]), torch.nan, dtype=torch.float64)
    everywhere[followed.cpu()] = values.double().cpu()
    return everywhere


def _follow(
    baseline: Baseline,
    problems: baselines.Problems,
    start: Tensor,
    end: Tensor,
    runs: list[int],
    mli: Mapping[str, Any],
) -> tuple[dict[str, list | Tensor], dict[str, Tensor]]:
    """Columns and curves of the runs with these indices, from the whole lines."""
    fine = sweep(problems.train, start, end, refined(mli["points"]), logits_rows=mli["logit_rows"])
    line = fine.every_second()
    held_out = sweep(problems.test, start, end, mli["points"], moments=line.moments)
    found = {"loss": line.loss, "error": line.error, "test_loss": held_out.loss, "test_error": held_out.error}
    table = _curve_columns(line.loss, line.error)
    table["test_loss"], table["test_error"] = _last(held_out.loss), _last(held_out.error)
    table["test_delta"] = curves.minimum_delta(held_out.loss)
    table["delta_fine"] = curves.minimum_delta(fine.loss)
    table |= _by_runs(_turning_columns, fine.logits.transpose(1, 2))
    table |= _by_runs(lambda paths: {"turning_coarse": curves.turning(paths).mean(-1)}, line.logits.transpose(1, 2))
    table |= _smooth_columns(problems.train, start, end, line.alphas, line.logits)
    members = baseline.members()
    one_a_setting = [i for i, run in enumerate(runs) if members[run][-1] == baseline.seeds[0]]
    table["noise"] = _noise(problems.train, start, end, mli["points"], one_a_setting)
    table["delta_ema"] = [float("nan")] * len(start)
    if problems.train.normalised:
        averaged = sweep(_with_ema(problems.train, baseline), start, end, mli["points"]).loss
        table["delta_ema"] = curves.minimum_delta(averaged)
        found["loss_ema"] = averaged
    return table, found


def _identity(baseline: Baseline) -> dict[str, list]:
    members = baseline.members()
    rates, scales, pushes, seeds = (list(column) for column in zip(*members, strict=True))
    architecture = "autoencoder" if baseline.autoencoder else baseline.architecture
    shared = {
        "data": baseline.folder or baseline.data,
        "architecture": f"{architecture}-{'-'.join(map(str, baseline.hidden))}-{baseline.activation}",
        "depth": baseline.hidden[0] if baseline.architecture in RESIDUAL else len(baseline.hidden),
        "optimizer": baseline.optimizer,
        "batch_norm": baseline.batch_norm,
        "autoencoder": baseline.autoencoder,
    }
    columns = {name: [value] * len(members) for name, value in shared.items()}
    return columns | {"learning_rate": rates, "initial_scale": scales, "push": pushes, "seed": seeds}


def _training_columns(training: Mapping[str, Any]) -> dict[str, list]:
    return {
        "diverged_at": training["diverged_at"].tolist(),
        "last_epoch_loss": training["losses"][:, -1].tolist(),
    }


def _curve_columns(loss: Tensor, error: Tensor) -> dict[str, Tensor]:
    return {
        "error_end": _last(error),
        # where logits leave the range of floats the loss is NaN: a rise without bound
        "delta": curves.minimum_delta(loss).nan_to_num(nan=torch.inf),
        "delta_2021": curves.minimum_delta_2021(loss),
        "delta_error": curves.minimum_delta(error),
        "bump_width": curves.bump_width(loss),
        "greatest_step": curves.greatest_step(loss),
        "convex_share": curves.convex_share(loss),
        "below_chord_share": curves.below_chord_share(loss),
        "plateau_loss": curves.plateau_length(loss),
        "plateau_error": curves.plateau_length(error),
    }


def _by_runs(columns: Callable[[Tensor], dict[str, Tensor]], paths: Tensor) -> dict[str, Tensor]:
    """Columns of logit paths (k, r, A, C), found for as many runs at once as have room in float64."""
    size = max(1, PATH_BYTES // (8 * paths[0].numel()))
    parts = [columns(part) for part in paths.split(size)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _turning_columns(paths: Tensor) -> dict[str, Tensor]:
    """Of logit paths (k, r, A, C) on the refined grid: each example by itself, and all stacked into one path."""
    diameter = curves.indicatrix_diameter(paths)
    to_end = curves.distance_to_end(paths)
    # Squared distances are sums of float32 logits, so a rise below their rounding error is none.
    rises = curves.minimum_delta(to_end) > 1e-5 * to_end.amax(-1)
    turned = curves.turning(paths)
    stacked = paths.transpose(1, 2).flatten(2)
    certified = curves.certified(paths)
    return {
        "turning": turned.mean(-1),
        "turning_certified": (turned < RIGHT_ANGLE).double().mean(-1),
        "diameter": diameter.mean(-1),
        "certified": certified.sum(-1),
        "certified_share": certified.double().mean(-1),
        "certified_rises": (certified & rises).sum(-1),
        "stacked_turning": curves.turning(stacked),
        "stacked_diameter": curves.indicatrix_diameter(stacked),
        "stacked_certified": curves.certified(stacked),
        "logit_linearity": torch.stack([curves.logit_linearity(path.double()) for path in paths]),
    }


def _smooth_columns(problem: NetworkProblem, start, end, alphas, logits) -> dict[str, list | Tensor]:
    """The published Gauss length of the first examples, and how many of them it certifies against the polygon.

    Only without BatchNorm, whose statistics of all rows would have to be differentiated twice along the line.
    """
    if problem.normalised:
        nan = [float("nan")] * len(start)
        return {"gauss": nan, "gauss_certified": nan, "gauss_paths": nan, "gauss_flips": nan}
    few = problem.on(torch.arange(min(SMOOTH_ROWS, logits.shape[2]), device=start.device))
    polygon = curves.turning(logits.transpose(1, 2)[:, : few.rows])
    lengths = torch.stack(
        [curves.gauss_length(*velocities(few, a, b, alphas))[0] for a, b in zip(start, end, strict=True)]
    )
    flips = (lengths < RIGHT_ANGLE) != (polygon < RIGHT_ANGLE)
    return {
        "gauss": lengths.mean(-1),
        "gauss_certified": (lengths < RIGHT_ANGLE).double().mean(-1),
        "gauss_paths": [few.rows] * len(start),
        "gauss_flips": flips.sum(-1),
    }


def _noise(problem: NetworkProblem, start: Tensor, end: Tensor, points: int, taken: list[int]) -> Tensor:
    """2 max |L - L64| on some rows, a bound on the rounding error of delta; NaN for the runs that are not taken."""
    bounds = torch.full((len(start),), torch.nan, dtype=torch.float64)
    if not taken:
        return bounds
    few = problem.on(torch.arange(min(FLOAT64_ROWS, problem.rows), device=start.device))
    ends = start[taken], end[taken]
    single = sweep(few, *ends, points).loss
    double = sweep(few.to(dtype=torch.float64), *(e.double() for e in ends), points).loss
    bounds[taken] = 2 * (single - double).abs().amax(-1).cpu()
    return bounds


def _with_ema(problem: NetworkProblem, baseline: Baseline) -> NetworkProblem:
    rows = list(minibatch_rows(problem.rows, baseline.batch_size, [0], epoch=0))
    return replace(problem, moments=ema_moments(problem, rows))


def _last(curve: Tensor) -> Tensor:
    return curve[:, -1]
