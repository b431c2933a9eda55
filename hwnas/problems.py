"""What pydantic finds wrong with a specification, said as sentences."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from hwnas.hints import did_you_mean, nearest


def sentences(root: type[BaseModel], error: ValidationError) -> list[str]:
    """One for each problem: the place, the value, the rule, and the nearest key where one is unknown.

    Args:
        root: The model that was to be read; its fields are sections, whose fields are keys.
        error: What came of it.
    """
    return [_sentence(root, problem) for problem in error.errors()]


def _sentence(root: type[BaseModel], problem: Any) -> str:
    """One of pydantic's findings as `place: what is wrong and what would be right`."""
    place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in problem["loc"]).lstrip(".")
    kind, value, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{place}: unknown key; {_nearest_key(root, problem['loc'])}"
    if kind == "invalid_key":
        return f"{value!r} is no key; keys are text"
    if kind == "value_error":
        return f"{place}: {context['error']}" if place else str(context["error"])
    if kind in ("model_type", "dict_type"):
        keys = ", ".join(_section(root, problem["loc"]).model_fields) if kind == "model_type" else "objective: value"
        return f"{place or 'the specification'} is {value!r}; it must be a mapping with keys of {keys}"
    rules = {
        "literal_error": f"one of {context.get('expected')}".replace("True, False", "true, false"),
        "int_type": "a whole number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "bool_type": "true or false",
        "string_type": "text",
        "list_type": "a list",
        "greater_than": f"above {context.get('gt', 0):g}",
        "greater_than_equal": f"at least {context.get('ge', 0):g}",
        "less_than": f"below {context.get('lt', 0):g}",
        "less_than_equal": f"at most {context.get('le', 0):g}",
    }
    return f"{place} is {value!r}; it must be {rules.get(kind, problem['msg'])}"


def _section(root: type[BaseModel], path: Iterable[Any]) -> type[BaseModel]:
    section = root
    for key in path:
        inner = section.model_fields[key].annotation
        assert isinstance(inner, type)
        section = inner
    return section


def _nearest_key(root: type[BaseModel], path: tuple[Any, ...]) -> str:
    """The key that was meant: one of the same section, else one of another, else all that there are."""
    *where, key = path
    here = list(_section(root, where).model_fields)
    elsewhere = {
        f"{name}.{inner}": inner
        for name, field in root.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        for inner in field.annotation.model_fields
    }
    meant = None if nearest(key, here) else nearest(key, list(elsewhere.values()))
    if meant:
        return f"did you mean {' or '.join(place for place, inner in elsewhere.items() if inner == meant)}?"
    return did_you_mean(key, here)
