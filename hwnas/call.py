"""`Call`: work on an executor, such as a training, that is done here or in a process of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Call:
    """Work to be done.

    Attributes:
        name: The same whenever the study asks for it.
        work: A function that can be imported, or an unbound method; its first argument is the executor.
        arguments: The others.
        instead: Makes the result of a reason, if the process dies in the work.
        key: Whatever the caller knows it by.
    """

    name: str
    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    instead: Callable[[str], Any]
    key: Any = None
