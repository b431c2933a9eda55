"""Every morphism on random networks: valid, exact where it says so, pure, alive, replayable."""

import json
from dataclasses import replace
from statistics import median

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spaces.arch import Arch, Node, chain
from spaces.channels import axes, segment_at
from spaces.errors import ArchError, MoveRefused
from spaces.graph import nonnegative
from spaces.morphisms import (
    MORPHISMS,
    AddBranch,
    Deepen,
    DeepenResidual,
    GrowKernel,
    Morphism,
    Prune,
    RemoveLayer,
    RemoveSkip,
    Separate,
    ShrinkKernel,
    SkipAdd,
    SkipConcat,
    SkipIdentity,
    Widen,
    move_from_json,
    replay,
)
from spaces.network import Network, activate
from spaces.ops import Act, Add, Concat, Conv, DepthwiseConv, GlobalPool, Input, Linear, Norm, Pool
from spaces.plain import PlainSpace
from spaces.rewrite import remap
from spaces.state import State, initial_state
from tests.spaces.nets import archs, error, moves, net, pictures, scores, trained

#: What the design claims: the modes in which a move keeps the function.
CLAIMS = {
    Widen: ("eval", "train"),
    GrowKernel: ("eval", "train"),
    AddBranch: ("eval", "train"),
    DeepenResidual: ("eval", "train"),
    SkipAdd: ("eval", "train"),
    SkipConcat: ("eval", "train"),
    Deepen: ("eval",),
    SkipIdentity: (),
    Prune: (),
    RemoveLayer: (),
    RemoveSkip: (),
    ShrinkKernel: (),
    Separate: (),
}
EXACT = [kind for kind, modes in CLAIMS.items() if modes]
kinds = pytest.mark.parametrize("kind", MORPHISMS, ids=lambda kind: kind.__name__)
exact_kinds = pytest.mark.parametrize("kind", EXACT, ids=lambda kind: kind.__name__)


def test_every_move_claims_what_the_design_claims():
    assert {kind: kind.exact for kind in MORPHISMS} == {
        kind: modes[-1] if modes else None for kind, modes in CLAIMS.items()
    }


def drawn_move(data, arch, kind):
    """One of the applicable moves of a kind; networks without one are passed over."""
    found = moves(arch, kind)
    assume(found)
    return data.draw(st.sampled_from(found))


@exact_kinds
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["f64", "f32"])
@given(data=st.data())
def test_exact_moves_keep_the_function(kind, dtype, tolerance, data):
    arch = data.draw(archs()).canonical()
    child = drawn_move(data, arch, kind).apply(arch)
    state, images = trained(arch, dtype=dtype), pictures(arch, dtype=dtype)
    moved = child.transfer(state)
    for mode in CLAIMS[kind]:
        expected = scores(arch, state.value, images, mode)
        assert error(scores(child.arch, moved.value, images, mode), expected) <= tolerance


def check_chain(data, length):
    arch = data.draw(archs(steps=5)).canonical()
    state, images = trained(arch), pictures(arch, 4)
    first, begun, lineage = arch, state, []
    for _ in range(length):
        kind = data.draw(st.sampled_from(MORPHISMS))
        found = moves(arch, kind)
        if not found:
            continue
        move = data.draw(st.sampled_from(found))
        lineage.append(json.loads(json.dumps(move.to_json())))
        child = move.apply(arch)
        moved = child.transfer(state)
        assert_fits(child.arch, moved)
        for mode in CLAIMS[kind]:
            expected = scores(arch, state.value, images, mode)
            assert error(scores(child.arch, moved.value, images, mode), expected) <= 1e-12, (move, mode)
        arch, state = child.arch, moved
    assert scores(arch, state.value, images).isfinite().all()
    again = replay(first, lineage)
    assert again.arch == arch
    assert_same(again.transfer(begun), state)


@given(data=st.data(), length=st.integers(1, 30))
def test_chains_stay_valid_and_exact_and_replay_bit_by_bit(data, length):
    check_chain(data, length)


@pytest.mark.slow
@settings(max_examples=400, derandomize=False)
@given(data=st.data(), length=st.integers(10, 30))
def test_many_long_chains(data, length):
    check_chain(data, length)


def assert_fits(arch: Arch, state: State):
    """Every slot holds what the network has, no more, and in its shapes."""
    shapes = {key: param.shape for key, param in arch.params.items()}
    trainable = {key for key, param in arch.params.items() if param.trainable}
    assert {key: tuple(tensor.shape) for key, tensor in state.value.items()} == shapes
    assert {key: tuple(tensor.shape) for key, tensor in state.ema.items()} == shapes
    assert {key: tuple(tensor.shape) for key, tensor in state.momentum.items()} == {
        key: shape for key, shape in shapes.items() if key in trainable
    }
    assert arch == arch.canonical()
    assert Arch.from_json(json.loads(json.dumps(arch.to_json()))) == arch


def assert_same(found: State, expected: State):
    assert found.flat().keys() == expected.flat().keys()
    assert all(torch.equal(tensor, expected.flat()[key]) for key, tensor in found.flat().items())


# Transfers ------------------------------------------------------------------------------------------------------------


@kinds
@given(data=st.data())
def test_transfers_are_pure_and_treat_the_slots_as_designed(kind, data):
    arch = data.draw(archs()).canonical()
    move = drawn_move(data, arch, kind)
    state = trained(arch)
    before = State.from_flat({key: tensor.clone() for key, tensor in state.flat().items()})
    child = move.apply(arch)
    moved = child.transfer(state)

    assert_same(state, before)
    assert_fits(child.arch, moved)
    assert_same(child.transfer(state), moved)
    if kind is not Prune:  # whose choice is made by the value
        assert_same(State(moved.ema), child.transfer(State(state.ema)))
    # Tensors are random, hence equal only where they were handed on.
    handed_on = {tuple(tensor.flatten().tolist()): key for key, tensor in state.value.items()}
    for key, momentum in moved.momentum.items():
        old = handed_on.get(tuple(moved.value[key].flatten().tolist()))
        assert torch.equal(momentum, torch.zeros_like(momentum) if old is None else state.momentum[old]), key


def test_a_network_that_was_never_trained_has_empty_slots_after_a_move():
    arch = chain(Input(3, 8, 8), Conv(channels=4), GlobalPool(), Linear(10))
    moved = Widen("n1", 0, 2).apply(arch).transfer(initial_state(arch))
    assert (moved.ema, moved.momentum) == ({}, {})


@pytest.mark.parametrize(
    "move",
    [Widen("n1", 0, 2), AddBranch("n1"), DeepenResidual("n1"), SkipAdd("n2", "n1"), SkipConcat("n2", "n1")],
    ids=str,
)
def test_random_tensors_come_from_the_seed_of_the_move(move):
    arch = chain(Input(3, 8, 8), *[Conv(channels=4)] * 2, DepthwiseConv(), Conv(channels=4), GlobalPool(), Linear(10))
    state = trained(arch)
    once, again, other = (m.apply(arch).transfer(state) for m in (move, replace(move), replace(move, seed=7)))
    assert_same(once, again)
    assert any(not torch.equal(tensor, other.value[key]) for key, tensor in once.value.items())


def test_copies_do_not_stay_copies():
    arch = chain(Input(3, 8, 8), Conv(channels=4), GlobalPool(), Linear(10))
    child = Widen("n1", 0, 4, copies=True).apply(arch)
    value = child.transfer(trained(arch)).value
    rows, columns = value["n1.weight"].flatten(1), value["n3.weight"].T
    twins = [(i, j) for i in range(8) for j in range(i) if torch.equal(rows[i], rows[j])]
    assert twins
    assert not any(torch.equal(columns[i], columns[j]) for i, j in twins)


# Learning goes on -----------------------------------------------------------------------------------------------------

SMALL = PlainSpace((3, 8, 8), 4, stages=2, min_width=4, max_width=16, width_step=4)


def sampled(seed):
    """A network of the plain space, and its tensors as after some training."""
    arch = SMALL.sample(np.random.default_rng(seed))
    return arch, trained(arch, seed)


def grown(seed, steps):
    """Likewise, a few moves further on."""
    arch, rng = SMALL.sample(np.random.default_rng(seed)), np.random.default_rng([seed, 1])
    for _ in range(steps):
        proposed = SMALL.propose(arch, rng)
        arch = proposed[1].genotype if proposed else arch
    return arch, trained(arch, seed)


def gradients(network, images):
    """Of a loss whose optimum is elsewhere."""
    target = torch.randn(len(images), network.arch.classes, generator=torch.Generator().manual_seed(1)).double()
    loss = (network(images) - target).square().mean()
    named = dict(network.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


@exact_kinds
def test_something_new_learns_after_every_exact_move(kind):
    for seed in range(8):
        arch, state = sampled(seed)
        found = moves(arch, kind)
        for move in found[:: max(1, len(found) // 3)]:
            child = move.apply(arch)
            ones = child.transfer(State({key: torch.ones_like(tensor) for key, tensor in state.value.items()})).value
            network = Network(child.arch, child.transfer(state).value).train()
            gradient = gradients(network, pictures(arch, 16))
            assert any((gradient[key][ones[key] != 1].abs() > 1e-8).any() for key in gradient), move


@pytest.mark.parametrize("kind", [AddBranch, DeepenResidual, SkipAdd], ids=lambda kind: kind.__name__)
def test_a_branch_comes_alive_with_the_first_step(kind):
    for seed in range(8):
        arch, state = sampled(seed)
        found = moves(arch, kind)
        for move in found[:: max(1, len(found) // 3)]:
            child = move.apply(arch)
            network = Network(child.arch, child.transfer(state).value).train()
            images = pictures(arch, 16)
            for key, gradient in gradients(network, images).items():
                network.get_parameter(key).data.sub_(0.1 * gradient)
            after = gradients(network, images)
            asleep = [key for key in after if key.partition(".")[0] in child.new and not after[key].abs().max() > 1e-10]
            assert asleep == [], move


def test_a_branch_that_is_all_that_is_left_comes_alive():
    arch = chain(Input(3, 8, 8), Conv(channels=4), GlobalPool(), Linear(10))
    branched = AddBranch("n1", kernel=5).apply(arch)
    (total,) = [name for name in branched.new if isinstance(branched.arch[name].op, Add)]
    original = branched.arch[total].inputs.index(branched.names["n1"])
    child = branched.then(RemoveSkip(total, original).apply)
    assert ops_of(child)[1] == Conv(kernel=5, channels=4)
    network = Network(child.arch, child.transfer(trained(arch)).value).train()
    assert gradients(network, pictures(arch))["n1.weight"].abs().max() > 1e-6
    # what has been trained is left as it is
    trained_branch = trained(branched.arch)
    kept = RemoveSkip(total, original).apply(branched.arch).transfer(trained_branch)
    branch = branched.arch[total].inputs[1 - original]
    assert kept.value["n1.gamma"] is trained_branch.value[f"{branch}.gamma"]


def test_two_branches_that_are_all_that_is_left_come_alive():
    arch = chain(Input(3, 8, 8), Conv(channels=4), Conv(channels=4), GlobalPool(), Linear(10))
    state, images = trained(arch), pictures(arch)
    branched = AddBranch("n2").apply(arch)
    (branch,) = [name for name in branched.new if isinstance(branched.arch[name].op, Conv)]
    branched = branched.then(AddBranch(branch, kernel=1).apply)
    (total,) = [node for node in branched.arch.nodes if node.op == Add("relu")]
    original = total.inputs.index(branched.names["n2"])
    child = branched.then(RemoveSkip(total.name, original).apply)
    found = gradients(Network(child.arch, child.transfer(state).value).train(), images)
    assert min(gradient.abs().max() for key, gradient in found.items() if key.endswith("gamma")) > 1e-6
    # one that has been trained is enough, and the other is left as it is
    key = next(f"{node.name}.gamma" for node in branched.arch.nodes if getattr(node.op, "kernel", 0) == 1)
    value = {**trained(branched.arch).value, key: torch.zeros(4).double()}
    kept = RemoveSkip(total.name, original).apply(branched.arch).transfer(State(value)).value
    assert any(tensor is value[key] for tensor in kept.values())


def new_columns(child, state):
    """Per weight of a dense layer, its gradient by input channel, and which channels are new."""
    ones = child.transfer(State({key: torch.ones_like(tensor) for key, tensor in state.value.items()})).value
    network = Network(child.arch, child.transfer(state).value).train()
    for key, gradient in gradients(network, pictures(child.arch, 16)).items():
        if "in" in child.arch.params[key].axes:
            columns = gradient.transpose(0, 1).flatten(1)
            yield key, columns, (ones[key].transpose(0, 1).flatten(1) == 0).all(1)


@pytest.mark.parametrize("kind", [Widen, SkipConcat], ids=lambda kind: kind.__name__)
def test_no_new_column_is_a_twin(kind):
    """A column with the gradient of another learns nothing of its own, for ever."""
    tried = 0
    for seed in range(12):
        arch, state = grown(seed, 4)
        found = [move for move in moves(arch, kind) if not getattr(move, "copies", False)]
        for move in found[:: max(1, len(found) // 4)]:
            for key, columns, new in new_columns(move.apply(arch), state):
                for column in new.nonzero().flatten().tolist():
                    size = columns[column].norm()
                    others = torch.cat((columns[:column], columns[column + 1 :]))
                    assert size == 0 or (others - columns[column]).norm(dim=1).min() > 1e-9 * size, (move, key, column)
                    tried += size.item() > 0
    assert tried > 100


def test_a_channel_that_is_read_with_zeros_still_learns_once_its_reader_is_separated():
    arch = chain(Input(3, 8, 8), Conv(channels=4), Conv(channels=4), GlobalPool(), Linear(10))
    widened = Widen("n1", 0, 2).apply(arch)
    child = Separate("n2").apply(widened.arch)
    network = Network(child.arch, child.transfer(widened.transfer(trained(arch))).value).train()
    pointwise = next(node.name for node in child.arch.nodes if node.op == Conv(kernel=1, channels=4))
    assert gradients(network, pictures(arch))[f"{pointwise}.weight"][:, 4:].abs().min() > 0


# Moves that undo each other -------------------------------------------------------------------------------------------


def undone(arch, move, back):
    """Asserts that `back(child)` undoes `move`, in structure and in every tensor of value and average."""
    child = move.apply(arch)
    undo = child.then(back(child).apply)
    assert undo.arch == arch
    state = trained(arch)
    state = State(state.value, state.ema)
    again = undo.transfer(state)
    # Under whatever names: twins may change places.
    found, expected = (sorted(tensor.sum().item() for tensor in value.values()) for value in (again.value, state.value))
    assert found == expected
    images = pictures(arch)
    for mode in ("eval", "train"):
        assert error(scores(arch, again.value, images, mode), scores(arch, state.value, images, mode)) <= 1e-14


@given(data=st.data())
def test_prune_takes_fresh_channels_first(data):
    arch = data.draw(archs()).canonical()
    move = drawn_move(data, arch, Widen)
    assume(not move.copies)
    undone(arch, move, lambda child: Prune(child.names[move.node], move.position, move.by))


@given(data=st.data())
def test_shrink_kernel_undoes_grow_kernel(data):
    arch = data.draw(archs()).canonical()
    move = drawn_move(data, arch, GrowKernel)
    undone(arch, move, lambda child: ShrinkKernel(child.names[move.node]))


@given(data=st.data())
def test_remove_layer_undoes_deepen(data):
    arch = data.draw(archs()).canonical()
    move = drawn_move(data, arch, Deepen)
    assume(not any(arch[reader].inputs.count(move.node) > 1 for reader in arch.consumers[move.node]))
    undone(arch, move, lambda child: RemoveLayer(*child.new))


@pytest.mark.parametrize("kind", [AddBranch, DeepenResidual, SkipAdd, SkipConcat], ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_remove_skip_undoes_branches_and_skips(kind, data):
    arch = data.draw(archs()).canonical()
    found = [move for move in moves(arch, kind) if comes_back(arch, move)]
    assume(found)

    def back(child):
        (joined,) = [name for name in child.new if isinstance(child.arch[name].op, Add | Concat)]
        inputs = child.arch[joined].inputs
        return RemoveSkip(joined, 1 - inputs.index(child.names[move.node]))

    move = data.draw(st.sampled_from(found))
    undone(arch, move, back)


def comes_back(arch, move):
    """Whether removing the skip gives the old network, not one that has kept a 1x1."""
    return not isinstance(move, SkipConcat) or len(move.apply(arch).new) == 1


# Approximate moves ----------------------------------------------------------------------------------------------------


def test_separate_is_exact_for_filters_of_rank_one():
    arch = chain(Input(3, 8, 8), Conv(channels=5), Conv(channels=4, kernel=5, stride=2), GlobalPool(), Linear(10))
    value = dict(trained(arch).value)
    taps, mixing = torch.randn(1, 5, 5, 5).double(), torch.randn(4, 5, 1, 1).double()
    value["n2.weight"] = taps * mixing
    child = Separate("n2").apply(arch)
    images = pictures(arch)
    for mode in ("eval", "train"):
        found = scores(child.arch, child.transfer(State(value)).value, images, mode)
        assert error(found, scores(arch, value, images, mode)) <= 1e-12


def test_separate_starts_nearer_by_rank_one_than_by_random_factors():
    near, random = [], []
    for seed in range(40):
        arch, state = sampled(seed)
        move = moves(arch, Separate)[-1] if moves(arch, Separate) else None
        if move is None:
            continue
        child = move.apply(arch)
        value, images = child.transfer(state).value, pictures(arch)
        fresh = initial_state(child.arch, seed).value
        factors = {
            key: fresh[key].double() if key.partition(".")[0] in child.new and "weight" in key else tensor
            for key, tensor in value.items()
        }
        expected = scores(arch, state.value, images)
        near.append(error(scores(child.arch, value, images), expected))
        random.append(error(scores(child.arch, factors, images), expected))
    assert len(near) >= 20
    assert median(near) < 0.7 * median(random)


def test_prune_starts_nearer_by_importance_than_by_random_channels():
    near, random = [], []
    for seed in range(60):
        arch, state = sampled(seed)
        rng = np.random.default_rng(seed)
        found = [move for move in moves(arch, Prune) if axes(arch)[move.node][move.position].size == 2 * move.by]
        if not found:
            continue
        move = found[rng.integers(len(found))]
        segment = segment_at(arch, move.node, move.position)
        kept = sorted(rng.choice(segment.size, segment.size - move.by, replace=False).tolist())
        images = pictures(arch, 16)
        expected = scores(arch, state.value, images)
        for child, errors in ((move.apply(arch), near), (remap(arch, segment, kept), random)):
            errors.append(error(scores(child.arch, child.transfer(state).value, images), expected))
    assert len(near) >= 20
    assert median(near) < 0.8 * median(random)


@given(data=st.data())
def test_a_skip_without_parameters_adds_the_earlier_map(data):
    arch = data.draw(archs()).canonical()
    move = drawn_move(data, arch, SkipIdentity)
    child = move.apply(arch)
    state, images = trained(arch), pictures(arch)
    (joined,) = child.new
    (found,) = Network(child.arch, child.transfer(state).value).eval().features(images, [joined])
    later, earlier = Network(arch, state.value).eval().features(images, [move.node, move.source])
    assert torch.allclose(found, activate(child.arch[joined].op.act, later + earlier), rtol=1e-9, atol=1e-12)


def test_a_skip_without_parameters_keeps_a_relu_where_there_was_one():
    arch = chain(
        Input(3, 8, 8), Conv(channels=4), Conv(channels=4), Conv(channels=4, act="silu"), GlobalPool(), Linear(4)
    )
    assert Add("relu") in ops_of(SkipIdentity("n2", "n1").apply(arch))
    assert Add(None) in ops_of(SkipIdentity("n3", "n1").apply(arch))


def test_shrink_kernel_keeps_the_middle_at_every_stride():
    arch = chain(Input(3, 9, 9), Conv(kernel=5, stride=2, channels=4), GlobalPool(), Linear(10))
    value = dict(trained(arch).value)
    border = torch.ones(5, 5)
    border[1:-1, 1:-1] = 0
    value["n1.weight"] = value["n1.weight"] * (1 - border)
    child = ShrinkKernel("n1").apply(arch)
    images = pictures(arch)
    assert error(scores(child.arch, child.transfer(State(value)).value, images), scores(arch, value, images)) <= 1e-14


# Structure ------------------------------------------------------------------------------------------------------------


def ops_of(rewrite):
    return [node.op for node in rewrite.arch.nodes]


def test_an_activation_moves_behind_the_sum_of_a_branch():
    arch = chain(Input(3, 8, 8), Conv(channels=4, act="silu"), GlobalPool(), Linear(10))
    child = AddBranch("n1", kernel=1).apply(arch)
    assert Add("silu") in ops_of(child)
    assert {op.act for op in ops_of(child) if isinstance(op, Conv)} == {None}


def test_a_branch_from_the_node_itself_leaves_its_activation():
    arch = chain(Input(3, 8, 8), Conv(channels=4, act="silu"), GlobalPool(), Linear(10))
    child = DeepenResidual("n1").apply(arch)
    assert Conv(channels=4, act="silu") in ops_of(child)
    assert Add(None) in ops_of(child)


def test_a_sum_with_something_non_negative_has_a_relu():
    arch = chain(Input(3, 8, 8), Conv(channels=4), Pool("avg"), GlobalPool(), Linear(10))
    assert Add("relu") in ops_of(DeepenResidual("n2").apply(arch))


def test_an_activation_left_alone_goes_back_into_its_convolution():
    arch = chain(Input(3, 8, 8), Conv(channels=4, act="hardswish"), GlobalPool(), Linear(10))
    child = AddBranch("n1").apply(arch)
    (total,) = [node for node in child.arch.nodes if isinstance(node.op, Add)]
    assert RemoveSkip(total.name, 1).apply(child.arch).arch.hash == arch.hash


def test_an_activation_left_alone_stays_a_node_where_others_read_before_it():
    conv = Conv(channels=4, act=None)
    arch = net(
        a=(conv, "x"),
        b=(Conv(channels=4), "a"),
        c=(Add("silu"), "a", "b"),
        d=(Conv(channels=4), "a"),
        e=(Add(), "c", "d"),
    )
    child = RemoveSkip("c", 1).apply(arch)
    assert [op for op in ops_of(child) if op in (conv, Act("silu"))] == [conv, Act("silu")]


def residual():
    """n1 - n2 - n3 + n1 -> n4 -> n5 = concat(n4, n1)."""
    return Arch(
        (
            Node("n0", Input(3, 8, 8)),
            Node("n1", Conv(channels=4), ("n0",)),
            Node("n2", Conv(channels=4, act=None), ("n1",)),
            Node("n3", Add("relu"), ("n2", "n1")),
            Node("n4", Conv(channels=6, stride=2, kernel=1), ("n3",)),
            Node("n5", Concat(), ("n3", "n1")),
            Node("n6", Pool(), ("n5",)),
            Node("n7", DepthwiseConv(), ("n6",)),
            Node("n8", Concat(), ("n4", "n7")),
            Node("n9", GlobalPool(), ("n8",)),
            Node("n10", Linear(10), ("n9",)),
        )
    )


@pytest.mark.parametrize(
    ("move", "why"),
    [
        (Widen("n99", 0, 4), "there is no node 'n99'"),
        (Widen("n1", 0, 0), "by is 0, it must be at least 1"),
        (Widen("n1", 1, 4), "n1 has 1 segments, there is no segment 1"),
        (Widen("n0", 0, 4), "its channels are those of the image or of the class scores"),
        (Widen("n10", 0, 4), "its channels are those of the image or of the class scores"),
        (Prune("n1", 0, 4), "by is 4, it must be at least 1 and less than the 4 channels there are"),
        (Prune("n1", 0, 0), "by is 0, it must be at least 1 and less than the 4 channels there are"),
        (Prune("n10", 0, 1), "its channels are those of the image or of the class scores"),
        (GrowKernel("n3"), "n3 is no convolution"),
        (ShrinkKernel("n3"), "n3 is no convolution"),
        (ShrinkKernel("n4"), "its kernel is 1, it must be at least 3"),
        (Separate("n7"), "n7 is no dense convolution"),
        (Separate("n4"), "its kernel is 1, it must be at least 3"),
        (AddBranch("n3"), "n3 is no convolution"),
        (DeepenResidual("n9"), "n9 is no feature map"),
        (DeepenResidual("n0"), "n0 is no feature map"),
        (Deepen("n2"), "a ReLU would change n2, which may be negative"),
        (Deepen("n0"), "n0 is no feature map"),
        (SkipAdd("n3", "n4"), "n4 does not come before n3"),
        (SkipAdd("n3", "n99"), "there is no node 'n99'"),
        (SkipAdd("n3", "n0"), "n0 is no feature map"),
        (SkipConcat("n4", "n1"), "maps are of sizes (8, 8) and (4, 4)"),
        (SkipConcat("n5", "n1"), "a Concat would hold the channels of n1 twice"),
        (SkipConcat("n3", "n1"), "a Concat would hold the channels of n1 twice"),
        (SkipIdentity("n5", "n1"), "shapes are (4, 8, 8) and (8, 8, 8)"),
        (RemoveLayer("n3"), "n3 is a Add"),
        (RemoveLayer("n4"), "it turns shape (4, 8, 8) into (6, 4, 4)"),
        (RemoveLayer("n2"), "an Add would read one node twice"),
        (RemoveSkip("n4", 0), "n4 is a Conv"),
        (RemoveSkip("n3", 2), "n3 has 2 inputs, there is no input 2"),
    ],
    ids=str,
)
def test_a_refused_move_says_why(move, why):
    arch = residual()
    assert not move.applicable(arch)
    with pytest.raises(MoveRefused) as refused:
        move.apply(arch)
    assert str(refused.value) == f"{move} is refused: {why}"


@pytest.mark.parametrize("size", [(9, 5), (1, 9), (9, 1), (7, 7), (1, 1)])
@pytest.mark.parametrize("strides", [(2, 3), (4, 1), (3, 3)])
def test_the_projection_of_a_skip_has_the_stride_that_fits_both_sides(size, strides):
    convs = (Conv(channels=4, stride=stride) for stride in strides)
    arch = chain(Input(3, *size), Conv(channels=4), *convs, GlobalPool(), Linear(10))
    child = SkipAdd("n3", "n1").apply(arch)
    state, images = trained(arch), pictures(arch)
    assert error(scores(child.arch, child.transfer(state).value, images), scores(arch, state.value, images)) <= 1e-14


def test_nothing_that_would_string_a_map_twice_is_removed():
    arch = net(
        a=(Conv(channels=4), "x"), b=(Conv(channels=4), "a"), c=(Concat(), "b", "a"), d=(Conv(channels=4), "c"),
        e=(Add(), "d", "b"), f=(Concat(), "e", "c"),
    )  # fmt: skip
    for move, map_ in ((RemoveLayer("b"), "a"), (RemoveSkip("e", 0), "b")):
        with pytest.raises(MoveRefused, match=f"a Concat would hold the channels of {map_} twice"):
            move.apply(arch)
    assert RemoveSkip("e", 1).applicable(arch)


def test_a_projection_samples_the_pixels_that_the_way_around_it_does():
    halved = [Conv(channels=4, stride=2)] * 3  # 28, 14, 7, 4 pixels: a stride of 7 would fit, too
    arch = chain(Input(3, 28, 28), Conv(channels=4), *halved, GlobalPool(), Linear(10))
    assert Conv(kernel=1, stride=8, channels=4, act=None) in ops_of(SkipAdd("n4", "n1").apply(arch))


def test_a_thousand_layers_can_be_changed():
    arch = chain(Input(3, 4, 4), *[Conv(channels=2), DepthwiseConv()] * 600, GlobalPool(), Linear(3))
    for move in (Deepen("n600"), AddBranch("n601"), SkipConcat("n602", "n600"), RemoveLayer("n602")):
        assert move.applicable(arch)
        assert abs(len(move.rewrite(arch).arch.nodes) - len(arch.nodes)) <= 2


def test_sums_of_sums_are_looked_through_once():
    doubled = {f"d{i + 1}": (Add(), f"d{i}", f"d{i}") for i in range(60)}
    for act, expected in (("relu", True), (None, False)):
        arch = net(d0=(Conv(channels=4, act=act), "x"), **doubled, e=(Conv(channels=4), "x"), f=(Add(), "d60", "e"))
        assert nonnegative(arch, "d60") is expected
        assert RemoveSkip("f", 1).applicable(arch)
        assert RemoveSkip("f", 1).rewrite(arch).transfer(trained(arch)).value.keys() >= {"d0.gamma"}


def test_skips_that_a_sum_or_a_tied_concat_forbids_to_remove():
    arch = residual()
    tied = SkipConcat("n2", "n1").apply(arch)  # n2 is added to n1 below: a 1x1 brings the channels back
    assert Conv(kernel=1, channels=4, norm=False, act=None) in ops_of(tied)
    summed = Arch(
        (
            Node("a", Input(3, 8, 8)),
            Node("b", Conv(channels=4), ("a",)),
            Node("c", Concat(), ("b", "b")),
            Node("d", Conv(channels=8), ("c",)),
            Node("e", Add(), ("c", "d")),
            Node("f", GlobalPool(), ("e",)),
            Node("g", Linear(10), ("f",)),
        )
    )
    with pytest.raises(MoveRefused, match="an Add ties the channels of this Concat"):
        RemoveSkip("c", 0).apply(summed)
    twice = Arch(
        (
            Node("a", Input(3, 8, 8)),
            Node("b", Conv(channels=4), ("a",)),
            Node("c", Conv(channels=4), ("b",)),
            Node("d", Add(), ("b", "c")),
            Node("e", Add(), ("d", "b")),
            Node("f", GlobalPool(), ("e",)),
            Node("g", Linear(10), ("f",)),
        )
    )
    with pytest.raises(MoveRefused, match="an Add would read one node twice"):
        RemoveSkip("d", 1).apply(twice)
    assert RemoveSkip("d", 0).applicable(twice)


def test_a_head_can_be_removed_from_the_summed_scores():
    arch = Arch(
        (
            Node("a", Input(3, 8, 8)),
            Node("b", Conv(channels=4), ("a",)),
            Node("c", GlobalPool(), ("b",)),
            Node("d", Linear(10), ("c",)),
            Node("e", Linear(10), ("c",)),
            Node("f", Add(), ("d", "e")),
        )
    )
    for position in (0, 1):
        child = RemoveSkip("f", position).apply(arch)
        assert ops_of(child) == [Input(3, 8, 8), Conv(channels=4), GlobalPool(), Linear(10)]
        kept = arch["f"].inputs[1 - position]
        assert child.names == {"a": "n0", "b": "n1", "c": "n2", kept: "n3"}


def test_scores_that_are_strung_together_stay_as_many_as_there_are_classes():
    arch = Arch(
        (
            Node("a", Input(3, 8, 8)),
            Node("b", Conv(channels=4), ("a",)),
            Node("c", GlobalPool(), ("b",)),
            Node("d", Linear(2), ("c",)),
            Node("e", Linear(3), ("c",)),
            Node("f", Concat(), ("d", "e")),
        )
    )
    with pytest.raises(MoveRefused, match="an Add ties the channels of this Concat, or they are the class scores"):
        RemoveSkip("f", 0).apply(arch)
    assert moves(arch, Widen) == [Widen("b", 0, by, copies, by) for by in (1, 3) for copies in (False, True)] + [
        Widen("c", 0, by, copies, by) for by in (1, 3) for copies in (False, True)
    ]


@kinds
@given(data=st.data())
def test_what_is_applicable_can_be_applied_and_named(kind, data):
    arch = data.draw(archs()).canonical()
    for move in moves(arch, kind)[:40]:
        child = move.apply(arch)
        assert child.names.keys() <= {node.name for node in arch.nodes}
        assert child.new.isdisjoint(child.names.values())
        assert child.new | set(child.names.values()) == {node.name for node in child.arch.nodes}


# JSON -----------------------------------------------------------------------------------------------------------------

SAMPLES: list[Morphism] = [
    Widen("n1", 0, 8, copies=True, seed=3),
    GrowKernel("n1"),
    AddBranch("n1", 1, True, 5),
    DeepenResidual("n1", 5, True, 6),
    SkipAdd("n3", "n1", 7),
    SkipConcat("n3", "n1"),
    Deepen("n1", 5, True),
    SkipIdentity("n3", "n1"),
    Prune("n1", 0, 2),
    RemoveLayer("n2"),
    RemoveSkip("n3", 1),
    ShrinkKernel("n2"),
    Separate("n2"),
]


def test_every_move_survives_json():
    assert {type(move) for move in SAMPLES} == set(MORPHISMS)
    assert [move_from_json(json.loads(json.dumps(move.to_json()))) for move in SAMPLES] == SAMPLES


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"move": "Shrink", "node": "n1"}, "unknown move 'Shrink'; known are Widen, GrowKernel"),
        ({"node": "n1"}, "unknown move None"),
        ({"move": "Widen", "node": "n1", "position": 0}, "Widen: .*'by'"),
        ({"move": "Widen", "node": "n1", "position": 0, "by": 8, "factor": 2}, "Widen: .*'factor'"),
        ({"move": []}, r"unknown move \[\]; known are Widen"),
        ("Widen", "'Widen' is no move; expected a mapping with 'move' and the fields"),
        ({"move": "GrowKernel", "node": ["n1"]}, r"GrowKernel: node is \['n1'\], it must be of type str"),
        ({"move": "Widen", "node": "n1", "position": 0, "by": 8.0}, "Widen: by is 8.0, it must be of type int"),
        ({"move": "Widen", "node": "n1", "position": "0", "by": 8}, "Widen: position is '0', it must be of type int"),
        ({"move": "AddBranch", "node": "n1", "seed": 2**63}, r"AddBranch: seed is \d+, it must be 0 to 2\*\*63 - 1"),
        ({"move": "Deepen", "node": "n1", "kernel": 2}, "Deepen: kernel is 2, it must be odd"),
        ({"move": "AddBranch", "node": "n1", "kernel": -1}, "AddBranch: kernel is -1, it must be odd"),
        ({"move": "SkipAdd", "node": "n2", "source": "n1", "seed": -1}, "SkipAdd: seed is -1, it must be 0 to 2"),
    ],
)
def test_a_move_that_cannot_be_read_says_why(data, why):
    with pytest.raises(ArchError, match=why):
        move_from_json(data)


def test_a_lineage_that_does_not_fit_is_refused():
    arch = chain(Input(3, 8, 8), Conv(channels=4), GlobalPool(), Linear(10))
    with pytest.raises(MoveRefused, match=r"RemoveSkip\(node='n1', position=0\) is refused: n1 is a Conv"):
        replay(arch, [GrowKernel("n1").to_json(), RemoveSkip("n1", 0).to_json()])


def test_removing_a_norm_or_activation_takes_its_tensors():
    arch = chain(Input(3, 8, 8), Conv(channels=4, norm=False, act=None), Norm(), Act("relu"), GlobalPool(), Linear(10))
    child = RemoveLayer("n3").apply(arch).then(RemoveLayer("n2").apply)
    assert ops_of(child) == [Input(3, 8, 8), Conv(channels=4, norm=False, act=None), GlobalPool(), Linear(10)]
    assert list(child.transfer(trained(arch)).value) == ["n1.weight", "n1.bias", "n3.weight", "n3.bias"]
