"""The plain space: its bounds hold for everything it gives."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from spaces.arch import Arch
from spaces.errors import MoveRefused, SpecError
from spaces.morphisms import MORPHISMS, GrowKernel, RemoveSkip, SkipConcat, Widen, replay
from spaces.ops import Add, Concat, Conv, DepthwiseConv
from spaces.plain import PlainSpace
from spaces.space import seeded
from tests.spaces.nets import shuffled, trained

SPACES = {
    "default": PlainSpace((3, 32, 32), 10),
    "grey": PlainSpace((1, 8, 8), 2, stages=2, min_width=4, max_width=12, width_step=4),
    "dense chains": PlainSpace((3, 16, 16), 5, separable=False, skips=False, max_width=64),
    "large images": PlainSpace((3, 65, 33), 3, stages=4, stem_stride=4, max_depth=6),
    "one width": PlainSpace((3, 8, 8), 3, stages=1, min_width=22, max_width=22, max_kernel=3),
    "room for one": PlainSpace((3, 8, 8), 3, max_params=6_200, max_depth=3, max_kernel=3),
}
spaces = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def walk(space, seed, length):
    """Moves and children of a random walk from the smallest start."""
    rng = np.random.default_rng(seed)
    arch = space.starts()[0]
    for _ in range(length):
        proposed = space.propose(arch, rng)
        if proposed is not None:
            arch = proposed[1].genotype
            yield proposed


@spaces
def test_starts_are_within_the_bounds_small_to_large_and_canonical(space):
    starts = space.starts()
    assert len(set(starts)) == len(starts) >= 1
    assert [space.refusal(arch) for arch in starts] == [None] * len(starts)
    assert starts == [arch.canonical() for arch in starts]
    assert starts[0] == min(starts, key=lambda arch: sum(np.prod(p.shape) for p in arch.params.values()))
    for arch in starts:
        assert arch.image.to_json() == {
            "op": "Input",
            **dict(zip(("channels", "height", "width"), space.image, strict=True)),
        }
        assert arch.classes == space.classes


@spaces
def test_samples_are_within_the_bounds_and_follow_the_seed(space):
    for seed in range(6):
        arch, again = (space.sample(np.random.default_rng(seed)) for _ in range(2))
        assert space.refusal(arch) is None
        assert arch == again == arch.canonical()


def test_samples_differ():
    assert len({SPACES["default"].sample(np.random.default_rng(seed)).hash for seed in range(20)}) == 20


@spaces
def test_children_stay_within_the_bounds(space):
    for move, child in walk(space, 1, 15):
        arch = child.genotype
        assert space.refusal(arch) is None
        assert arch == space.decode(arch) == arch.canonical()
        assert child.exact == move.exact
        assert child.new <= {node.name for node in arch.nodes}
        ops = [node.op for node in arch.nodes]
        assert space.separable or not any(isinstance(op, DepthwiseConv) for op in ops)
        assert space.skips or not any(isinstance(op, Add | Concat) for op in ops)
        if space.min_width % space.width_step == 0:
            assert all(op.channels % space.width_step == 0 for op in ops if isinstance(op, Conv))


def test_every_kind_of_move_is_proposed_about_equally_often():
    counts = Counter(type(move) for seed in range(12) for move, _ in walk(SPACES["default"], seed, 25))
    assert set(counts) == set(MORPHISMS)
    assert max(counts.values()) < 8 * min(counts.values())


def test_a_walk_replays():
    steps = list(walk(SPACES["default"], 3, 12))
    start = SPACES["default"].starts()[0]
    state = trained(start)
    for _, child in steps:
        state = child.transfer(state)
    again = replay(start, [move.to_json() for move, _ in steps])
    assert again.arch == steps[-1][1].genotype
    flat = again.transfer(trained(start)).flat()
    assert all(np.array_equal(tensor, flat[key]) for key, tensor in state.flat().items())


def test_moves_do_not_depend_on_who_asked_before():
    space, arch = SPACES["grey"], SPACES["grey"].starts()[0]
    assert space.moves(arch) == replace(space).moves(arch)
    assert all(move.applicable(arch) for move in space.moves(arch))


def test_only_moves_with_random_tensors_take_a_seed():
    assert seeded(Widen("n1", 0, 8), 7) == Widen("n1", 0, 8, seed=7)
    assert seeded(SkipConcat("n2", "n1"), 7) == SkipConcat("n2", "n1", seed=7)
    assert seeded(GrowKernel("n1"), 7) == GrowKernel("n1")
    proposed = [move for seed in range(4) for move, _ in walk(SPACES["default"], seed, 25)]
    assert all(move.seed for move in proposed if hasattr(move, "seed"))


def test_no_tries_no_proposal():
    space = SPACES["grey"]
    assert space.propose(space.starts()[0], np.random.default_rng(0), tries=0) is None


def test_a_move_that_does_not_fit_is_refused():
    space = SPACES["grey"]
    with pytest.raises(MoveRefused, match="n2 is a Conv"):
        space.apply(space.starts()[0], RemoveSkip("n2", 0))


@spaces
def test_genotypes_go_through_json(space):
    for arch in (space.starts()[0], space.sample(np.random.default_rng(2))):
        assert space.from_json(json.loads(json.dumps(space.to_json(arch)))) == arch
        assert space.from_json(shuffled(arch, 1)[0].to_json()) == arch


def test_each_bound_says_what_it_refuses():
    space = PlainSpace((3, 8, 8), 4, stages=2, max_depth=4, min_width=8, max_width=16, max_kernel=5, max_params=3_000)
    assert space.refusal(space.plain([8, 16], [1, 1])) is None
    assert space.refusal(space.plain([8, 16], [3, 2])) == "5 convolutions, max_depth is 4"
    assert space.refusal(space.plain([4, 24], [1, 1])) == "widths [4, 24], allowed are 8 to 16"
    assert space.refusal(space.plain([8, 8], [1, 1], kernel=7)) == "a kernel larger than max_kernel, 5"
    assert space.refusal(space.plain([16, 16], [1, 1])) is None
    assert space.refusal(space.plain([16, 16], [1, 2])) == "5204 parameters, max_params is 3000"


def test_a_plain_chain_halves_the_map_between_stages():
    arch = PlainSpace((3, 32, 32), 10, stem_stride=2).plain([8, 16, 32], [1, 2, 1])
    filters = [node for node in arch.nodes if isinstance(node.op, Conv)]
    assert [(node.op.stride, arch.shapes[node.name]) for node in filters] == [
        (2, (8, 16, 16)), (2, (16, 8, 8)), (1, (16, 8, 8)), (2, (32, 4, 4)),
    ]  # fmt: skip


def test_a_separable_chain_begins_with_a_dense_convolution():
    arch = PlainSpace((3, 32, 32), 10).plain([8, 16], [2, 1], kernel=5, separable=True)
    filters = [node.op for node in arch.nodes if isinstance(node.op, Conv | DepthwiseConv)]
    assert filters == [
        Conv(5, channels=8), DepthwiseConv(5), Conv(1, channels=8), DepthwiseConv(5, 2), Conv(1, channels=16),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"image": [3, 32, 32]}, r"image is \[3, 32, 32\], it must be of type tuple\[int, int, int\]"),
        ({"image": (3, 32)}, r"image is \(3, 32\), it must be of type tuple\[int, int, int\]"),
        ({"classes": 10.0}, r"classes is 10.0, it must be of type int"),
        ({"skips": 1}, r"skips is 1, it must be of type bool"),
        ({"max_params": 1e6}, r"max_params is 1000000.0, it must be of type int \| None"),
        ({"stages": 0}, "stages is 0, it must be at least 1"),
        ({"stem_stride": 0}, "stem_stride is 0, it must be at least 1"),
        ({"width_step": 0}, "width_step is 0, it must be at least 1"),
        ({"min_width": 16, "max_width": 8}, "widths from 16 to 8: the first must be 1 to the second"),
        ({"min_width": 0}, "widths from 0 to 512: the first must be 1 to the second"),
        ({"classes": 1}, "classes is 1, there must be at least 2"),
        ({"max_params": 100}, "of the smallest: .* parameters, max_params is 100"),
        ({"max_depth": 2}, "a search begins with; of the smallest: 3 convolutions, max_depth is 2"),
        ({"max_kernel": 0}, "of the smallest: a kernel larger than max_kernel, 0"),
    ],
)
def test_a_space_that_cannot_be_says_why(changes, why):
    with pytest.raises(SpecError, match=why):
        PlainSpace(**{"image": (3, 32, 32), "classes": 10} | changes)


def test_the_genotype_is_the_architecture():
    arch = SPACES["grey"].starts()[0]
    assert isinstance(arch, Arch)
    assert SPACES["grey"].decode(arch) is arch
