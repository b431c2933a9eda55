"""Whatever JSON holds: a record of what its fields say, or an error of ours."""

import json
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.arch import Arch, chain
from spaces.errors import ArchError, SpecError
from spaces.morphisms import MORPHISMS, DeepenResidual, move_from_json
from spaces.ops import OPS, Conv, GlobalPool, Input, Linear
from spaces.plain import PlainSpace

ARCH = DeepenResidual("n1").apply(chain(Input(3, 8, 8), Conv(channels=4), GlobalPool(), Linear(10))).arch
VALUES = {int: 3, bool: True, str: "n1", str | None: "relu"}
SPECIAL = {"pool": "max", "act": "relu"}


def example(kind):
    return kind(**{field.name: SPECIAL.get(field.name, VALUES[field.type]) for field in fields(kind)})


RECORDS = [*map(example, (*OPS, *MORPHISMS)), ARCH.nodes[1], ARCH, PlainSpace((3, 32, 32), 10)]
MOVES = [record for record in RECORDS if isinstance(record, MORPHISMS)]


@pytest.mark.parametrize("record", list(filter(fields, RECORDS)), ids=lambda record: type(record).__name__)
def test_every_field_of_every_record_is_checked(record):
    for field in fields(record):
        for wrong in (object(), [], 1.5):
            with pytest.raises((ArchError, SpecError), match=f"{type(record).__name__}: {field.name} is .* of type "):
                replace(record, **{field.name: wrong})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.sampled_from(["", "n1", "x", "Conv", "relu"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["op", "move", "kernel"]), inner),
    max_leaves=4,
)


def spoilt(data, draw):
    """JSON with some value in it, at any depth, replaced."""
    keys = range(len(data)) if isinstance(data, list) else sorted(data) if isinstance(data, dict) else ()
    if not keys or draw(st.integers(0, 3)) == 0:
        return draw(json_values)
    copy = data.copy()
    key = draw(st.sampled_from(keys))
    copy[key] = spoilt(data[key], draw)
    return copy


@given(data=st.data())
def test_spoilt_json_is_read_or_refused(data):
    for read, written in ((Arch.from_json, ARCH), (move_from_json, data.draw(st.sampled_from(MOVES)))):
        try:
            found = read(spoilt(written.to_json(), data.draw))
        except ArchError:
            continue
        assert read(json.loads(json.dumps(found.to_json()))) == found
