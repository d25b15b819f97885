"""Adam and the learning-rate schedules, both networks alike."""

import dataclasses

import optax


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
