import errno
import sqlite3
from pathlib import Path

import pytest

from hwnas.disk import explain

RUN, DATABASE = Path("runs/mine"), Path("runs/mine/study.db")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left"), "the disk that holds runs/mine is full. Free some space and go on"),
        (OSError(errno.EACCES, "Denied", "a/b"), "a/b: not permitted. Change its permissions or owner, or choose"),
        (OSError(errno.EMFILE, "Too many open files", "a/b"), "a/b: too many open files"),
        (OSError("connection lost"), "runs/mine: connection lost"),
        (
            sqlite3.OperationalError("Could not decode to UTF-8 column"),
            "runs/mine/study.db is corrupt. Restore it from",
        ),
    ],
)
def test_a_sentence_with_a_next_step(error, sentence):
    assert explain(error, RUN, DATABASE).startswith(sentence)


def test_what_sqlite_says_by_its_code(tmp_path):
    with sqlite3.connect(tmp_path / "a.db") as db, pytest.raises(sqlite3.OperationalError) as raised:
        db.execute("SELECT * FROM missing")
    db.close()
    found = explain(raised.value, RUN, DATABASE)
    assert found.startswith("runs/mine/study.db cannot be used: no such table: missing. Restore it from a copy")


def test_without_any_file():
    assert explain(OSError("connection lost")) == "connection lost"
    assert "'hwnas resume RUN'" in explain(OSError(errno.ENOSPC, "No space left", "x"))
