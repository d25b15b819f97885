"""Measure how fast parts are, on this machine: `python -m srgan_jax.benchmark WHAT`.

train: the training steps of both phases, on one device. data: the training loop beside the bare
step. pack: packing a folder beside decoding it. upscale: enlarging pictures, as a command and the
network alone.
"""

import contextlib
import importlib.util
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from srgan_jax import cli, config_flag, deterministic, files
from srgan_jax.errors import UserError
from srgan_jax.workdir import environment, installed_version

CONFIG = config_flag.define(str(pathlib.Path(__file__).with_name("config.py")))
SECONDS = flags.DEFINE_float(
    "seconds", 5.0, "Of one measurement of data and train, about.", lower_bound=0.1
)
ROUNDS = flags.DEFINE_integer("rounds", 7, "Measurements of each kind, in turns.", lower_bound=1)
JSON = flags.DEFINE_bool("json", False, "The figures as JSON on stdout, and the lines on stderr.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file for the figures.")
AGAINST = flags.DEFINE_enum(
    "against", None, ["torch"], "train, upscale: what does the same in turns with us."
)
BATCHES = flags.DEFINE_list("batches", [], "train: images a step; by default data.batch_size.")
DTYPES = flags.DEFINE_multi_enum(
    "dtype",
    None,
    ["float32", "bfloat16"],
    "train: what is computed in, may be repeated; by default the config's on CPUs, else both.",
)
WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "upscale: a generator's .safetensors, or the name of one that comes with the package; by"
    " default the paper's, of random weights.",
)
SIZES = flags.DEFINE_list(
    "sizes", ["128x128", "500x300"], "upscale: pictures to enlarge, WIDTHxHEIGHT."
)

WHAT = ("train", "data", "pack", "upscale")


def main(argv: Sequence[str]) -> None:
    """Measure what the argument names."""
    if list(argv[1:]) not in [[what] for what in WHAT]:
        raise UserError(f"say what to measure: python -m srgan_jax.benchmark {'|'.join(WHAT)}")
    if AGAINST.value and argv[1] not in ("train", "upscale"):
        raise UserError(f"--against={AGAINST.value}: there is nothing to compare {argv[1]} with")
    if AGAINST.value and not importlib.util.find_spec(AGAINST.value):
        raise UserError(f"--against={AGAINST.value}: not installed: pip install -e .[convert]")
    with contextlib.redirect_stdout(sys.stderr) if JSON.value else contextlib.nullcontext():
        rows = _upscale() if argv[1] == "upscale" else _of_config(argv[1])
    told = {"rows": rows, **environment()}
    if AGAINST.value:
        told["packages"][AGAINST.value] = installed_version(AGAINST.value)
    if OUTPUT.value:
        files.write_json(OUTPUT.value, told)
    if JSON.value:
        print(json.dumps(told))


def _of_config(what: str) -> list[dict[str, Any]]:
    config = config_flag.checked(CONFIG)
    if config.deterministic:
        deterministic.request()

    from srgan_jax.benchmark import (  # late: a mistyped flag is answered at once
        data,
        packing,
        train,
    )

    if what == "pack":
        return packing.benchmark(config, rounds=ROUNDS.value)
    if what == "data":
        return data.benchmark(config, rounds=ROUNDS.value, seconds=SECONDS.value)
    return train.benchmark(
        config,
        batches=cli.whole_numbers(BATCHES.value, "--batches") or [config.data.batch_size],
        dtypes=DTYPES.value or train.usual_dtypes(config),
        against=AGAINST.value,
        seconds=SECONDS.value,
        rounds=ROUNDS.value,
    )


def _upscale() -> list[dict[str, Any]]:
    from srgan_jax.benchmark import samples, upscale  # late, too

    return upscale.benchmark(
        weights=WEIGHTS.value,
        sizes=samples.sizes(SIZES.value),
        against=AGAINST.value,
        rounds=ROUNDS.value,
    )


if __name__ == "__main__":
    cli.run(main, config_flag.parse)
