"""`python -m srgan_jax.main --config=configs/quickstart.py --workdir=runs/quickstart`."""

from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict

from srgan_jax import changes, cli, cluster, config_flag, deterministic
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
    if "://" in WORKDIR.value:
        raise UserError(
            f"--workdir={WORKDIR.value}: must be a folder: mount the bucket (README, Several"
            " devices, several hosts)"
        )
    if config.deterministic:
        deterministic.request()
    with cluster.joined(changes.flat(config_lib.to_json(config))):
        run(config, WORKDIR.value)


def run(config: ConfigDict, path: str) -> None:
    """Do what --mode says, as one of the processes that there are."""
    # Imported here, so that a mistyped flag is answered at once.
    from srgan_jax import processes
    from srgan_jax.checkpoint import quiet_orbax
    from srgan_jax.evaluate.workdirs import Evaluator, evaluate_workdir
    from srgan_jax.train import train

    if not flags.FLAGS["verbosity"].present:
        quiet_orbax()
    workdir = None
    with processes.together():
        if processes.is_first():
            workdir = Workdir(path)
    if MODE.value == "train":
        train(config, workdir, allow_changes=ALLOW_CHANGES.value)
        return
    with processes.together():
        trained = None
        if workdir and (workdir.path / "config.json").exists():
            trained = workdir.read_json("config.json")
    trained = processes.from_first(trained)
    with processes.together():
        if trained:
            config_lib.adopt_degradation(config, trained)
        evaluator = Evaluator.from_config(config)
    evaluate_workdir(workdir, evaluator)


if __name__ == "__main__":
    cli.run(main, config_flag.parse)
