"""Mean squared error and peak signal-to-noise ratio, on levels 0..255."""

import jax
import jax.numpy as jnp


def mse(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean squared error of two images [H, W, C] in 0..255, over all values."""
    return jnp.mean(jnp.square(a.astype(jnp.float32) - b.astype(jnp.float32)))


def psnr(a: jax.Array, b: jax.Array) -> jax.Array:
    """10 log10(255^2 / mse) in dB; infinite for equal images."""
    return 10.0 * jnp.log10(255.0**2 / mse(a, b))
