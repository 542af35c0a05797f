"""Result tables as data frames."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lossatlas.artifacts import Artifact


def frame(table: Artifact) -> pd.DataFrame:
    """A result table as a data frame."""
    return pd.DataFrame(dict(table))


def joined(tables: Sequence[Artifact]) -> pd.DataFrame:
    """Tables of several ensembles below each other; `ensemble` is the name of the file that a row came from."""
    return pd.concat([frame(t).assign(ensemble=Path(t.path).stem) for t in tables], ignore_index=True)
