"""Files that are there as a whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file: after a crash or a power cut at any moment it is the old one or the new one.

    One process at a time may write: the new file is prepared under a fixed name, so that what a killed process leaves
    is replaced by the next one.

    Args:
        path: The file; folders on the way are made.
        content: What is in it; text is written as UTF-8.

    Raises:
        OSError: The folder cannot be written or the disk is full. The file is as it was, unless it is only its folder
            that could not be synced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prepared = path.with_name(f".{path.name}.new")
    try:
        with prepared.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(prepared, path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to tell
            prepared.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make what was renamed in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
