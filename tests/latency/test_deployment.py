import pytest

from latency.deployment import Deployment, describe_processor, granted_cores, processor, usable_cores
from spaces.errors import LatencyError, SpecError


def arm(*cores: tuple[str, str, str], features: str = "fp asimd evtstrm aes", tail: str = "") -> str:
    """``/proc/cpuinfo`` of cores given by implementer, variant and part."""
    return "".join(
        f"processor\t: {i}\nBogoMIPS\t: 48.00\nFeatures\t: {features}\nCPU implementer\t: {implementer}\n"
        f"CPU architecture: 8\nCPU variant\t: {variant}\nCPU part\t: {part}\nCPU revision\t: 1\n\n"
        for i, (implementer, variant, part) in enumerate(cores)
    ) + tail  # fmt: skip


GRAVITON_2 = arm(*[("0x41", "0x3", "0xd0c")] * 4)
GRAVITON_3 = arm(*[("0x41", "0x1", "0xd40")] * 4, features="fp asimd evtstrm aes sve bf16 i8mm")
RASPBERRY_PI_4 = arm(
    *[("0x41", "0x0", "0xd08")] * 4,
    tail="Revision\t: c03111\nSerial\t\t: 10000000abcdef01\nModel\t\t: Raspberry Pi 4 Model B Rev 1.1\n",
)
APPLE_M1 = arm(*[("0x61", "0x1", "0x022")] * 4, *[("0x61", "0x1", "0x023")] * 4)
EPYC = (
    "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\n"
    "model name\t: AMD EPYC 7R13 Processor\nstepping\t: 1\nflags\t\t: fpu sse2 avx avx2 fma\n"
)


def test_key_is_a_file_name_and_says_everything():
    deployment = Deployment("ort-cpu", "AMD Ryzen 9 7950X avx512", threads=4, batch=8)
    assert deployment.key == "ort-cpu_amd-ryzen-9-7950x-avx512_t4_b8_fp32"
    assert str(deployment) == "ort-cpu on AMD Ryzen 9 7950X avx512 (4 threads, batch 8, fp32)"


def test_every_field_is_part_of_the_key():
    one = Deployment("ort-cpu", "Board")
    others = [
        Deployment("torch-cuda", "Board"),
        Deployment("ort-cpu", "Board 2"),
        Deployment("ort-cpu", "Board", threads=2),
        Deployment("ort-cpu", "Board", batch=2),
        Deployment("torch-cudagraph", "Board"),
        Deployment("torch-cuda", "Board", precision="bf16"),
        Deployment("torch-cuda", "Board", layout="nhwc"),
    ]
    assert len({deployment.key for deployment in [one, *others]}) == 8
    assert len({str(deployment) for deployment in [one, *others]}) == 8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"runtime": "tflite"}, "runtime 'tflite' is not known; choose one of ort-cpu, torch-cuda"),
        ({"precision": "int3"}, "precision 'int3' is not known of ort-cpu; choose one of fp32"),
        ({"precision": "fp16"}, "precision 'fp16' is not known of ort-cpu; choose one of fp32"),
        ({"runtime": "torch-cuda", "precision": "int3"}, "not known of torch-cuda; choose one of fp32, fp16, bf16"),
        ({"layout": "nhwc"}, "layout 'nhwc' is not known of ort-cpu; choose one of nchw"),
        ({"threads": 0}, "threads=0 must be at least 1"),
        ({"batch": -1}, "batch=-1 must be at least 1"),
        ({"device": "?!"}, "device '?!' must be a name of one line"),
        ({"device": "a\nb"}, "must be a name of one line"),
    ],
)
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(SpecError, match=message.replace("?", r"\?")):
        Deployment(**{"runtime": "ort-cpu", "device": "Board"} | fields)


def test_here_is_this_processor():
    here = Deployment.here("ort-cpu", threads=1, batch=4)
    assert (here.device, here.threads, here.batch) == (processor(), 1, 4)


def test_here_refuses_more_threads_than_cores():
    with pytest.raises(SpecError, match=rf"threads=1000, but this process may use {usable_cores()} cores"):
        Deployment.here(threads=1000)


@pytest.mark.parametrize(
    ("cpu_max", "cores"),
    [("max 100000\n", 8), ("200000 100000\n", 2), ("150000 100000", 1), ("20000 100000", 1), ("6400000 100000", 8)],
)
def test_a_quota_of_time_counts_as_cores(cpu_max, cores):
    assert granted_cores(cpu_max, 8) == cores


def test_cuda_without_a_gpu_is_an_error_that_says_what_to_do():
    import torch

    if torch.cuda.is_available():
        assert Deployment.here("torch-cuda").device == torch.cuda.get_device_name()
    else:
        with pytest.raises(LatencyError, match="needs a CUDA device and PyTorch sees none; use the runtime ort-cpu"):
            Deployment.here("torch-cuda")


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "name"),
    [
        ("model name\t: AMD EPYC 7R13 Processor\nmodel\t: 1\nflags\t: avx avx2", "x86_64", "AMD EPYC 7R13 avx2"),
        ("model name: Intel(R) Xeon(R) Processor\nmodel: 143\nflags: avx512f", "x86_64", "Intel Xeon model 143 avx512"),
        ("processor : 0\nFeatures : fp asimd", "aarch64", "aarch64 neon"),
        ("processor : 0\nmodel : 85\nflags : avx512f", "x86_64", "x86_64 model 85 avx512"),
        (GRAVITON_2, "aarch64", "aarch64 41-d0c-3 neon"),
        (GRAVITON_3, "aarch64", "aarch64 41-d40-1 neon"),
        (RASPBERRY_PI_4, "aarch64", "Raspberry Pi 4 Model B Rev 1.1 41-d08-0 neon"),
        (APPLE_M1, "aarch64", "aarch64 61-022-1 61-023-1 neon"),
        (EPYC, "x86_64", "AMD EPYC 7R13 avx2"),
        (
            "model name: Intel(R) Core(TM)2 Duo CPU E8400 @ 3.00GHz\nflags: sse2",
            "x86_64",
            "Intel Core 2 Duo E8400 x86_64",
        ),
        ("", "riscv64", "riscv64 riscv64"),
    ],
)
def test_processors_are_told_apart(cpuinfo, machine, name):
    assert describe_processor(cpuinfo, machine) == name
