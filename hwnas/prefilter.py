"""`Prefilter`: proposals that zero-cost proxies think little of are discarded before they are trained."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import rankdata

from hwnas.archive import Entry
from hwnas.draft import Draft
from hwnas.pareto import Points
from objectives.proxies import log_ranks
from spaces.space import Space

#: Under this name a trial keeps the scores of its network.
CONFIG = "proxies"

#: Rank correlation that counts as known before any result tells, and how many results it weighs.
PRIOR, PRIOR_WEIGHT = 0.3, 16

#: A proxy is asked while its rank correlation with accuracy is at least this.
LEAST = 0.1

#: Fewest networks, beyond what costs and epochs explain whatever the scores, by which a correlation is told.
FEWEST = 8

#: Points between 0 and 1 where what remains of ranks may lie.
GRID = 2.0**30

Scores = Mapping[str, float]


class Prefilter:
    """A network is compared with others of its own cost, so that small ones are not discarded for being small.

    1. The scores of a proxy become ranks among all networks that have been trained or are proposed. What ranks by the
       costs explain of them, linearly, is taken away.
    2. What remains is ranked again; the logarithms of these ranks are summed over the proxies that are asked.
    3. A proposal is discarded if its sum is among the lowest of all, as many as `discard` says.
    4. A proxy is asked as long as it helps: what remains of it is correlated with what remains of the accuracy of the
       networks that have been trained. Few of them weigh little: the correlation counts as `PRIOR` at first.

    Args:
        space: Where networks come from.
        names: Of the proxies.
        score: Gives the scores of a genotype by name, finite; more is better.
        discard: Share of the networks that are discarded, at least 0 and below 1.
        cheap: Names of the cheap objectives.

    Attributes:
        asked: The proxies that help; all, until the first review.
    """

    def __init__(
        self,
        space: Space[Any],
        names: Sequence[str],
        score: Callable[[Any], Scores],
        discard: float,
        cheap: Sequence[str],
    ) -> None:
        self.space = space
        self.names = tuple(names)
        self.score = score
        self.discard = discard
        self.cheap = tuple(cheap)
        self.asked = self.names
        self._known: dict[str, dict[str, float]] = {}  # by hash; it takes long to compute

    def proposals(self, count: int) -> int:
        """How many are to be scored so that `count` may be left."""
        return math.ceil(round(count / (1 - self.discard), 6)) if self.asked else count

    def kept(self, drafts: Sequence[Draft], entries: Sequence[Entry], count: int) -> list[Draft]:
        """The first `count` proposals that are not discarded; where these are too few, the best of the others too.

        Args:
            drafts: The proposals.
            entries: All networks that have been trained.
            count: How many are wanted.
        """
        if not self.asked or len(drafts) <= count:
            return list(drafts[:count])
        drafts = [self.scored(draft) for draft in drafts]
        entries = _scored(entries)
        costs = [{name: draft.cost[name].value for name in self.cheap} for draft in drafts]
        level = _level([*costs, *(entry.values for entry in entries)], self.cheap)
        scores = [*(draft.config[CONFIG] for draft in drafts), *(entry.trial.config[CONFIG] for entry in entries)]
        rests = {name: beyond([one[name] for one in scores], level).tolist() for name in self.asked}
        sums = np.array(log_ranks(rests))
        least = np.quantile(sums, self.discard)
        order = sorted(range(len(drafts)), key=lambda i: (sums[i] < least, -sums[i] if sums[i] < least else i))
        return [drafts[i] for i in sorted(order[:count])]

    def review(self, entries: Sequence[Entry]) -> list[str]:
        """Ask from now on the proxies that help, as far as these trained networks tell; a line for each change."""
        found, weight = agreement(entries, self.names, self.cheap), self._weight(entries)
        believed = {name: (PRIOR * PRIOR_WEIGHT + r * weight) / (PRIOR_WEIGHT + weight) for name, r in found.items()}
        asked = tuple(name for name in self.names if believed[name] >= LEAST)
        changed = [name for name in self.names if (name in asked) != (name in self.asked)]
        self.asked = asked
        return [
            f"proxy {name} is {'asked again' if name in asked else 'switched off'}: its rank correlation with accuracy "
            f"at equal cost is {found[name]:.2f}, by {len(_scored(entries))} networks"
            for name in changed
        ]

    def learned(self, entries: Sequence[Entry]) -> list[str]:
        """A line on how far proxies agree with these trained networks; none where they are too few to tell.

        What was enough to switch a proxy off is enough to say so.
        """
        if self.asked == self.names and self._weight(entries) < FEWEST:
            return []
        found = ", ".join(
            f"{name} {r:.2f}{'' if name in self.asked else ' (switched off)'}"
            for name, r in agreement(entries, self.names, self.cheap).items()
        )
        count = len(_scored(entries))
        return [f"rank correlation of zero-cost proxies with accuracy at equal cost, by {count} networks: {found}"]

    def _weight(self, entries: Sequence[Entry]) -> int:
        """How many networks tell more than what costs, epochs and a mean explain whatever the scores."""
        return max(0, len(_scored(entries)) - len(self.cheap) - 2)

    def scored(self, draft: Draft) -> Draft:
        """The draft with the scores of its network among what is kept with the trial, as long as any proxy is asked."""
        if not self.asked:
            return draft
        key = self.space.hash(draft.genotype)
        if key not in self._known:
            scores = self.score(draft.genotype)
            self._known[key] = {name: scores[name] for name in self.names}
        return replace(draft, config={**draft.config, CONFIG: self._known[key]})


def agreement(entries: Sequence[Entry], names: Sequence[str], cheap: Sequence[str]) -> dict[str, float]:
    """Rank correlation of each proxy with accuracy, for networks of equal cost and equally long training.

    Args:
        entries: Networks that have been trained; those without scores tell nothing.
        names: Of the proxies.
        cheap: Names of the cheap objectives.
    """
    entries = _scored(entries)
    if not entries:
        return dict.fromkeys(names, 0.0)
    level = _level([{**entry.values, "epochs": entry.epochs} for entry in entries], [*cheap, "epochs"])
    accuracy = [-entry.values["error"] for entry in entries]
    return {name: partial([entry.trial.config[CONFIG][name] for entry in entries], accuracy, level) for name in names}


def _level(values: Sequence[Mapping[str, float]], names: Sequence[str]) -> Points:
    """Costs, one row each."""
    return np.array([[one[name] for name in names] for one in values]).reshape(len(values), len(names))


def beyond(values: Sequence[float], level: Points) -> Points:
    """Ranks of values, 0..1, less what is linear in the ranks of other columns.

    Args:
        values: (n,), at least one.
        level: (n, columns).

    >>> beyond([1.0, 3.0, 2.0], np.array([[0.0], [2.0], [1.0]])).tolist()
    [0.0, 0.0, 0.0]
    """
    ranks = rankdata(values) / len(values)
    columns = np.column_stack([np.ones(len(ranks)), rankdata(level, axis=0) / len(values)])
    explained, *_ = np.linalg.lstsq(columns, ranks, rcond=None)
    # What is equal but for rounding is made equal, on a binary grid: half-way between its points lies no fraction whose
    # denominator is small, such as these are.
    return np.asarray(np.rint((ranks - columns @ explained) * GRID) / GRID + 0.0)


def partial(one: Sequence[float], other: Sequence[float], level: Points) -> float:
    """Spearman's rank correlation without what other columns explain of either; 0 where nothing is left.

    Args:
        one: (n,).
        other: (n,).
        level: (n, columns).
    """
    rest, others = beyond(one, level), beyond(other, level)
    norm = float(np.linalg.norm(rest) * np.linalg.norm(others))
    return float(rest @ others) / norm if norm else 0.0


def _scored(entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if CONFIG in entry.trial.config]
