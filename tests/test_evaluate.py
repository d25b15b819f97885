"""`python -m srgan_jax.evaluate`: what it prints and writes, what it pairs, and what it refuses."""

import concurrent.futures
import contextlib
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
import pytest
import safetensors.numpy
import skimage.data
import skimage.metrics
from absl.testing import flagsaver
from PIL import Image

from srgan_jax import cli, weights
from srgan_jax import config as config_lib
from srgan_jax.convert import niqe as convert_niqe
from srgan_jax.data.degradation import Degradation
from srgan_jax.errors import UserError
from srgan_jax.evaluate import pairs, report, score
from srgan_jax.evaluate.__main__ import main
from srgan_jax.evaluate.methods import baseline, network, super_resolve
from srgan_jax.metrics import lpips, niqe
from srgan_jax.models.generator import Generator
from srgan_jax.state import Variables, init_variables

pytestmark = pytest.mark.usefixtures("quick_compile")

CONVENTIONS = ("paper", "modern", "rgb", "full")
METRICS = ("mse", "psnr", "ssim")
FAST = ("--conventions=rgb", "--metrics=mse,psnr")  # these compile in no time


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Part of a photograph, uint8 [H, W, 3]."""
    image = skimage.data.astronaut()
    top, left = (
        int(x) for x in np.random.default_rng(seed).integers(0, [512 - height + 1, 512 - width + 1])
    )
    return image[top : top + height, left : left + width]


def save(file: pathlib.Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def load(file: pathlib.Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def touch(folder: pathlib.Path, *names: str) -> str:
    """A folder of empty files; their names are all that pairing looks at."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return str(folder)


def run(*flags: object) -> str:
    """The command in this process: what it prints."""
    with flagsaver.flagsaver(), contextlib.redirect_stdout(io.StringIO()) as printed:
        main(cli.parse_flags(["evaluate", *map(str, flags)]))
    return printed.getvalue()


def refused(*flags: object) -> tuple[str, str]:
    """The line that the command in this process ends with, and what it printed before."""
    with (
        flagsaver.flagsaver(),
        contextlib.redirect_stdout(io.StringIO()) as printed,
        pytest.raises(UserError) as error,
    ):
        main(cli.parse_flags(["evaluate", *map(str, flags)]))
    line = str(error.value)
    assert "\n" not in line
    return line, printed.getvalue()


def not_json(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON: strict parsers refuse the file")


def read_results(out: pathlib.Path) -> dict:
    return json.loads((out / "results.json").read_text(), parse_constant=not_json)


def values_of(rows: list[score.Row], data: str) -> dict[tuple[str, str, str, str], float]:
    """Values by image, method, convention, metric."""
    return {
        (row["image"], row["method"], row["convention"], row["metric"]): row["value"]
        for row in rows
        if row["data"] == data
    }


def table_of(text: str, title: str) -> dict[str, list[str]]:
    """The numbers, as printed, of the table under a line: a line a method."""
    lines = text[text.index(title + "\n") :].splitlines()[3:]
    table = {}
    for line in lines:
        if " | " not in line:
            break
        method, *cells = line.split(" | ")
        table[method.strip()] = " ".join(cells).split()
    return table


TINY = Generator(blocks=1, channels=8)


@functools.cache
def initialised(generator: Generator) -> tuple[Generator, Variables]:
    return generator, init_variables(generator, jax.random.key(0), (1, 8, 8, 3))


def save_network(
    path: pathlib.Path, seed: int, generator: Generator = TINY, training: dict | None = None
) -> None:
    """An untrained generator as training exports it."""
    generator, variables = initialised(generator)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda x: (x + rng.normal(0, 0.01, x.shape)).astype(x.dtype), variables.params
    )
    variables = variables.replace(params=params)
    path.parent.mkdir(parents=True, exist_ok=True)
    weights.save_generator(path, generator, variables, training or {"network": "srresnet"})


def save_lpips(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Weights of the smallest net, random."""
    rng = np.random.default_rng(0)
    arrays = {
        name: (rng.random(shape) if name.startswith("lin") else rng.normal(0, 0.1, shape)).astype(
            np.float32
        )
        for name, shape in lpips.shapes("squeeze").items()
    }
    safetensors.numpy.save_file(arrays, path, metadata={"lpips_net": "squeeze"})
    return arrays


@pytest.fixture(scope="module")
def configs(root) -> Callable[[str], dict]:
    """`configs(variant)`: a variant of configs/srgan.py, as an export's metadata tells it."""
    get_config = runpy.run_path(str(root / "configs" / "srgan.py"))["get_config"]
    return lambda variant: config_lib.to_json(get_config(variant))


PICTURES = {"baby": (64, 80), "bird": (64, 80), "woman": (72, 64)}
ODD = (74, 66)  # neither side a multiple of 4; cut, it is as large as woman


class Material:
    """Test sets, networks and another program's results."""

    def __init__(self, folder: pathlib.Path, configs: Callable[[str], dict]):
        self.folder = folder
        self.hr, self.lr_image, self.other = folder / "hr", folder / "lr", folder / "other"
        self.theirs = folder / "theirs"
        self.network, self.workdir = folder / "tiny.safetensors", folder / "run"
        self.double = folder / "double.safetensors"
        enlarge = baseline("bicubic", 4)
        for seed, (name, size) in enumerate(PICTURES.items()):
            hr = photograph(*size, seed)
            save(self.hr / f"{name}.png", hr)
            save(self.lr_image / f"{name}x4.png", hr[2::4, 2::4])  # not as we would make it
            theirs = np.asarray(enlarge(hr[None, 2::4, 2::4]))[0]
            save(self.theirs / "Set5" / f"{name}_SRGAN.png", theirs)
        save(self.other / "odd.bmp", photograph(*ODD))
        save(self.theirs / "other" / "odd.png", np.full((*ODD, 3), 128, np.uint8))
        story = {"network": "srgan", "config": configs("vgg54")}
        save_network(self.network, 0, Generator(), story)  # the paper's own
        save_network(self.workdir / "srresnet.safetensors", 1)
        save_network(self.workdir / "srgan.safetensors", 2)
        save_network(self.double, 3, Generator(scale=2, blocks=1, channels=8))
        save_lpips(folder / "squeeze.safetensors")


@pytest.fixture(scope="module")
def material(tmp_path_factory, configs) -> Material:
    return Material(tmp_path_factory.mktemp("material"), configs)


def start(root: pathlib.Path, *flags: object) -> subprocess.CompletedProcess:
    """The command as a user starts it, on one CPU device; it compiles in half the time."""
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    return subprocess.run(
        [sys.executable, "-m", "srgan_jax.evaluate", *map(str, flags)],
        cwd=root, env=env, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def processes(root, material, tmp_path_factory):
    """Two runs at once, one of them with a broken picture: (process, its --out) each."""
    outs = [tmp_path_factory.mktemp("out") / "deep" / name for name in ("whole", "broken")]
    broken = material.folder / "broken"
    save(broken / "good.png", photograph(64, 64))
    whole = (material.hr / "baby.png").read_bytes()
    (broken / "cut.png").write_bytes(whole[: len(whole) // 2])
    (broken / "text.png").write_text("hello")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        started = [
            pool.submit(
                start, root,
                f"--weights=ours={material.network}", f"--weights={material.workdir}",
                "--weights=bicubic", f"--results=theirs={material.theirs}",
                f"--data=Set5={material.hr}", f"--lr_data=Set5={material.lr_image}",
                f"--data=other={material.other}", "--per_image", "--report_table",
                f"--out={outs[0]}",
            ),
            pool.submit(
                start, root, "--weights=bicubic", f"--data=holed={broken}", *FAST,
                f"--out={outs[1]}",
            ),
        ]  # fmt: skip
        return [(future.result(), out) for future, out in zip(started, outs, strict=True)]


@pytest.fixture(scope="module")
def whole(processes) -> tuple[str, pathlib.Path]:
    """What the run without mistakes printed, and its --out."""
    done, out = processes[0]
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-2000:]
    return done.stdout, out


METHODS = ("ours", "srresnet", "srgan", "bicubic", "theirs")


def test_results_hold_one_row_a_number(whole):
    rows = read_results(whole[1])["rows"]
    keys = ["data", "image", "method", "convention", "metric", "value"]
    assert all(list(row) == keys for row in rows)
    assert all(type(row["value"]) is float and np.isfinite(row["value"]) for row in rows)
    named = [tuple(row[key] for key in keys[:5]) for row in rows]
    assert len(set(named)) == len(named)
    assert set(named) == {
        (data, image, method, convention, metric)
        for data, names in (("Set5", [f"{n}.png" for n in PICTURES]), ("other", ["odd.bmp"]))
        for image in (*names, "mean")
        for method in METHODS
        for convention in CONVENTIONS
        for metric in METRICS
    }
    values = values_of(rows, "Set5")
    for (image, *rest), value in values.items():
        if image == "mean":
            each = [values[f"{name}.png", *rest] for name in PICTURES]
            assert value == pytest.approx(np.mean(each), rel=1e-12)
            assert len(set(each)) == 3


def test_pictures_and_numbers_are_those_of_the_weights(material, whole):
    """From the files alone: what the network makes of the given LR, and plain NumPy of that."""
    values = values_of(read_results(whole[1])["rows"], "Set5")
    files = {
        "ours": material.network,
        "srresnet": material.workdir / "srresnet.safetensors",
        "srgan": material.workdir / "srgan.safetensors",
    }
    for method, file in files.items():
        exported = weights.load_generator(file)
        for name in PICTURES:
            written = load(whole[1] / "sr" / method / "Set5" / f"{name}.png")
            lr_image = load(material.lr_image / f"{name}x4.png")[None]
            expected = super_resolve(exported.generator, exported.variables, lr_image)[0]
            # Another process, another program: a tie may round the other way.
            gap = np.abs(written.astype(int) - np.asarray(expected).astype(int))
            assert gap.max() <= 1
            assert (gap > 0).mean() < 1e-3
            hr = load(material.hr / f"{name}.png").astype(np.float64)
            for convention, border in (("full", 0), ("rgb", 4)):
                a, b = (
                    x[border : -border or None, border : -border or None] for x in (written, hr)
                )
                error = np.mean((a - b) ** 2)
                row = (f"{name}.png", method, convention)
                assert values[*row, "mse"] == pytest.approx(error, rel=1e-5)
                assert values[*row, "psnr"] == pytest.approx(
                    10 * np.log10(255**2 / error), abs=1e-4
                )
            similar = skimage.metrics.structural_similarity(
                written.astype(np.float64), hr, data_range=255, channel_axis=-1,
                gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            )  # fmt: skip
            assert values[f"{name}.png", method, "full", "ssim"] == pytest.approx(similar, abs=1e-4)


def test_results_of_another_program_count_like_our_own(material, whole):
    values = values_of(read_results(whole[1])["rows"], "Set5")
    scored = {key: value for key, value in values.items() if key[1] == "theirs"}
    assert len(scored) == 4 * 4 * 3
    for (image, _, *rest), value in scored.items():
        assert value == values[image, "bicubic", *rest]
    # Of a picture that our HR is cut from, the same part is taken.
    hr = load(material.other / "odd.bmp")[:72, :64].astype(np.float64)
    values = values_of(read_results(whole[1])["rows"], "other")
    gap = np.mean((hr - 128) ** 2)
    assert values["odd.bmp", "theirs", "full", "mse"] == pytest.approx(gap, rel=1e-5)


def test_what_was_measured_is_recorded(material, whole):
    results = read_results(whole[1])
    files = {
        "ours": material.network,
        "srresnet": material.workdir / "srresnet.safetensors",
        "srgan": material.workdir / "srgan.safetensors",
    }
    assert results["weights"].keys() == files.keys()
    for method, file in files.items():
        assert results["weights"][method] == {
            "file": str(file),
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
    for package in ("jax", "flax", "numpy"):
        assert results["versions"][package] == importlib.metadata.version(package)
    for flag in (f"--weights=ours={material.network}", "--report_table", f"--out={whole[1]}"):
        assert flag in results["command"]


def test_pictures_and_panels_of_every_image(whole):
    written = {str(file.relative_to(whole[1])) for file in whole[1].rglob("*") if file.is_file()}
    images = [f"Set5/{name}.png" for name in PICTURES] + ["other/odd.png"]
    assert written == {"results.json", "results.md"} | {
        f"{kind}/{image}"
        for kind in ("panels", *(f"sr/{method}" for method in METHODS if method != "theirs"))
        for image in images
    }
    assert load(whole[1] / "sr/ours/other/odd.png").shape == (72, 64, 3)
    for image in images:
        panel = load(whole[1] / "panels" / image)
        # LR, HR and five methods, 384 pixels wide each with gaps of 6.
        assert panel.shape[1] == 7 * 384 + 6 * 6
        columns = [panel[44:, x : x + 384] for x in range(0, panel.shape[1], 390)]
        for i in range(6):
            same = np.array_equal(columns[i], columns[i + 1])
            assert same == (image != "other/odd.png" and i == 4)  # bicubic, theirs


def test_the_printed_table_holds_the_means(whole):
    stdout, out = whole
    rows = read_results(out)["rows"]
    formats = {"mse": "{:.2f}", "psnr": "{:.2f}", "ssim": "{:.4f}"}
    titles = {
        "Set5: mean over 3 pictures": ("Set5", "mean"),
        "other: mean over 1 picture": ("other", "mean"),
        "Set5, bird.png": ("Set5", "bird.png"),
        "other, odd.bmp": ("other", "odd.bmp"),
    }
    for title, (data, image) in titles.items():
        values = values_of(rows, data)
        table = table_of(stdout, title)
        assert list(table) == list(METHODS)
        for method, cells in table.items():
            assert cells == [
                formats[metric].format(values[image, method, convention, metric])
                for convention in CONVENTIONS
                for metric in METRICS
            ]
    head = stdout[stdout.index("Set5: mean") :].splitlines()[1:3]
    assert re.findall(r"\w+", head[0]) == list(CONVENTIONS)
    assert re.findall(r"\w+", head[1]) == 4 * ["MSE", "PSNR", "SSIM"]
    assert f"{out}/results.json" in stdout
    assert f"{out}/results.md" in stdout


def cells_of(markdown: str, start: str) -> list[str]:
    """The cells of the first Markdown line that begins with a label."""
    line = next(line for line in markdown.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_results_md_holds_means_conventions_and_command(material, whole):
    text = (whole[1] / "results.md").read_text()
    values = values_of(read_results(whole[1])["rows"], "Set5")
    part = text[text.index("## Set5: mean over 3 pictures") : text.index("## other")]
    for method in METHODS:
        cells = cells_of(part, method)
        assert len(cells) == 12
        assert cells[1] == f"{values['mean', method, 'paper', 'psnr']:.2f}"
        assert cells[-1] == f"{values['mean', method, 'full', 'ssim']:.4f}"
    for convention in CONVENTIONS:
        assert f"- `{convention}`: " in text
    assert f"--data=Set5={material.hr}" in text


def test_published_numbers_with_ours_and_the_difference(whole):
    stdout, out = whole
    values = values_of(read_results(out)["rows"], "Set5")
    first, second = stdout.index("## Table 1"), stdout.index("## Table 2")
    third = stdout.index("## Table of the report")
    tables = stdout[first:]
    assert tables[: tables.index("written:")].strip() in (out / "results.md").read_text()

    def differences(method: str, psnr: float, ssim: float) -> tuple[str, str, str]:
        ours = [values["mean", method, "paper", metric] for metric in ("psnr", "ssim")]
        gaps = ours[0] - psnr, ours[1] - ssim
        return (
            f"{psnr:.2f} / {ssim:.4f}",
            f"{ours[0]:.2f} / {ours[1]:.4f}",
            f"{gaps[0]:+.2f} / {gaps[1]:+.4f}",
        )

    # "ours" says of itself that it is the paper's last network.
    table = stdout[first:second]
    shown = table[table.index("| Set5, published") :].splitlines()[:3]
    assert tuple(line.split(" | ")[-1].removesuffix(" |") for line in shown) == differences(
        "ours", 29.40, 0.8472
    )
    assert shown[1].startswith("| Set5, ours (ours) | - | - | - | - |")
    assert cells_of(table, "Set14, published")[0] == "28.49 / 0.8184"
    assert cells_of(table, "Set14, ours") == 5 * ["-"]
    table = stdout[second:third]
    shown = table[table.index("| Set5, published") :].splitlines()[:3]
    bicubic = tuple(line.split(" | ")[2] for line in shown)
    assert bicubic == differences("bicubic", 28.43, 0.8211)
    table = stdout[third:]
    assert cells_of(table, "SRGAN (report)") == ["68.16", "29.75", "0.7200"]
    other = values_of(read_results(out)["rows"], "other")
    assert cells_of(table, "ours (ours, other)") == [
        f"{other['mean', 'ours', 'full', 'mse']:.2f}",
        f"{other['mean', 'ours', 'full', 'psnr']:.2f}",
        f"{other['mean', 'ours', 'full', 'ssim']:.4f}",
    ]
    assert "(ours, Set5)" not in table  # the report's is of one picture


def test_unreadable_pictures_are_named_and_the_rest_is_measured(processes):
    done, out = processes[1]
    assert done.returncode == 2
    assert done.stderr.startswith("srgan_jax: error: 2 not measured: "), done.stderr[-2000:]
    assert done.stderr.count("\n") == 1, done.stderr[-2000:]
    for name in ("cut.png", "text.png"):
        assert name in done.stderr
    assert "holed: mean over 1 of 3 pictures\n" in done.stdout
    rows = read_results(out)["rows"]
    assert {row["image"] for row in rows} == {"good.png", "mean"}
    assert "mean over 1 of 3 pictures" in (out / "results.md").read_text()
    assert [file.name for file in (out / "sr/bicubic/holed").iterdir()] == ["good.png"]


# In this process.


def test_given_lr_like_ours_gives_the_same(material, tmp_path):
    """With other names and as another format, too."""
    flags = ["--weights=bicubic", f"--weights={material.network}", *FAST]
    run(*flags, f"--data=x={material.hr}", f"--out={tmp_path / 'made'}")
    for name in PICTURES:
        pair = pairs.make_pair(name, load(material.hr / f"{name}.png"), Degradation(4))
        save(tmp_path / "lr" / f"{name}x4.bmp", pair.lr_image)
    run(
        *flags, f"--data=x={material.hr}", f"--lr_data=x={tmp_path / 'lr'}",
        f"--out={tmp_path / 'given'}",
    )  # fmt: skip
    made, given = (read_results(tmp_path / name)["rows"] for name in ("made", "given"))
    assert made == given
    assert {row["method"] for row in made} == {"bicubic", "tiny"}  # the file's stem
    for name in PICTURES:
        a, b = (tmp_path / out / f"sr/tiny/x/{name}.png" for out in ("made", "given"))
        assert a.read_bytes() == b.read_bytes()


def test_only_the_conventions_and_metrics_asked_for(material):
    stdout = run(
        "--weights=nearest", f"--data=x={material.other}", "--conventions=full,modern",
        "--metrics=ssim,mse",
    )  # fmt: skip
    lines = stdout.splitlines()
    assert re.findall(r"\w+", lines[1]) == ["full", "modern"]
    assert re.findall(r"\w+", lines[2]) == ["SSIM", "MSE", "SSIM", "MSE"]
    assert len(lines) == 4
    hr = load(material.other / "odd.bmp")[:72, :64]
    lr_image = pairs.make_pair("", hr, Degradation(4)).lr_image
    error = hr.astype(float) - lr_image.repeat(4, axis=0).repeat(4, axis=1)
    assert float(table_of(stdout, lines[0])["nearest"][1]) == pytest.approx(
        np.mean(error**2), abs=0.006
    )


@pytest.mark.parametrize("scale", [2, 3])
def test_baselines_of_another_scale(material, tmp_path, scale):
    """65 x 70 pixels are cut to what the scale divides; the border cropped is the scale's."""
    whole = photograph(65, 70)
    save(tmp_path / "hr" / "a.png", whole)
    flags = [f"--weights={name}" for name in ("bicubic", "lanczos", "nearest")]
    run(*flags, f"--scale={scale}", f"--data=x={tmp_path / 'hr'}", f"--out={tmp_path}", *FAST)
    hr = whole[: 65 // scale * scale, : 70 // scale * scale].astype(np.float64)
    lr_image = pairs.make_pair("", whole, Degradation(scale)).lr_image
    assert lr_image.shape == (65 // scale, 70 // scale, 3)
    values = values_of(read_results(tmp_path)["rows"], "x")
    for name in ("bicubic", "lanczos", "nearest"):
        sr = load(tmp_path / f"sr/{name}/x/a.png")
        assert sr.shape == hr.shape
        error = np.mean((hr - sr)[scale:-scale, scale:-scale] ** 2)
        assert values["a.png", name, "rgb", "mse"] == pytest.approx(error, rel=1e-5)
    nearest = load(tmp_path / "sr/nearest/x/a.png")
    np.testing.assert_array_equal(nearest, lr_image.repeat(scale, axis=0).repeat(scale, axis=1))
    assert (
        len({values["mean", name, "rgb", "psnr"] for name in ("bicubic", "lanczos", "nearest")})
        == 3
    )


def test_the_scale_is_the_networks(material, tmp_path):
    run(
        f"--weights={material.double}", "--weights=bicubic", f"--data=x={material.other}", *FAST,
        f"--out={tmp_path}",
    )  # fmt: skip
    for name in ("double", "bicubic"):
        assert load(tmp_path / f"sr/{name}/x/odd.png").shape == (74, 66, 3)
    exported = weights.load_generator(material.double)
    lr_image = pairs.make_pair("", load(material.other / "odd.bmp"), Degradation(2)).lr_image
    assert lr_image.shape == (37, 33, 3)
    np.testing.assert_array_equal(
        load(tmp_path / "sr/double/x/odd.png"),
        super_resolve(exported.generator, exported.variables, lr_image[None])[0],
    )


def test_names_of_weights(material, tmp_path):
    """A workdir's one network takes the name; its two get it before theirs."""
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(material.workdir / "srgan.safetensors", one)
    equals = tmp_path / "rate=1e-4.safetensors"  # no name is meant
    shutil.copy(material.network, equals)
    stdout = run(
        f"--weights=single={one}", f"--weights=two={material.workdir}", f"--weights={equals}",
        "--weights=cubic=bicubic", f"--data=x={material.other}", *FAST,
    )  # fmt: skip
    names = ["single", "two-srresnet", "two-srgan", "rate=1e-4", "cubic"]
    table = table_of(stdout, "x: mean over 1 picture")
    assert list(table) == names
    assert table["single"] == table["two-srgan"]
    assert table["two-srresnet"] != table["two-srgan"]


def test_results_are_measured_without_any_weights(material, tmp_path):
    stdout = run(
        f"--results=theirs={material.theirs / 'Set5'}", f"--data=x={material.hr}", *FAST,
        f"--out={tmp_path}",
    )  # fmt: skip
    assert list(table_of(stdout, "x: mean over 3 pictures")) == ["theirs"]
    assert read_results(tmp_path)["weights"] == {}
    assert not (tmp_path / "sr").exists()  # they are not ours
    assert len(list((tmp_path / "panels/x").iterdir())) == 3


def test_the_report_table_works_on_its_own():
    stdout = run("--report_table", "--conventions=paper,full")
    assert list(table_of(stdout, "builtin: mean over 1 picture")) == [
        "bicubic",
        "lanczos",
        "nearest",
    ]
    for set_name, psnr in (("Set5", "28.43"), ("Set14", "25.99"), ("BSD100", "25.94")):
        cells = cells_of(stdout[stdout.index("## Table 2") :], f"{set_name}, published")
        assert cells[1].startswith(psnr)
    hr = skimage.data.astronaut()
    sr = np.asarray(baseline("nearest", 4)(pairs.make_pair("", hr, Degradation(4)).lr_image[None]))
    error = np.mean((hr - sr[0].astype(float)) ** 2)
    cells = cells_of(stdout, "nearest (ours, builtin)")
    assert cells[:2] == [f"{error:.2f}", f"{10 * np.log10(255**2 / error):.2f}"]


def test_the_report_table_needs_what_it_compares(material):
    for flags in (["--metrics=mse"], ["--metrics=ssim"], ["--conventions=modern"]):
        line, _ = refused(
            "--report_table", "--weights=bicubic", f"--data=Set5={material.other}", *flags
        )
        assert "--report_table" in line
        assert "psnr and ssim" in line


def test_which_network_of_the_paper_an_export_is(configs):
    def told(variant: str, network: str) -> str | None:
        return report.variant(metadata(network, configs(variant)))

    def metadata(network: str, config: dict, **architecture) -> dict:
        own = weights.architecture(Generator()) | architecture
        return {"training": {"network": network, "config": config}, "architecture": own}

    assert told("vgg54", "srgan") == "SRGAN-VGG54"
    assert told("vgg22", "srgan") == "SRGAN-VGG22"
    assert told("mse", "srgan") == "SRGAN-MSE"
    assert told("vgg54", "srresnet") == told("srresnet_mse", "srresnet") == "SRResNet-MSE"
    assert told("srresnet_vgg22", "srresnet") == "SRResNet-VGG22"
    other = configs("vgg54")
    other["vgg"]["layers"] = ["relu3_4"]
    assert report.variant(metadata("srgan", other)) is None
    for changed in ({"blocks": 4}, {"channels": 32}, {"norm": "none"}, {"base": "bicubic"}):
        assert report.variant(metadata("srgan", configs("mse"), **changed)) is None
    assert report.variant(metadata("srgan", configs("mse"), prelu="channel")) == "SRGAN-MSE"
    assert report.variant({}) is None


def test_two_networks_of_one_kind_have_lines_of_their_own():
    def rows(**psnr: float) -> list[score.Row]:
        values = {
            method: {"paper": {"psnr": value, "ssim": value / 40}} for method, value in psnr.items()
        }
        return score.to_rows("Set14", {"a.png": values})

    text = report.published(
        {"Set14": rows(first=25.99, second=26.5)}, {"first": "bicubic", "second": "bicubic"}
    )
    part = text[text.index("## Table 2") :]
    part = part[part.index("| Set14, published") :]
    lines = part.splitlines()
    assert [line.split(" | ")[0] for line in lines[:5]] == [
        "| Set14, published", "| Set14, ours (first)", "| difference",
        "| Set14, ours (second)", "| difference",
    ]  # fmt: skip
    gaps = [lines[i].split(" | ")[2].split(" / ")[0] for i in (2, 4)]
    assert gaps == ["+0.00", "+0.51"]


def test_equal_pictures_have_infinite_psnr_and_it_is_said(tmp_path):
    for name in ("same", "other"):
        save(tmp_path / "hr" / f"{name}.png", photograph(64, 64))
    save(tmp_path / "theirs" / "same.png", photograph(64, 64))
    save(tmp_path / "theirs" / "other.png", 255 - photograph(64, 64))
    stdout = run(
        f"--results=theirs={tmp_path / 'theirs'}", f"--data=x={tmp_path / 'hr'}", *FAST,
        f"--out={tmp_path / 'out'}", "--per_image",
    )  # fmt: skip
    said = [line for line in stdout.splitlines() if "infinite" in line]
    assert len(said) == 1
    assert "same.png" in said[0]
    assert "theirs" in said[0]
    assert table_of(stdout, "x, same.png")["theirs"] == ["0.00", "inf"]
    assert table_of(stdout, "x: mean over 2 pictures")["theirs"][1] == "inf"
    assert np.isfinite(float(table_of(stdout, "x, other.png")["theirs"][1]))
    assert "inf" in (tmp_path / "out/results.md").read_text()
    read_results(tmp_path / "out")  # JSON knows no Infinity


def test_a_picture_equal_but_for_its_border_is_not_called_equal(tmp_path):
    hr = photograph(64, 64)
    save(tmp_path / "hr" / "a.png", hr)
    theirs = hr.copy()
    theirs[0] = 255 - theirs[0]
    save(tmp_path / "theirs" / "a.png", theirs)
    stdout = run(
        f"--results=theirs={tmp_path / 'theirs'}", f"--data=x={tmp_path / 'hr'}",
        "--conventions=rgb,full", "--metrics=psnr",
    )  # fmt: skip
    assert table_of(stdout, "x: mean over 1 picture")["theirs"][0] == "inf"
    said = [line for line in stdout.splitlines() if "infinite" in line]
    assert len(said) == 1
    assert "rgb" in said[0]
    assert "full" not in said[0]


def test_pictures_too_small_for_a_metric_are_left_out_of_its_mean_and_it_is_said(tmp_path):
    """After its border is cropped, a 16x16 picture has no room for the window of Wang's SSIM."""
    save(tmp_path / "hr" / "large.png", photograph(64, 64))
    save(tmp_path / "hr" / "small.png", photograph(16, 16, seed=1))
    stdout = run(
        "--weights=bicubic", f"--data=x={tmp_path / 'hr'}", "--conventions=paper,modern",
        f"--out={tmp_path}",
    )  # fmt: skip
    values = values_of(read_results(tmp_path)["rows"], "x")
    assert ("small.png", "bicubic", "paper", "ssim") in values
    assert ("small.png", "bicubic", "modern", "psnr") in values
    assert ("small.png", "bicubic", "modern", "ssim") not in values
    mean = values["mean", "bicubic", "modern", "ssim"]
    assert mean == values["large.png", "bicubic", "modern", "ssim"]
    said = [line for line in stdout.splitlines() if "too small" in line]
    assert len(said) == 1
    assert re.search(r"\bssim\b", said[0], re.IGNORECASE)
    assert re.search(r"\b1\b", said[0])
    assert "modern" in said[0]
    assert "paper" not in said[0]


def test_a_picture_that_a_border_leaves_nothing_of(tmp_path):
    save(tmp_path / "hr" / "large.png", photograph(64, 64))
    save(tmp_path / "hr" / "small.png", photograph(8, 8, seed=1))
    stdout = run(
        "--weights=bicubic", f"--data=x={tmp_path / 'hr'}", *FAST, "--per_image",
        f"--out={tmp_path}",
    )  # fmt: skip
    rows = read_results(tmp_path)["rows"]
    assert {row["image"] for row in rows} == {"large.png", "mean"}
    said = [line for line in stdout.splitlines() if "too small" in line]
    assert any("psnr" in line.lower() and re.search(r"\b1\b", line) for line in said)


def test_ms_ssim_of_pictures_around_its_limit(tmp_path):
    """161 pixels are needed: a border of 4 takes the middle picture out of what is cropped."""
    for size in (64, 164, 172):
        save(tmp_path / "hr" / f"{size}.png", photograph(size, size))
    stdout = run(
        "--weights=bicubic", f"--data=x={tmp_path / 'hr'}", "--conventions=modern,full",
        "--metrics=ms_ssim,psnr", f"--out={tmp_path}",
    )  # fmt: skip
    found = {
        (row["image"], row["convention"])
        for row in read_results(tmp_path)["rows"]
        if row["metric"] == "ms_ssim" and row["image"] != "mean"
    }
    assert found == {("164.png", "full"), ("172.png", "full"), ("172.png", "modern")}
    said = [line for line in stdout.splitlines() if "too small" in line]
    assert len(said) == 2
    for convention, count in (("modern", 1), ("full", 2)):
        (line,) = (line for line in said if convention in line)
        assert re.search(rf"\b{count}\b", line)


@pytest.mark.parametrize("flags", [
    ("--conventions=modern", "--metrics=ms_ssim"),  # all too small
    ("--conventions=paper", "--metrics=ms_ssim"),  # of which there is none
], ids=["too small", "not in this convention"])  # fmt: skip
def test_nothing_to_measure_is_a_line(material, flags):
    line, _ = refused("--weights=bicubic", f"--data=x={material.hr}", *flags)
    assert "ms_ssim" in line


def test_niqe_and_lpips_with_the_files_given(tmp_path):
    """NIQE, fitted here, needs two blocks of 96x96 within the border; LPIPS takes any of these."""
    for name in ("brick", "gravel"):  # sharp all over
        save(tmp_path / "pristine" / f"{name}.png", getattr(skimage.data, name)())
    niqe_file, lpips_file = tmp_path / "niqe.npz", tmp_path / "squeeze.safetensors"
    stdout = run(f"--fit_niqe={tmp_path / 'pristine'}", f"--niqe={niqe_file}")
    assert f"written: {niqe_file}" in stdout
    arrays = save_lpips(lpips_file)
    save(tmp_path / "hr" / "large.png", photograph(200, 104))
    save(tmp_path / "hr" / "small.png", photograph(64, 64))
    stdout = run(
        "--weights=bicubic", f"--data=x={tmp_path / 'hr'}", f"--niqe={niqe_file}",
        f"--lpips={lpips_file}", *FAST, f"--out={tmp_path}",
    )  # fmt: skip
    values = values_of(read_results(tmp_path)["rows"], "x")
    pictures = {}
    for name in ("large", "small"):
        files = (tmp_path / "hr" / f"{name}.png", tmp_path / f"sr/bicubic/x/{name}.png")
        pictures[name] = [load(file)[4:-4, 4:-4].astype(np.float32) for file in files]
        distance = jax.jit(lpips.lpips, static_argnums=0)("squeeze", arrays, *pictures[name])
        row = (f"{name}.png", "bicubic", "rgb", "lpips_squeeze")
        assert values[row] == pytest.approx(float(distance), rel=1e-4)
    luma = np.floor(16.5 + pictures["large"][1] @ (np.array([65.481, 128.553, 24.966]) / 255))
    own = niqe.niqe(luma, convert_niqe.load(niqe_file))
    assert values["large.png", "bicubic", "modern", "niqe"] == pytest.approx(own, rel=1e-3)
    assert (
        values["mean", "bicubic", "modern", "niqe"]
        == values["large.png", "bicubic", "modern", "niqe"]
    )
    assert ("small.png", "bicubic", "modern", "niqe") not in values
    said = [line for line in stdout.splitlines() if "too small" in line]
    assert len(said) == 1
    assert "niqe" in said[0].lower()
    assert re.search(r"\b1\b", said[0])
    # Numbers with other parameters don't compare.
    for file in (niqe_file, lpips_file):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert digest in (tmp_path / "results.json").read_text()


def test_the_builtin_picture_beside_a_folder(material):
    stdout = run("--weights=nearest", "--data=builtin", f"--data=x={material.other}", *FAST)
    assert list(table_of(stdout, "builtin: mean over 1 picture")) == ["nearest"]
    assert list(table_of(stdout, "x: mean over 1 picture")) == ["nearest"]


# What cannot be read while it runs.


def test_pictures_that_do_not_fit_are_named_and_the_run_goes_on(tmp_path):
    for name in ("a", "b", "c", "d"):
        save(tmp_path / "hr" / f"{name}.png", photograph(64, 72))
        save(tmp_path / "lr" / f"{name}.png", photograph(16, 18))
        save(tmp_path / "theirs" / f"{name}.png", photograph(64, 72, seed=1))
    save(tmp_path / "lr" / "b.png", photograph(32, 36))
    (tmp_path / "lr" / "c.png").write_text("no picture")
    save(tmp_path / "theirs" / "d.png", photograph(72, 64))
    line, stdout = refused(
        "--weights=bicubic", f"--results=theirs={tmp_path / 'theirs'}",
        f"--data=x={tmp_path / 'hr'}", f"--lr_data=x={tmp_path / 'lr'}", *FAST,
        f"--out={tmp_path / 'out'}",
    )  # fmt: skip
    assert line.startswith("3 not measured: ")
    for part in ("lr/b.png: 36x32", "72x64", "lr/c.png: cannot be read", "theirs/d.png: 64x72"):
        assert part in line
    assert "lr/a.png" not in line
    assert "x: mean over 1 of 4 pictures\n" in stdout
    rows = read_results(tmp_path / "out")["rows"]
    assert {row["image"] for row in rows} == {"a.png", "mean"}
    assert {row["method"] for row in rows} == {"bicubic", "theirs"}


def test_a_set_of_nothing_but_broken_pictures(material, tmp_path):
    """The other sets are measured all the same."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_text("no picture")
    save(broken / "b.png", photograph(3, 64))
    line, stdout = refused(
        "--weights=bicubic", f"--data=broken={broken}", f"--data=good={material.other}", *FAST,
        f"--out={tmp_path / 'out'}",
    )  # fmt: skip
    assert line.startswith("2 not measured: ")
    assert "a.png" in line
    assert "b.png: smaller than 4x4" in line
    assert "good: mean over 1 picture\n" in stdout
    assert {row["data"] for row in read_results(tmp_path / "out")["rows"]} == {"good"}

    line, _ = refused("--weights=bicubic", f"--data=x={broken}", *FAST, f"--out={tmp_path / 'no'}")
    assert "a.png" in line
    assert not (tmp_path / "no" / "results.json").exists()


def test_an_output_folder_in_the_way_is_a_line(material, tmp_path):
    (tmp_path / "sr").write_text("a file, where a folder has to be")
    line, _ = refused("--weights=nearest", f"--data=x={material.other}", *FAST, f"--out={tmp_path}")
    assert str(tmp_path / "sr") in line


# Mistakes. Name: the flags, and what the line must hold. {} is a folder of test material.
GIVEN = ["--weights=bicubic", "--data=x={}/hr"]
CASES = {
    "nothing": ([], ["--weights is missing"]),
    "no data": (["--weights=bicubic"], ["--data is missing", "NAME=DIR"]),
    "stray word": ([*GIVEN, "Set5"], ["'Set5'"]),
    "unknown flag": ([*GIVEN, "--weight=nearest"], ["'weight'"]),
    "data without a name": (["--weights=bicubic", "--data={}/hr"], ["--data={}/hr", "NAME=DIR"]),
    "data twice": ([*GIVEN, "--data=x={}/other"], ["--data", "'x'", "twice"]),
    "no such folder": (["--weights=bicubic", "--data=x={}/none"], ["--data=x={}/none", "no such"]),
    "empty folder": (["--weights=bicubic", "--data=x={}/empty"], ["{}/empty", "no pictures"]),
    "folder one level deeper": (
        ["--weights=bicubic", "--data=Set5={}/theirs"],
        ["no pictures", "{}/theirs/Set5", "{}/theirs/other"],
    ),
    "unknown convention": (
        [*GIVEN, "--conventions=paper,papre"],
        ["--conventions=papre", "paper, modern, rgb, full"],
    ),
    "unknown metric": ([*GIVEN, "--metrics=vmaf"], ["--metrics=vmaf", "mse, psnr, ssim, ms_ssim"]),
    "no conventions": ([*GIVEN, "--conventions="], ["--conventions", "empty"]),
    "no such weights": (
        ["--weights={}/none.safetensors", "--data=x={}/hr"],
        ["{}/none.safetensors", "no such file"],
    ),
    "weights of another kind": (
        ["--weights={}/hr/baby.png", "--data=x={}/hr"],
        ["hr/baby.png", "not a whole .safetensors file"],
    ),
    "a folder that is no workdir": (
        ["--weights={}/hr", "--data=x={}/hr"],
        ["--weights={}/hr", "srresnet or srgan.safetensors"],
    ),
    "weights of different scales": (
        ["--weights={}/tiny.safetensors", "--weights={}/double.safetensors", "--data=x={}/hr"],
        ["tiny.safetensors by 4", "double.safetensors by 2"],
    ),
    "a scale that is not the network's": (
        ["--weights={}/tiny.safetensors", "--scale=3", "--data=x={}/hr"],
        ["tiny.safetensors by 4", "--scale=3"],
    ),
    "scale 1": ([*GIVEN, "--scale=1"], ["--scale=1"]),
    "scale 0": ([*GIVEN, "--scale=0"], ["--scale=0"]),
    "scale in words": ([*GIVEN, "--scale=four"], ["scale", "four"]),
    "a name twice": ([*GIVEN, "--weights=bicubic"], ["'bicubic'", "twice", "NAME="]),
    "two workdirs": (
        ["--weights={}/run", "--weights={}/run", "--data=x={}/hr"],
        ["'srresnet'", "twice", "NAME="],
    ),
    "results named like weights": (
        [*GIVEN, "--results=bicubic={}/theirs/Set5"],
        ["--results=bicubic", "--weights"],
    ),
    "results without a name": ([*GIVEN, "--results={}/theirs/Set5"], ["--results=", "NAME=DIR"]),
    "results of the built-in picture": (
        ["--results=theirs={}/theirs/Set5", "--data=builtin"],
        ["--results", "builtin"],
    ),
    "results that do not pair": (
        [*GIVEN, "--results=theirs={}/theirs/other"],
        ["--results=theirs=", "{}/hr", "baby.png, bird.png, woman.png", "odd.png"],
    ),
    "results of one set for two": (
        [*GIVEN, "--data=y={}/other", "--results=theirs={}/theirs/Set5"],
        ["--results=theirs={}/theirs/Set5", "{}/theirs/Set5/x is not there"],
    ),
    "LPIPS twice": (
        [*GIVEN, "--lpips={}/squeeze.safetensors", "--lpips={}/squeeze.safetensors"],
        ["--lpips", "squeeze"],
    ),
    "NIQE to fit, but not where": (["--fit_niqe={}/hr"], ["--fit_niqe", "--niqe=FILE.npz"]),
    "LR that does not pair": (
        [*GIVEN, "--lr_data=x={}/odd"],
        ["--lr_data=x={}/odd", "{}/hr", "woman.png", "baby2.png", "birdx8.png"],
    ),
    "LR of no set": ([*GIVEN, "--lr_data=y={}/lr"], ["--lr_data=y", "--data=y"]),
    "no such LR folder": ([*GIVEN, "--lr_data=x={}/none"], ["--lr_data=x={}/none", "no such"]),
    "out is a file": ([*GIVEN, "--out={}/hr/baby.png"], ["--out={}/hr/baby.png", "written"]),
    "out below a file": ([*GIVEN, "--out={}/hr/baby.png/out"], ["--out=", "cannot be written"]),
    "no NIQE parameters": ([*GIVEN, "--niqe={}/none.npz"], ["none.npz"]),
    "no LPIPS weights": ([*GIVEN, "--lpips={}/none.npz"], ["none.npz"]),
    "the paper's tables at another scale": (
        ["--report_table", "--weights=bicubic", "--scale=2", "--data=Set5={}/hr"],
        ["--report_table", "4"],
    ),
    "two sets of one name": (
        ["--weights=bicubic", "--data=builtin", "--data=builtin={}/hr"],
        ["--data", "builtin"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_line_and_leaves_nothing(material, tmp_path, name):
    (material.folder / "empty").mkdir(exist_ok=True)
    odd = material.folder / "odd"
    for file in ("babyx4", "baby2", "bird", "birdx8"):
        save(odd / f"{file}.png", photograph(16, 20))
    flags, parts = ([text.replace("{}", str(material.folder)) for text in x] for x in CASES[name])
    if not any(flag.startswith("--out") for flag in flags):
        flags = [*flags, f"--out={tmp_path / 'out'}"]
    line, stdout = refused(*flags)
    for part in parts:
        assert part in line
    assert stdout == ""
    assert not (tmp_path / "out").exists()


# Pairing: only names matter.


@pytest.mark.parametrize(
    "name", ["baby", "babyx4", "baby_SRGAN", "baby-4", "baby x4", "baby.out", "babyx4_SRGAN"]
)
def test_a_name_that_goes_on_belongs(tmp_path, name):
    hr = touch(tmp_path / "hr", "baby.png", "bird.png")
    lr_image = touch(tmp_path / "lr", f"{name}.jpg", "bird.png")
    found = pairs.find("Set5", hr, 4, lr_image, {})
    assert {stem: file.name for stem, file in found.lr_image.items()} == {
        "baby": f"{name}.jpg",
        "bird": "bird.png",
    }


@pytest.mark.parametrize("name", ["baby2", "babyx2", "babyx44", "Baby", "my_baby", "bab"])
def test_a_name_that_is_another_does_not_belong(tmp_path, name):
    hr, lr_image = touch(tmp_path / "hr", "baby.png"), touch(tmp_path / "lr", f"{name}.png")
    with pytest.raises(UserError) as error:
        pairs.find("Set5", hr, 4, lr_image, {})
    line = str(error.value)
    assert line.startswith(f"--lr_data=Set5={lr_image} does not pair with {hr}: ")
    assert "nothing for baby.png" in line
    assert f"no HR picture for {name}.png" in line


def test_the_longest_fitting_name_is_meant(tmp_path):
    hr = touch(tmp_path / "hr", "a.png", "a_b.png", "a_b_c.png", "1.png", "10.png")
    names = ("a_x.png", "a_b_x.png", "a_b_cx4.png", "1.png", "10_x.png")
    found = pairs.find("Set5", hr, 4, None, {"theirs": touch(tmp_path / "theirs", *names)})
    assert {stem: file.name for stem, file in found.results["theirs"].items()} == {
        "a": "a_x.png", "a_b": "a_b_x.png", "a_b_c": "a_b_cx4.png", "1": "1.png", "10": "10_x.png",
    }  # fmt: skip
    assert found.lr_image == {}


def test_two_pictures_for_one_are_refused(tmp_path):
    hr = touch(tmp_path / "hr", "baby.png")
    theirs = touch(tmp_path / "theirs", "baby_GAN.png", "baby_MSE.png")
    with pytest.raises(UserError, match=r"baby_GAN\.png and baby_MSE\.png are both baby"):
        pairs.find("Set5", hr, 4, None, {"theirs": theirs})
    twice = touch(tmp_path / "twice", "baby.png", "baby.jpg")
    with pytest.raises(UserError, match=r"baby\.jpg and baby\.png have one name"):
        pairs.find("Set5", twice, 4, None, {})


def test_of_many_odd_ones_some_are_named_and_all_are_counted(tmp_path):
    hr = touch(tmp_path / "hr", *(f"h{i}.png" for i in range(8)))
    lr_image = touch(tmp_path / "lr", "h7.png", *(f"l{i}.png" for i in range(9)))
    with pytest.raises(UserError) as error:
        pairs.find("Set5", hr, 4, lr_image, {})
    line = str(error.value)
    assert "h0.png, h1.png, h2.png, h3.png, h4.png and 2 more" in line
    assert "l0.png, l1.png, l2.png, l3.png, l4.png and 4 more" in line


def test_what_is_no_picture_of_the_folder_does_not_count(tmp_path):
    names = ("baby.png", ".hidden.png", "baby.txt", "Thumbs.db", "bird.JPG", "deeper/other.png")
    (tmp_path / "hr" / "deeper").mkdir(parents=True)
    found = pairs.find("Set5", touch(tmp_path / "hr", *names), 4, None, {})
    assert sorted(found.hr) == ["baby", "bird"]


def test_pictures_come_size_by_size(tmp_path, noise):
    """So that those of one size are measured together, however the files are called."""
    sizes = [(16, 20), (24, 16), (17, 22), (20, 16), (16, 24), (24, 16), (16, 20)]
    for i, size in enumerate(sizes):
        save(tmp_path / f"{i}.png", noise(*size, seed=i))
    found = list(pairs.find("x", str(tmp_path), 4, None, {}).read())
    assert [pair.name for pair in found] == [f"{i}.png" for i in (0, 2, 6, 4, 3, 1, 5)]
    for pair in found:
        i = int(pathlib.Path(pair.name).stem)
        height, width = (side // 4 * 4 for side in sizes[i])
        np.testing.assert_array_equal(pair.hr, noise(*sizes[i], seed=i)[:height, :width])


def test_a_turned_photograph_pairs_as_it_is_seen(tmp_path, noise):
    """EXIF's orientation 6: stored on its side."""
    (tmp_path / "hr").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(16, 24)).save(tmp_path / "hr" / "a.png", exif=exif)
    save(tmp_path / "lr" / "a.png", noise(6, 4))
    found = pairs.find("x", str(tmp_path / "hr"), 4, str(tmp_path / "lr"), {})
    (pair,) = found.read()
    assert found.unreadable == []
    np.testing.assert_array_equal(pair.hr, np.rot90(noise(16, 24), -1))


def test_gray_pictures_are_measured_in_three_channels(tmp_path, noise):
    save(tmp_path / "a.png", noise(16, 24)[..., 0])
    (pair,) = pairs.find("x", str(tmp_path), 4, None, {}).read()
    np.testing.assert_array_equal(pair.hr, noise(16, 24)[..., :1].repeat(3, axis=2))
    assert pair.lr_image.shape == (4, 6, 3)


# Several devices.


def made_pairs(count: int, height: int, width: int) -> list[pairs.Pair]:
    images = [photograph(height, width, seed) for seed in range(count)]
    return [
        pairs.make_pair(f"{height}x{width} {i:02}", image, Degradation(4))
        for i, image in enumerate(images)
    ]


@pytest.fixture(scope="module")
def tiny(material) -> score.Method:
    exported = weights.load_generator(material.network)
    return network(exported.generator, exported.variables)


def test_many_devices_give_what_one_gives(tiny):
    """Eight at a time, and what is left."""
    assert jax.local_device_count() == 8
    every = [*made_pairs(11, 64, 72), *made_pairs(3, 72, 64)]
    methods = {"tiny": tiny, "bicubic": baseline("bicubic", 4)}
    measures = score.Measures(border=4)
    together = list(score.evaluate(iter(every), methods, measures))
    alone = [one for pair in every for one in score.evaluate([pair], methods, measures)]
    assert [one.pair.name for one in together] == [pair.name for pair in every]
    for a, b in zip(together, alone, strict=True):
        assert a.pair is b.pair
        for method in methods:
            np.testing.assert_array_equal(a.outputs[method], b.outputs[method])
            assert a.outputs[method].dtype == np.uint8
            for convention in CONVENTIONS:
                assert a.values[method][convention] == pytest.approx(
                    b.values[method][convention], rel=1e-5
                )
    rows = score.to_rows("x", {one.pair.name: one.values for one in together})
    means = score.means_of(rows)
    for method in methods:
        values = [one.values[method]["modern"]["psnr"] for one in alone]
        assert len(values) == 14
        assert means[method, "modern", "psnr"] == pytest.approx(np.mean(values), rel=1e-6)
        each = [one.values[method]["modern"]["psnr"] for one in together]
        assert means[method, "modern", "psnr"] == pytest.approx(np.mean(each), rel=1e-12)


def test_pictures_are_spread_over_the_devices():
    """What a method is given lies on as many devices as there are pictures, one on each."""
    seen = []

    def watching(lr_image: jax.Array) -> jax.Array:
        seen.append((lr_image.shape[0], len(lr_image.sharding.device_set)))
        assert all(shard.data.shape[0] == 1 for shard in lr_image.addressable_shards)
        return baseline("nearest", 4)(lr_image)

    measures = score.Measures(4, ("rgb",), ("mse",))
    done = list(score.evaluate(made_pairs(8, 64, 72), {"it": watching}, measures))
    assert len(done) == 8
    assert seen == [(8, 8)]
    list(score.evaluate(made_pairs(3, 64, 72), {"it": watching}, measures))
    assert seen[1:] == [(3, 3)]


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """Every program that XLA compiles meanwhile."""
    compiled: list[str] = []

    def listen(event: str, duration: float, **details) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(str(details))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("devices", [1, 8])
def test_a_size_is_compiled_once(monkeypatch, tiny, devices):
    """However many pictures there are of it, and whatever comes between."""
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:devices])
    methods = {"tiny": tiny, "bicubic": baseline("bicubic", 4)}
    measures = score.Measures(4, ("rgb",), ("mse", "psnr"))
    many, other = made_pairs(11, 68, 72 + devices * 4), made_pairs(1, 72 + devices * 4, 68)

    def evaluate(given: Iterable[pairs.Pair]) -> int:
        return len(list(score.evaluate(given, methods, measures)))

    with compilations() as compiled:
        assert evaluate(many[:8]) == 8
    assert len(compiled) >= 3  # the network, bicubic, the metrics
    with compilations() as compiled:
        assert evaluate(many[:11]) == 11
    assert compiled == []
    with compilations() as compiled:
        assert evaluate(other) == 1
    assert len(compiled) >= 3
    with compilations() as compiled:
        assert evaluate([*many, *other]) == 12
    assert compiled == []


def test_no_more_than_a_batch_is_held():
    """The next pictures are read when those before were measured."""
    read = []

    def reading() -> Iterator[pairs.Pair]:
        for pair in made_pairs(20, 64, 64):
            read.append(pair.name)
            yield pair

    measures = score.Measures(4, ("rgb",), ("mse",))
    scored = score.evaluate(reading(), {"nearest": baseline("nearest", 4)}, measures)
    next(scored)
    assert len(read) <= 9


def test_means_are_over_the_pictures_that_have_the_metric():
    def values(**metrics: float) -> dict[str, score.Values]:
        return {"net": {"modern": metrics}, "bicubic": {"modern": {"psnr": 20.0}}}

    rows = score.to_rows("x", {
        "b.png": values(psnr=30.1, ssim=0.25),
        "a.png": values(psnr=40.7),
        "c.png": values(psnr=20.2, ssim=0.75),
    })  # fmt: skip
    assert rows[0] == {
        "data": "x", "image": "a.png", "method": "net", "convention": "modern", "metric": "psnr",
        "value": 40.7,
    }  # fmt: skip
    assert len(rows) == 8 + 3
    means = score.means_of(rows)
    assert means == {
        ("net", "modern", "psnr"): pytest.approx(91.0 / 3, rel=1e-15),
        ("net", "modern", "ssim"): 0.5,
        ("bicubic", "modern", "psnr"): 20.0,
    }
    infinite = score.to_rows("x", {"a": values(psnr=np.inf), "b": values(psnr=30.0)})
    assert score.means_of(infinite)["net", "modern", "psnr"] == np.inf


def test_further_measures_are_one_picture_at_a_time():
    """Not a number: the picture is too small."""
    given = [*made_pairs(2, 64, 72), *made_pairs(1, 64, 64)]

    def brightness(sr: np.ndarray, hr: np.ndarray) -> float:
        assert sr.shape == hr.shape
        return float("nan") if hr.shape[1] == 64 else float(sr.mean() - hr.mean())

    measures = score.Measures(
        4, ("rgb",), ("mse",), {("rgb", "brightness"): brightness, ("new", "it"): brightness}
    )
    scored = list(score.evaluate(given, {"nearest": baseline("nearest", 4)}, measures))
    for one in scored[:2]:
        gap = one.outputs["nearest"].mean() - one.pair.hr.mean()
        assert one.values["nearest"]["rgb"]["brightness"] == pytest.approx(gap)
        assert one.values["nearest"]["new"] == {"it": pytest.approx(gap)}
    assert scored[2].values["nearest"].keys() == {"rgb"}
    assert scored[2].values["nearest"]["rgb"].keys() == {"mse"}


# Against the benchmark.


def test_bicubic_on_set5(shared, tmp_path):
    folder = shared / "data" / "benchmarks" / "Set5"
    stdout = run(
        "--weights=bicubic", f"--data=Set5={folder / 'HR'}", "--report_table",
        f"--lr_data=Set5={folder / 'LR_bicubic_X4'}", f"--out={tmp_path}",
    )  # fmt: skip
    values = values_of(read_results(tmp_path)["rows"], "Set5")
    expected = {
        ("paper", "psnr"): (28.43, 0.02),
        ("paper", "ssim"): (0.8211, 0.002),
        ("modern", "psnr"): (28.429, 0.005),
        ("modern", "ssim"): (0.8111, 0.0005),
        ("rgb", "psnr"): (26.692, 0.005),
        ("full", "mse"): (194.11, 0.05),
    }
    for key, (value, tolerance) in expected.items():
        assert values["mean", "bicubic", *key] == pytest.approx(value, abs=tolerance), key
    gaps = cells_of(stdout[stdout.index("## Table 2") :], "difference")[1].split(" / ")
    assert abs(float(gaps[0])) <= 0.02
    assert abs(float(gaps[1])) <= 0.002
