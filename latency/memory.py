"""`Memory`: how much of a network's weights is still near when it is run again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MB = 1 << 20


@dataclass(frozen=True)
class Memory:
    """How much longer work takes on a device as its weights come from further away.

    A network reads each weight once per inference; until the next one it reads all its other weights and writes all its
    activations, and those take the place of what the caches held.

    Attributes:
        mb: Bytes that are read in turn, in units of 2**20, ascending.
        share: What that costs, as a share of what it costs to read weights from main memory: 0 where they all stay in
            the cache next to the processor, 1 where none stays in any.

    >>> memory = Memory(mb=(1.0, 4.0, 32.0, 128.0), share=(0.0, 0.3, 0.3, 1.0))
    >>> memory.at(8 * 2**20), round(memory.at(64 * 2**20), 2), memory.at(10**12)
    (0.3, 0.65, 1.0)
    """

    mb: tuple[float, ...]
    share: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mb) != len(self.share) or len(self.mb) < 2 or not all(np.diff(self.mb) > 0) or self.mb[0] <= 0:
            raise ValueError("a memory's sizes must ascend, with one share each")
        if not all(0 <= share <= 1 for share in self.share):
            raise ValueError("the shares of a memory must be between 0 and 1")

    def at(self, nbytes: float) -> float:
        """The share for so many bytes between two uses of the same weights."""
        return float(np.interp(np.log(max(nbytes, 1) / MB), np.log(self.mb), self.share))

    def beyond(self, nbytes: float, measured: float) -> float:
        """The same share for a kernel that was measured with ``measured`` bytes between two uses of its weights."""
        already = self.at(measured)
        return max(0.0, (self.at(nbytes) - already) / (1 - already)) if already < 1 else 0.0

    @classmethod
    def measured(cls, mb: Sequence[float], seconds: Sequence[Sequence[float]]) -> "Memory":
        """From the time that some kernels take with so many bytes between two uses of their weights.

        Args:
            mb: The sizes, ascending.
            seconds: Per kernel, a time per size.

        >>> Memory.measured([1, 8, 64], [[10, 13, 20], [50, 49, 50]]).share
        (0.0, 0.3, 1.0)
        """
        rising = np.maximum.accumulate(np.asarray(seconds, float), axis=1)
        longer = (rising / rising[:, :1] - 1).sum(0)
        # Where memory makes no difference its shares do not matter.
        shares = longer / longer[-1] if longer[-1] > 0 else longer
        return cls(tuple(float(size) for size in mb), tuple(float(share) for share in shares.round(3)))
