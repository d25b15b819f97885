"""Files through the upscaler: several at once, each told of, and none half written."""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import tqdm
from absl import logging

from srgan_jax import files, images
from srgan_jax.errors import UserError, first_line
from srgan_jax.upscale import jobs as jobs_lib
from srgan_jax.upscale import reading, video, writing
from srgan_jax.upscale.jobs import Job

if TYPE_CHECKING:
    from srgan_jax.upscale.upscaler import Upscaler

# After a signal, for the pictures that can be given up properly.
PATIENCE_SECONDS = 2

_BAR = "{percentage:3.0f}% |{bar}| {n:.1f}/{total:.1f} MP, {rate_fmt}, {remaining} left"


class Asked(NamedTuple):
    """How files are read and written.

    Attributes:
      quality: 1 to 100, of formats that lose some.
      most_pixels: of an input that is not taken for an attack.
      resume: continue films that were interrupted.
      alone: there is no other file, and the caller tells what is wrong with this one.
    """

    quality: int
    most_pixels: int
    resume: bool
    alone: bool


@dataclasses.dataclass
class Done:
    """Why files failed, and the megapixels of the others' results."""

    failed: list[str] = dataclasses.field(default_factory=list)
    megapixels: float = 0.0


class Stopped(Exception):  # noqa: N818 (nothing is wrong)
    """A signal came: the picture under way is given up."""


class _Enlarged(NamedTuple):
    """What became of a file."""

    line: str
    megapixels: float


def enlarge_all(jobs: list[Job], upscaler: "Upscaler", asked: Asked) -> Done:
    """Enlarge files; the next one is read while one is computed and one is written.

    A line is printed for each; where one fails, too, and the others go on.

    Raises: KeyboardInterrupt at SIGINT or SIGTERM, when nothing half-written is there any more;
      threads may still compute.
    """
    from srgan_jax import processes  # late, as it imports JAX

    done = Done()
    if not jobs:
        return done
    shown = sys.stderr.isatty()
    area = float(upscaler.scale) ** 2
    total = sum(map(jobs_lib.megapixels, jobs)) * area if shown else None
    stopping = threading.Event()
    pool = concurrent.futures.ThreadPoolExecutor(upscaler.at_once, "picture")
    tasks: dict[concurrent.futures.Future, Job] = {}
    ended: queue.SimpleQueue[concurrent.futures.Future] = queue.SimpleQueue()
    counting = threading.Lock()
    with (
        tqdm.tqdm(total=total, unit="MP", bar_format=_BAR, disable=not shown) as bar,
        processes.first_signal(lambda number, frame: stopping.set()),
        processes.ends_itself(),
    ):

        def progress(megapixels: float) -> None:
            with counting:
                bar.total = max(bar.total or 0.0, bar.n + megapixels)  # films know it about
                bar.update(megapixels)

        try:
            for job in jobs:
                task = pool.submit(_enlarge, job, upscaler, asked, stopping.is_set, progress)
                tasks[task] = job
                task.add_done_callback(ended.put)
            left = len(tasks)
            while left and not stopping.is_set():
                with contextlib.suppress(queue.Empty):
                    _tell(ended.get(timeout=0.1), tasks, done, bar, asked.alone)
                    left -= 1
        finally:  # all done; or a signal, or nobody who reads what is said
            given_up = stopping.is_set()
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
            # What a film has so far is made to play; a picture may be in the middle of a tile.
            films = {task: job for task, job in tasks.items() if job.format is None}
            for task in concurrent.futures.wait(films).done if given_up else ():
                if not task.cancelled() and (stop := task.exception()):
                    bar.write(f"srgan_jax: {_told(films[task], stop)}", file=sys.stderr)
            concurrent.futures.wait(tasks, PATIENCE_SECONDS)
            for job in (job for task, job in tasks.items() if not task.done()):
                files.aside_of(job.out).unlink(missing_ok=True)
    if given_up:
        raise KeyboardInterrupt
    return done


def _tell(
    task: concurrent.futures.Future,
    tasks: dict[concurrent.futures.Future, Job],
    done: Done,
    bar: tqdm.tqdm,
    alone: bool,
) -> None:
    """Say and count what became of a file."""
    job = tasks[task]
    try:
        enlarged = task.result()
    except Exception as error:  # of one file of many
        done.failed.append(_told(job, error))
        if not alone:
            bar.write(f"srgan_jax: error: {done.failed[-1]}", file=sys.stderr)
    else:
        done.megapixels += enlarged.megapixels
        bar.write(f"{job.source} -> {job.out}  {enlarged.line}", file=sys.stdout)
        sys.stdout.flush()


def _told(job: Job, error: BaseException) -> str:
    if isinstance(error, UserError):
        return str(error) if str(job.source) in str(error) else f"{job.source}: {error}"
    logging.info("%s", job.source, exc_info=error)  # with --verbosity=0
    return f"{job.source}: {type(error).__name__}: {first_line(error)}"


def _enlarge(
    job: Job,
    upscaler: "Upscaler",
    asked: Asked,
    stopped: Callable[[], bool],
    progress: Callable[[float], Any],
) -> _Enlarged:
    """Enlarge one file; `progress` is told megapixels. Raises: UserError, Stopped."""
    if stopped():
        raise Stopped
    if job.out.exists() and os.path.samefile(job.source, job.out):
        raise UserError(f"{job.source}: the result would replace it: give another --suffix or -o")
    try:
        job.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{job.out.parent}: cannot be made ({error.strerror})") from error
    if job.format is None:
        return _film(job, upscaler, asked, stopped, progress)
    picture = reading.open_picture(job.source, asked.most_pixels)
    small = picture.form
    height, width = upscaler.size(small.height, small.width)
    large = small._replace(height=height, width=width)
    writing.check(job.source, job.format, large)

    def of_tile(share: float) -> None:
        if stopped():
            raise Stopped
        progress(share * height * width / small.frames / 1e6)

    blocks = picture.rows()
    with writing.writer(job.out, job.format, large, asked.quality) as put:
        for _ in range(small.frames):
            frame = itertools.islice(blocks, picture.blocks)
            for rows in upscaler.rows(frame, *small[:4], of_tile):
                put(rows)
    said = [images.size_text(height, width)]
    said += [f"{small.frames} frames"] * (small.frames > 1)
    said += [picture.note] * bool(picture.note)
    if job.format == "gif":
        said.append("256 colours" + ", transparent or not" * (small.channels in (2, 4)))
    if small.dtype.itemsize > 1 and not writing.FORMATS[job.format].deep:
        said.append(f"16 bits reduced to the 8 of {job.format}")
    return _Enlarged("; ".join(said), height * width * small.frames / 1e6)


def _film(
    job: Job,
    upscaler: "Upscaler",
    asked: Asked,
    stopped: Callable[[], bool],
    progress: Callable[[float], Any],
) -> _Enlarged:
    film = video.upscale(
        job.source,
        job.out,
        upscaler,
        quality=asked.quality,
        resume=asked.resume,
        progress=progress,
        stopped=stopped,
    )
    return _Enlarged(film.line, film.frames * film.height * film.width / 1e6)
