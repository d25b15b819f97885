"""Take the grid out of a generator that makes all pixels of an LR pixel by one convolution.

    python -m srgan_jax.convert.level SRC DST --data=DIR

With `upsample="direct"` each of the scale * scale pixels of an LR pixel has a kernel and a bias of
its own. Where adversarial training left them of different brightness, SR has a grid. The bias is
changed so that on the photographs in DIR, of the training set, all have the same mean error.
"""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from srgan_jax import cli, pretrained, ranges, weights
from srgan_jax.data import sources
from srgan_jax.data.degradation import Degradation
from srgan_jax.errors import UserError
from srgan_jax.evaluate.pairs import Pair, make_pair
from srgan_jax.models.generator import Generator
from srgan_jax.state import Variables

CROP = 384  # side of what is taken of a photograph, from the top left


def levelled(generator: Generator, variables: Variables, pairs: Iterable[Pair]) -> Variables:
    """The variables with another bias of the last convolution.

    Args:
      generator: with `upsample="direct"`.
      variables: its own.
      pairs: photographs, all of one size.
    """
    scale = generator.scale

    @jax.jit
    def error(lr_image: jax.Array, hr: jax.Array) -> jax.Array:
        unit = ranges.pixels_to_unit(lr_image)
        sr = jnp.asarray(generator.apply(variables.as_flax(), unit, train=False))
        height, width, _ = lr_image.shape[1:]
        difference = sr - ranges.pixels_to_signed(hr)
        return difference.reshape(height, scale, width, scale, 3).mean((0, 2))

    errors = [np.asarray(error(pair.lr_image[None], pair.hr[None])) for pair in pairs]
    mean = np.mean(errors, axis=0)  # [scale, scale, 3], as the bias is ordered
    params = jax.tree.map(np.asarray, variables.params)
    last = params["conv_out"]
    level = last["bias"] - (mean - mean.mean((0, 1))).reshape(-1)
    return Variables(
        params | {"conv_out": last | {"bias": level.astype(np.float32)}}, variables.batch_stats
    )


def main(argv: Sequence[str]) -> None:
    """Check the arguments, and level."""
    if len(argv) != 3 or not flags.FLAGS.data:
        raise UserError("give SRC DST --data=DIR: --help explains it")
    exported = weights.load_generator(pretrained.find(argv[1]))
    generator = exported.generator
    if generator.upsample != "direct":
        raise UserError(f"{argv[1]}: has upsample={generator.upsample}, which leaves no such grid")
    found = sources.load(source="folder", path=flags.FLAGS.data, split="train", min_size=CROP)
    how = Degradation(generator.scale)
    pairs = [
        make_pair(name, image[:CROP, :CROP], how)
        for name, image in zip(found.names, found.images, strict=True)
    ]
    variables = levelled(generator, exported.variables, pairs)
    story = exported.metadata | {
        "training": exported.metadata["training"] | {"levelled_on": len(pairs)}
    }
    weights.save_portable(argv[2], weights.Exported(generator, variables, story))
    print(f"written: {argv[2]}, levelled on {len(pairs)} photographs")


def run() -> None:
    """The command."""
    flags.DEFINE_string("data", None, "Folder of training photographs.")
    cli.run(main)


if __name__ == "__main__":
    run()
