"""Data: labelled images in three splits, ready to train on.

The search sees ``train`` and ``val``. The ``test`` split is read once, for the final table.
"""

import difflib
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TypeAlias

import numpy as np
import platformdirs
import torch
from numpy.typing import NDArray
from torch import Tensor

from objectives.collection import Collection, Part, SplitName
from objectives.data_report import DataReport, Place, Unreadable, shortened
from objectives.datasets import NAMES, dataset_name, list_dataset
from objectives.folders import list_folder
from objectives.images import Header
from objectives.memory import free_memory
from objectives.pixels import Pixels, Survey, map_pixels, read_headers, read_pixels
from objectives.splits import draw
from spaces.errors import DataError, SpecError

SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
LARGEST_DEFAULT_SIZE = 64
"""Pixels. Larger images are worth asking for, with the time they take."""
DEFAULT_SHARE = 0.2
DEFAULT_IMAGES = 5000
"""A validation or test split needs no more: 90 % accuracy is then known to 0.4 %."""
DEFAULT_IMAGES_A_CLASS = 10

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, the images so far and their total."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels, in random order: any stretch of them is a fair sample.

    Attributes:
        images: uint8 (N, C, H, W). Where the data is streamed, a read-only memory-mapped file: ``images[index]`` reads
            just those images.
        labels: int64 (N,).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Data:
    """A classification problem.

    Attributes:
        name: For people.
        classes: In the order of the labels.
        train: What networks learn from.
        val: What the search ranks them by.
        test: For the final table, once.
        mean: Of each channel of the training images, in 0..1.
        std: Of each channel of the training images, in 0..1; but 1 where a channel is constant, to be divided by.
        streamed: Whether the images are memory-mapped because they are larger than half of the free memory.
        fingerprint: Hash of all pixels, labels and class names: the same data, split the same way.
        report: What to know before trusting the numbers.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    streamed: bool
    fingerprint: str
    report: DataReport

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.report.shape


def load_data(
    source: str | Path,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    val_fraction: float | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
    train_limit: int | None = None,
    download: bool = False,
    progress: Progress = lambda *_: None,
) -> Data:
    """Read labelled images and split them.

    The same source, options and seed give the same splits in the same order, whatever the order of the file system.

    Args:
        source: A folder (see :mod:`objectives.folders` for the layouts) or the name of a published data set (see
            :data:`objectives.datasets.NAMES`).
        image_size: Side in pixels of the squares that images are resized to (see :mod:`objectives.images`). By default
            their own if it is the same for all, square and at most 64; else the median of the shorter sides, rounded up
            to a multiple of 8, and at most 64.
        channels: 1 or 3. By default 1 if all images are stored as grey, else 3.
        val_fraction: Share of the images for a validation split that the source lacks. By default 20 %, but at most
            5,000 images or 10 for each class, whichever is more.
        test_fraction: Likewise for a test split that the source lacks.
        seed: Decides the splits.
        train_limit: Keep a stratified subset of so many training images; validation and test split stay whole.
        download: Whether a published data set that is nowhere may be fetched.
        progress: Called while images are looked at, then while they are read.

    Raises:
        DataError: The images cannot be found or read, or not be split so that every class is in every split.
        SpecError: An option is out of its range.

    >>> data = load_data("digits")
    >>> data.train.images.shape, data.train.labels.shape, len(data.val), len(data.test)
    (torch.Size([1079, 1, 8, 8]), torch.Size([1079]), 359, 359)
    """
    fractions: dict[SplitName, float | None] = {"val": val_fraction, "test": test_fraction}
    _check_options(image_size, channels, fractions, seed, train_limit)
    collection = _collection(source, download)
    idle = [f"{name}_fraction={fractions[name]}" for name in collection.parts if fractions.get(name) is not None]
    notes = [f"{option} has no effect: {collection.name} has such a split already." for option in idle]

    parts, headers, unreadable = _readable(collection, progress)
    size = image_size or _default_size(headers)
    depth = channels or (1 if all(header.grey for header in headers) else 3)
    splits = _split(parts, collection.classes, fractions, seed, train_limit)
    streamed = sum(map(len, splits.values())) * depth * size**2 > free_memory() // 2
    folder = platformdirs.user_cache_path("hwnas") / "images" if streamed else None
    pixels = _read(splits, size, depth, folder, progress)

    surveys = {name: pixels[name].survey for name in SPLITS}
    for name, survey in surveys.items():
        unreadable += [Unreadable(splits[name].names[at], reason) for at, reason in survey.unreadable]
        splits[name] = splits[name].take(survey.kept)
        where = f"the {name} split of {collection.name}"
        _require_every_class(where, splits[name].labels, collection.classes, unreadable)
    areas = sorted(headers, key=lambda header: header.width * header.height)
    report = DataReport(
        name=collection.name,
        classes=collection.classes,
        counts={name: tuple(np.bincount(splits[name].labels).tolist()) for name in SPLITS},
        shape=(depth, size, size),
        smallest=(areas[0].width, areas[0].height),
        largest=(areas[-1].width, areas[-1].height),
        unreadable=tuple(sorted(unreadable)),
        duplicates=_twins(splits, surveys, [np.full(len(splits[name].labels), i) for i, name in enumerate(SPLITS)]),
        conflicts=_twins(splits, surveys, [np.asarray(splits[name].labels) for name in SPLITS]),
        elongated=sum(max(header[:2]) > 2 * min(header[:2]) for header in headers),
        grey=all(survey.grey for survey in surveys.values()),
        brightest=surveys["train"].brightest,
        std=surveys["train"].std,
        notes=(*collection.notes, *notes),
        folder=folder,
    )
    return Data(
        name=collection.name,
        classes=collection.classes,
        **{name: Split(pixels[name].images, torch.from_numpy(splits[name].labels)) for name in SPLITS},
        mean=surveys["train"].mean,
        std=tuple(std or 1.0 for std in surveys["train"].std),
        streamed=streamed,
        fingerprint=_fingerprint(splits, surveys, collection.classes),
        report=report,
    )


def _check_options(
    image_size: int | None,
    channels: int | None,
    fractions: Mapping[SplitName, float | None],
    seed: int,
    train_limit: int | None,
) -> None:
    if image_size is not None and image_size < 1:
        raise SpecError(f"image_size={image_size}: the side of an image is at least 1 pixel")
    if channels not in (None, 1, 3):
        raise SpecError(f"channels={channels}: images have 1 channel (grey) or 3 (colour)")
    for name, fraction in fractions.items():
        if fraction is not None and not 0 < fraction < 1:
            raise SpecError(f"{name}_fraction={fraction}: a fraction lies between 0 and 1, both excluded")
    if sum(fraction or 0 for fraction in fractions.values()) >= 1:
        given = " and ".join(f"{name}_fraction={fraction}" for name, fraction in fractions.items())
        raise SpecError(f"{given} leave no training images: their sum must be below 1")
    if seed < 0:
        raise SpecError(f"seed={seed}: a seed is not negative")
    if train_limit is not None and train_limit < 1:
        raise SpecError(f"train_limit={train_limit}: at least one image is needed for each class")


def _collection(source: str | Path, download: bool) -> Collection:
    """What the source names: a published data set if it can, else a folder."""
    text = str(source)
    if isinstance(source, str) and (name := dataset_name(source)) is not None:
        found = list_dataset(name, download=download)
        if not Path(text).is_dir():
            return found
        note = f"{text} is the published data set; for the folder of that name write ./{text}."
        return replace(found, notes=(*found.notes, note))
    folder = Path(source).expanduser()
    if folder.is_dir():
        return list_folder(folder)
    if folder.exists():
        raise DataError(f"{folder} is a file: unpack it if it is an archive, and give the folder")
    if text == folder.name:  # it may be meant as a name
        near = difflib.get_close_matches(text.lower(), NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the data sets known by name are {', '.join(NAMES)}"
        raise DataError(f"{text!r} is neither a folder here nor a data set known by name: {hint}")
    raise DataError(f"there is no folder {folder}: give the path of a folder that holds one folder for each class")


def _readable(
    collection: Collection, progress: Progress
) -> tuple[dict[SplitName, Part], list[Header], list[Unreadable]]:
    """The images whose headers can be read, the headers, and the files that are no images."""
    advance = _counter("looking at images", sum(map(len, collection.parts.values())), progress)
    parts: dict[SplitName, Part] = {}
    headers: list[Header] = []
    unreadable: list[Unreadable] = []
    for name, part in collection.parts.items():
        good: list[int] = []
        for at, header in enumerate(read_headers(part.sources, progress=advance)):
            if isinstance(header, str):
                unreadable.append(Unreadable(part.names[at], header))
            else:
                good.append(at)
                headers.append(header)
        parts[name] = part.take(np.array(good, np.int64))
        _require_every_class(f"{collection.name} ({name})", parts[name].labels, collection.classes, unreadable)
    return parts, headers, unreadable


def _require_every_class(
    where: str, labels: NDArray[np.int64], classes: tuple[str, ...], unreadable: Sequence[Unreadable]
) -> None:
    counts = np.bincount(labels, minlength=len(classes))
    if not counts.min():
        missing = shortened([name for name, images in zip(classes, counts, strict=True) if not images])
        files = shortened([f"{name} ({reason})" for name, reason in unreadable])
        raise DataError(f"{where} has no readable image of {missing}: repair or remove {files}")


def _default_size(headers: Sequence[Header]) -> int:
    sizes = {(header.width, header.height) for header in headers}
    width, height = next(iter(sizes))
    if len(sizes) == 1 and width == height <= LARGEST_DEFAULT_SIZE:
        return width
    side = median(min(header.width, header.height) for header in headers)
    return min(LARGEST_DEFAULT_SIZE, math.ceil(side / 8) * 8)


def _split(
    parts: Mapping[SplitName, Part],
    classes: tuple[str, ...],
    fractions: Mapping[SplitName, float | None],
    seed: int,
    train_limit: int | None,
) -> dict[SplitName, Part]:
    """All three splits, each in random order; those that are no parts are drawn from the training images."""
    rngs = {name: np.random.default_rng([seed, stream]) for stream, name in enumerate(SPLITS)}
    train = parts["train"]
    lacking: list[SplitName] = [name for name in ("test", "val") if name not in parts]
    counts = np.bincount(train.labels)
    if counts.min() <= len(lacking):
        raise DataError(
            f"class {classes[int(counts.argmin())]!r} has too few images ({counts.min()}): it needs one for each of "
            f"{', '.join(('train', *lacking))}; add images, or remove the class"
        )
    whole = len(train)
    enough = max(DEFAULT_IMAGES, DEFAULT_IMAGES_A_CLASS * len(classes))
    splits: dict[SplitName, Part] = {}
    for keep, name in zip(range(len(lacking), 0, -1), lacking, strict=True):
        share = fractions[name]
        total = min(DEFAULT_SHARE * whole, enough) if share is None else share * whole
        drawn, rest = draw(train.labels, round(total), rngs[name], keep=keep)
        splits[name], train = train.take(drawn), train.take(rest)
    if train_limit is not None and train_limit < len(classes):
        raise SpecError(f"train_limit={train_limit} is less than the {len(classes)} classes: each needs an image")
    drawn, _ = draw(train.labels, min(train_limit or len(train), len(train)), rngs["train"])
    splits["train"] = train.take(drawn)
    for name in set(parts) - {"train"}:
        splits[name] = parts[name].take(rngs[name].permutation(len(parts[name])))
    return {name: splits[name] for name in SPLITS}


def _read(
    splits: Mapping[SplitName, Part], size: int, channels: int, folder: Path | None, progress: Progress
) -> dict[SplitName, Pixels]:
    """The pixels of all splits, in memory-mapped files where a folder for them is given."""
    advance = _counter("reading images", sum(map(len, splits.values())), progress)
    if folder is None:
        return {name: read_pixels(part.sources, size, channels, progress=advance) for name, part in splits.items()}
    return {name: map_pixels(part.sources, size, channels, folder, progress=advance) for name, part in splits.items()}


def _counter(what: str, total: int, progress: Progress) -> Callable[[int], None]:
    """Tells the progress how many images are done, from how many were done just now."""
    done = 0

    def advance(images: int) -> None:
        nonlocal done
        done += images
        progress(what, done, total)

    return advance


def _twins(
    splits: Mapping[SplitName, Part], surveys: Mapping[SplitName, Survey], marks: Sequence[NDArray[np.int64]]
) -> tuple[tuple[Place, ...], ...]:
    """Groups of images with the same pixels but different marks; each image of each split has one."""
    pairs = [np.stack([surveys[name].digests.astype(np.int64), mark]) for name, mark in zip(SPLITS, marks, strict=True)]
    digests, times = np.unique(np.unique(np.concatenate(pairs, axis=1), axis=1)[0], return_counts=True)
    groups: dict[int, list[Place]] = {int(digest): [] for digest in digests[times > 1]}
    for name, (own, _) in zip(SPLITS, pairs, strict=True):
        for at in np.flatnonzero(np.isin(own, digests[times > 1])):
            groups[int(own[at])].append(Place(name, splits[name].names[int(at)]))
    return tuple(sorted(tuple(sorted(group)) for group in groups.values()))


def _fingerprint(
    splits: Mapping[SplitName, Part], surveys: Mapping[SplitName, Survey], classes: tuple[str, ...]
) -> str:
    digest = hashlib.blake2b(repr(classes).encode(), digest_size=16)
    for name in SPLITS:
        digest.update(surveys[name].digests.data)
        digest.update(splits[name].labels.data)
    return digest.hexdigest()
