import json
import re
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.trial import Result, Trial

text = st.text(max_size=8)
number = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | number | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(text, json_values, max_size=3)
epochs = st.floats(0, 1e4)


@st.composite
def trials(draw):
    start, trained = draw(epochs), draw(epochs)
    return Trial(
        id=draw(st.integers(0, 10**6)),
        genotype=draw(json_values),
        hash=draw(text),
        parent=draw(st.integers(0, 10**6)),
        moves=tuple(draw(st.lists(objects, max_size=3))),
        init=draw(st.sampled_from(["parent", "supernet", "scratch", "checkpoint"])),
        config=draw(objects),
        fidelity_from=start,
        fidelity_to=start + trained,
        seed=draw(st.integers(0, 2**63)),
        cheap=draw(st.dictionaries(text, number, max_size=3)),
        snapshot=draw(st.none() | text),
        generation=draw(st.integers(0, 99)),
    )


@st.composite
def results(draw):
    return Result(
        values=draw(st.dictionaries(text, number, min_size=1, max_size=4)),
        seconds=draw(st.floats(0, 1e6)),
        status=draw(st.sampled_from(["ok", "failed"])),
        reason=draw(st.text(min_size=1)),
        weights=draw(st.none() | text),
        info=draw(objects),
    )


@given(trials())
def test_a_trial_survives_its_json(trial):
    assert Trial.from_json(json.loads(json.dumps(trial.to_json(), allow_nan=False))) == trial


@given(results())
def test_a_result_survives_its_json(result):
    assert Result.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False))) == result


def test_records_are_frozen_copies():
    genotype = {"widths": [8, 16]}
    trial = Trial(id=0, genotype=genotype, hash="a")
    genotype["widths"].append(32)
    assert trial.genotype == {"widths": [8, 16]}
    trial.to_json()["genotype"]["widths"].append(64)
    assert trial.genotype == {"widths": [8, 16]}
    with pytest.raises(FrozenInstanceError):
        trial.id = 1


def test_tuples_become_lists_and_numpy_numbers_become_floats():
    trial = Trial(id=0, genotype=(1, (2, 3)), hash="a", cheap={"params": np.int64(7), "latency": np.float32(0.5)})
    assert trial.genotype == [1, [2, 3]]
    assert trial.cheap == {"params": 7.0, "latency": 0.5}
    assert [type(v) for v in trial.cheap.values()] == [float, float]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": -1}, "Trial.id is -1; it must be a whole number, at least 0"),
        ({"id": True}, "Trial.id is True; it must be a whole number, at least 0"),
        ({"seed": 1.5}, "Trial.seed is 1.5; it must be a whole number, at least 0"),
        ({"parent": -3}, "Trial.parent is -3; it must be a whole number, at least 0"),
        ({"hash": 7}, "Trial.hash is 7; it must be text"),
        ({"init": "random"}, "Trial.init is 'random'; it must be one of parent, supernet, scratch, checkpoint"),
        ({"init": "parent"}, "Trial.init is 'parent', so Trial.parent must name a trial; it is None"),
        ({"init": "checkpoint"}, "Trial.init is 'checkpoint', so Trial.parent must name a trial; it is None"),
        (
            {"fidelity_from": 3, "fidelity_to": 2},
            "Trial trains from epoch 3 to epoch 2; the rule is 0 <= fidelity_from <= fidelity_to",
        ),
        ({"fidelity_to": float("inf")}, "Trial.fidelity_to is inf; it must be a finite number"),
        ({"cheap": {"params": "12"}}, "Trial.cheap.params is '12'; it must be a finite number"),
        ({"cheap": {"params": 10**400}}, "it must be a finite number"),
        ({"moves": ("widen",)}, "Trial.moves[0] is 'widen'; it must be a mapping from names to values"),
        ({"config": {"lr": [0.1, float("nan")]}}, "Trial.config.lr[1] is nan; JSON has finite numbers only"),
        ({"genotype": {1: 2}}, "Trial.genotype has the key 1; the keys of a JSON object are text"),
        ({"genotype": {"w": np.arange(2)}}, "Trial.genotype.w is of type ndarray; plain JSON has no such value"),
    ],
)
def test_a_wrong_trial_is_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Trial(**({"id": 0, "genotype": None, "hash": "a"} | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": {"error": float("nan")}}, "Result.values.error is nan; it must be a finite number"),
        ({"values": {"error": None}}, "Result.values.error is None; it must be a finite number"),
        (
            {"status": "failed", "reason": "diverged", "values": {"error": float("inf")}},
            "Result.values.error is inf; it must be a finite number",
        ),
        ({"values": {}}, "Result.values is empty; a result that is ok has at least one value"),
        ({"status": "failed"}, "Result.reason is empty; a failed result says why it failed"),
        ({"status": "done"}, "Result.status is 'done'; it must be one of ok, failed"),
        ({"seconds": -1}, "Result.seconds is -1; a duration cannot be negative"),
        ({"weights": b"x"}, "Result.weights is b'x'; it must be text"),
        ({"info": {"curve": [1.0, float("nan")]}}, "Result.info.curve[1] is nan; JSON has finite numbers only"),
    ],
)
def test_a_wrong_result_is_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Result(**({"values": {"error": 0.1}, "seconds": 1.0} | change))


def test_a_failure_needs_no_values():
    failed = Result(values={}, seconds=0.2, status="failed", reason="out of memory")
    assert Result.from_json(failed.to_json()) == failed


def test_unknown_and_missing_keys_are_named():
    record = Result(values={"error": 0.1}, seconds=1.0).to_json()
    del record["seconds"]
    with pytest.raises(ValueError, match=r"not a Result: unknown key 'time', key 'seconds' is missing; its keys are"):
        Result.from_json(record | {"time": 1.0})
    with pytest.raises(ValueError, match=r"not a Trial: .*key 'genotype' is missing"):
        Trial.from_json({})
