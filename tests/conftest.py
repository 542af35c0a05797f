"""How tests run the real Snakemake."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
LONGEST = ("test_smoke_tier.py", "test_kills.py", "test_workflow.py")  # they run Snakemake: minutes each


def pytest_collection_modifyitems(items):
    """The longest files first, so that no worker is left with one of them when the others are through."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def snakemake_environment(folder, **changes):
    """The environment of a run in `folder`: its own modules first, no GPU, no cache or profile of the user."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SNAKEMAKE", "LOSSATLAS"))}
    return {
        **kept,
        "PYTHONPATH": f"{folder}{os.pathsep}{SRC}",
        "CUDA_VISIBLE_DEVICES": "",
        "XDG_CACHE_HOME": str(Path(folder, ".cache")),
        "XDG_CONFIG_HOME": str(Path(folder, ".config")),
        **changes,
    }


@pytest.fixture
def start_snakemake():
    """`start_snakemake(folder, *arguments, **environment)` -> a running process that leads its own group."""
    started = []

    def start(folder, *arguments, **changes):
        process = subprocess.Popen(
            [sys.executable, "-m", "snakemake", "--cores", "2", *arguments],
            cwd=folder,
            env=snakemake_environment(folder, **changes),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # a shell starts background jobs with Ctrl-C ignored, and these tests may run in one
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def run_snakemake():
    """`run_snakemake(folder, *arguments, **environment)` -> the completed process with all output in `stdout`."""

    def run(folder, *arguments, **changes):
        return subprocess.run(
            [sys.executable, "-m", "snakemake", "--cores", "2", *arguments],
            cwd=folder,
            env=snakemake_environment(folder, **changes),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )

    return run
