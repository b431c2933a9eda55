"""The latency table: what each kernel takes on one deployment."""

import shlex
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import onnx
import pandas as pd
import platformdirs
from filelock import FileLock

from latency.calibration import Calibration
from latency.deployment import usable_cores
from latency.estimate import Estimator
from latency.kernels import Kernel
from latency.memory import Memory
from latency.prediction import Latency, Sums, add_up, predict
from latency.runtimes import Runtime, make_runtime
from latency.tablefile import FORMAT, Check, Header, Row, make_frame, read, snapshot, write
from latency.timing import Protocol, time_kernels
from spaces.errors import MissingKernel, TableError

# The file is written after so many kernels, so that a process that is killed loses a few seconds' work.
_BATCH = 200


class LatencyTable:
    """Kernels of one deployment and what each of them takes.

    A row is measured once and then frozen: what this table has measured or read stays, whatever becomes of its file.
    The file is replaced as a whole or not at all; processes that extend the same file keep each other's rows, and where
    two have measured the same kernel both believe the one that wrote first.

    A study keeps a table of its own beside the ``shared`` one of all studies: it takes over rows from there when it
    first needs them, and what it measures is written to both.

    Args:
        runtime: What lowers networks, and measures kernels if its device is here.
        path: The file; it is not read (see ``open``).
        protocol: How kernels are measured; None for the default.

    Attributes:
        shared: Where rows that are missing come from; None where they are measured for this table alone.
        undisturbed: Is entered while kernels are measured: whoever keeps the machine busy stands still in it.
        note: Is told if the shared table cannot be used.
        header: What all rows have in common.
        frame: The rows, indexed by kernel (as text): ``median_us`` and ``min_us`` of the passes, ``spread`` ((largest -
            smallest) / median), ``passes``; and what it adds that weights are not near: ``middle_us`` with
            ``memory.MIDDLE_BYTES`` between two uses of them, ``cold_us`` if they come from main memory. ``launch_us``
            is what the processor takes to launch it, where the device is started kernel by kernel.
    """

    def __init__(self, runtime: Runtime, path: Path, protocol: Protocol | None = None) -> None:
        self.runtime = runtime
        self.path = path
        self.shared: LatencyTable | None = None
        self.note: Callable[[str], None] = lambda text: None
        self.undisturbed: Callable[[], AbstractContextManager[None]] = nullcontext
        self.header = Header(
            runtime.deployment,
            runtime.version,
            runtime.driver,
            usable_cores(),
            now(),
            protocol or Protocol(),
            bundled=runtime.bundled,
        )
        self.frame = make_frame([])
        self._snapshot: str | None = None
        self._estimator: tuple[str, Estimator] | None = None

    @classmethod
    def open(
        cls,
        runtime: Runtime,
        path: Path | None = None,
        protocol: Protocol | None = None,
        shared: Path | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> "LatencyTable":
        """The table of a runtime: read from its file, or empty where there is none yet.

        Args:
            runtime: Whose kernels they are.
            path: The file; None for the one under the user's cache directory.
            protocol: How a new table measures; a table that exists goes on as it began, and so does a new one beside a
                shared one that exists.
            shared: File of the table to take missing rows from, and to give new ones to; None for none. One that was
                measured by another protocol than this table is left alone.
            note: Is told if the shared table cannot be used: then this one does without.

        Raises:
            TableError: If the file is damaged, or of another deployment or version.
        """
        table = cls(runtime, path or cache_path(runtime), protocol)
        table.note = note
        begun = table.path.exists()
        if begun:
            table._merge_file()
        if shared is not None:
            try:
                common = cls.open(runtime, shared, table.header.protocol)
            except (OSError, TableError) as error:
                note(f"the shared latency table {shared} is not used: {error}")
                return table
            if not begun:
                known = common.header
                table.header = replace(
                    table.header, protocol=known.protocol, memory=known.memory, calibration=known.calibration
                )
            if common.header.protocol == table.header.protocol:
                table.shared = common
        return table

    @classmethod
    def load(cls, path: Path) -> "LatencyTable":
        """A table from a file, which says itself what it is of: this machine or another.

        Raises:
            TableError: If there is no such file, or it is damaged or of another version of the runtime.
        """
        header, _ = read(path)
        return cls.open(make_runtime(header.deployment, header.bundled), path)

    def predict(self, model: onnx.ModelProto, *, allow_estimates: bool = False) -> Latency:
        """What one inference of a network takes; see ``predict_many``."""
        return self.predict_many([model], allow_estimates=allow_estimates)[0]

    def predict_many(self, models: Sequence[onnx.ModelProto], *, allow_estimates: bool = False) -> list[Latency]:
        """What one inference of each network takes.

        Kernels that the table lacks are measured first, those of all networks together and interleaved; or they are
        estimated from those that it has, where that is allowed. All networks are predicted from the same snapshot.

        The interval is that of the table's own check, for as long as the table lives. It rests on the networks of that
        check: it is right for others of their kind, whatever kernels they have, and says nothing about networks of
        another kind, such as much larger ones. Without a check it is wide: the median passes instead of the
        smallest, and ``prediction.UNCHECKED_LOW`` and ``UNCHECKED_HIGH`` around them, which no measurement on this
        device backs.
        Estimated kernels widen it by what is not known of them.

        Raises:
            MissingKernel: If a kernel is missing, may not be estimated, and the device is not here; the message has the
                command to run there. Or if the table has too few kernels to estimate others by.
            LatencyError: If a network cannot be lowered.
        """
        programs = [self.runtime.lower(model) for model in models]
        if not allow_estimates:
            self.extend(kernel for program in programs for kernel in program.kernels)
        return [self.total(program.kernels, program.footprint) for program in programs]

    def missing(self, kernels: Iterable[Kernel]) -> list[Kernel]:
        """Those kernels that the table lacks, each once."""
        return [kernel for kernel in dict.fromkeys(kernels) if str(kernel) not in self.frame.index]

    def extend(self, kernels: Iterable[Kernel], progress: Callable[[int, int], None] | None = None) -> int:
        """Get the kernels that the table lacks, from the shared table or by measuring them, and write the file.

        Args:
            kernels: Kernels that the table should have.
            progress: Called with the number of kernels done and of all that are missing.

        Returns:
            How many were measured.

        Raises:
            MissingKernel: If there are some and the device is not here.
            TableError: If the file cannot be written.
        """
        missing = self.missing(kernels)
        if not missing:
            return 0
        with self.undisturbed():
            if self.shared:
                return self._extend_from(self.shared, missing, progress)
            return self._measure(missing, progress)

    def _measure(self, missing: list[Kernel], progress: Callable[[int, int], None] | None) -> int:
        if not self.runtime.here:
            raise MissingKernel(
                f"the table {self.path} lacks {len(missing)} kernels, the first being '{missing[0]}'. It is of "
                f"{self.header.version} on {self.header.deployment.device}, which this is not. {self._remedy()}. "
                "Or have them estimated: --allow-estimates"
            )
        if self.header.memory is None:
            self.header = replace(self.header, memory=self.runtime.memory())
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            timings = time_kernels(self.runtime, batch, self.header.protocol)
            distant = self.runtime.distant(batch, [timing.min_us for timing in timings])
            launches = self.runtime.launch(batch)
            rows = zip(batch, timings, distant, launches, strict=True)
            self._keep(make_frame(Row(kernel, timing, *far, launch) for kernel, timing, far, launch in rows))
            if progress:
                progress(start + len(batch), len(missing))
        return len(missing)

    def _extend_from(
        self, shared: "LatencyTable", missing: Sequence[Kernel], progress: Callable[[int, int], None] | None
    ) -> int:
        """The rows of the shared table; should it be of no use any more, those that it has got and no longer it."""
        measured = len(shared.missing(missing))
        try:
            shared.extend(missing, progress)
        except TableError as error:  # the folder cannot be written, say: this table is what counts
            self.note(f"the shared latency table is not used any more: {error}")
            self.shared = None
        if self.header.memory is None:
            self.header = replace(self.header, memory=shared.header.memory)
        self._keep(shared.frame.loc[shared.frame.index.intersection([str(kernel) for kernel in missing])])
        if self.shared is None:
            self.extend(missing, progress)
        return measured

    def snapshot(self) -> str:
        """A hash of the whole content: equal snapshots predict equally."""
        if self._snapshot is None:
            self._snapshot = snapshot(self.header, self.frame)
        return self._snapshot

    def save(self) -> None:
        """Write the file, together with the rows that others have written there in the meantime.

        Raises:
            TableError: If it cannot be written, or the file there is damaged or of another deployment.
        """
        self._keep(make_frame([]))

    def record(self, check: Check, calibration: Calibration | None = None) -> None:
        """Keep the result of a check, from which intervals come from now on, and write the file.

        Args:
            check: The result.
            calibration: From which predictions come from now on; None keeps that which there is. A shared table that
                has none gets it, too: studies that share kernels predict alike.

        Raises:
            TableError: If it cannot be written.
        """
        self.header = replace(self.header, check=check, calibration=calibration or self.header.calibration)
        self._snapshot = None
        self.save()
        if self.shared and self.shared.header.calibration is None:
            self.shared.header = replace(self.shared.header, calibration=self.header.calibration)
            self.shared.save()

    def total(self, kernels: Iterable[Kernel], footprint: int) -> Latency:
        """What a network of these kernels takes; see ``sums``."""
        header = self.header
        return predict(self.sums(kernels, footprint), header.calibration, header.check, self.snapshot())

    def sums(self, kernels: Iterable[Kernel], footprint: int) -> Sums:
        """What the kernels of a network take together; those that the table lacks are estimated.

        Args:
            kernels: Each as often as the network runs it.
            footprint: The network's (see ``Program.footprint``).

        Raises:
            MissingKernel: If the table has too few kernels to estimate others by.
        """
        return add_up(self.frame, self.header.memory, kernels, footprint, self._estimated)

    def _estimated(self) -> Estimator:
        if self._estimator is None or self._estimator[0] != self.snapshot():
            self._estimator = self.snapshot(), Estimator(self.frame)
        return self._estimator[1]

    def keep(self, rows: Iterable[Row], memory: Memory | None, driver: str, cores: int) -> None:
        """Add what was measured elsewhere, unless it is known already, and write the file.

        Args:
            rows: What was measured.
            memory: How far weights are there.
            driver: What lies between the runtime and the device there.
            cores: Cores that the measuring process could use.

        Raises:
            TableError: If it cannot be written, or the file there is of another deployment or version.
        """
        self.header = replace(self.header, memory=self.header.memory or memory, driver=driver, cores=cores)
        self._snapshot = None
        self._keep(make_frame(rows))

    def _keep(self, rows: pd.DataFrame) -> None:
        """Write the file with new rows; known ones go before those of the file, and the file's before the new ones."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_name(f".{self.path.name}.lock")):
                if self.path.exists():
                    self._merge_file()
                self._add(rows)
                write(self.path, self.header, self.frame)
        except OSError as error:
            self._add(rows)  # what was measured is not lost to this process
            raise TableError(f"cannot write the latency table {self.path}: {error}; choose another file") from error

    def _add(self, rows: pd.DataFrame) -> None:
        """Add those rows that are not known yet."""
        new = rows.loc[~rows.index.isin(self.frame.index)]
        if len(new):
            self.frame = (pd.concat([self.frame, new]) if len(self.frame) else new).sort_index()
            self._snapshot = None

    def _merge_file(self) -> None:
        """Take over what the file holds, but for rows that are known; of two checks the later one stays."""
        header, rows = read(self.path)
        if header.deployment != self.header.deployment:
            raise TableError(
                f"the latency table {self.path} is of {header.deployment}, not of {self.header.deployment}; "
                "name another file"
            )
        if header.version != self.runtime.version:
            raise TableError(
                f"the latency table {self.path} was measured with {header.version}; this is {self.runtime.version}, "
                f"which may run other kernels. Build a new one: {self._profile_command(Path('NEW.csv'))}"
            )
        checks = [self.header.check, header.check]  # of the same second, ours is the new one
        latest = max((check for check in checks if check), key=lambda check: check.date, default=None)
        known = {name: getattr(self.header, name) or getattr(header, name) for name in ("memory", "calibration")}
        self.header, self._snapshot = replace(header, check=latest, **known), None
        self._add(rows)

    def _remedy(self) -> str:
        if self.header.bundled is None:
            return f"Run there: {self._profile_command(self.path)}"
        deployment = self.header.deployment
        options = f"--threads {deployment.threads} --batch {deployment.batch}"
        return (
            f"Take the network there: hwnas bundle BUNDLE.zip --for MODEL.onnx {options}, and back: hwnas unbundle "
            f"result.zip -o {shlex.quote(str(self.path))}"
        )

    def _profile_command(self, path: Path) -> str:
        deployment = self.header.deployment
        told = (deployment.precision, deployment.layout) != ("fp32", "nchw")
        gpu = f"--precision {deployment.precision} --layout {deployment.layout} " if told else ""
        return (
            f"hwnas profile --runtime {deployment.runtime} --threads {deployment.threads} --batch {deployment.batch} "
            f"{gpu}-o {shlex.quote(str(path))} --for MODEL.onnx"
        )


def cache_path(runtime: Runtime) -> Path:
    """Where a runtime's table lies unless a file is named: a version of the runtime has a file of its own."""
    folder = platformdirs.user_cache_path("hwnas") / "latency" / f"format-{FORMAT}"
    return folder / f"{runtime.deployment.key}_{runtime.version.replace(' ', '-')}.csv"


def now() -> str:
    """The time in ISO format, in whole seconds of universal time."""
    return datetime.now(UTC).isoformat(timespec="seconds")
