"""`Plan`: how this machine trains these images best, and how many epochs the budget allows; measured, not assumed."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from objectives.data import Data
from objectives.training import Precision, Recipe, batches, best_precision, best_threads, training_step
from spaces.arch import Arch
from spaces.network import Network
from spaces.state import initial_state

#: Trainings that a search should have time for.
TRAININGS = 120

#: Fewest and most epochs that a child is planned to train.
EPOCHS = (0.2, 5.0)

#: Without a budget in time.
DEFAULT_EPOCHS = 2.0


@dataclass(frozen=True)
class Plan:
    """What was measured before the first training, and is kept for the whole study.

    Attributes:
        threads: CPU threads for training.
        precision: Of forward and backward passes.
        epochs: Passes over the training data for a child.
        initial_epochs: The same for the first generation.
    """

    threads: int
    precision: Precision
    epochs: float
    initial_epochs: float

    def to_json(self) -> dict[str, Any]:
        """A plain mapping; `Plan(**mapping)` reads it."""
        return asdict(self)


def measure(
    archs: Sequence[Arch],
    data: Data,
    recipe: Recipe,
    device: torch.device,
    *,
    seconds: float | None,
    threads: int | None = None,
    epochs: float | None = None,
    initial_epochs: float | None = None,
) -> Plan:
    """Make a plan from real training steps.

    Args:
        archs: The networks the search begins with.
        data: Gives the batches.
        recipe: How candidates are trained.
        device: Where.
        seconds: Wall time of the search, or None.
        threads: Fixed by the user, or None.
        epochs: Likewise.
        initial_epochs: Likewise.
    """
    if threads is None:
        threads = best_threads(training_step(network(archs[len(archs) // 2], device), data.train, recipe))
    torch.set_num_threads(threads)
    precision = recipe.precision
    if precision == "auto":
        precision = best_precision(network(archs[-1], device), data.train, recipe)
    recipe = replace(recipe, precision=precision)
    if epochs is None:
        epochs = DEFAULT_EPOCHS
        if seconds is not None:
            typical = statistics.fmean(seconds_per_epoch(network(arch, device), data, recipe) for arch in archs)
            epochs = min(max(seconds / (TRAININGS * typical), EPOCHS[0]), EPOCHS[1])
    return Plan(threads, precision, epochs, 2 * epochs if initial_epochs is None else initial_epochs)


def network(arch: Arch, device: torch.device) -> Network:
    """An untrained network, to be timed."""
    return Network(arch, initial_state(arch).value).to(device)


def seconds_per_epoch(module: torch.nn.Module, data: Data, recipe: Recipe) -> float:
    """Expected seconds for one pass over the training data, from the median of a few steps."""
    step = training_step(module, data.train, recipe)
    step()
    times = []
    for _ in range(3):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * batches(len(data.train), recipe.batch_size)[0]
