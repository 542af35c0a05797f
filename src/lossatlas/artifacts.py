"""Result files that say what they came from: arrays (`.npz`) and tables (`.csv` with a `.csv.meta.json`).

Each carries its parameters, the sha256 of its inputs, the hash of the code that made it, and a seal over all
of that. Readers refuse, by name and with the command that makes it again, a file that is damaged, altered,
foreign or stale. The bytes depend on nothing else: no time, host, absolute path or order of keys.
"""

import csv
import hashlib
import io
import json
import math
import os
import shlex
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lossatlas.atomic import atomic
from lossatlas.errors import LossAtlasError

FORMAT = 1
META = "__meta__"
PathLike = str | os.PathLike


@dataclass(frozen=True, eq=False)
class Artifact(Mapping):
    """Named arrays, or the columns of a table, with `meta`: `parameters`, `inputs`, `code` and the seal."""

    path: str
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.arrays:
            raise KeyError(f"{self.path} holds {', '.join(self.arrays)}, but no {name}")
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def save(
    path: PathLike,
    arrays: Mapping[str, Any],
    *,
    parameters: Mapping[str, Any],
    inputs: Iterable[PathLike] = (),
    code: str,
) -> None:
    """Write named numpy arrays (or what numpy makes arrays of) to `path`, an `.npz` that `np.load` reads too.

    Raises `LossAtlasError` for an array of Python objects, an input that is no file, or a failed write.
    """
    contents = {name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}
    for name, array in contents.items():
        if array.dtype.hasobject:
            raise LossAtlasError(f"array {name} for {path} holds Python objects: give numbers or text")
    meta = _describe(parameters, inputs, code, _digest(contents))
    contents[META] = np.array(_json(meta))
    with atomic(path) as handle, zipfile.ZipFile(handle, "w") as archive:
        for name, array in contents.items():
            # opened by name, a member is dated 1980-01-01 whatever the clock says
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def load(
    path: PathLike,
    *,
    parameters: Mapping[str, Any] | None = None,
    code: str | None = None,
    remedy: str | None = None,
) -> Artifact:
    """Read what `save` wrote; raises `LossAtlasError` unless it is whole, unaltered and up to date.

    `parameters` and `code`, where given, must equal the file's; inputs that still exist must be unchanged.
    `remedy` is the command that makes the file again, where it is not the usual one.
    """
    path = os.fspath(path)
    remedy = remedy or _remedy(path)
    with _refusing_damage(path, remedy), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        # `read` compares the CRC of the whole member before numpy believes its header
        arrays = {
            name: np.lib.format.read_array(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
            for name in names
        }
        meta = json.loads(str(arrays.pop(META))) if META in arrays else None
    _check(path, meta, _digest(arrays), parameters, code, remedy)
    return Artifact(path, arrays, meta)


def save_table(
    path: PathLike,
    table: Sequence[Mapping[str, Any]] | Mapping[str, Iterable],
    *,
    parameters: Mapping[str, Any],
    inputs: Iterable[PathLike] = (),
    code: str,
) -> None:
    """Write a tidy table, given as a list of rows or a dict of columns, to `path` and its sidecar.

    A column holds truth values, integers, floats or texts; None and NaN are missing, an empty cell. Floats
    have the fewest digits that read back to the same bits. Raises `LossAtlasError` for a column that mixes
    kinds, rows with different columns, an input that is no file, or a failed write.
    """
    path = os.fspath(path)
    columns = _columns(path, table)
    kinds = {name: _kind(path, name, values) for name, values in columns.items()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*([_cell(value) for value in values] for values in columns.values()), strict=True))
    content = text.getvalue().encode()
    meta = _describe(parameters, inputs, code, hashlib.sha256(content).hexdigest(), columns=kinds)
    # A kill between the two leaves a pair that `load_table` refuses, never one that it misreads.
    with atomic(path) as handle:
        handle.write(content)
    with atomic(_sidecar(path)) as handle:
        handle.write(f"{_json(meta, indent=1)}\n".encode())


def load_table(
    path: PathLike,
    *,
    parameters: Mapping[str, Any] | None = None,
    code: str | None = None,
    remedy: str | None = None,
) -> Artifact:
    """Read what `save_table` wrote, as columns: bool, int64, float64 (missing: NaN) or texts (missing: "").

    The same refusals as `load`.
    """
    path = os.fspath(path)
    remedy = remedy or _remedy(path)
    with _refusing_damage(path, remedy):
        content = Path(path).read_bytes()
    with _refusing_damage(_sidecar(path), remedy):
        meta = json.loads(Path(_sidecar(path)).read_bytes())
    _check(path, meta, hashlib.sha256(content).hexdigest(), parameters, code, remedy)
    header, *lines = csv.reader(io.StringIO(content.decode(), newline=""))
    cells = zip(*lines, strict=True) if lines else [()] * len(header)
    columns = {
        name: np.array([_PARSE[meta["columns"][name]](cell) for cell in column], _DTYPE[meta["columns"][name]])
        for name, column in zip(header, cells, strict=True)
    }
    return Artifact(path, columns, meta)


def rows(table: Mapping[str, Iterable]) -> list[dict[str, Any]]:
    """The rows of a table given as columns, with Python values."""
    values = (column.tolist() if isinstance(column, np.ndarray) else column for column in table.values())
    return [dict(zip(table, row, strict=True)) for row in zip(*values, strict=True)]


def normalise(value: Any, key: str = "parameters") -> Any:
    """The plain JSON form of a parameter, equal for equal settings: 1 and 1.0, a tuple and a list.

    Raises `LossAtlasError`, with the dotted `key`, for a value that JSON cannot hold.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): normalise(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [normalise(item, key) for item in value]
    raise LossAtlasError(f"{key} is a {type(value).__name__}: give a number, text, list or mapping")


def file_hash(path: PathLike) -> str:
    """The sha256 of a file, in hexadecimal."""
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise LossAtlasError(f"input {path} could not be read: {error.strerror}") from None


_ABSENT = object()
_PARSE = {
    "bool": lambda cell: cell == "true",
    "int": int,
    "float": lambda cell: float(cell or "nan"),
    "str": str,
}
_DTYPE = {"bool": bool, "int": np.int64, "float": np.float64, "str": object}


def _columns(path: str, table: Sequence[Mapping] | Mapping[str, Iterable]) -> dict[str, list]:
    if not isinstance(table, Mapping):
        names = list(table[0]) if table else []
        if any(list(row) != names for row in table):
            raise LossAtlasError(f"the rows for {path} differ in their columns or the order of them")
        table = {name: [row[name] for row in table] for name in names}
    columns = {
        name: [value.item() if isinstance(value, np.generic) else value for value in column]
        for name, column in table.items()
    }
    if len({len(column) for column in columns.values()}) != 1:
        raise LossAtlasError(f"the table for {path} has no columns, or columns of different lengths")
    return columns


def _kind(path: str, name: str, values: list) -> str:
    present = [value for value in values if not _missing(value)]
    types = {type(value) for value in present}
    if types <= {int, float} and (len(present) < len(values) or types != {int}):
        return "float"
    if types == {int} and all(-(2**63) <= value < 2**63 for value in present):
        return "int"
    if types == {str} and not any("\r" in value for value in present):  # which csv would read as a line end
        return "str"
    if types == {bool} and len(present) == len(values):
        return "bool"
    found = ", ".join(sorted({type(value).__name__ for value in values}))
    raise LossAtlasError(f"column {name} for {path} mixes {found}, or holds what a table cannot")


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _cell(value: Any) -> str:
    if _missing(value):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _sidecar(path: str) -> str:
    return f"{path}.meta.json"


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, sort_keys=True, indent=indent)


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(f"{name}:{array.dtype.descr}:{array.shape}:".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _seal(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(_json({key: meta[key] for key in meta if key != "seal"}).encode()).hexdigest()


def _describe(parameters: Mapping, inputs: Iterable[PathLike], code: str, digest: str, **more: Any) -> dict:
    meta = {
        "format": FORMAT,
        "parameters": normalise(parameters),
        "inputs": {_input_name(path): file_hash(path) for path in inputs},
        "code": code,
        "sha256": digest,
        **more,
    }
    return {**meta, "seal": _seal(meta)}


def _input_name(path: PathLike) -> str:
    """The path from the working directory; of a file outside it the name alone: the rest is the machine's."""
    relative = Path(os.path.relpath(path))
    return f"outside:{relative.name}" if ".." in relative.parts else relative.as_posix()


def _remedy(path: str) -> str:
    """`--force` makes this file again, whether or not the default target needs it."""
    return f"{os.environ.get('LOSSATLAS_RUN', 'snakemake --cores all')} --force {shlex.quote(path)}"


@contextmanager
def _refusing_damage(path: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise LossAtlasError(f"{path} does not exist; make it with: {remedy}") from None
    except Exception as error:  # zipfile, zlib, struct, json and numpy each have their own for damaged bytes
        what = f"is damaged, truncated or no result file ({type(error).__name__})"
        raise LossAtlasError(f"{path} {what}; make it again with: {remedy}") from error


def _check(path: str, meta: Any, digest: str, parameters: Mapping | None, code: str | None, remedy: str) -> None:
    if not isinstance(meta, dict) or "seal" not in meta:
        raise LossAtlasError(f"{path} was not written by lossatlas; make it again with: {remedy}")
    if meta.get("format") != FORMAT:
        found = f"has format {meta.get('format')}, this version reads {FORMAT}"
        raise LossAtlasError(f"{path} {found}; make it again with: {remedy}")
    if meta["seal"] != _seal(meta) or meta["sha256"] != digest:
        raise LossAtlasError(f"{path} was changed after it was written; make it again with: {remedy}")
    stale = [
        f"{name} has changed since"
        for name, before in meta["inputs"].items()
        if os.path.exists(name) and file_hash(name) != before
    ]
    if parameters is not None:
        stale += _differences(meta["parameters"], normalise(parameters))
    if code is not None and code != meta["code"]:
        stale.append(f"code: {meta['code']} in the file, {code} now")
    if stale:
        raise LossAtlasError(f"{path} is stale ({'; '.join(stale)}); make it again with: {remedy}")


def _differences(old: Any, new: Any, key: str = "") -> list[str]:
    """One line for each dotted key whose value differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for name in sorted(old | new)
            for line in _differences(old.get(name, _ABSENT), new.get(name, _ABSENT), f"{key}.{name}".lstrip("."))
        ]
    texts = ["nothing" if value is _ABSENT else _json(value) for value in (old, new)]
    return [f"{key}: {texts[0]} in the file, {texts[1]} in the config"] if texts[0] != texts[1] else []
