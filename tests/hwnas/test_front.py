"""The end of a study in parts; the whole of it is tested with the study."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from hwnas import end, final, finalists, forecast, front, verify
from hwnas import manifest as manifests
from hwnas.deaths import MOST_DEATHS, UNDER_WAY, Deaths
from hwnas.final import train_all
from hwnas.finalists import Finalist
from hwnas.references import references
from hwnas.spec import Spec
from hwnas.store import Store
from hwnas.study import Study, load
from hwnas.trial import Result, Trial
from objectives.accuracy import Accuracy
from spaces.errors import ExportError, LatencyError, StoreError, TrainingError
from tests.hwnas.toys import Notes, short


@pytest.fixture
def opened(searched, tmp_path):
    """The finished study in a folder of its own, open for more."""
    out = shutil.copytree(searched, tmp_path / "run")
    with Store.open(out, write=True) as store:
        spec = Spec.from_json(store.get("spec"))
        yield Study(spec, load(spec), store, Notes())


# Which finalists make the front

OBJECTIVES = ("error", "params", "latency")


def fronted(opened, *rows, stderr=0.01):
    """The places that are kept of finalists with these values."""
    opened.objectives = OBJECTIVES
    finalists = [
        Finalist(Trial(i, None, str(i)), Result({"error": row[0]}, 1.0, info={"stderr": stderr}), None, None)
        for i, row in enumerate(rows)
    ]
    return front._front(opened, finalists, np.array(rows, dtype=float))


def test_the_most_accurate_stands_first(opened):
    assert fronted(opened, [0.3, 10, 1.0], [0.1, 30, 3.0], [0.2, 20, 2.0]) == [1, 2, 0]


def test_what_is_clearly_beaten_goes(opened):
    assert fronted(opened, [0.1, 10, 1.0], [0.2, 10, 1.0], [0.1, 10, 1.5], [0.3, 20, 3.0]) == [0]


def test_a_difference_within_noise_beats_nobody(opened):
    assert fronted(opened, [0.1, 10, 1.0], [0.105, 10, 1.0]) == [0, 1]
    assert fronted(opened, [0.1, 10, 1.0], [0.105, 10, 1.0], stderr=0.001) == [0]
    assert fronted(opened, [0.1, 10, 1.0], [0.1, 10, 1.02]) == [0, 1]
    assert fronted(opened, [0.1, 10, 1.0], [0.1, 11, 1.0]) == [0]  # parameters are exact


def test_equal_finalists_both_stay(opened):
    assert fronted(opened, [0.1, 10, 1.0], [0.1, 10, 1.0]) == [0, 1]


# Final training


@pytest.fixture
def forgotten(monkeypatch):
    """What was trained to the end before does not compete."""
    monkeypatch.setattr(final, "with_earlier", lambda _, ended: list(ended))


def test_networks_that_were_trained_to_the_end_before_compete_again(opened):
    chosen = front._chosen(opened)
    before = {one.trial.hash: one for one in train_all(opened, chosen, [])[0]}
    opened.budget.seconds = 1e6  # another end
    opened.executor = replace(opened.executor, recipe=replace(opened.executor.recipe, lr=0.3))
    now = train_all(opened, chosen[1:], [])[0]
    assert {one.trial.hash for one in now} == set(before)
    anew = {
        key: opened.store.get(end.name_of(opened, finalists._name(entry)))
        for entry in chosen[1:]
        for key in [entry.trial.hash]
    }
    for one in now:
        errors = [before[one.trial.hash].result.values["error"]]
        if one.trial.hash in anew:
            errors.append(anew[one.trial.hash]["result"]["values"]["error"])
        assert one.result.values["error"] == min(errors)
    manifest = front.finish(opened)
    assert len(manifest.models) <= opened.spec.final.models


def test_more_than_asked_for_are_thinned_out_by_hypervolume(opened):
    opened.spec = opened.spec.resolve({"final.models": 3})
    values = np.array([[0.1, 900.0, 9e4], [0.2, 500.0, 5e4], [0.21, 499.0, 4.9e4], [0.5, 100.0, 1e4]])
    values = np.column_stack([values, np.ones(4)])[:, : len(opened.objectives)]
    assert front._thinned(opened, [0, 1, 2, 3], values) in ([0, 1, 3], [0, 2, 3])
    assert front._thinned(opened, [3, 0, 2], values) == [3, 0, 2]


def record_of(study, key):
    """The trial of a network's latest result."""
    return next(entry.trial for entry in study.strategy.archive.entries if entry.trial.hash == key)


def test_finalists_are_a_part_of_the_front_within_the_limits(opened):
    entries = opened.strategy.archive.front().entries
    assert len(entries) > 3
    chosen = front._chosen(opened)
    assert len(chosen) == 3
    assert [entry.values["error"] for entry in chosen] == sorted(entry.values["error"] for entry in chosen)
    assert {entry.trial.hash for entry in chosen} <= {entry.trial.hash for entry in entries}
    smallest = min(entry.values["params"] for entry in entries)
    opened.spec = short(**{"limits.params": smallest})
    assert {entry.values["params"] for entry in front._chosen(opened)} == {smallest}


def test_what_is_trained_is_not_trained_again_unless_the_budget_is_another(opened, forgotten):
    chosen = front._chosen(opened)
    (first, _), (again, _) = train_all(opened, chosen, []), train_all(opened, chosen, [])
    assert [one.result for one in first] == [one.result for one in again]
    opened.budget.seconds = 1e6
    opened.spec = opened.spec.resolve({"final.epochs": 2.0})
    longer, _ = train_all(opened, chosen, [])
    for one, other in zip(first, longer, strict=True):
        assert other.result.info["epochs"] == pytest.approx(one.result.info["epochs"] + 1, abs=0.1)


def test_a_final_training_that_diverges_leaves_the_network_of_the_search(opened, forgotten):
    opened.budget.seconds = 1e6  # another end than the one that is kept
    opened.executor = replace(opened.executor, recipe=replace(opened.executor.recipe, lr=1e30))
    ended, _ = train_all(opened, front._chosen(opened), [])
    for entry, finalist in zip(front._chosen(opened), ended, strict=True):
        assert finalist.result == entry.result
        assert finalist.state.value.keys() == opened.parent(entry.trial.id)[1].value.keys()
        assert f"{entry.trial.hash[:8]} is not trained any further: diverged" in " ".join(opened.progress.all)
    manifest = front.finish(opened)
    assert len(manifest.models) >= 1
    assert {one.id for one in manifest.not_trained} == {model.id for model in manifest.models}
    assert all(one.reason.startswith("diverged") for one in manifest.not_trained)
    for model in manifest.models:
        last = record_of(opened, model.id)
        assert model.lineage[-1]["trial"] == last.id
        assert model.lineage[-1]["epochs"] == last.fidelity_to  # of the search; no final training stands there


def further(study, entry, epochs, seconds=None):
    """What its final training makes of a finalist."""
    trial = replace(entry.trial, fidelity_from=entry.epochs, fidelity_to=entry.epochs + epochs)
    return finalists.train_further(study.executor, trial, study.parent(entry.trial.id)[1], study.spec.seed, seconds)


@pytest.mark.parametrize("seconds", [0.0, None])
def test_a_final_training_that_does_harm_leaves_the_network_of_the_search(opened, seconds):
    recipe = replace(opened.executor.recipe, lr=2000.0, schedule="cosine")  # which one step is enough to suffer from
    opened.executor = replace(opened.executor, recipe=recipe)
    entry = front._chosen(opened)[0]
    reason = further(opened, entry, 0.05, seconds)
    assert reason.startswith("final training took its accuracy from")
    record = finalists._untrained(opened, entry, reason)
    assert record == {"result": entry.result.to_json(), "weights": entry.result.weights, "unfinished": reason}
    assert opened.progress.all[-1].endswith(reason)


def test_a_final_training_may_be_worse_by_chance(opened, monkeypatch):
    entry = front._chosen(opened)[0]

    def trained_on(before):
        """Whether a network is trained on, if the search left it at an accuracy; and what that led to."""
        judged = Accuracy(before, stderr=0.01, n=100, predictions=torch.zeros(100))
        monkeypatch.setattr(type(opened.executor), "judge", lambda *_: judged)
        return further(opened, entry, 0.5)

    after = 1 - trained_on(before=0.0).result.values["error"]
    assert not isinstance(trained_on(after + 0.009), str)
    assert isinstance(trained_on(after + 0.011), str)


def test_a_final_training_that_takes_too_long_is_cut(opened):
    opened.spec = opened.spec.resolve({"final.epochs": None})
    entry = front._chosen(opened)[0]
    opened.budget.seconds = opened.budget.elapsed + 10.0
    table = replace(forecast.timetable(opened, [entry], []), checks=0.0)
    opened.budget.seconds = opened.budget.elapsed + 0.5
    found = further(opened, entry, 10_000.0, end.seconds(opened, table))
    epochs = found.result.info["epochs"] - entry.result.info["epochs"]
    assert 0 <= epochs < 9_000


def test_without_a_budget_in_time_references_are_bounded_by_what_the_study_took(opened):
    opened.budget.used = 0.0
    opened.budget.__post_init__()  # as if it had just begun
    _, trained = train_all(opened, front._chosen(opened), references(opened.space, opened.data, [1e12]))
    assert all(one.epochs < 2.0 for one in trained)


def test_time_is_shared_out_by_what_was_measured(opened):
    opened.budget.seconds = opened.budget.elapsed + 50.0
    chosen, stock = front._chosen(opened), references(opened.space, opened.data, [1e5])
    table = forecast.timetable(opened, chosen, forecast.timed(opened, stock))
    assert len(table.finalists) == 3
    assert len(table.references) == len(table.reference_checks) == len(stock) == 3
    assert all(seconds > 0 for seconds in (*table.finalists, *table.references, *table.reference_checks))
    assert table.checks > forecast.REPORT_SECONDS


def test_references_train_as_long_as_finalists(opened):
    opened.spec = opened.spec.resolve({"final.references": True})
    manifest = front.finish(opened)
    assert len(manifest.references) == 3
    for reference in manifest.references:
        assert reference.epochs == pytest.approx(max(model.epochs for model in manifest.models), abs=0.6)
        assert reference.accuracy.val > 0.5
        assert abs(reference.accuracy.test - reference.accuracy.val) < 0.2
        assert all(latency.p50_ms > 0 for latency in reference.latency.values())


def test_a_reference_that_diverges_is_left_out_and_says_so(opened):
    opened.executor = replace(opened.executor, recipe=replace(opened.executor.recipe, lr=1e30))
    stock = references(opened.space, opened.data, [1e5])[:1]
    _, trained = train_all(opened, front._chosen(opened), stock)
    assert trained == []
    assert opened.progress.all[-1].startswith(f"reference {stock[0].name} left out: diverged")


def test_a_reference_that_does_not_fit_into_memory_is_left_out_and_says_so(opened):
    def enormous(seed):
        raise TrainingError("out of memory: so many bytes")

    first, second, *_ = references(opened.space, opened.data, [1e5])
    _, trained = train_all(opened, front._chosen(opened), [replace(first, build=enormous), second])
    assert [one.reference.name for one in trained] == [second.name]
    assert f"reference {first.name} left out: out of memory: so many bytes" in opened.progress.all


def test_a_reference_whose_latency_cannot_be_had_is_left_out_and_says_so(opened):
    opened.spec = opened.spec.resolve({"final.references": True})
    table = opened.targets[0].table
    real = table.predict_many

    def refusing(files, **options):
        if len(files) > len(front._chosen(opened)):
            raise LatencyError("no such operator")
        return real(files, **options)

    table.predict_many = refusing
    manifest = front.finish(opened)
    assert manifest.models
    assert manifest.references == []
    assert "references left out: no such operator" in opened.progress.all


def test_a_reference_that_cannot_be_exported_or_tested_is_left_out_and_says_so(opened, monkeypatch):
    opened.spec = opened.spec.resolve({"final.references": True})
    stock = references(opened.space, opened.data, [1e5])
    names = [one.name for one in stock]

    def refusing(module, batch):
        raise ExportError("torch cannot export it")

    def evaluate(module, split, metric):
        if sum(parameter.numel() for parameter in module.parameters()) == stock[1].params:
            raise TrainingError("its logits are not finite")
        return real(module, split, metric)

    real = front.evaluate
    monkeypatch.setattr(front, "references", lambda *_: [replace(stock[0], export=refusing), *stock[1:]])
    monkeypatch.setattr(front, "evaluate", evaluate)
    manifest = front.finish(opened)
    assert manifest.models
    assert [reference.id for reference in manifest.references] == names[2:]
    assert f"reference {names[0]} left out: torch cannot export it" in opened.progress.all
    assert f"reference {names[1]} left out: its logits are not finite" in opened.progress.all


def test_a_reference_in_whose_timing_the_process_died_too_often_is_left_out(opened):
    first, second, *_ = references(opened.space, opened.data, [1e5])
    opened.store.put(f"deaths in timing {first.name}, {opened.budget.seconds}", MOST_DEATHS)
    assert [reference.name for reference, *_ in forecast.timed(opened, [first, second])] == [second.name]
    assert opened.progress.all[-1].startswith(
        f"reference {first.name} left out: the process died or was killed 3 times"
    )


def test_an_error_that_nobody_foresaw_counts_as_a_death(opened):
    def broken():
        raise ZeroDivisionError

    for _ in range(MOST_DEATHS):
        with pytest.raises(ZeroDivisionError):
            Deaths(opened.store).surviving("work", broken, str)
    assert opened.deaths.surviving("work", broken, str).startswith("the process died or was killed 3 times")


def test_a_full_disk_leaves_no_mark_and_hides_no_error(opened, monkeypatch):
    for name in ("one", "two"):
        opened.deaths.begin(name)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("hwnas.deaths.write_whole", full)
    opened.deaths.end("one")
    assert not (opened.store.path / UNDER_WAY).exists()
    opened.deaths.end("two")
    with pytest.raises(StoreError):
        opened.deaths.begin("three")
    monkeypatch.undo()
    opened.deaths.begin("four")
    assert (opened.store.path / UNDER_WAY).read_text() == "four"
    opened.deaths.end("four")


def test_what_the_user_is_told_is_no_death_on_a_full_disk_either(opened, monkeypatch):
    def refused(*_):
        raise StoreError("the disk is full")

    def training():
        patch.setattr(opened.store, "put", refused)
        opened.store.put("weights", 1)

    for _ in range(MOST_DEATHS + 1):
        with monkeypatch.context() as patch, pytest.raises(StoreError, match="the disk is full"):
            opened.deaths.surviving("work", training, str)
    assert opened.deaths.surviving("work", lambda: "made", str) == "made"


def test_a_final_training_in_which_the_process_died_too_often_is_not_tried_again(opened, forgotten):
    entry, *_ = chosen = front._chosen(opened)
    opened.budget.seconds = 1e6  # another end than the one that is kept
    deaths = f"deaths in end/{opened.trainings}/{opened.budget.seconds}/final"
    opened.store.put(f"{deaths}/{entry.trial.id}", MOST_DEATHS)
    first, *others = train_all(opened, chosen, [])[0]
    assert first.unfinished == "the process died or was killed 3 times in it; it may be too large for the memory"
    assert all(other.unfinished is None for other in others)
    assert opened.store.get(f"{deaths}/{others[0].trial.id}") is None  # an end that is no kill is no death


# Files


def test_the_accuracy_of_a_file_is_its_own(opened, monkeypatch):
    real = verify.run

    def first_half_wrong(content, images, batch, threads):
        scores = real(content, images, batch, threads)
        scores[: len(scores) // 2] *= -1
        return scores

    monkeypatch.setattr(verify, "run", first_half_wrong)
    monkeypatch.setattr(verify, "check", lambda parity, file: None)
    for model in front.finish(opened).models:
        assert model.accuracy.onnx_test < model.accuracy.test - 0.2


def test_a_file_that_differs_from_its_network_is_not_shipped(opened, monkeypatch):
    monkeypatch.setattr(verify, "TOLERANCE", -1.0)
    manifest = front.finish(opened)
    assert manifest.models == []
    assert manifest.hypervolume == 0
    assert {failure.reason.split()[1] for failure in manifest.not_trained} == {"differs"}
    assert list((opened.store.path / "front").glob("*.onnx")) == []


def test_files_of_an_earlier_end_go_only_when_there_is_a_new_one(opened, monkeypatch):
    folder = opened.store.path / "front"
    before = {file.name: file.read_bytes() for file in folder.glob("*.onnx")}
    opened.budget.seconds = 1e6
    opened.spec = opened.spec.resolve({"final.epochs": 2.0})
    with monkeypatch.context() as patch:
        patch.setattr(front.report, "write", lambda *_: 1 / 0)  # as if it ended here
        with pytest.raises(ZeroDivisionError):
            front.finish(opened)
    assert all((folder / name).read_bytes() == content for name, content in before.items())
    manifest = front.finish(opened)
    assert {file.name for file in folder.glob("*.onnx")} == {model.file for model in manifest.models}
    assert before.keys().isdisjoint(model.file for model in manifest.models)


def test_limits_that_the_finished_network_exceeds_are_marked(opened):
    ended, _ = train_all(opened, front._chosen(opened), [])
    latencies = manifests.read(opened.store.path).models[0].latency
    (latency,) = latencies.values()
    opened.spec = opened.spec.model_copy(update={"limits": {"latency": 0.99 * latency.p50_ms, "params": 1e9}})
    file = front.to_onnx(ended[0].arch, ended[0].state.value)
    model = front._model(opened, 1, ended[0], file, latencies, opened.store.path / "front")
    assert model.over_limits == ["latency"]
