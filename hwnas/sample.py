"""Sample networks: untrained ones that stand for a space where a latency table is to be built or checked."""

from typing import Any

import numpy as np
import onnx

from spaces.onnx import to_onnx
from spaces.space import Space
from spaces.state import initial_state

#: How many are taken: below 19 a check has no interval of its own.
COUNT = 20

#: Steps in which so many different ones are looked for.
MOST_STEPS = 200


def sample_models(space: Space[Any], batch: int = 1, seed: int = 0, count: int = COUNT) -> list[onnx.ModelProto]:
    """The networks that a search of the space begins with, and random ones on walks from there, as ONNX.

    Args:
        space: What they belong to.
        batch: Images at a time.
        seed: Of the walks.
        count: How many different ones; fewer where the space has not so many.
    """
    rng = np.random.default_rng(seed)
    genotypes = list(space.starts())
    models: dict[str, onnx.ModelProto] = {}
    for step in range(MOST_STEPS):
        arch = space.decode(genotypes[step])
        if arch.hash not in models:
            models[arch.hash] = to_onnx(arch, initial_state(arch).value, batch=batch)
            models[arch.hash].graph.name = f"sample-{len(models)}"
        if len(models) == count:
            break
        proposed = space.propose(genotypes[step], rng)
        genotypes.append(genotypes[step] if proposed is None else proposed[1].genotype)
    return list(models.values())
