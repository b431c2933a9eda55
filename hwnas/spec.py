"""`Spec`: everything a user may decide about a search, as one YAML file.

`Spec()` is the default run: scikit-learn's digits on this machine, in about two minutes. A file names only what differs
from it.
"""

import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, ValidationError, field_serializer, field_validator, model_validator

from hwnas import yamlfile
from hwnas.commented import commented
from hwnas.hints import did_you_mean
from hwnas.problems import sentences
from hwnas.quantities import LATENCY, OBJECTIVES, format_quantity, on_device, parse_quantity
from hwnas.searchsection import SearchSection
from hwnas.section import Positive, Section
from hwnas.sections import (
    BudgetSection,
    DataSection,
    DeploymentSection,
    FinalSection,
    SpaceSection,
    TrainingSection,
    parse_budget,
)
from spaces.errors import SpecError

if TYPE_CHECKING:
    from objectives.recipe import Recipe

#: Data sets whose mirror images are other characters, or none.
_DIGITS_AND_LETTERS = ("digits", "mnist", "kmnist", "svhn")


class Spec(Section):
    """A whole specification.

    Attributes:
        data: the images.
        space: the networks that may be built.
        deployment: where latency counts, if it is this machine.
        latency: where it counts, if it is one or several devices that have latency tables: a file for each name, as in
            `{epyc: epyc.csv, board: board.csv}`. Each is an objective of its own, such as `latency.board`.
        allow_estimates: of kernels that the table of a device elsewhere lacks; without, they end the search.
        objectives: what is minimised; `error` is always among them.
        limits: largest values allowed, by objective, in its base unit; written with units.
        budget: when the search ends; in YAML also in short, `budget: 30m` or `budget: 200` (trainings).
        search: how candidates are proposed and trained.
        training: how every network is trained.
        final: how the front is finished.
        seed: of everything random.
        threads: that training uses; null: measured.

    >>> spec = Spec.from_json({"limits": {"latency": "3ms"}, "budget": "30m"})
    >>> spec.limits, spec.budget.time
    ({'latency': 3.0}, 1800.0)
    >>> Spec.from_json({"serach": {}})
    Traceback (most recent call last):
    ...
    spaces.errors.SpecError: serach: unknown key; did you mean search?
    """

    data: DataSection = DataSection()
    space: SpaceSection = SpaceSection()
    deployment: DeploymentSection = DeploymentSection()
    latency: dict[str, str] = Field(default={})
    allow_estimates: bool = False
    objectives: list[str] = Field(default=["error", "params", "macs", "latency"])
    limits: dict[str, float] = Field(default={})
    budget: BudgetSection = BudgetSection(time=120.0)
    search: SearchSection = SearchSection()
    training: TrainingSection = TrainingSection()
    final: FinalSection = FinalSection()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    threads: Positive | None = None

    @model_validator(mode="before")
    @classmethod
    def _latency_on_every_device(cls, record: Any) -> Any:
        """With devices, `latency` among the objectives means that on each, and as a limit that on the only one."""
        devices = record.get("latency") if isinstance(record, Mapping) else None
        if not isinstance(devices, Mapping) or not devices:
            return record
        every = [on_device(str(name)) for name in devices]
        record = {"objectives": cls.model_fields["objectives"].default, "limits": {}, **record}
        if isinstance(record["objectives"], list):
            named = [every if name == LATENCY else [name] for name in record["objectives"]]
            record["objectives"] = [name for names in named for name in names]
        if isinstance(record["limits"], Mapping) and LATENCY in record["limits"]:
            if len(every) > 1:
                raise ValueError(f"limits: latency could mean any of {', '.join(every)}; name one")
            record["limits"] = {every[0] if name == LATENCY else name: v for name, v in record["limits"].items()}
        return record

    @field_validator("latency")
    @classmethod
    def _names_of_devices(cls, devices: dict[str, str]) -> dict[str, str]:
        for name in devices:
            if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
                raise ValueError(f"{name!r} is no name for a device; take letters, digits, - and _")
        return devices

    @field_validator("objectives")
    @classmethod
    def _known_objectives(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in OBJECTIVES and not name.startswith(on_device("")):
                raise ValueError(f"{name!r} is no objective; {did_you_mean(name, OBJECTIVES)}")
        names = list(dict.fromkeys(["error", *names]))
        if len(names) == 1:
            others = ", ".join(OBJECTIVES[1:])
            raise ValueError(f"error alone has a best network but no front; add one or more of {others}")
        return names

    @field_validator("limits", mode="before")
    @classmethod
    def _limits_with_units(cls, limits: Any) -> Any:
        if not isinstance(limits, Mapping):
            return limits
        try:
            return {name: parse_quantity(str(name), text) for name, text in limits.items()}
        except SpecError as error:
            raise ValueError(error) from error  # pydantic adds the place

    @field_validator("budget", mode="before")
    @classmethod
    def _budget_in_short(cls, budget: Any) -> Any:
        return parse_budget(budget) if isinstance(budget, str | int | float) else budget

    @model_validator(mode="after")
    def _latency_on_known_devices(self) -> Self:
        if self.latency and self.deployment != DeploymentSection():
            raise ValueError("deployment and latency both say where latency counts; leave one of them out")
        devices = [on_device(name) for name in self.latency]
        for name in self.objectives:
            if name.startswith(on_device("")) and name not in devices:
                device = name.removeprefix(on_device(""))
                raise ValueError(f"objectives: {name}: say where its table is, as in latency: {{{device}: FILE}}")
        return self

    @model_validator(mode="after")
    def _limits_on_objectives(self) -> Self:
        for name in self.limits:
            if name == "error":
                raise ValueError(
                    "limits: error is known only after training, so it cannot bound the search; "
                    "choose by it at the end: hwnas select RUN --max error=5%"
                )
            if name not in self.objectives:
                cheap = ", ".join(self.objectives[1:])
                raise ValueError(f"limits: {name} is not among the objectives ({cheap}); add it to them")
        return self

    @field_serializer("limits")
    def _limits_as_text(self, limits: dict[str, float]) -> dict[str, str]:
        return {name: format_quantity(name, value) for name, value in limits.items()}

    # In and out

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a YAML file.

        Raises:
            SpecError: the file cannot be read, is not YAML, has an unknown or repeated key, or a value against its
                rule; the message names file and place.
        """
        record = yamlfile.load(path)
        try:
            return cls.from_json({} if record is None else record)
        except SpecError as error:
            raise SpecError(f"{path}: {error}") from error

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read nested mappings, such as `to_json` gives.

        Raises:
            SpecError: a key is unknown, or a value is against its rule; a line for each, which names the place.
        """
        try:
            return cls.model_validate(record)
        except ValidationError as error:
            raise SpecError("\n".join(sentences(cls, error))) from error

    def to_json(self) -> dict[str, Any]:
        """Nested mappings of plain JSON values, with units where people write units."""
        return self.model_dump()

    def resolve(self, overrides: Mapping[str, Any]) -> Self:
        """This specification with some keys replaced, as by options of the command line.

        Args:
            overrides: dotted key -> value, e.g. `{"data.source": "cifar10", "budget": "30m"}`.

        Raises:
            SpecError: as by `from_json`.

        >>> Spec().resolve({"search.epochs": 2.0, "limits.params": "200k"}).limits
        {'params': 200000.0}
        """
        record = self.to_json()
        for place, value in overrides.items():
            *sections, key = place.split(".")
            target = record
            for section in sections:
                target = target.setdefault(section, {})
                if not isinstance(target, dict):
                    raise SpecError(f"{place}: {section} is a single value and has no keys")
            target[key] = deepcopy(value)  # the next override may write into it
        return type(self).from_json(record)

    def dump(self) -> str:
        """The whole specification as YAML with comments, defaults included; `load` reads the same from it."""
        return commented(self)

    def recipe(self, epochs: float, seed: int) -> "Recipe":
        """How to train one network.

        Args:
            epochs: passes over the training images.
            seed: of order, augmentation and dropout.
        """
        # Imported here: it starts torch, and reading a specification must not.
        from objectives.datasets import dataset_name
        from objectives.recipe import Recipe

        settings = self.training.model_dump()
        if settings["flip"] == "auto":
            settings["flip"] = dataset_name(self.data.source) not in _DIGITS_AND_LETTERS
        return Recipe(epochs=epochs, seed=seed, **settings)
