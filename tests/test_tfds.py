"""Pictures from tensorflow-datasets: DIV2K from a real server, other data sets, and what fails."""

import concurrent.futures
import functools
import hashlib
import http.server
import io
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

tensorflow_datasets = pytest.importorskip(
    "tensorflow_datasets", reason="needs pip install 'srgan_jax[tfds]'"
)

from tensorflow_datasets.core import shuffle  # noqa: E402

from srgan_jax.data import div2k, sources, tfds  # noqa: E402
from srgan_jax.errors import UserError  # noqa: E402


def png(image: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "png")
    return encoded.getvalue()


class Site:
    """A small DIV2K on a server of its own, and an empty data_dir."""

    def __init__(self, folder: pathlib.Path):
        self.data_dir = folder / "data"
        self.manual = self.data_dir / "downloads" / "manual"
        self.folder = folder / "site"
        self.folder.mkdir()
        self.requests: list[str] = []
        rng = np.random.default_rng(0)
        self.pictures: dict[str, dict[str, np.ndarray]] = {}
        self.archives = {}
        for split, file, first, count in (
            ("validation", "DIV2K_valid_HR.zip", 801, 2),
            ("train", "DIV2K_train_HR.zip", 1, 10),
        ):
            self.pictures[split] = {
                f"{number:04}.png": rng.integers(0, 256, (60 + number % 7, 80, 3), np.uint8)
                for number in range(first, first + count)
            }
            stem = pathlib.Path(file).stem
            with zipfile.ZipFile(self.folder / file, "w") as archive:
                archive.writestr(f"{stem}/", "")
                # Out of order, as a zip may be.
                for name, image in reversed(self.pictures[split].items()):
                    archive.writestr(f"{stem}/{name}", png(image))
            whole = (self.folder / file).read_bytes()
            self.archives[split] = (file, len(whole), hashlib.sha256(whole).hexdigest())

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(handler, form, *args):  # noqa: N805
                if str(args[0]).startswith("GET"):  # what is downloaded, not what is asked for
                    self.requests.append(str(args[0]))

        self.server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Handler, directory=self.folder)
        )
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        if self.thread.is_alive():
            self.server.shutdown()
            self.server.server_close()
            self.thread.join()

    def load(self, split: str = "train", **settings: str) -> sources.Pictures:
        return sources.load(source="tfds", path=str(self.data_dir), split=split, **settings)

    def fails(self, **settings: str) -> str:
        """The message of a UserError, which is one line and says what to use instead."""
        with pytest.raises(UserError) as error:
            self.load(**settings)
        assert "\n" not in str(error.value)
        return str(error.value)

    def leftovers(self) -> list[str]:
        names = [path.name for path in self.data_dir.rglob("*")]
        return [name for name in names if ".tmp." in name or name.startswith("incomplete")]


@pytest.fixture
def site(tmp_path, monkeypatch):
    site = Site(tmp_path)
    monkeypatch.setattr(div2k, "URL", site.url)
    monkeypatch.setattr(div2k, "ARCHIVES", site.archives)
    monkeypatch.setattr(div2k, "SHARD", 4)
    loaded_before = "tensorflow" in sys.modules
    yield site
    site.close()
    assert ("tensorflow" in sys.modules) == loaded_before


def assert_same(pictures: sources.Pictures, expected: dict[str, np.ndarray]) -> None:
    assert list(pictures.names) == list(expected)
    for image, truth in zip(pictures.images, expected.values(), strict=True):
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, truth)


def test_div2k_is_prepared_once_and_read_as_it_is(site, monkeypatch):
    # Past this size, 1 GB, tfds' usual writer cannot go without TensorFlow.
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 0)
    assert_same(site.load("train"), site.pictures["train"])
    assert_same(site.load("validation"), site.pictures["validation"])
    assert sorted(site.requests) == [
        f"GET /{file} HTTP/1.1" for file in ("DIV2K_train_HR.zip", "DIV2K_valid_HR.zip")
    ]
    site.close()
    assert_same(site.load("train"), site.pictures["train"])


def test_once_prepared_nothing_else_is_needed_or_written(site):
    site.load()
    shutil.rmtree(site.data_dir / "downloads")
    before = sorted(site.data_dir.rglob("*"))
    assert_same(site.load(), site.pictures["train"])
    assert sorted(site.data_dir.rglob("*")) == before


def test_two_at_once_download_once(site):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for pictures in pool.map(site.load, ["train", "validation"]):
            assert len(pictures) in (2, 10)
    assert len(site.requests) == 2


def test_readers_decode_when_called_on_any_thread(site):
    pictures, files = tfds.data_source("div2k", "train", str(site.data_dir), "data")
    assert [file.is_file() for file in files] == [True] * 3
    readers = pictures * 20
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for (name, _), (image, note) in zip(
            readers, pool.map(lambda reader: reader[1](), readers), strict=True
        ):
            assert note == ""
            np.testing.assert_array_equal(image, site.pictures["train"][name])


def truncate(site: Site) -> None:
    archive = site.folder / "DIV2K_train_HR.zip"
    archive.write_bytes(archive.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda site: (site.folder / "DIV2K_train_HR.zip").unlink(), "HTTP Error 404"),
        (truncate, "DIV2K_train_HR.zip, has wrong checksum"),
        (lambda site: site.close(), "Connection refused"),
    ],
    ids=["not there", "truncated", "no server"],
)
def test_a_failed_download_says_what_to_do_and_that_works(site, spoil, reason):
    whole = (site.folder / "DIV2K_train_HR.zip").read_bytes()
    spoil(site)
    message = site.fails(key="data")
    assert reason in message
    assert f"{site.url}DIV2K_train_HR.zip into {site.manual}" in message
    assert "--config.data.source=folder --config.data.path=DIR" in message
    assert "--config.data.source=builtin" in message
    assert site.leftovers() == []

    # What the message says to do.
    site.close()
    site.manual.mkdir(exist_ok=True)
    (site.manual / "DIV2K_train_HR.zip").write_bytes(whole)
    (site.manual / "DIV2K_valid_HR.zip").write_bytes(
        (site.folder / "DIV2K_valid_HR.zip").read_bytes()
    )
    assert_same(site.load(), site.pictures["train"])


def test_trying_again_downloads_only_what_is_missing(site):
    whole = (site.folder / "DIV2K_train_HR.zip").read_bytes()
    truncate(site)
    site.fails()
    (site.folder / "DIV2K_train_HR.zip").write_bytes(whole)
    assert_same(site.load(), site.pictures["train"])
    assert site.requests.count("GET /DIV2K_valid_HR.zip HTTP/1.1") == 1


def test_a_truncated_file_of_the_users_own_is_named(site):
    site.manual.mkdir(parents=True)
    (site.manual / "DIV2K_valid_HR.zip").write_bytes(b"PK")
    assert f"{site.manual / 'DIV2K_valid_HR.zip'}, has wrong checksum" in site.fails()


def test_a_full_disk_leaves_nothing_half_written(site):
    site.manual.mkdir(parents=True)
    for file, _, _ in site.archives.values():
        (site.manual / file).write_bytes((site.folder / file).read_bytes())
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        message = site.fails()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert "DIV2K cannot be prepared" in message
    assert "File too large" in message
    assert site.leftovers() == []
    assert_same(site.load(), site.pictures["train"])


def test_damaged_records_are_named_when_read(site):
    site.load()
    folder = site.data_dir / "srgan_div2k" / "1.0.0"
    (folder / "srgan_div2k-train.array_record-00001-of-00003").write_bytes(b"")
    assert f"0005.png of {folder}: cannot be read" in site.fails()
    pictures = site.load(damaged="skip")
    assert pictures.names == tuple(f"{number:04}.png" for number in (1, 2, 3, 4, 9, 10))
    assert "left out 4 damaged" in pictures.summary


@pytest.mark.parametrize("package", ["tensorflow_datasets", "array_record"])
def test_a_missing_package_names_the_extra(site, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    message = site.fails(key="eval")
    assert package in message
    assert "pip install 'srgan_jax[tfds]'" in message
    assert "--config.eval.source=builtin" in message


def test_an_unknown_split_names_those_there(site):
    assert "has no split 'test', only train, validation" in site.fails(split="test")


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        ("no_such_set", "data.dataset=no_such_set cannot be opened (Dataset no_such_set not found"),
        ("two words", "data.dataset=two words cannot be opened"),
        ("mnist", "mnist/3.0.1 does not exist: run tfds.builder('mnist', data_dir="),
    ],
)
def test_a_data_set_that_is_not_there(site, dataset, reason):
    message = site.fails(dataset=dataset)
    assert reason in message
    assert "--config.data.source=folder --config.data.path=DIR" in message


class Pairs(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set as the stock div2k is laid out, with a gray picture in it."""

    VERSION = tensorflow_datasets.core.Version("1.0.0")
    pictures: tuple[np.ndarray, ...] = (
        np.arange(48, dtype=np.uint8).reshape(4, 4, 3),
        np.arange(30, dtype=np.uint8).reshape(5, 6),
    )

    def _info(self):
        features = tensorflow_datasets.features
        return tensorflow_datasets.core.DatasetInfo(
            builder=self,
            features=features.FeaturesDict({"lr": features.Image(), "hr": features.Image()}),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i, image in enumerate(self.pictures):
            yield i, {"lr": png(image[:1, :1]), "hr": png(image)}


class Broken(Pairs, skip_registration=True):
    """A data set with a picture that is none."""

    def _generate_examples(self):
        yield 0, {"lr": b"", "hr": b"not a picture"}


class Labels(Pairs, skip_registration=True):
    """A data set without pictures."""

    def _info(self):
        features = tensorflow_datasets.features
        return tensorflow_datasets.core.DatasetInfo(
            builder=self, features=features.FeaturesDict({"label": features.Text()})
        )

    def _generate_examples(self):
        yield 0, {"label": "nothing to see"}


def test_any_prepared_data_set_with_pictures_is_read(tmp_path):
    Pairs(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    loaded = sources.load(source="tfds", path=str(tmp_path), split="train", dataset="pairs")
    assert loaded.names == ("pairs/train[0]", "pairs/train[1]")
    assert "1 gray, repeated in three channels" in loaded.summary
    color, gray = Pairs.pictures
    first, second = sorted(loaded.images, key=lambda image: image.shape)  # tfds shuffles
    np.testing.assert_array_equal(first, color)
    np.testing.assert_array_equal(second, np.repeat(gray[:, :, None], 3, axis=2))


def test_a_broken_picture_is_named(site):
    Broken(data_dir=site.data_dir, file_format="array_record").download_and_prepare()
    folder = site.data_dir / "broken" / "1.0.0"
    message = site.fails(dataset="broken")
    assert f"broken/train[0] of {folder}: cannot be read as an image" in message


def test_a_data_set_without_pictures_names_what_it_has(site):
    Labels(data_dir=site.data_dir, file_format="array_record").download_and_prepare()
    assert "has no picture named image or hr, only label" in site.fails(dataset="labels")


def test_a_data_set_without_random_access_says_how_to_prepare_it(site):
    Pairs(data_dir=site.data_dir, file_format="array_record").download_and_prepare()
    folder = site.data_dir / "pairs" / "1.0.0"
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    message = site.fails(dataset="pairs")
    assert f"{folder} is tfrecord: remove it and run tfds.builder('pairs'" in message


def test_imports_are_where_they_are_used():
    code = (
        "import sys; import srgan_jax.data.sources, srgan_jax.data.tfds;"
        "assert 'tensorflow_datasets' not in sys.modules;"
        "import srgan_jax.data.div2k; assert 'tensorflow' not in sys.modules"
    )
    root = pathlib.Path(__file__).parents[1]
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=root, env={**os.environ, "PYTHONPATH": "."}
    )
