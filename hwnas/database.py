"""The SQLite file of a study: its tables, how it is opened and checked, and its errors in plain words.

It keeps a rollback journal, not a write-ahead log: between transactions the folder's state is in this one file, readers
need no write permission, and a few commits a second are all that is asked of it. `synchronous=EXTRA` also syncs the
folder after each commit, so that what was told survives a power cut too.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from hwnas import disk
from spaces.errors import StoreError

#: Its name in a run folder.
FILE_NAME = "study.db"

#: Written into every file; one of a newer version is refused.
SCHEMA_VERSION = 1

_APPLICATION_ID = 0x48574E41  # "HWNA": tells a study from any other SQLite file
_SCHEMA = (
    "CREATE TABLE trials (id INTEGER PRIMARY KEY, trial TEXT NOT NULL, result TEXT)",
    "CREATE TABLE named (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)


def create(file: Path) -> None:
    """A new database without rows."""
    with closing(connect(file)) as db, transaction(db):
        for statement in _SCHEMA:
            db.execute(statement)


def connect(file: Path) -> sqlite3.Connection:
    """Autocommit: transactions are begun by hand. The timeout is for readers, who hold the file for a moment.

    Readers too open for writing, since the first one after a kill rolls an unfinished transaction back; where the file
    is write-protected SQLite falls back to reading.
    """
    db = sqlite3.connect(file, timeout=30, isolation_level=None)
    db.execute("PRAGMA synchronous = EXTRA")
    return db


def check(path: Path, db: sqlite3.Connection) -> None:
    """Refuse a database that is somebody else's, from the future or damaged."""
    if db.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        raise StoreError(f"{path}/{FILE_NAME} was not written by hwnas. Name a folder that 'hwnas search' made.")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path}/{FILE_NAME} has schema version {version}, and this hwnas reads up to {SCHEMA_VERSION}. "
            "Upgrade it: pip install --upgrade hwnas."
        )
    report = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if report != "ok":
        raise StoreError(f"{path}/{FILE_NAME} is corrupt: {report.splitlines()[-1]}. {disk.RESTORE}")


def dumps(value: Any) -> str:
    """JSON as it is kept; a ValueError for NaN and infinity, which JSON does not know."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """What SQLite and the file system report, as a `StoreError` that says what to do."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise  # a bug of ours, such as the use of a closed store
    except (sqlite3.Error, OSError) as error:
        raise StoreError(disk.explain(error, path, path / FILE_NAME)) from error


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of what is written in it is kept, or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # on a full disk SQLite has rolled back by itself; the first error counts
            db.execute("ROLLBACK")
        raise
