from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hwnas.verify import TOLERANCE, Parity, check, compare, run
from objectives.accuracy import predict_logits
from spaces.errors import ExportError
from spaces.network import Network
from spaces.onnx import to_onnx
from spaces.state import initial_state
from tests.hwnas.toys import SPACE, digits

FILE = Path("front/01-abc.onnx")


@pytest.mark.parametrize("batch", [1, 4, 7])
def test_a_file_is_run_over_all_images_in_batches_of_its_own(tmp_path, batch):
    data = digits()
    arch = SPACE.starts()[0]
    value = initial_state(arch, 3, mean=list(data.mean), std=list(data.std)).value
    file = tmp_path / "model.onnx"
    onnx.save(to_onnx(arch, value, batch=batch), file)
    images = data.test.images[:10]
    found = run(file.read_bytes(), images, batch)
    assert found.shape == (10, 3)
    expected = predict_logits(Network(arch, value), images).numpy()
    assert np.abs(found - expected).max() < 1e-4
    check(compare(expected, found), file)


def test_differences_are_those_of_the_softmax():
    expected = np.array([[2.0, 0.0], [0.0, 0.0]], np.float32)
    found = np.array([[7.0, 5.0], [0.0, np.log(3)]], np.float32)
    assert compare(expected, found) == Parity(pytest.approx(0.25), flips=1)


def test_large_logits_do_not_overflow():
    logits = np.array([[1e4, 0.0], [-1e4, 1e4]], np.float32)
    assert compare(logits, logits) == Parity(0.0, flips=0)


@given(st.integers(0, 10**6), st.integers(2, 20), st.floats(1e-6, 3.0))
def test_the_first_class_differs_only_within_twice_the_difference(seed, classes, size):
    rng = np.random.default_rng(seed)
    expected = rng.normal(size=(200, classes))
    found = expected + size * rng.normal(size=expected.shape)
    softmax = [np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) for logits in (expected, found)]
    difference = np.abs(softmax[0] - softmax[1]).max(axis=1)
    second, first = np.sort(softmax[0], axis=1)[:, -2:].T
    flipped = expected.argmax(axis=1) != found.argmax(axis=1)
    assert (first - second)[flipped] == pytest.approx(np.minimum(first - second, 2 * difference)[flipped])
    assert compare(expected, found).flips == flipped.sum()


@pytest.mark.parametrize(
    ("error", "flips", "fine"), [(TOLERANCE, 3, True), (1.01 * TOLERANCE, 0, False), (np.nan, 0, False)]
)
def test_what_is_refused(error, flips, fine):
    if fine:
        check(Parity(error, flips), FILE)
    else:
        with pytest.raises(
            ExportError, match=r"^01-abc.onnx differs from its network: softmax by .* \(at most 0.0001 is"
        ):
            check(Parity(error, flips), FILE)


def test_a_file_that_computes_nonsense_is_refused(tmp_path):
    data, arch = digits(), SPACE.starts()[0]
    value = initial_state(arch, 3).value
    file = tmp_path / "model.onnx"
    broken = {name: tensor.clone() for name, tensor in value.items()}
    weight = next(name for name in broken if name.endswith("weight"))
    broken[weight][0] += 1
    onnx.save(to_onnx(arch, broken), file)
    images = data.test.images[:16]
    parity = compare(predict_logits(Network(arch, value), images).numpy(), run(file.read_bytes(), images, 1))
    with pytest.raises(ExportError):
        check(parity, file)
    assert torch.isfinite(torch.tensor(parity.max_abs_error))
