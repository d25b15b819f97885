"""The one place where a pure step becomes a jitted program over the devices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from srgan_jax.data.degradation import Batch
from srgan_jax.errors import UserError
from srgan_jax.state import Params, TrainState
from srgan_jax.steps import Metrics, Recipe

AXIS = "devices"

Step = Callable[[TrainState, Params, Batch], tuple[TrainState, Metrics]]


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
        step: Callable[..., tuple[TrainState, Metrics]],
        recipe: Recipe,
        state: TrainState,
        vgg_params: Params,
        batch: Batch,
    ) -> Step:
        """A step of `steps.py` as a program for arguments like these, placed as here.

        The state passed to it is donated to the one returned.
        """
        program: Any
        if self.mode == "jit":
            program = jax.jit(
                functools.partial(step, recipe),
                in_shardings=(self.replicated, self.replicated, self.split),
                out_shardings=(self.replicated, self.replicated),
                donate_argnums=0,
            )
        else:
            program = jax.pmap(
                functools.partial(step, recipe, axis_name=AXIS),
                axis_name=AXIS,
                in_axes=(None, None, 0),
                out_axes=None,  # the same on every device
                devices=self.devices,
                donate_argnums=0,
            )
        return program.lower(state, vgg_params, batch).compile()

    def replicate(self, tree: Any) -> Any:
        """Arrays whole on every device."""
        return jax.device_put(tree, self.replicated)

    def place(self, batch: Batch, parts: int = 1) -> Batch:
        """A host batch [parts * B, ...] on the devices, as the step of this mode takes it.

        With `parts` updates of D in a step, every device gets its share of each part.
        """
        if self.mode == "jit":
            return jax.device_put(batch, self.split)
        devices = len(self.devices)

        def share(x: np.ndarray) -> np.ndarray:
            x = x.reshape(parts, devices, -1, *x.shape[1:])
            return x.swapaxes(0, 1).reshape(devices, -1, *x.shape[3:])

        return Batch(*(share(np.asarray(x)) for x in batch))
