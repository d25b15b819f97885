"""Pictures into files, row by row, by libvips on a thread of its own."""

import contextlib
import errno
import os
import pathlib
import queue
import shutil
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyvips

from srgan_jax import files, images
from srgan_jax.errors import UserError
from srgan_jax.upscale.reading import Form

AHEAD = 1  # blocks of rows that wait to be written
_ROWS = 64  # that are handed over at once


class Format(NamedTuple):
    """What a format can hold, and how libvips writes it."""

    suffixes: tuple[str, ...]
    longest: int  # side
    deep: bool  # 16 bits
    alpha: bool
    frames: bool
    options: dict[str, Any]


FORMATS = {
    # Rows differ little from those above; stronger compression costs five times as long, for 1 %.
    "png": Format((".png",), 1_000_000, True, True, False, {"filter": "up", "compression": 3}),
    "jpg": Format((".jpg", ".jpeg", ".jpe", ".jfif"), 65500, False, False, False, {"Q": None}),
    "webp": Format((".webp",), 16383, False, True, True, {"Q": None}),
    "tif": Format(
        (".tif", ".tiff"),
        1 << 30,
        True,
        True,
        True,
        {"compression": "deflate", "predictor": "horizontal"},
    ),
    "gif": Format((".gif",), 65535, False, True, True, {}),
    "avif": Format((".avif",), 16384, False, True, False, {"Q": None, "compression": "av1"}),
}

_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of PNG, by channels
_CLASSIC_TIFF = 1 << 32  # bytes that it can hold
_FULL = 1 << 20  # bytes left: too few for what a writer has under way


def of_suffix(path: str | os.PathLike) -> str | None:
    """The format that a file's name asks for."""
    suffix = pathlib.Path(path).suffix.lower()
    return next((name for name, known in FORMATS.items() if suffix in known.suffixes), None)


def check(path: str | os.PathLike, name: str, form: Form) -> None:
    """Raises: UserError where a format cannot hold such a picture."""
    known = FORMATS[name]
    if max(form.height, form.width) > known.longest:
        size = images.size_text(form.height, form.width)
        raise UserError(
            f"{path}: {size} is too large for {name}, which takes {known.longest} a side: give"
            " --format=tif"
        )
    if form.channels in (2, 4) and not known.alpha:
        raise UserError(
            f"{path}: has transparency, which {name} cannot hold: give --format=png or webp"
        )
    if form.frames > 1 and not known.frames:
        raise UserError(
            f"{path}: has {form.frames} frames, of which {name} holds one: give --format=webp"
        )


@contextlib.contextmanager
def writer(
    path: pathlib.Path, name: str, form: Form, quality: int
) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that takes rows from the top, frame after frame; at the end the file is there.

    Where the body raises, nothing is written. 16 bits become 8 where the format holds no more.

    Raises: UserError where it cannot be written; `path` is then as it was.
    """
    deep = form.dtype == np.uint16 and FORMATS[name].deep
    form = form._replace(dtype=np.dtype(np.uint16 if deep else np.uint8))
    with files.replacing(path) as aside:
        encoder = _Encoder(aside, name, form, quality)
        try:
            yield lambda rows: encoder.put(rows if deep else images.to_8_bits(rows))
            encoder.put(None)
        finally:
            encoder.end()
        encoder.check()
        _flush(aside)


def _flush(path: pathlib.Path) -> None:
    """What is on its way to the disk is there, or raises OSError: then nothing is renamed."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


class _Encoder:
    """A thread in which libvips asks for what `put` gives."""

    def __init__(self, path: pathlib.Path, name: str, form: Form, quality: int):
        self._blocks: queue.Queue[np.ndarray | None] = queue.Queue(AHEAD)
        self._error: Exception | None = None
        self._over = False
        self._arguments = (path, name, form, quality)
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    def put(self, rows: np.ndarray | None) -> None:
        """Rows, or None after the last. Raises: OSError where writing has failed."""
        while not self._over:
            try:
                self._blocks.put(rows, timeout=0.1)
                return
            except queue.Full:
                continue
        self.check()

    def end(self) -> None:
        """Wait until all is written; where no None was put, give up."""
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._blocks.put(None, timeout=0.1)
            self._thread.join(0.1)

    def check(self) -> None:
        """Raises: OSError where writing has failed."""
        if self._error is not None:
            raise OSError(_reason(self._error, self._arguments[0].parent)) from self._error

    def _run(self) -> None:
        path, name, form, quality = self._arguments
        try:
            _save(path, name, form, quality, self._taken())
        except Exception as error:
            self._error = error
        self._over = True

    def _taken(self) -> Iterator[np.ndarray]:
        while (block := self._blocks.get()) is not None:
            yield block


def _save(
    path: pathlib.Path, name: str, form: Form, quality: int, blocks: Iterator[np.ndarray]
) -> None:
    stream = _Stream(as_png(form, blocks))
    source = pyvips.SourceCustom()
    source.on_read(stream.read)
    image = pyvips.Image.new_from_source(source, "", access="sequential", fail_on="truncated")
    across, down = form.resolution
    image = image.copy(xres=across, yres=down)
    types = pyvips.GValue
    for key, value in form.metadata.items():
        if isinstance(value, bytes):
            image.set_type(types.blob_type, key, value)
        elif isinstance(value, list):
            image.set_type(types.array_int_type, key, value)
        else:
            image.set_type(
                types.gstr_type if isinstance(value, str) else types.gint_type, key, value
            )
    if "exif-data" in form.metadata:  # which may tell how it was turned
        image.set_type(types.gint_type, "orientation", 1)
    if form.frames > 1:
        image.set_type(types.gint_type, "page-height", form.height)
    options = {k: quality if v is None else v for k, v in FORMATS[name].options.items()}
    size = form.height * form.width * form.channels * form.dtype.itemsize * form.frames
    if name == "tif" and size >= _CLASSIC_TIFF:
        options["bigtiff"] = True
    image.write_to_file(str(path), **options)


class _Stream:
    """Bytes that come in chunks, to be read in any amounts."""

    def __init__(self, chunks: Iterator[bytes]):
        self._chunks = chunks
        self._held = memoryview(b"")

    def read(self, most: int) -> bytes:
        """As many as there are at once, at least one; b"" at the end."""
        while not self._held:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._held = memoryview(chunk)
        part, self._held = self._held[:most], self._held[most:]
        return bytes(part)


def as_png(form: Form, blocks: Iterator[np.ndarray]) -> Iterator[bytes]:
    """An uncompressed PNG, the form in which libvips reads pixels of any kind from a pipe."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(data, zlib.crc32(kind))
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    bits, color = 8 * form.dtype.itemsize, _COLOR_TYPES[form.channels]
    head = struct.pack(">IIBBBBB", form.width, form.height * form.frames, bits, color, 0, 0, 0)
    yield b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    stored = zlib.compressobj(0)
    for block in blocks:
        for rows in np.split(block, range(_ROWS, len(block), _ROWS)):
            pixels = rows.reshape(len(rows), -1).astype(form.dtype.newbyteorder(">"))
            lines = np.pad(
                pixels.view(np.uint8), ((0, 0), (1, 0))
            )  # each begins with its filter, 0
            yield chunk(b"IDAT", stored.compress(lines.data))
    yield chunk(b"IDAT", stored.flush()) + chunk(b"IEND", b"")


def _reason(error: Exception, folder: pathlib.Path) -> str:
    """What went wrong, which of libvips' lines does not always tell."""
    if shutil.disk_usage(folder).free < _FULL:
        return os.strerror(errno.ENOSPC)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
