"""The one place where a pure step becomes a compiled program over the devices of all processes."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from srgan_jax import optim
from srgan_jax.data.degradation import Batch
from srgan_jax.data.resident import Resident, ResidentSource, Store
from srgan_jax.data.sampling import Sizes
from srgan_jax.errors import UserError
from srgan_jax.state import Network, Params, TrainState
from srgan_jax.steps import Metrics, Recipe

AXIS = "devices"

# Of XLA. On CPUs, Eigen's convolutions: YNNPACK's, which newer versions prefer, need up to three
# times as long for a kernel's gradient.
COMPILER_OPTIONS: dict[str, dict[str, str | bool]] = {
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": ""}
}

Step = Callable[..., tuple[TrainState, Metrics]]
Program = Callable[[TrainState, Params, Resident | Batch], tuple[TrainState, Metrics]]


class Parallel:
    """Places arrays on the devices and compiles steps for them; the batch is what is split.

    The state is whole on every device, but for the optimizers' where those are sharded. It has no
    device axis in either mode, so that checkpoints don't depend on how many devices wrote them.
    What is split has one, the first: a device's share of each batch, or of the pictures.
    """

    def __init__(
        self,
        mode: str,
        devices: list[jax.Device] | None = None,
        *,
        shard_optimizer: bool = False,
    ):
        """`mode` is "jit" or "pmap"; all devices of all processes by default."""
        self.mode = mode
        # Those of a process beside each other: its shares of a batch are consecutive crops.
        self.devices = sorted(devices or jax.devices(), key=lambda d: (d.process_index, d.id))
        # Auto axes: under Explicit ones pixel shuffle's reshape would have to name a sharding.
        self.mesh = Mesh(np.array(self.devices), (AXIS,), axis_types=(AxisType.Auto,))
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.split = NamedSharding(self.mesh, PartitionSpec(AXIS))
        self._axis_name = AXIS if len(self.devices) > 1 else None
        self._optimizer_shards = len(self.devices) if shard_optimizer else 1
        own = [device.process_index == jax.process_index() for device in self.devices]
        self._own = slice(own.index(True), own.index(True) + sum(own))

    def check_batch(self, batch_size: int, accumulate: int = 1) -> None:
        """Raises: UserError where the devices, each in so many parts, don't divide the batch."""
        if batch_size % (len(self.devices) * accumulate):
            parts = f", in {accumulate} parts (config.optim.accumulate)" if accumulate > 1 else ""
            raise UserError(
                f"config.data.batch_size={batch_size} cannot be split over"
                f" {len(self.devices)} devices{parts}: make it a multiple, or show JAX fewer"
                " devices (on GPUs by CUDA_VISIBLE_DEVICES)"
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

        Both modes run the same function on every device, with its share; the collectives in it
        are those of `steps.average`, of BatchNorm, and of sharded pictures and optimizers.
        """
        many = functools.partial(_many_steps, step, recipe, source, steps, self._axis_name)
        if self.mode == "jit":
            split = _where(source, data, True, False)

            def share(state: TrainState, vgg_params: Params, data: Any) -> Any:
                own = jax.tree.map(lambda x, split: x[0] if split else x, data, split)
                return many(state, vgg_params, own)

            everywhere = PartitionSpec()
            specs = self._state_specs(state)
            program = jax.jit(
                jax.shard_map(
                    share,
                    mesh=self.mesh,
                    in_specs=(specs, everywhere, _where(source, data, self.split.spec, everywhere)),
                    out_specs=(specs, everywhere),
                    # As under pmap: gradients are averaged where the step says so, nowhere else.
                    check_vma=False,
                ),
                donate_argnums=0,
            )
        else:
            program = jax.pmap(
                many,
                axis_name=AXIS,
                in_axes=(None, None, _where(source, data, 0, None)),
                out_axes=None,  # the same on every device
                devices=self.devices,
                donate_argnums=0,
            )
        options = COMPILER_OPTIONS.get(self.devices[0].platform)
        return program.lower(state, vgg_params, data).compile(compiler_options=options)

    def place_state(self, state: TrainState) -> TrainState:
        """A state of host arrays, or of one device's, on all devices."""
        return jax.tree.map(
            lambda x, spec: _place(x, NamedSharding(self.mesh, spec)),
            state,
            self._state_specs(state),
        )

    def to_host(self, state: TrainState) -> TrainState:
        """The whole state in host arrays; all processes have to ask for it together."""
        if self._optimizer_shards > 1:
            state = jax.jit(lambda x: x, out_shardings=self.replicated)(state)
        return jax.device_get(state)

    def replicate(self, tree: Any) -> Any:
        """Arrays whole on every device."""
        return jax.tree.map(lambda x: _place(x, self.replicated), tree)

    def place_pictures(self, data: Resident, source: ResidentSource) -> Resident:
        """Pictures on the devices, whole on each or each a part, as the source says."""
        split = _where(source, data, True, False)
        return jax.tree.map(lambda x, split: self._split(x) if split else self.replicate(x),
                            data, split)  # fmt: skip

    def _split(self, x: np.ndarray) -> jax.Array:
        """Consecutive parts [devices, M, ...] of [N, ...]; the last are filled up with zeros."""
        count = len(self.devices)
        part = -(-len(x) // count)

        def of_device(index: tuple[slice, ...] | None) -> np.ndarray:
            first = (index[0].start or 0) if index else 0
            found = x[first * part : (first + 1) * part]
            missing = part - len(found)
            padding = [(0, missing)] + [(0, 0)] * (x.ndim - 1)
            return (np.pad(found, padding) if missing else found)[None]

        return jax.make_array_from_callback((count, part, *x.shape[1:]), self.split, of_device)

    def share(self, batch_size: int) -> slice:
        """The crops of each batch that the devices of this process take."""
        each = batch_size // len(self.devices)
        return slice(self._own.start * each, self._own.stop * each)

    def place_batches(self, batches: Batch, parts: int) -> Batch:
        """Host batches on the devices, each field [devices, steps, parts * b, ...].

        Args:
          batches: this process's `share` of each, [steps, parts * B, ...].
          parts: batches in a step, of each of which every device gets its share.
        """
        own = self._own.stop - self._own.start

        def place(x: np.ndarray) -> jax.Array:
            x = x.reshape(len(x), parts, own, -1, *x.shape[2:])
            x = np.moveaxis(x, 2, 0)  # [devices, steps, parts, b, ...]
            x = x.reshape(own, x.shape[1], -1, *x.shape[4:])
            shape = (len(self.devices), *x.shape[1:])
            return jax.make_array_from_process_local_data(self.split, x, shape)

        return jax.tree.map(place, batches)

    def _state_specs(self, state: TrainState) -> TrainState:
        """How each array of a state lies on the mesh."""
        everywhere = PartitionSpec()

        def of_optimizer(x: Any) -> PartitionSpec:
            axis = optim.shard_axis(x.shape, self._optimizer_shards)
            return everywhere if axis is None else PartitionSpec(*[None] * axis, AXIS)

        def of_part(part: Any) -> Any:
            specs = jax.tree.map(lambda _: everywhere, part)
            if isinstance(part, Network):
                specs = specs.replace(opt_state=jax.tree.map(of_optimizer, part.opt_state))
            return specs

        return jax.tree.map(of_part, state, is_leaf=lambda part: isinstance(part, Network))


def _many_steps(
    step: Step,
    recipe: Recipe,
    source: ResidentSource | None,
    steps: int,
    axis_name: str | None,
    state: TrainState,
    vgg_params: Params,
    data: Any,
) -> tuple[TrainState, Metrics]:
    """One step after another, each with its own batch, on one device; metrics [steps]."""
    # All crops are planned at once: small operations that a step would wait for.
    batches_or_plans = data if source is None else source.plans(data, state.step, steps)

    def one(state: TrainState, batch_or_plan: Any) -> tuple[TrainState, Metrics]:
        batch = batch_or_plan
        if source is not None:
            parts = source.take(data, batch_or_plan, AXIS)
            batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), parts)
        return step(recipe, state, vgg_params, batch, axis_name=axis_name)

    if steps == 1:  # no loop: inside one, XLA's CPU backend is many times slower
        state, metrics = one(state, jax.tree.map(lambda x: x[0], batches_or_plans))
        return state, jax.tree.map(lambda x: x[None], metrics)
    return jax.lax.scan(one, state, batches_or_plans, length=steps)


def _where(source: ResidentSource | None, data: Any, split: Any, whole: Any) -> Any:
    """A tree like `data`: `split` for what has a device axis, `whole` for the rest."""
    if source is None:
        return jax.tree.map(lambda _: split, data)

    def of_store(store: Store | None) -> Store | None:
        blocks = split if source.sharded else whole
        return None if store is None else Store(blocks, whole, whole)

    sizes = Sizes(whole, whole, whole)
    return Resident(split, whole, sizes, of_store(data.hr), of_store(data.lr_image))  # type: ignore


def _place(x: Any, sharding: NamedSharding) -> jax.Array:
    """An array that every process has, on the devices of all; nothing is sent between them."""
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        placed = _place(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(placed, impl=jax.random.key_impl(x))
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
