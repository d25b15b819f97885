"""Pictures from the built-in set and from folders, and what is said of those left out."""

import numpy as np
import pytest
from PIL import Image

from srgan_jax.data import sources
from srgan_jax.errors import UserError


def save(folder, name: str, pixels: np.ndarray) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def load(folder, **settings) -> sources.Pictures:
    return sources.load(source="folder", path=str(folder), split="train", **settings)


@pytest.fixture
def folder(tmp_path, noise):
    """Two colour pictures and two gray ones, of which one lies deeper."""
    save(tmp_path, "b.png", noise(20, 30))
    save(tmp_path, "a.bmp", noise(12, 16))
    save(tmp_path, "gray.png", noise(20, 20)[..., 0])
    save(tmp_path, "deep/er/gray.png", noise(18, 20)[..., 0])
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_the_built_in_photographs():
    train = sources.load(source="builtin", path="", split="train")
    held_out = sources.load(source="builtin", path="", split="validation")
    assert len(train) == len(set(train.names)) == 10
    assert held_out.names == ("astronaut.png",)
    assert "10 pictures" in train.summary
    for image in train.images + held_out.images:
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
        assert min(image.shape[:2]) >= 96  # the paper's crops fit
    assert held_out.images[0].shape == (512, 512, 3)
    distinct = {image.tobytes() for image in train.images + held_out.images}
    assert len(distinct) == 11


def test_a_folder_is_read_to_its_depths_in_order(folder, noise):
    pictures = load(folder)
    assert pictures.names == ("a.bmp", "b.png", "deep/er/gray.png", "gray.png")
    np.testing.assert_array_equal(pictures.images[1], noise(20, 30))
    np.testing.assert_array_equal(pictures.images[3], np.repeat(noise(20, 20)[..., :1], 3, axis=2))
    assert "4 pictures" in pictures.summary
    assert "2 gray, repeated in three channels" in pictures.summary
    assert "left out" not in pictures.summary


def test_a_damaged_picture_stops_and_is_named(folder):
    (folder / "deep" / "broken.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    with pytest.raises(UserError) as error:
        load(folder, key="eval")
    assert str(folder / "deep" / "broken.jpg") in str(error.value)
    assert "--config.eval.damaged=skip" in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_pictures_can_be_skipped_and_are_named(folder):
    for i in range(7):
        (folder / f"broken{i}.png").touch()
    pictures = load(folder, damaged="skip")
    assert pictures.names == ("a.bmp", "b.png", "deep/er/gray.png", "gray.png")
    assert "left out 7 damaged" in pictures.summary
    assert "broken0.png" in pictures.summary
    assert "and 2 more" in pictures.summary


def test_nothing_but_damaged_pictures(tmp_path):
    (tmp_path / "broken.png").touch()
    with pytest.raises(UserError, match=r"no picture can be read: .*broken\.png"):
        load(tmp_path, damaged="skip")


def test_too_small_pictures_are_left_out_and_named(folder):
    pictures = load(folder, min_size=18)
    assert pictures.names == ("b.png", "deep/er/gray.png", "gray.png")
    assert "left out 1 smaller than 18x18: a.bmp (16x12)" in pictures.summary
    assert len(load(folder, min_size=12)) == 4


def test_all_too_small(folder):
    with pytest.raises(UserError, match=r"all pictures are smaller than 96x96.*config\.data\.crop"):
        load(folder, min_size=96)


def test_folders_without_pictures(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match=r"data\.path=.* holds no pictures"):
        load(tmp_path)
    with pytest.raises(UserError, match=r"eval\.path=.*nowhere is not a folder"):
        load(tmp_path / "nowhere", key="eval")
    with pytest.raises(UserError, match=r"data\.path=.*notes\.txt is not a folder"):
        load(tmp_path / "notes.txt")
    with pytest.raises(UserError, match=r"data\.path is empty: give a folder"):
        load("")


def test_an_unknown_source_is_refused():
    with pytest.raises(ValueError, match="unknown source 'web'"):
        sources.load(source="web", path="", split="train")
