"""Accepting a run copies what a reader needs, whole, and nothing of its bulk."""

import csv
import json

import pytest

from lossatlas import acceptance, claims
from lossatlas.errors import LossAtlasError


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def root(tmp_path):
    """A finished run of the default and of the smoke tier."""
    for tier in ("default", "smoke"):
        run = tmp_path / "results" / tier
        run.mkdir(parents=True)
        claims.write_csv([], run / "claims.csv")
        _write(run / "claims.md", b"a table")
        _write(run / "mli/measurements.csv", b"id,value\n")
        _write(run / "mli/measurements.csv.meta.json", b"{}")
        _write(run / "mli/curves.csv", b"x" * acceptance.BULK)
        _write(run / "mli/runs/digits.csv", b"bulk")
        _write(run / "baselines/digits.npz", b"parameters")
        _write(run / "figures/mli.png", b"picture")
        _write(run / "figures/mli.svg", b"picture")
        record = {"rule": "mli_runs", "start": "2026", "parameters": {}, "seconds": 1.25}
        for output in ("a", "b"):  # two outputs of one job
            _write(tmp_path / f"provenance/results/{tier}/{output}.json", json.dumps(record).encode())
    return tmp_path


def _kept(root, tier):
    reference = root / "results/reference" / tier
    return {str(path.relative_to(reference)) for path in reference.rglob("*") if path.is_file()}


def test_tables_and_pictures_are_kept_and_bulk_is_left(root):
    acceptance.accept(root, "default")
    assert _kept(root, "default") == {"claims.csv", "claims.md", "costs.csv", "mli/measurements.csv", "figures/mli.png"}
    assert (root / "results/reference/default/figures/mli.png").read_bytes() == b"picture"


def test_other_tiers_keep_no_pictures(root):
    acceptance.accept(root, "smoke")
    assert _kept(root, "smoke") == {"claims.csv", "claims.md", "costs.csv", "mli/measurements.csv"}


def test_a_job_is_counted_once_however_many_files_it_writes(root):
    acceptance.accept(root, "default")
    rows = list(csv.DictReader((root / "results/reference/default/costs.csv").open()))
    assert rows == [{"rule": "mli_runs", "jobs": "1", "seconds": "1.2"}]


def test_what_the_run_no_longer_has_goes(root):
    _write(root / "results/reference/default/figures/renamed.png", b"of an earlier run")
    _write(root / "results/reference/smoke/claims.csv", b"of the other tier")
    acceptance.accept(root, "default")
    assert "figures/renamed.png" not in _kept(root, "default")
    assert (root / "results/reference/smoke/claims.csv").read_bytes() == b"of the other tier"


def test_an_unfinished_run_is_refused_and_the_reference_left_alone(root):
    _write(root / "results/reference/default/claims.csv", b"accepted before")
    (root / "results/default/claims.csv").unlink()
    with pytest.raises(LossAtlasError, match=r"claims\.csv does not exist: run the default tier first"):
        acceptance.accept(root, "default")
    assert (root / "results/reference/default/claims.csv").read_bytes() == b"accepted before"
