"""Loading data: folders and names become three splits that are the same every time."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from objectives.data import Data, load_data
from spaces.errors import DataError, SpecError

Draw = Callable[[np.random.Generator], np.ndarray]


def noise(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)


def write_images(root: Path, counts: dict[str, int], draw: Draw = noise, seed: int = 0) -> Path:
    """PNG files named CLASS/0.png, CLASS/1.png, ... below the root."""
    rng = np.random.default_rng(seed)
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(draw(rng)).save(root / folder / f"{i}.png")
    return root


@pytest.fixture
def pets(tmp_path):
    return write_images(tmp_path / "pets", {"cat": 30, "dog": 20, "eel": 10})


def pictures(data: Data) -> dict[str, set[bytes]]:
    splits = {"train": data.train, "val": data.val, "test": data.test}
    return {name: {image.numpy().tobytes() for image in split.images} for name, split in splits.items()}


def test_one_tree_is_split_by_class(pets):
    data = load_data(str(pets))
    assert (data.name, data.classes, data.shape) == ("pets", ("cat", "dog", "eel"), (3, 8, 8))
    assert data.report.counts == {"train": (18, 12, 6), "val": (6, 4, 2), "test": (6, 4, 2)}
    assert [len(split) for split in (data.train, data.val, data.test)] == [36, 12, 12]
    for split in (data.train, data.val, data.test):
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.images.shape[1:] == (3, 8, 8)
    found = pictures(data)
    assert len(found["train"] | found["val"] | found["test"]) == 60


def test_labels_stay_with_their_images(tmp_path):
    shades = {"a": 10, "b": 20, "c": 30}
    for name, shade in shades.items():
        write_images(tmp_path, {name: 10}, lambda _, shade=shade: np.full((4, 4), shade, np.uint8))
    data = load_data(tmp_path)
    for split in (data.train, data.val, data.test):
        assert torch.equal(split.images[:, 0, 0, 0], 10 * (split.labels + 1))
        assert not torch.equal(split.labels, split.labels.sort().values)


def test_splits_that_are_folders_are_in_random_order_too(tmp_path):
    write_images(tmp_path, {f"{split}/{name}": 20 for split in ("train", "val", "test") for name in "ab"})
    data = load_data(tmp_path)
    for split in (data.train, data.val, data.test):
        assert set(split.labels[:10].tolist()) == {0, 1}


def test_fractions_and_limit(pets):
    data = load_data(pets, val_fraction=0.1, test_fraction=0.5, train_limit=12)
    assert data.report.counts == {"train": (6, 4, 2), "val": (3, 2, 1), "test": (15, 10, 5)}


def test_the_limit_leaves_validation_and_test_alone(pets):
    whole, limited = load_data(pets), load_data(pets, train_limit=10)
    assert torch.equal(whole.val.images, limited.val.images)
    assert torch.equal(whole.test.images, limited.test.images)
    assert pictures(limited)["train"] < pictures(whole)["train"]
    assert sum(limited.report.counts["train"]) == 10
    assert load_data(pets, train_limit=10_000).fingerprint == whole.fingerprint


def test_default_fractions_stop_at_what_is_enough(tmp_path, monkeypatch):
    monkeypatch.setattr("objectives.data.DEFAULT_IMAGES", 5)
    write_images(tmp_path, {"a": 100, "b": 100})
    assert load_data(tmp_path).report.counts["val"] == (10, 10)  # 10 for each class is more than 5


def test_folders_for_splits_are_kept(tmp_path):
    write_images(tmp_path, {"train/a": 20, "train/b": 10, "valid/a": 3, "valid/b": 4, "test/a": 5, "test/b": 6})
    data = load_data(tmp_path)
    assert data.report.counts == {"train": (20, 10), "val": (3, 4), "test": (5, 6)}
    note = f"val_fraction=0.5 has no effect: {tmp_path.name} has such a split already."
    assert load_data(tmp_path, val_fraction=0.5).report.notes == (note,)
    shutil.rmtree(tmp_path / "valid")
    drawn = load_data(tmp_path)
    assert drawn.report.counts == {"train": (16, 8), "val": (4, 2), "test": (5, 6)}
    assert pictures(drawn)["test"] == pictures(data)["test"]


def test_the_order_of_the_file_system_does_not_matter(pets, tmp_path):
    names = [path.relative_to(pets) for path in sorted(pets.rglob("*.png"), reverse=True)]
    for name in names:
        (tmp_path / "again" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pets / name, tmp_path / "again" / name)
    first, again, other = load_data(pets), load_data(tmp_path / "again"), load_data(pets, seed=1)
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.test.labels, again.test.labels)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert pictures(first)["test"] != pictures(other)["test"]


def test_the_fingerprint_sees_one_pixel(pets):
    before = load_data(pets).fingerprint
    path = pets / "cat" / "0.png"
    image = Image.open(path)
    image.putpixel((0, 0), tuple(255 - value for value in image.getpixel((0, 0))))
    image.save(path)
    assert load_data(pets).fingerprint != before


def test_mean_and_std_are_of_the_training_images(pets):
    data = load_data(pets)
    images = data.train.images.double() / 255
    assert data.mean == pytest.approx(images.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert data.std == pytest.approx(images.std((0, 2, 3), correction=0).tolist(), abs=1e-12)


def test_a_constant_channel_can_be_divided_by(tmp_path):
    write_images(tmp_path, {"a": 5, "b": 5}, lambda rng: noise(rng) * np.array([1, 1, 0], np.uint8))
    data = load_data(tmp_path)
    assert data.mean[2] == 0
    assert data.std[2] == 1
    assert data.report.std[2] == 0
    assert "channel 2 is the same everywhere in the training images and says nothing." in data.report.warnings


@pytest.mark.parametrize(
    ("sizes", "side"),
    [([(8, 8)], 8), ([(64, 64)], 64), ([(65, 65)], 64), ([(32, 24)], 24), ([(28, 31), (30, 30), (90, 33)], 32)],
)
def test_the_default_size(tmp_path, sizes, side):
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(3 * len(sizes)):
            width, height = sizes[i % len(sizes)]
            Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
    assert load_data(tmp_path).shape == (1, side, side)
    assert load_data(tmp_path, image_size=12, channels=3).shape == (3, 12, 12)


def test_one_colour_image_makes_all_colour(tmp_path):
    write_images(tmp_path, {"a": 5, "b": 5}, lambda rng: noise(rng)[..., 0])
    assert load_data(tmp_path).shape[0] == 1
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "a" / "red.png")
    assert load_data(tmp_path).shape[0] == 3
    assert load_data(tmp_path, channels=1).shape[0] == 1


def test_what_cannot_be_read_is_left_out_and_listed(pets):
    (pets / "cat" / "notes.txt").write_text("not an image")
    (pets / "dog" / "gone.png").symlink_to(pets / "nowhere")
    cut = (pets / "cat" / "0.png").read_bytes()[:100]
    (pets / "cat" / "cut.png").write_bytes(cut)
    data = load_data(pets)
    assert [name for name, _ in data.report.unreadable] == ["cat/cut.png", "cat/notes.txt", "dog/gone.png"]
    assert sum(map(sum, data.report.counts.values())) == 60
    (sentence,) = (sentence for sentence in data.report.warnings if "unreadable" in sentence)
    assert sentence.startswith("3 unreadable files left out: ")
    assert "dog/gone.png (No such file or directory)" in sentence


def test_the_same_picture_in_two_splits_is_reported(tmp_path):
    counts = {f"{split}/{name}": 6 for split in ("train", "val", "test") for name in "ab"}
    for seed, (folder, count) in enumerate(counts.items()):
        write_images(tmp_path, {folder: count}, seed=seed)
    assert load_data(tmp_path).report.duplicates == ()
    shutil.copy(tmp_path / "train/a/0.png", tmp_path / "train/a/twin.png")  # within a split: no leak
    shutil.copy(tmp_path / "train/a/1.png", tmp_path / "test/b/twin.png")
    Image.open(tmp_path / "val/b/2.png").save(tmp_path / "test/b/twin.bmp")  # other bytes, same pixels
    report = load_data(tmp_path).report
    assert report.duplicates == (
        (("test", "test/b/twin.bmp"), ("val", "val/b/2.png")),
        (("test", "test/b/twin.png"), ("train", "train/a/1.png")),
    )
    assert (
        "2 pictures in several splits, flattering the accuracy: test/b/twin.bmp (test) = val/b/2.png (val), "
        "test/b/twin.png (test) = train/a/1.png (train)."
    ) in report.warnings
    assert report.conflicts == ((("test", "test/b/twin.png"), ("train", "train/a/1.png")),)
    shutil.copy(tmp_path / "train/a/0.png", tmp_path / "train/b/twin.png")
    assert len(load_data(tmp_path).report.conflicts) == 2  # within a split too


def test_large_data_is_streamed_and_read_once(pets, tmp_path, monkeypatch):
    inside = load_data(pets)
    total = 60 * 3 * 8 * 8
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("objectives.data.free_memory", lambda: 2 * total)
    assert not load_data(pets).streamed
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr("objectives.data.free_memory", lambda: 2 * total - 2)
    mapped = load_data(pets)
    assert mapped.streamed
    assert f"larger than half of the free memory: streamed from {tmp_path}/cache/hwnas/images" in mapped.report.lines()
    assert torch.equal(inside.train.images, mapped.train.images)
    assert torch.equal(inside.val.labels, mapped.val.labels)
    assert (inside.mean, inside.std, inside.fingerprint) == (mapped.mean, mapped.std, mapped.fingerprint)
    assert inside.report.duplicates == mapped.report.duplicates
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.u8")}
    assert len(written) == 3
    assert torch.equal(load_data(pets).test.images, mapped.test.images)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.u8")} == written


def test_progress_reaches_its_total_also_when_nothing_is_read(pets, tmp_path, monkeypatch):
    monkeypatch.setattr("objectives.data.free_memory", lambda: 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        seen: list[tuple[str, int, int]] = []
        load_data(pets, progress=lambda *moment, seen=seen: seen.append(moment))
        assert ("looking at images", 60, 60) in seen
        assert seen[-1] == ("reading images", 60, 60)
        assert seen == sorted(seen)


def test_digits():
    data = load_data("digits")
    assert data.classes == tuple("0123456789")
    assert data.shape == (1, 8, 8)
    assert data.train.images.max() == 255
    assert data.report.val_stderr() == pytest.approx(0.5 / 359**0.5)
    assert data.fingerprint == load_data("Digits").fingerprint


def test_a_name_wins_over_a_folder_and_says_so(pets, monkeypatch):
    monkeypatch.chdir(pets.parent)
    pets.rename("digits")
    note = "digits is the published data set; for the folder of that name write ./digits."
    assert note in load_data("digits").report.warnings
    assert load_data("./digits").classes == ("cat", "dog", "eel")
    assert load_data(Path("digits")).classes == ("cat", "dog", "eel")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("didgits", "'didgits' is neither a folder here nor a data set known by name: did you mean digits?"),
        ("flowers", "'flowers' is neither .*: the data sets known by name are digits, mnist,"),
        ("some/where", "there is no folder some/where: give the path of a folder that holds one folder for each class"),
    ],
)
def test_unknown_sources(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        load_data(source)


def test_an_archive_is_to_be_unpacked(tmp_path):
    (tmp_path / "images.zip").touch()
    with pytest.raises(DataError, match=r"images.zip is a file: unpack it if it is an archive, and give the folder"):
        load_data(tmp_path / "images.zip")


def test_a_class_without_a_readable_image(pets):
    for path in (pets / "eel").iterdir():
        path.write_text("nothing")
    with pytest.raises(
        DataError, match=r"^pets \(train\) has no readable image of eel: repair or remove eel/0.png \(no im"
    ):
        load_data(pets)


def test_a_class_whose_only_image_in_a_split_is_damaged(tmp_path):
    write_images(tmp_path / "root", {"train/a": 9, "train/b": 9, "val/a": 1, "val/b": 1, "test/a": 1, "test/b": 1})
    path = tmp_path / "root/val/b/0.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(
        DataError, match=r"^the val split of root has no readable image of b: repair or remove val/b/0.png"
    ):
        load_data(tmp_path / "root")


def test_a_class_too_small_to_be_split(tmp_path):
    write_images(tmp_path, {"a": 9, "b": 2})
    message = r"class 'b' has too few images \(2\): it needs one for each of train, test, val; add images, or remove"
    with pytest.raises(DataError, match=message):
        load_data(tmp_path)


def test_three_images_of_a_class_are_enough(tmp_path):
    write_images(tmp_path, {"a": 30, "b": 3})
    assert [counts[1] for counts in load_data(tmp_path).report.counts.values()] == [1, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size=0: the side of an image is at least 1 pixel"),
        ({"channels": 4}, r"channels=4: images have 1 channel \(grey\) or 3 \(colour\)"),
        ({"val_fraction": 0.0}, "val_fraction=0.0: a fraction lies between 0 and 1"),
        ({"test_fraction": 1.5}, "test_fraction=1.5: a fraction lies"),
        (
            {"val_fraction": 0.5, "test_fraction": 0.5},
            "val_fraction=0.5 and test_fraction=0.5 leave no training images",
        ),
        ({"seed": -1}, "seed=-1: a seed is not negative"),
        ({"train_limit": 0}, "train_limit=0: at least one image is needed for each class"),
        ({"train_limit": 2}, "train_limit=2 is less than the 3 classes: each needs an image"),
    ],
)
def test_options_out_of_range(pets, options, message):
    with pytest.raises(SpecError, match=message):
        load_data(pets, **options)


def test_a_nasty_folder_as_a_whole(tmp_path):
    """Everything at once: modes, sizes, rotation, damage, links, capitals, things hidden and things loose."""
    root = write_images(tmp_path / "mix", {"Ä class": 12, "plain": 12})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (300, 20), (9, 99, 200)).save(root / "plain" / "WIDE.JPG", exif=exif)
    Image.new("CMYK", (33, 40), (0, 200, 0, 0)).save(root / "plain" / "print.jpeg")
    Image.new("RGBA", (50, 50), (0, 0, 255, 128)).save(root / "plain" / "alpha.png")
    Image.fromarray(np.full((9, 9), 40000, np.uint16)).save(root / "plain" / "deep.png")
    Image.new("P", (70, 70)).save(root / "plain" / "palette.gif")
    Image.new("F", (8, 8)).save(root / "plain" / "float.tiff")
    (root / "plain" / "Thumbs.db").write_bytes(os.urandom(500))
    (root / ".ipynb_checkpoints").mkdir()
    (root / "loose.jpg").touch()
    (root / "plain" / "self").symlink_to(root / "plain")
    report = load_data(root).report
    assert sorted(name for name, _ in report.unreadable) == ["plain/Thumbs.db", "plain/float.tiff"]
    assert sum(map(sum, report.counts.values())) == 24 + 5
    assert report.smallest == (8, 8)
    assert report.largest == (300, 20)
    assert report.elongated == 1
    assert f"1 image directly in {root}, in no class: not used." in report.warnings
