"""The end of a study: under which names its records are kept, and how its trainings are run.

What an interrupted run has trained already is read back; a budget that was raised since makes a new end.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from hwnas.call import Call
from hwnas.timetable import Timetable

if TYPE_CHECKING:
    from hwnas.study import Study


def keep(study: "Study", name: str, record: Mapping[str, Any]) -> None:
    """Keep a record under a name of this end, and what is used of the budget."""
    study.store.put(name_of(study, name), record)
    study.note_time()


def name_of(study: "Study", name: str) -> str:
    """The name of what belongs to this end of the study: the same search with more time ends anew."""
    return f"end/{study.trainings}/{study.budget.seconds}/{name}"


def run(
    study: "Study",
    calls: Iterator[Call],
    keep: Callable[[Any, Any], None],
    phase: str,
    total: int,
) -> None:
    """Submit calls as workers get free, and keep what they make. A call is made when it is its turn, not before."""
    first = next(calls, None)
    if first is None:  # no process need be started
        return
    calls, workers, done = chain([first], calls), study.workers(), 0
    while True:
        study.update(phase, done, total)
        call = next(calls, None) if workers.free else None
        if call is not None:
            workers.submit(call)
        elif workers.running:
            ready, made = workers.next()
            keep(ready.key, made)
            done += 1
        else:
            return


def seconds(study: "Study", table: Timetable | None) -> float | None:
    """After how long a training is cut short, if it takes much longer than measured; never where epochs are asked."""
    if table is None or study.spec.final.epochs is not None:
        return None
    return (study.budget.left or 0.0) - table.checks
