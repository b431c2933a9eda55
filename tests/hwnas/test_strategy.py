"""What every strategy keeps to, and random search."""

import json
from dataclasses import replace

import pytest

from hwnas.baseline import RandomSearch
from hwnas.lemonade import Lemonade
from hwnas.schedule import Schedule
from hwnas.strategy import Strategy
from hwnas.trial import Result, Trial
from spaces.errors import LimitError
from tests.hwnas.toys import FOUR_NETWORKS, OBJECTIVES, SPACE, costs, failed, looked_up, play


def as_read_back(strategy: Strategy) -> list[tuple[Trial, Result | None]]:
    """Its records after a trip through JSON."""
    texts = json.dumps([[trial.to_json(), result and result.to_json()] for trial, result in strategy.records])
    return [(Trial.from_json(trial), result and Result.from_json(result)) for trial, result in json.loads(texts)]


class Contract:
    """Inherited by the tests of each strategy."""

    reachable = 4  # of `FOUR_NETWORKS`

    def make(self, seed: int = 0, space=SPACE, **of_costs) -> Strategy:
        raise NotImplementedError

    def test_trials_say_what_is_to_be_done(self):
        strategy = self.make(snapshot="c0ffee")
        asked = play(strategy, asks=5)
        assert [trial.id for trial in asked] == list(range(len(asked)))
        assert {trial.snapshot for trial in asked} == {"c0ffee"}
        assert [trial.generation for trial in asked] == sorted(trial.generation for trial in asked)
        assert {trial.generation for trial in asked} == {0, 1, 2, 3, 4}
        for trial in asked:
            arch = SPACE.decode(SPACE.from_json(trial.genotype))
            (cost,) = strategy.costs.of([SPACE.from_json(trial.genotype)])
            assert trial.hash == arch.hash
            assert trial.cheap == {name: estimate.value for name, estimate in cost.items()}
            assert trial.fidelity_to > trial.fidelity_from
            assert SPACE.refusal(SPACE.from_json(trial.genotype)) is None

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
        limits = {"params": 2000.0, "macs": 60_000.0}
        asked = play(self.make(limits=limits), asks=8)
        assert len({trial.hash for trial in asked}) > 10
        for name, limit in limits.items():
            assert max(trial.cheap[name] for trial in asked) <= limit

    def test_an_exhausted_space_says_so(self):
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


class TestRandomSearch(Contract):
    reachable = 2  # it draws no kernels of 1

    def make(self, seed=0, space=SPACE, **of_costs):
        return RandomSearch(space, costs(space=space, **of_costs), OBJECTIVES, seed, epochs=Schedule.constant(3.0))

    def test_a_limit_that_nothing_keeps_yields_nothing(self):
        assert self.make(limits={"params": 10.0}).ask(4) == []

    def test_trains_from_scratch(self):
        for trial in play(self.make(), asks=3):
            assert (trial.init, trial.parent, trial.moves) == ("scratch", None, ())
            assert (trial.fidelity_from, trial.fidelity_to) == (0, 3)

    def test_a_few_networks_within_a_tight_limit_are_found(self):
        sizes = sorted(trial.cheap["params"] for trial in play(self.make(), asks=25))
        tight = self.make(limits={"params": sizes[len(sizes) // 10]})
        assert len(tight.ask(8)) == 8


def test_the_records_of_a_strategy_are_all_its_state():
    strategy = Lemonade(SPACE, costs(), OBJECTIVES, seed=3)
    play(strategy, asks=3)
    changed = [(trial, result and replace(result, values={"error": 0.5})) for trial, result in strategy.records]
    other = Lemonade(SPACE, costs(), OBJECTIVES, seed=3)
    other.restore(changed)
    assert {entry.values["error"] for entry in other.archive.entries} == {0.5}
    assert other.generation == strategy.generation == 3
    assert other.seen == strategy.seen
