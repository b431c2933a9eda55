import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from latency.kernels import Kernel, Operand, constant, make_kernel
from latency.shapes import trace
from spaces.errors import LatencyError

integers = st.integers(-(2**40), 2**40)
floats = st.floats(width=32, allow_nan=False).map(lambda number: float(str(np.float32(number))))
shapes = st.lists(st.integers(0, 4096), max_size=5).map(tuple)


@st.composite
def operands(draw, steering=True):
    dtype = draw(st.sampled_from(["f32", "f16", "i64", "u8", "bool"]))
    numbers = floats if dtype.startswith("f") else integers
    values = st.none() | st.lists(numbers, max_size=4).map(tuple) if steering else st.none()
    return Operand(draw(shapes), dtype, draw(st.booleans()), draw(values))


names = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,12}", fullmatch=True)
attributes = st.dictionaries(
    names, integers | floats | st.text() | st.lists(integers).map(tuple) | st.lists(floats, min_size=1).map(tuple)
)
kernels = st.builds(
    lambda op, inputs, outputs, attributes, domain, version: Kernel(
        op, tuple(inputs), tuple(outputs), tuple(sorted(attributes.items())), domain, version
    ),
    names,
    st.lists(st.none() | operands(), max_size=4),
    st.lists(st.none() | operands(steering=False), max_size=3),
    attributes,
    st.sampled_from(["", "com.microsoft", "com.microsoft.nchwc", "org.example"]),
    st.integers(1, 30),
)


@given(kernels)
def test_a_kernel_is_its_line(kernel):
    line = str(kernel)
    assert "\n" not in line
    assert Kernel.parse(line) == kernel
    assert str(Kernel.parse(line)) == line


@given(kernels, kernels)
def test_different_kernels_have_different_lines(one, other):
    assert (str(one) == str(other)) == (one == other)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Relu",
        "Relu@14 1x8x4x4",
        "Relu@x 1x8 -> 1x8",
        "Relu@14 1xq -> 1x8",
        "Relu@14 f99:1x8 -> 1x8",
        "Relu@14 w:f32:f32:1x8 -> 1x8",
        "Relu@14 1x8 -> 1x8 ",
        "Relu@14 1x8 -> 1x8 alpha",
    ],
)
def test_a_damaged_line_is_refused(line):
    with pytest.raises(LatencyError, match="is not a kernel"):
        Kernel.parse(line)


def test_arrays_hold_the_values_that_steer_and_ones_elsewhere():
    assert Operand.parse("w:i64:2=1x-1").array().tolist() == [1, -1]
    assert Operand.parse("w:()=0.5").array() == 0.5
    plain = Operand((3, 5), "f16").array()
    assert (plain == 1).all()
    assert plain.dtype == np.float16


def only_kernel(op, *, inputs, opset=17, **attributes) -> Kernel:
    """The kernel of a one-node network of a float image [1, 4, 8, 8] and constants."""
    names = ["image", *("" if value is None else f"w{i}" for i, value in enumerate(inputs))]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], **attributes)],
        "one",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), f"w{i}") for i, value in enumerate(inputs) if value is not None],
    )  # fmt: skip
    (kernel,) = trace(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])).kernels
    return kernel


def test_exporters_that_spell_the_defaults_out_give_the_same_kernel():
    weight = np.zeros((8, 4, 3, 3), np.float32)
    short = only_kernel("Conv", inputs=[weight], pads=[1, 1, 1, 1])
    long = only_kernel(
        "Conv", inputs=[weight], pads=[1] * 4, group=1, strides=[1, 1], dilations=[1, 1], kernel_shape=[3, 3],
        auto_pad="NOTSET",
    )  # fmt: skip
    assert str(short) == "Conv@11 1x4x8x8 w:8x4x3x3 -> 1x8x8x8 pads=1x1x1x1"
    assert long == short


def test_what_makes_a_kernel_another_kernel():
    weight = np.zeros((8, 4, 3, 3), np.float32)
    base = only_kernel("Conv", inputs=[weight], pads=[1] * 4)
    others = [
        only_kernel("Conv", inputs=[weight], pads=[1] * 4, strides=[2, 2]),
        only_kernel("Conv", inputs=[weight], pads=[1] * 4, dilations=[2, 2]),
        only_kernel("Conv", inputs=[weight]),
        only_kernel("Conv", inputs=[np.zeros((8, 2, 3, 3), np.float32)], pads=[1] * 4, group=2),
        only_kernel("Conv", inputs=[weight, np.zeros(8, np.float32)], pads=[1] * 4),
    ]
    assert len({base, *others}) == 6


def test_values_of_weights_do_not_count_but_values_that_steer_do():
    one, two = (only_kernel("Mul", inputs=[np.full((1, 4, 1, 1), value, np.float32)]) for value in (1, 2))
    assert one == two
    narrow, wide = (only_kernel("Clip", inputs=[np.float32(0), np.float32(high)]) for high in (1, 6))
    assert str(wide) == "Clip@13 1x4x8x8 w:()=0.0 w:()=6.0 -> 1x4x8x8"
    assert narrow != wide
    flat = only_kernel("Reshape", inputs=[np.array([1, -1])])
    assert str(flat) == "Reshape@14 1x4x8x8 w:i64:2=1x-1 -> 1x256"


def test_optional_inputs_left_out_keep_their_place():
    assert str(only_kernel("Clip", inputs=[None, np.float32(6)])) == "Clip@13 1x4x8x8 _ w:()=6.0 -> 1x4x8x8"


def test_operator_versions_are_those_of_the_last_change():
    assert only_kernel("Relu", inputs=[], opset=17) == only_kernel("Relu", inputs=[], opset=18)
    assert str(only_kernel("Relu", inputs=[], opset=13)).startswith("Relu@13 ")


def test_control_flow_is_refused_by_name():
    branch = helper.make_graph([], "branch", [], [])
    node = helper.make_node("If", ["c"], ["y"], name="gate", then_branch=branch, else_branch=branch)
    with pytest.raises(LatencyError, match=r"node 'gate' \(If\) has the attribute '(then|else)_branch' of type GRAPH"):
        make_kernel(node, 16, (Operand((), "bool"),))


def test_element_types_without_kernels_are_refused_by_name():
    phase = numpy_helper.from_array(np.zeros(2, np.complex64), "phase")
    words = helper.make_tensor("words", TensorProto.STRING, [2], ["cat", "dog"])
    for tensor, kind in ((phase, "COMPLEX64"), (words, "STRING")):
        with pytest.raises(LatencyError, match=f"tensor '{tensor.name}' is of element type {kind}"):
            constant(tensor)


def test_large_constants_do_not_carry_values():
    operand = constant(numpy_helper.from_array(np.arange(100, dtype=np.int64), "index"))
    assert operand.values is None
    assert math.prod(operand.shape) == 100
