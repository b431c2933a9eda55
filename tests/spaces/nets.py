"""Random networks, trained-looking tensors and every move there is, for the tests of this room."""

import numpy as np
import torch
from hypothesis import strategies as st

from spaces.arch import Arch, Node
from spaces.channels import axes
from spaces.graph import ancestors
from spaces.morphisms import (
    AddBranch,
    Deepen,
    DeepenResidual,
    Prune,
    RemoveSkip,
    SkipAdd,
    SkipConcat,
    SkipIdentity,
    Widen,
)
from spaces.network import Network
from spaces.ops import Act, Add, Concat, Conv, DepthwiseConv, GlobalPool, Input, Linear, Norm, Normalise, Pool, Zero
from spaces.state import State, initial_state

KERNELS = st.sampled_from([3, 1, 5])
STRIDES = st.sampled_from([1, 1, 1, 2, 3])
ACTS = st.sampled_from(["relu", "relu", None, "hardswish", "silu"])
WIDTHS = st.integers(1, 6)


def net(**nodes):
    """Nodes as ``name=(op, *inputs)`` behind an image ``x``, then a head that reads the last."""
    found = [Node("x", Input(3, 8, 8)), *(Node(name, op, tuple(inputs)) for name, (op, *inputs) in nodes.items())]
    return Arch((*found, Node("pool", GlobalPool(), (found[-1].name,)), Node("scores", Linear(10), ("pool",))))


class Draft:
    """A network in the making."""

    def __init__(self):
        self.nodes = []
        self.shapes = {}

    def add(self, op, *inputs):
        name = f"x{len(self.nodes)}"
        self.nodes.append(Node(name, op, inputs))
        self.shapes[name] = op.out_shape([self.shapes[source] for source in inputs])
        return name

    def unread(self):
        read = {source for node in self.nodes for source in node.inputs}
        return [node.name for node in self.nodes if node.name not in read]


@st.composite
def archs(draw, steps=9):
    """Networks of every op, stride and activation: skips, several heads, nodes read twice, the image read late."""
    draft = Draft()
    image = draft.add(Input(draw(st.sampled_from([3, 1])), draw(st.integers(4, 9)), draw(st.integers(4, 9))))
    maps = [draft.add(Normalise(), image) if draw(st.booleans()) else image]
    maps.append(draft.add(draw(convs()), maps[0]))
    for _ in range(draw(st.integers(0, steps))):
        maps.append(_grow(draw, draft, maps))
    heads = [draft.add(GlobalPool(), name) for name in draft.unread()]
    if len(heads) > 1 and draw(st.booleans()):
        scores = [draft.add(Linear(4), head) for head in heads]
        draft.add(Add(draw(st.sampled_from([None, "silu"]))), *scores)
    else:
        features = draft.add(Concat(), *heads) if len(heads) > 1 else heads[0]
        draft.add(Linear(4), draft.add(Act("relu"), draft.add(Linear(5), features)))
    return Arch(tuple(draft.nodes))


def convs():
    return _followed(lambda norm, bias: st.builds(Conv, KERNELS, STRIDES, norm, ACTS, WIDTHS, bias=bias))


def depthwise():
    return _followed(lambda norm, bias: st.builds(DepthwiseConv, KERNELS, STRIDES, norm, ACTS, bias=bias))


def _followed(of):
    """Convolutions with a norm, with a bias, or with neither."""
    return st.one_of(
        *(of(st.just(norm), st.just(bias)) for norm, bias in [(True, True), (False, True), (False, False)])
    )


def _grow(draw, draft, maps):
    source = draw(st.sampled_from(maps[::-1]))
    kind = draw(st.sampled_from(["conv", "add", "concat", "depthwise", "act", "norm", "pool", "zero"]))
    shape = draft.shapes[source]
    match kind:
        case "conv":
            return draft.add(draw(convs()), source)
        case "depthwise":
            return draft.add(draw(depthwise()), source)
        case "act":
            return draft.add(Act(draw(ACTS.filter(bool))), source)
        case "norm":
            return draft.add(Norm(), source)
        case "pool":
            windows = st.one_of(st.tuples(KERNELS, STRIDES), st.sampled_from([(2, 2), (4, 4)]))
            return draft.add(Pool(draw(st.sampled_from(["max", "avg"])), *draw(windows)), source)
        case "zero":
            return draft.add(Zero(), source)
        case "concat":
            fitting = [name for name in maps if draft.shapes[name][1:] == shape[1:]]
            return draft.add(Concat(), source, *draw(st.lists(st.sampled_from(fitting), min_size=1, max_size=2)))
        case "add":
            fitting = [name for name in maps if draft.shapes[name] == shape]
            branch = draft.add(Conv(kernel=3, channels=shape[0], act=draw(ACTS)), source)
            others = draw(st.lists(st.sampled_from([branch, *fitting]), min_size=1, max_size=2))
            return draft.add(Add(draw(ACTS)), source, *others)


def trained(arch, seed=0, dtype=torch.float64):
    """A state as training leaves it: no norm is the identity, the average lags behind, momentum is everywhere."""
    generator = torch.Generator().manual_seed(seed)
    value, ema, momentum = {}, {}, {}
    for key, start in initial_state(arch, seed).value.items():
        noise = torch.randn(start.shape, generator=generator, dtype=torch.float64)
        match key.partition(".")[2]:
            case "var" | "std":
                tensor = 0.3 + noise.square()
            case "gamma":
                tensor = 1 + 0.5 * noise
            case "weight":
                tensor = start.double()
            case _:
                tensor = 0.3 * noise
        value[key] = tensor.to(dtype)
        ema[key] = (tensor * 1.01).to(dtype)
        if arch.params[key].trainable:
            momentum[key] = torch.randn(start.shape, generator=generator, dtype=torch.float64).to(dtype)
    return State(value, ema, momentum)


def pictures(arch, count=6, seed=0, dtype=torch.float64):
    image = arch.image
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, image.channels, image.height, image.width, generator=generator, dtype=dtype)


def scores(arch, tensors, images, mode="eval"):
    """What the network computes in a mode, without gradients."""
    with torch.no_grad():
        return Network(arch, tensors).train(mode == "train")(images)


def error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def shuffled(arch, seed):
    """The same network under other names, in another topological order, Adds reading in another order.

    Returns:
        The network and ``{old name: new name}``.
    """
    rng = np.random.default_rng(seed)
    names = {node.name: f"y{i}" for node, i in zip(arch.nodes, rng.permutation(len(arch.nodes)), strict=True)}
    left, nodes = list(arch.nodes), []
    while left:
        placed = {node.name for node in nodes}
        ready = [node for node in left if names_of(node.inputs, names) <= placed]
        node = ready[rng.integers(len(ready))]
        left.remove(node)
        inputs = list(node.inputs)
        if isinstance(node.op, Add):
            rng.shuffle(inputs)
        nodes.append(Node(names[node.name], node.op, tuple(names[source] for source in inputs)))
    return Arch(tuple(nodes)), names


def names_of(sources, names):
    return {names[source] for source in sources}


def moves(arch, kind):
    """Every applicable move of a kind, with some variety in its other fields."""
    candidates = []
    for node in arch.nodes:
        name = node.name
        if kind in (Widen, Prune):
            for position, segment in enumerate(axes(arch)[name]):
                if kind is Widen:
                    candidates += [
                        Widen(name, position, by, copies, seed=by) for by in (1, 3) for copies in (False, True)
                    ]
                else:
                    candidates += [Prune(name, position, by) for by in {1, segment.size // 2, segment.size - 1}]
        elif kind in (AddBranch, Deepen, DeepenResidual):
            candidates += [kind(name, kernel, dw) for kernel in (3, 1) for dw in (False, True)]
        elif kind in (SkipAdd, SkipConcat, SkipIdentity):
            candidates += [kind(name, source) for source in sorted(ancestors(arch, name))]
        elif kind is RemoveSkip:
            candidates += [kind(name, position) for position in range(len(node.inputs))]
        else:
            candidates.append(kind(name))
    return [move for move in candidates if move.applicable(arch)]
