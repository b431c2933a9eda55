"""The store against real files, real processes and real kills."""

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch

from hwnas.box import Box
from hwnas.database import SCHEMA_VERSION
from hwnas.plan import Plan
from hwnas.spec import Spec
from hwnas.store import Store
from hwnas.trial import Result, Trial
from spaces.errors import StoreError
from spaces.plain import PlainSpace


def trial(id, parent=None):
    return Trial(id=id, genotype={"width": id}, hash=f"h{id}", parent=parent, init="parent" if parent else "scratch")


def state(id):
    """Weights that only this id has, in every layout and type that training leaves behind."""
    shared = torch.full((2, 3), float(id))
    return {
        "value/n1.weight": shared,
        "ema/n1.weight": shared,
        "momentum/n1.weight": torch.full((2, 8, 3, 3), id + 0.5).contiguous(memory_format=torch.channels_last),
        "value/n1.bias": torch.full((3,), float(id), dtype=torch.bfloat16, requires_grad=True),
        "value/n2.num_batches_tracked": torch.tensor(id),
        "value/n3.weight": torch.empty(0, 4, dtype=torch.float64),
    }


def result(id):
    return Result(values={"error": 1 / (id + 1)}, seconds=0.1 * id)


def assert_same_tensors(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        assert torch.equal(left[name], right[name])


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "run", {"seed": 3}) as store:
        yield store


def weight_files(store):
    return sorted(file.name for file in (store.path / "weights").iterdir())


# What is put in comes out


def test_a_study_comes_back_as_it_was(store):
    store.add_trials([trial(0), trial(1), trial(2, parent=1)])
    told = store.tell(1, result(1), state(1))
    failed = store.tell(0, Result(values={}, seconds=1.0, status="failed", reason="diverged"))
    store.put("wall_seconds", 12.5)
    store.put("wall_seconds", 13.5)
    path = store.path
    store.close()

    with Store.open(path) as again:
        assert again.trials() == [(trial(0), failed), (trial(1), told), (trial(2, parent=1), None)]
        assert again.get("spec") == {"seed": 3}
        assert again.get("wall_seconds") == 13.5
        assert again.get("nothing") is None
        assert again.get("nothing", 7) == 7
        assert_same_tensors(again.load_weights(told.weights), state(1))


def test_equal_weights_are_one_file(store):
    first = store.save_weights(state(1))
    backwards = dict(reversed(state(1).items()))
    assert store.save_weights(backwards) == first
    assert weight_files(store) == [f"{first}.safetensors"]


def test_loaded_weights_can_be_trained_on(store):
    loaded = store.load_weights(store.save_weights(state(1)))
    loaded["value/n1.weight"] += 1
    assert_same_tensors(store.load_weights(store.save_weights(state(1))), state(1))


def test_a_copied_folder_is_the_study(store, tmp_path):
    store.add_trials([trial(0)])
    told = store.tell(0, result(0), state(0))
    store.close()
    shutil.copytree(store.path, tmp_path / "copy")
    shutil.rmtree(store.path)
    with Store.open(tmp_path / "copy", write=True) as copy:
        assert copy.trials() == [(trial(0), told)]
        assert_same_tensors(copy.load_weights(told.weights), state(0))
        copy.add_trials([trial(1)])


def test_the_committed_state_is_in_study_db_alone(store, tmp_path):
    store.add_trials([trial(0)])
    store.tell(0, result(0))
    files = [file.name for file in store.path.iterdir() if file.is_file()]
    assert sorted(files) == ["lock", "study.db"]


def test_exists(tmp_path):
    assert not Store.exists(tmp_path / "run")
    with Store.create(tmp_path / "run", {}):
        assert Store.exists(tmp_path / "run")


# Telling


def test_telling_the_same_twice_is_fine_and_something_else_is_not(store):
    store.add_trials([trial(0)])
    first = store.tell(0, result(0), state(0))
    assert store.tell(0, result(0), state(0)) == first
    assert store.tell(0, first) == first
    with pytest.raises(StoreError, match=r"trial 0 of .* has a result already, and this is another one"):
        store.tell(0, result(0), state(5))
    with pytest.raises(StoreError, match="has a result already"):
        store.tell(0, result(9), state(0))
    assert store.trials() == [(trial(0), first)]


def test_results_come_in_any_order(store):
    store.add_trials([trial(i) for i in range(5)])
    for id in (3, 0, 4):
        store.tell(id, result(id))
    assert [r is not None for _, r in store.trials()] == [True, False, False, True, True]


def test_what_does_not_belong_is_refused(store):
    store.add_trials([trial(0)])
    with pytest.raises(StoreError, match=r"has no trial 4; a trial is added before its result is told"):
        store.tell(4, result(4))
    with pytest.raises(StoreError, match=r"trial 0 names weights c0ffee, which .* does not hold"):
        store.tell(0, Result(values={"error": 0.1}, seconds=1.0, weights="c0ffee"))
    with pytest.raises(StoreError, match=r"has a trial 0 already"):
        store.add_trials([trial(1), trial(0)])
    with pytest.raises(StoreError, match=r"trial 8 has parent 7, which .* does not know"):
        store.add_trials([trial(8, parent=7)])
    assert [t.id for t, _ in store.trials()] == [0], "all trials are added, or none"


def test_named_values_are_json(store):
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.put("wall_seconds", float("nan"))
    with pytest.raises(TypeError, match="not JSON serializable"):
        store.put("device", object())
    assert store.get("wall_seconds") is None


# Sweeping


def test_sweep_deletes_what_nobody_needs_and_nothing_else(store):
    store.add_trials([trial(i) for i in range(4)])
    told = [store.tell(i, result(i), state(i)) for i in range(4)]
    store.add_trials([trial(4, parent=1)])  # runs: its parent's weights are needed
    final = store.save_weights(state(100))
    store.put("final/h2", {"weights": final, "epochs": 30})
    store.save_weights(state(101))  # nobody refers to it
    half_written = store.path / "weights" / f".{told[0].weights}.safetensors.new"
    half_written.write_bytes(b"half")

    assert store.sweep(keep={told[0].weights}) == 4

    assert weight_files(store) == sorted(f"{h}.safetensors" for h in (told[0].weights, told[1].weights, final))
    with pytest.raises(StoreError, match=r"is missing: the weights of trial 3 were swept or lost"):
        store.load_weights(told[3].weights)
    store.tell(4, result(4), state(4))
    assert store.tell(3, told[3]) == told[3]  # the same again is fine, though its weights are gone
    assert store.sweep(keep=[]) == 3  # 0 and 4 are not kept any more, and 1 has no running child
    assert weight_files(store) == [f"{final}.safetensors"]


# Damage


def test_damaged_weights_are_named_with_their_trial(store):
    store.add_trials([trial(0), trial(1)])
    told = store.tell(1, result(1), state(1))
    file = store.path / "weights" / f"{told.weights}.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(StoreError, match=rf"{file} is corrupt: the weights of trial 1 changed on disk. Restore it"):
        store.load_weights(told.weights)
    file.write_bytes(content[:10])
    with pytest.raises(StoreError, match="is corrupt: the weights of trial 1"):
        store.load_weights(told.weights)


def test_weights_of_no_trial_say_so(store):
    with pytest.raises(StoreError, match=r"beef\.safetensors is missing: the weights of no trial"):
        store.load_weights("beef")


def test_not_a_run_folder(tmp_path):
    with pytest.raises(
        StoreError, match=rf"{tmp_path}/nowhere does not exist\. Name a folder that 'hwnas search --out'"
    ):
        Store.open(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=rf"{tmp_path}/file is a file\. Name a folder"):
        Store.open(tmp_path / "file")
    with pytest.raises(StoreError, match=rf"{tmp_path} is no run folder: it holds no study\.db"):
        Store.open(tmp_path)


def test_a_second_create_is_refused_and_changes_nothing(store):
    store.add_trials([trial(0)])
    path = store.path
    store.close()
    with pytest.raises(StoreError, match=rf"{path} holds a study already\. Go on with 'hwnas resume {path}'"):
        Store.create(path, {})
    with Store.open(path, write=True) as again:
        assert len(again.trials()) == 1


def test_create_after_a_kill_in_the_middle_of_create(tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "study.db.new").write_bytes(b"half a database")
    assert not Store.exists(tmp_path)
    with Store.create(tmp_path, {"seed": 1}) as store:
        assert store.get("spec") == {"seed": 1}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["lock", "study.db", "weights"]


@pytest.mark.parametrize("content", [b"not a database " * 100, b""])
def test_something_else_called_study_db(tmp_path, content):
    (tmp_path / "study.db").write_bytes(content)
    with pytest.raises(StoreError, match=r"study\.db (is corrupt\. Restore|was not written by hwnas)"):
        Store.open(tmp_path)


def test_another_programs_database(tmp_path):
    with closing(sqlite3.connect(tmp_path / "study.db")) as db:
        db.execute("CREATE TABLE trials (id)")
    with pytest.raises(StoreError, match=r"study\.db was not written by hwnas"):
        Store.open(tmp_path)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.7])
def test_a_damaged_database_is_refused(store, fraction):
    store.add_trials([trial(i) for i in range(300)])
    path = store.path
    store.close()
    content = bytearray((path / "study.db").read_bytes())
    start = int(fraction * len(content))
    content[start : start + 4096] = random.Random(0).randbytes(4096)
    (path / "study.db").write_bytes(content)
    with pytest.raises(StoreError, match=r"study\.db is corrupt.*Restore it from a copy"):
        Store.open(path, write=True)
    (path / "lock").unlink()  # and the refused writer let go of the folder
    shutil.rmtree(path)
    Store.create(path, {}).close()


def test_a_truncated_database_is_refused(store):
    store.add_trials([trial(i) for i in range(300)])
    path = store.path
    store.close()
    os.truncate(path / "study.db", (path / "study.db").stat().st_size // 2)
    with pytest.raises(StoreError, match=r"study\.db is corrupt"):
        Store.open(path)


def test_a_record_that_is_no_trial_is_named(store):
    store.add_trials([trial(0), trial(1)])
    store.close()
    with closing(sqlite3.connect(store.path / "study.db")) as db, db:
        db.execute("UPDATE trials SET trial = ? WHERE id = 1", (json.dumps({"id": 1}),))
    with (
        Store.open(store.path) as again,
        pytest.raises(StoreError, match=r"study\.db is corrupt: trial 1: not a Trial: key 'genotype' is missing"),
    ):
        again.trials()


def put_raw(store, table, column, text, where):
    with closing(sqlite3.connect(store.path / "study.db")) as db, db:
        db.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (text,))


@pytest.mark.parametrize("text", ["7", "[1]", '"x"', "{"])
def test_a_record_that_is_no_mapping_is_named(store, text):
    store.add_trials([trial(0)])
    put_raw(store, "trials", "trial", text, "id = 0")
    with pytest.raises(StoreError, match=rf"{store.path}/study\.db is corrupt: trial 0: .*Restore it from a copy"):
        store.trials()


def test_a_genotype_that_the_space_cannot_read_is_named(store):
    space = PlainSpace((1, 8, 8), classes=2)
    store.add_trials([Trial(id=0, genotype=space.to_json(space.starts()[0]), hash="a"), trial(1)])
    with pytest.raises(StoreError, match=rf"{store.path}/study\.db is corrupt: trial 1: .*Restore it from a copy"):
        store.trials(space.from_json)
    assert len(store.trials()) == 2


def test_a_named_value_that_is_not_json_is_named(store):
    put_raw(store, "named", "value", "{", "name = 'spec'")
    with pytest.raises(StoreError, match=rf"{store.path}/study\.db is corrupt: spec: Expecting .*Restore it from a"):
        store.get("spec")


@pytest.mark.parametrize("parse", [Spec.from_json, Plan.from_json, Box.from_json], ids=["spec", "plan", "box"])
@pytest.mark.parametrize("value", [{"a": 1}, [1], 5, "x", True])
def test_a_named_value_that_its_reader_refuses_is_named(store, parse, value):
    store.put("it", value)
    with pytest.raises(StoreError, match=rf"{store.path}/study\.db is corrupt: it: .*Restore it from a copy"):
        store.read("it", parse)


def test_a_named_value_is_read_or_its_default_or_missing(store):
    store.put("seconds", 3)
    assert store.read("seconds", float) == 3.0
    assert store.read("hours", float, 0.5) == 0.5
    with pytest.raises(StoreError, match=r"study\.db is corrupt: hours: it is missing\. Restore"):
        store.read("hours", float)


def test_a_newer_schema_is_refused(store):
    store.close()
    with closing(sqlite3.connect(store.path / "study.db")) as db, db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StoreError, match=rf"schema version {SCHEMA_VERSION + 1}, and this hwnas reads up to"):
        Store.open(store.path)


# Discarding


def test_a_discarded_study_leaves_nothing_behind(tmp_path):
    Store.create(tmp_path / "runs" / "mine", {}).discard()
    assert list(tmp_path.iterdir()) == []
    Store.create(tmp_path / "runs" / "mine", {}).close()


def test_a_discarded_study_leaves_what_was_there(tmp_path):
    (tmp_path / "run" / "weights").mkdir(parents=True)
    (tmp_path / "run" / "notes.txt").touch()
    Store.create(tmp_path / "run", {}).discard()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["notes.txt", "weights"]
    Store.create(tmp_path / "other", {}).close()
    with Store.open(tmp_path / "other", write=True) as store:
        store.discard()
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["weights"]


def test_what_others_put_there_stays(tmp_path):
    store = Store.create(tmp_path / "runs" / "mine", {})
    (tmp_path / "runs" / "notes.txt").touch()
    store.discard()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["notes.txt"]


# The disk says no


@pytest.mark.parametrize("place", ["file", "file/run", "run"])
def test_a_file_in_the_way(tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "weights").touch()
    with pytest.raises(StoreError, match=rf"{tmp_path}/{place}/weights: a part of this path is a file; name a folder"):
        Store.create(tmp_path / place, {})


def test_a_full_disk_under_the_weights(store):
    """/dev/full is a disk on which every write fails with ENOSPC."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    store.add_trials([trial(0)])
    hash = store.save_weights(state(0))
    store.sweep(keep=[])
    (store.path / "weights" / f".{hash}.safetensors.new").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=rf"the disk that holds {store.path} is full\. Free some space and go on"):
        store.tell(0, result(0), state(0))
    assert store.trials() == [(trial(0), None)], "no result may refer to weights that are not there"
    assert weight_files(store) == []
    assert_same_tensors(store.load_weights(store.tell(0, result(0), state(0)).weights), state(0))


def test_a_full_disk_under_the_database(store):
    store.add_trials([trial(0)])
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match=r"is full\. Free some space and go on with 'hwnas resume .*'"):
        store.add_trials([trial(i) for i in range(1, 300)])
    store._db.execute("PRAGMA max_page_count = 100000")
    assert [t.id for t, _ in store.trials()] == [0]
    store.add_trials([trial(1)])


@pytest.fixture
def powerless(tmp_path_factory):
    """A folder that this process may look into but not write to, whoever runs the tests."""
    folder = tmp_path_factory.mktemp("powerless")
    Store.create(folder / "run", {}).close()
    root = os.geteuid() == 0
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    parents = [p for p in folder.parents if root and not p.stat().st_mode & 0o001]
    for parent in parents:
        parent.chmod(parent.stat().st_mode | 0o011)
    if root:
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    for parent in parents:
        parent.chmod(0o700)


def test_no_permission(powerless):
    with pytest.raises(
        StoreError, match=rf"{powerless}/new: not permitted\. Change its permissions or owner, or choose"
    ):
        Store.create(powerless / "new", {})
    with pytest.raises(StoreError, match=rf"{powerless}/run/lock: not permitted"):
        Store.open(powerless / "run", write=True)
    with Store.open(powerless / "run") as reader:  # looking at it is allowed
        assert reader.trials() == []


def test_a_reader_does_not_write(store):
    store.add_trials([trial(0)])
    with Store.open(store.path) as reader:
        for write in (
            lambda: reader.add_trials([trial(1)]),
            lambda: reader.tell(0, result(0), state(0)),
            lambda: reader.tell(0, result(0)),
            lambda: reader.put("a", 1),
            lambda: reader.save_weights(state(0)),
            lambda: reader.sweep(keep=[]),
        ):
            with pytest.raises(StoreError, match="is open for reading only; open it with write=True"):
                write()


# Other processes. They are born of one process that has paid for `import torch` once.

NURSERY = """
import os, sys, time, torch
torch.set_num_threads(1)
from hwnas.store import Store
from hwnas.trial import Result, Trial

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def state(id):
    return {"value/w": torch.full((64, 64), float(id)), "ema/w": torch.full((64,), -float(id))}

def tell_for_ever(run):
    with (Store.open(run, write=True) if Store.exists(run) else Store.create(run, {})) as store:
        for trial, result in store.trials():
            if result is None:  # a trial the last writer died on
                store.tell(trial.id, Result({"error": 0.5}, 1.0), state(trial.id))
                say("told", trial.id)
        id = len(store.trials())
        while True:
            store.add_trials([Trial(id=id, genotype=id, hash=str(id))])
            store.tell(id, Result({"error": 0.5}, 1.0), state(id))
            say("told", id)
            if id % 7 == 0:
                store.sweep({r.weights for _, r in store.trials() if r})
            id += 1

def hold_with_an_orphan(run):
    store = Store.open(run, write=True)
    if os.fork() == 0:
        say("orphan", os.getpid())
        time.sleep(60)
        os._exit(0)
    os.wait()

say("ready")
for line in sys.stdin:
    what, run = line.rstrip("\\n").split(" ", 1)
    child = os.fork()
    if child == 0:
        say("born", os.getpid())
        try:
            {"tell": tell_for_ever, "hold": hold_with_an_orphan}[what](run)
        except BaseException as error:
            say("raised", type(error).__name__, error)
        os._exit(1)
    os.waitpid(child, 0)
    say("dead", child)
"""


class Nursery:
    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        )
        self.expect("ready")

    def read(self):
        line = self.process.stdout.readline().decode()
        assert line.endswith("\n"), f"the nursery ended: {line!r}"
        return line.split(maxsplit=1)

    def expect(self, word):
        said = self.read()
        while said[0] != word:
            assert said[0] != "raised", said
            said = self.read()
        return said[1].strip() if len(said) > 1 else ""

    def bear(self, what, run):
        self.process.stdin.write(f"{what} {run}\n".encode())
        self.process.stdin.flush()
        return int(self.expect("born"))


@pytest.fixture(scope="module")
def nursery():
    nursery = Nursery()
    with nursery.process as process:
        yield nursery
        process.stdin.close()
        process.kill()


def test_everything_told_survives_kill_9(nursery, tmp_path):
    moments = random.Random(1)
    told = []
    for attempt in range(10):
        pid = nursery.bear("tell", tmp_path / "run")
        if attempt % 3:  # in the middle of the work
            told += [int(nursery.expect("told")) for _ in range(moments.randint(1, 12))]
            time.sleep(moments.uniform(0, 0.03))
        else:  # perhaps in the middle of creating or opening
            time.sleep(moments.uniform(0, 0.03))
        os.kill(pid, signal.SIGKILL)
        while (said := nursery.read())[0] != "dead":
            assert said[0] == "told", said
            told.append(int(said[1]))

        if not Store.exists(tmp_path / "run"):
            assert told == []
            continue
        with Store.open(tmp_path / "run", write=True) as store:
            pairs = store.trials()
            results = {trial.id: result for trial, result in pairs}
            assert list(results) == list(range(len(results)))
            assert set(told) <= {id for id, result in results.items() if result}
            assert sum(result is None for result in results.values()) <= 1, "only what was in training is lost"
            for id, result in results.items():
                if result:
                    weights = store.load_weights(result.weights)
                    assert (weights["value/w"] == id).all()
                    assert (weights["ema/w"] == -id).all()
            store.sweep({result.weights for result in results.values() if result})
            assert all(name.endswith(".safetensors") for name in weight_files(store))
    assert len(told) == len(set(told)) > 5


def test_one_writer_many_readers_and_a_lock_that_dies_with_its_process(nursery, tmp_path):
    run = tmp_path / "run"
    Store.create(run, {"seed": 3}).close()
    pid = nursery.bear("hold", run)
    orphan = int(nursery.expect("orphan"))
    try:
        message = f"{run} is being written by another process (pid {pid}). Wait until it ends"
        with pytest.raises(StoreError, match=re.escape(message)):
            Store.open(run, write=True)
        with Store.open(run) as reader:
            assert reader.get("spec") == {"seed": 3}

        os.kill(pid, signal.SIGKILL)
        nursery.expect("dead")
        os.kill(orphan, 0)  # lives on, with every descriptor of its parent's
        with Store.open(run, write=True) as store:
            store.add_trials([trial(0)])
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_one_writer_within_a_process(store):
    with pytest.raises(StoreError, match=rf"is open for writing in this process already \(pid {os.getpid()}\)"):
        Store.open(store.path, write=True)
    store.close()
    store.close()
    Store.open(store.path, write=True).close()


def test_reading_a_table_does_not_start_torch(store):
    code = "import sys; from hwnas.store import Store; Store.open(sys.argv[1]).trials(); print('torch' in sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", code, str(store.path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout == "False\n"
