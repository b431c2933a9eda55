"""The comparison on NAS-Bench-201 runs on any table of that form, and reports what it says it does."""

import itertools
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from objectives.proxies import PROXIES
from spaces.cell import OPERATIONS, pruned, write
from spaces.cellspace import CellSpace

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Tables of all cells, with accuracies and latencies that are made up; some latencies are lacking."""
    folder = tmp_path_factory.mktemp("tables")
    cells = list(itertools.product(OPERATIONS, repeat=6))
    space, rng = CellSpace((3, 32, 32), 10), np.random.default_rng(0)
    alive = [pruned(cell) for cell in cells]
    convs = np.array([sum(op.startswith("nor_conv") for op in cell) + ("skip_connect" in cell) for cell in alive])
    index = np.arange(len(cells))
    accuracy = np.where([any(op != "none" for op in cell) for cell in alive], 94 - 30 * np.exp(-0.6 * convs), 10.0)
    some = [i % 500 == 0 for i in index]
    params = [space.params(write(cell)) if one else 1e5 for cell, one in zip(cells, some, strict=True)]
    texts = [write(cell) for cell in cells]
    pd.DataFrame(
        {"arch_index": index, "arch_str": texts, "params": params, "test": accuracy, "early": accuracy / 2}
    ).to_parquet(folder / "accuracy.parquet")
    latency = 2.0 + convs + rng.uniform(0, 0.5, len(cells))
    pd.DataFrame({"arch_index": index, "board": np.where(index % 97 == 7, np.nan, latency)}).to_parquet(
        folder / "latency.parquet"
    )
    return folder


def run(tables, *arguments):
    files = ["--accuracy", tables / "accuracy.parquet", "--latency", tables / "latency.parquet"]
    command = [sys.executable, BENCHMARKS / "nasbench201.py", *files, "--error", "test", "--jobs", "1", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


def test_the_comparison_reports_what_it_promises(tables, tmp_path):
    out = tmp_path / "found.json"
    asked = ["--device", "board", "--strategies", "lemonade", "surrogate", "--evaluations", "30", "--seeds", "2"]
    done = run(tables, *asked, "--json", out, "--cache", tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("board, error,latency, error test; reference (0.2, ")
    assert ", and most seeds of no rival get there" in done.stdout  # random search is the only one
    assert len(list((tmp_path / "cache").iterdir())) == 3 * 2
    again = run(tables, *asked, "--json", out, "--cache", tmp_path / "cache")
    assert again.stdout == done.stdout
    found = json.loads(out.read_text())["strategies"]
    assert set(found) == {"random", "lemonade", "surrogate"}
    for one in found.values():
        assert 0 < one["fraction"]["30"]["q25"] <= one["fraction"]["30"]["median"] <= one["fraction"]["30"]["q75"] <= 1
        assert set(one["evaluations_to"]) == {"0.98", "0.99"}
    assert found["surrogate"]["fraction"]["30"]["median"] > found["random"]["fraction"]["30"]["median"]


def test_evaluations_needed_are_compared():
    ratio = runpy.run_path(str(BENCHMARKS / "nasbench201.py"))["ratio"]
    own, rival = [40.0, 50.0, 60.0] * 10, [90.0, 100.0, 110.0, None] * 8
    times, low, high, p = ratio(own, rival)
    assert times == 50 / 105
    assert 0.4 < low < times < high < 0.6
    assert p < 1e-6
    assert ratio(rival, rival)[3] > 0.99


def test_every_rival_runs_on_three_objectives(tables):
    """On a table that lacks some cells."""
    rivals = [
        "regularized-evolution",
        "nsga2",
        "sms-emoa",
        "lemonade-uniform",
        "surrogate-study-box",
        "surrogate-blind",
    ]
    asked = ["--device", "board", "--objectives", "error,latency,params", "--evaluations", "20", "--seeds", "1"]
    done = run(tables, *asked, "--strategies", *rivals)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[2:9]] == ["random", *rivals]


def test_steady_state_is_compared(tables):
    files = ["--accuracy", tables / "accuracy.parquet", "--latency", tables / "latency.parquet", "--device", "board"]
    command = [sys.executable, BENCHMARKS / "steady_state.py", *files, "--seeds", "1", "--jobs", "1", "--error", "test"]
    done = subprocess.run([*map(str, command), "--times", "1", "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("synchronous") == done.stdout.count("steady") == 4


def test_a_cheap_error_is_searched_on_and_the_real_one_scored(tables, tmp_path):
    out = tmp_path / "found.json"
    asked = ["--device", "board", "--strategies", "local-search", "--evaluations", "40", "--seeds", "2"]
    done = run(tables, *asked, "--search-error", "early", "--json", out)
    assert done.returncode == 0, done.stderr
    assert "error early, scored by test" in done.stdout
    assert json.loads(out.read_text())["strategies"]["local-search"]["fraction"]["40"]["median"] > 0.5


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--device", "phone"], "has no column 'phone'; it has arch_index, board"),
        (["--device", "board", "--search-error", "late"], "has no column 'late'; it has arch_index, arch_str"),
        (["--device", "board", "--objectives", "latency"], "--objectives is 'latency'; write error,latency"),
        (["--device", "board", "--reference-error", "1"], "no row has an error below 1 %"),
        (["--device", "board", "--seeds", "0"], "must be at least 1"),
    ],
)
def test_what_cannot_be_says_why(tables, arguments, why, monkeypatch, capsys):
    files = ["--accuracy", tables / "accuracy.parquet", "--latency", tables / "latency.parquet"]
    monkeypatch.setattr("sys.argv", list(map(str, ["nasbench201.py", *files, "--error", "test", *arguments])))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(BENCHMARKS / "nasbench201.py"), run_name="__main__")
    assert ended.value.code != 0
    assert why in f"{ended.value.code}{capsys.readouterr().err}"


def test_proxies_are_held_against_accuracies_and_others_scores(tables, tmp_path):
    accuracy = pd.read_parquet(tables / "accuracy.parquet")
    others = {"arch_index": accuracy.arch_index, "synflow": accuracy.test, "jacov": accuracy.test, "nwot": -1e8}
    pd.DataFrame(others).to_parquet(tmp_path / "others.parquet")
    out = tmp_path / "found.json"
    asked = ["--n", 6, "--rest", 3, "--batch", 4, "--column", "test", "--data", "digits", "--jobs", 1, "--timed", 1]
    files = ["--accuracy", tables / "accuracy.parquet", "--reference", tmp_path / "others.parquet"]
    command = [sys.executable, BENCHMARKS / "proxies_nasbench201.py", *asked, *files, "--json", out]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["n"] == 6
    assert found["ensemble"]["reference"]["kendall"] == pytest.approx(1)
    assert set(found["proxies"]) == set(PROXIES)
    assert {name: one["n"] for name, one in found["proxies"].items() if one["n"] == 6}.keys() == {
        "synflow",
        "jacov",
        "naswot",
    }
    assert all(one["seconds"] > 0 for one in found["proxies"].values())


def test_results_of_other_settings_are_not_mixed(tmp_path):
    kept = runpy.run_path(str(BENCHMARKS / "kept.py"))
    kept["same_settings"](tmp_path / "out", images=100)
    kept["same_settings"](tmp_path / "out", images=100)
    assert kept["kept"](tmp_path / "out" / "a.json", lambda: [1]) == [1]
    assert kept["kept"](tmp_path / "out" / "a.json", lambda: [2]) == [1]
    with pytest.raises(SystemExit, match=r"holds results of .*100.*, not of .*200"):
        kept["same_settings"](tmp_path / "out", images=200)


def test_the_epochs_to_an_error_are_between_those_that_were_measured(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    epochs_to = runpy.run_path(str(BENCHMARKS / "children.py"))["epochs_to"]
    errors, links = [0.9, 0.5, 0.5, 0.3], (1.0, 1.0, 2.0)
    assert epochs_to(errors, links, 0.5) == 1.0
    assert epochs_to(errors, links, 0.4) == 3.0
    assert epochs_to(errors, links, 0.95) == 0.0
    assert epochs_to(errors, links, 0.2) == float("inf")
