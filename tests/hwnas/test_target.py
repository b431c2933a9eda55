"""Searches for several devices, one of which is not here."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from hwnas import manifest as manifests
from hwnas import runfolder
from hwnas.sample import random_networks, untrained_models
from hwnas.selection import select
from hwnas.spec import Spec
from hwnas.store import Store
from hwnas.target import targets
from latency import Deployment, LatencyTable, Protocol, make_runtime, profile
from latency.deployment import Bundled, instructions, processor
from latency.ortcpu import OrtCpu
from spaces.errors import LimitError, MissingKernel, SpecError, TableError
from spaces.plain import PlainSpace
from tests.hwnas.toys import Notes, short

pytestmark = pytest.mark.usefixtures("table_cache")
QUICK = Protocol(passes=2, span_ms=0.1, kernel_ms=0.1, network_ms=2.0)
SLOWER = 8.0


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Of this machine, and of a board that takes eight times as long and was never seen here."""
    folder = tmp_path_factory.mktemp("tables")
    runtime = make_runtime(Deployment.here())
    networks = untrained_models(random_networks(PlainSpace((1, 8, 8), 10, stages=2, max_width=16), seed=3)[:16])
    here = profile(runtime, networks, folder / "here.csv", QUICK)
    bundled = Bundled("onnxruntime 0.9", runtime.version, "all", instructions(processor()))
    board = LatencyTable(OrtCpu(Deployment("ort-cpu", "Board 7"), bundled), folder / "board.csv", QUICK)
    board.header = replace(board.header, memory=here.header.memory)
    board.frame = here.frame.copy()
    board.frame[["min_us", "median_us"]] *= SLOWER
    board.save()
    return SimpleNamespace(here=folder / "here.csv", board=folder / "board.csv")


def devices(tables):
    return {"latency": {"here": str(tables.here), "board": str(tables.board)}}


@pytest.fixture(scope="module")
def run(tables, tmp_path_factory):
    notes = Notes()
    spec = short(**devices(tables), **{"allow_estimates": True, "limits": {"latency.board": "1s", "params": "1M"}})
    return runfolder.search(spec, tmp_path_factory.mktemp("runs") / "both", notes), notes


def test_each_device_is_an_objective(run):
    folder, _ = run
    with Store.open(folder) as store:
        trials = store.trials()
        objectives = store.get("spec")["objectives"]
    assert objectives == ["error", "params", "macs", "latency.here", "latency.board"]
    for trial, _ in trials:
        assert trial.cheap["latency.board"] > 4 * trial.cheap["latency.here"]


def test_here_is_measured_and_elsewhere_predicted(run):
    folder, _ = run
    manifest = manifests.read(folder)
    assert manifest.devices() == ["here", "board"]
    for model in manifest.models:
        here, board = (model.latency[name] for name in ("here", "board"))
        assert here.estimated_kernels == 0
        assert here.p50_ms > 0
        assert (board.p50_ms, board.p95_ms) == (None, None)
        assert board.low_ms < board.predicted_ms < board.high_ms
        assert here.table != board.table


def test_what_is_estimated_is_counted_and_can_be_measured_there(run):
    folder, notes = run
    estimated = sum(model.latency["board"].estimated_kernels for model in manifests.read(folder).models)
    (note,) = (note for note in notes.all if note.startswith("latency on board"))
    assert f"{estimated} kernels of the front by estimate" in note
    assert str(folder / "front" / "board.zip") in note
    assert (folder / "front" / "board.zip").exists()
    assert "the table of board was never checked, so its intervals are wide" in notes.all


def test_models_are_chosen_by_device(run):
    manifest = manifests.read(run[0])
    board = sorted(model.latency["board"].high_ms for model in manifest.models)
    limit = board[0] * 1.0001
    assert select(manifest, {"latency.board": limit}).best.model.latency["board"].high_ms <= limit
    with pytest.raises(SpecError, match="could mean any of 'here', 'board'"):
        select(manifest, {"latency": limit})


def test_the_study_has_tables_of_its_own(run, tables):
    """Rows that are measured for it are kept for the next study, too."""
    folder, _ = run
    assert {"here-latency.csv", "board-latency.csv"} <= {file.name for file in folder.iterdir()}
    known = LatencyTable.load(tables.here).frame.index
    assert set(LatencyTable.load(folder / "here-latency.csv").frame.index) <= set(known)
    before = tables.board.read_text()
    assert (folder / "board-latency.csv").read_text() == before


def test_a_resume_does_without_the_table_of_a_device_elsewhere(run, tables, tmp_path):
    spec = Spec.from_json(Spec().to_json() | devices(tables))
    opened = targets(spec, tmp_path, print)
    tables.board.rename(tmp_path / "moved.csv")
    try:
        again = targets(spec, tmp_path, print)
    finally:
        (tmp_path / "moved.csv").rename(tables.board)
    assert [each.table.snapshot() for each in again] == [each.table.snapshot() for each in opened]


def test_without_estimates_a_kernel_that_is_missing_ends_it(tables, tmp_path):
    with pytest.raises(MissingKernel, match=r"board-latency\.csv lacks .* hwnas bundle .*--allow-estimates"):
        runfolder.search(short(**devices(tables)), tmp_path / "run")
    assert not list(tmp_path.glob("run/*.csv"))


def test_limits_on_a_device_hold(tables, tmp_path):
    spec = short(**devices(tables), **{"allow_estimates": True, "limits": {"latency.board": "1us"}})
    with pytest.raises(LimitError, match=r"latency\.board <= 1us"):
        runfolder.search(spec, tmp_path / "run")


def test_tables_of_different_batches(tables, tmp_path):
    batch = LatencyTable(make_runtime(Deployment.here(batch=2)), tmp_path / "two.csv")
    batch.save()
    spec = Spec.from_json({"latency": {"one": str(tables.here), "two": str(tmp_path / "two.csv")}})
    with pytest.raises(SpecError, match=r"different batches \(one: 1, two: 2\)"):
        targets(spec, tmp_path, print)


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(TableError, match=r"cannot read the latency table none\.csv"):
        targets(Spec.from_json({"latency": {"board": "none.csv"}}), tmp_path, print)


# The specification


def test_one_device_is_what_latency_means():
    spec = Spec.from_json({"latency": {"board": "b.csv"}, "limits": {"latency": "3ms"}})
    assert spec.objectives == ["error", "params", "macs", "latency.board"]
    assert spec.limits == {"latency.board": 3.0}
    assert Spec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"limits": {"latency": "3ms"}}, "limits: latency could mean any of latency.a, latency.b; name one"),
        ({"limits": {"latency.c": "3ms"}}, "limits: latency.c is not among the objectives"),
        ({"objectives": ["latency.c"]}, "objectives: latency.c: say where its table is, as in latency: {c: FILE}"),
        ({"deployment": {"threads": 2}}, "deployment and latency both say where latency counts"),
        ({"latency": {"my board": "b.csv"}}, "latency: 'my board' is no name for a device"),
        ({"latency": {"a": 3}}, "latency.a is 3; it must be text"),
        ({"latency": "b.csv"}, "latency is 'b.csv'; it must be a mapping"),
    ],
)
def test_mistakes(record, message):
    with pytest.raises(SpecError) as caught:
        Spec.from_json({"latency": {"a": "a.csv", "b": "b.csv"}} | record)
    assert message in str(caught.value)


def test_a_device_without_a_table():
    with pytest.raises(SpecError, match=r"latency\.board: say where its table is"):
        Spec.from_json({"objectives": ["latency.board"]})
