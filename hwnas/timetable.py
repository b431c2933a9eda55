"""`Timetable`: what is left of the budget at the end of a study, shared out."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

#: Most epochs that are planned for a finalist. A user may ask for more.
MOST_EPOCHS = 60.0

#: Most of the time for training that goes to references.
REFERENCE_SHARE = 0.2


@dataclass(frozen=True)
class Timetable:
    """What the end of a study takes, in seconds, and how that is shared out.

    Attributes:
        finalists: An epoch of each.
        checks: The report, and the export, timing and tests of all finalists.
        references: An epoch of each.
        reference_checks: Export, timing and test of each.
        for_references: Kept for both.
        workers: How many train side by side. What comes after the training is done by one.
    """

    finalists: tuple[float, ...]
    checks: float
    references: tuple[float, ...]
    reference_checks: tuple[float, ...]
    for_references: float
    workers: int = 1

    @classmethod
    def make(
        cls,
        left: float,
        finalists: Sequence[float],
        checks: float,
        references: Sequence[float],
        reference_checks: Sequence[float],
        earlier: float,
        workers: int = 1,
    ) -> Self:
        """Share out the time that is left.

        References are to train for as long as a finalist has over its whole lineage, if that takes no more than
        `REFERENCE_SHARE`. Those whose part would be less than an epoch are left out, the dearest first; what they do
        not need, the others may have.

        Args:
            left: Seconds.
            finalists: Seconds of an epoch of each.
            checks: Seconds for what comes after their training.
            references: Seconds of an epoch of each.
            reference_checks: Seconds for what comes after its training, for each.
            earlier: Seconds that a finalist was trained in the search.
            workers: How many train side by side.
        """
        seconds = max(0.0, left - checks)

        def wanted(places: Sequence[int]) -> float:
            tests = sum(reference_checks[place] for place in places)
            turns = _turns(len(places), workers)
            alike = (seconds - tests - earlier * turns) / (_turns(len(finalists), workers) + turns)
            return min((max(alike, 0.0) + earlier) * turns + tests, REFERENCE_SHARE * seconds)

        needs = [sum(need) for need in zip(references, reference_checks, strict=True)]
        kept = wanted(_affordable(needs, wanted, workers))
        return cls(tuple(finalists), checks, tuple(references), tuple(reference_checks), kept, workers)

    @property
    def affordable(self) -> list[int]:
        """Places of the references that have time for an epoch, if these get the same time."""
        needs = [sum(need) for need in zip(self.references, self.reference_checks, strict=True)]
        return _affordable(needs, lambda _: self.for_references, self.workers)

    def epochs(self, place: int, left: float, least: float) -> float:
        """Epochs for the finalist at a place, with so many seconds left.

        Time is shared out by the square root of what an epoch takes, as in the search (see `hwnas.schedule`); what
        those do not need that have `MOST_EPOCHS` in less goes to the others. Where that would be less than `least`, the
        first get that, the others nothing.

        >>> table = Timetable.make(100.0, [1.0, 4.0], 10.0, [], [], earlier=5.0)
        >>> table.epochs(0, left=100.0, least=1.0), table.epochs(1, left=70.0, least=1.0)
        (30.0, 15.0)
        >>> table.epochs(0, left=100.0, least=50.0), table.epochs(1, left=40.0, least=50.0)
        (50.0, 0.0)
        """
        seconds = left - self.checks - self.for_references
        own, others = self.finalists[place], len(self.finalists) - place
        share = seconds * others / _turns(others, self.workers)  # where turns are not full, workers stand idle
        weights = sum(math.sqrt(epoch) for epoch in self.finalists[place:])
        for epoch in sorted(self.finalists[place:]):  # those that need least first: what they leave, the rest may have
            unit = share / weights
            if MOST_EPOCHS * epoch > unit * math.sqrt(epoch):
                break
            share, weights = share - MOST_EPOCHS * epoch, weights - math.sqrt(epoch)
        fair = min(min(unit * math.sqrt(own), seconds) / own, MOST_EPOCHS)
        if fair >= least:
            return fair
        return least if seconds >= least * own else 0.0

    def reference_epochs(self, place: int, left: float) -> float:
        """Most epochs for an affordable reference, if all such from there on get the same time, checks included.

        Args:
            place: Its place.
            left: Seconds, without the checks of the references before it.
        """
        share = (left - self.checks) / _turns(sum(each >= place for each in self.affordable), self.workers)
        return (share - self.reference_checks[place]) / self.references[place]


def _turns(count: int, workers: int) -> int:
    """How often every worker has a network to train until so many are done."""
    return -(-count // workers)


def _affordable(needs: Sequence[float], seconds: Callable[[Sequence[int]], float], workers: int) -> list[int]:
    """Places of those that have time for what they need at least, if all get the same part of the seconds for them."""
    places = sorted(range(len(needs)), key=lambda place: needs[place])
    while places and needs[places[-1]] * _turns(len(places), workers) > seconds(places):
        places.pop()
    return sorted(places)
