"""A run as it is watched: metrics.jsonl, TensorBoard, console lines, a progress bar."""

import contextlib
import json
import math
import pathlib
import sys
import time
from collections.abc import Mapping

import numpy as np
import tensorboardX.summary
import tqdm
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from srgan_jax import processes
from srgan_jax.errors import UserError, first_line
from srgan_jax.workdir import Workdir


class Monitor:
    """Writes what a run reports.

    metrics.jsonl holds only what the seed determines, so that it is the same for every run of a
    config; seconds and rates go to timing.jsonl. TensorBoard gets both.
    """

    def __init__(self, workdir: Workdir, start: int):
        """`start`: updates already done; what an earlier run logged beyond them is dropped."""
        try:
            for file in (workdir.metrics, workdir.timing):
                _drop_after(workdir, file, start)
            self._metrics = workdir.metrics.open("a")
            self._timing = workdir.timing.open("a")
            self._folder = workdir.tensorboard
            self._folder.mkdir(exist_ok=True)
            # Not SummaryWriter: its thread holds events back from a crash, and on a full disk
            # it waits for ever.
            self._board = EventsWriter(str(self._folder / "events"))
            self._event(start + 1, session_log=SessionLog(status=SessionLog.START))
        except OSError as error:
            raise UserError(f"{workdir.path}: cannot be written ({first_line(error)})") from error

    def metrics(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        """Scalars after update `step`, determined by config and seed."""
        self._write(self._metrics, step, phase, values)

    def timing(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        """Seconds and rates."""
        self._write(self._timing, step, phase, values)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Pictures by name, uint8 [H, W, 3], into TensorBoard."""
        for name, pixels in pictures.items():
            image = tensorboardX.summary.image(name, pixels, dataformats="HWC")
            self._event(step, summary=image)

    def close(self) -> None:
        """Let go of the files; everything was flushed when it was written."""
        for file in (self._metrics, self._timing, self._board):
            with contextlib.suppress(OSError):  # of a write that failed, and said so
                file.close()

    def _write(self, file, step: int, phase: str, values: Mapping[str, float]) -> None:
        try:
            file.write(json.dumps({"step": step, "phase": phase, **values}) + "\n")
            file.flush()
        except OSError as error:
            raise UserError(f"{file.name}: cannot be written ({first_line(error)})") from error
        for name, value in values.items():
            self._event(step, summary=tensorboardX.summary.scalar(name, value))

    def _event(self, step: int, **content) -> None:
        try:
            self._board.write_event(Event(wall_time=time.time(), step=step, **content))
            self._board.flush()
        except OSError as error:
            raise UserError(f"{self._folder}: cannot be written ({first_line(error)})") from error


def _drop_after(workdir: Workdir, file: pathlib.Path, step: int) -> None:
    """Keep the lines up to a step; also drops what a crash garbled."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text().splitlines(keepends=True):
        try:
            whole = line.endswith("\n") and json.loads(line)["step"] <= step
        except ValueError:
            whole = False
        if whole:
            kept.append(line)
    workdir.write_text(file.name, "".join(kept))


def say(line: str) -> None:
    """A console line of the first process, above the progress bar where there is one."""
    if processes.is_first():
        tqdm.tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()


class Progress:
    """How far a phase is and how fast it goes: a bar on a terminal, else a line now and then."""

    def __init__(self, phase: str, start: int, done: int, stop: int, images_per_step: int):
        """The phase's updates `start` to `stop`, of which it is at `done`."""
        self._phase, self._start, self._stop = phase, start, stop
        self._images = images_per_step
        self._at, self._since = done, time.perf_counter()
        self._bar = tqdm.tqdm(
            desc=phase,
            initial=done - start,
            total=stop - start,
            unit="step",
            disable=not (sys.stderr.isatty() and processes.is_first()),
        )

    def advance(self, step: int) -> None:
        """Move the bar to update `step`."""
        self._bar.update(step - self._start - self._bar.n)

    def pause(self) -> None:
        """What follows, up to `resume`, is not training and does not count."""
        self._since -= time.perf_counter()

    def resume(self) -> None:
        """Training goes on."""
        self._since += time.perf_counter()

    def leave_out(self, seconds: float) -> None:
        """Do not count what has just taken so long."""
        self._since += seconds

    def report(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """Say how it stands after update `step`; returns the rates since the last report."""
        now = time.perf_counter()
        rate = (step - self._at) / max(now - self._since, 1e-9)
        self._at, self._since = step, now
        done, total = step - self._start, self._stop - self._start
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        line = (
            f"{self._phase} {done}/{total} ({100 * done // total} %)  {shown}  {rate:.3g} steps/s"
            f"  {rate * self._images:.3g} images/s  ETA {duration((self._stop - step) / rate)}"
        )
        if self._bar.disable:
            say(line)
        else:
            self._bar.set_postfix_str(f"{shown}  {rate * self._images:.3g} images/s")
        return {"steps_per_second": rate, "images_per_second": rate * self._images}

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def duration(seconds: float) -> str:
    """Seconds as people say them: "40 s", "7 min", "3.2 h"."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
