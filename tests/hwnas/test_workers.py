"""Processes that train side by side, and what becomes of a call whose process dies."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from hwnas import runfolder
from hwnas.executor import Executor
from hwnas.store import Store
from hwnas.workers import HANDED_OVER, Alone, Call, Workers
from spaces.errors import TrainingError
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
    workers = Workers(make(), 2, 1, tmp_path_factory.mktemp("run"))
    yield workers
    workers.close()


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


def test_bugs_are_raised_with_the_workers_traceback(pair):
    pair.submit(call(fail, ZeroDivisionError("no")))
    with pytest.raises(ZeroDivisionError) as raised:
        pair.next()
    assert "in fail" in raised.value.__notes__[0]
    assert pair.free == 2


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


def test_a_process_that_cannot_begin_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(TrainingError, match=r"set fewer by search\.workers"):
        Workers(make(), 2, 1, tmp_path)


def test_alone_everything_runs_here(tmp_path):
    with Store.create(tmp_path / "run", {}) as store:
        alone = Alone(make(), store)
        assert together(alone, call(process))[0][1][0] == os.getpid()
        assert alone.free == 1


def test_nothing_is_left_of_workers_whose_study_is_killed(tmp_path):
    script = f"""
import os, signal, sys
from pathlib import Path
from hwnas.workers import Workers
from tests.hwnas.test_workers import call, make, process, together
workers = Workers(make(), 2, 1, Path({str(tmp_path)!r}))
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


def test_a_search_side_by_side_trains_as_many_as_it_may(tmp_path):
    out = tmp_path / "run"
    runfolder.search(short(**{"search.workers": 2, "budget": {"trainings": 11}}), out)
    with Store.open(out) as store:
        records = store.trials()
    assert len(records) == 11
    assert all(result is not None and result.status == "ok" for _, result in records)
    assert {trial.generation for trial, _ in records} > {0, 1}  # children came when others were not done
