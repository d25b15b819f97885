"""What a step costs on n devices: `python -m srgan_jax.benchmark.scaling --config=FILE`.

    T(n, b) = max(floor, b * image) + update + gradients(n) + batch_norm(n) + gather(n)

of b images on each of n devices. docs/scaling.md explains every term, and what is assumed.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from srgan_jax import cli, config_flag, files
from srgan_jax import config as config_lib
from srgan_jax.benchmark.formula import (
    Device,
    Load,
    enough_images,
    predicted,
    times,
    update_seconds,
)
from srgan_jax.benchmark.machines import MACHINES, Machine
from srgan_jax.errors import UserError
from srgan_jax.monitor import say

CONFIG = config_flag.define(None)
MACHINE = flags.DEFINE_enum("machine", "h100", list(MACHINES), "Whose numbers are taken.")
for field in dataclasses.fields(Machine):
    flags.DEFINE_float(field.name, None, field.metadata["meaning"] + " Replaces the machine's.")
SHARE = flags.DEFINE_float(
    "peak_share", 0.4, "Of a device's TFLOP/s that are reached: assumed.", 0.001, 1
)
PHASE = flags.DEFINE_enum("phase", None, config_lib.PHASES, "Only this one.")
RATE = flags.DEFINE_float(
    "images_per_second", None, "Of one device at large batches, where it was measured."
)
FLOOR = flags.DEFINE_float("step_ms", None, "The shortest step of one device, where measured.")
MEASURE = flags.DEFINE_list("measure", [], "Batch sizes to measure on this machine for both.")
SECONDS = flags.DEFINE_float("seconds", 10.0, "Of one of these measurements.", lower_bound=0.1)
DEVICES = flags.DEFINE_list("devices", ["1", "8", "64", "512", "4096"], "How many to tell of.")
IMAGES = flags.DEFINE_integer("per_device", 16, "Images a device, second table.", lower_bound=1)
COMPILED = flags.DEFINE_bool(
    "compiled", False, "Compile the steps for this machine's devices and count there, too."
)
OUTPUT = flags.DEFINE_string("output", None, "JSON file for the figures.")


def main(argv: Sequence[str]) -> None:
    """Count, measure where asked, and print the tables."""
    if len(argv) > 1:
        raise UserError(f"what is {argv[1]}? Everything here is given by --flags: see --help")
    config = config_flag.checked(CONFIG)
    given = {field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(Machine)}
    own: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    machine = dataclasses.replace(MACHINES[MACHINE.value], **own)
    device_counts = cli.whole_numbers(DEVICES.value, "--devices")
    measured = cli.whole_numbers(MEASURE.value, "--measure")

    from srgan_jax.benchmark import bare, counts  # late: a mistyped flag is answered at once
    from srgan_jax.parallel import Parallel

    forms = [form for form in counts.forms(config) if PHASE.value in (None, form.phase.name)]
    if not forms:
        raise UserError("the config trains no such phase: nothing to count")
    if len(forms) > 1 and (RATE.value or FLOOR.value):
        raise UserError("--images_per_second and --step_ms are of one phase: say --phase=")
    rows = []
    for form in forms:
        parts = config.optim.accumulate
        loads = {n: counts.load_of(form, n, parts) for n in device_counts}
        say(counts.describe(form, loads[max(device_counts)], max(device_counts)))
        if COMPILED.value:
            say(counts.describe_compiled(form, Parallel(config.parallel), parts))
        timed = None
        if measured:
            found = bare.measure(config, form, measured, SECONDS.value)
            timed = min(found.values()), min(took / size for size, took in found.items())

        def device_of(load: Load, n: int, timed: tuple[float, float] | None = timed) -> Device:
            device = Device(*timed, 0.0) if timed else predicted(load, machine, SHARE.value, n)
            if FLOOR.value:  # whoever measures a step measures the update in it
                device = dataclasses.replace(device, floor=FLOOR.value / 1e3, update=0.0)
            if RATE.value:
                device = dataclasses.replace(device, image=1 / RATE.value, update=0.0)
            return device

        batch = config.data.batch_size
        per_device = dict.fromkeys(device_counts, IMAGES.value)
        shared = {n: batch // n for n in device_counts if batch % (n * parts) == 0}
        for title, images in (
            (f"a batch of {batch}", shared),
            (f"{IMAGES.value} images a device", per_device),
        ):
            say(f"\n{form.phase.network}, {title}, {MACHINE.value}; milliseconds\n{HEADER}")
            for n in images:
                row = _row(config, form.phase.name, loads[n], device_of(loads[n], n), machine, n,
                           images[n])  # fmt: skip
                rows.append({"table": title} | row)
                say(_line(row))
            if len(images) < len(device_counts):
                say(f"  at most {batch // parts} devices can share {batch} images")
        say("")
    if OUTPUT.value:
        told = {"machine": dataclasses.asdict(machine), "peak_share": SHARE.value, "rows": rows}
        files.write_json(OUTPUT.value, told)


HEADER = (
    "devices    batch  compute  update  gradients  BatchNorm      step    images/s  efficiency"
    "  enough  Adam's rate"
)


def _row(
    config: ConfigDict,
    name: str,
    load: Load,
    device: Device,
    machine: Machine,
    devices: int,
    images: int,
) -> dict[str, Any]:
    parts = times(load, device, machine, devices, images)
    alone = device.compute(images)
    if device.update:  # else it is in what was measured
        alone += update_seconds(dataclasses.replace(load, gathered=()), machine, 1)
    batch = devices * images
    growth = math.sqrt(batch / config.data.batch_size)
    return {
        "phase": name,
        "devices": devices,
        "batch": batch,
        **dataclasses.asdict(parts),
        "step": parts.step,
        "images_per_second": batch / parts.step,
        "efficiency": alone / parts.step,
        "enough": enough_images(device, parts),
        "learning_rate": config_lib.learning_rate_of(config, name) * growth,
    }


def _line(row: dict[str, Any]) -> str:
    ms = {
        name: 1e3 * row[name] for name in ("compute", "update", "gradients", "batch_norm", "step")
    }
    return (
        f"{row['devices']:7}  {row['batch']:7}  {ms['compute']:7.2f}  {ms['update']:6.2f}"
        f"  {ms['gradients']:9.2f}  {ms['batch_norm']:9.2f}  {ms['step']:8.2f}"
        f"  {row['images_per_second']:10.0f}  {row['efficiency']:10.0%}  {row['enough']:6}"
        f"  {row['learning_rate']:11.1e}"
    )


if __name__ == "__main__":
    cli.run(main, config_flag.parse)
