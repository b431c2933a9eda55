"""The cell space: counted and written as in the benchmark, pruned as it runs, moved exactly where that is possible."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spaces.cell import EDGES, NONE, OPERATIONS, SKIP, parse, pruned, write
from spaces.cellspace import CellSpace, SetOperation
from spaces.errors import ArchError, MoveRefused, SpecError
from spaces.morphisms import GrowKernel, move_from_json
from spaces.network import Network
from spaces.ops import Act, Add, Conv, Pool, Zero
from tests.spaces.nets import error, pictures, scores, trained

#: Environment variable: a folder with the tables of NAS-Bench-201.
TABLES = "NASBENCH201"

BENCHMARK = CellSpace((3, 32, 32), 10)
SMALL = CellSpace((1, 9, 6), 3, channels=3, cells=1)
cells = st.tuples(*[st.sampled_from(OPERATIONS)] * len(EDGES)).map(write)
edits = st.builds(
    lambda edge, op, seed: SetOperation(*edge, op, seed),
    st.sampled_from(EDGES),
    st.sampled_from(OPERATIONS),
    st.integers(0, 99),
)


def cell(*ops):
    """A genotype by operations in short, in the order of the string."""
    return write(
        tuple(
            {"-": NONE, "s": SKIP, "1": OPERATIONS[2], "3": OPERATIONS[3], "p": OPERATIONS[4]}[op]
            for op in "".join(ops)
        )
    )


# As the benchmark has it ----------------------------------------------------------------------------------------------


def test_counts_are_those_that_the_benchmark_publishes():
    """Its first three architectures, and its best on CIFAR-10."""
    for text, params, mflops in [
        (
            "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|",
            129306,
            15.64737,
        ),
        (
            "|avg_pool_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|avg_pool_3x3~0|avg_pool_3x3~1|avg_pool_3x3~2|",
            559386,
            78.56193,
        ),
        (
            "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|",
            1073466,
            153.27297,
        ),
    ]:
        assert BENCHMARK.params(text) == params
        assert BENCHMARK.macs(text) == pytest.approx(mflops * 1e6, abs=0.01)


@pytest.mark.skipif(TABLES not in os.environ, reason=f"{TABLES} names no folder with the benchmark's accuracy.parquet")
def test_counts_are_published_ones_for_all_architectures():
    """Dead edges kept."""
    table = pd.read_parquet(Path(os.environ[TABLES]) / "accuracy.parquet")
    assert len(table) == 5**6
    for row in table.itertuples():
        assert BENCHMARK.params(row.arch_str) == row.params
        assert BENCHMARK.macs(row.arch_str) == pytest.approx(1e6 * row.mflops, abs=0.01)


@given(cells)
def test_counts_include_dead_edges_and_networks_do_not(text):
    alive = write(pruned(parse(text)))
    arch = SMALL.decode(text)
    assert arch.hash == SMALL.decode(alive).hash == SMALL.hash(text)
    if SMALL.refusal(text) is None:
        assert SMALL.params(alive) == arch.n_params
        assert SMALL.macs(alive) == sum(n.op.macs(arch.input_shapes(n.name)) for n in arch.nodes) + SMALL.classes
    dead = sum(a != b for a, b in zip(parse(text), parse(alive), strict=True))
    convs = sum(op.startswith("nor_conv") for op in parse(text)) - sum(op.startswith("nor_conv") for op in parse(alive))
    assert (SMALL.params(text) > SMALL.params(alive)) == (convs > 0)
    assert convs <= dead


def test_the_skeleton_around_a_skip_is_the_published_one():
    arch = BENCHMARK.decode(cell("---s--"))
    maps = [arch.shapes[node.name] for node in arch.nodes if isinstance(node.op, Conv)]
    assert Counter(maps) == {(16, 32, 32): 1, (32, 16, 16): 3, (64, 8, 8): 3}
    assert arch.n_params == 73_306
    assert [node.op for node in arch.nodes if isinstance(node.op, Pool)] == [Pool("avg", 2, 2)] * 2


def test_all_copies_of_the_cell_are_alike():
    arch = BENCHMARK.decode(cell("3---s1"))
    kernels = Counter(node.op.kernel for node in arch.nodes if isinstance(node.op, Conv))
    assert (kernels[3], kernels[1]) == (5 + 15, 2 + 0)  # the 1x1 reads node 2, which nothing reaches
    arch = BENCHMARK.decode(cell("3sp-s1"))
    kernels = Counter(node.op.kernel for node in arch.nodes if isinstance(node.op, Conv))
    assert (kernels[3], kernels[1]) == (5 + 15, 2 + 15)
    assert sum(node.op == Pool("avg", 3, 1) for node in arch.nodes) == 15


def test_a_cell_without_a_way_through_is_zero_and_refused():
    text = cell("3s----")
    assert "no way leads through" in SMALL.refusal(text)
    arch = SMALL.decode(text)
    assert sum(isinstance(node.op, Zero) for node in arch.nodes) == 3
    state = trained(arch)
    one, other = pictures(arch, seed=0), pictures(arch, seed=1)
    assert torch.equal(scores(arch, state.value, one), scores(arch, state.value, other))


def test_identity_is_of_the_graph():
    """Nodes that change places make no other network; one convolution read twice is not two equal ones."""
    assert SMALL.hash(cell("3-", "-", "s1-")) == SMALL.hash(cell("-3-s-1"))
    once, twice = cell("3-s-pp"), cell("33--pp")
    assert SMALL.hash(once) != SMALL.hash(twice)
    assert SMALL.decode(once).n_params < SMALL.decode(twice).n_params


def test_convolutions_that_read_the_same_share_its_relu():
    arch = SMALL.decode(cell("33-3--"))
    assert sum(isinstance(node.op, Act) for node in arch.nodes) == 3 + 2 + 1  # cells, reductions, the head


# Space ----------------------------------------------------------------------------------------------------------------


def test_starts_are_small_to_large_and_all_different():
    starts = BENCHMARK.starts()
    assert len({BENCHMARK.hash(text) for text in starts}) == len(starts) == 8
    assert [BENCHMARK.refusal(text) for text in starts] == [None] * 8
    assert BENCHMARK.params(starts[0]) == min(map(BENCHMARK.params, starts)) == 73_306
    assert BENCHMARK.params(starts[-1]) == max(map(BENCHMARK.params, starts)) == 73_306 + 6 * 243_040


def test_samples_cover_the_space_and_follow_the_seed():
    rng = np.random.default_rng(0)
    drawn = [SMALL.sample(rng) for _ in range(400)]
    assert drawn[:5] == [SMALL.sample(rng) for rng in [np.random.default_rng(0)] for _ in range(5)]
    assert all(SMALL.refusal(text) is None for text in drawn)
    assert all(set(ops) == set(OPERATIONS) for ops in zip(*map(parse, drawn), strict=True))


def test_moves_are_all_that_differ_in_one_edge():
    text = cell("3-ps1s")
    children = [SMALL.apply(text, move).genotype for move in SMALL.moves(text)]
    assert len(set(children)) == len(children) == 6 * 4
    for child in children:
        assert sum(a != b for a, b in zip(parse(text), parse(child), strict=True)) == 1


def test_crossing_takes_each_edge_from_either():
    one, other = cell("333333"), cell("ppssp1")
    rng = np.random.default_rng(0)
    crossed = [parse(SMALL.cross(one, other, rng)) for _ in range(50)]
    for edge, pair in enumerate(zip(parse(one), parse(other), strict=True)):
        assert {child[edge] for child in crossed} == set(pair)


def test_genotypes_and_moves_survive_json():
    for text in SMALL.starts():
        assert SMALL.from_json(json.loads(json.dumps(SMALL.to_json(text)))) == text
    move = SetOperation(1, 3, SKIP, seed=5)
    assert move_from_json(json.loads(json.dumps(move.to_json()))) == move


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: SMALL.from_json("|none~0|+|none~0|none~1|"), "is no cell; expected"),
        (lambda: SMALL.from_json(7), "7 is no cell"),
        (lambda: SMALL.from_json(cell("3sp-s1").replace("none", "sep_conv")), "unknown operation 'sep_conv'"),
        (lambda: SMALL.from_json(cell("3sp-s1") + "+"), "is no cell"),
        (lambda: SetOperation(0, 4, SKIP), "no edge from node 0 to 4"),
        (lambda: SetOperation(0, 3, "conv"), "unknown operation 'conv'"),
        (lambda: SetOperation(0, 3, SKIP, seed=-1), "seed is -1"),
        (lambda: CellSpace((3, 8, 8), 1), "classes is 1"),
        (lambda: CellSpace((3, 8, 8), 10, cells=0), "cells is 0"),
        (lambda: SMALL.apply(cell("---s--"), GrowKernel("n2")), "moves are of the kind SetOperation"),
    ],
)
def test_what_cannot_be_says_why(make, why):
    with pytest.raises((ArchError, MoveRefused, SpecError), match=why):
        make()


# Moves ----------------------------------------------------------------------------------------------------------------


@given(cells, edits)
def test_a_child_has_all_tensors_of_its_network_and_the_transfer_is_pure(text, move):
    child = SMALL.apply(text, move)
    state = trained(SMALL.decode(text))
    before = {key: tensor.clone() for key, tensor in state.flat().items()}
    arch = SMALL.decode(child.genotype)
    after = child.transfer(state)
    assert {key: tensor.shape for key, tensor in after.value.items()} == {k: p.shape for k, p in arch.params.items()}
    assert after.ema.keys() == after.value.keys()
    assert after.momentum.keys() == {key for key, param in arch.params.items() if param.trainable}
    assert all(torch.equal(tensor, before[key]) for key, tensor in state.flat().items())
    again = SMALL.apply(text, move).transfer(state)
    assert all(torch.equal(tensor, again.flat()[key]) for key, tensor in after.flat().items())
    assert child.new <= {node.name for node in arch.nodes}


@given(cells, edits)
def test_exact_moves_keep_the_function(text, move):
    child = SMALL.apply(text, move)
    arch, state = SMALL.decode(text), trained(SMALL.decode(text))
    images = pictures(arch)
    for mode in ("eval", "train") if child.exact == "train" else ():
        before = scores(arch, state.value, images, mode)
        after = scores(SMALL.decode(child.genotype), child.transfer(state).value, images, mode)
        assert error(before, after) <= 1e-12


@pytest.mark.parametrize(
    ("before", "move", "exact"),
    [
        ("---s--", SetOperation(0, 1, "nor_conv_3x3"), "train"),  # dead as yet: nothing changes
        ("---s-s", SetOperation(0, 2, "nor_conv_3x3"), "train"),  # a parallel branch, through a skip
        ("---s-3", SetOperation(0, 2, "nor_conv_3x3"), "train"),  # through another convolution that comes alive
        ("---s-3", SetOperation(0, 2, "skip_connect"), "train"),  # only that one is new
        ("3--ss-", SetOperation(0, 3, "nor_conv_1x1"), None),  # a skip is lost
        ("3---s-", SetOperation(0, 3, "nor_conv_1x1"), "train"),
        ("1--ss-", SetOperation(0, 1, "nor_conv_3x3"), "train"),
        ("3--ss-", SetOperation(0, 1, "nor_conv_1x1"), None),
        ("3---s-", SetOperation(0, 3, "skip_connect"), None),
        ("---s-s", SetOperation(0, 2, "avg_pool_3x3"), None),
        ("3--ss-", SetOperation(0, 1, "none"), None),
        ("3-----", SetOperation(1, 3, "nor_conv_3x3"), None),  # from a network that was blind
        ("3---s-", SetOperation(1, 3, "none"), None),
    ],
)
def test_which_moves_are_exact(before, move, exact):
    assert SMALL.apply(cell(before), move).exact == exact


def test_most_additions_of_convolutions_are_exact():
    rng = np.random.default_rng(0)
    kinds = Counter()
    for _ in range(200):
        text = SMALL.sample(rng)
        for move in SMALL.moves(text):
            was = parse(text)[move.edge]
            kinds[was == NONE and move.operation.startswith("nor_conv"), SMALL.apply(text, move).exact] += 1
    assert kinds[True, "train"] > 0.95 * (kinds[True, "train"] + kinds[True, None])
    assert kinds[False, "train"] > 0


def test_a_new_convolution_learns_from_the_first_step():
    text = cell("---s-s")
    child = SMALL.apply(text, SetOperation(0, 2, "nor_conv_3x3", seed=3))
    arch = SMALL.decode(child.genotype)
    net = Network(arch, child.transfer(trained(SMALL.decode(text), dtype=torch.float32)).value).train()
    net(pictures(arch, dtype=torch.float32)).square().sum().backward()
    gradients = {
        name: float(p.grad.abs().sum()) for name, p in net.named_parameters() if name.partition(".")[0] in child.new
    }
    assert len(gradients) == 3 * 3
    assert all(total > 0 for name, total in gradients.items() if name.endswith("gamma"))


def test_an_averaging_convolution_takes_the_place_of_a_pooling():
    """Inside the border, and for what is not negative, it is the same."""
    space = CellSpace((1, 32, 32), 3, channels=3, cells=1)
    text = cell("---p--")
    child = space.apply(text, SetOperation(0, 3, "nor_conv_3x3"))
    arch, other = space.decode(text), space.decode(child.genotype)
    state = trained(arch)
    (name, _), *_ = [(n.name, n) for n in other.nodes if n.name in child.new and isinstance(n.op, Conv)]
    source = other[other[name].inputs[0]].inputs[0]
    images = pictures(arch)
    with torch.no_grad():
        read, made = Network(other, child.transfer(state).value).eval().features(images, [source, name])
    expected = torch.nn.functional.avg_pool2d(read.relu(), 3, 1, 1, count_include_pad=False)
    assert error(made[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1]) < 1e-12


def test_sums_have_as_many_parts_as_live_edges():
    arch = SMALL.decode(cell("3s1p3s"))
    parts = Counter(len(node.inputs) for node in arch.nodes if isinstance(node.op, Add))
    assert parts == {2: 3 + 2, 3: 3}
