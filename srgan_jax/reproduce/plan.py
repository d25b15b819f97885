"""Which networks are trained, on which recipe, for how long."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from srgan_jax import config as config_lib
from srgan_jax import variants
from srgan_jax.errors import UserError

# What we do otherwise than the paper, each measured against its plain recipe by the experiment
# "recipe". They cost nothing, or next to nothing, of a step.
CHANGES: dict[str, dict[str, Any]] = {
    "moving average of the weights": {"ema_decay": 0.999},
    "cosine from 4e-4, warmed up": {
        "pretrain.learning_rate": 4e-4,
        "pretrain.schedule": "cosine",
        "pretrain.decay_factor": 0.01,
        "pretrain.warmup_steps": 200,
    },
    "crops by area, none without detail": {"data.uniform_over": "pixels", "data.min_detail": 2.0},
}
# Beside them: other crops for each update, so fewer updates in the same time.
BATCHES = {"batches of 64": {"data.batch_size": 64}}

# Oxford's VGG19 as it is gives features so large that 1/12.75 of them outweighs the adversarial
# loss by far. With these, means over channels, the VGG loss of a trained SRResNet's SR is as large
# as its pixel loss, which is what the paper scales for (section 3.2).
FEATURE_SCALES = {"relu2_2": 7.8e-4, "relu3_4": 2.7e-4}

# Of the minutes, what those get that start from the trained SRResNet-MSE.
SHARE = 1 / 3

EXPERIMENTS = ("table1", "recipe", "pictures")
PARENT = "srresnet_mse"
INTERVALS = 20  # about so many validations of a training
LEAST_INTERVAL = 10  # updates


@dataclasses.dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
      experiment: of `EXPERIMENTS`.
      name: a folder's.
      title: what tables call it.
      seed: of everything random.
      config: all but the length, and `init_from` where there is a parent.
      phase: the one that is trained, "pretrain" or "gan".
      share: of the minutes.
      parent: the folder of the run whose SRResNet it starts from; "": from random weights.
    """

    experiment: str
    name: str
    title: str
    seed: int
    config: ConfigDict
    phase: str
    share: float = 1.0
    parent: str = ""

    @property
    def folder(self) -> str:
        """Below the folder of all."""
        return f"{self.experiment}/{self.name}/seed{self.seed}"

    @property
    def network(self) -> str:
        """What its export is called."""
        return "srgan" if self.phase == "gan" else "srresnet"


def table_1(base: ConfigDict, deepest: int, seeds: int, *, plain: bool) -> list[Run]:
    """The networks of table 1 that VGG19's weights allow, each from so many seeds.

    Args:
      base: pictures and devices; the rest is the paper's.
      deepest: the block of VGG19 up to which there are weights whole; 0: there are none.
      seeds: from 0.
      plain: the paper's recipe; else with all `CHANGES`.
    """
    names = [PARENT]
    names += ["srresnet_vgg22"] if deepest >= 2 else []
    names += ["mse"] + ["vgg22"] * (deepest >= 2)
    names += ["vgg54"] if deepest >= 5 else ["vgg34"] if deepest >= 3 else []
    return [_of_table_1(base, name, seed, plain) for seed in range(seeds) for name in names]


def _of_table_1(base: ConfigDict, name: str, seed: int, plain: bool) -> Run:
    config = _on(variants.of_table_1(name), base)
    if not plain:
        for change in CHANGES.values():
            config.update_from_flattened_dict(change)
    scale = FEATURE_SCALES.get(config.vgg.layers[0])
    if scale and config_lib.compares_features(config):
        config.vgg.feature_scale, config.vgg.channels = scale, "mean"
    phase = "pretrain" if name.startswith("srresnet") else "gan"
    config.seed = seed
    own = name == PARENT
    parent = "" if own else f"table1/{PARENT}/seed{seed}"
    share = 1.0 if own else SHARE
    return Run("table1", name, variants.TITLES[name], seed, config, phase, share, parent)


def recipe(base: ConfigDict) -> list[Run]:
    """SRResNet-MSE by the paper's recipe, with each change alone, and with all `CHANGES`."""
    together: dict[str, Any] = {}
    for change in CHANGES.values():
        together |= change
    tried = {"the paper's": {}, **CHANGES, **BATCHES, "the first three together": together}
    runs = []
    for number, (title, change) in enumerate(tried.items()):
        config = _on(variants.of_table_1(PARENT), base)
        config.update_from_flattened_dict(change)
        runs.append(Run("recipe", str(number), title, 0, config, "pretrain"))
    return runs


def pictures(base: ConfigDict, count: int) -> list[Run]:
    """SRResNet-MSE on all of so many pictures, on half of them, and so on."""
    runs = []
    for part in (1, 2, 4, 8, 16):
        kept = -(-count // part)
        config = _on(variants.of_table_1(PARENT), base)
        for change in CHANGES.values():
            config.update_from_flattened_dict(change)
        config.data.pictures = kept
        runs.append(Run("pictures", str(kept), str(kept), 0, config, "pretrain"))
    return runs


def _on(config: ConfigDict, base: ConfigDict) -> ConfigDict:
    """What does not depend on the network, from `base`."""
    for group in ("data", "eval"):
        config[group].update(base[group])
    config.generator.update(base.generator)
    config.discriminator.update(base.discriminator)
    config.dtype, config.vgg.path = base.dtype, base.vgg.path
    return config


def with_length(run: Run, steps: int) -> ConfigDict:
    """The run's config for so many steps, in whole intervals; each ends with a validation."""
    config = run.config.copy_and_resolve_references()
    for phase in config_lib.PHASES:
        config_lib.set_length(config[phase], "steps")
        config[phase].steps = steps if phase == run.phase else 0
    interval = interval_of(steps)
    config.log.every_steps = config.eval.every_steps = config.checkpoint.every_steps = interval
    config.checkpoint.keep = 1
    config.eval.best = "modern/psnr"
    return config


def interval_of(steps: float) -> int:
    """Updates between validations, in two digits, so that many can run in one dispatch."""
    interval = max(int(steps / INTERVALS), LEAST_INTERVAL)
    unit = 10 ** (len(str(interval)) - 2)
    return interval // unit * unit


def whole_steps(steps: float) -> int:
    """About so many steps, as whole intervals, of which `interval_of` gives the same again."""
    interval = interval_of(steps)
    return interval * min(max(int(steps / interval), 1), INTERVALS)


def chosen(given: Iterable[str]) -> list[str]:
    """The experiments that a flag names. Raises: UserError."""
    found = list(given)
    for name in found:
        if name not in EXPERIMENTS:
            raise UserError(f"--experiments={name}: must be of {', '.join(EXPERIMENTS)}")
    if not found:
        raise UserError(f"--experiments is empty: give some of {', '.join(EXPERIMENTS)}")
    return [name for name in EXPERIMENTS if name in found]
