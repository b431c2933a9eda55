"""`Alone`: runs calls in this process, one after the other; what `hwnas.workers.Workers` does side by side."""

from functools import partial
from typing import Any

from hwnas.call import Call
from hwnas.deaths import Deaths
from hwnas.executor import Executor


class Alone:
    """Runs calls in this process.

    Args:
        executor: The first argument of all work.
        deaths: Work in which the process died too often is left out.

    Attributes:
        meanwhile: Whether there is something to be done while calls run.
    """

    meanwhile = False

    def __init__(self, executor: Executor, deaths: Deaths) -> None:
        self.executor = executor
        self.deaths = deaths
        self.running: list[Call] = []

    @property
    def free(self) -> int:
        """How many calls can be submitted."""
        return 1 - len(self.running)

    def submit(self, call: Call) -> None:
        """Take a call on."""
        self.running.append(call)

    def next(self) -> tuple[Call, Any]:
        """Run it; the call and its result."""
        call = self.running.pop()
        work = partial(call.work, self.executor, *call.arguments)
        return call, self.deaths.surviving(call.name, work, call.instead)
