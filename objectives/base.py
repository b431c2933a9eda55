"""`Objective`: one number that a search makes as small as it can."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spaces.arch import Arch


@dataclass(frozen=True)
class Estimate:
    """A value and the interval it is believed to lie in; for an exact value all three are equal."""

    value: float
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> "Estimate":
        """A value that is known.

        >>> Estimate.exact(3.0)
        Estimate(value=3.0, low=3.0, high=3.0)
        """
        return cls(value, value, value)


@dataclass(frozen=True)
class Objective:
    """What is minimised and known before anything is trained; the error alone is known by training only.

    Attributes:
        name: As users write it in a specification.
        estimate: Architectures -> one estimate each.
    """

    name: str
    estimate: Callable[[Sequence[Arch]], list[Estimate]]
