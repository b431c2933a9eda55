"""Pixels: the images of one split as one uint8 tensor, in memory or in a memory-mapped file.

A file is written once, in one pass and in pieces, and found again by a fingerprint of what went into it::

    FOLDER/.lock               held while a file is written
    FOLDER/FINGERPRINT/        appears by one rename when it is whole
        pixels.u8              uint8 (N, C, S, S)
        survey.npz             what the pass found out
    FOLDER/*.partial/          a pass that is under way, or was killed; the next pass removes it

Where the disk is too full for another file, those go that were not asked for the longest.
"""

import hashlib
import math
import os
import shutil
import warnings
import zipfile
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from latency.deployment import usable_cores
from objectives.images import Header, ImageSource, read_header, read_image
from spaces.errors import DataError

Progress = Callable[[int], None]
"""Called with the number of images just read."""

_FORMAT = 1
_PIECE_BYTES = 4 << 20
_REMEDY = "free some space, move the cache by XDG_CACHE_HOME, or ask for smaller images"
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Survey:
    """What one pass over the images of a split found out.

    Attributes:
        kept: int64 (N,), positions of the images that could be read.
        digests: uint64 (N,), a hash of each one's pixels.
        unreadable: Position and reason of each image that could not be read.
        sums: int64 (2, C), sums of the pixels and of their squares.
        side: Height and width in pixels.
        brightest: The largest value of any pixel.
        grey: Whether all channels are the same in all images.
    """

    kept: NDArray[np.int64]
    digests: NDArray[np.uint64]
    unreadable: tuple[tuple[int, str], ...]
    sums: NDArray[np.int64]
    side: int
    brightest: int
    grey: bool

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, C, S, S)."""
        return len(self.kept), self.sums.shape[1], self.side, self.side

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, in 0..1."""
        pixels = len(self.kept) * self.side**2
        return tuple(int(total) / pixels / 255 for total in self.sums[0])

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, in 0..1; 0 where the channel is constant."""
        n = len(self.kept) * self.side**2
        # Python's integers are exact: a constant channel gives 0, not a rounding error.
        variances = [(n * int(squares) - int(total) ** 2) / n**2 for total, squares in self.sums.T]
        return tuple(float(variance**0.5) / 255 for variance in variances)

    def save(self, path: Path) -> None:
        """Write the survey as an ``npz`` file of plain arrays."""
        where, why = [at for at, _ in self.unreadable], [reason for _, reason in self.unreadable]
        np.savez(
            path,
            kept=self.kept,
            digests=self.digests,
            where=np.array(where, np.int64),
            why=np.array(why, np.str_),
            sums=self.sums,
            rest=np.array([self.side, self.brightest, self.grey], np.int64),
        )

    @classmethod
    def load(cls, path: Path) -> "Survey":
        """Read what :meth:`save` wrote."""
        # NumPy leaves a damaged file open that it opened itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            side, brightest, grey = arrays["rest"].tolist()
            unreadable = tuple(zip(arrays["where"].tolist(), arrays["why"].tolist(), strict=True))
            return cls(arrays["kept"], arrays["digests"], unreadable, arrays["sums"], side, brightest, bool(grey))


@dataclass(frozen=True, eq=False)
class Pixels:
    """The images of one split.

    Attributes:
        images: uint8 (N, C, S, S). In a memory-mapped file it is read-only: ``images[index]`` reads just those images,
            writing to it ends the process.
        survey: What was found out on the way.
    """

    images: Tensor
    survey: Survey


def read_headers(sources: Sequence[ImageSource], *, progress: Progress = lambda _: None) -> list[Header | str]:
    """The header of each image, or the reason why it has none, read in parallel.

    Args:
        sources: Files or arrays.
        progress: Called as headers are read.
    """

    def read(part: Sequence[ImageSource]) -> list[Header | str]:
        headers: list[Header | str] = []
        for source in part:
            try:
                headers.append(read_header(source))
            except DataError as error:
                headers.append(str(error))
        return headers

    found: list[Header | str] = []
    with closing(_parallel(read, sources, 256)) as pieces:
        for headers in pieces:
            found += headers
            progress(len(headers))
    return found


def read_pixels(
    sources: Sequence[ImageSource], size: int, channels: int, *, progress: Progress = lambda _: None
) -> Pixels:
    """Read images into memory, in parallel; those that cannot be read are left out and listed.

    Args:
        sources: Files or arrays.
        size: Side of the square that each becomes, in pixels.
        channels: 1 or 3.
        progress: Called as images are read.

    >>> read_pixels([np.zeros((4, 4), np.uint8)], size=2, channels=1).images.shape
    torch.Size([1, 1, 2, 2])
    """
    images = np.empty((len(sources), channels, size, size), np.uint8)
    filled = 0

    def write(piece: NDArray[np.uint8]) -> None:
        nonlocal filled
        images[filled : filled + len(piece)] = piece
        filled += len(piece)

    survey = _survey(sources, size, channels, write, progress)
    return Pixels(torch.from_numpy(images[:filled]), survey)


def map_pixels(
    sources: Sequence[ImageSource], size: int, channels: int, folder: Path, *, progress: Progress = lambda _: None
) -> Pixels:
    """Like :func:`read_pixels`, but into a memory-mapped file; a second call finds the file and reads no image.

    Args:
        sources: Files or arrays. Files are known again by path, size and time of change.
        size: Side of the square that each becomes, in pixels.
        channels: 1 or 3.
        folder: Where to keep the file; made if need be.
        progress: Called as images are read.

    Raises:
        DataError: The file cannot be written: no space, no permission.
    """
    entry = folder / fingerprint(sources, size, channels)
    if (pixels := _find(entry)) is not None:
        progress(len(sources))
        return pixels
    need = len(sources) * channels * size**2
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if (pixels := _find(entry)) is not None:  # written by another process while this one waited
                progress(len(sources))
                return pixels
            for dead in (*folder.glob("*.partial"), *folder.glob(entry.name)):
                shutil.rmtree(dead)
            if (free := _freed(folder, need)) < need:
                raise DataError(f"the images need {need:,} bytes in {folder} and {free:,} are free: {_REMEDY}")
            partial = entry.with_suffix(".partial")
            partial.mkdir()
            with (partial / "pixels.u8").open("wb") as file:
                survey = _survey(sources, size, channels, lambda piece: file.write(piece.data), progress)
                file.flush()
                os.fsync(file.fileno())
            survey.save(partial / "survey.npz")
            partial.rename(entry)
    except OSError as error:
        raise DataError(f"the images cannot be kept in {folder}: {error.strerror}: {_REMEDY}") from error
    return Pixels(_map(entry, survey), survey)


def _freed(folder: Path, need: int) -> int:
    """Free bytes on the disk of a folder; its oldest entries go where they stand in the way, and their going helps."""
    entries = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    held = sum(file.stat().st_size for entry in entries for file in entry.iterdir())
    if shutil.disk_usage(folder).free + held >= need:
        for oldest in entries:  # whoever still reads one, keeps what is mapped
            if shutil.disk_usage(folder).free >= need:
                break
            shutil.rmtree(oldest)
    return shutil.disk_usage(folder).free


def fingerprint(sources: Sequence[ImageSource], size: int, channels: int) -> str:
    """A name for what reading these images would give: 32 hex digits."""
    digest = hashlib.blake2b(repr((_FORMAT, size, channels)).encode(), digest_size=16)
    for source in sources:
        if isinstance(source, np.ndarray):
            digest.update(repr(source.shape).encode() + np.ascontiguousarray(source).data)
        else:
            stat = source.stat()
            digest.update(os.fsencode(source.absolute()) + b"\0%d %d\0" % (stat.st_size, stat.st_mtime_ns))
    return digest.hexdigest()


def _find(entry: Path) -> Pixels | None:
    """The pixels kept under this name, if they are whole."""
    try:
        survey = Survey.load(entry / "survey.npz")
        whole = (entry / "pixels.u8").stat().st_size == math.prod(survey.shape)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if not whole:
        return None
    with suppress(OSError):  # a cache that is only read is as good
        os.utime(entry)  # it was asked for now
    return Pixels(_map(entry, survey), survey)


def _map(entry: Path, survey: Survey) -> Tensor:
    if not len(survey.kept):  # an empty file cannot be mapped
        return torch.empty(survey.shape, dtype=torch.uint8)
    # Read-only and shared: a private writable mapping is charged against memory, which is what this must not be.
    mapped = np.memmap(entry / "pixels.u8", np.uint8, "r", shape=survey.shape)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(mapped)


class _Piece(NamedTuple):
    images: NDArray[np.uint8]
    digests: list[int]
    reasons: list[str | None]
    sums: NDArray[np.int64]
    grey: bool


def _survey(
    sources: Sequence[ImageSource],
    size: int,
    channels: int,
    write: Callable[[NDArray[np.uint8]], object],
    progress: Progress,
) -> Survey:
    """Read images in parallel and hand them to ``write`` in order, a few megabytes at a time."""

    def read(part: Sequence[ImageSource]) -> _Piece:
        images: list[NDArray[np.uint8]] = []
        reasons: list[str | None] = []
        for source in part:
            try:
                images.append(read_image(source, size, channels))
                reasons.append(None)
            except DataError as error:
                reasons.append(str(error))
        stack = np.stack(images) if images else np.empty((0, channels, size, size), np.uint8)
        digests = [int.from_bytes(hashlib.blake2b(image.data, digest_size=8).digest()) for image in images]
        squares = np.square(stack, dtype=np.int32)
        sums = np.stack([array.sum((0, 2, 3), dtype=np.int64) for array in (stack, squares)])
        return _Piece(stack, digests, reasons, sums, grey=bool((stack[:, 1:] == stack[:, :1]).all()))

    digests: list[int] = []
    reasons: list[str | None] = []
    sums = np.zeros((2, channels), np.int64)
    brightest, grey = 0, True
    length = max(1, min(256, _PIECE_BYTES // (channels * size**2)))
    with closing(_parallel(read, sources, length)) as pieces:
        for piece in pieces:
            write(piece.images)
            digests += piece.digests
            reasons += piece.reasons
            sums += piece.sums
            brightest = max(brightest, int(piece.images.max(initial=0)))
            grey &= piece.grey
            progress(len(piece.reasons))
    return Survey(
        kept=np.array([at for at, reason in enumerate(reasons) if reason is None], np.int64),
        digests=np.array(digests, np.uint64),
        unreadable=tuple((at, reason) for at, reason in enumerate(reasons) if reason is not None),
        sums=sums,
        side=size,
        brightest=brightest,
        grey=grey,
    )


def _parallel(
    function: Callable[[Sequence[ImageSource]], _T], sources: Sequence[ImageSource], length: int
) -> Generator[_T]:
    """The function's results on stretches of the sources, in order, with a bounded number under way."""
    # Pillow's decoders and resizer release the interpreter's lock, so threads are enough.
    threads = usable_cores()
    waiting: deque[Future[_T]] = deque()
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        # Pillow's remarks on odd but readable files (palettes, EXIF, very large images) would tear a progress bar.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        for start in range(0, len(sources), length):
            waiting.append(pool.submit(function, sources[start : start + length]))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
