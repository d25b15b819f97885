"""The --config flag of the commands that train: a file, and values given over its own."""

from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from srgan_jax import cli
from srgan_jax import config as config_lib
from srgan_jax.errors import UserError, first_line


def define(default: str | None) -> flags.FlagHolder[ConfigDict]:
    """The flag, with a file's path as default."""
    return config_flags.DEFINE_config_file("config", default, "File with the run's config.")


def checked(flag: flags.FlagHolder[ConfigDict]) -> ConfigDict:
    """The config with the command line's values. Raises: UserError."""
    config = flag.value
    if config is None:
        raise UserError("--config is missing: give a file, such as --config=configs/srgan.py")
    try:
        overrides = config_flags.get_override_values(flags.FLAGS["config"])
        config_lib.prefer_overrides(config, overrides)
        config_lib.validate(config)
    except OSError as error:  # ml_collections' way to say that the file did not load
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"--config: the file cannot be loaded ({reason})") from error
    return config


def parse(argv: Sequence[str]) -> list[str]:
    """The common parser, with what a config file or key can do wrong as one line."""
    try:
        return cli.parse_flags(argv)
    except (AttributeError, KeyError) as error:
        cause: BaseException | str = error
        while isinstance(cause, BaseException):  # an AttributeError may hold a KeyError
            cause = cause.args[0]
        reason = ". ".join(cause.splitlines())  # such as: 'gna'\nDid you mean "gan" ...?
        raise UserError(f"--config has no such key: {reason}") from error
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"--config: {first_line(error)}") from error
