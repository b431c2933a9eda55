import pytest

from hwnas.schedule import Schedule


def cost(macs):
    return {"macs": macs}


def test_time_grows_with_the_square_root_of_an_epochs():
    schedule = Schedule.fit([1e6, 4e6, 19e6], [2.0, 5.0, 20.0], seconds=20.0, bounds=(0.1, 100.0))
    typical = 200 ** (1 / 3)
    for macs in (1e6, 4e6, 19e6, 99e6):
        epoch = 1 + macs / 1e6
        assert schedule.epochs(cost(macs)) * epoch == pytest.approx(20.0 * (epoch / typical) ** 0.5)


def test_bounds_hold():
    schedule = Schedule.fit([1e6, 1e7], [2.0, 11.0], seconds=5.0, bounds=(0.5, 2.0))
    assert schedule.epochs(cost(1e9)) == 0.5
    assert schedule.epochs(cost(1.0)) == 2.0


def test_measured_times_that_make_no_sense_still_give_a_schedule():
    # A busy moment made the small network the slow one: no negative seconds come of it.
    schedule = Schedule.fit([1e6, 1e7], [9.0, 3.0], seconds=6.0, bounds=(0.1, 10.0))
    assert schedule.fixed > 0
    assert schedule.per_mac >= 0
    assert 0.1 <= schedule.epochs(cost(1e6)) <= 10.0


def test_one_measured_network_is_enough():
    assert Schedule.fit([1e6], [2.0], seconds=4.0, bounds=(0.1, 10.0)).epochs(cost(1e6)) == pytest.approx(2.0)
