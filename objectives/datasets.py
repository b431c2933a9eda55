"""Published data sets by name: scikit-learn's digits, and those of torchvision that come as arrays.

Sets that torchvision keeps as folders of images need no name here: give the folder.
"""

import gzip
import http.client
import math
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from objectives.collection import Collection, Part, SplitName
from spaces.errors import DataError

# Our name: torchvision's class, and the file or folder below a root that it lies in.
_TORCHVISION = {
    "mnist": ("MNIST", "MNIST/raw"),
    "fashion-mnist": ("FashionMNIST", "FashionMNIST/raw"),
    "kmnist": ("KMNIST", "KMNIST/raw"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
    "cifar100": ("CIFAR100", "cifar-100-python"),
    "svhn": ("SVHN", "train_32x32.mat and test_32x32.mat"),
    "stl10": ("STL10", "stl10_binary"),
}
# Read here and not by torchvision, which takes no gzipped files; Debian has them.
_IDX = frozenset({"mnist", "fashion-mnist", "kmnist"})
_SYSTEM = Path("/usr/share/datasets")

NAMES = ("digits", *_TORCHVISION)
"""All names, as shown to people."""


def dataset_name(text: str) -> str | None:
    """The name meant by a text, if any; case, hyphens and underscores do not matter.

    >>> dataset_name("CIFAR-10"), dataset_name("fashion_mnist"), dataset_name("flowers")
    ('cifar10', 'fashion-mnist', None)
    """
    return {_plain(name): name for name in NAMES}.get(_plain(text))


def list_dataset(name: str, *, download: bool = False) -> Collection:
    """A published data set, in the parts it was published in.

    Looked for in the folder that the environment variable ``HWNAS_DATA`` names, in ``./data``, in the user's cache and
    in ``/usr/share/datasets``, in the layout torchvision gives it. The idx files of MNIST and its relatives may be
    gzipped, and lie in a folder of the set's name (so Debian's ``dataset-fashion-mnist`` is found).

    Args:
        name: One of :data:`NAMES`.
        download: Whether to fetch what is nowhere: to ``HWNAS_DATA`` where that is set, else to the user's cache.

    Raises:
        DataError: It is nowhere and may not or cannot be fetched, or its files are damaged.

    >>> list_dataset("digits").parts["train"].sources[0].shape
    (8, 8)
    """
    if name == "digits":
        return _digits()
    chosen = os.environ.get("HWNAS_DATA")
    cache = platformdirs.user_cache_path("hwnas") / "datasets"
    roots = [*([Path(chosen)] if chosen else []), Path("data"), cache, _SYSTEM]
    find = _from_idx if name in _IDX else _from_torchvision
    found = next((found for root in roots if (found := find(name, root))), None)
    if found is None and download:
        target = Path(chosen) if chosen else cache
        _download(name, target)
        found = find(name, target)
    if found is None:
        looked = ", ".join(map(str, roots))
        raise DataError(f"{name} is in none of {looked}: allow its download, or put {_TORCHVISION[name][1]} into one")
    return found


def _from_idx(name: str, root: Path) -> Collection | None:
    kind, below = _TORCHVISION[name]
    for folder in (root / below, root / name):
        stems = [f"{part}-{what}" for part in ("train", "t10k") for what in ("images-idx3-ubyte", "labels-idx1-ubyte")]
        arrays = [array for stem in stems if (array := _read_idx(folder, stem)) is not None]
        if len(arrays) == len(stems):
            parts: dict[SplitName, Part] = {"train": _part("train", *arrays[:2]), "test": _part("test", *arrays[2:])}
            return Collection(name, tuple(_torchvision_class(kind).classes), parts)
    return None


def _read_idx(folder: Path, stem: str) -> NDArray[np.uint8] | None:
    """An array in the format of the MNIST files, plain or gzipped; None where neither file exists."""
    plain, packed = folder / stem, folder / f"{stem}.gz"
    path = plain if plain.exists() else packed
    if not path.exists():
        return None
    try:
        content = path.read_bytes() if path == plain else gzip.decompress(path.read_bytes())
        kind, axes = content[2], content[3]  # kind 8 is uint8; the first two bytes are zero
        shape = np.frombuffer(content, ">u4", axes, offset=4).tolist()
        pixels = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
        if kind != 8 or pixels.size != math.prod(shape):
            raise ValueError(f"{pixels.size:,} values of kind {kind}, {math.prod(shape):,} of kind 8 expected")
    except (OSError, EOFError, IndexError, ValueError, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}): remove it and fetch it again") from error
    return pixels.reshape(shape)


def _from_torchvision(name: str, root: Path) -> Collection | None:
    kind, _ = _TORCHVISION[name]
    parts: dict[SplitName, Part] = {}
    split_names: tuple[SplitName, ...] = ("train", "test")
    for split in split_names:
        try:
            dataset = _torchvision_class(kind)(root, **_split_option(kind, split))
        except RuntimeError:  # torchvision's way to say that the files are not there, or not whole
            return None
        images = np.asarray(dataset.data)
        if images.shape[1] == 3:  # SVHN and STL-10 have channels first
            images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        parts[split] = _part(split, images, dataset.targets if kind.startswith("CIFAR") else dataset.labels)
    return Collection(name, tuple(getattr(dataset, "classes", "0123456789")), parts)  # SVHN names none: they are digits


def _download(name: str, target: Path) -> None:
    kind, below = _TORCHVISION[name]
    try:
        target.mkdir(parents=True, exist_ok=True)
        for split in ("train", "test"):
            _torchvision_class(kind)(target, download=True, **_split_option(kind, split))
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise DataError(f"{name} cannot be fetched ({reason}): put {below} into {target} by hand") from error


def _split_option(kind: str, split: str) -> dict[str, str | bool]:
    return {"split": split} if kind in ("SVHN", "STL10") else {"train": split == "train"}


def _torchvision_class(kind: str) -> Any:
    import torchvision.datasets  # seconds to import, and needed for few names

    return getattr(torchvision.datasets, kind)


def _digits() -> Collection:
    from sklearn.datasets import load_digits  # a second to import, and needed for this name only

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return Collection(
        "digits", tuple(str(c) for c in digits.target_names), {"train": _part("all", images, digits.target)}
    )


def _part(name: str, images: NDArray[np.uint8], labels: Any) -> Part:
    return Part([f"{name}[{i}]" for i in range(len(images))], list(images), np.asarray(labels, np.int64))


def _plain(text: str) -> str:
    return text.lower().replace("-", "").replace("_", "")
