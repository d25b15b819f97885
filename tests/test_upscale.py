"""The command that enlarges files: formats, names, errors, signals, several processes."""

import contextlib
import io
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms
from test_processes import free_port
from test_upscaler import random_network, with_alpha

from srgan_jax import compiled
from srgan_jax.errors import UserError
from srgan_jax.upscale import command, jobs, reading, writing
from srgan_jax.upscale.upscaler import Upscaler

pytestmark = pytest.mark.usefixtures("quick_compile")
HEIGHT, WIDTH = 30, 40


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return random_network(tmp_path_factory.mktemp("network") / "small.safetensors", blocks=1)


@pytest.fixture(scope="module")
def upscaler(network):
    return Upscaler(network, devices=1)


@pytest.fixture(scope="module")
def photograph():
    import skimage.data

    return np.asarray(Image.fromarray(skimage.data.astronaut()).resize((WIDTH, HEIGHT)))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """What is compiled is kept for these tests alone."""
    monkeypatch.setattr(compiled, "keep", lambda: None)


@pytest.fixture
def run(network):
    """`run(argument, ...)` gives what the command prints on its two streams."""

    def start(*arguments) -> tuple[str, str]:
        inputs, given = [], iter(map(str, arguments))
        asked = {"weights": str(network), "devices": "1"}
        for text in given:
            name, equals, value = text.removeprefix("--").partition("=")
            if text == "-o":
                asked["output"] = next(given)
            elif text.startswith("--"):
                asked[name] = value if equals else True
            else:
                inputs.append(text)
        asked |= {"quality": int(asked.get("quality", 95))}
        with (
            contextlib.redirect_stdout(io.StringIO()) as out,
            contextlib.redirect_stderr(io.StringIO()) as err,
        ):
            command.run(inputs, command.Settings(**asked))
        return out.getvalue(), err.getvalue()

    return start


def pixels(path) -> np.ndarray:
    picture = reading.open_picture(path, 10**9)
    return np.concatenate(list(picture.rows()))


def deep(photograph) -> pyvips.Image:
    return pyvips.Image.new_from_array(photograph.astype(np.uint16) * 200, interpretation="rgb16")


def save(path: pathlib.Path, picture: np.ndarray) -> None:
    """One of each kind, by the name of the file."""
    gray = picture[:, :, 0]
    name = path.stem
    if name == "rgb16":
        deep(picture).write_to_file(str(path))
        return
    image = {
        "rgb": lambda: Image.fromarray(picture),
        "gray": lambda: Image.fromarray(gray),
        "rgba": lambda: Image.fromarray(with_alpha(picture)),
        "la": lambda: Image.fromarray(with_alpha(gray[:, :, None]), "LA"),
        "palette": lambda: Image.fromarray(picture).quantize(16),
        "seethrough": lambda: Image.fromarray(picture).quantize(16),
        "onebit": lambda: Image.fromarray(gray > 90),
        "gray16": lambda: Image.fromarray(gray.astype(np.uint16) * 200),
        "cmyk": lambda: Image.fromarray(picture).convert("CMYK"),
    }[name]()
    options = {"transparency": 3} if name == "seethrough" else {}
    options |= {"lossless": True} if path.suffix == ".webp" else {}
    image.save(path, **options)


FILES = {  # name: channels, bits, ending of the result
    "rgb.png": (3, 8, ".png"),
    "rgb.webp": (3, 8, ".webp"),
    "rgb.jpg": (3, 8, ".jpg"),
    "rgb.bmp": (3, 8, ".png"),
    "rgb.tif": (3, 8, ".tif"),
    "rgb.ppm": (3, 8, ".png"),
    "rgb.gif": (3, 8, ".gif"),
    "gray.png": (1, 8, ".png"),
    "gray.jpg": (1, 8, ".jpg"),
    "rgba.png": (4, 8, ".png"),
    "rgba.tga": (4, 8, ".png"),
    "la.png": (2, 8, ".png"),
    "palette.png": (3, 8, ".png"),
    "seethrough.png": (4, 8, ".png"),
    "onebit.png": (1, 8, ".png"),
    "gray16.png": (1, 16, ".png"),
    "gray16.tif": (1, 16, ".tif"),
    "rgb16.png": (3, 16, ".png"),
    "rgb16.tif": (3, 16, ".tif"),
    "cmyk.jpg": (3, 8, ".jpg"),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("name", FILES)
def test_a_file_stays_what_it_is(tmp_path, run, upscaler, photograph, name):
    channels, bits, ending = FILES[name]
    save(tmp_path / name, photograph)
    small = pixels(tmp_path / name)
    assert small.shape == (HEIGHT, WIDTH, channels)
    run(tmp_path / name)
    result = (tmp_path / name).with_name(f"{pathlib.Path(name).stem}_x4{ending}")
    large = pixels(result)
    assert large.dtype == f"uint{bits}"
    expected = upscaler(small)
    if ending in (".png", ".tif"):
        np.testing.assert_array_equal(large, expected)
    else:
        assert large.shape[:2] == expected.shape[:2]
        difference = np.abs(large[:, :, :channels].astype(float) - expected)
        assert difference.mean() < (8 if ending == ".jpg" else 20)


def test_orientation_profile_exif_and_resolution(tmp_path, run, photograph, upscaler):
    exif = Image.Exif()
    exif[274], exif[271] = 6, "The maker"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    kept = {"exif": exif, "icc_profile": profile, "dpi": (300, 300)}
    for suffix in (".jpg", ".png", ".webp"):
        path = tmp_path / f"turned{suffix}"
        Image.fromarray(photograph).save(path, **kept)
        out, _ = run(path)
        assert "turned as its EXIF orientation says" in out
        with Image.open(tmp_path / f"turned_x4{suffix}") as large:
            assert large.size == (4 * HEIGHT, 4 * WIDTH)
            assert large.getexif().get(274, 1) == 1
            assert large.getexif()[271] == "The maker"
            assert large.info["icc_profile"] == profile
            if suffix != ".webp":
                assert np.allclose(large.info["dpi"], 300, atol=0.1)
    turned = np.rot90(photograph, -1)
    np.testing.assert_array_equal(pixels(tmp_path / "turned_x4.png"), upscaler(turned))


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".tif"])
def test_every_frame(tmp_path, run, upscaler, photograph, suffix):
    frames = [Image.fromarray(np.roll(photograph, 5 * i, 1)) for i in range(3)]
    options = {} if suffix == ".tif" else {"duration": [100, 200, 300], "loop": 2}
    options |= {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], **options)
    out, _ = run(tmp_path / f"a{suffix}")
    assert "3 frames" in out
    with Image.open(tmp_path / f"a_x4{suffix}") as large:
        assert large.n_frames == 3
        for i in range(3):
            large.seek(i)
            large.load()
            if suffix != ".tif":
                assert large.info["duration"] == 100 * (i + 1)
            found = np.asarray(large.convert("RGB")).astype(float)
            expected = upscaler(np.roll(photograph, 5 * i, 1))
            assert np.abs(found - expected).mean() < 20
    if suffix == ".webp":
        assert reading.open_picture(tmp_path / "a_x4.webp", 10**9).form.metadata["loop"] == 2


@pytest.mark.parametrize("suffix", [".webp", ".tif"])
def test_every_frame_is_turned(tmp_path, run, upscaler, photograph, suffix):
    exif = Image.Exif()
    exif[274] = 6
    frames = [Image.fromarray(np.roll(photograph, 5 * i, 1)) for i in range(3)]
    options = {"lossless": True} if suffix == ".webp" else {"tiffinfo": {274: 6}}
    options |= {"exif": exif} if suffix == ".webp" else {}
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], **options)
    out, _ = run(tmp_path / f"a{suffix}", "--format=tif")
    assert "3 frames" in out
    large = pixels(tmp_path / "a_x4.tif").reshape(3, 4 * WIDTH, 4 * HEIGHT, -1)[..., :3]
    for i in range(3):
        turned = np.rot90(np.roll(photograph, 5 * i, 1), -1)
        np.testing.assert_array_equal(large[i], upscaler(turned))


def test_an_animated_png_is_told_of(tmp_path, run, photograph):
    frames = [Image.fromarray(np.roll(photograph, i, 1)) for i in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    out, _ = run(tmp_path / "a.png")
    assert "the first of 3 frames" in out


def test_limits_are_of_a_frame(tmp_path):
    form = reading.Form(1024, 64, 3, np.dtype(np.uint8), 20, {}, (1.0, 1.0))
    writing.check(tmp_path / "a.webp", "webp", form)
    with pytest.raises(UserError, match="20000x1024 is too large for webp"):
        writing.check(tmp_path / "a.webp", "webp", form._replace(width=20000))


def test_formats(tmp_path, run, photograph, upscaler):
    save(tmp_path / "rgb16.png", photograph)
    for name in writing.FORMATS:
        out, _ = run(tmp_path / "rgb16.png", f"--format={name}", "--quality=100")
        large = pixels(tmp_path / f"rgb16_x4.{name}")
        expected = upscaler(photograph.astype(np.uint16) * 200)
        if name in ("png", "tif"):
            np.testing.assert_array_equal(large, expected)
        else:
            assert "16 bits reduced to the 8" in out
            assert np.abs(large[:, :, :3] - expected / 257).mean() < 20


class TestNames:
    def test_a_tree_keeps_its_form(self, tmp_path, run, photograph):
        for name in ("a.png", "sub/b.jpg", "sub/deep/a.png", ".hidden.png", "sub/notes.txt"):
            path = tmp_path / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".txt":
                path.write_text("no picture")
            else:
                Image.fromarray(photograph[:8, :8]).save(path)
        run(tmp_path / "in", "-o", tmp_path / "out", "--recursive")
        found = sorted(
            str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")
        )
        assert found == ["a.png", "sub/b.jpg", "sub/deep/a.png"]
        run(tmp_path / "in", "-o", f"{tmp_path}/flat/")
        assert os.listdir(tmp_path / "flat") == ["a.png"]

    def test_results_beside_are_not_enlarged_again(self, tmp_path, run, photograph):
        Image.fromarray(photograph[:8, :8]).save(tmp_path / "a.png")
        for _ in range(2):
            out, _ = run(tmp_path)
            assert "1 enlarged" in out
        assert sorted(os.listdir(tmp_path)) == ["a.png", "a_x4.png"]
        run(tmp_path / "a.png", "--scale=2", "--suffix=-big")
        assert pixels(tmp_path / "a-big.png").shape == (16, 16, 3)

    def test_what_is_there_is_skipped(self, tmp_path, run, photograph):
        for name in ("a.png", "b.png"):
            Image.fromarray(photograph[:8, :8]).save(tmp_path / name)
        (tmp_path / "a_x4.png").write_text("as it was")
        out, _ = run(tmp_path, "--skip_existing")
        assert "1 enlarged, 1 there already" in out
        assert (tmp_path / "a_x4.png").read_text() == "as it was"
        out, _ = run(tmp_path, "--skip_existing")
        assert "0 enlarged, 2 there already" in out

    def test_patterns_and_files(self, tmp_path, run, photograph):
        for name in ("a1.png", "a2.png", "b.png"):
            Image.fromarray(photograph[:8, :8]).save(tmp_path / name)
        run(f"{tmp_path}/a*.png", "-o", tmp_path / "out")
        assert sorted(os.listdir(tmp_path / "out")) == ["a1.png", "a2.png"]
        run(tmp_path / "b.png", "-o", tmp_path / "some.webp")
        assert pixels(tmp_path / "some.webp").shape == (32, 32, 3)

    def test_results_are_no_inputs(self, tmp_path):
        for name in ("a.png", "a_x4.png", "large/a.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        given = {"format": "same", "suffix": "_x4", "recursive": True}

        def plan(*inputs, out=None, suffix="_x4"):
            found = jobs.plan(list(map(str, inputs)), out, **given | {"suffix": suffix})
            return [str(job.source.relative_to(tmp_path)) for job in found]

        assert plan(f"{tmp_path}/*.png") == ["a.png"]
        assert plan(tmp_path, out=f"{tmp_path}/large", suffix="") == ["a.png", "a_x4.png"]
        assert plan(tmp_path / "a.png", f"{tmp_path}/large/../a.png") == ["a.png"]
        (tmp_path / "b_x4.png").touch()  # of nothing that is there
        assert plan(f"{tmp_path}/*.png") == ["a.png", "b_x4.png"]
        with pytest.raises(UserError, match=r"a_x4.png, which is to be enlarged itself"):
            plan(tmp_path / "a.png", tmp_path / "a_x4.png")

    @pytest.mark.parametrize(
        ("inputs", "settings", "message"),
        [
            (["none.png"], {}, "none.png: no such file or folder"),
            ([""], {}, r"no pictures there \(--recursive looks deeper\)"),
            (["a.png", "a.jpg"], {"format": "png"}, r"a.png and .*a.jpg would both become .*png"),
            (["a.png"], {"out": "x.bmp"}, "pictures are written as .png"),
            (["a.png"], {"out": "x.jpg", "format": "png"}, "is not that of --format=png"),
            (["a.png", "a.jpg"], {"out": "x.png"}, "is a file's name: give a folder"),
            (["a.png"], {"suffix": "/../b"}, "is a part of a name"),
        ],
    )
    def test_what_cannot_be_planned(self, tmp_path, inputs, settings, message):
        if inputs != [""]:
            (tmp_path / "a.png").touch()
            (tmp_path / "a.jpg").touch()
        given = {"out": None, "format": "same", "suffix": "_x4", "recursive": False} | settings
        with pytest.raises(UserError, match=message):
            jobs.plan([str(tmp_path / name) for name in inputs], **given)


def spoil(folder: pathlib.Path, photograph) -> dict[str, str]:
    """Files that cannot be enlarged, with what is said of them."""
    Image.fromarray(photograph).save(folder / "whole.jpg")
    Image.fromarray(photograph).save(folder / "whole.png")
    for name in ("whole.jpg", "whole.png"):
        data = (folder / name).read_bytes()
        (folder / f"cut{name[5:]}").write_bytes(data[: len(data) // 2])
        (folder / name).unlink()
    (folder / "zero.png").touch()
    (folder / "text.png").write_text("no picture")
    pyvips.Image.black(4, 4).cast("float").write_to_file(str(folder / "float.tif"))
    pyvips.Image.black(4, 4, bands=7).write_to_file(str(folder / "bands.tif"))
    form = reading.Form(50000, 50000, 1, np.dtype(np.uint8), 1, {}, (1.0, 1.0))
    (folder / "bomb.png").write_bytes(b"".join(writing.as_png(form, iter([]))))
    return {
        "cut.jpg": "cannot be read as a picture",
        "cut.png": "cannot be read as a picture",
        "zero.png": "is empty",
        "text.png": "cannot be read as a picture",
        "float.tif": "samples of type float are not supported",
        "bands.tif": "its 7 channels are no colours",
        "bomb.png": "claims 50000x50000 pixels, more than --max_megapixels=1000",
    }


def test_bad_files_are_told_of_and_the_others_go_on(tmp_path, run, photograph, capfd):
    messages = spoil(tmp_path, photograph)
    Image.fromarray(photograph).save(tmp_path / "good.png")
    with pytest.raises(UserError, match=f"{len(messages)} of {len(messages) + 1} could not be"):
        run(tmp_path, "-o", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["good.png"]
    upscaled = jobs.plan([str(tmp_path)], None, format="same", suffix="_x4", recursive=False)
    for job in upscaled:
        if job.source.name in messages:
            with pytest.raises(UserError, match=messages[job.source.name]) as error:
                run(job.source, "-o", tmp_path / "out/")
            assert str(job.source) in str(error.value)
            assert "\n" not in str(error.value)
    assert os.listdir(tmp_path / "out") == ["good.png"]


def test_formats_that_cannot_hold_it(tmp_path, run, photograph):
    save(tmp_path / "rgba.png", photograph)
    with pytest.raises(UserError, match="has transparency, which jpg cannot hold"):
        run(tmp_path / "rgba.png", "--format=jpg")
    frames = [Image.fromarray(np.roll(photograph, i, 1)) for i in range(2)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="has 2 frames, of which png holds one"):
        run(tmp_path / "two.gif", "--format=png")
    Image.new("L", (5000, 1)).save(tmp_path / "wide.png")
    with pytest.raises(UserError, match="20000x4 is too large for webp, which takes 16383"):
        run(tmp_path / "wide.png", "--format=webp")
    assert sorted(os.listdir(tmp_path)) == ["rgba.png", "two.gif", "wide.png"]


def test_a_result_never_replaces_its_input(tmp_path, run, photograph):
    path = tmp_path / "a.png"
    Image.fromarray(photograph).save(path)
    before = path.read_bytes()
    for arguments in (["-o", path], ["--suffix="], ["-o", tmp_path]):
        with pytest.raises(UserError, match="the result would replace it"):
            run(path, *arguments)
    assert path.read_bytes() == before


@pytest.mark.parametrize("format", writing.FORMATS)
def test_a_disk_that_takes_no_more(tmp_path, run, network, noise, format):
    """By the system's limit on a file's size: nothing is left, and what was there stays."""
    Image.fromarray(noise(40, 40)).save(tmp_path / "a.png")
    result = tmp_path / f"a_x4.{format}"
    result.write_text("as it was")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(UserError, match="cannot be written"):
            run(tmp_path / "a.png", f"--format={format}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result.read_text() == "as it was"
    assert sorted(os.listdir(tmp_path)) == ["a.png", result.name]


def test_large_pictures_are_never_whole_in_memory(tmp_path, network):
    """Rows come out before all have gone in."""
    small = random_network(tmp_path / "x2.safetensors", scale=2, blocks=1, channels=2, kernel=3)
    upscaler = Upscaler(small, devices=1)
    height, width = 4000, 600
    given = 0

    def blocks():
        nonlocal given
        for _ in range(0, height, 100):
            given += 100
            yield np.full((100, width, 3), given % 256, np.uint8)

    most_held, done = 0, 0
    for rows in upscaler.rows(blocks(), height, width, 3, np.uint8):
        most_held = max(most_held, given - done // 2)
        done += len(rows)
    assert done == 2 * height
    assert most_held <= 1500


def start(root, folder, network, *arguments, **env) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "srgan_jax.upscale", *map(str, arguments), f"--weights={network}"],
        cwd=root,
        env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "JAX_PLATFORMS": "cpu"} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_whole_files_only(root, tmp_path, network, number):
    for i in range(20):
        Image.new("RGB", (150, 150), (i, 2 * i, 0)).save(tmp_path / f"{i}.png")
    out = tmp_path / "out"
    process = start(root, tmp_path, network, tmp_path, "-o", out)
    until = time.monotonic() + 60
    while not (out.exists() and any(p.name[0] != "." for p in out.iterdir())):
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "srgan_jax: interrupted" in err
    left = list(out.iterdir())
    assert 0 < len(left) < 20
    for path in left:
        assert pixels(path).shape == (600, 600, 3)
    process = start(root, tmp_path, network, tmp_path, "-o", out, "--skip_existing")
    said, _ = process.communicate(timeout=60)
    assert f"{20 - len(left)} enlarged, {len(left)} there already" in said
    assert len(list(out.iterdir())) == 20


def test_processes_share_the_files(root, tmp_path, network, photograph):
    """Each file once; an error of one keeps the others from nothing."""
    for i in range(5):
        Image.fromarray(photograph).save(tmp_path / f"{i}.png")
    (tmp_path / "bad.png").touch()
    port = free_port()
    processes = [
        start(
            root, tmp_path, network, tmp_path, "-o", tmp_path / "out",
            f"--coordinator_address=localhost:{port}", "--num_processes=2", f"--process_id={i}",
        )
        for i in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=120) for process in processes]
    lines = [line for out, _ in said for line in out.splitlines() if " -> " in line]
    assert len(lines) == 5, said
    assert {len([x for x in out.splitlines() if " -> " in x]) for out, _ in said} == {2, 3}
    assert sorted(os.listdir(tmp_path / "out")) == [f"{i}.png" for i in range(5)]
    assert "5 enlarged (to" in said[0][0]
    assert all("1 of 6 could not be enlarged" in err for _, err in said)
    assert [process.returncode for process in processes] == [2, 2]


@pytest.mark.slow  # JAX takes half a minute to notice that one has gone
def test_a_signal_to_one_of_two_processes(root, tmp_path, network):
    """It ends in good order, as one alone does; the other one notices."""
    for i in range(40):
        Image.new("RGB", (150, 150), (i, 2 * i, 0)).save(tmp_path / f"{i}.png")
    out, port = tmp_path / "out", free_port()
    processes = [
        start(
            root, tmp_path, network, tmp_path, "-o", out,
            f"--coordinator_address=localhost:{port}", "--num_processes=2", f"--process_id={i}",
        )
        for i in range(2)
    ]  # fmt: skip
    until = time.monotonic() + 60
    while not (out.exists() and any(p.name[0] != "." for p in out.iterdir())):
        assert time.monotonic() < until
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    _, err = processes[1].communicate(timeout=60)
    assert processes[1].returncode == 130, err
    processes[0].communicate(timeout=90)
    assert processes[0].returncode == 1
    left = list(out.iterdir())
    assert 0 < len(left) < 40
    for path in left:
        assert pixels(path).shape == (600, 600, 3)


def test_nobody_reads_what_is_said(root, tmp_path, network, photograph):
    for i in range(3):
        Image.fromarray(photograph).save(tmp_path / f"{i}.png")
    process = start(root, tmp_path, network, tmp_path)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 1
    assert "could not be enlarged" not in err


def test_flags_are_read_before_jax_is(root):
    code = "import sys, srgan_jax.upscale.__main__; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_the_command_as_a_user_types_it(root, tmp_path, network):
    process = start(root, tmp_path, network, "--verbosity=-1")
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.count("\n")) == (2, 1)
    assert "say what to enlarge" in err
    for weights, flag, message in (
        ("none", "--sharpness=1", "--weights=none: no such file, and"),
        (network, "--sharpness=0.5", f"--sharpness=0.5: {network} has no 'srgan' in its name"),
        (network, "--sharpness=soft", "flag --sharpness=soft"),
    ):
        process = start(root, tmp_path, weights, "a.png", flag)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2
        assert err.startswith(f"srgan_jax: error: {message}")
        assert err.count("\n") == 1
