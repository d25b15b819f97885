"""Which crops make a batch, how they are cut, turned, and made into training pairs."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srgan_jax import resample, rng
from srgan_jax.data import sampling
from srgan_jax.data.batches import Batches
from srgan_jax.data.degradation import Degradation, degrade, dihedral, training_pairs
from srgan_jax.data.sources import Pictures

pytestmark = pytest.mark.usefixtures("quick_compile")

KEY = rng.stream(0, "crops")


def plan(number: int, sizes, *, key=KEY, batch_size: int = 4, crop: int = 8):
    """One batch's crops as NumPy, of pictures of these (height, width)."""
    heights, widths = (jnp.array(side, jnp.int32) for side in zip(*sizes, strict=True))
    result = sampling.plan_crops(
        key, jnp.int32(number), heights, widths, batch_size=batch_size, crop=crop
    )
    return sampling.CropPlan(*map(np.asarray, result))


def picked(numbers, pictures: int, batch_size: int) -> list[list[int]]:
    sizes = [(8, 8)] * pictures
    return [plan(n, sizes, batch_size=batch_size).picture.tolist() for n in numbers]


# Streams


def test_streams_are_named_and_repeatable():
    def draw(seed: int, name: str) -> float:
        return float(jax.random.uniform(rng.stream(seed, name)))

    assert draw(0, "crops") == draw(0, "crops")
    others = [(0, "generator"), (1, "crops"), (0, "discriminator")]
    assert len({draw(0, "crops"), *(draw(*other) for other in others)}) == 4


# Plans


def test_a_plan_is_a_function_of_key_and_number():
    sizes = [(20, 30)] * 6
    forwards = [plan(n, sizes) for n in range(5)]
    for number, expected in reversed(list(enumerate(forwards))):
        again = plan(number, sizes)
        assert all((a == b).all() for a, b in zip(again, expected, strict=True))
    elsewhere = plan(0, sizes, key=rng.stream(1, "crops"))
    assert any((a != b).any() for a, b in zip(elsewhere, forwards[0], strict=True))
    for a, b in itertools.combinations(forwards, 2):
        assert (a.top != b.top).any() or (a.left != b.left).any()


@pytest.mark.parametrize(("pictures", "batch_size"), [(12, 4), (13, 4), (5, 5), (7, 1)])
def test_an_epoch_shows_no_picture_twice(pictures, batch_size):
    per_epoch = pictures // batch_size
    assert sampling.steps_per_epoch(pictures, batch_size) == per_epoch
    epochs = []
    for epoch in range(4):
        numbers = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        shown = list(itertools.chain(*picked(numbers, pictures, batch_size)))
        assert len(set(shown)) == len(shown) == per_epoch * batch_size
        assert set(shown) <= set(range(pictures))
        epochs.append(tuple(shown))
    assert len(set(epochs)) == 4  # each in an order of its own


def test_what_one_epoch_leaves_out_another_shows():
    shown = picked(range(60), 5, 4)  # one batch an epoch leaves out one picture
    assert set(itertools.chain(*shown)) == set(range(5))
    left_out = {next(iter(set(range(5)) - set(batch))) for batch in shown}
    assert left_out == set(range(5))


@pytest.mark.parametrize(("pictures", "batch_size"), [(3, 8), (1, 4), (4, 8), (5, 6)])
def test_few_pictures_are_shown_alike_often(pictures, batch_size):
    for batch in picked(range(6), pictures, batch_size):
        counts = collections.Counter(batch)
        assert set(counts) == set(range(pictures))
        assert max(counts.values()) - min(counts.values()) <= 1
    assert sampling.steps_per_epoch(pictures, batch_size) == pictures / batch_size


def test_crops_reach_every_position_and_no_further():
    sizes = [(8, 8), (10, 8), (8, 11), (10, 10)]
    seen = collections.defaultdict(set)
    for number in range(200):
        picture, top, left, _ = plan(number, sizes)
        for i, y, x in zip(picture, top, left, strict=True):
            seen[i].add((y, x))
    for i, (height, width) in enumerate(sizes):
        assert seen[i] == set(itertools.product(range(height - 7), range(width - 7)))


def test_all_eight_codes_come_up_alike():
    counts = collections.Counter(
        code for number in range(200) for code in plan(number, [(8, 8)] * 4).code.tolist()
    )
    assert set(counts) == set(range(8))
    assert all(60 < count < 140 for count in counts.values())  # of 800


# Batches


@pytest.fixture(scope="module")
def pictures(noise) -> Pictures:
    sizes = [(20, 24), (9, 40), (33, 8), (8, 8), (15, 16)]
    images = tuple(noise(height, width) for height, width in sizes)
    return Pictures(tuple(map(str, range(5))), images, "")


def test_batches_are_the_planned_slices(pictures):
    batches = Batches(pictures, key=KEY, batch_size=4, crop=8)
    for number in (0, 7, 3):
        result = batches(number)
        assert result.crops.shape == (4, 8, 8, 3)
        assert result.crops.dtype == np.uint8
        expected = plan(number, [image.shape[:2] for image in pictures.images])
        np.testing.assert_array_equal(result.codes, expected.code)
        for crop, i, y, x in zip(result.crops, *expected[:3], strict=True):
            np.testing.assert_array_equal(crop, pictures.images[i][y : y + 8, x : x + 8])


def test_several_batches_are_one_after_the_other(pictures):
    batches = Batches(pictures, key=KEY, batch_size=2, crop=8)
    together, apart = batches(3, 3), [batches(number) for number in (3, 4, 5)]
    assert together.crops.shape == (6, 8, 8, 3)
    np.testing.assert_array_equal(together.crops, np.concatenate([b.crops for b in apart]))
    np.testing.assert_array_equal(together.codes, np.concatenate([b.codes for b in apart]))


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


@pytest.mark.parametrize("kind", ["bicubic", "gaussian"])
def test_pairs_are_of_the_turned_crop_and_in_range(noise, kind):
    crops, codes = np.stack([noise(16, 16, seed=i) for i in range(3)]), jnp.array([0, 3, 6])
    how = Degradation(scale=4, kind=kind)
    lr_image, hr = training_pairs(how, jnp.asarray(crops), codes)
    turned = np.stack([crops[0], np.rot90(crops[1], 2), crops[2][::-1].swapaxes(0, 1)])
    np.testing.assert_allclose(hr, turned / 127.5 - 1, atol=1e-6)
    shrunk = degrade(how, jnp.asarray(turned))
    np.testing.assert_array_equal(shrunk, np.round(shrunk))  # whole levels, as in a file
    np.testing.assert_allclose(lr_image, shrunk / 255, atol=1e-7)
    assert lr_image.shape == (3, 4, 4, 3)
    assert lr_image.dtype == hr.dtype == jnp.float32


def test_degradations_are_what_they_are_called(noise):
    hr = jnp.asarray(noise(16, 24))
    bicubic = resample.bicubic(hr, resample.Fraction(1, 2), quantise=True)
    np.testing.assert_array_equal(degrade(Degradation(2), hr), bicubic)
    gaussian = resample.gaussian_downsample(hr, 2, 2.5, quantise=True)
    np.testing.assert_array_equal(degrade(Degradation(2, "gaussian", 2.5), hr), gaussian)
    with pytest.raises(ValueError, match="unknown degradation 'nearest'"):
        degrade(Degradation(2, "nearest"), hr)
