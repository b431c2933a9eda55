"""Text files that are there as a whole or not at all."""

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Replace a file: after a crash at any moment it is the old one or the new one.

    One process at a time may write: the new file is prepared under a fixed name, so that what a killed process leaves
    is replaced by the next one.

    Args:
        path: The file; folders on the way are made.
        text: Its content, written as UTF-8.

    Raises:
        OSError: The folder cannot be written or the disk is full; the file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prepared = path.with_name(f".{path.name}.new")
    try:
        with prepared.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(prepared, path)
    except BaseException:
        prepared.unlink(missing_ok=True)
        raise
