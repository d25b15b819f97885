"""Measure how fast parts are, on this machine: `python -m srgan_jax.benchmark data|pack|upscale`.

data: the training loop beside the bare step. pack: packing a folder beside decoding it. upscale:
enlarging pictures, as a command and the network alone.
"""

import os
import pathlib
from collections.abc import Sequence

from absl import flags

from srgan_jax import cli, config_flag, deterministic
from srgan_jax.errors import UserError

CONFIG = config_flag.define(str(pathlib.Path(__file__).with_name("config.py")))
SECONDS = flags.DEFINE_float("seconds", 5.0, "Of one measurement of data, about.", lower_bound=0.1)
ROUNDS = flags.DEFINE_integer("rounds", 7, "Measurements of each kind, in turns.", lower_bound=1)
OUTPUT = flags.DEFINE_string("output", None, "JSON file for the figures.")
WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "upscale: a generator's .safetensors; by default the paper's, of random weights.",
)
SIZES = flags.DEFINE_list(
    "sizes", ["128x128", "500x300"], "upscale: pictures to enlarge, WIDTHxHEIGHT."
)
AGAINST = flags.DEFINE_enum(
    "against", None, ["torch"], "upscale: what runs the same network in turns with us, on a CPU."
)

WHAT = ("data", "pack", "upscale")


def main(argv: Sequence[str]) -> None:
    """Measure what the argument names."""
    if list(argv[1:]) not in [[what] for what in WHAT]:
        raise UserError(f"say what to measure: python -m srgan_jax.benchmark {'|'.join(WHAT)}")
    if argv[1] == "upscale":
        _upscale()
        return
    config = config_flag.checked(CONFIG)
    if config.deterministic:
        deterministic.request()

    from srgan_jax.benchmark import data, packing  # late: a mistyped flag is answered at once

    if argv[1] == "pack":
        packing.benchmark(config, rounds=ROUNDS.value, output=OUTPUT.value)
    else:
        data.benchmark(config, rounds=ROUNDS.value, seconds=SECONDS.value, output=OUTPUT.value)


def _upscale() -> None:
    from srgan_jax.benchmark import samples, upscale  # late, too

    upscale.benchmark(
        weights=os.path.expanduser(WEIGHTS.value) if WEIGHTS.value else None,
        sizes=samples.sizes(SIZES.value),
        against=AGAINST.value,
        rounds=ROUNDS.value,
        output=OUTPUT.value,
    )


if __name__ == "__main__":
    cli.run(main, config_flag.parse)
