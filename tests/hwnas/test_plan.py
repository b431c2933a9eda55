import os
import time
from dataclasses import replace

import pytest
import torch

from hwnas import plan
from hwnas.plan import EPOCHS, Plan, measure, network, seconds_per_epoch
from hwnas.schedule import Schedule, longest
from objectives.recipe import Recipe
from spaces.errors import SpecError, TrainingError
from spaces.plain import PlainSpace
from tests.hwnas.toys import digits

SPACE = PlainSpace((1, 8, 8), classes=10, stages=2, max_width=16)
CPU = torch.device("cpu")
RECIPE = Recipe(precision="fp32")


@pytest.fixture(autouse=True)
def _threads_as_they_were():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_what_the_user_fixed_stays():
    found = measure(
        SPACE.starts(), digits(), RECIPE, CPU, seconds=1e-9, threads=2, workers=3, epochs=0.7, initial_epochs=0.9
    )
    assert found == Plan(2, "fp32", Schedule.constant(0.7), Schedule.constant(0.9), 3)
    assert torch.get_num_threads() == 2
    assert Plan.from_json(found.to_json()) == found


def test_what_nobody_fixed_is_measured(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)  # one core is measured fast
    found = measure(SPACE.starts(), digits(), replace(RECIPE, precision="auto"), CPU, seconds=None)
    assert found.threads == torch.get_num_threads() == 1
    assert found.precision in ("bf16", "fp32")
    constant = [Schedule.constant(epochs) for epochs in (plan.DEFAULT_EPOCHS, 2 * plan.DEFAULT_EPOCHS)]
    assert [found.epochs, found.initial_epochs] == constant


def test_epochs_follow_the_time_within_bounds(monkeypatch):
    monkeypatch.setattr(plan, "seconds_per_epoch", lambda module, data, recipe: 2.0)

    def epochs(seconds, **options):
        found = measure(SPACE.starts(), digits(), RECIPE, CPU, seconds=seconds, threads=1, **({"workers": 1} | options))
        return found.epochs.epochs({"macs": 1e5})

    assert epochs(plan.TRAININGS * 2.0) == pytest.approx(1, rel=0.1)  # to plan takes time as well
    assert epochs(plan.TRAININGS * 6.0) == pytest.approx(3, rel=0.1)
    assert epochs(1.0) == EPOCHS[0]
    assert epochs(1e9) == EPOCHS[1]
    assert epochs(1000.0, trainings=250) == pytest.approx(2, rel=0.1)
    assert epochs(plan.TRAININGS * 2.0, workers=3) == pytest.approx(3, rel=0.1)
    assert epochs(200.0, workers=32) == pytest.approx(200 * 32 / (plan.TRAININGS_A_WORKER * 32) / 2, rel=0.1)
    assert epochs(plan.TRAININGS * 6.0, work=3.0) == pytest.approx(1, rel=0.1)


def test_the_first_generation_takes_no_more_than_its_share_of_the_time(monkeypatch):
    times = iter([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0] * 3)
    monkeypatch.setattr(plan, "seconds_per_epoch", lambda module, data, recipe: next(times))
    monkeypatch.setattr(plan, "FIRST_EPOCHS", (0.0, 1e9))
    archs = SPACE.starts() + SPACE.starts()[:2]
    share = plan.FIRST_SHARE * 1e4
    for workers, typical in ((1, share / 7), (2, share / 3.5), (64, share / longest([1.0, 64.0]))):
        found = measure(archs, digits(), RECIPE, CPU, seconds=1e4, threads=1, workers=workers)
        assert found.initial_epochs.seconds == pytest.approx(typical, rel=0.01)


def test_several_workers_are_refused_where_images_are_read_from_a_file():
    with pytest.raises(SpecError, match="workers is 2, but the images do not fit"):
        measure(SPACE.starts(), replace(digits(), streamed=True), RECIPE, CPU, seconds=None, workers=2)


def test_there_are_as_many_workers_as_cores_and_memory_allow(monkeypatch):
    monkeypatch.setattr(plan, "usable_cores", lambda: 8)
    monkeypatch.setattr(plan, "free_memory", lambda: 100 * plan.WORKER_BYTES)
    assert plan.most_workers(CPU, 1, digits(), 0) == 8
    assert plan.most_workers(CPU, 3, digits(), 0) == 2
    assert plan.most_workers(torch.device("cuda"), 1, digits(), 0) == 1
    assert plan.most_workers(CPU, 1, replace(digits(), streamed=True), 0) == 1
    assert plan.most_workers(CPU, 1, digits(), 24 * plan.WORKER_BYTES) == 4
    monkeypatch.setattr(plan, "free_memory", lambda: 2.5 * plan.WORKER_BYTES)
    assert plan.most_workers(CPU, 1, digits(), 0) == 2


def test_cores_have_a_network_each_before_any_has_two(monkeypatch):
    monkeypatch.setattr(plan, "usable_cores", lambda: 8)
    monkeypatch.setattr(plan, "best_threads", lambda step: 8)
    found = {}
    for gigabytes, workers in ((100, None), (2.5, None), (100, 4), (100, 16)):
        monkeypatch.setattr(plan, "free_memory", lambda size=gigabytes: int(size * plan.WORKER_BYTES))
        planned = measure(SPACE.starts(), digits(), RECIPE, CPU, seconds=None, workers=workers)
        found[gigabytes, workers] = (planned.workers, planned.threads)
    assert found == {(100, None): (8, 1), (2.5, None): (2, 4), (100, 4): (4, 2), (100, 16): (16, 1)}


def test_a_start_that_does_not_fit_into_memory_is_planned_without(monkeypatch):
    def seconds(module, data, recipe):
        if len(asked := module.arch.nodes) == largest:
            raise TrainingError("out of memory: so many bytes")
        return float(len(asked))

    monkeypatch.setattr(plan, "seconds_per_epoch", seconds)
    starts = SPACE.starts()
    largest = max(len(arch.nodes) for arch in starts)
    some = [arch for arch in starts if len(arch.nodes) < largest]
    found, expected = (measure(archs, digits(), RECIPE, CPU, seconds=1e4, threads=1) for archs in (starts, some))
    assert found.epochs.epochs({"macs": 1e5}) == pytest.approx(expected.epochs.epochs({"macs": 1e5}), rel=0.1)
    with pytest.raises(TrainingError, match="so many bytes"):
        measure([arch for arch in starts if arch not in some], digits(), RECIPE, CPU, seconds=1e4, threads=1)


def test_from_scratch_there_are_fewer_trainings_and_all_are_alike(monkeypatch):
    monkeypatch.setattr(plan, "seconds_per_epoch", lambda module, data, recipe: 2.0)
    seconds = plan.SCRATCH_TRAININGS * 12.0
    found = measure(SPACE.starts(), digits(), RECIPE, CPU, seconds=seconds, threads=1, workers=1, inherit=False)
    assert found.epochs.epochs({"macs": 1e5}) == pytest.approx(6, rel=0.1)
    assert found.initial_epochs == found.epochs


def test_what_planning_took_is_not_planned_with(monkeypatch):
    def slow(module, data, recipe):
        time.sleep(0.1)
        return 2.0

    monkeypatch.setattr(plan, "seconds_per_epoch", slow)
    found = measure(SPACE.starts(), digits(), RECIPE, CPU, seconds=0.2, threads=1, trainings=1)
    assert found.epochs.seconds == 0
    assert found.epochs.epochs({"macs": 1e5}) == EPOCHS[0]


def test_seconds_per_epoch_are_those_of_real_steps():
    small, large = (network(SPACE.plain([width, width], [2, 2]), CPU) for width in (8, 256))
    weights = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    quick, slow = (seconds_per_epoch(module, digits(), RECIPE) for module in (small, large))
    assert 0 < quick < slow
    assert all(torch.equal(tensor, weights[name]) for name, tensor in small.state_dict().items())
