"""The file of a latency table: a few lines of header, then CSV; people can read it, and its changes show in a diff.

::

    # hwnas latency table, format 3
    # runtime: ort-cpu
    # device: Intel Xeon model 85 avx512
    # ...
    # snapshot: 5f0c1f9a7f6e2d11
    kernel,median_us,min_us,spread,passes,middle_us,cold_us,launch_us
    Relu@14 1x16x32x32 -> 1x16x32x32,1.93,1.87,0.061,3,0.0,0.0,0.0

The snapshot is a hash of everything else, so that a file that was cut short or edited is told from a whole one.
"""

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from latency.calibration import Calibration
from latency.deployment import Bundled, Deployment
from latency.kernels import Kernel
from latency.memory import Memory
from latency.timing import Protocol, Timing
from spaces.errors import SpecError, TableError
from spaces.wholefile import write_whole

FORMAT = 3
_TITLE = f"# hwnas latency table, format {FORMAT}"
_TIMED, _ADDED = ("median_us", "min_us", "spread", "passes"), ("middle_us", "cold_us", "launch_us")
_TYPES: dict[str, type] = {name: int if name == "passes" else float for name in _TIMED + _ADDED}


@dataclass(frozen=True)
class Check:
    """How far whole networks were from their predictions.

    Attributes:
        networks: How many networks were measured.
        mape: Mean of |predicted / measured - 1|.
        within_5: Share of networks with an error of at most 5 %.
        within_10: Share with at most 10 %.
        kendall_tau: Rank correlation of predicted and measured; None where all values of one of them are equal.
        noise_floor: Mean difference between two measurements of the same network: no prediction can do better.
        low: Measured / predicted: lower end of an interval for nine networks in ten.
        high: Its upper end.
        date: When, in ISO format.
    """

    networks: int
    mape: float
    within_5: float
    within_10: float
    kendall_tau: float | None
    noise_floor: float
    low: float
    high: float
    date: str


@dataclass(frozen=True)
class Header:
    """What all rows of a table have in common.

    Attributes:
        deployment: Where and how the kernels ran.
        version: The runtime's name and version.
        driver: What lies between the runtime and the device; the clocks of the device where they are known.
        cores: Cores that the measuring process could use.
        created: When the table was begun, in ISO format.
        protocol: How the kernels were timed.
        memory: How far weights are on the device, None where that was not measured or makes no difference.
        bundled: None if the kernels of a network are those that this project's runtime finds on such a device; for a
            table that a bundle brought back, how the graphs of that device can be had elsewhere.
        calibration: To whole networks, None before the first check.
        check: The last comparison with whole networks, None if there was none. It rests on those networks and on the
            rows they needed; rows that come later leave it as it is.
    """

    deployment: Deployment
    version: str
    driver: str
    cores: int
    created: str
    protocol: Protocol
    memory: Memory | None = None
    bundled: Bundled | None = None
    calibration: Calibration | None = None
    check: Check | None = None


class Row(NamedTuple):
    """What is known of a kernel (see ``LatencyTable.frame``)."""

    kernel: Kernel
    timing: Timing
    middle_us: float = 0.0
    cold_us: float = 0.0
    launch_us: float = 0.0


def make_frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows of a table, by kernel.

    >>> relu = Row(Kernel.parse("Relu@14 1x8 -> 1x8"), Timing(min_us=1.9, median_us=2.0, spread=0.1, passes=3))
    >>> make_frame([relu]).loc["Relu@14 1x8 -> 1x8", "min_us"]
    np.float64(1.9)
    """
    # Rounded as the file is, so that a table read back is the table that was written.
    records = {
        str(kernel): (*(getattr(timing, name) for name in _TIMED), *(round(us, 3) for us in added))
        for kernel, timing, *added in rows
    }
    frame = pd.DataFrame.from_dict(records, orient="index", columns=list(_TYPES)).astype(_TYPES)
    return frame.set_axis(pd.Index(frame.index, dtype=object, name="kernel")).sort_index()


def snapshot(header: Header, frame: pd.DataFrame) -> str:
    """A hash of a table's whole content."""
    return _hash(_header_text(header), _body_text(frame))


def write(path: Path, header: Header, frame: pd.DataFrame) -> None:
    """Replace a table's file as a whole (see `write_whole`).

    Raises:
        OSError: If the folder cannot be written or the disk is full.
    """
    head, body = _header_text(header), _body_text(frame)
    write_whole(path, f"{head}# snapshot: {_hash(head, body)}\n{body}")


def read(path: Path) -> tuple[Header, pd.DataFrame]:
    """A table's header and rows.

    Raises:
        TableError: If there is no such file, or it is not a whole and unchanged table.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"cannot read the latency table {path}: {error}; build one with hwnas profile") from error
    title, _, _ = text.partition("\n")
    if title != _TITLE and title.startswith(_TITLE.rpartition(" ")[0]):
        raise TableError(f"{path} is a latency table of another version of hwnas ({title}); build it again")
    if title != _TITLE:
        raise TableError(f"{path} is not a latency table: its first line is not '{_TITLE}'; name another file")
    head, mark, rest = text.partition("# snapshot: ")
    stored, _, body = rest.partition("\n")
    if not mark or stored != _hash(head, body):
        raise TableError(
            f"the latency table {path} was cut short or edited: its content does not match its snapshot; restore it, "
            "or delete it and build it again with hwnas profile"
        )
    try:
        return _parse_header(head), _parse_body(body)
    except (ValueError, KeyError, TypeError, SpecError) as error:
        raise TableError(f"the latency table {path} cannot be understood: {error!r}; build it again") from error


def _header_text(header: Header) -> str:
    entries: dict[str, Any] = {
        **asdict(header.deployment),
        "version": header.version,
        "driver": header.driver,
        "cores": header.cores,
        "created": header.created,
        "protocol": json.dumps(asdict(header.protocol)),
        "memory": json.dumps(header.memory and asdict(header.memory)),
        "bundled": json.dumps(header.bundled and asdict(header.bundled)),
        "calibration": json.dumps(header.calibration and asdict(header.calibration)),
        "check": json.dumps(header.check and asdict(header.check), allow_nan=False),
    }
    return "".join(f"{line}\n" for line in (_TITLE, *(f"# {name}: {value}" for name, value in entries.items())))


def _parse_header(text: str) -> Header:
    entries = dict(line.removeprefix("# ").split(": ", 1) for line in text.splitlines()[1:])
    kinds: dict[str, type] = {"threads": int, "batch": int}
    deployment = {field.name: kinds.get(field.name, str)(entries[field.name]) for field in fields(Deployment)}
    names = ("memory", "bundled", "calibration", "check")
    memory, bundled, calibration, check = (json.loads(entries[name]) for name in names)
    return Header(
        Deployment(**deployment),
        entries["version"],
        entries["driver"],
        int(entries["cores"]),
        entries["created"],
        Protocol(**json.loads(entries["protocol"])),
        memory and Memory(tuple(memory["mb"]), tuple(memory["share"]), memory["traffic"]),
        bundled and Bundled(**bundled),
        calibration and Calibration(**calibration),
        check and Check(**check),
    )


def _body_text(frame: pd.DataFrame) -> str:
    return frame.to_csv(lineterminator="\n")


def _parse_body(text: str) -> pd.DataFrame:
    types: dict[str, Any] = {"kernel": object, **_TYPES}
    frame = pd.read_csv(io.StringIO(text), index_col="kernel", dtype=types)
    if list(frame.columns) != list(_TYPES) or not frame.index.is_unique:
        raise ValueError(f"columns must be kernel, {', '.join(_TYPES)}, and each kernel may stand there once")
    times = frame[["median_us", "min_us"]].to_numpy()
    rest = frame[list(_ADDED)].to_numpy()
    if not (np.isfinite(times).all() and (times > 0).all() and np.isfinite(rest).all() and (rest >= 0).all()):
        raise ValueError("a kernel's time must be a number above 0, and what is added to it none below 0")
    return frame


def _hash(*texts: str) -> str:
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]
