"""Named random streams, each a pure function of (seed, stream, step): nothing to save."""

import zlib

import jax


def stream(seed: int, name: str) -> jax.Array:
    """A typed key for one named purpose, such as "generator" or "crops".

    Streams of different names are independent, so that adding one leaves the others as
    they were. Fold a step number in for randomness that changes from step to step.
    """
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
