import time
from dataclasses import replace

import pytest
import torch

import hwnas.executor
from hwnas.executor import Executor, calibration_images, decay
from hwnas.trial import Trial
from objectives.accuracy import evaluate
from objectives.batches import batches
from objectives.recipe import Recipe
from spaces.morphisms import Deepen, Prune, Separate, Widen
from spaces.network import Network
from spaces.plain import PlainSpace
from spaces.state import State, initial_state
from tests.hwnas.toys import digits

SPACE = PlainSpace((1, 8, 8), classes=10, stages=2, max_width=32)
START = SPACE.plain([8, 8], [1, 1])
CPU = torch.device("cpu")
RECIPE = Recipe(precision="fp32", lr=0.05)


def trial(id=0, genotype=START, **changes):
    record = {"hash": SPACE.decode(genotype).hash, "fidelity_to": 2.0, "seed": 5}
    return Trial(id=id, genotype=SPACE.to_json(genotype), **(record | changes))


def child(parent, *moves, id=1, **changes):
    """What a strategy makes of moves."""
    genotype = SPACE.from_json(parent.genotype)
    for move in moves:
        genotype = SPACE.apply(genotype, move).genotype
    record = {"parent": parent.id, "init": "parent", "moves": tuple(move.to_json() for move in moves)}
    seen = {"fidelity_from": parent.fidelity_to, "fidelity_to": parent.fidelity_to + 1}
    return trial(id, genotype, **(record | seen | changes))


def make(**changes):
    return replace(Executor(SPACE, digits(), RECIPE, "accuracy", CPU), **changes)


def run(executor, *trials, parents=None):
    return [executor.run(trial, (parents or {}).get(trial.parent)) for trial in trials]


@pytest.fixture(scope="module")
def parent():
    """A trained network, as the store gives it back."""
    (outcome,) = run(make(), trial(fidelity_to=30.0))
    assert outcome.result.values["error"] < 0.6
    return outcome.trial, State.from_flat(outcome.state.flat())


@pytest.fixture
def trained(monkeypatch):
    """What `train` is called with: module as it was, and all keyword arguments."""
    calls = []
    real = hwnas.executor.train

    def train(module, split, recipe, **arguments):
        calls.append({"weights": module.tensors(), "recipe": recipe, **arguments})
        return real(module, split, recipe, **arguments)

    monkeypatch.setattr(hwnas.executor, "train", train)
    return calls


def scores(arch, tensors, training=False):
    network = Network(arch, tensors).train(training)
    return network(digits().val.images[:64].float() / 255).detach()


def test_from_scratch(trained):
    (outcome,) = run(make(), trial(fidelity_to=1.5))
    data = digits()
    expected = initial_state(START, 5, mean=list(data.mean), std=list(data.std)).value
    assert all(torch.equal(expected[name], tensor) for name, tensor in trained[0]["weights"].items())
    assert (trained[0]["recipe"].epochs, trained[0]["recipe"].seed, trained[0]["recipe"].lr) == (1.5, 5, RECIPE.lr)
    assert (trained[0]["teacher"], trained[0]["momentum"]) == (None, {})
    result = outcome.result
    found = evaluate(Network(START, outcome.state.ema), data.val)
    assert result.values == {"error": found.error}
    assert (result.info["stderr"], result.info["images"]) == (found.stderr, len(data.val))
    assert result.info["epochs"] == pytest.approx(1.5, abs=0.2)
    assert result.seconds > 0
    assert outcome.state.momentum.keys() == {name for name, param in START.params.items() if param.trainable}


def test_the_seconds_of_a_result_are_those_of_all_that_was_done(parent, monkeypatch):
    deeper, real = child(parent[0], Deepen("n2", 3)), Executor._start

    def start(self, *of):
        time.sleep(0.5)
        return real(self, *of)

    monkeypatch.setattr(Executor, "_start", start)
    assert run(make(), deeper, parents={0: parent})[0].result.seconds > 0.5


def test_fewer_large_images_are_enough_to_calibrate_on():
    spaces = {side: PlainSpace((3, side, side), classes=10, stages=1) for side in (8, 64, 224, 2048)}
    assert {side: calibration_images(space.plain([8], [1])) for side, space in spaces.items()} == {
        8: 256,
        64: 256,
        224: 20,
        2048: 2,
    }


def test_the_moving_average_reaches_over_a_quarter_of_the_steps_if_nobody_says_otherwise():
    steps, _ = batches(len(digits().train), RECIPE.batch_size)
    assert make().search_recipe(30.0, 0).ema == decay(30 * steps) > decay(20)
    assert make(recipe=replace(RECIPE, ema=0.0)).search_recipe(20.0, 0).ema == 0.0


def test_the_same_trial_gives_the_same_tensors(parent):
    wider = child(parent[0], Widen("n2", 0, 8, seed=3))
    again = [run(make(), wider, parents={0: parent})[0].state.flat() for _ in range(2)]
    assert all(torch.equal(tensor, again[1][name]) for name, tensor in again[0].items())


def test_a_child_begins_as_what_its_parent_was(parent, trained):
    wider = child(parent[0], Widen("n2", 0, 8, seed=3))
    (outcome,) = run(make(), wider, parents={0: parent})
    arch = SPACE.from_json(wider.genotype)
    assert torch.allclose(scores(arch, trained[0]["weights"]), scores(START, parent[1].value), atol=1e-4)
    assert trained[0]["teacher"] is None
    assert trained[0]["recipe"].epochs == 1
    assert trained[0]["recipe"].lr == RECIPE.lr
    assert (trained[0]["recipe"].schedule, trained[0]["recipe"].ema) == ("constant", decay(6))
    momentum = trained[0]["momentum"]
    assert momentum.keys() == {name for name, param in arch.params.items() if param.trainable}
    assert any(tensor.abs().max() > 0 for tensor in momentum.values())
    assert outcome.result.info["epochs"] == pytest.approx(parent[0].fidelity_to + 1)
    assert outcome.state.value.keys() == arch.params.keys()


def test_a_checkpoint_is_trained_on(parent, trained):
    again = child(parent[0], init="checkpoint")
    (outcome,) = run(make(), again, parents={0: parent})
    assert all(torch.equal(tensor, parent[1].value[name]) for name, tensor in trained[0]["weights"].items())
    assert trained[0]["momentum"] == parent[1].momentum
    assert outcome.result.info["epochs"] == pytest.approx(parent[0].fidelity_to + 1)


def test_many_short_trainings_are_worth_one_long_one():
    """What a lineage rests on: each link is short, and goes on where the last one stopped."""
    long, short = [], []
    for seed in range(3):
        (outcome,) = run(make(), trial(fidelity_to=8.0, seed=seed))
        long.append(outcome.result.values["error"])
        last, results = trial(fidelity_to=1.0, seed=seed), {}
        for link in range(1, 9):
            (outcome,) = run(make(), last, parents=results)
            results[last.id] = (last, outcome.state)
            last = child(last, init="checkpoint", id=link, fidelity_to=link + 1.0)
        short.append(outcome.result.values["error"])
    assert sum(short) < sum(long) + 3 * 0.05


def test_a_child_without_inheritance_begins_from_scratch(parent, trained):
    fresh = child(parent[0], Widen("n2", 0, 8), init="scratch", fidelity_from=0.0, fidelity_to=1.0)
    run(make(), fresh, parents={0: parent})
    arch = SPACE.from_json(fresh.genotype)
    data = digits()
    expected = initial_state(arch, fresh.seed, mean=list(data.mean), std=list(data.std)).value
    assert all(torch.equal(expected[name], tensor) for name, tensor in trained[0]["weights"].items())


def test_after_an_approximate_move_the_network_before_it_teaches(parent, trained):
    moves = [Widen("n2", 0, 8, seed=3), Separate("n3"), Prune("n2", 0, 8)]
    approximate = child(parent[0], *moves)
    run(make(), approximate, parents={0: parent})
    teacher = trained[0]["teacher"]
    wider = SPACE.apply(START, moves[0])
    assert teacher.arch == wider.genotype
    assert torch.allclose(scores(wider.genotype, teacher.tensors()), scores(START, parent[1].best), atol=1e-4)
    assert trained[0]["weights"].keys() == SPACE.from_json(approximate.genotype).params.keys()


def test_new_norms_are_calibrated_so_that_training_mode_is_exact_too(parent, trained):
    deeper = child(parent[0], Deepen("n2", 3))
    arch = SPACE.from_json(deeper.genotype)
    run(make(), deeper, parents={0: parent})
    began = trained[0]["weights"]
    applied = SPACE.apply(START, Deepen("n2", 3))
    uncalibrated = applied.transfer(parent[1]).value
    assert applied.exact == "eval"
    before = scores(START, parent[1].value, training=True)
    error, without = (
        float((scores(arch, tensors, training=True) - before).abs().max()) for tensors in (began, uncalibrated)
    )
    assert error < 0.2 * without
    changed = {name.split(".")[0] for name in began if not torch.equal(began[name], uncalibrated[name])}
    assert changed == {node for node in applied.new if f"{node}.gamma" in began}


def test_a_moving_average_is_inherited_judged_and_calibrated(trained):
    executor = make(recipe=replace(RECIPE, ema=0.5))
    (first,) = run(executor, trial())
    assert first.state.ema.keys() == first.state.value.keys()
    found = evaluate(Network(START, first.state.ema), digits().val)
    assert first.result.values == {"error": found.error}
    parents = {0: (first.trial, first.state)}
    deeper = child(first.trial, Deepen("n2", 3))
    run(executor, deeper, parents=parents)
    assert trained[1]["ema"].keys() == SPACE.from_json(deeper.genotype).params.keys()
    norms = {name for name in SPACE.apply(START, Deepen("n2", 3)).new if f"{name}.gamma" in trained[1]["ema"]}
    assert norms
    assert all(trained[1]["ema"][f"{name}.mean"].abs().max() > 0 for name in norms)  # of images, no longer zero


def test_after_an_approximate_move_the_moving_average_begins_anew(trained):
    """What the move makes of an average does not work yet, and would weigh down all that the child learns."""
    executor = make(recipe=replace(RECIPE, ema=0.99))
    (first,) = run(executor, trial())
    parents = {0: (first.trial, first.state)}
    run(executor, child(first.trial, Separate("n3"), Widen("n2", 0, 8)), parents=parents)
    run(executor, child(first.trial, Widen("n2", 0, 8)), parents=parents)
    approximate, exact = trained[1:]
    assert (approximate["ema"], approximate["seen"]) == (None, 0)
    assert exact["ema"] is not None
    assert exact["seen"] > 0


def test_a_candidate_that_diverges_fails_alone(parent):
    good = child(parent[0], Widen("n2", 0, 8), id=2)
    broken = replace(parent[1], value={name: tensor * float("nan") for name, tensor in parent[1].value.items()})
    parents = {0: parent, 1: (parent[0], broken)}
    failing = child(replace(parent[0], id=1), Widen("n2", 0, 8), id=3)
    first, second, third = run(make(), good, failing, replace(good, id=4), parents=parents)
    assert [outcome.trial.id for outcome in (first, second, third)] == [2, 3, 4]
    assert (second.result.status, second.state, second.result.values) == ("failed", None, {})
    assert second.result.reason.startswith("diverged")
    assert second.result.seconds > 0
    assert third.result.values == first.result.values


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: not enough memory")]
)
def test_a_candidate_that_runs_out_of_memory_before_its_training_fails_alone(parent, error, monkeypatch):
    def too_large(*_):
        raise error

    monkeypatch.setattr(Executor, "inherited", too_large)
    outcome, fine = run(make(), child(parent[0], Widen("n2", 0, 8)), trial(2), parents={0: parent})
    assert (outcome.result.status, fine.result.status) == ("failed", "ok")
    assert outcome.result.reason.startswith("out of memory")


def test_bugs_are_not_swallowed(parent):
    with pytest.raises(AssertionError):
        run(make(), child(parent[0], Widen("n2", 0, 8)))


def test_a_deadline_cuts_a_training_short():
    outcome = make().finish(trial(), START, initial_state(START), replace(RECIPE, epochs=50.0), deadline=0.0)
    assert outcome.result.info["epochs"] < 1


def test_balanced_accuracy():
    (outcome,) = run(make(metric="balanced-accuracy"), trial())
    found = evaluate(Network(START, outcome.state.best), digits().val, "balanced-accuracy")
    assert outcome.result.values == {"error": found.error}
