"""What scripts share before they compute: light imports, GPUs by name, lines of progress."""

import subprocess
import sys
from pathlib import Path

import pytest

from lossatlas import progress
from lossatlas.gpu import gpu_count, gpus

SRC = Path(__file__).parents[2] / "src"


def test_what_the_snakefile_and_the_prologue_import_loads_neither_torch_nor_numpy():
    """Threads and GPU are settled by environment variables, which these libraries read when they are imported."""
    program = (
        "import sys, lossatlas.job, lossatlas.code_hash, lossatlas.config, lossatlas.run_lock, lossatlas.gpu\n"
        "print([name for name in ('torch', 'numpy', 'scipy', 'pandas') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, env={"PYTHONPATH": str(SRC)}, capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize(
    ("visible", "names"),
    [("", []), ("-1", []), ("0", ["0"]), ("3,5", ["3", "5"]), ("GPU-8932f937,MIG-1", ["GPU-8932f937", "MIG-1"])],
)
def test_gpus_are_those_that_the_environment_lets_see(monkeypatch, visible, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus() == names
    assert gpu_count() == len(names)


def test_progress_yields_everything_and_speaks_at_most_once_in_five_seconds(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    seen = []
    for item in progress.progress(100, "epochs"):
        seen.append(item)
        now[0] += 2.0
    assert seen == list(range(100))
    lines = capsys.readouterr().err.splitlines()
    # 100 items of 2 s: the first moment past 5 s is 6 s, so one line for every 3 items
    assert len(lines) == 33
    assert lines[0] == "epochs: 3/100, 3 min 14 s left"
    assert lines[-1] == "epochs: 99/100, 2 s left"
