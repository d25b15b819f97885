"""What a training step computes and sends, counted in the program that JAX traces: nothing runs."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval
from ml_collections import ConfigDict

from srgan_jax import config as config_lib
from srgan_jax import optim, recipes, train
from srgan_jax.benchmark.formula import Load
from srgan_jax.data.degradation import Batch
from srgan_jax.models.vgg import VGG19
from srgan_jax.parallel import AXIS, Parallel, Program, Step
from srgan_jax.recipes import Phase
from srgan_jax.state import Network, Params, TrainState
from srgan_jax.steps import gan_step, pretrain_step

COLLECTIVES = {"psum": "all-reduce", "all_gather": "all-gather", "reduce_scatter": "reduce-scatter"}


@dataclasses.dataclass(frozen=True)
class Sent:
    """One array that a collective makes on every device."""

    kind: str  # of `COLLECTIVES`
    shape: tuple[int, ...]
    size: int  # bytes

    @property
    def of_gradients(self) -> bool:
        """`steps.average` sends one long vector, BatchNorm [2, C]."""
        return self.kind == "all-reduce" and len(self.shape) == 1


@dataclasses.dataclass(frozen=True)
class Count:
    """What one device does in one step.

    Attributes:
      flops: of convolutions and matrix products, two for each multiplication that meets a pixel
        (not padding), as XLA counts them.
      layers: how many convolutions and products there are.
      sent: every collective.
    """

    flops: float
    layers: int
    sent: tuple[Sent, ...]


@dataclasses.dataclass(frozen=True)
class Forms:
    """The arguments of a phase's step as shapes, whole."""

    phase: Phase
    step: Step
    state: TrainState
    vgg_params: Params
    crop: int

    def batch(self, *sizes: int) -> Batch:
        """Crops, their codes and their seeds, each [*sizes, ...]."""
        form: Any = jax.ShapeDtypeStruct
        crops = form((*sizes, self.crop, self.crop, 3), np.uint8)
        return Batch(crops, form(sizes, np.int32), form(sizes, np.uint32))

    @property
    def networks(self) -> dict[str, Network]:
        """Those that are trained."""
        found = {"G": self.state.generator, "D": self.state.discriminator}
        return {name: network for name, network in found.items() if network is not None}


def forms(config: ConfigDict, vgg: VGG19 | None = None) -> list[Forms]:
    """Of the phases that the config trains. Neither pictures nor VGG19's weights are needed.

    `vgg` is that of loaded weights, where there are any.
    """
    vgg_params = {}
    if config_lib.compares_features(config):
        vgg = vgg or VGG19(layers=tuple(config.vgg.layers))
        vgg_params = jax.eval_shape(vgg.init, jax.random.key(0), np.zeros((1, 32, 32, 3)))["params"]
    # The lengths are in the schedules only.
    phases = recipes.make_phases(config, [2**31 - 1] * 2, vgg, vgg_params)
    pretraining, gan = phases
    first = jax.eval_shape(lambda: train.initial_state(config, pretraining))
    states = [first, jax.eval_shape(lambda state: train.enter_gan(config, gan, state), first)]
    return [
        Forms(phase, step, state, phase.vgg_params, config.data.crop)
        for phase, step, state in zip(phases, (pretrain_step, gan_step), states, strict=True)
        if config_lib.has_steps(config, phase.name)
    ]


def trace(form: Forms, images: int, devices: int, platform: str | None = None) -> Count:
    """The step of one of so many devices, `images` each of every batch.

    `platform` is such as "cpu", where a layer has a form of its own for it.
    """
    recipe = form.phase.recipe

    def own(x: Any) -> Any:
        axis = optim.shard_axis(x.shape, devices if recipe.shard_optimizer else 1)
        if axis is None:
            return x
        shape = list(x.shape)
        shape[axis] //= devices
        return jax.ShapeDtypeStruct(tuple(shape), x.dtype)

    def part(value: Any) -> Any:
        if not isinstance(value, Network):
            return value
        return value.replace(opt_state=jax.tree.map(own, value.opt_state))  # type: ignore

    state = jax.tree.map(part, form.state, is_leaf=lambda value: isinstance(value, Network))
    step = functools.partial(form.step, recipe, axis_name=AXIS if devices > 1 else None)
    traced = jax.make_jaxpr(step, axis_env=[(AXIS, devices)])(
        state, form.vgg_params, form.batch(recipe.batches_per_step * images)
    )
    # Without what nothing uses, as it is compiled.
    used, _ = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    return count(used, platform)


def count(jaxpr: core.Jaxpr, platform: str | None = None) -> Count:
    """Of a program as `jax.make_jaxpr` gives it."""
    operations = list(_operations(jaxpr, 1, platform))
    work = [_flops(op) * times for op, times in operations]
    return Count(
        flops=sum(work),
        layers=sum(times for (_, times), flops in zip(operations, work, strict=True) if flops),
        sent=tuple(
            _sent(COLLECTIVES[op.primitive.name], made)
            for op, times in operations
            if op.primitive.name in COLLECTIVES
            for made in op.outvars * times
        ),
    )


def _sent(kind: str, made: Any) -> Sent:
    shape, dtype = made.aval.shape, made.aval.dtype
    return Sent(kind, shape, math.prod(shape) * dtype.itemsize)


def _operations(jaxpr: Any, times: int, platform: str | None) -> Iterator[tuple[Any, int]]:
    """All operations, also those of functions and loops, and how often each is done."""
    for operation in jaxpr.eqns:
        yield operation, times
        params = operation.params
        inner = params.get("length", 1) if operation.primitive.name == "scan" else 1
        if params.get("branches_platforms"):
            params = {"branch": _branch_for(platform, params)}
        for value in jax.tree.leaves(params, is_leaf=_is_jaxpr):
            if _is_jaxpr(value):
                yield from _operations(getattr(value, "jaxpr", value), times * inner, platform)


def _branch_for(platform: str | None, params: dict[str, Any]) -> Any:
    """What `lax.platform_dependent` takes: the form for a platform, else that for the rest."""
    of_rest = None
    for branch, platforms in zip(params["branches"], params["branches_platforms"], strict=True):
        if platforms is None:
            of_rest = branch
        elif platform in platforms:
            return branch
    return of_rest


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


def _flops(operation: Any) -> float:
    if operation.primitive.name == "dot_general":
        ((contracted, _), _) = operation.params["dimension_numbers"]
        left = operation.invars[0].aval.shape
        return 2.0 * operation.outvars[0].aval.size * math.prod(left[i] for i in contracted)
    if operation.primitive.name != "conv_general_dilated":
        return 0.0
    image, kernel = (x.aval.shape for x in operation.invars)
    made = operation.outvars[0].aval.shape
    params = operation.params
    image_axes, kernel_axes, made_axes = params["dimension_numbers"]
    met = 1
    for i, (before, _) in enumerate(params["padding"]):
        place = (
            np.arange(made[made_axes[2 + i]])[:, None] * params["window_strides"][i]
            + np.arange(kernel[kernel_axes[2 + i]]) * params["rhs_dilation"][i]
            - before
        )
        between = params["lhs_dilation"][i]
        length = (image[image_axes[2 + i]] - 1) * between + 1
        met *= int(np.sum((place >= 0) & (place < length) & (place % between == 0)))
    return 2.0 * met * made[made_axes[0]] * made[made_axes[1]] * kernel[kernel_axes[1]]


def load_of(form: Forms, devices: int, images: int) -> Load:
    """What the formula takes: a step of `images`, as many as there are parts, on every device."""
    recipe = form.phase.recipe
    # Only what is sharded depends on how many devices there are.
    count = trace(form, images, devices if recipe.shard_optimizer else 2)
    reduced = [sent for sent in count.sent if sent.kind == "all-reduce"]
    return Load(
        image_flops=count.flops / images,
        layers=count.layers,
        params=sum(elements(network.variables.params) for network in form.networks.values()),
        gradients=tuple(sent.size for sent in reduced if sent.of_gradients),
        batch_norm=tuple(sent.size for sent in reduced if not sent.of_gradients),
        gathered=tuple(sent.size for sent in count.sent if sent.kind == "all-gather"),
    )


def elements(tree: Any) -> int:
    """In all arrays of a tree."""
    return sum(x.size for x in jax.tree.leaves(tree))


def describe(form: Forms, load: Load, devices: int) -> str:
    """The counts of a step, and the bytes of what is trained, in lines."""
    networks = ", ".join(
        f"{name} {elements(network.variables.params):,}" for name, network in form.networks.items()
    )
    moments = 8 * (load.params - (sum(load.gathered) / 4) * (1 - 1 / devices))
    lines = [
        f"{form.phase.network} at crops of {form.crop}",
        f"  parameters    {networks}",
        f"  memory        parameters {_mb(4 * load.params)}, gradients {_mb(4 * load.params)},"
        f" moments {_mb(moments)} on each of {devices}",
        f"  arithmetic    {load.image_flops / 1e9:.2f} GFLOP an image,"
        f" {load.layers} convolutions and products a step",
        f"  all-reduces   {len(load.gradients)} of gradients and metrics:"
        f" {' and '.join(_mb(size) for size in load.gradients)};"
        f" {len(load.batch_norm)} of BatchNorm: {_mb(sum(load.batch_norm))}",
    ]
    if load.gathered:
        lines.append(f"  all-gathers   {len(load.gathered)} of updates: {_mb(sum(load.gathered))}")
    return "\n".join(lines)


def describe_compiled(form: Forms, parallel: Parallel, images: int) -> str:
    """The collectives of the compiled step on these devices, in a line."""
    found = sent_by(compile_step(form, parallel, images))
    arrays = [sent for together in found for sent in together]
    gradients = [sent for sent in arrays if sent.of_gradients]
    return (
        f"  compiled      on {len(parallel.devices)} devices by {parallel.mode}:"
        f" {len(found)} collectives of {len(arrays)} arrays, {_mb(sum(x.size for x in arrays))},"
        f" of which {len(gradients)} of gradients:"
        f" {' and '.join(_mb(sent.size) for sent in gradients)}"
    )


def _mb(size: float) -> str:
    return f"{size / 1e6:.3f} MB" if size < 1e6 else f"{size / 1e6:,.1f} MB"


def compile_step(form: Forms, parallel: Parallel, images: int) -> Program:
    """The step as training compiles it, for `images` on each of these devices."""
    recipe = form.phase.recipe
    batch = form.batch(len(parallel.devices), 1, recipe.batches_per_step * images)
    return parallel.compile(form.step, recipe, None, 1, form.state, form.vgg_params, batch)


_COLLECTIVE = re.compile(r"= (.+?) (all-reduce|all-gather|reduce-scatter)(?:-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+)(\d+)\[([\d,]*)\]")


def sent_by(compiled: Program) -> list[list[Sent]]:
    """The collectives of a compiled step, of several arrays each where XLA has put them together.

    Those in a loop, of accumulated gradients or several steps a dispatch, are found once.
    """
    text = compiled.as_text()  # type: ignore
    found = []
    for made, kind in _COLLECTIVE.findall(text):
        arrays = []
        for _, bits, sides in _ARRAY.findall(made):
            shape = tuple(int(side) for side in sides.split(",") if side)
            arrays.append(Sent(kind, shape, math.prod(shape) * int(bits) // 8))
        found.append(arrays)
    return found
