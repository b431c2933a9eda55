"""`Lock`: one process at a time writes a run folder."""

import fcntl
import os
from pathlib import Path

from spaces.errors import StoreError

_held: set[tuple[int, Path]] = set()  # (process, lock file): an OS record lock does not exclude its own process


class Lock:
    """A folder's lock, held from now until `release`; the system frees it when this process ends, however it ends.

    A record lock (`lockf`), not `flock`: forked workers inherit the latter and, orphaned by a kill, would keep the
    folder locked. A record lock does not exclude its own process; `_held` does.

    Args:
        file: The lock file, in the folder that it stands for; made where it is missing, and left there.

    Raises:
        StoreError: Another process holds it, or this one does already.
        OSError: It cannot be written.
    """

    def __init__(self, file: Path) -> None:
        self._key = (os.getpid(), file)
        if self._key in _held:
            raise StoreError(
                f"{file.parent} is open for writing in this process already (pid {os.getpid()}); close it first."
            )
        self._file = file.open("a+")
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file.truncate(0)
            self._file.write(str(os.getpid()))
            self._file.flush()
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read() or "unknown"
            self._file.close()
            raise StoreError(
                f"{file.parent} is being written by another process (pid {holder}). Wait until it ends, stop it, or "
                "name another folder; reading is possible meanwhile."
            ) from None
        except BaseException:
            self._file.close()
            raise
        _held.add(self._key)

    def release(self) -> None:
        """Let others write."""
        _held.discard(self._key)
        self._file.close()
