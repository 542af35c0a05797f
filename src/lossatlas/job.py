"""The prologue that all scripts share: `with job.start(snakemake) as checkpoint: ...`.

Import numpy and torch inside the block: the number of threads and the GPU must be settled before.
"""

import ctypes
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lossatlas import progress, provenance
from lossatlas.atomic import sweep
from lossatlas.errors import LossAtlasError
from lossatlas.gpu import gpus, lease

_KEPT = {-1: 2**28, -3: 2**25}  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h, in bytes; the latter at its most
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@contextmanager
def start(snakemake: Any) -> Iterator[Path]:
    """Run a script's body as a job of the workflow; gives the path for its checkpoint.

    The job dies with the workflow, computes with one thread (with `threads` when it has a GPU), sees a GPU
    only if the rule has the resource `gpu`, and writes stdout and stderr to the rule's log, while `progress`
    and `say` reach the console. A `LossAtlasError` is printed as one sentence, any other error leaves its
    traceback in the log, and both end the script with exit status 1. When the body is through, the checkpoint
    is removed (it lies undeclared beside the first output, so that Snakemake keeps it after a kill) and the
    provenance is written.
    """
    _die_with_the_workflow()
    began, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    on_gpu = bool(snakemake.resources.get("gpu")) and bool(gpus())
    for name in _THREADS:
        os.environ[name] = str(snakemake.threads if on_gpu else 1)
    # the name keeps the lock until the job ends
    os.environ["CUDA_VISIBLE_DEVICES"], _lock = lease(gpus()) if on_gpu else ("", None)
    _keep_freed_memory()
    _send_output_to_the_log(snakemake)
    checkpoint = Path(f"{snakemake.output[0] if snakemake.output else snakemake.rule}.checkpoint.npz")
    for path in (*snakemake.output, checkpoint):
        sweep(path)
    try:
        yield checkpoint
    except LossAtlasError as error:
        progress.say(str(error))
        raise SystemExit(1) from None
    except Exception as error:
        traceback.print_exc()
        where = f"; the traceback is in {snakemake.log[0]}" if snakemake.log else ""
        progress.say(f"{type(error).__name__}: {error}{where}")
        raise SystemExit(1) from None
    checkpoint.unlink(missing_ok=True)
    provenance.record(
        snakemake.output,
        rule=snakemake.rule,
        parameters=dict(snakemake.params.items()),
        start=began,
        seconds=time.monotonic() - clock,
    )


def _keep_freed_memory() -> None:
    """Ask the C library not to give freed memory back to the kernel at once (glibc only).

    Activations are some hundred kilobytes, made and freed in each step; fresh pages for them cost up to half the time.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        for option, size in _KEPT.items():
            library.mallopt(option, size)


def _die_with_the_workflow() -> None:
    """Ask the kernel to kill this process when its parent dies, so that no orphan writes on (Linux only)."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent or _is_reaper(parent):
        raise SystemExit("the workflow ended before this job began")
    # Old versions of bash stay between Snakemake and the script: then the parent that matters is theirs.
    if Path(f"/proc/{parent}/comm").read_text().strip() in ("bash", "sh", "dash"):
        workflow = int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1])
        if _is_reaper(workflow):
            raise SystemExit("the workflow ended before this job began")
        threading.Thread(target=_die_after, args=(os.pidfd_open(workflow),), daemon=True).start()


def _is_reaper(pid: int) -> bool:
    """Whether a parent is only the adopter of orphans; in a container process 1 may be Snakemake itself."""
    return pid == 1 and b"snakemake" not in Path("/proc/1/cmdline").read_bytes()


def _die_after(pidfd: int) -> None:
    select.select([pidfd], [], [])
    os.kill(os.getpid(), signal.SIGKILL)


def _send_output_to_the_log(snakemake: Any) -> None:
    """Snakemake does not do that for scripts; by file descriptor, so that libraries in C are caught too."""
    progress.prefix = f"[{snakemake.rule}] "
    if not snakemake.log:
        return
    progress.console = os.fdopen(os.dup(2), "w", buffering=1)
    Path(snakemake.log[0]).parent.mkdir(parents=True, exist_ok=True)
    with open(snakemake.log[0], "w") as log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(log.fileno(), stream.fileno())
