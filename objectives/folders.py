"""Folders of images: torchvision's ImageFolder layout, with or without folders for the splits.

Two layouts are read::

    ROOT/CLASS/**/IMAGE                       one tree; the splits are drawn from it
    ROOT/train|val|test/CLASS/**/IMAGE        val (also valid, validation) and test may be absent

Whatever has a name that begins with a dot is ignored, and so is the ``__MACOSX`` of zip archives. Links are followed,
but not to a folder that was met on the way.
"""

import os
from pathlib import Path

import numpy as np

from objectives.collection import Collection, Part, SplitName
from objectives.data_report import counted, shortened
from spaces.errors import DataError

_SPLIT_NAMES: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def list_folder(root: Path) -> Collection:
    """List the images of a folder, classes and files sorted by name, whatever the order of the file system.

    A folder called train, val or test counts as a split where it holds folders itself, otherwise as a class.

    Args:
        root: An existing folder.

    Raises:
        DataError: The folder cannot be read, or its layout is none of the two.
    """
    folders, files = _entries(root)
    if not folders and not files:
        raise DataError(f"{root} is empty: give a folder that holds one folder of images for each class")
    splits = _split_folders(root, folders)
    if not splits:
        classes, part, notes = _list_classes(root, root)
        return Collection(_name(root), classes, {"train": part}, tuple(notes))
    if "train" not in splits:
        names = shortened([folder.name for folder in splits.values()])
        raise DataError(f"{root} has {names} but no train folder: add one beside it")
    train = splits["train"]
    classes, train_part, notes = _list_classes(train, root)
    parts: dict[SplitName, Part] = {"train": train_part}
    for name in ("val", "test"):
        if name in splits:
            _check_classes(splits[name], train, classes)
            _, parts[name], more = _list_classes(splits[name], root, classes)
            notes += more
    for folder in folders:
        if folder not in splits.values():
            why = "holds no class folders and " if folder.name.lower() in _SPLIT_NAMES else ""
            notes.append(f"{printable(folder.name)} beside {train.name} in {root} {why}is not used.")
    return Collection(_name(root), classes, parts, tuple(notes))


def _split_folders(root: Path, folders: list[Path]) -> dict[SplitName, Path]:
    """The folders that are splits, none of them where the folder is one tree of classes."""
    named = [folder for folder in folders if folder.name.lower() in _SPLIT_NAMES]
    nested = [folder for folder in named if _entries(folder)[0]]
    if named and not nested and len(named) == len(folders):
        raise DataError(f"{named[0]} holds no class folders: put its images into one folder for each class")
    splits: dict[SplitName, Path] = {}
    for folder in nested:
        split = _SPLIT_NAMES[folder.name.lower()]
        if split in splits:
            raise DataError(f"{root} has both {splits[split].name} and {folder.name}: keep one {split} folder")
        splits[split] = folder
    return splits


def _check_classes(folder: Path, train: Path, classes: tuple[str, ...]) -> None:
    here = {printable(entry.name) for entry in _entries(folder)[0]}
    if unknown := sorted(here - set(classes)):
        raise DataError(f"{folder} has classes that {train} lacks: {shortened(unknown)}; rename or remove them")
    if missing := sorted(set(classes) - here):
        raise DataError(
            f"{folder} lacks classes that {train} has: {shortened(missing)}; "
            f"add images of them, or remove {folder} to have its images drawn from {train}"
        )


def _list_classes(
    folder: Path, root: Path, classes: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], Part, list[str]]:
    """Classes, images and notes of a folder of class folders; labels index ``classes`` where they are given."""
    folders, loose = _entries(folder)
    if not folders:
        raise DataError(f"{folder} holds {len(loose)} files but no class folders: sort them into one folder per class")
    found = tuple(printable(entry.name) for entry in folders)
    if classes is None and len(found) == 1:
        hint = f"; did you mean {folders[0]}?" if len(_entries(folders[0])[0]) > 1 else ""
        raise DataError(f"{folder} holds one class only ({found[0]}); a classifier needs at least two{hint}")
    index = {name: i for i, name in enumerate(classes or found)}
    names: list[str] = []
    paths: list[Path] = []
    labels: list[int] = []
    aside: list[str] = []
    for entry, name in zip(folders, found, strict=True):
        files, others = _list_files(entry)
        if not files:
            raise DataError(f"class {name!r} is a folder without files ({entry}): add images, or remove it")
        names += [printable(path.relative_to(root).as_posix()) for path in files]
        aside += [printable(path.relative_to(root).as_posix()) for path in others]
        paths += files
        labels += [index[name]] * len(files)
    pictures = [path.name for path in loose if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    notes = [f"{counted(len(pictures), 'image')} directly in {folder}, in no class: not used."] if pictures else []
    if aside:
        notes.append(f"not used, being pipes, devices or folders met before: {shortened(aside)}.")
    return found, Part(names, paths, np.array(labels, np.int64)), notes


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """The visible folders and files of a folder, each sorted by name."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if _is_visible(entry.name))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error
    return [e for e in entries if e.is_dir()], [e for e in entries if not e.is_dir()]


def _list_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The visible files below a folder, and what else lies there: pipes, devices, folders that were met before.

    A folder above it counts as met, or a link to it would put the images of other classes into this one.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error

    files: list[Path] = []
    aside: list[Path] = []
    met = {os.path.realpath(above) for place in (folder.absolute(), folder.resolve()) for above in place.parents}
    for here, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(here)
        if real in met:
            aside.append(Path(here))
            folders.clear()
            continue
        met.add(real)
        folders[:] = sorted(name for name in folders if _is_visible(name))
        for path in (Path(here, name) for name in names if _is_visible(name)):
            # Links to nowhere are listed: they fail to be read and are named. To open a pipe is to wait for its writer.
            listed = os.path.isfile(path) or not os.path.exists(path)
            (files if listed else aside).append(path)
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix()), aside


def _name(root: Path) -> str:
    return printable(root.resolve().name)


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def printable(name: str) -> str:
    r"""A file name as text that every terminal and file takes: bytes that are not UTF-8 become escapes.

    >>> printable("caf\udce9.png")
    'caf\\udce9.png'
    """
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
