"""The report: each warning when it is due and only then."""

from dataclasses import replace
from pathlib import Path

import pytest

from objectives.data_report import DataReport, Place, Unreadable, shortened, standard_error

GOOD = DataReport(
    name="pets",
    classes=("cat", "dog"),
    counts={"train": (900, 600), "val": (600, 400), "test": (60, 40)},
    shape=(3, 32, 32),
    smallest=(40, 30),
    largest=(400, 300),
    unreadable=(),
    duplicates=(),
    conflicts=(),
    elongated=0,
    grey=False,
    brightest=255,
    std=(0.2, 0.2, 0.2),
    notes=(),
    folder=None,
)


def test_the_standard_error_is_that_of_a_proportion():
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    assert standard_error(1.0, 100) == 0


def test_good_data_has_no_warnings():
    assert GOOD.warnings == ()
    assert GOOD.imbalance == 1.5
    assert GOOD.lines() == [
        "pets: 2 classes, 3x32x32: 1,500 train, 1,000 val, 100 test",
        "training images of a class: 600 to 900 (imbalance 1.5)",
        "standard error of the validation accuracy: at most 1.58%, 0.95% at 90 %",
    ]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"notes": ("A note.",)}, "A note."),
        ({"unreadable": (Unreadable("a.jpg", "cut"),)}, "1 unreadable file left out: a.jpg (cut)."),
        (
            {"conflicts": ((Place("train", "cat/a.jpg"), Place("train", "dog/b.jpg")),)},
            "1 picture under several labels, of which one at most is right: cat/a.jpg (train) = dog/b.jpg (train).",
        ),
        (
            {"duplicates": ((Place("train", "a.jpg"), Place("val", "b.jpg")),)},
            "1 picture in several splits, flattering the accuracy: a.jpg (train) = b.jpg (val).",
        ),
        ({"grey": True}, "all images are grey though stored as colour: one channel would do."),
        ({"brightest": 15}, "no training pixel is above 15 of 255: stretch the images (16-bit white is 65,535)."),
        ({"std": (0.2, 0, 0.2)}, "channel 1 is the same everywhere in the training images and says nothing."),
        ({"elongated": 3}, "3 images over twice as long as wide, squeezed to squares."),
        (
            {"counts": {**GOOD.counts, "train": (10, 1000)}},
            "dog has 100 times the training images of cat: balanced accuracy says more than accuracy.",
        ),
        (
            {"counts": {**GOOD.counts, "val": (18, 18)}},
            "36 validation images leave an accuracy of 90 % uncertain by 5.0%; more tell more.",
        ),
    ],
)
def test_a_warning_when_it_is_due(change, sentence):
    assert replace(GOOD, **change).warnings == (sentence,)


def test_grey_data_of_one_channel_is_as_it_should_be():
    assert replace(GOOD, grey=True, shape=(1, 32, 32)).warnings == ()


def test_lines_name_the_folder_that_is_streamed_from():
    streamed = replace(GOOD, folder=Path("/cache"))
    assert streamed.lines() == [*GOOD.lines(), "larger than half of the free memory: streamed from /cache"]


def test_the_text_is_complete():
    unreadable = tuple(Unreadable(f"{i:02}.jpg", "cut") for i in range(24))
    duplicates = tuple((Place("train", f"{i}.png"), Place("val", f"{i}b.png")) for i in range(7))
    report = replace(GOOD, unreadable=unreadable, duplicates=duplicates)
    facts, warnings, classes, files, pictures = (part.splitlines() for part in report.text().split("\n\n"))
    assert facts == [*GOOD.lines(), "stored images: 40 x 30 to 400 x 300 pixels"]
    assert warnings == ["Warnings", *report.warnings]
    assert warnings[1].endswith("04.jpg (cut) and 19 more.")
    assert [line.split() for line in classes] == [
        ["class", "train", "val", "test"],
        ["cat", "900", "600", "60"],
        ["dog", "600", "400", "40"],
    ]
    assert files == ["Unreadable files, left out", *(f"{i:02}.jpg: cut" for i in range(24))]
    assert pictures == ["Pictures in several splits", *(f"{i}.png (train) = {i}b.png (val)" for i in range(7))]


def test_the_text_on_good_data_is_short():
    text = replace(GOOD, largest=(40, 30)).text()
    assert "stored images: 40 x 30 pixels" in text
    assert text.split("\n\n")[1] == "Warnings\nnone"
    assert "Unreadable" not in text
    assert "Pictures" not in text


def test_long_lists_are_shortened():
    assert shortened(list("abcde")) == "a, b, c, d, e"
    assert shortened(list("abcdefg")) == "a, b, c, d, e and 2 more"
