"""`Move`: one step from a genotype to another, with every choice made; plain data, so that it can be replayed."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from spaces.errors import ArchError
from spaces.record import check_types

Exact = Literal["train", "eval"] | None
"""How far a child computes what its parent did: in training mode too, in evaluation mode only, or approximately."""


@dataclass(frozen=True)
class Move:
    """Base of all moves; a subclass is a frozen dataclass whose fields hold every choice, seeds included."""

    def __post_init__(self) -> None:
        check_types(self, ArchError)
        seed = getattr(self, "seed", 0)
        if not 0 <= seed < 2**63:
            raise ArchError(f"{type(self).__name__}: seed is {seed}, it must be 0 to 2**63 - 1")

    def to_json(self) -> dict[str, Any]:
        """A plain mapping, ``{"move": name, **fields}``."""
        return {"move": type(self).__name__, **asdict(self)}
