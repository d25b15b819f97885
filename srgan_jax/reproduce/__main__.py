"""Reproduce the paper's tables: train their networks, measure them, write it all down.

    python -m srgan_jax.reproduce --data=DIR --val=DIR --tests=DIR --vgg=FILE

Trains the networks of table 1 on the pictures of --data, each from several seeds, measures them on
the test sets in --tests (a folder SET/HR each, with SET/LR_bicubic_X4 beside it or LR made by
MATLAB's bicubic), and writes results.md with tables, curves and panels. What is done is kept in
--out: after Ctrl-C, a kill, or --slice_minutes the same command goes on.
"""

import contextlib
import importlib.util
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from srgan_jax import cli, files
from srgan_jax.errors import UserError

DATA = flags.DEFINE_string("data", None, "Folder of training photographs, at any depth.")
VAL = flags.DEFINE_string(
    "val", None, "Folder of validation photographs; by default the built-in one."
)
TESTS = flags.DEFINE_string(
    "tests", None, "Folder of test sets, NAME/HR and maybe NAME/LR_bicubic_X4; by default the"
    " built-in photograph."
)  # fmt: skip
VGG = flags.DEFINE_string(
    "vgg", None, "VGG19's weights, as config.vgg.path: how deep they go, decides which networks of"
    " table 1 can be trained; without them those of the pixel loss."
)  # fmt: skip
NIQE = flags.DEFINE_string("niqe", None, "As of python -m srgan_jax.evaluate.")
LPIPS = flags.DEFINE_multi_string("lpips", [], "As of python -m srgan_jax.evaluate.")
MINUTES = flags.DEFINE_float(
    "minutes", 30.0, "Of training table 1's SRResNet-MSE; all others take a third.",
    lower_bound=0.01,
)  # fmt: skip
STEPS = flags.DEFINE_integer(
    "steps", None, "Updates in place of --minutes, which are measured.", lower_bound=1
)
SEEDS = flags.DEFINE_integer("seeds", 3, "Trainings of each network of table 1.", lower_bound=1)
RECIPE = flags.DEFINE_enum(
    "recipe", "ours", ["ours", "paper"], "ours: what the experiment `recipe` compares, together."
)
EXPERIMENTS = flags.DEFINE_list(
    "experiments",
    ["table1"],
    "table1; recipe: each change of ours alone against the paper's recipe; pictures: SRResNet-MSE"
    " on fewer and fewer pictures.",
)
OUT = flags.DEFINE_string("out", "runs/reproduce", "Folder of all trainings.")
DOCS = flags.DEFINE_string("docs", None, "Folder of results.md; by default --out.")
SHIP = flags.DEFINE_string(
    "ship", None, "Folder for srresnet.safetensors and srgan.safetensors in the end, such as"
    " srgan_jax/pretrained: of table 1 SRResNet-MSE and the last SRGAN, seed 0."
)  # fmt: skip
SLICE = flags.DEFINE_float(
    "slice_minutes", None, "Stop after so many; the same command goes on.", lower_bound=0.01
)
MINIATURE = flags.DEFINE_bool(
    "miniature", False, "The whole of it, small: tiny networks, built-in photographs, few updates."
)

MINIATURE_STEPS = 40


def main(argv: Sequence[str]) -> None:
    """Train, measure and document what is not done yet."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: see --help")
    if not (DATA.value or MINIATURE.value):
        raise UserError("--data is missing: a folder of photographs, or --miniature")
    if not importlib.util.find_spec("matplotlib"):
        raise UserError("matplotlib draws the curves: pip install -e .[reproduce]")
    from srgan_jax import compiled, processes  # late: a mistyped flag is told at once
    from srgan_jax.convert import vgg19
    from srgan_jax.evaluate.arguments import chosen
    from srgan_jax.reproduce import plan, work

    if STEPS.present and MINUTES.present:
        raise UserError("--steps and --minutes: give one of them")
    steps = STEPS.value
    if MINIATURE.value and not MINUTES.present:
        steps = steps or MINIATURE_STEPS
    out = files.make_folder(_absolute(OUT.value), "--out")
    asked = work.Asked(
        data=_absolute(DATA.value),
        val=_absolute(VAL.value),
        tests=_absolute(TESTS.value),
        vgg=VGG.value if VGG.value in vgg19.DOWNLOADS else _absolute(VGG.value),
        niqe=_absolute(NIQE.value),
        lpips=[_absolute(path) for path in LPIPS.value],
        minutes=MINUTES.value,
        steps=steps,
        seeds=SEEDS.value,
        plain=RECIPE.value == "paper",
        miniature=MINIATURE.value,
        experiments=chosen("experiments", EXPERIMENTS.value, plan.EXPERIMENTS),
        out=out,
        docs=files.make_folder(_absolute(DOCS.value), "--docs") if DOCS.value else out,
        ship=files.make_folder(_absolute(SHIP.value), "--ship") if SHIP.value else None,
        command=_command(),
    )
    compiled.keep()
    with processes.on_signals(), _stopped_after(SLICE.value):  # those that no training takes
        work.reproduce(asked)


def _absolute(given: str | None) -> str:
    """The same however it was spelled: runs are told apart by it."""
    return os.path.abspath(os.path.expanduser(given)) if given else ""


def _command() -> str:
    """What was given, without the folders of this machine."""
    shown = ["python -m srgan_jax.reproduce"]
    kinds: dict[str, Any] = {"data": "DIR", "val": "DIR", "tests": "DIR", "vgg": "FILE"}
    kinds |= {
        "niqe": "FILE",
        "lpips": "FILE",
        "out": None,
        "docs": None,
        "ship": None,
        "slice_minutes": None,
    }
    for flag in flags.FLAGS.get_flags_for_module("__main__"):
        if flag.present and (shown_as := kinds.get(flag.name, flag.value)) is not None:
            is_on = shown_as is True
            shown.append(f"--{flag.name}" if is_on else f"--{flag.name}={_joined(shown_as)}")
    return " ".join(shown)


def _joined(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


@contextlib.contextmanager
def _stopped_after(minutes: float | None) -> Iterator[None]:
    """Get SIGTERM after so many minutes, as a scheduler would send it; None: never."""
    if minutes is None:
        yield
        return
    timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


if __name__ == "__main__":
    cli.run(main)
