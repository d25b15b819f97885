"""Conversions between the value ranges of images."""

import jax.numpy as jnp
import numpy as np

from srgan_jax import ranges

LEVELS = np.arange(256, dtype=np.uint8)


def test_ends_and_middle():
    ends = jnp.array([0.0, 127.5, 255.0])
    np.testing.assert_allclose(ranges.pixels_to_unit(ends), [0, 0.5, 1])
    np.testing.assert_allclose(ranges.pixels_to_signed(ends), [-1, 0, 1])
    np.testing.assert_allclose(ranges.unit_to_signed(jnp.array([0.0, 0.5, 1.0])), [-1, 0, 1])
    np.testing.assert_allclose(ranges.signed_to_pixels(jnp.array([-1.0, 0.0, 1.0])), ends)


def test_every_level_comes_back():
    unit = ranges.pixels_to_unit(jnp.asarray(LEVELS))
    signed = ranges.pixels_to_signed(jnp.asarray(LEVELS))
    assert unit.dtype == signed.dtype == jnp.float32
    np.testing.assert_array_equal(ranges.signed_to_uint8(signed), LEVELS)
    np.testing.assert_array_equal(ranges.signed_to_uint8(ranges.unit_to_signed(unit)), LEVELS)
    assert ranges.signed_to_uint8(signed).dtype == jnp.uint8


def test_rounding_is_half_up_and_clips():
    pixels = jnp.array([-7.0, -0.5, 0.49, 0.5, 1.5, 2.5, 254.49, 254.5, 255.5, 300.0])
    np.testing.assert_array_equal(
        ranges.round_pixels(pixels), [0, 0, 0, 1, 2, 3, 254, 255, 255, 255]
    )
    # Values beyond the range are clipped, not wrapped round.
    np.testing.assert_array_equal(
        ranges.signed_to_uint8(jnp.array([-1.7, -1.01, 1.01, 1.7])), [0, 0, 255, 255]
    )


def test_out_of_range_is_kept_where_a_gradient_may_pass():
    np.testing.assert_allclose(ranges.signed_to_pixels(jnp.array([-3.0, 3.0])), [-255, 510])
