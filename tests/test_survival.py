"""Runs that are killed at any moment, many times, and runs that go on otherwise than begun.

SRGAN_KILLS=50 kills more often than the few times that are quick; SRGAN_KILLS_SEED=1 elsewhere.
"""

import dataclasses
import functools
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

import numpy as np
import pytest
from test_train import (
    QUICK,
    TIMEOUT,
    Runs,
    assert_fine,
    assert_refused,
    assert_same_outcome,
    jsonl,
    saved_steps,
    tensors,
)

from srgan_jax import weights

pytestmark = pytest.mark.slow

PRETRAIN, TOTAL = 24, 48
EVERY = 3  # steps between checkpoints, so that saving is often under way
CONFIG = {
    "pretrain__steps": PRETRAIN,
    "gan__steps": TOTAL - PRETRAIN,
    "optim__learning_rate": 3e-3,  # so that validation improves, more than once
    "gan__schedule": "constant",  # so that a longer phase is the same program, not compiled again
    "ema_decay": 0.5,
    "checkpoint__every_steps": EVERY,
    "checkpoint__keep": 2,
    "checkpoint__keep_every": 12,
    "checkpoint__keep_best": 1,
    "eval__every_steps": 6,
}
# What JAX warns of its own cache, which a kill may leave half-written.
CUT_ENTRY, WARNING = "Error reading persistent compilation cache entry", "  warnings.warn("
KILLS = int(os.environ.get("SRGAN_KILLS", "8"))
SEED = int(os.environ.get("SRGAN_KILLS_SEED", "0"))


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory) -> Runs:
    return Runs(root, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def undisturbed(runs) -> pathlib.Path:
    """The workdir of a run that nothing happened to; not to be changed."""
    workdir = runs.folder / "undisturbed"
    done = runs(workdir, **CONFIG)
    assert_fine(done)
    (workdir / "stdout").write_text(done.stdout)
    return workdir


@dataclasses.dataclass
class Start:
    """A process that trains, as it is watched from outside."""

    process: subprocess.Popen
    workdir: pathlib.Path
    console: pathlib.Path
    began: float = dataclasses.field(default_factory=time.perf_counter)
    saves: set[int] = dataclasses.field(default_factory=set)

    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def steps(self) -> int:
        return self.console.read_text().count(" steps/s ")

    def saves_begun(self) -> int:
        """How many saves of this process were seen under way."""
        if self.steps():  # before, what an earlier process left is still there
            self.saves |= {inode(path) for path in unfinished(self.workdir)}
        return len(self.saves - {0})

    def exporting(self) -> bool:
        return any(self.workdir.glob(".*.partial.safetensors"))

    def says(self, text: str) -> bool:
        return text in self.console.read_text()


def inode(path: pathlib.Path) -> int:
    """The number of a file, 0 where it is not there any more."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def unfinished(workdir: pathlib.Path) -> list[pathlib.Path]:
    return list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


Moment = Callable[[random.Random], tuple[int, Callable[[Start], bool]]]


def at_start(draw: random.Random):
    """While modules are imported, a checkpoint is read, or a program is compiled."""
    after = draw.uniform(0.2, 3.5)
    return signal.SIGKILL, lambda start: start.seconds() > after


def while_saving(draw: random.Random):
    count = draw.randint(1, 3)
    return signal.SIGKILL, lambda start: start.saves_begun() >= count


def while_stepping(draw: random.Random):
    count = draw.randint(1, 8)
    return signal.SIGKILL, lambda start: start.steps() >= count


def while_the_phase_changes(draw: random.Random):
    """The last step of pre-training is done: validation, save, export, the GAN's program."""
    after = draw.uniform(0.0, 0.5)

    def now(start: Start) -> bool:
        if start.says(f"pretrain {PRETRAIN}/"):
            time.sleep(after)
            return True
        return start.says("gan 5/")

    return signal.SIGKILL, now


def while_exporting(draw: random.Random):
    count = draw.randint(4, 12)  # an export is quick, and easily missed
    return signal.SIGKILL, lambda start: start.exporting() or start.steps() >= count


def asked_to_stop(draw: random.Random):
    count = draw.randint(1, 5)
    number = draw.choice([signal.SIGTERM, signal.SIGINT])
    return number, lambda start: start.steps() >= count


MOMENTS: tuple[Moment, ...] = (
    while_saving,
    at_start,
    lambda draw: (signal.SIGTERM, asked_to_stop(draw)[1]),
    while_the_phase_changes,
    while_saving,
    lambda draw: (signal.SIGINT, asked_to_stop(draw)[1]),
    while_exporting,
    while_stepping,
)


def disturb(runs: Runs, workdir: pathlib.Path, moment: Moment, draw: random.Random) -> bool:
    """Start a run, and stop it at a moment: whether it came to that, or ended before."""
    number, now = moment(draw)
    left = {path.name.split(".")[0] for path in unfinished(workdir)}
    console, errors = (runs.folder / f"{workdir.name}.{name}" for name in ("out", "err"))
    with console.open("w") as stdout, errors.open("w") as stderr:
        command = runs.command(workdir, **CONFIG)
        process = subprocess.Popen(
            command, cwd=runs.folder, env=runs.env, stdout=stdout, stderr=stderr
        )
    start = Start(process, workdir, console)
    while process.poll() is None and not now(start):
        assert start.seconds() < TIMEOUT, "hangs"
        time.sleep(0.0005)
    ended = process.poll() is not None
    if not ended:
        process.send_signal(number)
    status = process.wait(TIMEOUT)
    said, complained = console.read_text(), errors.read_text()
    print(f"{signal.Signals(number).name} after {start.seconds():.2f} s: {said.splitlines()[-1:]}")
    assert status in (0, -signal.SIGKILL), complained[-2000:]
    if not ended and number != signal.SIGKILL and "written:" not in said:
        assert status == 0
        assert re.search(r"stopped after step \d+: the same command continues", said)
    removed = re.findall(r"removed the unfinished save of step (\d+)", complained)
    others = [line for line in complained.splitlines() if "removed the unfinished" not in line]
    assert [line for line in others if CUT_ENTRY not in line and WARNING not in line] == []
    if "steps to go" in said:
        assert set(removed) == left
    return not ended


def test_killed_at_any_moment_ends_like_undisturbed(runs, undisturbed):
    """Every run that comes to its end, disturbed or not, ends with the same bits."""
    draw = random.Random(SEED)
    print(f"SRGAN_KILLS={KILLS} SRGAN_KILLS_SEED={SEED}")
    moments = itertools.cycle(MOMENTS)
    kills, number = 0, 0
    while kills < KILLS:
        number += 1
        workdir = runs.folder / f"disturbed {number}"
        while kills < KILLS and disturb(runs, workdir, next(moments), draw):
            kills += 1
        assert runs(workdir, **CONFIG).returncode == 0
        assert_same_outcome(workdir, undisturbed, TOTAL)
        assert not (workdir / "damaged").exists()
        assert unfinished(workdir) == []


def kept(workdir: pathlib.Path) -> dict[str, dict]:
    """The story of each best export."""
    return {
        name: weights.load_generator(workdir / f"{name}_best.safetensors").metadata["training"]
        for name in ("srresnet", "srgan")
    }


def test_the_best_are_exported_and_kept(runs, undisturbed):
    validated = [v for v in jsonl(undisturbed / "metrics.jsonl") if "eval/paper/psnr" in v]
    assert [line["step"] for line in validated] == list(range(6, TOTAL + 1, 6))
    for phase, network in (("pretrain", "srresnet"), ("gan", "srgan")):
        values = {v["eval/paper/psnr"]: v["step"] for v in validated if v["phase"] == phase}
        story = kept(undisturbed)[network]
        assert story["best"] == {"metric": "paper/psnr", "value": max(values)}
        assert story["step"] == values[max(values)]
        said = f"{network}: best paper/psnr {max(values):.2f} after step {story['step']}: "
        assert f"{said}{network}_best.safetensors\n" in (undisturbed / "stdout").read_text()
    best = {story["step"] for story in kept(undisturbed).values()}
    assert saved_steps(undisturbed) == sorted({12, 24, 36, TOTAL - EVERY, TOTAL} | best)


def rewound(undisturbed: pathlib.Path, workdir: pathlib.Path, step: int) -> pathlib.Path:
    """A copy as a run has it that was killed after a checkpoint."""
    shutil.copytree(undisturbed, workdir)
    for later in saved_steps(workdir):
        if later > step:
            shutil.rmtree(workdir / f"checkpoints/{later}")
    for name in ("results.json", "panel.png", "srgan.safetensors"):
        (workdir / name).unlink()
    return workdir


LONGER = CONFIG | {"gan__steps": TOTAL - PRETRAIN + 3}


@pytest.fixture(scope="module")
def otherwise(runs, undisturbed):
    """Runs that go on otherwise than they began, two at a time: workdir and process by name."""
    stopped = {
        name: rewound(undisturbed, runs.folder / name, 36) for name in ("two devices", "harmless")
    }
    complete = pathlib.Path(shutil.copytree(undisturbed, runs.folder / "longer"))
    calls = {
        "two devices": (CONFIG, {"env": QUICK | {"JAX_NUM_CPU_DEVICES": "2"}}),
        "longer": (LONGER, {"flags": ["--allow_changes"]}),
        "harmless": (CONFIG | {"log__every_steps": 6, "checkpoint__keep_best": 0}, {}),
        "pre-training shorter": (LONGER | {"pretrain__steps": 9}, {"flags": ["--allow_changes"]}),
        "not allowed": (LONGER, {}),
    }

    def start(name: str):
        workdir = stopped.get(name, complete)
        changes, how = calls[name]
        return workdir, runs(workdir, **changes, **how)

    refused = [start(name) for name in list(calls)[3:]]  # in one workdir
    going_on = runs.together(*(functools.partial(start, name) for name in list(calls)[:3]))
    return dict(zip(calls, going_on + refused, strict=True))


def test_on_two_devices_it_ends_within_float_tolerance(otherwise, undisturbed):
    workdir, done = otherwise["two devices"]
    assert_fine(done)
    assert f"continuing after step 36 of {TOTAL}\n" in done.stdout
    assert "continuing with" not in done.stdout
    starts = json.loads((workdir / "environment.json").read_text())
    assert [start["devices"][:3] for start in starts] == ["1 x", "2 x"]
    losses = [
        [line["loss"] for line in jsonl(path / "metrics.jsonl") if "loss" in line]
        for path in (workdir, undisturbed)
    ]
    np.testing.assert_allclose(losses[0][36:40], losses[1][36:40], rtol=1e-4)
    x, y, before = (
        np.concatenate([x.ravel() for name, x in sorted(tensors(file).items()) if "params" in name])
        for file in (
            workdir / "srgan.safetensors",
            undisturbed / "srgan.safetensors",
            undisturbed / "srresnet.safetensors",
        )
    )
    assert np.linalg.norm(x - y) < 0.02 * np.linalg.norm(y - before)


def test_what_is_harmless_changes_and_is_told(otherwise, undisturbed):
    workdir, done = otherwise["harmless"]
    assert_fine(done)
    differences = ["checkpoint.keep_best: 1 -> 0", "log.every_steps: 1 -> 6"]
    assert f"continuing with {'; '.join(differences)}\n" in done.stdout
    assert saved_steps(workdir) == [12, 24, 36, TOTAL - EVERY, TOTAL]
    _, start = json.loads((workdir / "environment.json").read_text())
    assert start["changed"] == differences
    assert start["step"] == 36
    config = json.loads((workdir / "config.json").read_text())
    assert config["log"]["every_steps"] == 6
    x, y = (tensors(path / "srgan.safetensors") for path in (workdir, undisturbed))
    assert [key for key in x if x[key].tobytes() != y[key].tobytes()] == []
    assert (workdir / "results.json").read_text() == (undisturbed / "results.json").read_text()


def test_a_complete_run_goes_on_where_its_config_may_change(otherwise, undisturbed):
    line = "gan.steps: 24 -> 27"
    assert_refused(otherwise["not allowed"][1], line, "--allow_changes")
    assert_refused(otherwise["pre-training shorter"][1], "give --config.pretrain.steps=24")
    workdir, done = otherwise["longer"]
    assert_fine(done)
    assert f"continuing after step {TOTAL} of {TOTAL + 3}\n" in done.stdout
    assert f"continuing with {line}\n" in done.stdout
    assert json.loads((workdir / "config.json").read_text())["gan"]["steps"] == 27
    stories = {
        name: weights.load_generator(workdir / f"{name}.safetensors").metadata["training"]
        for name in ("srresnet", "srgan")
    }
    assert stories["srresnet"]["changed"] == []
    assert stories["srgan"]["changed"] == [{"after_step": TOTAL, "config": [line]}]
    old = (undisturbed / "results.json").read_text()
    assert (workdir / f"results_step{TOTAL}.json").read_text() == old
    assert (workdir / "results.json").read_text() != old
    assert saved_steps(workdir)[-1] == TOTAL + 3


def test_a_cache_of_programs_that_a_kill_cut_short_does_no_harm(runs, undisturbed):
    entries = sorted((runs.folder / "cache").glob("*-cache"), key=lambda f: f.stat().st_size)
    cut = {file: file.read_bytes() for file in entries[:-3]}  # the largest take seconds to compile
    assert len(cut) > 20
    workdir = rewound(undisturbed, runs.folder / "cut cache", TOTAL - EVERY)
    try:
        for file, content in cut.items():
            file.write_bytes(content[: len(content) // 2])
        done = runs(workdir, **CONFIG)
    finally:
        for file, content in cut.items():
            file.write_bytes(content)
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "Warning" in line] == [
        line for line in done.stderr.splitlines() if CUT_ENTRY in line
    ]
    assert_same_outcome(workdir, undisturbed, TOTAL)
