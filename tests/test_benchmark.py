"""The benchmarks measure what they say, and refuse what they cannot."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from srgan_jax import config as config_lib
from srgan_jax import weights as weights_lib
from srgan_jax.benchmark import data, packing, rates, samples, train, turns, upscale
from srgan_jax.errors import UserError
from srgan_jax.models.generator import Generator
from srgan_jax.upscale import tiles
from srgan_jax.upscale.upscaler import Upscaler


@pytest.fixture
def config(tmp_path, noise):
    """A small network, and a folder of eight pictures."""
    c = config_lib.paper()
    c.generator.blocks = 1
    c.generator.channels = 4
    c.data.batch_size = 8  # the tests have as many devices
    c.data.crop = 16
    c.data.source = "folder"
    c.data.path = str(tmp_path / "pictures")
    c.data.cache = str(tmp_path / "cache")
    c.gan.steps = 0
    (tmp_path / "pictures").mkdir()
    for i in range(8):
        Image.fromarray(noise(20, 30, seed=i)).save(tmp_path / "pictures" / f"{i}.png")
    return c


@pytest.mark.slow
def test_the_loop_is_measured_from_both_places(config, capsys):
    rows = data.benchmark(config, rounds=2, seconds=0.1)
    assert [len(row["rounds"]) for row in rows] == [2, 2, 2]
    assert all(row["images_per_second"] > 0 for row in rows)
    first, *others = (row["name"] for row in rows)
    assert first == "bare step"
    assert [name.split()[-1] for name in others] == ["device", "host"]
    assert "pictures on the device" in capsys.readouterr().out


def test_packing_is_measured_and_leaves_nothing(config, tmp_path):
    rows = packing.benchmark(config, rounds=2)
    assert {row["name"]: len(row["rounds"]) for row in rows} == {"decoded": 2, "packed": 2}
    assert not list((tmp_path / "cache").iterdir())


def test_shares_are_of_the_same_round(capsys):
    first, second = rates.rows({"bare": [100.0, 10.0, 50.0], "loop": [90.0, 9.5, 50.0]}, "images")
    bare, loop = capsys.readouterr().out.splitlines()
    assert bare.split()[1:] == ["50.0", "images/s", "(10.0", "to", "100.0)", "100.0%"]
    assert loop.split()[1:] == ["50.0", "images/s", "(9.5", "to", "90.0)", "95.0%"]
    assert [first["share"], second["share"]] == [1.0, 0.95]


def test_what_cannot_be_measured_is_refused(config, tmp_path):
    config.data.cache = "none"
    with pytest.raises(UserError, match=r"data\.cache=none"):
        packing.benchmark(config, rounds=1)
    config.data.source = "builtin"
    with pytest.raises(UserError, match=r"data\.source=folder"):
        packing.benchmark(config, rounds=1)
    config.pretrain.steps = 0
    with pytest.raises(UserError, match=r"config\.pretrain has no steps"):
        data.benchmark(config, rounds=1, seconds=0.1)


SMALL_STEPS = [
    "--config.generator.blocks=1",
    "--config.generator.channels=4",
    "--config.discriminator.channels=4",
    "--config.discriminator.dense=8",
    "--config.data.crop=32",
    "--config.data.batch_size=2",
    "--config.vgg.layers=('relu1_2',)",
]


@pytest.mark.slow
def test_training_is_measured_in_both_phases(root):
    """As a command, its figures alone on stdout."""
    command = [sys.executable, "-m", "srgan_jax.benchmark", "train", "--json", "--batches=2,3"]
    done = subprocess.run(
        [*command, "--rounds=2", "--seconds=0.1", *SMALL_STEPS],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = json.loads(done.stdout)["rows"]
    assert [row["name"] for row in rows] == [
        f"{phase}, float32, batch {size}" for phase in ("pretrain", "gan") for size in (2, 3)
    ]
    for row in rows:
        assert row["images_per_second"] == pytest.approx(row["batch_size"] / row["step_seconds"])
        assert row["share_of_peak"] == pytest.approx(
            row["flop"] / row["step_seconds"] / row["peak_flops_per_second"]
        )
        assert len(row["rounds"]) == 2
        assert min(row["compile_seconds"], row["peak_bytes"]) > 0
        assert ("loop_share" in row) == (row["batch_size"] == 2)
        assert "ratio" not in row
    assert "images/s" in done.stderr


@pytest.fixture
def small_steps(config, monkeypatch, quick_compile):
    """A config of both phases, measured without the loop or a compiler of PyTorch's."""
    pytest.importorskip("torch", reason="compares with PyTorch")
    from srgan_jax.benchmark import torch_train

    monkeypatch.setattr(torch_train, "ways", lambda _: {"eager": {"compiled": False}})
    config.data.batch_size = 2
    config.data.crop = 32
    config.discriminator.channels = 4
    config.discriminator.dense = 8
    config.gan.steps = 10
    config.vgg.path = "random"
    config.vgg.layers = ("relu1_2",)
    return config


MEASURE = {"batches": [3], "dtypes": ["float32"], "against": "torch", "seconds": 0.05, "rounds": 2}


def test_training_is_measured_against_pytorch(small_steps, capsys):
    rows = train.benchmark(small_steps, **MEASURE)
    assert [row["phase"] for row in rows] == ["pretrain", "gan"]
    for row in rows:
        own, theirs = row["rounds"], row["torch"]["eager"]["rounds"]
        pairs = [other / mine for mine, other in zip(own, theirs, strict=True)]
        assert row["ratio"] == pytest.approx(sum(pairs) / 2)
        assert 0 < row["difference"] < 2e-3
    assert capsys.readouterr().out.count("times faster than PyTorch") == 2


def test_no_ratio_where_the_losses_differ(small_steps, monkeypatch):
    from srgan_jax.benchmark import torch_train

    class Wrong(torch_train.Trainer):
        def step(self, lr_image, hr):
            return super().step(lr_image, 0.9 * hr)

    monkeypatch.setattr(torch_train, "Trainer", Wrong)
    with pytest.raises(UserError, match=r"of step 1 .* more than rounding: no ratio"):
        train.benchmark(small_steps, **MEASURE)
    small_steps.ema_decay = 0.9
    with pytest.raises(UserError, match="ema_decay"):
        train.benchmark(small_steps, **MEASURE)


def test_the_command_says_what_there_is_to_measure(root):
    command = [sys.executable, "-m", "srgan_jax.benchmark", "speed"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "python -m srgan_jax.benchmark train|data|pack|upscale" in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_cannot_be_compared_is_refused(root):
    command = [sys.executable, "-m", "srgan_jax.benchmark", "data", "--against=torch"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nothing to compare data with" in done.stderr
    assert done.stderr.count("\n") == 1


def test_determinism_is_asked_for(root):
    """Here of flags that say otherwise, which then are refused."""
    command = [
        *(sys.executable, "-m", "srgan_jax.benchmark", "data", "--config.deterministic=True"),
    ]
    done = subprocess.run(
        command,
        cwd=root,
        env=os.environ | {"XLA_FLAGS": "--xla_gpu_deterministic_ops=false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "config.deterministic=True" in done.stderr
    assert done.stderr.count("\n") == 1


TINY = Generator(blocks=1, channels=4, kernel=3)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Files of two networks that differ in their weights alone."""
    paths = [tmp_path_factory.mktemp("tiny") / f"{name}.safetensors" for name in ("one", "other")]
    for seed, path in enumerate(paths):
        weights_lib.save_generator(path, TINY, samples.random_variables(TINY, seed), {})
    return paths


def test_upscaling_is_measured_against_pytorch(tiny, capsys):
    pytest.importorskip("torch", reason="compares with PyTorch")
    command, network = upscale.benchmark(
        weights=str(tiny[0]), sizes=[(12, 16)], against="torch", rounds=1
    )
    assert [command["name"], network["name"]] == ["command, 16x12", "network, 16x12"]
    for row in (command, network):
        for side in (row, row["torch"]):
            assert side["megapixels_per_second"] == pytest.approx(
                48 * 64 / 1e6 * side["images_per_second"]
            )
            assert len(side["seconds"]) == 1
        assert row["ratio"] == pytest.approx(row["torch"]["seconds"][0] / row["seconds"][0])
        assert row["difference"]["levels"] <= 1
    assert network["compile_seconds"] > 0
    assert command["peak_bytes"] > 2**20 < command["torch"]["peak_bytes"]
    assert capsys.readouterr().out.count("times faster") == 2


def test_pytorch_enlarges_in_tiles_as_in_one(tiny, tmp_path, noise, monkeypatch):
    pytest.importorskip("torch", reason="compares with PyTorch")
    exported = weights_lib.load_generator(tiny[0])
    enlarge = upscale.torch_side(exported, tmp_path).in_process()
    from srgan_jax.benchmark import torch_upscale

    picture = noise(45, 70)
    whole = enlarge(picture)
    monkeypatch.setattr(torch_upscale, "LONGEST", 20)
    monkeypatch.setattr(torch_upscale, "LONGEST_BLOCK", 8)
    turns.difference(whole, enlarge(picture))
    assert len(set(tiles.radius_of(TINY))) == 2  # so that one for the other would be seen


def test_no_ratio_where_the_outputs_differ(tiny, tmp_path):
    pytest.importorskip("torch", reason="compares with PyTorch")
    one, other = tiny
    side = upscale.torch_side(weights_lib.load_generator(other), tmp_path)
    with pytest.raises(UserError, match="more than rounding: no ratio"):
        upscale.network_row(Upscaler(one), (12, 16), side, rounds=1)
    side = upscale.torch_side(weights_lib.load_generator(one), tmp_path)
    assert "ratio" in upscale.network_row(Upscaler(one), (12, 16), side, rounds=1)


def test_rounding_is_one_level_of_few_samples():
    picture = np.full((40, 50, 3), 100, np.uint8)
    near = picture.copy()
    near[0, 0, 0] -= 1
    assert turns.difference(picture, near) == (1, pytest.approx(1 / 6000))
    near[0, 0, 0] -= 1
    with pytest.raises(UserError, match="up to 2 levels"):
        turns.difference(picture, near)
    with pytest.raises(UserError, match=r"100\.00% of the samples"):
        turns.difference(picture, picture + 1)
    with pytest.raises(UserError, match="the sizes are"):
        turns.difference(picture, picture[1:])


def test_random_networks_give_pictures(tiny):
    sr = Upscaler(tiny[0])(samples.photograph(30, 40))
    assert 25 < sr.std() < 102
    assert np.isin(sr, (0, 255)).mean() < 0.1


def test_commands_that_fail_are_told_of(tmp_path):
    from srgan_jax.benchmark import command

    with pytest.raises(UserError, match=r"nothing\.txt"):
        command.run(["ls", str(tmp_path / "nothing.txt")], {})
    assert command.run([sys.executable, "-c", "b'a' * 300_000_000"], {}).peak > 300e6
    assert command.run([sys.executable, "-c", ""], {}).peak < 100e6  # not this process's
    for text in ("128", "0x3", "axb", ""):
        with pytest.raises(UserError, match=f"--sizes={text}: give WIDTH"):
            samples.sizes(["9x9", text])
    assert samples.sizes(["500x300"]) == [(300, 500)]
