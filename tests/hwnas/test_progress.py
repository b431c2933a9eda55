"""Progress: what each variant shows, how sparse a log is, and that no terminal can end a search."""

from collections.abc import Callable
from io import StringIO, TextIOBase
from typing import Any

import pytest

from hwnas import progress
from hwnas.progress import LastingConsole, Live, Log, Progress, Quiet

MOMENT: dict[str, Any] = {
    "generation": 3,
    "trainings": 24,
    "failed": 0,
    "hypervolume": 0.5,
    "best_error": 0.0213,
    "front_size": 7,
    "seconds_left": 83.0,
    "phase": "search",
    "phase_done": 24,
    "phase_total": 60,
}
EMPTY = {**MOMENT, "hypervolume": None, "best_error": None, "seconds_left": None, "phase_total": 0}


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def console(width: int = 100, terminal: bool = False) -> LastingConsole:
    return LastingConsole(file=StringIO(), width=width, force_terminal=terminal, color_system=None)


def text(console: LastingConsole) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def drawn(live: Live, width: int = 100) -> str:
    target = console(width)
    target.print(live.render())
    return text(target)


def test_log_prints_at_each_phase_and_every_quarter_minute() -> None:
    clock, target = Clock(), console()
    log = Log(target, clock)
    log.start(["digits on this machine", "runs/mine"])
    for second in range(31):
        clock.now = 1000.0 + second
        log.update(**{**MOMENT, "trainings": second})
    log.update(**{**MOMENT, "phase": "final training", "phase_done": 0, "phase_total": 12, "failed": 2})
    title, folder, *lines = text(target).splitlines()
    assert (title, folder) == ("digits on this machine", "runs/mine")
    assert [line.split()[0] for line in lines] == ["0:00", "0:15", "0:30", "0:30"]
    assert lines[0].strip() == (
        "0:00  search 24/60 · generation 3 · 0 trainings · front 7 · lowest error now 2.13% · "
        "hypervolume 0.5000 · 1:23 left"
    )
    assert "final training 0/12" in lines[-1]
    assert "24 trainings (2 failed)" in lines[-1]


def test_log_says_what_is_prepared_only_where_it_takes_long() -> None:
    clock, target = Clock(), console()
    log = Log(target, clock)
    for second in range(31):
        clock.now = 1000.0 + second
        log.prepare("reading images" if second > 2 else "looking at images", 100 * second, 5000)
    log.update(**MOMENT)
    lines = [line.strip() for line in text(target).splitlines()]
    assert lines[:2] == ["0:15  reading images 1,500/5,000", "0:30  reading images 3,000/5,000"]
    assert lines[2].startswith("0:30  search 24/60 · generation 3")


def test_live_shows_what_is_prepared_until_the_search_begins() -> None:
    target = console(terminal=True)
    with Live(target) as live:
        assert "starting" in text(target)
        live.prepare("reading images", 1500, 5000)
        assert "reading images 1,500/5,000" in drawn(live)
        assert "generation" not in drawn(live)
        live.start(["digits"])
        live.update(**MOMENT)
        assert "reading" not in drawn(live)


def test_log_lines_are_never_wrapped_and_brackets_are_text() -> None:
    target = console(width=20)
    log = Log(target)
    log.note("3 files are unreadable: [bold]a.png[/bold]")
    log.update(**MOMENT)
    note, line = text(target).splitlines()
    assert note.endswith("[bold]a.png[/bold]")
    assert line.endswith("1:23 left")


def test_live_shows_status_and_counts_down_between_updates() -> None:
    clock = Clock()
    live = Live(console(), clock)
    assert "starting" in drawn(live)
    live.update(**MOMENT)
    for fact in ("generation 3", "24 trainings", "front 7", "lowest error now 2.13%", "search 24/60", "1:23 left"):
        assert fact in drawn(live)
    clock.now += 3
    assert "1:20 left" in drawn(live)
    clock.now += 500
    assert "0:00 left" in drawn(live)


def test_live_on_a_terminal_keeps_notes_and_leaves_it_clean() -> None:
    target = console(terminal=True)
    with Live(target) as live:
        live.start(["digits", "budget 2 [m]"])
        live.note("2 duplicates [removed]")
        live.update(**MOMENT)
    shown = text(target)
    assert "budget 2 [m]" in shown
    assert "2 duplicates [removed]" in shown
    assert shown.rstrip().endswith("\x1b[2K")  # the repainted lines are erased
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is back


@pytest.mark.parametrize("width", [1, 8, 30])
@pytest.mark.parametrize("moment", [MOMENT, EMPTY], ids=["full", "empty"])
def test_narrow_terminals(width: int, moment: dict[str, Any]) -> None:
    target = console(width, terminal=True)
    with Live(target) as live:
        live.start(["a title that is longer than the terminal is wide"])
        live.update(**moment)
        assert drawn(live, width)


class Closed(TextIOBase):
    """A pipe whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self) -> None:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("make", [Live, Log])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_lost_output_does_not_end_the_search(make: Callable[[LastingConsole], Progress], terminal: bool) -> None:
    with make(LastingConsole(file=Closed(), force_terminal=terminal)) as shown:  # type: ignore[arg-type]
        shown.prepare("reading images", 1, 2)
        shown.start(["digits"])
        shown.note("a note")
        shown.update(**MOMENT)


def test_an_error_inside_leaves_the_terminal_clean() -> None:
    target = console(terminal=True)

    def interrupted() -> None:
        with Live(target) as live:
            live.start(["digits"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "\x1b[?25h" in text(target)


def test_quiet_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with progress.choose(quiet=True) as quiet:
        assert isinstance(quiet, Quiet)
        quiet.prepare("reading images", 1, 2)
        quiet.start(["digits"])
        quiet.note("a note")
        quiet.update(**MOMENT)
    assert capfd.readouterr() == ("", "")


def test_without_a_terminal_it_logs_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    with progress.choose() as chosen:
        assert isinstance(chosen, Log)
        chosen.start(["digits"])
    assert capfd.readouterr() == ("", "digits\n")


def test_sparkline_ends_with_the_newest_value() -> None:
    assert progress.sparkline([*range(100), 0.0])[-1] == "▁"
    assert len(progress.sparkline(range(1000))) <= 24
    assert progress.sparkline([0.5]) == "▁"
