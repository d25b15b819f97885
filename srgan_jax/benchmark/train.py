"""The training steps: how fast, how near to what the device can do, and beside PyTorch's."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from srgan_jax import config as config_lib
from srgan_jax import recipes, train
from srgan_jax.benchmark import counts, data, samples
from srgan_jax.benchmark.counts import Forms
from srgan_jax.data import sources
from srgan_jax.data.degradation import Batch, training_pairs
from srgan_jax.engine import Engine, steps_per_dispatch
from srgan_jax.errors import UserError
from srgan_jax.models.vgg import VGG19
from srgan_jax.monitor import say
from srgan_jax.parallel import Parallel, Program
from srgan_jax.state import Params, TrainState
from srgan_jax.steps import GanRecipe
from srgan_jax.supply import Supply
from srgan_jax.workdir import installed_version

DTYPES = ("float32", "bfloat16")

# How far the losses of both sides may be apart, in two steps from one state: bfloat16's sums are
# rounded after 8 bits, and the second step's losses are those after an update by Adam, which makes
# small differences of small gradients large.
TOLERANCE = {"float32": 2e-3, "bfloat16": 5e-2}

Way = Callable[[int], float]  # does so many steps, or dispatches of ours: seconds a step


@dataclasses.dataclass(frozen=True)
class Ours:
    """A compiled step, what it starts from, and what it takes."""

    program: Program
    state: TrainState
    vgg_params: Params
    data: Batch  # on the device, for one dispatch
    steps: int  # in a dispatch
    compile_seconds: float

    def way(self) -> Way:
        """Step after step, each from where the last one came to."""
        state = jax.tree.map(jnp.copy, self.state)

        def run(count: int) -> float:
            nonlocal state
            before = time.perf_counter()
            for _ in range(count):
                state, _ = self.program(state, self.vgg_params, self.data)
            jax.block_until_ready(state)
            return (time.perf_counter() - before) / (count * self.steps)

        return run


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
    size also the training loop, whose metrics are fetched and checked. `peak` is the arithmetic of
    a large product of matrices, measured in the same type; `flop` is counted in convolutions and
    products as XLA counts, without padding.

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
    vgg, vgg_params = content_network(config)
    torch = f", torch {installed_version('torch')}" if against else ""
    say(f"{device.device_kind}, {sources.cores()} cores, jax {installed_version('jax')}{torch}")
    rows = []
    for config.dtype in dtypes:
        peak = product_rate(config.dtype, seconds)
        say(f"{config.dtype}: products of matrices {peak / 1e12:.3f} TFLOP/s")
        for form in counts.forms(config):
            for batch in batches:
                ours = prepare(config, form, parallel, vgg_params, batch)
                ways = {"ours": ours.way()}
                difference = None
                if against:
                    sides = torch_sides(config, form, ours, vgg, vgg_params, parallel, batch)
                    difference = sides.difference
                    ways |= sides.ways
                row = {
                    "name": f"{form.phase.name}, {config.dtype}, batch {batch}",
                    **figures(form, ours, batch, device, peak),
                    **in_turns(ways, batch, ours.steps, seconds, rounds),
                }
                if difference is not None:
                    row["difference"] = difference
                if batch == config.data.batch_size:
                    row |= loop_figures(config, form, ours, vgg, parallel, seconds, rounds)
                row["flops_per_second"] = row["flop"] / row["step_seconds"]
                row["share_of_peak"] = row["flops_per_second"] / peak
                rows.append(row)
                say("\n".join(lines(row)))
    return rows


def usual_dtypes(config: ConfigDict) -> list[str]:
    """What is measured unless said otherwise: CPUs are no faster in bfloat16."""
    return [config.dtype] if jax.default_backend() == "cpu" else list(DTYPES)


def content_network(config: ConfigDict) -> tuple[VGG19 | None, Params]:
    """As training loads it; of `vgg.path="random"` random weights, which are as fast."""
    wanted = any(
        config[name].content.vgg and config_lib.has_steps(config, name)
        for name in config_lib.PHASES
    )
    if config.vgg.path != "random" or not wanted:
        return recipes.load_content_network(config)
    vgg = VGG19(layers=tuple(config.vgg.layers))
    make = jax.jit(lambda key: vgg.init(key, jnp.zeros((1, 32, 32, 3)))["params"])
    return vgg, jax.tree.map(np.asarray, make(jax.random.key(0)))


def product_rate(dtype: str, seconds: float) -> float:
    """FLOP/s of a product of square matrices in a type, the best of five measurements."""
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


def prepare(
    config: ConfigDict, form: Forms, parallel: Parallel, vgg_params: Params, batch: int
) -> Ours:
    """The program of a phase, as training compiles it, for crops of the built-in photographs."""
    steps = steps_per_dispatch(config, parallel)
    recipe = form.phase.recipe
    state = parallel.place_state(initial_state(config, form))
    vgg_params = parallel.replicate(vgg_params if recipe.vgg else {})
    crops = samples.batch((steps, recipe.batches_per_step * batch), config.data.crop)
    placed = parallel.place_batches(crops, recipe.batches_per_step)
    before = time.perf_counter()
    program = parallel.compile(form.step, recipe, None, steps, state, vgg_params, placed)
    return Ours(program, state, vgg_params, placed, steps, time.perf_counter() - before)


def initial_state(config: ConfigDict, form: Forms) -> TrainState:
    """The state at a phase's first step, on the host."""

    def make() -> TrainState:
        first = train.initial_state(config, counts.forms(config)[0].phase)
        is_gan = isinstance(form.phase.recipe, GanRecipe)
        return train.enter_gan(config, form.phase, first) if is_gan else first

    return jax.device_get(jax.jit(make)())


def figures(form: Forms, ours: Ours, batch: int, device: jax.Device, peak: float) -> dict[str, Any]:
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


def in_turns(
    ways: dict[str, Way], batch: int, steps: int, seconds: float, rounds: int
) -> dict[str, Any]:
    """Images/s of each way, and how many times faster ours is than the others."""
    count = {}
    for name, way in ways.items():
        way(1)  # the first is slower
        each = way(1) * (steps if name == "ours" else 1)
        count[name] = max(round(seconds / each), 1)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            taken[name].append(way(count[name]))

    def told(values: list[float]) -> dict[str, Any]:
        median = statistics.median(values)
        return {"images_per_second": batch / median, "step_seconds": median, "rounds": values}

    row = told(taken["ours"])
    others = {name: told(values) for name, values in taken.items() if name != "ours"}
    if others:
        for name, other in others.items():
            pairs = zip(taken["ours"], taken[name], strict=True)
            other["ratio"] = statistics.median(theirs / own for own, theirs in pairs)
        own_ways = [other["ratio"] for name, other in others.items() if name != "rewritten"]
        row |= {"torch": others, "ratio": min(own_ways)}
    return row


@dataclasses.dataclass(frozen=True)
class TorchSides:
    """PyTorch's ways to do the same steps, and how far its losses were from ours."""

    ways: dict[str, Way]
    difference: float


def torch_sides(
    config: ConfigDict,
    form: Forms,
    ours: Ours,
    vgg: VGG19 | None,
    vgg_params: Params,
    parallel: Parallel,
    batch: int,
) -> TorchSides:
    """PyTorch from the same state on the same crops. Raises: UserError where losses differ."""
    from srgan_jax.benchmark import torch_train  # optional: needs an extra

    recipe = form.phase.recipe
    if recipe.batches_per_step > 1 or recipe.accumulate > 1 or recipe.ema_decay:
        raise UserError(
            "--against=torch: the PyTorch side has neither gan.discriminator_updates above 1 nor"
            " optim.accumulate nor ema_decay"
        )
    state = jax.device_get(ours.state)
    platform = "cpu" if parallel.devices[0].platform == "cpu" else "cuda"
    make: Callable[..., torch_train.Trainer] = functools.partial(
        torch_train.Trainer,
        (recipe.generator, state.generator.variables),
        (recipe.discriminator, state.discriminator.variables)
        if isinstance(recipe, GanRecipe)
        else None,
        (vgg, vgg_params) if vgg and recipe.vgg else None,
        content=recipe.content,
        adversarial=recipe.adversarial if isinstance(recipe, GanRecipe) else None,
        learning_rate=config_lib.learning_rate_of(config, form.phase.name),
        beta1=config.optim.beta1,
        beta2=config.optim.beta2,
        epsilon=config.optim.epsilon,
        autocast=recipe.dtype == "bfloat16",
        device=platform,
        cores=sources.cores(),
    )
    crops = samples.batch((2, batch), config.data.crop, seed=1)
    told = list(_losses(form, ours, parallel, crops))
    pairs = [
        tuple(
            torch_train.to_torch(image, platform)
            for image in training_pairs(
                recipe.degradation, jax.tree.map(lambda x, i=i: x[i], crops)
            )
        )
        for i in (0, 1)
    ]
    ways: dict[str, Way] = {}
    differences = []
    for name, options in torch_train.ways(platform).items():
        trainer = make(**options)
        if name == "compile" and not trainer.compiles:
            continue
        theirs = [
            {loss: value.item() for loss, value in trainer.step(*pair).items()} for pair in pairs
        ]
        differences.append(_difference(name, told, theirs, TOLERANCE[recipe.dtype]))

        def run(count: int, trainer: Any = trainer) -> float:
            before = time.perf_counter()
            for _ in range(count):
                losses = trainer.step(*pairs[0])
            losses["loss"].item()  # waits for the device
            return (time.perf_counter() - before) / count

        ways[name] = run
    return TorchSides(ways, max(differences))


def _losses(
    form: Forms, ours: Ours, parallel: Parallel, crops: Batch
) -> Iterator[dict[str, float]]:
    """What our steps tell of one batch after the other, [steps, B, ...] from the first state."""
    state = jax.tree.map(jnp.copy, ours.state)
    program = None
    for i in range(len(crops.codes)):
        placed = parallel.place_batches(jax.tree.map(lambda x: x[i : i + 1], crops), 1)  # noqa: B023
        if program is None:
            one = (form.step, form.phase.recipe, None, 1, state, ours.vgg_params, placed)
            program = ours.program if ours.steps == 1 else parallel.compile(*one)
        state, metrics = program(state, ours.vgg_params, placed)
        yield {name: float(value[0]) for name, value in metrics.items()}


def _difference(
    name: str, ours: list[dict[str, float]], theirs: list[dict[str, float]], most: float
) -> float:
    """The largest relative difference of a loss. Raises: UserError where it is too large."""
    largest = 0.0
    for step, (own, other) in enumerate(zip(ours, theirs, strict=True), 1):
        for loss, value in other.items():
            differs = abs(value - own[loss]) / max(abs(own[loss]), 1e-12)
            if not differs <= most:
                raise UserError(
                    f"nothing to compare: {loss} of step {step} is {own[loss]:.6g} here and"
                    f" {value:.6g} in PyTorch ({name}), which is more than rounding: no ratio is"
                    " given"
                )
            largest = max(largest, differs)
    return largest


def loop_figures(
    config: ConfigDict,
    form: Forms,
    ours: Ours,
    vgg: VGG19 | None,
    parallel: Parallel,
    seconds: float,
    rounds: int,
) -> dict[str, Any]:
    """The training loop with its pictures on the device, and its share of the bare step's rate."""
    config.data.placement = "device"
    pictures = recipes.load_pictures(config, progress=False)
    supply = Supply.from_config(config, parallel, *pictures)
    engine = Engine(parallel, supply, ours.steps)
    phases = recipes.make_phases(config, [2**31 - 1] * 2, vgg, ours.vgg_params)
    phase = dataclasses.replace(phases[config_lib.PHASES.index(form.phase.name)], start=0)

    def bare(state: TrainState, count: int) -> TrainState:
        for _ in range(count):
            state, _ = ours.program(state, ours.vgg_params, ours.data)
        return jax.block_until_ready(state)

    measures = {"bare": bare, "loop": data.looped(config, engine, phase)}
    state = jax.tree.map(jnp.copy, ours.state)
    rates = data.measured(measures, state, engine, config.data.batch_size, seconds, rounds)
    pairs = zip(rates["loop"], rates["bare"], strict=True)
    return {
        "loop_images_per_second": statistics.median(rates["loop"]),
        "loop_share": statistics.median(loop / bare for loop, bare in pairs),
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
