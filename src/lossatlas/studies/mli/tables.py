"""Result files of the study as data frames, and measurements as rows of a result file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lossatlas.artifacts import Artifact
from lossatlas.claims import Ledger
from lossatlas.statistics import Interval


def frame(table: Artifact) -> pd.DataFrame:
    """A result table as a data frame."""
    return pd.DataFrame(dict(table))


def joined(tables: Sequence[Artifact]) -> pd.DataFrame:
    """Tables of several ensembles below each other; `ensemble` is the name of the file that a row came from."""
    return pd.concat([frame(t).assign(ensemble=Path(t.path).stem) for t in tables], ignore_index=True)


def measurement_rows(measured: Mapping[str, Interval], ledger: Ledger, artifact: str) -> list[dict[str, Any]]:
    """The rows of `measurements.csv`; units are the ledger's."""
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
