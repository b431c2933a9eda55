import pytest

from hwnas.schedule import Schedule


def cost(macs):
    return {"macs": macs}


def test_cheap_and_dear_networks_train_for_the_same_time():
    schedule = Schedule.fit([1e6, 4e6, 9e6], [2.0, 5.0, 10.0], seconds=20.0, bounds=(0.1, 100.0))
    for macs in (1e6, 2e6, 9e6, 5e7):
        assert schedule.epochs(cost(macs)) * (1 + macs / 1e6) == pytest.approx(20.0)


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
