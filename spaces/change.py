"""`Change`: one segment of channels becomes other channels, and all tensors with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from spaces.arch import Arch
from spaces.channels import Axes, Segment
from spaces.state import Tensors, fresh_tensor

#: New channel j comes from old channel ``source[j]``; -1 is a fresh channel.
Source = Sequence[int]


@dataclass(frozen=True)
class Change:
    """One segment of a graph becomes other channels wherever it occurs.

    Attributes:
        graph: The architecture.
        found: Its axes, with the segment on them.
        segment: Which.
        old_size: Its channels before.
        source: Those that it gets.
        shares: Per new channel, what the weights of its readers are multiplied by.
    """

    graph: Arch
    found: Axes
    segment: Segment
    old_size: int
    source: Source
    shares: Sequence[float]

    def index(self, axis: Sequence[Segment]) -> list[int]:
        """Per new channel of an axis, the old channel it comes from, or -1."""
        sizes = [self.old_size if part == self.segment else part.size for part in axis]
        index: list[int] = []
        for part, start in zip(axis, accumulate(sizes, initial=0), strict=False):
            if part == self.segment:
                index.extend(old if old < 0 else start + old for old in self.source)
            else:
                index.extend(range(start, start + part.size))
        return index

    def scale(self, axis: Sequence[Segment]) -> list[float]:
        """Per new channel of an axis, what the weights of its readers are multiplied by."""
        parts = (self.shares if part == self.segment else [1.0] * part.size for part in axis)
        return [share for part in parts for share in part]


def gather(child: Arch, change: Change, tensors: Tensors, generator: torch.Generator) -> Tensors:
    """The tensors after a change; those without the changed segment on an axis are handed on as they are.

    Args:
        child: The architecture that the tensors are for.
        change: What becomes of the segment.
        tensors: By ``"node.param"``, those of new nodes included.
        generator: Of fresh rows.
    """
    rebuilt: dict[str, Tensor] = {}
    for node in child.nodes:
        for short, param in node.op.params(child.input_shapes(node.name)).items():
            tensor = tensors[f"{node.name}.{short}"]
            for dimension, role in enumerate(param.axes):
                if not role:
                    continue
                axis = change.found[node.name if role == "out" else change.graph[node.name].inputs[0]]
                if change.segment not in axis:
                    continue
                index = torch.tensor(change.index(axis), dtype=torch.long)
                tensor = tensor.index_select(dimension, index.clamp(min=0))
                if role == "out":
                    fresh = index < 0
                    if fresh.any():
                        # The columns may still have their old number here, hence not the shape of `param`.
                        rows = (int(fresh.sum()), *tensor.shape[1:])
                        tensor[fresh] = fresh_tensor(param, generator, rows).to(tensor.dtype)
                else:
                    scale = torch.tensor(change.scale(axis), dtype=tensor.dtype)
                    tensor = tensor * scale.reshape([-1 if d == dimension else 1 for d in range(tensor.dim())])
            rebuilt[f"{node.name}.{short}"] = tensor
    return rebuilt
