"""A write that fails or is killed at any point leaves the old file or the new one, never a part of either."""

import io
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from lossatlas import atomic
from lossatlas.artifacts import load, load_table, save, save_table
from lossatlas.errors import LossAtlasError


class Killed(BaseException):
    """The end of a process: nothing cleans up after it."""


class Faults:
    """Counts writes, syncs and renames, and lets the n-th fail with `error`."""

    def __init__(self, n, error):
        self.n, self.error, self.fired = n, error, False

    def step(self):
        self.n -= 1
        if self.n == 0:
            self.fired = True
            raise self.error

    def install(self, monkeypatch):
        def counted(function):
            def call(*arguments):
                self.step()
                return function(*arguments)

            return call

        class File(io.FileIO):
            write = counted(io.FileIO.write)

        monkeypatch.setattr(atomic, "open", File, raising=False)
        for name in ("fsync", "replace"):
            monkeypatch.setattr(os, name, counted(getattr(os, name)))
        if isinstance(self.error, Killed):
            monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)


def write_array(value):
    save("target.npz", {"value": np.full(100, value)}, parameters={"value": value}, code="")


def write_table(value):
    save_table("target.csv", {"value": [value] * 100}, parameters={"value": value}, code="")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Killed()], ids=["fails", "is killed"])
@pytest.mark.parametrize(
    ("write", "read", "target"), [(write_array, load, "target.npz"), (write_table, load_table, "target.csv")]
)
def test_a_fault_at_any_point_leaves_old_or_new(write, read, target, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    n, met = 0, set()
    while True:
        n += 1
        write(1)
        faults = Faults(n, error)
        with monkeypatch.context() as patched:
            faults.install(patched)
            with suppress(LossAtlasError, Killed):
                write(2)
        try:
            value = read(target)["value"]
        except LossAtlasError:  # between the two files of a table, where neither old nor new is whole
            met.add("refused")
        else:
            assert len(set(value.tolist())) == 1
            met.add(int(value[0]))
        leftover = [path.name for path in Path().iterdir() if ".tmp." in path.name]
        assert not leftover or isinstance(error, Killed)
        atomic.sweep(target)  # as a job does, which declares a table but not its sidecar
        assert not list(Path().glob("*.tmp.*"))
        if not faults.fired:
            break
    assert met == ({1, 2, "refused"} if target == "target.csv" else {1, 2})
    assert value[0] == 2


def test_a_failed_write_is_a_sentence_and_a_sweep_takes_only_its_own_leftovers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(LossAtlasError, match=r"file/x\.npz could not be written \(.*\)"):
        save("file/x.npz", {}, parameters={}, code="")
    for name in ("a[1].npz.tmp.7", "a[1].npz.meta.json.tmp.7", "a1.npz.tmp.7", "a[1].npz"):
        Path(name).touch()
    atomic.sweep("a[1].npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a1.npz.tmp.7", "a[1].npz", "file"]


FULL_DISK = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from lossatlas.artifacts import load, save
from lossatlas.errors import LossAtlasError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
save("x.npz", {"value": np.full(100, 1)}, parameters={}, code="")
old, size = Path("x.npz").read_bytes(), Path("x.npz").stat().st_size
for limit in range(0, size, 37):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save("x.npz", {"value": np.full(100, 2)}, parameters={}, code="")
        sys.exit(f"written within {limit} of {size} bytes")
    except LossAtlasError as error:
        assert str(error).startswith("x.npz could not be written (File too large)"), error
    assert Path("x.npz").read_bytes() == old
    assert [path.name for path in Path().iterdir()] == ["x.npz"]
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
save("x.npz", {"value": np.full(100, 2)}, parameters={}, code="")
assert load("x.npz")["value"][0] == 2
"""


def test_a_disk_that_fills_up_at_any_byte_leaves_the_old_file(tmp_path):
    """A limit on the size of files stands in for the full disk; it needs a process of its own."""
    source = Path(__file__).parents[2] / "src"
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
