"""The experiments by name: settings -> a table and arrays."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lossatlas import data
from lossatlas.studies.teleport import bands, baubels, classifiers, functions, regression

ON_DATA = {
    "schedules": classifiers.schedules,
    "optimizers": classifiers.optimizers,
    "control": classifiers.control,
    "bands": bands.measure,
    "off_batch": classifiers.off_batch,
    "baubels": baubels.measure,
}


def run(
    name: str, settings: Mapping[str, Any], data_dir: str, download: bool
) -> tuple[dict[str, list], dict[str, Tensor]]:
    """The table (columns) and the arrays of the experiment `name`."""
    if name == "functions":
        return functions.measure(settings)
    if name == "regression":
        return regression.measure(settings)
    return ON_DATA[name](settings, data.load(settings["data"], data_dir, download=download))
