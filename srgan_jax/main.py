"""`python -m srgan_jax.main --config=configs/quickstart.py --workdir=runs/quickstart`."""

from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from srgan_jax import cli, deterministic
from srgan_jax import config as config_lib
from srgan_jax.errors import UserError, first_line
from srgan_jax.workdir import Workdir

CONFIG = config_flags.DEFINE_config_file("config", None, "File with the run's config.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, made where it is not there.")
MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "eval"],
    "train: train both phases and evaluate, or continue doing so; eval: measure the generators"
    " that a run exported on the pictures of config.eval.",
)
ALLOW_CHANGES = flags.DEFINE_bool(
    "allow_changes",
    False,
    "Continue a run with another config, or other pictures, than it was begun with.",
)


def main(argv: Sequence[str]) -> None:
    """Check the flags and start what --mode says."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: values are given as --config.KEY=VALUE")
    config = checked_config()
    if not WORKDIR.value:
        raise UserError("--workdir is missing: give a folder, such as --workdir=runs/first")
    workdir = Workdir(WORKDIR.value)
    if config.deterministic:
        deterministic.request()

    # Imported here, so that a mistyped flag is answered at once.
    from srgan_jax.checkpoint import quiet_orbax
    from srgan_jax.evaluate.workdirs import Evaluator, evaluate_workdir
    from srgan_jax.train import train

    if not flags.FLAGS["verbosity"].present:
        quiet_orbax()
    if MODE.value == "train":
        train(config, workdir, allow_changes=ALLOW_CHANGES.value)
    else:
        if (workdir.path / "config.json").exists():
            config_lib.adopt_degradation(config, workdir.read_json("config.json"))
        evaluate_workdir(workdir, Evaluator.from_config(config))


def checked_config() -> ConfigDict:
    """The config with the command line's values. Raises: UserError."""
    config = CONFIG.value
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


def parse_flags(argv: Sequence[str]) -> list[str]:
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


if __name__ == "__main__":
    cli.run(main, parse_flags)
