"""Runtimes: what lowers a network to its kernels, and runs kernels and networks against the clock."""

from collections.abc import Sequence
from typing import Protocol

import onnx

from latency.deployment import Bundled, Deployment
from latency.kernels import Kernel
from latency.memory import Memory
from latency.ortcpu import OrtCpu
from latency.shapes import Program
from latency.stopwatch import Stopwatch


class Runtime(Protocol):
    """What a latency table needs of a runtime.

    Attributes:
        deployment: Where and how it runs.
        version: Its name and version, as a table's header records them.
        bundled: How it is known, if only a bundle has met it; else None.
    """

    deployment: Deployment
    version: str
    bundled: Bundled | None

    @property
    def driver(self) -> str:
        """What lies between it and the device; clocks where they are known."""
        ...

    @property
    def here(self) -> bool:
        """Whether the deployment's device is this machine's, so that kernels can be timed."""
        ...

    def lower(self, model: onnx.ModelProto) -> Program:
        """The kernels that the runtime executes for one inference, in an order in which it may execute them.

        Raises:
            LatencyError: If the network cannot be run, or an operator's shapes cannot be known.
        """
        ...

    def kernel(self, kernel: Kernel, copies: int) -> Stopwatch:
        """Prepare to time so many copies of a kernel, each really executed, in one go.

        Raises:
            LatencyError: If the runtime refuses the kernel.
        """
        ...

    def launch(self, kernels: Sequence[Kernel]) -> list[float]:
        """Microseconds that the processor takes to launch each; 0 where the device is not started kernel by kernel.

        Raises:
            LatencyError: If the runtime refuses a kernel.
        """
        ...

    def distant(self, kernels: Sequence[Kernel], near_us: Sequence[float]) -> list[tuple[float, float]]:
        """What kernels take longer, in microseconds, when their weights are not near.

        Args:
            kernels: What to measure.
            near_us: What each takes as ``kernel`` times it.

        Returns:
            For each with ``MIDDLE_BYTES`` between two uses of the same weights, and with weights from main memory.

        Raises:
            LatencyError: If the runtime refuses a kernel.
        """
        ...

    def memory(self) -> Memory | None:
        """How far weights are that have not been used for a while; None where that makes no difference."""
        ...

    def network(self, model: onnx.ModelProto) -> Stopwatch:
        """Prepare to time one inference of a whole network.

        Raises:
            LatencyError: If the runtime refuses the network.
        """
        ...


def make_runtime(deployment: Deployment, bundled: Bundled | None = None) -> Runtime:
    """The runtime that a deployment names; ``bundled`` is one elsewhere.

    >>> make_runtime(Deployment.here("ort-cpu")).here
    True
    """
    if deployment.runtime == "ort-cpu":
        return OrtCpu(deployment, bundled)
    from latency.torchcuda import TorchCuda  # PyTorch takes seconds to import, and the processor does without it

    return TorchCuda(deployment)
