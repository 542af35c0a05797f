"""After any kill a plain run goes on, and ends with the bytes of a run that nobody disturbed."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from mini_workflow import hashes

SLOW = {"MINI_PAUSE": "0.1"}  # a walk of 12 steps then takes over a second, enough to be met on the way


def wait_for(condition, seconds=60):
    """Poll until the condition holds; the generous limit only serves to end a hopeless test."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "what the test waits for did not happen"
        time.sleep(0.01)
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid):
    """All living processes below `pid`, youngest last."""
    children = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += [int(child) for child in task.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [found for child in children for found in (child, *descendants(child))]


def walking(folder, process):
    """The process ids of the jobs once both walks have a checkpoint."""
    wait_for(lambda: process.poll() is not None or len(list(folder.glob("results/*.checkpoint.npz"))) == 2)
    return descendants(process.pid)


def scripts(pids):
    """Those of the processes that are Python with a script, not the shells between."""
    return [pid for pid in pids if b"/.snakemake/scripts/" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1]]


def assert_goes_on(run_snakemake, folder, unkilled, resumed=True):
    run = run_snakemake(folder)
    assert run.returncode == 0, run.stdout
    if resumed:
        assert "resumed at step" in "".join(log.read_text() for log in folder.glob("logs/walk*.log"))
    assert hashes(folder) == unkilled


@pytest.mark.parametrize("prefix", ["", "trap : EXIT; "], ids=["bash is replaced", "bash stays"])
def test_jobs_die_with_the_main_process_and_a_plain_run_goes_on(lab, start_snakemake, run_snakemake, unkilled, prefix):
    """An old bash, which stays between Snakemake and the script, is played by one that has a trap to run."""
    snakefile = lab / "Snakefile"
    snakefile.write_text(f"shell.prefix({prefix!r})\n{snakefile.read_text()}")
    process = start_snakemake(lab, **SLOW)
    jobs = scripts(walking(lab, process))
    assert len(jobs) == 2
    process.kill()
    process.communicate()
    wait_for(lambda: not any(map(alive, jobs)), seconds=10)
    assert_goes_on(run_snakemake, lab, unkilled)


def test_a_killed_job_resumes_from_its_checkpoint(lab, start_snakemake, run_snakemake, unkilled):
    process = start_snakemake(lab, **SLOW)
    os.kill(scripts(walking(lab, process))[0], signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == 1
    # the other branch went on
    assert len(list(lab.glob("results/scaled*"))) == 1
    assert_goes_on(run_snakemake, lab, unkilled)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_after_a_signal_to_the_whole_group_a_plain_run_goes_on(lab, start_snakemake, run_snakemake, unkilled, name):
    process = start_snakemake(lab, **SLOW)
    walking(lab, process)
    os.killpg(process.pid, getattr(signal, name))
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert_goes_on(run_snakemake, lab, unkilled)


def test_kills_at_random_times_change_nothing(lab, start_snakemake, run_snakemake, unkilled):
    """Eight kills that meet a running workflow; one that finishes before its kill is compared and made anew."""
    rng = random.Random(0)
    kills = 0
    while kills < 8:
        process = start_snakemake(lab, MINI_PAUSE="0.2")
        # start-up takes about a second, a whole run with these pauses at least three
        time.sleep(rng.uniform(0.5, 3.0))
        below = descendants(process.pid)
        if process.poll() is not None:
            assert process.returncode == 0
            assert hashes(lab) == unkilled
            shutil.rmtree(lab / "results")
            continue
        if kills % 3 == 0:
            process.kill()
        elif kills % 3 == 1:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            os.kill(below[-1] if below else process.pid, signal.SIGKILL)
        kills += 1
        process.communicate(timeout=60)
        wait_for(lambda below=below: not any(map(alive, below)), seconds=10)
    assert_goes_on(run_snakemake, lab, unkilled, resumed=False)
    assert not list(lab.glob("results/*.tmp.*"))


def test_a_second_run_is_refused_in_one_sentence_and_the_first_goes_on(lab, start_snakemake, run_snakemake, unkilled):
    first = start_snakemake(lab, **SLOW)
    jobs = scripts(walking(lab, first))
    for job in jobs:  # held, so that the first run is under way however long the second takes to start
        os.kill(job, signal.SIGSTOP)
    second = run_snakemake(lab)
    for job in jobs:
        os.kill(job, signal.SIGCONT)
    assert second.returncode == 1
    assert f"another run of this project is in progress (pid {first.pid})" in second.stdout
    assert "Traceback" not in second.stdout
    first.communicate(timeout=60)
    assert first.returncode == 0
    assert hashes(lab) == unkilled
