"""`GraphStep`: a training step as a CUDA graph, so that a small network does not wait for its kernels to be launched.

Some microseconds pass until the host has launched a kernel; small maps are computed in less. A graph is launched as a
whole ("Getting started with CUDA graphs", Gray, 2019). It reads its batch from, and leaves its loss in, tensors that
stay where they are.
"""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from objectives.step import Step

#: Steps of a training below which capturing takes longer than it saves.
FEWEST_STEPS = 100

#: Steps before the capture, in which libraries choose their kernels (torch's documentation asks for some).
WARM_UP = 3

#: How far a captured step may be from the same step run kernel by kernel, as a part of the loss.
TOLERANCE = 0.05

#: One step: images, labels, learning rate -> the loss.
StepLike = Callable[[Tensor, Tensor, float], Tensor]


class GraphStep:
    """The same as a `Step`, for batches of one size."""

    def __init__(self, step: Step, images: Tensor, labels: Tensor) -> None:
        self.step = step
        self.images, self.labels = images.clone(), labels.clone()
        self.graph = torch.cuda.CUDAGraph()
        before = step.snapshot()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                step.update(self.images, self.labels)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(self.graph):
            self.loss = step.update(self.images, self.labels)
        step.restore(before)

    def __call__(self, images: Tensor, labels: Tensor, lr: float) -> Tensor:
        """See `Step`."""
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.step.set_rate(lr)
        self.graph.replay()
        return self.loss.clone()

    @classmethod
    def captured(cls, step: Step, images: Tensor, labels: Tensor, lr: float) -> Self | None:
        """A graph that was held against the step itself; None where it cannot be had, or does something else.

        Args:
            step: On a GPU. Weights, statistics and momentum are as before when this returns.
            images: A batch.
            labels: Its labels.
            lr: A learning rate.
        """
        before = step.snapshot()
        try:
            found = cls(step, images, labels)
            losses = []
            for run in (step, found):
                step.restore(before)
                losses.append(torch.stack([run(images, labels, lr) for _ in range(2)]))
            plain, replayed = losses
            same = bool((plain - replayed).abs().max() <= TOLERANCE * plain.abs().max())
        except RuntimeError:  # something in the step does not stand being captured
            torch.cuda.synchronize()
            return None
        finally:
            step.restore(before)
        return found if same else None
