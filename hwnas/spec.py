"""`Spec`: everything a user may decide about a search, as one YAML file.

`Spec()` is the default run: scikit-learn's digits on this machine, in about two minutes. A file names only what differs
from it. The keys of four sections are arguments of the rooms they configure, which document them in full:

==============  ===========================================
`data`          `objectives.data.load_data`
`space`         `spaces.plain.PlainSpace`
`deployment`    `latency.deployment.Deployment.here`
`training`      `objectives.recipe.Recipe`
==============  ===========================================
"""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from hwnas import yamlfile
from hwnas.hints import did_you_mean
from hwnas.problems import sentences
from hwnas.quantities import OBJECTIVES, format_duration, format_quantity, parse_count, parse_duration, parse_quantity
from spaces.errors import SpecError

if TYPE_CHECKING:
    from objectives.recipe import Recipe

# The sections


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


class _Section(BaseModel):
    """No unknown keys; no "yes" where a number is due; no change once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class DataSection(_Section):
    """The images; see `objectives.data.load_data`.

    Attributes:
        source: a folder of images, or the name of a published data set.
        image_size: side that images are resized to; null: by their own sizes.
        channels: 1 (grey) or 3 (colour); null: by the images.
        val_fraction: share drawn for validation where the source has no such split.
        test_fraction: the same for testing.
        train_limit: train on a fixed subset of so many images.
        download: whether a published data set that is nowhere may be fetched.
        metric: what is counted as accuracy: of all images, or the mean over the classes.
    """

    source: str = "digits"
    image_size: Positive | None = None
    channels: Literal[1, 3] | None = None
    val_fraction: Share | None = None
    test_fraction: Share | None = None
    train_limit: Count | None = None
    download: bool = True
    metric: Literal["accuracy", "balanced-accuracy"] = "accuracy"


class SpaceSection(_Section):
    """The networks that may be built; see `spaces.plain.PlainSpace`.

    Attributes:
        kind: the space; for now there is the plain one.
        stages: number of map sizes; the map is halved between them.
        stem_stride: stride of the first convolution; more than 1 for large images.
        max_depth: most convolutions in a network.
        min_width: fewest channels of a convolution.
        max_width: most channels.
        max_kernel: largest kernel.
        max_params: most parameters, if bounded.
        separable: whether depthwise-separable convolutions are allowed.
        skips: whether branches and skips are allowed.
        width_step: channels come and go in multiples of this.
    """

    kind: Literal["plain"] = "plain"
    stages: Positive = 3
    stem_stride: Positive = 1
    max_depth: Positive = 40
    min_width: Positive = 8
    max_width: Positive = 512
    max_kernel: Positive = 7
    max_params: Count | None = None
    separable: bool = True
    skips: bool = True
    width_step: Positive = 8

    @model_validator(mode="after")
    def _widths(self) -> Self:
        if self.min_width > self.max_width:
            raise ValueError(f"min_width is {self.min_width}, more than max_width, which is {self.max_width}")
        return self


class DeploymentSection(_Section):
    """Where latency counts; the device is this machine. See `latency.deployment.Deployment`.

    Attributes:
        runtime: ONNX Runtime on the processor, or PyTorch on a GPU.
        threads: threads of one inference.
        batch: images per inference.
    """

    runtime: Literal["ort-cpu", "torch-cuda"] = "ort-cpu"
    threads: Positive = 1
    batch: Positive = 1


class BudgetSection(_Section):
    """When the search ends: at whichever bound is reached first; at least one is given.

    Attributes:
        time: seconds for everything, final trainings and measurements included.
        trainings: candidates trained in the search; the final trainings come on top.
    """

    time: Duration | None = None
    trainings: Count | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.time is None and self.trainings is None:
            raise ValueError("neither time nor trainings is given, so the search would never end; give one")
        return self


def parse_budget(text: str | float) -> BudgetSection:
    """What `--budget` means: a bare whole number counts trainings, anything else is a duration.

    Raises:
        SpecError: it is neither.

    >>> parse_budget("200")
    BudgetSection(time=None, trainings=200)
    >>> parse_budget("30m")
    BudgetSection(time=1800.0, trainings=None)
    """
    number = str(text).strip()
    try:
        if number.isdecimal():
            return BudgetSection(trainings=int(number))
        return BudgetSection(time=parse_duration(text))
    except (SpecError, ValueError):
        raise SpecError(
            f"budget is {text!r}; write a duration such as 30m, or a number of trainings such as 200"
        ) from None


class SearchSection(_Section):
    """How candidates are proposed and how long they train; see `hwnas.lemonade.Lemonade`.

    Attributes:
        strategy: LEMONADE, or random search as its baseline.
        children: networks trained in a generation (the paper's n_ac).
        proposals: children judged by cheap objectives alone, for each that is trained (the paper's n_pc / n_ac).
        revisit: share of the trainings that goes to networks of the front themselves.
        trainings: how many a budget in time is shared out among; null: 120, or 40 from scratch.
        epochs: training of a child, on top of what it inherits; null: about the same time for each, of that share.
        initial_epochs: the same for the networks that the search starts from.
        inherit: whether children inherit their parent's weights; without it they train from scratch.
        paper_density: weigh parents exactly by the paper's formula, not by its robust form.
        max_parents: parents come from so many networks of the archive, by hypervolume contribution.
    """

    strategy: Literal["lemonade", "random"] = "lemonade"
    children: Positive = 8
    proposals: Positive = 12
    revisit: Annotated[float, Field(ge=0, lt=1)] = 0.25
    trainings: Positive | None = None
    epochs: Annotated[float, Field(gt=0)] | None = None
    initial_epochs: Annotated[float, Field(gt=0)] | None = None
    inherit: bool = True
    paper_density: bool = False
    max_parents: Positive = 40


class TrainingSection(_Section):
    """How every network is trained; see `objectives.recipe.Recipe`. Epochs and seed belong to `search` and `final`.

    Attributes:
        batch_size: images a step; null: by the number of images.
        lr: peak learning rate.
        momentum: of Nesterov's method.
        weight_decay: of weights with two axes or more.
        schedule: of a training from the first step to the last (of references), "cosine", or "one-cycle" with a climb
            to the peak first; the search stays at the peak, and final training falls from it as a cosine.
        warmup: share of a one-cycle run spent climbing.
        label_smoothing: probability mass spread over all classes.
        flip: mirror images left to right; "auto": except for data sets of digits and letters. For folders of such
            images, or where left and right mean something, write false.
        shift: random translation, as a share of the image's side.
        precision: of the forward and backward pass; "auto": the faster one.
        channels_last: memory order of the images.
        ema: decay of a moving average of the weights; null: by the length of the training in the search, else none.
        distill_weight: share of the loss that a teacher has, where there is one.
        temperature: softens teacher and student.
        clip: upper bound on the gradient's norm; null: none.
    """

    batch_size: Annotated[int, Field(ge=2)] | None = None
    lr: Annotated[float, Field(gt=0)] = 0.3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Literal["cosine", "one-cycle"] = "one-cycle"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.2
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    flip: Literal[True, False, "auto"] = "auto"
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.0625
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    channels_last: bool = True
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None
    distill_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    temperature: Annotated[float, Field(gt=0)] = 2.0
    clip: Annotated[float, Field(gt=0)] | None = 2.0


class FinalSection(_Section):
    """The end: a subset of the front is trained to the end, measured, tested and exported.

    Attributes:
        models: how many networks, chosen by hypervolume.
        share: of the time budget, reserved for this from the start.
        epochs: training of each; null: as long as the reserved time allows.
        references: whether stock networks are trained by the same recipe beside them.
    """

    models: Positive = 12
    share: Share = 0.35
    epochs: Annotated[float, Field(gt=0)] | None = None
    references: bool = True


class Spec(_Section):
    """A whole specification.

    Attributes:
        data: the images.
        space: the networks that may be built.
        deployment: where latency counts.
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
    objectives: list[str] = ["error", "params", "macs", "latency"]
    limits: dict[str, float] = {}
    budget: BudgetSection = BudgetSection(time=120.0)
    search: SearchSection = SearchSection()
    training: TrainingSection = TrainingSection()
    final: FinalSection = FinalSection()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    threads: Positive | None = None

    @field_validator("objectives")
    @classmethod
    def _known_objectives(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in OBJECTIVES:
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
        """The whole specification as YAML, defaults included; `load` reads the same specification from it."""
        return yamlfile.dump(self.to_json())

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


_DIGITS_AND_LETTERS = ("digits", "mnist", "kmnist", "svhn")
