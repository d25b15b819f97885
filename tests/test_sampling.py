"""Which crops make up a batch."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srgan_jax import rng
from srgan_jax.data import sampling
from srgan_jax.data.sampling import Sampling

pytestmark = pytest.mark.usefixtures("quick_compile")

KEY = rng.stream(0, "crops")


def table(sizes, uniform_over: str = "pictures", crop: int = 8) -> sampling.Sizes:
    heights, widths = (np.array(side, np.int32) for side in zip(*sizes, strict=True))
    return sampling.tabulate(heights, widths, uniform_over=uniform_over, crop=crop)


def plan(number: int, sizes, *, key=KEY, batch_size: int = 4, crop: int = 8, **settings):
    """One batch's crops as NumPy, of pictures of these (height, width)."""
    made = table(sizes, settings.pop("uniform_over", "pictures"), crop)
    how = Sampling(batch_size, crop, int(made.last_cell[-1]), **settings)
    result = sampling.plan_crops(how, key, jnp.int32(number), made)
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
    assert Sampling(batch_size, 8, pictures).steps_per_epoch == per_epoch
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
    assert Sampling(batch_size, 8, pictures).steps_per_epoch == pictures / batch_size


def test_crops_reach_every_position_and_no_further():
    sizes = [(8, 8), (10, 8), (8, 11), (10, 10)]
    seen = collections.defaultdict(set)
    for number in range(200):
        drawn = plan(number, sizes)
        for i, y, x in zip(drawn.picture, drawn.top[:, 0], drawn.left[:, 0], strict=True):
            seen[i].add((y, x))
    for i, (height, width) in enumerate(sizes):
        assert seen[i] == set(itertools.product(range(height - 7), range(width - 7)))


def test_all_eight_codes_come_up_alike():
    counts = collections.Counter(
        code for number in range(200) for code in plan(number, [(8, 8)] * 4).code.tolist()
    )
    assert set(counts) == set(range(8))
    assert all(60 < count < 140 for count in counts.values())  # of 800


def test_seeds_differ():
    drawn = [seed for number in range(50) for seed in plan(number, [(8, 8)] * 4).seed.tolist()]
    assert len(set(drawn)) == len(drawn)
    assert min(drawn) < 2**29 and max(drawn) > 2**32 - 2**29  # noqa: PT018


def test_given_lr_pictures_keep_crops_on_their_pixels():
    drawn = [plan(number, [(19, 12), (16, 8)], batch_size=2, grid=4) for number in range(60)]
    tops, lefts = (np.stack([getattr(d, side) for d in drawn])[..., 0] for side in ("top", "left"))
    pictures = np.stack([d.picture for d in drawn])
    assert set(tops[pictures == 0]) == {0, 4, 8}
    assert set(lefts[pictures == 0]) == {0, 4}
    assert set(tops[pictures == 1]) == {0, 4, 8}
    assert set(lefts[pictures == 1]) == {0}


# The shuffle


@pytest.mark.parametrize("size", [1, 2, 3, 10, 97, 1000, 2**20 + 7])
def test_shuffled_is_a_permutation(size):
    order = np.asarray(sampling.shuffled(KEY, jnp.arange(size), size))
    np.testing.assert_array_equal(np.sort(order), np.arange(size))
    if size > 10:
        fixed = np.sum(order == np.arange(size))
        assert fixed < 10  # one is expected
        other = sampling.shuffled(rng.stream(1, "crops"), jnp.arange(size), size)
        assert np.sum(np.asarray(other) == order) < 10


def test_every_permutation_comes_up_alike():
    keys = jax.random.split(KEY, 24_000)
    orders = jax.jit(jax.vmap(lambda key: sampling.shuffled(key, jnp.arange(4), 4)))(keys)
    counts = collections.Counter(map(tuple, np.asarray(orders).tolist()))
    assert set(counts) == set(itertools.permutations(range(4)))
    chi_square = sum((count - 1000) ** 2 / 1000 for count in counts.values())
    assert chi_square < 49.7  # 23 degrees of freedom: p = 0.001


# What crops are uniform over


def test_pixels_are_shown_alike_often_in_an_epoch():
    sizes = [(80, 80), (16, 40), (8, 8), (8, 15)]  # 100, 10, 1 and 1 crops of 8
    made = table(sizes, "pixels")
    np.testing.assert_array_equal(made.last_cell, [100, 110, 111, 112])
    for epoch in range(3):
        batches = range(epoch * 28, (epoch + 1) * 28)
        shown = collections.Counter(
            picture
            for number in batches
            for picture in plan(number, sizes, uniform_over="pixels").picture.tolist()
        )
        assert shown == {0: 100, 1: 10, 2: 1, 3: 1}


@pytest.mark.parametrize("pictures", [600, 6000])
def test_cells_lie_in_their_pictures_of_a_table_of_any_size(pictures):
    assert (pictures > sampling.COMPARED) == (pictures == 6000)
    sizes = [(8, 8), (8, 16), (8, 24)] * (pictures // 3)  # 1, 2 and 3 crops of 8
    batch = pictures // 2
    shown = np.concatenate(
        [plan(i, sizes, batch_size=batch, uniform_over="pixels").picture for i in range(4)]
    )
    np.testing.assert_array_equal(np.bincount(shown), [1, 2, 3] * (pictures // 3))


def test_more_crops_than_can_be_numbered():
    side = np.full(10, 2**16, np.int32)
    with pytest.raises(ValueError, match="more than can be numbered"):
        sampling.tabulate(side, side, uniform_over="pixels", crop=1)


def test_a_plan_costs_the_same_late_in_a_run():
    late = 2**31 - 2
    drawn = plan(late, [(20, 30)] * 6)
    assert len(set(drawn.picture.tolist())) == 4
    assert (drawn.top <= 12).all() and (drawn.left <= 22).all()  # noqa: PT018


# Detail


def test_detail_is_the_sum_of_differences_of_neighbours(noise):
    crops = np.stack([noise(6, 6, seed=seed) for seed in range(3)])
    signed = crops.astype(int)
    expected = [abs(np.diff(x, axis=0)).sum() + abs(np.diff(x, axis=1)).sum() for x in signed]
    np.testing.assert_array_equal(sampling.detail(crops), expected)
    np.testing.assert_array_equal(sampling.detail(jnp.asarray(crops)), expected)
    stripes = np.zeros((1, 6, 6, 3), np.uint8)
    stripes[:, ::2] = 10  # every second difference downwards is 10, none across
    how = Sampling(1, 6, 1, min_detail=5.0)
    assert sampling.detail(stripes)[0] == sampling.least_detail(how)


def test_the_first_with_detail_enough_is_chosen_else_the_one_with_most():
    how = Sampling(3, 6, 3, min_detail=1.0)
    least = sampling.least_detail(how)
    amounts = np.array([[0, least, 9 * least], [1, 5, 3], [least, 0, 0]], np.int32)
    np.testing.assert_array_equal(sampling.choose(how, amounts), [1, 1, 0])
    np.testing.assert_array_equal(sampling.choose(how, jnp.asarray(amounts)), [1, 1, 0])
