"""Work in which the process may die, so that a resume would meet it for ever: after some deaths it is left out."""

from collections.abc import Callable
from typing import TypeVar

from hwnas.store import Store
from spaces.errors import HwnasError

#: So often the process may die in one piece of work before that is left out.
MOST_DEATHS = 2

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
    """
    name = f"deaths in {name}"
    deaths = store.get(name, 0)
    if deaths >= MOST_DEATHS:
        return instead(f"the process died {deaths} times while it was trained; it may be too large for the memory")
    store.put(name, deaths + 1)
    try:
        made = work()
    except (HwnasError, KeyboardInterrupt):
        store.put(name, deaths)
        raise
    store.put(name, deaths)
    return made
