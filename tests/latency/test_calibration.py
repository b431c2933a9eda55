import numpy as np
import pytest

from latency.calibration import Calibration

RNG = np.random.default_rng(0)
NEAR, FAR, KERNELS = RNG.uniform(0.03, 5, 40), RNG.uniform(0, 1, 40), RNG.integers(10, 80, 40)


@pytest.mark.parametrize("true", [Calibration(1.05, 1.3, 0.0), Calibration(0.97, 0.8, 1.2), Calibration(1.0, 1.0, 5.0)])
def test_what_a_device_adds_is_found(true):
    took = [true.total(*each) for each in zip(NEAR, FAR, KERNELS, strict=True)] * RNG.uniform(0.97, 1.03, 40)
    found = Calibration.fitted(NEAR, FAR, KERNELS, took)
    assert found.near == pytest.approx(true.near, abs=0.03)
    assert found.far == pytest.approx(true.far, abs=0.1)
    assert found.handover_us == pytest.approx(true.handover_us, abs=0.3)


def test_nothing_is_negative():
    took = 0.5 * NEAR  # faster than any of its parts
    found = Calibration.fitted(NEAR, FAR, KERNELS, took)
    assert found.far == found.handover_us == 0
    assert 0.4 < found.near < 0.6


def test_without_networks_nothing_is_changed():
    assert Calibration.fitted([], [], [], []) == Calibration()
