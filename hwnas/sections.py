"""The sections of a specification: every key with its type, its rule and its default; `search` has a file of its own.

The keys of four sections are arguments of the rooms they configure, which document them in full:

==============  ===========================================
`data`          `objectives.data.load_data`
`space`         `spaces.plain.PlainSpace`, or `spaces.cellspace.CellSpace`
`deployment`    `latency.deployment.Deployment.here`
`training`      `objectives.recipe.Recipe`
==============  ===========================================
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from hwnas.quantities import format_duration, parse_duration
from hwnas.section import Count, Duration, Positive, Section, Share
from spaces.errors import SpecError


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
