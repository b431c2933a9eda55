"""Lineage: how a network came to be, as JSON that can be replayed."""

from collections.abc import Callable
from typing import Any

from hwnas.archive import Entry
from hwnas.executor import calibration_images
from hwnas.trial import Result, Trial
from spaces.morphisms import move_from_json
from spaces.space import Space


def lineage(id: int, record: Callable[[int], tuple[Trial, Result | None]], space: Space[Any]) -> list[dict[str, Any]]:
    """From a network's first ancestor on, each training: trial, first weights, seed, moves, and epochs at its end.

    Args:
        id: The last of them.
        record: The trial of an id, and its result.
        space: What the networks belong to.

    Returns:
        A mapping for each training; the first has the genotype too, from which the moves lead to all others.
    """
    steps: list[dict[str, Any]] = []
    following: int | None = id
    while following is not None:
        trial, result = record(following)
        moves = list(trial.moves)
        if trial.init == "parent" and trial.parent is not None:
            moves = _moves(trial, record(trial.parent)[0], space)
        epochs = trial.fidelity_to if result is None else Entry(trial, result).epochs
        steps.append({"trial": trial.id, "init": trial.init, "seed": trial.seed, "moves": moves, "epochs": epochs})
        following = trial.parent
    return [{"genotype": trial.genotype, **steps[-1]}, *reversed(steps[:-1])]


def _moves(trial: Trial, parent: Trial, space: Space[Any]) -> list[dict[str, Any]]:
    """The moves of a child, and after each that made new norms how these were calibrated."""
    genotype = space.from_json(parent.genotype)
    found: list[dict[str, Any]] = []
    for move in trial.moves:
        child = space.apply(genotype, move_from_json(move))
        genotype = child.genotype
        found.append(move)
        if child.exact == "eval":
            how = {"nodes": sorted(child.new), "images": calibration_images(space.decode(genotype)), "seed": trial.seed}
            found.append({"move": "Calibrate", **how})
    return found
