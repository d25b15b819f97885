"""Test sets: HR pictures, the LR pictures that belong to them, and other programs' results."""

import collections
import dataclasses
import pathlib
import zlib
from collections.abc import Iterator

import jax
import numpy as np

from srgan_jax import images, processes
from srgan_jax.data import pairing
from srgan_jax.data.degradation import Degradation, degrade
from srgan_jax.errors import UserError, some

Files = dict[str, pathlib.Path]  # by stem


@dataclasses.dataclass(frozen=True)
class Pair:
    """One picture of a test set: uint8 [s*h, s*w, 3], [h, w, 3], and results of other programs."""

    name: str
    hr: np.ndarray
    lr_image: np.ndarray
    results: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


def make_pair(name: str, image: np.ndarray, how: Degradation) -> Pair:
    """HR cut to a multiple of the scale at the top left, and LR made from it, by its name alike."""
    hr = cut(image, how.scale)
    seed = np.uint32(zlib.crc32(name.encode()))
    return Pair(name, hr, np.asarray(_shrink(how, hr, seed)).astype(np.uint8))


_shrink = jax.jit(degrade, static_argnums=0)


def cut(image: np.ndarray, scale: int) -> np.ndarray:
    """The largest part [H, W, 3] at the top left whose sides are multiples of the scale."""
    height, width = (size - size % scale for size in image.shape[:2])
    return image[:height, :width]


@dataclasses.dataclass(frozen=True)
class Folders:
    """A test set as files that were found to pair.

    Attributes:
      label: what the rows call it.
      scale: HR over LR size.
      hr: the HR pictures.
      lr_image: the LR pictures, empty where they are to be made.
      results: other programs' pictures, by method.
      unreadable: what is wrong with files that cannot be measured; grows while reading.
      converted: how many files were converted to 8-bit RGB, by how; grows while reading.
    """

    label: str
    scale: int
    hr: Files
    lr_image: Files
    results: dict[str, Files]
    unreadable: list[str] = dataclasses.field(default_factory=list)
    converted: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def read(self) -> Iterator[Pair]:
        """The pairs, those of one size after each other; broken ones are noted and passed over.

        Of several processes each reads its share.
        """
        sizes = {}
        for stem, file in self.hr.items():
            try:
                sizes[stem] = tuple(side // self.scale for side in images.size(file))
            except UserError as error:
                self.unreadable.append(str(error))
        in_order = sorted(sizes, key=lambda stem: (sizes[stem], stem))
        for stem in in_order[processes.index() :: processes.count()]:
            try:
                yield self._read_one(stem)
            except UserError as error:
                self.unreadable.append(str(error))

    def _read_one(self, stem: str) -> Pair:
        whole = self._read_file(self.hr[stem])
        hr = cut(whole, self.scale)
        if not hr.size:
            raise UserError(f"{self.hr[stem]}: smaller than {self.scale}x{self.scale}")
        results = {}
        for method, files in self.results.items():
            picture = self._read_file(files[stem])
            if picture.shape not in (hr.shape, whole.shape):
                size, hr_size = (images.size_text(*image.shape[:2]) for image in (picture, whole))
                raise UserError(f"{files[stem]}: {size}, but its HR picture is {hr_size}")
            results[method] = cut(picture, self.scale)
        name = self.hr[stem].name
        if not self.lr_image:
            pair = make_pair(name, hr, Degradation(self.scale))
            return dataclasses.replace(pair, results=results)
        lr_image = self._read_file(self.lr_image[stem])
        if (lr_image.shape[0] * self.scale, lr_image.shape[1] * self.scale) != hr.shape[:2]:
            size, hr_size = (images.size_text(*image.shape[:2]) for image in (lr_image, whole))
            raise UserError(
                f"{self.lr_image[stem]}: {size} is not 1/{self.scale} of the HR picture's"
                f" {hr_size}: is --scale right?"
            )
        return Pair(name, hr, lr_image, results)

    def _read_file(self, file: pathlib.Path) -> np.ndarray:
        pixels, note = images.read(file)
        self.converted.update([note] if note else [])
        return pixels


def find(
    label: str, folder: str, scale: int, lr_folder: str | None, results: dict[str, str]
) -> Folders:
    """Look into the folders of a set and pair their files. Raises: UserError, naming odd ones."""
    hr = _list(f"--data={label}={folder}", folder)
    lr_image = {}
    if lr_folder is not None:
        lr_image = _match(f"--lr_data={label}={lr_folder}", lr_folder, hr, folder, scale)
    return Folders(
        label,
        scale,
        hr,
        lr_image,
        {
            method: _match(f"--results={method}={path}", path, hr, folder, scale)
            for method, path in results.items()
        },
    )


def _list(flag: str, folder: str) -> Files:
    """The pictures of a folder, not of those below it."""
    path = pathlib.Path(folder)
    if not path.is_dir():
        raise UserError(f"{flag}: no such folder")
    files = [file for file in images.find(path) if file.parent == path]
    if not files:
        below = sorted({str(file.parent) for file in images.find(path)})
        hint = f"; there are some in {some(below)}" if below else ""
        raise UserError(f"{flag}: holds no pictures ({' '.join(images.SUFFIXES)}){hint}")
    stems = pairing.by_stem(flag, [file.name for file in files])
    return {stem: path / name for stem, name in stems.items()}


def _match(flag: str, folder: str, hr: Files, hr_folder: str, scale: int) -> Files:
    """The pictures of a folder by the stems of the HR pictures that they belong to."""
    found = _list(flag, folder)
    matched = pairing.match(flag, _names(found), _names(hr), hr_folder, scale)
    return {stem: found[other] for stem, other in matched.items()}


def _names(given: Files) -> dict[str, str]:
    return {stem: file.name for stem, file in given.items()}
