"""A table from a device that has nothing but onnxruntime and numpy; the device here is a process of its own."""

import ast
import hashlib
import json
import math
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import latency.bundle
from hwnas.cli import app
from latency import run_bundle, stopwatch
from latency.bundle import pack, pack_kernels
from latency.deployment import Bundled, Deployment, instructions, processor
from latency.kernels import Kernel
from latency.ortcpu import OrtCpu
from latency.stopwatch import distant_us
from latency.table import LatencyTable
from latency.timing import Protocol
from latency.trip import read, table_of
from spaces.errors import BundleError, LatencyError, MissingKernel, SpecError, TableError

QUICK = Protocol(passes=2, span_ms=0.1, kernel_ms=0.1, network_ms=0.2)
# As on a device: neither this project nor what it needs can be imported.
BARE = "import sys; sys.modules.update(dict.fromkeys(['onnx', 'torch', 'pandas', 'scipy', 'latency', 'spaces'])); "


def run(folder, prelude=BARE):
    """What `python run_bundle.py` prints, and its exit code."""
    code = prelude + "import runpy; runpy.run_path('run_bundle.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr, done.returncode


def unpack(bundle, folder):
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def trips(tmp_path_factory):
    """A table's whole way: bundle, first trip, second bundle, second trip."""
    from tests.latency.conftest import cnn

    folder = tmp_path_factory.mktemp("trips")
    models = [cnn(width, 8, batch="N") for width in (4, 12, 16)]
    for model, name in zip(models, "abc", strict=True):
        model.graph.name = name
    pack(folder / "bundle.zip", models[:1], models[1:], protocol=QUICK)
    printed, code = run(unpack(folder / "bundle.zip", folder / "first"))
    assert code == 0, printed
    first = read(folder / "first" / "result.zip")
    pack_kernels(folder / "kernels.zip", first)
    printed, code = run(unpack(folder / "kernels.zip", folder / "second"))
    assert code == 0, printed
    return folder, models, first, read(folder / "second" / "result.zip")


def test_the_runner_needs_onnxruntime_and_numpy_only(trips):
    """It is one file of two; both are in it whole, but for the import of the one by the other."""
    runner = (trips[0] / "first" / "run_bundle.py").read_text()
    tree = ast.parse(runner)
    for module in (stopwatch, run_bundle):
        before, _, after = Path(module.__file__).read_text().partition("from latency.stopwatch import (")
        assert before in runner
        assert after.partition(")\n")[2] in runner
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module.partition(".")[0] for module in modules} - sys.stdlib_module_names == {"onnxruntime", "numpy"}


def test_a_table_comes_back(trips, tmp_path):
    _, models, first, second = trips
    table, report = table_of(second, tmp_path / "board.csv")
    assert (first.number, second.number) == (1, 2)
    assert all("time does not add up" in warning for warning in second.warnings)
    assert table.header.deployment == Deployment.here()
    assert table.header.bundled == Bundled(
        table.runtime.version, table.runtime.version, "all", instructions(processor())
    )
    runtime = OrtCpu(Deployment.here())
    wanted = {str(kernel) for model in models for kernel in runtime.lower(model).kernels}
    assert wanted <= set(table.frame.index)
    assert (table.frame["passes"] == QUICK.passes).all()
    assert table.header.memory.share[0] == 0
    assert list(report.networks["name"]) == ["b", "c"]
    assert (report.networks["measured_ms"] > 0).all()
    assert table.header.check == report.check
    # As a file it is a table like any other; what was measured is used.
    again = LatencyTable.load(tmp_path / "board.csv")
    assert again.predict(models[0]).ms > 0
    assert len(again.frame) == len(table.frame)


def test_results_can_be_added_to_a_table(trips, tmp_path):
    second = trips[3]
    table, _ = table_of(second, tmp_path / "board.csv")
    before = table.path.read_text()
    again, _ = table_of(second, tmp_path / "board.csv")
    assert again.frame.equals(table.frame)
    assert [line for line in before.splitlines() if line[0] != "#"] == [
        line for line in table.path.read_text().splitlines() if line[0] != "#"
    ]


def test_the_predictions_are_those_of_kernels_that_were_optimised_there(trips):
    """The graphs of the device are this machine's, so that its judges are predicted alike."""
    _, models, first, second = trips
    runtime = OrtCpu(Deployment.here())
    for name, model in zip(("n1", "n2"), models[1:], strict=True):
        here = runtime.lower(model)
        network = second.job["networks"][name]
        assert sorted(second.job["kernels"][each] for each in network["kernels"]) == sorted(map(str, here.kernels))
        assert network["footprint"] == here.footprint
    assert set(first.graphs) == {"n0", "n1", "n2", "probe"}


def test_whole_networks_keep_their_numbers_finite(trips):
    """Weights of any numbers would overflow within ten layers."""
    folder, *_ = trips
    weights = json.loads((folder / "second" / "weights.json").read_text())["n2"]
    model = (folder / "second" / "n2.onnx").read_bytes()
    made = stopwatch.session(model, weights, stopwatch.session_options(1))
    (result,) = made.run(None, stopwatch.feed(made))
    assert np.isfinite(result).all()


def test_an_interrupted_run_goes_on(trips, tmp_path):
    folder, *_ = trips
    board = unpack(folder / "kernels.zip", tmp_path / "board")
    lines = (folder / "second" / "progress.jsonl").read_text().splitlines()
    # Killed within a line, in the middle.
    (board / "progress.jsonl").write_text("\n".join([*lines[:40], lines[40][:-3]]))
    printed, code = run(board)
    assert code == 0, printed
    assert f"{len(lines) - 1} of {len(lines) - 1}" in printed
    assert (board / "progress.jsonl").read_text().splitlines()[:40] == lines[:40]
    values = read(board / "result.zip").values
    assert [values[json.loads(line)[0]] for line in lines[1:40]] == [json.loads(line)[1] for line in lines[1:40]]
    assert set(values) == set(trips[3].values)


def test_a_kernel_that_could_not_be_timed_is_tried_again_the_next_time(trips, tmp_path, monkeypatch, capsys):
    folder = unpack(trips[0] / "kernels.zip", tmp_path / "again")
    monkeypatch.setattr(run_bundle, "__file__", str(folder / "run_bundle.py"))
    with monkeypatch.context() as noisy:
        noisy.setattr(run_bundle, "kernel_seconds", lambda *arguments: None)
        assert run_bundle.main() == 1
    assert "could not be timed" in capsys.readouterr().out
    assert not (folder / "result.zip").exists()
    assert run_bundle.main() == 0
    assert read(folder / "result.zip").number == 2


def test_progress_of_another_bundle_is_not_used(trips, tmp_path):
    folder, *_ = trips
    board = unpack(folder / "kernels.zip", tmp_path / "board")
    head, *rest = (folder / "second" / "progress.jsonl").read_text().splitlines()
    head = json.dumps(json.loads(head) | {"version": "0.1"})
    (board / "progress.jsonl").write_text(
        "\n".join([head, *(json.dumps([json.loads(rest[0])[0], "stale"]) for _ in "a")])
    )
    assert run(board)[1] == 0
    assert "stale" not in read(board / "result.zip").values.values()


def test_a_damaged_bundle_is_not_run(trips, tmp_path):
    folder, *_ = trips
    board = unpack(folder / "kernels.zip", tmp_path / "board")
    with (board / "k0_1.onnx").open("ab") as file:
        file.write(b"x")
    printed, code = run(board)
    assert (code, printed.count("\n")) == (1, 1)
    assert "This bundle is damaged: k0_1.onnx is not as it was packed. Unpack it again" in printed
    shutil.rmtree(board)
    unpack(folder / "kernels.zip", board)
    (board / "k0_1.onnx").unlink()
    assert "No such file" in run(board)[0]


def test_networks_that_the_device_refuses_are_named(net, tmp_path):
    """An old runtime, say. Those that it takes are measured."""
    writer = net()
    fine = writer.model(writer.add("Relu", "image"), [1, 3, 8, 8], None)
    odd = onnx.ModelProto()
    odd.CopyFrom(fine)
    odd.graph.node[0].op_type, odd.graph.name = "Swirl", "whirl"
    pack(tmp_path / "bundle.zip", [fine, odd], protocol=QUICK)
    printed, code = run(unpack(tmp_path / "bundle.zip", tmp_path / "board"))
    assert code == 0, printed
    trip = read(tmp_path / "board" / "result.zip")
    (warning,) = trip.warnings
    assert warning.startswith("the device refuses whirl: ")
    assert "Swirl" in warning
    assert set(trip.graphs) == {"n0", "probe"}


def repack(source, target, change=None, *, digest=True, text=None):
    """A copy of a result with something changed; with a digest that fits, as a forger would make."""
    with zipfile.ZipFile(source) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    if change:
        result = json.loads(files["result.json"])
        change(result)
        files["result.json"] = json.dumps(result).encode()
    if text:
        files["result.json"] = text
    if digest:
        files["digest"] = hashlib.sha256(files["result.json"]).hexdigest().encode()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target


def test_a_result_that_was_cut_short_is_refused(trips, tmp_path):
    folder, *_ = trips
    content = (folder / "second" / "result.zip").read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.zip").write_bytes(content[:length])
        with pytest.raises(BundleError, match=r"cut\.zip is not a whole, unchanged result of run_bundle\.py"):
            read(tmp_path / "cut.zip")
    with pytest.raises(BundleError, match="No such file"):
        read(tmp_path / "none.zip")


def test_a_table_that_cannot_take_what_comes_back_is_refused_before_the_second_trip(trips, tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("milk, eggs")
    result = CliRunner().invoke(app, ["unbundle", str(trips[0] / "first" / "result.zip"), "-o", str(notes)])
    assert result.exit_code == 2
    assert "notes.txt is not a latency table" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_bundle_is_not_its_result(trips):
    with pytest.raises(BundleError, match=r"it is a bundle; what comes back is called result\.zip"):
        read(trips[0] / "bundle.zip")


def first_kernel(result, value):
    result["values"]["k0/0"] = value


@pytest.mark.parametrize(
    "change",
    [
        lambda result: first_kernel(result, 0.0),
        lambda result: first_kernel(result, -1e-6),
        lambda result: first_kernel(result, math.nan),
        lambda result: first_kernel(result, math.inf),
        lambda result: first_kernel(result, "1e-6"),
        lambda result: first_kernel(result, None),
        lambda result: result["values"].pop("k0/1"),
        lambda result: result["values"].pop("timer"),
        lambda result: result["values"].update({"n1/0": []}),
        lambda result: result["values"].update({"c0": {"0": -1.0}}),
        lambda result: result["values"].update({"c0": None}),
        lambda result: result["job"]["kernels"].update({"k0": "import os"}),
        lambda result: result["job"].update({"threads": 0}),
        lambda result: result["job"].update({"format": 99}),
        lambda result: result["job"].update({"bundled": {"version": 3}}),
        lambda result: result["job"]["protocol"].update({"passes": 10**9}),
        lambda result: result.pop("device"),
        lambda result: result["device"].update({"cpuinfo": 7}),
        lambda result: result["device"].update({"cores": math.inf}),
        lambda result: result["device"].update({"cpuinfo": "model name : Another 7"}),
        lambda result: result["device"].update({"system": "Linux\n# version: 7"}),
        lambda result: result.update({"version": "onnxruntime 0.1"}),
        lambda result: first_kernel(result, 1e-10),
        lambda result: first_kernel(result, 1e305),
        lambda result: result["values"].update({"m0": {"0": 1e300}}),
        lambda result: result["job"].update({"threads": 1.0}),
        lambda result: result["job"].update({"trip": 3}),
        lambda result: result["job"].update({"rounds": 1}),
        lambda result: result["job"]["protocol"].update({"patience": 1}),
        lambda result: result["job"]["protocol"].update({"span_ms": "long"}),
        lambda result: result["job"]["probes"]["p0"].__setitem__(2, 0),
        lambda result: result["job"]["probes"]["p0"].__setitem__(2, 10**400),
        lambda result: result["job"]["pauses_ms"].popitem(),
        lambda result: result["job"].update({"pauses_ms": {name: [3.0] for name in result["job"]["pauses_ms"]}}),
        lambda result: result["job"].update({"composites": {}}),
        lambda result: result["job"]["networks"]["n1"].pop("name"),
        lambda result: result["job"]["networks"]["n1"].update({"kernels": []}),
        lambda result: result["job"]["networks"]["n1"].update({"kernels": ["k999"]}),
        lambda result: result["job"]["networks"]["n1"].update({"footprint": 10**400}),
    ],
)
def test_a_forged_result_is_refused(trips, tmp_path, change):
    folder, *_ = trips
    source = folder / "second" / "result.zip"
    assert read(repack(source, tmp_path / "same.zip")).values == trips[3].values
    with pytest.raises(BundleError):
        read(repack(source, tmp_path / "changed.zip", change, digest=False))
    with pytest.raises(BundleError):
        read(repack(source, tmp_path / "forged.zip", change))


def test_forged_graphs_are_refused(trips, tmp_path):
    folder, *_ = trips
    source = folder / "first" / "result.zip"

    def swap(result):
        result["graphs"]["n0"] = result["graphs"]["n1"]

    for change in (swap, lambda result: result["graphs"].pop("probe")):
        with pytest.raises(BundleError):
            read(repack(source, tmp_path / "forged.zip", change))
    with zipfile.ZipFile(source) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    result = json.loads(files["result.json"])
    files["n0.onnx"] = b"not a graph"
    result["graphs"]["n0"] = hashlib.sha256(files["n0.onnx"]).hexdigest()
    files["result.json"] = json.dumps(result).encode()
    files["digest"] = hashlib.sha256(files["result.json"]).hexdigest().encode()
    with zipfile.ZipFile(tmp_path / "forged.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(BundleError):
        read(tmp_path / "forged.zip")


def test_a_result_that_would_fill_the_memory_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("result.json", b"0" * (65 << 20))
    assert (tmp_path / "bomb.zip").stat().st_size < 100_000
    with pytest.raises(BundleError, match="unpacked it would be larger than 64 MB"):
        read(tmp_path / "bomb.zip")


def test_a_bundle_replaces_bundles_only(make_cnn, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("measured for hours")
    with pytest.raises(BundleError, match=r"table\.csv is there and no bundle; choose another file"):
        pack(path, [make_cnn(4, 8)])
    assert path.read_text() == "measured for hours"
    path.unlink()
    for _ in range(2):
        pack(path, [make_cnn(4, 8)])


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"batch": -1}])
def test_bundles_of_nothing_are_refused_at_once(make_cnn, tmp_path, wrong):
    with pytest.raises(SpecError, match="must be at least 1"):
        pack(tmp_path / "bundle.zip", [make_cnn(4, 8)], **wrong)


def test_a_device_with_fewer_cores_says_so(make_cnn, tmp_path):
    pack(tmp_path / "bundle.zip", [make_cnn(4, 8)], threads=10_000)
    printed, code = run(unpack(tmp_path / "bundle.zip", tmp_path / "there"))
    assert code == 1
    assert "The bundle wants 10000 threads, and this process may use" in printed


def test_bundles_are_limited_in_size(monkeypatch, make_cnn, tmp_path):
    monkeypatch.setattr(latency.bundle, "MOST_BYTES", 20_000)
    with pytest.raises(BundleError, match="take fewer networks"):
        pack(tmp_path / "bundle.zip", [make_cnn(8, 8)])
    monkeypatch.undo()
    with pytest.raises(BundleError, match="cannot write the bundle"):
        pack(tmp_path / "no folder" / "bundle.zip", [make_cnn(8, 8)])


# Tables of runtimes elsewhere.


def elsewhere(device, bundled):
    return OrtCpu(Deployment("ort-cpu", device), bundled)


def test_graphs_of_another_version_are_found_by_the_one_that_made_the_same(make_cnn):
    here = OrtCpu(Deployment.here())
    same = Bundled("onnxruntime 0.9", here.version, "all", instructions(processor()))
    runtime = elsewhere(processor(), same)
    assert not runtime.here  # the version is another
    assert sorted(map(str, runtime.lower(make_cnn(16, 16)).kernels)) == sorted(
        map(str, here.lower(make_cnn(16, 16)).kernels)
    )
    plain = elsewhere("Cortex-A53 neon", Bundled("onnxruntime 0.9", here.version, "extended", "neon"))
    kernels = plain.lower(make_cnn(16, 16)).kernels
    assert {kernel.op for kernel in kernels} >= {"FusedConv", "Call"}
    assert not {kernel.domain for kernel in kernels} & {"com.microsoft.nchwc"}


@pytest.mark.parametrize(
    "bundled",
    [
        Bundled("onnxruntime 0.9"),
        Bundled("onnxruntime 0.9", "onnxruntime 0.8", "extended", "neon"),
        Bundled("onnxruntime 0.9", f"onnxruntime {stopwatch.ort.__version__}", "all", "sse0"),
    ],
)
def test_graphs_that_cannot_be_found_here(make_cnn, bundled):
    with pytest.raises(LatencyError, match=r"which kernels onnxruntime 0\.9 runs on Board .* hwnas bundle"):
        elsewhere("Board sse0", bundled).lower(make_cnn(8, 8))


def test_a_missing_kernel_of_a_bundled_table_says_how_to_get_it(make_cnn, tmp_path):
    here = OrtCpu(Deployment.here())
    runtime = elsewhere("Board 7", Bundled("onnxruntime 0.9", here.version, "all", instructions(processor())))
    table = LatencyTable.open(runtime, tmp_path / "board.csv")
    with pytest.raises(
        MissingKernel, match=r"of onnxruntime 0\.9 on Board 7.*hwnas bundle .*hwnas unbundle .*board\.csv"
    ):
        table.predict(make_cnn(8, 8))


def test_tables_of_two_devices_do_not_mix(trips, tmp_path):
    runtime = elsewhere("Board 7", None)
    LatencyTable.open(runtime, tmp_path / "board.csv").save()
    with pytest.raises(TableError, match=r"is of .*Board 7.*, not of"):
        table_of(trips[3], tmp_path / "board.csv")


@pytest.mark.parametrize(
    ("wrong", "sound"),
    [({}, True), ({"few_us": 7.0}, False), ({"many_us": 7.0}, False), ({"ran": 1}, False), ({"step": 1e-3}, False)],
)
def test_a_clock_is_sound_if_time_adds_up(wrong, sound):
    found = {"step": 1e-7, "few_us": 5.0, "many_us": 5.1, "ran": 1 + run_bundle.DEGREE}
    assert run_bundle.timer_is_sound(found | wrong) is sound


def test_every_copy_that_the_clock_is_tried_with_runs(trips):
    timer = trips[3].values["timer"]
    assert timer["ran"] == 1 + run_bundle.DEGREE
    assert 0 < timer["step"] < 1


def test_what_cold_weights_add_is_in_order(monkeypatch):
    """The runtime may walk through the nodes backwards."""
    names = [f"{n}_{copy}" for n in range(3) for copy in ("other", "same0", "same1", "more")]
    monkeypatch.setattr("latency.stopwatch.node_us", lambda *_: {name: [1.0, 1.0] for name in reversed(names)})
    assert list(distant_us(b"", [], 1)) == ["0", "1", "2"]


def test_the_second_bundle_says_what_the_first_did(trips):
    _, _, first, second = trips
    assert second.job["protocol"] == first.job["protocol"] == asdict(QUICK)
    assert all(Kernel.parse(line) for line in second.job["kernels"].values())
