import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from torch import Tensor, nn

from objectives.accuracy import evaluate, predict_logits, score
from objectives.data import Split
from spaces.errors import DataError, SpecError, TrainingError

GREY_LEVELS = torch.eye(3)


class Recite(nn.Module):
    """Answers with the class written in each image's first pixel."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("table", torch.eye(classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * self.table[(images[:, 0, 0, 0] * 255).round().long()]


def recited(answers: list[int], labels: list[int]) -> Split:
    images = torch.zeros(len(answers), 1, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor(answers)
    return Split(images, torch.tensor(labels))


@pytest.fixture
def unbalanced() -> Split:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, size=200, p=[0.8, 0.15, 0.05])
    answers = np.where(rng.random(200) < 0.7, labels, rng.integers(0, 3, 200))
    return recited(answers.tolist(), labels.tolist())


@pytest.mark.parametrize(
    ("metric", "reference"), [("accuracy", accuracy_score), ("balanced-accuracy", balanced_accuracy_score)]
)
def test_value_is_scikit_learns(unbalanced, metric, reference):
    found = evaluate(Recite(), unbalanced, metric, batch_size=32)
    assert found.value == pytest.approx(reference(unbalanced.labels, found.predictions))
    assert found.n == 200


@pytest.mark.parametrize("metric", ["accuracy", "balanced-accuracy"])
def test_stderr_is_the_spread_over_repeated_splits(metric):
    """Draw 1,500 splits from a known truth: their accuracies must spread as much as one of them claims."""
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1, 2], [150, 40, 10])
    recall = np.array([0.9, 0.6, 0.7])[labels]
    logits = [np.where(rng.random(200) < recall, labels, (labels + 1) % 3) for _ in range(1500)]
    scores = [score(GREY_LEVELS[torch.from_numpy(given)], torch.from_numpy(labels), metric) for given in logits]
    spread = np.std([found.value for found in scores])
    assert np.mean([found.stderr for found in scores]) == pytest.approx(spread, rel=0.08)


def test_large_splits_get_the_binomial_error():
    labels = torch.zeros(10_000, dtype=torch.int64)
    found = score(GREY_LEVELS[(torch.arange(10_000) % 10 == 0).long()], labels)
    assert found.value == pytest.approx(0.9)
    assert found.stderr == pytest.approx(math.sqrt(0.9 * 0.1 / 10_000), rel=1e-3)


def test_all_right_is_not_certain():
    found = evaluate(Recite(), recited([0, 1, 2] * 10, [0, 1, 2] * 10))
    assert found.value == 1
    assert 0 < found.stderr < 1 / 30


def test_absent_classes_do_not_count():
    found = evaluate(Recite(), recited([0, 0, 2, 2], [0, 0, 2, 0]), "balanced-accuracy")
    assert found.value == pytest.approx((2 / 3 + 1) / 2)


def test_batch_norm_uses_its_statistics_and_the_mode_comes_back():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    net[1].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    images = torch.randint(0, 256, (10, 1, 4, 4), dtype=torch.uint8)
    whole, single = predict_logits(net, images), predict_logits(net, images, batch_size=1)
    torch.testing.assert_close(whole, single)
    assert net.training
    assert not net[1].training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_bf16_rounds_but_agrees():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    images = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8)
    exact, rounded = predict_logits(net, images), predict_logits(net, images, precision="bf16")
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.02)


def test_given_weights_replace_the_modules_for_once():
    net = Recite()
    split = recited([0, 1, 2], [1, 2, 0])
    turned = GREY_LEVELS.roll(1, dims=1)
    assert evaluate(net, split).value == 0
    assert evaluate(net, split, weights={"table": turned}).value == 1
    assert evaluate(net, split).value == 0


@pytest.mark.parametrize(
    ("weights", "message"),
    [({"tabel": torch.eye(3)}, "'tabel', which the module does not have; it has scale, table"),
     ({"table": torch.eye(4)}, r"shape \(4, 4\), the module's \(3, 3\)")],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        evaluate(Recite(), recited([0], [0]), weights=weights)


def test_images_may_be_a_read_only_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 1, 2, 2), dtype=np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r+")
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    torch.testing.assert_close(
        predict_logits(net, torch.from_numpy(mapped), batch_size=4), predict_logits(net, torch.from_numpy(pixels))
    )
    assert np.array_equal(np.load(tmp_path / "images.npy"), pixels)


def test_logits_that_are_not_numbers_are_refused():
    net = Recite()
    with torch.no_grad():
        net.scale.fill_(math.nan)
    with pytest.raises(TrainingError, match="not finite for 2 of 2 images"):
        evaluate(net, recited([0, 1], [0, 1]))


class Greedy(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.empty(1 << 50, device=images.device)[:1]


def test_running_out_of_memory_costs_only_the_candidate():
    with pytest.raises(TrainingError, match=r"out of memory: .*; use a smaller batch_size"):
        evaluate(Greedy(), recited([0, 1], [0, 1]))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: evaluate(Recite(), recited([0], [0]), "acc"), SpecError, "metric is 'acc', but must be 'accuracy' or"),
        (lambda: evaluate(Recite(), recited([0, 1], [0, 3])), DataError, "a label 3, but .* classes 0 .. 2"),
        (lambda: evaluate(Recite(), recited([], [])), DataError, "the split is empty"),
        (lambda: score(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)), DataError, "the split is empty"),
        (
            lambda: predict_logits(Recite(), torch.zeros(1, 1, 2, 2)),
            DataError,
            "images are torch.float32; they must be",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
