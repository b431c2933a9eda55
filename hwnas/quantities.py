"""Quantities as people write them: ``3ms``, ``200k``, ``64KB``, ``5%``, ``1h30m``."""

import re
from collections.abc import Mapping
from decimal import Decimal

from hwnas.hints import did_you_mean
from spaces.errors import SpecError

# Units of each objective, in terms of its base unit: fraction, number, bytes, milliseconds.
# Memory counts in 1024s, as the data sheets of small devices do.
_COUNT = {"G": Decimal(10**9), "M": Decimal(10**6), "k": Decimal(10**3), "": Decimal(1)}
_UNITS: dict[str, dict[str, Decimal]] = {
    "error": {"": Decimal(1), "%": Decimal("0.01")},
    "params": _COUNT,
    "macs": _COUNT,
    "peak_memory": {"GB": Decimal(2**30), "MB": Decimal(2**20), "KB": Decimal(2**10), "B": Decimal(1)},
    "latency": {"s": Decimal(1000), "ms": Decimal(1), "us": Decimal("0.001")},
}
_EXPONENT = r"(?:e[+-]?\d{1,3})?"
_EXAMPLES = {"error": "5% or 0.05", "params": "200k", "macs": "1.5M", "peak_memory": "64KB", "latency": "3ms or 500us"}

OBJECTIVES = tuple(_UNITS)
"""What can be minimised: `error` is learned by training, the others are known before it."""

LATENCY = "latency"


def on_device(name: str) -> str:
    """What the latency on a device is called.

    >>> on_device("board")
    'latency.board'
    """
    return f"{LATENCY}.{name}"


def parse_duration(text: str | float) -> float:
    """Seconds meant by a text like `90s`, `30m`, `1h30m` or `1.5h`, or by a number of seconds.

    Raises:
        SpecError: it is no duration, or not above 0.

    >>> parse_duration("30m"), parse_duration("1h 30m"), parse_duration(45)
    (1800.0, 5400.0, 45.0)
    """
    number = rf"(\d+(?:\.\d+)?{_EXPONENT})"
    found = re.fullmatch(rf"\s*(?:{number}h)?\s*(?:{number}m)?\s*(?:{number}s?)?\s*", _text(text))
    parts = zip(found.groups(), (3600, 60, 1), strict=True) if found else ()
    seconds = float(sum(Decimal(part) * unit for part, unit in parts if part))
    if not 0 < seconds < float("inf"):
        raise SpecError(
            f"{text!r} is no duration above 0; write 90s, 30m, 1h30m or a number of seconds (units are h, m, s)"
        )
    return seconds


def format_duration(seconds: float) -> str:
    """The text that `parse_duration` reads as exactly this many seconds.

    >>> format_duration(5400), format_duration(120.0), format_duration(0.25)
    ('1h30m', '2m', '0.25s')
    """
    if seconds != int(seconds):
        return f"{seconds!r}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return "".join(f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if n)


def parse_quantity(objective: str, text: str | float) -> float:
    """The value of an objective meant by a text with a unit, or by a number in the objective's base unit.

    Base units: milliseconds (latency), numbers (params, macs), bytes (peak_memory; 1 KB is 1024 bytes), fractions
    (error). Capital and small letters are the same.

    Args:
        objective: one of `OBJECTIVES`, or `latency.DEVICE`.
        text: what the user wrote.

    Raises:
        SpecError: the objective is unknown, the text is no quantity of it, or the value is not above 0.

    >>> parse_quantity("latency", "500us"), parse_quantity("params", "1.5M"), parse_quantity("peak_memory", "64KB")
    (0.5, 1500000.0, 65536.0)
    >>> parse_quantity("error", "5%"), parse_quantity("latency.board", 8)
    (0.05, 8.0)
    """
    base = _base(objective)
    value = _value(text, _UNITS[base])
    if value is None:
        units = " or ".join(unit for unit in _UNITS[base] if unit)
        raise SpecError(f"{objective} is {text!r}; it must be a value above 0 in {units}, such as {_EXAMPLES[base]}")
    if base == "error" and value >= 1:
        raise SpecError(f"{objective} is {text!r}; it must be below 1, such as {_EXAMPLES[base]}")
    return value


def format_quantity(objective: str, value: float) -> str:
    """The shortest text that `parse_quantity` reads as exactly this value.

    Raises:
        SpecError: the objective is unknown.

    >>> format_quantity("latency", 0.5), format_quantity("params", 1.5e6), format_quantity("params", 212346)
    ('500us', '1.5M', '212346')
    >>> format_quantity("peak_memory", 65536), format_quantity("error", 0.05)
    ('64KB', '5%')
    """
    exact = Decimal(repr(float(value)))
    units = _UNITS[_base(objective)]
    fitting = {unit: factor for unit, factor in units.items() if factor <= exact} or units
    texts = [f"{(exact / factor).normalize():f}{unit}" for unit, factor in fitting.items()]
    return min((text for text in texts if _value(text, units) == value), key=len)


def format_limits(limits: Mapping[str, float]) -> str:
    """Largest values by objective, as people write them.

    >>> format_limits({"latency": 3.0, "params": 2e5})
    'latency <= 3ms, params <= 200k'
    """
    return ", ".join(f"{name} <= {format_quantity(name, limit)}" for name, limit in limits.items())


def round_quantity(objective: str, value: float) -> str:
    """The value in three digits and the largest unit that it reaches, to be read by people.

    Raises:
        SpecError: the objective is unknown.

    >>> [round_quantity("params", count) for count in (905, 2834, 45_213, 999_999, 0)]
    ['905', '2.83k', '45.2k', '1M', '0']
    >>> round_quantity("latency", 0.51234), round_quantity("error", 0.0512)
    ('512us', '5.12%')
    """
    rounded = Decimal(f"{value:.3g}")
    units = _UNITS[_base(objective)]
    if not rounded:
        return "0"
    reached = {unit: factor for unit, factor in units.items() if factor <= rounded} or units
    unit = max(reached, key=reached.__getitem__) if reached is not units else min(units, key=units.__getitem__)
    return f"{(rounded / units[unit]).normalize():f}{unit}"


def parse_count(text: str | float) -> int:
    """A whole number meant by a text like `5000` or `200k`.

    Raises:
        SpecError: it is none, or not above 0.

    >>> parse_count("200k")
    200000
    """
    value = _value(text, _COUNT)
    if value is None or value != int(value):
        raise SpecError(f"{text!r} is no whole number above 0, such as 5000 or 200k")
    return int(value)


def _base(objective: str) -> str:
    base = objective.partition(".")[0] if objective.startswith("latency.") else objective
    if base not in OBJECTIVES:
        near = "limit the error: error=10%" if base == "accuracy" else did_you_mean(objective, OBJECTIVES)
        raise SpecError(f"{objective!r} is no objective; {near}")
    return base


def _value(text: object, units: Mapping[str, Decimal]) -> float | None:
    """A number with one of the units, as a finite float above 0; None if it is not."""
    found = re.fullmatch(rf"(\d*\.?\d+{_EXPONENT})\s*([a-z%]*)", _text(text).strip().lower().replace("µ", "u"))
    factors = {"": Decimal(1)} | {unit.lower(): factor for unit, factor in units.items()}
    if not found or found[2] not in factors:
        return None
    value = float(Decimal(found[1]) * factors[found[2]])
    return value if 0 < value < float("inf") else None


def _text(value: object) -> str:
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
