"""Records: frozen dataclasses that are written as JSON and read again, where anything may stand in their fields."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from spaces.errors import ArchError, HwnasError

R = TypeVar("R")


def check_types(record: Any, error: type[HwnasError]) -> None:
    """Whether every field of a frozen dataclass is of the type it is annotated with.

    Numbers and truth values must be Python's own: 3.0, True for 1 or NumPy's 3 would be written, and hence hashed,
    differently from what they are equal to.

    Raises:
        error: A field is not; the message gives the value and the type.
    """
    for name, kind in _fields(type(record)):  # type: ignore[arg-type]
        value = getattr(record, name)
        if type(value) is not kind and not _is_a(value, kind):
            readable = kind.__name__ if isinstance(kind, type) else kind
            raise error(f"{type(record).__name__}: {name} is {value!r}, it must be of type {readable}")


@cache
def _fields(kind: type) -> tuple[tuple[str, Any], ...]:
    """Names and types; kept, as a search makes moves by the thousand."""
    return tuple((field.name, field.type) for field in fields(kind))


def _is_a(value: object, kind: Any) -> bool:
    options = get_args(kind)
    if isinstance(kind, UnionType):
        return any(_is_a(value, option) for option in options)
    if get_origin(kind) is tuple:
        if type(value) is not tuple:
            return False
        kinds = [options[0]] * len(value) if options[-1] is Ellipsis else options
        return len(value) == len(kinds) and all(map(_is_a, value, kinds))
    return type(value) is kind if kind in (bool, int, str) else isinstance(value, kind)


def from_json(data: object, tag: str, kinds: Sequence[type[R]]) -> R:
    """The record that ``{tag: name of its class, **fields}`` stands for.

    Raises:
        ArchError: It is no such mapping, the class or a field is unknown, or the record refuses what a field holds.
    """
    if not isinstance(data, Mapping):
        raise ArchError(f"{data!r} is no {tag}; expected a mapping with {tag!r} and the fields")
    known = {kind.__name__: kind for kind in kinds}
    name = data.get(tag)
    if not isinstance(name, str) or name not in known:
        raise ArchError(f"unknown {tag} {name!r}; known are {', '.join(known)}")
    try:
        return known[name](**{key: value for key, value in data.items() if key != tag})
    except TypeError as error:  # of Python's own: a field is unknown or missing
        raise ArchError(f"{name}: {error}") from error
