"""The ensembles of the MNIST-1D table: four networks, with positions in order and shuffled."""

from collections.abc import Mapping
from typing import Any

from lossatlas.studies.settings import Baseline

SHUFFLED = "-shuffled"


def ensembles(settings: Mapping[str, Any]) -> dict[str, Baseline]:
    """{name: baseline}; Adam and batches of 100 as in the released notebook, at its rate 0.01 unless there are more."""
    plan = {}
    for entry in settings["networks"]:
        for shuffled in (False, True):
            name = f"mnist1d-{entry['name']}{SHUFFLED if shuffled else ''}"
            plan[name] = Baseline(
                data=settings["data"],
                hidden=(),
                architecture=entry["name"],
                optimizer="adam",
                epochs=entry["shuffled_epochs"] if shuffled else entry["epochs"],
                batch_size=100,
                learning_rates=(PUBLISHED_RATE,) if shuffled else tuple(entry["learning_rates"]),
                seeds=tuple(range(entry["seeds"])),
                shuffled=shuffled,
            )
    return plan


PUBLISHED_RATE = 0.01
