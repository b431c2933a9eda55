from collections import Counter
from itertools import pairwise

import pytest

from latency import workload
from latency.kernels import Kernel
from latency.memory import MIDDLE_BYTES
from latency.stopwatch import BLOCK_BYTES, block, distant_us, ones

CONV = "Conv@11 1x8x4x4 w:8x8x3x3 w:8 -> 1x8x4x4 pads=1x1x1x1"
RELU = "Relu@14 1x8 -> 1x8"


def kernel(line):
    return Kernel.parse(line)


@pytest.mark.parametrize(
    ("line", "sets"),
    [
        (CONV, 16),
        ("Gemm@13 1x250 w:300x250 -> 1x300 transB=1", 3),  # together they fit in the second-level cache
        ("Gemm@13 1x512 w:1000x512 -> 1x1000 transB=1", 5),  # even one does not; a last-level cache holds these
        ("Gemm@13 1x4096 w:4096x4096 -> 1x4096 transB=1", 1),
        (RELU, 0),
    ],
)
def test_copies_take_turns_with_several_sets_of_weights(line, sets):
    work = workload.copies(kernel(line), 20)
    nodes = work.model.graph.node
    assert len({name for node in nodes for name in node.input[1:2]}) == sets
    assert len({node.input[0] for node in nodes}) == 1
    assert len({node.output[0] for node in nodes}) == 20


@pytest.mark.parametrize(
    ("line", "least"),
    [
        (CONV, 2),
        ("Gemm@13 1x512 w:600x512 -> 1x600 transB=1", 8),  # seven of them are 8 MB
        ("Gemm@13 1x4096 w:4096x4096 -> 1x4096 transB=1", 2),
        (RELU, 2),
    ],
)
def test_large_weights_are_far_however_few_copies_are_timed(line, least):
    assert workload.least_copies(kernel(line)) == least
    used = {name for node in workload.in_company(kernel(line), least).model.graph.node for name in node.input[1:2]}
    assert len(used - {"company_i1_0"}) == min(least, workload.near_sets(kernel(line))) * (line != RELU)


@pytest.mark.parametrize(
    ("line", "overwritten"),
    [
        ("Relu@14 1x8 -> 1x8", 0),
        ("nchwc.Conv@1 1x16x8x8 w:16x16x1x1 w:16 1x16x8x8 -> 1x16x8x8", 3),  # the sum, and not what is convolved
        ("Mul@14 1x8x4x4 1x8x1x1 -> 1x8x4x4", 0),
        ("Sub@14 w:1x8 1x8 -> 1x8", 1),
        ("Equal@13 1x8 1x8 -> bool:1x8", None),
        ("GlobalAveragePool@1 1x8x4x4 -> 1x8x1x1", None),
    ],
)
def test_copies_in_company_overwrite_what_the_one_before_has_written(line, overwritten):
    company, first, *others = workload.in_company(kernel(line), 5).model.graph.node
    assert (company.op_type, len(others)) == ("MatMul", 4)
    before = first
    for node in others:
        written = [i for i, name in enumerate(node.input) if name == before.output[0]]
        assert written == ([] if overwritten is None else [overwritten])
        shared = kernel(line).activations.keys() - written
        assert [node.input[i] for i in shared] == [first.input[i] for i in shared]
        before = node


@pytest.mark.parametrize("shape", [(1, 3, 7, 7), (1,), (33, 17), ()])
def test_what_is_fed_starts_at_a_cache_line(shape):
    array = ones(shape, "f4")
    assert array.ctypes.data % 64 == 0
    assert (array.shape, array.dtype, array.sum()) == (shape, "float32", array.size)


def test_no_two_sets_of_weights_are_equal():
    """A session would keep one of them only, and it would be near."""
    work = workload.copies(kernel("Gemm@13 1x250 w:300x250 -> 1x300 transB=1"), 20)
    stretches = {block()[start : start + shape[0] * shape[1]].tobytes() for _, start, shape, _ in work.weights}
    assert len(stretches) == len(work.weights) == 3


def test_far_weights_take_turns_within_the_whole_block():
    work, turns = workload.far(kernel("Gemm@13 1x512 w:1000x512 -> 1x1000 transB=1"))
    assert turns == len(work.model.graph.node) == len(work.weights) == BLOCK_BYTES // (4 * 512_000)
    starts = sorted(start for _, start, _, _ in work.weights)
    assert all(later - earlier >= 512_000 for earlier, later in pairwise(starts))


def test_composites_hold_every_kernel_four_times():
    lines = [CONV, *(f"Gemm@13 1x{n} w:10x{n} -> 1x10 transB=1" for n in range(1, 150))]
    kernels = [kernel(line) for line in lines]
    parts = list(workload.composites(kernels, BLOCK_BYTES))
    assert [each for part, _ in parts for each in part] == kernels
    assert [len(part) for part, _ in parts] == [1, 100, 49]  # one version of ONNX's operators in a session
    for part, work in parts:
        *nodes, last = work.model.graph.node
        assert last.op_type == "ReduceMax"
        copies = Counter(node.name.partition("_")[0] for node in nodes)
        assert copies == {str(number): 4 for number in range(len(part))}


@pytest.mark.parametrize("nbytes", [MIDDLE_BYTES, BLOCK_BYTES])
def test_composites_read_so_many_bytes_in_a_run(nbytes):
    kernels = [kernel(f"Gemm@13 1x512 w:{300 + n}x512 -> 1x{300 + n} transB=1") for n in range(60)]
    for part, work in workload.composites(kernels, nbytes):
        *weights, (name, start, shape, _) = work.weights
        assert name == "rest"
        flow = sum(4 * (512 + each.outputs[0].shape[1]) for each in part)
        assert sum(4 * size[0] * size[1] for _, _, size, _ in weights) + flow + 4 * shape[0] == pytest.approx(
            nbytes, rel=1e-3
        )
        assert max(begin + size[0] * size[1] for _, begin, size, _ in weights) <= start  # each byte once
        assert 4 * shape[0] >= nbytes // 2


@pytest.mark.parametrize("step", [1, -1])
def test_cold_is_told_from_warm_in_either_direction(monkeypatch, step):
    listed = ["0_other", "0_same0", "0_same1", "0_more", "1_other", "1_same0", "1_same1", "1_more", "block"]
    order = listed[::step]
    first = {"0_same0", "1_same0"} if step == 1 else {"0_same1", "1_same1"}
    found = {name: [9.0, 30.0, 9.0] if name in first else [4.0, 4.0, 30.0] for name in order}
    monkeypatch.setattr("latency.stopwatch.node_us", lambda *_: found)
    assert distant_us(b"", [], 1) == {"0": 5.0, "1": 5.0}


def test_kernels_that_run_in_disorder_are_not_judged(monkeypatch):
    order = ["0_same0", "1_same0", "0_same1", "1_same1", "0_other", "1_other", "0_more", "1_more"]
    monkeypatch.setattr("latency.stopwatch.node_us", lambda *_: {name: [1.0, 1.0] for name in order})
    assert distant_us(b"", [], 1) is None
