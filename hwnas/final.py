"""Final training: the finalists and, beside them, stock networks, for as long as the time that is left allows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwnas import forecast
from hwnas.archive import Entry
from hwnas.finalists import Finalist, train_finalists, with_earlier
from hwnas.references import Reference
from hwnas.trained import Trained, train_references

if TYPE_CHECKING:
    from hwnas.study import Study


def train_all(
    study: "Study", chosen: Sequence[Entry], stock: Sequence[Reference]
) -> tuple[list[Finalist], list[Trained]]:
    """Train finalists, then the references that there is time for.

    Networks that were trained to the end before, by the same search with a smaller budget, are finalists too.

    Args:
        study: What they belong to.
        chosen: The finalists to be; the first are trained first.
        stock: The references.
    """
    timed = forecast.timed(study, stock)
    table = forecast.timetable(study, chosen, timed)
    finalists = with_earlier(study, train_finalists(study, table, chosen))
    seen = max(finalist.result.info["epochs"] for finalist in finalists)
    return finalists, train_references(study, table or forecast.open_end(study, timed), timed, seen)
