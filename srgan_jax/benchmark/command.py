"""A command as a user runs it: how long it takes, and the most memory that it holds.

    python -m srgan_jax.benchmark.command COMMAND...

Run by a process of its own, which is small: Linux counts for a child what its parent held when it
was begun.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from srgan_jax.errors import UserError


class Run(NamedTuple):
    """Wall seconds from start to end, and the most bytes that were held."""

    seconds: float
    peak: int


def run(command: Sequence[str], environment: dict[str, str]) -> Run:
    """Run a command of this package or another, with variables beside those that there are.

    Raises: UserError, with its last line, where it fails.
    """
    root = str(pathlib.Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "srgan_jax.benchmark.command", *command],
        env=os.environ | {"PYTHONPATH": paths} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        *_, last = done.stderr.strip().splitlines() or ["no reason given"]
        raise UserError(f"{' '.join(command)}: failed ({last})")
    return Run(**json.loads(done.stdout))


def main(command: Sequence[str]) -> int:
    """Run it, and print what `Run` holds; its own output goes to stderr."""
    start = time.perf_counter()
    status = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak": peak_memory(resource.RUSAGE_CHILDREN)}))
    return status


def peak_memory(of: int) -> int:
    """The most bytes that were held so far, `of` being one of resource's RUSAGE_ numbers."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(of).ru_maxrss * unit


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
