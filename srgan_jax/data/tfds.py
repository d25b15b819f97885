"""Pictures from tensorflow-datasets, prepared and read without TensorFlow."""

import fcntl
import io
import os
import pathlib
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from srgan_jax import images
from srgan_jax.errors import UserError, first_line
from srgan_jax.images import Reader

FEATURES = ("image", "hr")  # what a data set may call its pictures; the first that it has


def data_source(
    dataset: str, split: str, path: str, key: str
) -> tuple[list[tuple[str, Reader]], list[pathlib.Path]]:
    """The pictures of a split: each a name, and what reads and decodes it, on any thread.

    Args:
      dataset: "div2k", its HR pictures, downloaded and prepared at first use; or a name that
        `tfds.builder` takes, prepared before in a format with random access.
      split: of the data set.
      path: data_dir of tensorflow-datasets, "" for its default.
      key: the config group that this comes from, for messages.

    Returns: the pictures, and the files that hold their records.
    Raises: UserError where the extra, the data set, its split or its pictures are not there. So
      does a reader whose picture cannot be read.
    """
    instead = (
        f"use --config.{key}.source=folder --config.{key}.path=DIR or --config.{key}.source=builtin"
    )
    try:
        import array_record  # noqa: F401  # tfds misses it only after the download
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"{key}.source=tfds cannot be used ({first_line(error)}):"
            f" pip install 'srgan_jax[tfds]', or {instead}"
        ) from error

    data_dir = os.path.expanduser(path) or None
    if dataset == "div2k":
        builder = _div2k(data_dir, instead)
    else:
        builder = _prepared(dataset, data_dir, key, instead)
    info = builder.info
    if split not in info.splits:
        there = ", ".join(sorted(info.splits))
        raise UserError(f"{key}.dataset={dataset} has no split {split!r}, only {there}: {instead}")
    encoded = {
        name: tfds.decode.SkipDecoding()  # left to `images`
        for name, feature in info.features.items()
        if isinstance(feature, tfds.features.Image) and feature.np_dtype != np.float32
    }
    feature = next((name for name in FEATURES if name in encoded), None)
    if feature is None:
        there = ", ".join(sorted(info.features))
        wanted = " or ".join(FEATURES)
        raise UserError(
            f"{key}.dataset={dataset} has no picture named {wanted}, only {there}: {instead}"
        )
    records = builder.as_data_source(split, decoders=encoded)
    if dataset == "div2k":
        names = info.metadata[split]
    else:
        names = [f"{dataset}/{split}[{i}]" for i in range(len(records))]
    pictures = [
        (name, _reader(records, i, feature, f"{name} of {builder.data_dir}"))
        for i, name in enumerate(names)
    ]
    return pictures, [pathlib.Path(file) for file in info.splits[split].filepaths]


def _div2k(data_dir: str | None, instead: str) -> Any:
    """The builder of our DIV2K, prepared now if it was not."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    from srgan_jax.data import div2k

    builder = div2k.Div2k(data_dir=data_dir, file_format="array_record")
    if builder.data_path.exists():
        return builder
    root, name = builder.data_dir_root, builder.name
    downloads = root / "downloads"
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        with open(downloads / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one process works, others wait and find it done
            builder = div2k.Div2k(data_dir=data_dir, file_format="array_record")
            try:
                _ask_for_downloads(downloads, name)
                builder.download_and_prepare()
            finally:  # gigabytes that tfds would leave behind and never use
                for half in (downloads / name).glob("*.tmp.*"):
                    half.rmtree()
                for half in (root / name).glob("incomplete.*"):
                    half.rmtree()
    except (
        tfds.download.DownloadError, NonMatchingChecksumError, zipfile.BadZipFile, OSError,
        RuntimeError,  # from array_record where the disk is full
    ) as error:  # fmt: skip
        files = " and ".join(div2k.URL + file for file, _, _ in div2k.ARCHIVES.values())
        raise UserError(
            f"DIV2K cannot be prepared ({first_line(error).rstrip(':')}): try again, or put"
            f" {files} into {downloads / 'manual'}, or {instead}"
        ) from error
    return builder


def _ask_for_downloads(downloads: Any, name: str) -> None:
    """Fail at once where tfds would try for minutes. Raises: OSError."""
    from srgan_jax.data import div2k

    for file, _, _ in div2k.ARCHIVES.values():
        stem = os.path.splitext(file)[0]
        if not any((downloads / "manual").glob(file)) and not any(
            (downloads / name).glob(f"*{stem}*.zip")
        ):
            request = urllib.request.Request(div2k.URL + file, method="HEAD")
            try:
                urllib.request.urlopen(request, timeout=20).close()
            except urllib.error.HTTPError as error:
                error.close()
                raise


def _prepared(dataset: str, data_dir: str | None, key: str, instead: str) -> Any:
    """The builder of any other data set."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(dataset, data_dir=data_dir)
        found = builder.info.available_file_formats() if builder.data_path.exists() else set()
    except Exception as error:  # a builder is anyone's code, and the name has a syntax
        raise UserError(
            f"{key}.dataset={dataset} cannot be opened ({first_line(error)}): check it and"
            f" {key}.path, or {instead}"
        ) from error
    if not found & tfds.core.FileFormat.with_random_access():
        there = "is " + ", ".join(f.value for f in found) if found else "does not exist"
        where = f"data_dir={data_dir!r}, " if data_dir else ""
        raise UserError(
            f"{key}.dataset={dataset} is not prepared for random access, {builder.data_dir}"
            f" {there}: {'remove it and ' if found else ''}run tfds.builder({dataset!r}, {where}"
            "file_format='array_record').download_and_prepare(), most often with TensorFlow"
            f" installed, or {instead}"
        )
    return builder


class _Encoded(io.BytesIO):
    """An encoded picture that messages call by its name."""

    name = ""

    def __str__(self) -> str:
        return self.name


def _reader(records: Sequence[Any], index: int, feature: str, name: str) -> Reader:
    def read() -> tuple[np.ndarray, str]:
        try:
            picture: Any = _Encoded(records[index][feature])
        except Exception as error:  # each format's reader has its own
            raise UserError(f"{name}: cannot be read ({first_line(error)})") from error
        picture.name = name
        return images.read(picture)

    return read
