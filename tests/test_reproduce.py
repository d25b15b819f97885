"""Reproducing the tables: what is planned, a whole one in miniature, and what is written."""

import dataclasses
import functools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from srgan_jax import config as config_lib
from srgan_jax import pretrained, weights
from srgan_jax.errors import StoppedError, UserError
from srgan_jax.evaluate.arguments import chosen
from srgan_jax.evaluate.methods import baseline
from srgan_jax.evaluate.score import Measures, to_rows
from srgan_jax.reproduce import document, plan, runs, work
from srgan_jax.reproduce.book import Book
from srgan_jax.reproduce.records import Trained

ASKED = work.Asked(
    data="photographs", val="", tests="", vgg="", niqe="", lpips=[], minutes=30.0, steps=None,
    seeds=3, plain=False, miniature=False, experiments=("table1",), out=pathlib.Path("out"),
    docs=pathlib.Path("docs"), ship=None, command="python -m x",
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
        *plan.recipe(base(), 1),
        *plan.pictures(base(), 272, 1),
    ]
    for run in every:
        config = plan.with_length(run, 23_400)
        config_lib.validate(config)
        lengths = {"pretrain": config.pretrain.steps, "gan": config.gan.steps}
        assert lengths.pop(run.phase) == 23_400
        assert list(lengths.values()) == [0]
        assert config.data.path == "photographs"
        assert config.eval.every_steps == config.log.every_steps == 1200


def test_the_plain_recipe_is_the_papers():
    (run, _) = plan.table_1(base(), 0, 1, plain=True)
    usual = config_lib.paper()
    for key in ("ema_decay", "optim", "pretrain", "generator"):
        assert run.config[key] == usual[key], key
    assert run.config.data.batch_size == usual.data.batch_size


def test_each_change_is_made_alone_and_the_last_makes_all():
    plain, *changed, together = plan.recipe(base(), 1)
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
    found = plan.pictures(base(), 272, 1)
    assert [run.config.data.pictures for run in found] == [272, 136, 68, 34, 17]
    assert [run.config.data.pictures for run in plan.pictures(base(), 8, 1)] == [8, 4, 2, 1]


@pytest.mark.parametrize(
    ("steps", "whole"), [(1, 10), (45.9, 40), (1999, 1990), (2345, 2300), (1_234_567, 1_234_500)]
)
def test_steps_are_whole_tens_or_hundreds(steps, whole):
    assert plan.whole_steps(steps) == whole
    assert plan.whole_steps(whole) == whole


def test_runs_that_compute_the_same_are_timed_once():
    table = plan.table_1(base(), 3, 2, plain=False)
    programs = {run.folder: run.program for run in table}
    assert programs["table1/vgg34/seed0"] == programs["table1/vgg34/seed1"]
    assert len(set(programs.values())) == len(table) / 2
    assert len({run.program for run in plan.pictures(base(), 272, 2)}) == 1
    assert len({run.program for run in plan.recipe(base(), 1)}) == 6


# Miniatures


def environment(cache: pathlib.Path, devices: int = 1) -> dict[str, str]:
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "XDG_CACHE_HOME": str(cache),  # where it keeps what is compiled
    }


def reproduce(root, cache, *flags: str, devices: int = 1) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "srgan_jax.reproduce", *flags]
    return subprocess.run(
        command, cwd=root, env=environment(cache, devices), timeout=400, check=False,
        capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def miniature(root, cache, tmp_path_factory) -> pathlib.Path:
    """Stopped once in the middle of the first training, and gone on with."""
    folder = tmp_path_factory.mktemp("miniature")
    flags = ("--miniature", "--seeds=2", f"--out={folder / 'out'}", f"--docs={folder / 'docs'}")
    command = [sys.executable, "-m", "srgan_jax.reproduce", *flags]
    told = []
    with subprocess.Popen(
        command, cwd=root, env=environment(cache), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            told.append(line)
            if line.startswith("pretrain 10/40"):
                process.send_signal(signal.SIGINT)
    assert process.returncode == 0
    assert "0 of 4 trainings are complete: the same command goes on\n" in told
    assert not (folder / "docs/results.md").exists()

    done = reproduce(root, cache, *flags, f"--ship={folder / 'shipped'}")
    assert done.returncode == 0, done.stderr
    assert "pretrain 20/40" in done.stdout
    assert "pretrain: 40 steps to go" in done.stdout  # of the second seed
    assert done.stdout.count("pretrain: ") == 2
    assert f"written: {folder / 'docs/results.md'}" in done.stdout
    return folder


def test_a_miniature_leaves_every_network(miniature):
    book = json.loads((miniature / "out/plan.json").read_text())
    planned = {folder: told["steps"] for folder, told in book["runs"].items()}
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
    assert work.shipped(plan.recipe(base(), 1)) == []


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


def test_what_is_complete_stays_and_is_not_done_again(root, cache, miniature):
    file = miniature / "out/table1/mse/seed1/srgan.safetensors"
    before = file.stat().st_mtime_ns
    flags = ("--miniature", f"--out={miniature / 'out'}", f"--docs={miniature / 'fewer'}")
    again = reproduce(root, cache, *flags, "--seeds=1")
    assert again.returncode == 0, again.stderr
    assert "steps to go" not in again.stdout
    assert file.stat().st_mtime_ns == before
    told, fewer = ((miniature / docs / "results.md").read_text() for docs in ("docs", "fewer"))
    assert fewer == told.replace("--seeds=2 --miniature", "--seeds=1 --miniature")


def test_another_set_is_measured_anew(miniature, tmp_path, noise):
    (tmp_path / "set/HR").mkdir(parents=True)
    Image.fromarray(noise(64, 64)).save(tmp_path / "set/HR/a.png")
    sets = work.test_sets(str(tmp_path), 4)
    file = tmp_path / "tests.json"
    measured = functools.partial(
        runs.measure, "bicubic", lambda: baseline("bicubic", 4), file, measures=Measures(4)
    )
    assert measured(sets=sets)
    assert not measured(sets=sets)
    assert {row["data"] for row in json.loads(file.read_text())["rows"]} == {"set"}
    Image.fromarray(noise(64, 64)).save(tmp_path / "set/HR/b.png")
    assert measured(sets=work.test_sets(str(tmp_path), 4))
    assert {row["image"] for row in json.loads(file.read_text())["rows"]} == {
        "a.png", "b.png", "mean"
    }  # fmt: skip


def test_a_run_of_another_config_is_not_taken(miniature):
    out = miniature / "out"
    asked = dataclasses.replace(ASKED, data="", miniature=True, out=out, seeds=2)
    (first, *_) = plan.table_1(work.base_config(asked), 0, 2, plain=False)
    book = Book.open(out / "plan.json", {})
    assert runs.is_trained(first, out, book)
    first.config.optim.beta1 = 0.5
    with pytest.raises(UserError, match=r"seed0: is of another run \(optim.beta1: 0.9 -> 0.5\)"):
        runs.is_trained(first, out, book)


@pytest.mark.slow
def test_the_other_experiments_in_miniature(root, cache, tmp_path):
    flags = ("--miniature", "--experiments=recipe,pictures", "--seeds=1", f"--out={tmp_path}")
    done = reproduce(root, cache, *flags)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "results.md").read_text()
    for title in (*plan.CHANGES, *plan.BATCHES, "the paper's"):
        assert f"| {title} | 10 |" in text
    for count in (10, 5, 3, 2, 1):
        assert f"| {count} | 10 |" in text
    assert "![PSNR over the number of pictures](results/pictures.png)" in text


@pytest.fixture
def vgg22(tmp_path) -> pathlib.Path:
    """Random weights of VGG19 up to conv2_2, and features of a size of their own."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name, inputs, outputs in (("1_conv1", 3, 64), ("1_conv2", 64, 64), ("2_conv1", 64, 128),
                                  ("2_conv2", 128, 128)):  # fmt: skip
        kernel = rng.normal(0, (2 / 9 / inputs) ** 0.5, (3, 3, inputs, outputs))
        arrays[f"block{name}.kernel"] = kernel.astype(np.float32)
        arrays[f"block{name}.bias"] = np.zeros(outputs, np.float32)
    np.savez(tmp_path / "vgg.npz", **arrays)
    return tmp_path / "vgg.npz"


@pytest.mark.slow
def test_by_minutes_with_vgg_on_two_devices_and_sets_of_ones_own(
    root, cache, tmp_path, vgg22, noise
):
    for folder in ("Set5/HR", "other/HR"):
        (tmp_path / "sets" / folder).mkdir(parents=True)
        Image.fromarray(noise(64, 48)).save(tmp_path / "sets" / folder / "a.png")
    (tmp_path / "sets/other/LR_bicubic_X4").mkdir()
    Image.fromarray(noise(16, 12)).save(tmp_path / "sets/other/LR_bicubic_X4/a.png")
    flags = (
        "--miniature", "--minutes=0.05", "--seeds=1", f"--vgg={vgg22}", f"--out={tmp_path / 'out'}",
        f"--tests={tmp_path / 'sets'}",
    )  # fmt: skip
    done = reproduce(root, cache, *flags, devices=2)
    assert done.returncode == 0, done.stderr
    book = json.loads((tmp_path / "out/plan.json").read_text())
    assert len(book["step_seconds"]) == len(book["runs"]) == 4
    text = (tmp_path / "out/results.md").read_text()
    for title in ("SRResNet-MSE", "SRResNet-VGG22", "SRGAN-MSE", "SRGAN-VGG22"):
        assert f"| Set5 | {title} |" in text
        assert f"| other | {title} |" in text
    # On the validation picture, the SRResNet's VGG loss is scaled to its pixel loss.
    scale = book["feature_scales"]["relu2_2"]
    first = json.loads(
        (tmp_path / "out/table1/srresnet_vgg22/seed0/metrics.jsonl").read_text().splitlines()[0]
    )
    assert first["loss/vgg"] == pytest.approx(first["loss/mse"], rel=3)
    config = json.loads((tmp_path / "out/table1/vgg22/seed0/config.json").read_text())
    assert config["vgg"]["feature_scale"] == scale
    assert config["vgg"]["channels"] == "mean"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], ["--data is missing", "--miniature"]),
        (["--miniature", "--steps=20", "--minutes=1"], ["--steps", "--minutes"]),
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
        ({"tests": "{empty}"}, r"--tests=.*empty: holds no folder such as Set5/HR"),
        ({"tests": "{missing}"}, r"--tests=.*missing: no such folder"),
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
    usual = {"data": "", "steps": 10, "miniature": True, "out": tmp_path, "docs": tmp_path}
    given = {key: value.format(**places) for key, value in asked.items()}
    with pytest.raises(UserError, match=said):
        work.reproduce(dataclasses.replace(ASKED, **(usual | given)))
    assert not list(tmp_path.glob("table1/*/*/checkpoints/*"))


def test_an_unknown_experiment_is_named():
    with pytest.raises(UserError, match=r"--experiments=tabel1: must be of table1, recipe"):
        chosen("experiments", ["table1", "tabel1"], plan.EXPERIMENTS)


def test_experiments_are_done_in_their_own_order():
    asked = dataclasses.replace(ASKED, experiments=("pictures", "table1"))
    order = dict.fromkeys(run.experiment for run in work.all_runs(asked, base(), 0, 272))
    assert list(order) == ["table1", "pictures"]


# What is written


def trained(title="SRResNet-MSE", seed=0, psnr=32.0, experiment="table1", name="Set5") -> Trained:
    values = {"mse": 40.0, "psnr": psnr, "ssim": 0.9}
    of_all = dict.fromkeys(("paper", "modern", "rgb", "full"), values)
    rows = to_rows(name, {"baby.png": {title: of_all}})
    rows += to_rows("Set14", {"lenna.png": {title: of_all}})
    start = {"devices": "1 x H200", "packages": {"jax": "0.11", "flax": "0.12"}, "python": "3.12"}
    return Trained(
        experiment=experiment,
        title=title,
        seed=seed,
        phase="gan" if "GAN" in title else "pretrain",
        steps=1000,
        config={"dtype": "bfloat16", "data": {"batch_size": 16, "pictures": 0}},
        rows=rows,
        sizes={f"{name}/baby.png": "256x256", "Set14/lenna.png": "512x512"},
        validations=[(1000, {"eval/modern/psnr": psnr - 1, "eval/modern/ssim": 0.8})],
        health=[],
        images_per_second=100.0,
        seconds=120.0,
        wall_seconds=180.0,
        starts=[start | {"date": "2026-01-02", "revision": "0123456789abcdef"}],
    )


def results(*of: Trained, published: bool = True, missing: int = 0) -> str:
    bicubic = {"mse": 100.0, "psnr": 28.0, "ssim": 0.8}
    rows = to_rows("Set5", {"baby.png": {"bicubic": {"paper": bicubic, "full": bicubic}}})
    return document.results(
        of, title="Results", command="python -m x", recipe="The paper's recipe.", baseline=rows,
        published=published, missing=missing, pictures={},
    )  # fmt: skip


def test_ours_are_beside_the_published_ones():
    text = results(trained(psnr=32.0), trained(seed=1, psnr=32.2), trained("SRGAN-MSE", psnr=30.0))
    assert (
        "| Set5 | SRResNet-MSE | 32.05 | 32.10 ± 0.14 | +0.05 | 0.9019 | 0.9000 ± 0.0000 |" in text
    )
    assert "| Set5 | SRGAN-MSE | 30.64 | 30.00 | -0.64 |" in text
    assert "| Set5 | bicubic | 28.43 | 28.00 | -0.43 |" in text
    assert "| SRResNet-MSE | 1,000 | 16 | bfloat16 | 100 | 2.0 | 3.0 | 31.10 ± 0.14 |" in text
    assert "| Set5 | published: SRResNet of Lornatang | - | 32.16 | - |" in text
    assert "| Set14 | published: MSRGAN of BasicSR | - | 24.75 | - |" in text
    assert (
        "\n2026-01-02, on 1 x H200, jax 0.11, flax 0.12, Python 3.12, source 0123456789ab.\n"
        in text
    )


def test_what_is_missing_is_told():
    assert "**Unfinished: 3 of 4 trainings are missing.**" in results(trained(), missing=3)
    assert "Unfinished" not in results(trained())


def test_a_miniature_does_not_compare():
    text = results(trained(), published=False)
    for number in ("32.05", "published:", "68.16"):
        assert number not in text


@pytest.mark.parametrize(("name", "known"), [("set5", True), ("SET5", True), ("Set5b", False)])
def test_sets_are_known_by_their_names(name, known):
    text = results(trained(name=name))
    assert f"| {name} | SRResNet-MSE | {'32.05' if known else '-'} |" in text


def test_the_reports_picture_is_one_of_its_size():
    text = results(trained())
    part = text[text.index("## The report's table") :]
    assert "| Set14, lenna.png | SRResNet-MSE | 40.00 | 32.00 | 0.9000 |" in part
    assert "baby" not in part
    assert "68.16" in part


def test_changes_are_told_by_their_difference():
    plain = trained("the paper's", experiment="recipe", psnr=30.0)
    text = results(plain, trained("ours", experiment="recipe", psnr=30.25))
    assert "| the paper's | 1,000 | 2.0 | 29.00 | 0.8000 | +0.00 |" in text
    assert "| ours | 1,000 | 2.0 | 29.25 | 0.8000 | +0.25 |" in text


def test_a_spread_needs_several():
    assert document.spread("psnr", [30.0]) == "30.00"
    assert document.spread("psnr", [30.0, 31.0, 32.0]) == "31.00 ± 1.00"
    assert document.spread("psnr", []) == "-"
    assert document.spread("psnr", [np.inf]) == "-"


def open_book(folder, **asked) -> Book:
    return Book.open(folder / "plan.json", {"minutes": 30.0, "steps": None} | asked)


def test_lengths_by_steps_are_shares(tmp_path):
    book = open_book(tmp_path, steps=6000)
    runs.plan_lengths(book, plan.table_1(base(), 3, 1, plain=True), ())
    assert book.runs["table1/srresnet_mse/seed0"]["steps"] == 6000
    assert book.runs["table1/vgg34/seed0"]["steps"] == 2000
    with pytest.raises(UserError, match=r"--steps=500: .* begun with --steps=6000"):
        open_book(tmp_path, steps=500)
    # More seeds are added to what is there.
    again = open_book(tmp_path, steps=6000)
    assert again.runs == book.runs
    runs.plan_lengths(again, plan.table_1(base(), 3, 2, plain=True), ())
    assert len(again.runs) == 2 * len(book.runs)


def test_lengths_by_minutes_are_those_of_every_seed(tmp_path, monkeypatch):
    taken = iter([0.005, 0.02, 0.009, 0.01, 0.04, 1.0, 1.0])
    monkeypatch.setattr(runs, "step_seconds", lambda run, pictures: next(taken))
    book = open_book(tmp_path)
    runs.plan_lengths(book, plan.table_1(base(), 3, 1, plain=True), ())
    runs.plan_lengths(open_book(tmp_path), plan.table_1(base(), 3, 2, plain=True), ())
    steps = {folder: told["steps"] for folder, told in open_book(tmp_path).runs.items()}
    for seed in (0, 1):
        assert steps[f"table1/srresnet_mse/seed{seed}"] == 360_000
        assert steps[f"table1/srresnet_vgg22/seed{seed}"] == 30_000
        assert steps[f"table1/vgg34/seed{seed}"] == 15_000


def test_what_was_timed_is_kept_at_once(tmp_path, monkeypatch):
    times = iter([0.005])

    def timed(run, pictures):
        try:
            return next(times)
        except StopIteration:
            raise StoppedError from None

    monkeypatch.setattr(runs, "step_seconds", timed)
    with pytest.raises(StoppedError):
        runs.plan_lengths(open_book(tmp_path), plan.table_1(base(), 3, 1, plain=True), ())
    assert list(open_book(tmp_path).runs) == ["table1/srresnet_mse/seed0"]


def test_one_that_fails_leaves_the_others(tmp_path, monkeypatch, capsys):
    """The GAN of the second seed diverges, and the SRResNet of the first: three go on."""
    asked = dataclasses.replace(
        ASKED, data="", steps=10, miniature=True, seeds=3, out=tmp_path, docs=tmp_path
    )
    begun = []

    def train_one(run, out, config):
        begun.append(run.folder)
        if run.folder in ("table1/srresnet_mse/seed0", "table1/mse/seed1"):
            raise UserError("loss is nan at step 7")
        return True

    monkeypatch.setattr(runs, "train_one", train_one)
    monkeypatch.setattr(runs, "trained_by", lambda *_: None)
    monkeypatch.setattr(runs, "measure", lambda *_, **__: False)
    monkeypatch.setattr(work.pages, "write", lambda *_, **__: None)
    monkeypatch.setattr(work.Parallel, "check_batch", lambda *_: None)
    with pytest.raises(
        UserError, match=r"3 of 6 trainings failed: table1/srresnet_mse/seed0: loss"
    ):
        work.reproduce(asked)
    assert begun == [
        "table1/srresnet_mse/seed0", "table1/srresnet_mse/seed1", "table1/mse/seed1",
        "table1/srresnet_mse/seed2", "table1/mse/seed2",
    ]  # fmt: skip
    assert "table1/mse/seed1: loss is nan" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"experiments": ("recipe",)}, "add that to --experiments"),
        ({"vgg": ""}, "give --vgg"),
        ({"miniature": True, "ship": pretrained.FOLDER}, "not for the package"),
    ],
    ids=str,
)
def test_not_everything_is_shipped(asked, said):
    with pytest.raises(UserError, match=said):
        work.check_ship(dataclasses.replace(ASKED, **({"ship": pathlib.Path("x")} | asked)))
