"""Reproducing the tables: what is planned, a whole one in miniature, and what is written."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from srgan_jax import config as config_lib
from srgan_jax import weights
from srgan_jax.errors import UserError
from srgan_jax.evaluate.score import to_rows
from srgan_jax.reproduce import document, plan, runs, work

ASKED = work.Asked(
    data="photographs", val="", tests="", vgg="", niqe="", lpips=[], minutes=30.0, steps=None,
    seeds=3, plain=False, miniature=False, experiments=("table1",),
)  # fmt: skip


def base():
    return work.base_config(ASKED)


# What is planned


@pytest.mark.parametrize(
    ("deepest", "titles"),
    [
        (0, ["SRResNet-MSE", "SRGAN-MSE"]),
        (2, ["SRResNet-MSE", "SRResNet-VGG22", "SRGAN-MSE", "SRGAN-VGG22"]),
        (3, ["SRResNet-MSE", "SRResNet-VGG22", "SRGAN-MSE", "SRGAN-VGG22", "SRGAN-VGG34"]),
        (5, ["SRResNet-MSE", "SRResNet-VGG22", "SRGAN-MSE", "SRGAN-VGG22", "SRGAN-VGG54"]),
    ],
)
def test_the_weights_decide_which_networks_there_are(deepest, titles):
    found = plan.table_1(base(), deepest, 2, plain=True)
    assert [run.title for run in found] == 2 * titles
    assert [run.seed for run in found] == [0] * len(titles) + [1] * len(titles)
    assert len({run.folder for run in found}) == len(found)
    order = [run.folder for run in found]
    for run in found:
        assert run.config.seed == run.seed
        if run.title == "SRResNet-MSE":
            assert (run.parent, run.share, run.phase) == ("", 1.0, "pretrain")
        else:  # after the one it starts from, of the same seed
            assert order.index(run.parent) < order.index(run.folder)
            assert run.parent == f"table1/srresnet_mse/seed{run.seed}"
            assert run.share == plan.SHARE


def test_runs_are_configs_that_can_be_trained():
    every = [
        *plan.table_1(base(), 5, 1, plain=False),
        *plan.recipe(base()),
        *plan.pictures(base(), 272),
    ]
    for run in every:
        config = plan.with_length(run, 2000)
        config_lib.validate(config)
        lengths = {"pretrain": config.pretrain.steps, "gan": config.gan.steps}
        assert lengths.pop(run.phase) == 2000
        assert list(lengths.values()) == [0]
        assert config.data.path == "photographs"
        assert 2000 % config.eval.every_steps == 0


def test_the_plain_recipe_is_the_papers():
    (run, _) = plan.table_1(base(), 0, 1, plain=True)
    usual = config_lib.paper()
    for key in ("ema_decay", "optim", "pretrain", "generator"):
        assert run.config[key] == usual[key], key
    assert run.config.data.batch_size == usual.data.batch_size


def test_each_change_is_made_alone_and_the_last_makes_all():
    plain, *changed, together = plan.recipe(base())
    all_changes = {}
    for run, change in zip(changed, [*plan.CHANGES.values(), *plan.BATCHES.values()], strict=True):
        differing = different(plain.config, run.config)
        assert differing == change
        all_changes |= change if change in plan.CHANGES.values() else {}
    assert different(plain.config, together.config) == all_changes


def different(a, b) -> dict:
    flat = [json.loads(json.dumps(dict(_flat(config_lib.to_json(config))))) for config in (a, b)]
    return {key: value for key, value in flat[1].items() if flat[0][key] != value}


def _flat(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_fewer_pictures_are_halves():
    found = plan.pictures(base(), 272)
    assert [run.config.data.pictures for run in found] == [272, 136, 68, 34, 17]


@pytest.mark.parametrize(
    ("steps", "whole"), [(1, 10), (45.9, 40), (1999, 1980), (2345, 2200), (1_234_567, 1_220_000)]
)
def test_steps_are_whole_intervals(steps, whole):
    assert plan.whole_steps(steps) == whole
    assert plan.whole_steps(whole) == whole
    assert whole % plan.interval_of(whole) == 0


# Miniatures


def reproduce(root, cache, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "srgan_jax.reproduce", *flags],
        cwd=root, capture_output=True, text=True, timeout=400, check=False,
        env=os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "1",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def miniature(root, cache, tmp_path_factory) -> pathlib.Path:
    """Stopped once in the middle of the work, and gone on with."""
    folder = tmp_path_factory.mktemp("miniature")
    flags = ("--miniature", "--seeds=2", f"--out={folder / 'out'}", f"--docs={folder / 'docs'}")
    stopped = reproduce(root, cache, *flags, "--slice_minutes=0.2")
    assert stopped.returncode == 0, stopped.stderr
    assert not (folder / "docs/results.md").exists() or "SRGAN" in stopped.stdout
    done = reproduce(root, cache, *flags, f"--ship={folder / 'shipped'}")
    assert done.returncode == 0, done.stderr
    assert f"written: {folder / 'docs/results.md'}" in done.stdout
    return folder


def test_a_miniature_leaves_every_network(miniature):
    planned = json.loads((miniature / "out/plan.json").read_text())["steps"]
    assert len(planned) == 4
    assert set(planned.values()) == {10, 40}
    for folder, steps in planned.items():
        network = "srresnet" if "srresnet" in folder else "srgan"
        exported = weights.load_generator(miniature / "out" / folder / f"{network}.safetensors")
        assert exported.metadata["training"]["step"] == steps
        assert exported.generator.blocks == 2


def test_an_srgan_starts_from_the_srresnet_of_its_seed(miniature):
    config = json.loads((miniature / "out/table1/mse/seed1/config.json").read_text())
    assert config["init_from"] == str(
        miniature / "out/table1/srresnet_mse/seed1/srresnet.safetensors"
    )


def test_a_miniature_is_shipped(miniature):
    for network, run in (("srresnet", "srresnet_mse"), ("srgan", "mse")):
        trained = weights.load_generator(
            miniature / "out/table1" / run / f"seed0/{network}.safetensors"
        )
        shipped = weights.load_generator(miniature / "shipped" / f"{network}.safetensors")
        jax.tree.map(np.testing.assert_array_equal, shipped.variables, trained.variables)
        assert str(miniature) not in json.dumps(shipped.metadata)


def test_of_several_srgans_the_last_is_shipped():
    every = plan.table_1(base(), 3, 2, plain=True)
    assert [run.folder for run in work.shipped(every)] == [
        "table1/srresnet_mse/seed0",
        "table1/vgg34/seed0",
    ]
    assert [run.title for run in work.shipped(every[:1])] == ["SRResNet-MSE"]
    assert work.shipped(plan.recipe(base())) == []


def test_a_miniature_is_documented(miniature):
    text = (miniature / "docs/results.md").read_text()
    assert text.startswith("# Results of a miniature")
    assert "`python -m srgan_jax.reproduce --seeds=2 --miniature`" in text
    assert str(miniature) not in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| builtin | SRR")]
    measured = json.loads((miniature / "out/table1/srresnet_mse/seed0/tests.json").read_text())
    other = json.loads((miniature / "out/table1/srresnet_mse/seed1/tests.json").read_text())
    values = [
        next(row["value"] for row in of["rows"]
             if (row["image"], row["convention"], row["metric"]) == ("mean", "paper", "psnr"))
        for of in (measured, other)
    ]  # fmt: skip
    assert rows[0][3] == f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
    shown = re.findall(r"!\[.*\]\((.*)\)", text)
    assert {pathlib.Path(file).stem for file in shown} == {"curves", "astronaut"}
    for file in shown:
        with Image.open(miniature / "docs" / file) as picture:
            assert min(picture.size) > 300


def test_what_is_complete_is_not_done_again(root, cache, miniature):
    before = (miniature / "out/table1/mse/seed1/srgan.safetensors").stat().st_mtime_ns
    flags = ("--miniature", "--seeds=2", f"--out={miniature / 'out'}", f"--docs={miniature / 'd2'}")
    again = reproduce(root, cache, *flags)
    assert again.returncode == 0, again.stderr
    assert "steps to go" not in again.stdout
    assert (miniature / "out/table1/mse/seed1/srgan.safetensors").stat().st_mtime_ns == before
    assert (miniature / "d2/results.md").read_text() == (miniature / "docs/results.md").read_text()


@pytest.mark.slow
def test_the_other_experiments_in_miniature(root, cache, tmp_path):
    flags = ("--miniature", "--experiments=recipe,pictures", f"--out={tmp_path}")
    done = reproduce(root, cache, *flags)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "results.md").read_text()
    for title in (*plan.CHANGES, *plan.BATCHES, "the paper's"):
        assert f"| {title} | 40 |" in text
    for count in (10, 5, 3, 2, 1):
        assert f"| {count} | 40 |" in text
    assert "![PSNR over the number of pictures](results/pictures.png)" in text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], ["--data is missing", "--miniature"]),
        (["--miniature", "--seeds=0"], ["--seeds"]),
        (["--miniature", "more"], ["'more'"]),
    ],
    ids=lambda value: " ".join(value) or "none",
)
def test_bad_flags_are_one_line(root, cache, tmp_path, flags, said):
    done = reproduce(root, cache, *flags, f"--out={tmp_path / 'out'}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    for text in said:
        assert text in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"data": "{missing}"}, r"missing is not a folder"),
        ({"tests": "{empty}"}, r"--tests=.*empty: holds no SET/HR"),
        ({"vgg": "{picture}"}, r"picture\.png"),
        ({"val": "{empty}"}, r"eval\.path=.*empty holds no pictures"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_told_before_anything_is_trained(tmp_path, asked, said):
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "picture.png")
    places = {name: str(tmp_path / name) for name in ("empty", "missing")}
    places["picture"] = str(tmp_path / "picture.png")
    usual = {"data": "", "steps": 10, "miniature": True}
    given = {key: value.format(**places) for key, value in asked.items()}
    with pytest.raises(UserError, match=said):
        work.reproduce(
            dataclasses.replace(ASKED, **(usual | given)), tmp_path, tmp_path, None, "command"
        )
    assert not list(tmp_path.glob("table1/*/*/checkpoints/*"))


def test_an_unknown_experiment_is_named():
    with pytest.raises(UserError, match=r"--experiments=tabel1: must be of table1, recipe"):
        plan.chosen(["table1", "tabel1"])
    assert plan.chosen(["pictures", "table1"]) == ["table1", "pictures"]


# What is written


def trained(title="SRResNet-MSE", seed=0, psnr=32.0, experiment="table1", **run) -> runs.Trained:
    found = next(r for r in plan.table_1(base(), 5, 3, plain=True) if r.title == title)
    values = {"psnr": psnr, "ssim": 0.9, "mse": 40.0}
    rows = to_rows("Set5", {"baby.png": {title: {"paper": values, "full": values}}})
    rows += to_rows("Set14", {"lenna.png": {title: {"paper": values, "full": values}}})
    scalars = {"eval/modern/psnr": psnr - 1, "eval/modern/ssim": 0.8}
    start = {"devices": "1 x H200", "packages": {"jax": "0.11"}, "python": "3.12", "revision": "ab"}
    return runs.Trained(
        run=plan.Run(experiment, "x", title, seed, found.config, found.phase, **run),
        steps=1000,
        rows=rows,
        sizes={"Set5/baby.png": "256x256", "Set14/lenna.png": "512x512"},
        validations=[(1000, scalars)],
        health=[],
        images_per_second=100.0,
        seconds=120.0,
        starts=[start],
    )


def results(*of: runs.Trained) -> str:
    return document.results(
        of, title="Results", command="python -m x", recipe="the paper's", pictures={}
    )


def test_ours_are_beside_the_published_ones():
    text = results(trained(psnr=32.0), trained(seed=1, psnr=32.2), trained("SRGAN-MSE", psnr=30.0))
    assert (
        "| Set5 | SRResNet-MSE | 32.05 | 32.10 ± 0.14 | +0.05 | 0.9019 | 0.9000 ± 0.0000 |" in text
    )
    assert "| Set5 | SRGAN-MSE | 30.64 | 30.00 | -0.64 |" in text
    assert "2026" in text or re.search(r"\d{4}-\d\d-\d\d, on 1 x H200, jax 0.11, Python 3.12", text)
    assert "| SRResNet-MSE | 1,000 | 16 | float32 | 100 | 2.0 | 31.10 ± 0.14 |" in text


def test_the_reports_picture_is_one_of_its_size():
    text = results(trained())
    part = text[text.index("## The report's table") :]
    assert "| Set14, lenna.png | SRResNet-MSE | 40.00 | 32.00 | 0.9000 |" in part
    assert "baby" not in part
    assert "68.16" in part


def test_changes_are_told_by_their_difference():
    plain = trained(title="SRResNet-MSE", experiment="recipe", psnr=30.0)
    text = results(plain, trained(experiment="recipe", psnr=30.25))
    assert "| SRResNet-MSE | 1,000 | 2.0 | 29.25 | 0.8000 | +0.25 |" in text


def test_a_spread_needs_several():
    assert document.spread("psnr", [30.0]) == "30.00"
    assert document.spread("psnr", [30.0, 31.0, 32.0]) == "31.00 ± 1.00"
    assert document.spread("psnr", []) == "-"
    assert document.spread("psnr", [np.inf]) == "-"


def test_lengths_by_steps_are_shares(tmp_path):
    planned = plan.table_1(base(), 3, 1, plain=True)
    asked = {"minutes": 30.0, "steps": 6000}
    found = runs.kept_plan(tmp_path, asked, planned)
    assert found["table1/srresnet_mse/seed0"] == 6000
    assert found["table1/vgg34/seed0"] == 2000
    with pytest.raises(UserError, match=r"--steps=500: .* begun with --steps=6000"):
        runs.kept_plan(tmp_path, asked | {"steps": 500}, planned)
    # More seeds are added to what is there.
    more = runs.kept_plan(tmp_path, asked, plan.table_1(base(), 3, 2, plain=True))
    assert len(more) == 2 * len(found)
