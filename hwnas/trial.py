"""The two records a search is made of: what is asked (`Trial`) and what came back (`Result`).

Both are plain data. A strategy makes trials and reads results; an executor does the reverse; neither needs the other's
code, and every trial can be run again elsewhere from its JSON. Weights travel by reference: a result names the hash
under which the store keeps them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

Init = Literal["parent", "supernet", "scratch", "checkpoint"]
"""Where a candidate's first weights come from."""

Status = Literal["ok", "failed"]
"""Whether a candidate was evaluated, or failed and cost only itself."""


@dataclass(frozen=True)
class Trial:
    """One candidate to evaluate.

    Attributes:
        id: number of the trial in its study, from 0; the order of asking.
        genotype: the network in the terms of its space, as JSON.
        hash: canonical hash of the decoded network: its identity.
        parent: id of the trial this one was derived from, if any.
        moves: the morphisms that lead from the parent to this network, each as JSON, in order.
        init: where the first weights come from; `"parent"` and `"checkpoint"` need a `parent`.
        config: settings of the training that differ between trials, as JSON.
        fidelity_from: epochs the inherited weights have seen, through the whole lineage.
        fidelity_to: the same at the end of this trial; their difference is what is trained now.
        seed: seeds everything random about the evaluation.
        cheap: values of the cheap objectives on which the candidate was accepted.
        snapshot: hash of the latency table the latency in `cheap` was read from.
        generation: round of the search in which it was asked.

    Raises:
        ValueError: a field breaks one of these rules, or is not plain finite JSON; the message names the place.

    >>> trial = Trial(id=0, genotype={"width": 8}, hash="c0ffee", fidelity_to=3, cheap={"params": 1234})
    >>> Trial.from_json(trial.to_json()) == trial
    True
    >>> Trial(id=0, genotype={"width": float("nan")}, hash="c0ffee")
    Traceback (most recent call last):
    ...
    ValueError: Trial.genotype.width is nan; JSON has finite numbers only
    """

    id: int
    genotype: Any
    hash: str
    parent: int | None = None
    moves: tuple[dict[str, Any], ...] = ()
    init: Init = "scratch"
    config: dict[str, Any] = field(default_factory=dict)
    fidelity_from: float = 0.0
    fidelity_to: float = 0.0
    seed: int = 0
    cheap: dict[str, float] = field(default_factory=dict)
    snapshot: str | None = None
    generation: int = 0

    def __post_init__(self) -> None:
        _at_least_zero("Trial", id=self.id, seed=self.seed, generation=self.generation)
        if self.parent is not None:
            _at_least_zero("Trial", parent=self.parent)
        _text("Trial", hash=self.hash, snapshot=self.snapshot or "")
        if self.init not in get_args(Init):
            raise ValueError(f"Trial.init is {self.init!r}; it must be one of {', '.join(get_args(Init))}")
        if self.init in ("parent", "checkpoint") and self.parent is None:
            raise ValueError(f"Trial.init is {self.init!r}, so Trial.parent must name a trial; it is None")
        _set(self, "genotype", _plain(self.genotype, "Trial.genotype"))
        _set(self, "moves", tuple(_record(move, f"Trial.moves[{i}]") for i, move in enumerate(self.moves)))
        _set(self, "config", _record(self.config, "Trial.config"))
        _set(self, "cheap", _numbers(self.cheap, "Trial.cheap"))
        _set(self, "fidelity_from", _number(self.fidelity_from, "Trial.fidelity_from"))
        _set(self, "fidelity_to", _number(self.fidelity_to, "Trial.fidelity_to"))
        if not 0 <= self.fidelity_from <= self.fidelity_to:
            raise ValueError(
                f"Trial trains from epoch {self.fidelity_from:g} to epoch {self.fidelity_to:g}; "
                "the rule is 0 <= fidelity_from <= fidelity_to"
            )

    def to_json(self) -> dict[str, Any]:
        """The trial as a dict of plain JSON values; `from_json` gives an equal trial back."""
        return _to_json(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Trial":
        """Read a trial back from `to_json`'s dict.

        Raises:
            ValueError: a key is unknown or missing, or a value breaks a rule of `Trial`.
        """
        return cls(**_checked_keys(cls, record))


@dataclass(frozen=True)
class Result:
    """What an evaluation came to.

    Attributes:
        values: objective name -> value, for all that was measured; finite, always.
        seconds: wall time of the evaluation.
        status: `"ok"`, or `"failed"` where the candidate diverged, ran out of memory or raised.
        reason: why it failed; a failure must say.
        weights: hash of the trained state in the store, or None where none was kept.
        info: anything else worth keeping (curves, epochs, standard errors), as JSON.

    Raises:
        ValueError: a value is NaN or infinite (report the candidate as failed instead), a result that is ok has no
            values, a failure has no reason, or a field is not plain JSON; the message names the place.

    >>> Result(values={"error": 0.031}, seconds=4.2)
    Result(values={'error': 0.031}, seconds=4.2, status='ok', reason='', weights=None, info={})
    >>> Result(values={"error": float("inf")}, seconds=4.2)
    Traceback (most recent call last):
    ...
    ValueError: Result.values.error is inf; it must be a finite number
    """

    values: dict[str, float]
    seconds: float
    status: Status = "ok"
    reason: str = ""
    weights: str | None = None
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise ValueError(f"Result.status is {self.status!r}; it must be one of {', '.join(get_args(Status))}")
        _text("Result", reason=self.reason, weights=self.weights or "")
        _set(self, "values", _numbers(self.values, "Result.values"))
        _set(self, "seconds", _number(self.seconds, "Result.seconds"))
        _set(self, "info", _record(self.info, "Result.info"))
        if self.seconds < 0:
            raise ValueError(f"Result.seconds is {self.seconds:g}; a duration cannot be negative")
        if self.status == "ok" and not self.values:
            raise ValueError("Result.values is empty; a result that is ok has at least one value")
        if self.status == "failed" and not self.reason:
            raise ValueError("Result.reason is empty; a failed result says why it failed")

    def to_json(self) -> dict[str, Any]:
        """The result as a dict of plain JSON values; `from_json` gives an equal result back."""
        return _to_json(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Result":
        """Read a result back from `to_json`'s dict.

        Raises:
            ValueError: a key is unknown or missing, or a value breaks a rule of `Result`.
        """
        return cls(**_checked_keys(cls, record))


def _set(record: Trial | Result, name: str, value: Any) -> None:
    """Normalise one field of a frozen record while it is being made."""
    object.__setattr__(record, name, value)


def _to_json(record: Trial | Result) -> dict[str, Any]:
    return {f.name: _plain(getattr(record, f.name), f.name) for f in fields(record)}


def _checked_keys(cls: type[Trial | Result], record: Mapping[str, Any]) -> dict[str, Any]:
    """All fields are required, defaults or not: a record that lacks one was not written by `to_json`."""
    names = [f.name for f in fields(cls)]
    unknown = [key for key in record if key not in names]
    missing = [name for name in names if name not in record]
    if unknown or missing:
        wrong = [f"unknown key {key!r}" for key in unknown] + [f"key {name!r} is missing" for name in missing]
        raise ValueError(f"not a {cls.__name__}: {', '.join(wrong)}; its keys are {', '.join(names)}")
    return dict(record)


def _at_least_zero(owner: str, **numbers: Any) -> None:
    for name, value in numbers.items():
        if type(value) is not int or value < 0:
            raise ValueError(f"{owner}.{name} is {value!r}; it must be a whole number, at least 0")


def _text(owner: str, **texts: Any) -> None:
    for name, value in texts.items():
        if not isinstance(value, str):
            raise ValueError(f"{owner}.{name} is {value!r}; it must be text")


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, str) or not math.isfinite(number):
        raise ValueError(f"{where} is {value!r}; it must be a finite number")
    return number


def _numbers(values: Mapping[str, Any], where: str) -> dict[str, float]:
    return {name: _number(value, f"{where}.{name}") for name, value in _items(values, where)}


def _record(value: Any, where: str) -> dict[str, Any]:
    return {key: _plain(item, f"{where}.{key}") for key, item in _items(value, where)}


def _items(value: Any, where: str) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is {value!r}; it must be a mapping from names to values")
    for key in value:
        if not isinstance(key, str):
            raise ValueError(f"{where} has the key {key!r}; the keys of a JSON object are text")
    return list(value.items())


def _plain(value: Any, where: str) -> Any:
    """A copy made of dict, list, str, int, float, bool and None alone, equal to itself after a trip through JSON."""
    if isinstance(value, Mapping):
        return _record(value, where)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value!r}; JSON has finite numbers only")
        return float(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    raise ValueError(f"{where} is of type {type(value).__name__}; plain JSON has no such value")
