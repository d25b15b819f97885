"""What a config may not mean, though nothing in it is wrong: told at the start of a run."""

import math
from collections.abc import Iterator

from ml_collections import ConfigDict

from srgan_jax import config as config_lib


def of(config: ConfigDict) -> Iterator[str]:
    """Lines for the console."""
    validates, saves = config.eval.every_steps, config.checkpoint.every_steps
    meet = math.lcm(validates, saves)
    if config.checkpoint.keep_best and meet > max(validates, saves):
        yield (
            f"checkpoint.keep_best={config.checkpoint.keep_best} keeps what is validated and saved"
            f" at one step: eval.every_steps={validates} and checkpoint.every_steps={saves} meet"
            f" every {meet} steps"
        )
    if config.data.lr_path:
        made = tuple(config.data.degradation)
        if made != config_lib.paper().data.degradation:
            yield f"data.degradation={made} is not trained on: data.lr_path gives LR pictures"
        if not config.eval.lr_path:
            yield (
                f"validation is on LR pictures made by data.degradation={made}, not on any like"
                " those of data.lr_path: eval.lr_path names none"
            )
