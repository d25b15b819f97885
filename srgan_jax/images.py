"""Image files in and out: the one reader and the one writer."""

import errno
import os
import pathlib
import stat
import warnings
from collections.abc import Callable, Iterator

import numpy as np
from PIL import ExifTags, Image, ImageOps

from srgan_jax import files
from srgan_jax.errors import UserError, first_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

Reader = Callable[[], tuple[np.ndarray, str]]  # gives what `read` gives

# Here and not where they arise, for `warnings.catch_warnings` is not for threads.
# A picture is refused at twice Pillow's limit; between, it is merely large.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Pillow's remarks on metadata that decoding does not need.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

# How a picture that is not 8-bit RGB becomes so, by Pillow's mode.
_CONVERSIONS = {
    "RGB": "",
    "L": "gray, repeated in three channels",
    "1": "1-bit, repeated in three channels",
    "LA": "gray with alpha, alpha dropped",
    "La": "gray with alpha, alpha dropped",
    "RGBA": "alpha dropped",
    "RGBa": "alpha dropped",
    "RGBX": "fourth channel dropped",
    "P": "palette, resolved",
    "PA": "palette, resolved, alpha dropped",
    "CMYK": "CMYK, converted to RGB",
    "YCbCr": "YCbCr, converted to RGB",
    "LAB": "LAB, converted to RGB",
    "HSV": "HSV, converted to RGB",
    "I;16": "16-bit gray, reduced to 8",
    "I;16B": "16-bit gray, reduced to 8",
    "I;16L": "16-bit gray, reduced to 8",
    "I;16N": "16-bit gray, reduced to 8",
}


def find(folder: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Every image file below a folder, by its suffix, in sorted order; no hidden ones."""
    return (pathlib.Path(folder, name) for name, _ in scan(folder))


def scan(
    folder: str | os.PathLike[str],
    prefix: str = "",
    *,
    suffixes: tuple[str, ...] = SUFFIXES,
    deep: bool = True,
) -> Iterator[tuple[str, os.stat_result]]:
    """What `find` gives, as names below the folder, after `prefix`, and what the system tells.

    `suffixes` are those looked for, `deep` is to look into folders in it, too. Links to files are
    followed, links to folders are not; a folder that may not be read has none.
    """
    try:
        with os.scandir(os.fspath(folder)) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
    except PermissionError:
        return
    for entry in inside:
        if entry.is_dir(follow_symlinks=False):
            if deep:
                yield from scan(entry, f"{prefix}{entry.name}/", suffixes=suffixes)
        elif entry.name.lower().endswith(suffixes) and not entry.name.startswith("."):
            try:
                status = entry.stat()
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ELOOP):  # gone, or a link to nothing
                    continue
                raise
            if stat.S_ISREG(status.st_mode):
                yield prefix + entry.name, status


def read(path: str | os.PathLike) -> tuple[np.ndarray, str]:
    """Read one image as 8-bit RGB, turned as its EXIF orientation says.

    Returns: uint8 [H, W, 3], and what was converted, "" for a picture that was 8-bit RGB.
    Raises: UserError, naming the file, where it is not a whole, readable image.
    """
    try:
        with Image.open(path) as image:
            deep = ";16" in str(image.tile)  # Pillow reduces 16-bit colour without a word
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            pixels, note = to_rgb(image)
            return pixels, note or ("16-bit colour, reduced to 8" if deep else "")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as an image ({first_line(error)})") from error


def size(path: str | os.PathLike) -> tuple[int, int]:
    """Height and width of an image as `read` gives it, from the file's head. Raises: UserError."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return image.size if turned else image.size[::-1]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as an image ({first_line(error)})") from error


def size_text(height: int, width: int) -> str:
    """A picture's size as messages give it, such as "640x480"."""
    return f"{width}x{height}"


def to_rgb(image: Image.Image) -> tuple[np.ndarray, str]:
    """A Pillow image as uint8 RGB [H, W, 3], and what was converted."""
    if image.mode not in _CONVERSIONS:
        raise UserError(f"Pillow mode {image.mode!r} is not supported: convert it to 8-bit RGB")
    note = _CONVERSIONS[image.mode]
    if image.mode.startswith("I"):
        gray = to_8_bits(np.asarray(image).astype(np.uint16))
        return np.repeat(gray[:, :, None], 3, axis=2), note
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # a palette's transparency is no colour
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB")), note


def as_it_is(image: Image.Image) -> tuple[np.ndarray, str]:
    """A Pillow image in its own channels and depth, and what was converted all the same.

    Returns: uint8, or uint16 of 16-bit gray, [H, W, C], C being 1 (gray), 2 (gray, alpha), 3 (RGB)
      or 4 (RGB, alpha).
    Raises: UserError for a mode that is none of a picture.
    """
    mode = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA"}.get(image.mode, image.mode)
    if mode == "P":
        mode = "RGBA" if image.has_transparency_data else "RGB"
    if image.mode.startswith("I;16"):
        pixels, note = np.asarray(image).astype(np.uint16), ""
    elif mode in ("L", "LA", "RGB", "RGBA"):
        pixels, note = np.asarray(image if image.mode == mode else image.convert(mode)), ""
    else:
        pixels, note = to_rgb(image)
    return pixels.reshape(*pixels.shape[:2], -1), note


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """0..65535 to the nearest of 0..255; what is uint8 stays."""
    if pixels.dtype == np.uint8:
        return pixels
    return ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def write(path: str | os.PathLike, pixels: np.ndarray) -> None:
    """Write uint8 [H, W, 3] aside and rename, so that no half file has the final name."""
    with files.replacing(path) as aside:
        Image.fromarray(pixels).save(aside)
