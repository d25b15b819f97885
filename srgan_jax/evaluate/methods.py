"""What enlarges a picture: networks, and the baselines that need none."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from srgan_jax import ranges, resample
from srgan_jax.models.generator import Generator
from srgan_jax.state import Variables

# LR pixels, uint8 [N, h, w, 3], to SR pixels, uint8 [N, s*h, s*w, 3].
Method = Callable[[jax.Array], jax.Array]

BASELINES = ("bicubic", "lanczos", "nearest")


@functools.partial(jax.jit, static_argnums=0)
def super_resolve(generator: Generator, variables: Variables, lr_image: jax.Array) -> jax.Array:
    """A network in test mode: uint8 [N, h, w, 3] to uint8 [N, s*h, s*w, 3].

    Raises: ValueError for anything else, such as values in 0..1.
    """
    if lr_image.dtype != jnp.uint8 or lr_image.ndim != 4 or lr_image.shape[-1] != 3:
        raise ValueError(
            f"lr_image must be uint8 [N, h, w, 3], not {lr_image.dtype} {list(lr_image.shape)}"
        )
    unit = ranges.pixels_to_unit(lr_image)
    sr = generator.apply(variables.as_flax(), unit, train=False)
    return ranges.signed_to_uint8(jnp.asarray(sr))


def network(generator: Generator, variables: Variables) -> Method:
    """A generator as a method."""
    return functools.partial(super_resolve, generator, jax.tree.map(jnp.asarray, variables))


def baseline(name: str, scale: int) -> Method:
    """MATLAB's `imresize` with one of `BASELINES`."""

    def enlarge(lr_image: jax.Array) -> jax.Array:
        if name == "nearest":
            return lr_image.repeat(scale, axis=1).repeat(scale, axis=2)
        resize = {"bicubic": resample.bicubic, "lanczos": resample.lanczos}[name]
        return resize(lr_image, scale, quantise=True).astype(jnp.uint8)

    return jax.jit(enlarge)
