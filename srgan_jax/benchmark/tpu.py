"""The training steps compiled for TPUs that are not there, and what the compiled programs say.

    python -m srgan_jax.benchmark.tpu --topology=v5e:2x2 --batch=128 --devices=1,4

compiles both phases for a batch of 128 over 1 and over 4 devices. Nothing is run, and no TPU is
needed, but its compiler: `pip install -e ".[tpu]"`. docs/performance.md tells what was found.
"""

import os
import pathlib
import time
from collections.abc import Sequence

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # libtpu only compiles
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # no question to a cloud's metadata server

import jax
from absl import flags
from jax.experimental import topologies

from srgan_jax import cli, config_flag, files
from srgan_jax import config as config_lib
from srgan_jax.benchmark import counts, hlo
from srgan_jax.errors import UserError, first_line
from srgan_jax.monitor import say
from srgan_jax.parallel import Parallel

CONFIG = config_flag.define(str(pathlib.Path(__file__).with_name("config.py")))
TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x2", "Whole hosts: v5e:2x2, v6e:2x2, v5p:2x2x1.")
BATCH = flags.DEFINE_integer("batch", 128, "Images a step, of all devices.", lower_bound=1)
DEVICES = flags.DEFINE_list("devices", ["1", "4"], "How many of the topology's are compiled for.")
PHASE = flags.DEFINE_enum("phase", None, config_lib.PHASES, "Only this one.")
EFFORT = flags.DEFINE_float(
    "effort", 0.0, "Of the compiler: -1 is quick, for a slower program.", -1.0, 1.0
)
OUTPUT = flags.DEFINE_string("output", None, "Folder for the programs' text.")


def main(argv: Sequence[str]) -> None:
    """Compile and describe, phase by phase."""
    if len(argv) > 1:
        raise UserError(f"what is {argv[1]}? Everything here is given by --flags: see --help")
    config = config_flag.checked(CONFIG)
    try:
        devices = topologies.get_topology_desc(TOPOLOGY.value, platform="tpu").devices
    except Exception as error:  # libtpu has no kind of its own for each
        raise UserError(
            f"--topology={TOPOLOGY.value}: {first_line(error)}; it needs pip install -e '.[tpu]'"
        ) from error
    kind = devices[0].device_kind  # type: ignore[attr-defined]
    numbers = cli.whole_numbers(DEVICES.value, "--devices")
    for number in numbers:
        if number > len(devices) or BATCH.value % number:
            raise UserError(
                f"--devices={number}: there are {len(devices)}, and --batch={BATCH.value} has to be"
                " a multiple"
            )
    folder = files.make_folder(OUTPUT.value, "--output") if OUTPUT.value else None
    jax.config.update("jax_exec_time_optimization_effort", EFFORT.value)
    forms = [form for form in counts.forms(config) if PHASE.value in (None, form.phase.name)]
    for form, number in [(form, number) for form in forms for number in numbers]:
        before = time.perf_counter()
        program = counts.compile_step(
            form, Parallel("jit", devices[:number]), BATCH.value // number
        )
        took = time.perf_counter() - before
        name = f"{form.phase.name}-{config.dtype}-{TOPOLOGY.value}-{BATCH.value}-{number}"
        name = name.replace(":", "-")
        say(f"{name}: {kind}, compiled in {took:.1f} s\n{hlo.describe(program)}")
        if folder:
            (folder / f"{name}.hlo.txt").write_text(program.as_text())  # type: ignore


if __name__ == "__main__":
    cli.run(main, config_flag.parse)
