import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from latency.calibration import Calibration
from latency.deployment import Deployment
from latency.ortcpu import OrtCpu
from latency.prediction import UNCHECKED_HIGH, UNCHECKED_LOW
from latency.profile import CheckReport, check, profile, summarise
from latency.table import LatencyTable
from latency.timing import Protocol
from spaces.errors import LatencyError

QUICK = Protocol(passes=2, kernel_ms=0.05, network_ms=1)


def frame(predicted, measured, noise=0.01):
    return pd.DataFrame({"predicted_ms": predicted, "measured_ms": measured, "noise": noise}, dtype=float)


def test_profile_builds_then_extends(scripted, tmp_path, make_cnn):
    runtime, path = scripted(), tmp_path / "table.csv"
    table = profile(runtime, [make_cnn(4, 8)], path, QUICK)
    first = table.frame.copy()
    seen = []
    table = profile(runtime, [make_cnn(4, 8), make_cnn(8, 8)], path, progress=lambda *step: seen.append(step))
    added = len(table.frame) - len(first)
    assert table.frame.loc[first.index].equals(first)
    assert added > 0
    assert seen == [(added, added)]
    assert LatencyTable.open(runtime, path).snapshot() == table.snapshot()


def test_profile_of_nothing_is_an_empty_table(scripted, tmp_path):
    assert len(profile(scripted(), [], tmp_path / "table.csv").frame) == 0


def test_a_check_holds_predictions_against_measurements(scripted, tmp_path, make_cnn):
    """Each network's by a calibration to the others."""
    runtime = scripted()
    models = [make_cnn(width, 8) for width in (4, 8, 12)]
    table = profile(runtime, models, tmp_path / "table.csv", QUICK)
    kernels = [1e3 * sum(map(runtime.seconds, runtime.lower(model).kernels)) for model in models]
    report = check(table, models, rounds=2)
    # The scripted runtime's networks take 5 us more than their kernels.
    measured = np.array(kernels) + 5e-3
    assert report.networks["measured_ms"].to_numpy() == pytest.approx(measured)
    parts = np.array([kernels, [0] * 3, [len(runtime.lower(model).kernels) for model in models]], float)
    predicted = [
        Calibration.fitted(*np.delete(parts, i, axis=1), np.delete(measured, i)).total(*parts[:, i]) for i in range(3)
    ]
    assert report.networks["predicted_ms"].to_numpy() == pytest.approx(predicted)
    assert report.check.mape == pytest.approx(abs(predicted / measured - 1).mean())
    assert report.check.noise_floor == 0
    assert report.check.networks == 3
    assert report.calibration == table.header.calibration == Calibration.fitted(*parts, measured)
    assert LatencyTable.open(runtime, table.path).header.check == report.check
    assert table.predict(models[0]).ms == pytest.approx(report.calibration.total(*parts[:, 0]))


def test_a_check_widens_what_was_predicted_too_narrow(scripted, tmp_path, make_cnn):
    runtime = scripted(seconds=lambda kernel: 1e-7)  # so the 5 us of the call are most of the latency
    models = [make_cnn(width, 8) for width in (4, 8)]
    table = profile(runtime, models, tmp_path / "table.csv", QUICK)
    before = table.predict(models[0])
    report = check(table, models, rounds=2)
    after = table.predict(models[0])
    measured = report.networks["measured_ms"][0]
    assert before.high_ms < measured <= after.high_ms * (1 + 1e-12)
    assert before.ms < after.ms < measured  # two networks are believed in part


def test_studies_that_share_kernels_share_a_calibration(scripted, tmp_path, make_cnn):
    """Or the same search would find other networks the second time."""
    models = [make_cnn(width, 8) for width in (4, 8, 12)]
    first = LatencyTable.open(scripted(), tmp_path / "a.csv", QUICK, shared=tmp_path / "shared.csv")
    assert check(first, models, rounds=2, recalibrate=False).calibration is not None
    other = LatencyTable.open(scripted(), tmp_path / "b.csv", QUICK, shared=tmp_path / "shared.csv")
    other.runtime.network = lambda model: lambda: 1.0  # measured again it would be another
    found = check(other, models, rounds=2, recalibrate=False)
    assert (found.calibration, other.header.calibration) == (None, first.header.calibration)
    assert [other.predict(model).ms for model in models] == [first.predict(model).ms for model in models]
    assert check(other, models, rounds=2).calibration not in (None, first.header.calibration)


def test_a_calibration_that_errs_on_one_side_is_replaced(scripted, tmp_path, make_cnn):
    models = [make_cnn(width, 8) for width in range(4, 24)]
    shared = tmp_path / "shared.csv"
    first = LatencyTable.open(scripted(), tmp_path / "a.csv", QUICK, shared=shared)
    others = check(first, models, rounds=2, recalibrate=False)
    first.shared.header = replace(
        first.shared.header, calibration=replace(others.calibration, near=0.8 * others.calibration.near)
    )
    first.shared.save()
    second = LatencyTable.open(scripted(), tmp_path / "b.csv", QUICK, shared=shared)
    assert second.header.calibration == first.shared.header.calibration != others.calibration
    found = check(second, models, rounds=2, recalibrate=False)
    assert found.calibration == second.header.calibration != first.shared.header.calibration
    assert found.check.mape < 0.01
    assert LatencyTable.open(scripted(), shared).header.calibration == first.shared.header.calibration


def test_a_check_lasts(scripted, tmp_path, make_cnn):
    """Done once for a table, before the first training of a study; what comes later rests on it."""
    runtime, path = scripted(), tmp_path / "table.csv"
    table = LatencyTable.open(runtime, path, QUICK)
    found = check(table, [make_cnn(width, 8) for width in range(4, 4 + 20)], rounds=2).check
    assert UNCHECKED_LOW < found.low <= found.high < UNCHECKED_HIGH
    later = LatencyTable.open(runtime, path)
    latency = later.predict(make_cnn(40, 16))
    assert later.header.check == found
    assert (latency.low_ms, latency.high_ms) == pytest.approx((min(1, found.low) * latency.ms, found.high * latency.ms))


def test_one_network_often_is_one_witness(scripted, tmp_path, make_cnn):
    """Else twenty copies of a network that fits would speak for all others."""
    table = LatencyTable.open(scripted(), tmp_path / "table.csv", QUICK)
    report = check(table, [make_cnn(width, 8) for width in (4, 8)] * 10, rounds=2)
    assert report.check.networks == len(report.networks) == 2
    assert (report.check.low, report.check.high) == (UNCHECKED_LOW, UNCHECKED_HIGH)


def test_a_check_on_the_real_runtime(tmp_path, make_cnn):
    runtime = OrtCpu(Deployment.here())
    models = [make_cnn(width, 16) for width in (4, 8, 16, 32)]
    report = check(LatencyTable.open(runtime, tmp_path / "table.csv", QUICK), models, rounds=2)
    networks = report.networks
    assert (networks["kernels"] > 10).all()
    assert (networks[["predicted_ms", "measured_ms", "p50_ms", "p95_ms"]] > 0).all().all()
    assert (networks["p50_ms"] <= networks["p95_ms"]).all()
    assert report.check.low <= 1 <= report.check.high
    assert 0 <= report.check.within_5 <= report.check.within_10 <= 1
    assert str(report).startswith("4 networks: mean error ")


@pytest.mark.parametrize(
    ("count", "rounds", "message"),
    [
        (1, 2, "needs at least 2 different networks, not 1"),
        (3, 2, "not 1"),
        (0, 2, "not 0"),
        (2, 1, "rounds=1, .*take at least 2"),
    ],
)
def test_checks_that_cannot_be(scripted, tmp_path, make_cnn, count, rounds, message):
    with pytest.raises(LatencyError, match=message):
        check(LatencyTable.open(scripted(), tmp_path / "t.csv", QUICK), [make_cnn(4, 8)] * count, rounds)


def test_a_check_is_made_on_the_device(scripted, tmp_path, make_cnn):
    table = LatencyTable.open(scripted(here=False), tmp_path / "t.csv", QUICK)
    with pytest.raises(LatencyError, match=r"this machine is not ort-cpu on Scripted 1 neon .*run it there"):
        check(table, [make_cnn(4, 8), make_cnn(8, 8)])


def test_the_numbers_of_a_check():
    result = summarise(frame([1.04, 1.92, 3.5, 4.0], [1.0, 2.0, 5.0, 4.0], [0.0, 0.02, 0.04, 0.02]))
    assert result.mape == pytest.approx((0.04 + 0.04 + 0.3 + 0) / 4)
    assert result.within_5 == 0.75
    assert result.within_10 == 0.75
    assert result.kendall_tau == pytest.approx(2 / 3)
    assert result.noise_floor == pytest.approx(0.02)


def test_equal_predictions_have_no_rank_correlation():
    assert summarise(frame([1, 1], [1.0, 1.1])).kendall_tau is None
    assert "Kendall tau undefined" in str(CheckReport(summarise(frame([1, 1], [1.0, 1.1])), pd.DataFrame()))


@pytest.mark.parametrize("n", [2, 18])
def test_few_networks_cannot_narrow_the_default_interval(n):
    result = summarise(frame(np.ones(n), np.ones(n)))
    assert (result.low, result.high) == (UNCHECKED_LOW, UNCHECKED_HIGH)
    wild = summarise(frame(np.ones(n), [0.5, 3.0] * (n // 2)))
    assert (wild.low, wild.high) == (0.5, 3.0)


@pytest.mark.parametrize("n", [19, 39, 60, 199])
def test_the_interval_holds_nine_networks_in_ten(n):
    """Of the next network, averaged over many checks: the promise of split conformal prediction."""
    rng = np.random.default_rng(n)
    hits = []
    for _ in range(400):
        ratios = np.exp(rng.normal(0.02, 0.05, n + 1))
        result = summarise(frame(np.ones(n), ratios[:n]))
        hits.append(result.low <= ratios[n] <= result.high)
    rank = (n + 1) // 20
    wanted = 1 - 2 * rank / (n + 1)
    assert 0.9 <= wanted < 0.96
    assert abs(np.mean(hits) - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / 400)
