"""Mean squared error and peak signal-to-noise ratio, on levels 0..255."""

import jax
import jax.numpy as jnp


def mse(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean squared error of two images [H, W, C] in 0..255, over all values."""
    squares = jnp.square(a.astype(jnp.float32) - b.astype(jnp.float32))
    return jnp.mean(jnp.mean(squares, axis=(1, 2)))  # by rows: float32 sums of millions lose digits


def psnr(a: jax.Array, b: jax.Array) -> jax.Array:
    """10 log10(255^2 / mse) in dB; infinite for equal images."""
    return 10.0 * jnp.log10(255.0**2 / mse(a, b))
