"""One run of a project at a time: a lock that the kernel frees on any death, so none is ever stale."""

import fcntl
import os
from typing import TextIO

from lossatlas.errors import LossAtlasError

_held: list[TextIO] = []  # a handle that is collected would free its lock


def take_run_lock(path: str = ".snakemake/run.lock") -> None:
    """Take the lock for as long as this process lives, or raise `LossAtlasError` with its holder's pid.

    Use it in `onstart`, with `nolock: true` in the profile.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    handle = open(path, "a+")  # noqa: SIM115 - open handle and lock are the same thing
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.seek(0)
        holder = handle.read().strip() or "unknown"
        handle.close()
        raise LossAtlasError(
            f"another run of this project is in progress (pid {holder}): wait for it, or stop it with Ctrl-C"
        ) from None
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    _held.append(handle)
