import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.quantities import (
    OBJECTIVES,
    format_duration,
    format_quantity,
    parse_count,
    parse_duration,
    parse_quantity,
)
from spaces.errors import SpecError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30m", 1800),
        ("90s", 90),
        ("1h30m", 5400),
        ("1h 30m 5s", 5405),
        ("1.5h", 5400),
        ("90", 90),
        (45, 45),
        (0.5, 0.5),
        (" 2m ", 120),
        ("1e3s", 1000),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "m", "30 minutes", "30m1h", "-5s", "0s", 0, -1, "1:30", None, True, "nan", "1e999"]
)
def test_no_durations(text):
    with pytest.raises(SpecError, match=re.escape(f"{text!r} is no duration above 0; write 90s, 30m, 1h30m or a num")):
        parse_duration(text)


@given(st.floats(1e-9, 1e9) | st.integers(1, 10**7))
def test_a_duration_survives_its_text(seconds):
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("objective", "text", "value"),
    [
        ("latency", "3ms", 3),
        ("latency", "500us", 0.5),
        ("latency", "500 µs", 0.5),
        ("latency", "0.003s", 3),
        ("latency", ".5ms", 0.5),
        ("latency", "3", 3),
        ("latency", 3, 3),
        ("latency.board", "8MS", 8),
        ("params", "200k", 200_000),
        ("params", "1M", 1_000_000),
        ("macs", "1.5M", 1_500_000),
        ("macs", "2G", 2e9),
        ("macs", "1e6", 1e6),
        ("params", 12345, 12345),
        ("peak_memory", "64KB", 65536),
        ("peak_memory", "2mb", 2 * 1024 * 1024),
        ("peak_memory", "1GB", 2**30),
        ("peak_memory", "100B", 100),
        ("error", "7%", 0.07),
        ("error", "0.07", 0.07),
    ],
)
def test_quantities(objective, text, value):
    assert parse_quantity(objective, text) == value


@pytest.mark.parametrize(
    ("objective", "text"),
    [
        ("latency", "3 parsecs"),
        ("latency", "3k"),
        ("latency", "0ms"),
        ("latency", "-3ms"),
        ("params", "1.2.3k"),
        ("params", "200ms"),
        ("params", True),
        ("params", None),
        ("params", float("nan")),
        ("peak_memory", "64k"),
        ("peak_memory", ""),
        ("error", "0%"),
        ("macs", "1e999"),
        ("macs", "1e99999999999999999999"),
    ],
)
def test_no_quantities(objective, text):
    with pytest.raises(SpecError, match=re.escape(f"{objective} is {text!r}; it must be a value above 0 in ")):
        parse_quantity(objective, text)


def test_a_percentage_is_not_a_fraction():
    with pytest.raises(SpecError, match=r"error is '5'; it must be below 1, such as 5% or 0.05"):
        parse_quantity("error", "5")


def test_unknown_objectives_get_a_suggestion_or_the_list():
    with pytest.raises(SpecError, match=r"'memory' is no objective; did you mean peak_memory\?"):
        parse_quantity("memory", "2MB")
    with pytest.raises(SpecError, match=r"'fps' is no objective; known are error, params, macs, peak_memory, latency"):
        parse_quantity("fps", 3)
    with pytest.raises(SpecError, match=r"'params.board' is no objective; did you mean params\?"):
        format_quantity("params.board", 3)


@given(st.sampled_from([*OBJECTIVES, "latency.board"]), st.floats(1e-9, 1e15) | st.integers(1, 10**12))
def test_a_quantity_survives_its_text(objective, value):
    if objective == "error":
        value = value / 1e16
    assert parse_quantity(objective, format_quantity(objective, value)) == value


@pytest.mark.parametrize(
    ("objective", "value", "text"),
    [
        ("latency", 3.0, "3ms"),
        ("latency", 0.25, "250us"),
        ("latency", 1500, "1.5s"),
        ("params", 200_000, "200k"),
        ("params", 1_234_567, "1234567"),
        ("macs", 7, "7"),
        ("peak_memory", 2**21, "2MB"),
        ("peak_memory", 70_000, "70000B"),
    ],
)
def test_texts_of_quantities(objective, value, text):
    assert format_quantity(objective, value) == text


@pytest.mark.parametrize(("text", "count"), [("5000", 5000), (200, 200), ("200k", 200_000), ("0.5k", 500)])
def test_counts(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["0", "0.5", "-3", "many", None, True, float("inf")])
def test_no_counts(text):
    with pytest.raises(SpecError, match=re.escape(f"{text!r} is no whole number above 0, such as 5000 or 200k")):
        parse_count(text)
