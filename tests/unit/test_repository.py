"""Files that describe the same thing agree with each other."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from docutils.core import publish_doctree

from lossatlas import acceptance, claims
from lossatlas.config import load_schema, reference_page

ROOT = Path(__file__).parents[2]
PINS = dict(
    line.lower().replace("_", "-").split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _requirements() -> dict[str, str]:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    found = {}
    for requirement in (r for group in groups for r in group if not r.startswith("lossatlas[")):
        name, _, bound = requirement.partition(">=")
        found[name.lower()] = bound
    return found


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def test_every_requirement_is_pinned_at_or_above_its_bound():
    for name, bound in _requirements().items():
        assert _version(PINS[name]) >= _version(bound), name


def test_pins_are_exact_and_name_no_address():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+]+", line), line


def test_conda_installs_what_pip_installs():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["-c constraints.txt", "-e .[all]"]
    python = next(d for d in environment["dependencies"] if str(d).startswith("python"))
    assert PROJECT["requires-python"] in python.replace(" ", "")


def test_the_config_reference_is_the_schemas():
    page = reference_page(load_schema(ROOT / "workflow/schemas/config.schema.yaml"))
    assert (ROOT / "config/README.md").read_text() == page, "run: python -m lossatlas config-reference"


def test_the_readmes_table_is_the_accepted_one():
    assert (ROOT / "README.md").read_text() == acceptance.readme(ROOT), "run: python -m lossatlas readme"


def test_the_accepted_tables_speak_of_the_ledgers_claims():
    ledger = {claim.id: claim for claim in claims.load_ledger(ROOT / "claims").claims}
    for tier in ("smoke", "default"):
        for row in claims.read_csv(ROOT / f"results/reference/{tier}/claims.csv"):
            assert row["statement"] == ledger[row["id"]].statement
            assert row["tier"] == tier


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert len(citation["references"]) == 6


@pytest.mark.parametrize("caption", sorted((ROOT / "workflow/report").glob("*.rst")), ids=lambda path: path.stem)
def test_captions_are_the_markup_that_the_report_reads(caption):
    # a bar around a symbol, say, is a substitution there; docutils raises for what the report would print as an error
    publish_doctree(caption.read_text(), settings_overrides={"halt_level": 2, "report_level": 5})
