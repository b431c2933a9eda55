"""Lineage: how a network came to be, as JSON that can be replayed."""

from collections.abc import Callable
from typing import Any

from hwnas.executor import CALIBRATION_IMAGES
from hwnas.trial import Trial
from spaces.morphisms import move_from_json
from spaces.space import Space


def lineage(trial: Trial, trial_of: Callable[[int], Trial], space: Space[Any]) -> list[dict[str, Any]]:
    """From a network's first ancestor on, each training: trial, first weights, seed, moves, and epochs at its end.

    Args:
        trial: The last of them.
        trial_of: The trial of an id.
        space: What the networks belong to.

    Returns:
        A mapping for each training; the first has the genotype too, from which the moves lead to all others.
    """
    chain = [trial]
    while (parent := chain[-1].parent) is not None:
        chain.append(trial_of(parent))
    chain.reverse()
    steps: list[dict[str, Any]] = []
    for one in chain:
        moves = list(one.moves)
        if one.init == "parent" and one.parent is not None:
            moves = _moves(one, trial_of(one.parent), space)
        steps.append({"trial": one.id, "init": one.init, "seed": one.seed, "moves": moves, "epochs": one.fidelity_to})
    return [{"genotype": chain[0].genotype, **steps[0]}, *steps[1:]]


def _moves(trial: Trial, parent: Trial, space: Space[Any]) -> list[dict[str, Any]]:
    """The moves of a child, and after each that made new norms how these were calibrated."""
    genotype = space.from_json(parent.genotype)
    found: list[dict[str, Any]] = []
    for move in trial.moves:
        child = space.apply(genotype, move_from_json(move))
        genotype = child.genotype
        found.append(move)
        if child.exact == "eval":
            how = {"nodes": sorted(child.new), "images": CALIBRATION_IMAGES, "seed": trial.seed}
            found.append({"move": "Calibrate", **how})
    return found
