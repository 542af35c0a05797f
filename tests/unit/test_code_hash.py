"""Code changes the hash of whatever imports it; words and layout do not; no Python version has its own."""

import sys
import textwrap
from itertools import count

import pytest

from lossatlas.code_hash import code, covered
from lossatlas.errors import LossAtlasError

NUMBER = count()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function that writes {file name: source} as a package of a new name; `PKG` stands for that name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(files, name=None):
        name = name or f"lab{next(NUMBER)}"
        for file, source in {"__init__.py": "", **files}.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(source).replace("PKG", name))
        return name

    return write


SOURCE = '''
"""Says what it does."""
import math

def area(radius):  # of a disc
    """In square metres."""
    return math.pi * radius ** 2

class Disc:
    """Round."""
    sides = 1
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # of a disc", ""),
        ('"""Says what it does."""', "# nothing"),
        ("In square metres.", "In acres."),
        ('"""Round."""\n', ""),
        ("math.pi * radius ** 2", "(\n        math.pi\n        * radius**2\n    )"),
    ],
)
def test_comments_docstrings_and_layout_do_not_change_the_hash(package, old, new):
    name = package({"disc.py": SOURCE})
    before = code(f"{name}.disc")
    assert old in SOURCE
    package({"disc.py": SOURCE.replace(old, new)}, name)
    assert code(f"{name}.disc") == before


@pytest.mark.parametrize(("old", "new"), [("** 2", "** 3"), ("sides = 1", "sides = 1.0"), ("(radius)", "(radius=1)")])
def test_code_changes_the_hash(package, old, new):
    name = package({"disc.py": SOURCE})
    before = code(f"{name}.disc")
    assert old in SOURCE
    package({"disc.py": SOURCE.replace(old, new)}, name)
    assert code(f"{name}.disc") != before


@pytest.mark.parametrize(
    "statement",
    [
        "import PKG.deep.leaf",
        "import PKG.deep.leaf as leaf",
        "from PKG.deep import leaf",
        "from PKG.deep.leaf import value",
        "from PKG.deep.leaf import *",
        "from .deep import leaf",
        "from .deep.leaf import value",
        "def late():\n    from PKG.deep import leaf",
        "import PKG.middle",
        "from PKG import middle",
        "from . import middle",
        "from .deep import through",
        "from PKG import deep",
        "if 1 > 2:\n    import PKG.deep",
    ],
)
def test_an_import_in_any_form_is_followed(package, statement):
    files = {
        "root.py": statement,
        "middle.py": "from PKG.deep.through import value",
        "deep/__init__.py": "from .inner import value",
        "deep/inner.py": "from ..deep import leaf",
        "deep/through.py": "from . import leaf",
        "deep/leaf.py": "value = 1",
        "stranger.py": "value = 1",
    }
    name = package(files)
    before = code(f"{name}.root")
    package({"stranger.py": "value = 2"}, name)
    assert code(f"{name}.root") == before
    package({"deep/leaf.py": "value = 2"}, name)
    assert code(f"{name}.root") != before


def test_the_files_of_parent_packages_count(package):
    name = package({"deep/__init__.py": "", "deep/leaf.py": "", "beside.py": ""})
    assert covered(f"{name}.deep.leaf") == [name, f"{name}.deep", f"{name}.deep.leaf"]


@pytest.mark.parametrize(
    ("user", "depends"),
    [
        ("from PKG.shapes.disc import area", False),
        ("from PKG.shapes import disc", False),
        ("from PKG.shapes import side", True),
        ("from PKG.shapes import disc, side", True),
        ("import PKG.shapes", True),
    ],
)
def test_a_package_that_shows_its_modules_together_does_not_tie_them_to_each_other(package, user, depends):
    files = {
        "shapes/__init__.py": "from PKG.shapes.disc import area\nfrom PKG.shapes.square import side",
        "shapes/disc.py": "def area(): return 3",
        "shapes/square.py": "def side(): return 1",
        "user.py": user,
    }
    name = package(files)
    before = code(f"{name}.user")
    package({**files, "shapes/square.py": "def side(): return 2"}, name)
    assert (code(f"{name}.user") != before) == depends


def test_circular_imports_end(package):
    name = package({"a.py": "import PKG.b", "b.py": "from . import a"})
    assert covered(f"{name}.a") == covered(f"{name}.b") == [name, f"{name}.a", f"{name}.b"]


def test_the_order_of_the_names_does_not_matter_but_the_names_do(package):
    name = package({"a.py": "x = 1", "b.py": "y = 2", "c.py": "x = 1"})
    assert code(f"{name}.a", f"{name}.b") == code(f"{name}.b", f"{name}.a")
    assert len({code(f"{name}.a"), code(f"{name}.c"), code(f"{name}.a", f"{name}.b")}) == 3


def test_nothing_is_imported(package):
    name = package({"__init__.py": "raise RuntimeError", "a.py": "raise RuntimeError"})
    assert len(code(f"{name}.a")) == 16
    assert name not in sys.modules


def test_a_module_that_does_not_exist_is_named(package):
    name = package({"a.py": ""})
    for wrong in (f"{name}.b", "no_such_package", "no_such_package.b"):
        with pytest.raises(LossAtlasError, match=f"there is no module {wrong}"):
            code(f"{name}.a", wrong)


GRAMMAR = '''
"""Every construct whose tree has differed between versions."""
from __future__ import annotations

async def walk(x: int, /, *rest: str, step: float = 1e-3, **more) -> list[str]:
    """Walks."""
    async with more["a"] as a, a.b as b:
        print(f"{x!r:>{step}} {step:.3f} {{}} {f'{x}'}" "tail", u"old", b"bytes", ...)
    match rest:
        case [first, *_] if (n := len(first)) > 1:
            return [*rest, {**more}, n]
        case {"k": 1 | 2} | None:
            return lambda *, y=0: (yield y)
    try:
        del x[1:2, ::3]
    except* OSError as error:
        raise ValueError from error
    global z
    return [i async for i in rest if i] and -0.0 + 10**20 + 1j
'''


def test_the_hash_of_a_text_is_the_same_on_every_python(package):
    """The frozen value was computed alike by Python 3.11.7, 3.12.1 and 3.13.0."""
    package({"__init__.py": GRAMMAR}, "frozen_grammar")
    assert code("frozen_grammar") == "1b4e7cc5992fc6e2"
