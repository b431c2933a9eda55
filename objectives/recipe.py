"""`Recipe`: how a network is trained, as data."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from spaces.errors import SpecError

Precision = Literal["bf16", "fp32"]
Schedule = Literal["constant", "climb", "cosine", "one-cycle"]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: filters by Muon (Jordan et al. 2024), all else by Nesterov SGD.

    Attributes:
        epochs: Passes over the training split; may be a fraction. The schedule always spans exactly this long.
        batch_size: Images a step, or None to let the split decide; see ``batches``.
        lr: Peak learning rate of Nesterov SGD.
        muon_lr: Peak learning rate of Muon, which follows the same schedule; None: Nesterov SGD for filters too.
        momentum: Of both; 0 is none.
        weight_decay: Of weights with two axes or more that Nesterov SGD updates; norms and biases are left alone.
        schedule: Of the learning rate. "cosine" falls from the peak to zero within the run; "one-cycle" first climbs to
            the peak for ``warmup`` of the run; "constant" stays there, for a run that is going to be gone on with:
            judge it by its moving average; "climb" does so after having climbed.
        warmup: Share of the run spent climbing.
        label_smoothing: Probability mass spread evenly over all classes.
        flip: Mirror half of the images left to right, the other half in the next epoch, and so on. Wrong for digits
            and text.
        shift: Random translation by up to this share of the image's side, in whole pixels rounded down (1/16 is 2 of 32
            and none of 8), the border reflected.
        cutout: Side of a random square that is painted over in each image, as a share of the image's shorter side; its
            centre is anywhere in the image. For long trainings.
        precision: Of the forward and backward pass; weights and optimiser stay in float32. "auto" takes bf16 where that
            measures faster (see ``best_precision``), which makes a result depend on a measurement: where runs must be
            repeatable to the bit, resolve it once and keep the answer.
        channels_last: Memory order of the images.
        ema: Decay per step of a moving average of weights and buffers, or None for no average.
        distill_weight: Share of the loss that is distance to the teacher; used only where there is a teacher.
        temperature: Softens teacher and student (Hinton, Vinyals, Dean 2015).
        clip: Upper bound on the gradient's Euclidean norm, or None. The norm is 0.3 to 1 as a rule; beyond 2 a network
            is about to diverge, at a rate that stays at its peak. Steps of Muon are as long whatever the gradient.
        seed: Of order, augmentation and whatever the module draws itself.

    Raises:
        SpecError: A value is out of its range.

    >>> Recipe(epochs=2).lr == Recipe().lr
    True
    >>> Recipe(lr=-1.0)
    Traceback (most recent call last):
    spaces.errors.SpecError: recipe: lr is -1.0, but must be > 0
    """

    epochs: float = 5.0
    batch_size: int | None = None
    lr: float = 0.6
    muon_lr: float | None = 0.2
    momentum: float = 0.8
    weight_decay: float = 5e-4
    schedule: Schedule = "one-cycle"
    warmup: float = 0.2
    label_smoothing: float = 0.1
    flip: bool = False
    shift: float = 1 / 16
    cutout: float = 0.0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    channels_last: bool = True
    ema: float | None = None
    distill_weight: float = 0.5
    temperature: float = 2.0
    clip: float | None = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        rules = {
            "epochs": (0 < self.epochs < math.inf, "> 0"),
            "batch_size": (
                self.batch_size is None or self.batch_size >= 2,
                ">= 2 (batch norm cannot train on a single image), or None to let the split decide",
            ),
            "lr": (0 < self.lr < math.inf, "> 0"),
            "muon_lr": (self.muon_lr is None or 0 < self.muon_lr < math.inf, "> 0, or None for Nesterov SGD alone"),
            "momentum": (0 <= self.momentum < 1, "in [0, 1)"),
            "weight_decay": (0 <= self.weight_decay < math.inf, ">= 0"),
            "schedule": (
                self.schedule in get_args(Schedule),
                ", ".join(map(repr, get_args(Schedule))),
            ),
            "warmup": (0 <= self.warmup < 1, "in [0, 1)"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "in [0, 1)"),
            "cutout": (0 <= self.cutout < 1, "in [0, 1)"),
            "shift": (0 <= self.shift < 1, "in [0, 1)"),
            "precision": (self.precision in ("auto", "bf16", "fp32"), "'auto', 'bf16' or 'fp32'"),
            "ema": (self.ema is None or 0 <= self.ema < 1, "in [0, 1), or None for no average"),
            "distill_weight": (0 <= self.distill_weight <= 1, "in [0, 1]"),
            "temperature": (0 < self.temperature < math.inf, "> 0"),
            "clip": (self.clip is None or self.clip > 0, "> 0, or None for no clipping"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise SpecError(f"recipe: {name} is {getattr(self, name)!r}, but must be {rule}")


def learning_rate(recipe: Recipe, progress: float) -> float:
    """Learning rate when a share ``progress`` in (0, 1) of the run is over.

    "cosine" is SGDR without restarts (Loshchilov and Hutter 2017); "one-cycle" climbs linearly, then follows the same
    cosine (after Smith and Topin 2018).

    >>> [round(learning_rate(Recipe(lr=1.0, schedule="one-cycle", warmup=0.2), p), 2) for p in (0.1, 0.2, 0.6, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if recipe.schedule == "constant":
        return recipe.lr
    warmup = recipe.warmup if recipe.schedule in ("one-cycle", "climb") else 0.0
    if progress < warmup:
        return recipe.lr * progress / warmup
    if recipe.schedule == "climb":
        return recipe.lr
    return recipe.lr * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2
