"""The model of the error learns what there is to learn and says how sure it is."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from hwnas.surrogate import LEAST_ERROR, ErrorModel


def rows(count, seed=0):
    """Two features that matter, one that does not, one that some rows lack and one that is constant."""
    rng = np.random.default_rng(seed)
    return [
        {"depth": float(d), "width": w, "noise": n, "same": 3.0, **({"rare": 1.0} if r < 0.2 else {})}
        for d, w, n, r in zip(
            rng.integers(1, 9, count), rng.uniform(3, 7, count), rng.normal(size=count), rng.random(count), strict=True
        )
    ]


def errors(rows):
    return np.array(
        [0.5 * math.exp(-0.1 * row["depth"] - 0.2 * row["width"]) + 0.02 * row.get("rare", 0) for row in rows]
    )


def test_orders_networks_it_has_not_seen():
    train, test = rows(60), rows(40, seed=1)
    guessed, spread = ErrorModel.fit(train, errors(train), worst=1.0).predict(test)
    assert spearmanr(guessed, errors(test)).statistic > 0.95
    assert np.abs(guessed - np.log(errors(test))).mean() < 0.1
    assert (spread > 0).all()


def test_is_less_sure_far_from_what_it_knows():
    train = rows(60)
    model = ErrorModel.fit(train, errors(train), worst=1.0)
    _, (near, far) = model.predict([train[0], {**train[0], "depth": 60.0}])
    assert far > 3 * near


def test_knows_noise_for_what_it_is():
    train = rows(80)
    noisy = errors(train) * np.exp(np.random.default_rng(2).normal(0, 0.2, 80))
    _, spread = ErrorModel.fit(train, noisy, worst=1.0).predict(train)
    assert 0.1 < np.median(spread) < 0.4


def test_errors_beyond_the_worst_are_all_alike():
    train = rows(40)
    bad = errors(train)
    bad[:10] = 0.3
    worse = bad.copy()
    worse[:10] = np.linspace(0.3, 0.9, 10)
    one, other = (ErrorModel.fit(train, values, worst=0.3).predict(train)[0] for values in (bad, worse))
    assert one == pytest.approx(other)


def test_what_is_unknown_counts_as_the_mean_and_what_is_missing_as_nothing():
    train = [{**row, "before": math.nan if i % 3 else 1.0 + i} for i, row in enumerate(rows(30))]
    model = ErrorModel.fit(train, errors(train), worst=1.0)
    mean = np.nanmean([row["before"] for row in train])
    unknown, known = model.predict([{**train[0], "before": math.nan}, {**train[0], "before": mean}])[0]
    assert unknown == pytest.approx(known)
    lacking, zero = model.predict([{k: v for k, v in train[0].items() if k != "rare"}, {**train[0], "rare": 0.0}])[0]
    assert lacking == pytest.approx(zero)


@pytest.mark.parametrize("train", [[{}] * 6, [{"a": 1.0}] * 6, [{"a": math.nan}] * 6], ids=["none", "same", "unknown"])
def test_without_a_feature_that_varies_it_knows_the_mean(train):
    guessed, spread = ErrorModel.fit(train, np.linspace(0.1, 0.6, 6), worst=1.0).predict([{"a": 5.0}, {}])
    assert guessed == pytest.approx([np.log(np.linspace(0.1, 0.6, 6)).mean()] * 2, abs=0.05)
    assert (spread > 0.3).all()


def test_an_error_of_zero_is_a_small_one():
    train = rows(10)
    guessed, _ = ErrorModel.fit(train, np.zeros(10), worst=1.0).predict(train)
    assert guessed == pytest.approx([math.log(LEAST_ERROR)] * 10)
