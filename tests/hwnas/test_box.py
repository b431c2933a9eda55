import json

import numpy as np
import pytest

from hwnas.box import Box
from objectives.base import Estimate

STARTS = [
    {"params": Estimate.exact(1000), "latency": Estimate(2.0, 1.0, 5.0)},
    {"params": Estimate.exact(50_000), "latency": Estimate(4.0, 3.0, 9.0)},
]


def test_reaches_a_decade_beyond_the_starts_and_the_limits():
    box = Box.around(STARTS, ["error", "params", "latency"], {"latency": 3.0}, guessing=0.9)
    assert box.objectives == ("error", "params", "latency")
    assert box.ideal == pytest.approx((0, 100, 0.2))
    assert box.reference == pytest.approx((0.9, 500_000, 30.0))


@pytest.mark.parametrize(
    ("points", "share"),
    [
        ([], 0),
        ([[0.9, 100]], 0),  # no better than chance
        ([[0.45, 1e6]], 0),  # beyond the dearest
        ([[0.0, 100.0]], 1),
        ([[0.45, 1000.0]], 3 / 8),
        ([[0.45, 1000.0], [0.45, 1000.0], [0.6, 2000.0]], 3 / 8),
        ([[0.45, 10.0]], 1 / 2),  # better than the best corner counts as that
        ([[0.45, 1000.0], [0.225, 100_000.0]], 3 / 8 + 1 / 16),
    ],
)
def test_volume_is_a_share_of_the_box(points, share):
    box = Box(("error", "params"), (0.0, 100.0), (0.9, 1e6))
    assert box.volume(np.array(points, dtype=float).reshape(-1, 2)) == pytest.approx(share)
    assert box.volume(points) == pytest.approx(share)


def test_more_networks_never_dominate_less():
    box = Box(("params", "error"), (100.0, 0.0), (1e6, 1.0))
    rng = np.random.default_rng(0)
    points = np.stack([10 ** rng.uniform(1, 7, 40), rng.uniform(0, 1.2, 40)], axis=1)
    volumes = [box.volume(points[:count]) for count in range(41)]
    assert volumes == sorted(volumes)
    assert 0 < volumes[-1] < 1


def test_a_more_accurate_network_at_the_limit_is_worth_something():
    box = Box.around(STARTS, ["error", "latency"], {"latency": 3.0}, guessing=0.9)
    assert box.volume([[0.3, 1.0], [0.1, 3.0]]) > 1.1 * box.volume([[0.3, 1.0]])


def test_json():
    box = Box.around(STARTS, ["error", "params", "latency"], {}, guessing=0.5)
    assert Box.from_json(json.loads(json.dumps(box.to_json()))) == box
