"""Processes that train side by side, and what becomes of a call whose process dies."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from hwnas import runfolder
from hwnas.alone import Alone
from hwnas.call import Call
from hwnas.deaths import MOST_DEATHS, Deaths
from hwnas.executor import Executor
from hwnas.progress import Quiet
from hwnas.spec import Spec
from hwnas.store import Store
from hwnas.study import Study, load
from hwnas.workers import HANDED_OVER, Workers
from spaces.errors import StoreError, TrainingError
from spaces.morphisms import Widen
from tests.hwnas.test_executor import child, make, parent, run  # noqa: F401 (a fixture)
from tests.hwnas.toys import short


def process(executor):
    """Work: where it is done."""
    return os.getpid(), torch.get_num_threads()


def wait(executor, seconds):
    """Work: takes so long."""
    time.sleep(seconds)
    return time.monotonic()


def die(executor, number):
    """Work: as the system does where memory is short."""
    os.kill(os.getpid(), number)


def fail(executor, error):
    """Work: a bug."""
    raise error


def die_unless_alone(executor, mark):
    """Work: as a network that is too large for what others leave of the memory."""
    if not mark.exists():
        mark.touch()
        die(executor, signal.SIGKILL)
    return "made"


def count(executor, seconds):
    """Work: turns of a loop."""
    turns, ends = 0, time.monotonic() + seconds
    while time.monotonic() < ends:
        turns += 1
        time.sleep(0.01)
    return turns


def call(work, *arguments, instead=str, key=None):
    return Call(work.__name__, work, arguments, instead, key)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    with Store.create(tmp_path_factory.mktemp("run"), {}) as store:
        workers = Workers(make(), 2, 1, store.weights, Deaths(store))
        yield workers
        workers.close()


@pytest.fixture
def opened(tmp_path):
    with Store.create(tmp_path / "run", {}) as store:
        yield store


def together(workers, *calls):
    for one in calls:
        workers.submit(one)
    return [workers.next() for _ in calls]


def test_calls_run_in_processes_of_their_own_with_their_threads(pair):
    assert pair.free == 2
    made = together(pair, call(process, key=1), call(process, key=2))
    assert {done.key for done, _ in made} == {1, 2}
    assert len({os.getpid(), *(pid for _, (pid, _) in made)}) == 3
    assert {threads for _, (_, threads) in made} == {1}
    assert (pair.free, pair.running) == (2, [])


def test_what_is_done_first_comes_first(pair):
    made = together(pair, call(wait, 1.0, key="slow"), call(wait, 0.0, key="fast"))
    assert [done.key for done, _ in made] == ["fast", "slow"]


def test_a_trial_gives_what_it_gives_here(pair, parent):  # noqa: F811
    wider = child(parent[0], Widen("n2", 0, 8, seed=3))
    ((_, found),) = together(pair, call(Executor.run, wider, parent))
    (expected,) = run(make(), wider, parents={0: parent})
    assert found.result.values == expected.result.values
    own = found.state.flat()
    assert all(torch.equal(tensor, own[name]) for name, tensor in expected.state.flat().items())


def test_a_process_that_dies_costs_its_call_and_is_replaced(pair):
    made = together(pair, call(die, signal.SIGKILL, instead=lambda reason: reason), call(wait, 0.1))
    (reason,) = [one for done, one in made if done.work is die]
    assert reason == "its process died (SIGKILL); it may be too large for the memory"
    assert pair.free == 2
    assert len({pid for _, (pid, _) in together(pair, call(process), call(process))}) == 2


def test_a_process_that_died_with_nothing_to_do_costs_no_call(pair):
    (first, *_) = pair._workers
    first.process.kill()
    first.process.wait()
    assert {type(made) for _, made in together(pair, call(process), call(process))} == {tuple}


def test_what_dies_beside_others_is_tried_again_alone(pair, tmp_path):
    pair.submit(call(wait, 3.0, key="other"))
    pair.submit(call(die_unless_alone, tmp_path / "mark", key="large"))
    assert pair.next()[0].key == "other"
    assert (pair.free, [one.key for one in pair.running]) == (0, ["large"])
    done, made = pair.next()
    assert (done.key, made) == ("large", "made")
    assert (pair.free, pair.running) == (2, [])


def test_bugs_are_raised_with_the_workers_traceback(pair):
    pair.submit(call(fail, ZeroDivisionError("no")))
    with pytest.raises(ZeroDivisionError) as raised:
        pair.next()
    assert "in fail" in raised.value.__notes__[0]
    assert pair.free == 2


def test_a_bug_is_a_death_and_what_runs_beside_it_is_none(opened):
    workers = Workers(make(), 2, 1, opened.weights, Deaths(opened))
    workers.submit(call(wait, 60.0))
    workers.submit(call(fail, ZeroDivisionError("no")))
    with pytest.raises(ZeroDivisionError):
        workers.next()
    workers.close()
    deaths = Deaths(opened)
    for _ in range(MOST_DEATHS - 1):
        assert deaths.reason("fail") is None
        deaths.count("fail")
    assert deaths.reason("fail").startswith("the process died or was killed 3 times")
    assert opened.get("deaths in wait") is None


def test_work_under_way_when_the_process_was_killed_is_left_out_in_the_end(opened):
    for _ in range(MOST_DEATHS):
        killed = Deaths(opened)
        killed.begin("wait")
        killed.begin("process")
        killed.end("process")
    workers = Workers(make(), 2, 1, opened.weights, Deaths(opened))
    workers.submit(call(wait, 60.0))
    assert [one.work for one in workers.running] == [wait]
    assert workers.next()[1].startswith("the process died or was killed 3 times")
    assert together(workers, call(process))[0][1][1] == 1
    workers.close()


def test_the_images_are_handed_over_in_a_file_that_does_not_stay(pair):
    assert not (pair.file).exists()
    assert pair.file.name == HANDED_OVER


def test_processes_stand_still_while_they_are_paused(pair):
    pair.submit(call(count, 1.0))
    time.sleep(0.2)
    with pair.paused():
        time.sleep(1.5)
    _, turns = pair.next()
    assert 1 <= turns < 60  # of the hundred that it would have had


def test_a_process_that_cannot_begin_says_so(opened, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(TrainingError, match=r"set fewer by search\.workers"):
        Workers(make(), 2, 1, opened.weights, Deaths(opened))


def test_a_full_disk_is_called_that(opened, monkeypatch):
    monkeypatch.setattr("hwnas.workers.HANDED_OVER", "/dev/full")
    monkeypatch.setattr("pathlib.Path.unlink", lambda self, missing_ok: None)
    with pytest.raises(StoreError, match="is full"):
        Workers(make(), 2, 1, opened.weights, Deaths(opened))


def test_alone_everything_runs_here(opened):
    alone = Alone(make(), Deaths(opened))
    assert together(alone, call(process))[0][1][0] == os.getpid()
    assert alone.free == 1


def test_nothing_is_left_of_workers_whose_study_is_killed(tmp_path):
    script = f"""
import os, signal, sys
from pathlib import Path
from hwnas.deaths import Deaths
from hwnas.store import Store
from hwnas.workers import Workers
from tests.hwnas.test_workers import call, make, process, together
store = Store.create(Path({str(tmp_path)!r}) / "run", {{}})
workers = Workers(make(), 2, 1, store.weights, Deaths(store))
print(*(pid for _, (pid, _) in together(workers, call(process), call(process))), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=os.getcwd())
    pids = [int(text) for text in done.stdout.split()]
    assert len(pids) == 2, done.stderr
    for _ in range(100):
        if not any(_alive(pid) for pid in pids):
            break
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in pids)


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Impatient(Quiet):
    """Presses Ctrl-C after some trainings."""

    def update(self, *, trainings, **status):
        if trainings == 5:
            raise KeyboardInterrupt


def test_a_search_side_by_side_trains_as_many_as_it_may(tmp_path):
    out = tmp_path / "run"

    def trained():
        with Store.open(out) as store:
            return [(trial, result) for trial, result in store.trials() if result is not None]

    with pytest.raises(KeyboardInterrupt):
        runfolder.search(short(**{"search.workers": 2, "budget": {"trainings": 20}}), out, Impatient())
    assert len(trained()) == 5
    runfolder.resume(out, budget="6")  # more are waiting
    assert len(trained()) == 6
    runfolder.resume(out, budget="13")
    assert len(trained()) == 13
    assert all(result.status == "ok" for _, result in trained())
    assert {trial.generation for trial, _ in trained()} > {0, 1}  # children came when others were not done


def test_a_machine_with_fewer_cores_has_fewer_workers(searched, tmp_path, monkeypatch):
    out = shutil.copytree(searched, tmp_path / "run")
    with Store.open(out, write=True) as store:
        store.put("plan", {**store.get("plan"), "workers": 64})
        asked = store.get("spec")
        spec = Spec.from_json({**asked, "search": {**asked["search"], "workers": None}})
        monkeypatch.setattr("hwnas.study.usable_cores", lambda: 3)
        assert Study(spec, load(spec), store, Quiet()).plan.workers == 3
