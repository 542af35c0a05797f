"""The tables and arrays of the experiments, as the measures read them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

ARRAYS = ("functions", "regression", "control", "bands")  # experiments whose arrays are read here


@dataclass(frozen=True, eq=False)
class Results:
    """Tables by experiment, and arrays by experiment and name."""

    tables: Mapping[str, pd.DataFrame]
    arrays: Mapping[str, Mapping[str, np.ndarray]]

    def regression(self, optimizer: str) -> pd.DataFrame:
        runs = self.tables["regression"]
        return runs[(runs["experiment"] == "run") & (runs["optimizer"] == optimizer)]
