"""PyTorch on a GPU, eager."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import onnx
import torch

from latency.deployment import Bundled, Deployment, gpu, processor
from latency.eager import EagerNetwork, torch_function
from latency.kernels import Kernel, Operand
from latency.run_bundle import Stopwatch
from latency.shapes import Program, fix_batch, trace
from latency.timing import clock
from spaces.errors import LatencyError


class TorchCuda:
    """PyTorch on a GPU, eager: one kernel per operator of the network as it was exported, in device time.

    Device time is the time between two CUDA events, read after the second one has passed; a kernel that is shorter
    than its launch therefore counts as long as the launch.

    Args:
        deployment: Where it runs.
        torch_device: PyTorch's name of the device; with ``"cpu"`` the same code runs on the processor, by its clock.
    """

    def __init__(self, deployment: Deployment, torch_device: str = "cuda") -> None:
        self.deployment = deployment
        self.version = f"torch {torch.__version__}"
        self.bundled: Bundled | None = None
        self._device = torch.device(torch_device)

    @cached_property
    def here(self) -> bool:
        """Whether the deployment's device is the one that this process sees."""
        if self._device.type == "cpu":
            return self.deployment.device == processor()
        return torch.cuda.is_available() and self.deployment.device == gpu()

    def lower(self, model: onnx.ModelProto) -> Program:
        """The network's operators in order: eager PyTorch fuses none.

        Raises:
            LatencyError: If an operator's shapes cannot be known.
        """
        return trace(fix_batch(model, self.deployment.batch))

    def kernel(self, kernel: Kernel, copies: int) -> Stopwatch:
        """Prepare to time so many runs of an operator in a row on the same tensors.

        Raises:
            LatencyError: If the operator has no counterpart here, or cannot be run.
        """
        function = torch_function(kernel)
        with _refusing(str(kernel)):
            inputs = [self._tensor(operand) if operand else None for operand in kernel.inputs]

        def work() -> None:
            for _ in range(copies):
                function(*inputs)

        return self._clock(work, str(kernel))

    def distant(self, kernels: Sequence[Kernel], near_us: Sequence[float]) -> list[tuple[float, float]]:
        """Nothing: weights are met in the GPU's memory or in its last-level cache, as they are in a network."""
        return [(0.0, 0.0)] * len(kernels)

    def memory(self) -> None:
        """Not known, and not needed."""

    def network(self, model: onnx.ModelProto) -> Stopwatch:
        """Prepare to time one inference, operator by operator.

        Raises:
            LatencyError: If an operator has no counterpart here, or cannot be run.
        """
        name = model.graph.name
        with _refusing(name):
            network = EagerNetwork(fix_batch(model, self.deployment.batch), self._device)
            inputs = [self._tensor(operand) for operand in network.program.inputs.values()]
        return self._clock(lambda: network(*inputs), name)

    def _tensor(self, operand: Operand) -> torch.Tensor:
        return torch.from_numpy(operand.array()).to(self._device)

    def _clock(self, work: Callable[[], object], name: str) -> Stopwatch:
        stopwatch = clock(work) if self._device.type == "cpu" else self._device_clock(work)

        def seconds() -> float:
            with _refusing(name), torch.inference_mode(), full_precision():
                return stopwatch()

        return seconds

    def _device_clock(self, work: Callable[[], object]) -> Stopwatch:
        cuda: Any = torch.cuda  # its events have no annotations
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)

        def seconds() -> float:
            torch.cuda.synchronize(self._device)
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
