"""`SearchSection`: how a specification says what is trained next; which of its keys are of use to which strategy."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from hwnas.section import Positive, Section

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
    "initial_epochs": LEMONADES,
    "inherit": LEMONADES,
    "paper_density": LEMONADES,
    "max_parents": LEMONADES,
}

#: Of them, what others are made of: the pre-filter, the rungs and the plan.
NOT_ARGUMENTS = ("proxies", "discard", "promotion", "rungs", "factor", "curves", "initial_epochs")

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
        trainings: how many networks a budget in time is shared out among; null: 120, or 40 from scratch, at least 20
            for each worker.
        workers: networks that train side by side, each in a process of its own; null: as many as there are cores
            and memory for, one on a GPU and where images do not fit into the memory. With more than one, the same seed
            does not give the same search.
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
        is_off = {"discard": not self.discard, "promotion": self.promotes == "none"}
        for name in changed:
            strategies = USED_BY.get(name, (self.strategy,))
            if self.strategy not in strategies:
                raise ValueError(
                    f"{name} is of no use to the strategy {self.strategy}; it is to {', '.join(strategies)}"
                )
            if name in NEEDS and is_off[NEEDS[name]]:
                raise ValueError(f"{name} is of no use without {NEEDS[name]}; set that, too")
        if "revisit" in changed and not is_off["promotion"]:
            raise ValueError(f"revisit is of no use with promotion: {self.promotes}, which decides who trains further")
        return self
