"""`Baseline`: what strategies have in common that train every network from scratch."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from hwnas.costs import Costs
from hwnas.draft import Draft
from hwnas.rungs import Rungs
from hwnas.schedule import Schedule
from hwnas.strategy import Strategy
from hwnas.trial import Trial
from spaces.space import Space


class Baseline(Strategy):
    """Begins with some networks, goes on with what a subclass makes of them, and with random ones where that is none.

    Args:
        space: See `Strategy`.
        costs: See `Strategy`.
        objectives: See `Strategy`.
        seed: See `Strategy`.
        epochs: Passes over the training data for each network.
        initial: How many networks come before the first :meth:`offspring`.
        starts: Whether these are the ones that the space begins with, as far as they go, and not all random.
        rungs: See `Strategy`.
    """

    def __init__(
        self,
        space: Space[Any],
        costs: Costs,
        objectives: Sequence[str],
        seed: int = 0,
        *,
        epochs: Schedule = Schedule.constant(5.0),  # noqa: B008 (frozen)
        initial: int = 8,
        starts: bool = False,
        rungs: Rungs | None = None,
    ) -> None:
        super().__init__(space, costs, objectives, seed, epochs=epochs, rungs=rungs)
        self.initial = initial
        self.starts = starts

    @abstractmethod
    def offspring(self, count: int, seen: set[str], rng: np.random.Generator) -> list[Draft]:
        """Up to `count` new networks within the limits.

        Args:
            count: How many.
            seen: Hashes of networks that are not new; those made are added.
            rng: Makes every choice.
        """

    def propose(self, count: int, rng: np.random.Generator) -> list[Trial]:
        """What it begins with, then offspring; random networks where there are no offspring, or no results yet.

        Where chance finds nothing within the limits, what LEMONADE would begin with.

        Raises:
            LimitError: No network within the limits was found at all.
        """
        seen = self.seen
        beginning = min(count, max(0, self.initial - len(self.records)))
        drafts = self.first(set(seen))[:beginning] if self.starts and beginning else []
        seen |= {self.space.hash(draft.genotype) for draft in drafts}
        drafts += self.sampled(beginning - len(drafts), seen, rng)
        exhausted = len(drafts) < beginning
        if exhausted and not drafts and not self.records:
            drafts = self.first(seen)[:count]
        if len(drafts) < count and self.archive.entries:
            drafts += self.offspring(count - len(drafts), seen, rng)
        drafts += [] if exhausted else self.sampled(count - len(drafts), seen, rng)
        return self.trials(drafts, self.epochs, rng)
