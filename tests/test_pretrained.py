"""Generators that come with the package: what their names stand for, everywhere, and the files."""

import os
import pathlib
import re

import jax
import numpy as np
import pytest
from PIL import Image
from test_upscaler import random_network

from srgan_jax import compiled, config, files, pretrained, recipes, train, weights
from srgan_jax.convert import __main__ as convert
from srgan_jax.errors import UserError
from srgan_jax.evaluate import arguments
from srgan_jax.upscale import command
from srgan_jax.upscale.upscaler import Upscaler

pytestmark = pytest.mark.usefixtures("quick_compile")
MOST_BYTES = 8e6
SMALL = {"blocks": 1, "channels": 4}


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Two small networks as those of the package; the working directory is an empty one."""
    folder = tmp_path / "package"
    folder.mkdir()
    for name in ("srresnet-fast", "srgan-fast"):
        random_network(folder / f"{name}.safetensors", **SMALL)
    monkeypatch.setattr(pretrained, "FOLDER", folder)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


def test_names_are_the_files(shipped):
    (shipped / "notes.txt").touch()
    assert pretrained.names() == ["srgan-fast", "srresnet-fast"]


def test_the_default_is_the_papers_network_once_it_is_there(shipped):
    pathlib.Path("srresnet-fast").mkdir()  # not what is meant where nothing is given
    assert pretrained.default() == "srresnet-fast"
    assert pretrained.find(None) == shipped / "srresnet-fast.safetensors"
    (shipped / "srgan.safetensors").touch()
    assert pretrained.default() == "srgan"
    assert pretrained.find(None) == shipped / "srgan.safetensors"


def test_a_name_and_a_path(shipped):
    assert pretrained.find("srgan-fast") == shipped / "srgan-fast.safetensors"
    assert pretrained.label(pretrained.find("srgan-fast")) == "srgan-fast"
    own = pathlib.Path("srgan-fast")
    own.touch()  # what is there comes first
    for given in (own, "srgan-fast"):
        assert pretrained.find(given) == own
    assert pretrained.label(pathlib.Path("runs/a.safetensors")) == "runs/a.safetensors"


def test_a_path_may_begin_with_the_home_folder(shipped, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.safetensors").touch()
    assert pretrained.find("~/own.safetensors") == tmp_path / "own.safetensors"


@pytest.mark.parametrize("given", ["srgan", "srgan-fast.safetensors", "./srgan-fast", "../x", ""])
def test_what_is_neither_is_one_line_with_the_names(shipped, given):
    with pytest.raises(UserError) as error:
        pretrained.find(given, "--weights")
    assert str(error.value) == (
        f"--weights={given}: no such file, and none of srgan-fast, srresnet-fast, which come with"
        " the package"
    )
    for file in shipped.iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"^srgan-fast: no such file, and no weights come with"):
        pretrained.find("srgan-fast")


def test_upscaler(shipped, noise):
    picture = noise(8, 8)
    expected = Upscaler(shipped / "srresnet-fast.safetensors", devices=1)(picture)
    for given in ([], ["srresnet-fast"]):
        np.testing.assert_array_equal(Upscaler(*given, devices=1)(picture), expected)
    with pytest.raises(UserError, match=r"^weights=srgan: no such file, and none of srgan-fast"):
        Upscaler("srgan")


def test_the_command_that_enlarges_says_what_it_took(shipped, noise, monkeypatch, capsys):
    monkeypatch.setattr(compiled, "keep", lambda: None)
    Image.fromarray(noise(8, 8)).save("a.png")
    command.run(["a.png"], command.Settings(devices="1"))
    assert capsys.readouterr().out.startswith("with srresnet-fast, which comes with the package\n")
    command.run(["a.png"], command.Settings(weights="srgan-fast", devices="1"))
    assert "which comes with" not in capsys.readouterr().out
    with pytest.raises(UserError, match=r"^--weights=srgan: no such file, and none of srgan-fast"):
        command.run(["a.png"], command.Settings(weights="srgan"))


def test_what_is_measured_is_told_by_its_name(shipped):
    found = arguments.load_weights(["srgan-fast", "smooth=srresnet-fast", "bicubic"], None)
    assert list(found.methods) == ["srgan-fast", "smooth", "bicubic"]
    assert found.files == {
        "srgan-fast": {
            "file": "srgan-fast",
            "sha256": files.sha256(shipped / "srgan-fast.safetensors"),
        },
        "smooth": {
            "file": "srresnet-fast",
            "sha256": files.sha256(shipped / "srresnet-fast.safetensors"),
        },
    }
    with pytest.raises(UserError) as error:
        arguments.load_weights(["srgan"], None)
    for part in (
        "--weights=srgan: no such file",
        "srgan-fast, srresnet-fast",
        "nor one of bicubic",
    ):
        assert part in str(error.value)


def test_training_starts_from_it(shipped):
    c = config.paper()
    c.init_from = "srresnet-fast"
    c.generator.update(SMALL)
    c.data.crop = 16
    c.gan.content = {"pixel": 1.0, "vgg": 0.0, "tv": 0.0}
    pretraining, _ = recipes.make_phases(c, [1, 1], None, {})
    state = train.initial_state(c, pretraining)
    held = weights.load_generator(shipped / "srresnet-fast.safetensors").variables
    jax.tree.map(np.testing.assert_array_equal, state.generator.variables.params, held.params)
    c.init_from = "srresnet"
    with pytest.raises(UserError, match=r"^config\.init_from=srresnet: no such file, and none of"):
        train.initial_state(c, pretraining)


def test_it_is_converted(shipped, capsys):
    convert.convert("srgan-fast", "model.stablehlo", check=False)
    assert capsys.readouterr().out.startswith(
        "srgan-fast\n  found         a generator of srgan_jax"
    )
    assert os.listdir() == ["model.stablehlo"]


def test_those_for_cpus_come_with_the_package():
    assert {"srgan-fast", "srresnet-fast"} <= set(pretrained.names())


class TestFiles:
    """Every one that is in the package."""

    @pytest.fixture(params=pretrained.names())
    def path(self, request) -> pathlib.Path:
        return pretrained.find(request.param)

    def test_it_loads_is_small_and_tells_its_training(self, path):
        assert path.stat().st_size < MOST_BYTES
        training = weights.load_generator(path).metadata["training"]  # all of it finite
        assert training["network"] == path.stem.split("-")[0]
        assert training["step"] > 0
        assert training["config"]["generator"]["scale"] == 4
        for group in ("data", "eval", "vgg"):  # no folders of the machine that trained it
            assert "/" not in training["config"][group]["path"]

    def test_it_is_documented(self, path, root):
        lines = (root / "docs" / "models.md").read_text().splitlines()
        headings = [re.findall(r"[\w-]+", line) for line in lines if line.startswith("#")]
        assert any(path.stem in words for words in headings)
