"""The ledger of claims, what the studies measured, and the verdict on each: `claims/*.yaml` -> `claims.csv`.

A ledger file holds one source (its citation; the file's name is its key) and that source's claims. A row of the
table is a dict from `COLUMNS` to text, the same in memory and in the file; an empty cell is a missing value.
"""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from math import inf, isnan, nan
from os import PathLike
from pathlib import Path
from typing import Any

import yaml

from lossatlas import yaml_file
from lossatlas.atomic import atomic
from lossatlas.errors import LossAtlasError
from lossatlas.statistics import Interval
from lossatlas.verdicts import JUDGED, Rule, Verdict, judge

# fmt: off
COLUMNS = (
    "id", "study", "source", "place", "statement", "published", "measured", "low", "high", "unit", "n",
    "tolerance", "verdict", "tier", "artifact",
)
# fmt: on
TIERS = ("smoke", "default", "paper")
PROVENANCE = {
    "T": "published text seen",
    "C": "authors' code or its stored output",
    "F": "read off a figure",
    "I": "public issue thread",
    "N": "second-hand summary",
    "R": "recomputed from the authors' published raw results",
    "D": "derived here",
    "M": "measured here",
}


@dataclass(frozen=True)
class Source:
    """A citation. `year` is None for what is not published, `code` for a source without public code."""

    key: str
    authors: str
    title: str
    year: int | None
    venue: str
    url: str
    code: str | None


@dataclass(frozen=True)
class Claim:
    """One checkable statement. `source` is the key of its file, `place` where the statement stands in it.

    `aggregate` says exactly what is measured and which interval it has. `published` is the source's number in
    `unit`, None if it gives none or nobody has seen it. `tolerance` is what `compare` allows between two runs of
    one tier (the margin of the verdict is the rule's). At tiers outside `tiers` a value is `not comparable`, for
    the reason of that name.
    """

    id: str
    study: str
    source: str
    place: str
    provenance: str
    statement: str
    aggregate: str
    published: float | None
    unit: str
    rule: Rule
    tolerance: float
    tolerance_reason: str
    tiers: tuple[str, ...]
    not_comparable: str = "the statement is about another scale or other data than this tier's"


@dataclass(frozen=True)
class Ledger:
    """All sources by key, and all claims in the order of the table: study, year, source, place in the file."""

    sources: dict[str, Source]
    claims: tuple[Claim, ...]


def load_ledger(folder: str | PathLike) -> Ledger:
    """Read and validate every YAML file of `folder`. Raises `LossAtlasError` that names file, claim and key."""
    sources, claims, seen = {}, [], {}
    paths = sorted(Path(folder).glob("*.yaml"))
    if not paths:
        raise LossAtlasError(f"{folder} holds no ledger (*.yaml): give the project's folder `claims`")
    for path in paths:
        source, entries = _read_file(path)
        sources[source.key] = source
        for claim in entries:
            if claim.id in seen:
                raise LossAtlasError(f"claim {claim.id} is in {seen[claim.id]} and again in {path}: rename one")
            seen[claim.id] = path
            claims.append(claim)
    claims.sort(key=lambda claim: (claim.study, sources[claim.source].year or inf, claim.source))
    return Ledger(sources, tuple(claims))


def measurement_rows(measured: Mapping[str, Interval], ledger: Ledger, artifact: str) -> list[dict[str, Any]]:
    """What a study found, {claim id: interval}, as the rows of its `measurements.csv`; units are the ledger's."""
    units = {claim.id: claim.unit for claim in ledger.claims}
    return [
        {
            "id": name,
            "measured": float(found.value),
            "low": float(found.low),
            "high": float(found.high),
            "n": int(found.n),
            "unit": units.get(name, ""),
            "artifact": artifact,
        }
        for name, found in sorted(measured.items())
    ]


def judge_claims(ledger: Ledger, measurements: Iterable[Mapping[str, Any]], tier: str) -> list[dict[str, str]]:
    """One row for every claim, in ledger order: the measurement of that id, if any, and its verdict at `tier`.

    `measurements` are the rows of all studies, with the keys `id, measured, low, high, n, unit, artifact`;
    missing values are None, NaN or empty. Raises `LossAtlasError` for an id that is not in the ledger or comes
    twice, a unit other than the claim's, or limits in the wrong order.
    """
    if tier not in TIERS:
        raise LossAtlasError(f"{tier!r} is no tier: take one of {', '.join(TIERS)}")
    units = {claim.id: claim.unit for claim in ledger.claims}
    found: dict[str, Mapping[str, Any]] = {}
    for row in measurements:
        name = row["id"]
        if name not in units:
            raise LossAtlasError(f"measured {name} is not in the ledger: did you mean {_nearest(name, units)}?")
        if name in found:
            raise LossAtlasError(f"{name} was measured twice, in {found[name]['artifact']} and {row['artifact']}")
        if (row["unit"] or units[name]) != units[name]:
            raise LossAtlasError(f"{name} was measured in {row['unit']!r}, its claim is in {units[name]!r}")
        if _number(row["low"]) > _number(row["high"]):
            raise LossAtlasError(f"{name} has a lower limit {row['low']} above its upper limit {row['high']}")
        found[name] = row
    return [_row(claim, found.get(claim.id, {}), tier) for claim in ledger.claims]


def to_csv(rows: Iterable[Mapping[str, str]]) -> str:
    """The table as CSV; equal rows give equal bytes."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_csv(rows: Iterable[Mapping[str, str]], path: str | PathLike) -> None:
    """Write `to_csv(rows)` to `path`, whole or not at all."""
    with atomic(path) as handle:
        handle.write(to_csv(rows).encode())


def read_csv(path: str | PathLike) -> list[dict[str, str]]:
    """The rows of a `claims.csv`. Raises `LossAtlasError` if it is missing or has other columns."""
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            columns, rows = tuple(reader.fieldnames or ()), list(reader)
    except FileNotFoundError:
        raise LossAtlasError(f"{path} does not exist: run the tier that makes it, or accept a run first") from None
    if columns != COLUMNS or any(None in row or None in row.values() for row in rows):
        raise LossAtlasError(f"{path} is no claims table: its columns must be {','.join(COLUMNS)} in every row")
    return rows


def compare(current: Iterable[Mapping[str, str]], reference: Iterable[Mapping[str, str]]) -> list[str]:
    """What got lost since `reference`: one readable line for each of its judged rows that differs.

    A row differs when its measured value moved by more than the current tolerance, when it was `reproduced` and
    is so no longer, or when it is gone. Raises `LossAtlasError` if the tables are of different tiers.
    """
    current, reference = list(current), list(reference)
    tiers = {row["tier"] for row in (*current, *reference)}
    if len(tiers) > 1:
        raise LossAtlasError(f"tables of different tiers cannot be compared: {', '.join(sorted(tiers))}")
    now = {row["id"]: row for row in current}
    lines = []
    for old in reference:
        if old["verdict"] not in JUDGED:
            continue
        name, new = old["id"], now.get(old["id"])
        if new is None:
            lines.append(f"{name}: was {old['verdict']} ({old['measured']} {old['unit']}), the row is gone")
            continue
        problems = []
        if old["verdict"] == Verdict.REPRODUCED and new["verdict"] != Verdict.REPRODUCED:
            problems.append(f"was reproduced, is {new['verdict']}")
        moved, tolerance = abs(_number(new["measured"]) - _number(old["measured"])), _number(new["tolerance"])
        # the factor lets a difference that equals the tolerance in decimal digits pass in binary
        if not moved <= tolerance * (1 + 1e-9):
            problems.append(
                f"measured {old['measured']} {old['unit']} in the reference, {new['measured'] or 'nothing'} now "
                f"(tolerance {new['tolerance']})"
            )
        if problems:
            lines.append(f"{name}: {'; '.join(problems)}")
    return lines


def _row(claim: Claim, measurement: Mapping[str, Any], tier: str) -> dict[str, str]:
    value, low, high, n = (_number(measurement.get(key)) for key in ("measured", "low", "high", "n"))
    verdict = judge(Interval(value, low, high, 0 if isnan(n) else int(n)), claim.rule)
    if verdict != Verdict.NOT_RUN and tier not in claim.tiers:
        verdict = Verdict.NOT_COMPARABLE
    return {
        "id": claim.id,
        "study": claim.study,
        "source": claim.source,
        "place": claim.place,
        "statement": claim.statement,
        "published": _text(_number(claim.published)),
        "measured": _text(value),
        "low": _text(low),
        "high": _text(high),
        "unit": claim.unit,
        "n": "" if isnan(n) else str(int(n)),
        "tolerance": _text(claim.tolerance),
        "verdict": str(verdict),
        "tier": tier,
        "artifact": measurement.get("artifact") or "",
    }


def _number(cell: Any) -> float:
    try:
        return nan if cell is None or cell == "" else float(cell)
    except (TypeError, ValueError):
        raise LossAtlasError(f"{cell!r} stands where the claims need a number or an empty cell") from None


def _text(number: float) -> str:
    """Six significant digits, without a negative zero: rounding noise of the last bits must not show."""
    return "" if isnan(number) else f"{number + 0.0:.6g}"


def _read_file(path: Path) -> tuple[Source, list[Claim]]:
    try:
        content = yaml_file.read(path)
    except yaml.YAMLError as error:
        raise LossAtlasError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    _check_keys(content, ("source", "claims"), (), str(path))
    header = content["source"]
    names = tuple(field.name for field in fields(Source) if field.name != "key")
    _check_keys(header, names, (), f"source of {path}")
    where = f"source of {path}"
    _check(isinstance(header["year"], int | None), where, "year", "a whole number or null")
    for name in ("authors", "title", "venue", "url"):
        _check(_is_text(header[name]), where, name, "a text that is not empty")
    _check(isinstance(content["claims"], list), str(path), "claims", "a list")
    return Source(path.stem, **header), [_claim(entry, path) for entry in content["claims"]]


def _claim(entry: Any, path: Path) -> Claim:
    where = f"claim {entry['id']} of {path}" if isinstance(entry, dict) and "id" in entry else f"a claim of {path}"
    optional = tuple(field.name for field in fields(Claim) if field.default is not MISSING)
    required = tuple(f.name for f in fields(Claim) if f.name not in (*optional, "source"))
    _check_keys(entry, required, optional, where)
    texts = ("id", "study", "statement", "aggregate", "unit", "tolerance_reason", *optional)
    for name in texts:
        _check(name not in entry or _is_text(entry[name]), where, name, "a text that is not empty")
    _check(entry["provenance"] in tuple(PROVENANCE), where, "provenance", f"one of {', '.join(PROVENANCE)}")
    place = entry["place"]
    _check(_is_text(place) or (place == "" and entry["provenance"] in "DM"), where, "place", "a place in the source")
    _check(entry["published"] is None or _is_number(entry["published"]), where, "published", "a number or null")
    _check(_is_number(entry["tolerance"]) and entry["tolerance"] >= 0, where, "tolerance", "a number ≥ 0")
    tiers = entry["tiers"]
    _check(
        isinstance(tiers, list) and all(tier in TIERS for tier in tiers),
        where,
        "tiers",
        f"a list out of {', '.join(TIERS)}",
    )
    rule = _rule(entry["rule"], f"rule of {where}")
    return Claim(**{**entry, "source": path.stem, "rule": rule, "tiers": tuple(tiers)})


def _rule(entry: Any, where: str) -> Rule:
    kind = entry.get("kind") if isinstance(entry, dict) else None
    needed = {
        "equals": ("value", "margin"),
        "above": ("value",),
        "below": ("value",),
        "within": ("margin",),
        "exact": ("value", "margin"),
    }.get(kind, ())
    _check_keys(entry, ("kind", *needed), tuple(field.name for field in fields(Rule)), where)
    for name, value in entry.items():
        _check(name == "kind" or _is_number(value), where, name, "a number")
    try:
        return Rule(**entry)
    except LossAtlasError as error:
        raise LossAtlasError(f"{where}: {error}") from None


def _check_keys(entry: Any, required: tuple[str, ...], optional: tuple[str, ...], where: str) -> None:
    if not isinstance(entry, dict):
        raise LossAtlasError(f"{where} must be a mapping with the keys {', '.join(required)}")
    for key in entry:
        if key not in (*required, *optional):
            raise LossAtlasError(f"{where}: unknown key {key}, did you mean {_nearest(key, required + optional)}?")
    for key in required:
        if key not in entry:
            raise LossAtlasError(f"{where}: the key {key} is missing")


def _check(good: bool, where: str, key: str, wanted: str) -> None:
    if not good:
        hint = " (YAML reads 1e-3 as text: write 0.001)" if "number" in wanted else ""
        raise LossAtlasError(f"{where}: {key} must be {wanted}{hint}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -inf < value < inf


def _nearest(word: Any, valid: Iterable[str]) -> str:
    return get_close_matches(str(word), list(valid), n=1, cutoff=0.0)[0]
