"""Starting one of several processes: from flags, the environment, or what a scheduler tells.

JAX's runtime ends a process from C++ when another one is lost, with a page of text and no chance
for Python to say a word. So a parent, which does nothing else, watches each one, has the last word,
and gets the signals.
"""

import contextlib
import ctypes
import hashlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, NamedTuple

from absl import flags

from srgan_jax import cli
from srgan_jax.errors import PeerError, UserError, first_line

ADDRESS = flags.DEFINE_string(
    "coordinator_address",
    None,
    "HOST:PORT of the first of several processes, where it will listen; the same for all. Or"
    " JAX_COORDINATOR_ADDRESS.",
)
NUMBER = flags.DEFINE_integer(
    "num_processes", None, "How many there are. Or JAX_NUM_PROCESSES.", lower_bound=1
)
ID = flags.DEFINE_integer(
    "process_id", None, "Which one this is, from 0. Or JAX_PROCESS_ID.", lower_bound=0
)
DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    ["auto", "detect", "off"],
    "auto: several processes where the flags or variables above say so, or Slurm, Open MPI or"
    " TPU_WORKER_HOSTNAMES tell of several; detect: whatever JAX finds, as on a Cloud TPU pod; off:"
    " this process is alone.",
)
TIMEOUT = flags.DEFINE_integer(
    "start_timeout", 300, "Seconds to wait for the other processes at the start.", lower_bound=1
)

# After which one that is silent counts as dead.
HEARTBEAT_SECONDS = 30

# That one which has failed stays: the first holds the service through which the others hear of it.
LINGER_SECONDS = 2

_WATCHED = "SRGAN_JAX_WATCHED_BY"  # in a process that is watched: "PARENT FILE-DESCRIPTOR"
_PR_SET_PDEATHSIG = 1

STARTING = b"s"

# What JAX says where another process, or the way to it, is lost.
_LOST = ("Gloo", "NCCL", "UNAVAILABLE", "Connection", "Socket closed", "heartbeat", "arrier")


class Place(NamedTuple):
    """A process among others; None: JAX is to find out."""

    address: str | None
    number: int | None
    id: int | None

    def __str__(self) -> str:
        return "this process" if self.id is None else f"process {self.id} of {self.number}"


def requested(environ: Mapping[str, str]) -> Place | None:
    """What flags and variables say of several processes; None: this one is alone.

    Raises: UserError where they say but a part.
    """

    def given(flag: flags.FlagHolder, variable: str) -> Any:
        if flag.value is not None or variable not in environ:
            return flag.value
        if flag is ADDRESS:
            return environ[variable]
        try:
            return int(environ[variable])
        except ValueError as error:
            raise UserError(f"{variable}={environ[variable]}: must be a whole number") from error

    if DISTRIBUTED.value == "off":
        return None
    place = Place(
        given(ADDRESS, "JAX_COORDINATOR_ADDRESS"),
        given(NUMBER, "JAX_NUM_PROCESSES"),
        given(ID, "JAX_PROCESS_ID"),
    )
    if DISTRIBUTED.value == "detect":
        return place
    if any(part is not None for part in place):
        names = ("coordinator_address", "num_processes", "process_id")
        missing = [name for name, part in zip(names, place, strict=True) if part is None]
        if missing and not _scheduler(environ):
            raise UserError(
                f"several processes need --{' and --'.join(missing)} too (or the variables that"
                " --help names)"
            )
        if place.number is not None and place.id is not None and place.id >= place.number:
            raise UserError(f"--process_id={place.id}: must be below --num_processes")
        return place if place.number != 1 else None
    return place if _scheduler(environ) else None


def _scheduler(environ: Mapping[str, str]) -> bool:
    """Whether one that JAX knows has started several processes."""
    tasks = environ.get("SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS", "1"))
    slurm = "SLURM_STEP_NODELIST" in environ and int(tasks) > 1
    open_mpi = int(environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
    return slurm or open_mpi or "," in environ.get("TPU_WORKER_HOSTNAMES", "")


@contextlib.contextmanager
def joined(config: dict[str, Any]) -> Iterator[None]:
    """Be one of the processes that flags or the environment tell of, if they do, to the end.

    The calling process then only watches, and another one like it does the work. What goes wrong
    in that is told here, and ends it at once: the others wait for it in vain, and are ended by JAX.

    Args:
      config: leaves by key; has to be the same for all.
    """
    place = requested(os.environ)
    if place is None:
        yield
        return
    watcher = os.environ.pop(_WATCHED, "")
    if not watcher:
        sys.exit(_watch(place))
    parent, stage = map(int, watcher.split())
    _die_with(parent)

    from srgan_jax import processes

    try:
        _start(place)
        processes.tell_watcher_by(stage)
        processes.check_equal(_told(config))
        yield
        processes.finish()
    except UserError as error:
        print(f"srgan_jax: error: {error}", file=sys.stderr)
        time.sleep(LINGER_SECONDS)
        cli.leave(1 if isinstance(error, PeerError) else 2)
    except Exception as error:
        if type(error).__name__ == "JaxRuntimeError" and any(word in str(error) for word in _LOST):
            print(f"srgan_jax: error: {_lost(place)} ({first_line(error, 120)})", file=sys.stderr)
        else:
            traceback.print_exc()
        cli.leave(1)


def _start(place: Place) -> None:
    """Join the others. Raises: UserError where that cannot be."""
    import jax

    if place.address is not None and place.id is not None:
        _check_address(place.address, place.id)
    try:
        jax.distributed.initialize(
            *place,
            cluster_detection_method="deactivate" if None not in place else None,
            initialization_timeout=TIMEOUT.value,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
        jax.devices()
    except (RuntimeError, ValueError) as error:
        raise PeerError(
            f"{place}: several processes cannot be started ({first_line(error)}): do all see"
            " devices of one kind, and can each reach the first?"
        ) from error


def _check_address(address: str, process_id: int) -> None:
    """What would end in C++, as a line. Raises: UserError; PeerError where nobody answers."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator_address={address}: must be HOST:PORT")
    try:
        if process_id == 0:
            with contextlib.closing(_listening(int(port))):
                return
        until = time.monotonic() + TIMEOUT.value
        while True:
            try:
                socket.create_connection((host, int(port)), timeout=5).close()
                return
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
    except OSError as error:
        reason = error.strerror or error
        if process_id == 0:
            raise UserError(
                f"--coordinator_address={address}: cannot listen there ({reason}): give another"
                " port to all"
            ) from error
        raise PeerError(
            f"--coordinator_address={address}: process 0 does not answer there ({reason}): is it"
            " started?"
        ) from error


def _listening(port: int) -> socket.socket:
    """A socket as JAX will open it, on all addresses. Raises: OSError."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _told(config: dict[str, Any]) -> dict[str, Any]:
    """What has to be the same in all processes."""
    import jax

    from srgan_jax.workdir import PACKAGES, installed_version

    here = pathlib.Path(__file__).parent
    source = hashlib.sha256()
    for file in sorted(here.rglob("*.py")):
        source.update(file.read_bytes())
    told = {f"config.{key}": value for key, value in config.items()}
    told |= {f"the version of {name}": installed_version(name) for name in PACKAGES}
    told["the source code (SHA-256)"] = source.hexdigest()
    told["the kind of its devices"] = jax.local_devices()[0].device_kind
    told["the number of its devices"] = jax.local_device_count()
    return told


def _watch(place: Place) -> int:
    """Start this command again as the process that does the work; returns its exit status."""
    reader, writer = os.pipe()
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]],
        env={**os.environ, _WATCHED: f"{os.getpid()} {writer}"},
        pass_fds=(writer,),
        process_group=0,  # a Ctrl-C comes once, from here
    )
    os.close(writer)
    os.set_blocking(reader, False)
    state, signals = STARTING, 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal state, signals
        state, signals = _newest(reader, state), signals + 1
        # Only in the loop is there something to save, by all of them; JAX tells the others.
        in_loop = state == cli.IN_LOOP and signals == 1
        child.send_signal(signal.SIGTERM if in_loop else signal.SIGKILL)

    for number in cli.stopping_signals():
        signal.signal(number, handle)
    status = child.wait()
    if status >= 0:
        return status
    by, state = signal.Signals(-status).name, _newest(reader, state)
    if signals == 1 and state != cli.IN_LOOP:
        print(cli.STOPPED)
        return 0
    if signals:
        reason = f"{place} was stopped at once; the same command continues the run"
    elif state == STARTING:
        reason = (
            f"{place} was ended by {by} while it started: all have to be started within"
            f" --start_timeout={TIMEOUT.value} seconds, with the same --coordinator_address and"
            " --num_processes"
        )
    elif status == -signal.SIGABRT:
        reason = _lost(place)
    else:
        reason = f"{place} was ended by {by}; the same command continues the run"
    print(f"srgan_jax: error: {reason}", file=sys.stderr)
    return 1


def _newest(reader: int, state: bytes) -> bytes:
    """What the watched process has told last."""
    with contextlib.suppress(BlockingIOError):
        state = os.read(reader, 1000)[-1:] or state
    return state


def _lost(place: Place) -> str:
    return (
        f"{place} ends because another one has ended, or cannot be reached; what that said tells"
        " why; start all of them again to continue the run"
    )


def _die_with(parent: int) -> None:
    """Let the system kill this process when its parent is gone (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
