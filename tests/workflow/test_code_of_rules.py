"""A rule's code hash covers every module that its script loads, but for the machinery that cannot change a number."""

import ast
import re
from pathlib import Path

import pytest

from lossatlas.code_hash import covered

ROOT = Path(__file__).parents[2]
MACHINERY = {
    f"lossatlas.{name}"
    for name in ("job", "artifacts", "checkpoint", "atomic", "progress", "provenance", "gpu", "device", "errors")
} | {"lossatlas"}
RULE_FILES = sorted((ROOT / "workflow/rules").glob("*.smk"))
CONSTANTS = {
    name: re.findall(r'"(lossatlas[\w.]*)"', arguments)
    for path in RULE_FILES
    for name, arguments in re.findall(r"^(\w+_CODE) = code\(([^)]*)\)", path.read_text(), flags=re.MULTILINE)
}


def rules() -> list[tuple[str, list[str], Path]]:
    """(rule, modules that its `code` param names, script) of every rule with such a param."""
    found = []
    for path in RULE_FILES:
        for name, body in re.findall(
            r"^rule (\w+):\n(.*?)(?=^\S|\Z)", path.read_text(), flags=re.MULTILINE | re.DOTALL
        ):
            code = re.search(r"^\s+code=(code\([^)]*\)|\w+)", body, flags=re.MULTILINE)
            script = re.search(r'"\.\./scripts/([\w.]+)"', body)
            if code and script:
                named = re.findall(r'"(lossatlas[\w.]*)"', code[1]) or CONSTANTS[code[1]]
                found.append((name, named, ROOT / "workflow/scripts" / script[1]))
    return found


def imported(script: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("lossatlas"):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in names if (ROOT / "src" / f"{name.replace('.', '/')}.py").exists()}


def test_every_computing_rule_has_a_code_hash():
    scripts = {path.name for _, _, path in rules()}
    assert scripts == {path.name for path in (ROOT / "workflow/scripts").glob("*.py")} - {"compare.py"}


@pytest.mark.parametrize(("rule", "named", "script"), rules(), ids=lambda value: getattr(value, "name", str(value)))
def test_the_hash_covers_what_the_script_loads(rule, named, script):
    needed = imported(script) - MACHINERY
    missing = set(covered(*needed)) - set(covered(*named)) - MACHINERY if needed else set()
    assert not missing, f"rule {rule}: add {', '.join(sorted(missing))} to its code(...)"
