"""Folders that hold the small workflow, and what an undisturbed run of it gives."""

import pytest
from mini_workflow import FILES, hashes, write_files


@pytest.fixture
def lab(tmp_path):
    """A fresh copy of the workflow, in a path with spaces."""
    return write_files(tmp_path / "a path with spaces", FILES)


@pytest.fixture(scope="session")
def unkilled(tmp_path_factory, run_snakemake):
    """The hashes of an undisturbed run, made in another folder, zone, locale, hash seed and number of cores."""
    folder = write_files(tmp_path_factory.mktemp("unkilled") / "plain", FILES)
    run = run_snakemake(folder, "--cores", "1", TZ="Asia/Tokyo", LC_ALL="C", PYTHONHASHSEED="1")
    assert run.returncode == 0, run.stdout
    return hashes(folder)
