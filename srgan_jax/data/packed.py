"""All pictures of a source, decoded once and packed: in memory, or in a cache on disk."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from srgan_jax import files
from srgan_jax.data import cache as cache_lib
from srgan_jax.data import pairing, sources
from srgan_jax.data.cache import Entry, Stamps, UnusableError
from srgan_jax.data.sources import Found, Listing, Reader, Tally
from srgan_jax.errors import UserError, some

BLOCK = 512  # bytes

# What int32 counts: bytes of a picture, blocks of a set (1 TB).
MOST = 2**31 - 1

SAMPLE = 16  # pictures that tell how much room all need

FILES = ("pixels.bin", "lr_pixels.bin")  # of HR, and of LR pictures if there are any


@dataclasses.dataclass(frozen=True)
class Packed:
    """Decoded pictures one after the other in rows of `BLOCK` bytes.

    Attributes:
      names: of the pictures.
      heights: int32 [N].
      widths: int32 [N].
      first: int32 [N], the block that each begins in; its bytes are row-major uint8 RGB.
      blocks: uint8 [M, BLOCK], read-only, in memory or mapped from the cache.
      summary: what was found, converted and left out, and where the cache is, in one line.
      digest: SHA-256 of all names, sizes and checksums of the pixels.
    """

    names: tuple[str, ...]
    heights: np.ndarray
    widths: np.ndarray
    first: np.ndarray
    blocks: np.ndarray
    summary: str
    digest: str

    def __len__(self) -> int:
        return len(self.names)

    def picture(self, i: int) -> np.ndarray:
        """A view of one picture, uint8 [H, W, 3]."""
        shape = (int(self.heights[i]), int(self.widths[i]), 3)
        start = int(self.first[i]) * BLOCK
        return self.blocks.reshape(-1)[start : start + shape[0] * shape[1] * 3].reshape(shape)


def pack(
    *,
    source: str,
    path: str,
    split: str,
    dataset: str = "div2k",
    min_size: int = 1,
    damaged: str = "stop",
    key: str = "data",
    cache: str,
    progress: bool = False,
    lr_path: str = "",
    scale: int = 1,
) -> tuple[Packed, Packed | None]:
    """All pictures of a source, decoded and checked now or by an earlier call.

    Args:
      source, path, split, dataset, min_size, damaged, key, progress: as for `sources.load`.
      cache: the folder to keep them in, "" for the default one, "none" for memory only. The
        built-in source is always in memory.
      lr_path: a folder of LR pictures that belong to those of the folder `path`, see
        `pairing.match`; "" where there are none.
      scale: HR over LR size.

    Returns: the pictures; and, in the same order, their LR pictures, None without `lr_path`. A
      picture whose partner is left out is left out, too.
    Raises: UserError as `sources.load` does; and where files do not pair, change meanwhile, or the
      cache cannot be written.
    """
    hr = sources.find(source=source, path=path, split=split, dataset=dataset, key=key)
    lr_image = _partners(hr, path, lr_path, scale, key) if lr_path else None
    pictures = _Pictures(hr, lr_image, min_size, damaged, key, scale)
    made_from = pictures.stamps()
    if cache == "none" or source == "builtin":
        memory = [bytearray() for _ in pictures.sides()]
        contents = pictures.pack([side.extend for side in memory], made_from, progress)
        return _assemble(contents, [np.frombuffer(side, np.uint8) for side in memory], "")

    what: dict[str, Any] = {"source": source, "min_size": min_size, "damaged": damaged}
    what["path"] = os.path.abspath(os.path.expanduser(path)) if path else ""
    if source == "tfds":
        what |= {"dataset": dataset, "split": split}
    if lr_path:
        what |= {"lr_path": os.path.abspath(lr_path), "scale": scale}
    title = f"{dataset}-{split}" if source == "tfds" else os.path.basename(what["path"])
    root = os.path.expanduser(cache) if cache else files.cache_folder() / "pictures"
    entry = Entry.of(pathlib.Path(root).absolute(), title, what, made_from)
    try:
        (contents, mapped), reason = _open_or_build(entry, pictures, progress)
    except OSError as error:
        raise UserError(
            f"{entry.path}: the packed pictures, about {pictures.bytes_needed():,} bytes, cannot be"
            f" written ({error.strerror}): make room, or --config.{key}.cache=DIR names another"
            f" folder, --config.{key}.cache=none keeps them in memory"
        ) from error
    anew = f"; the cache of {hr.label} {reason}: packed anew" if reason else ""
    flat = [mapped[name] for name in FILES if name in mapped]
    return _assemble(contents, flat, f"{anew}; cache {entry.path}")


def _partners(hr: Listing, path: str, lr_path: str, scale: int, key: str) -> Listing:
    """The LR pictures in the order of the HR pictures that they belong to. Raises: UserError."""
    where = f"{key}.lr_path={lr_path}"
    found = sources.list_folder(lr_path, where)
    readers = dict(found.pictures)
    given = pairing.by_stem(where, readers)
    wanted = pairing.by_stem(f"{key}.path={path}", [name for name, _ in hr.pictures])
    matched = pairing.match(where, given, wanted, path, scale)
    names = [given[matched[stem]] for stem in wanted]
    return Listing(found.label, [(name, readers[name]) for name in names], found.files)


def _open_or_build(
    entry: Entry, pictures: "_Pictures", progress: bool
) -> tuple[tuple[Any, dict[str, np.ndarray]], str]:
    """What `entry.open` gives, and why it had to be built anew, if so. Raises: OSError."""
    with contextlib.suppress(UnusableError):
        return entry.open(), ""
    with entry.locked():
        try:
            return entry.open(), ""  # another process has just built it
        except UnusableError as error:
            reason = str(error)
        with entry.building() as folder, contextlib.ExitStack() as stack:
            out = [
                stack.enter_context(open(folder / name, "wb"))
                for name, _ in zip(FILES, pictures.sides(), strict=False)
            ]
            contents = pictures.pack([file.write for file in out], entry.made_from, progress)
            stack.close()
            entry.write_index(folder, contents)
        return entry.open(), reason


class _Read(NamedTuple):
    """A picture, if it can be used, and the checksum of its pixels."""

    found: Found
    checksum: int


def _read(item: Sequence[tuple[str, Reader]]) -> list[_Read]:
    """Read a picture, and its partner if it has one; on any thread."""
    parts = []
    for picture in item:
        found, checksum = sources.attempt(picture), 0
        if found.image is not None and found.image.nbytes > MOST:
            found = Found(found.name, None, error=f"{found.name}: more than {MOST} bytes decoded")
        elif found.image is not None:
            checksum = zlib.crc32(np.ascontiguousarray(found.image).data)
        parts.append(_Read(found, checksum))
    return parts


@dataclasses.dataclass(frozen=True)
class _Pictures:
    """What is to be packed; `lr_image` in the order of `hr`. The rest is as for `pack`."""

    hr: Listing
    lr_image: Listing | None
    min_size: int
    damaged: str
    key: str
    scale: int

    def sides(self) -> list[Listing]:
        """HR, and LR if there are any."""
        return [self.hr] if self.lr_image is None else [self.hr, self.lr_image]

    def stamps(self) -> Stamps:
        """All files as they are now."""
        hr, *lr_images = (cache_lib.stamps(side.files) for side in self.sides())
        return hr | {f"{name} (LR)": stamp for side in lr_images for name, stamp in side.items()}

    def pack(
        self, writes: Sequence[Callable[[Any], Any]], made_from: Stamps, progress: bool
    ) -> list[dict[str, Any]]:
        """Read all pictures and write those that can be used.

        Args:
          writes: for each side, what takes its bytes.
          made_from: the files as they were; they must not have changed in the end.
          progress: show a bar.

        Returns: for each side, what to know of its bytes, as JSON values.
        Raises: UserError; OSError where bytes cannot be written.
        """
        tally = Tally(self.hr.label, self.min_size, self.damaged, self.key)
        lr_tally = Tally(self.lr_image.label if self.lr_image else "", 1, "stop", self.key)
        strips = [_Strip(write) for write in writes]
        items = list(zip(*(side.pictures for side in self.sides()), strict=True))
        reading = sources.in_order(_read, items, progress, "packing pictures")
        with contextlib.closing(reading):
            for parts in reading:
                hr, lr_image = parts[0].found, parts[1].found if self.lr_image else None
                if not tally.keep(hr, lr_image):
                    continue
                if lr_image is not None:
                    lr_tally.keep(lr_image)
                    self._check_sizes(hr, lr_image)
                for strip, part in zip(strips, parts, strict=True):
                    strip.add(part)
        now = self.stamps()
        names = sorted(made_from.keys() | now.keys())
        changed = [name for name in names if made_from.get(name) != now.get(name)]
        if changed:
            raise UserError(
                f"{self.hr.label}: {some(changed)} changed while they were packed: run again"
            )
        summaries = [tally.summary()] + ([lr_tally.summary()] if self.lr_image else [])
        return [
            strip.content() | {"summary": summary}
            for strip, summary in zip(strips, summaries, strict=True)
        ]

    def _check_sizes(self, hr: Found, lr_image: Found) -> None:
        assert hr.image is not None
        assert lr_image.image is not None
        height, width = (side // self.scale for side in hr.image.shape[:2])
        if lr_image.image.shape[:2] != (height, width):
            raise UserError(
                f"{self.key}.lr_path: {lr_image.name} is {_size(lr_image.image)}, but its HR"
                f" picture {hr.name} is {_size(hr.image)}, 1/{self.scale} of which is"
                f" {width}x{height}: is generator.scale right?"
            )

    def bytes_needed(self) -> int:
        """The room that all take once packed, about: judged by a few of them."""
        items = list(zip(*(side.pictures for side in self.sides()), strict=True))
        sample = items[:: -(-len(items) // SAMPLE)]
        read = [part.found.image for item in sample for part in _read(item)]
        total = sum(_padded(image.nbytes) for image in read if image is not None)
        return total * len(items) // len(sample)


class _Strip:
    """Pictures written one after the other, each from a whole block on."""

    def __init__(self, write: Callable[[Any], Any]):
        """`write` takes bytes."""
        self._write = write
        self._told: list[tuple[str, int, int, int]] = []  # name, height, width, checksum
        self._blocks = 0

    def add(self, read: _Read) -> None:
        """Write one picture."""
        image = read.found.image
        assert image is not None
        self._blocks += _padded(image.nbytes) // BLOCK
        if self._blocks > MOST:
            raise UserError(f"{read.found.name}: more than {MOST} blocks of {BLOCK} bytes up to it")
        self._write(np.ascontiguousarray(image))
        self._write(bytes(_padded(image.nbytes) - image.nbytes))
        self._told.append((read.found.name, *image.shape[:2], read.checksum))

    def content(self) -> dict[str, Any]:
        """What to know of the bytes, as JSON values."""
        names, heights, widths, _ = (list(column) for column in zip(*self._told, strict=True))
        digest = hashlib.sha256(json.dumps(self._told).encode()).hexdigest()
        return {"names": names, "heights": heights, "widths": widths, "digest": digest}


def _padded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _assemble(
    contents: Sequence[dict[str, Any]], flat: Sequence[np.ndarray], ending: str
) -> tuple[Packed, Packed | None]:
    """Bytes, and what is known of them, as packed pictures; `ending` is added to the summary."""
    sides: list[Packed] = []
    for content, pixels in zip(contents, flat, strict=True):
        heights = np.array(content["heights"], np.int32)
        widths = np.array(content["widths"], np.int32)
        blocks = -(-(heights.astype(np.int64) * widths * 3) // BLOCK)
        pixels.flags.writeable = False
        sides.append(
            Packed(
                names=tuple(content["names"]),
                heights=heights,
                widths=widths,
                first=(np.cumsum(blocks) - blocks).astype(np.int32),
                blocks=pixels.reshape(-1, BLOCK),
                summary=content["summary"] + ("" if sides else ending),
                digest=content["digest"],
            )
        )
    return sides[0], sides[1] if len(sides) > 1 else None
