import math

import pytest

from latency.kernels import Kernel
from latency.timing import Measured, Protocol, measure_many, repeat, time_kernels
from spaces.errors import LatencyError, SpecError

QUICK = Protocol(passes=3, kernel_ms=0.01, network_ms=0.01)
RELU = Kernel.parse("Relu@14 1x8 -> 1x8")
SIGMOID = Kernel.parse("Sigmoid@13 1x8 -> 1x8")


@pytest.mark.parametrize("name", ["passes", "span_ms", "kernel_ms", "network_ms"])
def test_protocols_without_time_are_refused(name):
    with pytest.raises(SpecError, match=f"{name}=0 of the timing protocol must be above 0"):
        Protocol(**{name: 0})


@pytest.mark.parametrize("seconds", [2e-8, 3e-6, 5e-3, 0.8])
def test_what_a_call_costs_is_left_out(scripted, seconds):
    (timing,) = time_kernels(scripted(seconds=lambda kernel: seconds), [RELU], QUICK)
    assert timing.min_us == pytest.approx(1e6 * seconds, abs=1e-3)
    assert (timing.spread, timing.passes) == (pytest.approx(0, abs=1e-3), 3)


@pytest.mark.parametrize("seconds", [0.0, 1e-10, -1e-8, math.nan])
def test_a_kernel_that_takes_no_time_is_an_error(scripted, seconds):
    """As a row it would be free for ever."""
    runtime = scripted(seconds=lambda kernel: 1e-6 if kernel.op == "Relu" else seconds)
    with pytest.raises(
        LatencyError,
        match=r"'Sigmoid@13 1x8 -> 1x8' could not be timed: more of it takes no longer than one, in 5 attempts; try",
    ):
        time_kernels(runtime, [RELU, SIGMOID], QUICK)
    assert runtime.asked == ["Relu"] + ["Sigmoid"] * 5


@pytest.mark.parametrize("wrong", [0.0, -1e-8, math.nan])
def test_a_measurement_that_noise_has_spoiled_is_repeated(scripted, wrong):
    runtime = scripted()
    runtime.seconds = lambda kernel: wrong if len(runtime.asked) < 3 else 2e-6
    (timing,) = time_kernels(runtime, [RELU], Protocol(passes=1, kernel_ms=0.01))
    assert timing.min_us == pytest.approx(2.0)
    assert len(runtime.asked) == 3


def test_minimum_median_and_spread_are_those_of_the_passes(scripted):
    runtime = scripted()
    runtime.seconds = lambda kernel: [5e-6, 2e-6, 3e-6][len(runtime.asked) - 1]
    (timing,) = time_kernels(runtime, [RELU], QUICK)
    assert (timing.min_us, timing.median_us, timing.spread) == (2.0, 3.0, 1.0)


def test_kernels_are_interleaved_and_built_anew_in_each_pass(scripted):
    runtime = scripted()
    time_kernels(runtime, [RELU, SIGMOID], QUICK)
    assert runtime.asked == ["Relu", "Sigmoid"] * 3


def test_copies_fill_the_span_but_not_more(scripted):
    runtime = scripted(seconds=lambda kernel: 1e-4)
    copies = []
    original = runtime.kernel
    runtime.kernel = lambda kernel, count: (copies.append(count), original(kernel, count))[1]
    time_kernels(runtime, [RELU], Protocol(passes=1, span_ms=1.0, kernel_ms=0.01))
    assert copies == [1, 1 + 2, 1 + 8]  # 16 would be more than 1 ms
    copies.clear()
    runtime.seconds = lambda kernel: 1e-8
    time_kernels(runtime, [RELU], Protocol(passes=1, kernel_ms=0.01))
    assert copies == [1, 1 + 2, 1 + 16]
    copies.clear()
    runtime.seconds = lambda kernel: 3.0
    time_kernels(runtime, [RELU], Protocol(passes=1, kernel_ms=0.01))
    assert copies == [1, 1 + 2]


def test_networks_are_interleaved(scripted, make_cnn):
    models = [make_cnn(4, 8), make_cnn(8, 8)]
    for model, name in zip(models, "ab", strict=True):
        model.graph.name = name
    runtime = scripted()
    measured = measure_many(runtime, models, QUICK, rounds=4)
    assert runtime.asked == ["a", "b"] * 4
    wanted = [1e3 * runtime.network(model)() for model in models]
    assert [m.quiet_ms for m in measured] == pytest.approx(wanted)
    assert [len(m.rounds) for m in measured] == [4, 4]


def test_a_noisy_round_moves_the_percentiles_but_not_the_quiet_latency(scripted, make_cnn):
    runtime = scripted()
    rounds = iter([1e-3, 9e-3, 1e-3])
    runtime.network = lambda model: (lambda seconds: lambda: seconds)(next(rounds))
    # Without a time limit each round runs five times.
    (measured,) = measure_many(runtime, [make_cnn(4, 8)], Protocol(network_ms=1e-9), rounds=3)
    assert measured == Measured(quiet_ms=1.0, p50_ms=1.0, p95_ms=9.0, min_ms=1.0, rounds=(1.0, 9.0, 1.0))


def test_repeat_takes_turns():
    order = []
    results = repeat(0, lambda: order.append("a") or 1.0, lambda: order.append("b") or 2.0, least=3)
    assert order == ["a", "b"] * 3
    assert results == [[1.0] * 3, [2.0] * 3]
