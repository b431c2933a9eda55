import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import latency
from latency.deployment import Deployment
from latency.kernels import Kernel
from latency.memory import MB, Memory
from latency.ortcpu import OrtCpu
from latency.prediction import UNCHECKED_HIGH, UNCHECKED_LOW
from latency.table import LatencyTable, cache_path
from latency.tablefile import Check, read, write
from latency.timing import Protocol
from spaces.errors import LatencyError, MissingKernel, TableError

QUICK = Protocol(passes=3, kernel_ms=0.01)
RELU, SIGMOID, TANH = (Kernel.parse(f"{op}@13 1x8 -> 1x8") for op in ("Relu", "Sigmoid", "Tanh"))
CHECK = Check(30, 0.02, 0.95, 1.0, 0.99, 0.01, 0.97, 1.04, "2026-11-22T12:00:00+00:00")


@pytest.fixture
def table(scripted, tmp_path):
    return LatencyTable.open(scripted(), tmp_path / "table.csv", QUICK)


# Predictions.


def test_a_network_takes_the_sum_of_its_kernels(table, make_cnn):
    model = make_cnn(8, 16)
    kernels = table.runtime.lower(model).kernels
    latency = table.predict(model)
    assert latency.ms == pytest.approx(1e3 * sum(table.runtime.seconds(kernel) for kernel in kernels))
    assert (latency.kernels, latency.estimated, latency.table) == (len(kernels), 0, table.snapshot())
    assert len(table.frame) == len(set(kernels)) < len(kernels)


@pytest.mark.parametrize(
    ("mb", "paid"), [(0.1, 0.0), (1, 0.0), (8**0.5, 0.25), (8, 0.5), (32, 0.75), (128, 1.0), (1e4, 1.0)]
)
def test_weights_from_further_away_take_longer(scripted, tmp_path, make_cnn, mb, paid):
    """What that adds is measured per kernel; the footprint of the network decides how much of it is paid."""
    runtime = scripted(
        far=lambda kernel: 1e-5 if kernel.constants else 0.0, near_and_far=Memory((1, 8, 128), (0.0, 0.5, 1.0))
    )
    table, kernels = LatencyTable.open(runtime, tmp_path / "table.csv", QUICK), runtime.lower(make_cnn(8, 16)).kernels
    table.extend(kernels)
    weighty = sum(1 for kernel in kernels if kernel.constants)
    near = 1e3 * sum(map(runtime.seconds, kernels))
    assert table.total(kernels, int(mb * MB)).ms == pytest.approx(near + 1e-2 * weighty * paid, rel=1e-3)


def test_what_others_move_counts_as_long_as_the_network_runs(scripted, tmp_path, make_cnn):
    kernels = scripted().lower(make_cnn(8, 16)).kernels
    found = []
    for traffic in 0.0, 1e3:  # a millisecond of it is a megabyte
        memory = Memory((1, 8, 128), (0.0, 0.5, 1.0), traffic)
        runtime = scripted(seconds=lambda kernel: 1e-3, far=lambda kernel: 1e-5, near_and_far=memory)
        table = LatencyTable.open(runtime, tmp_path / f"{traffic}.csv", QUICK)
        table.extend(kernels)
        own = 60 * MB if traffic == 0 else (60 - len(kernels)) * MB
        found.append(table.total(kernels, own).ms)
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_device_that_is_started_kernel_by_kernel_may_have_to_wait(scripted, tmp_path, make_cnn):
    model = make_cnn(8, 16)
    kernels = scripted().lower(model).kernels
    device = 1e3 * sum(map(scripted().seconds, kernels))
    for launching, wanted in ((1e-6, device), (1e-3, float(len(kernels)))):
        runtime = scripted(launching=lambda kernel, seconds=launching: seconds)
        latency = LatencyTable.open(runtime, tmp_path / f"{launching}.csv", QUICK).predict(model)
        assert latency.ms == pytest.approx(wanted)
        assert latency.low_ms <= latency.ms <= latency.high_ms


def test_the_memory_is_measured_once_and_kept(scripted, tmp_path):
    memory = Memory((1, 4), (0.0, 1.0))
    table = LatencyTable.open(scripted(near_and_far=memory), tmp_path / "table.csv", QUICK)
    table.extend([RELU])
    table.runtime.near_and_far = Memory((1, 4), (0.0, 0.5))
    table.extend([SIGMOID])
    assert table.header.memory == memory
    study = LatencyTable.open(table.runtime, tmp_path / "study.csv", QUICK, shared=table.path)
    study.extend([RELU, TANH])
    assert study.header.memory == memory
    assert LatencyTable.open(table.runtime, study.path).header.memory == memory


def test_many_networks_are_measured_together_and_predicted_from_one_snapshot(table, make_cnn):
    models = [make_cnn(width, 8) for width in (4, 8, 12)]
    latencies = table.predict_many(models)
    assert [latency.table for latency in latencies] == [table.snapshot()] * 3
    asked = list(table.runtime.asked)
    assert table.predict_many(models) == latencies
    assert table.runtime.asked == asked  # nothing was measured again
    # All missing kernels in one go: the list of the first pass comes three times.
    third = len(asked) // 3
    assert asked == asked[:third] * 3


def test_no_networks(table):
    assert table.predict_many([]) == []


def test_a_row_is_measured_once_and_then_frozen(table):
    assert table.extend([RELU, RELU, SIGMOID]) == 2
    before = table.frame.copy()
    table.runtime.seconds = lambda kernel: 1.0
    assert table.extend([SIGMOID, TANH, RELU]) == 1
    assert table.frame.loc[before.index].equals(before)
    assert table.frame.loc[str(TANH), "min_us"] == 1e6


def test_a_kernel_that_seems_free_never_enters_the_table(table):
    table.extend([RELU])
    before = table.path.read_bytes()
    table.runtime.seconds = lambda kernel: 0.0
    with pytest.raises(LatencyError, match="'Sigmoid@13 1x8 -> 1x8'"):
        table.extend([SIGMOID])
    assert table.path.read_bytes() == before
    assert table.missing([SIGMOID]) == [SIGMOID]


def test_without_a_check_the_interval_is_wide(table, make_cnn):
    latency = table.predict(make_cnn(8, 16))
    assert latency.low_ms == pytest.approx(UNCHECKED_LOW * latency.ms)
    assert latency.high_ms == pytest.approx(UNCHECKED_HIGH * latency.ms)


def test_passes_that_differ_widen_it(table, net):
    # One copy and several are timed in each of three passes.
    seconds = iter([1e-3, 1e-3, 2e-3, 2e-3, 4e-3, 4e-3])
    table.runtime.seconds = lambda kernel: next(seconds)
    writer = net()
    latency = table.predict(writer.model(writer.add("Relu", "image"), [1, 8], None))
    assert latency.ms == pytest.approx(1.0)
    assert latency.high_ms == pytest.approx(2 * UNCHECKED_HIGH)


def test_with_a_check_the_interval_is_the_checks(table, make_cnn):
    table.record(CHECK)
    latency = table.predict(make_cnn(8, 16))
    assert (latency.low_ms, latency.high_ms) == pytest.approx((0.97 * latency.ms, 1.04 * latency.ms))


def test_the_interval_holds_the_prediction_even_if_the_table_is_biased(table, make_cnn):
    table.record(Check(**{**vars(CHECK), "low": 1.1, "high": 1.3}))
    latency = table.predict(make_cnn(8, 16))
    assert (latency.low_ms, latency.high_ms) == pytest.approx((latency.ms, 1.3 * latency.ms))


def test_a_kernel_missing_elsewhere_is_an_error_with_the_command(scripted, tmp_path, make_cnn):
    board = Deployment("ort-cpu", "Cortex-A72 neon", threads=4, batch=2)
    table = LatencyTable.open(scripted(board, here=False), tmp_path / "my board.csv")
    with pytest.raises(MissingKernel) as caught:
        table.predict(make_cnn(8, 16, batch="N"))
    message = str(caught.value)
    assert "lacks 22 kernels, the first being 'Sub@14 2x3x16x16 w:1x3x1x1 -> 2x3x16x16'" in message
    assert "It is of scripted 1.0 on Cortex-A72 neon, which this is not." in message
    assert (
        f"hwnas profile --runtime ort-cpu --threads 4 --batch 2 -o '{tmp_path}/my board.csv' --for MODEL.onnx"
        in message
    )
    assert not table.path.exists()


def test_a_table_of_elsewhere_predicts_what_it_holds(scripted, tmp_path, make_cnn):
    path = tmp_path / "table.csv"
    expected = LatencyTable.open(scripted(), path, QUICK).predict(make_cnn(8, 16))
    runtime = scripted(here=False)
    assert LatencyTable.open(runtime, path).predict(make_cnn(8, 16)) == expected
    assert runtime.asked == []


# Snapshots.


def test_a_snapshot_changes_with_the_content_and_only_then(table):
    empty = table.snapshot()
    assert table.snapshot() == empty
    table.extend([RELU])
    one = table.snapshot()
    table.extend([RELU])
    assert table.snapshot() == one
    table.record(CHECK)
    assert len({empty, one, table.snapshot()}) == 3


def test_a_table_read_back_is_the_table_that_was_written(table, scripted):
    numbers = iter(np.random.default_rng(0).uniform(1e-7, 1e-2, 100))
    table.runtime.seconds = lambda kernel: next(numbers)
    table.extend([RELU, SIGMOID])
    table.record(CHECK)
    again = LatencyTable.open(scripted(), table.path)
    assert again.frame.equals(table.frame)
    assert again.header == table.header
    assert again.snapshot() == table.snapshot()


# The file.


def test_the_file_can_be_read_by_people(table):
    table.runtime.seconds = lambda kernel: 2e-6
    table.extend([SIGMOID, RELU])
    lines = table.path.read_text().splitlines()
    assert lines[:9] == [
        "# hwnas latency table, format 3",
        "# runtime: ort-cpu",
        "# device: Scripted 1 neon",
        "# threads: 1",
        "# batch: 1",
        "# precision: fp32",
        "# layout: nchw",
        "# version: scripted 1.0",
        "# driver: none",
    ]
    assert lines[-3:] == [
        "kernel,median_us,min_us,spread,passes,middle_us,cold_us,launch_us",
        "Relu@13 1x8 -> 1x8,2.0,2.0,0.0,3,0.0,0.0,0.0",
        "Sigmoid@13 1x8 -> 1x8,2.0,2.0,0.0,3,0.0,0.0,0.0",
    ]


def test_a_new_row_is_one_new_line(table):
    table.extend([RELU, TANH])
    before = table.path.read_text().splitlines()
    table.extend([SIGMOID])
    after = table.path.read_text().splitlines()
    changed = set(before) ^ set(after)
    assert len(changed) == 3  # the row, and the snapshot before and after
    assert sum(line.startswith("# snapshot: ") for line in changed) == 2


def test_a_table_goes_on_with_the_protocol_it_began_with(table, scripted):
    table.extend([RELU])
    assert LatencyTable.open(scripted(), table.path, Protocol(passes=9)).header.protocol == QUICK


def damage(path: Path, how: str) -> None:
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    if how == "cut short":
        path.write_text("".join(lines[:-1]))
    elif how == "cut within a line":
        path.write_text(text[:-3])
    elif how == "edited":
        path.write_text(text.replace(",3,", ",4,", 1))
    elif how == "another device":
        path.write_text(text.replace("Scripted 1", "Scripted 2"))
    elif how == "no snapshot":
        path.write_text("".join(line for line in lines if "snapshot" not in line))
    elif how == "title only":
        path.write_text(lines[0])


@pytest.mark.parametrize(
    "how", ["cut short", "cut within a line", "edited", "another device", "no snapshot", "title only"]
)
def test_a_damaged_file_is_refused(table, scripted, how):
    table.extend([RELU, SIGMOID])
    damage(table.path, how)
    for attempt in (
        lambda: LatencyTable.open(scripted(), table.path),
        lambda: LatencyTable.load(table.path),
        table.save,
    ):
        with pytest.raises(TableError, match=r"was cut short or edited: .* build it again with hwnas profile"):
            attempt()


@pytest.mark.parametrize("content", [b"", b"kernel,min_us\n", b"\xff\xfe\x00", b"PK\x03\x04"])
def test_a_file_that_is_no_table_is_refused(scripted, tmp_path, content):
    path = tmp_path / "other.csv"
    path.write_bytes(content)
    with pytest.raises(TableError, match=r"other\.csv"):
        LatencyTable.open(scripted(), path)


def test_a_missing_file(tmp_path):
    with pytest.raises(TableError, match=r"cannot read the latency table .*absent\.csv.*build one with hwnas profile"):
        LatencyTable.load(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# threads: 1", "# threads: many"),
        ("# threads: 1", "# threads: 0"),
        ("# runtime: ort-cpu", "# runtime: abacus"),
        ("# version: scripted 1.0\n", ""),
        ("# check: null", '# check: {"mape": 1}'),
        ('"passes": 3', '"shots": 3'),
        ('"passes": 3', '"passes": 0'),
        (",2.0,2.0,", ",2.0,0.0,"),
        (",2.0,2.0,", ",2.0,-1.0,"),
        (",2.0,2.0,", ",2.0,,"),
        (",2.0,2.0,", ",2.0,quick,"),
        ("median_us,min_us", "min_us,median_us"),
        ("Sigmoid@13", "Relu@13"),
    ],
)
def test_a_table_signed_but_senseless_is_refused(table, scripted, old, new):
    """Whoever forges the snapshot too still cannot bring in a free kernel."""
    table.runtime.seconds = lambda kernel: 2e-6
    table.extend([RELU, SIGMOID])
    head, _, rest = table.path.read_text().replace(old, new).partition("# snapshot: ")
    body = rest.partition("\n")[2]
    table.path.write_text(f"{head}# snapshot: {hashlib.sha256((head + body).encode()).hexdigest()[:16]}\n{body}")
    with pytest.raises(TableError, match=r"cannot be understood: .*build it again"):
        LatencyTable.open(scripted(), table.path)


def test_a_table_of_another_deployment_is_refused_by_both_names(table, scripted):
    table.extend([RELU])
    other = scripted(Deployment("ort-cpu", "Board neon", threads=2))
    with pytest.raises(TableError) as caught:
        LatencyTable.open(other, table.path)
    assert f"is of {table.header.deployment}, not of {other.deployment}" in str(caught.value)


def test_a_table_of_another_version_is_refused_by_both_names(table, scripted):
    table.extend([RELU])
    with pytest.raises(
        TableError, match=r"measured with scripted 1\.0; this is scripted 2\.0.*hwnas profile .*-o NEW\.csv"
    ):
        LatencyTable.open(scripted(version="scripted 2.0"), table.path)


def test_a_table_may_not_be_saved_over_another_devices(table, scripted):
    table.extend([RELU])
    other = LatencyTable(scripted(Deployment("ort-cpu", "Board neon")), table.path, QUICK)
    before = table.path.read_bytes()
    with pytest.raises(TableError, match="Board neon"):
        other.extend([SIGMOID])
    assert table.path.read_bytes() == before


def test_a_folder_that_cannot_be_written(scripted, tmp_path):
    (tmp_path / "file").write_text("")
    table = LatencyTable(scripted(), tmp_path / "file" / "table.csv", QUICK)
    with pytest.raises(TableError, match=r"cannot write the latency table .*choose another file"):
        table.extend([RELU])


def test_what_a_killed_writer_left_is_gone_after_the_next_write(table):
    table.extend([RELU])
    script = (
        "import os, sys; from latency.tablefile import *; os.replace = lambda *_: os._exit(9); p = Path(sys.argv[1])"
    )
    killed = subprocess.run(
        [sys.executable, "-c", f"{script}; write(p, *read(p))", str(table.path)],
        env={**os.environ, "PYTHONPATH": str(Path(latency.__file__).parents[1])},
    )
    assert killed.returncode == 9
    assert len(list(table.path.parent.iterdir())) == 3
    table.extend([SIGMOID])
    assert {path.name for path in table.path.parent.iterdir()} == {"table.csv", ".table.csv.lock"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(table, monkeypatch, step):
    table.extend([RELU])
    before = table.path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(TableError, match="No space left on device; choose another file"):
        table.extend([SIGMOID])
    assert table.path.read_bytes() == before
    assert {path.name for path in table.path.parent.iterdir()} == {"table.csv", ".table.csv.lock"}


def test_progress_and_batches(table, scripted):
    """Every batch is on disk before the next one begins."""
    kernels = [Kernel.parse(f"Relu@14 1x{n} -> 1x{n}") for n in range(1, 451)]
    seen = []
    table.extend(kernels, lambda done, of: seen.append((done, of, len(read(table.path)[1]))))
    assert seen == [(200, 450, 200), (400, 450, 400), (450, 450, 450)]


# Several writers.


def test_two_tables_of_one_file_keep_each_others_rows(scripted, tmp_path):
    path = tmp_path / "table.csv"
    one, two = (LatencyTable.open(scripted(seconds=lambda kernel, s=s: s), path, QUICK) for s in (1e-6, 2e-6))
    one.extend([RELU, SIGMOID])
    two.extend([SIGMOID, TANH])
    assert list(read(path)[1]["min_us"]) == [1.0, 1.0, 2.0]
    assert two.frame.loc[str(SIGMOID), "min_us"] == 1.0  # the first one to write is believed by both
    stale = one.snapshot()
    one.save()
    assert one.snapshot() == two.snapshot() != stale


def test_the_later_of_two_checks_stays(scripted, tmp_path):
    path = tmp_path / "table.csv"
    one, two = (LatencyTable.open(scripted(), path, QUICK) for _ in range(2))
    later = Check(**{**vars(CHECK), "date": "2026-11-23T12:00:00+00:00"})
    one.record(later)
    stale = two.snapshot()
    two.save()
    assert two.snapshot() != stale
    two.record(CHECK)
    assert two.header.check == read(path)[0].check == later


WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from latency.deployment import Deployment
from latency.kernels import Kernel
from latency.memory import MB, Memory
from latency.ortcpu import OrtCpu
from latency.table import LatencyTable
from latency.timing import Protocol

path, first = Path(sys.argv[1]), int(sys.argv[2])
table = LatencyTable.open(OrtCpu(Deployment.here()), path, Protocol(passes=1, kernel_ms=0.1))
for n in [*range(first, first + 15), 999]:
    table.extend([Kernel.parse(f"Relu@14 1x{n} -> 1x{n}")])
print(table.frame.loc["Relu@14 1x999 -> 1x999", "min_us"])
"""


def test_two_processes_lose_none_of_each_others_rows(tmp_path):
    path = tmp_path / "table.csv"
    environment = {**os.environ, "PYTHONPATH": str(Path(latency.__file__).parents[1])}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(first)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for first in (1, 101)
    ]
    answers = [writer.communicate(timeout=120)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    _, frame = read(path)
    assert sorted(int(line.split("x")[-1]) for line in frame.index) == [*range(1, 16), *range(101, 116), 999]
    assert {float(answer) for answer in answers} == {frame.loc["Relu@14 1x999 -> 1x999", "min_us"]}


@pytest.mark.parametrize("known", [RELU, None])
def test_what_a_table_has_used_outlives_a_file_begun_anew(scripted, tmp_path, known):
    """Someone clears the cache and measures other values; only what was never used here may come from there."""
    path = tmp_path / "table.csv"
    one = LatencyTable.open(scripted(seconds=lambda kernel: 1e-6), path, QUICK)
    one.extend([RELU])
    if known is None:  # read, not measured
        one = LatencyTable.open(scripted(seconds=lambda kernel: 1e-6), path, QUICK)
    path.unlink()
    LatencyTable.open(scripted(seconds=lambda kernel: 2e-6), path, QUICK).extend([RELU, TANH])
    one.extend([SIGMOID])
    assert list(one.frame["min_us"]) == [1.0, 1.0, 2.0]
    assert read(path)[1].equals(one.frame)


# A study's own table beside the one all studies share.


def opened(scripted, folder: Path, seconds: float, protocol: Protocol | None = QUICK) -> LatencyTable:
    """A study's table, kept in its folder, on a machine where kernels take so long at the moment."""
    runtime = scripted(seconds=lambda kernel: seconds)
    return LatencyTable.open(runtime, folder / "run" / "latency.csv", protocol, shared=folder / "cache" / "table.csv")


def test_a_study_takes_over_what_it_needs_and_gives_what_it_measures(scripted, tmp_path):
    LatencyTable.open(scripted(seconds=lambda kernel: 1e-6), tmp_path / "cache" / "table.csv", QUICK).extend(
        [RELU, TANH]
    )
    study = opened(scripted, tmp_path, 2e-6)
    seen = []
    assert study.extend([SIGMOID, RELU], lambda *step: seen.append(step)) == 1
    assert seen == [(1, 1)]
    assert study.runtime.asked == ["Sigmoid"] * 3  # in three passes
    assert dict(study.frame["min_us"]) == {str(RELU): 1.0, str(SIGMOID): 2.0}
    assert read(study.path)[1].equals(study.frame)
    assert dict(read(tmp_path / "cache" / "table.csv")[1]["min_us"]) == {
        str(RELU): 1.0, str(SIGMOID): 2.0, str(TANH): 1.0
    }  # fmt: skip
    assert study.snapshot() == opened(scripted, tmp_path, 9e-6).snapshot()


@pytest.mark.parametrize("resumed", [False, True])
def test_a_studys_rows_outlive_the_cache(scripted, tmp_path, resumed):
    study = opened(scripted, tmp_path, 1e-6)
    study.extend([RELU])
    shutil.rmtree(tmp_path / "cache")
    opened(scripted, tmp_path / "other", 2e-6).extend([RELU, SIGMOID])
    shutil.copytree(tmp_path / "other" / "cache", tmp_path / "cache")
    if resumed:
        study = opened(scripted, tmp_path, 3e-6)
    study.extend([RELU, SIGMOID, TANH])
    assert study.frame.loc[str(RELU), "min_us"] == 1.0
    assert read(study.path)[1].equals(study.frame)


def test_a_check_is_the_studys_own(scripted, tmp_path):
    """It speaks of networks of one space; the next study may search another."""
    study = opened(scripted, tmp_path, 1e-6)
    study.extend([RELU])
    study.record(CHECK)
    study.extend([TANH])
    assert opened(scripted, tmp_path, 1e-6).header.check == CHECK
    assert read(tmp_path / "cache" / "table.csv")[0].check is None


def test_a_studys_table_goes_on_with_one_protocol(scripted, tmp_path):
    """A new one measures as the shared one does, whose rows it takes; one that measured otherwise goes on alone."""
    shared = LatencyTable.open(scripted(), tmp_path / "cache" / "table.csv", QUICK)
    shared.extend([RELU])
    study = opened(scripted, tmp_path, 1e-6, protocol=None)
    study.extend([RELU])
    assert study.header.protocol == QUICK
    assert study.runtime.asked == []
    shared.path.unlink()
    opened(scripted, tmp_path, 1e-6, protocol=None).extend([TANH])
    assert read(shared.path)[0].protocol == QUICK  # a shared one begun anew follows the study's
    shared.path.unlink()
    longer = LatencyTable.open(scripted(seconds=lambda kernel: 5e-6), shared.path, Protocol(passes=4, kernel_ms=0.01))
    longer.extend([SIGMOID])
    again = opened(scripted, tmp_path, 1e-6)
    again.extend([SIGMOID])
    assert again.frame.loc[str(SIGMOID), ["min_us", "passes"]].tolist() == [1.0, 3]
    assert read(longer.path)[1].equals(longer.frame)


def test_a_cache_that_cannot_be_written_is_done_without(scripted, tmp_path):
    """Whoever runs in a container may have no home."""
    (tmp_path / "file").touch()
    told = []
    runtime = scripted()
    study = LatencyTable.open(
        runtime, tmp_path / "run" / "latency.csv", QUICK, shared=tmp_path / "file" / "table.csv", note=told.append
    )
    assert study.extend([RELU, TANH]) == 2
    assert study.extend([RELU, SIGMOID]) == 1
    assert sorted(read(study.path)[1].index) == sorted(map(str, [RELU, SIGMOID, TANH]))
    assert len(runtime.asked) == 3 * 3  # each kernel in three passes, and no more
    (note,) = told
    assert note.startswith("the shared latency table is not used any more: cannot write the latency table")


def test_a_cache_that_may_not_be_looked_into_is_done_without(scripted, tmp_path, monkeypatch):
    real, told = Path.exists, []

    def exists(path, **options):
        if path.name == "table.csv":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(Path, "exists", exists)
    study = LatencyTable.open(
        scripted(), tmp_path / "latency.csv", QUICK, shared=tmp_path / "table.csv", note=told.append
    )
    assert study.extend([RELU]) == 1
    (note,) = told
    assert "table.csv is not used: [Errno 13] Permission denied" in note


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda path: path.write_text(path.read_text()[:-20]), "was cut short or edited"),
        (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
    ],
)
def test_a_damaged_cache_is_done_without(scripted, tmp_path, harm, why):
    shared, told = tmp_path / "table.csv", []
    LatencyTable.open(scripted(), shared, QUICK).extend([RELU])
    harm(shared)
    study = LatencyTable.open(scripted(), tmp_path / "latency.csv", QUICK, shared=shared, note=told.append)
    assert study.extend([RELU]) == 1
    (note,) = told
    assert note.startswith(f"the shared latency table {shared} is not used: ")
    assert why in note


def test_a_shared_table_of_another_device_is_done_without(scripted, tmp_path):
    shared, told = tmp_path / "table.csv", []
    LatencyTable.open(scripted(Deployment("ort-cpu", "Board neon")), shared).extend([RELU])
    study = LatencyTable.open(scripted(), tmp_path / "latency.csv", QUICK, shared=shared, note=told.append)
    assert study.extend([RELU]) == 1
    (note,) = told
    assert re.search(r"is of ort-cpu on Board neon .*, not of ort-cpu on Scripted 1 neon", note)


def test_a_shared_table_of_a_device_elsewhere_is_the_one_to_extend(scripted, tmp_path):
    board = tmp_path / "board.csv"
    LatencyTable.open(scripted(), board, QUICK).extend([RELU])
    study = LatencyTable.open(scripted(here=False), tmp_path / "latency.csv", shared=board)
    study.extend([RELU])
    with pytest.raises(MissingKernel, match=rf"the table {board} lacks 1 kernels.*-o {board}"):
        study.extend([RELU, SIGMOID])
    assert list(study.frame.index) == [str(RELU)]


# With the real runtime.


def test_load_finds_the_runtime_by_itself(tmp_path, make_cnn):
    table = LatencyTable.open(
        OrtCpu(Deployment.here(batch=2)), tmp_path / "table.csv", Protocol(passes=1, kernel_ms=0.1)
    )
    model = make_cnn(8, 8, batch="N")
    expected = table.predict(model)
    again = LatencyTable.load(table.path)
    assert isinstance(again.runtime, OrtCpu)
    assert again.runtime.deployment == Deployment.here(batch=2)
    assert again.predict(model) == expected


def test_networks_that_cannot_be_lowered_do_not_touch_the_table(tmp_path, net):
    table = LatencyTable.open(OrtCpu(Deployment.here()), tmp_path / "table.csv")
    writer = net()
    with pytest.raises(LatencyError, match="deployment's batch is 1"):
        table.predict(writer.model(writer.add("Relu", "image"), [2, 8], None))
    assert not table.path.exists()


def test_the_default_file_is_keyed_by_deployment_and_version(monkeypatch, tmp_path, scripted):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = cache_path(scripted())
    assert path.name == "ort-cpu_scripted-1-neon_t1_b1_fp32_scripted-1.0.csv"
    assert path.parent.parts[-2:] == ("latency", "format-3")
    assert LatencyTable.open(scripted()).path == path
    assert cache_path(scripted(version="scripted 2.0")) != path


def test_headers_hold_what_json_can_say(table):
    """A rank correlation that is undefined is null, not NaN, which JSON lacks."""
    table.record(Check(**{**vars(CHECK), "kendall_tau": None}))
    line = next(line for line in table.path.read_text().splitlines() if line.startswith("# check: "))
    assert json.loads(line.removeprefix("# check: "), parse_constant=pytest.fail)["kendall_tau"] is None
    assert read(table.path)[0].check.kendall_tau is None


def test_write_is_the_inverse_of_read(table, tmp_path):
    table.extend([RELU, SIGMOID])
    write(tmp_path / "copy.csv", *read(table.path))
    assert (tmp_path / "copy.csv").read_bytes() == table.path.read_bytes()
