"""The frames of a film that are enlarged, kept so that a kill loses few.

They go into segments in a folder beside the result. When all are there, or the work is stopped,
their packets are put into one file together with the copied sound and subtitles, without a second
encoding.
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
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from srgan_jax import files
from srgan_jax.errors import UserError
from srgan_jax.upscale import frames

if TYPE_CHECKING:  # optional: needs an extra
    from av.container import InputContainer

    from srgan_jax.upscale.upscaler import Upscaler

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
COPIED = ("audio", "subtitle")


class Segments:
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
        self.damaged = 0
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
            self.done = sum(_told(path)[0] for path in self._paths())
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        files.make_folder(self.folder, "--output")
        with files.replacing(record) as aside:
            aside.write_text(told)

    def _paths(self) -> list[pathlib.Path]:
        """The segments in their order, see `_told`."""
        return sorted(path for path in self.folder.glob("*.nut") if path.name[0] != ".")

    def encode(
        self,
        upscaler: "Upscaler",
        progress: Callable[[int], Any],
        stopped: Callable[[], bool],
    ) -> bool:
        """Enlarge what is missing; whether that was all, not stopped before.

        A frame is decoded while others are enlarged and one is encoded.
        """
        progress(self.done)
        with (
            frames.open_film(self._source) as film,
            concurrent.futures.ThreadPoolExecutor(upscaler.at_once, "frame") as pool,
            concurrent.futures.ThreadPoolExecutor(1, "encoder") as writer,
        ):
            decoded = frames.decoded(film, self._form, skip=self.done)
            enlarged = _in_order(pool, upscaler, decoded, upscaler.at_once + 1)
            number = len(self._paths())
            while (first := next(enlarged, None)) is not None:
                if stopped():
                    return False
                segment = itertools.islice(itertools.chain([first], enlarged), SEGMENT_FRAMES)
                self._write(number, segment, writer, progress, stopped)
                number += 1
        return True

    def _write(
        self,
        number: int,
        enlarged: Iterator[tuple[frames.Time, np.ndarray]],
        writer: concurrent.futures.Executor,
        progress: Callable[[int], Any],
        stopped: Callable[[], bool],
    ) -> None:
        """Write a segment; it ends early where the work is stopped."""
        import av

        aside = self.folder / ".segment.nut"
        count, duration = 0, 0
        with av.open(str(aside), "w", format="nut") as container:
            encoder = frames.Encoder(container, self._codec, self._crf, self._form)
            written: concurrent.futures.Future | None = None
            for time, sr in enlarged:
                if written:
                    written.result()
                written = writer.submit(encoder.encode, time, sr)
                count, duration = count + 1, time.duration
                self.damaged += time.damaged
                progress(1)
                if stopped():
                    break
            if written:
                written.result()
            encoder.finish()
        os.replace(aside, self.folder / f"{number:06}-{count}-{duration}.nut")
        self.done += count

    def join(self, path: pathlib.Path, *, whole: bool) -> float:
        """All segments, and what is copied of the source, in one film; how many seconds it has.

        Where the film is not `whole`, what is copied ends with the pictures.
        """
        import av

        paths = self._paths()
        kind = container_of(self._out)
        # Times are then told in units of the film's own.
        options = {"movie_timescale": str(_timescale(self._form))} if kind in ("mp4", "mov") else {}
        with (
            frames.open_film(self._source) as film,
            av.open(
                str(path), "w", format=kind, options=options, metadata_errors="surrogateescape"
            ) as out,
        ):
            pictures = frames.add_stream(out, paths[0], self._form)
            streams = {frames.pictures_of(film).index: pictures}
            for stream in film.streams:
                if stream.type in COPIED or (stream.type, kind) == ("attachment", "matroska"):
                    streams[stream.index] = out.add_stream_from_template(stream)
            for index, stream in streams.items():
                stream.metadata.update(film.streams[index].metadata)
                stream.disposition = film.streams[index].disposition
            out.metadata.update(film.metadata)
            out.set_chapters(film.chapters())
            start, end, count = (film.start_time or 0) / av.time_base, 0.0, 0
            copied = {i: stream for i, stream in streams.items() if stream.type in COPIED}
            for packet in _interleaved(film, paths, self._form.time_base, pictures, copied):
                if packet.stream is pictures:
                    count += 1
                elif not whole and count == self.done:
                    break
                shown = (packet.pts or 0) + (packet.duration or 0)
                end = max(end, float(shown * packet.time_base))
                out.mux(packet)
        if count != self.done:
            raise UserError(
                f"{self.folder}: holds {count} of {self.done} frames: begin without --resume"
            )
        return end - start


def container_of(out: pathlib.Path) -> str:
    """FFmpeg's name of the container that a file's ending asks for."""
    return {".mkv": "matroska", ".webm": "webm", ".mov": "mov"}.get(out.suffix.lower(), "mp4")


def _timescale(form: frames.Form) -> int:
    """Units a second, at least 1000, of which the film's time base is a multiple."""
    return form.time_base.denominator * -(-1000 // form.time_base.denominator)


def _told(segment: pathlib.Path) -> tuple[int, int]:
    """What a segment's name tells: how many frames it has, and how long the last one is shown."""
    _, count, duration = segment.stem.split("-")
    return int(count), int(duration)


def _interleaved(
    film: "InputContainer",
    paths: list[pathlib.Path],
    unit: Fraction,
    pictures: Any,
    copied: dict[int, Any],
) -> Iterator[Any]:
    """Packets by their time; `unit` is that of the durations in the segments' names."""
    import av

    def of_pictures() -> Iterator[Any]:
        for path in paths:
            count, duration = _told(path)
            with av.open(str(path)) as segment:
                packets = (packet for packet in segment.demux(video=0) if packet.size)
                for i, packet in enumerate(packets, 1):
                    # Which FFmpeg, that expects frames out of order, sometimes cannot tell.
                    packet.dts = packet.pts
                    if path is paths[-1] and i == count:  # after others the next one follows
                        packet.duration = round(duration * unit / packet.time_base)
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
