"""How many GPUs there are and which one a job gets, settled before torch is imported."""

import fcntl
import os
from glob import glob
from pathlib import Path
from typing import TextIO

_LOCKS = Path(".snakemake")


def gpus() -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` may name: its entries where it is set, else 0, 1, ... by device file."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(index) for index in range(len(glob("/dev/nvidia[0-9]*")))]
    return [] if visible.startswith("-1") else [name for name in visible.split(",") if name]


def gpu_count() -> int:
    """The default total for Snakemake's `gpu` resource."""
    return len(gpus())


def lease(names: list[str]) -> tuple[str, TextIO | None]:
    """A GPU that no other job of this run uses, with the lock to keep until the job ends.

    When all are taken the user has asked for more jobs than GPUs (`--resources gpu=...`): then one is shared.
    """
    _LOCKS.mkdir(exist_ok=True)
    for name in names:
        handle = open(_LOCKS / f"gpu{name}.lock", "a")  # noqa: SIM115 - open handle and lock are the same thing
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
        else:
            return name, handle
    return names[os.getpid() % len(names)], None
