"""Pictures packed in memory and on disk: equal, reused while the files are the same, in pairs."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from srgan_jax import images
from srgan_jax.data import cache as cache_lib
from srgan_jax.data import packed, sources
from srgan_jax.data.packed import Packed
from srgan_jax.errors import UserError

SIZES = {"a.png": (20, 30), "b.png": (33, 24), "deep/er/a.bmp": (24, 24), "deep/z.png": (16, 40)}


def save(file: pathlib.Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


@pytest.fixture
def pictures(noise) -> dict[str, np.ndarray]:
    return {name: noise(*size) for name, size in SIZES.items()}


@pytest.fixture
def folder(tmp_path, pictures) -> pathlib.Path:
    for name, pixels in pictures.items():
        save(tmp_path / "hr" / name, pixels)
    return tmp_path / "hr"


@pytest.fixture
def lr_folder(tmp_path, noise) -> pathlib.Path:
    """Named as DIV2K's, with sides of a quarter, rounded down."""
    for name, (height, width) in SIZES.items():
        file = tmp_path / "lr" / name
        save(file.with_stem(f"{file.stem}x4"), noise(height // 4, width // 4))
    return tmp_path / "lr"


@pytest.fixture
def cache(tmp_path) -> pathlib.Path:
    return tmp_path / "cache"


def pack_pairs(folder, cache, **settings) -> tuple[Packed, Packed | None]:
    settings = {"source": "folder", "split": "train"} | settings
    return packed.pack(path=str(folder), cache=str(cache), **settings)


def pack(folder, cache, **settings) -> Packed:
    hr, lr_image = pack_pairs(folder, cache, **settings)
    assert lr_image is None
    return hr


def fails(*args, **settings) -> str:
    with pytest.raises(UserError) as error:
        pack_pairs(*args, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def entries(cache: pathlib.Path) -> list[pathlib.Path]:
    """What is in the cache, and nothing else but locks."""
    found = sorted(cache.iterdir()) if cache.exists() else []
    return [path for path in found if path.suffix != ".lock"]


def assert_holds(result: Packed, expected: dict[str, np.ndarray]) -> None:
    """These pictures, and no byte more."""
    assert_partly(result, expected)
    taken = [-(-truth.nbytes // 512) for truth in expected.values()]
    np.testing.assert_array_equal(result.first, np.cumsum([0, *taken])[:-1])
    assert len(result.blocks) == sum(taken)


def assert_partly(result: Packed, expected: dict[str, np.ndarray]) -> None:
    """These pictures, among what is packed."""
    assert result.names == tuple(expected)
    assert len(result) == len(expected)
    for array in (result.heights, result.widths, result.first):
        assert array.dtype == np.int32
    assert result.blocks.dtype == np.uint8
    assert result.blocks.shape[1] == packed.BLOCK == 512
    assert not result.blocks.flags.writeable
    for i, truth in enumerate(expected.values()):
        assert (result.heights[i], result.widths[i]) == truth.shape[:2]
        np.testing.assert_array_equal(result.picture(i), truth)
        assert np.shares_memory(result.picture(i), result.blocks)


@pytest.fixture
def no_reading(monkeypatch) -> Callable[[], None]:
    """From its call on, nothing is decoded."""

    def read(file):
        raise AssertionError(f"{file} is read")

    return lambda: monkeypatch.setattr(images, "read", read)


def test_in_memory(folder, pictures, tmp_path):
    result = pack(folder, "none")
    assert_holds(result, pictures)
    assert result.summary == f"{folder}: 4 pictures, 0.0 megapixels"
    assert [path.name for path in tmp_path.iterdir()] == ["hr"]


@pytest.mark.parametrize(("count", "kept"), [(1, [0]), (2, [0, 2]), (3, [0, 1, 2]), (4, None)])
def test_some_of_the_pictures_spread_over_all(folder, pictures, count, kept):
    whole = pack(folder, "none")
    some = whole.spread(count)
    if kept is None:
        assert some is whole
        return
    names = list(pictures)
    assert_partly(some, {names[i]: pictures[names[i]] for i in kept})
    assert some.digest not in (whole.digest, whole.spread(count - 1).digest)
    assert some.summary.endswith(f"; {count} of 4 pictures are used")


def test_on_disk_and_again_without_decoding(folder, pictures, cache, no_reading):
    first = pack(folder, cache)
    no_reading()
    again = pack(folder, cache)
    for result in (first, again):
        assert_holds(result, pictures)
        assert result.summary == f"{folder}: 4 pictures, 0.0 megapixels; cache {entries(cache)[0]}"
    assert first.digest == again.digest
    assert sorted(file.name for file in entries(cache)[0].iterdir()) == ["index.json", "pixels.bin"]


def test_the_default_cache(folder, pictures, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert_holds(pack(folder, ""), pictures)
    assert len(entries(tmp_path / "xdg" / "srgan_jax" / "pictures")) == 1


def test_the_cache_folder_may_be_relative(folder, cache, pictures, monkeypatch, no_reading):
    monkeypatch.chdir(cache.parent)
    pack(folder, cache)
    no_reading()
    assert_holds(pack(folder.name, cache.name), pictures)


def test_the_built_in_photographs_stay_in_memory(cache):
    expected = sources.load(source="builtin", path="", split="validation")
    result = pack("", cache, source="builtin", split="validation")
    assert_holds(result, dict(zip(expected.names, expected.images, strict=True)))
    assert result.summary == expected.summary
    assert not cache.exists()


def test_the_digest_is_of_pixels_names_and_sizes(folder, pictures, tmp_path):
    digest = pack(folder, "none").digest
    assert re.fullmatch("[0-9a-f]{64}", digest)
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert pack(copy, "none").digest == digest
    pixels = pictures["a.png"].copy()
    pixels[7, 8, 1] ^= 1
    save(copy / "a.png", pixels)
    assert pack(copy, "none").digest != digest
    save(copy / "a.png", pictures["a.png"].reshape(30, 20, 3))
    assert pack(copy, "none").digest != digest
    save(copy / "a.png", pictures["a.png"])
    assert pack(copy, "none").digest == digest
    (copy / "a.png").rename(copy / "a1.png")
    assert pack(copy, "none").digest != digest


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_every_crop_takes_its_pictures_from_one_cache(
    folder, pictures, cache, no_reading, tmp_path, where
):
    large = {name: pictures[name] for name in ("b.png", "deep/er/a.bmp")}
    for name, pixels in large.items():
        save(tmp_path / "large" / name, pixels)
    expected = pack(tmp_path / "large", "none").digest
    for min_size in (24, 1, 24):
        result = pack(folder, cache if where == "disk" else "none", min_size=min_size)
        assert_partly(result, large if min_size == 24 else pictures)
        if min_size == 24:
            assert "left out 2 smaller than 24x24: a.png (30x20), deep/z.png (40x16)" in (
                result.summary
            )
            assert result.digest == expected  # of those that are used
        if where == "disk":
            no_reading()
            assert len(entries(cache)) == 1


# When it is packed anew.


def change(folder: pathlib.Path) -> None:
    save(folder / "b.png", np.zeros((33, 24, 3), np.uint8))


def touch(folder: pathlib.Path) -> None:
    os.utime(folder / "b.png", ns=(0, 0))


def several(folder: pathlib.Path) -> None:
    change(folder)
    for name in ("n.png", "deep/n.png"):
        save(folder / name, np.zeros((20, 20, 3), np.uint8))
    (folder / "a.png").unlink()


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (change, "1 changed"),
        (touch, "1 changed"),
        (lambda folder: (folder / "b.png").unlink(), "1 gone"),
        (lambda folder: (folder / "b.png").rename(folder / "c.png"), "1 new, 1 gone"),
        (several, "2 new, 1 changed, 1 gone"),
    ],
    ids=["changed", "touched", "gone", "renamed", "several"],
)
def test_other_files(folder, cache, act, reason):
    before = pack(folder, cache)
    kept = [before.picture(i).copy() for i in range(len(before))]
    act(folder)
    result = pack(folder, cache)
    expected = sources.load(source="folder", path=str(folder), split="train")
    assert_holds(result, dict(zip(expected.names, expected.images, strict=True)))
    line = f"the cache of {folder} was made from other files ({reason}): packed anew"
    assert line in result.summary
    assert "packed anew" not in pack(folder, cache).summary
    assert len(entries(cache)) == 1
    for i, picture in enumerate(kept):  # of a process that still uses the old one
        np.testing.assert_array_equal(before.picture(i), picture)


def cut_pixels(entry: pathlib.Path) -> None:
    os.truncate(entry / "pixels.bin", 1000)


def other_version(entry: pathlib.Path) -> None:
    head = json.loads((entry / "index.json").read_text().splitlines()[0])
    assert head["format"] == cache_lib.FORMAT
    change_index(entry, f'"format": {head["format"]}', '"format": 1')


def change_index(entry: pathlib.Path, old: str, new: str) -> None:
    text = (entry / "index.json").read_text()
    assert old in text
    (entry / "index.json").write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (cut_pixels, "is damaged (pixels.bin has 1000 bytes, not 8704)"),
        (lambda entry: (entry / "pixels.bin").unlink(), "is damaged"),
        (lambda entry: (entry / "index.json").unlink(), "is damaged"),
        (lambda entry: os.truncate(entry / "index.json", 50), "is damaged"),
        (lambda entry: (entry / "index.json").write_text("[]"), "is of another version"),
        (lambda entry: (entry / "index.json").write_text('{"format": 2}'), "is damaged"),
        (lambda entry: change_index(entry, '"made_from"', '"made_of"'), "is damaged"),
        (lambda entry: change_index(entry, "b.png", "c.png"), "is damaged"),
        (other_version, "is of another version"),
        (lambda entry: (shutil.rmtree(entry), entry.write_text("")), "cannot be read"),
    ],
    ids=[
        "pixels cut",
        "no pixels",
        "no index",
        "index cut",
        "no dict",
        "head alone",
        "no stamps",
        "another name",
        "version",
        "no folder",
    ],
)
def test_a_cache_that_is_not_whole(folder, pictures, cache, act, reason):
    pack(folder, cache)
    act(entries(cache)[0])
    result = pack(folder, cache)
    assert_holds(result, pictures)
    assert f"the cache of {folder} {reason}" in result.summary
    assert "packed anew" not in pack(folder, cache).summary


# What is left out, and what stops.


def test_damaged_and_small_pictures(folder, pictures, cache, no_reading):
    (folder / "deep" / "broken.png").write_bytes(b"no picture")
    message = fails(folder, cache)
    assert f"{folder / 'deep' / 'broken.png'}: cannot be read as an image" in message
    assert "--config.data.damaged=skip" in message
    assert entries(cache) == []
    assert "--config.eval.damaged=skip" in fails(folder, "none", key="eval")
    results = [pack(folder, "none", damaged="skip", min_size=20)]
    results += [pack(folder, cache, damaged="skip", min_size=20)]
    no_reading()
    results += [pack(folder, cache, damaged="skip", min_size=20)]
    assert fails(folder, cache) == message  # also of those that were packed without it
    assert fails(folder, cache, min_size=20) == message
    for each in results:
        assert_partly(each, {name: pictures[name] for name in ("a.png", "b.png", "deep/er/a.bmp")})
        assert "left out 1 smaller than 20x20: deep/z.png (40x16)" in each.summary
        assert "left out 1 damaged" in each.summary


def test_a_picture_too_large_to_be_indexed_counts_as_damaged(folder, monkeypatch):
    monkeypatch.setattr(packed, "MOST", 2000)
    assert "b.png: more than 2000 bytes decoded" in fails(folder, "none")
    assert pack(folder, "none", damaged="skip").names == ("a.png", "deep/er/a.bmp", "deep/z.png")


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("act", [change, lambda folder: (folder / "b.png").unlink()])
@pytest.mark.parametrize("damaged", ["stop", "skip"])
def test_files_that_change_while_they_are_packed(folder, cache, monkeypatch, where, act, damaged):
    read, todo, lock = images.read, [act], threading.Lock()

    def changing(file):
        with lock:
            while todo:
                todo.pop()(folder)
        return read(file)

    monkeypatch.setattr(images, "read", changing)
    line = fails(folder, cache if where == "disk" else "none", damaged=damaged)
    assert line == f"{folder}: b.png changed while they were packed: run again"
    assert entries(cache) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(folder, cache):
    cache.mkdir(mode=0o500)
    assert "Permission denied" in fails(folder, cache)


def test_a_cache_folder_that_is_a_file(folder, cache):
    cache.write_text("")
    line = fails(folder, cache, key="eval")
    assert str(cache) in line
    assert "about 8,704 bytes, cannot be written (" in line
    assert "--config.eval.cache=DIR" in line
    assert "--config.eval.cache=none" in line


@pytest.fixture
def disk(tmp_path) -> Iterator[pathlib.Path]:
    """A file system of its own, of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk(folder, disk, noise):
    for i in range(40):
        save(folder / f"large{i}.png", noise(128, 128, seed=i))
    line = fails(folder, disk)
    assert str(disk) in line
    assert "cannot be written (No space left on device)" in line
    assert re.search(r"about 1,\d{3},\d{3} bytes", line)
    assert entries(disk) == []
    for i in range(30):
        (folder / f"large{i}.png").unlink()
    assert len(pack(folder, disk)) == 14


# Several processes, and killed ones.

SLOW = """
import sys, time
from srgan_jax import images
from srgan_jax.data import packed
read = images.read
def slow(file):
    print(f"{{file}}\\n", end="", flush=True)  # one write: threads
    time.sleep({delay})
    return read(file)
images.read = slow
packed.pack(source="folder", path=sys.argv[1], split="train", cache=sys.argv[2])
"""


def start(folder, cache, delay: float) -> subprocess.Popen:
    code = SLOW.format(delay=delay)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder), str(cache)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])},
    )


def test_killed_while_packing(folder, pictures, cache, tmp_path):
    for i in range(40):
        save(folder / f"more{i:02}.png", np.full((64, 64, 3), i, np.uint8))
    process = start(folder, cache, delay=0.05)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in cache.rglob("pixels.bin")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    (left,) = entries(cache)
    assert left.suffix == ".partial"

    # Of another set, which removes what was left all the same.
    save(tmp_path / "other" / "x.png", np.zeros((8, 8, 3), np.uint8))
    pack(tmp_path / "other", cache)
    assert [path.name.split("-")[0] for path in entries(cache)] == ["other"]
    result = pack(folder, cache)
    assert len(result) == 44
    assert "packed anew" not in result.summary


def test_killed_while_an_old_one_is_replaced(folder, pictures, cache):
    """As if between moving the old one away and removing it."""
    pack(folder, cache)
    (entry,) = entries(cache)
    entry.rename(entry.with_name(f".{entry.name}.old"))
    (cache / f".{entry.name}.partial").mkdir()
    assert_holds(pack(folder, cache), pictures)
    assert entries(cache) == [entry]


def test_two_processes_build_it_once(folder, cache, pictures):
    processes = [start(folder, cache, delay=0.5) for _ in range(2)]
    outputs = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(map(len, outputs)) == [0, len(pictures)]
    assert_holds(pack(folder, cache), pictures)


def test_what_another_process_is_building_is_left_alone(folder, cache, tmp_path, monkeypatch):
    pack(folder, cache)
    (entry,) = entries(cache)
    other = cache_lib.Entry(cache / "other", {})
    with other.locked(), other.building() as aside:
        (folder / "a.png").unlink()
        pack(folder, cache)
        assert aside.is_dir()
        other.write_index(aside, [])
    assert entries(cache) == sorted([entry, cache / "other"])


# Pairs.


def test_pairs(folder, lr_folder, pictures, cache, noise, no_reading):
    expected = {
        f"{name[:-4]}x4{name[-4:]}": noise(height // 4, width // 4)
        for name, (height, width) in SIZES.items()
    }
    settings = {"lr_path": str(lr_folder), "scale": 4}
    results = [pack_pairs(folder, where, **settings) for where in ("none", cache)]
    no_reading()
    results.append(pack_pairs(folder, cache, **settings))
    for hr, lr_image in results:
        assert_holds(hr, pictures)
        assert lr_image is not None
        assert_holds(lr_image, expected)
        assert hr.digest != lr_image.digest
        assert lr_image.summary == f"{lr_folder}: 4 pictures, 0.0 megapixels"
    (entry,) = entries(cache)
    assert (entry / "lr_pixels.bin").is_file()


def test_pairs_are_packed_anew_when_lr_changes(folder, lr_folder, cache):
    settings = {"lr_path": str(lr_folder), "scale": 4}
    pack_pairs(folder, cache, **settings)
    touch_me = lr_folder / "bx4.png"
    os.utime(touch_me, ns=(0, 0))
    hr, _ = pack_pairs(folder, cache, **settings)
    assert f"the cache of {folder} was made from other files (1 changed)" in hr.summary


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_pairs_are_left_out_together(folder, lr_folder, pictures, cache, where):
    cache = cache if where == "disk" else "none"
    (lr_folder / "bx4.png").write_bytes(b"no picture")
    (lr_folder / "deep" / "zx4.png").write_bytes(b"of a small one")
    (folder / "a.png").write_bytes(b"no picture")
    settings = {"lr_path": str(lr_folder), "scale": 4, "min_size": 18}
    line = fails(folder, cache, **settings)
    assert f"{folder / 'a.png'}: cannot be read" in line
    assert f"{lr_folder / 'bx4.png'}: cannot be read" in line
    for _ in range(2):
        hr, lr_image = pack_pairs(folder, cache, damaged="skip", **settings)
    assert lr_image is not None
    np.testing.assert_array_equal(hr.picture(0), pictures["deep/er/a.bmp"])
    np.testing.assert_array_equal(
        lr_image.picture(0), images.read(lr_folder / "deep/er/ax4.bmp")[0]
    )
    assert hr.names == ("deep/er/a.bmp",)
    assert lr_image.names == ("deep/er/ax4.bmp",)
    assert "left out 1 smaller than 18x18: deep/z.png" in hr.summary
    assert "left out 2 damaged" in hr.summary


def test_folders_that_do_not_pair(folder, lr_folder):
    (lr_folder / "ax4.png").rename(lr_folder / "deep" / "ax4.png")
    (lr_folder / "bx4.png").rename(lr_folder / "bx2.png")
    line = fails(folder, "none", lr_path=str(lr_folder), scale=4)
    assert line == (
        f"data.lr_path={lr_folder} does not pair with {folder}: nothing for a.png, b.png;"
        " no HR picture for bx2.png, deep/ax4.png"
    )
    assert "lr_path=nowhere is not a folder" in fails(folder, "none", lr_path="nowhere", scale=4)


@pytest.mark.parametrize("damaged", ["stop", "skip"])
def test_pairs_of_wrong_size(folder, lr_folder, damaged):
    save(lr_folder / "bx4.png", np.zeros((9, 6, 3), np.uint8))
    line = fails(folder, "none", lr_path=str(lr_folder), scale=4, damaged=damaged)
    assert "bx4.png is 6x9, but its HR picture b.png is 24x33, 1/4 of which is 6x8" in line


# Reading on threads.


def test_no_more_pictures_are_read_ahead_than_the_window(monkeypatch):
    monkeypatch.setattr(sources, "cores", lambda: 2)
    begun: list[int] = []
    results = sources.in_order(lambda i: begun.append(i) or i, range(100), False, "")
    for i, result in enumerate(results):
        assert result == i
        assert len(begun) <= i + 2 * sources.WINDOW + 1
    assert sorted(begun) == list(range(100))


def test_a_failure_stops_reading(folder, monkeypatch):
    monkeypatch.setattr(sources, "cores", lambda: 2)
    begun: list[int] = []

    def work(i: int) -> None:
        begun.append(i)
        time.sleep(0.001)
        if i == 3:
            raise OSError("stop")

    with pytest.raises(OSError, match="stop"):
        list(sources.in_order(work, range(1000), False, ""))
    assert len(begun) < 20


def test_tfds(tmp_path, cache, noise, no_reading):
    tfds = pytest.importorskip("tensorflow_datasets", reason="needs srgan_jax[tfds]")

    class Few(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"image": tfds.features.Image()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(3):
                file = tmp_path / f"{i}.png"
                save(file, noise(16, 20 + i))
                yield i, {"image": str(file)}

    def prepare() -> None:
        Few(data_dir=tmp_path / "data", file_format="array_record").download_and_prepare()

    prepare()
    settings = {"source": "tfds", "dataset": "few"}
    result = pack(tmp_path / "data", cache, **settings)
    loaded = sources.load(path=str(tmp_path / "data"), split="train", **settings)
    expected = dict(zip(loaded.names, loaded.images, strict=True))
    assert_holds(result, expected)
    assert entries(cache)[0].name.startswith("few-train-")
    shutil.rmtree(tmp_path / "data" / "few")
    prepare()
    result = pack(tmp_path / "data", cache, **settings)
    assert "the cache of tensorflow-datasets few/train was made from other files" in result.summary
    no_reading()
    assert_holds(pack(tmp_path / "data", cache, **settings), expected)
