"""All pictures of a source, decoded once and packed: in memory, or in a cache on disk."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from srgan_jax import files
from srgan_jax.data import cache as cache_lib
from srgan_jax.data import pairing, sources
from srgan_jax.data.cache import Entry, Stamps, UnusableError
from srgan_jax.data.sources import Found, Listing, Tally, Told
from srgan_jax.errors import UserError, some
from srgan_jax.images import Reader, size_text

BLOCK = 512  # bytes

# What int32 counts: bytes of a picture, blocks of a set (1 TB).
MOST = 2**31 - 1

SAMPLE = 16  # pictures that tell how much room all need

FILES = ("pixels.bin", "lr_pixels.bin")  # of HR, and of LR pictures if there are any

Records = list[tuple[Told, ...]]  # of each picture, and of its partner if it has one


@dataclasses.dataclass(frozen=True)
class Packed:
    """Decoded pictures in rows of `BLOCK` bytes, which hold those that were left out, too.

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

    def spread(self, count: int) -> "Packed":
        """So many of the pictures, evenly spread over all; as large in memory as all."""
        if count == len(self):
            return self
        kept = np.arange(count) * len(self) // count
        return dataclasses.replace(
            self,
            names=tuple(self.names[i] for i in kept),
            heights=self.heights[kept],
            widths=self.widths[kept],
            first=self.first[kept],
            summary=f"{self.summary}; {count} of {len(self)} pictures are used",
            digest=hashlib.sha256(f"{count} of {self.digest}".encode()).hexdigest(),
        )


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

    Every picture that can be read is packed, whatever `min_size` leaves out of it afterwards.

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
    made_from = pictures.found()
    if cache == "none" or source == "builtin":
        memory = [bytearray() for _ in pictures.sides()]
        records = pictures.pack([side.extend for side in memory], made_from, progress)
        return pictures.assemble(records, [np.frombuffer(side, np.uint8) for side in memory], "")

    what: dict[str, Any] = {"source": source}
    what["path"] = os.path.abspath(os.path.expanduser(path)) if path else ""
    if source == "tfds":
        what |= {"dataset": dataset, "split": split}
    if lr_path:
        what |= {"lr_path": os.path.abspath(lr_path), "scale": scale}
    title = f"{dataset}-{split}" if source == "tfds" else os.path.basename(what["path"])
    root = os.path.expanduser(cache) if cache else files.cache_folder() / "pictures"
    entry = Entry.of(pathlib.Path(root).absolute(), title, what, made_from)
    try:
        (sides, mapped), reason = _open_or_build(entry, pictures, progress)
    except OSError as error:
        raise UserError(
            f"{entry.path}: the packed pictures, about {pictures.bytes_needed():,} bytes, cannot be"
            f" written ({error.strerror}): make room, or --config.{key}.cache=DIR names another"
            f" folder, --config.{key}.cache=none keeps them in memory"
        ) from error
    anew = f"; the cache of {hr.label} {reason}: packed anew" if reason else ""
    flat = [mapped[name] for name in FILES if name in mapped]
    records = list(zip(*(map(Told, *columns) for columns in sides), strict=True))
    return pictures.assemble(records, flat, f"{anew}; cache {entry.path}")


def _partners(hr: Listing, path: str, lr_path: str, scale: int, key: str) -> Listing:
    """The LR pictures in the order of the HR pictures that they belong to. Raises: UserError."""
    where = f"{key}.lr_path={lr_path}"
    found = sources.list_folder(lr_path, where)
    readers = dict(found.pictures)
    given = pairing.by_stem(where, readers)
    wanted = pairing.by_stem(f"{key}.path={path}", [name for name, _ in hr.pictures])
    matched = pairing.match(where, given, wanted, path, scale)
    names = [given[matched[stem]] for stem in wanted]
    pictures = [(name, readers[name]) for name in names]
    return dataclasses.replace(found, pictures=pictures)


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
            records = pictures.pack([file.write for file in out], entry.made_from, progress)
            stack.close()
            pictures.choose(records)  # where none can be used, nothing is kept
            columns = [list(zip(*side, strict=True)) for side in zip(*records, strict=True)]
            entry.write_index(folder, columns)
        return entry.open(), reason


def _read(item: Sequence[tuple[str, Reader]]) -> list[Found]:
    """Read a picture, and its partner if it has one; on any thread."""
    parts = []
    for picture in item:
        told, image = sources.attempt(picture)
        if image is not None and image.nbytes > MOST:
            told = Told(told.name, error=f"{told.name}: more than {MOST} bytes decoded")
            image = None
        if image is not None:
            told = told._replace(checksum=zlib.crc32(np.ascontiguousarray(image).data))
        parts.append(Found(told, image))
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

    def found(self) -> Stamps:
        """All files as they were when they were found."""
        return self._named([side.stamps for side in self.sides()])

    def _named(self, stamps: Sequence[Stamps]) -> Stamps:
        hr, *lr_images = stamps
        return hr | {f"{name} (LR)": stamp for side in lr_images for name, stamp in side.items()}

    def items(self) -> list[tuple[tuple[str, Reader], ...]]:
        """Each picture, with its partner if it has one."""
        return list(zip(*(side.pictures for side in self.sides()), strict=True))

    def pack(
        self, writes: Sequence[Callable[[Any], Any]], made_from: Stamps, progress: bool
    ) -> Records:
        """Read all pictures and write those that can be read, with their partners.

        Args:
          writes: for each side, what takes its bytes.
          made_from: the files as they were; they must not have changed in the end.
          progress: show a bar.

        Returns: what to know of the bytes, also of those pictures that cannot be read.
        Raises: UserError; OSError where bytes cannot be written.
        """
        records: Records = []
        blocks = [0] * len(writes)
        reading = sources.in_order(_read, self.items(), progress, "packing pictures")
        with contextlib.closing(reading):
            for parts in reading:
                record = tuple(part.told for part in parts)
                records.append(record)
                if not _is_written(record):
                    continue
                if self.lr_image:
                    self._check_sizes(*record)
                for side, (write, part) in enumerate(zip(writes, parts, strict=True)):
                    blocks[side] += _write(write, part.image)
                    if blocks[side] > MOST:
                        name = part.told.name
                        raise UserError(
                            f"{name}: more than {MOST} blocks of {BLOCK} bytes up to it"
                        )
        now = self._named([cache_lib.stamps(side.files) for side in self.sides()])
        names = sorted(made_from.keys() | now.keys())
        changed = [name for name in names if made_from.get(name) != now.get(name)]
        if changed:
            raise UserError(
                f"{self.hr.label}: {some(changed)} changed while they were packed: run again"
            )
        return records

    def _check_sizes(self, hr: Told, lr_image: Told) -> None:
        expected = size_text(hr.height // self.scale, hr.width // self.scale)
        size = size_text(lr_image.height, lr_image.width)
        if size != expected:
            raise UserError(
                f"{self.key}.lr_path: {lr_image.name} is {size}, but its HR picture {hr.name} is"
                f" {size_text(hr.height, hr.width)}, 1/{self.scale} of which is {expected}: is"
                " generator.scale right?"
            )

    def bytes_needed(self) -> int:
        """The room that all take once packed, about: judged by a few of them."""
        items = self.items()
        sample = items[:: -(-len(items) // SAMPLE)]
        read = [part.image for item in sample for part in _read(item)]
        total = sum(_blocks(image.nbytes) * BLOCK for image in read if image is not None)
        return total * len(items) // len(sample)

    def choose(self, records: Records) -> tuple[list[int], list[str]]:
        """The numbers of the pictures that can be used, and the summary of each side.

        Raises: UserError where there are none, or others stop it.
        """
        tally = Tally(self.hr.label, self.min_size, self.damaged, self.key)
        lr_tally = Tally(self.lr_image.label if self.lr_image else "", 1, "stop", self.key)
        used = []
        for i, (hr, *lr_images) in enumerate(records):
            if tally.keep(hr, *lr_images):
                used.append(i)
                for lr_image in lr_images:
                    lr_tally.keep(lr_image)
        return used, [tally.summary()] + ([lr_tally.summary()] if self.lr_image else [])

    def assemble(
        self, records: Records, pixels: Sequence[np.ndarray], ending: str
    ) -> tuple[Packed, Packed | None]:
        """Of what was packed, the pictures that can be used. Raises: UserError as `choose` does.

        Args:
          records: as `pack` gave them.
          pixels: each side's bytes, as `pack` wrote them.
          ending: added to the summary.
        """
        used, summaries = self.choose(records)
        written = np.array([_is_written(record) for record in records])
        sides: list[Packed] = []
        for side, summary, flat in zip(zip(*records, strict=True), summaries, pixels, strict=True):
            sizes = np.array([(told.height, told.width) for told in side], np.int64)
            blocks = np.where(written, _blocks(sizes.prod(1) * 3), 0)
            chosen = [side[i] for i in used]
            known = [(*told[:3], told.checksum) for told in chosen]
            flat.flags.writeable = False
            sides.append(
                Packed(
                    names=tuple(told.name for told in chosen),
                    heights=sizes[used, 0].astype(np.int32),
                    widths=sizes[used, 1].astype(np.int32),
                    first=(np.cumsum(blocks) - blocks)[used].astype(np.int32),
                    blocks=flat.reshape(-1, BLOCK),
                    summary=summary + ("" if sides else ending),
                    digest=hashlib.sha256(json.dumps(known).encode()).hexdigest(),
                )
            )
        return sides[0], sides[1] if len(sides) > 1 else None


def _is_written(record: Sequence[Told]) -> bool:
    """Whether a picture is packed: with its partner or not at all."""
    return not any(told.error for told in record)


def _write(write: Callable[[Any], Any], image: np.ndarray | None) -> int:
    """Write a picture in whole blocks, and return how many."""
    assert image is not None
    blocks = _blocks(image.nbytes)
    write(np.ascontiguousarray(image))
    write(bytes(blocks * BLOCK - image.nbytes))
    return blocks


def _blocks(length: Any) -> Any:
    """How many blocks so many bytes take, an int or an array."""
    return -(-length // BLOCK)
