"""The training steps: how fast, how near to what the device can do, and beside PyTorch's."""

import dataclasses
import statistics
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from srgan_jax import recipes
from srgan_jax.benchmark import bare, counts, data, samples, turns
from srgan_jax.benchmark.bare import Bare
from srgan_jax.benchmark.counts import Forms
from srgan_jax.benchmark.torch_sides import torch_sides
from srgan_jax.benchmark.turns import Way
from srgan_jax.data import sources
from srgan_jax.engine import Engine
from srgan_jax.monitor import say
from srgan_jax.parallel import Parallel
from srgan_jax.supply import Supply
from srgan_jax.workdir import installed_version

DTYPES = ("float32", "bfloat16")


def benchmark(
    config: ConfigDict,
    *,
    batches: list[int],
    dtypes: list[str],
    against: str | None,
    seconds: float,
    rounds: int,
) -> list[dict[str, Any]]:
    """Say how many images/s each phase that has steps trains with, on one device.

    Bare: the compiled step, again and again on a batch that is on the device. At the config's batch
    size also the training loop, whose metrics are fetched and checked. `peak_flops_per_second` is
    that of a large product of matrices, measured in the same type. `flop` is counted in
    convolutions and products as XLA counts, without padding, and with what rewritten layers do more
    than plain ones: 3 % of pre-training, 4 % of the GAN step on CPUs and 1 % elsewhere.

    Args:
      config: what is trained. `vgg.path="random"` is a VGG19 of random weights.
      batches: images a step.
      dtypes: of `DTYPES`.
      against: "torch", or None.
      seconds: of one measurement, about.
      rounds: measurements of each, in turns.

    Returns: a row of figures for each phase, type and batch size. Against PyTorch, `ratio` is to
      the fastest of its own ways, `eager` and `compile`; `rewritten` is beside them, where layers
      of the PyTorch network were written anew by hand as ours are.

    Raises: UserError where both sides do not compute the same.
    """
    parallel = Parallel("jit", jax.devices()[:1])
    device = parallel.devices[0]
    vgg, vgg_params = samples.content_network(config)
    torch = f", torch {installed_version('torch')}" if against else ""
    say(f"{device.device_kind}, {sources.cores()} cores, jax {installed_version('jax')}{torch}")
    rows = []
    config = config.copy_and_resolve_references()
    for config.dtype in dtypes:
        peak = product_rate(config.dtype, seconds)
        say(f"{config.dtype}: products of matrices {peak / 1e12:.3f} TFLOP/s")
        for form in counts.forms(config, vgg):
            for batch in batches:
                ours = bare.prepare(config, form, parallel, vgg_params, batch)
                ways = {"ours": ours.way()}
                difference = None
                if against:
                    sides = torch_sides(config, form, ours, parallel, batch)
                    difference = sides.difference
                    ways |= sides.ways
                row = {
                    "name": f"{form.phase.name}, {config.dtype}, batch {batch}",
                    **figures(form, ours, batch, device, peak),
                    **in_turns(ways, batch, seconds, rounds),
                }
                if difference is not None:
                    row["difference"] = difference
                if batch == config.data.batch_size:
                    row |= loop_figures(config, form, ours, parallel, seconds, rounds)
                row["flops_per_second"] = row["flop"] / row["step_seconds"]
                row["share_of_peak"] = row["flops_per_second"] / peak
                rows.append(row)
                say("\n".join(lines(row)))
    return rows


def usual_dtypes(config: ConfigDict) -> list[str]:
    """What is measured unless said otherwise: CPUs are no faster in bfloat16."""
    return [config.dtype] if jax.default_backend() == "cpu" else list(DTYPES)


def product_rate(dtype: str, seconds: float) -> float:
    """FLOP/s of a product of square matrices in a type, the best of several measurements."""
    side = 2048 if jax.default_backend() == "cpu" else 8192
    matrix = jax.random.normal(jax.random.key(0), (side, side)).astype(dtype)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(matrix, matrix))
    best, count = float("inf"), 1
    for _ in range(6):  # the first tells how many fit
        before = time.perf_counter()
        for _ in range(count):
            result = product(matrix, matrix)
        jax.block_until_ready(result)
        took = (time.perf_counter() - before) / count
        best = min(best, took)
        count = max(round(seconds / 5 / took), 1)
    return 2 * side**3 / best


def figures(form: Forms, ours: Bare, batch: int, device: jax.Device, peak: float) -> dict[str, Any]:
    """What is not timed in rounds."""
    memory = ours.program.memory_analysis()  # type: ignore[attr-defined]
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return {
        "phase": form.phase.name,
        "dtype": form.phase.recipe.dtype,
        "batch_size": batch,
        "device": device.device_kind,
        "compile_seconds": ours.compile_seconds,
        "peak_bytes": held - memory.alias_size_in_bytes + memory.temp_size_in_bytes,
        "flop": counts.trace(form, batch, 1, device.platform).flops,
        "peak_flops_per_second": peak,
    }


def in_turns(ways: dict[str, Way], batch: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Images/s of each way, and how many times faster ours is than the others."""
    taken = turns.in_rounds(ways, seconds, rounds)

    def told(values: list[float]) -> dict[str, Any]:
        median = statistics.median(values)
        return {"images_per_second": batch / median, "step_seconds": median, "rounds": values}

    row = told(taken["ours"])
    others = {name: told(values) for name, values in taken.items() if name != "ours"}
    if others:
        for name, other in others.items():
            other["ratio"] = turns.ratio(taken[name], of=taken["ours"])
        own_ways = [other["ratio"] for name, other in others.items() if name != "rewritten"]
        row |= {"torch": others, "ratio": min(own_ways)}
    return row


def loop_figures(
    config: ConfigDict, form: Forms, ours: Bare, parallel: Parallel, seconds: float, rounds: int
) -> dict[str, Any]:
    """The training loop with its pictures on the device, and its share of the bare step's rate."""
    config = config.copy_and_resolve_references()
    config.data.placement = "device"
    pictures = recipes.load_pictures(config, progress=False)
    engine = Engine(parallel, Supply.from_config(config, parallel, *pictures), ours.steps)
    phase = dataclasses.replace(form.phase, start=0, vgg_params=ours.vgg_params)
    measures = {"bare": ours.run, "loop": data.looped(config, engine, phase)}
    images = ours.steps * config.data.batch_size
    rates = data.measured(measures, ours.first_state(), images, seconds, rounds)
    return {
        "loop_images_per_second": statistics.median(rates["loop"]),
        "loop_share": turns.ratio(rates["loop"], of=rates["bare"]),
    }


def lines(row: dict[str, Any]) -> Iterator[str]:
    """A row as text."""

    def rate(told: dict[str, Any]) -> str:
        rounds = [1e3 * value for value in told["rounds"]]
        return (
            f"{told['images_per_second']:9.1f} images/s, {1e3 * told['step_seconds']:8.2f} ms"
            f" ({min(rounds):.2f} to {max(rounds):.2f})"
        )

    yield (
        f"{row['name']:29}{rate(row)}, {row['flops_per_second'] / 1e12:.3f} TFLOP/s,"
        f" {row['share_of_peak']:.0%} of the peak, {row['peak_bytes'] / 2**20:.0f} MiB,"
        f" compiled in {row['compile_seconds']:.0f} s"
    )
    if "loop_share" in row:
        yield (
            f"{'  the loop':29}{row['loop_images_per_second']:9.1f} images/s,"
            f" {row['loop_share']:.1%} of the bare step"
        )
    for name, told in row.get("torch", {}).items():
        yield f"{'  torch, ' + name:29}{rate(told)}, {told['ratio']:.2f} times as long"
    if "ratio" in row:
        yield (
            f"{'':29}{row['ratio']:.2f} times faster than PyTorch's fastest own way;"
            f" losses differ by {row['difference']:.0e}"
        )
