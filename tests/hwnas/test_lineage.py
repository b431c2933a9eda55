from dataclasses import replace

from hwnas.lineage import lineage
from hwnas.trial import Result, Trial
from spaces.morphisms import Deepen, Widen
from tests.hwnas.toys import SPACE

START = SPACE.plain([8, 8], [1, 1])


def test_from_the_first_ancestor_on_with_the_epochs_that_were_trained():
    deepen = Deepen(START.nodes[2].name)
    deeper = SPACE.apply(START, deepen)
    widen = Widen(deeper.genotype.nodes[2].name, 0, 8, seed=3)
    wider = SPACE.apply(deeper.genotype, widen)

    def trial(id, genotype, **known):
        return Trial(id, SPACE.to_json(genotype), genotype.hash, seed=10 + id, **known)

    trials = [
        trial(0, START, fidelity_to=4.0),
        trial(1, deeper.genotype, parent=0, init="parent", moves=(deepen.to_json(),), fidelity_from=4, fidelity_to=6),
        trial(2, deeper.genotype, parent=1, init="checkpoint", fidelity_from=6, fidelity_to=8),
        trial(3, wider.genotype, parent=2, init="parent", moves=(widen.to_json(),), fidelity_from=7.5, fidelity_to=8.5),
    ]
    results = [Result({"error": 0.5}, 1.0, info={"epochs": epochs}) for epochs in (4.0, 6.0, 7.5)]
    records = dict(enumerate(zip(trials, [*results, None], strict=True)))
    found = lineage(3, records.__getitem__, SPACE)
    assert found[0]["genotype"] == trials[0].genotype
    assert [step["trial"] for step in found] == [0, 1, 2, 3]
    assert [step["init"] for step in found] == ["scratch", "parent", "checkpoint", "parent"]
    assert [step["seed"] for step in found] == [10, 11, 12, 13]
    assert [step["epochs"] for step in found] == [4.0, 6.0, 7.5, 8.5]
    assert [[move["move"] for move in step["moves"]] for step in found] == [[], ["Deepen", "Calibrate"], [], ["Widen"]]
    assert found[1]["moves"][1]["nodes"] == sorted(deeper.new)
    alone = replace(trials[3], parent=None, init="scratch", moves=())
    assert lineage(3, {3: (alone, None)}.__getitem__, SPACE)[0]["genotype"] == alone.genotype
