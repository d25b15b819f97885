"""Several real processes on this machine: one run, its ends, and what they refuse."""

import contextlib
import dataclasses
import json
import pathlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from test_train import QUICK, TIMEOUT, Runs, jsonl, saved_steps

from srgan_jax import cli, cluster, processes
from srgan_jax.errors import StoppedError, UserError

PRETRAIN, TOTAL = 200, 210
CONFIG = {
    "data__batch_size": 4,
    "pretrain__steps": PRETRAIN,
    "gan__steps": TOTAL - PRETRAIN,
    "eval__every_steps": PRETRAIN,
    "checkpoint__every_steps": 50,
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@dataclasses.dataclass
class Started:
    """Processes of one run, with what each said."""

    processes: list[subprocess.Popen]
    consoles: list[pathlib.Path]

    def wait_for(self, text: str) -> None:
        """Until the first has said it."""
        until = time.monotonic() + TIMEOUT
        while text not in self.said(0):
            assert time.monotonic() < until, self.said(0)[-2000:]
            assert self.processes[0].poll() is None, self.said(0)[-2000:]
            time.sleep(0.02)

    def statuses(self) -> list[int]:
        """Once all have ended."""
        return [process.wait(TIMEOUT) for process in self.processes]

    def said(self, i: int) -> str:
        return self.consoles[i].read_text()


@contextlib.contextmanager
def started(
    runs: Runs, workdir: pathlib.Path, count: int, *, first_of: int = 0, **changes
) -> Iterator[Started]:
    """Processes on one CPU device each; a list among the changes has a value for each process.

    `first_of`: how many there are, of which only the first `count` are started.
    """
    port = free_port()
    found = Started([], [])
    try:
        for i in range(count):
            own = {k: v[i] if isinstance(v, list) else v for k, v in (CONFIG | changes).items()}
            found.consoles.append(runs.folder / f"{workdir.name}.{port}.{i}")
            command = [
                *runs.command(workdir, **own),
                f"--coordinator_address=localhost:{port}",
                f"--num_processes={first_of or count}",
                f"--process_id={i}",
            ]
            with found.consoles[i].open("w") as console:
                found.processes.append(
                    subprocess.Popen(
                        command,
                        cwd=runs.folder,
                        env=runs.env | QUICK,
                        stdout=console,
                        stderr=console,
                    )
                )
        yield found
    finally:
        for process in found.processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module", autouse=True)
def parsed_flags():
    flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory) -> Runs:
    return Runs(root, tmp_path_factory.mktemp("runs"))


@pytest.mark.slow
def test_a_run_of_two_processes_then_four_then_two(runs):
    """Stopped, killed, and continued by other numbers of processes, placements and modes."""
    workdir, alone = runs.folder / "several", runs.folder / "alone"

    # SIGTERM to one of them: all save the same step and leave with 0.
    with started(runs, workdir, 2, parallel="pmap", data__placement="host") as two:
        two.wait_for("pretrain 10/")
        two.processes[1].send_signal(signal.SIGTERM)
        assert two.statuses() == [0, 0], [two.said(0)[-2000:], two.said(1)[-2000:]]
    stopped = saved_steps(workdir)[-1]
    assert f"stopped after step {stopped}: the same command continues this run" in two.said(0)
    assert 10 <= stopped < PRETRAIN
    assert "pretrain" not in two.said(1)  # the first speaks for all

    # One is killed: the others end within a minute, and say why.
    with started(runs, workdir, 4, optim__sharded=True) as four:
        four.wait_for("/s  ETA")
        four.processes[2].kill()
        before = time.monotonic()
        statuses = four.statuses()
        assert time.monotonic() - before < 60
    assert statuses == [1, 1, -signal.SIGKILL, 1]
    assert f"continuing after step {stopped} of {TOTAL}" in four.said(0)
    for i in (0, 1, 3):
        assert f"srgan_jax: error: process {i} of 4 ends because another one has" in four.said(i)

    # Two go on, to the end, in both phases and the evaluation.
    with started(runs, workdir, 2) as two:
        assert two.statuses() == [0, 0], [two.said(0)[-2000:], two.said(1)[-2000:]]
    assert "continuing after step" in two.said(0)

    # As if one process had done all: the same batches, and rounding apart the same steps.
    assert runs(alone, env=QUICK, **CONFIG).returncode == 0
    ours, theirs = (jsonl(folder / "metrics.jsonl") for folder in (workdir, alone))
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    losses = [np.array([x["loss"] for x in lines if "loss" in x]) for lines in (ours, theirs)]
    np.testing.assert_allclose(losses[0][:10], losses[1][:10], rtol=1e-4)
    np.testing.assert_allclose(losses[0][:PRETRAIN], losses[1][:PRETRAIN], rtol=0.02)
    ours, theirs = (
        json.loads((folder / "results.json").read_text())["rows"] for folder in (workdir, alone)
    )
    assert [(row["image"], row["method"]) for row in ours] == [
        (row["image"], row["method"]) for row in theirs
    ]


def test_processes_that_differ_all_stop(runs):
    with started(runs, runs.folder / "different", 2, seed=[0, 1]) as two:
        assert two.statuses() == [2, 2]
    for i in (0, 1):
        assert "but config.seed is 0 in process 0 and 1 in process 1" in two.said(i)
        assert "Traceback" not in two.said(i)


def test_a_signal_before_the_loop_ends_at_once(runs):
    """There is nothing to save yet, while the first waits for one that never comes."""
    with started(runs, runs.folder / "early", 1, first_of=2) as one:
        time.sleep(4)
        one.processes[0].send_signal(signal.SIGTERM)
        assert one.statuses() == [0]
    assert one.said(0).splitlines()[-1] == cli.STOPPED


def test_what_one_cannot_do_ends_all(runs):
    """The first cannot write its workdir; the second does not even look at it."""
    blocked = runs.folder / "blocked"
    blocked.write_text("a file")
    with started(runs, blocked, 2) as two:
        assert two.statuses() == [2, 2]
    assert f"srgan_jax: error: --workdir={blocked}: cannot be written" in two.said(0)
    assert f"srgan_jax: error: process 0 of 2: --workdir={blocked}: cannot be" in two.said(1)


def test_a_coordinator_that_is_not_there(runs):
    port = free_port()
    flags = (
        f"--coordinator_address=localhost:{port}", "--num_processes=2", "--process_id=1",
        "--start_timeout=1",
    )  # fmt: skip
    done = runs(runs.folder / "nobody", flags=flags)
    assert done.returncode == 1  # not 2: it may be there the next time
    assert done.stderr.startswith("srgan_jax: error: --coordinator_address=localhost:")
    assert "process 0 does not answer there (Connection refused): is it started?" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_process_that_does_not_come(runs):
    flags = (
        f"--coordinator_address=localhost:{free_port()}", "--num_processes=2", "--process_id=0",
        "--start_timeout=1",
    )  # fmt: skip
    done = runs(runs.folder / "waiting", flags=flags)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("srgan_jax: error: process 0 of 2 was ended by SIGABRT while it started")
    assert "--start_timeout=1 seconds" in last


@pytest.mark.parametrize(
    ("given", "environ", "expected"),
    [
        ({}, {}, None),
        ({}, {"SLURM_STEP_NODELIST": "a", "SLURM_NTASKS": "1"}, None),
        ({}, {"SLURM_STEP_NODELIST": "a", "SLURM_NTASKS": "4"}, (None, None, None)),
        ({}, {"OMPI_COMM_WORLD_SIZE": "2"}, (None, None, None)),
        ({}, {"TPU_WORKER_HOSTNAMES": "a,b"}, (None, None, None)),
        ({}, {"TPU_WORKER_HOSTNAMES": "a"}, None),
        ({"distributed": "off"}, {"OMPI_COMM_WORLD_SIZE": "2"}, None),
        ({"distributed": "detect"}, {}, (None, None, None)),
        (
            {"num_processes": 2},
            {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_PROCESS_ID": "1", "JAX_NUM_PROCESSES": "3"},
            ("a:1", 2, 1),
        ),
        ({"coordinator_address": "a:1", "num_processes": 1, "process_id": 0}, {}, None),
    ],
)
def test_where_processes_are_told_of(given, environ, expected):
    with flagsaver.flagsaver(**given):
        assert cluster.requested(environ) == expected


@pytest.mark.parametrize(
    ("given", "environ", "message"),
    [
        ({"num_processes": 2}, {}, "need --coordinator_address and --process_id too"),
        ({}, {"JAX_PROCESS_ID": "one"}, "JAX_PROCESS_ID=one: must be a whole number"),
        (
            {"coordinator_address": "a:1", "num_processes": 2, "process_id": 2},
            {},
            "--process_id=2: must be below --num_processes",
        ),
    ],
)
def test_what_is_told_by_halves(given, environ, message):
    with flagsaver.flagsaver(**given), pytest.raises(UserError, match=message):
        cluster.requested(environ)


def test_addresses_that_cannot_be():
    for address in ("localhost", ":1", "a:port", "a:70000"):
        with pytest.raises(UserError, match=f"--coordinator_address={address}: must be HOST:PORT"):
            cluster._check_address(address, 1)
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::", 0))
        taken.listen()
        address = f"localhost:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=r"cannot listen there .* another port"):
            cluster._check_address(address, 0)


def test_one_process_agrees_with_itself():
    assert processes.exchange({"a": 1}) == [{"a": 1}]
    assert processes.from_first([None]) == [None]
    processes.check_equal({"a": 1})
    processes.finish()
    with pytest.raises(UserError, match="gone"), processes.together():
        raise UserError("gone")


def test_signals_wait_only_while_there_is_something_to_save():
    with processes.on_signals() as stop:
        with stop.deferred():
            assert not stop.asked()
            signal.raise_signal(signal.SIGTERM)
            assert stop.asked()
        assert stop.agreed
    with pytest.raises(StoppedError), processes.on_signals():
        signal.raise_signal(signal.SIGINT)
    # After the last step nothing asks any more.
    with pytest.raises(StoppedError), processes.on_signals() as stop, stop.deferred():
        signal.raise_signal(signal.SIGTERM)
