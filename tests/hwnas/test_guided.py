"""LEMONADE guided by a model: where the model is right, where it is wrong, and what is still running."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from hwnas import guided
from hwnas.box import Box
from hwnas.guided import CONFIG, Guided
from hwnas.lemonade import Lemonade
from hwnas.schedule import Schedule
from hwnas.trial import Result
from spaces.cell import parse
from spaces.cellspace import CellSpace
from tests.hwnas.toys import OBJECTIVES, costs, play

CELLS = CellSpace((1, 8, 8), 3, channels=2, cells=1)
BOX = Box(OBJECTIVES, (0.0, 10.0, 100.0), (0.9, 2000.0, 50_000.0))


def make(kind=Guided, seed=0, **options):
    return kind(CELLS, costs(space=CELLS), OBJECTIVES, seed, **({"box": BOX} if kind is Guided else {}), **options)


def by_structure(trial):
    """Three by three on early edges is good; the cost says nothing of where they are."""
    early = sum(op == "nor_conv_3x3" for op in parse(trial.genotype)[:3])
    late = sum(op == "nor_conv_3x3" for op in parse(trial.genotype)[3:])
    return Result({"error": 0.6 - 0.15 * early + 0.03 * late}, 1.0)


def by_chance(trial):
    return Result({"error": float(np.random.default_rng(trial.seed).uniform(0.1, 0.8))}, 1.0)


def guessed(strategy):
    """Guesses and errors of the trials that were told."""
    return np.array([(t.config[CONFIG], r.values["error"]) for t, r in strategy.records if CONFIG in t.config and r]).T


def test_guesses_agree_with_what_can_be_known():
    strategy = make(inherit=False)
    play(strategy, asks=12, answer=by_structure)
    guesses, errors = guessed(strategy)
    assert len(guesses) > 20
    assert spearmanr(guesses, errors).statistic > 0.45
    assert "guesses agree with errors by" in strategy.note


def test_dominates_more_than_without_a_model():
    volumes = {}
    for kind in (Guided, Lemonade):
        found = []
        for seed in range(3):
            strategy = make(kind, seed, inherit=False)
            play(strategy, asks=10, answer=by_structure)
            found.append(BOX.volume(strategy.archive.matrix()))
        volumes[kind] = np.mean(found)
    assert volumes[Guided] > volumes[Lemonade]


def test_a_model_that_is_wrong_is_followed_less():
    """So that in the end it is plain LEMONADE."""
    right, wrong = make(inherit=False), make(inherit=False)
    play(right, asks=20, answer=by_structure)
    play(wrong, asks=20, answer=by_chance)
    assert right._agreement() > 0.6
    assert abs(wrong._agreement()) < 0.3
    misled = make(inherit=False)
    play(misled, asks=4, answer=by_structure)
    misled.restore(
        (trial, result and Result({"error": 1 - trial.config[CONFIG]}, 1.0) if CONFIG in trial.config else result)
        for trial, result in right.records
    )
    assert misled._agreement() < 0
    misled.ask(4)
    assert "0 of 4 are chosen by them" in misled.note


def test_explores_as_much_as_it_is_told():
    for explore, chosen in ((0.0, 4), (1.0, 0)):
        strategy = make(inherit=False, explore=explore)
        play(strategy, asks=6, answer=by_structure)
        assert f"{chosen} of 4 are chosen by them" in strategy.note


def test_is_plain_lemonade_until_there_is_something_to_learn_from():
    strategy, plain = make(inherit=False, proposals=12), make(Lemonade, inherit=False)
    starts = len(CELLS.starts())
    for one in (strategy, plain):
        trials = one.ask(starts)
        for trial in trials[: guided.FEWEST - 1]:
            one.tell(trial.id, by_structure(trial))
    assert strategy.ask(3) == plain.ask(3)


def test_what_is_running_counts_as_guessed():
    """The same costs are not chosen again while one of them trains."""
    strategy = make(inherit=False, explore=0.0)
    play(strategy, asks=6, answer=by_structure)
    running = strategy.ask(4)
    model = strategy._model(strategy.archive.entries)
    front = strategy._expected_front(model)
    assert len(front) == len(strategy.archive.front()) + 4
    assert front[-4:, 0] * BOX.reference[0] == pytest.approx([trial.config[CONFIG] for trial in running], rel=0.2)


@pytest.mark.parametrize("inherit", [True, False])
def test_the_error_of_the_parent_is_a_feature_where_weights_are_inherited(inherit):
    strategy = make(inherit=inherit, epochs=Schedule.constant(2.0), revisit=0.3)
    asked = play(strategy, asks=6, answer=by_structure)
    rows = {trial.id: strategy._of_trial(trial, trial.fidelity_to) for trial in asked}
    for trial in asked:
        before = np.exp(rows[trial.id]["log error before"])
        if trial.init in ("parent", "checkpoint"):
            _, result = strategy.record(trial.parent)
            assert before == pytest.approx(result.values["error"])
        else:
            assert np.isnan(before)
        assert np.exp(rows[trial.id]["log epochs"]) == pytest.approx(trial.fidelity_to)
    assert inherit == any(trial.init == "parent" for trial in asked)


def test_a_candidate_looks_to_the_model_as_it_will_as_a_trial():
    strategy = make(explore=0.0)
    play(strategy, asks=5, answer=by_structure)
    front = strategy.archive.front()
    drafts = strategy.drafts(front, 3, np.random.default_rng(0))
    for draft, trial in zip(drafts, strategy.children(drafts, 0, np.random.default_rng(1)), strict=True):
        assert strategy._of_draft(draft) == pytest.approx(strategy._of_trial(trial, trial.fidelity_to))


@pytest.mark.parametrize("most", [10, guided.MOST])
def test_kernels_are_found_at_milestones_only(most, monkeypatch):
    """Also where the latest results alone are learned from."""
    found = []
    fit = guided.ErrorModel.fit
    monkeypatch.setattr(guided, "MOST", most)
    monkeypatch.setattr(guided.ErrorModel, "fit", lambda *args: found.append(args[-1] is None) or fit(*args))
    strategy = make(inherit=False)
    asked = play(strategy, asks=40, count=1, answer=by_structure)
    milestones = {guided.milestone(count) for count in range(guided.FEWEST, len(asked))}
    assert 5 < sum(found) <= len(milestones)
    assert len(found) - sum(found) > 1.5 * sum(found)
