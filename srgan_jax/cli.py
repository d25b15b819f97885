"""What the commands share: flags, and errors as one line."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging

from srgan_jax.errors import StoppedError, UserError, first_line

STOPPED = "stopped, with nothing to save: the same command starts or continues it again"

# What a process of several tells the one that watches it: whether there is something to save.
IN_LOOP, OUTSIDE = b"l", b"o"


def parse_flags(argv: Sequence[str]) -> list[str]:
    """absl's parser, with a mistake as a UserError."""
    try:
        return flags.FLAGS(argv, known_only=False)
    except flags.Error as error:
        reason = first_line(error)
        if "\nTraceback " in str(error):  # of a config file; what went wrong is its last line
            reason += " " + str(error).strip().splitlines()[-1]
        raise UserError(reason) from error


def whole_numbers(given: Sequence[str], flag: str) -> list[int]:
    """What a list flag holds, each at least 1. Raises: UserError, naming the flag."""
    try:
        numbers = [int(text) for text in given]
    except ValueError as error:
        raise UserError(f"{flag}={','.join(given)}: must be whole numbers") from error
    if any(number < 1 for number in numbers):
        raise UserError(f"{flag}={','.join(given)}: must be at least 1")
    return numbers


def run(
    main: Callable[[Sequence[str]], Any],
    parser: Callable[[Sequence[str]], list[str]] = parse_flags,
) -> None:
    """Run a command: exit status 0, or 2 with one line. Libraries log warnings, unless asked.

    One that is stopped where nothing has to be saved has status 0 too: its scheduler asked for it.
    """

    def quiet_main(argv: Sequence[str]) -> Any:
        if not flags.FLAGS["verbosity"].present:  # `app.run` has just set it to INFO
            logging.set_verbosity(logging.WARNING)
        return main(argv)

    try:
        app.run(quiet_main, flags_parser=parser)
    except UserError as error:
        print(f"srgan_jax: error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # nobody reads on, as behind `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(1)
    except StoppedError:
        print(STOPPED)
        leave(0)
    except KeyboardInterrupt:
        print("srgan_jax: interrupted", file=sys.stderr)
        leave(130)


def leave(status: int) -> NoReturn:
    """End this process at once, whatever its threads do.

    Python's own end would take the modules from under a compiling XLA, and wait for processes
    that wait for this one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def stopping_signals() -> list[signal.Signals]:
    """Those that ask a run to stop; not SIGHUP where it is ignored, as behind nohup."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM] + [signal.SIGHUP] * (not ignored)
