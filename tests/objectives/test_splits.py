"""Drawing images: every class keeps its share, and nothing is lost or drawn twice."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from objectives.splits import apportion, draw


@given(st.lists(st.integers(3, 500), min_size=1, max_size=12), st.integers(0, 2000), st.integers(0, 2))
def test_seats_sum_to_the_total_and_stay_near_the_shares(images, total, keep):
    counts = np.array(images)
    seats = apportion(counts, total, keep=keep)
    assert (seats >= 1).all()
    assert (seats <= counts - keep).all()
    assert seats.sum() == max(len(counts), min(total, (counts - keep).sum()))
    # Where nothing is at a bound, nobody is off by a whole seat.
    if seats.min() > 1 and (seats < counts - keep).all():
        assert np.abs(seats - counts * seats.sum() / counts.sum()).max() < 1


@given(st.lists(st.integers(2, 40), min_size=1, max_size=6), st.integers(1, 100), st.integers(0, 1000))
def test_drawn_and_rest_are_all_images_once(images, total, seed):
    labels = np.repeat(np.arange(len(images)), images)
    drawn, rest = draw(labels, total, np.random.default_rng(seed), keep=1)
    assert sorted([*drawn, *rest]) == list(range(len(labels)))
    assert (np.bincount(labels[rest], minlength=len(images)) >= 1).all()
    assert (np.bincount(labels[drawn], minlength=len(images)) >= 1).all()
    assert (np.diff(rest) > 0).all()


def test_the_seed_decides():
    labels = np.repeat([0, 1], 50)
    first, again, other = (draw(labels, 20, np.random.default_rng(seed))[0].tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_any_stretch_of_those_drawn_is_a_fair_sample():
    labels = np.repeat(np.arange(5), 200)
    drawn, _ = draw(labels, 1000, np.random.default_rng(0))
    counts = np.bincount(labels[drawn[:250]], minlength=5)
    assert counts.min() > 30
    assert counts.max() < 70
