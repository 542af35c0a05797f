"""Files that are old or new, never partial: write beside the target, sync, rename."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape, glob
from pathlib import Path
from typing import BinaryIO

from lossatlas.errors import LossAtlasError


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends, and vanishes when the block fails.

    Missing folders are made. Raises `LossAtlasError` if the system refuses (disk full, read-only folder).
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        raise LossAtlasError(
            f"{path} could not be written ({error.strerror or error}) and no partial file was left: "
            "free space or correct the permissions, then run the same command again"
        ) from error


def sweep(path: str | os.PathLike) -> None:
    """Remove what killed writers of `path` or of its sidecars (`<path>.meta.json`) left behind.

    The caller must be their only writer.
    """
    for pattern in (".tmp.*", ".*.tmp.*"):
        for stale in glob(f"{escape(os.fspath(path))}{pattern}"):
            os.unlink(stale)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut: on POSIX that is a property of the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
