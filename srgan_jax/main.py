"""`python -m srgan_jax.main --config=configs/quickstart.py --workdir=runs/quickstart`."""

from collections.abc import Sequence

from absl import flags

from srgan_jax import cli, config_flag, deterministic
from srgan_jax import config as config_lib
from srgan_jax.errors import UserError
from srgan_jax.workdir import Workdir

CONFIG = config_flag.define(None)
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
    config = config_flag.checked(CONFIG)
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


if __name__ == "__main__":
    cli.run(main, config_flag.parse)
