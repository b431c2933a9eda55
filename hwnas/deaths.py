"""Work in which the process may die, so that a resume would meet it for ever: after some deaths it is left out."""

from collections.abc import Callable
from typing import TypeVar

from hwnas.database import plain_errors
from hwnas.store import Store
from spaces.errors import HwnasError

#: So often the process may die, or be killed, in one piece of work before that is left out.
MOST_DEATHS = 3

#: File of a run folder that holds the name of the work under way; where it is found, the process died in that.
UNDER_WAY = "underway"

Made = TypeVar("Made")


def surviving(store: Store, name: str, work: Callable[[], Made], instead: Callable[[str], Made]) -> Made:
    """What a piece of work makes; where the process has died in it too often, what is made of that reason instead.

    An error that nobody foresaw counts as a death too: it would come back just as surely. What the user is told
    (`HwnasError`) and Ctrl-C do not.

    Args:
        store: Where deaths are counted.
        name: Of the work, the same at the next start.
        work: May kill the process.
        instead: Called with the reason, a sentence without its full stop.

    Raises:
        StoreError: The run folder cannot be written.
    """
    _count(store)
    deaths = store.get(_key(name), 0)
    if deaths >= MOST_DEATHS:
        return instead(f"the process died or was killed {deaths} times in it; it may be too large for the memory")
    # A file, as it can be taken away on a full disk, which is no fault of the work's.
    mark = store.path / UNDER_WAY
    with plain_errors(store.path):
        mark.write_text(name)
    try:
        made = work()
    except (HwnasError, KeyboardInterrupt):
        mark.unlink()
        raise
    with plain_errors(store.path):
        mark.unlink()
    return made


def _count(store: Store) -> None:
    """Count the death of the process before, if it died in some work."""
    mark = store.path / UNDER_WAY
    with plain_errors(store.path):
        if mark.exists():
            name = mark.read_text()
            store.put(_key(name), store.get(_key(name), 0) + 1)
            mark.unlink()


def _key(name: str) -> str:
    return f"deaths in {name}"
