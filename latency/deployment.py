"""Where a network runs: the runtime, the device and the settings that decide its latency."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latency.stopwatch import device_facts
from spaces.errors import LatencyError, SpecError

PRECISIONS = {
    "ort-cpu": ("fp32",),
    "torch-cuda": ("fp32", "fp16", "bf16"),
    "torch-cudagraph": ("fp32", "fp16", "bf16"),
}
RUNTIMES = tuple(PRECISIONS)
LAYOUTS = ("nchw", "nhwc")

# Widest first: a runtime picks its kernels by the widest set it finds, so that one decides the optimised graph.
_VECTOR_FLAGS = (("avx512f", "avx512"), ("avx2", "avx2"), ("avx", "avx"), ("asimd", "neon"))


@dataclass(frozen=True)
class Deployment:
    """What a latency is a latency *of*, beside the network itself.

    Attributes:
        runtime: ``"ort-cpu"`` (ONNX Runtime on the processor), ``"torch-cuda"`` (PyTorch on a GPU, eager) or
            ``"torch-cudagraph"`` (the same as a CUDA graph).
        device: The processor's or GPU's name; for a processor the vector instruction set follows it.
        threads: Threads that one inference may use.
        batch: Images per inference.
        precision: Number format of the arithmetic: ``"fp32"``; on a GPU also ``"fp16"`` and ``"bf16"``.
        layout: Memory order of images on a GPU: ``"nchw"``, or ``"nhwc"`` (channels last); ONNX Runtime has its own.

    Raises:
        SpecError: If a field has a value that no runtime here knows.

    >>> board = Deployment("ort-cpu", "Cortex-A72 neon", threads=2)
    >>> board.key
    'ort-cpu_cortex-a72-neon_t2_b1_fp32'
    """

    runtime: str
    device: str
    threads: int = 1
    batch: int = 1
    precision: str = "fp32"
    layout: str = "nchw"

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise SpecError(f"runtime {self.runtime!r} is not known; choose one of {', '.join(RUNTIMES)}")
        precisions, layouts = PRECISIONS[self.runtime], LAYOUTS if self.runtime != "ort-cpu" else LAYOUTS[:1]
        for name, text, known in (("precision", self.precision, precisions), ("layout", self.layout, layouts)):
            if text not in known:
                raise SpecError(f"{name} {text!r} is not known of {self.runtime}; choose one of {', '.join(known)}")
        for name, value in (("threads", self.threads), ("batch", self.batch)):
            if value < 1:
                raise SpecError(f"{name}={value} must be at least 1")
        if not _slug(self.device) or not self.device.isprintable():
            raise SpecError(f"device {self.device!r} must be a name of one line with a letter or digit in it")

    @classmethod
    def here(
        cls,
        runtime: str = "ort-cpu",
        *,
        threads: int = 1,
        batch: int = 1,
        precision: str = "fp32",
        layout: str = "nchw",
    ) -> "Deployment":
        """The deployment of this machine; finds the device's name by itself.

        Raises:
            SpecError: If more threads are asked for than this process may use.
            LatencyError: If the runtime needs a GPU and none is visible.

        >>> Deployment.here(threads=1).runtime
        'ort-cpu'
        """
        if runtime in RUNTIMES[1:]:
            return cls(runtime, gpu(), threads, batch, precision, layout)
        if threads > usable_cores():
            raise SpecError(f"threads={threads}, but this process may use {usable_cores()} cores; ask for fewer")
        return cls(runtime, processor(), threads, batch, precision, layout)

    @property
    def key(self) -> str:
        """A readable slug: the name of the table's file and of the device in a manifest."""
        layout = "" if self.layout == LAYOUTS[0] else f"_{self.layout}"
        return f"{self.runtime}_{_slug(self.device)}_t{self.threads}_b{self.batch}_{self.precision}{layout}"

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        layout = "" if self.layout == LAYOUTS[0] else f", {self.layout}"
        return f"{self.runtime} on {self.device} ({threads}, batch {self.batch}, {self.precision}{layout})"


@dataclass(frozen=True)
class Bundled:
    """A runtime elsewhere that was measured by a bundle, and how its graphs can be had from another one.

    Attributes:
        version: The runtime's name and version there.
        by: The runtime, as name and version, that made the same of every network of the bundle; empty if none did.
        level: With which optimisations: ``"all"``, or ``"extended"`` for all but layouts that suit the processor.
        instructions: On a processor with this instruction set.
    """

    version: str
    by: str = ""
    level: str = ""
    instructions: str = ""


def usable_cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has.

    A container is given a set of cores, or a share of their time (read where control groups are of version 2).
    """
    # sched_getaffinity exists on Linux only.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = Path("/sys/fs/cgroup/cpu.max")
    return granted_cores(limit.read_text(), cores) if limit.exists() else cores


def granted_cores(cpu_max: str, cores: int) -> int:
    """How many of its cores a container may keep busy, from the text of ``cpu.max``; at least one.

    >>> granted_cores("250000 100000", cores=8)  # in every 0.1 s it may use 0.25 s
    2
    """
    quota, period = cpu_max.split()
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def gpu() -> str:
    """Name of the first visible CUDA device.

    Raises:
        LatencyError: If PyTorch sees none.
    """
    import torch  # seconds to import, and CPU deployments do without it

    if not torch.cuda.is_available():
        raise LatencyError("this runtime needs a CUDA device and PyTorch sees none; use the runtime ort-cpu")
    return torch.cuda.get_device_name()


def processor() -> str:
    """Name of this machine's processor and its widest vector instruction set."""
    return name_processor(device_facts())


def name_processor(facts: Mapping[str, Any]) -> str:
    """The same from what ``stopwatch.device_facts`` found, here or on another device."""
    if facts["cpuinfo"]:
        return describe_processor(facts["cpuinfo"], facts["machine"])
    return f"{facts['brand'] or 'processor'} {facts['machine']}"


def instructions(device: str) -> str:
    """The instruction set that a processor's name ends with.

    >>> instructions("Intel Xeon model 85 avx2")
    'avx2'
    """
    return device.rpartition(" ")[2]


def describe_processor(cpuinfo: str, machine: str) -> str:
    r"""Name a processor from the text of ``/proc/cpuinfo``.

    Virtual machines often hide the model behind a generic name, which two different processors would share; such a
    name gets the model number. ARM processors often have no name at all: they are told apart by implementer, part and
    variant (hexadecimal) of each kind of core.

    >>> describe_processor("model name : Intel(R) Xeon(R) CPU @ 2.60GHz\nmodel : 85\nflags : avx avx2", "x86_64")
    'Intel Xeon model 85 avx2'
    >>> describe_processor("Features : fp asimd\nModel : Raspberry Pi 4 Model B Rev 1.1", "aarch64")
    'Raspberry Pi 4 Model B Rev 1.1 neon'
    >>> graviton2 = "Features: fp asimd\nCPU implementer: 0x41\nCPU variant: 0x3\nCPU part: 0xd0c"
    >>> describe_processor(graviton2, "aarch64")
    'aarch64 41-d0c-3 neon'
    """
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    name = fields.get("model name") or fields.get("Model") or fields.get("Hardware") or ""
    name = re.sub(r"\((R|TM)\)|\bCPU\b|\bProcessor\b|@.*", " ", name, flags=re.IGNORECASE)
    words = name.split() or [machine]
    if not re.search(r"\d", name) and "model" in fields:
        words += ["model", fields["model"]]
    columns = [
        re.findall(rf"^CPU {field}\s*:\s*0x(\w+)", cpuinfo, re.M) for field in ("implementer", "part", "variant")
    ]
    words += sorted({"-".join(core) for core in zip(*columns, strict=False)})
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return " ".join([*words, next((label for flag, label in _VECTOR_FLAGS if flag in flags), machine)])


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
