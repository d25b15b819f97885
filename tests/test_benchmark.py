"""The benchmarks measure what they say, and refuse what they cannot."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from srgan_jax import config as config_lib
from srgan_jax.benchmark import data, packing, rates
from srgan_jax.errors import UserError


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
def test_the_loop_is_measured_from_both_places(config, tmp_path, capsys):
    data.benchmark(config, rounds=2, seconds=0.1, output=str(tmp_path / "rates.json"))
    written = json.loads((tmp_path / "rates.json").read_text())
    assert written["unit"] == "images/s"
    assert [len(values) for values in written["rates"].values()] == [2, 2, 2]
    assert all(rate > 0 for values in written["rates"].values() for rate in values)
    first, *others = written["rates"]
    assert first == "bare step"
    assert [name.split()[-1] for name in others] == ["device", "host"]
    assert "pictures on the device" in capsys.readouterr().out


def test_packing_is_measured_and_leaves_nothing(config, tmp_path):
    packing.benchmark(config, rounds=2, output=str(tmp_path / "rates.json"))
    written = json.loads((tmp_path / "rates.json").read_text())
    assert {name: len(values) for name, values in written["rates"].items()} == {
        "decoded": 2,
        "packed": 2,
    }
    assert not list((tmp_path / "cache").iterdir())


def test_shares_are_of_the_same_round(capsys):
    rates.report({"bare": [100.0, 10.0, 50.0], "loop": [90.0, 9.5, 50.0]}, "images/s", None)
    bare, loop = capsys.readouterr().out.splitlines()
    assert bare.split()[1:] == ["50.0", "images/s", "(10.0", "to", "100.0)", "100.0%"]
    assert loop.split()[1:] == ["50.0", "images/s", "(9.5", "to", "90.0)", "95.0%"]


def test_what_cannot_be_measured_is_refused(config, tmp_path):
    config.data.cache = "none"
    with pytest.raises(UserError, match=r"data\.cache=none"):
        packing.benchmark(config, rounds=1, output=None)
    config.data.source = "builtin"
    with pytest.raises(UserError, match=r"data\.source=folder"):
        packing.benchmark(config, rounds=1, output=None)
    config.pretrain.steps = 0
    with pytest.raises(UserError, match=r"config\.pretrain has no steps"):
        data.benchmark(config, rounds=1, seconds=0.1, output=None)


def test_the_command_says_what_there_is_to_measure(root):
    command = [sys.executable, "-m", "srgan_jax.benchmark", "speed"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "python -m srgan_jax.benchmark data|pack" in done.stderr
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
