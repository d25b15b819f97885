"""Pictures as they are in files, row by row: colours, depth, transparency, frames, metadata."""

import logging
import os
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyvips
from PIL import Image

from srgan_jax import images
from srgan_jax.errors import UserError, first_line

# Its remarks; what goes wrong comes as an exception, too.
logging.getLogger("pyvips").setLevel(logging.ERROR)

BLOCK = 64  # rows that are read at once

# By libvips' loader: the format that a picture has, as `writing.FORMATS` names it.
FORMAT_OF = {
    "png": "png",
    "jpeg": "jpg",
    "webp": "webp",
    "tiff": "tif",
    "gif": "gif",
    "heif": "avif",
}
PAGED = ("webp", "gif", "tif")

# What is kept of a file beside its pixels, by the name that libvips gives it.
_KEPT = ("icc-profile-data", "xmp-data", "iptc-data", "delay", "loop")

_GRAY = ("b-w", "grey16")
_COLOR = ("rgb", "srgb", "rgb16")
_NUMBERS: dict[Any, np.dtype] = {"uchar": np.dtype(np.uint8), "ushort": np.dtype(np.uint16)}


class Form(NamedTuple):
    """What a picture is, or several frames of one size, in a file that is read or written.

    Attributes:
      height: of a frame, turned as its EXIF orientation says.
      width: likewise.
      channels: 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha).
      dtype: uint8 or uint16.
      frames: how many.
      metadata: libvips' fields by name, with their values.
      resolution: pixels per millimetre, across and down.
    """

    height: int
    width: int
    channels: int
    dtype: np.dtype
    frames: int = 1
    metadata: Mapping[str, Any] = types.MappingProxyType({})
    resolution: tuple[float, float] = (1.0, 1.0)


class Picture(NamedTuple):
    """A picture that is read when its rows are asked for.

    Attributes:
      path: the file.
      form: what it is.
      note: what was converted, "" where nothing was.
      source: libvips' picture, the frames one below the other.
    """

    path: str
    form: Form
    note: str
    source: pyvips.Image

    @property
    def blocks(self) -> int:
        """How many `rows` gives of each frame."""
        return -(-self.form.height // BLOCK)

    def rows(self) -> Iterator[np.ndarray]:
        """From the top of the first frame, [some rows, width, channels], frames not mixed.

        Once only. Raises: UserError where the file turns out to be damaged.
        """
        height, width, channels, dtype, frames = self.form[:5]
        region = pyvips.Region.new(self.source)
        for top in range(0, height * frames, height):
            for y in range(top, top + height, BLOCK):
                count = min(BLOCK, top + height - y)
                try:
                    data = region.fetch(0, y, width, count)
                except pyvips.Error as error:
                    raise _damaged(self.path, error) from error
                yield np.frombuffer(data, dtype).reshape(count, width, channels)


def open_picture(path: str | os.PathLike, most_pixels: int) -> Picture:
    """What a file holds, from its head.

    Args:
      path: any picture that libvips or Pillow can read.
      most_pixels: of a frame; one that claims more is taken for an attack.

    Raises: UserError, naming the file.
    """
    path = os.fspath(path)
    try:
        size = os.stat(path).st_size
        if not os.access(path, os.R_OK):
            raise PermissionError("permission denied")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not size:
        raise UserError(f"{path}: is empty")
    try:
        loader = pyvips.Image.new_from_file(path, access="sequential").get("vips-loader")
    except pyvips.Error as error:
        if "not a known file format" in str(error):
            return _by_pillow(path, most_pixels)
        raise _damaged(path, error) from error
    kind = next((kind for name, kind in FORMAT_OF.items() if loader.startswith(name)), None)
    if kind is None:  # such as tables of numbers, and Matlab's
        return _by_pillow(path, most_pixels)
    try:
        return _by_vips(path, kind, most_pixels)
    except pyvips.Error as error:
        raise _damaged(path, error) from error


def _by_vips(path: str, kind: str, most_pixels: int) -> Picture:
    image, notes = _load(path, kind), []
    _check_size(path, image.width, image.get_page_height(), most_pixels)
    pages = image.height // image.get_page_height()
    if kind == "png" and (frames := _frames_of_png(path)) > 1:
        notes.append(f"the first of {frames} frames: of PNG, animations are not read")
    if image.get_typeof("orientation") and image.get("orientation") > 1:
        image = _turned(_load(path, kind, access="random"), pages)
        notes.append("turned as its EXIF orientation says")
    in_file = image.get("n-pages") if image.get_typeof("n-pages") else 1
    if pages < in_file:
        notes.append(f"the first of {in_file} pages, of which not all have one size")
    if image.interpretation not in (*_GRAY, *_COLOR) or image.bands > 4:
        if image.bands > 5 or image.interpretation in ("multiband", "fourier", "histogram"):
            raise UserError(f"{path}: its {image.bands} channels are no colours: convert it to RGB")
        notes.append(f"{image.interpretation} converted to RGB")
        image = _to_rgb(image)
    if image.format not in _NUMBERS:
        raise UserError(
            f"{path}: samples of type {image.format} are not supported: convert it to 8 or 16 bits"
        )
    fields = image.get_fields()
    kept = [key for key in fields if key in _KEPT or key.startswith("exif-")]
    form = Form(
        height=image.get_page_height() if pages > 1 else image.height,
        width=image.width,
        channels=image.bands,
        dtype=_NUMBERS[image.format],
        frames=pages,
        metadata={key: _upright(key, image.get(key)) for key in kept},
        resolution=(image.xres, image.yres),
    )
    return Picture(path, form, "; ".join(notes), image)


def _load(path: str, kind: str, **access: str) -> pyvips.Image:
    """All pages where they have one size, else the first."""
    options = {"access": "sequential", "fail_on": "error"} | access
    if kind in PAGED:
        try:
            return pyvips.Image.new_from_file(path, n=-1, **options)
        except pyvips.Error:
            pass  # pages of several sizes; a file that is damaged fails below, too
    return pyvips.Image.new_from_file(path, **options)


def _frames_of_png(path: str) -> int:
    """How many an animated one has, which libvips does not tell."""
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    at = head.find(b"acTL")
    return int.from_bytes(head[at + 4 : at + 8]) if 0 < at < head.find(b"IDAT") else 1


def _turned(image: pyvips.Image, pages: int) -> pyvips.Image:
    """Each page as its EXIF orientation says."""
    height = image.get_page_height()
    frames = [image.crop(0, i * height, image.width, height).autorot() for i in range(pages)]
    turned = pyvips.Image.arrayjoin(frames, across=1)
    if pages > 1:
        turned = turned.copy()
        turned.set_type(pyvips.GValue.gint_type, "page-height", frames[0].height)
    return turned


def _upright(key: str, value: Any) -> Any:
    """A field of metadata, XMP's without telling of an orientation: the picture is turned."""
    if key != "xmp-data":
        return value
    return re.sub(rb'(tiff:Orientation(?:="|>))[2-8]', rb"\g<1>1", value)


def _to_rgb(image: pyvips.Image) -> pyvips.Image:
    """CMYK and others as sRGB, by the embedded profile where there is one."""
    deep = image.format == "ushort" or image.interpretation == "labs"
    if image.get_typeof("icc-profile-data"):
        image = image.icc_import(embedded=True)
    image = image.colourspace("rgb16" if deep else "srgb").copy()
    if image.get_typeof("icc-profile-data"):
        image.remove("icc-profile-data")  # of the colours that it had
    return image


def _by_pillow(path: str, most_pixels: int) -> Picture:
    """BMP, PPM, TGA, DDS and the like, which libvips does not read here."""
    try:
        with Image.open(path) as image:
            _check_size(path, *image.size, most_pixels)
            image.load()
            pixels, note = images.as_it_is(image)
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _damaged(path, error) from error
    source = pyvips.Image.new_from_array(np.ascontiguousarray(pixels))
    height, width, channels = pixels.shape
    return Picture(path, Form(height, width, channels, pixels.dtype), note, source)


def _check_size(path: str, width: int, height: int, most_pixels: int) -> None:
    if width * height > most_pixels:
        raise UserError(
            f"{path}: claims {images.size_text(height, width)} pixels, more than --max_megapixels="
            f"{most_pixels / 1e6:g}: give more if it is no attack"
        )


def _damaged(path: str, error: Exception) -> UserError:
    reason = first_line(error).removeprefix("unable to call ")
    details = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
    why = details[0] if details else reason
    return UserError(f"{path}: cannot be read as a picture ({why})")
