"""`Executor`: runs a trial in this process: inherit, calibrate, train, evaluate."""

import time
from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from hwnas.trial import Result, Trial
from objectives.accuracy import Accuracy, Metric, evaluate
from objectives.batches import batches, few
from objectives.data import Data
from objectives.modules import out_of_memory_is_an_error
from objectives.recipe import Precision, Recipe
from objectives.training import train
from spaces.arch import Arch
from spaces.errors import TrainingError
from spaces.morphisms import move_from_json
from spaces.network import Network, calibrate
from spaces.space import Space
from spaces.state import State, Tensors, initial_state

#: Images that new norms are calibrated on, and how many pixels of one channel they may have together.
CALIBRATION_IMAGES, CALIBRATION_PIXELS = 256, 256 * 64**2

#: The moving average by which the search judges networks reaches over this part of a training, within these bounds.
AVERAGED, AVERAGED_STEPS = 0.25, (32, 100)


def decay(steps: float) -> float:
    """Decay per step of the moving average of a training of so many steps.

    A rate that stays at its peak leaves noise in the weights, so that even a child that trains for few steps is better
    averaged over 32, though its parent has a part in them; a long training is not better averaged over more than 100.

    >>> decay(16), decay(200), decay(4000)
    (0.96875, 0.98, 0.99)
    """
    least, most = AVERAGED_STEPS
    return 1 - 1 / min(max(AVERAGED * steps, least), most)


def calibration_images(arch: Arch) -> int:
    """How many images the new norms of a network are calibrated on: all are in memory at once."""
    return min(CALIBRATION_IMAGES, max(2, CALIBRATION_PIXELS // (arch.image.height * arch.image.width)))


@dataclass(frozen=True)
class Outcome:
    """What running a trial gave: the result for the strategy, the tensors for the store (none if it failed)."""

    trial: Trial
    result: Result
    state: State | None

    @classmethod
    def failed(cls, trial: Trial, reason: str, seconds: float = 0.0) -> Self:
        """Of a trial that came to nothing."""
        return cls(trial, Result({}, seconds, status="failed", reason=reason), None)


@dataclass(frozen=True)
class Executor:
    """Everything that evaluating a network needs, and that all networks of a study share.

    Attributes:
        space: Reads genotypes and moves.
        data: Trained on its training split, judged on its validation split.
        recipe: How candidates are trained; the trial sets epochs and seed.
        metric: Of the validation.
        device: Where networks train.
    """

    space: Space[Any]
    data: Data
    recipe: Recipe
    metric: Metric
    device: torch.device

    def run(self, trial: Trial, parent: tuple[Trial, State] | None = None, seconds: float | None = None) -> Outcome:
        """Train and judge one network; one that diverges or runs out of memory fails, and costs only itself.

        Args:
            trial: What to run.
            parent: The trial it comes from and what that left, if it starts from there.
            seconds: After so long training is cut short.
        """
        began = time.monotonic()
        deadline = None if seconds is None else began + seconds
        try:
            with out_of_memory_is_an_error():
                outcome = self._outcome(trial, parent, deadline)
            return replace(outcome, result=replace(outcome.result, seconds=time.monotonic() - began))
        except TrainingError as error:
            return Outcome.failed(trial, str(error), time.monotonic() - began)

    def _outcome(self, trial: Trial, parent: tuple[Trial, State] | None, deadline: float | None) -> Outcome:
        arch, state, teacher = self._start(trial, parent)
        recipe = self.search_recipe(trial.fidelity_to - trial.fidelity_from, trial.seed)
        precision: Precision = "bf16" if recipe.precision == "bf16" else "fp32"
        return self.finish(trial, arch, state, recipe, teacher, precision, deadline)

    def search_recipe(self, epochs: float, seed: int) -> Recipe:
        """The recipe of a training in the search: the learning rate stays at its peak, a moving average is judged.

        So a lineage of short trainings learns as much as one long training. If the rate fell to zero in each, the next
        would spend itself on undoing that (`benchmarks/restarts.py` measures both).

        Args:
            epochs: How long.
            seed: Of order and augmentation.
        """
        recipe = replace(self.recipe, epochs=epochs, seed=seed)
        steps = epochs * batches(len(self.data.train), recipe.batch_size)[0]
        return replace(recipe, schedule="constant", ema=decay(steps) if recipe.ema is None else recipe.ema)

    def final_recipe(self, epochs: float, seed: int) -> Recipe:
        """The recipe of the last training of a network that the search has trained.

        Args:
            epochs: How long.
            seed: Of order and augmentation.
        """
        return replace(self.recipe, epochs=epochs, seed=seed, schedule="cosine")

    def finish(
        self,
        trial: Trial,
        arch: Arch,
        state: State,
        recipe: Recipe,
        teacher: torch.nn.Module | None = None,
        precision: Precision = "fp32",
        deadline: float | None = None,
    ) -> Outcome:
        """Train from a state and evaluate.

        Args:
            trial: Whose outcome it is; its `fidelity_from` are the epochs that the state has seen.
            arch: The network.
            state: Where it starts.
            recipe: How it is trained.
            teacher: A network to be near to.
            precision: Of the evaluation.
            deadline: `time.monotonic()` at which training is cut short.

        Raises:
            TrainingError: The network diverged or ran out of memory.
        """
        began = time.monotonic()
        network = Network(arch, state.value).to(self.device)
        run = train(
            network,
            self.data.train,
            recipe,
            teacher=teacher,
            momentum=state.momentum,
            ema=state.ema if state.ema and recipe.ema is not None else None,
            seen=round(trial.fidelity_from * batches(len(self.data.train), recipe.batch_size)[0]) if state.ema else 0,
            deadline=deadline,
        )
        found = evaluate(network, self.data.val, self.metric, weights=run.ema, precision=precision)
        average, momentum = ({key: t.cpu() for key, t in (kept or {}).items()} for kept in (run.ema, run.momentum))
        trained = State(network.tensors(), average, momentum)
        info = {
            "stderr": found.stderr,
            "images": found.n,
            "epochs": trial.fidelity_from + run.epochs,
            "loss": run.loss,
        }
        return Outcome(trial, Result({"error": found.error}, time.monotonic() - began, info=info), trained)

    def judge(self, arch: Arch, state: State) -> Accuracy:
        """Accuracy on the validation split, in full precision.

        Raises:
            TrainingError: The network is broken, or memory ran out.
        """
        return evaluate(Network(arch, state.best).to(self.device), self.data.val, self.metric)

    def _start(self, trial: Trial, parent: tuple[Trial, State] | None) -> tuple[Arch, State, torch.nn.Module | None]:
        """Architecture, first weights, and a teacher where a move was approximate."""
        genotype = self.space.from_json(trial.genotype)
        arch = self.space.decode(genotype)
        if trial.init == "scratch":
            return arch, initial_state(arch, trial.seed, mean=list(self.data.mean), std=list(self.data.std)), None
        assert parent is not None
        if trial.init == "checkpoint":
            return arch, parent[1], None
        return self.inherited(trial, *parent)

    def inherited(self, trial: Trial, parent: Trial, state: State) -> tuple[Arch, State, torch.nn.Module | None]:
        """Architecture of a child, its first weights, and a teacher where a move was approximate.

        Args:
            trial: The child.
            parent: The trial it comes from.
            state: What that left.
        """
        genotype = self.space.from_json(parent.genotype)
        teacher: torch.nn.Module | None = None
        for step in trial.moves:
            child = self.space.apply(genotype, move_from_json(step))
            if child.exact is None and teacher is None:
                teacher = Network(self.space.decode(genotype), state.best).to(self.device)
            genotype, state = child.genotype, child.transfer(state)
            if child.exact is None:  # an average of weights that no longer work is worth nothing: it begins anew
                state = replace(state, ema={})
            if child.exact == "eval":
                state = self._calibrated(self.space.decode(genotype), state, child.new, trial.seed)
        return self.space.decode(genotype), state, teacher

    def _calibrated(self, arch: Arch, state: State, nodes: frozenset[str], seed: int) -> State:
        """New norms set from training images, so that the child computes in training mode what the parent did."""
        images, _ = few(self.data.train, calibration_images(arch), seed)
        batch = images.to(self.device)

        def calibrated(tensors: Tensors) -> Tensors:
            there = {key: tensor.to(self.device) for key, tensor in tensors.items()}
            return {key: tensor.cpu() for key, tensor in calibrate(arch, there, nodes, batch).items()}

        return State(calibrated(state.value), calibrated(state.ema) if state.ema else {}, state.momentum)
