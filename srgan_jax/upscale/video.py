"""Films: every frame enlarged; sound, subtitles, times and colours as they were.

Frames go into segments in a folder beside the result. When all are there, or the work is stopped,
their packets are put into one file together with the copied sound and subtitles. So a kill loses
a segment at most, and what is done needs no second encoding.
"""

import collections
import concurrent.futures
import heapq
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from srgan_jax import files
from srgan_jax.errors import UserError, first_line
from srgan_jax.images import size_text
from srgan_jax.upscale import frames

if TYPE_CHECKING:  # optional: needs an extra
    from av.container import InputContainer

    from srgan_jax.upscale.upscaler import Upscaler

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")

SEGMENT_FRAMES = 48  # that a kill loses at most

# By the ending of the result: the encoder, and its quality setting at --quality=95 and at 1.
# No frame is predicted from a later one, so that segments follow each other without gaps.
ENCODERS = {
    ".mp4": ("libx264", 14, 40),
    ".m4v": ("libx264", 14, 40),
    ".mov": ("libx264", 14, 40),
    ".mkv": ("libx264", 14, 40),
    ".webm": ("libvpx-vp9", 18, 55),
}
# Seconds that a film may be shorter than it tells.
TOLERANCE = 0.5

COPIED = ("audio", "subtitle")


class Film(NamedTuple):
    """What became of a film."""

    line: str
    frames: int
    height: int
    width: int


def suffix_of(source: pathlib.Path) -> str:
    """The ending of a result beside or in place of this film: its own, where we write such."""
    own = source.suffix.lower()
    return source.suffix if own in ENCODERS else ".mkv"


def frames_of(source: pathlib.Path) -> tuple[int, int, int]:
    """Height, width and about how many frames; (0, 0, 0) where the film does not tell."""
    import av

    try:
        with av.open(str(source)) as film:
            stream = film.streams.video[0]
            return stream.height, stream.width, _count(film)
    except (OSError, av.FFmpegError, IndexError):  # told when its turn comes
        return 0, 0, 0


def _count(film: "InputContainer") -> int:
    """About how many frames a film has; 0 where it does not tell."""
    stream = film.streams.video[0]
    if stream.frames:
        return stream.frames
    return int(_seconds(film) * float(stream.average_rate or 0))


def _seconds(film: "InputContainer") -> float:
    """How long a film says that it is; 0 where it does not."""
    import av

    return (film.duration or 0) / av.time_base


def upscale(
    source: pathlib.Path,
    out: pathlib.Path,
    upscaler: "Upscaler",
    *,
    quality: int,
    resume: bool,
    progress: Callable[[int], Any],
    stopped: Callable[[], bool],
) -> Film:
    """Enlarge a film.

    Args:
      source: any film that FFmpeg reads.
      out: ends in one of `ENCODERS`.
      upscaler: what each frame goes through.
      quality: 1 to 100.
      resume: go on where the same command was stopped, or killed.
      progress: is called with the number of frames done since it was called last.
      stopped: asked after each frame; when it says so, what is done becomes a film that plays, at
        the path that the error tells.

    Raises: UserError, naming the file. `out` is written when all is done, and only then.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise UserError(f"{source}: films need PyAV: pip install 'srgan_jax[video]'") from error
    if out.suffix.lower() not in ENCODERS:
        raise UserError(f"{out}: films are written as {' '.join(ENCODERS)}")
    try:
        with av.open(str(source)) as film:
            _check(source, film, out)
            form = frames.form_of(source, film, upscaler)
        work = _Segments(source, out, form, quality, upscaler.settings, resume)
        with av.open(str(source)) as film:
            ended = work.encode(film, upscaler, progress, stopped)
            length = _seconds(film)
        part = out.with_name(f"{out.stem}.partial{out.suffix}")
        with files.replacing(part) as aside:
            reached = work.join(aside)
    except (av.FFmpegError, av.error.OSError) as error:
        raise UserError(f"{source}: {_reason(error)}") from error
    so_far = f"{work.done} frames, which play as {part}"
    if not ended:
        raise UserError(f"{source}: stopped after {so_far}; --resume goes on")
    if reached < length - TOLERANCE:
        raise UserError(
            f"{source}: is damaged: it should last {length:.1f} s, and ends at {reached:.1f}, after"
            f" {so_far}"
        )
    os.replace(part, out)
    shutil.rmtree(work.folder)
    said = [size_text(form.height, form.width), f"{work.done} frames", *form.notes]
    return Film("; ".join(said), work.done, form.height, form.width)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError | PermissionError):
        return f"cannot be read ({error.strerror})"
    return f"cannot be read or written as a film ({first_line(error)})"


def _check(source: pathlib.Path, film: "InputContainer", out: pathlib.Path) -> None:
    """Raises: UserError where the result could not hold what the film does."""
    import av

    if not film.streams.video:
        raise UserError(f"{source}: has no pictures, only {', '.join(_kinds(film)) or 'nothing'}")
    probe = files.aside_of(out)
    with av.open(str(probe), "w", format=_format(out)) as container:
        for stream in film.streams:
            name = stream.codec_context.name if stream.codec_context else "unknown"
            if stream.type in COPIED and name not in container.supported_codecs:
                raise UserError(
                    f"{source}: its {stream.type} ({name}) does not go into {out.suffix}: give"
                    f" -o {out.with_suffix('.mkv').name}"
                )
    probe.unlink(missing_ok=True)


def _kinds(film: "InputContainer") -> list[str]:
    return list(dict.fromkeys(stream.type for stream in film.streams))


def _format(out: pathlib.Path) -> str:
    """FFmpeg's name of a container."""
    return {".mkv": "matroska", ".webm": "webm", ".mov": "mov"}.get(out.suffix.lower(), "mp4")


class _Segments:
    """The frames that are done, in a folder beside the result."""

    def __init__(
        self,
        source: pathlib.Path,
        out: pathlib.Path,
        form: frames.Form,
        quality: int,
        settings: dict[str, Any],
        resume: bool,
    ):
        self._source, self._out, self._form = source, out, form
        self.folder = out.with_name(f".{out.stem}.segments")
        codec, best, worst = ENCODERS[out.suffix.lower()]
        self._codec = codec
        self._crf = round(best + (95 - quality) * (worst - best) / 94)
        status = os.stat(source)
        told = settings | {
            "source": source.name,
            "bytes": status.st_size,
            "changed": status.st_mtime_ns,
            "codec": codec,
            "crf": self._crf,
            "form": str(form),
        }
        self.done = 0
        self._take_up(json.dumps(told, sort_keys=True, default=str), resume)

    def _take_up(self, told: str, resume: bool) -> None:
        """Go on with what is there, where it is of the same film and settings; else start."""
        record = self.folder / "made_from.json"
        if resume and self.folder.exists():
            if not record.exists() or record.read_text() != told:
                raise UserError(
                    f"{self._out}: what was begun is of another film or other settings: the same"
                    " command continues it, one without --resume starts anew"
                )
            self.done = sum(int(path.stem.split("-")[1]) for path in self._paths())
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        files.make_folder(self.folder, "--output")
        with files.replacing(record) as aside:
            aside.write_text(told)

    def _paths(self) -> list[pathlib.Path]:
        """The segments in their order, each with the number of its frames in its name."""
        return sorted(path for path in self.folder.glob("*.nut") if path.name[0] != ".")

    def encode(
        self,
        film: "InputContainer",
        upscaler: "Upscaler",
        progress: Callable[[int], Any],
        stopped: Callable[[], bool],
    ) -> bool:
        """Enlarge what is missing; whether that was all, not stopped before.

        A frame is decoded while others are enlarged and one is encoded.
        """
        progress(self.done)
        decoded = frames.decoded(film, self._form, skip=self.done)
        with (
            concurrent.futures.ThreadPoolExecutor(upscaler.at_once, "frame") as pool,
            concurrent.futures.ThreadPoolExecutor(1, "encoder") as writer,
        ):
            enlarged = _in_order(pool, upscaler, decoded, upscaler.at_once + 1)
            for number in itertools.count(len(self._paths())):
                first = next(enlarged, None)
                if first is None or stopped():
                    return first is None
                segment = itertools.islice(itertools.chain([first], enlarged), SEGMENT_FRAMES)
                count = self._segment(number, segment, writer, progress, stopped)
                self.done += count
                if stopped():
                    return False
        raise AssertionError

    def _segment(
        self,
        number: int,
        enlarged: Iterator[tuple[frames.Time, np.ndarray]],
        writer: concurrent.futures.Executor,
        progress: Callable[[int], Any],
        stopped: Callable[[], bool],
    ) -> int:
        """Write one, and give the number of its frames."""
        import av

        aside = self.folder / ".segment.nut"
        count = 0
        with av.open(str(aside), "w", format="nut") as container:
            encoder = frames.Encoder(container, self._codec, self._crf, self._form)
            written: concurrent.futures.Future | None = None
            for time, sr in enlarged:
                if written:
                    written.result()
                written = writer.submit(encoder.encode, time, sr)
                count += 1
                progress(1)
                if stopped():
                    break
            if written:
                written.result()
            encoder.finish()
        os.replace(aside, self.folder / f"{number:06}-{count}.nut")
        return count

    def join(self, path: pathlib.Path) -> float:
        """All segments, and what is copied of the source, in one film; how many seconds it has."""
        import av

        paths = self._paths()
        if not paths:
            raise UserError(f"{self._source}: no frame of it could be read")
        with (
            av.open(str(self._source)) as film,
            av.open(str(path), "w", format=_format(self._out)) as out,
        ):
            pictures = frames.add_stream(out, paths[0], self._form)
            copied = {
                stream.index: out.add_stream_from_template(stream)
                for stream in film.streams
                if stream.type in COPIED
            }
            for index, stream in copied.items():
                stream.metadata.update(film.streams[index].metadata)
            out.metadata.update(film.metadata)
            out.set_chapters(film.chapters())
            start, end = (film.start_time or 0) / av.time_base, 0.0
            count = 0
            for packet in _interleaved(film, paths, pictures, copied):
                count += packet.stream is pictures
                shown = (packet.pts or 0) + (packet.duration or 0)
                end = max(end, float(shown * packet.time_base))
                out.mux(packet)
        if count != self.done:
            raise UserError(
                f"{self.folder}: holds {count} of {self.done} frames: begin without --resume"
            )
        return end - start


def _interleaved(
    film: "InputContainer", paths: list[pathlib.Path], pictures: Any, copied: dict[int, Any]
) -> Iterator[Any]:
    """Packets by their time."""
    import av

    def of_pictures() -> Iterator[Any]:
        for path in paths:
            with av.open(str(path)) as segment:
                for packet in segment.demux(video=0):
                    if packet.size:  # the last one of a file is empty
                        # Which FFmpeg, that expects frames out of order, sometimes cannot tell.
                        packet.dts = packet.pts
                        packet.stream = pictures
                        yield packet

    def of_others() -> Iterator[Any]:
        if copied:
            for packet in film.demux([film.streams[index] for index in copied]):
                if packet.size and packet.dts is not None:
                    packet.stream = copied[packet.stream.index]
                    yield packet

    return heapq.merge(of_pictures(), of_others(), key=lambda p: p.dts * p.time_base)


def _in_order(
    pool: concurrent.futures.Executor,
    upscaler: "Upscaler",
    decoded: Iterator[tuple[frames.Time, np.ndarray]],
    ahead: int,
) -> Iterator[tuple[frames.Time, np.ndarray]]:
    """Frames enlarged, several at a time."""
    pending: collections.deque[tuple[frames.Time, concurrent.futures.Future]] = collections.deque()
    for time, rgb in decoded:
        pending.append((time, pool.submit(upscaler, rgb)))
        if len(pending) > ahead:
            first, task = pending.popleft()
            yield first, task.result()
    for first, task in pending:
        yield first, task.result()
