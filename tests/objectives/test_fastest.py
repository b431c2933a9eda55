import os
import time

import pytest
import torch
from torch import Tensor, nn

import objectives.fastest
from objectives.fastest import best_precision, best_threads
from objectives.recipe import Recipe
from objectives.timedstep import training_step
from objectives.training import train
from tests.objectives.toys import PLAIN, part, same, small_net, weights


class Clock:
    """A clock that steps move on, so that what is chosen does not hang on how busy this machine is."""

    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


def test_slow_steps_are_measured_but_once(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    clock = Clock(monkeypatch)
    tried = []

    def step() -> None:
        tried.append(torch.get_num_threads())
        clock.now += 2.0

    assert best_threads(step) == 1
    assert tried == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({1: 1.2, 2: 1.0, 4: 1.0, 6: 7.0}, 1),
        ({1: 1.3, 2: 1.0, 4: 1.0, 6: 7.0}, 2),
        ({1: 3.0, 2: 1.2, 4: 1.0, 6: 1.0}, 2),
        ({1: 3.0, 2: 2.0, 4: 1.5, 6: 1.0}, 6),
    ],
)
def test_best_threads_prefers_the_fewest_that_are_not_much_slower(monkeypatch, seconds, best):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    clock = Clock(monkeypatch)
    tried = []

    def step() -> None:
        tried.append(torch.get_num_threads())
        hiccup = 0.1 if len(tried) == 2 else 0.0  # a busy moment, timed, which the median must not see
        clock.now += seconds[tried[-1]] / 1000 + hiccup

    assert best_threads(step) == best
    assert tried == [1, 1, 2, 2, 4, 4, 6, 6] * 5
    assert torch.get_num_threads() == 1


def test_threads_come_back_after_an_error():
    torch.set_num_threads(1)

    def step() -> None:
        torch.set_num_threads(2)
        raise KeyError

    with pytest.raises(KeyError):
        best_threads(step)
    assert torch.get_num_threads() == 1


class Paced(nn.Module):
    """Takes a given time in each of the two precisions; its copies move the same clock."""

    def __init__(self, clock: Clock, seconds: dict[str, float]) -> None:
        super().__init__()
        self.clock, self.seconds, self.linear = clock, seconds, nn.Linear(64, 10)

    def __deepcopy__(self, memo: dict[int, object]) -> "Paced":
        return Paced(self.clock, self.seconds)

    def forward(self, images: Tensor) -> Tensor:
        self.clock.now += self.seconds["bf16" if torch.is_autocast_enabled("cpu") else "fp32"]
        return self.linear(images.flatten(1))


@pytest.mark.parametrize(("seconds", "best"), [(0.9, "bf16"), (0.97, "fp32"), (1.5, "fp32")])
def test_precision_is_the_clearly_faster_and_is_measured_once(digits, monkeypatch, seconds, best):
    monkeypatch.setattr(objectives.fastest, "_precisions", {})
    clock = Clock(monkeypatch)
    net = Paced(clock, {"fp32": 1.0, "bf16": seconds})
    split = part(digits[0], 64)
    assert best_precision(net, split, Recipe()) == best
    measured = clock.now
    assert best_precision(net, split, Recipe()) == best
    assert clock.now == measured
    assert train(net, split, Recipe(epochs=1)).precision == best


def test_a_timed_step_trains_a_copy(digits):
    net = small_net()
    before = weights(net)
    step = training_step(net, part(digits[0], 64), PLAIN)
    for _ in range(3):  # past the end of an epoch
        step()
    assert same(weights(net), before)
    assert all(p.grad is None for p in net.parameters())


def test_measuring_does_not_change_what_is_learned(digits, monkeypatch):
    """A run that had to measure first ends where one that was told the precision does."""
    monkeypatch.setattr(objectives.fastest, "_precisions", {})
    split = part(digits[0], 64)
    nets = [nn.Sequential(nn.Dropout2d(0.2), small_net()) for _ in range(2)]
    callers = torch.get_rng_state()
    measured = train(nets[0], split, Recipe(epochs=1))
    assert torch.equal(torch.get_rng_state(), callers)
    train(nets[1], split, Recipe(epochs=1, precision=measured.precision))
    assert same(weights(nets[0]), weights(nets[1]))
