"""Pixels: the same images in memory and in a file, and a file that is whole or not there."""

import multiprocessing
import os
import signal
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from objectives import pixels
from objectives.pixels import fingerprint, map_pixels, read_headers, read_pixels
from spaces.errors import DataError


@pytest.fixture
def files(tmp_path):
    """Twenty noisy images, the one at 3 no image and the one at 7 cut off."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(20)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
    paths[3].write_text("no image")
    paths[7].write_bytes(paths[7].read_bytes()[:200])
    return paths


def test_headers_or_reasons(files):
    headers = read_headers(files)
    assert headers[0] == (12, 12, False)
    assert isinstance(headers[3], str)
    assert len(headers) == 20


def test_in_memory(files):
    read = read_pixels(files, 12, 3)
    assert read.images.shape == (18, 3, 12, 12) == read.survey.shape
    assert read.images.dtype == torch.uint8
    assert read.survey.kept.tolist() == [i for i in range(20) if i not in (3, 7)]
    assert [at for at, _ in read.survey.unreadable] == [3, 7]
    for row, at in enumerate(read.survey.kept):
        assert np.array_equal(read.images[row].permute(1, 2, 0), np.asarray(Image.open(files[at])))


def test_statistics_are_those_of_the_pixels(files):
    read = read_pixels(files, 8, 3)
    images = read.images.double() / 255
    assert read.survey.mean == pytest.approx(images.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert read.survey.std == pytest.approx(images.std((0, 2, 3), correction=0).tolist(), abs=1e-12)
    assert read.survey.brightest == read.images.max()
    assert not read.survey.grey


def test_a_constant_channel_has_no_deviation():
    image = np.full((3, 3, 3), 77, np.uint8)
    assert read_pixels([image] * 3, 3, 3).survey.std == (0.0, 0.0, 0.0)
    assert read_pixels([image] * 3, 3, 3).survey.grey


def test_equal_pixels_have_equal_digests(tmp_path):
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    for name in ("a.png", "b.bmp"):
        image.save(tmp_path / name)
    image.point(lambda value: value + 1).save(tmp_path / "c.png")
    same, again, other = read_pixels([tmp_path / n for n in ("a.png", "b.bmp", "c.png")], 8, 1).survey.digests
    assert same == again != other


@pytest.mark.parametrize("piece_bytes", [1, 4 << 20])
def test_order_does_not_depend_on_pieces_or_threads(files, piece_bytes, monkeypatch):
    whole = read_pixels(files, 6, 3)
    monkeypatch.setattr(pixels, "_PIECE_BYTES", piece_bytes)
    seen: list[int] = []
    again = read_pixels(files, 6, 3, progress=seen.append)
    assert torch.equal(whole.images, again.images)
    assert (whole.survey.sums == again.survey.sums).all()
    assert (whole.survey.digests == again.survey.digests).all()
    assert sum(seen) == 20
    assert len(seen) == (20 if piece_bytes == 1 else 1)


def test_only_a_few_pieces_are_read_ahead(monkeypatch):
    class Watched(list[np.ndarray]):
        taken = 0

        def __getitem__(self, key):
            self.taken += 1
            return super().__getitem__(key)

    class Stopped(Exception):
        pass

    def stop(_):
        raise Stopped

    monkeypatch.setattr(pixels, "_PIECE_BYTES", 1)
    sources = Watched([np.zeros((2, 2), np.uint8)] * 5000)
    before = list(warnings.filters)
    with pytest.raises(Stopped):
        read_pixels(sources, 2, 1, progress=stop)
    assert 0 < sources.taken <= 2 * (os.cpu_count() or 1) + 1
    assert warnings.filters == before


def test_a_mapped_file_holds_what_memory_would(files, tmp_path):
    inside, mapped = read_pixels(files, 6, 3), map_pixels(files, 6, 3, tmp_path / "cache")
    index = torch.tensor([5, 0, 17])
    assert torch.equal(inside.images[index], mapped.images[index])
    assert torch.equal(inside.images, mapped.images)
    assert inside.survey.unreadable == mapped.survey.unreadable
    assert inside.survey.mean == mapped.survey.mean


def test_a_second_run_reads_no_image(files, tmp_path):
    first = map_pixels(files, 6, 3, tmp_path / "cache")
    for path in files:  # the same to the eye of the file system, and no image any more
        stat = path.stat()
        path.write_bytes(b"x" * stat.st_size)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    seen: list[int] = []
    second = map_pixels(files, 6, 3, tmp_path / "cache", progress=seen.append)
    assert torch.equal(first.images, second.images)
    assert second.survey.unreadable == first.survey.unreadable
    assert second.survey.grey == first.survey.grey
    assert (second.survey.digests == first.survey.digests).all()
    assert seen == [20]


def test_the_fingerprint_knows_what_matters(files):
    names = {
        fingerprint(files, 6, 3),
        fingerprint(files, 7, 3),
        fingerprint(files, 6, 1),
        fingerprint(files[::-1], 6, 3),
    }
    os.utime(files[0], ns=(0, 0))
    names.add(fingerprint(files, 6, 3))
    arrays = [np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), np.ones((2, 3), np.uint8)]
    names |= {fingerprint([array], 6, 3) for array in arrays}
    assert len(names) == 8
    assert fingerprint(files, 6, 3) == fingerprint(list(files), 6, 3)


@pytest.mark.parametrize("damage", ["cut pixels", "no survey", "no pixels", "cut survey"])
def test_a_file_that_is_not_whole_is_written_again(files, tmp_path, damage):
    expected = map_pixels(files, 6, 3, tmp_path / "cache").images.clone()
    (entry,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    name = "pixels.u8" if "pixels" in damage else "survey.npz"
    if damage.startswith("no"):
        (entry / name).unlink()
    else:
        (entry / name).write_bytes((entry / name).read_bytes()[:-10])
    assert torch.equal(map_pixels(files, 6, 3, tmp_path / "cache").images, expected)


def read_slowly(folder: Path, files: list[Path]) -> None:
    pixels._PIECE_BYTES = 1
    map_pixels(files, 6, 3, folder, progress=lambda _: time.sleep(0.2))


def test_a_killed_pass_leaves_nothing_that_counts(files, tmp_path):
    cache = tmp_path / "cache"
    process = multiprocessing.get_context("spawn").Process(target=read_slowly, args=(cache, files))
    process.start()
    while not list(cache.glob("*.partial")):
        assert process.is_alive()
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert [path.suffix for path in cache.iterdir() if path.is_dir()] == [".partial"]
    # Other images: the dead pass is swept all the same.
    assert len(map_pixels(files[10:], 6, 3, cache).images) == 10
    assert not list(cache.glob("*.partial"))


def test_nothing_readable_is_no_crash(files, tmp_path):
    assert read_pixels([files[3]], 6, 3).images.shape == (0, 3, 6, 6)
    assert map_pixels([files[3]], 6, 3, tmp_path / "cache").images.shape == (0, 3, 6, 6)
    assert map_pixels([files[3]], 6, 3, tmp_path / "cache").survey.unreadable[0][0] == 0


def test_no_space_is_a_sentence_before_any_work(tmp_path):
    images = [np.zeros((1, 1), np.uint8)] * 1000
    with pytest.raises(DataError, match=r"need 1,000,000,000,000,000 bytes in .*cache and [\d,]+ are free: free some"):
        map_pixels(images, 1_000_000, 1, tmp_path / "cache")


def test_a_folder_that_cannot_be_written_is_a_sentence(files, tmp_path):
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(DataError, match=r"cannot be kept in .*cache: File exists: free some space, move the cache"):
        map_pixels(files, 6, 3, tmp_path / "cache")


def test_a_cache_that_may_only_be_read_is_read(files, tmp_path, monkeypatch):
    written = map_pixels(files, 6, 3, tmp_path)

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.utime", refused)
    monkeypatch.setattr("objectives.pixels._survey", None)  # it does not survey again
    assert torch.equal(map_pixels(files, 6, 3, tmp_path).images, written.images)


def test_where_the_disk_is_full_the_file_goes_that_was_not_asked_for_the_longest(files, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    for age, size in enumerate((4, 5, 6)):
        map_pixels(files, size, 3, cache)
        os.utime(cache / fingerprint(files, size, 3), (100 + age, 100 + age))
    oldest = map_pixels(files, 4, 3, cache)  # which makes it the youngest
    room = 20 * 3 * 7**2

    def disk_usage(folder):
        return SimpleNamespace(free=room if len([path for path in folder.iterdir() if path.is_dir()]) < 3 else room - 1)

    monkeypatch.setattr("shutil.disk_usage", disk_usage)
    map_pixels(files, 7, 3, cache)
    kept = {fingerprint(files, size, 3) for size in (4, 6, 7)}
    assert {path.name for path in cache.iterdir() if path.is_dir()} == kept
    assert torch.equal(oldest.images, read_pixels(files, 4, 3).images)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=0))
    with pytest.raises(DataError, match=r"the images need 600,000 bytes in .* and 0 are free"):
        map_pixels(files, 100, 3, cache)
    assert {path.name for path in cache.iterdir() if path.is_dir()} == kept  # nothing goes in vain
