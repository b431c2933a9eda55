"""How the end of a study shares out its time; what is trained by it is tested in test_front.py."""

import statistics

import pytest

from hwnas.timetable import MOST_EPOCHS, REFERENCE_SHARE, Timetable


def spent(table, left, least=1.0):
    """Epochs of all finalists and seconds left, if an epoch takes what was measured."""
    epochs = []
    for place, seconds in enumerate(table.finalists):
        epochs.append(table.epochs(place, left, least))
        left -= epochs[-1] * seconds
    return epochs, left


FINALISTS = (4.0, 2.0, 1.0, 1.0)


def make(left, finalists=FINALISTS, checks=10.0, references=(), reference_checks=(), earlier=5.0):
    return Timetable.make(left, finalists, checks, references, reference_checks, earlier)


def test_finalists_share_the_time_by_the_root_of_an_epoch_and_leave_some_for_the_checks():
    epochs, left = spent(make(90.0), 90.0)
    unit = 80 / sum(seconds**0.5 for seconds in FINALISTS)
    times = [count * seconds for count, seconds in zip(epochs, FINALISTS, strict=True)]
    assert times == pytest.approx([unit * seconds**0.5 for seconds in FINALISTS])
    assert left == pytest.approx(10)


def test_an_epoch_that_took_longer_is_paid_by_those_to_come():
    table = make(90.0, finalists=(4.0, 1.0, 1.0))
    assert table.epochs(0, 90.0, least=1.0) == 10
    assert table.epochs(1, left=40.0, least=1.0) == 15
    assert table.epochs(1, left=50.0, least=1.0) == 20


def test_there_are_enough_epochs():
    epochs, left = spent(make(10_000.0), 10_000.0)
    assert epochs == [MOST_EPOCHS] * 4
    assert left > 9000


def test_what_small_networks_do_not_need_goes_to_the_large():
    finalists = (100.0, 25.0, 1.0, 1.0)
    epochs, left = spent(make(1030.0, finalists), 1030.0)
    assert epochs == pytest.approx([6.0, 12.0, MOST_EPOCHS, MOST_EPOCHS])
    assert left == pytest.approx(10)


def test_too_little_time_for_all_goes_to_the_first():
    table = make(30.0, finalists=(2.0, 2.0, 2.0, 2.0))
    assert spent(table, 30.0, least=2.0) == ([2.5] * 4, 10.0)
    assert spent(table, 30.0, least=3.0) == ([3.0, 3.0, 3.0, 0.0], 12.0)
    assert spent(table, 30.0, least=6.0) == ([6.0, 0.0, 0.0, 0.0], 18.0)


@pytest.mark.parametrize("left", [10.0, 3.0, 0.0, -100.0])
def test_no_time_at_all(left):
    table = make(left, references=[1.0], reference_checks=[1.0])
    assert spent(table, left) == ([0.0] * 4, left)
    assert table.for_references == 0
    assert table.affordable == []


def test_references_train_as_long_as_finalists_over_their_lineage():
    table = make(70.0, references=[0.5], reference_checks=[1.0])
    epochs, left = spent(table, 70.0)
    seconds = statistics.fmean(count * one for count, one in zip(epochs, FINALISTS, strict=True))
    assert left == pytest.approx(10 + table.for_references)
    assert table.reference_epochs(0, left) * 0.5 <= seconds + 5.0 + 1e-9
    generous = make(1e5, references=[0.5], reference_checks=[1.0], earlier=1e5)
    assert generous.for_references == pytest.approx(REFERENCE_SHARE * (1e5 - 10))


def test_large_references_get_no_more_than_their_share():
    table = make(110.0, references=[50.0, 2.0], reference_checks=[1.0, 1.0], earlier=30.0)
    assert table.for_references == pytest.approx(REFERENCE_SHARE * 100)
    _, left = spent(table, 110.0)
    assert left == pytest.approx(30)
    assert table.affordable == [1]
    assert table.reference_epochs(1, left) == pytest.approx(19 / 2)


def test_checks_of_references_come_out_of_the_same_time():
    table = make(110.0, finalists=[1.0], references=[1.0, 1.0], reference_checks=[4.0, 4.0])
    left, owed = 30.0, 0.0
    for place in range(2):
        epochs = table.reference_epochs(place, left - owed)
        left, owed = left - epochs, owed + 4
    assert left - owed == pytest.approx(10)  # what the finalists' checks take


def test_references_that_are_too_dear_leave_their_time_to_the_others():
    table = make(1010.0, references=[1.0, 90.0, 2.0, 400.0], reference_checks=[1.0] * 4, earlier=30.0)
    assert table.affordable == [0, 2]
    left, owed = 10 + table.for_references, 0.0
    seconds = []
    for place in table.affordable:
        seconds.append(table.reference_epochs(place, left - owed) * table.references[place])
        left, owed = left - seconds[-1], owed + 1
    assert seconds == pytest.approx([table.for_references / 2 - 1] * 2)
    assert table.for_references == pytest.approx(REFERENCE_SHARE * 1000)


def test_references_that_cannot_train_an_epoch_cost_the_finalists_nothing():
    table = make(90.0, references=[50.0, 40.0], reference_checks=[1.0, 1.0])
    assert table.for_references == 0
    assert spent(table, 90.0)[1] == pytest.approx(10)


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_side_by_side_no_finalist_is_planned_beyond_the_end(workers):
    finalists = (8.0, 4.0, 2.0, 1.0, 1.0)
    table = Timetable.make(110.0, finalists, 10.0, [], [], 5.0, workers)
    free, ends = [0.0] * workers, []  # when each worker gets free
    for place, seconds in enumerate(finalists):
        now = min(free)
        free.remove(now)
        ends.append(now + seconds * table.epochs(place, 110.0 - now, least=1.0))
        free.append(ends[-1])
    assert max(ends) <= 100 + 1e-9
    alone = Timetable.make(110.0, finalists, 10.0, [], [], 5.0)
    assert table.epochs(0, 110.0, 1.0) > 1.5 * alone.epochs(0, 110.0, 1.0)


def test_side_by_side_references_take_turns():
    table = Timetable.make(110.0, [1.0] * 2, 10.0, [1.0] * 4, [1.0] * 4, 1e4, 2)
    assert table.affordable == [0, 1, 2, 3]
    assert table.for_references == pytest.approx(REFERENCE_SHARE * 100)
    assert table.reference_epochs(0, 10.0 + table.for_references) == pytest.approx(20 / 2 - 1)
