"""The examples run: each in a process of its own, as a user would start it."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

pytestmark = pytest.mark.usefixtures("table_cache")


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_example_runs(script: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("spec", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_specification_is_searched(spec: Path, tmp_path: Path) -> None:
    import hwnas

    example = hwnas.Spec.load(spec)
    assert example != hwnas.Spec()
    # A limit in time that every machine keeps, however busy.
    short = {"limits.latency": "1s", "budget": 2, "search.epochs": 0.2, "threads": 1}
    end = {"final.epochs": 0.2, "final.references": False}
    run = hwnas.search(example.resolve(short | end), tmp_path / "run")
    assert hwnas.select(hwnas.read_manifest(run), {}).best
