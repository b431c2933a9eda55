"""Written files against the network, against torch's exporter, and against themselves under other names."""

import io

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from spaces.arch import chain
from spaces.morphisms import AddBranch, DeepenResidual
from spaces.network import Network
from spaces.onnx import IR_VERSION, OPSET, to_onnx
from spaces.ops import (
    ACTIVATIONS,
    EPSILON,
    Act,
    Add,
    Concat,
    Conv,
    DepthwiseConv,
    GlobalPool,
    Input,
    Linear,
    Norm,
    Normalise,
    Pool,
)
from spaces.plain import PlainSpace
from tests.spaces.nets import archs, error, net, pictures, scores, shuffled, trained


def run(model, images):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (name,) = [entry.name for entry in session.get_inputs()]
    return torch.from_numpy(session.run(None, {name: images.numpy()})[0])


def assert_equals_network(arch, batch):
    tensors = trained(arch, dtype=torch.float32).value
    images = pictures(arch, batch or 3, dtype=torch.float32)
    model = to_onnx(arch, tensors, batch=batch)
    onnx.checker.check_model(model, full_check=True)
    assert error(run(model.SerializeToString(), images), scores(arch, tensors, images)) <= 2e-5


@pytest.mark.parametrize("batch", [1, None])
@settings(max_examples=30)
@given(arch=archs())
def test_a_file_computes_what_the_network_does(batch, arch):
    assert_equals_network(arch, batch)


@pytest.mark.parametrize("act", [None, *ACTIVATIONS])
@pytest.mark.parametrize("batch", [1, 4, None])
def test_every_op_with_every_activation(act, batch):
    own = (Act(act),) if act else ()
    arch = net(
        norm=(Normalise(), "x"),
        a=(Conv(5, 2, True, act, 6), "norm"),
        b=(DepthwiseConv(3, 1, False, act), "a"),
        c=(Conv(3, 1, False, act, 6), "a"),
        d=(Add(act), "a", "b", "c"),
        e=(Concat(), "d", "b"),
        f=(Norm(), "e"),
        g=(own[0], "f") if own else (Norm(), "f"),
        h=(Pool("max", 3, 2), "g"),
        i=(Pool("avg", 3, 1), "h"),
        j=(DepthwiseConv(5, 1, True, act), "i"),
    )
    assert_equals_network(arch, batch)


def test_heads_that_end_in_other_ops():
    image, features = Input(3, 8, 8), Conv(channels=10)
    assert_equals_network(chain(image, features, GlobalPool()), None)
    assert_equals_network(chain(image, features, GlobalPool(), Act("silu")), None)
    assert_equals_network(chain(image, features, GlobalPool(), Linear(7), Act("hardswish"), Linear(3)), 1)


# What the file says ---------------------------------------------------------------------------------------------------

SMALL = chain(Input(3, 6, 5), Normalise(), Conv(channels=4), GlobalPool(), Linear(10))


@pytest.mark.parametrize(("batch", "first"), [(1, 1), (16, 16), (None, "N")])
def test_input_and_output_are_named_and_shaped(batch, first):
    graph = to_onnx(SMALL, trained(SMALL).value, batch=batch).graph

    def shape(entry):
        return [dim.dim_param or dim.dim_value for dim in entry.type.tensor_type.shape.dim]

    assert {entry.name: shape(entry) for entry in graph.input} == {"image": [first, 3, 6, 5]}
    assert {entry.name: shape(entry) for entry in graph.output} == {"logits": [first, 10]}


def test_the_versions_are_old_enough_for_old_runtimes():
    model = to_onnx(SMALL, trained(SMALL).value)
    assert (model.ir_version, model.opset_import[0].version) == (IR_VERSION, OPSET) == (8, 17)
    assert model.producer_name == "hwnas"


def test_metadata_is_written_as_it_is():
    model = to_onnx(SMALL, trained(SMALL).value, metadata={"classes": '["cat", "dog"]', "note": "ä"})
    read = onnx.load(io.BytesIO(model.SerializeToString()))
    assert {entry.key: entry.value for entry in read.metadata_props} == {"classes": '["cat", "dog"]', "note": "ä"}
    assert list(to_onnx(SMALL, trained(SMALL).value).metadata_props) == []


def test_norms_are_folded_and_the_input_normalisation_is_not():
    tensors = trained(SMALL, dtype=torch.float32).value
    model = to_onnx(SMALL, tensors)
    assert [node.op_type for node in model.graph.node] == [
        "Sub", "Div", "Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm",
    ]  # fmt: skip
    own = {short: tensors[f"n2.{short}"].double().numpy() for short in ("weight", "gamma", "beta", "mean", "var")}
    scale = own["gamma"] / np.sqrt(own["var"] + EPSILON)
    weight, bias = (
        numpy_helper.to_array(constant) for constant in model.graph.initializer if constant.name.startswith("n2.")
    )
    assert np.array_equal(weight, (own["weight"] * scale[:, None, None, None]).astype(np.float32))
    assert np.array_equal(bias, (own["beta"] - own["mean"] * scale).astype(np.float32))


# Other names, another order -------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(arch=archs(), seed=st.integers(0, 99))
def test_names_and_order_leave_the_bytes_alone(arch, seed):
    assert_same_bytes(arch, seed)


@given(seed=st.integers(0, 99))
def test_branches_that_only_their_weights_tell_apart_leave_the_bytes_alone(seed):
    """A branch beside a convolution is its mirror image; two residual blocks side by side are mirror images, too."""
    arch = chain(Input(3, 8, 8), Conv(channels=4), Conv(channels=4), GlobalPool(), Linear(10))
    arch = AddBranch("n1").apply(arch).arch
    arch = AddBranch(next(node.name for node in arch.nodes if node.inputs == ("n3",))).apply(arch).arch
    assert_same_bytes(arch, seed)
    assert_same_bytes(DeepenResidual("n1", depthwise=True).apply(arch).arch, seed)
    blocks = {f"{b}{i}": (Conv(channels=3), f"{b}{i - 1}" if i else "x") for b in "abc" for i in range(3)}
    assert_same_bytes(net(**blocks, end=(Add(), "a2", "x", "b2", "c2")), seed)


def assert_same_bytes(arch, seed):
    again, names = shuffled(arch, seed)
    state = trained(arch, dtype=torch.float32)
    written = (to_onnx(arch, state.value), to_onnx(again, state.renamed(names).value))
    assert written[0].SerializeToString() == written[1].SerializeToString()


# torch's exporter -----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")  # torch 2.9 to 2.11, of its own code
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_torchs_exporter_gives_a_file_that_computes_the_same(seed, tmp_path):
    arch = PlainSpace((3, 8, 8), 10, stages=2, max_width=16).sample(np.random.default_rng(seed))
    tensors = trained(arch, dtype=torch.float32).value
    images = pictures(arch, 1, dtype=torch.float32)
    file = tmp_path / "theirs.onnx"
    torch.onnx.export(Network(arch, tensors).eval(), (images,), file, dynamo=True, verbose=False)
    theirs, ours = run(file, images), run(to_onnx(arch, tensors).SerializeToString(), images)
    assert error(ours, theirs) <= 2e-5
