import itertools
import random

import numpy as np
import pytest

from hwnas.archive import Archive, scale
from hwnas.trial import Result, Trial

OBJECTIVES = ("error", "params")


def record(id, hash, error, params, **changes):
    """One trial with its result, as a strategy keeps them; without an error it is still running."""
    trial = Trial(id=id, genotype=None, hash=hash, cheap={"params": params, "macs": 10 * params})
    result = None if error is None else Result({"error": error}, seconds=1.0, **changes)
    return trial, result


FAILED = (record(9, "f", None, 1)[0], Result({}, 1.0, status="failed", reason="diverged"))
RECORDS = [
    record(0, "a", 0.5, 100),
    record(1, "b", 0.2, 1000),
    record(2, "c", 0.4, 2000),
    record(3, "a", 0.3, 100, info={"stderr": 0.02}),
    record(4, "d", None, 10),
    FAILED,
]


def hashes(archive):
    return [entry.trial.hash for entry in archive.entries]


def test_one_entry_for_each_network_with_its_latest_good_result():
    archive = Archive(RECORDS, OBJECTIVES)
    assert {entry.trial.hash: entry.trial.id for entry in archive.entries} == {"a": 3, "b": 1, "c": 2}
    assert len(archive) == 3


def test_a_failure_leaves_the_earlier_result():
    again = (Trial(id=5, genotype=None, hash="a"), FAILED[1])
    assert Archive([*RECORDS, again], OBJECTIVES).entries[0].trial.id == 3


def test_the_order_of_the_records_does_not_matter():
    expected = hashes(Archive(RECORDS, OBJECTIVES))
    for seed in range(5):
        shuffled = random.Random(seed).sample(RECORDS, len(RECORDS))
        assert hashes(Archive(shuffled, OBJECTIVES)) == expected


def test_values_and_their_matrix():
    archive = Archive(RECORDS, OBJECTIVES)
    assert archive.entries[0].values == {"params": 100, "macs": 1000, "error": 0.3}
    assert [entry.stderr for entry in archive.entries] == [0.02, 0, 0]
    assert archive.matrix().tolist() == [[0.3, 100], [0.2, 1000], [0.4, 2000]]
    assert archive.matrix(["macs"]).tolist() == [[1000], [10_000], [20_000]]
    assert Archive([], OBJECTIVES).matrix().shape == (0, 2)


def test_front():
    assert hashes(Archive(RECORDS, OBJECTIVES).front()) == ["a", "b"]
    assert hashes(Archive([], OBJECTIVES).front()) == []


def test_within():
    archive = Archive(RECORDS, OBJECTIVES)
    assert hashes(archive.within({"params": 1000})) == ["a", "b"]
    assert hashes(archive.within({"macs": 1000, "error": 0.9})) == ["a"]
    assert hashes(archive.within({})) == ["a", "b", "c"]
    assert hashes(archive.within({"params": 1})) == []


def test_useful_is_at_least_midway_from_guessing_to_the_best():
    archive = Archive([record(i, f"n{i}", error, 1.0) for i, error in enumerate([0.1, 0.5, 0.51, 0.9])], OBJECTIVES)
    assert hashes(archive.useful(guessing=0.9)) == ["n0", "n1"]
    assert hashes(archive.useful(guessing=0.92)) == ["n0", "n1", "n2"]
    assert hashes(archive.useful(guessing=0.05)) == ["n0"]  # the best, though it is worse than guessing
    assert hashes(Archive([], OBJECTIVES).useful(guessing=0.9)) == []


@pytest.fixture
def ten():
    """A front of ten that halve the error with each factor of two."""
    return Archive([record(i, f"n{i}", 0.8 * 0.7**i, 100 * 2**i) for i in range(10)], OBJECTIVES)


@pytest.mark.parametrize("count", [2, 3, 7, 10, 30])
def test_spread_keeps_the_extremes(ten, count):
    chosen = hashes(ten.spread(count))
    assert len(chosen) == min(count, 10)
    assert {"n0", "n9"} <= set(chosen)


def test_foremost_are_those_that_contribute_most(ten):
    values = scale(ten.matrix(), OBJECTIVES)
    corner = values.max(axis=0) + 0.1 * (values.max(axis=0) - values.min(axis=0))

    def area(rows):
        """Hypervolume of a front in two dimensions, ordered by the second."""
        edges = [*(row[1] for row in rows[1:]), corner[1]]
        return sum((corner[0] - row[0]) * (edge - row[1]) for row, edge in zip(rows, edges, strict=True))

    rows = sorted(values.tolist(), key=lambda row: row[1])
    losses = {f"n{i}": area(rows) - area([row for row in rows if row != rows[i]]) for i in range(10)}
    best = sorted(losses, key=losses.get, reverse=True)
    for count in (1, 4, 9):
        assert set(hashes(ten.foremost(count))) == set(best[:count])
    assert hashes(ten.foremost(4)) == sorted(hashes(ten.foremost(4)))
    assert ten.foremost(10) is ten


def test_scale_makes_a_factor_of_two_weigh_as_ten_points_of_accuracy():
    cheap, dear, accurate = scale(np.array([[0.3, 100], [0.3, 200], [0.2, 200]]), OBJECTIVES)
    assert dear[1] - cheap[1] == pytest.approx(dear[0] - accurate[0], rel=0.01)
    for row, other in itertools.combinations([cheap, dear, accurate], 2):
        assert (row != other).any()
