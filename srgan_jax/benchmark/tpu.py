"""The training steps compiled for TPUs that are not there, and what the compiled programs say.

    python -m srgan_jax.benchmark.tpu --topology=v5e:2x2 --batch=128 --devices=1,4

compiles both phases for a batch of 128 over 1 and over 4 devices. Nothing is run, and no TPU is
needed, but its compiler: `pip install -e ".[tpu]"`. docs/performance.md tells what was found.
"""

import math
import os
import pathlib
import re
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # libtpu only compiles
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # no question to a cloud's metadata server

import jax
from absl import flags
from jax.experimental import topologies

from srgan_jax import cli, config_flag, files
from srgan_jax import config as config_lib
from srgan_jax.benchmark import counts
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

# %name = f32[16,96,96,3]{0,3,2,1:T(8,128)} convolution(%image, %kernel), ...
_OPERATION = re.compile(r"%([\w.-]+) = (\([^=]*?\)|\S+) ([\w-]+)\((.*)")
_LAYOUT = re.compile(r"\w+\[([\d,]*)\]\{([\d,]*)(?::T\((\d+),(\d+)\))?")
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_CUSTOM_CALL = re.compile(r'custom_call_target="([^"]+)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_NAME = re.compile(r'op_name="([^"]*)"')


def operations(text: str) -> list[tuple[str, str, str, str]]:
    """(name, type, kind, rest of the line) of everything in a program."""
    return _OPERATION.findall(text)


def layout(letters: str, type_: str) -> str:
    """An array's sides, its axes on sublanes and lanes, and how many times larger tiling makes it.

    b01f[16, 24, 24, 64] bf x2.00: batch on sublanes, features on lanes, of which half are empty.
    """
    sides, order, *tile = _LAYOUT.findall(type_)[0]
    sides, order = ([int(x) for x in part.split(",") if x] for part in (sides, order))
    grown = 1.0
    for axis, step in zip(order, [int(x) for x in reversed(tile) if x], strict=False):
        grown *= math.ceil(sides[axis] / step) * step / sides[axis]
    return f"{letters}{sides} {''.join(letters[i] for i in reversed(order[:2]))} x{grown:.2f}"


def convolutions(text: str) -> Counter[str]:
    """Image | kernel | result of each convolution and product, by `layout`."""
    types = {name: type_ for name, type_, _, _ in operations(text)}
    found: Counter[str] = Counter()
    for _, made, kind, rest in operations(text):
        labels = _LABELS.search(rest)
        if kind == "convolution" and labels:
            image, kernel = re.findall(r"%([\w.-]+)", rest)[:2]
            arrays = zip(labels.groups(), (types[image], types[kernel], made), strict=True)
            found[" | ".join(layout(letters, type_) for letters, type_ in arrays)] += 1
    return found


def estimates(text: str) -> Counter[str]:
    """The cycles that the compiler reckons with, by the operation of the model."""
    found: Counter[str] = Counter()
    for _, _, kind, rest in operations(text[text.index("\nENTRY") :]):
        if cycles := _CYCLES.search(rest):
            name = _NAME.search(rest)
            found[f"{kind} of {name.group(1) if name else '?'}"] += int(cycles.group(1))
    return found


def describe(program: Any) -> str:
    """Arithmetic, memory, collectives, slowest operations and convolutions, in lines."""
    text, cost, memory = program.as_text(), program.cost_analysis(), program.memory_analysis()
    sizes = {
        name: f"{getattr(memory, f'{name}_size_in_bytes') / 1e6:.1f} MB"
        for name in ("argument", "output", "alias", "temp", "generated_code")
    }
    collectives = Counter((x.kind, x.shape) for sent in counts.sent_by(program) for x in sent)
    cycles = estimates(text)
    lines = [
        f"{cost['flops'] / 1e9:.2f} GFLOP, {cost['bytes accessed'] / 1e9:.3f} GB accessed; {sizes}",
        f"collectives: {collectives.total()}, {dict(collectives)}",
        f"custom calls: {dict(Counter(_CUSTOM_CALL.findall(text)))}",
        f"operations: {dict(Counter(kind for _, _, kind, _ in operations(text)).most_common())}",
        f"estimated: {cycles.total() / 1e6:.2f} million cycles",
    ]
    lines += [f"  {count / cycles.total():6.1%} {name}" for name, count in cycles.most_common(12)]
    lines += [f"  {count:4} x {name}" for name, count in convolutions(text).most_common()]
    return "\n".join("  " + line for line in lines)


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
        say(f"{name}: {kind}, compiled in {took:.1f} s\n{describe(program)}")
        if folder:
            (folder / f"{name}.hlo.txt").write_text(program.as_text())  # type: ignore


if __name__ == "__main__":
    cli.run(main, config_flag.parse)
