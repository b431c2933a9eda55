"""`Memory`: how much of a network's weights is still near when it is run again."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

MB = 1 << 20
MIDDLE_BYTES = 8 * MB
"""What no cache next to a processor holds, and most last-level caches do."""

PAUSES_MS = (0.0, 3.0, 10.0, 30.0)
"""None, and as long as inferences of networks of which a part of the weights could be in the last-level cache."""

_TRAFFIC = np.geomspace(10, 1e6, 500)  # what is tried


@dataclass(frozen=True)
class Memory:
    """How much longer work takes on a device as its weights come from further away.

    A network reads each weight once per inference; until the next one it reads all its other weights and writes all its
    activations, and those take the place of what the caches held. So does, on a shared machine, what other programs
    move through the last-level cache in the meantime.

    Attributes:
        mb: Bytes that are read in turn, in units of 2**20, ascending.
        share: What that costs, as a share of what it costs to read weights from main memory: 0 where they all stay in
            the cache next to the processor, 1 where none stays in any.
        traffic: Bytes that others move, in units of 2**20 per second.

    >>> memory = Memory(mb=(1.0, 4.0, 32.0, 128.0), share=(0.0, 0.3, 0.3, 1.0))
    >>> memory.at(8 * 2**20), round(memory.at(64 * 2**20), 2), memory.at(10**12)
    (0.3, 0.65, 1.0)
    """

    mb: tuple[float, ...]
    share: tuple[float, ...]
    traffic: float = 0.0

    def __post_init__(self) -> None:
        if len(self.mb) != len(self.share) or len(self.mb) < 2 or not all(np.diff(self.mb) > 0) or self.mb[0] <= 0:
            raise ValueError("a memory's sizes must ascend, with one share each")
        if not all(0 <= share <= 1 for share in self.share):
            raise ValueError("the shares of a memory must be between 0 and 1")
        if not 0 <= self.traffic < np.inf:
            raise ValueError("the traffic of a memory must be a number of bytes")

    def at(self, nbytes: float) -> float:
        """The share for so many bytes between two uses of the same weights."""
        return float(np.interp(np.log(max(nbytes, 1) / MB), np.log(self.mb), self.share))

    def extra(self, footprint: float, ms: float, middle_us: Any, cold_us: Any) -> Any:
        """What kernels take longer in a network than with their weights near.

        Args:
            footprint: Bytes between two uses of a weight in the network.
            ms: Milliseconds between them.
            middle_us: What each kernel takes longer with ``MIDDLE_BYTES`` between them.
            cold_us: What each takes longer with its weights in main memory.

        >>> memory = Memory(mb=(1.0, 8.0, 128.0), share=(0.0, 0.4, 1.0), traffic=1000.0)
        >>> [memory.extra(mb * 2**20, 0.0, 10.0, 20.0) for mb in (1, 8, 128)]
        [0.0, 10.0, 20.0]
        >>> [memory.extra(mb * 2**20, 120.0, 10.0, 20.0) for mb in (1, 8, 128)]
        [0.0, 20.0, 20.0]
        """
        middle = self.at(MIDDLE_BYTES)
        left_near = min(1.0, self.at(footprint) / middle) if middle else float(self.at(footprint) > 0)
        all_bytes = footprint + self.traffic * MB * ms / 1e3
        left_all = max(0.0, self.at(all_bytes) - middle) / (1 - middle) if middle < 1 else 0.0
        return left_near * (middle_us + left_all * (cold_us - middle_us))

    @classmethod
    def measured(
        cls,
        mb: Sequence[float],
        seconds: Sequence[Sequence[float]],
        pauses_ms: Sequence[float] = (),
        paused: Sequence[Sequence[float]] = (),
    ) -> "Memory":
        """From the time that some kernels take with so many bytes between two uses of their weights.

        Args:
            mb: The sizes, ascending.
            seconds: Per kernel, a time per size.
            pauses_ms: Milliseconds without work before a run, in which others may have theirs.
            paused: Per kernel, a time per pause, with ``MIDDLE_BYTES`` (one of the sizes) between two uses. The first
                pause is none: what others add counts in relation to it.

        Raises:
            ValueError: If a time is missing.

        >>> Memory.measured([1, 8, 64], [[10, 13, 20], [50, 49, 50]]).share
        (0.0, 0.3, 1.0)
        >>> round(Memory.measured([1, 8, 24], [[10, 12, 20]], [0.0, 1.0, 4.0], [[13, 13, 17]]).traffic)
        1159
        """
        rising = np.maximum.accumulate(np.asarray(seconds, float), axis=1)
        near = rising[:, :1]
        longer = (rising / near - 1).sum(0)
        # Where memory makes no difference its shares do not matter.
        shares = longer / longer[-1] if longer[-1] > 0 else longer
        quiet = cls(tuple(float(size) for size in mb), tuple(float(share) for share in shares.round(3)))
        if not len(pauses_ms) or not longer[-1] > 0:
            return quiet
        rested = np.asarray(paused, float)
        if rested.shape != (len(seconds), len(pauses_ms)):
            raise ValueError("a memory's pauses must have a time for every kernel")
        rested = rested / rested[:, :1] * rising[:, [list(mb).index(MIDDLE_BYTES / MB)]]
        wanted = np.clip((rested / near - 1).sum(0) / longer[-1], 0.0, 1.0)

        middle = quiet.at(MIDDLE_BYTES)

        def error(traffic: float) -> float:
            found = [replace(quiet, traffic=traffic).extra(MIDDLE_BYTES, ms, middle, 1.0) for ms in pauses_ms]
            return float(np.square(wanted - found).sum())

        return replace(quiet, traffic=round(float(min((0.0, *_TRAFFIC), key=error)), 1))
