"""What a user can get wrong on the command line: one line, exit status 2, nothing left behind."""

import concurrent.futures
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

SRGAN = "--config=configs/srgan.py"
MSE = "--config=configs/srgan.py:mse"
FOLDER = "--config.data.source=folder"

# Name: the flags, and what the line must hold. {} is a folder of test material.
CASES = {
    "no config": ([], ["--config is missing"]),
    "no such file": (["--config=configs/none.py"], ["configs/none.py", "No such file"]),
    "no such variant": ([SRGAN + ":vgg99"], ["'vgg99'", "vgg54, vgg34, vgg22, mse"]),
    "no such run": (["--config=configs/report.py:c"], ["'c'", "a, b"]),
    "unknown key": ([SRGAN, "--config.optim.learnin_rate=1"], ["learning_rate"]),
    "unknown group": ([SRGAN, "--config.gna.steps=1"], ["'gna'"]),
    "wrong type": ([SRGAN, "--config.gan.steps=abc"], ["--config.gan.steps=abc"]),
    "unknown flag": ([SRGAN, "--steps=3"], ["'steps'"]),
    "stray word": ([SRGAN, "train"], ["'train'", "--config.KEY=VALUE"]),
    "wrong choice": ([SRGAN, "--config.generator.norm=layer"], ["config.generator.norm", "'none'"]),
    "two lengths": (
        [SRGAN, "--config.gan.steps=1", "--config.gan.epochs=2"],
        ["config.gan", "steps=1", "epochs=2"],
    ),
    "crop off the scale": ([MSE, "--config.data.crop=18"], ["config.data.crop=18", "scale=4"]),
    "no loss": ([MSE, "--config.gan.content.pixel=0.0"], ["config.gan.content", "above 0"]),
    "operations as one word": (
        [MSE, "--config.data.degradation=blur,bicubic"],
        ["config.data.degradation=('blur,bicubic',)", "such as ('blur', 'bicubic')"],
    ),
    "one end of a range": (
        [MSE, "--config.data.degradation=gaussian", "--config.data.blur_sigma=2.5"],
        ["config.data.blur_sigma=(2.5,)", "two numbers, the lowest and the highest"],
    ),
    "operation of a config file as a word": (
        ["--config={}/word.py"],
        ["word.py", "'degradation'", "'str'", "'tuple'"],
    ),
    "infinite rate": (
        [MSE, FOLDER, "--config.optim.learning_rate=inf"],
        ["config.optim.learning_rate=inf"],
    ),
    "seed of many digits": (
        [MSE, "--config.data.source=builtin", "--config.seed=" + 30 * "9"],
        ["config.seed="],
    ),
    "wrong mode": ([SRGAN, "--mode=test"], ["--mode=test"]),
    "nothing to train": (
        [MSE, "--config.data.source=builtin", "--config.pretrain.steps=0", "--config.gan.steps=0"],
        ["nothing to train"],
    ),
    "folder without a path": ([MSE, FOLDER], ["data.path is empty"]),
    "folder not there": ([MSE, FOLDER, "--config.data.path={}/none"], ["/none is not a folder"]),
    "empty folder": ([MSE, FOLDER, "--config.data.path={}/empty"], ["/empty holds no pictures"]),
    "all too small": (
        [MSE, FOLDER, "--config.data.path={}/small"],
        ["smaller than 96x96", "0.png (40x30)", "--config.data.crop"],
    ),
    "broken among good": (
        [MSE, FOLDER, "--config.data.path={}/broken"],
        ["cut.jpg", "--config.data.damaged=skip"],
    ),
    "broken pictures to measure on": (
        [MSE, "--config.data.source=builtin", "--config.eval.source=folder",
         "--config.eval.path={}/broken"],
        ["cut.jpg", "--config.eval.damaged=skip"],
    ),
    "too small to measure on": (
        [MSE, "--config.data.source=builtin", "--config.eval.source=folder",
         "--config.eval.path={}/tiny"],
        ["smaller than 22x22", "0.png (20x18)", "eval.path"],
    ),
    "no VGG weights": (
        [SRGAN, "--config.data.source=builtin", "--config.vgg.path="],
        ["relu5_4", "config.vgg.path is empty", "srgan.py:mse"],
    ),
    "VGG weights not there": (
        [SRGAN, "--config.data.source=builtin", "--config.vgg.path={}/none.npz"],
        ["config.vgg.path", "none.npz"],
    ),
    "VGG weights in another form": (
        [SRGAN, "--config.data.source=builtin", "--config.vgg.path={}/text.npz"],
        ["config.vgg.path", "text.npz", "looks like text"],
    ),
    "network to start from not there": (
        [MSE, "--config.data.source=builtin", "--config.init_from={}/none.safetensors"],
        ["none.safetensors"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Folders of pictures with something wrong."""
    folder = tmp_path_factory.mktemp("material")
    rng = np.random.default_rng(0)
    sizes = {"empty": None, "tiny": (18, 20, 3), "small": (30, 40, 3), "broken": (120, 130, 3)}
    for name, size in sizes.items():
        (folder / name).mkdir()
        if size:
            picture = Image.fromarray(rng.integers(0, 256, size, np.uint8))
            picture.save(folder / name / "0.png")
            picture.save(folder / name / "1.jpg")
    whole = (folder / "broken" / "1.jpg").read_bytes()
    (folder / "broken" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.npz").write_text("hello")
    (folder / "word.py").write_text(
        "from srgan_jax import config\n\n\ndef get_config():\n    c = config.paper()\n"
        "    c.data.degradation = 'bicubic'\n    return c\n"
    )
    return folder


def start(root, *flags, **variables):
    command = [sys.executable, "-m", "srgan_jax.main", *flags]
    env = os.environ | {"JAX_PLATFORMS": "cpu"} | variables
    return subprocess.run(
        command, cwd=root, env=env, capture_output=True, text=True, timeout=150, check=False
    )


@pytest.fixture(scope="module")
def outcomes(root, material, tmp_path_factory):
    """Every case, two at a time."""
    workdirs = tmp_path_factory.mktemp("workdirs")

    def run(name):
        flags = [flag.replace("{}", str(material)) for flag in CASES[name][0]]
        return start(root, *flags, f"--workdir={workdirs / name}")

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return dict(zip(CASES, pool.map(run, CASES), strict=True)), workdirs


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_line(outcomes, name):
    done = outcomes[0][name]
    assert done.returncode == 2, done.stderr[-2000:]
    assert done.stderr.startswith("srgan_jax: error: "), done.stderr[-2000:]
    assert done.stderr.count("\n") == 1, done.stderr[-2000:]
    for part in CASES[name][1]:
        assert part in done.stderr
    assert "unsafely" not in done.stderr  # NumPy's advice on a file that is no .npz


def test_a_mistake_leaves_nothing_behind(outcomes):
    assert [path for path in outcomes[1].rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("flags", [[], ["--workdir="]], ids=["absent", "empty"])
def test_no_workdir(root, flags):
    done = start(root, MSE, FOLDER, *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--workdir is missing" in done.stderr


def test_batch_that_the_devices_cannot_share(root, tmp_path):
    flags = [MSE, "--config.data.source=builtin", f"--workdir={tmp_path}"]
    done = start(root, *flags, "--config.data.batch_size=12", JAX_NUM_CPU_DEVICES="8")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr[-2000:]
    assert "config.data.batch_size=12 cannot be split over 8 devices" in done.stderr


def test_a_broken_file_can_be_left_out(root, material, tmp_path):
    done = start(
        root, MSE, FOLDER, f"--config.data.path={material / 'broken'}",
        "--config.data.damaged=skip", "--config.data.batch_size=2", "--config.pretrain.steps=1",
        "--config.gan.steps=0", "--config.generator.blocks=1", "--config.generator.channels=8",
        f"--workdir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 pictures" in done.stdout
    assert "left out 1 damaged" in done.stdout
    assert "cut.jpg" in done.stdout
    assert (tmp_path / "srresnet.safetensors").exists()
