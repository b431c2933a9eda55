"""The report on a data set: what was read, what was left out, and what its size allows to be known."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from objectives.collection import SplitName

IMBALANCED = 10
"""Training images of the largest class for each of the smallest, from which on it is worth a word."""
UNCERTAIN = 0.02
"""Standard error of the validation accuracy above which it is worth a word."""
DARK = 64
"""The brightest pixel below which images are dark, or hold fewer bits than their files."""


def standard_error(accuracy: float, images: int) -> float:
    """Standard error of an accuracy measured on that many images: sqrt(p (1 - p) / n).

    >>> round(standard_error(0.9, 5000), 4)
    0.0042
    """
    return math.sqrt(accuracy * (1 - accuracy) / images)


class Unreadable(NamedTuple):
    """A file that is in no split, and why."""

    name: str
    reason: str


class Place(NamedTuple):
    """An image and the split it is in."""

    split: SplitName
    name: str


@dataclass(frozen=True)
class DataReport:
    """What a person should know before trusting numbers that rest on this data.

    Attributes:
        name: Of the data.
        classes: In the order of the labels.
        counts: For each split, the images of each class.
        shape: (C, H, W) of the images as the networks see them.
        smallest: (width, height) of the smallest image as stored, by area.
        largest: (width, height) of the largest.
        unreadable: Files left out.
        conflicts: Groups of images with the same pixels under more than one label.
        duplicates: Groups of images with the same pixels (at the size used) that lie in more than one split.
        elongated: Images more than twice as long as wide, or as wide as long.
        grey: Whether every pixel of every image is grey.
        brightest: The largest value of any pixel of the training images, in 0..255.
        std: Of each channel of the training images, in 0..1; 0 where the channel is constant.
        notes: Sentences of the source on what was left aside.
        folder: Of the memory-mapped files, where the images are streamed.
    """

    name: str
    classes: tuple[str, ...]
    counts: Mapping[SplitName, tuple[int, ...]]
    shape: tuple[int, int, int]
    smallest: tuple[int, int]
    largest: tuple[int, int]
    unreadable: tuple[Unreadable, ...]
    duplicates: tuple[tuple[Place, ...], ...]
    conflicts: tuple[tuple[Place, ...], ...]
    elongated: int
    grey: bool
    brightest: int
    std: tuple[float, ...]
    notes: tuple[str, ...]
    folder: Path | None

    @property
    def imbalance(self) -> float:
        """Training images of the largest class for each one of the smallest."""
        return max(self.counts["train"]) / min(self.counts["train"])

    def val_stderr(self, accuracy: float = 0.5) -> float:
        """Standard error to expect of a validation accuracy; at 0.5 it is largest."""
        return standard_error(accuracy, sum(self.counts["val"]))

    def lines(self) -> list[str]:
        """What there is, in a few lines; :attr:`warnings` say what is wrong with it."""
        fewest, most = min(self.counts["train"]), max(self.counts["train"])
        lines = [
            f"{self.name}: {len(self.classes)} classes, {'x'.join(map(str, self.shape))}: "
            + ", ".join(f"{sum(counts):,} {split}" for split, counts in self.counts.items()),
            f"training images of a class: {fewest:,} to {most:,} (imbalance {self.imbalance:.1f})",
            f"standard error of the validation accuracy: at most {self.val_stderr():.2%}, "
            f"{self.val_stderr(0.9):.2%} at 90 %",
        ]
        if self.folder is not None:
            lines.append(f"larger than half of the free memory: streamed from {self.folder}")
        return lines

    def text(self) -> str:
        """All of it, for a file: every class, every file left out, every picture in several splits."""
        stored = " to ".join(dict.fromkeys(f"{wide} x {high}" for wide, high in (self.smallest, self.largest)))
        width = max(map(len, (*self.classes, "class")))
        sections = [
            [*self.lines(), f"stored images: {stored} pixels"],
            ["Warnings", *(self.warnings or ["none"])],
            [
                f"{'class':<{width}}" + "".join(f"{split:>10}" for split in self.counts),
                *(
                    f"{name:<{width}}" + "".join(f"{images:>10,}" for images in row)
                    for name, row in zip(self.classes, zip(*self.counts.values(), strict=True), strict=True)
                ),
            ],
            ["Unreadable files, left out", *(f"{name}: {reason}" for name, reason in self.unreadable)],
            ["Pictures under several labels", *map(_twins, self.conflicts)],
            ["Pictures in several splits", *map(_twins, self.duplicates)],
        ]
        return "\n\n".join("\n".join(lines) for lines in sections if len(lines) > 1) + "\n"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on what may spoil the result, and what to do about it; long lists are cut short."""
        return (*self.notes, *self._about_files(), *self._about_pixels(), *self._about_counts())

    def _about_files(self) -> Iterator[str]:
        if self.unreadable:
            files = shortened([f"{name} ({reason})" for name, reason in self.unreadable])
            yield f"{counted(len(self.unreadable), 'unreadable file')} left out: {files}."
        if self.conflicts:
            twins = shortened([_twins(group) for group in self.conflicts])
            several = counted(len(self.conflicts), "picture")
            yield f"{several} under several labels, of which one at most is right: {twins}."
        if self.duplicates:
            twins = shortened([_twins(group) for group in self.duplicates])
            yield f"{counted(len(self.duplicates), 'picture')} in several splits, flattering the accuracy: {twins}."

    def _about_pixels(self) -> Iterator[str]:
        if self.grey and self.shape[0] == 3:
            yield "all images are grey though stored as colour: one channel would do."
        if self.brightest < DARK:
            yield f"no training pixel is above {self.brightest} of 255: stretch the images (16-bit white is 65,535)."
        for channel, std in enumerate(self.std):
            if std == 0:
                yield f"channel {channel} is the same everywhere in the training images and says nothing."
        if self.elongated:
            yield f"{counted(self.elongated, 'image')} over twice as long as wide, squeezed to squares."

    def _about_counts(self) -> Iterator[str]:
        train, val = self.counts["train"], sum(self.counts["val"])
        if self.imbalance >= IMBALANCED:
            most, fewest = (self.classes[train.index(images)] for images in (max(train), min(train)))
            ratio = f"{self.imbalance:.0f} times the training images of {fewest}"
            yield f"{most} has {ratio}: balanced accuracy says more than accuracy."
        if (stderr := self.val_stderr(0.9)) > UNCERTAIN:
            yield f"{val:,} validation images leave an accuracy of 90 % uncertain by {stderr:.1%}; more tell more."


def _twins(group: tuple[Place, ...]) -> str:
    return " = ".join(f"{name} ({split})" for split, name in group)


def counted(number: int, noun: str) -> str:
    """A number and its noun.

    >>> counted(1, "file"), counted(1200, "file")
    ('1 file', '1,200 files')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shortened(texts: list[str], shown: int = 5) -> str:
    """The first few of a list, and how many more there are.

    >>> shortened(["a", "b", "c"], shown=2)
    'a, b and 1 more'
    """
    more = f" and {len(texts) - shown:,} more" if len(texts) > shown else ""
    return ", ".join(texts[:shown]) + more
