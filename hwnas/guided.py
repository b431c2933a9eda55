"""LEMONADE guided by a model of the error: cheap objectives are known, so the error alone has to be guessed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from hwnas.archive import Archive, Entry
from hwnas.box import Box
from hwnas.costs import Costs
from hwnas.draft import Draft
from hwnas.improvement import best_together
from hwnas.lemonade import Lemonade
from hwnas.pareto import Points
from hwnas.surrogate import LEAST_ERROR, ErrorModel, Row
from hwnas.trial import Trial
from spaces.errors import SpecError
from spaces.space import Space

#: Under this name a trial keeps the error that was predicted before it was trained.
CONFIG = "predicted error"

#: A model of fewer results than this is not asked.
FEWEST = 6

#: Only so many of the latest results are learned from: the time to do so grows with their cube.
MOST = 500

#: Rank correlation that counts as known before any result tells, and how many results it weighs.
PRIOR, PRIOR_WEIGHT = 0.5, 8

#: Errors count as at most this multiple of the worst that is of any use.
WORST = 1.25


def milestone(count: int) -> int:
    """Of so many results, how many the kernel's parameters are found on: anew whenever there are a tenth more.

    >>> [milestone(count) for count in (6, 100, 106, 107)]
    [6, 97, 97, 106]
    """
    return max(FEWEST, int(1.1 ** int(math.log(count, 1.1))))


class Guided(Lemonade):
    """Children are accepted by the hypervolume that they are expected to add.

    1. Parents and children are those of LEMONADE; many more children are made, since judging one costs nothing.
    2. A Gaussian process guesses the error of each from its structure, its cheap objectives, and, where weights are
       inherited, from the error of its parent and how long it will have been trained.
    3. Accepted are those that add most to the front, batch by batch; what is still being trained counts as guessed.
    4. A part is accepted by LEMONADE's density all the same; the larger, the less the guesses before training agree
       with the errors after it (Spearman's rank correlation). Where they do not agree, it becomes plain LEMONADE.

    Args:
        space: See `Lemonade`.
        costs: See `Lemonade`.
        objectives: See `Lemonade`.
        seed: See `Lemonade`.
        box: Where hypervolume is measured; its best error must be 0.
        proposals: Children made for each that is trained.
        explore: Least part of the children that is accepted by density.
        options: See `Lemonade`.

    Raises:
        SpecError: Errors in the box do not begin at 0.
    """

    def __init__(
        self,
        space: Space[Any],
        costs: Costs,
        objectives: Sequence[str],
        seed: int = 0,
        *,
        box: Box,
        proposals: int = 24,
        explore: float = 0.05,
        **options: Any,
    ) -> None:
        super().__init__(space, costs, objectives, seed, proposals=proposals, **options)
        if box.ideal[box.objectives.index("error")] != 0 or box.reference[box.objectives.index("error")] <= 0:
            raise SpecError(f"the box is {box}; errors must reach from 0 to something above it")
        self.box = box
        self.explore = explore
        # Both follow from the records alone; they are kept since they take long.
        self._structures: dict[str, Row] = {}  # by hash
        self._kernel: tuple[Any, Any] = (None, None)  # and what it was found on

    def accepted(self, front: Archive, drafts: Sequence[Draft], count: int, rng: np.random.Generator) -> list[Draft]:
        """Those that are expected to add most, and some by density."""
        known = [Entry(trial, result) for trial, result in self.records if result is not None and result.status == "ok"]
        if len(known) < FEWEST or not count:
            return super().accepted(front, drafts, count, rng)
        model = self._model(known)
        guessed, spread = model.predict([self._of_draft(draft) for draft in drafts])
        agreement = self._agreement()
        guided = rng.binomial(count, (1 - self.explore) * min(1.0, max(0.0, 2 * agreement)))
        values = [
            {"error": error, **{name: draft.cost[name].value for name in self.costs.names}}
            for draft, error in zip(drafts, np.exp(guessed), strict=True)
        ]
        # In the box an error is a part of the worst one, so its logarithm is shifted.
        chosen = best_together(
            self._expected_front(model),
            self._in_box(values)[:, 1:],
            guessed - math.log(self._worst_error),
            spread,
            guided,
        )
        self.note += f"; guesses agree with errors by {agreement:.2f}, {len(chosen)} of {count} are chosen by them"
        rest = np.setdiff1d(np.arange(len(drafts)), chosen)
        if len(chosen) < count and len(rest):
            chances = self.chances(front, self.cheap([drafts[i] for i in rest]))
            chosen += rng.choice(rest, min(count - len(chosen), len(rest)), replace=False, p=chances).tolist()
        return [replace(drafts[i], config={**drafts[i].config, CONFIG: math.exp(guessed[i])}) for i in chosen]

    @property
    def _worst_error(self) -> float:
        return self.box.reference[self.box.objectives.index("error")]

    def _model(self, known: Sequence[Entry]) -> ErrorModel:
        first = known[: milestone(len(known))]
        based_on = [(entry.trial.id, entry.values["error"]) for entry in first]
        if self._kernel[0] != based_on:
            self._kernel = based_on, self._fitted(first).kernel
        return self._fitted(known, self._kernel[1])

    def _fitted(self, known: Sequence[Entry], kernel: Any = None) -> ErrorModel:
        latest = known[-MOST:]
        rows = [self._of_trial(entry.trial, entry.epochs) for entry in latest]
        errors = np.array([entry.values["error"] for entry in latest])
        return ErrorModel.fit(rows, errors, WORST * self._worst_error, kernel)

    def _agreement(self) -> float:
        """Rank correlation between guesses and errors, so far."""
        pairs = [
            (trial.config[CONFIG], result.values["error"])
            for trial, result in self.records
            if CONFIG in trial.config and result is not None and result.status == "ok"
        ]
        guesses, errors = np.array(pairs).reshape(-1, 2).T
        found = float(spearmanr(guesses, errors).statistic) if len(set(guesses)) > 1 < len(set(errors)) else 0.0
        return (PRIOR * PRIOR_WEIGHT + found * len(pairs)) / (PRIOR_WEIGHT + len(pairs))

    def _expected_front(self, model: ErrorModel) -> Points:
        """The front in terms of the box, the error first; what is being trained stands there with its guess."""
        running = [trial for trial, result in self.records if result is None]
        values = [entry.values for entry in self.archive.front().entries]
        if running:
            guessed, _ = model.predict([self._of_trial(trial, trial.fidelity_to) for trial in running])
            values += [{**trial.cheap, "error": error} for trial, error in zip(running, np.exp(guessed), strict=True)]
        return self._in_box(values)

    def _in_box(self, values: Sequence[Mapping[str, float]]) -> Points:
        """Errors (first column) and costs as parts of the box."""
        unit = self.box.unit([[one[name] for name in self.box.objectives] for one in values])
        error = self.box.objectives.index("error")
        return np.concatenate([unit[:, [error]], np.delete(unit, error, axis=1)], axis=1)

    # What the model sees ----------------------------------------------------------------------------------------------

    def _of_trial(self, trial: Trial, epochs: float) -> Row:
        """Features of a trial that has trained, or will have, for so many epochs."""
        inherits = trial.init in ("parent", "checkpoint") and trial.parent is not None
        _, before = self.record(trial.parent) if inherits and trial.parent is not None else (None, None)
        error = before.values["error"] if before is not None and before.status == "ok" else None
        if trial.hash not in self._structures:
            self._structures[trial.hash] = self.space.features(self.space.from_json(trial.genotype))
        return _row(self._structures[trial.hash], trial.cheap, error, epochs)

    def _of_draft(self, draft: Draft) -> Row:
        cheap = {name: estimate.value for name, estimate in draft.cost.items()}
        before = draft.parent if self.inherit else None
        start, error = (0.0, None) if before is None else (before.epochs, before.values["error"])
        return _row(self.space.features(draft.genotype), cheap, error, start + self.epochs.epochs(cheap))


def _row(structure: Row, cheap: Mapping[str, float], before: float | None, epochs: float) -> Row:
    return {
        **structure,
        **{f"log {name}": math.log(max(value, 1e-9)) for name, value in cheap.items()},
        "log epochs": math.log(max(epochs, 1e-9)),
        "log error before": math.nan if before is None else math.log(max(before, LEAST_ERROR)),
    }
