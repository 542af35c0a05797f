"""The real workflow at the smoke tier, run once from an empty folder and then disturbed in every way we know."""

import hashlib
import platform
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from lossatlas import claims

ROOT = Path(__file__).parents[2]
SMOKE = ("--configfile", "config/smoke.yaml")
PARTS = ("Snakefile", "workflow", "config", "claims", "profiles", "src")


def copy_project(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for part in PARTS:
        source = ROOT / part
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(source, folder / part, ignore=ignore) if source.is_dir() else shutil.copy(source, folder / part)
    return folder


def digests(folder: Path) -> dict[str, str]:
    results = folder / "results" / "smoke"
    files = (path for path in results.rglob("*") if path.is_file())
    return {str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def planned(output: str) -> Counter:
    """Jobs by rule in the table that a dry run prints."""
    if "Nothing to be done" in output:
        return Counter()
    _, _, table = output.partition("Job stats:")
    rows = (line.split() for line in table.splitlines()[3:])
    found = Counter()
    for row in rows:
        if len(row) != 2 or not row[1].isdigit():
            break
        found[row[0]] = int(row[1])
    del found["total"]
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory, run_snakemake):
    folder = copy_project(tmp_path_factory.mktemp("project"))
    done = run_snakemake(folder, *SMOKE)
    assert done.returncode == 0, done.stdout[-3000:]
    return folder, done.stdout


@pytest.fixture
def disturbed(project, tmp_path):
    """A copy of the finished project, records of Snakemake included, to do harm to."""
    folder = tmp_path / "copy"
    shutil.copytree(project[0], folder)
    return folder


def test_it_ends_with_a_judged_table_and_a_figure(project):
    folder, output = project
    rows = claims.read_csv(folder / "results/smoke/claims.csv")
    assert {row["id"] for row in rows} == {c.id for c in claims.load_ledger(ROOT / "claims").claims}
    assert any(row["verdict"] == "reproduced" for row in rows)
    assert (folder / "results/smoke/figures/mli.png").read_bytes().startswith(b"\x89PNG")
    assert "tier smoke on CPU: " in output
    assert "results/smoke/report.html · results/smoke/claims.csv" in output


def test_nothing_is_left_to_do(project, run_snakemake):
    assert "Nothing to be done" in run_snakemake(project[0], *SMOKE, "-n").stdout


def test_no_result_holds_a_path_time_or_host(project):
    for path in (project[0] / "results").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(project[0]).encode() not in content, path
            assert platform.node().encode() not in content or len(platform.node()) < 4, path


def test_a_comment_reruns_nothing_and_an_edit_exactly_what_uses_it(disturbed, run_snakemake):
    module = disturbed / "src/lossatlas/thresholds.py"
    source = module.read_text()
    module.write_text(source.replace("import math\n", "import math  # a comment\n", 1) + "\n# another\n")
    assert planned(run_snakemake(disturbed, *SMOKE, "-n").stdout) == Counter()
    module.write_text(source.replace("MONOTONE = 1e-3", "MONOTONE = 2e-3", 1))
    jobs = planned(run_snakemake(disturbed, *SMOKE, "-n").stdout)
    assert jobs["train"] == 0
    assert jobs["mli_runs"] == 7  # one for each ensemble of the tier
    assert jobs["mli_controls"] == 3
    assert jobs["mli_measurements"] == jobs["figure_mli"] == jobs["claims"] == 1


def test_a_changed_parameter_reruns_only_its_rules(disturbed, run_snakemake):
    config = yaml.safe_load((disturbed / "config/smoke.yaml").read_text())
    config["mli"]["fresh_starts"] = 1
    (disturbed / "config/smoke.yaml").write_text(yaml.safe_dump(config))
    jobs = planned(run_snakemake(disturbed, *SMOKE, "-n").stdout)
    assert jobs["train"] == jobs["mli_runs"] == jobs["figure_mli"] - 1 == 0
    assert jobs["mli_controls"] == 3


def test_one_figure_alone_has_the_same_bytes_again(disturbed, run_snakemake):
    before = digests(disturbed)
    (disturbed / "results/smoke/figures/mli.png").unlink()
    done = run_snakemake(disturbed, "figure_mli", *SMOKE)
    assert done.returncode == 0, done.stdout[-3000:]
    assert planned(done.stdout) == {"figure_mli": 1}
    assert digests(disturbed) == before


def test_a_truncated_result_is_refused_by_name(disturbed, run_snakemake):
    path = disturbed / "results/smoke/baselines/digits-adam.npz"
    path.write_bytes(path.read_bytes()[:-100])
    (disturbed / "results/smoke/mli/runs/digits-adam.csv").unlink()
    done = run_snakemake(disturbed, *SMOKE)
    assert done.returncode != 0
    assert "results/smoke/baselines/digits-adam.npz is damaged, truncated or no result file" in done.stdout
    assert "make it again with: " in done.stdout


def test_results_of_other_settings_are_refused_even_without_snakemakes_records(disturbed, run_snakemake):
    config = yaml.safe_load((disturbed / "config/smoke.yaml").read_text())
    config["mli"]["points"] = 10
    (disturbed / "config/smoke.yaml").write_text(yaml.safe_dump(config))
    shutil.rmtree(disturbed / ".snakemake")
    done = run_snakemake(disturbed, *SMOKE, "--forcerun", "mli_measurements")
    assert done.returncode != 0
    assert "is stale (settings.points: 20 in the file, 10 in the config)" in done.stdout


def test_compare_fails_and_prints_the_row_that_got_lost(disturbed, run_snakemake):
    reference = disturbed / "results/reference/smoke/claims.csv"
    rows = claims.read_csv(disturbed / "results/smoke/claims.csv")
    reference.parent.mkdir(parents=True)
    claims.write_csv(rows, reference)
    assert run_snakemake(disturbed, "compare", *SMOKE).returncode == 0
    lost = next(row for row in rows if row["verdict"] == "not comparable" and row["measured"])
    claims.write_csv([{**row, "verdict": "reproduced"} if row is lost else row for row in rows], reference)
    done = run_snakemake(disturbed, "compare", *SMOKE)
    assert done.returncode != 0
    assert f"{lost['id']}: was reproduced, is not comparable" in done.stdout


def test_killed_in_the_middle_elsewhere_it_goes_on_to_the_same_bytes(project, tmp_path, start_snakemake, run_snakemake):
    """One study in another folder with a space, one core, another time zone and hash seed, a SIGKILL on the way."""
    folder = copy_project(tmp_path / "another folder")
    world = {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
    study = ("study_mli", *SMOKE, "--cores", "1")
    process = start_snakemake(folder, *study, **world)
    deadline = time.monotonic() + 300
    while not list(folder.glob("results/smoke/mli/runs/*.csv")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = run_snakemake(folder, *study, **world)
    assert done.returncode == 0, done.stdout[-3000:]
    found, whole = digests(folder), digests(project[0])
    assert {"mli/measurements.csv", "figures/mli.png", "baselines/digits-adam.npz"} <= set(found)
    assert found == {name: whole[name] for name in found}
