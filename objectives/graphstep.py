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

#: How far a captured step may be from the same step run kernel by kernel: the loss as a part of it, and parameters as a
#: part of how far they moved. Sums in another order are magnified where Muon makes all directions equally long.
LOSS_TOLERANCE, MOVE_TOLERANCE = 0.05, 0.5

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
    def captured(cls, step: Step, images: Tensor, labels: Tensor) -> Self | None:
        """A graph that was held against the step itself; None where it cannot be had, or does something else.

        Args:
            step: On a GPU. Weights, statistics and momentum are as before when this returns.
            images: A batch.
            labels: Its labels.
        """
        before = step.snapshot()
        try:
            found = cls(step, images, labels)
            return found if agrees(found, step, images, labels) else None
        except RuntimeError:  # something in the step does not stand being captured
            torch.cuda.synchronize()
            return None
        finally:
            step.restore(before)


def agrees(other: StepLike, step: Step, images: Tensor, labels: Tensor) -> bool:
    """Whether another way to take a step does what the step does, in two of them on two other batches.

    Args:
        other: Changes the same tensors. They are left somewhere.
        step: How it should be.
        images: A batch, of which those are made: its negative and its mirror image, under other labels.
        labels: Its labels.
    """
    before = step.snapshot()
    start = torch.cat([p.detach().flatten().clone() for p in step.named.values()])
    batches = ((1 - images, labels.roll(1)), (images.flip(3), labels.roll(2)))
    losses, moves = [], []
    for run in (step, other):
        step.restore(before)
        losses.append(torch.stack([run(*batch, step.recipe.lr) for batch in batches]))
        moves.append(torch.cat([p.detach().flatten() for p in step.named.values()]) - start)
    loss_gap, move_gap = (losses[0] - losses[1]).abs().max(), (moves[0] - moves[1]).norm()
    return bool((loss_gap <= LOSS_TOLERANCE * losses[0].max()) & (move_gap <= MOVE_TOLERANCE * moves[0].norm()))
