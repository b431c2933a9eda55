"""What every strategy keeps to."""

import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

from hwnas import strategy as strategy_module
from hwnas.box import Box
from hwnas.genetic import Genetic
from hwnas.guided import Guided
from hwnas.lemonade import Lemonade
from hwnas.localsearch import LocalSearch
from hwnas.optunasearch import OptunaSearch
from hwnas.randomsearch import RandomSearch
from hwnas.regularized import RegularizedEvolution
from hwnas.schedule import Schedule
from hwnas.searchsection import StrategyName
from hwnas.strategies import make_strategy
from hwnas.strategy import Strategy
from hwnas.trial import Result, Trial
from spaces.cellspace import CellSpace
from spaces.errors import LimitError, SpecError
from spaces.morphisms import move_from_json
from tests.hwnas.toys import FOUR_NETWORKS, OBJECTIVES, SPACE, costs, failed, looked_up, play


def as_read_back(strategy: Strategy) -> list[tuple[Trial, Result | None]]:
    """Its records after a trip through JSON."""
    texts = json.dumps([[trial.to_json(), result and result.to_json()] for trial, result in strategy.records])
    return [(Trial.from_json(trial), result and Result.from_json(result)) for trial, result in json.loads(texts)]


THREE = Schedule.constant(3.0)
BOX = Box(OBJECTIVES, (0.0, 100.0, 1000.0), (0.7, 1e5, 1e7))
CELLS = CellSpace((1, 8, 8), 3, channels=2, cells=1)


@pytest.fixture
def impatient(monkeypatch):
    """Random draws end sooner: a space of four networks is soon known."""
    monkeypatch.setattr(strategy_module, "MOST_DRAWS", 120)


class Contract:
    """Inherited by the tests of each strategy."""

    reachable = 4  # of `FOUR_NETWORKS`
    space = SPACE
    limits = {"params": 2000.0, "macs": 60_000.0}  # noqa: RUF012 (never written to)

    def make(self, seed: int = 0, space=None, **of_costs) -> Strategy:
        raise NotImplementedError

    def test_trials_say_what_is_to_be_done(self):
        strategy = self.make(snapshot="c0ffee")
        asked = play(strategy, asks=5)
        assert [trial.id for trial in asked] == list(range(len(asked)))
        assert {trial.snapshot for trial in asked} == {"c0ffee"}
        assert [trial.generation for trial in asked] == sorted(trial.generation for trial in asked)
        assert {trial.generation for trial in asked} == {0, 1, 2, 3, 4}
        for trial in asked:
            genotype = self.space.from_json(trial.genotype)
            (cost,) = strategy.costs.of([genotype])
            assert trial.hash == self.space.decode(genotype).hash
            assert trial.cheap == {name: estimate.value for name, estimate in cost.items()}
            assert trial.fidelity_to > trial.fidelity_from
            assert self.space.refusal(genotype) is None

    def test_the_seed_decides(self):
        first, second, other = (play(self.make(seed), asks=5) for seed in (1, 1, 2))
        assert first == second
        assert first != other

    def test_no_network_is_asked_twice_except_to_go_on_with_it(self):
        asked = play(self.make(), asks=12)
        new = [trial.hash for trial in asked if trial.init != "checkpoint"]
        assert len(set(new)) == len(new)
        by_id = {trial.id: trial for trial in asked}
        for trial in asked:
            if trial.init == "checkpoint":
                before = by_id[trial.parent]
                assert (before.hash, before.fidelity_to) == (trial.hash, trial.fidelity_from)
                assert before.generation < trial.generation

    def test_results_may_come_in_any_order_and_twice(self):
        ordered, disordered = self.make(), self.make()
        for _ in range(5):
            trials = ordered.ask(4)
            assert disordered.ask(4) == trials
            for trial in trials:
                ordered.tell(trial.id, looked_up(trial))
            for trial in [*trials[::-1], trials[0]]:
                disordered.tell(trial.id, looked_up(trial))
        assert disordered.archive.entries == ordered.archive.entries
        assert disordered.records == ordered.records

    @pytest.mark.parametrize("told", [0, 2, 4])
    def test_an_interrupted_search_goes_on_as_if_it_had_not_been(self, told):
        strategy = self.make()
        play(strategy, asks=4)
        running = strategy.ask(4)
        for trial in running[:told]:
            strategy.tell(trial.id, looked_up(trial))
        restored = self.make()
        restored.restore(as_read_back(strategy)[::-1])
        assert restored.records == strategy.records
        for trial in running[told:]:
            strategy.tell(trial.id, looked_up(trial))
            restored.tell(trial.id, looked_up(trial))
        assert play(restored, asks=3) == play(strategy, asks=3)

    def test_asks_while_trials_are_running(self):
        strategy = self.make()
        running = strategy.ask(3)
        for _ in range(20):
            trial, *running = running
            strategy.tell(trial.id, looked_up(trial))
            running += strategy.ask(1)
        hashes = [trial.hash for trial in running]
        assert len(set(hashes)) == len(hashes) == 3
        told = [trial for trial, result in strategy.records if result]
        assert len(told) == 20
        assert len(strategy.archive) == sum(trial.init != "checkpoint" for trial in told)

    def test_limits_are_kept(self):
        asked = play(self.make(limits=self.limits), asks=8)
        assert len({trial.hash for trial in asked}) > 10
        for name, limit in self.limits.items():
            assert max(trial.cheap[name] for trial in asked) <= limit

    def test_an_exhausted_space_says_so(self, impatient):
        strategy = self.make(space=FOUR_NETWORKS)
        asked = []
        for _ in range(30):
            trials = strategy.ask(3)
            for trial in trials:
                strategy.tell(trial.id, looked_up(trial))
            asked += trials
            if not trials:
                break
        new = [trial.hash for trial in asked if trial.init != "checkpoint"]
        assert len(set(new)) == len(new) == self.reachable
        assert strategy.ask(1) == []

    def test_failures_cost_only_themselves(self):
        strategy = self.make()
        asked = play(strategy, asks=4, answer=failed)
        assert len({trial.hash for trial in asked}) == len(asked) >= 10
        assert len(strategy.archive) == 0
        asked += play(strategy, asks=1)
        assert len(strategy.archive) == asked[-1].id + 1 - sum(trial.generation < 4 for trial in asked)

    def test_a_result_may_be_replaced_and_the_archive_follows(self):
        strategy = self.make()
        trial, *_ = strategy.ask(2)
        strategy.tell(trial.id, looked_up(trial))
        assert len(strategy.archive) == 1
        strategy.tell(trial.id, failed(trial))
        assert len(strategy.archive) == 0

    def test_unknown_trials(self):
        with pytest.raises(KeyError):
            self.make().tell(7, failed(Trial(id=7, genotype=None, hash="a")))
        with pytest.raises(KeyError):
            self.make().record(7)

    def test_nothing_asked(self):
        strategy = self.make()
        play(strategy, asks=2)
        assert strategy.ask(0) == []


class TestLemonade(Contract):
    def make(self, seed=0, space=SPACE, **of_costs):
        return Lemonade(space, costs(space=space, **of_costs), OBJECTIVES, seed)

    def test_a_limit_that_nothing_keeps_is_refused(self):
        with pytest.raises(LimitError, match="params <= 10"):
            self.make(limits={"params": 10.0}).ask(4)


class TestLemonadeFromScratch(Contract):
    def make(self, seed=0, space=SPACE, **of_costs):
        return Lemonade(space, costs(space=space, **of_costs), OBJECTIVES, seed, inherit=False, paper_density=True)


class TestGuided(Contract):
    def make(self, seed=0, space=SPACE, **of_costs):
        return Guided(space, costs(space=space, **of_costs), OBJECTIVES, seed, box=BOX, proposals=12)


class TestGuidedOnCells(Contract):
    """Where two genotypes can be one network."""

    space = CELLS
    limits = {"params": 2500.0, "macs": 20_000.0}  # noqa: RUF012 (never written to)

    def make(self, seed=0, space=CELLS, **of_costs):
        return Guided(space, costs(space=space, **of_costs), OBJECTIVES, seed, box=BOX, proposals=12)


class TestGuidedFromScratch(Contract):
    def make(self, seed=0, space=SPACE, **of_costs):
        options = {"box": BOX, "proposals": 4, "inherit": False, "explore": 0.5}
        return Guided(space, costs(space=space, **of_costs), OBJECTIVES, seed, **options)


class OfBaseline(Contract):
    """Of strategies that train everything from scratch; on cells, which are soon made."""

    space = CELLS
    limits = {"params": 2500.0, "macs": 20_000.0}  # noqa: RUF012 (never written to)

    def test_trains_from_scratch(self):
        for trial in play(self.make(), asks=5):
            assert trial.init == "scratch"
            assert (trial.fidelity_from, trial.fidelity_to) == (0, 3)

    def test_where_chance_finds_nothing_within_the_limits_what_lemonade_begins_with_does(self, impatient):
        smallest = CELLS.decode(CELLS.starts()[0]).n_params
        strategy = self.make(limits={"params": smallest})
        asked = play(strategy, asks=2)
        assert asked
        assert {trial.cheap["params"] for trial in asked} == {smallest}

    def test_a_limit_that_nothing_keeps_is_refused(self, impatient):
        with pytest.raises(LimitError, match="params <= 10"):
            self.make(limits={"params": 10.0}).ask(4)


class TestRandomSearch(OfBaseline):
    reachable = 2  # it draws no kernels of 1

    def make(self, seed=0, space=CELLS, **of_costs):
        return RandomSearch(space, costs(space=space, **of_costs), OBJECTIVES, seed, epochs=THREE)

    def test_a_few_networks_within_a_tight_limit_are_found(self):
        sizes = sorted(trial.cheap["params"] for trial in play(self.make(), asks=25))
        tight = self.make(limits={"params": sizes[len(sizes) // 10]})
        assert len(tight.ask(8)) == 8


class TestRegularizedEvolution(OfBaseline):
    def make(self, seed=0, space=CELLS, **of_costs):
        options = {"epochs": THREE, "population": 6, "tournament": 3}
        return RegularizedEvolution(space, costs(space=space, **of_costs), OBJECTIVES, seed, **options)

    def test_only_the_youngest_have_children(self):
        strategy = self.make()
        asked = play(strategy, asks=10)
        children = [trial for trial in asked if trial.parent is not None]
        assert len(children) == 40 - 6
        for trial in children:
            told = [other.id for other in asked if other.generation < trial.generation]
            assert trial.parent in told[-6:]
            assert len(trial.moves) == 1


class TestLocalSearch(OfBaseline):
    def make(self, seed=0, space=CELLS, **of_costs):
        return LocalSearch(space, costs(space=space, **of_costs), OBJECTIVES, seed, epochs=THREE, initial=5)

    def test_proposals_are_neighbours_of_the_front(self):
        strategy = self.make()
        play(strategy, asks=2)
        for _ in range(5):
            front = {entry.trial.id: entry for entry in strategy.archive.front().entries}
            for trial in play(strategy, asks=1):
                parent = CELLS.from_json(front[trial.parent].trial.genotype)
                (move,) = trial.moves
                assert CELLS.apply(parent, move_from_json(move)).genotype == trial.genotype

    def test_begins_anew_where_all_neighbours_are_known(self):
        strategy = LocalSearch(CELLS, costs(space=CELLS), OBJECTIVES, initial=1)
        (first,) = strategy.ask(1)
        strategy.tell(first.id, Result({"error": 0.01}, 1.0))  # and nothing else comes near
        around = strategy.ask(24)
        assert {trial.parent for trial in around} == {0, None}
        for trial in around:
            strategy.tell(trial.id, Result({"error": 0.5}, 1.0) if trial.parent == 0 else failed(trial))
        front = {entry.trial.id for entry in strategy.archive.front().entries}
        assert {trial.parent for trial in strategy.ask(40)} <= {None, *front}


class TestNsga2(OfBaseline):
    def make(self, seed=0, space=CELLS, **of_costs):
        return Genetic(space, costs(space=space, **of_costs), OBJECTIVES, seed, epochs=THREE, population=5)

    def test_survivors_are_what_pymoo_makes_of_all_generations(self):
        """NSGA-II as pymoo runs it, from the same first generation and with the same children, keeps the same."""
        strategy = self.make()
        asked = play(strategy, asks=4, count=5)
        strategy.ask(1)
        values = {trial.hash: [looked_up(trial).values["error"], *trial.cheap.values()] for trial in asked}
        survivors = Population.new(F=np.array([values[trial.hash] for trial in asked[:5]]))
        problem = Problem(n_var=1, n_obj=3)
        for generation in range(1, 4):
            children = asked[5 * generation : 5 * generation + 5]
            merged = Population.merge(survivors, Population.new(F=np.array([values[one.hash] for one in children])))
            survivors = RankAndCrowding().do(problem, merged, n_survive=5)
        parents = strategy._surviving()
        assert sorted(parents.get("F").tolist()) == sorted(survivors.get("F").tolist())


class TestSmsEmoa(OfBaseline):
    def make(self, seed=0, space=CELLS, **of_costs):
        options = {"epochs": THREE, "population": 4, "algorithm": "sms-emoa", "starts": True}
        return Genetic(space, costs(space=space, **of_costs), OBJECTIVES, seed, **options)

    def test_begins_with_the_starts(self):
        first = {trial.hash for trial in self.make().ask(4)}
        assert first == {CELLS.hash(cell) for cell in CELLS.starts()[:4]}


class TestOptunaNsga2(OfBaseline):
    reachable = 2  # the choices of the space are chains; they have no kernels of 1

    def make(self, seed=0, space=CELLS, **of_costs):
        options = {"epochs": THREE, "population": 4, "sampler": "nsga2"}
        return OptunaSearch(space, costs(space=space, **of_costs), OBJECTIVES, seed, **options)


class TestOptunaTpe(OfBaseline):
    reachable = 2

    def make(self, seed=0, space=CELLS, **of_costs):
        options = {"epochs": THREE, "population": 9, "sampler": "tpe"}
        return OptunaSearch(space, costs(space=space, **of_costs), OBJECTIVES, seed, **options)


@pytest.mark.parametrize("name", get_args(StrategyName))
@pytest.mark.parametrize("space", [SPACE, CELLS], ids=["plain", "cells"])
def test_every_strategy_searches_every_space(name, space):
    """By its name; its networks can be decoded from what the trials say."""
    made = make_strategy(
        name, space, costs(space=space), OBJECTIVES, 3, box=BOX, epochs=THREE, initial_epochs=Schedule.constant(2.0)
    )
    asked = play(made, asks=5, count=5)
    assert len({trial.hash for trial in asked if trial.init != "checkpoint"}) >= 16
    for trial in asked:
        genotype = space.from_json(trial.genotype)
        assert space.refusal(genotype) is None
        assert space.decode(genotype).hash == trial.hash


@pytest.mark.parametrize("name", ["lemonade", "surrogate", "local-search", "nsga2", "regularized-evolution"])
def test_what_lies_beyond_the_neighbours_of_the_front_is_found(name):
    """All networks but the first are dominated, and its neighbours within the limit, one in 120, are known soon."""
    smallest = CELLS.decode(CELLS.starts()[0]).n_params
    found = costs({"params": float(smallest + 60)}, space=CELLS)
    made = make_strategy(
        name,
        CELLS,
        found,
        ("error", "params"),
        0,
        box=Box(("error", "params"), (0.0, 1.0), (1.0, 1e6)),
        epochs=THREE,
        initial_epochs=THREE,
    )
    errors = {}
    for _ in range(10):
        trials = made.ask(4)
        if not trials:
            break
        for trial in trials:
            errors.setdefault(trial.hash, 0.01 if not errors else 0.5)
            made.tell(trial.id, Result({"error": errors[trial.hash]}, 1.0))
    assert len(errors) > 20  # it has ten neighbours


@pytest.mark.parametrize("name", get_args(StrategyName))
def test_goes_on_from_the_records_of_another_strategy(name):
    random = RandomSearch(CELLS, costs(space=CELLS), OBJECTIVES, epochs=THREE)
    play(random, asks=5)
    made = make_strategy(name, CELLS, costs(space=CELLS), OBJECTIVES, 0, box=BOX, epochs=THREE, initial_epochs=THREE)
    made.restore(random.records)
    asked = made.ask(6)
    assert len(asked) == 6
    assert {trial.hash for trial in asked}.isdisjoint(random.seen)


def test_many_at_once():
    random = RandomSearch(CELLS, costs(space=CELLS), OBJECTIVES, epochs=THREE)
    assert len({trial.hash for trial in random.ask(1200)}) == 1200


def test_a_box_whose_errors_do_not_begin_at_zero_is_refused():
    with pytest.raises(SpecError, match="errors must reach from 0 to something above it"):
        Guided(CELLS, costs(space=CELLS), ("error", "params"), box=Box(("error", "params"), (0.1, 1.0), (1.0, 1e6)))


def test_the_records_of_a_strategy_are_all_its_state():
    strategy = Lemonade(SPACE, costs(), OBJECTIVES, seed=3)
    play(strategy, asks=3)
    changed = [(trial, result and replace(result, values={"error": 0.5})) for trial, result in strategy.records]
    other = Lemonade(SPACE, costs(), OBJECTIVES, seed=3)
    other.restore(changed)
    assert {entry.values["error"] for entry in other.archive.entries} == {0.5}
    assert other.generation == strategy.generation == 3
    assert other.seen == strategy.seen
