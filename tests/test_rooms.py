"""The rooms are built on each other in one direction: spaces <- latency <- objectives <- hwnas."""

import ast
from pathlib import Path

import pytest

ROOMS = ("spaces", "latency", "objectives", "hwnas")
ROOT = Path(__file__).parents[1]


def imported(file: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, in functions and behind TYPE_CHECKING too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import hides which room it is from"
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_is_built_on(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    above = set(ROOMS[ROOMS.index(room) + 1 :])
    assert {str(file.relative_to(ROOT)): imported(file) & above for file in files if imported(file) & above} == {}


def test_no_room_imports_the_tests_or_the_benchmarks():
    files = [file for room in ROOMS for file in (ROOT / room).rglob("*.py")]
    assert {str(file) for file in files if imported(file) & {"tests", "benchmarks", "examples", "pytest"}} == set()


def test_the_reader_of_imports_sees_them_wherever_they_are(tmp_path):
    file = tmp_path / "module.py"
    file.write_text("import os.path\ndef f():\n    from hwnas.study import Study\n    import latency, numpy as np\n")
    assert imported(file) == {"os", "hwnas", "latency", "numpy"}
    file.write_text("from .arch import Arch\n")
    with pytest.raises(AssertionError, match=r"module.py:1: a relative import"):
        imported(file)
