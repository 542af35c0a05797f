"""Accepting a run: its tables and figures become the committed reference that `compare` and the README read."""

import csv
from io import StringIO
from pathlib import Path

from lossatlas import claims, claims_table, console
from lossatlas.atomic import atomic
from lossatlas.errors import LossAtlasError

TABLES = ("claims.csv", "claims.md")
BULK = 100_000  # bytes; a study's table above it is data that figures are drawn from, and can be made again
README_TIER = "default"  # the one whose figures are kept: those of another tier say less and weigh as much


def accept(root: Path, tier: str) -> list[str]:
    """Make the tables and figures of `results/<tier>` the whole of `results/reference/<tier>`; says which.

    Also writes `costs.csv`, the seconds that each rule took, which the next run's forecast reads. Parameters and
    curves stay behind, and what an earlier run had and this one has not goes. Raises `LossAtlasError` if the tier has
    no complete run.
    """
    run, reference = root / "results" / tier, root / "results" / "reference" / tier
    if not (run / "claims.csv").exists():
        raise LossAtlasError(f"{run}/claims.csv does not exist: run the {tier} tier first")
    claims.read_csv(run / "claims.csv")
    tables = [path for path in run.glob("*/*.csv") if path.stat().st_size < BULK]
    figures = run.glob("figures/*.png") if tier == README_TIER else []
    sources = sorted([*(run / name for name in TABLES), *tables, *figures])
    for path in sources:
        with atomic(reference / path.relative_to(run)) as handle:
            handle.write(path.read_bytes())
    text = StringIO()
    writer = csv.DictWriter(text, ["rule", "jobs", "seconds"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(console.costs(root / "provenance", tier))
    with atomic(reference / "costs.csv") as handle:
        handle.write(text.getvalue().encode())
    accepted = [reference / path.relative_to(run) for path in sources]
    for path in reference.rglob("*"):
        if path.is_file() and path not in {*accepted, reference / "costs.csv"}:
            path.unlink()
    return [str(path) for path in accepted]


def write_readme(root: Path) -> None:
    """Put the accepted claims table of the default tier between the markers of the README."""
    path = root / "README.md"
    with atomic(path) as handle:
        handle.write(readme(root).encode())


def readme(root: Path) -> str:
    """The README's text as it should be, from the accepted table."""
    rows = claims.read_csv(root / "results" / "reference" / README_TIER / "claims.csv")
    shown = [row for row in rows if row["verdict"] != "not run"]
    return claims_table.with_table((root / "README.md").read_text(), claims_table.to_markdown(shown))
