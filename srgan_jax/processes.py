"""The processes of a run: started together, agreeing, stopping and ending together.

One process alone is the first of one, and nothing here costs it anything. Of several, each runs
the same program on its own devices; the first writes everything and decides what has to be
decided. What they tell each other here goes through JAX's coordination service, not through the
devices, so that it also works before there are any and while those of others are busy.
"""

import contextlib
import itertools
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from srgan_jax import cli
from srgan_jax.errors import StoppedError, UserError, first_line

# How long one may be behind the others, such as while it packs pictures: a day. One that has died
# is noticed by JAX.
PATIENCE_MS = 24 * 60 * 60 * 1000

_rounds = itertools.count()
_watcher: int | None = None


def count() -> int:
    """How many processes the run has."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    """Which one this is."""
    return jax.process_index() if jax.distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the one that writes and decides."""
    return index() == 0


def _client() -> Any:
    """JAX's coordination service, which has no public name; Orbax uses it likewise."""
    from jax._src import distributed

    return distributed.global_state.client


def tell_watcher_by(pipe: int) -> None:
    """Where to tell what signals are to do, see `cluster`."""
    global _watcher
    _watcher = pipe
    _tell_watcher(cli.OUTSIDE)


def _tell_watcher(state: bytes) -> None:
    if _watcher is not None:
        os.write(_watcher, state)


@contextlib.contextmanager
def ends_itself() -> Iterator[None]:
    """Of several processes one that gets a signal here gets it as SIGTERM, and is not killed."""
    _tell_watcher(cli.IN_LOOP)
    try:
        yield
    finally:
        _tell_watcher(cli.OUTSIDE)


def exchange(value: Any) -> list[Any]:
    """Each process's JSON value, in their order, everywhere; all have to ask for it together."""
    if count() == 1:
        return [value]
    client, name = _client(), f"srgan_jax/{next(_rounds)}"
    client.key_value_set(f"{name}/{index():06}", json.dumps(value))
    client.wait_at_barrier(name, PATIENCE_MS)
    return [json.loads(told) for _, told in sorted(client.key_value_dir_get(f"{name}/"))]


def from_first(value: Any) -> Any:
    """The first process's JSON value, everywhere; all have to ask for it together."""
    if count() == 1:
        return value
    client, name = _client(), f"srgan_jax/{next(_rounds)}"
    if is_first():
        client.key_value_set(name, json.dumps(value))
    return json.loads(client.blocking_key_value_get(name, PATIENCE_MS))


def arrays_from_first(tree: Any) -> Any:
    """The first process's host arrays, bit for bit; the others give some of the same form."""
    if count() == 1:
        return tree
    # As whole numbers: a sum of floats, by which it is sent, makes 0 of -0.
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, jax.device_get(tree)))
    joined = np.concatenate([np.frombuffer(leaf.tobytes(), np.uint8) for leaf in leaves])
    sent = np.asarray(multihost_utils.broadcast_one_to_all(joined, is_first()))
    parts = np.split(sent, np.cumsum([leaf.nbytes for leaf in leaves])[:-1])
    found = [
        part.view(leaf.dtype).reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, found)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What goes wrong in one process here goes wrong in all, with its message.

    For work that some may fail at, such as reading files, before they meet in a collective
    operation, where the others would wait for one that never comes.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as found:
        error = found
    told = exchange(None if error is None else first_line(error))
    if error is not None:
        raise error
    wrong = [(i, message) for i, message in enumerate(told) if message is not None]
    if wrong:
        raise UserError(f"process {wrong[0][0]} of {count()}: {wrong[0][1]}")


def check_equal(what: dict[str, Any]) -> None:
    """Raises: UserError, naming the first key, where processes differ in one of these values."""
    told = exchange(what)
    for i, other in enumerate(told[1:], 1):
        for key in sorted(told[0].keys() | other.keys()):
            here, there = told[0].get(key), other.get(key)
            if here != there:
                raise UserError(
                    f"the processes of a run have to be equal, but {key} is {_short(here)} in"
                    f" process 0 and {_short(there)} in process {i}"
                )


def _short(value: Any, most: int = 100) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


class Stop:
    """Whether the run is to stop: one process by its signals, several by agreement."""

    def __init__(self) -> None:
        self.agreed = False  # what the last `asked` gave
        self._signalled = threading.Event()
        self._deferred = False
        self._times = 0

    def asked(self) -> bool:
        """Whether to save and end now; all processes ask at the same points, and get the same."""
        if count() == 1:
            self.agreed = self._signalled.is_set()
        else:
            # The service has found out how far each is: it says yes at the first common point.
            self.agreed = multihost_utils.reached_preemption_sync_point(self._times)
        self._times += 1
        return self.agreed

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """While `asked` is asked, a signal waits for that; otherwise it raises StoppedError."""
        self._deferred = True
        _tell_watcher(cli.IN_LOOP)
        try:
            yield
        finally:
            self._deferred = self.agreed  # and not saved yet
            if not self.agreed:
                _tell_watcher(cli.OUTSIDE)
        if count() == 1 and self._signalled.is_set() and not self.agreed:
            raise StoppedError

    def signal(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self._signalled.set()
        if not self._deferred:
            raise StoppedError


@contextlib.contextmanager
def on_signals() -> Iterator[Stop]:
    """Let the first SIGINT, SIGTERM or SIGHUP stop the run; the second acts as it would without.

    Of several processes each has a parent, which gets them, see `cluster`; SIGTERM in the loop is
    JAX's: one that gets it makes all stop.
    """
    stop = Stop()
    if count() > 1:
        yield stop
        return
    with first_signal(stop.signal):
        yield stop


@contextlib.contextmanager
def first_signal(act: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """What the first of the stopping signals does; the second acts as it would without."""
    former = {number: signal.getsignal(number) for number in cli.stopping_signals()}

    def restore() -> None:
        for number, handler in former.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        restore()
        act(number, frame)

    for number in former:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()


def finish() -> None:
    """Wait for all, and take leave of them."""
    if count() > 1:
        _client().wait_at_barrier("srgan_jax/end", PATIENCE_MS)
        jax.distributed.shutdown()
