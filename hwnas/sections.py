"""The sections of a specification: every key with its type, its rule and its default.

The keys of four sections are arguments of the rooms they configure, which document them in full:

==============  ===========================================
`data`          `objectives.data.load_data`
`space`         `spaces.plain.PlainSpace`, or `spaces.cellspace.CellSpace`
`deployment`    `latency.deployment.Deployment.here`
`training`      `objectives.recipe.Recipe`
==============  ===========================================
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

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


LATENCY = "latency"


def on_device(name: str) -> str:
    """What the latency on a device is called.

    >>> on_device("board")
    'latency.board'
    """
    return f"{LATENCY}.{name}"


class DataSection(Section):
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


class SpaceSection(Section):
    """The networks that may be built; see `spaces.plain.PlainSpace` and `spaces.cellspace.CellSpace`.

    Attributes:
        kind: "plain", or "cell": one cell of NAS-Bench-201, repeated. The last two keys are of cells, the others of
            plain networks.
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
        channels: of the first of three stages; doubled from stage to stage.
        cells: copies of the cell in a stage.
    """

    kind: Literal["plain", "cell"] = "plain"
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
    channels: Positive = 16
    cells: Positive = 5

    def of_kind(self) -> dict[str, Any]:
        """The keys that networks of this kind have."""
        cells = {"channels", "cells"}
        return {name: value for name, value in self if name != "kind" and (name in cells) == (self.kind == "cell")}

    @model_validator(mode="after")
    def _keys_of_the_kind(self) -> Self:
        for name, value in self:
            if name != "kind" and name not in self.of_kind() and value != type(self).model_fields[name].default:
                keys = ", ".join(self.of_kind())
                raise ValueError(f"{name} is no key of a space of kind {self.kind}; its keys are {keys}")
        return self

    @model_validator(mode="after")
    def _widths(self) -> Self:
        if self.min_width > self.max_width:
            raise ValueError(f"min_width is {self.min_width}, more than max_width, which is {self.max_width}")
        return self


class DeploymentSection(Section):
    """Where latency counts; the device is this machine. See `latency.deployment.Deployment`.

    Attributes:
        runtime: ONNX Runtime on the processor, or PyTorch on a GPU, eager or as CUDA graphs.
        threads: threads of one inference.
        batch: images per inference.
        precision: number format of the arithmetic, on a GPU.
        layout: memory order of images, on a GPU.
    """

    runtime: Literal["ort-cpu", "torch-cuda", "torch-cudagraph"] = "ort-cpu"
    threads: Positive = 1
    batch: Positive = 1
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    layout: Literal["nchw", "nhwc"] = "nchw"


class BudgetSection(Section):
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

    def __str__(self) -> str:
        time = [] if self.time is None else [format_duration(self.time)]
        trainings = [] if self.trainings is None else [f"{self.trainings} trainings"]
        return " or ".join([*time, *trainings])


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


StrategyName = Literal[
    "lemonade",
    "surrogate",
    "random",
    "regularized-evolution",
    "local-search",
    "nsga2",
    "sms-emoa",
    "optuna-nsga2",
    "optuna-tpe",
]
"""Strategies; `hwnas.strategies` has them."""

ProxyName = Literal[
    "synflow",
    "jacov",
    "naswot",
    "snip",
    "grasp",
    "fisher",
    "grad_norm",
    "zen",
    "zico",
    "epe_nas",
    "l2_norm",
    "depth",
    "params",
    "macs",
]
"""Zero-cost proxies; `objectives.proxies` has them."""

#: Those whose children can inherit weights, those that rungs fit, and those with a population of a fixed size.
LEMONADES = ("lemonade", "surrogate")
CLIMBERS = (*LEMONADES, "random", "local-search")
EVOLUTIONS = ("regularized-evolution", "nsga2", "sms-emoa")

#: Settings that some strategies alone have as arguments.
USED_BY = {
    "proposals": LEMONADES,
    "proxies": LEMONADES,
    "discard": LEMONADES,
    "promotion": CLIMBERS,
    "rungs": CLIMBERS,
    "factor": CLIMBERS,
    "curves": CLIMBERS,
    "explore": ("surrogate",),
    "population": (*EVOLUTIONS, "optuna-nsga2", "optuna-tpe"),
    "starts": ("random", "local-search", *EVOLUTIONS),
    "revisit": LEMONADES,
    "inherit": LEMONADES,
    "paper_density": LEMONADES,
    "max_parents": LEMONADES,
}


#: Of them, what others are made of: the pre-filter and the rungs.
NOT_ARGUMENTS = ("proxies", "discard", "promotion", "rungs", "factor", "curves")

#: Settings that are of use only where another one is.
NEEDS = {"proxies": "discard", "rungs": "promotion", "factor": "promotion", "curves": "promotion"}


class SearchSection(Section):
    """How candidates are proposed and how long they train; see `hwnas.lemonade.Lemonade`.

    Attributes:
        strategy: LEMONADE, the same guided by a surrogate of the error, or a baseline that trains all from scratch;
            those of Optuna need the extra `hpo`.
        children: networks trained in a generation (the paper's n_ac).
        proposals: children judged by cheap objectives alone, for each that is trained (the paper's n_pc / n_ac);
            null: 12, or 24 with a surrogate.
        proxies: zero-cost proxies by which proposals are judged before any training; see `objectives.proxies`. One
            that does not agree with the errors of trained networks is switched off.
        discard: share of the proposals that they discard, compared with networks of equal cost; 0: none are computed.
        explore: with a surrogate, least part of the children that is accepted without it; null: 0.05.
        promotion: how networks get to be trained further: "asha" as soon as one is among the best of its rung,
            "halving" by brackets; "none": by revisit alone; null: "asha" for LEMONADE, with and without a surrogate,
            "none" for the others. See `hwnas.rungs.Rungs`.
        rungs: how many there are.
        factor: how much longer a network has been trained on each rung than on the one below, and how many compete for
            one place there.
        curves: whether what is unlikely to be of the front then is not promoted.
        population: of evolution other than LEMONADE; null: by the strategy.
        starts: whether a baseline begins with the small networks that LEMONADE begins with, and not with random ones.
        revisit: share of the trainings that goes to networks of the front themselves; like initial_epochs, inherit,
            paper_density and max_parents of LEMONADE only.
        trainings: how many a budget in time is shared out among; null: 120, or 40 from scratch.
        workers: networks that train side by side, each in a process of its own; null: as many as there are cores
            for, one on a GPU. With more than one, the same seed does not give the same search.
        epochs: training of a child, on top of what it inherits; null: what that share allows, more time for large
            networks and more epochs for small ones.
        initial_epochs: the same for the networks that the search starts from.
        inherit: whether children inherit their parent's weights; without it they train from scratch.
        paper_density: weigh parents exactly by the paper's formula, not by its robust form.
        max_parents: parents come from so many networks of the archive, by hypervolume contribution.
    """

    strategy: StrategyName = "surrogate"
    children: Positive = 8
    proposals: Positive | None = None
    proxies: Annotated[list[ProxyName], Field(min_length=1)] = Field(default=["synflow", "jacov"])
    discard: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    explore: Annotated[float, Field(ge=0, le=1)] | None = None
    promotion: Literal["none", "asha", "halving"] | None = None
    rungs: Annotated[int, Field(ge=2)] = 3
    factor: Annotated[int, Field(ge=2)] = 3
    curves: bool = False
    population: Annotated[int, Field(ge=2)] | None = None
    starts: bool = False
    revisit: Annotated[float, Field(ge=0, lt=1)] = 0.25
    trainings: Positive | None = None
    workers: Positive | None = None
    epochs: Annotated[float, Field(gt=0)] | None = None
    initial_epochs: Annotated[float, Field(gt=0)] | None = None
    inherit: bool = True
    paper_density: bool = False
    max_parents: Positive = 40

    @property
    def inherits(self) -> bool:
        """Whether children inherit weights."""
        return self.inherit and self.strategy in LEMONADES

    @property
    def promotes(self) -> str:
        """How networks get to be trained further."""
        return self.promotion or ("asha" if self.strategy in LEMONADES else "none")

    def options(self) -> dict[str, Any]:
        """What the strategy has as arguments; its own default stands where there is null."""
        names = [name for name, who in USED_BY.items() if self.strategy in who and name not in NOT_ARGUMENTS]
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @model_validator(mode="after")
    def _options_of_the_strategy(self) -> Self:
        changed = [name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default]
        off = {
            name for name, is_off in (("discard", not self.discard), ("promotion", self.promotes == "none")) if is_off
        }
        for name in changed:
            strategies = USED_BY.get(name, (self.strategy,))
            if self.strategy not in strategies:
                raise ValueError(
                    f"{name} is of no use to the strategy {self.strategy}; it is to {', '.join(strategies)}"
                )
            if NEEDS.get(name) in off:
                raise ValueError(f"{name} is of no use without {NEEDS[name]}; set that, too")
        if "revisit" in changed and "promotion" not in off:
            raise ValueError(f"revisit is of no use with promotion: {self.promotes}, which decides who trains further")
        return self


class TrainingSection(Section):
    """How every network is trained; see `objectives.recipe.Recipe`. Epochs and seed belong to `search` and `final`.

    Attributes:
        batch_size: images a step; null: by the number of images.
        lr: peak learning rate of Nesterov SGD, which updates all that Muon does not.
        muon_lr: peak learning rate of Muon, which updates the filters of convolutions; null: Nesterov SGD for all.
        momentum: of both.
        weight_decay: of weights with two axes or more that Nesterov SGD updates.
        schedule: of a training from the first step to the last (of references), "cosine", or "one-cycle" with a climb
            to the peak first; the search stays at the peak, and final training falls from it as a cosine.
        warmup: share of a one-cycle run spent climbing.
        label_smoothing: probability mass spread over all classes.
        flip: mirror images left to right; "auto": except for data sets of digits and letters. For folders of such
            images, or where left and right mean something, write false.
        shift: random translation, as a share of the image's side.
        cutout: side of a random square that is painted over, as a share of the image's shorter side; 0: none.
        precision: of the forward and backward pass; "auto": the faster one.
        channels_last: memory order of the images.
        ema: decay of a moving average of the weights; null: by the length of the training in the search, else none.
        distill_weight: share of the loss that a teacher has, where there is one.
        temperature: softens teacher and student.
        clip: upper bound on the gradient's norm; null: none.
    """

    batch_size: Annotated[int, Field(ge=2)] | None = None
    lr: Annotated[float, Field(gt=0)] = 0.6
    muon_lr: Annotated[float, Field(gt=0)] | None = 0.2
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.8
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Literal["cosine", "one-cycle"] = "one-cycle"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.2
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    flip: Literal[True, False, "auto"] = "auto"
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.0625
    cutout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    channels_last: bool = True
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None
    distill_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    temperature: Annotated[float, Field(gt=0)] = 2.0
    clip: Annotated[float, Field(gt=0)] | None = 2.0


class FinalSection(Section):
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
