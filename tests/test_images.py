"""Reading every kind of picture as 8-bit RGB, and writing whole files or none."""

import os
import resource
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from srgan_jax import images
from srgan_jax.errors import UserError


@pytest.fixture
def file(tmp_path):
    """`file(array, mode)`: the path of a lossless file of that Pillow mode."""

    def save(pixels: np.ndarray, mode: str, suffix: str = ".png", **options):
        path = tmp_path / f"picture{suffix}"
        height, width = pixels.shape[:2]
        Image.frombytes(mode, (width, height), pixels.tobytes()).save(path, **options)
        return path

    return save


def mode_of(path) -> str:
    with Image.open(path) as picture:
        return picture.mode


def gray(pixels: np.ndarray) -> np.ndarray:
    return np.stack([pixels] * 3, axis=-1)


def test_rgb_is_read_as_it_is(file, noise):
    pixels = noise(7, 5)
    image, note = images.read(file(pixels, "RGB"))
    assert image.dtype == np.uint8
    assert note == ""
    np.testing.assert_array_equal(image, pixels)


def test_gray_is_repeated(file, noise):
    pixels = noise(7, 5, 1)
    image, note = images.read(file(pixels, "L"))
    assert "gray" in note
    np.testing.assert_array_equal(image, gray(pixels[..., 0]))


def test_one_bit_is_black_and_white(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2, (7, 5)).astype(bool)
    path = tmp_path / "bits.png"
    Image.fromarray(bits).save(path)
    assert mode_of(path) == "1"
    image, note = images.read(path)
    assert "1-bit" in note
    np.testing.assert_array_equal(image, gray(bits * 255))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_dropped_and_colours_stay(file, noise, mode):
    """Also where alpha is 0: nothing is blended with black."""
    pixels = noise(7, 5, len(mode))
    pixels[:2, ..., -1] = 0
    image, note = images.read(file(pixels, mode))
    assert "alpha dropped" in note
    colours = gray(pixels[..., 0]) if mode == "LA" else pixels[..., :3]
    np.testing.assert_array_equal(image, colours)


@pytest.mark.parametrize("transparency", [None, 1, bytes([0, 128, 255])], ids=str)
def test_palettes_are_resolved(tmp_path, noise, transparency):
    palette = noise(1, 16)[0]
    indices = noise(7, 5, 1)[..., 0] % 16
    picture = Image.fromarray(indices, "L")
    picture.putpalette(palette.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    path = tmp_path / "palette.png"
    picture.save(path, **options)
    assert mode_of(path) == "P"
    image, note = images.read(path)
    assert "palette" in note
    np.testing.assert_array_equal(image, palette[indices])


def test_cmyk_becomes_the_colours_it_stands_for(file):
    inks = np.array(
        [[0, 0, 0, 0], [0, 0, 0, 255], [255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 255, 0]], np.uint8
    )
    image, note = images.read(file(inks[None], "CMYK", ".tif"))
    assert "CMYK" in note
    white, black, cyan, magenta, yellow = image[0].tolist()
    assert white == [255, 255, 255]
    assert black == [0, 0, 0]
    assert cyan == [0, 255, 255]
    assert magenta == [255, 0, 255]
    assert yellow == [255, 255, 0]


@pytest.mark.parametrize(
    ("mode", "suffix", "dtype"),
    [("I;16", ".png", "<u2"), ("I;16", ".tif", "<u2"), ("I;16B", ".tif", ">u2")],
)
def test_16_bit_gray_is_scaled_to_the_nearest_level(file, mode, suffix, dtype):
    deep = np.random.default_rng(0).integers(0, 65536, (16, 8)).astype(dtype)
    deep[0] = [0, 1, 128, 129, 257, 65406, 65407, 65535]
    image, note = images.read(file(deep, mode, suffix))
    assert "16-bit" in note
    np.testing.assert_array_equal(image, gray(np.round(deep / 257.0)))
    assert image[0, :, 0].tolist() == [0, 0, 0, 1, 1, 254, 255, 255]


def test_a_dark_16_bit_picture_stays_dark(file):
    image, _ = images.read(file(np.full((4, 4), 200, "<u2"), "I;16"))
    np.testing.assert_array_equal(image, 1)


def test_16_bit_colour_is_reduced_and_says_so(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (16, 8, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)  # filter 0: none
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 8, 16, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    path = tmp_path / "deep.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        )
    )
    image, note = images.read(path)
    np.testing.assert_allclose(image, deep / 257.0, atol=1)  # Pillow leaves the upper byte
    assert "16-bit" in note


@pytest.mark.parametrize(
    ("mode", "dtype", "level"),
    [("F", "<f4", 0.5), ("I", "<i4", 70000), ("I", "<i4", -1), ("I", "<i4", 200)],
)
def test_levels_that_could_mean_anything_are_refused(file, mode, dtype, level):
    """Depth is never guessed from the largest value: 200 of 255, of 65535, of 2**31?"""
    path = file(np.full((4, 4), level, dtype), mode, ".tif")
    with pytest.raises(UserError, match=r"picture\.tif.*convert it to 8-bit RGB"):
        images.read(path)


TURNS = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation_is_obeyed(file, noise, orientation):
    pixels = noise(7, 5)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image, _ = images.read(file(pixels, "RGB", exif=exif))
    np.testing.assert_array_equal(image, TURNS[orientation](pixels))


def test_a_jpeg_is_read_and_turned(file):
    pixels = np.zeros((64, 32, 3), np.uint8)
    pixels[:32, :, 0] = 255  # red above black
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown a quarter turn clockwise: red at the right
    image, note = images.read(file(pixels, "RGB", ".jpg", exif=exif, quality=95))
    assert image.shape == (32, 64, 3)
    assert note == ""
    np.testing.assert_allclose(image[:, 40:].mean((0, 1)), [255, 0, 0], atol=3)
    np.testing.assert_allclose(image[:, :24].mean((0, 1)), 0, atol=3)


@pytest.mark.parametrize("keep", [0, 0.1, 0.9])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_truncated_files_are_named(file, noise, suffix, keep):
    path = file(noise(64, 64), "RGB", suffix)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(UserError) as error:
        images.read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_picture_is_named(tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("not a picture")
    for path in (text, tmp_path / "missing.png"):
        with pytest.raises(UserError, match=f"{path.name}: cannot be read as an image"):
            images.read(path)


def test_large_pictures_are_read_and_bombs_refused(file, noise, monkeypatch):
    path = file(noise(10, 10), "RGB")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)  # warns above 60, refuses above 120
    assert images.read(path)[0].shape == (10, 10, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(UserError, match=r"picture\.png"):
        images.read(path)


READ_ON_THREADS = """
import concurrent.futures, sys, warnings
from PIL import Image
from srgan_jax import images
Image.MAX_IMAGE_PIXELS = 60
filters = list(warnings.filters)
sys.setswitchinterval(1e-6)
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    for image, note in pool.map(images.read, [sys.argv[1]] * 2000):
        assert image.shape == (10, 10, 3)
assert warnings.filters == filters
"""


def test_threads_read_quietly_and_leave_warnings_as_they_are(file, noise):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "camera"
    cut = exif.tobytes()[:-4]  # Pillow remarks on it
    path = file(noise(10, 10), "RGB", ".jpg", exif=cut)
    warnings.simplefilter("always")
    with pytest.warns(UserWarning, match="Truncated File Read"):
        images.read(path)
    command = [sys.executable, "-W", "error", "-c", READ_ON_THREADS, str(path)]
    subprocess.run(command, check=True)


def test_find_is_recursive_and_sorted(tmp_path):
    for name in ("b.PNG", "a.jpeg", "deep/er/c.TIF", "deep/notes.txt", "d.png.bak"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "folder.png").mkdir()
    found = [str(path.relative_to(tmp_path)) for path in images.find(tmp_path)]
    assert found == ["a.jpeg", "b.PNG", "deep/er/c.TIF"]


def test_what_is_written_is_read_back(tmp_path, noise):
    path = tmp_path / "sr.png"
    images.write(path, noise(6, 9))
    np.testing.assert_array_equal(images.read(path)[0], noise(6, 9))
    assert [p.name for p in tmp_path.iterdir()] == ["sr.png"]


def test_a_failed_write_leaves_the_old_file_and_no_half_one(tmp_path, noise):
    path = tmp_path / "sr.png"
    images.write(path, noise(8, 8))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))  # as a full disk
    try:
        with pytest.raises(UserError, match=r"sr\.png: cannot be written"):
            images.write(path, noise(100, 100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["sr.png"]
    np.testing.assert_array_equal(images.read(path)[0], noise(8, 8))


def test_a_name_that_is_taken_by_a_folder_leaves_no_half_file(tmp_path, noise):
    (tmp_path / "sr.png").mkdir()
    with pytest.raises(UserError, match=r"sr\.png: cannot be written"):
        images.write(tmp_path / "sr.png", noise(8, 8))
    assert [p.name for p in tmp_path.iterdir()] == ["sr.png"]


def test_a_missing_folder_is_named(tmp_path, noise):
    with pytest.raises(UserError, match=r"nowhere/sr\.png: cannot be written"):
        images.write(tmp_path / "nowhere" / "sr.png", noise(8, 8))


def test_find_follows_links_to_files_alone_and_sorts_by_folders(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for name in ("a/b.png", "a.png", "a-b/c.png", "A.png", ".hidden/d.png", "é.png", "a/bb/e.png"):
        (inside / name).parent.mkdir(parents=True, exist_ok=True)
        (inside / name).touch()
    outside.mkdir()
    (outside / "f.png").write_bytes(b"four")
    (inside / "link.png").symlink_to(outside / "f.png")
    (inside / "folder").symlink_to(outside)
    (inside / "nothing.png").symlink_to(outside / "nothing")
    (inside / "loop.png").symlink_to("loop.png")
    os.mkfifo(inside / "pipe.png")
    found = list(images.find(inside))
    assert found == sorted(found)
    assert [str(path.relative_to(inside)) for path in found] == [
        ".hidden/d.png", "A.png", "a/b.png", "a/bb/e.png", "a-b/c.png", "a.png", "link.png", "é.png"
    ]  # fmt: skip
    sizes = {name: status.st_size for name, status in images.scan(inside)}
    assert list(sizes) == [str(path.relative_to(inside)) for path in found]
    assert sizes["link.png"] == 4


def test_find_passes_over_hidden_files(tmp_path):
    for name in ("a.png", ".half.png"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in images.find(tmp_path)] == ["a.png"]
