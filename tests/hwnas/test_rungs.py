"""Who is trained further: counts, order, brackets, learning curves, and what strategies make of it."""

import math
from collections import Counter

import numpy as np
import pytest

from hwnas.box import Box
from hwnas.lemonade import Lemonade
from hwnas.randomsearch import RandomSearch
from hwnas.rungs import CONFIG, FALL, Rungs, below
from hwnas.schedule import Schedule
from hwnas.spec import Spec
from hwnas.trial import Result, Trial
from spaces.errors import SpecError
from tests.hwnas.toys import OBJECTIVES, SPACE, costs, failed, looked_up, play

BOX = Box(OBJECTIVES, (0.0, *[10.0] * (len(OBJECTIVES) - 1)), (0.9, *[1e9] * (len(OBJECTIVES) - 1)))


def record(id, error=None, params=100.0, rung=0, name=None, status="ok"):
    trial = Trial(
        id=id,
        genotype=None,
        hash=name or f"network {id}",
        cheap={"params": params, "macs": params},
        config={CONFIG: rung} if rung else {},
    )
    result = None if error is None else Result({"error": error}, 1.0)
    return trial, Result({}, 1.0, status="failed", reason="diverged") if status == "failed" else result


def promoted(rungs, records):
    return [(entry.trial.id, rung) for entry, rung in rungs.promoted(records)]


def test_one_of_three_goes_on_as_soon_as_there_are_three():
    rungs = Rungs(BOX, levels=3, factor=3)
    records = [record(id, 0.9 - 0.1 * id) for id in range(5)]
    assert promoted(rungs, records[:2]) == []
    assert promoted(rungs, records[:3]) == [(2, 1)]
    assert promoted(rungs, records) == [(4, 1)]
    assert promoted(rungs, [*records, record(5, 0.95)]) == [(3, 1), (4, 1)]


def test_what_went_on_does_not_go_on_again_while_it_runs_or_where_it_failed():
    rungs = Rungs(BOX, levels=2, factor=2)
    records = [record(0, 0.5), record(1, 0.6)]
    for after in (record(2, None, rung=1, name="network 0"), record(2, rung=1, name="network 0", status="failed")):
        assert promoted(rungs, [*records, after]) == []


def test_the_highest_rung_comes_first_and_has_none_above():
    rungs = Rungs(BOX, levels=3, factor=2)
    low = [record(id, 0.5 + 0.01 * id) for id in range(4)]
    middle = [record(4 + i, 0.4 + 0.01 * i, rung=1, name=f"network {i}") for i in range(2)]
    assert promoted(rungs, [*low, *middle]) == [(4, 2)]
    top = record(6, 0.3, rung=2, name="network 0")
    assert promoted(rungs, [*low, *middle, top]) == []


def test_small_networks_survive_though_they_err_more():
    rungs = Rungs(BOX, levels=2, factor=3)
    records = [record(id, 0.5 + 0.01 * id, params=1000.0 + id) for id in range(8)] + [record(8, 0.7, params=10.0)]
    chosen = {id for id, _ in promoted(rungs, records)}
    assert {0, 8} < chosen
    assert len(chosen) == 3


def test_the_cheapest_network_is_not_promoted_for_that_alone():
    rungs = Rungs(BOX, levels=2, factor=3)
    errors = (0.9, 0.85, 0.3, 0.29, 0.2, 0.1)  # the first guess
    records = [record(id, error, params=100.0 * 2**id) for id, error in enumerate(errors)]
    assert [id for id, _ in promoted(rungs, records)] == [2, 5]


def test_failures_count_among_those_who_compete():
    rungs = Rungs(BOX, levels=2, factor=3)
    records = [record(0, 0.5), record(1, status="failed"), record(2, status="failed")]
    assert promoted(rungs, records) == [(0, 1)]
    assert promoted(rungs, records[1:]) == []


def test_brackets_wait_until_all_have_a_result():
    rungs = Rungs(BOX, levels=2, factor=3, synchronous=True)
    records = [record(id, 0.9 - 0.1 * id) for id in range(5)]
    assert promoted(rungs, records) == [(2, 1)]
    waiting = [*records, record(5)]
    assert promoted(rungs, waiting) == [(2, 1)]
    assert promoted(rungs, [*records, record(5, 0.95)]) == [(2, 1), (4, 1)]
    three = Rungs(BOX, levels=3, factor=2, synchronous=True)
    first = [record(id, 0.5 + 0.1 * id) for id in range(4)]
    assert promoted(three, first[:3]) == []
    assert promoted(three, first) == [(0, 1), (1, 1)]


def test_the_work_is_that_of_an_endless_search():
    rungs = Rungs(BOX, levels=3, factor=3)
    trained = 900 * 1 + 300 * (3 - 1) + 100 * (9 - 3)
    assert rungs.work == pytest.approx(trained / 900)


def test_with_curves_the_hopeless_stay_where_they_are():
    """What a smaller network is better at by far already is promoted by rank alone."""
    rows = [record(0, 0.2, params=10.0), record(1, 0.6, params=100.0), record(2, 0.61, params=101.0)]
    better = [record(3, 0.18, params=10.0, rung=1, name="network 0")]
    rungs = {curves: Rungs(BOX, levels=2, factor=2, curves=curves) for curves in (False, True)}
    records = [*rows, record(4, 0.59, params=99.0), *better]
    assert promoted(rungs[False], records) == [(4, 1)]
    assert promoted(rungs[True], records) == []
    near = [*rows, record(4, 0.19, params=99.0), *better]
    assert promoted(rungs[True], near) == [(4, 1)]


def test_how_far_errors_fall_is_learned_with_its_uncertainty():
    rng = np.random.default_rng(0)
    falls = rng.normal(-0.5, 0.1, 200).tolist()
    assert below(-0.5, falls) == pytest.approx(0.5, abs=0.1)
    assert below(-0.7, falls) == pytest.approx(0.03, abs=0.03)
    assert below(FALL - 0.5, []) > below(FALL - 0.5, [FALL] * 20)
    values = [below(value, falls[:3]) for value in np.linspace(-2, 1, 20)]
    assert values == sorted(values)


@pytest.mark.parametrize("kind", [Lemonade, RandomSearch])
@pytest.mark.parametrize("options", [{}, {"synchronous": True}, {"curves": True}])
def test_promotions_go_on_from_checkpoints(kind, options):
    rungs = Rungs(BOX, levels=3, factor=2, **options)
    start = {"initial_epochs": Schedule.constant(2)} if kind is Lemonade else {}
    strategy = kind(SPACE, costs(), OBJECTIVES, 0, epochs=Schedule.constant(2), rungs=rungs, **start)
    trials = play(strategy, asks=30)
    levels = Counter(trial.config.get(CONFIG, 0) for trial in trials)
    assert levels[0] >= levels[1] > levels[2] > 0
    by_id = {trial.id: trial for trial in trials}
    for trial in trials:
        rung = trial.config.get(CONFIG, 0)
        if rung:
            before = by_id[trial.parent]
            assert trial.init == "checkpoint"
            assert (before.hash, before.config.get(CONFIG, 0)) == (trial.hash, rung - 1)
            assert trial.fidelity_from == before.fidelity_to
            assert trial.fidelity_to - trial.fidelity_from == 2 * (2**rung - 2 ** (rung - 1))
        else:
            assert trial.init != "checkpoint"
    twice = Counter((trial.hash, trial.config.get(CONFIG, 0)) for trial in trials)
    assert set(twice.values()) == {1}


def test_promotions_go_on_from_the_records_alone():
    def make():
        return Lemonade(SPACE, costs(), OBJECTIVES, 3, rungs=Rungs(BOX, factor=2))

    whole, first, resumed = make(), make(), make()
    play(whole, asks=12)
    play(first, asks=6)
    resumed.restore(first.records)
    play(resumed, asks=6)
    assert resumed.records == whole.records


def test_results_come_in_any_order():
    strategy = Lemonade(SPACE, costs(), OBJECTIVES, 0, rungs=Rungs(BOX, factor=2))
    open_trials = []
    for turn in range(40):
        open_trials += strategy.ask(2)
        trial = open_trials.pop(turn % len(open_trials))
        strategy.tell(trial.id, failed(trial) if turn % 7 == 3 else looked_up(trial))
    ids = [trial.id for trial, _ in strategy.records]
    assert ids == list(range(len(ids)))
    assert any(trial.config.get(CONFIG) == 2 for trial, _ in strategy.records)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"promotion": "hyperband"}, "search.promotion"),
        ({"rungs": 1}, "search.rungs"),
        ({"factor": 1}, "search.factor"),
        ({"strategy": "nsga2", "promotion": "asha"}, "promotion is of no use to the strategy nsga2"),
        ({"promotion": "none", "factor": 2}, "factor is of no use without promotion"),
        ({"revisit": 0.5}, "revisit is of no use with promotion: asha"),
    ],
)
def test_what_are_no_rungs_is_refused(search, message):
    with pytest.raises(SpecError, match=message):
        Spec.from_json({"search": search})


def test_ranking_of_early_rungs_is_all_that_is_needed():
    """Noise-free curves that do not cross: the best of all are on the top rung."""
    strategy = RandomSearch(SPACE, costs(), OBJECTIVES, 1, epochs=Schedule.constant(1), rungs=Rungs(BOX, factor=2))

    def answer(trial):
        final = looked_up(trial).values["error"]
        return Result({"error": final + 0.2 / (1 + math.log2(trial.fidelity_to))}, 1.0)

    trials = play(strategy, asks=60, answer=answer)
    levels = {trial.hash: trial.config.get(CONFIG, 0) for trial in trials}
    best = {entry.trial.hash for entry in strategy.archive.front().entries}
    others = [levels[key] for key in levels if key not in best]
    assert np.mean([levels[key] for key in best]) > np.mean(others)
