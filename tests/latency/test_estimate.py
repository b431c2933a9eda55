import math
from itertools import product

import numpy as np
import pytest

from latency.estimate import LEAST_ROWS, Estimator
from latency.kernels import Kernel
from latency.table import LatencyTable
from latency.tablefile import Row, make_frame
from latency.timing import Protocol, Timing
from spaces.errors import MissingKernel


def conv(before, after, side, window=3, group=1):
    weights = f"w:{after}x{before // group}x{window}x{window}"
    options = f"group={group} " * (group > 1) + f"pads={'x'.join([str(window // 2)] * 4)}"
    return Kernel.parse(f"Conv@11 1x{before}x{side}x{side} {weights} -> 1x{after}x{side}x{side} {options}")


def relu(channels, side):
    return Kernel.parse(f"Relu@14 1x{channels}x{side}x{side} -> 1x{channels}x{side}x{side}")


def law(kernel):
    """Microseconds: a processor that is less efficient with few channels."""
    channels = kernel.inputs[0].shape[1]
    nbytes = sum(operand.nbytes for operand in (*kernel.inputs, *kernel.outputs))
    return 1 + kernel.macs / 2e4 * (1 + 4 / channels) + nbytes / 1e4


KERNELS = [conv(*each) for each in product((8, 16, 32, 64), (8, 16, 32, 64), (8, 16, 32))]
KERNELS += [relu(*each) for each in product((8, 16, 32, 64), (8, 16, 32))]


def estimator(kernels, cold=lambda kernel: 0.0):
    timings = {each: Timing(law(each), law(each), 0.0, 3) for each in kernels}
    return Estimator(make_frame(Row(each, timings[each], cold(each) / 2, cold(each)) for each in kernels))


def test_kernels_between_those_that_were_measured():
    wanted = [conv(24, 48, 16), conv(48, 24, 8), conv(32, 40, 32), relu(24, 16)]
    us, _, covariance = estimator(KERNELS).estimate(wanted)
    truth = np.array([law(kernel) for kernel in wanted])
    assert abs(us / truth - 1).max() < 0.08
    assert (abs(np.log(us / truth)) < 3 * np.sqrt(np.diag(covariance))).all()


def test_what_is_like_nothing_known_is_known_to_be_uncertain():
    near, far, strange = conv(24, 48, 16), conv(2048, 2048, 128), Kernel.parse("Swirl@1 1x8x8x8 -> 1x8x8x8")
    _, _, covariance = estimator(KERNELS).estimate([near, far, strange])
    doubt = np.sqrt(np.diag(covariance))
    assert doubt[1] > 5 * doubt[0]
    assert doubt[2] > 1


def test_kernels_that_are_alike_are_wrong_together():
    _, _, covariance = estimator(KERNELS).estimate([conv(24, 48, 16), conv(24, 44, 16), relu(24, 48)])
    correlation = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert correlation[0, 1] > 0.5 > abs(correlation[0, 2])


def test_cold_weights_are_in_proportion_to_their_bytes():
    wanted = [conv(24, 48, 16), relu(24, 16)]
    _, distant, _ = estimator(KERNELS, lambda kernel: sum(w.nbytes for w in kernel.constants.values()) / 2e4).estimate(
        wanted
    )
    wanted = [24 * 48 * 9 * 4 / 2e4, 0.0]
    assert distant[:, 1] == pytest.approx(wanted, rel=0.05, abs=1e-3)
    assert distant[:, 0] == pytest.approx(np.array(wanted) / 2, rel=0.05, abs=1e-3)


def test_few_rows_teach_nothing():
    with pytest.raises(MissingKernel, match=f"at least {LEAST_ROWS} kernels, and this one has 5"):
        estimator(KERNELS[:5])


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("Conv@11 1x8x4x4 w:16x8x3x3 -> 1x16x4x4", 16 * 16 * 72),
        ("Conv@11 1x8x4x4 w:8x1x3x3 -> 1x8x4x4 group=8", 8 * 16 * 9),
        ("Gemm@13 1x20 w:10x20 w:10 -> 1x10 transB=1", 200),
        ("Add@14 1x8 1x8 -> 1x8", 0),
        ("Relu@14 1x8 -> 1x8", 0),
    ],
)
def test_arithmetic(line, wanted):
    assert Kernel.parse(line).macs == wanted


# In a table.


def seconds(kernel):
    return 1e-6 * (1 + 1e-4 * math.prod(kernel.outputs[0].shape) * (3 if kernel.constants else 1))


@pytest.fixture
def table(scripted, tmp_path, make_cnn):
    table = LatencyTable.open(scripted(seconds=seconds), tmp_path / "t.csv", Protocol(passes=2, kernel_ms=0.01))
    table.predict_many([make_cnn(width, side) for width in (8, 16, 24, 40) for side in (8, 16)])
    return table


def test_nothing_is_measured_where_estimates_are_wanted(table, make_cnn):
    rows, asked = len(table.frame), len(table.runtime.asked)
    model = make_cnn(32, 16)
    latency = table.predict(model, allow_estimates=True)
    assert (len(table.frame), len(table.runtime.asked)) == (rows, asked)
    program = table.runtime.lower(model)
    assert 0 < latency.estimated == sum(str(kernel) not in table.frame.index for kernel in program.kernels)
    assert latency.ms == pytest.approx(1e3 * sum(map(seconds, program.kernels)), rel=0.1)
    measured = table.predict(model)
    assert (measured.estimated, measured.kernels) == (0, latency.kernels)
    assert latency.high_ms / latency.ms > measured.high_ms / measured.ms
    assert latency.low_ms / latency.ms < measured.low_ms / measured.ms


def test_a_network_that_is_known_is_not_estimated(table, make_cnn):
    model = make_cnn(16, 16)
    assert table.predict(model, allow_estimates=True) == table.predict(model)


def test_new_rows_make_new_estimates(table, make_cnn):
    first = table.predict(make_cnn(32, 16), allow_estimates=True)
    table.predict(make_cnn(30, 16))
    second = table.predict(make_cnn(32, 16), allow_estimates=True)
    assert first.table != second.table
    assert first.ms != second.ms
