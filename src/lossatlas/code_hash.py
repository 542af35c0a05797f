"""The hash of the code a result comes from: code changes it, a comment, docstring or layout does not.

Snakemake sees a rule's own text and script only; a rule that passes `params: code=code("lossatlas.training")`
runs again when anything that module imports inside the package changes. Sources are read, never imported.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lossatlas.errors import LossAtlasError

DOCUMENTED = ("Module", "ClassDef", "FunctionDef", "AsyncFunctionDef")


def code(*modules: str) -> str:
    """16 hexadecimal digits over the named modules and all they import inside their packages.

    Equal on every Python from 3.11 and in whatever order the modules are named.
    """
    digest = hashlib.sha256()
    for name in covered(*modules):
        tree, _ = _parse(_source(name).read_text(encoding="utf-8"))
        digest.update(b"%s:%s\n" % (name.encode(), tree))
    return digest.hexdigest()[:16]


def covered(*modules: str) -> list[str]:
    """The sorted names of the modules that `code(*modules)` reads.

    Import statements are followed wherever they stand, also in functions; `importlib.import_module` is not. The file
    of a parent package counts, but what it imports only if something is imported from the package itself: that a
    package shows its modules together does not make them depend on each other.
    Raises `LossAtlasError` for a module that does not exist.
    """
    for name in modules:
        if _source(name) is None:
            raise LossAtlasError(f"code hash: there is no module {name}; correct the name in the rule's params")
    followed: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in followed and _source(name) is not None:
            followed.add(name)
            waiting += _imports(name)
    return sorted(followed | {parent for name in followed for parent in _parents(name)})


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def canonical(node: Any) -> str:
    """A syntax tree without positions, docstrings and empty fields, as text: equal on Python 3.11, 3.12 and 3.13."""
    if isinstance(node, list):
        return f"[{', '.join(map(canonical, node))}]"
    if not isinstance(node, ast.AST):
        return repr(repr(node))
    name = type(node).__name__
    if name == "JoinedStr":
        # 3.12 adds an empty text to nested format specifications
        values = [part for part in node.values if getattr(part, "value", None) != ""]
        return f"({name!r}, {canonical(values)})"
    fields = []
    for field in node._fields:
        value = getattr(node, field, None)
        if field == "body" and name in DOCUMENTED and ast.get_docstring(node, clean=False) is not None:
            value = value[1:]
        if value is not None and value != []:
            fields.append(f"({field!r}, {canonical(value)})")
    return f"({name!r}, [{', '.join(fields)}])"


@cache
def _parse(text: str) -> tuple[bytes, list[tuple[int, str, list[str]]]]:
    """The canonical tree of a source, and its imports as (level, module, names)."""
    tree = ast.parse(text)
    imports = []
    for node in _statements(tree.body):
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imports.append((node.level, node.module or "", [alias.name for alias in node.names]))
    return canonical(tree).encode(), imports


def _statements(nodes: list[ast.AST]) -> Iterator[ast.AST]:
    """All statements, also within others (and the handlers and cases that hold some)."""
    for node in nodes:
        yield node
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            if isinstance(inner := getattr(node, block, None), list):  # the body of a lambda is an expression
                yield from _statements(inner)


def _imports(name: str) -> Iterator[str]:
    """Names inside the package that the module `name` imports; some may be attributes, not modules."""
    source = _source(name)
    package = name if source.name == "__init__.py" else name.rpartition(".")[0]
    root = name.partition(".")[0]
    for level, module, names in _parse(source.read_text(encoding="utf-8"))[1]:
        if level:
            base = package.split(".")[: len(package.split(".")) - level + 1]
            module = ".".join([*base, module]) if module else ".".join(base)
        if module.partition(".")[0] == root:
            submodules = [f"{module}.{name}" for name in names if _source(f"{module}.{name}") is not None]
            yield from submodules
            if len(submodules) < len(names) or not names:
                yield module


def _source(name: str) -> Path | None:
    """The file of a module; found from its top package, since finding a submodule imports its parents."""
    top, *rest = name.split(".")
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    if not rest:
        return path if path.suffix == ".py" else None
    base = path.parent.joinpath(*rest)
    candidates = (base / "__init__.py", base.with_name(f"{base.name}.py"))
    return next((file for file in candidates if file.is_file()), None)
