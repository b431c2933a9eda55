"""What the file system and SQLite refuse, as a sentence with a next step."""

import errno
import sqlite3
from pathlib import Path

#: What to do where a file was damaged.
RESTORE = "Restore it from a copy of the run folder, or start a new run."

_FULL = (
    "the disk that holds {place} is full. Free some space and go on with 'hwnas resume {run}'; "
    "what was reported is safe."
)
_DENIED = "{file}: not permitted. Change its permissions or owner, or choose another place."
_IN_THE_WAY = "{file}: a part of this path is a file; name a folder."
_ADVICE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: _DENIED,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.EIO: "{file}: the disk reports an error; it may be full or failing. Check it, then 'hwnas resume {run}'.",
    errno.EBUSY: "{file} is held by another program. Close it, then go on with 'hwnas resume {run}'.",
    errno.EBADMSG: f"{{file}} is corrupt. {RESTORE}",
}

# SQLite's primary result codes, as the file system would say it.
_ERRNO = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_READONLY: errno.EACCES,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_BUSY: errno.EBUSY,
    sqlite3.SQLITE_CORRUPT: errno.EBADMSG,
    sqlite3.SQLITE_NOTADB: errno.EBADMSG,
}


def explain(error: OSError | sqlite3.Error, run: Path | None = None, database: Path | None = None) -> str:
    """What was refused, and what to do about it.

    Args:
        error: As it was raised; an OSError may name the file.
        run: The run folder, if that is known.
        database: The file that SQLite was working on.

    >>> explain(PermissionError(13, "Permission denied", "/root/runs"))
    '/root/runs: not permitted. Change its permissions or owner, or choose another place. (Permission denied)'
    """
    if isinstance(error, OSError):
        code, file = error.errno, error.filename
    else:
        # What Python's own module finds wrong, text that is not UTF-8 say, has no code; the file is then corrupt.
        code, file = _ERRNO.get(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF), database
    file = file or run
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if code in _ADVICE:
        advice = _ADVICE[code].format(file=file or "a file", place=run or file or "a file", run=run or "RUN")
        return f"{advice} ({reason})"
    if isinstance(error, sqlite3.Error):
        return f"{file} cannot be used: {reason}. {RESTORE}"
    return f"{file}: {reason.lower()}" if file else reason
