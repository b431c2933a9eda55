"""`Budget`: wall time or a number of trainings, and the part of it that is kept for the end."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

#: Part of the time kept for the end that a training begun in time may still use.
LATE_SHARE = 0.25


@dataclass
class Budget:
    """What a run may use, over all its resumptions.

    Attributes:
        seconds: Wall time, or None where trainings are counted.
        trainings: Trainings of the search, or None where time is.
        final_share: Part of the time that the search leaves to final training, export and checks.
        used: Seconds used before this process; a killed one's count up to its last report.
        clock: Seconds from any start.
    """

    seconds: float | None
    trainings: int | None
    final_share: float
    used: float = 0.0
    clock: Callable[[], float] = time.monotonic
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.clock()

    @property
    def elapsed(self) -> float:
        """Seconds used so far."""
        return self.used + self.clock() - self._began

    @property
    def left(self) -> float | None:
        """Seconds left of the whole; None where trainings are counted."""
        return None if self.seconds is None else self.seconds - self.elapsed

    @property
    def search_seconds(self) -> float | None:
        """The part of the time that the search may use."""
        return None if self.seconds is None else self.seconds * (1 - self.final_share)

    @property
    def search_left(self) -> float | None:
        """What is left of the search's part, at least 0."""
        return None if self.search_seconds is None else max(0.0, self.search_seconds - self.elapsed)

    @property
    def training_seconds(self) -> float | None:
        """How long a training of the search may take from now on: it may eat into the time kept for the end.

        >>> Budget(100.0, None, 0.4, used=0.0, clock=lambda: 7.0).training_seconds
        70.0
        """
        if self.seconds is None:
            return None
        return self.seconds * (1 - self.final_share * (1 - LATE_SHARE)) - self.elapsed

    def search_is_over(self, trainings: int) -> bool:
        """Whether the search has to stop after so many trainings.

        >>> Budget(None, 3, 0.3).search_is_over(3)
        True
        """
        over_time = self.search_seconds is not None and self.elapsed >= self.search_seconds
        return over_time or (self.trainings is not None and trainings >= self.trainings)
