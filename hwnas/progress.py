"""What a running study tells the person who waits for it.

A study calls four methods of a `Progress` and knows nothing of terminals. `Live` repaints a few lines in place, `Log`
prints a sparse line for files and pipes, `Quiet` says nothing. None of them may end a search: if the output goes away
(a closed pipe, a full disk behind a redirect), they fall silent, because the run folder, not the terminal, holds the
result.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

LOG_SECONDS = 15.0
"""How often `Log` prints within a phase."""

_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Status:
    """One moment of a study; what the numbers mean stands at `Progress.update`. No generation: before the search."""

    generation: int | None
    trainings: int
    failed: int
    hypervolume: float | None
    best_error: float | None
    front_size: int
    seconds_left: float | None
    phase: str
    phase_done: float
    phase_total: float


class Progress:
    """What a study may call. A context manager, so that the terminal is given back whatever happens."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def prepare(self, phase: str, done: float, total: float) -> None:
        """Show work that comes before the search, such as the reading of images; also before `start`."""
        self._show(Status(None, 0, 0, None, None, 0, None, phase, done, total))

    def start(self, lines: Sequence[str]) -> None:
        """Show the title lines: what is searched, where, for how long. Call it once, before the first `update`."""

    def note(self, text: str) -> None:
        """Show a line that stays, e.g. a warning about the data."""

    def update(
        self,
        *,
        generation: int,
        trainings: int,
        failed: int,
        hypervolume: float | None,
        best_error: float | None,
        front_size: int,
        seconds_left: float | None,
        phase: str,
        phase_done: float,
        phase_total: float,
    ) -> None:
        """Show where the study is; cheap enough to be called after every training.

        Args:
            generation: number of the current generation.
            trainings: candidates trained so far, the failed ones included.
            failed: of these, how many diverged or ran out of memory.
            hypervolume: of the archive, as the study normalises it; None before there is one.
            best_error: smallest validation error in the archive, a fraction; None before there is one. It may
                rise: a network that is trained on is judged anew.
            front_size: number of non-dominated candidates.
            seconds_left: of the whole budget; None where the budget counts trainings.
            phase: what is going on, e.g. ``search`` or ``final training``.
            phase_done: how much of this phase is done, in the units of `phase_total`.
            phase_total: size of this phase; 0 where it is not known.
        """
        self._show(
            Status(
                generation,
                trainings,
                failed,
                hypervolume,
                best_error,
                front_size,
                seconds_left,
                phase,
                phase_done,
                phase_total,
            )
        )

    def stop(self) -> None:
        """Leave the terminal as a shell expects it; may be called twice."""

    def _show(self, status: Status) -> None:
        """Bring one moment to the person."""


class LastingConsole(Console):
    """A console whose closed pipe silences it; rich's own would end the process, and redirect its standard output."""

    def on_broken_pipe(self) -> None:
        """See `rich.console.Console.on_broken_pipe`."""
        self.quiet = True


class Quiet(Progress):
    """Says nothing: for scripts, and for ``--quiet``."""


class Log(Progress):
    """One line every `LOG_SECONDS` and at each change of phase in the search: for pipes, files and dumb terminals."""

    def __init__(self, console: LastingConsole, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._began = clock()
        self._phase = ""
        self._due = self._began + LOG_SECONDS

    def start(self, lines: Sequence[str]) -> None:
        """See `Progress.start`."""
        for line in lines:
            self._print(line)

    def note(self, text: str) -> None:
        """See `Progress.note`."""
        self._print(text)

    def _show(self, status: Status) -> None:
        now = self._clock()
        if now < self._due and (status.generation is None or status.phase == self._phase):
            return
        self._phase, self._due = status.phase, now + LOG_SECONDS
        self._print(f"{clock_time(now - self._began):>7}  " + " · ".join([_phase(status), *_facts(status)]))

    def _print(self, line: str) -> None:
        _keep_going(lambda: self._console.print(line, markup=False, highlight=False, soft_wrap=True))


class Live(Progress):
    """A few lines repainted in place, with a bar for the phase and the course of the hypervolume."""

    def __init__(self, console: LastingConsole, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._status: Status | None = None
        self._shown_at = 0.0
        self._volumes: list[float] = []
        # Twice a second in a thread of its own, so that the time left runs on while a network trains.
        self._live = RichLive(console=console, get_renderable=self.render, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        _keep_going(lambda: self._live.start(refresh=True))
        return self

    def start(self, lines: Sequence[str]) -> None:
        """See `Progress.start`."""
        for number, line in enumerate(lines):
            self._print(f"[bold]{escape(line)}[/]" if number == 0 else escape(line))

    def note(self, text: str) -> None:
        """See `Progress.note`."""
        self._print(f"[yellow]·[/] {escape(text)}")

    def stop(self) -> None:
        """See `Progress.stop`."""
        _keep_going(self._live.stop)

    def render(self) -> RenderableType:
        """What stands on the terminal now."""
        status = self._status
        if status is None:
            return Text("starting", style="dim")
        facts = Columns([*_facts(status, left=False), sparkline(self._volumes)], padding=(0, 3))
        phase = Table.grid(padding=(0, 2))
        bar = ProgressBar(
            total=status.phase_total or None, completed=status.phase_done, width=32, pulse=not status.phase_total
        )
        left = None if status.seconds_left is None else status.seconds_left - (self._clock() - self._shown_at)
        phase.add_row(
            Text(_phase(status), style="cyan", no_wrap=True), bar, Text(_left(left), style="dim", no_wrap=True)
        )
        return Group(facts, phase)

    def _show(self, status: Status) -> None:
        self._status, self._shown_at = status, self._clock()
        if status.hypervolume is not None:
            self._volumes.append(status.hypervolume)

    def _print(self, markup: str) -> None:
        _keep_going(lambda: self._console.print(markup, highlight=False))


def choose(quiet: bool = False) -> Progress:
    """The `Progress` that suits this process: on standard error, so that results alone go to standard output."""
    if quiet:
        return Quiet()
    console = LastingConsole(stderr=True)
    return Live(console) if console.is_interactive and not console.is_dumb_terminal else Log(console)


def clock_time(seconds: float) -> str:
    """Seconds as a person says them.

    >>> clock_time(7.4), clock_time(83), clock_time(7384)
    ('0:07', '1:23', '2:03:04')
    """
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """The course of `values` as block characters, at most `width` of them, between their own smallest and largest.

    >>> sparkline([0, 1, 2, 7])
    '▁▂▃█'
    >>> sparkline([])
    ''
    """
    step = max(1, -(-len(values) // width))
    points = list(values[::-step])[::-1]  # counted from the end, so that the newest value is always shown
    if not points:
        return ""
    low, high = min(points), max(points)
    return "".join(
        _BARS[round((value - low) / (high - low) * (len(_BARS) - 1)) if high > low else 0] for value in points
    )


def _facts(status: Status, left: bool = True) -> list[str]:
    if status.generation is None:
        return []
    failed = f" ({status.failed} failed)" if status.failed else ""
    facts = [
        f"generation {status.generation}",
        f"{status.trainings} {'training' if status.trainings == 1 else 'trainings'}{failed}",
        f"front {status.front_size}",
    ]
    if status.best_error is not None:
        facts.append(f"lowest error now {status.best_error:.2%}")
    if status.hypervolume is not None:
        facts.append(f"hypervolume {status.hypervolume:.4f}")
    if left and status.seconds_left is not None:
        facts.append(_left(status.seconds_left))
    return facts


def _phase(status: Status) -> str:
    return f"{status.phase} {status.phase_done:,.0f}/{status.phase_total:,.0f}" if status.phase_total else status.phase


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"{clock_time(seconds)} left"


def _keep_going(write: Callable[[], None]) -> None:
    """Call `write`; an output that is gone, or cannot show a character, costs its line and not the search."""
    try:
        write()
    except (OSError, ValueError):  # ValueError: a closed file, or a character that the terminal's encoding lacks
        return
