"""Where windows lie, how far networks see, and what windows cost."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srgan_jax.models.generator import Generator
from srgan_jax.upscale import tiles

KINDS = [
    {},
    {"scale": 2},
    {"scale": 8, "kernel": 3},
    {"scale": 3, "mid": "none"},
    {"upsample": "nearest", "hr_conv": True},
    {"base": "bicubic", "kernel": 3, "upsample": "nearest"},
    {"base": "bilinear", "kernel": 3},
    {"upsample": "direct", "base": "bicubic", "kernel": 3},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_no_output_depends_on_what_lies_beyond_the_radius(kind):
    """Measured: which SR rows change when one LR row does, in a network of ones."""
    generator = Generator(blocks=1, channels=2, norm="none", **kind)
    size, middle = 48, 24
    image = jnp.full((1, size, 4, 3), 0.5)
    variables = generator.init(jax.random.key(0), image, train=False)
    ones = jax.tree.map(lambda x: jnp.full_like(x, 0.05), variables)
    run = jax.jit(lambda image: generator.apply(ones, image, train=False))
    changed = np.asarray(run(image) != run(image.at[:, middle].add(0.25))).any(axis=(0, 2, 3))
    rows = np.nonzero(changed)[0] // generator.scale
    radius = tiles.radius_of(generator).whole
    assert rows.min() >= middle - radius
    assert rows.max() <= middle + radius
    # Nor is it much too large, which would cost.
    assert middle - rows.min() >= radius - 2


@pytest.mark.parametrize("size", [1, 7, 40, 41, 60, 100, 333])
@pytest.mark.parametrize(("window", "radius"), [(40, 9), (41, 20), (100, 3), (64, 0)])
def test_windows_make_up_the_axis_and_see_far_enough(size, window, radius):
    spans = list(tiles.spans(0, size, size, window, radius))
    assert spans[0].first == 0
    assert spans[-1].end == size
    assert len(spans) == tiles.count(size, window, radius)
    for before, after in itertools.pairwise(spans):
        assert before.end == after.first
    for start, first, end in spans:
        assert first < end
        assert start == 0 or start + window <= size
        assert start == 0 or first - start >= radius
        assert start + window >= size or start + window - end >= radius


def choose(height, width, radius=40, **changed):
    settings = {"sizes": tiles.FINE, "area": 768**2, "most_rows": 10**6} | changed
    return tiles.choose(height, width, radius, **settings)


def test_a_small_picture_has_a_window_of_its_size():
    assert choose(128, 128) == (128, 128)
    assert choose(20, 300) == (24, 304)


def test_windows_stay_within_what_memory_takes():
    for size in [(3000, 4000), (20000, 30000), (100, 9000)]:
        high, wide = choose(*size)
        assert high * wide <= 768**2
    high, _ = choose(20000, 30000, most_rows=200)
    assert high - 80 <= 200


def test_the_smallest_window_is_taken_where_none_fits():
    assert choose(3000, 4000, area=1) == (88, 88)
    high, _ = choose(20000, 30000, most_rows=1)
    assert high == 88


def test_no_side_exceeds_the_longest():
    assert max(choose(3000, 4000, longest=200)) == 200
    assert choose(100, 100, longest=200) == (104, 104)


def test_a_compiled_size_is_taken_if_it_costs_little_more():
    near = {"familiar": {(320, 512)}, "sizes": tiles.COARSE._replace(sides=(300, 320, 512))}
    assert choose(300, 500, **near) == (320, 512)
    assert choose(300, 290, **near) == (300, 300)
