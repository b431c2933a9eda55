"""`training_step`: a real training step on a copy of a network, to be timed."""

import copy
from collections.abc import Callable

from torch import nn

from objectives.batches import stream
from objectives.data import Split
from objectives.graphstep import GraphStep, StepLike
from objectives.modules import device_of
from objectives.recipe import Recipe
from objectives.step import Step

#: Steps after which the host waits for a GPU: as in a training, it prepares the next ones while that is busy.
STEPS_ON_A_GPU = 20


def training_step(module: nn.Module, split: Split, recipe: Recipe) -> Callable[[], int]:
    """Fetch, augment, forward, backward, update, as a training does that; where it replays a CUDA graph, likewise.

    What is returned takes some steps, returns when the device has finished, and says how many they were.

    Args:
        module: Left as it is.
        split: Gives the batches.
        recipe: Precision "auto" counts as fp32.
    """
    module = copy.deepcopy(module).train()
    device = device_of(module)
    update = Step(module, split, recipe, None, None)
    drawn = stream(split, recipe, device)
    taken: StepLike = update
    count = 1
    if device.type == "cuda":
        taken, count = GraphStep.captured(update, *next(drawn)) or update, STEPS_ON_A_GPU

    def steps() -> int:
        for _ in range(count):
            loss = taken(*next(drawn), recipe.lr)
        loss.item()
        return count

    return steps
