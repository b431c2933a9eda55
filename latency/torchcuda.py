"""PyTorch on a GPU: eager, and as CUDA graphs."""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import onnx
import torch

from latency.deployment import Bundled, Deployment, gpu, processor
from latency.eager import EagerNetwork, torch_function
from latency.kernels import Kernel
from latency.shapes import Program, fix_batch, trace
from latency.stopwatch import Stopwatch
from latency.timing import clock
from spaces.errors import LatencyError

Work = Callable[[], object]

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_LAUNCHES = 20  # in a row; the queue of the device takes about a thousand
_STATE = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit"


class TorchCuda:
    """PyTorch on a GPU: one kernel per operator of the network as it was exported.

    What a kernel takes on the device is timed as a CUDA graph of several runs of it, between two events, the second of
    which has passed before the clock is read. The graph of a network therefore takes the sum of its kernels. An eager
    network takes that or, where it is longer, what the processor takes to launch them one by one. Caches of the device
    are not flushed: a deployed network finds them as its last inference left them.

    Args:
        deployment: Where it runs; ``"torch-cuda"`` is eager, ``"torch-cudagraph"`` replays graphs.
        torch_device: PyTorch's name of the device; with ``"cpu"`` the same code runs on the processor, by its clock and
            without graphs.
    """

    def __init__(self, deployment: Deployment, torch_device: str = "cuda") -> None:
        self.deployment = deployment
        self.version = f"torch {torch.__version__}"
        self.bundled: Bundled | None = None
        self._device = torch.device(torch_device)
        self._graphs = deployment.runtime == "torch-cudagraph"

    @cached_property
    def here(self) -> bool:
        """Whether the deployment's device is the one that this process sees."""
        if self._device.type == "cpu":
            return self.deployment.device == processor()
        return torch.cuda.is_available() and self.deployment.device == gpu()

    @property
    def driver(self) -> str:
        """The driver, CUDA, and the clocks of this moment."""
        if self._device.type == "cpu":
            return "none"
        query = ["nvidia-smi", f"--query-gpu={_STATE}", "--format=csv,noheader", "--id=0"]
        try:
            state = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            state = "state not known: no nvidia-smi"
        return f"CUDA {torch.version.cuda}; {_STATE}: {state}"

    def lower(self, model: onnx.ModelProto) -> Program:
        """The network's operators in order: PyTorch fuses none.

        Raises:
            LatencyError: If an operator's shapes cannot be known.
        """
        return trace(fix_batch(model, self.deployment.batch))

    def kernel(self, kernel: Kernel, copies: int) -> Stopwatch:
        """Prepare to time so many runs of an operator in a row on the same tensors, on the device.

        Raises:
            LatencyError: If the operator has no counterpart here, or cannot be run.
        """
        return self._device_clock(self._captured(self._runs(kernel, copies), str(kernel)), str(kernel))

    def launch(self, kernels: Sequence[Kernel]) -> list[float]:
        """Microseconds of the processor to launch each; none in a graph, which is launched as a whole.

        Raises:
            LatencyError: If an operator has no counterpart here, or cannot be run.
        """
        return [0.0 if self._graphs else 1e6 * self._launch_seconds(kernel) for kernel in kernels]

    def distant(self, kernels: Sequence[Kernel], near_us: Sequence[float]) -> list[tuple[float, float]]:
        """Nothing: weights are met in the GPU's memory or in its last-level cache, as they are in a network."""
        return [(0.0, 0.0)] * len(kernels)

    def memory(self) -> None:
        """Not known, and not needed."""

    def network(self, model: onnx.ModelProto) -> Stopwatch:
        """Prepare to time one inference, operator by operator or as a graph.

        Raises:
            LatencyError: If an operator has no counterpart here, or cannot be run.
        """
        name = model.graph.name
        with _refusing(name):
            network = EagerNetwork(fix_batch(model, self.deployment.batch), self._place)
            inputs = [self._place(torch.from_numpy(each.array())) for each in network.program.inputs.values()]
        work = partial(network, *inputs)
        return self._device_clock(self._captured(work, name) if self._graphs else work, name)

    def _runs(self, kernel: Kernel, copies: int) -> Work:
        function = torch_function(kernel)
        with _refusing(str(kernel)):
            arrays = [operand.array() if operand else None for operand in kernel.inputs]
            inputs = [None if array is None else self._place(torch.from_numpy(array)) for array in arrays]

        def work() -> None:
            for _ in range(copies):
                function(*inputs)

        return work

    def _place(self, tensor: torch.Tensor) -> torch.Tensor:
        """On the device, in the deployment's precision and layout."""
        dtype = _DTYPES[self.deployment.precision] if tensor.is_floating_point() else tensor.dtype
        images = tensor.ndim == 4 and self.deployment.layout == "nhwc"
        layout = torch.channels_last if images else torch.contiguous_format
        return tensor.to(self._device, dtype).contiguous(memory_format=layout)

    def _captured(self, work: Work, name: str) -> Work:
        """Work as a CUDA graph, which is launched as a whole."""
        if self._device.type == "cpu":
            return work
        cuda: Any = torch.cuda
        graph = cuda.CUDAGraph()
        with _refusing(name), torch.inference_mode(), full_precision():
            aside = cuda.Stream()
            aside.wait_stream(cuda.current_stream())
            with cuda.stream(aside):  # libraries choose their algorithms before the capture
                work()
                work()
            cuda.current_stream().wait_stream(aside)
            with cuda.graph(graph):
                work()
        return graph.replay  # type: ignore[no-any-return]

    def _launch_seconds(self, kernel: Kernel) -> float:
        single, several = (self._runs(kernel, copies) for copies in (1, 1 + _LAUNCHES))

        def seconds(work: Work) -> float:
            self._wait()
            start = time.perf_counter()
            work()
            return time.perf_counter() - start

        with _refusing(str(kernel)), torch.inference_mode(), full_precision():
            several()
            pairs = [(seconds(single), seconds(several)) for _ in range(5)]
        return max(0.0, (min(both for _, both in pairs) - min(one for one, _ in pairs)) / _LAUNCHES)

    def _wait(self) -> None:
        if self._device.type != "cpu":
            torch.cuda.synchronize(self._device)

    def _device_clock(self, work: Work, name: str) -> Stopwatch:
        stopwatch = clock(work) if self._device.type == "cpu" else self._events(work)

        def seconds() -> float:
            with _refusing(name), torch.inference_mode(), full_precision():
                return stopwatch()

        return seconds

    def _events(self, work: Work) -> Stopwatch:
        cuda: Any = torch.cuda  # its events have no annotations
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)

        def seconds() -> float:
            self._wait()
            start.record()
            work()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) / 1e3

        return seconds


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """What PyTorch cannot run, for lack of memory say, as an error that names it."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LatencyError(f"PyTorch cannot run {name!r}: {first}") from error


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 as it says: by default cuDNN's convolutions round it to TF32, with 10 bits of mantissa."""
    settings: list[Any] = [torch.backends.cudnn, torch.backends.cuda.matmul]
    before = [setting.allow_tf32 for setting in settings]
    try:
        for setting in settings:
            setting.allow_tf32 = False
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.allow_tf32 = value
