"""Adam and the learning-rate schedules, both networks alike."""

import dataclasses
import math
from typing import Any

import jax
import optax

# Arrays of fewer elements are whole on every device: sending them costs more than their memory.
SMALLEST_SHARDED = 2**14


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learning rate over one phase of `steps` updates.

    Attributes:
      learning_rate: at the start (after the warm-up).
      kind: "constant"; "step", multiplied by `decay_factor` from `decay_at` on; or "cosine", down
        to `decay_factor` times at the end.
      decay_at: where "step" steps, as a fraction of the phase; 0.5 is the paper's SRGAN.
      decay_factor: 0.1 in the paper.
      warmup_steps: updates over which the rate rises linearly, from a first small part of it.
    """

    learning_rate: float
    kind: str = "constant"
    decay_at: float = 0.5
    decay_factor: float = 0.1
    warmup_steps: int = 0

    def make(self, steps: int) -> optax.Schedule:
        """The Optax schedule: update count, from 0, to learning rate."""
        peak = self.learning_rate
        if self.kind == "constant":
            main = optax.constant_schedule(peak)
        elif self.kind == "step":
            boundary = max(round(steps * self.decay_at) - self.warmup_steps, 0)
            main = optax.piecewise_constant_schedule(peak, {boundary: self.decay_factor})
        elif self.kind == "cosine":
            length = max(steps - self.warmup_steps, 1)
            main = optax.cosine_decay_schedule(peak, length, alpha=self.decay_factor)
        else:
            raise ValueError(f"unknown schedule {self.kind!r}")
        if self.warmup_steps == 0:
            return main
        rise = peak / self.warmup_steps
        warmup = optax.linear_schedule(rise, peak + rise, self.warmup_steps)
        return optax.join_schedules([warmup, main], [self.warmup_steps])


def adam(
    schedule: optax.Schedule, *, beta1: float, beta2: float, epsilon: float
) -> optax.GradientTransformation:
    """Adam (paper, section 3.2: beta1 = 0.9) on a schedule that counts its own updates."""
    return optax.adam(schedule, b1=beta1, b2=beta2, eps=epsilon)


def updates_done(opt_state: optax.OptState) -> int:
    """How many updates a state of `adam` has seen."""
    return int(opt_state[0].count)


def shard_axis(shape: tuple[int, ...], shards: int) -> int | None:
    """The axis along which a parameter's optimizer state is shared out; None: it is whole."""
    divided = [axis for axis, side in enumerate(shape) if side % shards == 0]
    if shards == 1 or math.prod(shape) < SMALLEST_SHARDED or not divided:
        return None
    return max(divided, key=lambda axis: shape[axis])


def sharded_update(
    tx: optax.GradientTransformation,
    grads: Any,
    opt_state: optax.OptState,
    params: Any,
    axis_name: str,
) -> tuple[Any, optax.OptState]:
    """As `tx.update`, each device doing its part of every large parameter (ZeRO, stage 1).

    Args:
      tx: works on each element alone, as Adam does.
      grads: whole, the same on every device.
      opt_state: this device's part, see `shard_axis`.
      params: whole.
      axis_name: of the devices.

    Returns: the whole updates, and this device's part of the new state.
    """
    shards, here = jax.lax.axis_size(axis_name), jax.lax.axis_index(axis_name)

    def own(x: jax.Array) -> jax.Array:
        axis = shard_axis(x.shape, shards)
        if axis is None:
            return x
        part = x.shape[axis] // shards
        return jax.lax.dynamic_slice_in_dim(x, here * part, part, axis)

    def whole(update: jax.Array, param: jax.Array) -> jax.Array:
        axis = shard_axis(param.shape, shards)
        if axis is None:
            return update
        return jax.lax.all_gather(update, axis_name, axis=axis, tiled=True)

    updates, opt_state = tx.update(jax.tree.map(own, grads), opt_state, jax.tree.map(own, params))
    return jax.tree.map(whole, updates, params), opt_state
