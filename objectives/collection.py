"""A collection: labelled images that have been listed and not read yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from objectives.images import ImageSource
from spaces.errors import DataError

SplitName: TypeAlias = Literal["train", "val", "test"]


@dataclass(frozen=True, eq=False)
class Part:
    """Images that belong together, as a folder or a published data set has them.

    Attributes:
        names: What to call each image in a message: a file relative to the collection, or ``test[17]``.
        sources: The files, or the pixels where the data set is one array.
        labels: int64 (N,), indices into the collection's classes.
    """

    names: Sequence[str]
    sources: Sequence[ImageSource]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.sources) == len(self.labels):
            counts = f"{len(self.sources):,} images and {len(self.labels):,} labels"
            raise DataError(f"{counts} do not belong together: fetch the data again")

    def __len__(self) -> int:
        return len(self.names)

    def take(self, index: NDArray[np.int64]) -> "Part":
        """The images at these positions, in this order."""
        return Part([self.names[i] for i in index], [self.sources[i] for i in index], self.labels[index])


@dataclass(frozen=True, eq=False)
class Collection:
    """Everything found at one place.

    Attributes:
        name: For people.
        classes: In the order of the labels.
        parts: Always has ``train``; ``val`` and ``test`` where the place has them.
        notes: Sentences on what was left aside.
    """

    name: str
    classes: tuple[str, ...]
    parts: Mapping[SplitName, Part]
    notes: tuple[str, ...] = ()
