"""What was meant by a name that nobody knows."""

from collections.abc import Collection
from difflib import get_close_matches


def nearest(name: str, known: Collection[str]) -> str | None:
    """The one that looks like the name, or has it in it."""
    close = get_close_matches(name.lower(), known, n=1)
    return close[0] if close else next((one for one in known if name and name.lower() in one), None)


def did_you_mean(name: str, known: Collection[str]) -> str:
    """The end of a sentence about an unknown name: a suggestion, or all that are known.

    >>> did_you_mean("latncy", ["params", "latency"])
    'did you mean latency?'
    """
    near = nearest(name, known)
    return f"did you mean {near}?" if near else f"known are {', '.join(known)}"
