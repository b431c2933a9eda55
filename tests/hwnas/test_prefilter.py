"""Proposals discarded by proxies: at their own cost, as long as it helps."""

import math

import numpy as np
import pytest
import torch

from hwnas import runfolder
from hwnas.lemonade import Lemonade
from hwnas.prefilter import CONFIG, Prefilter, beyond, partial
from hwnas.proxyscores import LOWEST, ProxyScores
from hwnas.searchsection import ProxyName
from hwnas.spec import Spec
from hwnas.store import Store
from hwnas.trial import Result
from objectives.data import load_data
from objectives.proxies import PROXIES
from spaces.cell import parse
from spaces.cellspace import CellSpace
from spaces.errors import SpecError
from tests.hwnas.toys import OBJECTIVES, costs, play, short

CELLS = CellSpace((1, 8, 8), 3, channels=2, cells=1)
CHEAP = ["params", "macs"]


def by_structure(genotype):
    """Three by three on early edges is good; the cost says nothing of where they are."""
    early = sum(op == "nor_conv_3x3" for op in parse(genotype)[:3])
    late = sum(op == "nor_conv_3x3" for op in parse(genotype)[3:])
    return 0.2 + 0.15 * early - 0.03 * late


def right(genotype):
    return {"knowing": 7 * by_structure(genotype)}


def wrong(genotype):
    return {"knowing": -by_structure(genotype)}


def make(score=right, discard=0.5, names=("knowing",), seed=0):
    prefilter = score and Prefilter(CELLS, names, score, discard, CHEAP)
    return Lemonade(CELLS, costs(space=CELLS), OBJECTIVES, seed, prefilter=prefilter, inherit=False)


def result_of(trial):
    return Result({"error": 0.9 - by_structure(trial.genotype)}, 1.0)


def quality(trials):
    return np.mean([by_structure(trial.genotype) for trial in trials if trial.generation > 0])


def test_what_proxies_think_little_of_is_not_trained():
    means = {None: [], right: []}
    for score, found in means.items():
        for seed in range(4):
            trials = play(make(score, seed=seed), asks=12, answer=result_of)
            found.append(quality(trials))
    assert np.mean(means[right]) > np.mean(means[None]) + 0.02
    assert all(set(trial.config[CONFIG]) == {"knowing"} for trial in trials)


def test_small_networks_are_not_discarded_for_being_small():
    """A proxy that knows the cost and nothing else would discard all the small ones, were it compared among all."""
    plain = play(make(None), asks=12, answer=result_of)
    by_cost = lambda genotype: {"knowing": _params(genotype)}  # noqa: E731
    plain, filtered = (play(make(score), asks=12, answer=result_of) for score in (None, by_cost))
    usual, now = (np.median([t.cheap["params"] for t in trials if t.generation > 0]) for trials in (plain, filtered))
    assert now < 1.5 * usual


def _params(genotype):
    return math.log(costs(space=CELLS).of([genotype])[0]["params"].value)


def test_a_proxy_that_misleads_is_switched_off_with_a_line_and_no_longer_computed():
    strategy, news = make(wrong), []
    for _ in range(12):
        play(strategy, asks=1, answer=result_of)
        news += strategy.news
    assert len(news) == 1
    assert "proxy knowing is switched off: its rank correlation with accuracy at equal cost is" in news[0]
    assert strategy.prefilter.asked == ()
    assert CONFIG not in strategy.records[-1][0].config
    (line,) = strategy.learned()
    assert "networks: knowing -" in line
    assert line.endswith(" (switched off)")
    assert make(wrong).learned() == []
    few = make(right)
    play(few, asks=2, answer=result_of)
    assert few.learned() == []


def test_one_of_two_is_switched_off_and_the_other_is_asked():
    both = lambda genotype: right(genotype) | {"misled": -by_structure(genotype)}  # noqa: E731
    strategy = make(both, names=("knowing", "misled"))
    play(strategy, asks=12, answer=result_of)
    assert strategy.prefilter.asked == ("knowing",)
    assert strategy.records[-1][0].config[CONFIG].keys() == {"knowing", "misled"}


def test_it_does_not_prefer_those_that_were_accepted_first(monkeypatch):
    """As the surrogate's choice stands before what is accepted without it."""
    strategy = make(lambda genotype: {"knowing": 0.0})
    play(strategy, asks=4, answer=result_of)
    places = []

    def accepted(front, drafts, count, rng):
        first.extend(CELLS.hash(draft.genotype) for draft in drafts[:count])
        return drafts[:count]

    monkeypatch.setattr(strategy, "accepted", accepted)
    for _ in range(10):
        first = []
        trials = strategy.ask(4)
        places += [first.index(trial.hash) for trial in trials]
        for trial in trials:
            strategy.tell(trial.id, result_of(trial))
    assert min(places) < 4 <= max(places)


def test_what_helps_again_is_asked_again():
    strategy = make(wrong)
    play(strategy, asks=12, answer=result_of)
    entries = [entry for entry in strategy.archive.entries if CONFIG in entry.trial.config]
    for entry in entries:
        entry.trial.config[CONFIG].update(right(entry.trial.genotype))
    assert "proxy knowing is asked again" in strategy.prefilter.review(entries)[0]
    assert strategy.prefilter.asked == ("knowing",)


def test_goes_on_from_its_records_alone():
    whole, first = make(), make()
    play(whole, asks=6, answer=result_of)
    play(first, asks=3, answer=result_of)
    resumed = make()
    resumed.restore(first.records)
    play(resumed, asks=3, answer=result_of)
    assert resumed.records == whole.records


def test_every_network_is_scored_once():
    asked = []

    def score(genotype):
        asked.append(genotype)
        return {"knowing": LOWEST}

    trials = play(make(score), asks=4, answer=result_of)
    assert len(asked) == len(set(asked))
    assert {trial.config[CONFIG]["knowing"] for trial in trials} == {LOWEST}


def test_agreement_is_at_equal_cost():
    rng = np.random.default_rng(0)
    cost, merit = rng.normal(size=200), rng.normal(size=200)
    accuracy = 3 * cost + merit
    assert partial(np.exp(cost), accuracy, cost[:, None]) == 0
    assert partial(merit, accuracy, cost[:, None]) > 0.7
    assert partial(cost + 0.1 * merit, accuracy, cost[:, None]) > 0.7
    assert partial(cost - 0.1 * merit, accuracy, cost[:, None]) < -0.7
    assert not beyond(cost**3, cost[:, None]).any()


def test_the_names_are_those_there_are():
    assert set(ProxyName.__args__) == set(PROXIES)


def test_a_study_discards_what_its_specification_says(tmp_path):
    out = tmp_path / "run"
    runfolder.search(short(**{"search.discard": 0.5, "search.proxies": ["naswot"]}), out)
    with Store.open(out) as store:
        scored = [trial.config[CONFIG] for trial, _ in store.trials() if CONFIG in trial.config]
    assert len(scored) >= 6
    assert all(set(scores) == {"naswot"} for scores in scored)
    assert Spec().search.discard == 0


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"proxies": ["synflw"]}, "search.proxies.0"),
        ({"proxies": []}, "search.proxies"),
        ({"discard": 1.0}, "search.discard"),
        ({"strategy": "random", "discard": 0.3}, "discard is of no use to the strategy random"),
        ({"proxies": ["naswot"]}, "proxies is of no use without discard"),
    ],
)
def test_what_is_no_pre_filter_is_refused(section, message):
    with pytest.raises(SpecError, match=message):
        Spec.from_json({"search": section})


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def test_scores_of_a_study_are_those_of_real_images(digits, monkeypatch):
    space = CellSpace(digits.shape, 10, channels=4, cells=1)
    score = ProxyScores.on(space, ("synflow", "jacov"), digits, 3, torch.device("cpu"))
    starts = space.starts()
    found = [score(genotype) for genotype in starts]
    assert found == [score(genotype) for genotype in starts]
    assert all(math.isfinite(one["jacov"]) for one in found)
    assert len({one["synflow"] for one in found}) == len(starts)

    def too_large(*_):
        raise MemoryError("too large")

    with monkeypatch.context() as patch:
        patch.setattr("hwnas.proxyscores.Probe", too_large)
        assert score(starts[0]) == {"synflow": LOWEST, "jacov": LOWEST}
    monkeypatch.setattr("hwnas.proxyscores.scores", lambda *_: {"synflow": -math.inf, "jacov": 1.0})
    assert score(starts[0]) == {"synflow": LOWEST, "jacov": 1.0}
