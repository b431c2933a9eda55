"""Sample networks: untrained ones that stand for a space where a latency table is to be built or checked."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from spaces.arch import Arch
from spaces.onnx import to_onnx
from spaces.space import Space
from spaces.state import initial_state

#: How many are taken: below 19 a check has no interval of its own.
COUNT = 20

#: Draws in which so many different ones are looked for.
MOST_DRAWS = 200


def first_networks(space: Space[Any], seed: int) -> list[Arch]:
    """Networks as a search sees them first: what it begins with, their children and the children of those.

    Args:
        space: What they belong to.
        seed: Of the random moves.
    """
    rng = np.random.default_rng(seed)
    genotypes = list(space.starts())
    found: dict[str, Arch] = {}
    for draw in range(MOST_DRAWS):
        arch = space.decode(genotypes[draw])
        found[arch.hash] = arch
        if len(found) == COUNT:
            break
        proposed = space.propose(genotypes[draw], rng)
        genotypes.append(genotypes[draw] if proposed is None else proposed[1].genotype)
    return list(found.values())


def random_networks(space: Space[Any], seed: int) -> list[Arch]:
    """Networks from all over the space, as random search draws them.

    Args:
        space: What they belong to.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, Arch] = {}
    for _ in range(MOST_DRAWS):
        arch = space.decode(space.sample(rng))
        found[arch.hash] = arch
        if len(found) == COUNT:
            break
    return list(found.values())


def untrained_models(archs: Sequence[Arch], batch: int = 1) -> list[onnx.ModelProto]:
    """Networks as ONNX, with random weights.

    Args:
        archs: Which.
        batch: Images at a time.
    """
    models = [to_onnx(arch, initial_state(arch).value, batch=batch) for arch in archs]
    for number, model in enumerate(models):
        model.graph.name = f"sample-{number}"
    return models
