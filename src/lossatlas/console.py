"""What the workflow says at its start and end: the cost before, the paths after, the way out of a failure."""

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lossatlas.gpu import gpu_count

TAIL_LINES = 15
COSTS = "results/reference/{tier}/costs.csv"  # seconds of each rule's jobs in the accepted run, by `lossatlas accept`


def cost_line(workflow: Any, config: Mapping[str, Any]) -> str:
    """Tier, device, number of jobs, and the minutes that the accepted run of this tier took for these jobs."""
    jobs = Counter(job.rule.name for job in workflow.dag.needrun_jobs())
    total = sum(jobs.values())
    gpus = gpu_count() if config["device"] != "cpu" else 0
    where = _count(gpus, "GPU") if gpus else "CPU"
    cores = workflow.cores or 1
    time = _minutes(jobs, config["tier"], cores)
    return f"tier {config['tier']} on {where}: {_count(total, 'job')}, {time} on {_count(cores, 'core')}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def _minutes(jobs: Counter, tier: str, cores: int) -> str:
    path = Path(COSTS.format(tier=tier))
    if not path.exists():
        return "of unknown length (no run of this tier was accepted yet)"
    means = {row["rule"]: float(row["seconds"]) / int(row["jobs"]) for row in csv.DictReader(path.open())}
    seconds = sum(means.get(rule, 0.0) * count for rule, count in jobs.items()) / cores
    return f"about {seconds / 60:.0f} min" if seconds > 90 else f"about {seconds:.0f} s"


def done_line(config: Mapping[str, Any]) -> str:
    """Where to look now."""
    tier = config["tier"]
    made = [path for path in (f"results/{tier}/report.html", f"results/{tier}/claims.csv") if Path(path).exists()]
    return "report and claims table: " + " · ".join(made) if made else "done"


def failure_lines(logs_of_run: Iterable[str]) -> str:
    """The end of each failed job's own log, and the command that retries. logs_of_run: Snakemake's own log files."""
    text = "\n".join(Path(path).read_text() for path in logs_of_run if Path(path).exists())
    failed = re.findall(r"^Error in rule (\w+)[:,]?.*?(?=^\S|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    logs = dict.fromkeys(re.findall(r"^\s+log: (\S+)", text, flags=re.MULTILINE))
    lines = [f"failed: {', '.join(dict.fromkeys(failed)) or 'see above'}"]
    for path in logs:
        if Path(path).exists() and (tail := Path(path).read_text().strip().splitlines()[-TAIL_LINES:]):
            lines += [f"--- end of {path}", *tail]
    return "\n".join([*lines, "What is done is kept. Mend the cause, then type the same command again to go on."])


def costs(provenance: Path, tier: str) -> list[dict[str, Any]]:
    """Jobs and seconds of each rule in the last run of a tier, from the provenance of its outputs."""
    jobs: dict[str, set] = defaultdict(set)
    for path in sorted((provenance / "results" / tier).rglob("*.json")):
        record = json.loads(path.read_text())
        jobs[record["rule"]].add((record["start"], str(record["parameters"]), record["seconds"]))
    return [
        {"rule": rule, "jobs": len(done), "seconds": round(sum(seconds for *_, seconds in done), 1)}
        for rule, done in sorted(jobs.items())
    ]
