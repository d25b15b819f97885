"""The value ranges of images, and every conversion between them.

    pixels  0..255, uint8, or float on its way to uint8   files, metrics, resampling
    unit    [0, 1] float32                                the generator's input
    signed  [-1, 1] float32                               the generator's output, the losses

A network's output may leave its range. It is clipped where it becomes a picture,
`signed_to_uint8` and `signed_to_levels`, and never where a gradient passes.
"""

import jax
import jax.numpy as jnp

# Of ImageNet's pictures, RGB in [0, 1], as PyTorch's networks are trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


def pixels_to_unit(pixels: jax.Array) -> jax.Array:
    """0..255 (uint8 or float) to [0, 1] float32, any shape."""
    return pixels.astype(jnp.float32) / 255.0


def pixels_to_signed(pixels: jax.Array) -> jax.Array:
    """0..255 (uint8 or float) to [-1, 1] float32, any shape."""
    return pixels.astype(jnp.float32) / 127.5 - 1.0


def unit_to_signed(image: jax.Array) -> jax.Array:
    """[0, 1] to [-1, 1], any shape."""
    return image * 2.0 - 1.0


def signed_to_unit(image: jax.Array) -> jax.Array:
    """[-1, 1] to [0, 1], any shape."""
    return image * 0.5 + 0.5


def standardise(
    image: jax.Array,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    deviation: tuple[float, ...] = IMAGENET_DEVIATION,
) -> jax.Array:
    """Subtract each channel's mean, divide by its standard deviation, [..., 3] of their range."""
    shape = (1,) * (image.ndim - 1) + (3,)
    return (image - jnp.array(mean).reshape(shape)) / jnp.array(deviation).reshape(shape)


def signed_to_pixels(image: jax.Array) -> jax.Array:
    """[-1, 1] to 0..255 float, neither rounded nor clipped, any shape."""
    return (image + 1.0) * 127.5


def round_pixels(pixels: jax.Array) -> jax.Array:
    """Float pixels to the nearest whole level 0..255 (half up, clipped), still float."""
    return jnp.clip(jnp.floor(pixels + 0.5), 0.0, 255.0)


def signed_to_uint8(image: jax.Array) -> jax.Array:
    """[-1, 1] float to 0..255 uint8, rounded half up and clipped, any shape."""
    return round_pixels(signed_to_pixels(image)).astype(jnp.uint8)


def signed_to_levels(image: jax.Array, levels: str) -> jax.Array:
    """[-1, 1] float, clipped, as what a picture holds, any shape.

    `levels` is "uint8", 0..255, or "uint16", 0..65535, rounded half up, or "float32", [0, 1].
    """
    if levels == "uint8":
        return signed_to_uint8(image)
    unit = jnp.clip(signed_to_unit(image), 0.0, 1.0)
    return jnp.floor(unit * 65535.0 + 0.5).astype(levels) if levels == "uint16" else unit
