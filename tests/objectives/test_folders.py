"""Listing folders: two layouts, whatever lies about in them, and what is refused."""

import os
from pathlib import Path

import pytest

from objectives.folders import list_folder
from spaces.errors import DataError


def tree(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def test_one_tree_of_classes(tmp_path):
    found = list_folder(tree(tmp_path / "pets", "dog/b.JPG", "dog/a.png", "cat/deep/er/c.jpeg"))
    assert found.name == "pets"
    assert found.classes == ("cat", "dog")
    assert list(found.parts) == ["train"]
    assert list(found.parts["train"].names) == ["cat/deep/er/c.jpeg", "dog/a.png", "dog/b.JPG"]
    assert found.parts["train"].labels.tolist() == [0, 1, 1]
    assert found.notes == ()


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_folders_for_the_splits(tmp_path, val):
    found = list_folder(tree(tmp_path, "Train/a/1", "Train/b/2", f"{val}/a/3", f"{val}/b/4", "test/b/5", "test/a/6"))
    assert found.classes == ("a", "b")
    assert set(found.parts) == {"train", "val", "test"}
    assert list(found.parts["val"].names) == [f"{val}/a/3", f"{val}/b/4"]
    assert found.parts["test"].labels.tolist() == [0, 1]


def test_hidden_things_are_ignored_and_links_followed(tmp_path):
    root = tree(
        tmp_path / "root", "a/1.jpg", "a/.DS_Store", "a/._1.jpg", ".git/x", "__MACOSX/a/1", "a/.hidden/2", "b/3"
    )
    tree(tmp_path / "elsewhere", "4.jpg")
    (root / "c").symlink_to(tmp_path / "elsewhere")
    (root / "b" / "5.jpg").symlink_to(root / "a" / "1.jpg")
    (root / "b" / "loop").symlink_to(root / "b")
    found = list_folder(root)
    assert found.classes == ("a", "b", "c")
    assert list(found.parts["train"].names) == ["a/1.jpg", "b/3", "b/5.jpg", "c/4.jpg"]


@pytest.mark.parametrize("up", ["..", "../..", "{root}", "{root}/..", "."])
def test_a_link_upwards_brings_no_images_of_other_classes(tmp_path, up):
    root = tree(tmp_path / "root", "cat/1.jpg", "cat/deep/2.jpg", "dog/3.jpg")
    (root / "cat" / "deep" / "up").symlink_to(up.format(root=root))
    found = list_folder(root)
    assert list(found.parts["train"].names) == ["cat/1.jpg", "cat/deep/2.jpg", "dog/3.jpg"]
    assert found.notes == ("not used, being pipes, devices or folders met before: cat/deep/up.",)


@pytest.mark.parametrize("up", ["{store}", "{root}"])
def test_a_link_out_of_a_linked_class_and_up_again(tmp_path, up):
    store, root = tree(tmp_path / "store", "cat/1.jpg", "other/2.jpg"), tree(tmp_path / "root", "dog/3.jpg")
    (store / "cat" / "up").symlink_to(up.format(store=store, root=root))
    (root / "cat").symlink_to(store / "cat")
    assert list(list_folder(root).parts["train"].names) == ["cat/1.jpg", "dog/3.jpg"]


def test_pipes_and_devices_are_named_and_not_opened(tmp_path):
    tree(tmp_path, "a/1.jpg", "b/1.jpg", "b/2.jpg")
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    (tmp_path / "b" / "zeros.jpg").symlink_to("/dev/zero")
    (tmp_path / "b" / "nowhere.jpg").symlink_to("nothing")
    found = list_folder(tmp_path)
    assert list(found.parts["train"].names) == ["a/1.jpg", "b/1.jpg", "b/2.jpg", "b/nowhere.jpg"]
    assert found.notes == ("not used, being pipes, devices or folders met before: a/pipe.jpg, b/zeros.jpg.",)


def test_classes_may_be_called_train_and_test(tmp_path):
    assert list_folder(tree(tmp_path, "train/1.jpg", "test/2.jpg", "bus/3.jpg")).classes == ("bus", "test", "train")


def test_what_is_left_aside_is_said(tmp_path):
    found = list_folder(
        tree(tmp_path, "train/a/1", "train/b/1", "train/x.JPG", "train/y.png", "train/l.csv", "extra/1")
    )
    assert found.notes == (
        f"2 images directly in {tmp_path / 'train'}, in no class: not used.",
        f"extra beside train in {tmp_path} is not used.",
    )


def test_a_test_folder_without_labels_is_no_split(tmp_path):
    found = list_folder(tree(tmp_path, "train/a/1", "train/b/1", "test/2.jpg"))
    assert list(found.parts) == ["train"]
    assert found.notes == (f"test beside train in {tmp_path} holds no class folders and is not used.",)


def test_names_that_are_not_utf8_can_be_printed(tmp_path):
    tree(tmp_path, "a/1.jpg", "b/1.jpg")
    os.close(os.open(os.fsencode(tmp_path) + b"/a/caf\xe9.jpg", os.O_CREAT))
    part = list_folder(tmp_path).parts["train"]
    assert part.names[1] == "a/caf\\udce9.jpg"
    assert part.sources[1].exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "is empty: give a folder that holds one folder of images for each class"),
        (["1.jpg", "2.jpg"], "holds 2 files but no class folders: sort them into one folder per class"),
        (["a/1.jpg"], r"holds one class only \(a\); a classifier needs at least two$"),
        (["pets/a/1", "pets/b/1"], r"holds one class only \(pets\); .*; did you mean .*/pets\?$"),
        (["train/a/1", "test/a/1"], r"train holds one class only \(a\)"),
        (["test/a/1", "val/b/1"], "has test, val but no train folder: add one beside it"),
        (["train/1.jpg", "test/2.jpg"], "test holds no class folders: put its images into one folder for each class"),
        (
            ["train/a/1", "train/b/1", "test/a/1", "test/b/1", "test/c/1"],
            "test has classes that .*train lacks: c; rename",
        ),
        (["train/a/1", "train/b/1", "test/a/1"], "test lacks classes that .*train has: b; add images"),
        (["train/a/1", "train/b/1", "val/a/1", "val/b/1", "valid/a/1"], "has both val and valid: keep one val folder"),
        (["a/1", "b/.gitkeep"], r"class 'b' is a folder without files \(.*/b\): add images, or remove it"),
    ],
)
def test_refused_with_a_sentence(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        list_folder(tree(tmp_path, *files))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    tree(tmp_path, "a/1", "b/1")
    (tmp_path / "b").chmod(0)
    try:
        with pytest.raises(DataError, match="b cannot be read: Permission denied"):
            list_folder(tmp_path)
    finally:
        (tmp_path / "b").chmod(0o700)
