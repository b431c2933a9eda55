"""Modules: what training and evaluation ask of any ``torch.nn.Module``, whoever built it."""

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from spaces.errors import DataError, TrainingError

#: Where torch raises a bare RuntimeError, only its text tells what is missing: of the CPU, of CUDA and its libraries.
OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "not enough memory",
    "std::bad_alloc",
    "CUDA error: out of memory",
    "STATUS_ALLOC_FAILED",
)


@contextmanager
def out_of_memory_is_an_error() -> Iterator[None]:
    """Turn running out of memory, on any device, into a ``TrainingError`` that costs only this network."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        told = any(text in str(error) for text in OUT_OF_MEMORY)
        if not told and not isinstance(error, torch.OutOfMemoryError | MemoryError):
            raise
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainingError(f"out of memory: {first}; use a smaller batch_size or limit the network's size") from error


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Detached floating-point parameters and buffers, by name."""
    named = itertools.chain(module.named_parameters(), module.named_buffers())
    return {name: tensor.detach() for name, tensor in named if tensor.is_floating_point()}


def fitting(given: Mapping[str, Tensor], present: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """The tensors handed in, moved to the device of their namesakes, whose shapes they must have."""
    for name, tensor in given.items():
        if name not in present:
            known = ", ".join(sorted(present))
            raise ValueError(f"{what} is given for {name!r}, which the module does not have; it has {known}")
        if tensor.shape != present[name].shape:
            raise ValueError(
                f"{what} of {name!r} has shape {tuple(tensor.shape)}, the module's {tuple(present[name].shape)}"
            )
    return {name: tensor.to(present[name]) for name, tensor in given.items()}


def refuse_labels(highest: int, logits: Tensor) -> None:
    """Raise a ``DataError`` unless there is a logit for every label up to the highest.

    Left to itself, a CUDA device would answer such a label with an assertion that ends the process's use of it.
    """
    if highest >= logits.shape[1]:
        raise DataError(
            f"there is a label {highest}, but the network has logits for classes 0 .. {logits.shape[1] - 1}: "
            "build it for as many classes as the data has"
        )


def device_of(module: nn.Module) -> torch.device:
    """Where the module's parameters are; the CPU for a module without any."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


@contextmanager
def mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Train or eval mode for a while, then each submodule's own again."""
    before = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, was in before:
            part.training = was


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed what a module may draw from the global generators (dropout, say), and give them back as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
