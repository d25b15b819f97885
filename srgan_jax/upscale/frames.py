"""Frames of films as RGB, and back: depth, colour matrix and range, rotation, interlacing."""

import itertools
import pathlib
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from srgan_jax.errors import UserError

if TYPE_CHECKING:  # optional: needs an extra
    from av import VideoFrame
    from av.container import InputContainer, OutputContainer

    from srgan_jax.upscale.upscaler import Upscaler

# As H.273 and FFmpeg number them.
BT709, BT601 = 1, 5
_UNSPECIFIED = (0, 2)
_MATRICES = {1: "ITU709", 5: "ITU601", 6: "ITU601", 9: "BT2020", 7: "SMPTE240M", 4: "FCC"}
_HDR = {16: "PQ", 18: "HLG"}
_FULL_RANGE = 2


class Time(NamedTuple):
    """When a frame is shown, and for how long, in units of the film's time base."""

    pts: int
    duration: int
    damaged: bool  # the decoder made up a part of it


def open_film(path: pathlib.Path) -> "InputContainer":
    """A film to read; of tags, whatever their encoding, nothing is lost."""
    import av

    return av.open(str(path), metadata_errors="surrogateescape")


def pictures_of(film: "InputContainer") -> Any:
    """The stream of a film's pictures, not its cover; None where there is none."""
    from av.stream import Disposition

    streams = film.streams.video
    return next((s for s in streams if not s.disposition & Disposition.attached_pic), None)


class Form(NamedTuple):
    """What frames are, in the film and in the result.

    Attributes:
      height: of the result, even.
      width: of the result, even.
      deep: 10 bits or more in the film, 10 in the result.
      matrix: between RGB and luma, as H.273 numbers it.
      full: luma is 0..255, not 16..235.
      primaries: as H.273 numbers them, kept.
      transfer: likewise.
      time_base: of `Time`.
      rate: frames a second, on average.
      aspect: of a pixel, width over height.
      matrix_of_display: how a player turns and mirrors the pictures; empty: not at all.
      interlaced: frames are made of two fields.
      notes: what is not as it was.
    """

    height: int
    width: int
    deep: bool
    matrix: int
    full: bool
    primaries: int
    transfer: int
    time_base: Fraction
    rate: Fraction
    aspect: Fraction
    matrix_of_display: tuple[int, ...]
    interlaced: bool
    notes: tuple[str, ...]


def form_of(
    source: pathlib.Path, film: "InputContainer", upscaler: "Upscaler", *, ten_bits: bool
) -> Form:
    """What a film's frames are, by its first one; the film has then to be opened anew.

    `ten_bits`: whether the result can have them.

    Raises: UserError where they cannot be enlarged.
    """
    stream = pictures_of(film)
    frame = next(film.decode(stream), None)
    if frame is None or stream.time_base is None:
        raise UserError(f"{source}: no frame of it can be read")
    if frame.color_trc in _HDR:
        raise UserError(
            f"{source}: is HDR ({_HDR[int(frame.color_trc)]}), which the networks do not know:"
            " convert it to SDR"
        )
    if any(component.is_alpha for component in frame.format.components):
        raise UserError(f"{source}: has transparency, which is not kept in films: use pictures")
    matrix = int(frame.colorspace)
    if frame.format.is_rgb or matrix in _UNSPECIFIED:
        matrix = BT709 if frame.height >= 720 else BT601  # what players assume
    if matrix not in _MATRICES:
        raise UserError(f"{source}: its colour matrix (number {matrix}) is not known")
    height, width = upscaler.size(frame.height, frame.width)
    notes = []
    if height % 2 or width % 2:
        notes.append("a row or column cut, for encoders take even sizes")
    if frame.interlaced_frame:
        notes.append("deinterlaced")
    deep = max(component.bits for component in frame.format.components) > 8
    if deep and not ten_bits:
        notes.append("10 bits or more reduced to 8")
    return Form(
        height=height - height % 2,
        width=width - width % 2,
        deep=deep and ten_bits,
        matrix=matrix,
        full=int(frame.color_range) == _FULL_RANGE and not frame.format.is_rgb,
        primaries=int(frame.color_primaries),
        transfer=int(frame.color_trc),
        time_base=stream.time_base,
        rate=stream.average_rate or stream.guessed_rate or Fraction(25),
        aspect=stream.sample_aspect_ratio or Fraction(1),
        matrix_of_display=_display(frame),
        interlaced=frame.interlaced_frame,
        notes=tuple(notes),
    )


def _display(frame: "VideoFrame") -> tuple[int, ...]:
    from av.sidedata.sidedata import Type

    of_frame: Any = frame.side_data
    data = of_frame.get(Type.DISPLAYMATRIX)
    return () if data is None else tuple(np.frombuffer(bytes(data), np.int32).tolist())


def decoded(film: "InputContainer", form: Form, *, skip: int) -> Iterator[tuple[Time, np.ndarray]]:
    """Frames from the first on, but for so many, RGB uint8 or uint16 [h, w, 3]."""
    pictures_of(film).thread_type = "AUTO"
    shape = None
    for i, frame in enumerate(_progressive(film, form)):
        if i < skip:
            continue
        if shape and (frame.height, frame.width) != shape:
            raise UserError(f"{film.name}: its frames change their size, at {frame.time:.2f} s")
        shape = (frame.height, frame.width)
        yield _time_of(frame, i, form), _to_rgb(frame, form)


def _time_of(frame: "VideoFrame", number: int, form: Form) -> Time:
    usual = 1 / (form.rate * form.time_base)
    if frame.pts is None or frame.time_base is None:
        return Time(round(number * usual), round(usual), frame.is_corrupt)
    unit = frame.time_base / form.time_base  # filters have units of their own
    duration = frame.duration * unit if frame.duration else usual
    return Time(round(frame.pts * unit), round(duration), frame.is_corrupt)


def _progressive(film: "InputContainer", form: Form) -> Iterator["VideoFrame"]:
    """The frames, those of two fields made into whole ones."""
    if not form.interlaced:
        yield from film.decode(pictures_of(film))
        return
    import av

    graph = av.filter.Graph()
    source = graph.add_buffer(template=pictures_of(film))
    whole = graph.add("bwdif", "mode=send_frame:deint=interlaced")
    sink = graph.add("buffersink")
    source.link_to(whole)
    whole.link_to(sink)
    graph.configure()
    for frame in itertools.chain(film.decode(pictures_of(film)), [None]):
        graph.push(frame)
        while True:
            try:
                yield cast("VideoFrame", graph.pull())
            except (av.error.BlockingIOError, av.error.EOFError):
                break


def _to_rgb(frame: "VideoFrame", form: Form) -> np.ndarray:
    rgb = frame.reformat(
        format="rgb48le" if form.deep else "rgb24",
        src_colorspace=_MATRICES[form.matrix],
        src_color_range="JPEG" if form.full else "MPEG",
        dst_color_range="JPEG",
        interpolation=_interpolation(),
    )
    return rgb.to_ndarray()


def _interpolation() -> Any:
    """Of colours, which have half the resolution of luma: exact, and not by repeating them."""
    from av.video.reformatter import Interpolation as How

    return How.BICUBIC | How.ACCURATE_RND | How.FULL_CHR_H_INT | How.FULL_CHR_H_INP


class Encoder:
    """Frames of RGB into a container's only stream."""

    def __init__(self, container: "OutputContainer", codec: str, crf: int, form: Form):
        """`crf`: the codec's own measure of quality, lower is better."""
        self._container, self._form = container, form
        options = {"crf": str(crf)}
        if codec == "libx264":
            options |= {"preset": "medium", "bf": "0"}
        else:
            options |= {"b": "0", "row-mt": "1", "auto-alt-ref": "0", "lag-in-frames": "0"}
        self._stream: Any = container.add_stream(codec, rate=form.rate, options=options)
        context: Any = self._stream.codec_context
        context.height, context.width = form.height, form.width
        context.pix_fmt = self._format = "yuv420p10le" if form.deep else "yuv420p"
        context.time_base = form.time_base
        self._stream.time_base = form.time_base
        _tag(context, form)

    def encode(self, time: Time, rgb: np.ndarray) -> None:
        """Add a frame, uint8 or uint16 [H, W, 3], at least of the form's size."""
        import av

        form = self._form
        cut = np.ascontiguousarray(rgb[: form.height, : form.width])
        frame = av.VideoFrame.from_ndarray(cut, format="rgb48le" if form.deep else "rgb24")
        frame = frame.reformat(
            format=self._format,
            dst_colorspace=_MATRICES[form.matrix],
            src_color_range="JPEG",
            dst_color_range="JPEG" if form.full else "MPEG",
            interpolation=_interpolation(),
        )
        frame.pts, frame.duration, frame.time_base = time.pts, time.duration, form.time_base
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Write what the encoder still has."""
        self._container.mux(self._stream.encode(None))


def _tag(context: Any, form: Form) -> None:
    """Tell players what the numbers mean."""
    context.colorspace = form.matrix
    context.color_range = _FULL_RANGE if form.full else 1
    context.color_primaries = form.primaries
    context.color_trc = form.transfer
    context.sample_aspect_ratio = form.aspect


def add_stream(out: "OutputContainer", segment: pathlib.Path, form: Form) -> Any:
    """A stream for the packets of segments like this one."""
    import av

    with av.open(str(segment)) as container:
        stream: Any = out.add_stream_from_template(container.streams.video[0])
    stream.time_base = form.time_base
    stream.sample_aspect_ratio = form.aspect
    if form.matrix_of_display:
        stream.set_display_matrix(list(form.matrix_of_display))
    return stream
