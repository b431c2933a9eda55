"""Splits: drawing images so that every class keeps its share."""

import numpy as np
from numpy.typing import NDArray


def apportion(counts: NDArray[np.int64], total: int, *, keep: int = 0) -> NDArray[np.int64]:
    """Divide ``total`` seats over the classes in proportion to their images, by largest remainders.

    Args:
        counts: (K,) images of each class, each more than ``keep``.
        total: Seats; taken as K if it is less, since every class gets at least one.
        keep: Images that each class must be left with.

    Returns:
        (K,) seats of each class, at least 1 and at most ``counts - keep``. They sum to ``total`` unless all are taken.

    >>> apportion(np.array([70, 20, 10]), 11).tolist()
    [8, 2, 1]
    >>> apportion(np.array([97, 2, 1]), 10).tolist()
    [8, 1, 1]
    """
    total = max(len(counts), min(total, int((counts - keep).sum())))
    share = counts * (total / counts.sum())
    seats: NDArray[np.int64] = np.clip(np.floor(share).astype(np.int64), 1, counts - keep)
    while (gap := total - int(seats.sum())) != 0:
        step = 1 if gap > 0 else -1
        movable = seats < counts - keep if gap > 0 else seats > 1
        owed = np.where(movable, step * (share - seats), -np.inf)
        seats[np.argmax(owed)] += step
    return seats


def draw(
    labels: NDArray[np.int64], total: int, rng: np.random.Generator, *, keep: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw a stratified sample without replacement.

    Args:
        labels: (N,) class of each image, every class from 0 to the largest present.
        total: How many to draw; see :func:`apportion` for what becomes of a total that is too small or too large.
        rng: Decides which.
        keep: Images that each class must be left with.

    Returns:
        Positions of those drawn, in random order so that any stretch of them is a fair sample, and of the rest, in
        their own order.

    >>> drawn, rest = draw(np.array([0, 0, 0, 0, 1, 1]), 3, np.random.default_rng(0))
    >>> sorted(np.array([0, 0, 0, 0, 1, 1])[drawn].tolist()), len(rest)
    ([0, 0, 1], 3)
    """
    seats = apportion(np.bincount(labels), total, keep=keep)
    drawn = np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:n] for c, n in enumerate(seats)])
    rest = np.setdiff1d(np.arange(len(labels)), drawn)
    return rng.permutation(drawn), rest
