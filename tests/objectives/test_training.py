import copy
import math
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from objectives.accuracy import evaluate
from objectives.augment import cut, shifted, to_float
from objectives.batches import batches, stream
from objectives.data import Split
from objectives.graphstep import GraphStep, agrees
from objectives.muon import Muon
from objectives.recipe import Recipe, learning_rate
from objectives.step import Step
from objectives.training import CHECK_EVERY, train
from spaces.errors import DataError, SpecError, TrainingError
from tests.objectives.toys import PLAIN, part, same, small_net, weights

# What is learned


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_three_epochs_with_the_defaults_read_digits(digits, precision):
    train_split, held_out = digits
    net = small_net()
    done = train(net, train_split, Recipe(epochs=3, precision=precision))
    assert evaluate(net, held_out).value > 0.7
    assert done.precision == precision
    assert (done.steps, done.epochs) == (114, 3)
    assert 0 < done.loss < math.log(10)
    assert done.seconds > 0


def test_one_step_is_nesterovs_with_decay_on_matrices_only(digits):
    """The whole loop against the textbook, on one batch without augmentation."""
    split = part(digits[0], 16)
    recipe = replace(
        PLAIN,
        lr=0.1,
        muon_lr=None,
        momentum=0.9,
        epochs=3,
        batch_size=16,
        shift=0,
        label_smoothing=0.05,
        weight_decay=0.1,
        schedule="cosine",
    )
    net, textbook = small_net(), small_net()
    start = {name: torch.full_like(p, 0.01) for name, p in net.named_parameters()}
    train(net, split, recipe, momentum=start)
    velocity = {name: tensor.clone() for name, tensor in start.items()}
    for step in range(3):
        loss = F.cross_entropy(textbook(split.images / 255), split.labels, label_smoothing=0.05)
        gradients = torch.autograd.grad(loss, list(textbook.parameters()))
        lr = 0.1 * (1 + math.cos(math.pi * (step + 0.5) / 3)) / 2
        with torch.no_grad():
            for (name, p), gradient in zip(textbook.named_parameters(), gradients, strict=True):
                decayed = gradient + 0.1 * p if p.ndim > 1 else gradient
                velocity[name] = 0.9 * velocity[name] + decayed
                p -= lr * (decayed + 0.9 * velocity[name])
    torch.testing.assert_close(net.state_dict(), textbook.state_dict(), rtol=1e-3, atol=1e-5)


def test_filters_move_equally_far_in_all_directions(digits):
    """By Muon: singular values of a step are near the rate, and it points where the gradient does."""
    split = part(digits[0], 16)
    recipe = replace(PLAIN, muon_lr=0.02, epochs=1, batch_size=16, shift=0, label_smoothing=0, schedule="constant")
    net, before = small_net(), small_net()
    loss = F.cross_entropy(before(split.images / 255), split.labels)
    (gradient,) = torch.autograd.grad(loss, [before[3].weight])
    done = train(net, split, recipe)
    step = (before[3].weight - net[3].weight).detach().flatten(1)
    u, s, v = torch.linalg.svd(gradient.flatten(1), full_matrices=False)
    assert s.max() / s.min() > 5
    moved = torch.linalg.svdvals(step) / 0.02
    assert 0.5 < moved.min() < moved.max() < 1.3
    assert float((step * (u @ v)).sum() / step.norm() / (u @ v).norm()) > 0.95
    torch.testing.assert_close(done.momentum["3.weight"], 0.2 * gradient, rtol=0.01, atol=1e-5)  # 1 - 0.8 of it


def test_muon_is_torchs(digits):
    """Some steps of it, on random gradients; torch computes directions in bfloat16."""
    torch.manual_seed(0)
    shapes = [(8, 4, 3, 3), (16, 1, 3, 3), (6, 12, 1, 1)]
    ours = {str(shape): nn.Parameter(torch.randn(shape)) for shape in shapes}
    theirs = [p.detach().flatten(1).clone().requires_grad_() for p in ours.values()]
    start = [p.detach().clone() for p in theirs]
    muon = Muon(ours, 0.5, 0.8, torch.bfloat16)
    torchs = torch.optim.Muon(theirs, lr=0.1, momentum=0.8, weight_decay=0.0)
    for _ in range(4):
        for p, other in zip(ours.values(), theirs, strict=True):
            p.grad = torch.randn(p.shape)
            other.grad = p.grad.flatten(1)
        muon.step(0.2)
        torchs.step()
    for p, other, before in zip(ours.values(), theirs, start, strict=True):
        assert (p.flatten(1) - other).norm() < 0.02 * (other - before).norm()


def test_seed_decides_everything(digits):
    split = part(digits[0], 200)
    recipe = replace(PLAIN, epochs=1.5, flip=True, shift=0.125, ema=0.9)
    with_dropout = [nn.Sequential(nn.Dropout2d(0.1), small_net()) for _ in range(3)]
    first, again, other = (
        train(net, split, replace(recipe, seed=seed)) for net, seed in zip(with_dropout, (1, 1, 2), strict=True)
    )
    assert same(weights(with_dropout[0]), weights(with_dropout[1]))
    assert same(first.momentum, again.momentum)
    assert same(first.ema, again.ema)
    assert first.loss == again.loss != other.loss
    assert not same(weights(with_dropout[0]), weights(with_dropout[2]))


def test_the_callers_random_numbers_and_modes_are_left_alone(digits):
    net, teacher = small_net(), small_net(seed=1)
    net[1].eval()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    untouched = weights(teacher)
    train(net, part(digits[0], 64), replace(PLAIN, epochs=1), teacher=teacher)
    assert torch.equal(torch.rand(3), expected)
    assert net.training
    assert not net[1].training
    assert teacher.training
    assert same(weights(teacher), untouched)


def test_tensors_come_back_in_ordinary_memory_order(digits):
    net = small_net()
    done = train(net, part(digits[0], 64), replace(PLAIN, epochs=1, ema=0.9, channels_last=True))
    assert all(t.is_contiguous() for kept in (weights(net), done.momentum, done.ema) for t in kept.values())


def test_frozen_parameters_stay(digits):
    net = small_net()
    net[0].weight.requires_grad_(False)
    before = weights(net)
    done = train(net, part(digits[0], 64), replace(PLAIN, epochs=1))
    assert torch.equal(net[0].weight, before["0.weight"])
    assert "0.weight" not in done.momentum
    assert "3.weight" in done.momentum


# Splits of every size


@pytest.mark.parametrize(
    ("images", "batch_size", "epochs", "steps"),
    [
        (2, 128, 3, 3),
        (7, 128, 1, 1),
        (65, 64, 2, 2),
        (33, 16, 1, 2),
        (129, 32, 0.5, 2),
        (40, 8, 0.01, 1),
        (50, 2, 1, 25),
    ],
)
def test_no_batch_is_too_small_for_batch_norm(digits, images, batch_size, epochs, steps):
    net = small_net()
    done = train(net, part(digits[0], images), replace(PLAIN, epochs=epochs, batch_size=batch_size))
    assert done.steps == steps
    assert all(tensor.isfinite().all() for tensor in weights(net).values())


@pytest.mark.parametrize("batch_size", [None, 2, 3, 32, 100, 128])
def test_batches_are_equal_and_cover_nearly_all(batch_size):
    for images in [2, 3, 5, 31, 32, 33, 63, 65, 191, 192, 193, 1000, 4999]:
        steps, size = batches(images, batch_size)
        assert size >= 2
        assert 0 <= images - steps * size < steps
        asked = batch_size or 32
        assert batch_size is None or images < asked or 2 / 3 <= size / asked <= 1.5


class Remember(nn.Module):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.linear = nn.Linear(1, 10)

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return self.linear(images.mean((1, 2, 3))[:, None])


def test_every_image_is_seen_once_an_epoch_in_a_new_order():
    split = Split(torch.arange(12, dtype=torch.uint8)[:, None, None, None].expand(12, 3, 4, 6), torch.arange(12) % 10)
    net = Remember()
    train(net, split, replace(PLAIN, epochs=2, batch_size=4))
    assert {tuple(batch.shape) for batch in net.seen} == {(4, 3, 4, 6)}
    assert all(batch.dtype == torch.float32 for batch in net.seen)
    shown = (torch.cat(net.seen)[:, 0, 0, 0] * 255).round().int().tolist()
    assert sorted(shown[:12]) == sorted(shown[12:]) == list(range(12))
    assert shown[:12] != shown[12:]


def test_mirrored_every_second_epoch():
    images = torch.zeros(40, 1, 4, 4, dtype=torch.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 3] = torch.arange(40), 200
    net = Remember()
    train(net, Split(images, torch.arange(40) % 10), replace(PLAIN, epochs=2, batch_size=40, shift=0, flip=True))
    sides = []
    for batch in net.seen:
        pixels = (batch[:, 0, 0] * 255).round().int()
        left = pixels[:, 0] == 200
        sides.append({int(min(row[0], row[3])): bool(turned) for row, turned in zip(pixels, left, strict=True)})
    assert 5 < sum(sides[0].values()) < 35
    assert all(sides[0][number] != sides[1][number] for number in range(40))


def test_a_read_only_file_trains_like_memory(digits, tmp_path):
    split = part(digits[0], 100)
    np.save(tmp_path / "images.npy", split.images.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "images.npy", mmap_mode="c"))
    nets = small_net(), small_net()
    for net, images in zip(nets, (split.images, mapped), strict=True):
        train(net, Split(images, split.labels), replace(PLAIN, epochs=1, shift=0.125))
    assert same(weights(nets[0]), weights(nets[1]))


# Augmentation


def test_shifted_is_flip_pad_crop():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (32, 3, 6, 9), dtype=torch.uint8, generator=generator)
    down, right = (torch.randint(-2, 3, (32,), generator=generator) for _ in range(2))
    mirror = torch.rand(32, generator=generator) < 0.5
    for image, out, y, x, turned in zip(images, shifted(images, down, right, mirror), down, right, mirror, strict=True):
        plain = image.flip(2) if turned else image
        padded = F.pad(plain[None].float(), (2, 2, 2, 2), mode="reflect")[0]
        assert torch.equal(out.float(), padded[:, 2 + y : 8 + y, 2 + x : 11 + x])


def test_cut_paints_a_square_and_leaves_the_rest():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (32, 3, 6, 9), dtype=torch.uint8, generator=generator)
    top, left = (torch.randint(-2, limit - 2, (32,), generator=generator) for limit in (6, 9))
    colour = torch.tensor([1, 2, 3], dtype=torch.uint8)
    for image, out, y, x in zip(images, cut(images, top, left, 4, colour), top.tolist(), left.tolist(), strict=True):
        image[:, max(y, 0) : y + 4, max(x, 0) : x + 4] = colour[:, None, None]
        assert torch.equal(out, image)


def test_cutout_hides_a_square_of_the_mean_colour_anywhere(digits):
    split = Split(torch.full((512, 3, 16, 16), 200, dtype=torch.uint8), torch.zeros(512, dtype=torch.int64))
    split.images[::2] = 100
    images, _ = next(stream(split, replace(PLAIN, cutout=0.25, batch_size=512), torch.device("cpu")))
    hidden = (images * 255).round() == 150
    assert hidden.all(1).sum((1, 2)).max() == 16
    assert hidden.any(0).all()
    assert hidden[:, 0].float().mean((1, 2)).min() >= 4 / 256


def test_to_float_keeps_the_pixels_in_either_order():
    images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    last, first = to_float(images), to_float(images, torch.contiguous_format)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert first.is_contiguous()
    assert torch.equal(last, first)
    torch.testing.assert_close(first, images.double().div(255).float())


# Schedule


def test_a_constant_learning_rate():
    recipe = Recipe(lr=0.3, schedule="constant", warmup=0.25)
    assert {learning_rate(recipe, progress) for progress in (0.001, 0.2, 0.9, 1.0)} == {0.3}


def test_a_rate_climbs_to_its_peak_and_stays():
    recipe = Recipe(lr=0.4, schedule="climb", warmup=0.5)
    assert [learning_rate(recipe, progress) for progress in (0.125, 0.25, 0.5, 0.99)] == [0.1, 0.2, 0.4, 0.4]


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle"])
def test_learning_rate_stays_in_bounds_and_ends_near_zero(schedule):
    recipe = Recipe(lr=0.3, schedule=schedule, warmup=0.25)
    rates = [learning_rate(recipe, (step + 0.5) / 200) for step in range(200)]
    peak = 50 if schedule == "one-cycle" else 0
    assert all(0 < rate <= 0.3 for rate in rates)
    assert max(rates) == pytest.approx(0.3, rel=0.02)
    assert abs(rates.index(max(rates)) - peak) <= 1
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 1e-4


def test_a_single_step_has_a_learning_rate(digits):
    net = small_net()
    before = weights(net)
    train(net, part(digits[0], 20), replace(PLAIN, epochs=1))
    assert not torch.equal(net[0].weight, before["0.weight"])


# Momentum and averages


def test_momentum_is_inherited_and_handed_on(digits):
    split = part(digits[0], 64)
    parent = small_net()
    first = train(parent, split, replace(PLAIN, epochs=2))
    assert set(first.momentum) == {name for name, _ in parent.named_parameters()}
    kept = {name: tensor.clone() for name, tensor in first.momentum.items()}
    ends = []
    for handed in (None, first.momentum, {"8.weight": first.momentum["8.weight"]}, {}):
        child = copy.deepcopy(parent)
        train(child, split, replace(PLAIN, epochs=1), momentum=handed)
        ends.append(weights(child))
    assert same(first.momentum, kept)
    assert same(ends[0], ends[3])
    assert not same(ends[0], ends[1])
    assert not same(ends[1], ends[2])
    assert not same(ends[0], ends[2])


def test_plain_gradient_descent_has_no_momentum(digits):
    done = train(small_net(), part(digits[0], 64), replace(PLAIN, epochs=1, momentum=0))
    assert done.momentum == {}


def test_average_follows_weights_and_statistics(digits):
    split = part(digits[0], 96)
    net = small_net()
    done = train(net, split, replace(PLAIN, epochs=4, ema=0.5))
    floating = {name for name, tensor in net.state_dict().items() if tensor.is_floating_point()}
    assert set(done.ema) == floating
    assert not torch.equal(done.ema["1.running_mean"], net[1].running_mean)
    # With no decay the average is the last value.
    net = small_net()
    done = train(net, split, replace(PLAIN, epochs=2, ema=0.0))
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in done.ema.items())


@pytest.mark.parametrize(("seen", "decay"), [(1000, 0.9), (2, 3 / 7)])
def test_an_average_that_rests_on_few_steps_moves_fast(digits, seen, decay):
    net = small_net()
    start = {"8.bias": torch.full((10,), 3.0)}
    done = train(net, part(digits[0], 32), replace(PLAIN, epochs=1, batch_size=32, ema=0.9), ema=start, seen=seen)
    torch.testing.assert_close(done.ema["8.bias"], decay * start["8.bias"] + (1 - decay) * net[8].bias.detach())
    assert torch.equal(start["8.bias"], torch.full((10,), 3.0))


def test_what_does_not_fit_is_refused(digits):
    split = part(digits[0], 32)
    with pytest.raises(ValueError, match=r"momentum is given for '9\.weight', which the module does not have"):
        train(small_net(), split, PLAIN, momentum={"9.weight": torch.zeros(10)})
    with pytest.raises(ValueError, match=r"momentum of '8.bias' has shape \(9,\), the module's \(10,\)"):
        train(small_net(), split, PLAIN, momentum={"8.bias": torch.zeros(9)})
    with pytest.raises(ValueError, match=r"recipe.ema is None; set a decay"):
        train(small_net(), split, PLAIN, ema={"8.bias": torch.zeros(10)})


# Teachers


def test_a_student_comes_to_answer_like_its_teacher(digits):
    train_split, held_out = digits
    teacher = small_net()
    train(teacher, train_split, replace(PLAIN, epochs=4))
    teacher[1].train()
    answers = evaluate(teacher, held_out).predictions
    strangers = Split(train_split.images, torch.zeros_like(train_split.labels))  # labels that teach nothing
    student = small_net(seed=3)
    train(student, strangers, replace(PLAIN, epochs=4, distill_weight=1.0), teacher=teacher)
    agreement = (evaluate(student, held_out).predictions == answers).float().mean()
    assert agreement > 0.6


def test_distillation_is_hintons(digits):
    """One step at each weight: the change is the same mixture of the two losses' changes."""
    split = part(digits[0], 32)
    recipe = replace(PLAIN, epochs=1, batch_size=32, momentum=0, weight_decay=0, shift=0, lr=1e-2, temperature=3.0)
    teacher = small_net(seed=1).eval()
    moved = {}
    for share in (0.0, 0.25, 1.0):
        net = small_net()
        done = train(net, split, replace(recipe, distill_weight=share), teacher=teacher)
        moved[share] = net[8].bias.detach() - small_net()[8].bias.detach()
    torch.testing.assert_close(moved[0.25], 0.75 * moved[0.0] + 0.25 * moved[1.0], rtol=1e-3, atol=1e-7)
    with torch.no_grad():
        soft = (small_net()(split.images / 255) / 3).log_softmax(1)
        aim = (teacher(split.images / 255) / 3).softmax(1)
    expected = 9 * (aim * (aim.log() - soft)).sum(1).mean()
    assert done.loss == pytest.approx(float(expected), rel=1e-3)


# When to stop


def test_the_learning_rate_has_fallen_when_the_time_is_up(digits, monkeypatch):
    rates = []

    def seen(recipe, progress):
        rates.append(learning_rate(recipe, progress))
        return rates[-1]

    monkeypatch.setattr("objectives.training.learning_rate", seen)
    recipe = replace(PLAIN, epochs=1e6, schedule="cosine")
    train(small_net(), part(digits[0], 320), recipe, deadline=time.monotonic() + 1)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.1 * recipe.lr < 0.9 * recipe.lr < rates[0]


def test_a_deadline_stops_after_the_step_under_way(digits):
    split = part(digits[0], 320)
    recipe = replace(PLAIN, epochs=50, batch_size=32)
    done = train(small_net(), split, recipe, deadline=time.monotonic() - 1)
    assert (done.steps, done.epochs) == (1, 0.1)
    assert math.isfinite(done.loss)
    free = train(small_net(), split, replace(recipe, epochs=1), deadline=time.monotonic() + 3600)
    assert free.steps == 10


def test_a_part_of_an_epoch_counts_as_such(digits):
    done = train(small_net(), part(digits[0], 64), replace(PLAIN, epochs=2.5, batch_size=16))
    assert (done.steps, done.epochs) == (10, 2.5)


def test_an_interrupted_module_is_in_its_own_mode_again(digits, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    net = small_net().eval()
    monkeypatch.setattr("objectives.training.learning_rate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(net, part(digits[0], 64), PLAIN)
    assert not net.training


def test_clipping_bounds_the_step(digits):
    split = part(digits[0], 32)
    recipe = replace(PLAIN, muon_lr=None, momentum=0, weight_decay=0, schedule="cosine")
    recipe = replace(recipe, epochs=1, batch_size=32, lr=1.0, clip=1e-3)
    net = small_net()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    train(net, split, recipe)
    steps = torch.cat([(p.detach() - before[name]).flatten() for name, p in net.named_parameters()])
    assert float(steps.norm()) == pytest.approx(0.5e-3, rel=0.02)  # half-way down the only cosine


# What goes wrong


def test_divergence_names_step_rate_and_remedy(digits):
    with pytest.raises(
        TrainingError, match=r"diverged: the loss was (nan|inf) at step \d+ of 120, at .* rate of .*lr than"
    ):
        train(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), part(digits[0], 64), replace(PLAIN, epochs=60, lr=1e30))


def test_the_step_that_diverged_is_found_between_two_looks(digits):
    class Fuse(nn.Module):
        """Burns at its 70th forward pass."""

        def __init__(self) -> None:
            super().__init__()
            self.net, self.passes = small_net(), 0

        def forward(self, images: Tensor) -> Tensor:
            self.passes += 1
            return self.net(images) * (math.nan if self.passes == 70 else 1.0)

    net = Fuse()
    with pytest.raises(TrainingError, match="the loss was nan at step 70 of 600"):
        train(net, part(digits[0], 240), replace(PLAIN, epochs=5, batch_size=2))
    assert net.passes == 2 * CHECK_EVERY


def test_weights_broken_by_the_last_step_are_not_kept(digits):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    recipe = replace(PLAIN, epochs=1, batch_size=64, weight_decay=1e30, lr=1e30)
    with pytest.raises(TrainingError, match=r"diverged: after step 1 1\.weight is not finite"):
        train(net, part(digits[0], 64), recipe)


class Greedy(nn.Module):
    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error, self.linear = error, nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        if self.error is not None:
            raise self.error
        return self.linear(images.flatten(1)) + torch.empty(1 << 50)[:1]


@pytest.mark.parametrize(
    "error", [None, MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")]
)
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_running_out_of_memory_costs_only_the_candidate(digits, error, precision):
    with pytest.raises(TrainingError, match=r"out of memory: .+; use a smaller batch_size"):
        train(Greedy(error), part(digits[0], 32), Recipe(precision=precision))


def test_other_errors_keep_their_class(digits):
    with pytest.raises(RuntimeError, match="expected input"):
        train(small_net(channels=3), part(digits[0], 32), PLAIN)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (
            Split(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.zeros(1).long()),
            "split has 1 images; batch norm needs",
        ),
        (
            Split(torch.zeros(4, 1, 8, 8), torch.zeros(4).long()),
            "the images are torch.float32; they must be torch.uint8",
        ),
        (Split(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.full((4,), 10)), "a label 10, but .* classes 0 .. 9"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(split, message):
    with pytest.raises(DataError, match=message):
        train(small_net(), split, PLAIN)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("epochs", 0, "> 0"),
        ("epochs", math.nan, "> 0"),
        ("batch_size", 1, ">= 2"),
        ("lr", math.inf, "> 0"),
        ("momentum", 1.0, r"in \[0, 1\)"),
        ("weight_decay", -1e-4, ">= 0"),
        ("schedule", "step", "'constant', 'climb', 'cosine', 'one-cycle'"),
        ("warmup", 1.0, r"in \[0, 1\)"),
        ("label_smoothing", 1.5, r"in \[0, 1\)"),
        ("shift", -0.1, r"in \[0, 1\)"),
        ("precision", "fp16", "'auto', 'bf16' or 'fp32'"),
        ("ema", 1.0, "None for no average"),
        ("distill_weight", 2.0, r"in \[0, 1\]"),
        ("temperature", 0.0, "> 0"),
        ("clip", 0.0, "None for no clipping"),
    ],
)
def test_a_wrong_recipe_names_key_value_and_rule(name, value, rule):
    with pytest.raises(SpecError, match=f"recipe: {name} is {value!r}, but must be .*{rule}"):
        Recipe(**{**asdict(Recipe()), name: value})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["auto", "bf16", "fp32"])
def test_cuda_reads_digits(digits, precision):
    train_split, held_out = digits
    net = small_net().cuda()
    on_device = Split(train_split.images.cuda(), train_split.labels.cuda())
    for split in (train_split, on_device):
        done = train(net, split, Recipe(epochs=3, precision=precision, flip=False, shift=0.125, ema=0.9))
        assert evaluate(net, held_out, weights=done.ema).value > 0.7


# A step and its graph


def test_a_snapshot_takes_back_whatever_a_step_changes(digits):
    net = small_net()
    step = Step(net, digits[0], replace(PLAIN, momentum=0.9), None, None)
    batch = next(stream(digits[0], PLAIN, torch.device("cpu")))
    step(*batch, 0.1)
    before, snapshot = weights(net), step.snapshot()
    first = [step(*batch, 0.1) for _ in range(2)]
    assert not same(weights(net), before)
    step.restore(snapshot)
    assert same(weights(net), before)
    assert [step(*batch, 0.1) for _ in range(2)] == first


def stale(step, images, labels):
    """A graph whose input nobody copies."""
    return lambda others, theirs, lr: step(images, labels, lr)


def idle(step, images, labels):
    """A graph that updates nothing."""

    def loss(others, theirs, lr):
        before = step.snapshot()
        found = step(others, theirs, lr)
        step.restore(before)
        return found

    return loss


@pytest.mark.parametrize("muon_lr", [None, 0.2])
@pytest.mark.parametrize(("other", "same_"), [(lambda step, *_: step, True), (stale, False), (idle, False)])
def test_a_graph_that_does_something_else_is_found_out(digits, muon_lr, other, same_):
    recipe = replace(PLAIN, momentum=0.9, lr=0.1, muon_lr=muon_lr)
    images, labels = next(stream(digits[0], recipe, torch.device("cpu")))
    step = Step(small_net(), digits[0], recipe, None, None)
    assert agrees(other(step, images, labels), step, images, labels) is same_


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_captured_step_trains_like_the_step_itself(digits, monkeypatch, ema):
    split = part(digits[0], 640)
    recipe = replace(PLAIN, epochs=10, batch_size=64, momentum=0.9, clip=2.0, ema=ema)
    runs = []
    for fewest in (1, 10**9):
        monkeypatch.setattr("objectives.training.FEWEST_STEPS", fewest)
        net = small_net().cuda()
        runs.append((train(net, split, recipe), weights(net)))
    (graph, own), (plain, expected) = runs
    assert (graph.captured, plain.captured) == (True, False)
    assert graph.steps == plain.steps
    assert graph.loss == pytest.approx(plain.loss, rel=0.02)
    for name, tensor in expected.items():
        torch.testing.assert_close(own[name], tensor, rtol=0.05, atol=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_can_be_captured_at_all(digits):
    split = part(digits[0], 128)
    net = small_net().cuda().train()
    step = Step(net, split, replace(PLAIN, momentum=0.9), None, None)
    images, labels = next(stream(split, PLAIN, torch.device("cuda")))
    before = weights(net)
    assert GraphStep.captured(step, images, labels) is not None
    assert same(weights(net), before)
