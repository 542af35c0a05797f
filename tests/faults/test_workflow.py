"""What a small real workflow does with edits, limits, damage and errors."""

import re

from mini_workflow import hashes, write_files


def planned(run_snakemake, folder, *arguments):
    """{rule: number of jobs} of a dry run, without the target rule."""
    run = run_snakemake(folder, "-n", *arguments)
    assert run.returncode == 0, run.stdout
    table = run.stdout.partition("Job stats:")[2].partition("total")[0]
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.M) if rule != "all"}


def test_results_do_not_depend_on_folder_zone_locale_hash_seed_or_cores(lab, run_snakemake, unkilled):
    run = run_snakemake(lab, "--cores", "2", TZ="UTC", LC_ALL="C.UTF-8", PYTHONHASHSEED="2")
    assert run.returncode == 0, run.stdout
    assert hashes(lab) == unkilled
    assert not [path for path in unkilled if "tmp" in path or "checkpoint" in path]


def test_an_edit_reruns_exactly_its_rules_and_a_comment_none(lab, run_snakemake):
    assert run_snakemake(lab).returncode == 0
    assert planned(run_snakemake, lab) == {}
    module = lab / "minilab" / "scale.py"
    source = module.read_text()
    module.write_text(source.replace("# by a factor", "# by another word"))
    assert planned(run_snakemake, lab) == {}
    module.write_text(source.replace("places * factor", "places * factor + 1"))
    assert planned(run_snakemake, lab) == {"scale": 2, "summary": 1}
    before = hashes(lab)
    assert run_snakemake(lab).returncode == 0
    after = hashes(lab)
    assert {path for path in after if after[path] == before[path]} == {"results/walk a.npz", "results/walk b.npz"}


def test_a_truncated_result_is_refused_by_name_with_a_command_that_works(lab, run_snakemake, unkilled):
    assert run_snakemake(lab).returncode == 0
    path = lab / "results" / "walk a.npz"
    path.write_bytes(path.read_bytes()[:-10])
    run = run_snakemake(lab)
    assert run.returncode == 1
    sentence = next(
        line for line in run.stdout.splitlines() if line.startswith("[scale] results/walk a.npz is damaged")
    )
    assert sentence.endswith("snakemake --cores all --force 'results/walk a.npz'")
    assert "Traceback" not in (lab / "logs" / "scale a.log").read_text()
    assert run_snakemake(lab, "--force", "results/walk a.npz").returncode == 0
    assert hashes(lab)["results/walk a.npz"] == unkilled["results/walk a.npz"]


def test_an_error_for_people_is_a_sentence_and_a_bug_leaves_its_traceback_in_the_log(lab, run_snakemake):
    log = lab / "logs" / "summary.log"
    run = run_snakemake(lab, MINI_FAIL="sentence")
    assert run.returncode == 1
    assert "[summary] the kettle is empty: fill it\n" in run.stdout
    assert "Traceback" not in log.read_text()
    assert "this goes to the log" in log.read_text()
    assert "this goes to the log" not in run.stdout
    run = run_snakemake(lab, MINI_FAIL="bug")
    assert run.returncode == 1
    assert "[summary] KeyError: 'kettle'; the traceback is in logs/summary.log\n" in run.stdout
    assert "Traceback" in log.read_text()


MEETING = {
    "Snakefile": """
        from lossatlas.gpu import gpu_count

        workflow.global_resources.setdefault("gpu", gpu_count())

        rule all:
            input: expand("results/{name}.txt", name=["a", "b", "c"])

        rule meet:
            output: "results/{name}.txt"
            resources: gpu=1
            script: "meet.py"
        """,
    "meet.py": """
        import os
        import time
        from pathlib import Path
        from lossatlas import job
        with job.start(snakemake):
            here = Path("here")
            here.mkdir(exist_ok=True)
            me = here / str(os.getpid())
            me.touch()
            guests = 1
            # alone: look for a while whether anybody comes; in company: wait until somebody does
            end = time.monotonic() + float(os.environ["PATIENCE"])
            while guests < int(os.environ["GUESTS"]) and time.monotonic() < end:
                guests = max(guests, len(list(here.iterdir())))
                time.sleep(0.01)
            time.sleep(0.2)  # so that the others see this one too
            me.unlink()
            Path(snakemake.output[0]).write_text(f"{guests} {os.environ['CUDA_VISIBLE_DEVICES']}")
        """,
}


def meet(run_snakemake, folder, *arguments, **changes):
    """[(most jobs seen at once, GPU)] of the three jobs."""
    write_files(folder, MEETING)
    run = run_snakemake(folder, "--cores", "3", *arguments, **changes)
    assert run.returncode == 0, run.stdout
    texts = [path.read_text().split(maxsplit=1) for path in sorted((folder / "results").iterdir())]
    return [(int(guests), device) for guests, device in texts]


def test_one_gpu_runs_one_job_at_a_time_whatever_other_resources_are_given(tmp_path, run_snakemake):
    alone = {"CUDA_VISIBLE_DEVICES": "5", "GUESTS": "2", "PATIENCE": "0.5"}
    assert meet(run_snakemake, tmp_path / "plain", **alone) == [(1, "5")] * 3
    assert meet(run_snakemake, tmp_path / "other", "--resources", "mem_mb=1000", **alone) == [(1, "5")] * 3


def test_two_gpus_run_two_jobs_on_different_devices(tmp_path, run_snakemake):
    company = {"CUDA_VISIBLE_DEVICES": "3,5", "GUESTS": "2", "PATIENCE": "5"}
    met = meet(run_snakemake, tmp_path / "two", **company)
    assert max(guests for guests, _ in met) == 2
    assert {device for _, device in met} == {"3", "5"}


def test_a_user_may_put_two_jobs_on_one_gpu(tmp_path, run_snakemake):
    company = {"CUDA_VISIBLE_DEVICES": "5", "GUESTS": "2", "PATIENCE": "5"}
    met = meet(run_snakemake, tmp_path / "shared", "--resources", "gpu=2", **company)
    assert max(guests for guests, _ in met) == 2
