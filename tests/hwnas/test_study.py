"""Whole searches on digits: what they leave behind, and that they go on after anything."""

import csv
import hashlib
import itertools
import json
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from hwnas import manifest as manifests
from hwnas import runfolder
from hwnas.archive import Archive
from hwnas.deaths import MOST_DEATHS, UNDER_WAY
from hwnas.executor import Executor
from hwnas.progress import Quiet
from hwnas.sections import BudgetSection
from hwnas.spec import Spec
from hwnas.store import Store
from objectives import cost
from objectives.data import load_data
from spaces.arch import Arch
from spaces.cellspace import CellSpace
from spaces.errors import DataError, HwnasError, LimitError, SpecError, StoreError, TrainingError
from spaces.morphisms import move_from_json
from spaces.plain import PlainSpace
from tests.hwnas.toys import FATAL, SHORT, Notes, Search, short

pytestmark = pytest.mark.usefixtures("table_cache")


def records(out):
    with Store.open(out) as store:
        return store.trials()


def logits(file, images):
    """The class scores of an exported file, image by image, by nothing but ONNX Runtime."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.concatenate(
        [session.run(["logits"], {"image": one[None]})[0] for one in images.numpy() / np.float32(255)]
    )


def verify(out):
    """Everything that a manifest promises about its files holds."""
    manifest = manifests.read(out)
    assert manifest.models
    files = {model.file for model in manifest.models}
    assert files == {file.name for file in (out / "front").glob("*.onnx")}
    for model in manifest.models:
        assert hashlib.sha256((out / "front" / model.file).read_bytes()).hexdigest() == model.sha256
    return manifest


def save_digits(images):
    """A folder of 20 zeros and 20 ones."""
    data = load_data("digits")
    for label in range(2):
        (images / str(label)).mkdir(parents=True)
        for i, image in enumerate(data.train.images[data.train.labels == label][:20]):
            Image.fromarray(image[0].numpy()).save(images / str(label) / f"{i}.png")


# What a run leaves behind


def test_the_manifest_has_all_that_was_promised(searched):
    record = json.loads((searched / "front" / "manifest.json").read_text())
    promised = {"models", "device", "runtime", "versions", "seed", "wall_seconds", "classes", "not_trained"}
    assert promised <= record.keys()
    assert (record["runtime"], record["seed"], record["classes"]) == ("ort-cpu", 0, [str(digit) for digit in range(10)])
    assert {"python", "hwnas", "torch", "torchvision", "onnx", "onnxruntime", "numpy"} <= record["versions"].keys()
    assert record["wall_seconds"] > 0
    assert 0 < record["hypervolume"] < 1
    assert 1 <= len(record["models"]) <= 3
    for model in record["models"]:
        assert {"id", "file", "sha256", "params", "macs", "peak_memory", "epochs", "lineage"} <= model.keys()
        ((device, latency),) = model["latency"].items()
        assert device.startswith("ort-cpu_")
        assert {"predicted_ms", "low_ms", "high_ms", "estimated_kernels", "p50_ms", "p95_ms", "table"} == latency.keys()
        assert 0 < latency["low_ms"] <= latency["predicted_ms"] <= latency["high_ms"]
        assert 0 < latency["p50_ms"] <= latency["p95_ms"]
        assert {"val", "val_stderr", "test", "onnx_test"} == model["accuracy"].keys()
        assert all(0 <= share <= 1 for share in model["accuracy"].values())
        assert 0 <= model["parity_max_abs_err"] <= 1e-4
        assert model["input"] == {"shape": [1, 1, 8, 8], "layout": "NCHW", "range": [0.0, 1.0]}
    errors = [1 - model["accuracy"]["val"] for model in record["models"]]
    assert errors == sorted(errors)


def test_every_file_is_what_the_manifest_says(searched):
    data = load_data("digits")
    for model in verify(searched).models:
        path = searched / "front" / model.file
        proto = onnx.load(path)
        onnx.checker.check_model(proto, full_check=True)
        about = {entry.key: entry.value for entry in proto.metadata_props}
        arch = Arch.from_json(json.loads(about["architecture"]))
        assert arch.hash == model.id
        assert (cost.params(arch), cost.macs(arch)) == (model.params, model.macs)
        assert cost.peak_memory(arch) == model.peak_memory
        assert json.loads(about["classes"]) == list(data.classes)
        assert json.loads(about["input_size"]) == [1, 8, 8]
        assert about["hwnas_version"] == manifests.read(searched).versions["hwnas"]
        objectives = json.loads(about["objectives"])
        assert objectives == {
            "error": pytest.approx(1 - model.accuracy.val),
            "params": model.params,
            "macs": model.macs,
            "latency": next(iter(model.latency.values())).p50_ms,
        }
        found = logits(path, data.test.images).argmax(axis=1)
        assert (found == data.test.labels.numpy()).mean() == pytest.approx(model.accuracy.onnx_test, abs=1e-12)
        assert model.accuracy.onnx_test == pytest.approx(model.accuracy.test, abs=2 / len(data.test))
        judged = logits(path, data.val.images).argmax(axis=1)
        assert (judged == data.val.labels.numpy()).mean() == pytest.approx(model.accuracy.val, abs=2 / len(data.val))


def test_no_model_is_clearly_beaten_by_one_that_costs_no_more(searched):
    models = manifests.read(searched).models
    for model, other in itertools.permutations(models, 2):
        costs, others = ((one.params, one.macs, next(iter(one.latency.values())).p50_ms) for one in (model, other))
        if all(theirs <= own for theirs, own in zip(others, costs, strict=True)):
            assert other.accuracy.val <= model.accuracy.val + model.accuracy.val_stderr


def test_a_lineage_leads_from_its_first_ancestor_to_the_network(searched):
    space = PlainSpace((1, 8, 8), 10, stages=2, max_width=16, max_depth=6)
    trials = {trial.id: trial for trial, _ in records(searched)}
    for model in manifests.read(searched).models:
        first, *_ = model.lineage
        genotype = space.from_json(first["genotype"])
        for step in model.lineage[:-1]:
            for move in step["moves"]:
                if move["move"] != "Calibrate":
                    genotype = space.apply(genotype, move_from_json(move)).genotype
                assert set(move.get("nodes", [])) <= {node.name for node in genotype.nodes}
            assert genotype.hash == trials[step["trial"]].hash
            assert step["seed"] == trials[step["trial"]].seed
        assert genotype.hash == model.id
        *_, searched_last, last = model.lineage
        assert (last["trial"], last["init"], last["moves"]) == (searched_last["trial"], "checkpoint", [])
        assert model.epochs == last["epochs"] == pytest.approx(searched_last["epochs"] + 1, abs=0.1)


def test_the_specification_is_kept_as_resolved(searched):
    assert Spec.load(searched / "spec.yaml") == short()


def test_table_and_picture(searched):
    manifest = manifests.read(searched)
    with (searched / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["network"], row["file"]) for row in rows] == [
        ("front", model.id, f"front/{model.file}") for model in manifest.models
    ]
    assert [int(row["params"]) for row in rows] == [model.params for model in manifest.models]
    with Image.open(searched / "front.png") as picture:
        assert min(picture.size) > 300
    assert (searched / "latency.csv").read_text().startswith("#")


def test_predict_labels_an_image_from_the_file_alone(searched, tmp_path):
    data = load_data("digits")
    model = manifests.read(searched).models[0]
    image = tmp_path / "image.png"
    Image.fromarray(data.test.images[0, 0].numpy()).save(image)
    command = [sys.executable, searched / "predict.py", searched / "front" / model.file, image]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    name, label, odds = done.stdout.strip().split("\t")
    expected = int(logits(searched / "front" / model.file, data.test.images[:1]).argmax())
    assert (name, label) == (str(image), data.classes[expected])
    assert 10 < float(odds.rstrip("%")) <= 100


def test_every_training_is_in_the_store(searched):
    kept = records(searched)
    assert [trial.id for trial, _ in kept] == list(range(8))
    assert all(result is not None and result.status == "ok" for _, result in kept)
    new = [trial.hash for trial, _ in kept if trial.init != "checkpoint"]
    assert len(set(new)) == len(new)
    with Store.open(searched) as store:
        for entry in Archive(kept, ["error"]).entries:
            assert store.load_weights(entry.result.weights)


def test_nothing_is_left_lying_about(searched):
    assert {path.name for path in searched.iterdir()} == {
        *("data.txt", "front", "front.csv", "front.png", "latency.csv", ".latency.csv.lock", "lock", "predict.py"),
        *("spec.yaml", "study.db", "weights"),
    }
    with Store.open(searched, write=True) as store:
        assert store.sweep({result.weights for _, result in store.trials()}) == 0


# Going on


def test_a_second_search_in_the_same_folder_is_refused(searched):
    with pytest.raises(StoreError, match=f"{searched} holds a study already. Go on with 'hwnas resume {searched}'"):
        runfolder.search(short(), searched)


def copied(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "run"))


def test_an_end_that_was_lost_is_made_again(searched, tmp_path):
    out = copied(searched, tmp_path)
    shutil.rmtree(out / "front")
    assert runfolder.resume(out) == out
    assert records(out) == records(searched)
    before, after = ({model.id: model for model in verify(folder).models} for folder in (searched, out))
    assert next(iter(after)) == next(iter(before))
    for id in before.keys() & after.keys():  # latency, measured anew, decides who else is of the front
        assert after[id].accuracy == before[id].accuracy
        assert after[id].epochs == before[id].epochs


def test_an_edited_specification_changes_nothing_and_a_note_says_so(searched, tmp_path):
    out, notes = copied(searched, tmp_path), Notes()
    runfolder.resume(out, notes)
    assert not any("was edited" in note for note in notes.all)
    for text in ("seed: 7", "no such key: 1"):
        (out / "spec.yaml").write_text(text)
        runfolder.resume(out, notes)
        assert f"{out / 'spec.yaml'} was edited, which changes nothing: a study goes on as it began" in notes.all
        assert Spec.load(out / "spec.yaml") == short()
        notes.all.clear()


def test_a_finished_run_with_more_time_goes_on_and_ends_anew(searched, tmp_path):
    out = copied(searched, tmp_path)
    with Store.open(out) as store:
        used = store.get("seconds used")
    runfolder.resume(out, budget=(used + 3) / (1 - short().final.share))
    assert len(records(out)) > 8
    assert records(out)[:8] == records(searched)
    assert verify(out).wall_seconds > used
    assert Spec.load(out / "spec.yaml").budget.trainings is None


def test_other_images_are_refused(searched, tmp_path):
    out = copied(searched, tmp_path)
    with Store.open(out, write=True) as store:
        store.put("spec", short(**{"data.train_limit": 300}).to_json())
    with pytest.raises(StoreError, match="the images changed since"):
        runfolder.resume(out)


@pytest.mark.parametrize(
    ("what", "before", "now"),
    [
        ("device", "ort-cpu on Board 1 (1 thread, batch 1, fp32) with onnxruntime 1.0", "ort-cpu on "),
        ("training device", "tpu", "c"),  # cpu or cuda
    ],
)
def test_another_device_is_refused(searched, tmp_path, what, before, now):
    out = copied(searched, tmp_path)
    with Store.open(out, write=True) as store:
        store.put(what, before)
    with pytest.raises(StoreError, match=rf"the {what} changed since .*: {re.escape(before)} then, {now}.* now"):
        runfolder.resume(out)


@pytest.mark.parametrize("moment", ["search", "final training", "testing"])
def test_ctrl_c_keeps_what_was_done(tmp_path, moment):
    class Impatient(Quiet):
        def _show(self, status):
            if status.phase == moment and status.phase_done >= 2:
                raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        runfolder.search(short(), out, Impatient())
    kept = {trial.id: result for trial, result in records(out) if result}
    assert len(kept) >= 2
    runfolder.resume(out)
    verify(out)
    after = {trial.id: result for trial, result in records(out)}
    assert len(after) == 8
    assert all(after[id] == result for id, result in kept.items())


def test_a_finished_study_is_left_as_it_is(searched, tmp_path):
    out = copied(searched, tmp_path)
    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.suffix in (".json", ".onnx", ".csv")}
    runfolder.resume(out)
    assert {path: path.read_bytes() for path in before} == before


def test_lost_weights_are_named(searched, tmp_path):
    out = copied(searched, tmp_path)
    shutil.rmtree(out / "weights")
    with pytest.raises(StoreError, match=r"\.safetensors is missing: the weights of .* were swept or lost"):
        runfolder.resume(out, budget=1e6)


@pytest.mark.parametrize("harm", [lambda file: file.unlink(), lambda file: file.write_bytes(b"")])
def test_a_finished_study_whose_files_are_not_what_they_were_writes_them_anew(searched, tmp_path, harm):
    out, notes = copied(searched, tmp_path), Notes()
    file = out / "front" / manifests.read(out).models[0].file
    harm(file)
    runfolder.resume(out, notes)
    assert any(note.startswith(f"the front is written anew: {file} is") for note in notes.all)
    assert len(records(out)) == 8
    verify(out)


def test_more_threads_than_there_are_are_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(SpecError, match=r"threads is 20000, and this process may use \d+ cores; lower it"):
        runfolder.search(short(threads=20000), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_smaller_budget_than_what_was_used_is_refused(searched, tmp_path):
    out = copied(searched, tmp_path)
    with pytest.raises(SpecError, match=r"budget is 1s for the whole study, but .* has used .* of it already"):
        runfolder.resume(out, budget=1.0)


def test_a_finished_run_gets_more_trainings(searched, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(searched, out)
    with pytest.raises(SpecError, match=r"budget is 8 trainings .*, but .* has used 8 trainings of it"):
        runfolder.resume(out, budget=8)
    runfolder.resume(out, budget="9")
    assert len(told(out)) == 9
    assert Spec.load(out / "spec.yaml").budget == BudgetSection(trainings=9)
    verify(out)


def test_a_run_folder_among_the_images_is_refused(tmp_path):
    save_digits(tmp_path / "images")
    for out in (tmp_path / "images", tmp_path / "images" / "0", tmp_path / "images" / "runs" / "a"):
        with pytest.raises(StoreError, match="lies in the folder of the images; name a run folder elsewhere by --out"):
            runfolder.search(short(**{"data.source": str(tmp_path / "images")}), out)
    assert not (tmp_path / "images" / "runs").exists()


def test_moved_images_are_found_where_they_are_now(tmp_path):
    save_digits(tmp_path / "images")
    spec = short(**{"data.source": str(tmp_path / "images"), "budget.trainings": 2, "final.models": 1})
    out = runfolder.search(spec, tmp_path / "run")
    (tmp_path / "images").rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"there is no folder .*images any more; say where the images are by --data"):
        runfolder.resume(out)
    runfolder.resume(out, data=str(tmp_path / "moved"))
    runfolder.resume(out)
    (tmp_path / "moved" / "0" / "0.png").unlink()
    with pytest.raises(StoreError, match="the images changed since"):
        runfolder.resume(out)


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["ort-cpu", "torch-cuda"])
def test_a_search_on_a_gpu(tmp_path, runtime):
    spec = short(**{"deployment.runtime": runtime, "training.precision": "auto", "final.references": True})
    out = runfolder.search(spec.resolve({"budget": {"time": 30.0}}), tmp_path / "run")
    manifest = verify(out)
    assert manifest.runtime == runtime
    assert manifest.references
    runfolder.resume(out, budget=45.0)
    verify(out)


# Killed


def told(out):
    """Results by trial; nothing before there is a study."""
    return {trial.id: result for trial, result in records(out) if result} if Store.exists(out) else {}


def check_after_a_kill(out, before, reported):
    """Every reported trial is found again, with its tensors."""
    found = told(out)
    assert len(found) >= reported
    assert {id: found[id] for id in before} == before
    if found:
        with Store.open(out) as store:
            for entry in Archive(store.trials(), ["error"]).entries:
                store.load_weights(entry.result.weights)  # verifies their hash
    return found


def kill_again_and_again(out, spec, moments):
    """Kill each process after so many steps and some time more, then let one finish; count the phases that were hit."""
    hit: Counter[str] = Counter()
    found: dict[int, object] = {}
    for steps, seconds in moments:
        search = Search(spec, out)
        phase, reported = "before", len(found)
        for _ in range(steps):
            if (step := search.next()) is None:
                break
            phase, _, reported = step
        time.sleep(seconds)
        search.kill()
        hit[phase] += 1
        found = check_after_a_kill(out, found, reported)
    last = Search(spec, out)
    while last.next():
        pass
    assert last.join() == 0
    check_after_a_kill(out, found, 8)
    return hit


def test_a_killed_search_goes_on_as_if_it_had_not_been(searched, tmp_path):
    out = tmp_path / "run"
    rng = random.Random()  # other moments each time: a failure shows them
    moments = [(steps, rng.uniform(0, 0.3)) for steps in (0, rng.randint(1, 3), rng.randint(9, 11))]
    print(moments)
    hit = kill_again_and_again(out, short(), moments)
    assert hit["before"] >= 1
    assert hit["search"] >= 1
    assert hit["final training"] + hit["measuring"] + hit["testing"] + hit["done"] >= 1
    verify(out)
    # The trials are those of the search that nobody killed; only the table knew other kernels at other times.
    expected, found = (
        [(replace(trial, snapshot=None), result.values) for trial, result in records(folder)]
        for folder in (searched, out)
    )
    assert found == expected


def test_what_a_scheduler_sends_is_no_death(tmp_path):
    """SIGTERM comes before SIGKILL, and there is time to stop as by Ctrl-C."""
    (tmp_path / "spec.yaml").write_text(short(**{"budget.trainings": 1000}).dump())
    program = [sys.executable, "-c", "from hwnas.cli import main; main()"]
    command = [*program, "search", tmp_path / "spec.yaml", "--out", tmp_path / "run", "--quiet"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not told(tmp_path / "run"):
            time.sleep(0.1)
        process.terminate()
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "go on with: hwnas resume" in errors
    assert not (tmp_path / "run" / UNDER_WAY).exists()


def test_a_network_whose_training_kills_the_process_fails_and_costs_only_itself(tmp_path):
    out = tmp_path / "run"
    for _ in range(MOST_DEATHS):
        search = Search(short(), out, fatal=5)
        while search.next():
            pass
        assert search.join() == FATAL
        assert sorted(told(out)) == [0, 1, 2, 3, 4]
    last = Search(short(), out, fatal=5)
    while last.next():
        pass
    assert last.join() == 0
    results = told(out)
    assert len(results) == 8
    assert {id: result.status for id, result in results.items() if result.status != "ok"} == {5: "failed"}
    assert "the process died or was killed 3 times in it" in results[5].reason
    verify(out)


def test_an_error_that_nobody_foresaw_fails_its_network_in_the_end(tmp_path, monkeypatch):
    real = Executor._start

    def start(self, trial, parent):
        if trial.id == 2:
            raise ZeroDivisionError
        return real(self, trial, parent)

    monkeypatch.setattr(Executor, "_start", start)
    out = tmp_path / "run"
    for goes_on in (lambda: runfolder.search(short(), out), *[lambda: runfolder.resume(out)] * (MOST_DEATHS - 1)):
        with pytest.raises(ZeroDivisionError):
            goes_on()
    runfolder.resume(out)
    assert {id for id, result in told(out).items() if result.status != "ok"} == {2}
    verify(out)


@pytest.mark.slow
def test_a_search_killed_many_times(tmp_path):
    rng = random.Random()
    for run in range(5):
        moments = [(rng.randint(0, 5), rng.uniform(0, 1.0)) for _ in range(12)]
        print(moments)
        kill_again_and_again(tmp_path / str(run), short(**{"final.references": True}), moments)
        verify(tmp_path / str(run))


# Other budgets, limits and strategies


def test_a_budget_too_small_for_anything_ends_with_one_model(tmp_path):
    out = runfolder.search(
        short(**{"budget": {"time": 0.05}, "final.epochs": None, "final.references": True}), tmp_path
    )
    (model,) = verify(out).models
    ((trial, result),) = [record for record in records(out) if record[1]]
    assert model.id == trial.hash
    assert model.epochs == result.info["epochs"]  # as the search left it
    assert manifests.read(out).references == []
    runfolder.resume(out)
    assert len(told(out)) == 1
    verify(out)


def test_a_budget_in_time_with_references(tmp_path):
    overrides = {"budget": {"time": 6.0}, "final.epochs": None, "final.references": True, "final.share": 0.6}
    notes = []

    class Noting(Quiet):
        def note(self, text):
            notes.append(text)

    out = runfolder.search(short(**overrides), tmp_path, Noting())
    manifest = verify(out)
    left_out = {note.split()[1] for note in notes if note.startswith("reference ")}
    assert len({reference.id for reference in manifest.references} ^ left_out) == 3
    with (out / "front.csv").open() as file:
        kinds = Counter(row["kind"] for row in csv.DictReader(file))
    assert kinds == Counter(front=len(manifest.models), reference=len(manifest.references))
    with Store.open(out) as store:
        assert store.get("seconds used") >= manifest.wall_seconds - 0.1
    (out / "front" / "manifest.json").unlink()
    runfolder.resume(out)  # when no time is left
    assert [(each.id, each.epochs) for each in verify(out).references] == [
        (each.id, each.epochs) for each in manifest.references
    ]


def test_a_limit_that_nothing_can_meet_is_said_before_any_training(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(LimitError, match=r"keep params <= 100; the smallest found: params \d+\. Raise the limit"):
        runfolder.search(short(**{"limits.params": "100"}), out)
    assert not out.exists()
    runfolder.search(short(**{"limits.params": "1k", "budget.trainings": 2, "final.models": 1}), out)  # the same folder
    (model,) = verify(out).models
    assert model.params <= 1000
    assert model.over_limits == []


def test_random_search_that_draws_nothing_within_the_limits_trains_what_keeps_them(tmp_path, monkeypatch):
    monkeypatch.setattr("hwnas.strategy.MOST_DRAWS", 20)
    out = runfolder.search(
        short(**{"limits.params": "250", "search.strategy": "random", "search.initial_epochs": None}), tmp_path / "run"
    )
    (model,) = verify(out).models
    assert model.params <= 250


def test_without_a_single_good_training_there_is_a_sentence(tmp_path):
    with pytest.raises(TrainingError, match=r"none of 8 trainings succeeded; the first diverged: the loss was nan"):
        runfolder.search(short(**{"training.lr": 1e30}), tmp_path)
    with pytest.raises(HwnasError):
        manifests.read(tmp_path)


def test_an_exhausted_space_ends_the_search(tmp_path):
    four = {"space.stages": 1, "space.max_depth": 1, "space.max_kernel": 3, "space.separable": False}
    notes = []

    class Noting(Quiet):
        def note(self, text):
            notes.append(text)

    out = runfolder.search(short(**four, **{"space.skips": False, "budget.trainings": 50}), tmp_path, Noting())
    assert len({trial.hash for trial, _ in records(out)}) == 4
    assert "no further network was found within the bounds of the space and the limits" in notes
    assert notes[-1].startswith("the front is a single network")
    verify(out)


def test_random_search_on_other_objectives(tmp_path):
    overrides = {
        "search.strategy": "random",
        "search.initial_epochs": None,
        "objectives": ["peak_memory"],
        "limits.peak_memory": "4KB",
    }
    out = runfolder.search(short(**overrides), tmp_path)
    manifest = verify(out)
    assert {trial.init for trial, _ in records(out)} == {"scratch"}
    assert all(model.peak_memory <= 4096 for model in manifest.models)
    assert all(latency.p50_ms > 0 for model in manifest.models for latency in model.latency.values())
    objectives = {entry.key: entry.value for entry in onnx.load(out / "front" / manifest.models[0].file).metadata_props}
    assert set(json.loads(objectives["objectives"])) == {"error", "peak_memory"}


def test_cells_are_searched_with_a_surrogate_like_any_network(tmp_path):
    overrides = {"space": {"kind": "cell", "channels": 3, "cells": 1}, "search.strategy": "surrogate"}
    stock = {"final.references": True, "final.models": 1}
    spec = Spec().resolve({key: value for key, value in SHORT.items() if not key.startswith("space.")})
    out = runfolder.search(spec.resolve({**overrides, **stock, "budget.trainings": 14}), tmp_path / "run")
    space = CellSpace((1, 8, 8), 10, channels=3, cells=1)
    trials = [trial for trial, _ in records(out)]
    assert any(trial.init == "parent" and trial.moves for trial in trials)
    assert any("predicted error" in trial.config for trial in trials)
    for model in verify(out).models:
        first, *_ = model.lineage
        genotype = space.from_json(first["genotype"])
        for move in (move for step in model.lineage for move in step["moves"]):
            genotype = space.apply(genotype, move_from_json(move)).genotype
        assert space.hash(genotype) == model.id
    with pytest.raises(LimitError, match=r"smaller networks by space\.channels, space\.cells or data\.image_size"):
        runfolder.search(spec.resolve({**overrides, "limits.params": "100"}), tmp_path / "other")


def test_a_folder_is_found_again_from_elsewhere(tmp_path, monkeypatch):
    images = tmp_path / "here" / "images"
    save_digits(images)
    monkeypatch.chdir(tmp_path / "here")
    spec = short(**{"data.source": "images", "budget.trainings": 2, "final.models": 1})
    out = runfolder.search(spec, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    runfolder.resume(out)
    assert verify(out).classes == ["0", "1"]
    assert Spec.load(out / "spec.yaml").data.source == str(images)
