"""What the layers compute, in fast forms: exact rewrites, tested equal to the plain ones.

Where a platform wants another form than the rest, the choice is made when a program is lowered for
it. docs/performance.md tells what each of them brings. Gradients are taken backwards only.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Positions that a product adds up one after the other, in float32.
LONGEST_SUM = 1024

# Output channels up to which `last_conv` has forms of its own on CPUs: 3, or 12 before a shuffle.
NARROW = 16


def depth_to_space(x: jax.Array, factor: int) -> jax.Array:
    """Pixel shuffle, [B, H, W, r * r * C] to [B, r * H, r * W, C], r the factor.

    Input channels are ordered (row, column, channel), unlike PyTorch's (channel, row, column).
    """
    batch, height, width, depth = x.shape
    channels = depth // factor**2
    x = x.reshape(batch, height, width, factor, factor, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height * factor, width * factor, channels)


def shuffled_kernel(kernel: jax.Array, factor: int) -> jax.Array:
    """The kernel K with conv(depth_to_space(x), kernel) = depth_to_space(conv(x, K)).

    It takes r * r * C channels to r * r * O, r the factor, so that the last pixel shuffle of a
    network moves the few channels of its result, and channels fill what devices multiply at once.

    Args:
      kernel: [k, k, C, O], k odd.

    Returns: [K, K, r * r * C, r * r * O], K = 2 * ceil(k // 2 / r) + 1; a part of it is zero.
    """
    side, _, channels, features = kernel.shape
    reach = -(-(side // 2) // factor)
    coarse = 2 * reach + 1
    first = reach * factor - side // 2
    parts = []
    for row in range(factor):
        for column in range(factor):
            around = [
                (first + place, coarse * factor - side - first - place) for place in (row, column)
            ]
            part = jnp.pad(kernel, (*around, (0, 0), (0, 0)))
            part = part.reshape(coarse, factor, coarse, factor, channels, features)
            part = part.transpose(0, 2, 1, 3, 4, 5)
            parts.append(part.reshape(coarse, coarse, factor**2 * channels, features))
    return jnp.concatenate(parts, axis=-1)


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """[B, H, W, C] with [k, k, C, O], k odd, zeros around: [B, H / stride, W / stride, O]."""
    if (len(kernel), stride) == (3, 2) and x.shape[1] % 2 == x.shape[2] % 2 == 0:
        return halving_conv(x, kernel)
    return plain_conv(x, kernel, stride)


def plain_conv(x: jax.Array, kernel: jax.Array, stride: int = 1, **options: Any) -> jax.Array:
    """`conv` as XLA does it, on every platform and in both directions."""
    reach = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((reach, reach), (reach, reach)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        **options,
    )


@jax.custom_vjp
def halving_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`conv` of stride 2 with a kernel of side 3, H and W even.

    Backwards XLA's convolution on CPUs multiplies with three zeros of four, between the gradient's
    pixels. Instead each pixel of the gradient makes the four of the image that lie there.
    """
    return plain_conv(x, kernel, stride=2)


def _halving_backward(saved: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    of_image = functools.partial(plain_conv, kernel=kernel, stride=2)
    of_kernel = functools.partial(plain_conv, x, stride=2)
    return (
        lax.platform_dependent(
            gradient,
            kernel,
            cpu=_image_gradient_shuffled,
            default=lambda gradient, _: jax.linear_transpose(of_image, x)(gradient)[0],
        ),
        jax.linear_transpose(of_kernel, kernel)(gradient)[0],
    )


halving_conv.defvjp(lambda x, kernel: (halving_conv(x, kernel), (x, kernel)), _halving_backward)


def _image_gradient_shuffled(gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    # In each direction, image pixel 2i meets row 1 of the kernel over gradient pixel i; pixel
    # 2i + 1 meets row 2 over pixel i, and row 0 over pixel i + 1. Row 3 is added, of zeros.
    rows = np.array([[1, 3], [2, 0]])
    padded = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    parts = [padded[rows[i]][:, rows[j]] for i in (0, 1) for j in (0, 1)]
    wide = jnp.concatenate([part.transpose(0, 1, 3, 2) for part in parts], axis=-1)
    shuffled = lax.conv_general_dilated(
        gradient,
        wide,
        window_strides=(1, 1),
        padding=((0, 1), (0, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return depth_to_space(shuffled, 2)


@jax.custom_vjp
def last_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution whose result is float32, whatever it computes in.

    CPUs compute many output channels at once, and so are faster at wider ones: up to `NARROW`
    channels it is a convolution of the kernel's rows, which are added up, and for the kernel's
    gradient one with the roles changed.
    """
    plain = functools.partial(plain_conv, preferred_element_type=jnp.float32)
    cpu = _by_rows if kernel.shape[-1] <= NARROW else plain
    return lax.platform_dependent(x, kernel, cpu=cpu, default=plain)


def _last_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple]:
    return last_conv(x, kernel), (x, kernel)


def _last_backward(saved: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    gradient = gradient.astype(x.dtype)
    # Turned around, from output channels to input channels.
    of_x = plain_conv(gradient, kernel[::-1, ::-1].transpose(0, 1, 3, 2))
    plain = functools.partial(_kernel_gradient, kernel)
    turned = functools.partial(_kernel_gradient_turned, kernel.shape[0])
    cpu = turned if kernel.shape[-1] <= NARROW else plain
    return of_x, lax.platform_dependent(x, gradient, cpu=cpu, default=plain)


last_conv.defvjp(_last_forward, _last_backward)


def _by_rows(x: jax.Array, kernel: jax.Array) -> jax.Array:
    side, _, channels, few = kernel.shape
    wide = kernel.transpose(1, 2, 0, 3).reshape(1, side, channels, side * few)
    reach, height = side // 2, x.shape[1]
    rows = lax.conv_general_dilated(
        x,
        wide,
        window_strides=(1, 1),
        padding=((reach, reach), (reach, reach)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=jnp.float32,
    )
    parts = (rows[:, i : i + height, :, few * i : few * (i + 1)] for i in range(side))
    return functools.reduce(jnp.add, parts)


def _kernel_gradient(kernel: jax.Array, x: jax.Array, gradient: jax.Array) -> jax.Array:
    return jax.linear_transpose(functools.partial(plain_conv, x), kernel)(gradient)[0]


def _kernel_gradient_turned(side: int, x: jax.Array, gradient: jax.Array) -> jax.Array:
    """With the gradient as the image, and the wide `x` as the kernel."""
    reach = side // 2
    turned = lax.conv_general_dilated(
        gradient.transpose(3, 1, 2, 0),
        x.transpose(1, 2, 0, 3),
        window_strides=(1, 1),
        padding=((reach, reach), (reach, reach)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return turned[:, ::-1, ::-1].transpose(1, 2, 3, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def channel_sum(x: jax.Array, groups: int = 1) -> jax.Array:
    """The sums over all positions of each of G equal parts of a batch, [B, ..., C] to [G, C].

    On CPUs first by matrix products, which read memory in order and on all cores, as XLA's sum over
    leading axes does not; of so many positions each that rounding stays that of a sum in parts.
    Backwards it is `spread`.
    """
    return _channel_sum(x, groups)


@functools.partial(jax.jit, static_argnums=1)  # traced once for each shape: there are many
def _channel_sum(x: jax.Array, groups: int) -> jax.Array:
    x = x.reshape(groups, -1, x.shape[-1])
    return lax.platform_dependent(x, cpu=_sum_by_products, default=lambda x: x.sum(1))


def _sum_by_products(x: jax.Array) -> jax.Array:
    groups, count, channels = x.shape
    block = max(size for size in range(1, LONGEST_SUM + 1) if count % size == 0)
    parts = x.reshape(-1, block, channels)
    ones = jnp.ones((len(parts), 1, block), x.dtype)
    sums = lax.dot_general(ones, parts, (((2,), (1,)), ((0,), (0,))))
    return sums.reshape(groups, -1, channels).sum(1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def spread(vectors: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """[C], or [G, C] one for each of G equal parts of a batch, at all positions of [B, ..., C].

    Backwards it is `channel_sum`.
    """
    return _spread(vectors, shape)


@functools.partial(jax.jit, static_argnums=1)
def _spread(vectors: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    groups = vectors.size // shape[-1]
    parts = vectors.reshape((groups, 1) + (1,) * (len(shape) - 2) + (shape[-1],))
    return jnp.broadcast_to(parts, (groups, shape[0] // groups, *shape[1:])).reshape(shape)


channel_sum.defvjp(
    lambda x, groups: (channel_sum(x, groups), x.shape),
    lambda groups, shape, gradient: (spread(gradient, shape),),
)
spread.defvjp(
    lambda vectors, shape: (spread(vectors, shape), vectors),
    lambda shape, vectors, gradient: (
        channel_sum(gradient, vectors.size // vectors.shape[-1]).reshape(vectors.shape),
    ),
)


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """The largest of each 2x2, [B, H, W, C] to [B, H // 2, W // 2, C].

    The gradient goes to the first of equals, as elsewhere, without the scatter that XLA makes.
    """
    return _squares(x).max((2, 4))


def _squares(x: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


def _pool_backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    squares = _squares(x)
    largest = squares.max((2, 4))
    place = jnp.full(largest.shape, 3, jnp.int8)
    for number in (2, 1, 0):
        i, j = divmod(number, 2)
        place = jnp.where(squares[:, :, i, :, j] == largest, jnp.int8(number), place)
    numbers = np.arange(4, dtype=np.int8).reshape(1, 1, 2, 1, 2, 1)
    here = place[:, :, None, :, None] == numbers
    whole = jnp.where(here, gradient[:, :, None, :, None], jnp.zeros((), gradient.dtype))
    batch, height, _, width, _, channels = whole.shape
    whole = whole.reshape(batch, 2 * height, 2 * width, channels)
    left = [(0, 0), *((0, size % 2) for size in x.shape[1:3]), (0, 0)]
    return (jnp.pad(whole, left),)


max_pool.defvjp(lambda x: (max_pool(x), x), _pool_backward)
