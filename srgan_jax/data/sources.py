"""Where pictures come from: built in, a folder, or tensorflow-datasets. All checked at once."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable

import numpy as np
import tqdm

from srgan_jax import images
from srgan_jax.errors import UserError, some

# Photographs that scikit-image installs with itself; `stereo_motorcycle` gives two.
BUILTIN_TRAIN = (
    "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "rocket",
    "stereo_motorcycle",
)  # fmt: skip
BUILTIN_HELD_OUT = ("astronaut",)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Decoded pictures, uint8 RGB [H, W, 3] each, and their names."""

    names: tuple[str, ...]
    images: tuple[np.ndarray, ...]
    summary: str  # what was found, converted and left out, in one line

    def __len__(self) -> int:
        return len(self.names)

    def fingerprint(self) -> str:
        """Differs where pictures were added, removed, renamed, or changed in size."""
        told = [(name, *image.shape) for name, image in zip(self.names, self.images, strict=True)]
        return hashlib.sha256(repr(told).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Found:
    """What became of one file: an image, perhaps converted, or a reason why not."""

    name: str
    image: np.ndarray | None
    note: str = ""
    error: str = ""


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
    if source == "builtin":
        label, found = "built-in photographs", _builtin(split)
    elif source == "folder":
        label, found = str(path), _folder(path, key, progress)
    elif source == "tfds":
        from srgan_jax.data import tfds  # optional: needs an extra

        label = f"tensorflow-datasets {dataset}/{split}"
        found = _decode(tfds.data_source(dataset, split, path, key), progress)
    else:
        raise ValueError(f"unknown source {source!r}")
    return _check(label, found, min_size, damaged, key)


def _builtin(split: str) -> Iterable[Found]:
    import skimage.data

    for name in BUILTIN_TRAIN if split == "train" else BUILTIN_HELD_OUT:
        loaded = getattr(skimage.data, name)()
        views = loaded[:2] if isinstance(loaded, tuple) else (loaded,)  # a stereo pair
        for i, image in enumerate(views):
            image = image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
            suffix = f"_{i}" if len(views) > 1 else ""
            yield Found(f"{name}{suffix}.png", image)


def _folder(path: str, key: str, progress: bool) -> Iterable[Found]:
    if not path:
        raise UserError(f"{key}.source is 'folder' but {key}.path is empty: give a folder")
    folder = pathlib.Path(path)
    if not folder.is_dir():
        raise UserError(f"{key}.path={path} is not a folder")
    files = list(images.find(folder))
    if not files:
        suffixes = " ".join(images.SUFFIXES)
        raise UserError(f"{key}.path={path} holds no pictures ({suffixes}), also not deeper down")

    def reader(file: pathlib.Path) -> Callable[[], tuple[np.ndarray, str]]:
        return lambda: images.read(file)

    return _decode([(str(f.relative_to(folder)), reader(f)) for f in files], progress)


def _decode(
    readers: list[tuple[str, Callable[[], tuple[np.ndarray, str]]]], progress: bool
) -> Iterable[Found]:
    """Run all readers on as many threads as there are cores, keeping the order."""

    def attempt(reader: tuple[str, Callable[[], tuple[np.ndarray, str]]]) -> Found:
        name, read = reader
        try:
            image, note = read()
        except UserError as error:
            return Found(name, None, error=str(error))
        return Found(name, image, note)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from tqdm.tqdm(
            pool.map(attempt, readers),
            total=len(readers),
            desc="reading pictures",
            unit="picture",
            disable=not progress,
        )


def _check(label: str, found: Iterable[Found], min_size: int, damaged: str, key: str) -> Pictures:
    """Keep what can be used, and say what was converted, left out, or stops the run."""
    kept: list[Found] = []
    broken: list[str] = []
    small: list[str] = []
    conversions: collections.Counter[str] = collections.Counter()
    for item in found:
        if item.image is None:
            broken.append(item.error)
        elif min(item.image.shape[:2]) < min_size:
            small.append(f"{item.name} ({item.image.shape[1]}x{item.image.shape[0]})")
        else:
            kept.append(item)
            conversions.update([item.note] if item.note else [])
    if broken and damaged == "stop":
        raise UserError(
            f"{some(broken)}: mend or remove, or leave such files out with"
            f" --config.{key}.damaged=skip"
        )
    if not kept and not small:
        raise UserError(f"{label}: no picture can be read: {some(broken)}")
    if not kept:
        smaller_crop = ", or a smaller --config.data.crop" if key == "data" else ""
        raise UserError(
            f"{label}: all pictures are smaller than {min_size}x{min_size} ({some(small)}): give"
            f" --config.{key}.path larger ones{smaller_crop}"
        )
    kept_images = tuple(item.image for item in kept if item.image is not None)
    megapixels = sum(image.shape[0] * image.shape[1] for image in kept_images) / 1e6
    summary = [f"{label}: {len(kept)} pictures, {megapixels:.1f} megapixels"]
    summary += [f"{count} {note}" for note, count in sorted(conversions.items())]
    if small:
        summary.append(f"left out {len(small)} smaller than {min_size}x{min_size}: {some(small)}")
    if broken:
        summary.append(f"left out {len(broken)} damaged: {some(broken)}")
    return Pictures(
        names=tuple(item.name for item in kept),
        images=kept_images,
        summary="; ".join(summary),
    )
