"""Which networks are trained, on which recipe, for how long."""

import dataclasses
import hashlib
import json
from typing import Any

from ml_collections import ConfigDict

from srgan_jax import config as config_lib
from srgan_jax import variants

# What we do otherwise than the paper; the experiment "recipe" measures each against its recipe.
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
# Tried beside them.
BATCHES = {"batches of 64": {"data.batch_size": 64}}

# Of the minutes, what all get but table 1's SRResNet-MSE, from which its other networks start.
SHARE = 1 / 3

EXPERIMENTS = ("table1", "recipe", "pictures")
PARENT = "srresnet_mse"
INTERVALS = 20  # about so many validations of a training


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
    share: float = SHARE
    parent: str = ""

    @property
    def folder(self) -> str:
        """Below the folder of all."""
        return f"{self.experiment}/{self.name}/seed{self.seed}"

    @property
    def network(self) -> str:
        """What its export is called."""
        return "srgan" if self.phase == "gan" else "srresnet"

    @property
    def program(self) -> str:
        """The same for runs whose steps take the same time: a digest of what they compute."""
        config = config_lib.to_json(self.config)
        config["seed"] = config["data"]["pictures"] = 0
        told = json.dumps([self.phase, config], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:16]


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
        _change(config, *CHANGES.values())
    config.seed = seed
    # Over channels the mean, so that one rule gives every layer's scale: see `runs.trained_by`.
    config.vgg.channels = "mean"
    phase = "pretrain" if name.startswith("srresnet") else "gan"
    if name == PARENT:
        return Run("table1", name, variants.TITLES[name], seed, config, phase, share=1.0)
    parent = f"table1/{PARENT}/seed{seed}"
    return Run("table1", name, variants.TITLES[name], seed, config, phase, parent=parent)


def recipe(base: ConfigDict, seeds: int) -> list[Run]:
    """SRResNet-MSE by the paper's recipe, with each change alone, and with all `CHANGES`."""
    tried: dict[str, list[dict[str, Any]]] = {"the paper's": []}
    tried |= {title: [change] for title, change in (CHANGES | BATCHES).items()}
    tried["ours: the first three together"] = list(CHANGES.values())
    runs = []
    for seed in range(seeds):
        for title, changes in tried.items():
            config = _on(variants.of_table_1(PARENT), base)
            _change(config, *changes)
            config.seed = seed
            name = "".join(c if c.isalnum() else "_" for c in title)
            runs.append(Run("recipe", name, title, seed, config, "pretrain"))
    return runs


def pictures(base: ConfigDict, count: int, seeds: int) -> list[Run]:
    """SRResNet-MSE by our recipe on all of so many pictures, on half of them, and so on."""
    runs = []
    for seed in range(seeds):
        for kept in dict.fromkeys(-(-count // part) for part in (1, 2, 4, 8, 16)):
            config = _on(variants.of_table_1(PARENT), base)
            _change(config, *CHANGES.values())
            config.seed, config.data.pictures = seed, kept
            runs.append(Run("pictures", str(kept), str(kept), seed, config, "pretrain"))
    return runs


def _on(config: ConfigDict, base: ConfigDict) -> ConfigDict:
    """What does not depend on the network, from `base`."""
    for group in ("data", "eval", "generator", "discriminator"):
        config[group].update(base[group])
    config.dtype, config.vgg.path = base.dtype, base.vgg.path
    return config


def _change(config: ConfigDict, *changes: dict[str, Any]) -> None:
    for change in changes:
        config.update_from_flattened_dict(change)


def with_length(run: Run, steps: int) -> ConfigDict:
    """The run's config for so many steps, see `whole_steps`."""
    config = run.config.copy_and_resolve_references()
    for phase in config_lib.PHASES:
        config_lib.set_length(config[phase], "steps")
        config[phase].steps = steps if phase == run.phase else 0
    unit = _unit(steps)
    interval = max(round(steps / INTERVALS / unit), 1) * unit
    config.log.every_steps = config.eval.every_steps = config.checkpoint.every_steps = interval
    config.checkpoint.keep = 2
    config.eval.best = "modern/psnr"
    return config


def whole_steps(steps: float) -> int:
    """About so many steps, in tens or, of many, in hundreds, which can run in one dispatch."""
    unit = _unit(steps)
    return max(int(steps / unit), 1) * unit


def _unit(steps: float) -> int:
    return 100 if steps >= 100 * INTERVALS else 10
