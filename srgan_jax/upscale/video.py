"""Films: every frame enlarged; sound, subtitles, times and colours as they were."""

import os
import pathlib
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from srgan_jax import files
from srgan_jax.errors import UserError, first_line
from srgan_jax.images import size_text
from srgan_jax.upscale import frames
from srgan_jax.upscale.segments import COPIED, ENCODERS, Segments, container_of

if TYPE_CHECKING:  # optional: needs an extra
    from av.container import InputContainer

    from srgan_jax.upscale.upscaler import Upscaler

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")

# Seconds that a film may be shorter than it tells.
TOLERANCE = 0.5


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
    try:
        import av
    except ModuleNotFoundError:  # told when its turn comes
        return 0, 0, 0
    try:
        with frames.open_film(source) as film:
            stream = frames.pictures_of(film)
            return (stream.height, stream.width, _count(film)) if stream else (0, 0, 0)
    except (OSError, av.FFmpegError):  # told when its turn comes
        return 0, 0, 0


def _count(film: "InputContainer") -> int:
    """About how many frames a film has; 0 where it does not tell."""
    stream = frames.pictures_of(film)
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
    progress: Callable[[float], Any],
    stopped: Callable[[], bool],
) -> Film:
    """Enlarge a film.

    Args:
      source: any film that FFmpeg reads.
      out: ends in one of `ENCODERS`.
      upscaler: what each frame goes through.
      quality: 1 to 100.
      resume: go on where the same command was stopped, or killed.
      progress: is called with the megapixels of SR done since it was called last.
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
    part = out.with_name(f"{out.stem}.partial{out.suffix}")
    try:
        with frames.open_film(source) as film:
            _check(source, film, out)
            deep = out.suffix.lower() != ".webm"  # FFmpeg's VP9 as PyAV brings it has 8 bits
            form = frames.form_of(source, film, upscaler, ten_bits=deep)
            length = _seconds(film)
        work = Segments(source, out, form, quality, upscaler.settings, resume)
        of_frame = form.height * form.width / 1e6
        ended = work.encode(upscaler, lambda count: progress(count * of_frame), stopped)
        if not work.done:
            when = "no frame of it can be read" if ended else "stopped before its first frame"
            raise UserError(f"{source}: {when}")
        with files.replacing(part) as aside:
            reached = work.join(aside, whole=ended)
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
    said += [f"{work.damaged} of them damaged in the film"] * (work.damaged > 0)
    return Film("; ".join(said), work.done, form.height, form.width)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError | PermissionError):
        return f"cannot be read ({error.strerror})"
    return f"cannot be read or written as a film ({first_line(error)})"


def _check(source: pathlib.Path, film: "InputContainer", out: pathlib.Path) -> None:
    """Raises: UserError where the result could not hold what the film does."""
    import av

    pictures = frames.pictures_of(film)
    if pictures is None:
        kinds = dict.fromkeys(stream.type for stream in film.streams)
        raise UserError(f"{source}: has no pictures, only {', '.join(kinds) or 'nothing'}")
    give = f"give -o {out.with_suffix('.mkv').name}"
    if out.suffix.lower() == ".webm" and (pictures.sample_aspect_ratio or 1) != 1:
        raise UserError(f"{source}: its pixels are not square, which .webm cannot tell: {give}")
    probe = files.aside_of(out)
    with av.open(str(probe), "w", format=container_of(out)) as container:
        for stream in film.streams:
            name = stream.codec_context.name if stream.codec_context else "unknown"
            if stream.type in COPIED and name not in container.supported_codecs:
                raise UserError(
                    f"{source}: its {stream.type} ({name}) does not go into {out.suffix}: {give}"
                )
    probe.unlink(missing_ok=True)
