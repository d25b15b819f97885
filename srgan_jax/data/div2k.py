"""DIV2K's high-resolution pictures for tensorflow-datasets, prepared without TensorFlow.

The stock builder of tensorflow-datasets unpacks its downloads with TensorFlow and wants the LR
pictures too. This one copies the PNG files from the zips into records as they are.
"""

import functools
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

URL = "https://data.vision.ee.ethz.ch/cvl/DIV2K/"

# Split to file, bytes and SHA-256, as published with tensorflow-datasets' own div2k. The small
# one first: what stops it stops the large one, too.
ARCHIVES = {
    "validation": (
        "DIV2K_valid_HR.zip",
        448993893,
        "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
    ),
    "train": (
        "DIV2K_train_HR.zip",
        3530603713,
        "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
    ),
}

SHARD = 25  # pictures; tfds holds a shard in memory, about 110 MB, while it writes it

Example = tuple[str, dict[str, bytes]]


# By shards, since tfds' usual writer collects a split first, past 1 GB with TensorFlow's help.
class Div2k(tfds.core.ShardBasedBuilder):
    """800 and 100 pictures in the order of their names, which `info.metadata` lists by split."""

    name = "srgan_div2k"
    VERSION = tfds.core.Version("1.0.0")

    @property
    def url_infos(self) -> dict[str, checksums.UrlInfo]:
        """What tfds checks downloads by, and files that a user put into its `manual` folder."""
        return {
            URL + file: checksums.UrlInfo(size=size, checksum=sha256, filename=file)
            for file, size, sha256 in ARCHIVES.values()
        }

    def _info(self) -> tfds.core.DatasetInfo:
        info = tfds.core.DatasetInfo(
            builder=self,
            description="DIV2K, HR only: photographs of 2K resolution, for academic research.",
            homepage=URL,
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image(shape=(None, None, 3)), "name": tfds.features.Text()}
            ),
            metadata=tfds.core.MetadataDict(),
        )
        # tfds says it before it downloads, and looks whether the disk has room.
        info.download_size = sum(size for _, size, _ in ARCHIVES.values())
        return info

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> Mapping[str, Sequence[Callable[[], Iterator[Example]]]]:
        shards = {}
        for split, (file, _, _) in ARCHIVES.items():
            # One after the other: a download beside a failed one would hold up the exit.
            path = dl_manager.download(URL + file)
            with zipfile.ZipFile(path) as archive:
                members = sorted(m for m in archive.namelist() if m.endswith(".png"))
            self.info.metadata[split] = [os.path.basename(member) for member in members]
            shards[split] = [
                functools.partial(_examples, path, members[i : i + SHARD])
                for i in range(0, len(members), SHARD)
            ]
        return shards


def _examples(path: Any, members: Sequence[str]) -> Iterator[Example]:
    with zipfile.ZipFile(path) as archive:
        for member in members:
            name = os.path.basename(member)
            yield name, {"image": archive.read(member), "name": name.encode()}
