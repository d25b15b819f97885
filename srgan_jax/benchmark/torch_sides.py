"""PyTorch's ways to do a training step of ours, compared with it, ready to be measured."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from srgan_jax import config as config_lib
from srgan_jax.benchmark import samples
from srgan_jax.benchmark.bare import Bare
from srgan_jax.benchmark.counts import Forms
from srgan_jax.benchmark.turns import Way
from srgan_jax.data import sources
from srgan_jax.data.degradation import Batch, training_pairs
from srgan_jax.errors import UserError
from srgan_jax.parallel import Parallel
from srgan_jax.steps import GanRecipe

# How far the losses of both sides may be apart, in two steps from one state: bfloat16's sums are
# rounded after 8 bits, and the second step's losses are those after an update by Adam, which makes
# small differences of small gradients large.
TOLERANCE = {"float32": 2e-3, "bfloat16": 5e-2}


@dataclasses.dataclass(frozen=True)
class TorchSides:
    """PyTorch's ways to do the same steps, and how far its losses were from ours."""

    ways: dict[str, Way]
    difference: float


def torch_sides(
    config: ConfigDict,
    form: Forms,
    ours: Bare,
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
    platform = {"cpu": "cpu", "gpu": "cuda"}.get(parallel.devices[0].platform, "")
    if not platform or not torch_train.has(platform):
        raise UserError(
            f"--against=torch: PyTorch here cannot use {parallel.devices[0].device_kind}:"
            " measure without"
        )
    make: Callable[..., torch_train.Trainer] = functools.partial(
        torch_train.Trainer,
        (recipe.generator, state.generator.variables),
        (recipe.discriminator, state.discriminator.variables)
        if isinstance(recipe, GanRecipe)
        else None,
        (recipe.vgg, jax.device_get(ours.vgg_params)) if recipe.vgg else None,
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
    form: Forms, ours: Bare, parallel: Parallel, crops: Batch
) -> Iterator[dict[str, float]]:
    """What our steps tell of one batch after the other, [steps, B, ...] from the first state."""
    state = ours.first_state()
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
