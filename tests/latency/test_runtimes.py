"""One contract for all runtimes, then what is particular to each."""

from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper

from latency import workload
from latency.deployment import Deployment, processor, usable_cores
from latency.eager import EagerNetwork, torch_function
from latency.kernels import Kernel
from latency.ortcpu import OrtCpu
from latency.runtimes import make_runtime
from latency.shapes import fix_batch, trace
from latency.stopwatch import block, feed, node_us, session, session_options
from latency.timing import Protocol, time_kernels
from latency.torchcuda import TorchCuda
from spaces.errors import LatencyError
from spaces.onnx import to_onnx
from spaces.plain import PlainSpace
from tests.spaces.nets import trained


def ort_cpu(batch=1):
    return OrtCpu(Deployment.here("ort-cpu", batch=batch))


def torch_on_cpu(batch=1):
    return TorchCuda(Deployment("torch-cuda", processor(), batch=batch), torch_device="cpu")


@pytest.fixture(params=[ort_cpu, torch_on_cpu])
def make(request):
    return request.param


# The contract.


def test_lowering_is_a_function_of_the_model(make, make_cnn):
    """But for the order of independent kernels, which the runtime chooses anew each time."""
    kernels = Counter(make().lower(make_cnn(12, 16)).kernels)
    assert kernels == Counter(make().lower(make_cnn(12, 16)).kernels)
    assert kernels != Counter(make().lower(make_cnn(16, 16)).kernels)
    assert all(kernel.outputs for kernel in kernels)


def test_every_kernel_of_a_network_can_be_timed_from_its_line_alone(make, make_cnn):
    runtime = make()
    for kernel in set(runtime.lower(make_cnn(12, 16)).kernels):
        again = Kernel.parse(str(kernel))
        assert again == kernel
        for copies in (1, 3):
            assert 0 < make().kernel(again, copies)() < 1


def test_the_long_name_of_onnx_own_operators(make, make_cnn):
    """Some exporters write "ai.onnx" where others write nothing."""
    model = make_cnn(12, 16)
    wanted = Counter(make().lower(model).kernels)
    for entry in (*model.opset_import, *model.graph.node):
        entry.domain = "ai.onnx"
    assert Counter(make().lower(model).kernels) == wanted
    assert 0 < make().network(model)() < 1


def test_networks_run(make, make_cnn):
    assert 0 < make().network(make_cnn(8, 8))() < 1


def test_the_batch_is_the_deployments(make, make_cnn):
    model = make_cnn(8, 16, batch="N")
    first = make(batch=7).lower(model).kernels[0]
    assert first.activations[0].shape == (7, 3, 16, 16)
    assert 0 < make(batch=7).network(model)() < 1


def test_here_means_this_device(make):
    runtime = make()
    assert runtime.here
    elsewhere = Deployment(runtime.deployment.runtime, "Some Board neon")
    assert not type(runtime)(elsewhere, *(["cpu"] if isinstance(runtime, TorchCuda) else [])).here


def test_versions_name_the_runtime(make):
    name, version = make().version.split()
    assert (name, version) in {("onnxruntime", ort.__version__), ("torch", torch.__version__)}


def test_make_runtime_follows_the_deployment():
    assert isinstance(make_runtime(Deployment("ort-cpu", "Board")), OrtCpu)
    assert isinstance(make_runtime(Deployment("torch-cuda", "Board")), TorchCuda)


# ONNX Runtime.


def test_kernels_are_those_of_the_optimised_graph(net):
    """A convolution, its norm, its activation and the residual sum are one kernel; the call comes last."""
    writer = net()
    x = writer.add("Relu", writer.conv("image", 16, 16))
    norm = [writer.weight(np.full(16, value, np.float32)) for value in (1.5, 0.5, 0.25, 2.0)]
    y = writer.add("BatchNormalization", writer.conv(x, 16, 16), *norm)
    model = writer.model(writer.add("Relu", writer.add("Add", y, x)), [1, 16, 8, 8], [1, 16, 8, 8])
    kernels = ort_cpu().lower(model).kernels
    # Blocked (Conv) where the instruction set has it, else FusedConv.
    assert len([kernel for kernel in kernels if kernel.op.endswith("Conv")]) == 2
    assert not {"Relu", "Add", "BatchNormalization"} & {kernel.op for kernel in kernels}
    assert str(kernels[-1]) == "Call@1 1x16x8x8 -> 1x16x8x8"


def test_the_order_of_an_adds_inputs_decides_what_fuses(net):
    """So lowering may not normalise it away."""

    def kernels(swapped):
        writer = net()
        a, b = writer.conv("image", 16, 16, 1), writer.conv("image", 16, 16, 3)
        model = writer.model(writer.add("Add", *((b, a) if swapped else (a, b))), [1, 16, 8, 8], None)
        return ort_cpu().lower(model).kernels

    assert Counter(kernels(swapped=False)) != Counter(kernels(swapped=True))


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "inception_v1", "resnet50", "densenet121"])
def test_networks_of_the_model_zoo_are_lowered(name):
    """Files from before opset 10 that the onnx package brings along, without their weights' values."""
    file = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"
    if not file.exists():
        pytest.skip(f"this onnx package has no {file.name}")
    kernels = ort_cpu().lower(onnx.load(file)).kernels
    assert sum(kernel.op == "Conv" for kernel in kernels) > 20
    assert all(str(Kernel.parse(str(kernel))) == str(kernel) for kernel in kernels)


@pytest.mark.parametrize("space", [PlainSpace((3, 32, 32), 10), PlainSpace((1, 16, 16), 70, stages=2, width_step=4)])
def test_weights_do_not_decide_which_kernels_run(make, space):
    rng = np.random.default_rng(0)
    for _ in range(5):
        arch = space.sample(rng)
        found, expected = (
            Counter(map(str, make().lower(to_onnx(arch, each)).kernels)) for each in (None, trained(arch).value)
        )
        assert found == expected


def test_a_constant_larger_than_the_block_need_not_be_there():
    arch = PlainSpace((3, 8, 8), 10, stages=1, max_width=2048).plain([2048], [2])
    assert max(np.prod(param.shape) for param in arch.params.values()) > 2**25
    model = to_onnx(arch, None)
    assert len(model.SerializeToString()) < 10_000
    assert sum(kernel.op == "Conv" for kernel in ort_cpu().lower(model).kernels) == 2


def test_lowering_leaves_no_files(make_cnn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    runtime = ort_cpu()
    for kernel in runtime.lower(make_cnn(8, 8)).kernels:
        runtime.kernel(kernel, 2)()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("copies", [1, 5, 40])
def test_every_copy_runs(make_cnn, copies):
    """By the runtime's own profile."""
    for kernel in set(ort_cpu().lower(make_cnn(16, 16)).kernels):
        if kernel.op != "Call":
            for work, others in (workload.copies(kernel, copies), 0), (workload.in_company(kernel, copies), 1):
                ran = node_us(work.model.SerializeToString(), work.weights, threads=1, runs=1)
                assert len(ran) == copies + others


def test_copies_compute_what_the_kernel_does():
    work = workload.copies(Kernel.parse("Conv@11 1x8x4x4 w:32x8x1x1 w:32 -> 1x32x4x4"), 5)
    made = session(work.model.SerializeToString(), work.weights, session_options(1))
    (result,) = made.run(None, feed(made))
    weights, bias = (block()[start : start + np.prod(shape)].reshape(shape) for _, start, shape, _ in work.weights[:2])
    np.testing.assert_allclose(result[0, :, 0, 0], weights.sum((1, 2, 3)) + bias, rtol=1e-5)


def test_cold_weights(make_cnn):
    runtime = ort_cpu()
    large = Kernel.parse("Gemm@13 1x1024 w:1000x1024 w:1000 -> 1x1000 transB=1")
    kernels = [*dict.fromkeys(runtime.lower(make_cnn(16, 16)).kernels), large]
    found = runtime.distant(kernels, [1.0] * len(kernels))
    assert all(0 <= middle <= cold < 1e6 for middle, cold in found)
    assert {far for kernel, far in zip(kernels, found, strict=True) if not kernel.constants} == {(0.0, 0.0)}
    middle, cold = found[-1]
    assert middle == 0  # it is timed in the middle
    assert cold > 0  # 4 MB from wherever, against the 1 us claimed


@pytest.mark.skipif(usable_cores() < 2, reason="needs two cores")
def test_two_threads():
    runtime = OrtCpu(Deployment.here(threads=2))
    kernel = Kernel.parse("Conv@11 1x16x32x32 w:16x16x3x3 -> 1x16x32x32 pads=1x1x1x1")
    (timing,) = time_kernels(runtime, [kernel], Protocol(passes=1, kernel_ms=1))
    assert timing.min_us > 0


def test_the_memory_of_this_machine():
    memory = ort_cpu().memory()
    assert memory.share[0] == 0
    assert list(memory.share) == sorted(memory.share)


def test_a_kernel_with_weights_larger_than_the_block():
    kernel = Kernel.parse("Gemm@13 1x4096 w:9000x4096 w:9000 -> 1x9000 transB=1")
    assert kernel.constants[1].nbytes > 2**27
    assert 0 < ort_cpu().kernel(kernel, 2)() < 5


def test_kernels_are_timed_by_the_protocol():
    lines = ["Relu@14 1x8x16x16 -> 1x8x16x16", "Conv@11 1x8x16x16 w:64x8x3x3 -> 1x64x16x16 pads=1x1x1x1"]
    relu, conv = time_kernels(ort_cpu(), [Kernel.parse(line) for line in lines], Protocol(kernel_ms=1))
    assert 0 < relu.min_us <= relu.median_us < conv.min_us  # 300 times the arithmetic


def test_networks_that_the_runtime_refuses(net):
    writer = net()
    model = writer.model(writer.add("Relu", "image"), [1, 3, 8, 8], None)
    model.graph.node[0].op_type = "Swirl"
    for refuse in (ort_cpu().lower, ort_cpu().network):
        with pytest.raises(LatencyError, match=r"onnxruntime \S+ refuses the network 'net': .*Swirl"):
            refuse(model)


def test_kernels_that_the_runtime_refuses():
    with pytest.raises(LatencyError, match=r"onnxruntime \S+ refuses Swirl@1 1x8"):
        ort_cpu().kernel(Kernel.parse("Swirl@1 1x8 -> 1x8"), 1)


def test_kernels_that_fail_only_when_they_run():
    line = "Gather@13 1x8 w:i64:1=9 -> 1x1 axis=1"
    with pytest.raises(LatencyError, match="refuses Gather@13 1x8"):
        ort_cpu().kernel(Kernel.parse(line), 1)


# PyTorch.


@pytest.mark.parametrize("batch", [1, 4])
def test_the_eager_network_computes_what_onnx_runtime_does(make_cnn, batch):
    model = make_cnn(12, 17, batch="N")
    images = np.random.default_rng(0).random((batch, 3, 17, 17), np.float32)
    (wanted,) = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"image": images}
    )
    network = EagerNetwork(fix_batch(model, batch), torch.Tensor.contiguous)
    (found,) = network(torch.from_numpy(images))
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)


STANDARD = [
    ("Add", ["image", 1.5], {}),
    ("Sub", ["image", 1.5], {}),
    ("Mul", ["image", 1.5], {}),
    ("Div", ["image", 1.5], {}),
    ("Relu", ["image"], {}),
    ("Sigmoid", ["image"], {}),
    ("Tanh", ["image"], {}),
    ("HardSwish", ["image"], {}),
    ("HardSigmoid", ["image"], {}),
    ("HardSigmoid", ["image"], {"alpha": 1 / 6}),
    ("LeakyRelu", ["image"], {"alpha": 0.3}),
    ("Identity", ["image"], {}),
    ("Clip", ["image", 0.2, 0.7], {}),
    ("Clip", ["image", None, 0.7], {}),
    ("Softmax", ["image"], {"axis": 1}),
    ("GlobalAveragePool", ["image"], {}),
    ("GlobalMaxPool", ["image"], {}),
    ("MaxPool", ["image"], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", ["image"], {"kernel_shape": [3, 3], "pads": [1] * 4}),
    ("AveragePool", ["image"], {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1}),
    ("Transpose", ["image"], {"perm": [0, 2, 3, 1]}),
    ("ReduceMean", ["image"], {"axes": [2, 3], "keepdims": 0}),
    ("Flatten", ["image"], {"axis": 2}),
    ("Reshape", ["image", np.array([2, -1])], {}),
    ("Unsqueeze", ["image", np.array([0])], {}),
    ("MatMul", ["image", np.ones((7, 2), np.float32)], {}),
    ("Conv", ["image", np.ones((4, 1, 3, 3), np.float32)], {"group": 4, "strides": [2, 2], "dilations": [2, 2]}),
]


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"), STANDARD, ids=lambda value: value if isinstance(value, str) else ""
)
def test_each_eager_operator_computes_what_onnx_runtime_does(net, op, inputs, attributes):
    writer = net()
    names = [
        "image" if isinstance(value, str) else "" if value is None
        else writer.weight(np.float32(value) if isinstance(value, float) else value)
        for value in inputs
    ]  # fmt: skip
    model = writer.model(writer.add(op, *names, **attributes), [1, 4, 7, 7], None)
    image = np.random.default_rng(1).random((1, 4, 7, 7), np.float32) - 0.25
    (wanted,) = ort.InferenceSession(model.SerializeToString()).run(None, {"image": image})
    (found,) = EagerNetwork(model, torch.Tensor.contiguous)(torch.from_numpy(image))
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("flips", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_eager_gemm(net, flips, bias):
    writer = net()
    matrix = writer.floats(*((5, 3) if not flips[1] else (3, 5))) if not flips[0] else writer.floats(
        *((2, 3) if not flips[1] else (3, 2))
    )  # fmt: skip
    inputs = ["image", matrix, *([writer.floats(3)] if bias else [])]
    y = writer.add("Gemm", *inputs, transA=flips[0], transB=flips[1], alpha=0.5, beta=2.0)
    model = writer.model(y, [2, 5], None)
    image = np.random.default_rng(2).random((2, 5), np.float32)
    (wanted,) = ort.InferenceSession(model.SerializeToString()).run(None, {"image": image})
    (found,) = EagerNetwork(model, torch.Tensor.contiguous)(torch.from_numpy(image))
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("runtime", ["torch-cuda", "torch-cudagraph"])
def test_precisions_and_layouts_of_pytorch(make_cnn, runtime, precision, layout):
    deployment = Deployment(runtime, processor(), precision=precision, layout=layout)
    pytorch = TorchCuda(deployment, torch_device="cpu")
    model = make_cnn(8, 8)
    assert 0 < pytorch.network(model)() < 1
    kernels = list(dict.fromkeys(pytorch.lower(model).kernels))
    assert all(0 < pytorch.kernel(kernel, 2)() < 1 for kernel in kernels)
    launches = pytorch.launch(kernels)
    assert len(launches) == len(kernels)
    assert (max(launches) > 0) is (runtime == "torch-cuda")
    placed = pytorch._place(torch.ones(1, 4, 3, 3))
    assert str(placed.dtype) == {"fp32": "torch.float32", "fp16": "torch.float16", "bf16": "torch.bfloat16"}[precision]
    assert placed.is_contiguous(memory_format=torch.channels_last) is (layout == "nhwc")
    assert pytorch._place(torch.ones(2, dtype=torch.int64)).dtype == torch.int64


def test_eager_pytorch_fuses_nothing(make_cnn):
    model = make_cnn(16, 16)
    assert [kernel.op for kernel in torch_on_cpu().lower(model).kernels] == [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(
    "line",
    [
        "Swirl@1 1x8 -> 1x8",
        "nchwc.Conv@1 1x16x4x4 w:16x16x1x1 -> 1x16x4x4",
        "Conv@11 1x3x8x8 w:8x3x3x3 -> 1x8x8x8 pads=0x0x2x2",
        "Conv@11 1x3x8 w:8x3x3 -> 1x8x8 pads=1x1",
        "MaxPool@12 1x3x8x8 -> 1x3x4x4 auto_pad=SAME_UPPER kernel_shape=2x2 strides=2x2",
    ],
)
def test_eager_names_what_it_lacks(line):
    with pytest.raises(LatencyError, match=line.partition("@")[0].split(".")[-1]):
        torch_function(Kernel.parse(line))


def test_tensors_are_given_back_after_their_last_use(net):
    """A chain of 20 large tensors may not be alive at once."""
    writer = net()
    name = "image"
    for _ in range(20):
        name = writer.add("Relu", name)
    network = EagerNetwork(writer.model(name, [1, 8], None), torch.Tensor.contiguous)
    assert [len(dead) for dead in network._dead_after] == [1] * 20


def test_constant_nodes_reach_the_eager_network(net):
    writer = net()
    two = writer.add("Constant", value=helper.make_tensor("two", TensorProto.FLOAT, [1], [2.0]))
    model = writer.model(writer.add("Mul", "image", two), [1, 8], None)
    assert len(trace(model).steps) == 1
    (found,) = EagerNetwork(model, torch.Tensor.contiguous)(torch.ones(1, 8))
    assert found.tolist() == [[2.0] * 8]


@pytest.fixture
def tf32():
    """The settings of an application that trains with TF32."""
    settings = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [setting.allow_tf32 for setting in settings]
    for setting in settings:
        setting.allow_tf32 = True
    yield lambda: [setting.allow_tf32 for setting in settings]
    for setting, value in zip(settings, before, strict=True):
        setting.allow_tf32 = value


@pytest.mark.parametrize("fail", [False, True])
def test_fp32_is_not_tf32(monkeypatch, tf32, fail):
    seen = []

    def relu(image):
        seen.append(tf32())
        if fail:
            raise RuntimeError("out of memory")
        return image

    monkeypatch.setattr("latency.torchcuda.torch_function", lambda kernel: relu)
    stopwatch = torch_on_cpu().kernel(Kernel.parse("Relu@14 1x8 -> 1x8"), 2)
    refused = pytest.raises(LatencyError, match=r"PyTorch cannot run 'Relu@14 1x8 -> 1x8': out of memory")
    with refused if fail else nullcontext():
        stopwatch()
    assert seen == [[False, False]] * (1 if fail else 2)
    assert tf32() == [True, True]


@pytest.mark.gpu
def test_on_a_gpu(make_cnn):
    runtime = TorchCuda(Deployment.here("torch-cuda", batch=8))
    model = make_cnn(32, 32, batch="N")
    assert runtime.here
    timings = time_kernels(runtime, list(set(runtime.lower(model).kernels)), Protocol(kernel_ms=2))
    assert all(timing.min_us > 0.5 for timing in timings)
    assert runtime.network(model)() > 10e-6
