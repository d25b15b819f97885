"""Where pictures come from: built in, a folder, or tensorflow-datasets. All checked at once."""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import tqdm

from srgan_jax import images
from srgan_jax.data.cache import Stamps, stamp, stamps
from srgan_jax.errors import UserError, some
from srgan_jax.images import Reader

# Photographs that scikit-image installs with itself; `stereo_motorcycle` gives two.
BUILTIN_TRAIN = (
    "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "rocket",
    "stereo_motorcycle",
)  # fmt: skip
BUILTIN_HELD_OUT = ("astronaut",)

WINDOW = 4  # pictures that are read ahead, for each core

A = TypeVar("A")
B = TypeVar("B")


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Decoded pictures, uint8 RGB [H, W, 3] each, and their names."""

    names: tuple[str, ...]
    images: tuple[np.ndarray, ...]
    summary: str  # what was found, converted and left out, in one line

    def __len__(self) -> int:
        return len(self.names)


@dataclasses.dataclass(frozen=True)
class Listing:
    """Pictures that were found and not read yet.

    Attributes:
      label: the source, for messages.
      pictures: each a name, and what reads and decodes it, on any thread.
      files: what holds the pictures on disk, by name.
      stamps: of these files, when they were found.
    """

    label: str
    pictures: Sequence[tuple[str, Reader]]
    files: dict[str, str]
    stamps: Stamps


class Told(NamedTuple):
    """What is known of a picture without its pixels."""

    name: str
    height: int = 0
    width: int = 0
    note: str = ""  # how it was converted, "" for not at all
    error: str = ""  # why it cannot be read, "" where it can
    checksum: int = 0  # of the pixels, where it was taken


class Found(NamedTuple):
    """What became of one file: an image, or None where it cannot be read."""

    told: Told
    image: np.ndarray | None = None


def load(
    *,
    source: str,
    path: str,
    split: str,
    dataset: str = "div2k",
    min_size: int = 1,
    damaged: str = "stop",
    key: str = "data",
    progress: bool = False,
) -> Pictures:
    """All pictures of a source, decoded and checked.

    Args:
      source: "builtin", "folder" or "tfds".
      path: the folder; for "tfds" its data_dir, "" for the default one.
      split: "train" or "validation"; a folder has but one.
      dataset: for "tfds".
      min_size: pictures lower or narrower than this are left out, and named.
      damaged: "stop" at files that cannot be read, naming them, or "skip" them.
      key: the config group that this comes from, for messages.
      progress: show a bar.

    Raises: UserError where the source is not there, has damaged files, or nothing large enough.
    """
    listing = find(source=source, path=path, split=split, dataset=dataset, key=key)
    tally = Tally(listing.label, min_size, damaged, key)
    found = in_order(attempt, listing.pictures, progress, "reading pictures")
    kept = [item for item in found if tally.keep(item.told)]
    return Pictures(
        names=tuple(item.told.name for item in kept),
        images=tuple(item.image for item in kept if item.image is not None),
        summary=tally.summary(),
    )


def find(*, source: str, path: str, split: str, dataset: str, key: str) -> Listing:
    """The pictures of a source, none of them read. Arguments and errors as for `load`."""
    if source == "builtin":
        return Listing("built-in photographs", _builtin(split), {}, {})
    if source == "folder":
        return _folder(path, key)
    if source == "tfds":
        from srgan_jax.data import tfds  # optional: needs an extra

        pictures, records = tfds.data_source(dataset, split, path, key)
        files = {file: file for file in map(str, records)}
        label = f"tensorflow-datasets {dataset}/{split}"
        return Listing(label, pictures, files, stamps(files))
    raise ValueError(f"unknown source {source!r}")


def _builtin(split: str) -> list[tuple[str, Reader]]:
    import skimage.data

    def reader(image: np.ndarray) -> Reader:
        image = image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
        return lambda: (image, "")

    pictures = []
    for name in BUILTIN_TRAIN if split == "train" else BUILTIN_HELD_OUT:
        loaded = getattr(skimage.data, name)()
        views = loaded[:2] if isinstance(loaded, tuple) else (loaded,)  # a stereo pair
        for i, image in enumerate(views):
            suffix = f"_{i}" if len(views) > 1 else ""
            pictures.append((f"{name}{suffix}.png", reader(image)))
    return pictures


def _folder(path: str, key: str) -> Listing:
    if not path:
        raise UserError(f"{key}.source is 'folder' but {key}.path is empty: give a folder")
    return list_folder(path, f"{key}.path={path}")


def list_folder(path: str, where: str) -> Listing:
    """The pictures of a folder and those below it, that messages call `where`."""
    folder = pathlib.Path(path)
    if not folder.is_dir():
        raise UserError(f"{where} is not a folder")
    found = {name: stamp(status) for name, status in images.scan(folder)}
    files = {name: os.path.join(folder, name) for name in found}
    if not files:
        suffixes = " ".join(images.SUFFIXES)
        raise UserError(f"{where} holds no pictures ({suffixes}), also not deeper down")
    pictures = [(name, functools.partial(images.read, file)) for name, file in files.items()]
    return Listing(str(path), pictures, files, found)


def attempt(picture: tuple[str, Reader]) -> Found:
    """Read one picture; where it cannot be, say why."""
    name, read = picture
    try:
        image, note = read()
    except UserError as error:
        return Found(Told(name, error=str(error)))
    height, width = image.shape[:2]
    return Found(Told(name, height, width, note), image)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_order(
    work: Callable[[A], B], items: Sequence[A], progress: bool, what: str
) -> Generator[B, None, None]:
    """Run `work` on as many threads as there are cores, and give its results in order.

    Args:
      work: for one item; no more than `WINDOW` results for each core are held.
      items: what is worked on.
      progress: show a bar.
      what: the bar's label.
    """
    rest = iter(items)
    with (
        concurrent.futures.ThreadPoolExecutor(cores()) as pool,
        tqdm.tqdm(total=len(items), desc=what, unit="picture", disable=not progress) as bar,
    ):
        ahead = collections.deque(
            pool.submit(work, item) for item in itertools.islice(rest, WINDOW * cores())
        )
        try:
            while ahead:
                result = ahead.popleft().result()
                ahead.extend(pool.submit(work, item) for item in itertools.islice(rest, 1))
                bar.update()
                yield result
        finally:
            for future in ahead:
                future.cancel()


class Tally:
    """Which pictures of a source can be used, and what is said of the others."""

    def __init__(self, label: str, min_size: int, damaged: str, key: str):
        """Arguments as for `load`."""
        self._label = label
        self._min_size = min_size
        self._damaged = damaged
        self._key = key
        self._kept = 0
        self._pixels = 0
        self._broken: list[str] = []
        self._small: list[str] = []
        self._conversions: collections.Counter[str] = collections.Counter()

    def keep(self, told: Told, partner: Told | None = None) -> bool:
        """Whether a picture, and one that it cannot do without, can be used. Both are counted."""
        if told.error:
            self._broken.append(told.error)
        elif min(told.height, told.width) < self._min_size:
            self._small.append(f"{told.name} ({images.size_text(told.height, told.width)})")
        elif partner is not None and partner.error:
            self._broken.append(partner.error)
        else:
            self._kept += 1
            self._pixels += told.height * told.width
            self._conversions.update([told.note] if told.note else [])
            return True
        return False

    def summary(self) -> str:
        """All in one line. Raises: UserError where damaged files stop it, or none is left."""
        broken, small, least = self._broken, self._small, self._min_size
        if broken and self._damaged == "stop":
            raise UserError(
                f"{some(broken)}: mend or remove, or leave such files out with"
                f" --config.{self._key}.damaged=skip"
            )
        if not self._kept and not small:
            raise UserError(f"{self._label}: no picture can be read: {some(broken)}")
        if not self._kept:
            smaller_crop = ", or a smaller --config.data.crop" if self._key == "data" else ""
            raise UserError(
                f"{self._label}: all pictures are smaller than {least}x{least} ({some(small)}):"
                f" give --config.{self._key}.path larger ones{smaller_crop}"
            )
        parts = [f"{self._label}: {self._kept} pictures, {self._pixels / 1e6:.1f} megapixels"]
        parts += [f"{count} {note}" for note, count in sorted(self._conversions.items())]
        if small:
            parts.append(f"left out {len(small)} smaller than {least}x{least}: {some(small)}")
        if broken:
            parts.append(f"left out {len(broken)} damaged: {some(broken)}")
        return "; ".join(parts)
