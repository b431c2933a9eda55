"""The command line: options, output, exit codes, and sentences instead of tracebacks.

Searches themselves are run in the tests of the study; here `Recorder` stands in for them, and shows what it was asked.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner, Result

from hwnas import latencycli
from hwnas import manifest as manifests
from hwnas.cli import app
from hwnas.manifest import Manifest
from hwnas.progress import Progress, Quiet
from hwnas.spec import Spec
from latency import Deployment, LatencyTable, make_runtime
from spaces.onnx import to_onnx
from spaces.plain import PlainSpace
from spaces.state import initial_state

DEVICE = "ort-cpu_test_t1_b1_fp32"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "cwd"
    empty.mkdir()
    monkeypatch.chdir(empty)


def hwnas(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: str | Path) -> str:
    """The sentence that a wrong command ends with; it has no traceback in it."""
    result = hwnas(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr


@dataclass
class Recorder:
    """A study that ends at once, with the given manifest or the given error."""

    manifest: Manifest
    error: BaseException | None = None
    asked: list[tuple[object, ...]] = field(default_factory=list)

    def search(self, spec: Spec, out: Path, progress: Progress) -> Path:
        self.asked.append((spec, out, progress))
        out.mkdir(parents=True)
        return self._end(out)

    def resume(self, out: Path, progress: Progress, budget: str | None = None, data: str | None = None) -> Path:
        self.asked.append((out, progress, budget, data))
        return self._end(out)

    def _end(self, out: Path) -> Path:
        (out / "study.db").touch()
        if self.error:
            raise self.error
        manifests.write(self.manifest, out / manifests.FRONT)
        return out


@pytest.fixture
def study(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder(manifest)
    module = ModuleType("hwnas.runfolder")
    module.__dict__.update(search=recorder.search, resume=recorder.resume)
    monkeypatch.setitem(sys.modules, "hwnas.runfolder", module)
    import hwnas

    monkeypatch.setattr(hwnas, "runfolder", module, raising=False)  # an import of the real one would stay there
    return recorder


# select


def test_select_does_not_recommend_a_file_that_is_gone(run: Path) -> None:
    (run / "front" / "large.onnx").unlink()
    assert "large.onnx is missing; write it anew with 'hwnas resume" in refused("select", run)


def test_select_prints_best_cheaper_and_better(run: Path) -> None:
    result = hwnas("select", run, "--max", "latency=1ms", "--max", "params=200k")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "within latency <= 1ms, params <= 200k",
        f"best     {run}/front/medium.onnx",
        "         validation 95.00% ± 0.40%; test 94.00%; latency 500us; params 20k",
        f"cheaper  {run}/front/small.onnx",
        "         validation 90.00% ± 0.40% (-5.00 points); test 89.00%; latency 100us (-80%); params 4k (-80%)",
        f"better   {run}/front/large.onnx",
        "         validation 98.00% ± 0.40% (+3.00 points); test 97.00%; latency 2ms (+300%), 2 times the limit; "
        "params 100k (+400%)",
    ]


def test_select_without_limits(run: Path) -> None:
    first, *_ = hwnas("select", run).stdout.splitlines()
    assert first == f"best     {run}/front/large.onnx"


def test_select_json_holds_the_manifest_entry_and_its_path(run: Path) -> None:
    result = hwnas("select", run, "--max", "latency=1ms", "--json")
    found = json.loads(result.stdout)
    assert found["limits"] == {f"latency.{DEVICE}": 1.0}
    assert found["best"]["path"] == str(run / "front" / "medium.onnx")
    assert Path(found["best"]["path"]).is_file()
    assert found["best"]["costs"] == {f"latency.{DEVICE}": 0.5}
    assert found["best"]["accuracy"]["val"] == 0.95
    assert found["nearest_miss"] is None


def test_select_says_by_how_much_nothing_fits(run: Path) -> None:
    result = hwnas("select", run, "--max", "latency=40us", "--max", "params=1M", "--max", "error=5%")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "nothing fits latency <= 40us, params <= 1M, error <= 5%",
        f"nearest miss {run}/front/small.onnx",
        "         validation 90.00% ± 0.40%; test 89.00%; latency 100us, 2.5 times the limit; params 4k; "
        "error 10%, 2 times the limit",
    ]
    as_json = hwnas("select", run, "--max", "latency=40us", "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["nearest_miss"]["file"] == "small.onnx"


def test_select_marks_what_is_over_the_limits_of_the_search(run: Path) -> None:
    manifest = manifests.read(run)
    large, *others = manifest.models
    over = large.model_copy(update={"over_limits": ["latency"]})
    manifests.write(manifest.model_copy(update={"models": [over, *others]}), run / "front")
    mark = "over the search's own limit on latency"
    best, facts, *others = hwnas("select", run, "--max", "latency=1s").stdout.splitlines()[1:]
    assert best == f"best     {run}/front/large.onnx"
    assert facts.endswith(mark)
    assert not any(mark in line for line in others)
    assert hwnas("select", run).stdout.startswith(f"best     {run}/front/fat.onnx")


def test_select_by_percentile_and_device(run: Path) -> None:
    at_95 = hwnas("select", run, "--max", "latency=2.5ms", "--percentile", "95")
    assert "best     " + f"{run}/front/medium.onnx" in at_95.stdout
    assert "'phone'; the devices of this run are" in refused("select", run, "--max", "latency=1ms", "--device", "phone")
    assert "--percentile is 99" in refused("select", run, "--percentile", "99")


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        ("latency", "error: 'latency' is no limit; write a quantity"),
        ("latncy=3ms", "did you mean latency?"),
        ("latency=fast", "latency is 'fast'; it must be a value above 0"),
        ("params=-5", "params is '-5'"),
    ],
)
def test_select_refuses_wrong_limits(run: Path, limit: str, sentence: str) -> None:
    assert sentence in refused("select", run, "--max", limit)


# front, export


def test_front_prints_table_and_hypervolume(run: Path) -> None:
    lines = hwnas("front", run).stdout.splitlines()
    assert [line.split()[0] for line in lines if line] == [
        *("network", "large", "fat", "medium", "small", "plain-s", "hypervolume")
    ]
    assert lines[-1] == "hypervolume 0.7500"
    assert Manifest.model_validate_json(hwnas("front", run, "--json").stdout) == manifests.read(run)


def test_export_copies_everything_that_is_needed(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "ship"
    result = hwnas("export", run, "-o", out)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"4 models in {out}")
    assert {path.name for path in out.iterdir()} == {
        *("large.onnx", "fat.onnx", "medium.onnx", "small.onnx", "manifest.json", "predict.py")
    }
    assert hwnas("select", out, "--max", "params=5k").stdout.splitlines()[1] == f"best     {out}/small.onnx"


def test_export_of_the_selected_one(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "ship"
    result = hwnas("export", run, "-o", out, "--max", "latency=1ms")
    assert result.stdout.startswith(f"1 model in {out}")
    assert {path.name for path in out.iterdir()} == {"medium.onnx", "manifest.json", "predict.py"}
    assert [model.file for model in manifests.read(out).models] == ["medium.onnx"]
    assert hwnas("export", run, "-o", tmp_path / "none", "--max", "latency=1us").exit_code == 1
    assert not (tmp_path / "none").exists()


def test_export_refuses_full_folders_and_damaged_files(run: Path, tmp_path: Path) -> None:
    assert "is not an empty folder" in refused("export", run, "-o", run)
    damaged = run / "front" / "fat.onnx"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert "fat.onnx is not the file that was verified" in refused("export", run, "-o", tmp_path / "ship")
    damaged.unlink()
    assert "fat.onnx is missing" in refused("export", run, "-o", tmp_path / "ship")
    assert not (tmp_path / "ship").exists()


def test_export_of_an_empty_front_copies_nothing(run: Path, tmp_path: Path) -> None:
    manifests.write(manifests.read(run).model_copy(update={"models": []}), run / "front")
    for limits in ([], ["--max", "params=5k"]):
        assert "the front is empty, so there is nothing to" in refused("export", run, "-o", tmp_path / "ship", *limits)
    assert not (tmp_path / "ship").exists()


# search, resume


def test_search_resolves_its_options(study: Recorder, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("seed: 3\nlimits: {params: 1M, latency: 9ms}\nsearch: {children: 4}\n")
    out = tmp_path / "runs" / "mine"
    options = ["--data", "cifar10", "--budget", "30m", "--image-size", "32", "--metric", "balanced-accuracy"]
    limits = ["--limit", "latency=3ms", "--limit", "macs=50M"]
    result = hwnas("search", spec, "--out", out, *options, *limits, "--threads", "2", "--strategy", "nsga2", "--quiet")
    assert result.exit_code == 0, result.output
    ((asked, folder, progress),) = study.asked
    assert isinstance(asked, Spec)
    assert (asked.seed, asked.search.children, asked.threads, asked.budget.time) == (3, 4, 2, 1800.0)
    assert (asked.data.source, asked.data.image_size, asked.data.metric) == ("cifar10", 32, "balanced-accuracy")
    assert asked.limits == {"params": 1e6, "latency": 3.0, "macs": 5e7}
    assert asked.search.strategy == "nsga2"
    assert folder == out
    assert isinstance(progress, Quiet)


def test_search_shows_the_front_and_what_to_do_next(study: Recorder, tmp_path: Path) -> None:
    out = tmp_path / "my runs" / "a"
    result = hwnas("search", "--out", out)
    assert "plain-s" in result.stdout
    assert f"4 models in {out}/front" in result.stdout
    assert "abc was not trained to the end: the budget ended" in result.stdout
    assert f"hwnas select '{out}' --max latency=2ms" in result.stdout


def test_search_without_options_is_the_default_run(study: Recorder) -> None:
    assert hwnas("search").exit_code == 0
    assert hwnas("search", "--data", "/data/My Flowers/").exit_code == 0
    (first, default, _), (_, flowers, _) = study.asked
    assert first == Spec()
    assert str(default).startswith("runs/digits-2")
    assert str(flowers).startswith("runs/my-flowers-2")


def test_search_refuses_a_folder_with_a_study(study: Recorder, tmp_path: Path) -> None:
    (tmp_path / "study.db").touch()
    sentence = refused("search", "--out", tmp_path)
    assert sentence.strip().endswith(f"Go on with 'hwnas resume {tmp_path}' or name another folder.")
    assert not study.asked


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("serach: {}\n", "serach: unknown key; did you mean search?"),
        ("seed: many\n", "seed"),
        ("seed: [1\n", "line"),
    ],
)
def test_wrong_specs_are_explained(study: Recorder, tmp_path: Path, text: str, sentence: str) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(text)
    message = refused("search", spec)
    assert str(spec) in message
    assert sentence in message
    assert not study.asked
    assert "there is no file" in refused("search", tmp_path / "none.yaml")


def test_resume_passes_a_budget_and_the_place_of_the_images(study: Recorder, run: Path) -> None:
    assert hwnas("resume", run).exit_code == 0
    assert hwnas("resume", run, "--budget", "1h30m", "--quiet").exit_code == 0
    assert hwnas("resume", run, "--data", "images").exit_code == 0
    assert [options for _, _, *options in study.asked] == [[None, None], ["1h30m", None], [None, "images"]]
    assert hwnas("resume", run, "--budget", "200").exit_code == 0
    assert "write a duration such as 30m, or a number of trainings" in refused("resume", run, "--budget", "5x")
    assert len(study.asked) == 4


def test_ctrl_c_says_how_to_resume(study: Recorder, tmp_path: Path) -> None:
    study.error = KeyboardInterrupt()
    out = tmp_path / "a run"
    for command in (["search", "--out", out], ["resume", out]):
        result = hwnas(*command)
        assert result.exit_code == 130
        assert result.stderr.strip() == (
            f"interrupted; all finished trainings are kept, go on with: hwnas resume '{out}'"
        )


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(28, "No space left on device", "runs/mine/study.db"),
            "the disk that holds runs/mine/study.db is full. Free",
        ),
        (
            PermissionError(13, "Permission denied", "/root/x"),
            "/root/x: not permitted. Change its permissions or owner, or choose another place",
        ),
        (OSError(5, "Input/output error", "runs/x"), "runs/x: the disk reports an error"),
        (OSError(2, "No such file or directory", "x"), "x: no such file or directory"),
        (OSError("connection lost"), "error: connection lost"),
    ],
)
def test_what_the_system_refuses_is_a_sentence(study: Recorder, tmp_path: Path, error: OSError, sentence: str) -> None:
    study.error = error
    assert sentence in refused("search", "--out", tmp_path / "run")


def test_bugs_are_not_dressed_up(study: Recorder, tmp_path: Path) -> None:
    study.error = ZeroDivisionError()
    assert isinstance(hwnas("search", "--out", tmp_path / "run").exception, ZeroDivisionError)


# the program as a whole


def test_debug_shows_the_traceback_wherever_it_stands(tmp_path: Path) -> None:
    for arguments in (["--debug", "front", tmp_path], ["front", tmp_path, "--debug"]):
        result = hwnas(*arguments)
        assert result.exit_code == 2
        assert "Traceback" in result.stderr
        assert "StoreError" in result.stderr
    assert "is not a run folder" in refused("front", tmp_path)


def test_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: {"hwnas": "1.2.3"}[name])
    assert hwnas("--version").stdout == "hwnas 1.2.3\n"


def test_unknown_options_and_commands_are_usage_errors(run: Path) -> None:
    assert "No such option" in refused("select", run, "--maximum", "latency=3ms")
    assert "No such command" in refused("serach")
    assert hwnas().output.startswith("Usage")


def test_help_starts_without_the_heavy_libraries() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom hwnas.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print(*{'torch', 'torchvision', 'onnx', 'onnxruntime', 'pandas', 'matplotlib', 'sklearn'} & set(sys.modules))"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == ""


# latency


@pytest.fixture
def nets(tmp_path: Path) -> list[Path]:
    """Two small networks as files."""
    paths = []
    for number, channels in enumerate((4, 8)):
        body = "edges = Relu(image)\n out = Add(edges, image)" if number else "out = Relu(image)"
        text = f"""<ir_version: 8, opset_import: ["": 17]>
            net (float[1,{channels},16,16] image) => (float[1,{channels},16,16] out) {{ {body} }}"""
        paths.append(tmp_path / f"net{number}.onnx")
        onnx.save(onnx.parser.parse_model(text), paths[-1])
    return paths


def test_profile_then_check(nets: list[Path], tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    result = hwnas("profile", "-o", table, "--threads", "1", "--for", *nets)
    assert result.exit_code == 0, result.output
    assert f"hwnas check {table}" in result.stdout
    assert table.is_file()
    again = hwnas("profile", "-o", table, "--for", nets[0])
    assert again.exit_code == 0, (again.output, again.exception)
    assert again.stdout == result.stdout  # nothing was missing
    checked = hwnas("check", table, "--for", *nets)
    assert checked.exit_code == 0, checked.output
    assert [line.split()[0] for line in checked.stdout.splitlines()[1:4]] == ["network", "net0", "net1"]
    assert "noise floor" in checked.stdout


def test_profile_of_several_batches_makes_a_table_of_each(tmp_path: Path) -> None:
    space = PlainSpace((3, 8, 8), classes=4)
    file = tmp_path / "net.onnx"
    file.write_bytes(to_onnx(space.starts()[0], initial_state(space.starts()[0]).value, batch=None).SerializeToString())
    result = hwnas("profile", "-o", tmp_path / "table.csv", "--batch", "8", "--batch", "1", "--for", file)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.glob("*.csv")) == ["table-b1.csv", "table-b8.csv"]
    header, row = result.stdout.splitlines()[-2:]
    assert header.split() == ["network", "batch", "1:", "ms", "(images/s)", "batch", "8:", "ms", "(images/s)"]
    name, *numbers = re.findall(r"[\w.+]+", row)
    one, one_rate, eight, eight_rate = map(float, numbers)
    assert name == "net"
    assert one_rate == pytest.approx(1e3 / one, rel=0.01)
    assert eight_rate == pytest.approx(8e3 / eight, rel=0.01)


def test_networks_of_another_batch_are_refused_before_anything_is_measured(nets: list[Path], tmp_path: Path) -> None:
    said = refused("profile", "-o", tmp_path / "table.csv", "--batch", "1", "--batch", "8", "--for", nets[0])
    assert "the deployment's batch is 8" in said
    assert not list(tmp_path.glob("*.csv"))


def test_predict_says_what_networks_take(nets: list[Path], tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    assert hwnas("profile", "-o", table, "--for", *nets).exit_code == 0
    shown = hwnas("predict", table, *nets)
    assert shown.exit_code == 0, shown.output
    assert "0 of" in shown.stdout.splitlines()[0]
    assert [line.split()[0] for line in shown.stdout.splitlines()[1:]] == ["network", *map(str, nets)]
    rows = json.loads(hwnas("predict", table, *nets, "--json").stdout)
    for row, net in zip(rows, nets, strict=True):
        assert row.keys() == {"file", "latency_ms", "low_ms", "high_ms", "kernels", "estimated_kernels"}
        assert row["file"] == str(net)
        assert 0 < row["low_ms"] <= row["latency_ms"] <= row["high_ms"]
        assert row["kernels"] > row["estimated_kernels"] == 0


def test_predict_measures_what_is_missing_here_and_says_where_to_measure_what_is_not(
    nets: list[Path], tmp_path: Path
) -> None:
    table, board = tmp_path / "table.csv", tmp_path / "board.csv"
    assert hwnas("profile", "-o", table, "--for", nets[0]).exit_code == 0
    before = len(LatencyTable.load(table).frame)
    assert hwnas("predict", table, nets[1]).exit_code == 0
    assert len(LatencyTable.load(table).frame) > before
    elsewhere = LatencyTable(make_runtime(Deployment("ort-cpu", "Board 1 neon")), board)
    elsewhere.save()
    assert "hwnas profile --runtime ort-cpu" in refused("predict", board, nets[0])


def test_profile_and_check_refuse_what_they_cannot_read(nets: list[Path], tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    nets[0].write_bytes(b"not a network")
    assert "net0.onnx is not an ONNX file" in refused("profile", "-o", table, "--for", nets[0])
    aside = onnx.load(nets[1])
    aside.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1000), "large"))
    onnx.save(aside, tmp_path / "aside.onnx", save_as_external_data=True, location="weights")
    (tmp_path / "weights").unlink()
    assert "aside.onnx cannot be read with its weights: " in refused(
        "profile", "-o", table, "--for", tmp_path / "aside.onnx"
    )
    assert "none.onnx: no such file" in refused("profile", "-o", table, "--for", tmp_path / "none.onnx")
    assert "runtime 'tpu' is not known" in refused("profile", "-o", table, "--runtime", "tpu", "--for", nets[1])
    assert "table.csv" in refused("check", table)
    table.write_text("a,b\n1,2\n")
    assert "table.csv" in refused("check", table)


def test_random_networks_differ_between_profile_and_check() -> None:
    built, held_out = (
        {model.graph.SerializeToString() for model in latencycli.networks([], batch=1, seed=seed)} for seed in (0, 1)
    )
    assert len(built) == len(held_out) == 40
    assert not built & held_out
