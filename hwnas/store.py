"""`Store`: one study in one folder, which survives `kill -9` at any moment and can be copied as it is.

::

    RUN/
    ├── study.db                      trials, results and named values (SQLite)
    ├── weights/<sha256>.safetensors  trained states, named by their content
    └── lock                          held by the one process that writes

The order of writing is the whole idea: weights go to a temporary file, which is synced and renamed; only then does one
SQLite transaction refer to them. So whatever `study.db` mentions is there, and the worst a kill leaves behind is a file
that nothing mentions, which `Store.sweep` deletes.
"""

import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from hwnas import database, disk, tensorfile
from hwnas.lock import Lock
from hwnas.trial import Result, Trial
from spaces.errors import HwnasError, StoreError
from spaces.wholefile import sync_folder

if TYPE_CHECKING:
    from torch import Tensor

_T = TypeVar("_T")

_LOCK = "lock"
_WEIGHTS = "weights"
_WEIGHTS_OF_RUNNING_PARENTS = """
    SELECT json_extract(result, '$.weights') FROM trials
    WHERE id IN (SELECT json_extract(trial, '$.parent') FROM trials WHERE result IS NULL)
"""


class Store:
    """Trials, results, weights and named values of one study.

    Made by `Store.create` or `Store.open`; use as a context manager or call `close`. One process writes, any number
    read. All methods raise `StoreError` when the folder is missing, corrupt, full or not writable.

    >>> import tempfile, torch
    >>> folder = tempfile.mkdtemp()
    >>> with Store.create(f"{folder}/run", {"seed": 0}) as store:
    ...     store.add_trials([Trial(id=0, genotype=None, hash="a"), Trial(id=1, genotype=None, hash="b")])
    ...     told = store.tell(0, Result(values={"error": 0.1}, seconds=2.0), {"value/n0.weight": torch.ones(2)})
    >>> with Store.open(f"{folder}/run") as store:
    ...     [(trial.id, result and result.values) for trial, result in store.trials()]
    ...     store.load_weights(told.weights)
    [(0, {'error': 0.1}), (1, None)]
    {'value/n0.weight': tensor([1., 1.])}
    """

    def __init__(self, path: Path, db: sqlite3.Connection, lock: Lock | None, made: Sequence[Path] = ()):
        """Use `create` or `open`."""
        self.path = path
        self._db = db
        self._lock = lock
        self._made = made  # folders that were not there before

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether the folder `path` holds a study: then `open` it, else `create` one.

        Raises:
            StoreError: the folder may not be looked into.
        """
        with database.plain_errors(Path(path)):
            return (Path(path) / database.FILE_NAME).is_file()

    @classmethod
    def create(cls, path: str | Path, spec: Mapping[str, Any]) -> Self:
        """Start a study in the folder `path` (made where it is missing) and hold it for writing.

        Args:
            path: the run folder; it may hold other files, but no study.
            spec: the resolved specification, as JSON; `get("spec")` gives it back.

        Raises:
            StoreError: the folder holds a study already, is in use, or cannot be written.
        """
        path = Path(path).resolve()
        with database.plain_errors(path), ExitStack() as undo:
            weights = path / _WEIGHTS
            made = [folder for folder in (weights, *weights.parents) if not folder.exists()]
            weights.mkdir(parents=True, exist_ok=True)
            lock = Lock(path / _LOCK)
            undo.callback(lock.release)
            if cls.exists(path):
                raise StoreError(
                    f"{path} holds a study already. Go on with 'hwnas resume {path}' or name another folder."
                )
            # Under another name until it is whole: where there is a study.db, there is a study.
            unborn = path / f"{database.FILE_NAME}.new"
            unborn.unlink(missing_ok=True)
            database.create(unborn)
            with closing(database.connect(unborn)) as db:
                db.execute("INSERT INTO named VALUES ('spec', ?)", (database.dumps(spec),))
            unborn.replace(path / database.FILE_NAME)
            sync_folder(path)
            db = database.connect(path / database.FILE_NAME)
            undo.pop_all()
            return cls(path, db, lock, made)

    @classmethod
    def open(cls, path: str | Path, write: bool = False) -> Self:
        """Open the study in the folder `path`, for reading or, as its only writer, for going on.

        Raises:
            StoreError: `path` is no run folder, its `study.db` is corrupt or of a newer version, or, with `write`,
                another process is writing it or it may not be written.
        """
        path = Path(path).resolve()
        with database.plain_errors(path), ExitStack() as undo:
            if not path.is_dir():
                what = "is a file" if path.exists() else "does not exist"
                raise StoreError(f"{path} {what}. Name a folder that 'hwnas search --out' made.")
            if not cls.exists(path):
                raise StoreError(
                    f"{path} is no run folder: it holds no {database.FILE_NAME}. Name one that 'hwnas search' made."
                )
            lock = None
            if write:
                lock = Lock(path / _LOCK)
                undo.callback(lock.release)
                (path / _WEIGHTS).mkdir(exist_ok=True)  # a loss is told of the weights that are wanted
            db = database.connect(path / database.FILE_NAME)
            undo.callback(db.close)
            database.check(path, db)
            undo.pop_all()
            return cls(path, db, lock)

    def close(self) -> None:
        """Let go of the folder; a second call does nothing."""
        self._db.close()
        if self._lock:
            self._lock.release()
            self._lock = None

    def discard(self) -> None:
        """Delete a study that ended before it began, with the folders made for it; what others put there stays."""
        self._must_write()
        with database.plain_errors(self.path):
            (self.path / database.FILE_NAME).unlink()
            (self.path / _LOCK).unlink()
            for folder in self._made:  # the deepest first
                if not any(folder.iterdir()):
                    folder.rmdir()
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Trials and results

    def add_trials(self, trials: Sequence[Trial]) -> None:
        """Record what was asked, all or none; these trials are running until they are told.

        Raises:
            StoreError: an id is taken, or a parent is unknown.
        """
        with self._writing():
            known = {row[0] for row in self._db.execute("SELECT id FROM trials")}
            for trial in trials:
                if trial.id in known:
                    raise StoreError(f"{self.path} has a trial {trial.id} already; ids are given once.")
                if trial.parent is not None and trial.parent not in known:
                    raise StoreError(f"trial {trial.id} has parent {trial.parent}, which {self.path} does not know.")
                self._db.execute("INSERT INTO trials VALUES (?, ?, NULL)", (trial.id, database.dumps(trial.to_json())))
                known.add(trial.id)

    def tell(self, id: int, result: Result, state: "Mapping[str, Tensor] | None" = None) -> Result:
        """Record what a trial came to; when this returns, it survives `kill -9` and a power cut.

        Telling the same again changes nothing.

        Args:
            id: the trial, as given to `add_trials`.
            result: what it came to.
            state: trained tensors by name, to be stored; their hash becomes the result's `weights`.

        Returns:
            The result as stored, with `weights` filled in.

        Raises:
            StoreError: the trial is unknown, has another result already, or names weights that are not stored.
        """
        if state is not None:
            result = replace(result, weights=self.save_weights(state))
        text = database.dumps(result.to_json())
        with self._writing():
            row = self._db.execute("SELECT result FROM trials WHERE id = ?", (id,)).fetchone()
            if row is None:
                raise StoreError(f"{self.path} has no trial {id}; a trial is added before its result is told.")
            if row[0] is None:
                if result.weights is not None and not self._weights_file(result.weights).exists():
                    raise StoreError(f"trial {id} names weights {result.weights}, which {self.path} does not hold.")
                self._db.execute("UPDATE trials SET result = ? WHERE id = ?", (text, id))
            elif row[0] != text:
                raise StoreError(f"trial {id} of {self.path} has a result already, and this is another one.")
        return result

    def trials(self, genotype: Callable[[Any], object] = lambda _: None) -> list[tuple[Trial, Result | None]]:
        """All trials in the order of their ids, each with its result, or None while it runs.

        Args:
            genotype: reads a trial's genotype, such as `Space.from_json`; to find here what it refuses.

        Raises:
            StoreError: a trial or its genotype is damaged; the message names it.
        """
        with database.plain_errors(self.path):
            rows = self._db.execute("SELECT id, trial, result FROM trials ORDER BY id").fetchall()
        pairs = []
        for id, trial, result in rows:
            with self._sound(f"trial {id}"):
                asked = Trial.from_json(json.loads(trial))
                genotype(asked.genotype)
                pairs.append((asked, None if result is None else Result.from_json(json.loads(result))))
        return pairs

    # Named values

    def put(self, name: str, value: Any) -> None:
        """Keep a JSON value under `name`, in place of an earlier one.

        Weights whose hash stands in a named value are never swept: so the end of a study, say, can be kept model by
        model (`save_weights`, then `put`) and taken up again after a kill.

        Raises:
            ValueError: the value is not JSON, or has NaN or infinity in it.
        """
        text = database.dumps(value)
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO named VALUES (?, ?)", (name, text))

    def get(self, name: str, default: Any = None) -> Any:
        """The JSON value kept under `name`, or `default`."""
        with database.plain_errors(self.path):
            row = self._db.execute("SELECT value FROM named WHERE name = ?", (name,)).fetchone()
        with self._sound(name):
            return default if row is None else json.loads(row[0])

    def named(self, pattern: str) -> dict[str, Any]:
        """All named values whose name matches, in the order of their names; `*` stands for anything."""
        query = "SELECT name, value FROM named WHERE name GLOB ? ORDER BY name"
        with database.plain_errors(self.path):
            rows = self._db.execute(query, (pattern,)).fetchall()
        with self._sound(pattern):
            return {name: json.loads(value) for name, value in rows}

    def read(self, name: str, parse: Callable[[Any], _T], default: Any = None) -> _T:
        """What `parse` makes of the JSON value kept under `name`, or of `default`.

        Raises:
            StoreError: there is neither, or `parse` refuses the value; the message names it.
        """
        with self._sound(name):
            if (value := self.get(name, default)) is None:
                raise ValueError("it is missing")
            return parse(value)

    # Weights

    @property
    def weights(self) -> Path:
        """The folder of weights; what else lies there goes with the next `sweep`."""
        return self.path / _WEIGHTS

    def save_weights(self, state: "Mapping[str, Tensor]") -> str:
        """Store tensors and return the hash to load them by; the same tensors give the same hash and one file.

        They live until the next `sweep` that finds no use for them.
        """
        self._must_write()
        with database.plain_errors(self.path):
            return tensorfile.save(self.weights, state)

    def load_weights(self, hash: str) -> "dict[str, Tensor]":
        """Tensors by name, on the CPU, verified against their hash.

        Raises:
            StoreError: they are not there (any more), or the file was damaged; the message names the file and the
                trial it belongs to.
        """
        file = self._weights_file(hash)
        with database.plain_errors(self.path):
            try:
                return tensorfile.load(file)
            except FileNotFoundError:
                raise StoreError(f"{file} is missing: the weights of {self._owner(hash)} were swept or lost.") from None
            except ValueError:
                why = f"the weights of {self._owner(hash)} changed on disk"
                raise StoreError(f"{file} is corrupt: {why}. {disk.RESTORE}") from None

    def sweep(self, keep: Collection[str]) -> int:
        """Delete weights that nobody needs, and what a kill left half-written.

        Never deleted, in `keep` or not: the weights of running trials' parents, and weights that a named value
        mentions.

        Args:
            keep: hashes to keep, usually those of the archive.

        Returns:
            How many files were deleted.
        """
        self._must_write()
        with database.plain_errors(self.path):
            values = [row[0] for row in self._db.execute("SELECT value FROM named")]
            parents = {row[0] for row in self._db.execute(_WEIGHTS_OF_RUNNING_PARENTS)}
            unneeded = [
                file
                for file in self.weights.iterdir()
                if file.suffix != tensorfile.SUFFIX
                or not (file.stem in keep or file.stem in parents or any(file.stem in value for value in values))
            ]
            for file in unneeded:
                file.unlink()
            return len(unneeded)

    def _weights_file(self, hash: str) -> Path:
        return self.weights / f"{hash}{tensorfile.SUFFIX}"

    def _owner(self, hash: str) -> str:
        query = "SELECT id FROM trials WHERE json_extract(result, '$.weights') = ? ORDER BY id"
        ids = [str(row[0]) for row in self._db.execute(query, (hash,))]
        return f"trial {', '.join(ids)}" if ids else "no trial"

    @contextmanager
    def _sound(self, what: str) -> Iterator[None]:
        """What is raised by reading a value that we wrote, as the damage that it is."""
        try:
            yield
        except StoreError:
            raise
        except (HwnasError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = error if isinstance(error, HwnasError | ValueError) else repr(error)
            file = self.path / database.FILE_NAME
            raise StoreError(f"{file} is corrupt: {what}: {reason}. {disk.RESTORE}") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: all of it is kept, or nothing."""
        self._must_write()
        with database.plain_errors(self.path), database.transaction(self._db):
            yield

    def _must_write(self) -> None:
        if self._lock is None:
            raise StoreError(f"{self.path} is open for reading only; open it with write=True.")
