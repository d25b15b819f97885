"""The one place where a pure step becomes a jitted program over the devices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from srgan_jax.data.degradation import Batch
from srgan_jax.data.resident import Resident, ResidentSource, Store
from srgan_jax.data.sampling import CropPlan, Sizes
from srgan_jax.errors import UserError
from srgan_jax.state import Params, TrainState
from srgan_jax.steps import Metrics, Recipe

AXIS = "devices"

Step = Callable[..., tuple[TrainState, Metrics]]
Program = Callable[[TrainState, Params, Resident | Batch], tuple[TrainState, Metrics]]


class Parallel:
    """Places arrays on the devices and compiles steps for them; the batch is what is split.

    The state is whole on every device and has no device axis in either mode, so that
    checkpoints don't depend on how many devices wrote them.
    """

    def __init__(self, mode: str, devices: list[jax.Device] | None = None):
        """`mode` is "jit" or "pmap"; all of this process's devices by default."""
        self.mode = mode
        self.devices = devices or jax.local_devices()
        # Auto axes: under Explicit ones pixel shuffle's reshape would have to name a sharding.
        self.mesh = Mesh(np.array(self.devices), (AXIS,), axis_types=(AxisType.Auto,))
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.split = NamedSharding(self.mesh, PartitionSpec(AXIS))

    def check_batch(self, batch_size: int) -> None:
        """Raises: UserError where the devices don't divide the batch."""
        if batch_size % len(self.devices):
            raise UserError(
                f"config.data.batch_size={batch_size} cannot be split over"
                f" {len(self.devices)} devices: make it a multiple, or show JAX fewer devices"
                " (on GPUs by CUDA_VISIBLE_DEVICES)"
            )

    def compile(
        self,
        step: Step,
        recipe: Recipe,
        source: ResidentSource | None,
        steps: int,
        state: TrainState,
        vgg_params: Params,
        data: Resident | Batch,
    ) -> Program:
        """`steps` steps of `steps.py` as one program for arguments like these, placed as here.

        Batches come from `source` and the pictures in `data`; or, without a source, `data` is
        the batches, as `place_batches` gives them. Metrics have a leading axis [steps]. The
        state passed to the program is donated to the one returned.
        """
        if self.mode == "jit":
            take = None if source is None else self._over_devices(source, data)
            program = jax.jit(
                functools.partial(_many_steps, step, recipe, source, take, steps, None),
                out_shardings=(self.replicated, self.replicated),
                donate_argnums=0,
            )
        else:
            take = None if source is None else functools.partial(_flat_share, source)
            batches_or_blocks: Any = 0 if source is None else _specs(source, data, 0, None)
            program = jax.pmap(
                functools.partial(_many_steps, step, recipe, source, take, steps, AXIS),
                axis_name=AXIS,
                in_axes=(None, None, batches_or_blocks),
                out_axes=None,  # the same on every device
                devices=self.devices,
                donate_argnums=0,
            )
        return program.lower(state, vgg_params, data).compile()

    def _over_devices(self, source: ResidentSource, data: Any) -> Callable[..., Batch]:
        """`source.take` for all devices together: each field [parts * B, ...]."""
        everywhere, split = PartitionSpec(), PartitionSpec(AXIS)
        shared = jax.shard_map(
            functools.partial(source.take, axis_name=AXIS),
            mesh=self.mesh,
            in_specs=(_specs(source, data, split, everywhere), everywhere),
            out_specs=PartitionSpec(None, AXIS),
        )
        return lambda data, plan: jax.tree.map(_flat, shared(data, plan))

    def replicate(self, tree: Any) -> Any:
        """Arrays whole on every device."""
        return jax.device_put(tree, self.replicated)

    def place_pictures(self, data: Resident, source: ResidentSource) -> Resident:
        """Pictures on the devices, whole on each or each a part, as the source says."""
        if self.mode == "pmap":
            devices = len(self.devices)
            data = jax.tree.map(
                lambda x, split: x.reshape(devices, -1, *x.shape[1:]) if split else x,
                data,
                _specs(source, data, True, False),
            )
        return jax.device_put(data, _specs(source, data, self.split, self.replicated))

    def place_batches(self, batches: Batch, parts: int) -> Batch:
        """Host batches [steps, parts * B, ...] on the devices, as programs of this mode take them.

        With `parts` updates of D in a step, every device gets its share of each part.
        """
        if self.mode == "jit":
            return jax.device_put(batches, NamedSharding(self.mesh, PartitionSpec(None, AXIS)))
        devices = len(self.devices)

        def share(x: np.ndarray) -> np.ndarray:
            x = x.reshape(len(x), parts, devices, -1, *x.shape[2:])
            x = np.moveaxis(x, 2, 0)
            return x.reshape(devices, x.shape[1], -1, *x.shape[4:])

        return jax.device_put(jax.tree.map(share, batches), self.split)


def _many_steps(
    step: Step,
    recipe: Recipe,
    source: ResidentSource | None,
    take: Callable[[Resident, CropPlan], Batch] | None,
    steps: int,
    axis_name: str | None,
    state: TrainState,
    vgg_params: Params,
    data: Any,
) -> tuple[TrainState, Metrics]:
    """One step after another, each with its own batch; metrics [steps]."""
    # All crops are planned at once: small operations that a step would wait for.
    batches_or_plans = data if source is None else source.plans(data, state.step, steps)

    def one(state: TrainState, batch_or_plan: Any) -> tuple[TrainState, Metrics]:
        batch = batch_or_plan if take is None else take(data, batch_or_plan)
        return step(recipe, state, vgg_params, batch, axis_name=axis_name)

    if steps == 1:  # no loop: inside one, XLA's CPU backend is many times slower
        state, metrics = one(state, jax.tree.map(lambda x: x[0], batches_or_plans))
        return state, jax.tree.map(lambda x: x[None], metrics)
    return jax.lax.scan(one, state, batches_or_plans, length=steps)


def _flat(x: jax.Array) -> jax.Array:
    """[parts, B, ...] to [parts * B, ...]."""
    return x.reshape(-1, *x.shape[2:])


def _flat_share(source: ResidentSource, data: Resident, plan: CropPlan) -> Batch:
    return jax.tree.map(_flat, source.take(data, plan, AXIS))


def _specs(source: ResidentSource, data: Any, split: Any, whole: Any) -> Resident:
    """A tree like `data`: `split` for what the devices share out, `whole` for the rest."""

    def of_store(store: Store | None) -> Store | None:
        blocks = split if source.sharded else whole
        return None if store is None else Store(blocks, whole, whole)

    sizes = Sizes(whole, whole, whole)
    return Resident(split, whole, sizes, of_store(data.hr), of_store(data.lr_image))  # type: ignore
