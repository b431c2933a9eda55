"""`Deaths`: work in which the process may die, so that a resume would meet it for ever: it is left out after some."""

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from hwnas.database import plain_errors
from hwnas.store import Store
from spaces.errors import HwnasError, StoreError
from spaces.wholefile import write_whole

#: So often the process may die, or be killed, in one piece of work before that is left out.
MOST_DEATHS = 3

#: File of a run folder with the names of the work under way, one a line; where it is found, the process died in that.
UNDER_WAY = "underway"

Made = TypeVar("Made")


class Deaths:
    """Keeps what work is under way, and how often the process died in each.

    An error that nobody foresaw counts as a death too: it would come back just as surely. What the user is told
    (`HwnasError`) and Ctrl-C do not.

    Args:
        store: Where deaths are counted. Those of the process before are, at once.

    Raises:
        StoreError: The run folder cannot be written.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        # A file, as it can be taken away on a full disk, which is no fault of the work's.
        self._mark = store.path / UNDER_WAY
        self._names: list[str] = []
        with plain_errors(store.path):
            if self._mark.exists():
                for name in self._mark.read_text().splitlines():
                    self.count(name)
                self._mark.unlink()

    def reason(self, name: str) -> str | None:
        """Why some work is left out, a sentence without its full stop; None if it is not."""
        deaths = self._store.get(_key(name), 0)
        if deaths < MOST_DEATHS:
            return None
        return f"the process died or was killed {deaths} times in it; it may be too large for the memory"

    def count(self, name: str) -> None:
        """Count a death."""
        self._store.put(_key(name), self._store.get(_key(name), 0) + 1)

    def begin(self, name: str) -> None:
        """Some work is under way; its name is the same at the next start.

        Raises:
            StoreError: The run folder cannot be written.
        """
        with plain_errors(self._store.path):
            write_whole(self._mark, "\n".join([*self._names, name]))
        self._names.append(name)

    def end(self, name: str) -> None:
        """It is no longer."""
        self._names.remove(name)
        try:
            if self._names:
                write_whole(self._mark, "\n".join(self._names))
                return
        except OSError:  # the disk is full: better no mark than a wrong one
            pass
        self._mark.unlink(missing_ok=True)

    def surviving(self, name: str, work: Callable[[], Made], instead: Callable[[str], Made]) -> Made:
        """What a piece of work makes; where the process has died in it too often, what is made of that reason instead.

        Args:
            name: Of the work, the same at the next start.
            work: May kill the process.
            instead: Called with the reason.

        Raises:
            StoreError: The run folder cannot be written.
        """
        if reason := self.reason(name):
            return instead(reason)
        self.begin(name)
        try:
            return work()
        except Exception as error:
            if not isinstance(error, HwnasError):
                with suppress(StoreError):  # the error itself says more
                    self.count(name)
            raise
        finally:
            self.end(name)


def _key(name: str) -> str:
    return f"deaths in {name}"
