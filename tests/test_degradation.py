"""How LR is made of HR: each operation, their order, and what is drawn for each picture."""

import functools
import io
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import skimage.data
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image

from srgan_jax import resample
from srgan_jax.data import jpeg
from srgan_jax.data.degradation import OPERATIONS, Batch, Degradation, dihedral, training_pairs
from srgan_jax.data.degradation import degrade as degrade_one

pytestmark = pytest.mark.usefixtures("quick_compile")


def eager_degrade(how: Degradation, hr: jax.Array, seeds: jax.Array) -> jax.Array:
    """[B, H, W, 3] to [B, h, w, 3], by a seed for each."""
    return jax.vmap(functools.partial(degrade_one, how))(jnp.asarray(hr), jnp.asarray(seeds))


degrade = jax.jit(eager_degrade, static_argnums=0)
compress = jax.jit(jpeg.compress)
CHAIN = Degradation(4, ("blur", "bicubic", "noise", "jpeg"), (0.5, 3.0), (0.0, 10.0), (50, 95))


def seeds_of(count: int, first: int = 0) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.uint32)


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """Eight crops of a photograph, uint8 [8, 32, 32, 3]."""
    photograph = skimage.data.chelsea()
    corners = [(20 * i, 40 * i) for i in range(8)]
    return np.stack([photograph[y : y + 32, x : x + 32] for y, x in corners])


# Pairs


def test_codes_are_the_eight_flips_and_turns(noise):
    image = noise(4, 4)
    ours = [np.asarray(dihedral(jnp.asarray(image), jnp.int32(code))) for code in range(8)]
    theirs = [np.rot90(x, turns) for x in (image, image[:, ::-1]) for turns in range(4)]
    assert {x.tobytes() for x in ours} == {x.tobytes() for x in theirs}
    assert len({x.tobytes() for x in ours}) == 8
    np.testing.assert_array_equal(ours[0], image)
    np.testing.assert_array_equal(ours[1], np.fliplr(image))
    np.testing.assert_array_equal(ours[2], np.flipud(image))
    np.testing.assert_array_equal(ours[4], image.swapaxes(0, 1))


@pytest.mark.parametrize("how", [Degradation(4), CHAIN], ids=["bicubic", "chain"])
def test_pairs_are_of_the_turned_crop_and_in_range(crops, how):
    codes, seeds = np.array([0, 3, 6, 0, 0, 0, 0, 0], np.int32), seeds_of(8)
    batch = Batch(crops, codes, seeds)
    lr_image, hr = jax.jit(training_pairs, static_argnums=0)(how, batch)
    turned = crops.copy()
    turned[1] = np.rot90(crops[1], 2)
    turned[2] = crops[2][::-1].swapaxes(0, 1)
    np.testing.assert_allclose(hr, turned / 127.5 - 1, atol=1e-6)
    shrunk = degrade(how, turned, seeds)
    np.testing.assert_array_equal(shrunk, np.round(shrunk))  # whole levels, as in a file
    assert shrunk.min() >= 0
    assert shrunk.max() <= 255
    np.testing.assert_allclose(lr_image, shrunk / 255, atol=1e-7)
    assert lr_image.shape == (8, 8, 8, 3)
    assert lr_image.dtype == hr.dtype == jnp.float32


# Operations


def test_given_lr_crops_are_turned_like_hr(noise):
    crops = np.stack([noise(16, 16, seed=i) for i in range(8)])
    given = crops[:, ::4, ::4]  # not what any operation would make
    batch = Batch(crops, np.arange(8), np.zeros(8, np.uint32), given)
    lr_image, _ = training_pairs(Degradation(4), batch)
    for code in range(8):
        turned = dihedral(jnp.asarray(given[code]), jnp.int32(code))
        np.testing.assert_allclose(lr_image[code], turned / 255.0, atol=1e-7)


def test_degradations_are_what_they_are_called(noise):
    hr, seeds = noise(16, 24)[None], seeds_of(1)
    bicubic = resample.bicubic(jnp.asarray(hr), Fraction(1, 2), quantise=True)
    np.testing.assert_array_equal(degrade(Degradation(2), hr, seeds), bicubic)
    for name, factor in (("gaussian", 2), ("blur", 1)):
        how = Degradation(2, (name,), blur_sigma=(2.5, 2.5))
        expected = resample.gaussian_downsample(jnp.asarray(hr), factor, 2.5, quantise=True)
        np.testing.assert_array_equal(degrade(how, hr, seeds), expected)
        np.testing.assert_array_equal(degrade(how, hr, seeds + 1), expected)  # nothing is drawn


def test_blur_is_scipys_of_8_bits(crops):
    how = Degradation(operations=("blur",), blur_sigma=(1.3, 1.3))
    found = degrade(how, crops, seeds_of(8))
    blurred = scipy.ndimage.gaussian_filter(
        crops.astype(np.float64), (0, 1.3, 1.3, 0), mode="reflect", truncate=4
    )
    # Rounded after each of two passes.
    np.testing.assert_allclose(found, blurred, atol=1.01)
    assert np.abs(found - blurred).mean() < 0.35


def test_random_blurs_differ_in_width_alone_and_fill_the_range():
    """The slope of a blurred edge is a Gaussian of the same sigma."""
    edge = np.zeros((256, 4, 40, 3), np.uint8)
    edge[:, :, 20:] = 255
    how = Degradation(operations=("blur",), blur_sigma=(0.8, 3.0))
    blurred = np.asarray(degrade(how, edge, seeds_of(256)))
    assert (blurred == blurred[:, :1, :, :1]).all()
    slope = np.diff(blurred[:, 0, :, 0], axis=1) / 255
    at = np.arange(39) - 19.0
    np.testing.assert_allclose(slope.sum(axis=1), 1.0)
    np.testing.assert_allclose((slope * at).sum(axis=1), 0.0, atol=0.1)
    # The derivative of a sampled edge is a box wider; whole levels widen and narrow it a little.
    sigma = np.sqrt((slope * at**2).sum(axis=1))
    assert 0.7 < sigma.min() < 1.0
    assert 2.8 < sigma.max() < 3.1
    np.testing.assert_allclose(np.quantile(sigma, [0.25, 0.5, 0.75]), [1.35, 1.9, 2.45], atol=0.25)


def test_noise_has_the_drawn_deviation_and_is_independent():
    flat = np.full((256, 24, 24, 3), 128, np.uint8)
    fixed = Degradation(operations=("noise",), noise_sigma=(8.0, 8.0))
    added = np.asarray(degrade(fixed, flat, seeds_of(256))) - 128.0
    # 442,368 values; rounding adds 1/12 to the variance.
    assert added.std() == pytest.approx(np.sqrt(64 + 1 / 12), rel=0.01)
    assert abs(added.mean()) < 0.06
    neighbours = {
        "picture": (added[1:], added[:-1]),
        "row": (added[:, 1:], added[:, :-1]),
        "column": (added[:, :, 1:], added[:, :, :-1]),
        "channel": (added[..., 1:], added[..., :-1]),
    }
    for name, (a, b) in neighbours.items():
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.01, name

    drawn = Degradation(operations=("noise",), noise_sigma=(0.0, 20.0))
    deviations = (np.asarray(degrade(drawn, flat, seeds_of(256))) - 128.0).std(axis=(1, 2, 3))
    assert deviations.min() < 0.5
    assert 19 < deviations.max() < 21.5
    quarters = np.quantile(deviations, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quarters, [5, 10, 15], atol=2.0)


def test_noise_stays_in_range():
    dark_and_bright = np.repeat(np.array([0, 255], np.uint8), 8 * 8 * 3).reshape(2, 8, 8, 3)
    how = Degradation(operations=("noise",), noise_sigma=(50.0, 50.0))
    found = np.asarray(degrade(how, dark_and_bright, seeds_of(2)))
    assert found.min() == 0
    assert found.max() == 255
    assert (found[0] > 0).any()
    assert (found[1] < 255).any()


def test_every_quality_of_the_range_is_drawn(crops):
    """Both ends too; each picture is what its quality makes of it."""
    same = np.repeat(crops[:1], 64, axis=0)
    found = degrade(Degradation(operations=("jpeg",), jpeg_quality=(20, 22)), same, seeds_of(64))
    expected = {q: np.asarray(compress(crops[0], q)) for q in (20, 21, 22)}
    drawn = [[q for q in expected if (expected[q] == picture).all()] for picture in found]
    assert {tuple(qualities) for qualities in drawn} == {(20,), (21,), (22,)}


# The chain


def test_the_order_matters(crops):
    def found(*operations) -> np.ndarray:
        fixed = {"blur_sigma": (1.5, 1.5), "noise_sigma": (20.0, 20.0)}
        return np.asarray(degrade(Degradation(4, operations, **fixed), crops, seeds_of(8)))

    assert found("blur", "bicubic").shape == found("bicubic", "blur").shape == (8, 8, 8, 3)
    # Before the shrinking a blur of 1.5 pixels does little, after it much.
    sharp = found("bicubic")
    before, after = found("blur", "bicubic"), found("bicubic", "blur")
    assert 0 < np.abs(before - sharp).mean() < 0.7 * np.abs(after - sharp).mean()
    # Shrinking averages noise out.
    before, after = found("noise", "bicubic"), found("bicubic", "noise")
    assert (before - sharp).std() < 0.5 * (after - sharp).std()


def test_equal_operations_draw_apart():
    flat = np.full((1, 16, 16, 3), 128, np.uint8)
    fixed = {"noise_sigma": (10.0, 10.0)}
    once, twice = (
        np.asarray(degrade(Degradation(operations=names, **fixed), flat, seeds_of(1))) - 128.0
        for names in (("noise",), ("noise", "noise"))
    )
    assert (twice - once).std() == pytest.approx(10, rel=0.1)
    assert abs(np.corrcoef(once.ravel(), (twice - once).ravel())[0, 1]) < 0.15


def test_a_picture_depends_on_its_seed_alone(crops):
    seeds = seeds_of(8, first=2**32 - 8)
    found = np.asarray(degrade(CHAIN, crops, seeds))
    np.testing.assert_array_equal(found, degrade(CHAIN, crops, seeds))
    turned = [3, 0, 7, 1, 6, 2, 5, 4]
    np.testing.assert_array_equal(found[turned], degrade(CHAIN, crops[turned], seeds[turned]))
    others = np.repeat(crops[:1], 8, axis=0)  # one seed, whatever its company
    np.testing.assert_array_equal(found[0], degrade(CHAIN, others, seeds)[0])
    alike = np.asarray(degrade(CHAIN, others, np.repeat(seeds[:1], 8)))
    assert (alike == alike[:1]).all()
    apart = np.asarray(degrade(CHAIN, others, seeds))
    assert len({picture.tobytes() for picture in apart}) == 8


def test_eight_devices_draw_what_one_draws(crops):
    seeds = seeds_of(8)
    split = NamedSharding(Mesh(np.array(jax.devices()), ("devices",)), PartitionSpec("devices"))
    arguments = jax.device_put((crops, seeds), split)
    program = jax.jit(eager_degrade, static_argnums=0).lower(CHAIN, *arguments).compile()
    for exchange in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert exchange not in program.as_text()
    found = program(*arguments)
    assert found.sharding.is_equivalent_to(split, 4)
    # Rounding of sums may put a pixel on the next level.
    difference = np.abs(np.asarray(found) - np.asarray(degrade(CHAIN, crops, seeds)))
    assert (difference > 0).mean() < 0.01


def test_every_operation_keeps_whole_levels(crops):
    for name in OPERATIONS:
        found = np.asarray(degrade(Degradation(2, (name,)), crops, seeds_of(8)))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, np.clip(np.round(found), 0, 255), err_msg=name)


# JPEG


def pillows(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file)).astype(np.float32)


PHOTOGRAPHS = {
    "whole units": lambda: skimage.data.astronaut()[:128, 100:260],
    "odd": lambda: skimage.data.chelsea()[100:201, 150:283],
    "crop": lambda: skimage.data.chelsea()[100:124, 150:174],
    "even": lambda: skimage.data.astronaut()[37:75, 100:174],
}


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_jpeg_is_pillows(name):
    """Measured: means up to 0.13 levels, up to 0.7 % of the pixels off by more than 2."""
    image = PHOTOGRAPHS[name]()
    for quality in (10, 50, 90):
        found = np.asarray(compress(image, jnp.int32(quality)))
        theirs = pillows(image, quality)
        difference = np.abs(found - theirs)
        assert difference.mean() < 0.2, quality
        assert (difference > 2).mean() < 0.01, quality
        if quality == 10:  # few coefficients are left, so that all else is seen to be exact
            assert (difference > 0).mean() < 0.02
        assert np.abs(image - theirs).mean() > 1.5  # what JPEG does is much more


@pytest.mark.parametrize("width", range(1, 8))
def test_jpeg_of_narrow_pictures_is_pillows(width):
    image = skimage.data.astronaut()[5:26, 218 : 218 + width]  # where colours change
    difference = np.abs(np.asarray(compress(image, jnp.int32(10))) - pillows(image, 10))
    assert (difference > 1).mean() < 0.02


def test_jpegs_tables_are_pillows():
    for quality in (1, 10, 49, 50, 51, 75, 90, 99, 100):
        file = io.BytesIO()
        Image.new("RGB", (16, 16)).save(file, "JPEG", quality=quality)
        theirs = Image.open(file).quantization
        for place, table in enumerate((jpeg.LUMA_TABLE, jpeg.CHROMA_TABLE)):
            found = np.asarray(jpeg.quantisation(table, quality)).ravel()
            assert found.tolist() == list(theirs[place]), quality


def test_gray_stays_gray():
    gray = np.repeat(skimage.data.camera()[100:124, 200:224, None], 3, axis=2)
    found = np.asarray(compress(gray, jnp.int32(50)))
    assert (found == found[..., :1]).all()
