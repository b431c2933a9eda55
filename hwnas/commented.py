"""A specification as YAML in which every key says what it means, in the words of its section's docstring."""

import inspect
import re
import textwrap

from hwnas import yamlfile
from hwnas.section import Section


def commented(section: Section) -> str:
    """All keys with their values, each below a comment; a loader reads the same section from it.

    >>> from hwnas.sections import BudgetSection
    >>> print(commented(BudgetSection(trainings=200)), end="")
    # seconds for everything, final trainings and measurements included.
    time: null
    # candidates trained in the search; the final trainings come on top.
    trainings: '200'
    """
    meanings, record, parts = _meanings(type(section)), section.model_dump(), []
    for name, value in section:
        parts.append(textwrap.fill(meanings[name], 110, initial_indent="# ", subsequent_indent="# ") + "\n")
        if isinstance(value, Section):
            parts.append(f"{name}:\n" + textwrap.indent(commented(value), "  "))
        else:
            parts.append(yamlfile.dump({name: record[name]}))
    return "".join(parts)


def _meanings(section: type[Section]) -> dict[str, str]:
    """What the docstring of a section says of its attributes."""
    found: dict[str, str] = {}
    _, _, listed = (inspect.getdoc(section) or "").partition("Attributes:\n")
    for line in listed.partition("\n\n")[0].splitlines():
        if begins := re.fullmatch(r" {4}(\w+): (.*)", line):
            name, found[begins[1]] = begins[1], begins[2]
        else:
            found[name] += f" {line.strip()}"
    return found
