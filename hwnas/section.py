"""`Section`: a part of a specification, and the types that its keys have beside Python's own."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from hwnas.quantities import format_duration, format_quantity, parse_count, parse_duration
from spaces.errors import SpecError


def _duration(value: Any) -> float:
    try:
        return parse_duration(value)
    except SpecError as error:
        raise ValueError(error) from error  # pydantic adds the place


def _count(value: Any) -> int:
    try:
        return parse_count(value)
    except SpecError as error:
        raise ValueError(error) from error  # pydantic adds the place


Duration = Annotated[float, BeforeValidator(_duration), PlainSerializer(format_duration)]
Count = Annotated[int, BeforeValidator(_count), PlainSerializer(lambda count: format_quantity("params", count))]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


class Section(BaseModel):
    """No unknown keys; no "yes" where a number is due; no change once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
