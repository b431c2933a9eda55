import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, shape_inference

from latency.kernels import Kernel
from latency.shapes import fix_batch, infer_outputs, trace
from spaces.errors import LatencyError


def optimised(model, tmp_path) -> onnx.ModelProto:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath)


def test_shapes_of_standard_operators_are_onnx_own(make_cnn):
    model = make_cnn(12, 19)
    inferred = shape_inference.infer_shapes(model, strict_mode=True).graph
    wanted = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.value_info, *inferred.output)
    }
    found = {
        name: operand.shape
        for step in trace(model).steps
        for name, operand in zip(step.outputs, step.kernel.outputs, strict=True)
    }
    assert found == wanted
    assert len(found) == len(model.graph.node)


@pytest.mark.parametrize(("width", "size"), [(4, 9), (8, 16), (12, 16), (20, 15), (16, 32)])
def test_shapes_of_the_optimised_graph_are_those_it_computes(make_cnn, tmp_path, width, size):
    """Each tensor of the optimised graph is made a result, and the runtime asked for it."""
    graph = optimised(make_cnn(width, size), tmp_path)
    found = {
        name: operand
        for step in trace(graph).steps
        for name, operand in zip(step.outputs, step.kernel.outputs, strict=True)
    }
    del graph.graph.output[:]
    graph.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in found)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results = session.run(list(found), {"image": np.zeros((1, 3, size, size), np.float32)})
    assert {name: result.shape for name, result in zip(found, results, strict=True)} == {
        name: operand.shape for name, operand in found.items()
    }


def test_a_free_batch_is_fixed_and_the_model_left_alone(make_cnn):
    model = make_cnn(8, 16, batch="N")
    before = model.SerializeToString()
    program = trace(fix_batch(model, 5))
    assert program.inputs["image"].shape == (5, 3, 16, 16)
    assert [operand.shape for operand in program.outputs.values()] == [(5, 10)]
    assert model.SerializeToString() == before


def test_a_fixed_batch_that_fits_costs_no_copy(make_cnn):
    model = make_cnn(8, 16, batch=3)
    assert fix_batch(model, 3) is model


def test_a_batch_that_does_not_fit_is_refused(make_cnn):
    with pytest.raises(
        LatencyError, match=r"input 'image' has the shape \[3, 3, 16, 16\], but the deployment's batch is 1"
    ):
        fix_batch(make_cnn(8, 16, batch=3), 1)


@pytest.mark.parametrize("shape", [["N", 3, "H", "W"], [1, 3, None, 8], []])
def test_free_image_sizes_are_refused(net, shape):
    writer = net()
    model = writer.model(writer.add("Relu", "image"), shape, None)
    with pytest.raises(
        LatencyError, match="all but the batch must be fixed numbers: export the model for one image size"
    ):
        fix_batch(model, 1)


def test_weights_listed_as_inputs_are_not_fed(net):
    """Old files do so."""
    writer = net()
    model = writer.model(writer.conv("image", 3, 8), [1, 3, 8, 8], None)
    model.graph.input.append(helper.make_tensor_value_info("w0", TensorProto.FLOAT, [8, 3, 3, 3]))
    program = trace(fix_batch(model, 1))
    assert list(program.inputs) == ["image"]
    assert program.kernels[0].constants[1].shape == (8, 3, 3, 3)


def test_constant_nodes_are_weights_not_kernels(net):
    writer = net()
    bound = writer.add("Constant", value=helper.make_tensor("six", TensorProto.FLOAT, [], [6.0]))
    model = writer.model(writer.add("Clip", "image", "", bound), [1, 3, 8, 8], None)
    assert [str(kernel) for kernel in trace(model).kernels] == ["Clip@13 1x3x8x8 _ w:()=6.0 -> 1x3x8x8"]


def test_several_outputs(net):
    writer = net()
    sizes = writer.weight(np.array([1, 2]))
    writer.nodes.append(helper.make_node("Split", ["image", sizes], ["a", "b"], axis=1))
    (kernel,) = trace(writer.model("b", [1, 3, 8, 8], None)).kernels
    assert str(kernel) == "Split@13 1x3x8x8 w:i64:2=1x2 -> 1x1x8x8 1x2x8x8 axis=1"


@pytest.mark.parametrize(("imported", "used"), [("ai.onnx", ""), ("", "ai.onnx"), ("ai.onnx", "ai.onnx")])
def test_the_long_name_of_onnx_own_operators(net, imported, used):
    writer = net()
    model = writer.model(writer.conv("image", 3, 8), [1, 3, 8, 8], None)
    (wanted,) = trace(model).kernels
    model.opset_import[0].domain = imported
    model.graph.node[0].domain = used
    before = model.SerializeToString()
    assert trace(model).kernels == [wanted]
    assert model.SerializeToString() == before


def test_unknown_operators_are_named(net):
    writer = net()
    writer.nodes.append(helper.make_node("Swirl", ["image"], ["y"], domain="org.example"))
    graph = helper.make_graph(
        writer.nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    with pytest.raises(LatencyError, match=r"operator org\.example\.Swirl is not supported"):
        trace(helper.make_model(graph))
    graph.node[0].domain = ""
    with pytest.raises(LatencyError, match="operator Swirl of node 'y' is not in ONNX"):
        trace(helper.make_model(graph))


def test_shapes_that_depend_on_the_data_are_refused(net):
    writer = net()
    model = writer.model(writer.add("NonZero", "image"), [1, 3, 8, 8], None)
    with pytest.raises(
        LatencyError, match="operator NonZero is not supported here: the shape of its output depends on"
    ):
        trace(model)


def test_shapes_that_contradict_each_other_are_refused():
    kernel = Kernel.parse("Concat@13 1x3x8x8 1x3x9x8 -> _ axis=1")
    with pytest.raises(LatencyError, match="do not fit together"):
        infer_outputs(kernel, (True,))
