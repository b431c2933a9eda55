"""Published data sets: tiny files in the published formats, found, read and refused."""

import gzip
import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision

from objectives.datasets import NAMES, dataset_name, list_dataset
from spaces.errors import DataError

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No data set of this machine is found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HWNAS_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("objectives.datasets._SYSTEM", tmp_path / "system")


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder: Path, *, packed: bool = False, count: int = 20) -> np.ndarray:
    folder.mkdir(parents=True)
    images = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = np.arange(count, dtype=np.uint8) % 10
    for part in ("train", "t10k"):
        for stem, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            if packed:
                (folder / f"{stem}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (folder / stem).write_bytes(idx(array))
    return images


def test_names_are_forgiving():
    assert dataset_name("Fashion-MNIST") == dataset_name("fashionmnist") == "fashion-mnist"
    assert dataset_name("cifar_100") == "cifar100"
    assert dataset_name("./cifar10") is None
    assert all(dataset_name(name) == name for name in NAMES)


def test_digits():
    digits = list_dataset("digits")
    part = digits.parts["train"]
    assert digits.classes == tuple("0123456789")
    assert len(part) == 1797
    assert max(image.max() for image in part.sources) == 255
    assert part.sources[0].dtype == np.uint8


@pytest.mark.parametrize(
    ("name", "kind"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_idx_files_in_torchvisions_layout(tmp_path, monkeypatch, name, kind):
    monkeypatch.setenv("HWNAS_DATA", str(tmp_path / "mine"))
    images = write_idx(tmp_path / "mine" / kind / "raw")
    found = list_dataset(name)
    theirs = getattr(torchvision.datasets, kind)(tmp_path / "mine", train=False)
    assert found.classes == tuple(theirs.classes)
    assert np.array_equal(np.stack(found.parts["test"].sources), theirs.data)
    assert np.array_equal(np.stack(found.parts["train"].sources), images)
    assert found.parts["test"].labels.tolist() == theirs.targets.tolist()
    assert found.parts["test"].names[3] == "test[3]"


def test_gzipped_idx_files_in_debians_layout(tmp_path):
    images = write_idx(tmp_path / "system" / "fashion-mnist", packed=True)
    assert np.array_equal(list_dataset("fashion-mnist").parts["train"].sources[0], images[0])


def test_places_come_in_order(tmp_path, monkeypatch):
    monkeypatch.setenv("HWNAS_DATA", str(tmp_path / "env"))
    counts = {}
    for place, count in (("system", 10), ("cache/hwnas/datasets", 20), ("data", 30), ("env", 40)):
        write_idx(tmp_path / place / "mnist", count=count)
        counts[place] = len(list_dataset("mnist").parts["train"])
    assert list(counts.values()) == [10, 20, 30, 40]


def test_damaged_idx_files_are_named(tmp_path):
    write_idx(tmp_path / "data" / "mnist")
    path = tmp_path / "data" / "mnist" / "train-images-idx3-ubyte"
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:9], b"", b"\0\0\x0d" + whole[3:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"train-images-idx3-ubyte is damaged \(.*\): remove it and fetch it again"):
            list_dataset("mnist")
    path.unlink()
    path.with_suffix(".gz").write_bytes(gzip.compress(whole)[:-100])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz is damaged"):
        list_dataset("mnist")


def test_images_and_labels_that_do_not_belong_together(tmp_path):
    write_idx(tmp_path / "data" / "mnist")
    (tmp_path / "data" / "mnist" / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(DataError, match="20 images and 3 labels do not belong together"):
        list_dataset("mnist")


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_cifar10_files(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rows = RNG.integers(0, 256, (20, 3072), dtype=np.uint8)
    classes = [f"class {i}" for i in range(10)]
    contents = {"data": rows, "labels": [i % 10 for i in range(20)]}
    for name, content in (("one", contents), ("two", contents), ("batches.meta", {"label_names": classes})):
        (folder / name).write_bytes(pickle.dumps(content))
    # torchvision checks the published sums: give it those of the tiny files.
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", [["one", md5(folder / "one")]])
    monkeypatch.setattr(kind, "test_list", [["two", md5(folder / "two")]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(folder / "batches.meta")})
    found = list_dataset("cifar10")
    assert found.classes == tuple(classes)
    assert found.parts["train"].labels.tolist() == contents["labels"]
    assert found.parts["test"].sources[7].shape == (32, 32, 3)
    assert np.array_equal(found.parts["test"].sources[7].transpose(2, 0, 1).ravel(), rows[7])


def test_svhn_files(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    images = RNG.integers(0, 256, (32, 32, 3, 20), dtype=np.uint8)
    labels = np.arange(20) % 10 + 1  # the files say 10 for the digit 0
    sums = {}
    for split in ("train", "test"):
        path = tmp_path / "data" / f"{split}_32x32.mat"
        scipy.io.savemat(path, {"X": images, "y": labels[:, None]})
        sums[split] = ["", path.name, md5(path)]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", sums)
    found = list_dataset("svhn")
    assert found.classes == tuple("0123456789")
    assert found.parts["train"].labels.tolist() == (labels % 10).tolist()
    assert np.array_equal(found.parts["test"].sources[5], images[..., 5])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "digits"])
def test_absent_says_where_it_was_looked_for_and_what_to_do(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HWNAS_DATA", str(tmp_path / "mine"))
    with pytest.raises(DataError) as error:
        list_dataset(name)
    places = f"{tmp_path}/mine, data, {tmp_path}/cache/hwnas/datasets, {tmp_path}/system"
    assert str(error.value).startswith(f"{name} is in none of {places}: allow its download, or put ")


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_refused_download_says_where_to_put_the_files(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HWNAS_DATA", str(tmp_path / "mine"))
    nobody = "http://127.0.0.1:9/"  # a port where nothing listens
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [nobody])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", nobody)
    with pytest.raises(
        DataError, match=rf"{name} cannot be fetched \(.*refused.*\): put .* into {tmp_path}/mine by hand"
    ):
        list_dataset(name, download=True)
