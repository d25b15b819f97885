"""Films: frames, times, colours, sound, subtitles, rotation, stopping and going on."""

import itertools
import pathlib
import sys
from fractions import Fraction

import numpy as np
import pytest
from test_upscaler import random_network

from srgan_jax.errors import UserError
from srgan_jax.upscale import frames, segments, video
from srgan_jax.upscale.upscaler import Upscaler

av = pytest.importorskip("av", reason="films need PyAV")
pytestmark = pytest.mark.usefixtures("quick_compile")

HEIGHT, WIDTH = 32, 96
RATE = 25


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory):
    """It adds next to nothing to bicubic enlargement, so that results can be foretold."""
    path = tmp_path_factory.mktemp("network") / "x2.safetensors"
    random_network(path, scale=2, blocks=1, channels=2, kernel=3, base="bicubic")
    found = Upscaler(path, devices=1)
    last = found._variables.params["conv_out"]
    found._variables.params["conv_out"] = {key: 0 * value for key, value in last.items()}
    return found


def colour_bars(number: int) -> np.ndarray:
    """uint8 [HEIGHT, WIDTH, 3]: six colours, and a bar that moves."""
    colors = [
        (200, 30, 30),
        (30, 200, 30),
        (30, 30, 200),
        (200, 200, 30),
        (128, 128, 128),
        (10, 90, 60),
    ]
    frame = np.repeat(np.array(colors, np.uint8)[None], HEIGHT, 0).repeat(WIDTH // 6, axis=1)
    frame[2 * (number % 16) : 2 * (number % 16) + 2] = 240
    return frame


def film(
    path: pathlib.Path,
    count: int = 12,
    *,
    times=None,
    matrix: int = 5,
    full: bool = False,
    trc: int = 1,
    pix_fmt: str = "yuv420p",
    sound: bool = False,
    subtitles: bool = False,
    rotation: int = 0,
    frame_of=colour_bars,
    interlaced: bool = False,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    codec: str = "libx264",
) -> pathlib.Path:
    """A film that FFmpeg makes."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=RATE, options={"crf": "4"})
        context = stream.codec_context
        context.height, context.width, context.pix_fmt = *size, pix_fmt
        context.time_base = Fraction(1, 1000) if times else Fraction(1, RATE)
        context.colorspace, context.color_range, context.color_trc = matrix, 2 if full else 1, trc
        if interlaced:
            context.options = {"crf": "4", "x264-params": "tff=1"}
        if rotation:
            stream.set_display_rotation(rotation)
        voice = out.add_stream("aac", rate=8000, layout="mono") if sound else None
        words = None
        if subtitles:
            path.with_suffix(".srt").write_text("1\n00:00:00,040 --> 00:00:00,240\nHello\n\n")
            words = av.open(str(path.with_suffix(".srt")))
            subtitle = out.add_stream_from_template(words.streams[0])
        out.metadata["title"] = "A film"
        names = {5: "ITU601", 1: "ITU709"}
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(frame_of(i)[: size[0], : size[1]], format="rgb24")
            frame = frame.reformat(
                format=pix_fmt,
                dst_colorspace=names.get(matrix, "ITU601"),
                src_color_range="JPEG",
                dst_color_range="JPEG" if full else "MPEG",
            )
            frame.pts = times[i] if times else i
            frame.time_base = context.time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if voice:
            wave = (8000 * np.sin(np.arange(8000 * count // RATE) / 3)).astype(np.int16)
            heard = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            heard.sample_rate = 8000
            heard.pts = 0
            out.mux(voice.encode(heard))
            out.mux(voice.encode(None))
        if words:
            for packet in words.demux():
                if packet.dts is not None:
                    packet.stream = subtitle
                    out.mux(packet)
            words.close()
            path.with_suffix(".srt").unlink()
    return path


def upscale(source, out, upscaler, *, stop_after=None, resume=False, quality=100):
    done = itertools.count()
    return video.upscale(
        source,
        out,
        upscaler,
        quality=quality,
        resume=resume,
        progress=lambda megapixels: next(done),
        stopped=lambda: stop_after is not None and next(done) >= stop_after,
    )


def frames_of(path):
    """RGB uint8 frames by FFmpeg's own reading of the colours, and their times in seconds."""
    with av.open(str(path)) as opened:
        found = [
            (
                frame.reformat(format="rgb24", src_colorspace=int(frame.colorspace)).to_ndarray(),
                frame.pts * frame.time_base,
            )
            for frame in opened.decode(video=0)
        ]
    return [rgb for rgb, _ in found], [time for _, time in found]


def packets_of(path, kind):
    with av.open(str(path)) as opened:
        stream = next(s for s in opened.streams if s.type == kind)
        return [(bytes(p), p.pts * p.time_base) for p in opened.demux(stream) if p.dts is not None]


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov", ".webm"])
def test_frames_and_times_stay(tmp_path, upscaler, ending):
    source = film(tmp_path / "film.mkv")
    out = tmp_path / f"big{ending}"
    told = upscale(source, out, upscaler)
    assert (told.frames, told.height, told.width) == (12, 2 * HEIGHT, 2 * WIDTH)
    small, times = frames_of(source)
    large, new_times = frames_of(out)
    assert np.allclose([float(t) for t in new_times], [float(t) for t in times], atol=1e-3)
    for before, after in zip(small, large, strict=True):
        difference = after.astype(float) - upscaler(before)
        luma = difference @ [0.299, 0.587, 0.114]  # colours have half the resolution
        assert np.abs(luma).mean() < 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["film.mkv", out.name])


@pytest.mark.parametrize("matrix", [1, 5])
@pytest.mark.parametrize("full", [False, True])
def test_colours_stay_what_they_are(tmp_path, upscaler, matrix, full):
    source = film(tmp_path / "film.mp4", 2, matrix=matrix, full=full)
    upscale(source, tmp_path / "big.mp4", upscaler)
    with av.open(str(tmp_path / "big.mp4")) as opened:
        frame = next(opened.decode(video=0))
        assert int(frame.colorspace) == matrix
        assert int(frame.color_range) == (2 if full else 1)
    (large, *_), _ = frames_of(tmp_path / "big.mp4")
    colors = colour_bars(0)[-1, WIDTH // 12 :: WIDTH // 6]
    found = large[-8, WIDTH // 6 :: WIDTH // 3]
    assert np.abs(found.astype(int) - colors).max() <= 6


def test_variable_rates_keep_their_times(tmp_path, upscaler):
    times = [0, 40, 55, 120, 121, 500, 900, 940]
    source = film(tmp_path / "film.mkv", len(times), times=times)
    upscale(source, tmp_path / "big.mkv", upscaler)
    upscale(source, tmp_path / "big.mp4", upscaler)
    for name in ("big.mkv", "big.mp4"):
        assert [round(float(t) * 1000) for t in frames_of(tmp_path / name)[1]] == times


def test_sound_subtitles_title_and_rotation(tmp_path, upscaler):
    source = film(tmp_path / "film.mkv", sound=True, subtitles=True)
    upscale(source, tmp_path / "big.mkv", upscaler)
    for kind in ("audio", "subtitle"):
        before, after = packets_of(source, kind), packets_of(tmp_path / "big.mkv", kind)
        assert len(before) > 0
        assert [data for data, _ in before] == [data for data, _ in after]
        assert np.allclose([float(t) for _, t in before], [float(t) for _, t in after], atol=2e-3)
    with av.open(str(tmp_path / "big.mkv")) as opened:
        assert opened.metadata["title"] == "A film"
    turned = film(tmp_path / "turned.mp4", 2, rotation=90)
    upscale(turned, tmp_path / "turned_big.mp4", upscaler)
    rotations = []
    for path in (turned, tmp_path / "turned_big.mp4"):
        with av.open(str(path)) as opened:
            rotations.append(next(opened.decode(video=0)).rotation)
    assert rotations[0] == rotations[1] != 0


def test_ten_bits_stay_ten(tmp_path, upscaler):
    def ramp(number):
        return (
            np.repeat(np.linspace(60, 90, WIDTH)[None, :, None], HEIGHT, 0)
            .repeat(3, 2)
            .astype(np.uint8)
        )

    source = film(tmp_path / "film.mkv", 2, pix_fmt="yuv420p10le", frame_of=ramp)
    upscale(source, tmp_path / "big.mkv", upscaler)
    with av.open(str(tmp_path / "big.mkv")) as opened:
        assert next(opened.decode(video=0)).format.name == "yuv420p10le"
    small, _ = frames_of(source)
    large, _ = frames_of(tmp_path / "big.mkv")
    assert np.abs(large[0].astype(float) - upscaler(small[0])).mean() < 2


def test_stopped_it_plays_and_resumed_it_is_as_undisturbed(tmp_path, upscaler, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_FRAMES", 4)
    source = film(tmp_path / "film.mkv", 15, sound=True)
    whole, out = tmp_path / "whole.mp4", tmp_path / "big.mp4"
    upscale(source, whole, upscaler)
    with pytest.raises(
        UserError, match=r"stopped after \d+ frames, which play as .*big.partial.mp4"
    ):
        upscale(source, out, upscaler, stop_after=6)
    assert not out.exists()
    part, _ = frames_of(tmp_path / "big.partial.mp4")
    assert 0 < len(part) < 15
    upscale(source, out, upscaler, resume=True)
    first, second = frames_of(whole), frames_of(out)
    assert first[1] == second[1]
    assert len(second[0]) == 15
    difference = [
        np.abs(a.astype(float) - b).mean() for a, b in zip(first[0], second[0], strict=True)
    ]
    assert max(difference) < 3
    assert packets_of(whole, "audio") == packets_of(out, "audio")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["big.mp4", "film.mkv", "whole.mp4"]


def test_what_was_begun_otherwise_is_not_continued(tmp_path, upscaler):
    source = film(tmp_path / "film.mkv", 8)
    out = tmp_path / "big.mp4"
    with pytest.raises(UserError, match="stopped after"):
        upscale(source, out, upscaler, stop_after=2)
    with pytest.raises(UserError, match="is of another film or other settings"):
        upscale(source, out, upscaler, resume=True, quality=50)
    assert upscale(source, out, upscaler).frames == 8


def test_two_fields_become_whole_frames(tmp_path, upscaler):
    source = film(tmp_path / "film.mkv", 6, interlaced=True)
    told = upscale(source, tmp_path / "big.mkv", upscaler)
    assert "deinterlaced" in told.line
    assert told.frames == 6
    assert frames_of(tmp_path / "big.mkv")[1] == frames_of(source)[1]


def test_a_last_picture_that_stays_long(tmp_path, upscaler):
    """Its length is the decoder's alone to tell: no other picture follows."""
    source = film(tmp_path / "film.mp4", 5, times=[0, 100, 200, 300, 400])
    with av.open(str(source)) as opened:
        packets = [p for p in opened.demux(video=0) if p.size]
        with av.open(str(tmp_path / "slides.mp4"), "w") as out:
            stream = out.add_stream_from_template(opened.streams.video[0])
            for packet in packets:
                packet.duration = packets[0].duration * (30 if packet is packets[-1] else 1)
                packet.stream = stream
                out.mux(packet)
    upscale(tmp_path / "slides.mp4", tmp_path / "big.mp4", upscaler)
    lengths = []
    for name in ("slides.mp4", "big.mp4"):
        with av.open(str(tmp_path / name)) as opened:
            lengths.append(opened.duration / av.time_base)
    assert lengths[0] > 2
    assert abs(lengths[0] - lengths[1]) < 0.05


def test_smooth_colours_stay_smooth(tmp_path, upscaler):
    """Colours have half the resolution; they are interpolated, not repeated."""

    def smooth(number):
        x = np.linspace(0, 255, WIDTH).astype(np.uint8)
        return np.stack([np.tile(c, (HEIGHT, 1)) for c in (x, x[::-1], np.full_like(x, 90))], -1)

    source = film(tmp_path / "film.mkv", 1, frame_of=smooth)
    with av.open(str(source)) as opened:
        form = frames.form_of(source, opened, upscaler, ten_bits=True)
    with av.open(str(source)) as opened:
        _, rgb = next(frames.decoded(opened, form, skip=0))
    assert np.abs(rgb.astype(float) - smooth(0))[4:-4, 4:-4].mean() < 1.5


def test_odd_sizes(tmp_path, upscaler):
    source = film(tmp_path / "film.mkv", 2, pix_fmt="yuv444p", size=(31, 95))
    told = upscale(source, tmp_path / "big.mkv", upscaler)
    assert (told.height, told.width) == (62, 190)


def test_without_pyav_a_line_says_what_to_install(tmp_path, upscaler, monkeypatch):
    source = film(tmp_path / "film.mkv", 2)
    monkeypatch.setitem(sys.modules, "av", None)  # as where it is not installed
    assert video.frames_of(source) == (0, 0, 0)
    with pytest.raises(UserError, match=r"films need PyAV: pip install 'srgan_jax\[video\]'"):
        upscale(source, tmp_path / "big.mkv", upscaler)


class TestRefused:
    def test_hdr_and_transparency(self, tmp_path, upscaler):
        source = film(tmp_path / "hdr.mkv", 2, pix_fmt="yuv420p10le", trc=16, matrix=9)
        with pytest.raises(UserError, match=r"hdr.mkv: is HDR \(PQ\)"):
            upscale(source, tmp_path / "big.mkv", upscaler)
        source = film(tmp_path / "alpha.mkv", 2, codec="ffv1", pix_fmt="yuva420p")
        with pytest.raises(UserError, match="has transparency"):
            upscale(source, tmp_path / "big.mkv", upscaler)

    def test_what_the_result_cannot_hold(self, tmp_path, upscaler):
        source = film(tmp_path / "film.mkv", 2, sound=True, subtitles=True)
        with pytest.raises(UserError, match=r"its audio \(aac\) does not go into .webm"):
            upscale(source, tmp_path / "big.webm", upscaler)
        with pytest.raises(UserError, match=r"its subtitle \(\w+\) does not go into .mp4"):
            upscale(source, tmp_path / "big.mp4", upscaler)
        with pytest.raises(UserError, match=r"films are written as \.mp4"):
            upscale(source, tmp_path / "big.avi", upscaler)

    def test_damaged_ones(self, tmp_path, upscaler):
        source = film(tmp_path / "film.mp4", 12)
        (tmp_path / "cut.mp4").write_bytes(source.read_bytes()[:1000])
        (tmp_path / "zero.mp4").touch()
        (tmp_path / "text.mp4").write_text("no film")
        for name in ("cut", "zero", "text", "none"):
            with pytest.raises(UserError, match=f"{name}.mp4: ") as error:
                upscale(tmp_path / f"{name}.mp4", tmp_path / "big.mp4", upscaler)
            assert "\n" not in str(error.value)
        assert not list(tmp_path.glob("*big*"))

    def test_one_that_ends_too_early(self, tmp_path, upscaler):
        source = film(tmp_path / "film.mkv", 50)
        (tmp_path / "cut.mkv").write_bytes(source.read_bytes()[: source.stat().st_size // 2])
        with pytest.raises(
            UserError, match=r"is damaged: it should last 2\.0 s, and ends at [01]\.\d, after"
        ):
            upscale(tmp_path / "cut.mkv", tmp_path / "big.mkv", upscaler)
        assert not (tmp_path / "big.mkv").exists()
        assert 0 < len(frames_of(tmp_path / "big.partial.mkv")[0]) < 45
