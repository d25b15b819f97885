"""Whole runs, as a user starts them: what they leave, and how they stop, go on and fail."""

import concurrent.futures
import contextlib
import fcntl
import functools
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import jax
import numpy as np
import pytest
import safetensors
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from srgan_jax import weights

PRETRAIN, TOTAL = 50, 100
TIMEOUT = 300  # seconds: a run that hangs is a failure, on a busy machine, too

# Small in every direction; otherwise the paper's recipe.
TINY = {
    "data.source": "folder",
    "data.batch_size": 4,
    "data.crop": 16,
    "generator.blocks": 1,
    "generator.channels": 8,
    "discriminator.channels": 4,
    "discriminator.dense": 8,
    "pretrain.steps": PRETRAIN,
    "gan.steps": TOTAL - PRETRAIN,
    "checkpoint.every_steps": 10,
    "log.every_steps": 1,
    "eval.source": "folder",
    "eval.every_steps": 25,
}


# Compiles in half the time; for runs that are compared with nothing.
QUICK = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
NO_CACHE_WRITES = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1000000"}


class Runs:
    """Starts `python -m srgan_jax.main` on one CPU device, on small pictures."""

    def __init__(self, root: pathlib.Path, folder: pathlib.Path):
        self.root, self.folder = root, folder
        self.train, self.held_out = folder / "train", folder / "held out"
        rng = np.random.default_rng(0)
        for path, count in ((self.train, 8), (self.held_out, 2)):
            path.mkdir()
            for i in range(count):
                coarse = rng.integers(0, 256, (10, 12, 3), np.uint8)
                Image.fromarray(coarse).resize((48, 40)).save(path / f"{i}.png")
        # tensorboardX imports PyTorch where there is one: a second of every start.
        stubs = folder / "stubs"
        stubs.mkdir()
        (stubs / "torch.py").write_text("raise ImportError")
        # Compiling takes most of a tiny run; with this, every program is compiled once.
        self.env = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(stubs), os.environ.get("PYTHONPATH", "")]),
            "JAX_NUM_CPU_DEVICES": "1",
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }

    def command(self, workdir: pathlib.Path, config: str = "srgan.py:mse", **changes) -> list[str]:
        """The command line; `changes` are config keys, `__` for the dot, None to leave one out."""
        values = TINY | {"data.path": self.train, "eval.path": self.held_out}
        values |= {key.replace("__", "."): value for key, value in changes.items()}
        return [
            *(sys.executable, "-m", "srgan_jax.main"),
            *(f"--config={self.root}/configs/{config}", f"--workdir={workdir}"),
            *(f"--config.{key}={value}" for key, value in values.items() if value is not None),
        ]

    def __call__(self, workdir: pathlib.Path, *, env=None, prefix=(), flags=(), **changes):
        """Run to the end: the completed process."""
        return subprocess.run(
            [*prefix, *self.command(workdir, **changes), *flags],
            cwd=self.folder,
            env=self.env | (env or {}),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )

    def until(
        self, line: str, act: Callable[[subprocess.Popen], None], workdir, env=None, **changes
    ):
        """Run, and `act` once a console line begins with `line`: (exit status, stdout, stderr).

        The pipe is made as small as it can be and read line by line, so that the run, which
        writes a line a step, is held back and can't be far beyond `line`.
        """
        with (
            open(self.folder / f"{workdir.name}.stderr", "w+") as stderr,
            subprocess.Popen(
                self.command(workdir, **changes),
                cwd=self.folder,
                env=self.env | (env or {}),
                stdout=subprocess.PIPE,
                stderr=stderr,
                bufsize=0,
            ) as process,
        ):
            fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
            watchdog = threading.Timer(TIMEOUT, process.kill)
            watchdog.start()
            seen = []
            for text in process.stdout:
                seen.append(text.decode())
                if seen[-1].startswith(line):
                    act(process)
                    break
            seen += [text.decode() for text in process.stdout]
            status = process.wait()
            watchdog.cancel()
            stderr.seek(0)
            return status, "".join(seen), stderr.read()

    def together(self, *calls: Callable):
        """Two at a time; their results in order."""
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            return [future.result() for future in [pool.submit(call) for call in calls]]


def terminate(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGTERM)


def kill(process: subprocess.Popen) -> None:
    process.kill()


def jsonl(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    with safetensors.safe_open(path, framework="numpy") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def saved_steps(workdir: pathlib.Path) -> list[int]:
    return sorted(int(entry.name) for entry in (workdir / "checkpoints").iterdir())


def digest_of(checkpoint: pathlib.Path) -> str:
    return json.loads((checkpoint / "meta" / "metadata").read_text())["sha256"]


def snapshot(folder: pathlib.Path) -> dict[str, str]:
    """Every file below a folder, by its content."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


def told_of(export: pathlib.Path) -> dict:
    """Its metadata, but for the revision, which changes where somebody works on this checkout."""
    metadata = weights.load_generator(export).metadata
    del metadata["training"]["revision"]
    return metadata


def assert_same_outcome(a: pathlib.Path, b: pathlib.Path, total: int = TOTAL) -> None:
    """Bit-identical networks, also the best ones, final states, and metrics."""
    for network in ("srresnet", "srgan", "srresnet_best", "srgan_best"):
        x, y = (tensors(workdir / f"{network}.safetensors") for workdir in (a, b))
        assert x.keys() == y.keys()
        assert [key for key in x if x[key].tobytes() != y[key].tobytes()] == []
        x, y = (told_of(workdir / f"{network}.safetensors") for workdir in (a, b))
        assert x == y
    assert saved_steps(a)[-1] == saved_steps(b)[-1] == total
    assert digest_of(a / f"checkpoints/{total}") == digest_of(b / f"checkpoints/{total}")
    assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()
    assert (a / "results.json").read_text() == (b / "results.json").read_text()
    assert (a / "panel.png").read_bytes() == (b / "panel.png").read_bytes()


def assert_refused(done, *parts: str) -> None:
    """Exit status 2 and one line that says why."""
    assert done.returncode == 2, done.stderr[-2000:]
    assert done.stderr.startswith("srgan_jax: error: "), done.stderr[-2000:]
    assert done.stderr.count("\n") == 1, done.stderr[-2000:]
    for part in parts:
        assert part in done.stderr


def assert_fine(done) -> None:
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-2000:]


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory) -> Runs:
    return Runs(root, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def twice(runs):
    """The same run twice, the second without what the first compiled."""
    a, b = runs.folder / "a", runs.folder / "b"
    done = runs.together(
        lambda: runs(a), lambda: runs(b, env={"JAX_ENABLE_COMPILATION_CACHE": "false"})
    )
    for process in done:
        assert_fine(process)
    return a, b, done[0].stdout


@pytest.fixture(scope="module")
def finished(twice) -> pathlib.Path:
    """The workdir of an undisturbed run; not to be changed."""
    return twice[0]


@pytest.fixture
def copy(finished, tmp_path) -> pathlib.Path:
    """A copy of it."""
    return pathlib.Path(shutil.copytree(finished, tmp_path / "copy"))


def test_same_seed_is_bit_identical_another_is_not(runs, twice):
    a, b, _ = twice
    assert_same_outcome(a, b)
    other = runs.folder / "other seed"
    assert_fine(runs(other, seed=1))
    for network in ("srresnet", "srgan"):
        x, y = (tensors(workdir / f"{network}.safetensors") for workdir in (a, other))
        assert not np.array_equal(x["params/conv_in/kernel"], y["params/conv_in/kernel"])
    assert jsonl(a / "metrics.jsonl")[0]["loss"] != jsonl(other / "metrics.jsonl")[0]["loss"]


@pytest.fixture(scope="module")
def interrupted(runs, finished):
    """Runs stopped in both phases: by SIGTERM, and by SIGKILL. Before the last start, a copy."""

    def disturb(name: str, act) -> tuple[pathlib.Path, list]:
        workdir = runs.folder / name
        ends = [
            runs.until("pretrain 23/", act, workdir),
            runs.until("gan 6/", act, workdir),
        ]
        shutil.copytree(workdir, runs.folder / f"{name}, stopped")
        return workdir, [*ends, runs(workdir)]

    return runs.together(lambda: disturb("terminated", terminate), lambda: disturb("killed", kill))


def test_sigterm_saves_and_says_how_to_go_on(interrupted):
    _, (first, second, last) = interrupted[0]
    stopped_at = []
    for status, stdout, stderr in (first, second):
        assert (status, stderr) == (0, "")
        said = re.fullmatch(
            r"stopped after step (\d+): the same command continues this run",
            stdout.splitlines()[-1],
        )
        assert said, stdout[-500:]
        stopped_at.append(int(said[1]))
    assert 23 <= stopped_at[0] < PRETRAIN, "not stopped in pre-training"
    assert PRETRAIN + 6 <= stopped_at[1] < TOTAL, "not stopped in the GAN phase"
    assert f"continuing after step {stopped_at[0]} of {TOTAL}\n" in second[1]
    assert_fine(last)
    assert f"continuing after step {stopped_at[1]} of {TOTAL}\n" in last.stdout


def test_sigkill_loses_only_what_came_after_a_checkpoint(interrupted):
    _, (first, second, last) = interrupted[1]
    for status, stdout, stderr in (first, second):
        assert status == -signal.SIGKILL
        for line in stderr.splitlines():
            assert "removed the unfinished save of step" in line
        assert "stopped after" not in stdout
    assert last.returncode == 0
    for text, least in ((second[1], 10), (last.stdout, PRETRAIN)):
        step = int(re.search(r"continuing after step (\d+) of", text)[1])
        assert step % 10 == 0
        assert step >= least


def test_interrupted_and_continued_is_bit_identical(interrupted, finished):
    for workdir, _ in interrupted:
        assert_same_outcome(workdir, finished)


def test_every_start_is_recorded(interrupted, finished):
    for workdir, starts in ((finished, 1), (interrupted[0][0], 3), (interrupted[1][0], 3)):
        environment = json.loads((workdir / "environment.json").read_text())
        assert len(environment) == starts


def test_complete_run_says_so_and_changes_nothing(runs, copy, twice):
    before = snapshot(copy)
    done = runs(copy)
    assert_fine(done)
    assert "this run is complete" in done.stdout
    table = twice[2][twice[2].index("bicubic") :].splitlines()[:3]
    assert len(table) == 3
    for line in table:  # the same numbers as when it ended
        assert line in done.stdout
    assert snapshot(copy) == before


def test_results_hold_one_row_a_number(runs, finished):
    results = json.loads((finished / "results.json").read_text())
    assert results.keys() == {"rows"}
    rows = results["rows"]
    keys = {"data", "image", "method", "convention", "metric", "value"}
    assert all(row.keys() == keys for row in rows)
    assert all(type(row["value"]) is float and np.isfinite(row["value"]) for row in rows)
    assert {row["data"] for row in rows} == {str(runs.held_out)}
    conventions = {row["convention"] for row in rows}
    assert "modern" in conventions
    named = [tuple(row[key] for key in ("image", "method", "convention", "metric")) for row in rows]
    assert len(set(named)) == len(named)
    assert set(named) == {
        (image, method, convention, metric)
        for image in ("0.png", "1.png", "mean")
        for method in ("bicubic", "srresnet", "srgan")
        for convention in conventions
        for metric in ("psnr", "ssim", "mse")
    }
    values = dict(zip(named, (row["value"] for row in rows), strict=True))
    for (image, *rest), value in values.items():
        if image == "mean":
            each = [values["0.png", *rest], values["1.png", *rest]]
            assert value == pytest.approx(np.mean(each), rel=1e-12)
            assert each[0] != each[1]
    modern = {method: values["mean", method, "modern", "psnr"] for method in ("srresnet", "srgan")}
    assert modern["srresnet"] != modern["srgan"]


def test_panel_shows_five_pictures_and_their_details(finished):
    with Image.open(finished / "panel.png") as panel:
        panel.load()
        # Five columns of 384 with gaps; captions, the pictures at 40:48, a gap, square details.
        assert panel.size == (5 * 384 + 4 * 6, 44 + 320 + 6 + 384)
        columns = [np.asarray(panel)[44:, x : x + 384] for x in range(0, 1944, 390)]
    for i in range(4):
        assert not np.array_equal(columns[i], columns[i + 1])


def test_config_and_environment_are_recorded(runs, finished):
    config = json.loads((finished / "config.json").read_text())
    for key, value in TINY.items():
        group, name = key.split(".")
        assert config[group][name] == value
    assert config["data"]["path"] == str(runs.train)
    assert config["optim"]["learning_rate"] == 1e-4
    (start,) = json.loads((finished / "environment.json").read_text())
    assert f"--workdir={finished}" in start["command"]
    assert start["packages"]["jax"] == jax.__version__
    assert {"srgan_jax", "jaxlib", "flax", "optax", "orbax-checkpoint"} < start["packages"].keys()
    assert start["python"] == ".".join(map(str, sys.version_info[:3]))
    assert start["devices"].startswith("1 x ")
    if (runs.root / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", start["revision"])
    story = weights.load_generator(finished / "srgan.safetensors").metadata["training"]
    assert story["network"] == "srgan"
    assert story["step"] == TOTAL
    assert story["config"] == config
    assert story["revision"] == start["revision"]


def test_metrics_have_a_line_a_step(finished):
    lines = jsonl(finished / "metrics.jsonl")
    logged = [line for line in lines if "loss" in line]
    assert [line["step"] for line in logged] == list(range(1, TOTAL + 1))
    assert [line["phase"] for line in logged] == ["pretrain"] * PRETRAIN + ["gan"] * (
        TOTAL - PRETRAIN
    )
    health = {"d/real", "d/fake", "grad_sr/content", "grad_sr/adversarial", "grad_sr/ratio"}
    health |= {"loss/discriminator", "grad_norm/generator", "grad_norm/discriminator"}
    assert health < logged[-1].keys()
    assert all(0 < line["d/real"] < 1 for line in logged[PRETRAIN:])
    validated = [line for line in lines if "eval/modern/psnr" in line]
    assert [line["step"] for line in validated] == [25, 50, 75, 100]
    rows = json.loads((finished / "results.json").read_text())["rows"]
    for step, method in ((PRETRAIN, "srresnet"), (TOTAL, "srgan")):
        (value,) = (
            row["value"]
            for row in rows
            if (row["image"], row["method"], row["convention"], row["metric"])
            == ("mean", method, "modern", "psnr")
        )
        (line,) = (line for line in validated if line["step"] == step)
        assert line["eval/modern/psnr"] == value, "exported is what was validated"
    timing = jsonl(finished / "timing.jsonl")
    assert [line["phase"] for line in timing if "compile_seconds" in line] == ["pretrain", "gan"]
    assert sum("steps_per_second" in line for line in timing) == TOTAL


def events(workdir: pathlib.Path) -> Iterator[Event]:
    """What is in the TensorBoard files, oldest first."""
    for file in sorted((workdir / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:  # a record: length, its checksum, the event, its checksum
            (length,) = struct.unpack("<Q", data[:8])
            if len(data) < length + 16:
                break  # cut off by SIGKILL
            yield Event.FromString(data[12 : 12 + length])
            data = data[length + 16 :]


def shown(workdir: pathlib.Path) -> dict[tuple[str, int], float | bytes]:
    """What TensorBoard shows: a new start hides what an earlier one wrote beyond its step."""
    found: dict[tuple[str, int], float | bytes] = {}
    for event in events(workdir):
        if event.HasField("session_log"):
            found = {key: value for key, value in found.items() if key[1] < event.step}
        for value in event.summary.value:
            key = (value.tag, event.step)
            assert key not in found or value.tag == "compile_seconds"
            is_image = value.HasField("image")
            found[key] = value.image.encoded_image_string if is_image else value.simple_value
    return found


def test_tensorboard_shows_the_metrics(finished, interrupted):
    for workdir in (finished, *(workdir for workdir, _ in interrupted)):
        found = shown(workdir)
        for line in jsonl(workdir / "metrics.jsonl"):
            for name in line.keys() - {"step", "phase"}:
                assert found[name, line["step"]] == np.float32(line[name]), (workdir, name)
        assert ("steps_per_second", TOTAL) in found
        for step in (25, 50, 75, 100):
            for name in ("eval/0.png", "eval/1.png"):
                with Image.open(io.BytesIO(found[name, step])) as picture:
                    assert picture.size == (48, 40)


def test_eval_mode_repeats_the_results(runs, copy, finished):
    for name in ("results.json", "panel.png"):
        (copy / name).unlink()
    done = runs(copy, flags=["--mode=eval"])
    assert_fine(done)
    assert_same_outcome(copy, finished)
    assert "srgan" in done.stdout


def test_eval_of_a_stopped_run_does_not_end_it(runs, interrupted, finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(runs.folder / "terminated, stopped", workdir)
    assert_fine(runs(workdir, flags=["--mode=eval"]))
    methods = {row["method"] for row in json.loads((workdir / "results.json").read_text())["rows"]}
    assert methods == {"bicubic", "srresnet"}
    done = runs(workdir)
    assert_fine(done)
    assert "continuing after step" in done.stdout
    assert_same_outcome(workdir, finished)


def test_eval_of_nothing(runs, tmp_path):
    done = runs(tmp_path / "empty", flags=["--mode=eval"])
    assert_refused(done, str(tmp_path / "empty"), "srresnet.safetensors", "train first")


def test_workdir_of_another_config(runs, copy):
    before = snapshot(copy)
    for changes, parts in (
        (
            {"seed": 1, "gan__steps": 70, "log__every_steps": 7},
            ["seed: 0 -> 1", f"gan.steps: {TOTAL - PRETRAIN} -> 70", "--allow_changes"],
        ),
        (
            {"seed": 1, "discriminator__dense": 16, "flags": ["--allow_changes"]},
            ["(discriminator.dense: 8 -> 16)", f"--config.init_from={copy}/srresnet.safetensors"],
        ),
    ):
        assert_refused(runs(copy, **changes), str(copy), "another config", "--workdir", *parts)
    assert snapshot(copy) == before


def damage(checkpoint: pathlib.Path, change: Callable[[bytearray], bytes]) -> None:
    """Change the largest file of a checkpoint, which holds the arrays."""
    files = [file for file in (checkpoint / "state").rglob("*") if file.is_file()]
    file = max(
        (file for file in files if file.name != "_METADATA"), key=lambda file: file.stat().st_size
    )
    file.write_bytes(change(bytearray(file.read_bytes())))


def flip_bit(data: bytearray) -> bytes:
    data[len(data) // 2] ^= 4
    return bytes(data)


def test_damaged_newest_checkpoint(runs, interrupted, finished, tmp_path):
    changes = {
        "flipped": flip_bit,
        "cut": lambda data: bytes(data[: len(data) // 2]),
        "emptied": lambda data: b"",
    }
    for name, change in changes.items():
        workdir = tmp_path / name
        shutil.copytree(runs.folder / "terminated, stopped", workdir)
        *_, before, newest = saved_steps(workdir)
        damage(workdir / f"checkpoints/{newest}", change)
    for name, done in zip(
        changes, runs.together(*(lambda n=n: runs(tmp_path / n) for n in changes)), strict=True
    ):
        workdir = tmp_path / name
        assert done.returncode == 0
        assert done.stderr.count("\n") == 1, done.stderr[-2000:]
        assert f"checkpoint {newest} is damaged" in done.stderr
        assert str(workdir / f"damaged/{newest}") in done.stderr
        assert (workdir / f"damaged/{newest}").is_dir()
        assert f"continuing after step {before} of {TOTAL}\n" in done.stdout
        assert_same_outcome(workdir, finished)


def test_no_checkpoint_is_whole(runs, interrupted, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(runs.folder / "terminated, stopped", workdir)
    for step in saved_steps(workdir):
        damage(workdir / f"checkpoints/{step}", flip_bit)
    kept = snapshot(workdir).keys() - snapshot(workdir / "checkpoints").keys()
    done = runs(workdir)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("srgan_jax: error: ")
    assert "every checkpoint is damaged" in last
    assert len(list((workdir / "damaged").iterdir())) == 3
    after = snapshot(workdir)
    assert {name for name in kept if not name.startswith("checkpoints/")} <= after.keys()


@pytest.fixture
def disk(tmp_path) -> Iterator[pathlib.Path]:
    """A file system of its own, of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: pathlib.Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass


def test_full_disk(runs, disk, finished):
    workdir = disk / "run"
    fill(disk)
    assert_refused(runs(workdir), str(disk), "cannot be written", "No space left on device")
    (disk / "filler").unlink()

    status, _, stderr = runs.until("gan 13/", lambda _: fill(disk), workdir)
    assert status == 2
    assert stderr.startswith("srgan_jax: error: "), stderr[-3000:]
    assert stderr.count("\n") == 1, stderr[-3000:]
    assert str(workdir) in stderr
    assert "cannot be written" in stderr
    assert not (workdir / "results.json").exists()

    before = {
        name: content
        for name, content in snapshot(workdir).items()
        if not name.startswith("checkpoints")
    }
    newest = saved_steps_whole(workdir)[-1]
    for left in (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(left)  # a start does so too, and then has room
    fill(disk)
    assert_refused(runs(workdir), str(workdir), "cannot be written")  # still full
    assert saved_steps_whole(workdir)[-1] == newest
    after = snapshot(workdir)
    for name in ("metrics.jsonl", "config.json", "environment.json", "srresnet.safetensors"):
        assert after[name] == before[name], name

    (disk / "filler").unlink()
    done = runs(workdir)
    assert_fine(done)
    assert f"continuing after step {newest} of" in done.stdout
    assert_same_outcome(workdir, finished)


def saved_steps_whole(workdir: pathlib.Path) -> list[int]:
    """Of what a full disk left, the checkpoints that are complete."""
    names = [entry.name for entry in (workdir / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdigit())


def test_read_only_disk(runs, disk):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    done = runs(disk / "run")
    assert_refused(done, f"--workdir={disk / 'run'}", "cannot be written", "Read-only")


def test_files_may_not_grow(runs, finished, tmp_path):
    """A quota, as `ulimit -f` sets it: the first write that fails is inside Orbax."""
    workdir = tmp_path / "run"
    done = runs(
        workdir, prefix=["bash", "-c", 'ulimit -f 24 && exec "$@"', "bash"], env=NO_CACHE_WRITES
    )
    assert_refused(done, str(workdir), "cannot be written")


def methods_measured(workdir: pathlib.Path) -> set[str]:
    return {row["method"] for row in json.loads((workdir / "results.json").read_text())["rows"]}


NAN = {"pretrain__steps": 10, "gan__steps": 20, "gan__learning_rate": 1e25}


@pytest.fixture(scope="module")
def others(runs, root) -> dict[str, tuple[pathlib.Path, subprocess.CompletedProcess]]:
    """Runs that have nothing to do with each other, two at a time: workdir and process."""
    shared = root.parent / "shared"
    full_size = [key for key in TINY if key.startswith(("generator.", "discriminator."))]
    calls = {
        "vgg22": {
            "config": "srgan.py:vgg22",
            "data__path": shared / "data/train/part0",
            "vgg__path": shared / "weights/vgg19_imagenet_conv1_1-conv3_4.npz",
            "data__crop": 96,
            "data__batch_size": 2,
            "pretrain__steps": 3,
            "gan__steps": 3,
            "checkpoint__every_steps": 50,
            **{key.replace(".", "__"): None for key in full_size},
        },
        "pmap": {
            "env": QUICK | {"JAX_NUM_CPU_DEVICES": "2"},
            "parallel": "pmap",
            "pretrain__steps": 0,
            "gan__steps": 3,
            "gan__discriminator_updates": 2,
        },
        "average": {
            "env": QUICK,
            "ema_decay": 0.5,
            "gan__learning_rate": 1e-30,
            "pretrain__steps": None,
            "pretrain__epochs": 3,
            "gan__steps": None,
            "gan__examples": 9,
        },
        "nan": {"env": QUICK} | NAN,
    }
    if not shared.is_dir():
        del calls["vgg22"]

    def start(name: str, changes: dict):
        return runs.folder / name, runs(runs.folder / name, **changes)

    done = runs.together(*(functools.partial(start, *call) for call in calls.items()))
    return dict(zip(calls, done, strict=True))


def test_nan_in_the_gan_phase_keeps_what_was_good(runs, others):
    workdir, done = others["nan"]
    assert_refused(done, "gan: ", "stopped", "the checkpoint of step 10 is good")
    assert "--config.gan.learning_rate" in done.stderr
    assert re.search(r"loss/adversarial.* (nan|inf).* at step 1[12]", done.stderr), done.stderr
    assert saved_steps(workdir) == [10]
    exported = weights.load_generator(workdir / "srresnet.safetensors")
    assert exported.metadata["training"]["step"] == 10
    assert not (workdir / "srgan.safetensors").exists()
    assert not (workdir / "results.json").exists()
    # It can be restored, and leads to the same end.
    again = runs(workdir, env=QUICK, **NAN)
    assert "continuing after step 10 of 30" in again.stdout
    assert again.stderr == done.stderr


def test_failed_before_any_checkpoint_and_begun_anew_with_another_config(runs, tmp_path):
    workdir = tmp_path / "run"
    done = runs(workdir, pretrain__learning_rate=1e25, gan__steps=0, pretrain__steps=9)
    assert_refused(done, "pretrain: ", "no checkpoint yet", "--config.pretrain.learning_rate")
    assert re.search(r"loss/mse.* (nan|inf).* at step 2", done.stderr), done.stderr
    changes = {"pretrain__steps": 4, "gan__steps": 0}
    assert_fine(runs(workdir, **changes))
    assert [line["step"] for line in jsonl(workdir / "metrics.jsonl") if "loss" in line] == [
        1,
        2,
        3,
        4,
    ]
    assert methods_measured(workdir) == {"bicubic", "srresnet"}
    assert not (workdir / "srgan.safetensors").exists()
    done = runs(workdir, **changes)  # complete, though there is no srgan.safetensors
    assert_fine(done)
    assert "this run is complete" in done.stdout


def test_init_from(runs, finished, tmp_path):
    file = finished / "srresnet.safetensors"
    still = {
        "init_from": file,
        "pretrain__steps": 1,
        "gan__steps": 0,
        "optim__learning_rate": 1e-30,
    }
    done, refused = runs.together(
        lambda: runs(tmp_path / "run", **still),
        lambda: runs(tmp_path / "other", generator__blocks=2, **still),
    )
    assert_fine(done)
    before, after = (tensors(path) for path in (file, tmp_path / "run" / "srresnet.safetensors"))
    for key in before:
        if key.startswith("params/"):
            np.testing.assert_allclose(after[key], before[key], rtol=0, atol=1e-20)
    assert_refused(refused, f"config.init_from={file}", "architecture", "blocks")
    assert not (tmp_path / "other" / "checkpoints").exists()


def test_moving_average_is_exported_and_goes_on_and_lengths_in_other_units(others):
    """Eight pictures in batches of four: three epochs are six steps; nine examples are three."""
    workdir, done = others["average"]
    assert_fine(done)
    assert "pretrain: 6 steps" in done.stdout
    assert "gan: 3 steps" in done.stdout
    assert jsonl(workdir / "metrics.jsonl")[-1]["step"] == 9
    first, second = (tensors(workdir / f"{name}.safetensors") for name in ("srresnet", "srgan"))
    names = [key for key in first if key.startswith("params/")]
    assert len(names) > 10
    kernel = "params/conv_in/kernel"
    assert not np.array_equal(first[kernel], first[f"ema_{kernel}"])
    for key in names:
        for found in (second[key], second[f"ema_{key}"]):  # no step moved it
            np.testing.assert_allclose(found, first[f"ema_{key}"], rtol=1e-6, atol=1e-20)
    loaded = weights.load_generator(workdir / "srresnet.safetensors").variables
    np.testing.assert_array_equal(loaded.params["conv_in"]["kernel"], first[f"ema_{kernel}"])


def test_no_pretraining_but_two_updates_of_d_under_pmap_on_two_devices(others):
    workdir, done = others["pmap"]
    assert_fine(done)
    lines = [line for line in jsonl(workdir / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3]
    (start,) = json.loads((workdir / "environment.json").read_text())
    assert start["devices"].startswith("2 x ")
    assert methods_measured(workdir) == {"bicubic", "srgan"}
    assert not (workdir / "srresnet.safetensors").exists()


@pytest.mark.parametrize("workdir", ["file", "file/run", "/proc/run"])
def test_workdir_that_cannot_be(runs, tmp_path, workdir):
    (tmp_path / "file").write_text("")
    done = runs(tmp_path / workdir)
    assert_refused(done, f"--workdir={tmp_path / workdir}", "cannot be written")


def test_vgg_networks_of_full_size(others, shared):
    """The paper's recipe in all but length: `configs/srgan.py:vgg22`, real weights."""
    workdir, done = others["vgg22"]
    assert_fine(done)
    lines = [line for line in jsonl(workdir / "metrics.jsonl") if "loss" in line]
    assert ["loss/vgg" in line for line in lines] == [False] * 3 + [True] * 3
    for network in ("srresnet", "srgan"):
        exported = weights.load_generator(workdir / f"{network}.safetensors")
        assert (exported.generator.blocks, exported.generator.channels) == (16, 64)


def test_vgg_weights_that_stop_short(runs, shared, tmp_path):
    file = shared / "weights/vgg19_imagenet_conv1_1-conv3_4.npz"
    done = runs(tmp_path / "run", config="srgan.py:vgg54", vgg__path=file)
    assert_refused(done, str(file), "conv4_1", "relu5_4")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_other_pictures_are_refused_unless_allowed_and_nothing_is_lost(runs, interrupted, tmp_path):
    workdir, pictures = tmp_path / "run", tmp_path / "pictures"
    shutil.copytree(runs.folder / "terminated, stopped", workdir)
    shutil.copytree(runs.train, pictures)
    Image.new("RGB", (40, 40)).save(pictures / "one more.png")
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["path"] = str(pictures)
    (workdir / "config.json").write_text(json.dumps(config))
    before = snapshot(workdir / "checkpoints")
    refused = runs(workdir, data__path=pictures)
    assert_refused(refused, "begun with other pictures", "--allow_changes")
    assert snapshot(workdir / "checkpoints") == before
    assert not (workdir / "damaged").exists()
    done = runs(workdir, data__path=pictures, flags=["--allow_changes"])
    assert_fine(done)
    assert "continuing with pictures: others than before\n" in done.stdout
    story = weights.load_generator(workdir / "srgan.safetensors").metadata["training"]
    assert [change["config"] for change in story["changed"]] == [["pictures: others than before"]]


def test_one_process_at_a_time(runs, copy):
    folder = os.open(copy, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    assert_refused(runs(copy), "another process is training there")
    os.close(folder)


def test_measuring_on_another_set_keeps_the_runs_own_results(runs, copy, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(runs.held_out / "0.png", other / "alone.png")
    own = json.loads((copy / "results.json").read_text())["rows"]
    panel = (copy / "panel.png").read_bytes()
    done = subprocess.run(
        [*runs.command(copy, eval__path=other), "--mode=eval"],
        cwd=runs.folder, env=runs.env, capture_output=True, text=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-2000:]
    rows = json.loads((copy / "results.json").read_text())["rows"]
    assert [row for row in rows if row["data"] != str(other)] == own
    assert {row["image"] for row in rows if row["data"] == str(other)} == {"alone.png", "mean"}
    assert (copy / "panel.png").read_bytes() == panel
    assert len(list(copy.glob("panel_*.png"))) == 1
    assert "this run is complete" in runs(copy).stdout


@pytest.mark.slow
def test_from_the_host_in_dispatches_stopped_and_continued_is_bit_identical(runs):
    """As undisturbed from the device's memory.

    In dispatches of as many steps: those of another number are rounded otherwise.
    """
    steps = {"pretrain__steps": 20, "gan__steps": 20}
    often = {"log__every_steps": 2, "eval__every_steps": 4, "checkpoint__keep_best": 1}
    same = steps | often | {"steps_per_dispatch": 2, "env": QUICK}
    host, device = (same | {"data__placement": where} for where in ("host", "device"))
    a, b = runs.folder / "from the device", runs.folder / "from the host"

    def disturbed():
        return runs.until("pretrain 8/", terminate, b, **host), runs(b, **host)

    done, ((status, stdout, stderr), last) = runs.together(lambda: runs(a, **device), disturbed)
    assert_fine(done)
    assert "on the device" in done.stdout
    assert "eval.every_steps=4 and checkpoint.every_steps=10 meet every 20 steps" in done.stdout
    assert (status, stderr) == (0, "")
    assert "pictures: " in stdout
    assert "on the host, read ahead" in stdout
    assert "2 a dispatch" in stdout
    stopped = int(re.search(r"stopped after step (\d+): the same command", stdout)[1])
    assert 8 <= stopped < 40
    assert_fine(last)
    assert f"continuing after step {stopped} of 40\n" in last.stdout

    assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()
    assert [line["step"] for line in jsonl(a / "metrics.jsonl") if "loss" in line][-1] == 40
    assert (a / "results.json").read_text() == (b / "results.json").read_text()
    assert digest_of(a / "checkpoints/40") == digest_of(b / "checkpoints/40")
    for network in ("srresnet", "srgan", "srresnet_best", "srgan_best"):
        x, y = (tensors(workdir / f"{network}.safetensors") for workdir in (a, b))
        assert x.keys() == y.keys()
        assert [key for key in x if x[key].tobytes() != y[key].tobytes()] == []
