"""What a result cannot carry and stay byte-stable: who, where, when, with which versions."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lossatlas.atomic import atomic

_PACKAGES = (
    "lossatlas",
    "snakemake",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "mnist1d",
    "matplotlib",
    "seaborn",
)


def record(outputs: Iterable[str], *, rule: str, parameters: Mapping[str, Any], start: str, seconds: float) -> None:
    """Write `provenance/<output>.json` for each output that a job has just made.

    `start` is an ISO 8601 time, `seconds` the wall time of the job.
    """
    facts = {
        "rule": rule,
        "parameters": parameters,
        "start": start,
        "seconds": round(seconds, 3),
        **_git(),
        "python": platform.python_version(),
        "packages": _versions(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        **_torch(),
    }
    for output in outputs:
        inside = [part for part in Path(os.path.relpath(output)).parts if part != ".."]
        with atomic(Path("provenance", *inside[:-1], f"{inside[-1]}.json")) as handle:
            handle.write(f"{json.dumps({'output': output, **facts}, indent=1, default=str)}\n".encode())


def _git() -> dict[str, Any]:
    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    return {"commit": commit, "dirty": bool(git("status", "--porcelain")) if commit else None}


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _torch() -> dict[str, Any]:
    """Read only from a torch that the job has imported: importing it here would cost every job seconds."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    return {
        "torch": torch.__version__,  # with its build tag, which the package's metadata may lack
        "torch_threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_initialized() else None,
    }
