"""`Plan`: how this machine trains these images best, and how many epochs the budget allows; measured, not assumed."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import torch

from hwnas.schedule import Schedule, longest
from latency.deployment import usable_cores
from objectives.batches import batches
from objectives.cost import macs, training_memory
from objectives.data import Data
from objectives.fastest import best_precision, best_threads
from objectives.memory import free_memory
from objectives.modules import device_of, out_of_memory_is_an_error
from objectives.recipe import Precision, Recipe
from objectives.timedstep import training_step
from spaces.arch import Arch
from spaces.errors import SpecError, TrainingError
from spaces.network import Network
from spaces.state import initial_state

#: Trainings that a search should have time for; of networks from scratch fewer, as they take longer to learn.
TRAININGS, SCRATCH_TRAININGS = 120, 40

#: The least for each worker: the more of them, the more trainings are begun before others have a result.
TRAININGS_A_WORKER = 20

#: Memory that a process takes which trains networks, beside the images and what a network takes.
WORKER_BYTES = 1 << 30

#: Fewest and most epochs that a child is planned to train on what it inherits, or from scratch.
EPOCHS, SCRATCH_EPOCHS = (0.2, 5.0), (0.4, 30.0)

#: The same for the first generation, and its part of the search's wall time: children inherit what it has learned.
FIRST_EPOCHS, FIRST_SHARE = (0.4, 10.0), 0.2

#: An epoch is timed by so many steps at least, and for so long at least.
TIMED_STEPS, TIMED_SECONDS = 3, 0.1

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
        workers: Networks that train side by side, each in a process of its own if they are more than one.
    """

    threads: int
    precision: Precision
    epochs: Schedule
    initial_epochs: Schedule
    workers: int = 1

    def on(self, cores: int, workers: int | None) -> Self:
        """The same on a machine with so many cores, which may be fewer than there were.

        Args:
            cores: That may be used.
            workers: Asked for by the user, or None.

        >>> schedule = Schedule.constant(1.0)
        >>> Plan(2, "fp32", schedule, schedule, workers=8).on(cores=4, workers=None).workers
        2
        """
        threads = min(self.threads, cores)
        return replace(self, threads=threads, workers=workers or max(1, min(self.workers, cores // threads)))

    def to_json(self) -> dict[str, Any]:
        """A plain mapping; :meth:`from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The plan that :meth:`to_json` wrote."""
        schedules = {name: Schedule(**data[name]) for name in ("epochs", "initial_epochs")}
        return cls(**{**data, **schedules})


def measure(
    archs: Sequence[Arch],
    data: Data,
    recipe: Recipe,
    device: torch.device,
    *,
    seconds: float | None,
    inherit: bool = True,
    trainings: int | None = None,
    work: float = 1.0,
    threads: int | None = None,
    workers: int | None = None,
    epochs: float | None = None,
    initial_epochs: float | None = None,
) -> Plan:
    """Make a plan from real training steps.

    Args:
        archs: The networks the search begins with.
        data: Gives the batches.
        recipe: How candidates are trained.
        device: Where.
        seconds: Wall time left for this and for the search, or None.
        inherit: Whether children inherit weights; else all networks train alike, from the first.
        trainings: How many networks there should be time to begin with, or None.
        work: Training of a network on average, in units of what is planned here: more where the best are trained on.
        threads: Fixed by the user, or None.
        workers: Likewise.
        epochs: Likewise.
        initial_epochs: Likewise.

    Raises:
        SpecError: Several workers are asked for where only one can be.
        TrainingError: The memory is too small for any of the networks.
    """
    began = time.monotonic()
    middle = archs[len(archs) // 2]
    _, size = batches(len(data.train), recipe.batch_size)
    largest = max(training_memory(arch, size) for arch in archs)
    if threads is None:
        # A core does more for a network of its own than as a second one for another's.
        cores_each = usable_cores() // (workers or most_workers(device, 1, data, largest))
        threads = min(cores_each, free_threads(network(middle, device), data, recipe)) if cores_each > 1 else 1
    torch.set_num_threads(threads)
    if data.streamed and (workers or 1) > 1:
        raise SpecError(
            f"search.workers is {workers}, but the images do not fit into the memory, and are read from a file by one "
            "process alone; leave it out, or set a smaller data.image_size"
        )
    workers = workers or most_workers(device, threads, data, largest)
    precision = recipe.precision
    if precision == "auto":
        precision = best_precision(network(middle, device), data.train, recipe)
    recipe = replace(recipe, precision=precision)
    if epochs is not None or seconds is None:
        epochs = epochs or DEFAULT_EPOCHS
        children = Schedule.constant(epochs)
        first = Schedule.constant(initial_epochs or (2 * epochs if inherit else epochs))
    else:
        times, of_macs = _timed(archs, device, data, recipe)
        seconds = max(0.0, seconds - (time.monotonic() - began))
        trainings = trainings or max(TRAININGS if inherit else SCRATCH_TRAININGS, TRAININGS_A_WORKER * workers)
        least, most = EPOCHS if inherit else SCRATCH_EPOCHS
        children = Schedule.fit(of_macs, times, seconds * workers / trainings / work, (least / work, most / work))
        if initial_epochs is not None:
            first = Schedule.constant(initial_epochs)
        elif inherit:
            turns = max(len(archs) / workers, longest(times))
            first = Schedule.fit(of_macs, times, FIRST_SHARE * seconds / turns, FIRST_EPOCHS)
        else:
            first = children
    return Plan(threads, precision, children, first, workers)


def training_device() -> torch.device:
    """Where networks are trained: on the GPU, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def most_workers(device: torch.device, threads: int, data: Data, each: int) -> int:
    """As many as cores and memory allow.

    One on a GPU, and where images are read from a file as they do not fit into the memory.

    Args:
        device: Where networks train.
        threads: Of each worker.
        data: The images.
        each: Bytes that the largest network takes in training.
    """
    if device.type == "cuda" or data.streamed:
        return 1
    return max(1, min(usable_cores() // threads, free_memory() // (WORKER_BYTES + each)))


@out_of_memory_is_an_error()
def free_threads(module: torch.nn.Module, data: Data, recipe: Recipe) -> int:
    """CPU threads to train with: as measured; on a GPU, whose steps need none, all there are, for what runs beside."""
    if device_of(module).type == "cuda":
        return usable_cores()
    return best_threads(training_step(module, data.train, recipe))


def _timed(archs: Sequence[Arch], device: torch.device, data: Data, recipe: Recipe) -> tuple[list[float], list[int]]:
    """Seconds of an epoch of each, and its MACs; without those that are too large for the memory, if not all are."""
    found, reason = [], ""
    for arch in archs:
        try:
            found.append((seconds_per_epoch(network(arch, device), data, recipe), macs(arch)))
        except TrainingError as error:
            reason = str(error)  # the error itself holds on to the network's memory
    if reason and not found:
        raise TrainingError(reason)
    return [seconds for seconds, _ in found], [work for _, work in found]


@out_of_memory_is_an_error()
def network(arch: Arch, device: torch.device) -> Network:
    """An untrained network, to be timed."""
    return Network(arch, initial_state(arch).value).to(device)


@out_of_memory_is_an_error()
def seconds_per_epoch(module: torch.nn.Module, data: Data, recipe: Recipe) -> float:
    """Expected seconds for one pass over the training data, from the median of some steps."""
    step = training_step(module, data.train, recipe)
    step()
    times: list[float] = []
    ends = time.perf_counter() + TIMED_SECONDS
    while len(times) < TIMED_STEPS or time.perf_counter() < ends:
        began = time.perf_counter()
        count = step()
        times.append((time.perf_counter() - began) / count)
    return statistics.median(times) * batches(len(data.train), recipe.batch_size)[0]
