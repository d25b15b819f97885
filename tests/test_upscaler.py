"""`Upscaler`: tiles against the whole, all kinds of pictures, resampling, turns, transparency."""

import threading
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import srgan_jax
from srgan_jax import files, resample, weights
from srgan_jax.errors import UserError
from srgan_jax.evaluate import methods
from srgan_jax.models.generator import Generator
from srgan_jax.state import Variables
from srgan_jax.upscale import alpha, engine, interpolation
from srgan_jax.upscale import network as programs
from srgan_jax.upscale.upscaler import Upscaler

pytestmark = pytest.mark.usefixtures("quick_compile")


def random_network(path, seed=0, **switches):
    """A network whose every parameter and statistic matters, in a file."""
    generator = Generator(**{"blocks": 2, "channels": 8} | switches)
    form = jax.eval_shape(
        lambda: generator.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
    )
    rng = np.random.default_rng(seed)

    def fill(shape):
        spread = 1 / np.sqrt(max(np.prod(shape.shape[:-1]), 1)) if len(shape.shape) > 1 else 0.1
        return rng.normal(0.0, spread, shape.shape).astype(np.float32)

    params = jax.tree.map(fill, form["params"])
    statistics = {
        name: {"mean": fill(both["mean"]), "var": 0.5 + np.abs(fill(both["var"]))}
        for name, both in form.get("batch_stats", {}).items()
    }
    for name in statistics:
        params[name]["scale"] += 1
    weights.save_generator(path, generator, Variables(params, statistics), {})
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return random_network(tmp_path_factory.mktemp("network") / "small.safetensors")


@pytest.fixture(scope="module")
def photograph():
    """uint8 [70, 90, 3], with smooth parts and edges."""
    import skimage.data

    return np.asarray(Image.fromarray(skimage.data.astronaut()).resize((90, 70)))


def with_alpha(picture):
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    hole = np.clip((x - 30) ** 2 + (y - 30) ** 2 - 200, 0, 255)
    return np.dstack([picture, hole.astype(picture.dtype)])


def test_one_window_is_the_network(network, photograph):
    exported = weights.load_generator(network)
    expected = methods.super_resolve(exported.generator, exported.variables, photograph[None])[0]
    sr = Upscaler(network, devices=1)(photograph)
    difference = np.abs(sr.astype(int) - np.asarray(expected))
    assert sr.dtype == np.uint8
    assert sr.std() > 10
    # BatchNorm is in the convolutions: rounding differs, so rarely a level.
    assert difference.max() <= 1
    assert difference.mean() < 1e-3


KINDS = [
    {},
    {"base": "bicubic", "input": "imagenet", "upsample": "nearest", "hr_conv": True},
    {"base": "bilinear", "scale": 2, "kernel": 3, "norm": "none", "prelu": "channel"},
    {"scale": 3, "mid": "prelu", "output": "tanh"},
    {"mid": "none", "activation": "swish", "scale": 8},
    {"upsample": "direct", "base": "bicubic", "kernel": 3, "norm": "none"},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_tiles_give_the_bytes_of_the_whole(tmp_path, photograph, kind):
    path = random_network(tmp_path / "network.safetensors", **{"blocks": 1} | kind)
    whole = Upscaler(path, devices=1)(photograph)
    assert whole.shape[0] == 70 * kind.get("scale", 4)
    # REACH counts in the smallest tile, see below, so that it is the same for all pictures.
    tiled = Upscaler(path, devices=1, tile=68)(photograph)
    np.testing.assert_array_equal(tiled, whole)


@pytest.mark.parametrize("setting", [{}, {"scale": "5/2"}, {"tileable": True}], ids=str)
@pytest.mark.parametrize("kind", ["gray", "rgba", "gray_alpha", "deep", "float"])
def test_every_kind_of_picture_is_equal_in_tiles(network, photograph, kind, setting):
    picture = {
        "gray": photograph[:, :, 1],
        "rgba": with_alpha(photograph),
        "gray_alpha": with_alpha(photograph[:, :, :1]),
        "deep": photograph.astype(np.uint16) * 257,
        "float": photograph.astype(np.float32) / 255,
    }[kind]
    whole = Upscaler(network, devices=1, **setting)(picture)
    assert whole.dtype == picture.dtype
    assert whole.ndim == picture.ndim
    scale = Fraction(setting.get("scale", 4))
    assert whole.shape[:2] == (70 * scale, 90 * scale)
    np.testing.assert_array_equal(Upscaler(network, devices=2, tile=80, **setting)(picture), whole)


def test_depths_agree(network, photograph):
    upscaler = Upscaler(network, devices=1)
    eight = upscaler(photograph).astype(float)
    sixteen = upscaler(photograph.astype(np.uint16) * 257) / 257
    unit = upscaler(photograph.astype(np.float32) / 255) * 255.0
    assert np.abs(sixteen - eight).max() <= 0.51
    assert np.abs(sixteen - unit).max() <= 0.01
    assert len(np.unique(np.round(sixteen * 257) % 257)) > 100  # its low bits say something


def test_gray_is_the_luma_of_colour(network, photograph):
    upscaler = Upscaler(network, devices=1)
    gray = photograph[:, :, 0]
    color = upscaler(np.dstack([gray] * 3)).astype(float)
    assert np.abs(color @ [0.299, 0.587, 0.114] - upscaler(gray)).max() <= 1.01


def test_a_batch_is_its_pictures(network, photograph):
    upscaler = Upscaler(network, devices=1)
    both = np.stack([photograph, photograph[::-1]])
    np.testing.assert_array_equal(upscaler(both)[1], upscaler(both[1]))


def test_devices_and_threads_share_the_tiles(network, photograph):
    upscaler = Upscaler(network, tile=80)
    assert jax.device_count() == 8
    expected = Upscaler(network, devices=1)(photograph)
    found = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: upscaler(photograph)}))
        for i in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for sr in found.values():
        np.testing.assert_array_equal(sr, expected)


def test_a_size_is_compiled_once(network, photograph):
    upscaler = Upscaler(network, devices=1, tile=80)
    pictures = photograph, np.tile(photograph, (2, 2, 1))  # smaller than a tile, and larger
    for picture in pictures:
        upscaler(picture)
    compiled = programs.features_of._cache_size(), programs.enlarge._cache_size()
    for picture in (*pictures, np.tile(photograph, (3, 2, 1))):
        upscaler(picture)
    assert (programs.features_of._cache_size(), programs.enlarge._cache_size()) == compiled


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2), (17, 16)])
def test_tiny_pictures(network, photograph, size):
    exported = weights.load_generator(network)
    picture = photograph[: size[0], : size[1]]
    expected = methods.super_resolve(exported.generator, exported.variables, picture[None])[0]
    sr = Upscaler(network, devices=1)(picture)
    assert np.abs(sr.astype(int) - np.asarray(expected)).max() <= 1


def test_other_scales_are_resampled_exactly(network, photograph):
    unit = photograph.astype(np.float32) / 255
    sr = Upscaler(network, devices=1)(unit)
    for scale in (Fraction(2), Fraction(5, 2), Fraction(6)):
        expected = np.clip(resample.bicubic(jnp.asarray(sr), scale / 4, quantise=False), 0, 1)
        found = Upscaler(network, devices=1, scale=scale, tile=80)(unit)
        assert found.shape == expected.shape == (70 * scale, 90 * scale, 3)
        assert np.abs(found - expected).max() < 1e-5


def test_rows_are_resampled_as_the_whole():
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(37, 23, 2)).astype(np.float32)
    for scale in (Fraction(1, 2), Fraction(5, 8), Fraction(3, 2), Fraction(1, 7)):
        expected = resample.bicubic(jnp.asarray(image), scale, quantise=False)
        for rows in (1, 5, 37):
            blocks = (image[i : i + rows] for i in range(0, 37, rows))
            found = np.concatenate(list(resample.bicubic_rows(blocks, 37, 23, scale)))
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() < 1e-5


def test_a_seamless_texture_stays_seamless(network, photograph):
    """Where the borders are, must not matter: enlarged and shifted is shifted and enlarged."""
    for scale in (4, 2):
        upscaler = Upscaler(network, devices=1, tileable=True, scale=scale)
        shifted = np.roll(photograph, (31, -44), (0, 1))
        expected = np.roll(upscaler(photograph), (31 * scale, -44 * scale), (0, 1))
        np.testing.assert_array_equal(upscaler(shifted), expected)
        other = Upscaler(network, devices=1, scale=scale)
        assert (other(shifted) != expected).mean() > 0.01
        hole = with_alpha(photograph)
        hole[:9, :, 3] = 0  # colours grow into it over the border
        moved = upscaler(np.roll(hole, (31, -44), (0, 1)))
        expected = np.roll(upscaler(hole), (31 * scale, -44 * scale), (0, 1))
        np.testing.assert_array_equal(moved, expected)
    with pytest.raises(UserError, match=r"90x70, 2\.35 times larger, would end within a pixel"):
        Upscaler(network, devices=1, tileable=True, scale=2.35)(photograph)


def test_the_ensemble_is_the_mean_over_turns(network, photograph):
    unit = photograph.astype(np.float32) / 255
    upscaler = Upscaler(network, devices=1)
    turned = []
    for quarters in range(4):
        for flip in (lambda x: x, np.fliplr):
            sr = upscaler(np.ascontiguousarray(flip(np.rot90(unit, quarters))))
            turned.append(np.rot90(flip(sr), -quarters))
    found = Upscaler(network, devices=1, self_ensemble=True, tile=80)(unit)
    assert np.abs(found - np.mean(turned, axis=0)).max() < 1e-5
    assert np.abs(found - turned[0]).max() > 1e-3


def test_bfloat16_is_near(network, photograph):
    exact = Upscaler(network, devices=1)(photograph).astype(float)
    fast = Upscaler(network, devices=1, dtype="bfloat16")(photograph)
    assert 0.05 < np.sqrt(((fast - exact) ** 2).mean()) < 3


class TestSharpness:
    @pytest.fixture
    def pair(self, tmp_path):
        """An SRGAN's file, with its SRResNet beside it; both with BatchNorm."""
        paths = [tmp_path / f"{name}_best.safetensors" for name in ("srresnet", "srgan")]
        for seed, path in enumerate(paths):
            random_network(path, seed, blocks=1)
        return paths

    def test_at_its_ends_it_is_the_networks(self, pair, photograph):
        smooth, sharp = (Upscaler(path, devices=1)(photograph) for path in pair)
        assert (smooth != sharp).mean() > 0.5
        np.testing.assert_array_equal(Upscaler(pair[1], sharpness=0, devices=1)(photograph), smooth)
        np.testing.assert_array_equal(Upscaler(pair[1], sharpness=1, devices=1)(photograph), sharp)
        middle = Upscaler(pair[1], sharpness=0.5, devices=1)(photograph)
        assert (middle != smooth).mean() > 0.5
        assert (middle != sharp).mean() > 0.5

    def test_parameters_are_on_the_line_between(self):
        srresnet = Variables({"a": {"kernel": np.float32([0, -2])}}, {})
        srgan = Variables({"a": {"kernel": np.float32([4, 6])}}, {})
        for sharpness, expected in ((0, [0, -2]), (0.25, [1, 0]), (0.5, [2, 2]), (1, [4, 6])):
            found = interpolation.interpolate(srresnet, srgan, sharpness)
            np.testing.assert_array_equal(found.params["a"]["kernel"], np.float32(expected))
            assert found.params["a"]["kernel"].dtype == np.float32

    def test_between_are_those_without_batch_norm(self, pair):
        exported = [weights.load_generator(path) for path in pair]
        folded = [programs.fold(each.generator, each.variables)[1].params for each in exported]
        loaded = interpolation.load(pair[1], 0.5)
        assert loaded.generator == exported[0].generator.clone(norm="none")
        jax.tree.map(
            lambda found, a, b: np.testing.assert_allclose(
                found, (a + b) / 2, rtol=1e-6, atol=1e-7
            ),
            loaded.variables.params,
            *folded,
        )

    def test_results_depend_on_it_and_on_both_files(self, pair):
        srresnet, srgan = map(files.sha256, pair)
        for sharpness, digests in ((1, [srgan]), (0.5, [srgan, srresnet]), (0, [srgan, srresnet])):
            settings = Upscaler(pair[1], sharpness=sharpness).settings
            assert (settings["sharpness"], settings["weights"]) == (sharpness, digests)

    @pytest.mark.parametrize("sharpness", [-0.1, 1.1, float("nan"), float("inf")])
    def test_it_is_from_0_to_1(self, pair, sharpness):
        with pytest.raises(UserError, match=f"^sharpness={sharpness}: not from 0 to 1"):
            Upscaler(pair[1], sharpness=sharpness)

    def test_networks_that_do_not_go_together(self, pair):
        srresnet, srgan = pair
        with pytest.raises(UserError, match=r"^sharpness=0: .* has no 'srgan' in its name"):
            Upscaler(srresnet, sharpness=0)
        random_network(srresnet, blocks=2, mid="none")
        with pytest.raises(
            UserError, match=r"architecture than srgan_best.*: blocks=2, not 1; mid=none, not norm$"
        ):
            Upscaler(srgan, sharpness=0.5)
        srresnet.unlink()
        with pytest.raises(UserError, match=f"^sharpness=0.5: {srresnet} is not there"):
            Upscaler(srgan, sharpness=0.5)
        Upscaler(srgan)  # which needs no other


class TestAlpha:
    def test_what_is_opaque_or_hidden_stays_so(self, network, photograph):
        picture = with_alpha(photograph)
        sr = Upscaler(network, devices=1)(picture)
        inner = np.asarray(Image.fromarray(picture[:, :, 3]).resize((360, 280), 0))
        opaque = picture[:, :, 3] == 255
        far = opaque.copy()
        for i in (-2, -1, 0, 1, 2):
            for j in (-2, -1, 0, 1, 2):
                far &= np.roll(opaque, (i, j), (0, 1))
        assert (sr[:, :, 3][far.repeat(4, 0).repeat(4, 1)] == 255).all()
        assert sr[116:124, 116:124, 3].max() == 0
        assert np.abs(sr[:, :, 3].astype(float) - inner).mean() < 8

    def test_hidden_colours_do_not_count(self, network, photograph):
        picture = with_alpha(photograph)
        hidden = picture[:, :, 3] == 0
        other = picture.copy()
        other[hidden, :3] = (255, 0, 255)
        upscaler = Upscaler(network, devices=1)
        np.testing.assert_array_equal(upscaler(other), upscaler(picture))
        as_data = Upscaler(network, devices=1, alpha="data")
        assert (as_data(other) != as_data(picture)).any()
        plain = Upscaler(network, devices=1)(other[:, :, :3])
        np.testing.assert_array_equal(as_data(other)[:, :, :3], plain)

    def test_an_opaque_picture_is_as_without(self, network, photograph):
        opaque = np.dstack([photograph, np.full(photograph.shape[:2], 255, np.uint8)])
        upscaler = Upscaler(network, devices=1)
        np.testing.assert_array_equal(upscaler(opaque)[:, :, :3], upscaler(photograph))
        assert (upscaler(opaque)[:, :, 3] == 255).all()

    def test_colours_grow_from_pixel_to_pixel(self):
        color = np.zeros((5, 50, 1), np.float32)
        color[:, :10] = 0.75
        seen = np.zeros((5, 50))
        seen[:, :10] = 0.1
        filled = alpha.fill_hidden(color, seen)
        np.testing.assert_allclose(filled[:, : 10 + alpha.REACH], 0.75, rtol=1e-6)
        np.testing.assert_array_equal(filled[:, 10 + alpha.REACH :], 0.5)
        np.testing.assert_array_equal(alpha.fill_hidden(color, np.zeros((5, 50))), 0.5)


class TestPillow:
    @pytest.mark.parametrize(
        ("mode", "expected"),
        [("L", "L"), ("1", "L"), ("LA", "LA"), ("P", "RGB"), ("RGBA", "RGBA"), ("CMYK", "RGB")],
    )
    def test_modes(self, network, photograph, mode, expected):
        image = Image.fromarray(photograph).convert(mode)
        large = Upscaler(network, devices=1)(image)
        assert large.mode == expected
        assert large.size == (360, 280)

    def test_sixteen_bits(self, network, photograph):
        image = Image.fromarray(photograph[:, :, 0].astype(np.uint16) * 257)
        assert image.mode == "I;16"
        assert Upscaler(network, devices=1)(image).mode == "I;16"

    def test_what_has_no_levels_is_refused(self, network):
        for mode in ("I", "F"):
            with pytest.raises(UserError, match=f"Pillow mode '{mode}' is not supported"):
                Upscaler(network, devices=1)(Image.new(mode, (8, 8)))

    def test_it_is_turned_and_keeps_its_profile(self, network, photograph, tmp_path):
        exif = Image.Exif()
        exif[274] = 6
        Image.fromarray(photograph).save(tmp_path / "a.png", exif=exif, icc_profile=b"profile")
        with Image.open(tmp_path / "a.png") as image:
            large = Upscaler(network, devices=1)(image)
        assert large.size == (280, 360)
        assert large.info["icc_profile"] == b"profile"
        assert large.getexif().get(274, 1) == 1


class TestMemory:
    def test_a_window_that_does_not_fit_is_divided(self, network, photograph, monkeypatch):
        """As where the device says that its memory is short, which a CPU's never is."""
        expected = Upscaler(network, devices=1)(photograph)
        upscaler = Upscaler(network, devices=1)
        whole, sizes = engine.Engine._whole, []

        def short(self, device, piece, *others):
            sizes.append(piece.pixels.shape[:2])
            if piece.pixels.shape[0] * piece.pixels.shape[1] > 3000:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
            return whole(self, device, piece, *others)

        monkeypatch.setattr(engine.Engine, "_whole", short)
        np.testing.assert_array_equal(upscaler(photograph), expected)
        assert min(high * wide for high, wide in sizes) <= 3000
        sizes.clear()
        np.testing.assert_array_equal(upscaler(photograph), expected)
        assert max(high * wide for high, wide in sizes) < 70 * 90  # it has learned

    def test_too_little_for_the_smallest_ends(self, network, photograph, monkeypatch):
        def short(*arguments):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")

        monkeypatch.setattr(engine.Engine, "_whole", short)
        with pytest.raises(UserError, match="out of memory, also for a tile of"):
            Upscaler(network, devices=1)(photograph)

    def test_other_errors_are_not_hidden(self, network, photograph, monkeypatch):
        def broken(*arguments):
            raise jax.errors.JaxRuntimeError("INTERNAL: no")

        monkeypatch.setattr(engine.Engine, "_whole", broken)
        with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
            Upscaler(network, devices=1)(photograph)


class TestErrors:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"scale": "big"}, "scale=big: not a number"),
            ({"scale": "1/0"}, "scale=1/0: not a number"),
            ({"scale": 0.5}, "scale=0.5: not from 1 to 16"),
            ({"tile": 40}, "tile=40: has to be auto, or a number of LR pixels from"),
            ({"dtype": "float16"}, "dtype=float16: not one of auto"),
            ({"alpha": "no"}, "alpha=no: not one of transparency"),
            ({"devices": 9}, "devices=9: has to be all, or a number from 1 to 8"),
        ],
    )
    def test_settings(self, network, settings, message):
        with pytest.raises(UserError, match=message):
            Upscaler(network, **settings)

    @pytest.mark.parametrize(
        "picture",
        [
            np.zeros((3, 3, 5), np.uint8),
            np.zeros((0, 3, 3), np.uint8),
            np.zeros(3),
            "small.png",
            np.full((3, 3, 3), 200, np.float32),
            np.full((3, 3, 3), np.nan, np.float32),
        ],
    )
    def test_what_is_no_picture(self, network, picture):
        with pytest.raises(ValueError, match=r"a picture (is|of)"):
            Upscaler(network, devices=1)(picture)

    def test_rows_that_do_not_come(self, network, photograph):
        with pytest.raises(ValueError, match="rows of"):
            list(Upscaler(network, devices=1).rows([photograph], 71, 90, 3, np.uint8))


def test_it_is_where_one_looks_for_it():
    assert srgan_jax.Upscaler is Upscaler
    with pytest.raises(AttributeError, match="no attribute 'Upscalar'"):
        _ = srgan_jax.Upscalar
